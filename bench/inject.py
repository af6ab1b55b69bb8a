"""Faults of stated size put into a series of hourly energy; the detector knows nothing of this module.

Each takes (n,) kWh, its stretch [start, end) and, where it matters, load and rated energy; none changes its input.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STUCK_H: Final = 6
DRIFT_PER_WEEK: Final = 0.10
DRIFT_DAYS: Final = 14
SCALE: Final = 1.15
SCALE_DAYS: Final = 7
STEP: Final = 1.20
STEP_H: Final = 12
IDLE_DRAW_OF_RATED: Final = 0.20
IDLE_H: Final = 8
RACK: Final = 1.08
RACK_H: Final = 24


def stuck(energy_kwh: Floats, start: int) -> Floats:
    """The sensor repeats the last reading before `start` for STUCK_H hours."""
    out = energy_kwh.copy()
    out[start : start + STUCK_H] = energy_kwh[start - 1]
    return out


def drift(energy_kwh: Floats, start: int) -> Floats:
    """Gain that rises by DRIFT_PER_WEEK a week over DRIFT_DAYS days, and stays."""
    weeks = np.clip((np.arange(len(energy_kwh)) - start) / 168.0, 0.0, DRIFT_DAYS / 7)
    return np.asarray(energy_kwh * (1 + DRIFT_PER_WEEK * weeks))


def times(energy_kwh: Floats, start: int, hours: int, factor: float) -> Floats:
    """All readings of a stretch times a factor: scale error, step, or a whole rack."""
    out = energy_kwh.copy()
    out[start : start + hours] *= factor
    return out


def idle_draw(energy_kwh: Floats, start: int, rated_kwh: float) -> Floats:
    """A constant load that no utilisation shows, over IDLE_H hours."""
    out = energy_kwh.copy()
    out[start : start + IDLE_H] += IDLE_DRAW_OF_RATED * rated_kwh
    return out
