"""Placement: no slot is held twice, nobody runs on a node that is off, the past does not know the future."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from lepton_etl.simulator.jobs import arrival_rate, arrivals
from lepton_etl.simulator.placement import schedule
from lepton_etl.simulator.plan import DAY_S, STEP_S, ClusterPlan, FleetPlan

CLUSTER = ClusterPlan(cluster_id="c02", nodes=12, hardware_class="gpu-400")
PLAN = FleetPlan(seed=9, clusters=(CLUSTER,), first_date=date(2025, 6, 2), days=4, off_share=0.2)


def test_slots_are_held_once_and_never_while_off() -> None:
    placed = schedule(PLAN, CLUSTER)
    assert any(placed.off)
    for assignments, off in zip(placed.assignments, placed.off, strict=True):
        held = np.zeros((4, 6 * DAY_S // STEP_S), dtype=int)
        origin = DAY_S // STEP_S
        for assignment in assignments:
            held[
                list(assignment.slots), assignment.job.start_step + origin : assignment.job.end_step + origin
            ] += 1
        assert held.max() <= 1
        for window in off:
            assert not held[:, max(window.start_step + origin, 0) : max(window.end_step + origin, 0)].any()


def test_jobs_start_after_submission_and_hold_what_they_asked_for() -> None:
    placed = schedule(PLAN, CLUSTER)
    held = {job.run_id: 0 for job in placed.jobs}
    for assignments in placed.assignments:
        for assignment in assignments:
            held[assignment.job.run_id] += len(assignment.slots)
    for job in placed.jobs:
        assert job.start_step * STEP_S >= job.submit_s
        assert held[job.run_id] == job.node_count * job.slots_per_node
        assert len(set(job.nodes)) == job.node_count


def test_a_longer_plan_leaves_earlier_jobs_as_they_are() -> None:
    short = schedule(PLAN.model_copy(update={"days": 2}), CLUSTER).jobs
    long = schedule(PLAN, CLUSTER).jobs
    assert len(long) > len(short)
    assert long[: len(short)] == short


def test_the_fleet_is_loaded_about_as_asked() -> None:
    cluster = CLUSTER.model_copy(update={"nodes": 60})
    plan = FleetPlan(seed=2, clusters=(cluster,), first_date=date(2025, 6, 2), days=7, off_share=0.0)
    end = 7 * DAY_S // STEP_S
    held = sum(
        (min(job.end_step, end) - max(job.start_step, 0)) * job.node_count * job.slots_per_node
        for job in schedule(plan, cluster).jobs
        if job.end_step > 0
    )
    assert held / (60 * 4 * end) == pytest.approx(plan.load_target, abs=0.12)


def test_afternoons_and_weekdays_are_busier() -> None:
    hours = np.arange(24, dtype=np.float64)
    assert arrival_rate(hours, weekend=False).argmax() == 15
    assert arrival_rate(hours, weekend=True).sum() < 0.75 * arrival_rate(hours, weekend=False).sum()
    big = CLUSTER.model_copy(update={"nodes": 400})
    counts = [len(arrivals(PLAN, big, day)) for day in range(-1, 6)]  # Sunday .. Saturday
    assert min(counts[1:6]) > max(counts[0], counts[6])


def test_tenants_differ_in_size() -> None:
    tenants = [job.tenant_id for job in schedule(PLAN, CLUSTER).jobs]
    assert tenants.count("tenant01") > tenants.count("tenant12")
