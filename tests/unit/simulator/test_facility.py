"""The building: closed accounts, cooling that is no constant share, weather and grid in their ranges."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from lepton_etl.simulator.facility import chiller_w, facility, ratings
from lepton_etl.simulator.grid import grid_hours
from lepton_etl.simulator.on_site import PV_RATING, supply
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan, LocalSource
from lepton_etl.simulator.weather import weather, wet_bulb_c

YEAR = FleetPlan(
    seed=1,
    clusters=(ClusterPlan(cluster_id="c01", nodes=1, hardware_class="cpu-2s"),),
    first_date=date(2025, 1, 1),
    days=365,
)


def test_the_demand_is_the_sum_of_the_accounts_and_pue_follows_the_seasons() -> None:
    site_weather = weather(YEAR)
    nodes_w = np.full(YEAR.days * 1440, 600_000.0)
    site = facility(nodes_w, site_weather, ratings(1_000_000.0), 0.0)
    parts = nodes_w + site.it_overhead_w + site.conversion_loss_w + site.cooling_w + site.management_w
    assert np.allclose(site.demand_w, parts, rtol=1e-12, atol=0.0)
    pue = site.demand_w / (nodes_w + site.it_overhead_w)
    january, july = pue[: 31 * 1440].mean(), pue[181 * 1440 : 212 * 1440].mean()
    assert 1.08 < january < july < 1.5


def test_meters_nest() -> None:
    site = facility(np.full(365 * 1440, 5e5), weather(YEAR), ratings(1e6), 0.0)
    assert np.all(site.demand_w > site.ups_in_w + site.cooling_w + site.management_w)
    assert np.all(site.ups_in_w > site.ups_out_w)
    assert np.all(site.ups_out_w > site.nodes_w + site.it_overhead_w)


def test_the_tower_draws_more_water_on_warm_days_and_within_what_towers_draw() -> None:
    site = facility(np.full(365 * 1440, 5e5), weather(YEAR), ratings(1e6), 0.0)
    days_l = site.make_up_l.reshape(365, -1).sum(axis=1)
    assert days_l[180:240].mean() > 1.2 * days_l[:30].mean()
    it_kwh = float((site.nodes_w + site.it_overhead_w).sum()) / 60_000.0
    assert 0.8 < days_l.sum() / it_kwh < 2.5


def test_panels_rest_at_night_and_a_battery_never_gives_more_than_it_took() -> None:
    plan = YEAR.model_copy(update={"local_sources": tuple(LocalSource)})
    sizes = ratings(1e6)
    demand_w = np.full(365 * 1440, 8e5)
    given = supply(plan, demand_w, weather(plan), sizes)
    by_hour = given.pv_w.reshape(365, 24, 60).mean(axis=(0, 2))
    assert by_hour[[0, 1, 2, 22, 23]].max() == 0.0
    assert by_hour.argmax() in (11, 12)
    assert 700 < given.pv_w.sum() / 60_000 / (sizes.it_w * PV_RATING / 1000) < 1200, "kWh a year and kW"
    out_kwh, in_kwh = given.battery_out_w.sum() / 60_000, given.battery_in_w.sum() / 60_000
    assert 0.85 * in_kwh < out_kwh < 0.92 * in_kwh
    balance = given.utility_w + given.pv_w + given.generator_w + given.battery_out_w
    assert np.allclose(balance - given.export_w - given.battery_in_w, demand_w)
    litres_per_kwh = given.fuel_l.sum() / (given.generator_w.sum() / 60_000)
    assert 0.25 < litres_per_kwh < 0.6


def test_cooling_is_not_a_constant_share_of_the_heat() -> None:
    heat_w = np.array([2e5, 4e5, 8e5])
    share = chiller_w(heat_w, np.full(3, 20.0), 1e6) / heat_w
    assert np.ptp(share) > 0.1 * share.mean()
    by_wet_bulb = chiller_w(np.full(4, 5e5), np.array([-5.0, 12.0, 18.0, 26.0]), 1e6)
    assert by_wet_bulb[0] == 0.0  # free cooling carries it all
    assert np.all(np.diff(by_wet_bulb) > 0)
    assert 3.5 < 5e5 / by_wet_bulb[3] < 7.0


# Exact values by psychrolib 2.5.0, GetTWetBulbFromRelHum at 101,325 Pa.
@pytest.mark.parametrize(
    ("dry_c", "humidity", "exact_c"),
    [(30.0, 0.5, 22.005), (20.0, 0.7, 16.441), (5.0, 0.8, 3.588), (38.0, 0.2, 20.767)],
)
def test_wet_bulb_agrees_with_psychrolib(dry_c: float, humidity: float, exact_c: float) -> None:
    assert wet_bulb_c(np.array([dry_c]), np.array([humidity]))[0] == pytest.approx(exact_c, abs=1.0)


def test_weather_keeps_season_hour_and_order() -> None:
    year = weather(YEAR)
    assert np.all(year.wet_bulb_c <= year.dry_bulb_c)
    assert -22 < year.dry_bulb_c.min() < 0
    assert 25 < year.dry_bulb_c.max() < 45
    hourly = year.dry_bulb_c[:-1].reshape(365, 24, 60).mean(axis=(0, 2))
    assert hourly.argmax() in (14, 15)
    assert np.abs(np.diff(year.dry_bulb_c)).max() < 0.1


def test_direct_intensity_is_below_life_cycle_and_some_hours_are_estimated() -> None:
    hours = grid_hours(YEAR)
    assert len(hours.direct_g_per_kwh) == 365 * 24
    assert np.all(hours.direct_g_per_kwh > 0)
    assert np.all(hours.direct_g_per_kwh < hours.lifecycle_g_per_kwh)
    assert 150 < hours.direct_g_per_kwh.mean() < 450
    assert 0.02 < hours.estimated.mean() < 0.06
    assert np.all(hours.renewable_percent <= hours.low_carbon_percent)
