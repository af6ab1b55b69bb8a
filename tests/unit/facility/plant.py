"""Hours of a simulated building: its cooling follows other equations than the model that is fitted to it."""

from __future__ import annotations

from datetime import date

import numpy as np
from numpy.typing import NDArray

from lepton_etl.facility.hours import PlantHours
from lepton_etl.simulator.facility import facility, ratings
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.weather import weather

FIRST_DAY = date(2025, 4, 1)


def simulated(days: int, *, seed: int = 1, first: date = FIRST_DAY, sub_metered: bool = True) -> PlantHours:
    """The true hours of a 1 MW site whose load wanders; without sub-meters only the boundary is known."""
    plan = FleetPlan(
        seed=seed,
        clusters=(ClusterPlan(cluster_id="c01", nodes=1, hardware_class="cpu-2s"),),
        first_date=first,
        days=days,
    )
    hours = days * 24
    rng = np.random.default_rng(seed)
    wander = np.zeros(hours)
    for hour in range(1, hours):
        wander[hour] = 0.95 * wander[hour - 1] + 0.03 * rng.standard_normal()
    load = np.clip(0.6 + wander + 0.08 * np.sin(np.arange(hours) / 24 * 2 * np.pi), 0.25, 0.95)
    outside = weather(plan)
    site = facility(np.repeat(load * 1e6, 60), outside, ratings(1e6), 0.0)
    unknown = np.full(hours, np.nan)
    it_kwh = _hourly(site.nodes_w + site.it_overhead_w) / 60_000
    cooling, management = _hourly(site.cooling_w) / 60_000, _hourly(site.management_w) / 60_000
    return PlantHours(
        hour=(first.toordinal() - date(1970, 1, 1).toordinal()) * 24 + np.arange(hours),
        it_kwh=it_kwh,
        wet_bulb_c=_hourly(outside.wet_bulb_c[:-1]) / 60,
        cooling_kwh=cooling if sub_metered else unknown,
        management_kwh=management if sub_metered else unknown,
        overhead_kwh=cooling + management if sub_metered else _hourly(site.demand_w) / 60_000 - it_kwh,
        loss_kwh=_hourly(site.conversion_loss_w) / 60_000 if sub_metered else unknown,
        heat_kwh=_hourly(site.heat_w) / 60_000,
    )


def _hourly(minutes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(minutes.reshape(-1, 60).sum(axis=1), dtype=np.float64)
