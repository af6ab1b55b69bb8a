"""Rows of gold/state from silver/interval: a day's intervals of devices, judged by the days before."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.states.decide import STATES, held, log_terms, probabilities
from lepton_etl.states.evidence import (
    EVIDENCE,
    FROZEN_INTERVALS,
    SLOWDOWN_TEMP_C,
    Floats,
    Intervals,
    evidence,
    unknown,
)

KEY: Final = ("site_id", "cluster_id", "node_id", "device_id")
# Below this the operator is told nothing to do.
SURE: Final = 0.6
ADJUSTMENT: Final = {
    "normal": ("none", "nothing to do"),
    "memory_bound": ("lower_clock", "full utilisation at low power: memory sets the pace, a lower clock costs little"),
    "power_capped": ("raise_cap", "it runs at its power limit: more power would be more work"),
    "thermally_throttled": ("fan_or_inlet", "it is at its slow-down temperature and clocks down: cool it"),
    "idle_but_drawing": ("release", "it draws more than it rests at: find what holds it, or reset it"),
    "degraded": ("drain", "it clocks down under load with neither cap nor heat as the reason: drain and test it"),
    "failing_sensor": ("check_sensor", "its power stands still or cannot be: do not trust its readings"),
}  # fmt: skip
_COLUMNS: Final = (
    "power_mean_w", "power_limit_w", "load_ratio", "memory_utilisation_ratio", "clock_hz", "device_temp_c",
)  # fmt: skip
_SHOWN: Final = 3


def state_rows(
    intervals: pl.DataFrame,
    history: pl.DataFrame,
    *,
    frozen_intervals: int = FROZEN_INTERVALS,
    newest_only: bool = False,
) -> pl.DataFrame:
    """Rows of gold/state for each row of `intervals` (silver/interval, of one interval length), by `history` before it.

    Load is GPU utilisation, else CPU utilisation. `slowdown_temp_c`, where the frame has it, goes before the common
    limit. A row of which no figure is known has no state. `frozen_intervals` make an hour; `newest_only` gives the last
    row of each device, judged by all before it. Raises ValueError where a device has an interval twice.
    """
    if not intervals.height:
        return pl.DataFrame()
    frame = _with_load(intervals).sort(*KEY, "interval_start")
    if frame.select(pl.struct(*KEY, "interval_start").is_duplicated().any()).item():
        raise ValueError("a device has an interval twice")
    names = frame.select(KEY).unique(maintain_order=True).with_row_index("_row")
    now, places = _grid(frame, names)
    past, _ = _grid(_with_load(history), names)
    figures = evidence(now, past, frozen_intervals)
    chances = probabilities(figures)
    states = held(chances)
    if newest_only:
        last = np.flatnonzero(frame.select(pl.struct(*KEY).is_last_distinct()).to_series().to_numpy())
        frame, places = frame[last], (places[0][last], places[1][last])
    at = tuple(places)
    missing = unknown(now, figures)
    blind = np.all([np.isnan(figures[name])[at] for name in EVIDENCE], axis=0)
    cells = _words(figures, chances, states, at, missing, blind)
    found = frame.select("date", "interval_start", *KEY).with_columns(
        *(
            pl.Series(f"{state}_probability_ratio", np.where(blind, np.nan, chances[number][at])).fill_nan(
                None
            )
            for number, state in enumerate(STATES)
        ),
        *(pl.Series(name, values, dtype=type_) for name, (values, type_) in cells.items()),
    )
    return found


def _with_load(frame: pl.DataFrame) -> pl.DataFrame:
    limit = pl.col("slowdown_temp_c") if "slowdown_temp_c" in frame.columns else pl.lit(SLOWDOWN_TEMP_C)
    return frame.with_columns(
        pl.coalesce("gpu_utilisation_ratio", "cpu_utilisation_ratio").alias("load_ratio"),
        limit.cast(pl.Float64).fill_null(SLOWDOWN_TEMP_C).alias("_limit_c"),
    )


def _grid(
    frame: pl.DataFrame, names: pl.DataFrame
) -> tuple[Intervals, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The frame as arrays (devices, instants) on the instants that it has, and where its rows lie."""
    rows = frame.join(names, on=KEY, how="inner", nulls_equal=True, maintain_order="left").with_columns(
        (pl.col("interval_start").rank("dense") - 1).cast(pl.Int64).alias("_at")
    )
    width = int(rows.select(pl.col("_at").max()).item() or 0) + 1 if rows.height else 1
    place = (rows["_row"].cast(pl.Int64).to_numpy(), rows["_at"].to_numpy())
    arrays = []
    for column in _COLUMNS:
        values: Floats = np.full((names.height, width), np.nan)
        values[place] = rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
        arrays.append(values)
    limit = np.full(names.height, SLOWDOWN_TEMP_C)
    limit[place[0]] = rows["_limit_c"].to_numpy()
    power, cap, load, memory, clock, temp = arrays
    return Intervals(power, cap, load, memory, clock, temp, limit), place


def _words(
    figures: dict[str, Floats], chances: Floats, states: NDArray[np.int64],
    at: tuple[NDArray[np.int64], ...], missing: dict[str, NDArray[np.bool_]], blind: NDArray[np.bool_],
) -> dict[str, tuple[list[Any], Any]]:  # fmt: skip
    terms = log_terms(figures)
    chosen, place = states[at], np.arange(len(at[0]))
    # How much each figure favours the state over normal; of normal, over the best of the others.
    weights = []
    for name in EVIDENCE:
        cell = terms[name][:, at[0], at[1]]
        other = np.where(chosen == 0, cell[1:].max(axis=0), cell[0])
        weights.append(cell[chosen, place] - other)
    order = np.argsort(-np.stack(weights), axis=0, kind="stable")
    values = {name: figures[name][at] for name in EVIDENCE}
    lacks = {name: missing[name][at] for name in EVIDENCE}
    chance = chances[chosen, at[0], at[1]]
    state: list[str | None] = []
    adjustment: list[str] = []
    reason: list[str] = []
    shown: list[list[str]] = []
    without: list[list[str]] = []
    for row in range(len(place)):
        name = STATES[int(chosen[row])]
        without.append([one for one in EVIDENCE if lacks[one][row]])
        if blind[row]:
            state.append(None)
            adjustment.append("none")
            reason.append("nothing is known of this interval")
            shown.append([])
            continue
        state.append(name)
        sure = bool(chance[row] >= SURE)
        adjustment.append(ADJUSTMENT[name][0] if sure else "none")
        reason.append(
            ADJUSTMENT[name][1] if sure else f"{name} is likeliest at {chance[row]:.0%}: too unsure to act"
        )
        tops = [EVIDENCE[int(one)] for one in order[:_SHOWN, row] if weights[int(one)][row] > 0]
        shown.append([f"{one} {values[one][row]:.2f}" for one in tops])
    return {
        "performance_state": (state, pl.String), "adjustment": (adjustment, pl.String),
        "adjustment_reason": (reason, pl.String), "evidence": (shown, pl.List(pl.String)),
        "unknown_inputs": (without, pl.List(pl.String)),
    }  # fmt: skip
