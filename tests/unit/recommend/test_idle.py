"""Idle nodes, nodes that draw more than idle, and zombie jobs, by arithmetic; the unknown accuses nobody."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lepton_etl.recommend.idle_nodes import IdleRules, JobHours, NodeHours, idle_waste, zombie_waste

HOURS = 12


def node(power: list[float] | float = 300.0, job: list[float] | float = 0.0, **changed: object) -> NodeHours:
    return NodeHours(
        "n", "c", np.broadcast_to(np.asarray(power, dtype=float), HOURS).copy(),
        np.broadcast_to(np.asarray(job, dtype=float), HOURS).copy(), 300.0, 280.0, 320.0,
        **({"standby_w": 50.0} | changed),  # type: ignore[arg-type]
    )  # fmt: skip


def zombie(use: list[float]) -> JobHours:
    kwh = np.full(len(use), 0.5)
    return JobHours("j", ("n1", "n2"), kwh, 0.9 * kwh, 1.1 * kwh, np.array(use))


def test_an_idle_node_wastes_what_standby_would_save() -> None:
    (one,) = idle_waste([node()])
    assert (one.kind, one.subject_id, one.hours) == ("idle", "n", 12)
    assert one.wasted_kwh == pytest.approx(12 * 0.25)
    assert one.wasted_lower_kwh == pytest.approx(12 * (0.285 - 0.05))
    assert one.per_hour_kwh == pytest.approx(0.25)


def test_a_node_that_draws_above_its_idle_model_is_named_twice() -> None:
    idle, excess = idle_waste([node(power=500.0)])
    assert (idle.kind, excess.kind) == ("idle", "excess")
    assert excess.wasted_kwh == pytest.approx(12 * 0.2)
    assert (excess.wasted_lower_kwh, excess.wasted_upper_kwh) == (
        pytest.approx(12 * 0.18),
        pytest.approx(12 * 0.22),
    )
    (alone,) = idle_waste([node(power=500.0, standby_w=None)])
    assert alone.kind == "excess"


@pytest.mark.parametrize(
    "held",
    [[0.0] * 11 + [1.0], [0.0] * 6 + [1.0] + [0.0] * 5, [float("nan")] * 12, [0.0] * 11 + [float("nan")]],
)
def test_a_job_now_or_a_while_ago_or_the_unknown_accuses_nobody(held: list[float]) -> None:
    assert idle_waste([node(job=held)]) == []


def test_hours_before_the_newest_job_do_not_count() -> None:
    (one,) = idle_waste([node(job=[1.0] * 5 + [0.0] * 7)])
    assert one.hours == 7


def test_a_zombie_wastes_all_it_drew_since_it_stopped() -> None:
    (one,) = zombie_waste([zombie([0.9, 0.9, 0.0, 0.01, 0.0, 0.0])])
    assert (one.kind, one.subject_id, one.node_ids, one.hours) == ("zombie", "j", ("n1", "n2"), 4)
    assert (one.wasted_kwh, one.wasted_lower_kwh, one.wasted_upper_kwh) == (
        2.0,
        pytest.approx(1.8),
        pytest.approx(2.2),
    )


def test_a_pause_a_busy_hour_or_no_reading_is_no_zombie() -> None:
    nan = float("nan")
    for use in ([0.9, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5], [0.0, 0.0, nan], [nan] * 5):
        assert zombie_waste([zombie(use)]) == []
    assert len(zombie_waste([zombie([0.0, 0.0])], IdleRules(zombie_h=2))) == 1


def test_the_largest_waste_comes_first() -> None:
    small = replace(node(), node_id="small", power_w=np.full(HOURS, 100.0))
    assert [one.subject_id for one in idle_waste([small, node()])] == ["n", "small"]
