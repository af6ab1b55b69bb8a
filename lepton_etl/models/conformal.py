"""How wide a prediction's interval must be: split-conformal quantiles of what a model missed on hours it had not seen.

Source: Vovk et al., Algorithmic Learning in a Random World (2005); Lei et al., JASA 113 (2018) 1094.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

import numpy as np

from lepton_etl.confidence import CONFIDENCE, conformal_rank
from lepton_etl.models.metrics import Values

# What the share of hours inside may miss the stated one by.
TOLERANCE_RATIO: Final = 0.02
# Hours of one day resemble each other: fewer days say nothing of coverage.
MIN_DAYS: Final = 10


def half_width(residuals: Values, confidence: float = CONFIDENCE) -> float:
    """The ceil((n + 1) confidence)-th smallest |residual|; infinite where n is too small to say. Any unit, (n,)."""
    rank = conformal_rank(len(residuals), confidence)
    if rank > len(residuals):
        return float("inf")
    return float(np.partition(np.abs(residuals), rank - 1)[rank - 1])


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of `rows` hours inside their interval, over `days`; the range is what such days leave open (90 %)."""

    rows: int
    days: int
    inside_ratio: float
    lower_ratio: float
    upper_ratio: float

    def misses(self, confidence: float = CONFIDENCE) -> bool:
        """Whether coverage lies more than the tolerance from what is stated, beyond the chance of the days."""
        if self.days < MIN_DAYS:
            return False
        return (
            self.upper_ratio < confidence - TOLERANCE_RATIO or self.lower_ratio > confidence + TOLERANCE_RATIO
        )


def coverage(
    measured: Values, predicted: Values, half_widths: Values | float, days: Sequence[Any]
) -> Coverage | None:
    """How often |measured - predicted| is within; arrays of shape (n,), `days` the day of each. None for no rows.

    The range is Student's over the days' shares: an hour's neighbours are no further evidence.
    """
    from scipy.stats import t

    count = len(measured)
    if count == 0:
        return None
    inside = (np.abs(measured - predicted) <= half_widths).astype(np.float64)
    names, whose = np.unique(np.asarray(days).astype(str), return_inverse=True)
    shares = np.bincount(whose, inside) / np.bincount(whose)
    ratio, number = float(inside.mean()), len(names)
    if number < 2:
        return Coverage(count, number, ratio, 0.0, 1.0)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, number - 1)) * float(shares.std(ddof=1)) / sqrt(number)
    return Coverage(count, number, ratio, max(0.0, ratio - half), min(1.0, ratio + half))
