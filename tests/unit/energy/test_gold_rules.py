"""The constants that gold's figures rest on, without a JVM."""

from __future__ import annotations

import math
import random
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.energy.exact_sums import ENERGY_DIGITS, FINE_DIGITS, exact_sum, most_frequent, weighted_mean
from lepton_etl.energy.owners import owner_hours, owner_parts, with_job_idle
from lepton_etl.facility.pue import IT_CATEGORY, NODE_CATEGORY, with_shared_it
from lepton_etl.schema.common import BOUNDARY
from lepton_etl.uncertainty import CONFIDENCE, Z


def test_the_interval_leaves_five_percent_on_each_side() -> None:
    assert CONFIDENCE == 0.9
    assert pytest.approx(1.6448536, abs=1e-7) == Z


def test_what_leaves_the_site_is_taken_off() -> None:
    taken_off = {point for point, direction in BOUNDARY.items() if direction < 0}
    assert taken_off == {"export", "battery_in"}
    assert set(BOUNDARY) - taken_off == {"utility", "pv", "generator", "battery_out"}


def test_categories_grow_towards_the_it_input() -> None:
    # ISO/IEC 30134-2: 1 at the UPS output, 2 at the PDU output, 3 at the IT equipment.
    assert IT_CATEGORY["ups_out"] < IT_CATEGORY["pdu_out"] < NODE_CATEGORY


def summed(values: list[float | None], digits: int = ENERGY_DIGITS) -> float | None:
    found = pl.DataFrame({"v": pl.Series(values, dtype=pl.Float64)}).select(exact_sum(pl.col("v"), digits))
    return found.item()  # type: ignore[no-any-return]


def test_sums_have_room_for_the_largest_energy() -> None:
    # The dictionary's largest energy is 1e9 kWh; at 18 digits a sum of ten thousand million such rows still fits.
    assert summed([1e9] * 1000, FINE_DIGITS) == 1e12
    assert 1e9 * 1e10 * 10.0**FINE_DIGITS < 2.0**127


def test_a_sum_is_the_same_for_any_order_of_its_rows() -> None:
    rng = random.Random(7)
    values: list[float | None] = [rng.random() * 10.0 ** rng.randint(-9, 6) for _ in range(2000)]
    for digits in (ENERGY_DIGITS, FINE_DIGITS):
        sums = {summed(rng.sample(values, len(values)), digits) for _ in range(5)}
        assert len(sums) == 1
    assert summed([0.1] * 10) == 1.0
    assert (summed([None, None]), summed([None, 2.0])) == (None, 2.0)


@given(st.floats(-1e5, 1e5), st.integers(-(10**12), 10**12), st.sampled_from([-1, 0, 1]))
def test_a_number_is_rounded_as_its_digits_are(number: float, half: int, side: int) -> None:
    """Also a half of the last digit, and the next doubles above and below it."""
    near_half = (2 * half + 1) / 2e9
    for value in (number, near_half if side == 0 else math.nextafter(near_half, side * math.inf)):
        expected = Decimal(repr(value)).quantize(Decimal("1e-9"), ROUND_HALF_UP)
        assert summed([value]) == float(expected)


def test_a_mean_weighs_what_is_known_and_the_most_frequent_value_wins() -> None:
    rows = pl.DataFrame({"k": [1, 1, 1], "v": [1.0, None, 4.0], "w": [1.0, 7.0, 2.0], "s": ["b", "a", None]})
    assert rows.select(weighted_mean(pl.col("v"), pl.col("w"))).item() == 3.0
    assert most_frequent(rows, ["k"], "s").rows() == [(1, "a")], "of equals the first by its order"


def test_a_sum_is_the_same_beside_other_groups_and_alone() -> None:
    """994311112 / 1e9 and 994311112 * (1 / 1e9) differ in the last digit."""
    rows = pl.DataFrame({"day": [1, 2], "kwh": [0.994311112, 0.5]})
    together = rows.group_by("day").agg(exact_sum(pl.col("kwh"))).sort("day")["kwh"][0]
    alone = rows.head(1).group_by("day").agg(exact_sum(pl.col("kwh")))["kwh"][0]
    assert together == alone == 0.994311112


def test_owners_are_known_by_accounting_by_load_or_not_at_all() -> None:
    """Three nodes of 1 kWh: one with jobs, one whose load says 0.4 kWh idle, one of which nobody says anything."""
    hour = datetime(2025, 6, 3, tzinfo=UTC)
    place = {"site_id": "s", "cluster_id": "c", "hour_start": hour}
    nodes = pl.DataFrame(
        [
            {**place, "node_id": name, "node_kind": None, "it_energy_kwh": 1.0, "idle_energy_kwh": idle,
             "chassis_shared_kwh": None}
            for name, idle in (("jobs", 0.3), ("load", 0.4), ("silent", None))
        ],
        schema_overrides={"node_kind": pl.String, "chassis_shared_kwh": pl.Float64},
    )  # fmt: skip
    split = pl.DataFrame(
        [{**place, "node_id": "jobs", "jobs_energy_kwh": 0.7, "idle_energy_kwh": 0.3, "idle_is_known": True}]
    )
    nothing = pl.DataFrame(
        schema={
            "site_id": pl.String,
            "interval_start": hour_type(),
            "counts_in_total": pl.Boolean,
            "energy_kwh": pl.Float64,
        }
    )
    some, none, last = (
        owner_hours(owner_parts(rows, accounts), nothing).row(0, named=True)
        for rows, accounts in (
            (nodes, split),
            (nodes, None),
            (nodes.filter(pl.col("node_id") == "silent"), None),
        )
    )
    names = ("jobs_kwh", "jobs_basis", "idle_kwh", "idle_basis", "unowned_kwh")
    assert [some[name] for name in names] == [0.7, "partial", 0.7, "partial", pytest.approx(1.6)]
    assert [none[name] for name in names] == [None, "unmetered", 0.7, "partial", pytest.approx(2.3)]
    assert [last[name] for name in names] == [None, "unmetered", None, "unmetered", 1.0]


@pytest.mark.parametrize(("is_known", "idle", "basis"), [(True, 0.3, "jobs"), (False, 0.4, "utilisation")])
def test_idle_is_by_jobs_where_they_know_it(is_known: bool, idle: float, basis: str) -> None:
    hour = {"site_id": "s", "cluster_id": "c", "node_id": "n", "hour_start": datetime(2025, 6, 3, tzinfo=UTC)}
    node = pl.DataFrame([{**hour, "it_energy_kwh": 1.0, "idle_energy_kwh": 0.4, "idle_basis": "utilisation"}])
    split = pl.DataFrame([{**hour, "idle_energy_kwh": 0.3, "idle_is_known": is_known}])
    (row,) = with_job_idle(node, split).to_dicts()
    assert (row["idle_energy_kwh"], row["idle_basis"]) == (idle, basis)


@pytest.mark.parametrize(
    ("nodes", "node_count", "energy_kwh"),
    [(1.0, 2.0, 3.0), (None, 2.0, None), (None, None, 2.0)],
    ids=["known", "nodes unknown", "no nodes"],
)
def test_metered_load_is_all_of_shared_only_where_its_nodes_are_known(
    nodes: float | None, node_count: float | None, energy_kwh: float | None
) -> None:
    hour = {"site_id": "s", "hour_start": datetime(2025, 6, 3, tzinfo=UTC), "date": date(2025, 6, 3)}
    names = (*hour, "cluster_id", "node_count", "it_energy_kwh", "it_energy_measured_kwh", "it_energy_lower_kwh",
             "it_energy_upper_kwh", "energy_basis", "idle_basis")  # fmt: skip
    row = {**hour, "cluster_id": "_shared", "node_count": node_count, "it_energy_kwh": nodes,
           "it_energy_measured_kwh": nodes, "energy_basis": "measured" if nodes else "insufficient"}  # fmt: skip
    floats = dict.fromkeys(
        (name for name in names if name.endswith("kwh") or name == "node_count"), pl.Float64
    )
    clusters = pl.DataFrame(
        [] if node_count is None else [dict.fromkeys(names) | row],
        schema={name: pl.Series([row.get(name)]).dtype for name in names} | floats
        | {"idle_basis": pl.String, "hour_start": pl.Datetime("us", "UTC")},
    )  # fmt: skip
    site = pl.DataFrame([{**hour, "shared_load_kwh": 2.0, "unattributed_kwh": None}]).cast(
        {"unattributed_kwh": pl.Float64}
    )
    (found,) = with_shared_it(clusters, site).to_dicts()
    assert (found["it_energy_kwh"], found["energy_basis"]) == (
        energy_kwh, "insufficient" if energy_kwh is None else "measured"
    )  # fmt: skip


def hour_type() -> pl.Datetime:
    return pl.Datetime("us", "UTC")
