"""Savings by arithmetic: kWh, kgCO2e, money, and their intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lepton_etl.recommend.job_problem import Objective
from lepton_etl.recommend.job_shift import plan
from tests.unit.recommend.job_problems import flat, group, job, problem, site, wave

CLEAN_LATER = [0.5, 0.5, 0.5, 0.5, 0.1, 0.1]


def test_a_shifted_job_saves_the_difference_of_its_hours() -> None:
    here = [site(intensity=wave(CLEAN_LATER), price=flat(0.2), overhead=0.25)]
    made = plan(problem([job()], sites=here), seconds=5)
    (one,) = made.jobs
    assert one.savings is not None and one.moved
    assert (one.hours, one.baseline_hours, one.finish_delay_h) == ((4, 5), (0, 1), 4)
    assert one.savings.energy_kwh.baseline == pytest.approx(2.5)
    assert one.savings.energy_kwh.value == pytest.approx(0.0)
    assert one.savings.emissions_kgco2e.baseline == pytest.approx(1.25)
    assert one.savings.emissions_kgco2e.value == pytest.approx(1.0)
    assert one.savings.money.value == pytest.approx(0.0)
    # The forecast is sure, so the interval is the job's power alone: 10 % either way.
    assert one.savings.emissions_kgco2e.lower == pytest.approx(0.9)
    assert one.savings.emissions_kgco2e.upper == pytest.approx(1.1)


def test_the_forecasts_doubt_widens_the_promise_and_common_errors_cancel() -> None:
    sure = job(power_lower_w=1000.0, power_upper_w=1000.0)
    here = [site(intensity=wave(CLEAN_LATER, half=0.05))]

    def half(correlation: float) -> float:
        made = plan(problem([sure], sites=here), seconds=5, error_correlation=correlation)
        return made.savings.emissions_kgco2e.value - made.savings.emissions_kgco2e.lower

    # Four hours of 1 kWh, two of each sign, independent: 0.05 sqrt(4).
    assert half(0.0) == pytest.approx(0.1, rel=1e-3)
    assert half(0.999999) < 0.01


def test_unknown_ends_leave_the_value_and_no_interval() -> None:
    here = site(intensity=wave(CLEAN_LATER))
    nan = np.full(6, np.nan)
    assert here.intensity_kg_per_kwh is not None
    blind = replace(here, intensity_kg_per_kwh=replace(here.intensity_kg_per_kwh, lower=nan, upper=nan))
    made = plan(problem([job()], sites=[blind]), seconds=5)
    assert made.savings.emissions_kgco2e.value == pytest.approx(0.8)
    assert np.isnan(made.savings.emissions_kgco2e.lower)


def test_a_job_leaves_its_site_only_for_more_than_the_transfer() -> None:
    sites = [site("here", flat(0.4)), site("there", flat(0.2))]
    groups = [group(), group("h", "there")]
    for transfer_kwh, place in ((0.5, "h"), (3.0, "g")):
        asked = problem([job(allowed=("here", "there"), transfer_kwh=transfer_kwh)], groups, sites)
        made = plan(asked, seconds=5)
        assert made.jobs[0].group_id == place
        if place == "h":
            assert made.savings.emissions_kgco2e.value == pytest.approx(2 * 0.2 - 0.5 * 0.2)
            assert made.savings.energy_kwh.value == pytest.approx(-0.5)


def test_woken_nodes_are_charged_to_who_uses_them() -> None:
    woken = replace(group(), marginal_power_w=((2.0, 100.0), (4.0, 300.0)))
    asked = problem(
        [job("a", deadline_h=2), job("b", deadline_h=2), job("c", deadline_h=2)], [woken],
        objective=Objective(per_kwh=1.0),
    )  # fmt: skip
    made = plan(asked, seconds=5)
    # Each hour: 3 kW of jobs, 2 x 100 W and 1 x 300 W of nodes.
    assert made.savings.energy_kwh.plan == pytest.approx(2 * 3.5)
    for one in made.jobs:
        assert one.savings is not None
        assert one.savings.energy_kwh.plan == pytest.approx(2 * 3.5 / 3)
