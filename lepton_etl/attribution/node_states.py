"""What nodes were doing: power, jobs, schedulers and power commands -> timelines without holes (silver/node_state)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
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
_MIDNIGHT: Final = pl.col("date").cast(pl.Datetime("us", "UTC")).dt.epoch("us").alias("midnight_us")

Ints = NDArray[np.int64]


def node_states(
    intervals: pl.DataFrame,
    held: pl.DataFrame | None,
    inventory: pl.DataFrame,
    site_id: str,
    spans: pl.DataFrame,
    days: Sequence[date],
) -> pl.DataFrame:
    """Return the rows of silver/node_state of the nodes and UTC days in `intervals`, `held` and `spans`, sorted by key.

    `intervals` are silver/interval rows of device `node` that were read, `held` silver/job_node rows (None without job
    accounting), `inventory` has ROSTER_COLUMNS; what it does not list on the day is left out. `spans` are what
    schedulers and power commands say of nodes (intervals.known_off), of which `days` are taken.
    What is read comes first: below half of its idle power a node is in standby (asleep where its scheduler says so),
    at nothing off, whatever is scheduled. A node that is not read is off or asleep where that is said. Else it is
    active while a job holds a part of it; drained, in maintenance or failed where that is said; idle where it is read
    and no job holds it (`on` without accounting), `on` where that is said, and silent where nobody says anything:
    silence is not off.
    """
    accounted = held is not None
    held = (
        intervals.select(*_WHOSE, from_time="interval_start", to_time="interval_start").clear()
        if held is None
        else held
    )
    told = _told_days(spans, inventory, days)
    own_days = [frame.select(_WHOSE) for frame in (intervals, held, told)]
    lines = _lines(pl.concat(own_days).unique(), inventory)
    if lines.is_empty():
        return pl.DataFrame(arrow_schema(NODE_STATE).empty_table())
    start, end, power_w = _measured(intervals, lines)
    first, last = _held(held, lines)
    told_from, told_until, told_state, told_basis = _told(told, lines)
    base = np.arange(lines.height, dtype=np.int64) * _APART_US
    cuts = np.unique(np.concatenate([base, base + DAY_US, start, end, first, last, told_from, told_until]))
    # Between the end of one day and the start of the next line nothing is asked.
    begins = cuts[:-1] % _APART_US < DAY_US
    at, until = cuts[:-1][begins], cuts[1:][begins]
    line = at // _APART_US
    active = np.searchsorted(np.sort(first), at, "right") > np.searchsorted(np.sort(last), at, "right")
    known, place = _within(start, end, at)
    watts = np.full(len(at), np.nan)
    watts[known] = power_w[place[known]]
    is_told, word = _within(told_from, told_until, at)
    state_told, basis_told = (np.full(len(at), "", dtype="U16") for _ in range(2))
    state_told[is_told], basis_told[is_told] = told_state[word[is_told]], told_basis[word[is_told]]
    limit_w = lines["limit_w"].to_numpy()[line]
    low, rests = known & (watts < limit_w), np.isin(state_told, ("off", "asleep"))
    stands = np.isin(state_told, ("drained", "maintenance", "failed"))
    cases: list[tuple[NDArray[np.bool_], NDArray[np.str_] | str, NDArray[np.str_] | str]] = [
        (low & (state_told == "asleep"), "asleep", "power"),
        (known & (watts < OFF_W), "off", "power"),
        (low, "standby", "power"),
        (~known & rests, state_told, basis_told),
        (active, "active", "jobs"),
        (stands, state_told, basis_told),
        (known, "idle" if accounted else "on", "power"),
        (state_told == "on", "on", basis_told),
    ]
    state, basis = np.full(len(at), "silent", dtype="U16"), np.full(len(at), "silence", dtype="U16")
    for holds, name, found_by in reversed(cases):
        state, basis = np.where(holds, name, state), np.where(holds, found_by, basis)
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


def _within(start: Ints, end: Ints, at: Ints) -> tuple[NDArray[np.bool_], Ints]:
    """Whether each instant lies in one of the sorted spans, which do not meet, and in which."""
    place = np.searchsorted(start, at, "right") - 1
    if not len(start):
        return np.zeros(len(at), dtype=np.bool_), place
    # A span ends within its line, so one of another line has ended.
    return (place >= 0) & (at < end[np.maximum(place, 0)]), place


def _told_days(spans: pl.DataFrame, inventory: pl.DataFrame, days: Sequence[date]) -> pl.DataFrame:
    """The spans once for each of the days that they touch and each cluster that has listed the node: _WHOSE, spans."""
    of_day = pl.DataFrame({"date": list(days)}, schema={"date": pl.Date}).with_columns(_MIDNIGHT)
    touches = (pl.col("from_us") < pl.col("midnight_us") + DAY_US) & (
        pl.col("until_us") > pl.col("midnight_us")
    )
    return (
        spans.join(of_day, how="cross")
        .filter(touches)
        .drop("midnight_us")
        .join(inventory.select("node_id", "cluster_id").unique(), on="node_id", how="inner")
    )


def _told(told: pl.DataFrame, lines: pl.DataFrame) -> tuple[Ints, Ints, NDArray[np.str_], NDArray[np.str_]]:
    """Start, end, state and basis of the spans, cut to their day, on the axis of all lines, in order."""
    base = pl.col("line") * _APART_US
    ends = [base + (pl.col(name) - pl.col("midnight_us")).clip(0, DAY_US) for name in ("from_us", "until_us")]
    found = (
        told.join(lines, on=_WHOSE, how="inner")
        .with_columns(one.alias(name) for one, name in zip(ends, ("first", "last"), strict=True))
        .sort("first")
    )
    state, basis = (found[name].to_numpy().astype("U16") for name in ("node_state", "state_basis"))
    return found["first"].to_numpy(), found["last"].to_numpy(), state, basis


def _lines(node_days: pl.DataFrame, inventory: pl.DataFrame) -> pl.DataFrame:
    """The days of nodes, by the last row of their cluster that holds on it: line, _WHOSE, midnight_us, limit_w."""
    on_day = (pl.col("from_us") < pl.col("midnight_us") + DAY_US) & (
        pl.col("until_us") > pl.col("midnight_us")
    )
    idle = pl.col("idle_power_w")
    return (
        node_days.with_columns(_MIDNIGHT)
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
