"""Any plan keeps capacity, windows and the baseline's deadlines; small ones equal the optimum by brute force."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings

from lepton_etl.recommend.job_problem import Job, Problem
from lepton_etl.recommend.job_shift import Plan, plan
from tests.unit.recommend.job_problems import HOURS, drawn

Spot = tuple[str, tuple[int, ...]]


def need_h(asked: Problem, job: Job, group_id: str) -> int:
    groups = {group.group_id: group for group in asked.groups}
    hours = job.duration_h * groups[job.group_id].relative_speed / groups[group_id].relative_speed
    return max(int(np.ceil(hours - 1e-9)), 1)


def spots(asked: Problem, job: Job) -> list[Spot]:
    """Every place of a job, written once more from the inputs."""
    found: list[Spot] = []
    for group in asked.groups:
        named = {group.group_id, group.cluster_id, group.site_id}
        ok = group.group_id == job.group_id if job.allowed is None else bool(named & set(job.allowed))
        if not ok:
            continue
        need = need_h(asked, job, group.group_id)
        window = range(job.release_h, min(job.deadline_h, HOURS))
        for slots in combinations(window, need):
            if job.preemptible or slots[-1] - slots[0] == need - 1:
                found.append((group.group_id, slots))
    return found


def cost(asked: Problem, chosen: dict[str, Spot]) -> float:
    """The objective of places, from the inputs alone."""
    groups = {group.group_id: group for group in asked.groups}
    sites = {site.site_id: site for site in asked.sites}
    jobs = {job.job_id: job for job in asked.jobs}

    def rate(group_id: str, hour: int) -> float:
        at, weights = sites[groups[group_id].site_id], asked.objective
        assert at.intensity_kg_per_kwh is not None and at.price_per_kwh is not None
        each = (
            weights.per_kwh
            + weights.per_kgco2e * at.intensity_kg_per_kwh.expected[hour]
            + weights.per_money * at.price_per_kwh.expected[hour]
        )
        return float(each * (1 + at.overhead_ratio[hour]))

    total, used = 0.0, {name: np.zeros(HOURS) for name in groups}
    for name, (group_id, slots) in chosen.items():
        job, group, home = jobs[name], groups[group_id], groups[jobs[name].group_id]
        hours = job.duration_h * home.relative_speed / group.relative_speed
        kwh = job.power_w / 1000 * group.relative_power / home.relative_power * hours / len(slots)
        total += sum(kwh * rate(group_id, hour) for hour in slots)
        if group.site_id != home.site_id:
            total += job.transfer_kwh * rate(group_id, job.release_h)
        used[group_id][list(slots)] += job.units
    for group_id, units in used.items():
        for hour in range(HOURS):
            before, watt = 0.0, 0.0
            for upto, each in groups[group_id].marginal_power_w:
                watt += each * max(min(units[hour], upto) - before, 0.0)
                before = upto
            if groups[group_id].marginal_power_w:
                watt += max(units[hour] - before, 0.0) * groups[group_id].marginal_power_w[-1][1]
            total += watt / 1000 * rate(group_id, hour)
    return total


def has_room(asked: Problem, chosen: dict[str, Spot]) -> bool:
    jobs = {job.job_id: job for job in asked.jobs}
    for group in asked.groups:
        used = np.zeros(HOURS)
        for name, (group_id, slots) in chosen.items():
            if group_id == group.group_id:
                used[list(slots)] += jobs[name].units
        if (used > group.capacity + 1e-6).any():
            return False
    return True


def concave(asked: Problem) -> bool:
    """Whether power that rises with use is paid for at a negative price: no bound is then tight."""
    prices = [site.price_per_kwh.expected.min() for site in asked.sites if site.price_per_kwh is not None]
    return min(prices) < 0 < asked.objective.per_money and any(
        group.marginal_power_w for group in asked.groups
    )


def planned(made: Plan) -> dict[str, Spot]:
    return {
        one.job_id: (one.group_id, one.hours)
        for one in made.jobs
        if one.status == "planned" and one.group_id is not None
    }


def check(asked: Problem, made: Plan) -> None:
    jobs = {job.job_id: job for job in asked.jobs}
    assert {one.job_id for one in made.jobs} == set(jobs)
    running = {one.job_id: (one.group_id, one.hours) for one in made.jobs if one.group_id is not None}
    assert has_room(asked, {name: spot for name, spot in running.items() if spot[0] is not None})
    for name, spot in planned(made).items():
        assert spot in spots(asked, jobs[name])
    for one in made.jobs:
        assert one.status == "planned" or one.reason
        if one.status == "infeasible" and one.group_id is None and one.baseline_group_id is not None:
            # Left out: the baseline was late too, or ran where the job may not.
            assert (one.baseline_group_id, one.baseline_hours) not in spots(asked, jobs[one.job_id])
    assert made.deadlines_lost == 0


@given(drawn(most_jobs=8))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize(
    "columns",
    [{}, {"whole_columns": 0}, {"whole_columns": 0, "linear_columns": 8}],
    ids=["whole numbers", "relaxation", "relaxation near the prices of a sample"],
)
def test_every_plan_is_feasible_and_loses_no_deadline(columns: dict[str, int], asked: Problem) -> None:
    made = plan(asked, seconds=20, **columns)
    check(asked, made)
    assert made.proven_optimal or columns or concave(asked)


@given(drawn(most_jobs=3))
@settings(max_examples=60, deadline=None)
def test_the_plan_in_whole_numbers_is_the_optimum_by_brute_force(asked: Problem) -> None:
    made = plan(asked, seconds=20)
    placed = planned(made)
    names = [one.job_id for one in made.jobs if one.status == "planned"]
    tried = [spots(asked, job) for job in asked.jobs if job.job_id in names]
    order = [job.job_id for job in asked.jobs if job.job_id in names]
    everyone = (dict(zip(order, choice, strict=True)) for choice in product(*tried))
    held = {
        one.job_id: (one.group_id, one.hours)
        for one in made.jobs
        if one.status != "planned" and one.group_id is not None
    }
    best = min(
        (cost(asked, chosen) for chosen in everyone if has_room(asked, chosen | held)),  # type: ignore[operator]
        default=float("inf"),
    )
    ours = cost(asked, placed)
    assert ours >= best - 1e-9
    if len(placed) == len(names) and all(one.status == "planned" for one in made.jobs):
        assert made.bound <= best + 1e-6
        if not concave(asked):
            assert made.proven_optimal
            assert ours == pytest.approx(best, rel=1e-4, abs=1e-9)
    for columns in ({"whole_columns": 0}, {"whole_columns": 0, "linear_columns": 8}):
        quick = plan(asked, seconds=20, **columns)
        if len(planned(quick)) == len(names) == len(asked.jobs):
            assert quick.bound - 1e-6 <= best <= cost(asked, planned(quick)) + 1e-9


@given(drawn(most_jobs=6))
@settings(max_examples=40, deadline=None)
def test_the_same_problem_gives_the_same_plan(asked: Problem) -> None:
    assert planned(plan(asked, seconds=20)) == planned(plan(asked, seconds=20))
