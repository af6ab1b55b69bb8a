"""Minutes of devices: sums that do not depend on the batches, and what speaks for what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.diagnosis.minutes import SUMS, added, minutes, newest_times, sums
from lepton_etl.streaming.device_now import MEANINGS

NOW = datetime(2025, 6, 3, 12, 30, tzinfo=UTC)
EMPTY = pl.DataFrame(schema=SUMS)
Row = tuple[str, str, float, float]


def readings(*rows: Row, statistic: str = "instant", window_s: float = 0.0) -> pl.DataFrame:
    """(device, quantity, value, seconds before NOW)"""
    return pl.DataFrame(
        {
            "node_id": ["n1"] * len(rows),
            "device_id": [row[0] for row in rows],
            "quantity": [row[1] for row in rows],
            "value": [row[2] for row in rows],
            "statistic": [statistic] * len(rows),
            "window_s": [window_s] * len(rows),
            "reading_time": [NOW - timedelta(seconds=row[3]) for row in rows],
        },
        schema_overrides={"reading_time": pl.Datetime("us", "UTC"), "value": pl.Float64},
    )


def figures(*rows: Row) -> dict[str, dict[str, float | None]]:
    """Device -> its inputs over one minute."""
    found = minutes(sums(readings(*rows), MEANINGS, 60), MEANINGS, "s1", {"n1": "c1"}, "_unlisted")
    assert found["cluster_id"].unique().to_list() == ["c1"]
    return {
        str(row["device_id"]): {
            name: row[name] for name in found.columns if name.endswith(("_w", "_ratio", "_c", "_hz"))
        }
        for row in found.iter_rows(named=True)
    }


def test_a_board_speaks_for_itself_and_its_load_for_the_node() -> None:
    found = figures(
        ("gpu0", "gpu_power", 300.0, 10), ("gpu0", "gpu_power", 310.0, 20), ("gpu1", "gpu_power", 100.0, 10),
        ("gpu0", "gpu_utilisation", 1.0, 10), ("gpu1", "gpu_utilisation", 0.0, 10), ("gpu0", "clock", 1.9e9, 10),
        ("gpu0", "power_limit", 400.0, 10), ("gpu0", "gpu_temperature", 70.0, 10),
        ("gpu0", "slowdown_temperature", 89.0, 10),
        ("node", "node_power", 900.0, 10), ("node", "outlet_power", 950.0, 10), ("psu1", "psu_input_power", 5.0, 10),
    )  # fmt: skip
    assert set(found) == {"gpu0", "gpu1", "node"}
    assert found["gpu0"] == {
        "power_mean_w": 305.0, "power_limit_w": 400.0, "gpu_utilisation_ratio": 1.0, "cpu_utilisation_ratio": None,
        "memory_utilisation_ratio": None, "clock_hz": 1.9e9, "device_temp_c": 70.0,
        "slowdown_temp_c": 89.0,
    }  # fmt: skip
    assert found["node"]["power_mean_w"] == 950.0, "the outlet ranks before the BMC"
    assert found["node"]["gpu_utilisation_ratio"] == 0.5
    assert found["node"]["device_temp_c"] is None


def test_a_mean_over_an_hour_says_nothing_of_now() -> None:
    row = ("gpu0", "gpu_power", 300.0, 10.0)
    assert sums(readings(row, statistic="mean", window_s=3600.0), MEANINGS, 60).height == 0
    assert sums(readings(row, statistic="mean", window_s=60.0), MEANINGS, 60).height == 1
    assert sums(readings(row, statistic="max", window_s=60.0), MEANINGS, 60).height == 0


@given(
    st.lists(st.tuples(st.integers(0, 3500), st.floats(0, 500)), min_size=1, max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_means_do_not_depend_on_the_batches(values: list[tuple[int, float]], cuts: list[int]) -> None:
    rows: list[Row] = [("gpu0", "gpu_power", value, float(at)) for at, value in values]
    whole = added(EMPTY, sums(readings(*rows), MEANINGS, 60), NOW)
    bounds = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    held, late = EMPTY, 0
    for begin, end in pairwise(bounds):
        one = added(held, sums(readings(*rows[begin:end]), MEANINGS, 60), NOW)
        held, late = one.rows, late + one.late
    assert whole.late == late == 0
    left, right = (frame.sort("window_us") for frame in (whole.rows, held))
    assert left.drop("value_sum").equals(right.drop("value_sum"))
    assert left["value_sum"].to_list() == pytest.approx(right["value_sum"].to_list())
    assert held["value_count"].sum() == len(rows)


def test_an_hour_is_held_and_what_comes_later_is_counted() -> None:
    held = added(EMPTY, sums(readings(("gpu0", "gpu_power", 1.0, 0)), MEANINGS, 60), NOW)
    old = sums(readings(("gpu0", "gpu_power", 1.0, 3700), ("gpu0", "gpu_power", 1.0, 3500)), MEANINGS, 60)
    found = added(held.rows, old, NOW)
    assert (found.late, found.rows.height) == (1, 2)


def test_a_stamp_far_ahead_is_not_believed_and_costs_no_past() -> None:
    past = added(EMPTY, sums(readings(("gpu0", "gpu_power", 1.0, 60)), MEANINGS, 60), NOW).rows
    found = added(past, sums(readings(("gpu0", "gpu_power", 1.0, -86_400)), MEANINGS, 60), NOW)
    assert (found.ahead, found.late) == (1, 0)
    assert found.rows.equals(past)
    assert newest_times(found.rows)["newest_us"].to_list() == [
        int((NOW - timedelta(seconds=60)).timestamp()) * 10**6
    ]
