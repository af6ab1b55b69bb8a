"""What a node was doing: jobs and power of one node -> a timeline without holes (silver/node_state)."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from lepton_etl.attribution.node_energy import NodeFacts
from lepton_etl.schema.jobs import NODE_STATE
from lepton_etl.schema.types import arrow_schema

DAY_US: Final = 86_400_000_000
MICROSECONDS: Final = 1_000_000
# A node that runs draws at least its idle power; a controller alone draws a tenth of it.
STANDBY_RATIO: Final = 0.5
OFF_W: Final = 0.5


def node_states(intervals: pa.Table, held: pa.Table, facts: NodeFacts) -> pa.Table:
    """The rows of silver/node_state of one node and the UTC days in `intervals` and `held`.

    `intervals` are its silver/interval rows, `held` its silver/job_node rows. Below half of its idle power a node is in
    standby, at nothing off, whatever the scheduler holds on it. Else it is active while a job holds a part of it, and
    idle while none does but it is measured. Without a reading it is silent: silence is not off. drained, maintenance
    and failed are states of a scheduler's nodes, which no format delivers yet.
    """
    days = sorted(set(intervals["date"].to_pylist()) | set(held["date"].to_pylist()))
    own = _node_power(intervals)
    spans = _spans(held)
    parts = [_day_states(_epoch_day(day), own, spans, facts) for day in days]
    rows = [part.with_columns(date=pl.lit(day)) for day, part in zip(days, parts, strict=True)]
    table = pl.concat(rows) if rows else pl.DataFrame(schema=_SCHEMA)
    place = [pl.lit(getattr(facts, name)).alias(name) for name in ("site_id", "cluster_id", "node_id")]
    shown = table.with_columns(
        *place, *(pl.from_epoch(name, "us").dt.replace_time_zone("UTC") for name in ("from_time", "to_time"))
    )
    return shown.select(list(NODE_STATE.columns)).to_arrow().cast(arrow_schema(NODE_STATE))


_SCHEMA: Final = {
    "from_time": pl.Int64, "to_time": pl.Int64, "node_state": pl.String, "state_basis": pl.String, "date": pl.Date,
}  # fmt: skip


def _epoch_day(day: object) -> int:
    return int(np.datetime64(str(day), "us").astype(np.int64))


def _node_power(intervals: pa.Table) -> pl.DataFrame:
    """start_us, end_us, power_w of the node's measured intervals, in order."""
    frame = pl.DataFrame(intervals)
    start = pl.col("interval_start").dt.epoch("us")
    return (
        frame.filter((pl.col("device_id") == "node") & pl.col("power_mean_w").is_not_null())
        .select(start.alias("start_us"), (start + pl.col("interval_s").cast(pl.Int64) * MICROSECONDS).alias("end_us"),
                pl.col("power_mean_w").alias("power_w"))
        .sort("start_us")
    )  # fmt: skip


def _spans(held: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """(from, to) of what jobs held, shape (holdings, 2), microseconds."""
    names = ("from_time", "to_time")
    return np.stack(
        [held[name].to_numpy().astype("datetime64[us]").astype(np.int64) for name in names], axis=1
    )


def _day_states(
    midnight_us: int,
    own: pl.DataFrame,
    spans: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    facts: NodeFacts,
) -> pl.DataFrame:
    """from_time, to_time, node_state, state_basis of one day, in microseconds, neighbours of one state put together."""
    end_us = midnight_us + DAY_US
    start, end = own["start_us"].to_numpy(), own["end_us"].to_numpy()
    edges = np.concatenate([[midnight_us, end_us], start, end, spans.ravel()])
    cuts = np.unique(np.clip(edges, midnight_us, end_us))
    at = cuts[:-1]
    active = np.zeros(len(at), dtype=bool)
    for first, last in spans:
        active |= (at >= first) & (at < last)
    place = np.searchsorted(start, at, side="right") - 1
    known = (place >= 0) & (at < end[np.maximum(place, 0)]) if len(start) else np.zeros(len(at), dtype=bool)
    power_w = (
        np.where(known, own["power_w"].to_numpy()[np.maximum(place, 0)], np.nan)
        if len(start)
        else np.full(len(at), np.nan)
    )
    limit_w = STANDBY_RATIO * facts.idle_power_w if facts.idle_power_w else OFF_W
    state = np.select(
        [known & (power_w < OFF_W), known & (power_w < limit_w), active, known],
        ["off", "standby", "active", "idle"],
        default="silent",
    )
    basis = np.select(
        [np.isin(state, ("off", "standby")), active, known], ["power", "jobs", "power"], default="silence"
    )
    first_of = np.concatenate([[True], (state[1:] != state[:-1]) | (basis[1:] != basis[:-1])])
    starts = at[first_of]
    return pl.DataFrame(
        {
            "from_time": starts, "to_time": np.append(starts[1:], end_us), "node_state": state[first_of],
            "state_basis": basis[first_of],
        }
    )  # fmt: skip
