"""Outdoor weather of the site: dry bulb and wet bulb on the minute, by season, hour and passing fronts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.plan import FleetPlan

Array = NDArray[np.float64]

MINUTES_PER_DAY: Final = 1440
YEAR_MEAN_C: Final = 11.5
SEASON_K: Final = 11.0
DAILY_K: Final = 4.5
FRONT_K: Final = 3.2  # standard deviation of the synoptic noise
FRONT_TAU_H: Final = 40.0


@dataclass(frozen=True, slots=True)
class Weather:
    """Dry and wet bulb, degC, and relative humidity (ratio) by the minute, the last midnight included."""

    dry_bulb_c: Array
    wet_bulb_c: Array
    humidity_ratio: Array


def wet_bulb_c(dry_bulb_c: Array, humidity_ratio: Array) -> Array:
    """Wet-bulb temperature at sea-level pressure, degC; good to 1 K for 5..99 % and -20..50 degC.

    Source: Stull, Wet-bulb temperature from relative humidity and air temperature, JAMC 50 (2011), eq. 1.
    """
    percent = humidity_ratio * 100.0
    return np.asarray(
        dry_bulb_c * np.arctan(0.151977 * np.sqrt(percent + 8.313659))
        + np.arctan(dry_bulb_c + percent)
        - np.arctan(percent - 1.676331)
        + 0.00391838 * percent**1.5 * np.arctan(0.023101 * percent)
        - 4.686035,
        dtype=np.float64,
    )


def _hourly_noise(plan: FleetPlan, name: str, tau_h: float) -> Array:
    """Unit-variance AR(1) at each hour of the plan and one more, each day from its own stream."""
    keep = float(np.exp(-1.0 / tau_h))
    draws = [
        plan.rng(name, plan.first_date.toordinal() + day).standard_normal(24) for day in range(plan.days + 1)
    ]
    noise = np.concatenate(draws)[: plan.days * 24 + 1]
    noise[1:] *= np.sqrt(1 - keep**2)
    for hour in range(1, len(noise)):
        noise[hour] += keep * noise[hour - 1]
    return noise


def weather(plan: FleetPlan) -> Weather:
    """The plan's weather: northern mid-latitudes, coldest in January, warmest at 15:00 local time."""
    hours = np.arange(plan.days * 24 + 1)
    minutes = np.arange(plan.days * MINUTES_PER_DAY + 1)
    day_of_year = plan.start_time.timetuple().tm_yday + minutes / MINUTES_PER_DAY
    local_hour = minutes / 60.0 + plan.local_offset_h
    front = np.interp(minutes / 60.0, hours, _hourly_noise(plan, "fronts", FRONT_TAU_H))
    moisture = np.interp(minutes / 60.0, hours, _hourly_noise(plan, "moisture", FRONT_TAU_H / 2))
    daily = np.cos(2 * np.pi * (local_hour - 15.0) / 24.0)
    dry = (
        YEAR_MEAN_C
        - SEASON_K * np.cos(2 * np.pi * (day_of_year - 20.0) / 365.25)
        + DAILY_K * daily
        + FRONT_K * front
    )
    humidity = np.clip(0.68 - 0.14 * daily + 0.10 * moisture, 0.15, 0.99)
    return Weather(dry, np.minimum(wet_bulb_c(dry, humidity), dry), humidity)


def supply_air_c(site_weather: Weather) -> Array:
    """Temperature of the air the cooling delivers, degC: a set point of 21 that gives way on humid days."""
    return np.asarray(21.0 + 0.22 * np.maximum(site_weather.wet_bulb_c - 15.0, 0.0), dtype=np.float64)
