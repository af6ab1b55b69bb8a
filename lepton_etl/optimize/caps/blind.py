"""A cap for a workload that was never run under one here, from other networks on the same hardware.

Its width of caution is set so that the same procedure, with each network left out in turn, broke the slowdown bound
for no larger a share of workloads than allowed. Source: conformal risk control, Angelopoulos et al., ICLR 2024
(arXiv:2208.02814), here with the workloads of left-out networks as the calibration rows. Workloads of one network are
alike, so the guarantee is that of a few networks, not of as many workloads: the bench measures it from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.optimize.caps.choice import (
    HARDWARE_UNSEEN,
    NO_GUARD,
    NO_SAFE_CAP,
    OUTSIDE_SUPPORT,
    TOO_FEW_NETWORKS,
    TOO_FEW_WORKLOADS,
    CapChoice,
    CapSettings,
    Range,
    conformal_quantile,
    refused,
)
from lepton_etl.optimize.caps.curves import CapCurve, Floats, others
from lepton_etl.optimize.caps.neighbours import Estimate, Neighbours

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
        """A cap for a workload of this mean power (W) under the default limit, or a refusal with its reason.

        `caps_allowed_w` narrows the caps to what the operator allows; one that was never measured is not added by it.
        """
        demand = default_power_w / self.default_limit_w
        if not (np.isfinite(demand) and self.neighbours.knows_demand(demand)):
            return refused("blind", self.default_limit_w, OUTSIDE_SUPPORT)
        caps_w = self.caps_w
        if caps_allowed_w is not None:
            caps_w = caps_w[np.isclose(caps_w[:, None], np.asarray(caps_allowed_w, np.float64)).any(axis=1)]
        found = self.neighbours.estimate(demand, caps_w / self.default_limit_w)
        best = _best(found, self.caution, self.saving_score, self.settings.slowdown_max_ratio)
        if best is None:
            return refused("blind", self.default_limit_w, NO_SAFE_CAP)
        return CapChoice(
            "blind", self.default_limit_w, float(caps_w[best]), None,
            _range(found.saving[best], self.saving_score * found.saving_spread[best]),
            _range(found.slowdown[best], self.slowdown_score * found.slowdown_spread[best]),
        )  # fmt: skip


def learn_blind(evidence: Sequence[CapCurve], settings: CapSettings | None = None) -> BlindCaps | str:
    """What `evidence` (curves of one hardware class, none of the network to be capped) allows, or why nothing."""
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


def blind_choice(
    curves: Sequence[CapCurve],
    network_id: str,
    hardware_class: str,
    default_limit_w: float,
    default_power_w: float,
    settings: CapSettings | None = None,
    caps_allowed_w: Sequence[float] | None = None,
) -> CapChoice:
    """A cap for one workload from the curves of every other network of its hardware class; any class in `curves`."""
    own = [c for c in curves if c.hardware_class == hardware_class]
    learned = learn_blind(others(own, network_id), settings)
    if isinstance(learned, str):
        return refused("blind", default_limit_w, learned)
    if not np.isclose(learned.default_limit_w, default_limit_w):
        return refused("blind", default_limit_w, HARDWARE_UNSEEN + " with this default limit")
    return learned.choose(default_power_w, caps_allowed_w)


def _left_out(evidence: Sequence[CapCurve], networks: Sequence[str]) -> list[tuple[CapCurve, Estimate]]:
    """Each curve with what the curves of the other networks would have said of it."""
    found = []
    for network in networks:
        neighbours = Neighbours(others(evidence, network))
        for curve in evidence:
            if curve.network_id == network:
                found.append((curve, neighbours.estimate(curve.demand_ratio, curve.cap_ratio[:-1])))
    return found


def _scores(left_out: Sequence[tuple[CapCurve, Estimate]], settings: CapSettings) -> tuple[float, float]:
    """Conformal widths of saving and slowdown in spreads, over the caps that would be thought of at all."""
    saving, slowdown = [], []
    for curve, said in left_out:
        thought_of = said.supported & (said.slowdown <= settings.slowdown_max_ratio)
        saving.append((np.abs(curve.saving_ratio[:-1] - said.saving) / said.saving_spread)[thought_of])
        slowdown.append(
            (np.abs(curve.slowdown_ratio[:-1] - said.slowdown) / said.slowdown_spread)[thought_of]
        )
    return (
        conformal_quantile(np.concatenate(saving), settings.confidence),
        conformal_quantile(np.concatenate(slowdown), settings.confidence),
    )


def _caution(
    left_out: Sequence[tuple[CapCurve, Estimate]], saving_score: float, settings: CapSettings
) -> float | None:
    """The least caution at which (violations + 1) / (workloads + 1) stays within the allowed share."""
    for caution in CAUTIONS:
        violations = 0
        for curve, said in left_out:
            best = _best(said, caution, saving_score, settings.slowdown_max_ratio)
            violations += best is not None and curve.slowdown_ratio[best] > settings.slowdown_max_ratio
        if (violations + 1) / (len(left_out) + 1) <= settings.violations_max_ratio:
            return caution
    return None


def _best(said: Estimate, caution: float, saving_score: float, slowdown_max_ratio: float) -> int | None:
    """The cap of largest expected saving among those that are supported, slow enough and surely saving."""
    allowed = (
        said.supported
        & (said.slowdown + caution * said.slowdown_spread <= slowdown_max_ratio)
        & (said.saving - saving_score * said.saving_spread > 0)
    )
    return int(np.argmax(np.where(allowed, said.saving, -np.inf))) if allowed.any() else None


def _caps_of_two_networks(evidence: Sequence[CapCurve]) -> Floats:
    networks: dict[float, set[str]] = {}
    for curve in evidence:
        for cap_w in curve.power_limit_w[:-1]:
            networks.setdefault(float(cap_w), set()).add(curve.network_id)
    return np.array(sorted(cap for cap, by in networks.items() if len(by) >= 2), np.float64)


def _range(expected: float, half: float) -> Range:
    if not np.isfinite(half):
        return Range(float(expected), None, None)
    return Range(float(expected), float(expected - half), float(expected + half))
