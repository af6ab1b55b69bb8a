"""What the simulated scheduler says, read back by the real decoders, is what the truth says."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lepton_etl.attribution.runs import expand
from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.simulator.accounting import bracketed
from lepton_etl.simulator.jobs import OUTCOMES
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from tests.decoding import decode, settings_of

RUN = ["job_id", "restart"]
CLUSTERS = (
    ClusterPlan(cluster_id="c01", nodes=6, hardware_class="cpu-2s"),
    ClusterPlan(cluster_id="c02", nodes=2, hardware_class="gpu-mig"),
)
PLAN = FleetPlan(seed=5, clusters=CLUSTERS, first_date=date(2025, 6, 3), days=2)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accounting") / "fleet"
    simulate(PLAN, folder)
    return folder


def decoded(path: Path, format_: str) -> Decoded:
    origin = Origin("simsite", "jobs", path.name, None, "UTC")
    result = decode(path.read_bytes(), origin, settings_of({"format": format_}))
    result.check()
    assert (result.rejects.num_rows, result.duplicates) == (0, 0)
    return result


def jobs(out: Path, pattern: str, format_: str) -> pl.DataFrame:
    tables = [
        pl.DataFrame(decoded(path, format_).jobs) for path in sorted(out.glob(f"landing/slurm/{pattern}"))
    ]
    return pl.concat(tables)


def test_the_newest_word_of_sacct_is_the_truth(out: Path) -> None:
    truth = pl.read_parquet(out / "truth/job.parquet").with_columns(pl.col("restart").cast(pl.Int32))
    rows = jobs(out, "sacct-*.txt", "slurm").filter(pl.col("record") == "job")
    newest = rows.unique(RUN, keep="last", maintain_order=True)
    joined = truth.join(newest, on=RUN, how="full", suffix="_said")
    assert joined.height == truth.height == newest.height
    assert (joined["start_time"] == joined["start_time_said"]).all()
    ended = joined.filter(pl.col("state") != "RUNNING")
    assert 0 < ended.height < joined.height
    assert (ended["end_time"] == ended["end_time_said"]).all()
    assert (ended["outcome"] == ended["state"]).all()
    assert (joined["tenant_id"] == joined["tenant_id_said"]).all()
    assert (joined["gpu_count"] == joined["gpu_count_said"].fill_null(0)).all()
    assert set(OUTCOMES) >= set(ended["state"])
    assert joined.filter(pl.col("state") == "RUNNING")["end_time_said"].is_null().all()


def test_a_requeued_job_runs_again(out: Path) -> None:
    truth = pl.read_parquet(out / "truth/job.parquet")
    again = truth.filter(pl.col("restart") == 1)
    first = truth.join(again.select("job_id"), on="job_id", how="semi").filter(pl.col("restart") == 0)
    assert again.height > 0
    assert set(first["outcome"]) == {"REQUEUED"}
    both = again.join(first, on="job_id", suffix="_first")
    assert (both["submit_time"] == both["end_time_first"]).all()


def test_scontrol_names_the_devices_of_the_truth(out: Path) -> None:
    truth = pl.read_parquet(out / "truth/job_node.parquet").with_columns(pl.col("restart").cast(pl.Int32))
    rows = jobs(out, "scontrol-*.txt", "scontrol").filter(pl.col("record") == "allocation")
    held = (
        rows.unique(["job_id", "restart", "node_list"], keep="last", maintain_order=True)
        .with_columns(
            pl.col("node_list").map_elements(expand, return_dtype=pl.List(pl.String)).alias("node_id")
        )
        .explode("node_id")
    )
    joined = truth.join(held, on=["job_id", "restart", "node_id"], how="full", suffix="_said")
    assert joined.height == truth.height == held.height
    assert (joined["device_ids"] == joined["device_ids_said"].fill_null([])).all()
    assert (
        joined["cpu_count"]
        == joined["slots"] * pl.Series([16 if c == "c01" else 4 for c in joined["cluster_id"]])
    ).all()


def test_mig_instances_tell_their_activity_and_boards_their_power(out: Path) -> None:
    path = out / "landing/prom/c02n0001-2025-06-03.prom.gz"
    origin = Origin("simsite", "gpu", path.name, "c02n0001", "UTC")
    result = decode(gzip.decompress(path.read_bytes()), origin, settings_of({"format": "prometheus"}))
    readings = pl.DataFrame(result.readings)
    assert result.rejects.num_rows == 0
    boards = readings.filter(pl.col("quantity") == "gpu_power")
    assert set(boards["device_id"]) == {"gpu0", "gpu1"}
    activity = readings.filter(pl.col("quantity") == "gpu_utilisation")
    assert len(set(activity["device_id"])) == 14
    assert all(name.endswith("_1g.10gb") for name in activity["device_id"])
    work = activity.with_columns(pl.col("device_id").str.slice(0, 4).alias("board"))
    busy = work.group_by("board", "reading_time").agg(pl.col("value").mean().alias("busy"))
    both = boards.join(busy, left_on=["device_id", "reading_time"], right_on=["board", "reading_time"])
    assert np.corrcoef(both["value"].to_numpy(), both["busy"].to_numpy())[0, 1] > 0.97


def test_node_lists_are_written_as_slurm_does() -> None:
    names = [f"c01n{number:04d}" for number in (1, 2, 3, 7, 9, 10)]
    assert bracketed(names) == "c01n[0001-0003,0007,0009-0010]"
    assert expand(bracketed(names)) == names
    assert bracketed(["c01n0004"]) == "c01n0004"
