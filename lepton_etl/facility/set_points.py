"""Find the cheapest supply temperature and air flow of the cooling, for one hour or for the hours ahead.

A result is a figure of a model, not a reading. Around the fitted overhead stands the design data that the
settings state. With supply T, flow f (a share of the rated flow), heat Q and wet bulb W:

    E(T, f) = E_h (1 + s max(T_in - T_knee, 0)) + (E_c - P f0^3) max(1 - g (T - T0), 0) + P f^3 + E_m
    T_in    = T + r max(1 - f / f_need, 0) dT    hot air returns to the inlets when the fans give too little
    Q      <= C f (T_out - T)                    the air removes at least the heat

E_h is the IT energy at the present set point (T0, f0), where E_c(Q, W) and E_m are the fit's; P is the fans'
power at rated flow, C the heat that the rated flow takes per kelvin. A linear E = k2 Q + k1 Q + E_m has its
minimum at Q = 0 and is no objective.

Over several hours IT power may answer to its inlet air by the servers' fans and leakage. Hours hang together
by the rate of change that ASHRAE allows, so the cheapest path through a grid of points is sought by dynamic
programming, then again on finer grids around it. Inlets keep to an ASHRAE envelope with its humidity.
Sources: affinity law (fans by the cube of flow); ASHRAE TC 9.9 (2021) for inlet bounds; Bellman, Dynamic
Programming (1957); Luus, Iterative Dynamic Programming (2000), for the finer grids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from lepton_etl.config.sections import OperatingSettings
from lepton_etl.facility.fit import FacilityFit, predict_overhead
from lepton_etl.facility.hours import Bools, Floats

_TRIPLE_POINT_C: Final = 0.01


@dataclass(frozen=True, slots=True)
class Envelope:
    """Bounds of inlet air: dry bulb and dew point, degC, relative humidity as a ratio."""

    dry_bulb_c: tuple[float, float]
    dew_point_c: tuple[float, float]
    humidity_ratio: tuple[float, float]

    def holds(self, inlet_c: Floats, dew_point_c: float) -> Bools:
        """Whether air of this dew point is inside by dry bulb and relative humidity; NaN dew point: by dry bulb.

        The dew point's own bounds are not looked at: no supply temperature mends them (`dew_point_reason`).
        """
        low_c, high_c = self.dry_bulb_c
        inside = (inlet_c >= low_c - 1e-9) & (inlet_c <= high_c + 1e-9)
        if np.isfinite(dew_point_c):
            humid = relative_humidity(inlet_c, dew_point_c)
            inside &= (humid >= self.humidity_ratio[0]) & (humid <= self.humidity_ratio[1])
        return np.asarray(inside)

    def dew_point_reason(self, dew_point_c: Floats) -> str | None:
        """Hours, by row, in which the room's dew point itself is out of bounds; None: in none."""
        low_c, high_c = self.dew_point_c
        out = np.flatnonzero((dew_point_c < low_c) | (dew_point_c > high_c))
        if not len(out):
            return None
        worst = float(dew_point_c[out[np.argmax(np.abs(dew_point_c[out] - (low_c + high_c) / 2))]])
        return f"dew point {worst:.1f} degC outside {low_c:g} to {high_c:g} in {len(out)} h: humidity, not supply"


# Source: ASHRAE TC 9.9, Thermal Guidelines for Data Processing Environments, 5th edition (2021).
ENVELOPES: Final = {
    "recommended": Envelope((18.0, 27.0), (-9.0, 15.0), (0.0, 0.70)),
    "A1": Envelope((15.0, 32.0), (-12.0, 17.0), (0.08, 0.80)),
    "A2": Envelope((10.0, 35.0), (-12.0, 21.0), (0.08, 0.80)),
    "A3": Envelope((5.0, 40.0), (-12.0, 24.0), (0.08, 0.85)),
    "A4": Envelope((5.0, 45.0), (-12.0, 24.0), (0.08, 0.90)),
}


def relative_humidity(dry_bulb_c: Floats, dew_point_c: float) -> Floats:
    """Relative humidity, a ratio, at dry bulbs of any shape; air at or below its dew point is saturated."""
    return np.asarray(
        _saturation_pa(np.float64(dew_point_c)) / _saturation_pa(np.maximum(dry_bulb_c, dew_point_c))
    )


def _saturation_pa(temp_c: Floats | np.float64) -> Floats:
    """Pressure of saturated water vapour, Pa, over ice below the triple point, -100 to 200 degC.

    Source: ASHRAE Handbook Fundamentals (2017), chapter 1, equations 5 and 6.
    """
    kelvin = temp_c + 273.15
    ice = (
        -5.6745359e3 / kelvin + 6.3925247 - 9.677843e-3 * kelvin + 6.2215701e-7 * kelvin**2
        + 2.0747825e-9 * kelvin**3 - 9.484024e-13 * kelvin**4 + 4.1635019 * np.log(kelvin)
    )  # fmt: skip
    water = (
        -5.8002206e3 / kelvin + 1.3914993 - 4.8640239e-2 * kelvin + 4.1764768e-5 * kelvin**2
        - 1.4452093e-8 * kelvin**3 + 6.5459673 * np.log(kelvin)
    )  # fmt: skip
    return np.exp(np.where(temp_c <= _TRIPLE_POINT_C, ice, water))


@dataclass(frozen=True, slots=True)
class InletResponse:
    """IT power by inlet temperature: server fans speed up above a knee, by the cube; leakage rises all along.

    `fan_ratio` is the fans' share of IT power at or below `fan_knee_c`; their speed rises by `fan_speed_per_k` of its
    value there for each kelvin above it, up to `fan_speed_max_ratio`. `leakage_per_k` is the share by which the rest
    rises per kelvin. Source: affinity law; ASHRAE TC 9.9 (2021) on server fans and leakage against inlet temperature.
    """

    fan_ratio: float
    fan_knee_c: float
    fan_speed_per_k: float
    fan_speed_max_ratio: float
    leakage_per_k: float

    def ratio(self, inlet_c: Floats) -> Floats:
        """IT power over that at the fans' knee, any shape."""
        speed = np.minimum(
            1 + self.fan_speed_per_k * np.maximum(inlet_c - self.fan_knee_c, 0.0), self.fan_speed_max_ratio
        )
        leakage = np.maximum(1 + self.leakage_per_k * (inlet_c - self.fan_knee_c), 0.0)
        return np.asarray(self.fan_ratio * speed**3 + (1 - self.fan_ratio) * leakage)


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
    from scipy.optimize import minimize

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


_SUPPLY_POINTS: Final = 37
_FLOW_POINTS: Final = 19
_FINER: Final = 3  # times, each a third as wide
_AROUND: Final = 5  # points each way of the next grid
# By how much the design data's chiller gain may be off, where nothing better is known.
GAIN_ERROR_RATIO: Final = 0.3


@dataclass(frozen=True, slots=True)
class OperatingHours:
    """A path of set points, arrays (H,), and its energy beside the present set point's, kWh, with a 90 % interval.

    `reason` set: nothing is promised, and every figure is NaN. `warnings` are what no set point can mend.
    """

    supply_temp_c: Floats
    flow_ratio: Floats
    inlet_temp_c: Floats
    baseline_kwh: float
    total_kwh: float
    saving_kwh: float
    saving_lower_kwh: float
    saving_upper_kwh: float
    reason: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Hours:
    """IT energy and cooling at the present set point, kWh (H,), and the design."""

    it_kwh: Floats
    cooling_kwh: Floats
    management_kwh: float
    plant: OperatingSettings
    response: InletResponse | None

    def inlet_c(self, supply_c: Floats, flow: Floats) -> Floats:
        missing = np.maximum(1.0 - flow / self.plant.flow_need_ratio, 0.0)
        return np.asarray(supply_c + self.plant.recirculation_ratio * missing * self.plant.rise_k)

    def it(self, hour: int, inlet_c: Floats) -> Floats:
        now_c = self.inlet_c(np.array(self.plant.supply_temp_c), np.array(self.plant.flow_ratio))
        return np.asarray(self.it_kwh[hour] * self._power(inlet_c) / self._power(now_c))

    def total(
        self, hour: int, supply_c: Floats, flow: Floats, gain: float = 1.0, cooling: float = 1.0
    ) -> Floats:
        """Facility energy of an hour without conversion losses; `gain`, `cooling` scale what is not known well."""
        plant, fans_kwh = self.plant, self.plant.fan_power_w / 1000
        lifted = max(self.cooling_kwh[hour] * cooling - fans_kwh * plant.flow_ratio**3, 0.0)
        eased = np.maximum(1.0 - gain * plant.chiller_gain_per_k * (supply_c - plant.supply_temp_c), 0.0)
        it = self.it(hour, self.inlet_c(supply_c, flow))
        return np.asarray(it + lifted * eased + fans_kwh * flow**3 + self.management_kwh)

    def takes_heat(self, hour: int, supply_c: Floats, flow: Floats) -> Bools:
        taken = self.plant.heat_w_per_k / 1000 * flow * (self.plant.outlet_max_c - supply_c)
        return np.asarray(taken >= self.it(hour, self.inlet_c(supply_c, flow)) * (1 - 1e-9))

    def _power(self, inlet_c: Floats) -> Floats:
        if self.response is not None:
            return self.response.ratio(inlet_c)
        return np.asarray(1 + self.plant.it_rise_per_k * np.maximum(inlet_c - self.plant.it_knee_c, 0.0))


def operating_hours(
    fit: FacilityFit,
    plant: OperatingSettings,
    it_kwh: Floats,
    wet_bulb_c: Floats,
    *,
    deployable: bool,
    ramp_k_per_h: float = 20.0,
    response: InletResponse | None = None,
    dew_point_c: Floats | None = None,
    gain_error_ratio: float = GAIN_ERROR_RATIO,
) -> OperatingHours:
    """The cheapest path over H hours of forecast IT energy (H,), kWh, outdoor wet bulb (H,) and room dew point (H,).

    `deployable` keeps inlets in the envelope of `plant.inlet_class`, flow in the fans' range and both supply and inlet
    within `ramp_k_per_h` from hour to hour, the present set point before the first; otherwise only what the equations
    hold for. The interval is over what the fit's forward test and `gain_error_ratio` leave open, at the same path.
    """
    hours = len(it_kwh)
    why = _why_not(fit, it_kwh, wet_bulb_c)
    if why is not None:
        return _nothing(hours, why)
    made = predict_overhead(fit, it_kwh, wet_bulb_c)
    assert made.cooling_kwh is not None and fit.management_kwh is not None
    day = _Hours(it_kwh, made.cooling_kwh, fit.management_kwh, plant, response)
    dew_c = np.full(hours, np.nan) if dew_point_c is None else dew_point_c
    ramp = ramp_k_per_h if deployable else np.inf
    path = _cheapest(day, deployable, ramp, dew_c)
    if isinstance(path, str):
        return _nothing(hours, path)
    supply, flow = path
    warned = ENVELOPES[plant.inlet_class].dew_point_reason(dew_c) if deployable else None
    now = np.array([day.total(h, *_now(plant)) for h in range(hours)]).sum()
    then = sum(float(day.total(h, supply[h], flow[h])) for h in range(hours))
    corners = [
        _saving(day, supply, flow, gain, cooling)
        for gain in (1 - gain_error_ratio, 1 + gain_error_ratio)
        for cooling in (fit.low_ratio, fit.high_ratio)
    ]
    return OperatingHours(
        supply, flow, day.inlet_c(supply, flow), float(now), then, float(now) - then,
        min(*corners, float(now) - then), max(*corners, float(now) - then),
        warnings=() if warned is None else (warned,),
    )  # fmt: skip


def _why_not(fit: FacilityFit, it_kwh: Floats, wet_bulb_c: Floats) -> str | None:
    if fit.management_kwh is None:
        return "one overhead is metered: cooling is not told apart"
    if fit.identified.reasons:
        return "; ".join(fit.identified.reasons)
    if not fit.accepted:
        return "; ".join(fit.refused)
    if not (np.isfinite(it_kwh).all() and np.isfinite(wet_bulb_c).all()):
        return "IT energy or wet bulb unknown in some hour ahead"
    return None


def _nothing(hours: int, reason: str) -> OperatingHours:
    unknown, nan = np.full(hours, np.nan), float("nan")
    return OperatingHours(unknown, unknown, unknown, nan, nan, nan, nan, nan, reason)


def _now(plant: OperatingSettings) -> tuple[Floats, Floats]:
    return np.array(plant.supply_temp_c), np.array(plant.flow_ratio)


def _saving(day: _Hours, supply: Floats, flow: Floats, gain: float, cooling: float) -> float:
    return sum(
        float(day.total(h, *_now(day.plant), gain, cooling) - day.total(h, supply[h], flow[h], gain, cooling))
        for h in range(len(supply))
    )


def _cheapest(day: _Hours, deployable: bool, ramp: float, dew_c: Floats) -> tuple[Floats, Floats] | str:
    """Supply and flow by hour, or why there is no path."""
    plant = day.plant
    supply_c = ENVELOPES[plant.inlet_class].dry_bulb_c if deployable else PHYSICAL_SUPPLY_C
    flows = (plant.flow_min_ratio, plant.flow_max_ratio) if deployable else PHYSICAL_FLOW
    hours = len(day.it_kwh)
    steps = (
        (supply_c[1] - supply_c[0]) / (_SUPPLY_POINTS - 1), (flows[1] - flows[0]) / (_FLOW_POINTS - 1),
    )  # fmt: skip
    wide = np.linspace(*supply_c, _SUPPLY_POINTS), np.linspace(*flows, _FLOW_POINTS)
    path = _through(day, [wide] * hours, deployable, ramp, dew_c)
    if isinstance(path, str):
        return path
    reach = np.arange(-_AROUND, _AROUND + 1) / _AROUND
    for finer in range(_FINER):
        width = 1 / 3**finer
        grids = [
            (
                np.unique(np.clip(path[0][h] + reach * steps[0] * width, *supply_c)),
                np.unique(np.clip(path[1][h] + reach * steps[1] * width, *flows)),
            )
            for h in range(hours)
        ]
        better = _through(day, grids, deployable, ramp, dew_c)
        if isinstance(better, str):
            break
        path = better
    return path


def _through(
    day: _Hours, grids: list[tuple[Floats, Floats]], deployable: bool, ramp: float, dew_c: Floats
) -> tuple[Floats, Floats] | str:
    """The cheapest path through the hours' grids by dynamic programming."""
    envelope = ENVELOPES[day.plant.inlet_class]
    supply_now, flow_now = _now(day.plant)
    before = supply_now[None], flow_now[None], day.inlet_c(supply_now, flow_now)[None]
    cost, states, came_from = np.zeros(1), [], []
    for hour, (supplies, flows) in enumerate(grids):
        supply, flow = (one.ravel() for one in np.meshgrid(supplies, flows, indexing="ij"))
        inlet = day.inlet_c(supply, flow)
        allowed = day.takes_heat(hour, supply, flow)
        if not allowed.any():
            return f"hour {hour}: no point takes the heat of {day.it_kwh[hour]:.0f} kWh"
        if deployable:
            allowed &= envelope.holds(inlet, float(dew_c[hour]))
            if not allowed.any():
                return f"hour {hour}: no point keeps the {day.plant.inlet_class} envelope and takes the heat"
        supply, flow, inlet = supply[allowed], flow[allowed], inlet[allowed]
        reaches = (
            np.maximum(np.abs(before[0][:, None] - supply), np.abs(before[2][:, None] - inlet)) <= ramp + 1e-9
        )
        arriving = np.where(reaches, cost[:, None], np.inf)
        origin = arriving.argmin(axis=0)
        cost = arriving[origin, np.arange(len(supply))] + day.total(hour, supply, flow)
        if not np.isfinite(cost).any():
            return f"hour {hour}: no allowed point within {ramp:g} K/h of the hour before"
        before = supply, flow, inlet
        states.append((supply, flow))
        came_from.append(origin)
    at = int(cost.argmin())
    path = []
    for (supply, flow), origin in zip(reversed(states), reversed(came_from), strict=True):
        path.append((supply[at], flow[at]))
        at = int(origin[at])
    found = np.array(path[::-1])
    return found[:, 0], found[:, 1]
