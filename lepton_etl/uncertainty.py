"""How sure every interval of this system is: two-sided, 90 %; estimates, and their widths by conformal prediction.

Also how far a model of energy is off, by ASHRAE Guideline 14 with p = 1; the sign is measured minus predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

CONFIDENCE: Final = 0.9
# Two-sided: 5 % of a normal error lie above +1.645 sigma and 5 % below -1.645 sigma.
Z: Final = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
# The same of one error that lies evenly within a limit of sqrt(3) sigma: it ends at 0.9 of the limit.
Z_EVEN: Final = CONFIDENCE * sqrt(3)
# Of a meter whose class nobody states, percent: the widest class of static meters, and the limit of a rack PDU.
# Source: IEC 62053-21 (class 2); docs/formulas.md, conversion losses and meters by class.
UNSTATED_CLASS_PCT: Final = 2.0
UNSTATED_PDU_PCT: Final = 3.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with the ends of its 90 % interval, all in one unit; the unit is named where the estimate stands."""

    value: float
    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not self.lower <= self.value <= self.upper:
            raise ValueError(f"{self.value:g} lies outside {self.lower:g} to {self.upper:g}")

    def __add__(self, other: Estimate) -> Estimate:
        """Return the sum of two figures whose errors go together: their ends add."""
        return Estimate(self.value + other.value, self.lower + other.lower, self.upper + other.upper)

    def times(self, factor: float) -> Estimate:
        """Return the estimate in another unit, or of a share of it; a negative factor exchanges the ends."""
        ends = sorted((self.lower * factor, self.upper * factor))
        return Estimate(self.value * factor, ends[0], ends[1])

    def by(self, other: Estimate) -> Estimate:
        """Return the product with another figure: its ends are the least and the most that ends of both can make."""
        ends = [x * y for x in (self.lower, self.upper) for y in (other.lower, other.upper)]
        value = self.value * other.value
        return Estimate(value, min(*ends, value), max(*ends, value))


def conformal_rank(count: int, level: float) -> int:
    """Return which of `count` sorted residuals, counted from 1, bounds a new one with probability `level`.

    Above `count` where there are too few to say. Source: split-conformal quantile ceil((n + 1) level) / n, Lei et al.,
    JASA 113 (2018) 1094.
    """
    # (n + 1) x level may be a whole number but for its last bit.
    return ceil((count + 1) * level - 1e-9)


def conformal_quantile(scores: npt.NDArray[np.float64], level: float = CONFIDENCE) -> float:
    """Return the score (n,) of the conformal rank; infinite where there are too few to say."""
    rank = conformal_rank(len(scores), level)
    if rank > len(scores):
        return float("inf")
    return float(np.partition(scores, rank - 1)[rank - 1])


def conformal_ends(
    residuals: npt.NDArray[np.float64], level: float = CONFIDENCE, least_count: int = 1
) -> tuple[float, float]:
    """Return what to add to a prediction for an interval that holds `level` of these residuals (true - predicted).

    Each side leaves out half of the rest. NaN residuals do not count; below `least_count` of them, or where they are
    too few for the rank, both ends are NaN. Source: Romano, Patterson and Candes, NeurIPS 32 (2019), asymmetric form.
    """
    known = np.sort(residuals[np.isfinite(residuals)])
    count = len(known)
    rank = conformal_rank(count, 0.5 + level / 2)
    if count < least_count or rank > count:
        return float("nan"), float("nan")
    return float(known[count - rank]), float(known[rank - 1])


def cv_rmse(measured_kwh: npt.NDArray[np.float64], predicted_kwh: npt.NDArray[np.float64]) -> float | None:
    """sqrt(sum (m - p)^2 / (n - 1)) / mean(m) of arrays (n,); None for fewer than two hours or no energy."""
    count, total = len(measured_kwh), float(measured_kwh.sum())
    if count < 2 or total <= 0:
        return None
    return float(np.sqrt(((measured_kwh - predicted_kwh) ** 2).sum() / (count - 1))) / (total / count)


def nmbe(measured_kwh: npt.NDArray[np.float64], predicted_kwh: npt.NDArray[np.float64]) -> float | None:
    """sum (m - p) / ((n - 1) mean(m)) of arrays (n,); None for fewer than two hours or no energy."""
    count, total = len(measured_kwh), float(measured_kwh.sum())
    if count < 2 or total <= 0:
        return None
    return float((measured_kwh - predicted_kwh).sum()) / ((count - 1) * (total / count))


def uncalibrated(
    cv_rmse_ratio: float, nmbe_ratio: float, cv_max_ratio: float, nmbe_max_ratio: float
) -> list[str]:
    """Return the bounds of Guideline 14 that a model misses, in words; empty where it keeps both."""
    missed = []
    if cv_rmse_ratio > cv_max_ratio:
        missed.append(f"CV(RMSE) {cv_rmse_ratio:.1%} above {cv_max_ratio:.0%}")
    if abs(nmbe_ratio) > nmbe_max_ratio:
        missed.append(f"NMBE {nmbe_ratio:+.1%} outside {nmbe_max_ratio:.0%}")
    return missed
