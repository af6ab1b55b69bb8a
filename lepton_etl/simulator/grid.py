"""Hourly carbon intensity of an invented grid zone: demand, sun and wind decide how much gas and coal runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.plan import FleetPlan

Array = NDArray[np.float64]

# Direct and life-cycle factors, g/kWh. Source: IPCC AR5 WG3 Annex III, medians (gas combined cycle, wind,
# sun), direct part of gas and coal as in the same table; rounded.
GAS_DIRECT: Final = 370.0
COAL_DIRECT: Final = 760.0
GAS_UPSTREAM: Final = 120.0
COAL_UPSTREAM: Final = 60.0
CLEAN_LIFECYCLE: Final = 20.0
ESTIMATED_SHARE: Final = 0.04


@dataclass(frozen=True, slots=True)
class GridHours:
    """One value an hour: intensities in gCO2e/kWh, shares in percent, estimated or not."""

    direct_g_per_kwh: Array
    lifecycle_g_per_kwh: Array
    low_carbon_percent: Array
    renewable_percent: Array
    estimated: NDArray[np.bool_]


def grid_hours(plan: FleetPlan) -> GridHours:
    """The zone's hours, labelled by their start; wind is AR(1) noise from each day's own stream."""
    hours = plan.days * 24
    streams = [plan.rng("grid", plan.first_date.toordinal() + day) for day in range(plan.days)]
    white = np.concatenate([rng.standard_normal(24) for rng in streams])
    estimated = np.concatenate([rng.random(24) for rng in streams]) < ESTIMATED_SHARE
    gusts = np.empty(hours)
    level = white[0]
    for hour in range(hours):
        level = 0.95 * level + np.sqrt(1 - 0.95**2) * white[hour]
        gusts[hour] = level
    local = np.arange(hours) + plan.local_offset_h + 0.5
    day_of_year = plan.start_time.timetuple().tm_yday + np.arange(hours) / 24.0
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (day_of_year - 10.0) / 365.25)
    height = np.cos(2 * np.pi * (local - 12.5) / 24.0)
    sun = (0.08 + 0.16 * summer) * np.maximum(height - 0.25 + 0.35 * summer, 0.0)
    wind = np.clip(0.22 + 0.09 * gusts, 0.02, 0.6)
    demand = 1.0 + 0.12 * np.cos(2 * np.pi * (local - 18.0) / 24.0)
    renewable = np.minimum((sun + wind) / demand, 0.75)
    nuclear = np.minimum(0.2 / demand, 1 - renewable)
    fossil = 1.0 - renewable - nuclear
    coal = np.clip(fossil - 0.35, 0.0, 0.35) * 0.5
    gas = fossil - coal
    direct = gas * GAS_DIRECT + coal * COAL_DIRECT
    upstream = gas * GAS_UPSTREAM + coal * COAL_UPSTREAM + (renewable + nuclear) * CLEAN_LIFECYCLE
    return GridHours(direct, direct + upstream, (1 - fossil) * 100, renewable * 100, estimated)
