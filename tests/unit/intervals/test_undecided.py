"""No name decides between sensors of one power, and 0 W is believed where a second source says so."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_etl.intervals.undecided import AMBIGUOUS, SUSPECT_ZERO
from tests.unit.intervals.readings import DAY_NUMBER, node, rows_of, series

QUARTERS = range(0, 3601, 60)


def power(watts: float, sensor: str, quantity: str = "node_power", **more: Any) -> list[dict[str, Any]]:
    return series(QUARTERS, [watts] * len(QUARTERS), quantity, sensor=sensor, **more)


def of_node(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = rows_of(readings, node(rated_power_w=1000.0))
    return [row for row in rows if row["device_id"] == "node"]


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("b", "a")])
def test_of_sensors_that_agree_the_highest_speaks_whatever_its_name(one: str, other: str) -> None:
    rows = of_node(power(231.0, one) + power(242.0, other))
    assert {row["power_mean_w"] for row in rows} == {242.0}
    assert not any(AMBIGUOUS in row["flags"] for row in rows)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("b", "a")])
def test_of_sensors_that_differ_none_speaks(one: str, other: str) -> None:
    rows = of_node(power(531.9, one) + power(259.0, other))
    assert len(rows) == 12
    for row in rows:
        assert row["energy_kwh"] is None
        assert row["power_mean_w"] is None
        assert row["observed_s"] == 0.0
        assert row["flags"] == [AMBIGUOUS]


@pytest.mark.parametrize("name", ["Module {} Power", "Socket_{}_Pwr", "MODULE#{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_sockets_and_modules_are_summed(name: str, first: int) -> None:
    parts = power(300.0, name.format(first)) + power(450.0, name.format(first + 1))
    rows = of_node(parts)
    assert {(row["power_mean_w"], row["power_min_w"], row["energy_source"]) for row in rows} == {
        (750.0, 750.0, "bmc")
    }
    assert [row["flags"] for row in rows] == [[]] * 12
    assert {row["power_mean_w"] for row in of_node(parts + power(760.0, "Total"))} == {760.0}
    assert all(row["flags"] == [AMBIGUOUS] for row in of_node(parts + power(455.0, "Total")))


def test_a_part_that_is_missing_leaves_no_sum() -> None:
    rows = of_node(power(300.0, "Module 0") + power(450.0, "Module 2"))
    assert {(row["power_mean_w"], *row["flags"]) for row in rows} == {(None, AMBIGUOUS)}
    late = [one for one in power(450.0, "Module 1") if one["time_us"] % 3_600_000_000 >= 1_800_000_000]
    rows = of_node(power(300.0, "Module 0") + late)
    assert [row["interval_start"].minute for row in rows] == list(range(30, 60, 5))
    assert {row["power_mean_w"] for row in rows} == {750.0}


def test_no_model_decides_between_sensors_that_differ() -> None:
    parts = power(100.0, "RAPL", "cpu_power", device_id="cpu0") + power(
        40.0, "RAPL", "dram_power", device_id="dram0"
    )
    listed = node(rated_power_w=1000.0, rest_power_w=100.0, gpu_count=0)
    modelled = [row for row in rows_of(parts, listed) if row["device_id"] == "node"]
    assert {row["energy_source"] for row in modelled} == {"modelled_sum"}
    rows = [
        row
        for row in rows_of(parts + power(531.9, "a") + power(259.0, "b"), listed)
        if row["device_id"] == "node"
    ]
    assert {(row["energy_kwh"], row["energy_source"], *row["flags"]) for row in rows} == {
        (None, None, AMBIGUOUS)
    }


def test_another_source_speaks_where_one_is_undecided() -> None:
    rows = of_node(power(531.9, "a") + power(259.0, "b") + power(500.0, "outlet", "outlet_power"))
    assert {(row["power_mean_w"], row["energy_source"]) for row in rows} == {(500.0, "outlet_power")}
    assert all(AMBIGUOUS in row["flags"] for row in rows)


def test_sensors_of_different_hours_do_not_differ() -> None:
    later = [one | {"time_us": one["time_us"] + 7_200_000_000} for one in power(259.0, "b")]
    rows = of_node(power(531.9, "a") + later)
    assert {row["power_mean_w"] for row in rows} == {531.9, 259.0}


def test_nothing_of_a_lone_sensor_is_unknown() -> None:
    values = [300.0] * 31 + [0.0] * 30
    rows = of_node(series(QUARTERS, values, "node_power"))
    # The interval in which the power falls holds watts and stays.
    assert [row["power_mean_w"] is None for row in rows] == [False] * 7 + [True] * 5
    assert all(row["flags"] == [SUSPECT_ZERO] for row in rows[7:])
    assert all(row["date"].toordinal() - 719_163 == DAY_NUMBER for row in rows)


def test_nothing_of_two_sources_is_an_off_node() -> None:
    rows = of_node(power(0.0, "a") + power(0.0, "outlet", "outlet_power"))
    assert {(row["energy_kwh"], row["observed_s"]) for row in rows} == {(0.0, 300.0)}


def test_nothing_beside_watts_of_another_source_gives_way() -> None:
    rows = of_node(power(0.0, "outlet", "outlet_power") + power(300.0, "a"))
    assert {(row["power_mean_w"], row["energy_source"]) for row in rows} == {(300.0, "bmc")}
    assert all(SUSPECT_ZERO in row["flags"] for row in rows)
