"""Two power series of one node over one day: ratio, offset, lag, and where one stands still.

Arrays are NumPy, one element an interval of the day, NaN where the source was silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from lepton_etl.energy.integrate import Bools, Floats

# An hour of intervals of 300 s: below it nothing is said.
LEAST_SAMPLES: Final = 12
# What moves by less than this share of its median, or by less than 20 W, may leave another sensor's last digit alone.
MOVES_RATIO: Final = 0.25
MOVES_W: Final = 20.0
LAST_DIGITS: Final = 1e-9
CLEAR_CORRELATION: Final = 0.8
CLEARER_BY: Final = 0.1


@dataclass(frozen=True, slots=True)
class Pair:
    """A source `x` against another `y`: what was measured.

    ratio: median of x / y; spread: its interquartile range over it. offset_w: median of x - y. lag: by how many
    intervals x moves later, None where too little moves. still: where x stands still while y moves.
    """

    samples: int
    ratio: float
    spread: float
    offset_w: float
    lag: int | None
    still: Bools


def pair_of(x: Floats, y: Floats, longest_lag: int) -> Pair | None:
    """`x` against `y`, lags of up to `longest_lag` intervals tried; None where too few intervals know both."""
    common = np.isfinite(x) & np.isfinite(y) & (y > 0)
    samples = int(common.sum())
    if samples < LEAST_SAMPLES:
        return None
    ratios = x[common] / y[common]
    low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return Pair(
        samples,
        float(ratio),
        float((high - low) / ratio) if ratio > 0 else float("inf"),
        float(np.median(x[common] - y[common])),
        best_lag(x, y, longest_lag),
        stands_still(x, y),
    )


def stands_still(x: Floats, y: Floats) -> Bools:
    """Where `x` shows one value for at least LEAST_SAMPLES intervals in which `y` moves."""
    still = np.zeros(len(x), dtype=np.bool_)
    # Means of one value differ in the last digit with the seconds that they are over.
    same = np.abs(np.diff(x)) <= LAST_DIGITS * np.abs(x[1:])
    changes = np.flatnonzero(np.r_[True, ~same, True])
    for start, end in pairwise(changes.tolist()):
        if end - start >= LEAST_SAMPLES and _moves(y[start:end]):
            still[start:end] = True
    return still


def _moves(y: Floats) -> bool:
    known = y[np.isfinite(y)]
    if len(known) < LEAST_SAMPLES:
        return False
    # Single readings do not make a movement.
    low, middle, high = np.quantile(known, (0.1, 0.5, 0.9))
    return bool(high - low > max(MOVES_W, MOVES_RATIO * middle))


def best_lag(x: Floats, y: Floats, longest: int) -> int | None:
    """By how many intervals `x` moves later than `y`: where their correlation is highest; None where that is not clear.

    A lag other than 0 needs a correlation above CLEAR_CORRELATION that is CLEARER_BY above that of no lag.
    """
    if not (_moves(x) and _moves(y)):
        return None
    now = _correlation(x, y, 0)
    # Nothing is clearer than 1: two clocks that agree, as nearly all do, need no further lag.
    if now >= 1 - CLEARER_BY:
        return 0
    lags = range(-longest, longest + 1)
    correlations = np.asarray([_correlation(x, y, lag) for lag in lags])
    best = int(np.argmax(correlations))
    if correlations[best] < CLEAR_CORRELATION:
        return None
    return lags[best] if correlations[best] - now > CLEARER_BY else 0


def _correlation(x: Floats, y: Floats, lag: int) -> float:
    """Pearson's correlation of x[i + lag] and y[i] over the intervals that both know; -1 where too few do."""
    late, early = (x[lag:], y[: len(y) - lag]) if lag >= 0 else (x[:lag], y[-lag:])
    common = np.isfinite(late) & np.isfinite(early)
    if common.sum() < 2 * LEAST_SAMPLES:
        return -1.0
    a, b = late[common] - late[common].mean(), early[common] - early[common].mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else -1.0
