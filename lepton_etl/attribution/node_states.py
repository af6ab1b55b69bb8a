"""What nodes were doing: jobs and power of a bucket of nodes -> timelines without holes (silver/node_state)."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.schema.jobs import NODE_STATE
from lepton_etl.schema.types import arrow_schema

DAY_US: Final = 86_400_000_000
MICROSECONDS: Final = 1_000_000
# A node that runs draws at least its idle power; a controller alone draws a tenth of it.
STANDBY_RATIO: Final = 0.5
OFF_W: Final = 0.5
# The days of one cluster's node lie this far apart on one axis of time.
_APART_US: Final = 2 * DAY_US
_WHOSE: Final = ["cluster_id", "node_id", "date"]

Ints = NDArray[np.int64]


def node_states(
    intervals: pl.DataFrame, held: pl.DataFrame, inventory: pl.DataFrame, site_id: str
) -> pl.DataFrame:
    """Return the rows of silver/node_state of the nodes and UTC days in `intervals` and `held`, sorted by key.

    `intervals` are silver/interval rows of device `node`, `held` silver/job_node rows, `inventory` has ROSTER_COLUMNS;
    what it does not list on the day is left out. Below half of its idle power a node is in standby, at nothing off,
    whatever the scheduler holds on it. Else it is active while a job holds a part of it, and idle while none does but
    it is measured. Without a reading it is silent: silence is not off. drained, maintenance and failed are states of a
    scheduler's nodes, which no format delivers yet.
    """
    lines = _lines(pl.concat([intervals.select(_WHOSE), held.select(_WHOSE)]).unique(), inventory)
    if lines.is_empty():
        return pl.DataFrame(arrow_schema(NODE_STATE).empty_table())
    start, end, power_w = _measured(intervals, lines)
    first, last = _held(held, lines)
    base = np.arange(lines.height, dtype=np.int64) * _APART_US
    cuts = np.unique(np.concatenate([base, base + DAY_US, start, end, first, last]))
    # Between the end of one day and the start of the next line nothing is asked.
    begins = cuts[:-1] % _APART_US < DAY_US
    at, until = cuts[:-1][begins], cuts[1:][begins]
    line = at // _APART_US
    active = np.searchsorted(np.sort(first), at, "right") > np.searchsorted(np.sort(last), at, "right")
    place = np.searchsorted(start, at, "right") - 1
    known = np.zeros(len(at), dtype=np.bool_)
    watts = np.full(len(at), np.nan)
    if len(start):
        # An interval ends within its line, so one of another line has ended.
        known = (place >= 0) & (at < end[np.maximum(place, 0)])
        watts[known] = power_w[place[known]]
    limit_w = lines["limit_w"].to_numpy()[line]
    state = np.select(
        [known & (watts < OFF_W), known & (watts < limit_w), active, known],
        ["off", "standby", "active", "idle"],
        default="silent",
    )
    basis = np.select(
        [np.isin(state, ("off", "standby")), active, known], ["power", "jobs", "power"], default="silence"
    )
    new = np.ones(len(at), dtype=np.bool_)
    new[1:] = (line[1:] != line[:-1]) | (state[1:] != state[:-1]) | (basis[1:] != basis[:-1])
    heads = np.flatnonzero(new)
    ends = until[np.append(heads[1:], len(at)) - 1]
    midnight = pl.col("date").cast(pl.Datetime("us", "UTC"))
    found = pl.DataFrame(
        {
            "line": line[heads], "from_us": at[heads] - base[line[heads]], "to_us": ends - base[line[heads]],
            "node_state": state[heads], "state_basis": basis[heads],
        }
    )  # fmt: skip
    return (
        found.join(lines, on="line", how="left")
        .with_columns(
            (midnight + pl.duration(microseconds="from_us")).alias("from_time"),
            (midnight + pl.duration(microseconds="to_us")).alias("to_time"),
            site_id=pl.lit(site_id),
        )
        .select(list(NODE_STATE.columns))
        .sort(list(NODE_STATE.key))
    )


def _lines(node_days: pl.DataFrame, inventory: pl.DataFrame) -> pl.DataFrame:
    """The days of nodes, by the last row of their cluster that holds on it: line, _WHOSE, midnight_us, limit_w."""
    midnight = pl.col("date").cast(pl.Datetime("us", "UTC")).dt.epoch("us").alias("midnight_us")
    on_day = (pl.col("from_us") < pl.col("midnight_us") + DAY_US) & (
        pl.col("until_us") > pl.col("midnight_us")
    )
    idle = pl.col("idle_power_w")
    return (
        node_days.with_columns(midnight)
        .join(inventory.select("node_id", "cluster_id", "idle_power_w", "from_us", "until_us"),
              on=["node_id", "cluster_id"], how="inner")
        .filter(on_day)
        .sort(*_WHOSE, "from_us")
        .unique(_WHOSE, keep="last", maintain_order=True)
        .with_columns(pl.when(idle > 0).then(idle * STANDBY_RATIO).otherwise(OFF_W).alias("limit_w"))
        .select(*_WHOSE, "midnight_us", "limit_w")
        .with_row_index("line")
        .with_columns(pl.col("line").cast(pl.Int64))
    )  # fmt: skip


def _measured(intervals: pl.DataFrame, lines: pl.DataFrame) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Start, end and power of the measured intervals on the axis of all lines, in order."""
    start = pl.col("interval_start").dt.epoch("us") - pl.col("midnight_us") + pl.col("line") * _APART_US
    found = (
        intervals.filter(pl.col("power_mean_w").is_not_null())
        .join(lines, on=_WHOSE, how="inner")
        .select(
            start.alias("start"),
            pl.col("interval_s").cast(pl.Int64) * MICROSECONDS,
            pl.col("power_mean_w"),
            "line",
        )
        .sort("start")
    )
    starts = found["start"].to_numpy()
    day_end = found["line"].to_numpy() * _APART_US + DAY_US
    return (
        starts,
        np.minimum(starts + found["interval_s"].to_numpy(), day_end),
        found["power_mean_w"].to_numpy(),
    )


def _held(held: pl.DataFrame, lines: pl.DataFrame) -> tuple[Ints, Ints]:
    """Start and end of what jobs held, cut to their day, on the axis of all lines."""
    since = [pl.col(name).dt.epoch("us") - pl.col("midnight_us") for name in ("from_time", "to_time")]
    base = pl.col("line") * _APART_US
    found = (
        held.join(lines, on=_WHOSE, how="inner")
        .select(
            *(
                (base + one.clip(0, DAY_US)).alias(name)
                for one, name in zip(since, ("first", "last"), strict=True)
            )
        )
        .filter(pl.col("first") < pl.col("last"))
    )
    return found["first"].to_numpy(), found["last"].to_numpy()
