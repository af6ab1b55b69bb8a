"""The ingest benchmark runs, and its contenders write the same rows of each kind of input."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from bench import duck_peer, floor, ingest, inputs, mapping, ours, polars_peer
from pipelines import bronze
from pipelines.engine import InlineEngine
from tests.conftest import real_data

ROOT = Path(__file__).parents[2]
PEERS = {"duckdb": duck_peer.run, "polars": polars_peer.run, "floor": floor.run}

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not real_data().is_dir(), reason="LEPTON_REAL_DATA has no data"),
]


@pytest.mark.parametrize("kind", ["ipmitool", "csv", "prometheus", "parquet"])
def test_bronze_and_its_peers_write_the_same_rows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "REAL", real_data())
    logs, out = tmp_path / "logs", tmp_path / "out"
    mapping.write(kind, inputs.make(kind, logs, 1), logs / ".mapping.csv")
    written = bronze.run(ours.context(kind, logs, out / ingest.OURS, InlineEngine())).rows_out
    for name, peer in PEERS.items():
        (out / name).mkdir()
        assert peer(kind, logs, out / name, 1).rows == written > 0

    ingest.check_equal(out)
    file = next((out / "polars").glob("*.parquet"))
    pl.read_parquet(file).with_columns(pl.col("value") + 1).write_parquet(file)
    with pytest.raises(SystemExit, match="the rows differ"):
        ingest.check_equal(out)


@pytest.mark.slow
@pytest.mark.spark
def test_the_benchmark_runs_to_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.ingest", "--kinds", "ipmitool", "--mib", "1", "--rounds", "1"]
    places = {"PYTHONPATH": str(ROOT), "LEPTON_REAL_DATA": str(real_data().resolve())}
    subprocess.run(command, cwd=tmp_path, env=os.environ | places, check=True)

    assert "ipmitool: wall time, bronze / spark" in (tmp_path / "var/bench/ingest.json").read_text()
