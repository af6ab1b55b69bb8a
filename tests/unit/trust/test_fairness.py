"""Burdens of tenants against their fair shares, and Jain's index of them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.recommend.fair_share import Price
from lepton_etl.trust.fairness import delays, energy_burdens, jain_index, slowdowns, tenant_burdens, waits

DAY = date(2025, 6, 3)
AT = datetime(2025, 6, 3, tzinfo=UTC)


def burdened(**by_tenant: tuple[float | None, float]) -> pl.DataFrame:
    rows = [
        {"site_id": "s", "tenant_id": name, "burden": b, "basis": n} for name, (b, n) in by_tenant.items()
    ]
    return pl.DataFrame(rows, schema_overrides={"burden": pl.Float64, "basis": pl.Float64})


def by_tenant(rows: pl.DataFrame) -> dict[str, tuple[float | None, float]]:
    return {row["tenant_id"]: (row["burden"], row["basis"]) for row in rows.to_dicts()}


def test_the_index_is_one_where_all_are_equal_and_one_in_n_where_one_bears_all() -> None:
    assert jain_index([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain_index([5.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    # Jain, Chiu, Hawe: k of n with equal shares, the others with none, give k / n.
    assert jain_index([1.0, 1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.4)
    assert jain_index([1.0]) is None and jain_index([0.0, 0.0]) is None


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20), st.floats(0.001, 1000))
def test_the_index_lies_between_one_in_n_and_one_whatever_the_unit(values: list[float], scale: float) -> None:
    found = jain_index(values)
    if found is not None:
        assert 1 / len(values) - 1e-9 <= found <= 1 + 1e-9
        assert jain_index([scale * value for value in values]) == pytest.approx(found, rel=1e-6)


def test_a_burden_is_compared_with_what_the_tenant_holds() -> None:
    rows = tenant_burdens(DAY, {"wait": burdened(a=(6.0, 3.0), b=(2.0, 1.0))}).to_pylist()
    assert [row["burden_share_ratio"] for row in rows] == pytest.approx([0.75, 0.25])
    assert [row["fair_share_ratio"] for row in rows] == pytest.approx([0.75, 0.25])
    assert {row["jain_index_ratio"] for row in rows} == {1.0}
    assert [row["burden_h"] for row in rows] == [6.0, 2.0] and rows[0]["burden_kwh"] is None
    (first, second) = tenant_burdens(DAY, {"placement": burdened(a=(9.0, 1.0), b=(1.0, 1.0))}).to_pylist()
    # Quotients 1.8 and 0.2: (1.8 + 0.2)^2 / (2 (1.8^2 + 0.2^2)).
    assert first["jain_index_ratio"] == second["jain_index_ratio"] == pytest.approx(4 / 6.56)
    assert first["burden_kwh"] == 9.0 and first["burden_h"] is None


def test_an_unknown_burden_leaves_shares_and_index_unknown_and_one_that_nobody_bears_has_no_row() -> None:
    rows = tenant_burdens(
        DAY, {"overhead": burdened(a=(None, 3.0), b=(2.0, 1.0)), "cap": burdened(a=(0.0, 1.0))}
    )
    assert rows.column("burden_kind").to_pylist() == ["overhead", "overhead"]
    assert rows.column("burden_kwh").to_pylist() == [None, 2.0]
    assert rows.column("burden_share_ratio").null_count == rows.column("jain_index_ratio").null_count == 2
    assert rows.column("fair_share_ratio").to_pylist() == [0.75, 0.25]


def test_a_limit_shows_its_price_also_where_it_left_nothing() -> None:
    price = Price("delay", 0.4, 10, 3, 20.0, 5.0)
    (row,) = tenant_burdens(DAY, {"delay": burdened(a=(0.0, 2.0))}, [price]).to_pylist()
    assert (row["share_max_ratio"], row["forgone_saving_kwh"], row["forgone_saving_ratio"]) == (
        0.4,
        5.0,
        0.25,
    )
    assert row["jain_index_ratio"] is None
    assert str(price) == (
        "delay: no tenant bears more than 40%; 3 of 10 proposals are left out, 5.00 kWh (25.0%) forgone"
    )


def test_energy_of_a_tenant_is_summed_over_its_clusters_and_unknown_where_one_lacks_it() -> None:
    tenant = {
        "site_id": "s",
        "static_kwh": 1.0,
        "node_held_h": 10.0,
        "it_energy_kwh": 4.0,
        "facility_energy_kwh": 5.0,
    }
    found = energy_burdens(
        pl.DataFrame(
            [
                tenant | {"tenant_id": "a"},
                tenant | {"tenant_id": "a", "static_kwh": 2.0},
                tenant | {"tenant_id": None, "facility_energy_kwh": None},
            ]
        )
    )
    assert by_tenant(found["placement"]) == {"a": (3.0, 20.0), "_unknown": (1.0, 10.0)}
    assert by_tenant(found["overhead"]) == {"a": (2.0, 8.0), "_unknown": (None, 4.0)}


def test_waiting_counts_on_the_day_of_the_first_start() -> None:
    run = {
        "site_id": "s",
        "tenant_id": "a",
        "restart": 0,
        "submit_time": AT - timedelta(hours=2),
        "start_time": AT,
    }
    runs = [
        run, run | {"restart": 1}, run | {"start_time": AT - timedelta(hours=1)},
        run | {"tenant_id": "b", "submit_time": AT}, run | {"submit_time": AT + timedelta(hours=1)},
    ]  # fmt: skip
    assert by_tenant(waits(pl.DataFrame(runs), DAY)) == {"a": (2.0, 2.0), "b": (0.0, 1.0)}


def row(**changed: Any) -> dict[str, Any]:
    return {
        "lever": "shift", "recommendation_state": "proposed", "job_id": "1", "action_json": '{"delay_h": 4}',
        "job_class": None, "expected_slowdown_ratio": None,
    } | changed  # fmt: skip


def test_delays_and_slowdowns_are_those_of_proposals_that_stand() -> None:
    pending = pl.DataFrame({"site_id": "s", "job_id": ["1", "2", "3"], "tenant_id": ["a", "a", "b"]})
    advised = [
        row(),
        row(job_id="3", recommendation_state="rejected"),
        row(lever="cooling", action_json="{}"),
    ]
    assert by_tenant(delays(advised, pending)) == {"a": (4.0, 2.0), "b": (0.0, 1.0)}
    held = pl.DataFrame(
        {"site_id": "s", "tenant_id": ["a", "b"], "job_class": ["x", "y"], "gpu_h": [10.0, 30.0]}
    )
    caps = [
        row(lever="power_cap", job_class="x", expected_slowdown_ratio=0.05),
        row(lever="power_cap", job_class="y", expected_slowdown_ratio=-0.01),
    ]
    assert by_tenant(slowdowns(caps, held)) == {"a": (pytest.approx(0.5), 10.0), "b": (0.0, 30.0)}
