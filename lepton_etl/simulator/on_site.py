"""Sources beside the grid: photovoltaics, a battery, a generator; the utility gives the rest and takes the surplus.

All of them feed the switchgear in front of the transformer, so that
utility + pv + generator + battery_out - export - battery_in = demand in every minute. Arrays hold means over
one minute, W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.facility import Ratings
from lepton_etl.simulator.plan import FleetPlan, LocalSource
from lepton_etl.simulator.weather import MINUTES_PER_DAY, Weather

Array = NDArray[np.float64]

LATITUDE_DEG: Final = 50.0
PV_RATING: Final = 2.0  # over the IT rating, so that a sunny noon leaves a surplus
PERFORMANCE_RATIO: Final = 0.85  # dirt, cables, inverter
PANEL_LOSS_PER_K: Final = 0.004
BATTERY_RATING: Final = 0.25
BATTERY_HOURS: Final = 3.0
ONE_WAY_EFFICIENCY: Final = 0.95
GENERATOR_RATING: Final = 1.5
TEST_WEEKDAY: Final = 1  # Tuesday
TEST_HOURS: Final = (10.0, 10.75)


@dataclass(frozen=True, slots=True)
class Supply:
    """Where the demand of each minute came from and went to, W; `fuel_l` is burnt in the minute, L."""

    utility_w: Array
    export_w: Array
    pv_w: Array
    generator_w: Array
    battery_out_w: Array
    battery_in_w: Array
    fuel_l: Array


def supply(plan: FleetPlan, demand_w: Array, site_weather: Weather, sizes: Ratings) -> Supply:
    """The plan's local sources around a site's demand; without any, the utility gives all of it."""
    none = np.zeros(len(demand_w))
    minutes = np.arange(len(demand_w))
    local_hour = (minutes / 60.0 + plan.local_offset_h) % 24.0
    pv_w, generator_w, fuel_l, battery_out_w, battery_in_w = none, none, none, none, none
    if LocalSource.PV in plan.local_sources:
        day_of_year = plan.start_time.timetuple().tm_yday + minutes / MINUTES_PER_DAY
        pv_w = _pv_w(sizes.it_w * PV_RATING, day_of_year, local_hour, site_weather)
    if LocalSource.GENERATOR in plan.local_sources:
        weekday = (plan.first_date.weekday() + minutes // MINUTES_PER_DAY) % 7
        is_test = (weekday == TEST_WEEKDAY) & (local_hour >= TEST_HOURS[0]) & (local_hour < TEST_HOURS[1])
        generator_w = np.where(is_test, 0.6 * demand_w, 0.0)
        fuel_l = np.where(is_test, fuel_l_per_h(generator_w, sizes.it_w * GENERATOR_RATING) / 60.0, 0.0)
    if LocalSource.BATTERY in plan.local_sources:
        battery_out_w, battery_in_w = _battery_w(demand_w - pv_w - generator_w, local_hour, sizes.it_w)
    net_w = demand_w - pv_w - generator_w - battery_out_w + battery_in_w
    return Supply(
        utility_w=np.maximum(net_w, 0.0),
        export_w=np.maximum(-net_w, 0.0),
        pv_w=pv_w,
        generator_w=generator_w,
        battery_out_w=battery_out_w,
        battery_in_w=battery_in_w,
        fuel_l=fuel_l,
    )


def fuel_l_per_h(power_w: Array, rated_w: float) -> Array:
    """Diesel of a running set, L/h. Source: Skarstein and Uhlen 1989, 0.08415 L/kW rated + 0.246 L/kWh."""
    return np.asarray((0.08415 * rated_w + 0.246 * power_w) / 1000.0, dtype=np.float64)


def _pv_w(rated_w: float, day_of_year: Array, local_hour: Array, site_weather: Weather) -> Array:
    """Output of panels lying flat, W; clouds follow the humidity of the air.

    Source: Haurwitz 1945 (clear sky by solar elevation), Kasten and Czeplak 1980 (share through clouds).
    """
    latitude = np.radians(LATITUDE_DEG)
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284.0 + day_of_year) / 365.0)
    hour_angle = np.radians(15.0 * (local_hour - 12.0))
    height = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(
        hour_angle
    )
    above = np.maximum(height, 1e-3)
    clear_w_per_m2 = np.where(height > 0, 1098.0 * above * np.exp(-0.057 / above), 0.0)
    clouds = np.clip((site_weather.humidity_ratio[:-1] - 0.25) / 0.4, 0.0, 1.0)
    light = clear_w_per_m2 * (1.0 - 0.75 * clouds**3.4) / 1000.0
    warmth = 1.0 - PANEL_LOSS_PER_K * (site_weather.dry_bulb_c[:-1] + 25.0 * light - 25.0)
    return np.asarray(rated_w * PERFORMANCE_RATIO * light * warmth, dtype=np.float64)


def _battery_w(net_w: Array, local_hour: Array, it_w: float) -> tuple[Array, Array]:
    """Discharge and charge at the battery's terminals, W: it takes surplus and cheap nights, gives in the evening."""
    limit_w, capacity_wh = it_w * BATTERY_RATING, it_w * BATTERY_RATING * BATTERY_HOURS
    night = (local_hour >= 1.0) & (local_hour < 5.0)
    evening = (local_hour >= 18.0) & (local_hour < 21.0)
    out_w, in_w = np.zeros(len(net_w)), np.zeros(len(net_w))
    stored_wh = 0.3 * capacity_wh
    for minute, need_w in enumerate(net_w):
        if evening[minute] and need_w > 0:
            power_w = min(limit_w, float(need_w), stored_wh * 60.0 * ONE_WAY_EFFICIENCY)
            out_w[minute] = power_w
            stored_wh -= power_w / 60.0 / ONE_WAY_EFFICIENCY
        elif night[minute] or need_w < 0:
            wanted_w = limit_w if night[minute] else min(limit_w, -float(need_w))
            power_w = min(wanted_w, (capacity_wh - stored_wh) * 60.0 / ONE_WAY_EFFICIENCY)
            in_w[minute] = power_w
            stored_wh += power_w / 60.0 * ONE_WAY_EFFICIENCY
    return out_w, in_w
