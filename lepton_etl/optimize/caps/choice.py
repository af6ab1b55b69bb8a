"""A chosen cap with what it promises, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

import numpy as np

from lepton_etl.confidence import CONFIDENCE, conformal_rank
from lepton_etl.optimize.caps.curves import Floats

Basis = Literal["blind", "probed"]

HARDWARE_UNSEEN: Final = "hardware class never logged under a cap"
TOO_FEW_NETWORKS: Final = "too few other networks logged under caps"
TOO_FEW_WORKLOADS: Final = "too few other workloads for the guard to hold its share of violations"
OUTSIDE_SUPPORT: Final = "mean power under the default limit outside that of the other networks"
NO_SAFE_CAP: Final = "no measured cap that saves energy for sure and keeps the slowdown within its bound"
NO_GUARD: Final = "the guard cannot hold its share of violations on the other networks"
NOT_PROBED: Final = "no cap probed"


@dataclass(frozen=True, slots=True)
class CapSettings:
    """What a choice must keep. All ratios."""

    slowdown_max_ratio: float = 0.05
    violations_max_ratio: float = 0.03
    confidence: float = CONFIDENCE
    min_networks: int = 3
    probes_max: int = 3
    probe_time_error_ratio: float = 0.0
    """Error (1 sigma) of a probe's time per unit of work; a probe must keep the bound with room for it."""

    def __post_init__(self) -> None:
        if not (self.slowdown_max_ratio >= 0 and 0 < self.violations_max_ratio < 1 > self.confidence > 0):
            raise ValueError("caps: bounds must be ratios, the slowdown's not negative")
        if self.probe_time_error_ratio < 0:
            raise ValueError("caps: an error is not negative")
        if self.min_networks < 3 or self.probes_max < 1:
            raise ValueError("caps: at least 3 other networks and 1 probe")

    @property
    def probed_slowdown_max_ratio(self) -> float:
        """What a probe may read for its true slowdown to keep the bound at the confidence, one-sided."""
        return self.slowdown_max_ratio - NormalDist().inv_cdf(self.confidence) * self.probe_time_error_ratio


@dataclass(frozen=True, slots=True)
class Range:
    """A figure with the limits of its interval at the settings' confidence; limits are None where unknown."""

    expected: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True)
class CapChoice:
    """`power_limit_w` is None where no cap is chosen, and `reason` says why; ratios are against the default limit.

    For a probed choice the saving is the steady one after the probes; `run_*` hold the whole run, probes included.
    """

    basis: Basis
    default_limit_w: float
    power_limit_w: float | None
    reason: str | None
    saving_ratio: Range | None = None
    slowdown_ratio: Range | None = None
    probed_w: tuple[float, ...] = ()
    run_saving_ratio: float | None = None
    run_slowdown_ratio: float | None = None


def refused(basis: Basis, default_limit_w: float, reason: str) -> CapChoice:
    """No cap, and why."""
    return CapChoice(basis, default_limit_w, None, reason)


def saving_kwh(choice: CapChoice, baseline_kwh: float) -> Range | None:
    """Expected saving of `baseline_kwh` of the device's energy at the default limit and equal work; None: no cap.

    Raises ValueError for a baseline that is negative or unknown: a promise needs one.
    """
    if not (np.isfinite(baseline_kwh) and baseline_kwh >= 0):
        raise ValueError(f"caps: baseline of {baseline_kwh} kWh")
    if choice.saving_ratio is None:
        return None
    saving = choice.saving_ratio
    return Range(
        saving.expected * baseline_kwh,
        None if saving.lower is None else saving.lower * baseline_kwh,
        None if saving.upper is None else saving.upper * baseline_kwh,
    )


def conformal_quantile(scores: Floats, confidence: float) -> float:
    """The ceil((n + 1) confidence)-th smallest of scores (n,); infinite where n is too small to say.

    Source: split-conformal, Lei et al., JASA 113 (2018) 1094.
    """
    rank = conformal_rank(len(scores), confidence)
    if rank > len(scores):
        return float("inf")
    return float(np.partition(scores, rank - 1)[rank - 1])
