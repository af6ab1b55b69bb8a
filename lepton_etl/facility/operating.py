"""The best operating point of the cooling over supply temperature and flow: a figure of a model, not a reading.

Around the fitted overhead stands the design data that the settings state. With supply T, flow f (a share of the
rated flow), heat Q and wet bulb W:

    E(T, f) = E_h (1 + s max(T_in - T_knee, 0)) + (E_c - P f0^3) max(1 - g (T - T0), 0) + P f^3 + E_m
    T_in    = T + r max(1 - f / f_need, 0) dT        hot air returns to the inlets when the fans give too little
    Q      <= C f (T_out - T)                        the air removes at least the heat

E_c and E_m are the fit's at the present set point (T0, f0), P is the fans' power at rated flow, C the heat that the
rated flow takes per kelvin. The brief's linear E = k2 Q + k1 Q + E_m has its minimum at Q = 0 and is no objective.
Source: affinity law (fans by the cube of flow); ASHRAE TC 9.9 (2021) for inlet bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from scipy.optimize import minimize

from lepton_etl.facility.fit import FacilityFit, predict_overhead
from lepton_etl.facility.inlet import ENVELOPES
from lepton_etl.facility.settings import OperatingSettings

# What the equations hold for at all; the unconstrained figure keeps to it.
PHYSICAL_SUPPLY_C: Final = (5.0, 45.0)
PHYSICAL_FLOW: Final = (0.05, 1.5)
_STARTS: Final = 3


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Supply, degC, and flow over rated flow, with the energy of one hour there, kWh; `saving_ratio` of now."""

    supply_temp_c: float
    flow_ratio: float
    inlet_temp_c: float
    it_kwh: float
    cooling_kwh: float
    management_kwh: float
    total_kwh: float
    saving_ratio: float


@dataclass(frozen=True, slots=True)
class _Hour:
    """One hour to optimise: IT energy, cooling at the present point, management, kWh, and the design."""

    it_kwh: float
    cooling_kwh: float
    management_kwh: float
    plant: OperatingSettings

    def inlet_c(self, supply_c: float, flow: float) -> float:
        missing = max(1.0 - flow / self.plant.flow_need_ratio, 0.0)
        return supply_c + self.plant.recirculation_ratio * missing * self.plant.rise_k

    def it(self, supply_c: float, flow: float) -> float:
        above = max(self.inlet_c(supply_c, flow) - self.plant.it_knee_c, 0.0)
        return self.it_kwh * (1.0 + self.plant.it_rise_per_k * above)

    def cooling(self, supply_c: float, flow: float) -> float:
        plant, fans_kwh = self.plant, self.plant.fan_power_w / 1000.0
        lifted = max(self.cooling_kwh - fans_kwh * plant.flow_ratio**3, 0.0)
        eased = max(1.0 - plant.chiller_gain_per_k * (supply_c - plant.supply_temp_c), 0.0)
        return lifted * eased + fans_kwh * flow**3

    def total(self, supply_c: float, flow: float) -> float:
        return self.it(supply_c, flow) + self.cooling(supply_c, flow) + self.management_kwh

    def spare_kwh(self, supply_c: float, flow: float) -> float:
        """Heat that the air can take beyond what the IT gives; at least 0 where the point is allowed."""
        taken = self.plant.heat_w_per_k / 1000.0 * flow * (self.plant.outlet_max_c - supply_c)
        return taken - self.it(supply_c, flow)


def operating_point(
    fit: FacilityFit, plant: OperatingSettings, it_kwh: float, wet_bulb_c: float, *, deployable: bool
) -> OperatingPoint | None:
    """The cheapest point of an hour of IT energy `it_kwh` at an outdoor wet bulb, degC; None: no point is allowed.

    `deployable` keeps the inlet inside the ASHRAE bounds of the settings and the flow inside the fans' range;
    otherwise only what the equations hold for. ValueError where the fit does not tell cooling apart.
    """
    if fit.management_kwh is None:
        raise ValueError(f"the facility model of {fit.site_id} knows one overhead: cooling is not told apart")
    made = predict_overhead(fit, np.array([it_kwh]), np.array([wet_bulb_c]))
    assert made.cooling_kwh is not None
    hour = _Hour(it_kwh, float(made.cooling_kwh[0]), fit.management_kwh, plant)
    low_c, high_c = ENVELOPES[plant.inlet_class].dry_bulb_c if deployable else PHYSICAL_SUPPLY_C
    flows = (plant.flow_min_ratio, plant.flow_max_ratio) if deployable else PHYSICAL_FLOW
    best = _search(hour, (low_c, high_c), flows)
    if best is None:
        return None
    supply_c, flow = best
    now = hour.total(plant.supply_temp_c, plant.flow_ratio)
    total = hour.total(supply_c, flow)
    return OperatingPoint(
        supply_temp_c=supply_c,
        flow_ratio=flow,
        inlet_temp_c=hour.inlet_c(supply_c, flow),
        it_kwh=hour.it(supply_c, flow),
        cooling_kwh=hour.cooling(supply_c, flow),
        management_kwh=fit.management_kwh,
        total_kwh=total,
        saving_ratio=1.0 - total / now,
    )


def _search(
    hour: _Hour, supply_bounds_c: tuple[float, float], flow_bounds: tuple[float, float]
) -> tuple[float, float] | None:
    """Sequential quadratic programming from several starts; kinks and the non-convex corner need more than one."""
    low_c, high_c = supply_bounds_c
    allowed = [
        {"type": "ineq", "fun": lambda x: hour.spare_kwh(x[0], x[1])},
        {"type": "ineq", "fun": lambda x: high_c - hour.inlet_c(x[0], x[1])},
    ]
    found: list[tuple[float, float, float]] = []
    for supply_c in np.linspace(low_c, high_c, _STARTS):
        for flow in np.linspace(*flow_bounds, _STARTS):
            result = minimize(
                lambda x: hour.total(x[0], x[1]) / hour.it_kwh, (supply_c, flow), method="SLSQP",
                bounds=[supply_bounds_c, flow_bounds], constraints=allowed,
                options={"ftol": 1e-9, "maxiter": 100},
            )  # fmt: skip
            supply, share = float(result.x[0]), float(result.x[1])
            within = hour.spare_kwh(supply, share) >= -1e-6 * hour.it_kwh
            if within and hour.inlet_c(supply, share) <= high_c + 1e-6:
                found.append((hour.total(supply, share), supply, share))
    if not found:
        return None
    _, supply, share = min(found)
    return supply, share


def operating_figure(fit: FacilityFit, plant: OperatingSettings) -> Mapping[str, object]:
    """Free and deployable point at the fit's mean load and wet bulb, for the row of the fit and the report."""
    head = {
        "label": "model figure", "it_kwh": fit.mean_it_kwh, "wet_bulb_c": fit.mean_wet_bulb_c,
        "inlet_class": plant.inlet_class,
    }  # fmt: skip
    if fit.management_kwh is None:
        return head | {"reason": "one overhead is metered: cooling is not told apart"}
    points = {
        name: operating_point(fit, plant, fit.mean_it_kwh, fit.mean_wet_bulb_c, deployable=deployable)
        for name, deployable in (("unconstrained", False), ("deployable", True))
    }
    return head | {name: None if point is None else asdict(point) for name, point in points.items()}
