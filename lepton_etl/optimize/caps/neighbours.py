"""Expected slowdown and saving under a cap from other workloads of the same hardware that resemble this one.

A workload is placed by its mean power under the default limit over that limit (its demand), a cap by its share of
that limit. The estimate is a Nadaraya-Watson mean with Gaussian weights; each network counts the same however many
of its workloads were logged. Source: Nadaraya (1964), Watson (1964).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.optimize.caps.curves import CapCurve, Floats

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
class Estimate:
    """Arrays of shape (q,), ratios; `supported` where there was enough near by to say."""

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
        """Whether the demand lies within that of the curves: beyond it nothing was measured."""
        return bool(self._demand.min() <= demand_ratio <= self._demand.max())

    def estimate(self, demand_ratio: float, cap_ratio: Floats) -> Estimate:
        """What to expect of one workload under caps (q,), both over the default limit."""
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
        return Estimate(mean[:, 0], spread[:, 0], mean[:, 1], spread[:, 1], supported)
