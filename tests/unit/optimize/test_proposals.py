"""Levers in one form: values by arithmetic, reasons kept, unknown stays unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lepton_etl.optimize.consolidate import Rules, consolidate
from lepton_etl.optimize.idle import Waste
from lepton_etl.optimize.proposals import cooling, from_consolidation, from_plan, from_waste
from lepton_etl.optimize.schedule.outcome import Estimate
from lepton_etl.optimize.schedule.plan import plan
from tests.unit.optimize.schedule.problems import flat, job, problem, site, wave
from tests.unit.optimize.test_consolidate import node

HERE = site(intensity=wave([0.4] * 6, half=0.1), price=flat(0.2), overhead=0.5)


def test_moved_jobs_and_refused_ones_become_proposals_and_the_rest_does_not() -> None:
    jobs = [job("moves"), job("stays", deadline_h=2), job("never", units=99.0)]
    made = plan(problem(jobs, sites=[site(intensity=wave([0.5, 0.5, 0.5, 0.5, 0.1, 0.1]))]), seconds=5)
    by_id = {one.subject_id: one for one in from_plan(made)}
    assert set(by_id) == {"moves", "never"}
    assert by_id["moves"].parameters["hours"] == [4, 5]
    assert by_id["moves"].saving_kgco2e.value == pytest.approx(0.8)
    assert by_id["moves"].delay_h.value == 4.0
    assert "asks 99" in str(by_id["never"].reason) and np.isnan(by_id["never"].saving_kwh.value)


def test_a_sleeping_node_saves_overhead_carbon_and_money_too() -> None:
    made = consolidate([node("a"), node("b")], {"c": np.zeros(6)}, 0.9, Rules(1, 0.0))
    down, kept = from_consolidation(made, HERE)
    it_kwh = 0.35 * 5.5 - 0.2
    assert down.saving_kwh.value == pytest.approx(1.5 * it_kwh)
    assert down.baseline_kwh == pytest.approx(1.5 * 2.4)
    assert down.saving_kgco2e.value == pytest.approx(0.4 * 1.5 * it_kwh)
    assert down.saving_kgco2e.lower == pytest.approx(0.3 * down.saving_kwh.lower)
    assert down.saving_kgco2e.upper == pytest.approx(0.5 * down.saving_kwh.upper)
    assert down.saving_money.value == pytest.approx(0.2 * 1.5 * it_kwh)
    assert kept.subject_id == "b" and kept.reason is not None


def test_waste_goes_on_for_the_hours_ahead_and_no_price_is_no_money() -> None:
    (one,) = from_waste(
        [Waste("zombie", "j", ("n",), 4, 2.0, 2.0, 1.8, 2.2)], replace(HERE, price_per_kwh=None)
    )
    assert (one.lever, one.subject_kind) == ("zombie", "job")
    assert one.saving_kwh.value == pytest.approx(6 * 0.5 * 1.5)
    assert np.isnan(one.saving_money.value)


def test_cooling_is_valued_as_facility_energy_or_says_why_not() -> None:
    points = np.full(6, 22.0), np.full(6, 0.6)
    one = cooling(HERE, *points, 100.0, Estimate(10.0, 5.0, 12.0), None)
    assert one.saving_kgco2e == Estimate(pytest.approx(4.0), pytest.approx(1.5), pytest.approx(6.0))
    none = cooling(HERE, *points, 100.0, Estimate(10.0, 5.0, 12.0), "cooling is not told apart")
    assert none.reason and np.isnan(none.saving_kwh.value)
