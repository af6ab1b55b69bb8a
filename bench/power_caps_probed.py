"""A cap for a workload that is run under at most a few caps first; the probes are charged to the run.

Slowdown falls as the cap rises, so the lowest cap within the bound is bracketed by halving the list of caps, and the
chosen cap is always one that was measured: energy need not be least at the lowest cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from lepton_etl.recommend.power_caps import (
    NO_SAFE_CAP,
    CapChoice,
    CapCurve,
    CapSettings,
    around,
)
from lepton_etl.uncertainty import Estimate, conformal_quantile

NOT_PROBED: Final = "no cap probed"

# Interpolation between two neighbours halves their errors' variance: what a point misses it by is wider by this.
_INTERPOLATION_SPREAD: Final = 1.5**0.5


@dataclass(frozen=True, slots=True)
class ProbeSettings(CapSettings):
    """What a choice by probes must keep beside."""

    probes_max: int = 3
    probe_time_error_ratio: float = 0.0
    """Error (1 sigma) of a probe's time per unit of work; a probe must keep the bound with room for it."""

    def __post_init__(self) -> None:
        CapSettings.__post_init__(self)
        if self.probe_time_error_ratio < 0 or self.probes_max < 1:
            raise ValueError("caps: an error that is not negative, and at least 1 probe")

    @property
    def probed_slowdown_max_ratio(self) -> float:
        """What a probe may read for its true slowdown to keep the bound at the confidence, one-sided."""
        return self.slowdown_max_ratio - NormalDist().inv_cdf(self.confidence) * self.probe_time_error_ratio


@dataclass(frozen=True, slots=True)
class ProbedChoice(CapChoice):
    """A cap by probes: the saving is the steady one after them, `run_*` hold the whole run, probes included."""

    probed_w: tuple[float, ...] = ()
    run_saving_ratio: float | None = None
    run_slowdown_ratio: float | None = None


def oracle_cap_w(curve: CapCurve, slowdown_max_ratio: float) -> float:
    """The logged cap of least energy among those slowed down by at most `slowdown_max_ratio`; else the default."""
    allowed = curve.slowdown_ratio <= slowdown_max_ratio
    return float(curve.power_limit_w[np.argmin(np.where(allowed, curve.energy_per_work_j, np.inf))])


def oracle_saving_ratio(curves: Sequence[CapCurve], slowdown_max_ratio: float) -> float:
    """Mean over the workloads of what the oracle's cap saves of each one's energy; NaN for no curves."""
    if not curves:
        return float("nan")
    savings = [c.saving_ratio[c.at(oracle_cap_w(c, slowdown_max_ratio))] for c in curves]
    return float(np.mean(savings))


@dataclass(frozen=True, slots=True)
class Reading:
    """Time and energy per unit of work under one limit: the default's from normal runs, a probe's from the probe."""

    power_limit_w: float
    time_per_work_s: float
    energy_per_work_j: float


@dataclass(frozen=True, slots=True)
class Run:
    """The run that pays for its probes, in units of work, e.g. epochs.

    A probe is work of the run done under another cap: it costs what that work takes more (or less). With
    `probe_lost` its work counts for nothing and is done again: all its energy and time are on top.
    """

    work: float = 100.0
    probe_work: float = 1.0
    probe_lost: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.probe_work <= self.work:
            raise ValueError("caps: a probe does some work, and no more than the run")


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Half-widths of the interval of a measured saving and slowdown, ratios; None where other runs do not tell."""

    saving_ratio: float | None = None
    slowdown_ratio: float | None = None


def next_probe_w(
    caps_w: Sequence[float],
    default: Reading,
    probes: Sequence[Reading],
    settings: ProbeSettings | None = None,
) -> float | None:
    """The cap to run under next, or None when there is nothing left to learn or no probe left.

    `caps_w` are the caps that the operator allows, below the default's limit; empty: nothing to probe.
    """
    settings = settings or ProbeSettings()
    if len(probes) >= settings.probes_max:
        return None
    left = sorted(cap for cap in {float(cap) for cap in caps_w} if cap < default.power_limit_w)
    for probe in probes:
        if _slowdown(probe, default) <= settings.probed_slowdown_max_ratio:
            left = [cap for cap in left if cap < probe.power_limit_w]
        else:
            left = [cap for cap in left if cap > probe.power_limit_w]
    return left[len(left) // 2] if left else None


def probed_choice(
    default: Reading,
    probes: Sequence[Reading],
    run: Run | None = None,
    settings: ProbeSettings | None = None,
    repeatability: Repeatability | None = None,
) -> ProbedChoice:
    """The probed cap under which the whole run, probes included, uses least energy within the slowdown bound.

    Both the steady slowdown and that of the whole run must keep the bound. Where no cap does better than the default,
    none is chosen; what the probes cost stands in `run_*`.
    """
    run, settings = run or Run(), settings or ProbeSettings()
    if len(probes) * run.probe_work > run.work:
        raise ValueError("caps: the probes are longer than the run")
    if not probes:
        return ProbedChoice(default.power_limit_w, None, NOT_PROBED)
    width = repeatability or Repeatability()
    options = []
    for reading in (default, *probes):
        energy, time = charged(default, probes, reading, run)
        options.append((energy, time, reading))
    kept = [
        option
        for option in options[1:]
        if _slowdown(option[2], default) <= settings.probed_slowdown_max_ratio
        and option[1] <= settings.slowdown_max_ratio
    ]
    energy, time, chosen = min([*kept, options[0]], key=lambda o: o[0])
    probed_w = tuple(probe.power_limit_w for probe in probes)
    capped = chosen is not default
    return ProbedChoice(
        default_limit_w=default.power_limit_w,
        power_limit_w=chosen.power_limit_w if capped else None,
        reason=None if capped else NO_SAFE_CAP,
        saving_ratio=_around(1.0 - chosen.energy_per_work_j / default.energy_per_work_j, width.saving_ratio)
        if capped
        else None,
        slowdown_ratio=_around(_slowdown(chosen, default), width.slowdown_ratio) if capped else None,
        probed_w=probed_w,
        run_saving_ratio=-energy,
        run_slowdown_ratio=time,
    )


def charged(default: Reading, probes: Sequence[Reading], chosen: Reading, run: Run) -> tuple[float, float]:
    """Extra energy and extra time of the run, ratios of a run under the default limit; a saving is negative."""
    energy = sum(p.energy_per_work_j for p in probes) * run.probe_work
    time = sum(p.time_per_work_s for p in probes) * run.probe_work
    rest = run.work if run.probe_lost else run.work - len(probes) * run.probe_work
    return (
        (energy + rest * chosen.energy_per_work_j) / (run.work * default.energy_per_work_j) - 1.0,
        (time + rest * chosen.time_per_work_s) / (run.work * default.time_per_work_s) - 1.0,
    )


def repeatability(others: Sequence[CapCurve], settings: CapSettings | None = None) -> Repeatability:
    """How far a single reading may lie from a smooth curve, conformal over what other networks' readings did.

    Each inner cap is set against the line between its two neighbours; caps slowed down beyond twice the bound are
    left out, where the curve itself bends. Curvature counts as error, so the width is on the wide side.
    """
    settings = settings or CapSettings()
    saving: list[float] = []
    slowdown: list[float] = []
    for curve in others:
        caps = curve.power_limit_w
        for one in range(1, len(caps) - 1):
            if curve.slowdown_ratio[one - 1] > 2 * settings.slowdown_max_ratio:
                continue
            ends = [one - 1, one + 1]
            for values, misses in ((curve.saving_ratio, saving), (curve.slowdown_ratio, slowdown)):
                line = np.interp(caps[one], caps[ends], values[ends])
                misses.append(abs(values[one] - line) / _INTERPOLATION_SPREAD)
    widths = [conformal_quantile(np.asarray(m, np.float64), settings.confidence) for m in (saving, slowdown)]
    return Repeatability(*(w if np.isfinite(w) else None for w in widths))


def _slowdown(reading: Reading, default: Reading) -> float:
    return reading.time_per_work_s / default.time_per_work_s - 1.0


def _around(expected: float, half: float | None) -> Estimate:
    return around(expected, np.inf if half is None else half)
