"""What an interval says about its device: seven figures, each NaN where it is unknown or says nothing.

Arrays (devices, intervals). Figures are relative to the device's own limit and its own recent past, so that none is
fitted to a make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Above this load a device ought to clock up, and its clock, cap and memory say something; below IDLE it rests.
BUSY: Final = 0.5
IDLE: Final = 0.1
# GPUs slow down by hardware between 83 and 95 degC; a device's own limit goes before this.
SLOWDOWN_TEMP_C: Final = 88.0
FROZEN_INTERVALS: Final = 12
LOAD_BINS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
MIN_HISTORY: Final = 24
EVIDENCE: Final = ("load", "of_cap", "clock", "memory", "heat_margin_k", "residual", "frozen")


@dataclass(frozen=True, slots=True)
class Intervals:
    """Figures of silver/interval, (devices, intervals), NaN unknown; `slowdown_temp_c` (devices,)."""

    power_w: Floats
    power_limit_w: Floats
    load_ratio: Floats
    memory_ratio: Floats
    clock_hz: Floats
    device_temp_c: Floats
    slowdown_temp_c: Floats


def evidence(
    now: Intervals, history: Intervals, frozen_intervals: int = FROZEN_INTERVALS
) -> dict[str, Floats]:
    """The figures of EVIDENCE for `now`, judged by `history` of the same devices (ended before).

    load: utilisation. of_cap: power over limit, under load. clock: over the highest the device has held under load
    (95th percentile). memory: in use, under load. heat_margin_k: slow-down temperature less the device's. residual:
    log of power over the median at that load in the history. frozen: octaves by which the load's swing over the last
    hour, of `frozen_intervals`, exceeds the power's. `residual` and `clock` are unknown below MIN_HISTORY intervals.
    """
    busy = now.load_ratio >= BUSY
    with np.errstate(invalid="ignore", divide="ignore"):
        of_cap = now.power_w / now.power_limit_w
        residual = np.log(np.maximum(now.power_w, 1e-3) / usual_power(now.load_ratio, history))
        clock = now.clock_hz / held_clock(history)[:, None]
    return {
        "load": now.load_ratio,
        "of_cap": np.where(busy, of_cap, np.nan),
        "clock": np.where(busy, clock, np.nan),
        "memory": np.where(busy, now.memory_ratio, np.nan),
        "heat_margin_k": now.slowdown_temp_c[:, None] - now.device_temp_c,
        "residual": residual,
        "frozen": _frozen(now, frozen_intervals),
    }


def unknown(now: Intervals, figures: dict[str, Floats]) -> dict[str, NDArray[np.bool_]]:
    """Where a figure would have said something and is not known; clocks at rest say nothing and are not missed."""
    relevant = now.load_ratio >= BUSY
    needs_load = {"of_cap", "clock", "memory"}
    return {
        name: np.isnan(value) & (relevant | np.isnan(now.load_ratio) if name in needs_load else True)
        for name, value in figures.items()
    }


def usual_power(load_ratio: Floats, history: Intervals) -> Floats:
    """Median power of the device in the load's bin over its history, W; NaN below MIN_HISTORY intervals."""
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


def held_clock(history: Intervals) -> Floats:
    """95th percentile of the clock under load, Hz, (devices,); NaN below MIN_HISTORY intervals."""
    busy = np.where(history.load_ratio >= BUSY, history.clock_hz, np.nan)
    enough = np.isfinite(busy).sum(axis=1) >= MIN_HISTORY
    found = np.full(len(busy), np.nan)
    if enough.any():
        found[enough] = np.nanquantile(busy[enough], 0.95, axis=1)
    return found


def _frozen(now: Intervals, intervals: int) -> Floats:
    """log2 of the load's range over the power's relative range, of the last intervals; NaN where load is still."""

    def spread(values: Floats) -> Floats:
        padded = np.concatenate([np.full((len(values), intervals - 1), np.nan), values], axis=1)
        windows = sliding_window_view(padded, intervals, axis=1)
        return np.asarray(windows.max(axis=2) - windows.min(axis=2))

    load, power = spread(now.load_ratio), spread(now.power_w)
    with np.errstate(invalid="ignore", divide="ignore"):
        octaves = np.log2((load + 1e-3) / (power / now.power_w + 1e-3))
    return np.where(load > 0.1, octaves, np.nan)
