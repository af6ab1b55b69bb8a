"""Whether the hours of a site can tell its cooling ratio and its management load apart, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.facility.hours import PlantHours

# Above it a thousandth of noise in the hours moves single coefficients by a tenth.
LARGEST_CONDITION: Final = 100.0
SMALLEST_SPAN_K: Final = 3.0
SMALLEST_VARIATION: Final = 0.02


@dataclass(frozen=True, slots=True)
class Identified:
    """What the drivers of the fit's hours span; `reasons` empty: the parameters are identifiable."""

    condition: float
    wet_bulb_p05_c: float
    wet_bulb_p95_c: float
    it_variation_ratio: float
    reasons: tuple[str, ...]


def identified(hours: PlantHours, condition: float) -> Identified:
    """Judge the usable hours of a fit; `condition` is that of its scaled design."""
    low_c, high_c = np.quantile(hours.wet_bulb_c, [0.05, 0.95])
    variation = float(hours.it_kwh.std() / hours.it_kwh.mean())
    reasons = []
    if not hours.is_sub_metered:
        reasons.append("only a total is metered: cooling ratio and management load are one overhead")
    if condition > LARGEST_CONDITION:
        reasons.append(f"condition number {condition:.0f} above {LARGEST_CONDITION:.0f}")
    if high_c - low_c < SMALLEST_SPAN_K:
        reasons.append(f"wet bulb spans {high_c - low_c:.1f} K, {SMALLEST_SPAN_K:g} K needed")
    if variation < SMALLEST_VARIATION:
        reasons.append(f"IT energy varies by {variation:.1%}, {SMALLEST_VARIATION:.0%} needed")
    return Identified(condition, float(low_c), float(high_c), variation, tuple(reasons))
