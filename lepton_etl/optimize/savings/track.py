"""How good the promises were: hit rate and calibration over recommendations that were graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_etl.confidence import CONFIDENCE


@dataclass(frozen=True, slots=True)
class Promise:
    """One graded recommendation, kWh over its reporting period; bounds of the promise at 90 %."""

    expected_kwh: float
    lower_kwh: float
    upper_kwh: float
    realised_kwh: float


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """Ratios are None where nothing was graded or, for the realisation, nothing promised.

    The range is what so few recommendations leave open of the hit rate (Clopper-Pearson, 90 %).
    """

    graded: int
    hit_ratio: float | None
    hit_lower_ratio: float | None
    hit_upper_ratio: float | None
    below_ratio: float | None
    above_ratio: float | None
    realisation_ratio: float | None
    """Sum of realised over sum of expected savings: 1 is calibrated, below 1 promised too much."""
    calibrated: bool | None
    """Whether the stated confidence lies within the hit rate's range."""


def track_record(promises: Sequence[Promise], confidence: float = CONFIDENCE) -> TrackRecord:
    """Over graded recommendations; those without an interval or a grade are not to be given.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404.
    """
    from scipy.stats import beta

    count = len(promises)
    if not count:
        return TrackRecord(0, *(None,) * 7)
    below = sum(p.realised_kwh < p.lower_kwh for p in promises)
    above = sum(p.realised_kwh > p.upper_kwh for p in promises)
    hits = count - below - above
    tail = (1.0 - CONFIDENCE) / 2
    lower = float(beta.ppf(tail, hits, count - hits + 1)) if hits else 0.0
    upper = float(beta.ppf(1.0 - tail, hits + 1, count - hits)) if hits < count else 1.0
    expected = sum(p.expected_kwh for p in promises)
    return TrackRecord(
        count, hits / count, lower, upper, below / count, above / count,
        sum(p.realised_kwh for p in promises) / expected if expected > 0 else None,
        lower <= confidence <= upper,
    )  # fmt: skip
