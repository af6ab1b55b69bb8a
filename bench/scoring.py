"""Batch scoring in a pool of processes against plain `predict` on the same cores: a million device-hours.

    python -m bench.scoring [--rows 1000000] [--rounds 3]

Both read the same Parquet rows, predict with the same bytes of the same forest and write Parquet, once they have done
an eighth of the rows. The peer lets scikit-learn use every core. Energies are compared row by row.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from bench.measure import Figure, Run, figure, in_turn, print_figures, print_runs, ratio, timed, write
from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.candidates import forest
from lepton_etl.models.features import FEATURES, KEYS, TARGET, described, feature_names
from lepton_etl.models.scoring import predictions
from lepton_etl.models.select import inputs
from lepton_etl.models.stored import VerifiedModel, Version, build, predict
from pipelines.engine import LocalEngine

DEVICE: Final = "node"
CORES: Final = (0, 1)
_PARTS: Final = 8
_COLUMNS: Final = described(FEATURES[DEVICE])


def hours(count: int, seed: int) -> pd.DataFrame:
    """Device-hours with every column that scoring reads; made-up loads, for speed and not for errors."""
    rng = np.random.default_rng(seed)
    start = datetime(2025, 6, 3, tzinfo=UTC)
    rows = pd.DataFrame({name: rng.uniform(0, 1, count) for name in feature_names(DEVICE)})
    rows["rated_power_w"] = rng.choice([500.0, 900.0, 3000.0], count)
    rows["inlet_temp_c"] = rng.uniform(18, 27, count)
    rows["gpu_utilisation_ratio"] = np.where(
        rng.uniform(size=count) < 0.5, np.nan, rows["gpu_utilisation_ratio"]
    )
    rows["hardware_class"] = rng.choice(["cpu-2s", "gpu-400", "gpu-mig"], count)
    numbers = np.arange(count)
    rows = rows.assign(
        site_id="s", cluster_id="c", device_id="node", node_id=[f"n{i // 24}" for i in numbers],
        hour_start=[start + timedelta(hours=int(i % 24)) for i in numbers], date=start.date(), observed_s=3600.0,
    )  # fmt: skip
    load = rows["cpu_utilisation_ratio"]
    rows["hour_start"] = rows["hour_start"].astype("datetime64[us, UTC]")
    rows[TARGET] = rows["rated_power_w"] * (0.4 + 0.6 * load) / 1000 + rng.normal(0, 0.01, count)
    return rows


def prepare(folder: Path, count: int) -> None:
    """Parquet rows and the bytes of a forest of the default settings."""
    import skops.io

    taught = hours(20_000, 1)
    fitted = forest()(inputs(ModelSettings(), taught)).fit(
        taught[list(feature_names(DEVICE))], taught[TARGET].to_numpy()
    )
    (folder / "model.skops").write_bytes(skops.io.dumps(fitted))
    (folder / "rows").mkdir()
    whole = pa.Table.from_pandas(hours(count, 2), preserve_index=False)
    size = -(-count // _PARTS)
    for part in range(_PARTS):
        pq.write_table(whole.slice(part * size, size), folder / "rows" / f"{part}.parquet")


def ours(folder: Path, target: Path) -> Run:
    """`predictions` in a pool of as many processes as cores, as the stage `score` runs it."""
    data = (folder / "model.skops").read_bytes()
    work = _Scored(VerifiedModel(build(data), _COLUMNS, Version("bench", "1", "-"), data), target)
    target.mkdir(exist_ok=True)
    files = sorted((folder / "rows").glob("*.parquet"))
    with LocalEngine(len(CORES)) as engine:
        # A night's pool has worked before: both contenders have done a part before the clock.
        engine.map(work, files[: len(CORES)])
        return timed(lambda: sum(engine.map(work, files)))


@dataclass(frozen=True)
class _Scored:
    """What a task does: score the rows of a file into one of the same name; returns their number."""

    model: VerifiedModel
    target: Path

    def __call__(self, file: Path) -> int:
        rows = predictions(pl.read_parquet(file), self.model, 0.9)
        rows.write_parquet(self.target / file.name)
        return rows.height


def plain(folder: Path, target: Path) -> Run:
    """The pipeline in this process with a thread a core."""
    pipeline = build((folder / "model.skops").read_bytes())
    pipeline.named_steps["model"].set_params(n_jobs=len(CORES))
    predict(pipeline, _COLUMNS, pd.read_parquet(folder / "rows" / "0.parquet"))

    def work() -> int:
        rows = pd.read_parquet(folder / "rows")
        rows["predicted_kwh"] = predict(pipeline, _COLUMNS, rows)
        target.mkdir(exist_ok=True)
        kept = [*KEYS, "date", TARGET, "predicted_kwh"]
        pq.write_table(pa.Table.from_pandas(rows[kept], preserve_index=False), target / "rows.parquet")
        return len(rows)

    return timed(work)


CONTENDERS: Final = {"lepton_etl": ours, "plain predict": plain}


def equal(folder: Path) -> float:
    """The largest relative difference of the contenders' predictions, row by row."""
    found = [
        pq.ParquetDataset(folder / f"out-{number}").read().to_pandas().sort_values(["node_id", "hour_start"])
        for number in range(len(CONTENDERS))
    ]
    first, second = (rows["predicted_kwh"].to_numpy() for rows in found)
    return float(np.max(np.abs(first - second) / second)) if len(first) == len(second) else float("inf")


def main() -> None:
    """Print the contenders and write var/bench/scoring.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=list(CONTENDERS))
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.contender:
        number = list(CONTENDERS).index(asked.contender)
        print(json.dumps(asdict(CONTENDERS[asked.contender](asked.folder, asked.folder / f"out-{number}"))))
        return
    folder = Path(tempfile.mkdtemp(prefix="lepton-scoring-"))
    try:
        prepare(folder, asked.rows)
        commands = {
            name: ["-m", "bench.scoring", "--contender", name, "--folder", str(folder)] for name in CONTENDERS
        }
        rounds = [in_turn(commands, number, CORES) for number in range(asked.rounds)]
        runs = {name: [one[name] for one in rounds] for name in CONTENDERS}
        names = list(CONTENDERS)
        print_runs(f"Scoring {asked.rows:,} device-hours on {len(CORES)} cores", runs, names[0])
        figures: list[Figure] = [
            figure(
                "Spark scoring by plain predict, wall time",
                ratio(runs, *names),
                "ratio",
                asked.rounds,
                at_most=1.0,
            ),
            figure("largest relative difference", equal(folder), "ratio", asked.rounds, at_most=1e-9),
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print_figures("Batch scoring", figures)
    write("scoring", figures)


if __name__ == "__main__":
    main()
