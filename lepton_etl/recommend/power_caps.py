"""Propose power caps for GPUs, by job class and hardware class, from logged power, clock and limits.

Runs become curves: energy and time per unit of work of each workload under each cap that it was logged under. A
workload that never ran under a cap here is placed by its mean power under the default limit over that limit (its
demand), a cap by its share of that limit; what to expect is a Nadaraya-Watson mean with Gaussian weights over other
workloads of the hardware class, in which each network counts the same however many of its workloads were logged.
Source: Nadaraya (1964), Watson (1964).

The width of caution is set so that the same procedure, with each network left out in turn, broke the slowdown bound
for no larger a share of workloads than allowed. Source: conformal risk control, Angelopoulos et al., ICLR 2024
(arXiv:2208.02814), here with the workloads of left-out networks as the calibration rows. Workloads of one network are
alike, so the guarantee is that of a few networks, not of as many workloads: the bench measures it from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.config.sections import OptimizeSettings
from lepton_etl.recommend.advice import Advice, Subject, next_day
from lepton_etl.uncertainty import CONFIDENCE, Estimate, conformal_quantile

Floats = npt.NDArray[np.float64]

CURVES_COLUMNS: Final = (
    "hardware_class", "network_id", "workload_id", "power_limit_w", "time_per_work_s", "power_w"
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class CapCurve:
    """One workload on one hardware class; arrays of shape (k,), caps rising, the last one the class's default.

    `network_id` names what workloads share (the network, the program): two of one network are no independent
    evidence. Energy is that of the capped device alone.
    """

    hardware_class: str
    network_id: str
    workload_id: str
    power_limit_w: Floats
    time_per_work_s: Floats
    energy_per_work_j: Floats

    @property
    def default_limit_w(self) -> float:
        return float(self.power_limit_w[-1])

    @property
    def default_power_w(self) -> float:
        """Return the mean power under the default limit, W: what every uncapped run tells for free."""
        return float(self.energy_per_work_j[-1] / self.time_per_work_s[-1])

    @property
    def demand_ratio(self) -> float:
        """Return the mean power under the default limit over that limit."""
        return self.default_power_w / self.default_limit_w

    @property
    def cap_ratio(self) -> Floats:
        return self.power_limit_w / self.default_limit_w

    @property
    def slowdown_ratio(self) -> Floats:
        """Return extra time per unit of work against the default limit; negative where it was faster."""
        slowdown: Floats = self.time_per_work_s / self.time_per_work_s[-1] - 1.0
        return slowdown

    @property
    def saving_ratio(self) -> Floats:
        """Return energy per unit of work saved against the default limit."""
        saving: Floats = 1.0 - self.energy_per_work_j / self.energy_per_work_j[-1]
        return saving

    def at(self, power_limit_w: float) -> int:
        """Return the position of a logged cap; raises KeyError for one that was not logged."""
        found = np.flatnonzero(np.isclose(self.power_limit_w, power_limit_w))
        if not len(found):
            raise KeyError(
                f"{self.hardware_class} {self.workload_id}: nothing logged under {power_limit_w:g} W"
            )
        return int(found[0])


def curves_of(runs: pd.DataFrame) -> tuple[CapCurve, ...]:
    """Return curves of logged runs: a row is a run of `work` units (1 where there is no such column) under one cap.

    Columns: COLUMNS; `power_w` is the mean over the run, `time_per_work_s` its seconds per unit of work. Runs alike
    in workload and cap are joined by sums of energy, time and work. The default is the highest limit logged in the
    hardware class: a workload never logged under it has no curve, nor has a row without a positive cap, time, power
    and work. Raises ValueError naming the columns that are missing.
    """
    missing = [name for name in CURVES_COLUMNS if name not in runs.columns]
    if missing:
        raise ValueError(f"logged runs under caps: no column {', '.join(missing)}")
    numbers = runs[["power_limit_w", "time_per_work_s", "power_w"]].astype(np.float64)
    work = runs["work"].astype(np.float64) if "work" in runs.columns else pd.Series(1.0, runs.index)
    usable = (np.isfinite(numbers) & (numbers > 0)).all(axis=1) & np.isfinite(work) & (work > 0)
    kept = runs.loc[usable, ["hardware_class", "network_id", "workload_id", "power_limit_w"]].assign(
        work=work[usable],
        seconds=numbers["time_per_work_s"][usable] * work[usable],
        joules=numbers["time_per_work_s"][usable] * numbers["power_w"][usable] * work[usable],
    )
    keys = ["hardware_class", "network_id", "workload_id"]
    sums = kept.groupby([*keys, "power_limit_w"], sort=True).sum().reset_index()
    default_w = {str(c): float(w) for c, w in sums.groupby("hardware_class")["power_limit_w"].max().items()}
    found = []
    for (hardware, network, workload), rows in sums.groupby(keys, sort=True):
        caps_w = rows["power_limit_w"].to_numpy(np.float64)
        if caps_w[-1] != default_w[str(hardware)]:
            continue
        per_work = rows[["seconds", "joules"]].to_numpy(np.float64) / rows[["work"]].to_numpy(np.float64)
        found.append(
            CapCurve(str(hardware), str(network), str(workload), caps_w, per_work[:, 0], per_work[:, 1])
        )
    return tuple(found)


def others(curves: Sequence[CapCurve], network_id: str) -> tuple[CapCurve, ...]:
    """Return the curves of every other network: the evidence for a workload that was never capped here."""
    return tuple(c for c in curves if c.network_id != network_id)


# Standard deviations of the weights: wide, since a handful of networks cannot show fine structure.
CAP_WIDTH_RATIO: Final = 0.1
DEMAND_WIDTH_RATIO: Final = 0.2
# Far beyond any bound that is set, a slowdown's size says nothing of how near the bound others are.
SLOWDOWN_CLIP_RATIO: Final = 0.3
# No neighbourhood is more alike than this: run-to-run differences of repeated runs are of this order.
LEAST_SPREAD_RATIO: Final = 0.005
# Sum of weights (each at most 1) below which there is nothing to average.
LEAST_WEIGHT: Final = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What to expect under caps, arrays (q,), ratios; `supported` where enough measurements lie near."""

    slowdown: Floats
    slowdown_spread: Floats
    saving: Floats
    saving_spread: Floats
    supported: np.ndarray[tuple[int], np.dtype[np.bool_]]


class Neighbours:
    """The capped measurements of some curves of one hardware class."""

    def __init__(self, curves: Sequence[CapCurve]) -> None:
        networks = [c.network_id for c in curves for _ in c.power_limit_w[:-1]]
        _, whose, counts = np.unique(networks, return_inverse=True, return_counts=True)
        self._share: Floats = 1.0 / counts[whose]
        self._cap: Floats = np.concatenate([c.cap_ratio[:-1] for c in curves])
        self._demand: Floats = np.concatenate([np.full(len(c.cap_ratio) - 1, c.demand_ratio) for c in curves])
        slowdown = np.concatenate([c.slowdown_ratio[:-1] for c in curves])
        saving = np.concatenate([c.saving_ratio[:-1] for c in curves])
        self._outcomes: Floats = np.column_stack([np.minimum(slowdown, SLOWDOWN_CLIP_RATIO), saving])

    def knows_demand(self, demand_ratio: float) -> bool:
        """Return whether the demand lies within that of the curves: beyond it nothing was measured."""
        return bool(self._demand.min() <= demand_ratio <= self._demand.max())

    def estimate(self, demand_ratio: float, cap_ratio: Floats) -> Expected:
        """Return what to expect of one workload under caps (q,), both over the default limit."""
        apart = ((cap_ratio[:, None] - self._cap) / CAP_WIDTH_RATIO) ** 2
        apart = apart + ((demand_ratio - self._demand) / DEMAND_WIDTH_RATIO) ** 2
        near: Floats = np.exp(-0.5 * apart)
        # A floor keeps the mean defined where nothing is near; `supported` says that it is not to be used.
        weights = (near + 1e-12) * self._share
        weights = weights / weights.sum(axis=1, keepdims=True)
        mean = weights @ self._outcomes
        variance = np.einsum("qn,qnk->qk", weights, (self._outcomes - mean[:, None, :]) ** 2)
        spread = np.sqrt(variance + LEAST_SPREAD_RATIO**2)
        supported = (near.sum(axis=1) >= LEAST_WEIGHT) & self.knows_demand(demand_ratio)
        return Expected(mean[:, 0], spread[:, 0], mean[:, 1], spread[:, 1], supported)


HARDWARE_UNSEEN: Final = "hardware class never logged under a cap"
TOO_FEW_NETWORKS: Final = "too few other networks logged under caps"
TOO_FEW_WORKLOADS: Final = "too few other workloads for the guard to hold its share of violations"
OUTSIDE_SUPPORT: Final = "mean power under the default limit outside that of the other networks"
NO_SAFE_CAP: Final = "no measured cap that saves energy for sure and keeps the slowdown within its bound"
NO_GUARD: Final = "the guard cannot hold its share of violations on the other networks"


@dataclass(frozen=True, slots=True)
class CapSettings:
    """What a choice must keep. All ratios."""

    slowdown_max_ratio: float = 0.05
    violations_max_ratio: float = 0.03
    confidence: float = CONFIDENCE
    min_networks: int = 3

    def __post_init__(self) -> None:
        if not (self.slowdown_max_ratio >= 0 and 0 < self.violations_max_ratio < 1 > self.confidence > 0):
            raise ValueError("caps: bounds must be ratios, the slowdown's not negative")
        if self.min_networks < 3:
            raise ValueError("caps: at least 3 other networks")


@dataclass(frozen=True, slots=True)
class CapChoice:
    """A cap with what it promises, ratios against the default limit; without one, `reason` says why."""

    default_limit_w: float
    power_limit_w: float | None
    reason: str | None
    saving_ratio: Estimate | None = None
    slowdown_ratio: Estimate | None = None


def refused(default_limit_w: float, reason: str) -> CapChoice:
    """Return no cap, and why."""
    return CapChoice(default_limit_w, None, reason)


def around(expected: float, half: float) -> Estimate:
    """Return a figure with an interval of this half-width; an infinite one where the width is not known."""
    return Estimate(float(expected), float(expected - half), float(expected + half))


# Multiples of the neighbours' spread that are tried, least caution first.
CAUTIONS: Final = tuple(round(0.1 * step, 1) for step in range(41))


@dataclass(frozen=True, slots=True, eq=False)
class BlindCaps:
    """What other networks taught about one hardware class; `caps_w` are the caps measured on at least two of them."""

    settings: CapSettings
    default_limit_w: float
    caps_w: Floats
    neighbours: Neighbours
    caution: float
    saving_score: float
    slowdown_score: float

    def choose(self, default_power_w: float, caps_allowed_w: Sequence[float] | None = None) -> CapChoice:
        """Return a cap for a workload of this mean power (W) under the default limit, or a refusal with its reason.

        `caps_allowed_w` narrows the caps to what the operator allows; one that was never measured is not added by it.
        """
        demand = default_power_w / self.default_limit_w
        if not (np.isfinite(demand) and self.neighbours.knows_demand(demand)):
            return refused(self.default_limit_w, OUTSIDE_SUPPORT)
        caps_w = self.caps_w
        if caps_allowed_w is not None:
            caps_w = caps_w[np.isclose(caps_w[:, None], np.asarray(caps_allowed_w, np.float64)).any(axis=1)]
        found = self.neighbours.estimate(demand, caps_w / self.default_limit_w)
        best = _best(found, self.caution, self.saving_score, self.settings.slowdown_max_ratio)
        if best is None:
            return refused(self.default_limit_w, NO_SAFE_CAP)
        return CapChoice(
            self.default_limit_w, float(caps_w[best]), None,
            around(found.saving[best], self.saving_score * found.saving_spread[best]),
            around(found.slowdown[best], self.slowdown_score * found.slowdown_spread[best]),
        )  # fmt: skip


def learn_blind(evidence: Sequence[CapCurve], settings: CapSettings | None = None) -> BlindCaps | str:
    """Learn from `evidence` (curves of one hardware class, none of the network to be capped), or return why not."""
    settings = settings or CapSettings()
    evidence = [curve for curve in evidence if len(curve.power_limit_w) > 1]
    if not evidence:
        return HARDWARE_UNSEEN
    if len({c.hardware_class for c in evidence}) > 1:
        raise ValueError("caps: curves of several hardware classes cannot be evidence for one")
    networks = sorted({c.network_id for c in evidence})
    if len(networks) < settings.min_networks:
        return TOO_FEW_NETWORKS
    if 1.0 / (len(evidence) + 1) > settings.violations_max_ratio:
        return TOO_FEW_WORKLOADS
    left_out = _left_out(evidence, networks)
    saving_score, slowdown_score = _scores(left_out, settings)
    caution = _caution(left_out, saving_score, settings)
    if caution is None:
        return NO_GUARD
    return BlindCaps(
        settings, evidence[0].default_limit_w, _caps_of_two_networks(evidence), Neighbours(evidence), caution,
        saving_score, slowdown_score,
    )  # fmt: skip


def choice_of(
    learned: BlindCaps | str,
    default_limit_w: float,
    default_power_w: float,
    caps_allowed_w: Sequence[float] | None = None,
) -> CapChoice:
    """Choose a cap by what `learn_blind` gave."""
    if isinstance(learned, str):
        return refused(default_limit_w, learned)
    if not np.isclose(learned.default_limit_w, default_limit_w):
        return refused(default_limit_w, HARDWARE_UNSEEN + " with this default limit")
    return learned.choose(default_power_w, caps_allowed_w)


def _left_out(evidence: Sequence[CapCurve], networks: Sequence[str]) -> list[tuple[CapCurve, Expected]]:
    """Return each curve with what is expected of it from the curves of the other networks."""
    found = []
    for network in networks:
        neighbours = Neighbours(others(evidence, network))
        for curve in evidence:
            if curve.network_id == network:
                found.append((curve, neighbours.estimate(curve.demand_ratio, curve.cap_ratio[:-1])))
    return found


def _scores(left_out: Sequence[tuple[CapCurve, Expected]], settings: CapSettings) -> tuple[float, float]:
    """Return conformal widths of saving and slowdown in spreads, over the caps that may keep the bound."""
    saving: list[Floats] = []
    slowdown: list[Floats] = []
    for curve, expected in left_out:
        candidate = expected.supported & (expected.slowdown <= settings.slowdown_max_ratio)
        for true, mean, spread, scores in (
            (curve.saving_ratio, expected.saving, expected.saving_spread, saving),
            (curve.slowdown_ratio, expected.slowdown, expected.slowdown_spread, slowdown),
        ):
            scores.append((np.abs(true[:-1] - mean) / spread)[candidate])
    return (
        conformal_quantile(np.concatenate(saving), settings.confidence),
        conformal_quantile(np.concatenate(slowdown), settings.confidence),
    )


def _caution(
    left_out: Sequence[tuple[CapCurve, Expected]], saving_score: float, settings: CapSettings
) -> float | None:
    """Return the least caution at which (violations + 1) / (workloads + 1) stays within the allowed share."""
    for caution in CAUTIONS:
        violations = 0
        for curve, expected in left_out:
            best = _best(expected, caution, saving_score, settings.slowdown_max_ratio)
            violations += best is not None and curve.slowdown_ratio[best] > settings.slowdown_max_ratio
        if (violations + 1) / (len(left_out) + 1) <= settings.violations_max_ratio:
            return caution
    return None


def _best(expected: Expected, caution: float, saving_score: float, slowdown_max_ratio: float) -> int | None:
    """Return the cap of largest expected saving among those that are supported, slow enough and surely saving."""
    allowed = (
        expected.supported
        & (expected.slowdown + caution * expected.slowdown_spread <= slowdown_max_ratio)
        & (expected.saving - saving_score * expected.saving_spread > 0)
    )
    return int(np.argmax(np.where(allowed, expected.saving, -np.inf))) if allowed.any() else None


def _caps_of_two_networks(evidence: Sequence[CapCurve]) -> Floats:
    networks: dict[float, set[str]] = {}
    for curve in evidence:
        for cap_w in curve.power_limit_w[:-1]:
            networks.setdefault(float(cap_w), set()).add(curve.network_id)
    return np.array(sorted(cap for cap, by in networks.items() if len(by) >= 2), np.float64)


# What `cap_advice` takes: GPU time at work of one job class under one limit. `work_rate` is clock x utilisation, Hz,
# the only measure of work that every GPU's logs hold; `newest_kwh` is the energy of the newest day.
COLUMNS: Final = (
    "site_id", "hardware_class", "user_name", "job_class", "power_limit_w", "power_w", "work_rate", "hours",
    "newest_kwh",
)  # fmt: skip
# Less time at work than this under a limit says nothing about it.
LEAST_H: Final = 2.0


def cap_advice(
    rows: pd.DataFrame, day: date, settings: OptimizeSettings
) -> tuple[list[Advice], tuple[str, ...]]:
    """Return caps for job classes of the day after `day`, from COLUMNS; and why there are none for a hardware class."""
    asked = CapSettings(slowdown_max_ratio=settings.slowdown_max_ratio)
    known = rows[(rows["hours"] >= LEAST_H) & (rows["work_rate"] > 0)]
    found: list[Advice] = []
    notes: dict[str, None] = {}
    for (site_id, hardware_class), own in known.groupby(["site_id", "hardware_class"], sort=True):
        limits = sorted(own["power_limit_w"].unique())
        if len(limits) < 2:
            logged = f"{limits[0]:.0f} W" if limits else "no limit"
            notes[
                f"no cap for {hardware_class}: logged under {logged} alone; cap some runs to learn from"
            ] = None
            continue
        curves = curves_of(_runs(own))
        learned: dict[str, BlindCaps | str] = {}
        for (user, job_class), jobs in own.groupby(["user_name", "job_class"], sort=True):
            newest = float(jobs["newest_kwh"].sum())
            at_default = jobs[np.isclose(jobs["power_limit_w"], limits[-1])]
            if newest <= 0 or at_default.empty:
                continue
            power_w = float(np.average(at_default["power_w"], weights=at_default["hours"]))
            if str(user) not in learned:
                learned[str(user)] = learn_blind(others(curves, str(user)), asked)
            choice = choice_of(learned[str(user)], float(limits[-1]), power_w, limits)
            saving, slowdown = choice.saving_ratio, choice.slowdown_ratio
            if choice.power_limit_w is None or saving is None or slowdown is None:
                notes[f"no cap for {hardware_class}: {choice.reason}"] = None
                continue
            start, end = next_day(day)
            found.append(
                Advice(
                    Subject(str(site_id), job_class=f"{job_class} on {hardware_class}"), "power_cap",
                    "set_power_limit",
                    f"cap {job_class} at {choice.power_limit_w:.0f} W on {hardware_class} (now "
                    f"{choice.default_limit_w:.0f} W): {saving.value:.1%} less energy a unit of work, "
                    f"{slowdown.value:.1%} slower",
                    start, end, newest, saving.times(newest),
                    "other users' runs under caps on this hardware; clock x utilisation stands for work",
                    slowdown_ratio=slowdown,
                    guard_rail=f"slowdown at most {settings.slowdown_max_ratio:.0%}, else back to "
                    f"{choice.default_limit_w:.0f} W",
                    parameters={
                        "power_limit_w": choice.power_limit_w, "default_limit_w": choice.default_limit_w,
                        "hardware_class": str(hardware_class), **_products(curves, str(job_class)),
                    },
                )
            )  # fmt: skip
    return found, tuple(notes)


def _runs(own: pd.DataFrame) -> pd.DataFrame:
    """Return rows as the curves take them: a unit of work is 1e9 clock cycles at full utilisation."""
    return pd.DataFrame(
        {
            "hardware_class": own["hardware_class"], "network_id": own["user_name"], "workload_id": own["job_class"],
            "power_limit_w": own["power_limit_w"], "time_per_work_s": 1e9 / own["work_rate"],
            "power_w": own["power_w"], "work": own["hours"] * 3600 * own["work_rate"] / 1e9,
        }
    )  # fmt: skip


def _products(curves: tuple[CapCurve, ...], job_class: str) -> dict[str, object]:
    """Return energy-delay products under the caps that this job class itself ran under, over those at the default.

    Source: Gonzalez and Horowitz, IEEE JSSC 31 (1996) 1277 (EDP = E x T); Martin, Nystroem and Penzes (2002) (ED2P).
    """
    for curve in curves:
        if curve.workload_id == job_class:
            edp = curve.energy_per_work_j * curve.time_per_work_s
            found = {"edp_ratio": edp, "ed2p_ratio": edp * curve.time_per_work_s}
            return {
                name: {
                    f"{cap_w:.0f}": round(float(value), 4)
                    for cap_w, value in zip(curve.power_limit_w, product / product[-1], strict=True)
                }
                for name, product in found.items()
            }
    return {}
