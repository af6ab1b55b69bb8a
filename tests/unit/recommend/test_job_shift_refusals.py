"""What cannot be planned is named: which job, which constraint, which hours; the rest is planned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lepton_etl.recommend.job_problem import Job, Objective
from lepton_etl.recommend.job_shift import Plan, plan
from tests.unit.recommend.job_problems import flat, group, job, problem, site, wave

NAN = float("nan")


def answers(made: Plan) -> dict[str, tuple[str, str | None]]:
    return {one.job_id: (one.status, one.reason) for one in made.jobs}


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        (job("x", deadline_h=1), "infeasible", "deadline 1 lies before release 0 + 2 h"),
        (job("x", units=9.0), "infeasible", "asks 9 gpu, no allowed group has more than 4"),
        (job("x", allowed=()), "infeasible", "no allowed group with gpu: allowed none"),
        (job("x", allowed=("mars",)), "infeasible", "allowed mars"),
        (job("x", group_id="gone"), "infeasible", "group gone"),
        (job("x", unit="core"), "infeasible", "asks core"),
        (job("x", power_w=NAN), "infeasible", "mean power unknown"),
        (job("x", duration_h=0.0), "infeasible", "duration 0.0 h"),
        (job("x", deadline_h=90, duration_h=20.0), "unchanged", "runs past the 6 h of the forecast"),
        (job("x", release_h=5, deadline_h=99), "unchanged", "runs past"),
    ],
)
def test_a_job_that_cannot_be_planned_says_why_and_the_rest_is(wrong: Job, status: str, words: str) -> None:
    made = plan(problem([job("good"), wrong]), seconds=5)
    said = answers(made)
    assert said["x"][0] == status and words in str(said["x"][1])
    assert said["good"] == ("planned", None)
    (good,) = [one for one in made.jobs if one.job_id == "good"]
    assert good.hours == (2, 3)


def test_full_hours_are_named() -> None:
    full = plan(problem([job("x", units=2.0)], [group(capacity=[2, 1, 2, 1, 2, 1])]), seconds=5)
    assert "full in 1, 3, 5" in str(answers(full)["x"][1])
    none = plan(problem([job("x", units=2.0)], [group(capacity=[1, 1, 1, 1, 1, 1, ][:6])]), seconds=5)  # fmt: skip
    assert "no allowed group has more than 1" in str(answers(none)["x"][1])
    late = plan(problem([job("x", units=2.0, release_h=3)], [group(capacity=[2, 2, 2, 0, 0, 0])]), seconds=5)
    assert "no capacity for 2 gpu in hours 3 to 5" in str(answers(late)["x"][1])


def test_jobs_that_take_each_others_room_are_told_apart_from_impossible_ones() -> None:
    jobs = [job(f"j{i}", duration_h=6.0) for i in range(6)]
    said = answers(plan(problem(jobs), seconds=5))
    assert sorted(status for status, _ in said.values()) == ["infeasible"] * 2 + ["planned"] * 4
    assert all("beside the other jobs in hours 0 to 5" in str(why) for status, why in said.values() if why)


def test_a_missing_price_or_intensity_holds_the_job_where_the_objective_needs_it() -> None:
    cost, carbon = Objective(per_money=1.0), Objective(per_kgco2e=1.0)
    bare = [site(price=None, intensity=None)]
    assert answers(plan(problem([job()], sites=bare, objective=cost), seconds=5))["j"][0] == "unchanged"
    assert "price unknown at site here" in str(
        answers(plan(problem([job()], sites=bare, objective=cost), seconds=5))["j"][1]
    )
    assert "intensity unknown at site here" in str(
        answers(plan(problem([job()], sites=bare, objective=carbon), seconds=5))["j"][1]
    )
    energy = plan(problem([job()], sites=bare, objective=Objective(per_kwh=1.0)), seconds=5)
    assert answers(energy)["j"] == ("planned", None)
    assert np.isnan(energy.savings.emissions_kgco2e.value) and np.isnan(energy.savings.money.value)
    assert energy.savings.energy_kwh.value == 0.0


def test_an_hour_without_intensity_is_never_planned() -> None:
    made = plan(
        problem([job(duration_h=1.0)], sites=[site(intensity=wave([0.5, NAN, NAN, 0.4, 0.45, 0.9]))]),
        seconds=5,
    )
    assert made.jobs[0].hours == (3,)


def test_a_claim_of_two_carbon_methods_is_refused_and_holds_every_job() -> None:
    sites = [
        site("here", flat(0.4)),
        replace(site("there", flat(0.1)), carbon_method="market"),
    ]
    groups = [group(), group("h", "there")]
    made = plan(problem([job(allowed=("here", "there"))], groups, sites), seconds=5)
    assert made.jobs[0].status == "unchanged"
    assert "one carbon method per claim" in str(made.jobs[0].reason)
    assert any(word.startswith("refused") for word in made.notes)


def test_no_job_no_group_and_a_group_of_no_site_give_an_answer() -> None:
    assert plan(problem([]), seconds=5).jobs == ()
    made = plan(problem([job()], [group(at="nowhere")]), seconds=5)
    assert made.jobs[0].status == "infeasible"
    assert "site nowhere" in made.notes[0]
    twice = plan(problem([job(), job()]), seconds=5)
    assert len(twice.jobs) == 1 and "stands twice" in twice.notes[0]
    short = plan(problem([job()], [replace(group(), capacity=np.ones(3))]), seconds=5)
    assert "3 hours of capacity, 6 planned" in short.notes[0]


def test_an_objective_without_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="one above 0"):
        Objective()
    with pytest.raises(ValueError, match="risk quantile"):
        Objective(per_kwh=1.0, risk_quantile=1.0)
    assert Objective(per_kwh=1.0, per_money=0.5).name == "1 energy + 0.5 cost"


def test_doubt_about_an_hour_keeps_jobs_from_it() -> None:
    """Two hours of nearly equal expectation; the cleaner one is hardly known."""
    values, half = [0.30, 0.9, 0.9, 0.29, 0.9, 0.9], np.array([0.01, 0, 0, 0.2, 0, 0])
    expected = np.array(values)
    doubt = site(intensity=wave(values))
    doubt = replace(
        doubt, intensity_kg_per_kwh=replace(flat(0.0), expected=expected, lower=expected - half, upper=expected + half)
    )  # fmt: skip
    for quantile, hour in ((0.5, 3), (0.7, 0)):
        asked = Objective(per_kgco2e=1.0, risk_quantile=quantile)
        made = plan(problem([job(duration_h=1.0)], sites=[doubt], objective=asked), seconds=5)
        assert made.jobs[0].hours == (hour,)


def test_a_job_that_gains_nothing_stays_where_it_was() -> None:
    made = plan(problem([job()], sites=[site(intensity=flat(0.3))]), seconds=5)
    assert not made.jobs[0].moved
    assert made.jobs[0].finish_delay_h == 0


def test_a_marginal_curve_that_flattens_leaves_its_group_out() -> None:
    falling = replace(group(), marginal_power_w=((2.0, 300.0), (4.0, 100.0)))
    made = plan(problem([job()], [falling]), seconds=5)
    assert answers(made)["j"][0] == "infeasible" and "must rise with the units" in made.notes[0]
