"""Energy of nodes that are known to be off: whole intervals of which nothing is read, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.intervals.known_off import SPANS, with_known_off
from lepton_etl.intervals.readings import OPEN_END_US, ROSTER_COLUMNS
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.types import arrow_schema
from tests.unit.intervals.readings import POLICY

DAY = 20_000
START_US = DAY * 86_400_000_000
SCHEMA = pl.DataFrame(arrow_schema(INTERVAL).empty_table()).schema


def listed(
    node_id: str, standby_w: float | None, cluster: str = "blue", from_s: int = 0, until_s: int | None = None
) -> dict[str, Any]:
    until_us = OPEN_END_US if until_s is None else START_US + until_s * 1_000_000
    return dict.fromkeys(ROSTER_COLUMNS) | {
        "node_id": node_id, "cluster_id": cluster, "standby_power_w": standby_w,
        "from_us": START_US + from_s * 1_000_000 if from_s else 0, "until_us": until_us,
    }  # fmt: skip


def off(node_id: str, from_s: float, until_s: float) -> dict[str, Any]:
    return {"node_id": node_id, "from_us": START_US + round(from_s * 1e6), "until_us": START_US + round(until_s * 1e6),
            "node_state": "off", "state_basis": "power_command"}  # fmt: skip


def read(
    node_id: str, place: int, energy_kwh: float | None, flags: list[str] | None = None
) -> dict[str, Any]:
    start = datetime.fromtimestamp(START_US / 1e6, UTC) + timedelta(seconds=300 * place)
    return dict.fromkeys(SCHEMA) | {
        "site_id": "site", "cluster_id": "blue", "node_id": node_id, "device_id": "node", "interval_start": start,
        "date": start.date(), "interval_s": 300, "counts_in_total": True, "multiplicity": 1, "conflicts": 0,
        "energy_kwh": energy_kwh, "observed_s": 0.0 if energy_kwh is None else 300.0, "flags": flags or [],
        "energy_source": None if energy_kwh is None else "bmc", "inlet_temp_c": 21.0,
    }  # fmt: skip


def filled(rows: list[dict[str, Any]], spans: list[dict[str, Any]], *nodes: dict[str, Any]) -> pl.DataFrame:
    return with_known_off(
        pl.DataFrame(rows, schema=SCHEMA), pl.DataFrame(spans, schema=SPANS),
        pl.DataFrame(list(nodes), schema=ROSTER_COLUMNS), POLICY, [DAY],
    )  # fmt: skip


def test_whole_intervals_within_the_span_draw_the_standby_power() -> None:
    rows = filled([], [off("n", 299, 1500)], listed("n", 6.0)).to_dicts()
    assert [row["interval_start"].minute for row in rows] == [5, 10, 15, 20]
    assert [row["energy_kwh"] for row in rows] == [pytest.approx(6.0 * 300 / 3.6e6)] * 4
    assert {(row["power_mean_w"], row["observed_s"], row["energy_source"]) for row in rows} == {
        (6.0, 300.0, "node_state")
    }
    assert rows[0]["gain_sigma_kwh"] == pytest.approx(0.1 * rows[0]["energy_kwh"])
    (unstated,) = filled([], [off("n", 0, 300)], listed("n", None)).to_dicts()
    assert (unstated["energy_kwh"], unstated["gain_sigma_kwh"], unstated["flags"]) == (
        0.0,
        0.0,
        ["known_off"],
    )


def test_what_was_read_or_refused_stays_and_what_only_has_a_temperature_is_filled() -> None:
    given_rows = [read("n", 0, 0.02), read("n", 1, None, ["suspect_zero"]), read("n", 2, None)]
    rows = filled(given_rows, [off("n", 0, 900)], listed("n", 6.0)).to_dicts()
    assert [row["energy_kwh"] for row in rows] == [0.02, None, pytest.approx(0.0005)]
    assert [row["energy_source"] for row in rows] == ["bmc", None, "node_state"]
    assert [row["inlet_temp_c"] for row in rows] == [21.0] * 3


def test_a_node_is_where_the_inventory_has_it_and_no_other_day_is_touched() -> None:
    nodes = (listed("n", 6.0, until_s=600), listed("n", 7.0, "green", from_s=600))
    rows = filled([], [off("n", -600, 1200), off("stray", 0, 600)], *nodes)
    assert rows.select("cluster_id", "power_mean_w").rows() == [
        ("blue", 6.0),
        ("blue", 6.0),
        ("green", 7.0),
        ("green", 7.0),
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=10, unique_by=lambda one: one[0]),
    st.integers(0, 9_000), st.integers(1, 4_000),
)  # fmt: skip
def test_only_silence_within_the_span_changes(
    places: list[tuple[int, bool]], start_s: int, length_s: int
) -> None:
    before = [read("n", place, 0.01 if is_read else None) for place, is_read in places]
    rows = filled(before, [off("n", start_s, start_s + length_s)], listed("n", 6.0))
    assert not rows.select(INTERVAL.key).is_duplicated().any()
    known = {place for place, is_read in places if is_read}
    inside = set(range(-(-start_s // 300), (start_s + length_s) // 300))
    of_state = rows.filter(pl.col("energy_source") == "node_state")
    assert {at.hour * 12 + at.minute // 5 for at in of_state["interval_start"]} == inside - known
    assert rows.filter(pl.col("energy_source") == "bmc")["energy_kwh"].to_list() == [0.01] * len(known)
