"""Decide the performance state of a device: rows of gold/state from a day's intervals, judged by the days before.

Evidence: seven figures an interval, relative to the device's own limit and its own recent past, so that none is fitted
to a make; NaN where a figure is unknown or says nothing. Decision: a naive Bayes of stated likelihoods, so that every
term can be read, tempered because terms of one interval are not independent, in a filter of sticky states. A figure
that is unknown contributes no term: probabilities stay nearer to the prior.
Sources: Rabiner, Proc. IEEE 77 (1989), forward recursion; Guo et al., ICML 2017, temperature scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lepton_etl.schema.common import PERFORMANCE_STATES

Floats = NDArray[np.float64]

# Above this load a device ought to clock up, and its clock, cap and memory say something.
BUSY: Final = 0.5
# GPUs slow down by hardware between 83 and 95 degC; a device's own limit goes before this.
SLOWDOWN_TEMP_C: Final = 88.0
FROZEN_INTERVALS: Final = 12
LOAD_BINS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
MIN_HISTORY: Final = 24
EVIDENCE: Final = ("load", "of_cap", "clock", "memory", "heat_margin_k", "residual", "frozen")


@dataclass(frozen=True, slots=True)
class Intervals:
    """Figures of silver/interval, (devices, intervals), NaN unknown; `slowdown_temp_c`, `rated_power_w` (devices,).

    `heat_margin_k` is what a device says itself of how far it is from slowing down.
    """

    power_w: Floats
    power_limit_w: Floats
    load_ratio: Floats
    memory_ratio: Floats
    clock_hz: Floats
    device_temp_c: Floats
    heat_margin_k: Floats
    slowdown_temp_c: Floats
    rated_power_w: Floats


def evidence(
    now: Intervals, history: Intervals, frozen_intervals: int = FROZEN_INTERVALS
) -> dict[str, Floats]:
    """Return the figures of EVIDENCE for `now`, judged by `history` of the same devices (ended before).

    load: utilisation. of_cap: power over limit, under load. clock: over the highest the device has held under load
    (95th percentile). memory: in use, under load. heat_margin_k: what the device says of it, else its slow-down
    temperature less its own. residual: log of power over the median at that load in the history. frozen: octaves by
    which the load's swing over the last hour, of `frozen_intervals`, exceeds the power's. `residual` and `clock` are
    unknown below MIN_HISTORY intervals.
    """
    busy = now.load_ratio >= BUSY
    with np.errstate(invalid="ignore", divide="ignore"):
        of_cap = now.power_w / now.power_limit_w
        residual = np.log(np.maximum(now.power_w, 1e-3) / usual_power(now.load_ratio, history))
        clock = now.clock_hz / highest_clock(history)[:, None]
    return {
        "load": now.load_ratio,
        "of_cap": np.where(busy, of_cap, np.nan),
        "clock": np.where(busy, clock, np.nan),
        "memory": np.where(busy, now.memory_ratio, np.nan),
        "heat_margin_k": np.where(
            np.isnan(now.heat_margin_k), now.slowdown_temp_c[:, None] - now.device_temp_c, now.heat_margin_k
        ),
        "residual": residual,
        "frozen": _frozen(now, frozen_intervals),
    }


def unknown(now: Intervals, figures: dict[str, Floats]) -> dict[str, NDArray[np.bool_]]:
    """Return where a figure would matter and is not known; clocks at rest do not matter."""
    relevant = now.load_ratio >= BUSY
    needs_load = {"of_cap", "clock", "memory"}
    return {
        name: np.isnan(value) & (relevant | np.isnan(now.load_ratio) if name in needs_load else True)
        for name, value in figures.items()
    }


def usual_power(load_ratio: Floats, history: Intervals) -> Floats:
    """Return the median power of the device in the load's bin over its history, W; NaN below MIN_HISTORY intervals."""
    usual = np.full(load_ratio.shape, np.nan)
    past, at = np.digitize(history.load_ratio, LOAD_BINS), np.digitize(load_ratio, LOAD_BINS)
    known = np.isfinite(history.load_ratio) & np.isfinite(history.power_w)
    for number in range(len(LOAD_BINS) + 1):
        inside = known & (past == number)
        enough = inside.sum(axis=1) >= MIN_HISTORY
        median = np.full(len(load_ratio), np.nan)
        if enough.any():
            median[enough] = np.nanmedian(np.where(inside, history.power_w, np.nan)[enough], axis=1)
        usual = np.where((at == number) & np.isfinite(load_ratio), median[:, None], usual)
    return usual


def highest_clock(history: Intervals) -> Floats:
    """Return the 95th percentile of the clock under load, Hz, (devices,); NaN below MIN_HISTORY intervals."""
    busy = np.where(history.load_ratio >= BUSY, history.clock_hz, np.nan)
    enough = np.isfinite(busy).sum(axis=1) >= MIN_HISTORY
    found = np.full(len(busy), np.nan)
    if enough.any():
        found[enough] = np.nanquantile(busy[enough], 0.95, axis=1)
    return found


def _frozen(now: Intervals, intervals: int) -> Floats:
    """Return log2 of the load's range over the power's relative range, over the last intervals; NaN at still load."""

    def spread(values: Floats) -> Floats:
        padded = np.concatenate([np.full((len(values), intervals - 1), np.nan), values], axis=1)
        windows = sliding_window_view(padded, intervals, axis=1)
        return np.asarray(windows.max(axis=2) - windows.min(axis=2))

    load, power = spread(now.load_ratio), spread(now.power_w)
    with np.errstate(invalid="ignore", divide="ignore"):
        octaves = np.log2((load + 1e-3) / (power / now.power_w + 1e-3))
    return np.where(load > 0.1, octaves, np.nan)


STATES: Final = PERFORMANCE_STATES
PRIOR: Final = dict(zip(STATES, (0.80, 0.06, 0.04, 0.02, 0.03, 0.03, 0.02), strict=True))
# Centre and width of a figure in a state (student-t of 4 degrees: an outlier decides nothing alone); a state that says
# nothing about a figure shares the first, wide one. Under a cap a device runs at 97 to 100 % of it; boards slow down in
# the last kelvins before their limit; memory-bound kernels draw some 30 % less at full utilisation and clock.
LIKELIHOOD: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "load": {"": (0.6, 0.4), "idle_but_drawing": (0.03, 0.03), "memory_bound": (0.9, 0.1), "power_capped": (0.9, 0.15),
             "thermally_throttled": (0.85, 0.2), "degraded": (0.8, 0.2)},
    "of_cap": {"": (0.70, 0.20), "power_capped": (0.985, 0.015), "memory_bound": (0.60, 0.12),
               "thermally_throttled": (0.75, 0.15), "degraded": (0.60, 0.15)},
    "clock": {"": (0.97, 0.03), "power_capped": (0.82, 0.14), "thermally_throttled": (0.75, 0.12),
              "memory_bound": (0.98, 0.03), "degraded": (0.72, 0.10), "failing_sensor": (0.97, 0.05)},
    "memory": {"": (0.45, 0.25), "memory_bound": (0.85, 0.10)},
    "heat_margin_k": {"": (25.0, 10.0), "thermally_throttled": (1.0, 2.0), "power_capped": (18.0, 8.0),
                      "idle_but_drawing": (40.0, 12.0)},
    "residual": {"": (0.0, 0.08), "power_capped": (-0.15, 0.25), "memory_bound": (-0.30, 0.12),
                 "thermally_throttled": (-0.30, 0.20), "idle_but_drawing": (0.60, 0.30), "degraded": (-0.35, 0.20),
                 "failing_sensor": (0.0, 0.60)},
    "frozen": {"": (0.5, 1.0), "failing_sensor": (7.0, 2.0)},
}  # fmt: skip
# Fitted on generated cases by log loss, see docs/states.md.
TEMPERATURE: Final = 0.15
STAY: Final = 0.95
NO_LIMIT: Final = -30.0
NEEDED: Final = {"power_capped": ("of_cap",), "memory_bound": ("clock", "memory")}
# A limit is a cap where it lies by more than what limits are rounded by below what the device was built for.
_CAP_RATIO: Final = 0.98
HOLD_MARGIN: Final = 0.2
_T_DEGREES: Final = 4.0


def log_terms(figures: dict[str, Floats]) -> dict[str, Floats]:
    """Log likelihood of each figure in each state, (states, devices, intervals); 0 where the figure is unknown."""
    found = {}
    for name in EVIDENCE:
        centres = LIKELIHOOD[name]
        value = figures[name]
        terms = np.zeros((len(STATES), *value.shape))
        for number, state in enumerate(STATES):
            centre, width = centres.get(state, centres[""])
            off = (value - centre) / width
            terms[number] = -(_T_DEGREES + 1) / 2 * np.log1p(off**2 / _T_DEGREES) - np.log(width)
        found[name] = np.where(np.isnan(value), 0.0, terms)
    # Nothing else than these figures tells the state from other reasons to draw less: without them it is not said.
    for state, names in NEEDED.items():
        for name in names:
            found[name][STATES.index(state)][np.isnan(figures[name])] = NO_LIMIT
    return found


def probabilities(figures: dict[str, Floats], temperature: float = TEMPERATURE) -> Floats:
    """Return probabilities (states, devices, intervals), in order of time; they sum to 1."""
    terms = log_terms(figures)
    total = temperature * np.sum(list(terms.values()), axis=0)
    prior = np.array([PRIOR[state] for state in STATES])[:, None]
    found = np.empty_like(total)
    before = np.broadcast_to(prior, total.shape[:2])
    for at in range(total.shape[2]):
        # What was believed, with a chance to have changed: the wait before a state flips.
        carried = STAY * before + (1 - STAY) * prior
        joint = np.log(carried) + total[:, :, at]
        joint = np.exp(joint - joint.max(axis=0))
        before = joint / joint.sum(axis=0)
        found[:, :, at] = before
    return np.asarray(found)


def with_hysteresis(chances: Floats) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the likeliest state's index (devices, intervals); the last one stays if it trails by < HOLD_MARGIN."""
    best = chances.argmax(axis=0)
    states = np.empty(best.shape, dtype=np.int64)
    rows = np.arange(best.shape[0])
    for at in range(best.shape[1]):
        new = best[:, at]
        if at:
            last = states[:, at - 1]
            lead = chances[new, rows, at] - chances[last, rows, at]
            new = np.where(lead < HOLD_MARGIN, last, new)
        states[:, at] = new
    return states


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
    "slowdown_margin_k",
)  # fmt: skip
_SHOWN: Final = 3
_NO_CAP: Final = "it runs at its power limit, and no higher one is known: nothing to raise"


def state_rows(
    intervals: pl.DataFrame,
    history: pl.DataFrame,
    *,
    frozen_intervals: int = FROZEN_INTERVALS,
    newest_only: bool = False,
) -> pl.DataFrame:
    """Return a row of gold/state for each row of silver/interval (one interval length), by the `history` before it.

    Load is GPU utilisation, else CPU utilisation; memory in use of a node is no activity of memory and says nothing.
    `slowdown_temp_c` and `slowdown_margin_k`, where the frame has them, go before the common limit. A cap is to be
    raised only where it lies below `rated_power_w`, where the frame has it, or below a limit that the device has
    reported before. A row of which no figure is known has no state. `frozen_intervals` make an hour; `newest_only`
    gives the last row of each device, judged by all before it. Raises ValueError where a device has an interval twice.
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
    states = with_hysteresis(chances)
    if newest_only:
        last = np.flatnonzero(frame.select(pl.struct(*KEY).is_last_distinct()).to_series().to_numpy())
        frame, places = frame[last], (places[0][last], places[1][last])
    at = tuple(places)
    missing = unknown(now, figures)
    blind = np.all([np.isnan(figures[name])[at] for name in EVIDENCE], axis=0)
    cells = _words(figures, chances, states, at, missing, blind, is_capped(now, past)[at])
    found = frame.select("date", "interval_start", *KEY).with_columns(
        *(
            pl.Series(f"{state}_probability_ratio", np.where(blind, np.nan, chances[number][at])).fill_nan(
                None
            )
            for number, state in enumerate(STATES)
        ),
        *(pl.Series(name, values) for name, values in cells.items()),
    )
    return found


def is_capped(now: Intervals, history: Intervals) -> NDArray[np.bool_]:
    """Return where the limit in force lies below the rated power, or below a limit that the device has reported."""
    known = [now.power_limit_w, history.power_limit_w, now.rated_power_w[:, None]]
    highest = np.nan_to_num(np.concatenate(known, axis=1)).max(axis=1)
    return np.asarray(now.power_limit_w < _CAP_RATIO * highest[:, None])


def _with_load(frame: pl.DataFrame) -> pl.DataFrame:
    def known(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.Float64) if name in frame.columns else pl.lit(None, pl.Float64)

    is_board = pl.col("device_id") != "node"
    return frame.with_columns(
        pl.coalesce("gpu_utilisation_ratio", "cpu_utilisation_ratio").alias("load_ratio"),
        # What a device has said once holds for all its intervals.
        known("slowdown_temp_c").max().over(KEY).fill_null(SLOWDOWN_TEMP_C).alias("_limit_c"),
        known("slowdown_margin_k").alias("slowdown_margin_k"),
        known("rated_power_w").fill_null(float("nan")).alias("_rated_w"),
        pl.when(is_board).then("memory_utilisation_ratio").alias("memory_utilisation_ratio"),
    )


def _grid(
    frame: pl.DataFrame, names: pl.DataFrame
) -> tuple[Intervals, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the frame as arrays (devices, instants) on the instants that it has, and where its rows lie."""
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
    limit, rated = np.full(names.height, SLOWDOWN_TEMP_C), np.full(names.height, np.nan)
    limit[place[0]], rated[place[0]] = rows["_limit_c"].to_numpy(), rows["_rated_w"].to_numpy()
    power, cap, load, memory, clock, temp, margin = arrays
    return Intervals(power, cap, load, memory, clock, temp, margin, limit, rated), place


def _words(
    figures: dict[str, Floats], chances: Floats, states: NDArray[np.int64],
    at: tuple[NDArray[np.int64], ...], missing: dict[str, NDArray[np.bool_]], blind: NDArray[np.bool_],
    capped: NDArray[np.bool_],
) -> dict[str, pa.Array]:  # fmt: skip
    terms = log_terms(figures)
    chosen, place = states[at], np.arange(len(at[0]))
    # How much each figure favours the state over normal; of normal, over the best of the others.
    weights = []
    for name in EVIDENCE:
        cell = terms[name][:, at[0], at[1]]
        other = np.where(chosen == 0, cell[1:].max(axis=0), cell[0])
        weights.append(cell[chosen, place] - other)
    favours = np.stack(weights)
    order = np.argsort(-favours, axis=0, kind="stable")[:_SHOWN]
    leading = (np.take_along_axis(favours, order, 0).T > 0) & ~blind[:, None]
    chance = chances[chosen, at[0], at[1]]
    sure = chance >= SURE
    adjustments = [ADJUSTMENT[name][0] for name in STATES]
    no_cap = sure & ~blind & (chosen == STATES.index("power_capped")) & ~capped
    return {
        "performance_state": _named(STATES, chosen, blind),
        "adjustment": _named(["none", *adjustments], np.where(sure & ~blind & ~no_cap, chosen + 1, 0)),
        "adjustment_reason": _reasons(chosen, chance, sure, blind, no_cap),
        "evidence": _lists(leading, _figures_told(figures, at, order.T[leading], np.nonzero(leading)[0])),
        "unknown_inputs": _unknown_inputs(np.stack([missing[name][at] for name in EVIDENCE], axis=1)),
    }


def _named(
    names: Sequence[str], codes: NDArray[np.int64], unknown: NDArray[np.bool_] | None = None
) -> pa.StringArray:
    return pa.array(names, pa.string()).take(pa.array(codes, mask=unknown))


def _reasons(
    chosen: NDArray[np.int64], chance: Floats, sure: NDArray[np.bool_], blind: NDArray[np.bool_],
    no_cap: NDArray[np.bool_],
) -> pa.StringArray:  # fmt: skip
    """Each text is made once: one a state, one a state and percent of a chance, one of no cap and one for the blind."""
    percent = np.where(sure | blind, 0, np.rint(100 * chance)).astype(np.int64)
    unsure = [f"{name} is likeliest at {one}%: too unsure to act" for name in STATES for one in range(101)]
    texts = [*unsure, *(ADJUSTMENT[name][1] for name in STATES), _NO_CAP, "nothing is known of this interval"]
    code = np.where(sure, len(unsure) + chosen, 101 * chosen + percent)
    code = np.where(no_cap, len(texts) - 2, code)
    return _named(texts, np.where(blind, len(texts) - 1, code))


def _figures_told(
    figures: dict[str, Floats],
    at: tuple[NDArray[np.int64], ...],
    which: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> pa.StringArray:
    """Return the name and value of the figure `which` (of EVIDENCE) of each of `rows`; equal ones are made once."""
    texts: list[str] = []
    codes = np.zeros(len(which), np.int64)
    for number, name in enumerate(EVIDENCE):
        own = which == number
        # Added, 0.0 makes one text of -0.0 and 0.0.
        values, of_own = np.unique(figures[name][at][rows[own]] + 0.0, return_inverse=True)
        codes[own] = of_own + len(texts)
        texts += [f"{name} {value:.2f}" for value in values.tolist()]
    return _named(texts, codes)


def _unknown_inputs(lacks: NDArray[np.bool_]) -> pa.ListArray:
    return _lists(lacks, _named(EVIDENCE, np.nonzero(lacks)[1]))


def _lists(chosen: NDArray[np.bool_], words: pa.StringArray) -> pa.ListArray:
    """Return the words as a list a row, as many in each as are `chosen` in it."""
    ends = np.cumsum(chosen.sum(axis=1), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), words)
