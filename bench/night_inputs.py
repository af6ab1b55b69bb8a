"""Inputs of `make bench-night`: a fleet's day of controller logs, a lake with a long history, a large file register."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import yaml
from deltalake import write_deltalake
from isal import igzip
from numpy.typing import NDArray

from lepton_etl.days import Days
from lepton_etl.lake.nights import name_night
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.logs import FILE, READING
from lepton_etl.schema.operations import NIGHT
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.types import arrow_schema
from lepton_etl.simulator.grid import grid_hours
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.site_files import settings_of, write_grid, write_inventory, write_weather
from lepton_etl.simulator.weather import weather

DAY: Final = date(2025, 6, 3)
SAMPLES: Final = 1440
# Sensor as a controller names it, unit, and the value at idle and at full load.
SENSORS: Final = (
    ("CPU Utilization", "percent", 3, 97),
    ("Sys Power", "Watts", 188, 640),
    ("CPU Power", "Watts", 95, 470),
    ("Mem Power", "Watts", 18, 60),
    ("CPU 1 Temp", "degrees C", 38, 78),
    ("CPU 2 Temp", "degrees C", 39, 79),
    ("Ambient Temp", "degrees C", 21, 23),
    ("Fan 1 Tach", "RPM", 4800, 11200),
    ("Fan 2 Tach", "RPM", 4840, 11240),
    ("Fan 3 Tach", "RPM", 4760, 11160),
)
_FAN_STEP: Final = 40
_PUE: Final = 1.3
_NODES_PER_TASK: Final = 25
# One commit of the register is one delivery.
_FILES_PER_COMMIT: Final = 10_000


@dataclass(frozen=True)
class Fleet:
    """A day of a fleet below a folder: settings, inventory and landing/, with the size of its logs as text."""

    folder: Path
    nodes: int
    raw_bytes: int

    @property
    def readings(self) -> int:
        """Readings of the controllers."""
        return self.nodes * SAMPLES * len(SENSORS)


def make_fleet(folder: Path, nodes: int) -> Fleet:
    """Write a day of `nodes` equal nodes, a sample a minute on the minute; made once, then found again.

    The logs hold what `ipmitool sdr` prints of ten sensors. Load follows jobs of some hours. There is no facility
    meter, so the PUE is assumed; grid and weather are the simulator's.
    """
    done = folder / ".done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "landing" / "ipmi").mkdir(parents=True)
        for kind in ("grid", "weather"):
            (folder / "landing" / kind).mkdir()
        plan = FleetPlan(
            seed=7,
            site_id="benchsite",
            clusters=(ClusterPlan(cluster_id="c01", nodes=nodes, hardware_class="cpu-2s"),),
            first_date=DAY,
        )
        write_inventory(plan, folder)
        write_weather(plan, weather(plan), folder / "landing")
        write_grid(plan, grid_hours(plan), folder / "landing")
        (folder / "config.yaml").write_text(yaml.safe_dump(_settings(plan)), encoding="utf-8")
        names = plan.clusters[0].node_ids()
        parts = [range(at, min(at + _NODES_PER_TASK, nodes)) for at in range(0, nodes, _NODES_PER_TASK)]
        with ProcessPoolExecutor(
            len(os.sched_getaffinity(0)), mp_context=multiprocessing.get_context("spawn")
        ) as pool:
            sizes = list(pool.map(partial(_write_logs, folder / "landing" / "ipmi", names), parts))
        done.write_text(str(sum(sizes)), encoding="utf-8")
    return Fleet(folder, nodes, int(done.read_text(encoding="utf-8")))


def _settings(plan: FleetPlan) -> dict[str, Any]:
    settings: dict[str, Any] = settings_of(plan)
    sources = [source for source in settings["sources"] if source["name"] in ("bmc", "weather")]
    return settings | {"sources": sources, "facility": {"pue_assumed": _PUE}}


def _write_logs(folder: Path, names: Sequence[str], indices: range) -> int:
    """Logs of some nodes; bytes of text."""
    texts = [
        np.array([_row(name, unit, value) for value in range(highest + _FAN_STEP + 1)], dtype=object)
        for name, unit, _, highest in SENSORS
    ]
    stamps = [
        f"Timestamp: {datetime.combine(DAY, datetime.min.time()) + timedelta(minutes=minute)} UTC\n"
        for minute in range(SAMPLES)
    ]
    written = 0
    for index in indices:
        load = _load(np.random.default_rng([7, index]))
        columns = [np.array(stamps, dtype=object)]
        for table, (_, unit, idle, full) in zip(texts, SENSORS, strict=True):
            value = np.rint(idle + load * (full - idle)).astype(np.int64)
            columns.append(table[value // _FAN_STEP * _FAN_STEP if unit == "RPM" else value])
        text = "".join(np.column_stack(columns).ravel().tolist()).encode()
        (folder / f"{names[index]}-{DAY}.txt.gz").write_bytes(igzip.compress(text, compresslevel=2))
        written += len(text)
    return written


def _row(name: str, unit: str, value: int) -> str:
    return f"{name:<24} | {f'{value} {unit}':<17} | ok\n"


def _load(rng: np.random.Generator) -> NDArray[np.float64]:
    """Share of full load each minute: levels that last an hour or three, and what a sensor shows beside them."""
    lengths = rng.integers(60, 181, size=SAMPLES // 60)
    levels = np.repeat(rng.uniform(0.0, 0.95, size=len(lengths)), lengths)[:SAMPLES]
    return np.asarray(np.clip(levels + rng.normal(0.0, 0.02, size=SAMPLES), 0.0, 1.0))


def lay_history(lake: Lake, day: date, days: int) -> None:
    """Give the lake `days` days before `day`, each a copy of that day under its own date.

    Tables of days are replaced day by day, so each day has its own files and its own commit, as nights leave them.
    bronze/reading and bronze/file get the rows of the day's files under paths, identities and times of their own.
    """
    dated = [table for table in TABLES.values() if table.partition == "date" and lake.exists(table)]
    rows = {table.name: lake.read(table, Days.of(day)) for table in dated}
    readings, files = _delivered(lake, day)
    laid = [table for table in dated if table != NIGHT and not rows[table.name].is_empty()]
    for back in range(days, 0, -1):
        shift = timedelta(days=back)
        past = Days.of(day - shift)
        for table in laid:
            of_day = _shifted(rows[table.name], shift)
            if table.key:
                lake.replace(table, past, of_day)
            else:
                _append(lake, table, of_day)
        _append(lake, READING, _renamed(_shifted(readings, shift), back))
        old = _renamed(_shifted(files, shift), back)
        path = pl.col("path").str.replace_all(str(day), str(past.start), literal=True)
        _append(lake, FILE, old.with_columns(path))
    # Readers see the past days as published, like those that nights made.
    name_night(lake, Days(day - timedelta(days=days), day - timedelta(days=1)), "history")


def hold_since(site: Path, day: date, since: date) -> None:
    """Let the inventory's nodes and meters that hold from `day` on hold from `since` on: the past knows them."""
    for name in ("inventory.csv", "meters.csv"):
        file = site / name
        file.write_text(file.read_text().replace(str(day), str(since)))


def _delivered(lake: Lake, day: date) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The readings of a day, and the files that hold them."""
    readings = lake.read(READING, Days.of(day))
    files = lake.read(FILE).filter(pl.col("file_id").is_in(readings["file_id"].unique().to_list()))
    return readings, files


def _shifted(rows: pl.DataFrame, shift: timedelta) -> pl.DataFrame:
    times = [name for name, kind in rows.schema.items() if kind.is_temporal()]
    return rows.with_columns(pl.col(name) - shift for name in times)


def _renamed(rows: pl.DataFrame, number: int) -> pl.DataFrame:
    names = rows["file_id"].unique().to_list()
    return rows.with_columns(
        pl.col("file_id").replace_strict(names, [_identity(f"{name} {number}") for name in names])
    )


def _identity(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _append(lake: Lake, table: Table, rows: pl.DataFrame) -> None:
    data = rows.select(table.columns).to_arrow(compat_level=pl.CompatLevel.oldest())
    write_deltalake(lake.path(table), pa.table(data).cast(arrow_schema(table)), mode="append")


def lay_files(lake: Lake, day: date, files: int) -> None:
    """Add loaded files to bronze/file, delivered on the days before `day`, in commits of one delivery each."""
    like = lake.read(FILE).filter(pl.col("state") == "loaded", pl.col("readings") > 0).head(1)
    commits = -(-files // _FILES_PER_COMMIT)
    for number in range(commits):
        count = min(_FILES_PER_COMMIT, files - number * _FILES_PER_COMMIT)
        delivered = day - timedelta(days=commits - number)
        rows = _shifted(pl.concat([like] * count), timedelta(days=commits - number))
        names = [f"landing/ipmi/n{at:05d}-{delivered}.txt.gz" for at in range(count)]
        _append(
            lake,
            FILE,
            # Of batches before the newest, as the register of a lake of years has them.
            rows.with_columns(
                pl.Series("path", names),
                pl.Series("file_id", [_identity(name) for name in names]),
                pl.lit(0, rows.schema["batch"]).alias("batch"),
            ),
        )
