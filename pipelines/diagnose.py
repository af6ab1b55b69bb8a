"""silver/interval and gold/prediction -> gold/state and gold/anomaly: what state each device is in, and what is odd.

A task judges the intervals of its nodes; another the device-hours of a rack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.days import Days
from lepton_etl.diagnosis.anomalies import HISTORY_DAYS, anomaly_rows, devices, with_expected_by_load
from lepton_etl.diagnosis.device_states import state_rows
from lepton_etl.diagnosis.minutes import DEVICES, INPUTS
from lepton_etl.lake.location import Location
from lepton_etl.lake.node_parts import NodePart, node_parts, rows_of
from lepton_etl.lake.staging import StagedFile, stage
from lepton_etl.lake.tables import Lake, Written
from lepton_etl.schema.declare import Table
from lepton_etl.schema.diagnosis import ANOMALY, STATE
from lepton_etl.schema.energy import PREDICTION
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.types import arrow_schema
from pipelines.stage import StageContext, StageResult, worthy

# What a device usually draws and clocks at is learnt from so many days before.
STATE_HISTORY_DAYS: Final = 7
_HOUR_INPUT: Final = (
    "site_id", "cluster_id", "node_id", "device_id", "date", "hour_start", "energy_kwh", "predicted_kwh", "load_ratio",
)  # fmt: skip
_STATE_INPUT: Final = ("site_id", "cluster_id", "node_id", "device_id", "date", "interval_start", *INPUTS)
_RATED: Final = ("site_id", "node_id", "valid_from", "rated_power_w", "gpu_rated_power_w")
_SHOWN: Final = 3
_WHOSE: Final = ["site_id", "node_id"]


def run(context: StageContext) -> StageResult:
    """Judge the days of the run; a device without history has no anomaly, and a state as unsure as it is."""
    written = (_states(context), _anomalies(context))
    notes = (_note_of_states(context.lake, context.days), *_worst(context.lake, context.days))
    return StageResult(rows_out=sum(one.rows for one in written), written=written, notes=notes)


def _states(context: StageContext) -> Written:
    days, lake = context.days, context.lake
    looked_at = Days(days.start - timedelta(days=STATE_HISTORY_DAYS), days.end)
    parts = node_parts(lake, INTERVAL, looked_at, by_day=False, tasks=context.engine.parallelism)
    nodes = lake.read(NODE, columns=_RATED)
    engine = worthy(context.engine, rows_of(parts))
    staged = engine.map(_States(lake.root, tuple(days), nodes), parts)
    return lake.commit(STATE, days, [file for files in staged for file in files], allow_empty=True)


@dataclass(frozen=True)
class _States:
    """What a task does: stage the states of its nodes on these days, each node judged by the days before."""

    root: Location
    days: tuple[date, ...]
    nodes: pl.DataFrame

    def __call__(self, part: NodePart) -> list[StagedFile]:
        rows = _with_rated(part.read(_STATE_INPUT, pl.col("device_id").str.contains(DEVICES)), self.nodes)
        found = []
        for day, known in _windows(rows, self.days, STATE_HISTORY_DAYS):
            history = known.filter(pl.col("date") < day)
            found += [
                state_rows(own, history.join(own, on=_WHOSE, how="semi"))
                for own in _of_equal_instants(known.filter(pl.col("date") == day))
            ]
        return stage(self.root, STATE, _together(STATE, found))


def _with_rated(rows: pl.DataFrame, nodes: pl.DataFrame) -> pl.DataFrame:
    """Add what the inventory says that the node, or one of its boards, was built for: the newest that it says, W."""
    newest = nodes.sort("valid_from", nulls_last=False).group_by(_WHOSE).last()
    rated = pl.when(pl.col("device_id") == "node").then("rated_power_w").otherwise("gpu_rated_power_w")
    joined = rows.join(newest.drop("valid_from"), on=_WHOSE, how="left", maintain_order="left")
    return joined.with_columns(rated.alias("rated_power_w")).drop("gpu_rated_power_w")


def _windows(
    rows: pl.DataFrame, days: Iterable[date], days_before: int
) -> Iterator[tuple[date, pl.DataFrame]]:
    """Yield each day with the rows of it and of so many days before: a range of days sees what its nights would."""
    rows = rows.sort("date", maintain_order=True)
    for day in days:
        first = rows["date"].search_sorted(day - timedelta(days=days_before))
        yield day, rows.slice(first, rows["date"].search_sorted(day, side="right") - first)


def _of_equal_instants(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Return the rows of nodes that have the same instants: a call judges those, and each node on its own instants."""
    instants = pl.col("interval_start").unique().sort().dt.epoch().cast(pl.String).str.join(" ")
    seen = rows.group_by(_WHOSE).agg(instants.alias("_instants"))
    together = rows.join(seen, on=_WHOSE, how="left").partition_by("_instants", maintain_order=True)
    return [part.drop("_instants") for part in together]


def _anomalies(context: StageContext) -> Written:
    days, lake, model = context.days, context.lake, context.settings.model
    looked_at = Days(days.start - timedelta(days=HISTORY_DAYS), days.end)
    hours = lake.read(PREDICTION, looked_at, columns=_HOUR_INPUT, where=pc.field("model_name") == model.name)
    racks = (
        lake.read(NODE)
        .filter(pl.col("valid_to").is_null() | (pl.col("valid_to") > days.from_time))
        .sort("valid_from", nulls_last=False)
        .group_by("site_id", "node_id")
        .agg(pl.col("rack_id").last())
    )
    # A node of no known rack has no peers: it is judged alone.
    of_racks = hours.join(racks, on=["site_id", "node_id"], how="left")
    peers = pl.coalesce("rack_id", pl.lit("node ") + pl.col("node_id"))
    groups = [rows for _, rows in of_racks.sort("node_id").group_by("site_id", peers, maintain_order=True)]
    found = worthy(context.engine, hours.height).map(_Anomalies(tuple(days), model.device), groups)
    return lake.replace(ANOMALY, days, _together(ANOMALY, found), allow_empty=True)


@dataclass(frozen=True)
class _Anomalies:
    """What a task does: the anomalies of one rack, whose devices are judged beside each other."""

    days: tuple[date, ...]
    device: str

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        found = []
        for day, known in _windows(rows, self.days, HISTORY_DAYS):
            if self.device == "gpu":
                # A board's model knows its die temperature, which follows power: it would expect what any sensor says.
                expected = with_expected_by_load(known.drop("predicted_kwh"), day)
            else:
                expected = known.rename({"predicted_kwh": "expected_kwh"})
            found.append(_of_day(expected, day))
        return _together(ANOMALY, found)


def _of_day(rows: pl.DataFrame, day: date) -> pl.DataFrame:
    """Rows of gold/anomaly of one day of a rack, from hours up to its end on one grid of hours."""
    hours = devices(rows)
    if not hours:
        return pl.DataFrame()
    length = len(hours[0].measured_kwh)
    midnight = (pl.Series([day]).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")).item()
    start = round((midnight - hours[0].first_hour).total_seconds() / 3600)
    if not 0 < start < length:
        return pl.DataFrame()
    return anomaly_rows([one.part(0, start) for one in hours], [one.part(start, length) for one in hours])


def _together(table: Table, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The rows of all frames in the table's columns and types; a frame without rows may lack columns."""
    schema = arrow_schema(table)
    filled = [frame.select(schema.names).to_arrow().cast(schema) for frame in frames if frame.height]
    return pl.DataFrame(pa.concat_tables(filled) if filled else schema.empty_table())


def _note_of_states(lake: Lake, days: Days) -> str:
    states = lake.read(STATE, days, columns=["performance_state"]).to_series().fill_null("unknown")
    counts = states.value_counts().sort(["count", "performance_state"], descending=[True, False])
    shares = ", ".join(f"{state} {count / len(states):.1%}" for state, count in counts.iter_rows())
    return (
        f"states of {len(states):,} device intervals: {shares}"
        if len(states)
        else f"no device interval in {days}"
    )


def _worst(lake: Lake, days: Days) -> list[str]:
    """The episodes that cost most, in words, and how many there are."""
    found = lake.read(ANOMALY, days)
    worst = found.sort([pl.col("excess_kwh").abs(), "anomaly_id"], descending=[True, False]).head(_SHOWN)
    return [f"{found.height:,} anomalies", *worst["explanation"]]
