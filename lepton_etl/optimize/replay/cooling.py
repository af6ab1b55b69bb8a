"""The set point of the supply air, hour by hour, by what the meters have shown: cooling against outdoors and set point.

    cooling_kwh / heat_kwh = c(wet bulb - set point) + a (set point - usual) + b heat / largest heat
    it_kwh(T)              = it_kwh (1 + l (T - usual) + s max(T - T_knee, 0))

c is linear between knots. Warmer supply acts as cooler weather, so c is learned from the weather before any set point
has moved; a is what is left of that, drawn to 0 until the set point has moved. l (leakage) and s (fans) are design
values; s is learned on from the hours at other set points. The plant itself is another equation.
Source: ASHRAE TC 9.9, Thermal Guidelines, 5th edition (2021), for the envelope and the rate of change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lepton_etl.optimize.replay.cluster import Floats


@dataclass(frozen=True, slots=True)
class CoolingLimits:
    """What the set point keeps to, degC and K: the hottest inlet, the coldest supply, the change in an hour."""

    usual_c: float
    inlet_max_c: float
    supply_min_c: float
    ramp_k_per_h: float
    hottest_above_supply_k: float
    guard_k: float

    @property
    def supply_max_c(self) -> float:
        """The warmest supply at which the hottest inlet stays inside, degC."""
        return self.inlet_max_c - self.hottest_above_supply_k - self.guard_k


@dataclass(slots=True)
class CoolingPlanner:
    """Learns by `learn` from metered hours and chooses by `choose`.

    The usual set point is left only for an expected gain of `worth_ratio` of the energy of IT and cooling or more.
    """

    limits: CoolingLimits
    knots: int = 6
    it_knee_above_k: float = 1.0
    it_leak_per_k: float = 0.001
    it_design_per_k: float = 0.005
    it_prior_k2h: float = 24.0
    worth_ratio: float = 0.004
    coefficients: Floats = field(default_factory=lambda: np.zeros(0))
    knots_k: Floats = field(default_factory=lambda: np.zeros(0))
    largest_kwh: float = 1.0
    it_rise_per_k: float = 0.005

    def __post_init__(self) -> None:
        self.it_rise_per_k = self.it_design_per_k

    def learn(
        self, heat_kwh: Floats, cooling_kwh: Floats, wet_bulb_c: Floats, supply_c: Floats,
        it_kwh: Floats, it_expected_kwh: Floats,
    ) -> None:  # fmt: skip
        """Fit both answers to hours that have been metered, (hours,) each.

        `it_expected_kwh` is the IT energy that the running work should take at the usual set point, by a model of
        earlier logs.
        """
        self.largest_kwh = float(heat_kwh.max())
        lift = wet_bulb_c - supply_c
        if not len(self.knots_k):
            low, high = np.quantile(lift, [0.02, 0.98])
            # Warmer supply looks at cooler weather than was seen: the slope below the lowest knot goes on.
            self.knots_k = np.linspace(low, high, self.knots)
        rows = self._rows(lift, supply_c, heat_kwh)
        # Second differences of c are kept small, and a near 0, by rows of their own.
        keep = np.full(rows.shape[1], 1e-3)
        keep[2 : 2 + self.knots - 1] = 0.03
        keep[-2] = 0.3
        sized = np.vstack([rows, np.diag(keep * np.sqrt(len(rows)) * 0.1)])
        goal = np.concatenate([cooling_kwh / heat_kwh, np.zeros(rows.shape[1])])
        self.coefficients = np.linalg.lstsq(sized, goal, rcond=None)[0]
        self._learn_it(supply_c, it_kwh / it_expected_kwh)

    def _learn_it(self, supply_c: Floats, ratio: Floats) -> None:
        above = self._above(supply_c)
        moved = above > 0
        if not moved.any() or moved.all():
            return
        level = float(np.median(ratio[~moved]))
        leak = self.it_leak_per_k * (supply_c - self.limits.usual_c)
        seen = float((above * (ratio / level - 1.0 - leak)).sum())
        weight = float((above**2).sum())
        prior = self.it_prior_k2h
        self.it_rise_per_k = max((seen + prior * self.it_design_per_k) / (weight + prior), 0.0)

    def _above(self, supply_c: Floats) -> Floats:
        return np.asarray(np.maximum(supply_c - self.limits.usual_c - self.it_knee_above_k, 0.0))

    def _rows(self, lift: Floats, supply_c: Floats, heat_kwh: Floats) -> Floats:
        hinges = [np.maximum(lift - knot, 0.0) for knot in self.knots_k[:-1]]
        moved = supply_c - self.limits.usual_c
        return np.column_stack([np.ones_like(lift), lift, *hinges, moved, heat_kwh / self.largest_kwh])

    def expected(self, supply_c: Floats, it_kwh: float, heat_kwh: float, wet_bulb_c: float) -> Floats:
        """IT and cooling energy of an hour at each set point, kWh; `it_kwh` is at the usual one."""
        grown = 1.0 + self.it_leak_per_k * (supply_c - self.limits.usual_c)
        grown = grown + self.it_rise_per_k * self._above(supply_c)
        heat = heat_kwh * grown
        ratio = (
            self._rows(wet_bulb_c - supply_c, supply_c, np.full_like(supply_c, heat_kwh)) @ self.coefficients
        )
        return np.asarray(it_kwh * grown + heat * np.maximum(ratio, 0.0))

    def choose(self, now_c: float, it_kwh: float, heat_kwh: float, wet_bulb_c: float) -> float:
        """The set point of the next hour, degC, from the present one and the last hour's IT, heat and weather."""
        limits = self.limits
        warmest = max(limits.supply_max_c, limits.supply_min_c)
        points = np.arange(limits.supply_min_c, warmest + 1e-9, 0.25)
        expected = self.expected(points, it_kwh, heat_kwh, wet_bulb_c)
        usual = float(self.expected(np.array([limits.usual_c]), it_kwh, heat_kwh, wet_bulb_c)[0])
        # Where cooling is free the expected gain is smaller than the model's own error: the usual point stays.
        worth = usual - float(expected.min()) >= self.worth_ratio * usual
        wanted = float(points[np.argmin(expected)]) if worth else limits.usual_c
        ramp = limits.ramp_k_per_h
        return float(np.clip(np.clip(wanted, now_c - ramp, now_c + ramp), limits.supply_min_c, warmest))
