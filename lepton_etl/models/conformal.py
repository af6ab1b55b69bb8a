"""How wide a prediction's interval must be: split-conformal quantiles of what a model missed on hours it had not seen.

Source: Vovk et al., Algorithmic Learning in a Random World (2005); Lei et al., JASA 113 (2018) 1094.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np

from lepton_etl.confidence import CONFIDENCE, Z
from lepton_etl.models.metrics import Values

# What the share of hours inside may miss the stated one by. Source: the conformal interval's acceptance, 2 points.
TOLERANCE_RATIO: Final = 0.02


def half_width(residuals: Values, confidence: float = CONFIDENCE) -> float:
    """The ceil((n + 1) confidence)-th smallest |residual|; infinite where n is too small to say. Any unit, (n,)."""
    rank = ceil((len(residuals) + 1) * confidence)
    if rank > len(residuals):
        return float("inf")
    return float(np.partition(np.abs(residuals), rank - 1)[rank - 1])


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of `rows` hours inside their interval, and the range that chance leaves it in (90 %, Wilson)."""

    rows: int
    inside_ratio: float
    lower_ratio: float
    upper_ratio: float

    def misses(self, confidence: float = CONFIDENCE) -> bool:
        """Whether coverage lies more than the tolerance from what is stated, beyond chance."""
        return (
            self.upper_ratio < confidence - TOLERANCE_RATIO or self.lower_ratio > confidence + TOLERANCE_RATIO
        )


def coverage(measured: Values, predicted: Values, half_widths: Values | float) -> Coverage | None:
    """How often |measured - predicted| is within; arrays of shape (n,), None for no rows.

    Source of the range: Wilson, JASA 22 (1927) 209. Hours of one node resemble each other, so it is too narrow
    rather than too wide: a miss may be chance where hours are few.
    """
    count = len(measured)
    if count == 0:
        return None
    ratio = float((np.abs(measured - predicted) <= half_widths).mean())
    middle = (ratio + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(ratio * (1 - ratio) / count + Z**2 / (4 * count**2))
    return Coverage(count, ratio, float(middle - half), float(middle + half))
