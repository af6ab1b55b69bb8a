"""Advice about a cluster's idle nodes from its node-hours."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from lepton_etl.config.sections import OptimizeSettings, PowerDownSettings
from lepton_etl.recommend.idle_nodes import COLUMNS, newest_run, node_advice

DAY = date(2025, 6, 30)
DOWN = PowerDownSettings(standby_power_w=20, wake_s=300, wake_kwh=0.05, reserve_ratio=0.0)
SETTINGS = OptimizeSettings(history_days=14, power_down=DOWN)


def cluster(
    busy: dict[str, Any],
    idle_w: float = 100.0,
    extra: dict[tuple[str, int], float] | None = None,
    days: int = 14,
) -> pl.DataFrame:
    """`busy` by node: 0, 1 or None (unknown) by the hour of the day; `extra` W by node and hours back."""
    end = datetime(2025, 7, 1, tzinfo=UTC)
    rows = []
    for node, works in busy.items():
        for back in range(1, days * 24 + 1):
            start = end - timedelta(hours=back)
            at_work = works(start.hour)
            watts = (300.0 if at_work else idle_w) + (extra or {}).get((node, back), 0.0)
            rows.append(
                {
                    "site_id": "s", "cluster_id": "c", "rack_id": f"r{int(node[1:]) % 2}", "node_id": node,
                    "node_kind": None, "hour_start": start, "it_energy_kwh": watts / 1000, "power_mean_w": watts,
                    "idle_energy_kwh": None if at_work is None else 0.0 if at_work else watts / 1000,
                    "idle_power_w": None,
                }
            )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None).select(COLUMNS)


def test_nodes_that_demand_reserve_and_racks_do_not_need_sleep() -> None:
    hours = cluster({"n1": lambda _: 1, "n2": lambda _: 1, **{f"n{i}": lambda _: 0 for i in range(3, 9)}})
    (advice,) = node_advice(hours, DAY, SETTINGS)
    # Of 6 idle nodes one stays as reserve; each rack has a busy node that keeps it on.
    assert (advice.lever, len(advice.parameters["nodes"])) == ("consolidate", 5)
    assert not {"n1", "n2"} & set(advice.parameters["nodes"])
    assert advice.saving_kwh is not None and advice.baseline_kwh == pytest.approx(5 * 24 * 0.1)
    awake_h = 300 / 3600
    assert advice.saving_kwh.value == pytest.approx(5 * (0.08 * (24 - awake_h) - 0.05))
    assert advice.window_start == datetime(2025, 7, 1, tzinfo=UTC)


def test_a_daily_rush_keeps_nodes_on_in_its_hours() -> None:
    hours = cluster({f"n{i}": (lambda hour: int(8 <= hour < 18)) for i in range(1, 5)})
    (advice,) = node_advice(hours, DAY, SETTINGS)
    for run in advice.parameters["runs"]:
        down, up = (datetime.fromisoformat(run[name]).hour for name in ("down_from", "up_by"))
        assert (down, up) in ((0, 8), (18, 0))


def test_unknown_work_counts_as_work_and_few_days_promise_nothing() -> None:
    unknown = cluster({"n1": lambda _: None, "n2": lambda _: None, "n3": lambda _: 0})
    assert node_advice(unknown, DAY, SETTINGS) == []
    young = cluster({f"n{i}": lambda _: 0 for i in range(1, 6)}, days=5)
    assert node_advice(young, DAY, SETTINGS) == []


def test_without_a_standby_power_idle_nodes_are_named_and_nothing_is_promised() -> None:
    hours = cluster({"n1": lambda _: 1, "n2": lambda _: 0})
    (advice,) = node_advice(hours, DAY, OptimizeSettings(history_days=14))
    assert advice.saving_kwh is None and advice.parameters["nodes"] == ["n2"]


def test_a_node_that_draws_more_at_rest_than_it_uses_to_is_named_with_its_excess() -> None:
    rng = np.random.default_rng(1)
    noise = {("n2", back): float(rng.normal(0, 2)) for back in range(1, 14 * 24 + 1)}
    hours = cluster(
        {"n1": lambda _: 1, "n2": lambda _: 0}, extra=noise | {("n2", back): 60.0 for back in range(1, 25)}
    )
    found = [
        one
        for one in node_advice(hours, DAY, OptimizeSettings(history_days=14))
        if one.action == "release_node"
    ]
    (advice,) = found
    assert advice.subject.node_id == "n2" and advice.saving_kwh is not None
    assert advice.saving_kwh.value == pytest.approx(24 * 0.06, rel=0.02)
    assert 0 < advice.saving_kwh.lower < advice.saving_kwh.value


@pytest.mark.parametrize(
    "newest",
    [lambda hour: int(hour == 23), lambda hour: None if hour == 23 else 0, lambda hour: int(hour == 20)],
    ids=["a job now", "not known now", "a job three hours ago"],
)
def test_an_excess_needs_hours_without_work_up_to_the_end_of_the_day(newest: Any) -> None:
    rest = {("n1", back): 60.0 for back in range(1, 25)}
    hours = cluster({"n1": newest, "n2": lambda _: 1}, extra=rest)
    found = node_advice(hours, DAY, OptimizeSettings(history_days=14))
    assert [one.action for one in found if one.action == "release_node"] == []


def test_the_newest_run_ends_with_the_newest_hour() -> None:
    assert newest_run(np.array([True, False, True, True])).tolist() == [2, 3]
    assert newest_run(np.array([True, True])).tolist() == [0, 1]
    assert newest_run(np.array([True, False])).tolist() == []
