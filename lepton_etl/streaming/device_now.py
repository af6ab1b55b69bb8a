"""Bring batches of the stream of logs into gold/device_now: each device's state, one commit a batch.

The last hour of each device is kept in one Parquet file beside the checkpoint, replaced whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from pyspark.sql import DataFrame

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.diagnosis.device_states import KEY, state_rows
from lepton_etl.diagnosis.minutes import (
    DEVICES,
    INPUTS,
    KEPT_S,
    SUMS,
    QuantityRoles,
    added,
    minutes,
    newest_times,
)
from lepton_etl.errors import ConfigurationError
from lepton_etl.intervals.node_day import UNLISTED_CLUSTER
from lepton_etl.intervals.source_choice import COMPONENT_OF, ENVIRONMENT, NODE_SOURCES
from lepton_etl.lake.location import Location
from lepton_etl.lake.log_files import open_log
from lepton_etl.lake.tables import Lake, read_files
from lepton_etl.registers.inventory import read_nodes
from lepton_etl.schema.diagnosis import DEVICE_NOW
from lepton_etl.schema.fleet import INTERVAL
from pipelines.diagnose import STATE_HISTORY_DAYS

_BATCH = b"lepton.batch"


@dataclass(frozen=True, slots=True)
class Recent:
    """Rows as they were after `batch`; -1 before the first one."""

    rows: pa.Table
    batch: int = -1


def folder(root: Location) -> Location:
    """Where the job keeps its checkpoint and its rows."""
    return root / "_watch"


def load(root: Location, empty: pa.Table) -> Recent:
    """What was saved last, or `empty`."""
    file = folder(root) / "recent.parquet"
    if not file.exists():
        return Recent(empty)
    rows = pq.read_table(file.source())
    return Recent(rows.cast(empty.schema), int((rows.schema.metadata or {}).get(_BATCH, b"-1")))


def save(root: Location, recent: Recent) -> None:
    """Put the rows in place of the last ones; a crash leaves either."""
    content = BytesIO()
    pq.write_table(recent.rows.replace_schema_metadata({_BATCH: str(recent.batch).encode()}), content)
    (folder(root) / "recent.parquet").write(content.getvalue())


MEANINGS: Final = QuantityRoles(
    node_power=tuple(quantity for quantity, _ in NODE_SOURCES if quantity.endswith("_power")),
    device_power=("gpu_power",),
    of_device={quantity: own for quantity, (own, _) in ENVIRONMENT.items() if own in INPUTS},
    of_node={quantity: node for quantity, (_, node) in ENVIRONMENT.items() if node in INPUTS},
    component={quantity: device for quantity, device in COMPONENT_OF.items() if device == "gpu"},
)
# The driver holds the history: beyond this it is thinned evenly in time. A median and a 95th percentile of a week need
# no more than some tens of intervals a device.
HISTORY_ROWS: Final = 1_000_000
# Each batch replaces the table's one file; the replaced ones are deleted after an hour, which no reader takes.
_VACUUM_EVERY: Final = 120
_VACUUM_AFTER_H: Final = 1

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch did; a board's temperature and utilisation are values of its node too."""

    number: int
    values: int = 0
    late: int = 0
    ahead: int = 0
    rejects: int = 0
    devices: int = 0
    changes: tuple[str, ...] = ()


@dataclass
class Watcher:
    """Takes the batches of the stream, in order; holds the last hour of each device and its last state."""

    lake: Lake
    settings: Settings
    run_id: str
    clock: Clock = utc_now
    batches: list[Batch] = field(default_factory=list)
    _history: pl.DataFrame | None = None
    _history_day: date | None = None
    _cluster_of: dict[str, str] = field(default_factory=dict)
    _states: dict[tuple[str, ...], str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._log = structlog.get_logger("watch").bind(run_id=self.run_id)
        self._cluster_of = self._inventory()
        empty = pl.DataFrame(schema=SUMS).to_arrow()
        self._recent = load(self.lake.root, empty)
        standing = self.lake.arrow(DEVICE_NOW).select([*KEY, "performance_state"]).to_pylist()
        self._states = {tuple(row[name] for name in KEY): row["performance_state"] for row in standing}

    def take(self, rows: DataFrame, number: int) -> None:
        """Judge the devices of which the batch brings something. A batch that is given again is not added twice."""
        start = time.monotonic()
        found = pl.DataFrame(rows.toArrow())
        bad = found.filter(pl.col("reason").is_not_null())
        for one in bad.iter_rows(named=True):
            self._log.warning(
                "lines not used", path=one["path"], reason=one["reason"], count=one["value_count"],
                first=one["raw_text"],
            )  # fmt: skip
        fresh = found.filter(pl.col("reason").is_null()).select(list(SUMS))
        now = self.clock()
        held = added(pl.DataFrame(self._recent.rows), fresh, now)
        if number != self._recent.batch:
            self._recent = Recent(held.rows.to_arrow().cast(self._recent.rows.schema), number)
            save(self.lake.root, self._recent)
        devices = self._judge(fresh, now)
        changes = self._publish(devices, number)
        batch = Batch(
            number,
            values=int(fresh["value_count"].sum()),
            late=held.late,
            ahead=held.ahead,
            rejects=int(bad["value_count"].sum()),
            devices=devices.height,
            changes=changes,
        )
        self.batches.append(batch)
        behind = devices["behind_s"].max() if devices.height else None
        self._log.info(
            "batch", batch=number, values=batch.values, late=batch.late, ahead=batch.ahead, rejects=batch.rejects,
            devices=batch.devices, changes=len(changes), behind_s=behind, seconds=round(time.monotonic() - start, 2),
        )  # fmt: skip

    def _judge(self, fresh: pl.DataFrame, now: datetime) -> pl.DataFrame:
        """Rows of gold/device_now of the devices of which something is new."""
        held = pl.DataFrame(self._recent.rows)
        touched = held.join(
            fresh.select("node_id", "device_id").unique(), on=["node_id", "device_id"], how="semi"
        )
        if not touched.height:
            return pl.DataFrame()
        clusters = self._clusters(now)
        window_s = self.settings.watch.window_s
        intervals = minutes(touched, MEANINGS, self.settings.site.site_id, clusters, UNLISTED_CLUSTER)
        judged = state_rows(
            intervals, self._days_before(now), frozen_intervals=KEPT_S // window_s, newest_only=True
        )
        if not judged.height:
            return pl.DataFrame()
        newest = pl.from_epoch("newest_us", "us").dt.replace_time_zone("UTC")
        behind = pl.col("updated_time") - pl.col("newest_reading_time")
        return (
            judged.drop("date")
            .join(newest_times(touched), on=["node_id", "device_id"], how="left", maintain_order="left")
            .with_columns(newest.alias("newest_reading_time"), pl.lit(self.clock()).alias("updated_time"))
            .with_columns((behind.dt.total_microseconds() / 1e6).alias("behind_s"))
            .drop("newest_us")
        )  # fmt: skip

    def _publish(self, devices: pl.DataFrame, number: int) -> tuple[str, ...]:
        if not devices.height:
            return ()
        rows = devices.to_dicts()
        self.lake.metadata = {"run_id": self.run_id, "stage": "watch", "batch": str(number)}
        self.lake.replace_keyed(DEVICE_NOW, rows)
        changes = tuple(change for row in rows if (change := self._change(row)) is not None)
        if number and number % _VACUUM_EVERY == 0:
            open_log(self.lake.at(DEVICE_NOW)).vacuum(
                retention_hours=_VACUUM_AFTER_H, dry_run=False, enforce_retention_duration=False
            )
        return changes

    def _change(self, row: Mapping[str, Any]) -> str | None:
        """The line of a device whose state is another than before; a new device is told of where it is not normal."""
        key, state = tuple(row[name] for name in KEY), row["performance_state"]
        before = self._states.get(key, "normal" if state else None)
        self._states[key] = state
        if before == state:
            return None
        chance = row[f"{state}_probability_ratio"] if state else None
        self._log.warning(
            "state changed", cluster_id=row["cluster_id"], node_id=row["node_id"], device_id=row["device_id"],
            before=before, state=state, probability=None if chance is None else round(chance, 3),
            adjustment=row["adjustment"], reason=row["adjustment_reason"], evidence=row["evidence"],
            interval_start=row["interval_start"].isoformat(), behind_s=round(row["behind_s"], 1),
        )  # fmt: skip
        return f"{row['node_id']} {row['device_id']}: {before} -> {state}"

    def _clusters(self, now: datetime) -> dict[str, str]:
        """Node -> cluster by the inventory; read anew with the history, and kept where it cannot be."""
        if self._history_day not in (None, now.date()):
            try:
                self._cluster_of = self._inventory()
            except ConfigurationError as error:
                self._log.error("inventory not read anew", error=str(error))
        return self._cluster_of

    def _inventory(self) -> dict[str, str]:
        """Node -> cluster as valid now. Raises ConfigurationError."""
        now = self.clock()
        nodes = pl.DataFrame(read_nodes(self.settings.fleet.inventory, self.settings.site.site_id))
        valid = nodes.filter(
            pl.col("valid_from") <= now, pl.col("valid_to").is_null() | (pl.col("valid_to") > now)
        )
        return dict(valid.select("node_id", "cluster_id").iter_rows())

    def _days_before(self, now: datetime) -> pl.DataFrame:
        """The devices' intervals of the last days, loaded once a day; empty where no night has been yet."""
        today = now.date()
        if self._history is None or self._history_day != today:
            self._history = history(self.lake, today)
            self._history_day = today
            self._log.info("history loaded", rows=self._history.height, days=STATE_HISTORY_DAYS)
        return self._history


def history(lake: Lake, today: date, most_rows: int = HISTORY_ROWS) -> pl.DataFrame:
    """Intervals of devices that have a state, of the days before today, thinned evenly in time to `most_rows`."""
    columns = (*KEY, "interval_start", *INPUTS)
    days = Days(today - timedelta(days=STATE_HISTORY_DAYS), today - timedelta(days=1))
    is_device = pl.col("device_id").str.contains(DEVICES)
    files = lake.files(INTERVAL, days)
    count = sum(read_files(INTERVAL, [file], ["device_id"], is_device).height for file in files)
    step = -(-count // most_rows)
    kept = pl.col("interval_start").dt.epoch("s") // pl.col("interval_s") % max(step, 1) == 0
    return read_files(INTERVAL, files, columns, is_device if step <= 1 else is_device & kept)
