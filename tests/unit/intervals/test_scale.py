"""Readings in another unit than their source says: refused with a name, while honest ones stay untouched."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.intervals import unit_errors as scale
from lepton_etl.intervals.modelled_power import NO_CPU
from lepton_etl.intervals.usual_values import with_usual
from tests.unit.intervals.readings import (
    DAY_NUMBER,
    node,
    of_device,
    past,
    rows_of,
    said,
    series,
    table,
    total,
)

HOUR = range(0, 3601, 60)
WATTS = [380.0 + 7 * (minute % 9) for minute in range(61)]
RATED = node(rated_power_w=800.0, idle_power_w=150.0)
USUAL = [said(1, 400.0)]


def flags_of(rows: list[dict[str, Any]]) -> set[str]:
    # A node whose boards alone are read says that it has no power of its own: not what is asked here.
    return {flag for row in rows for flag in row["flags"]} - {"partial", NO_CPU}


def scaled(factor: float, offset: float = 0.0, values: list[float] | None = None) -> list[float]:
    return [value * factor + offset for value in (WATTS if values is None else values)]


@pytest.mark.parametrize(
    ("factor", "nodes", "history", "flag"),
    [
        (1e-3, [RATED], [], "scale_kw_as_w"),
        (1e-3, [node(rated_power_w=800.0)], [], "scale_kw_as_w"),
        (1e-3, [node()], USUAL, "scale_changed"),
        (1e3, [RATED], [], "scale_mw_as_w"),
        (1e3, [node()], USUAL, "scale_changed"),
    ],
)
def test_a_thousandfold_power_never_becomes_energy(
    factor: float, nodes: list[Any], history: list[Any], flag: str
) -> None:
    rows = of_device(rows_of(series(HOUR, scaled(factor)), *nodes, history=history))
    assert len(rows) == 13
    assert {row["energy_kwh"] for row in rows} == {None}
    assert flags_of(rows) == {flag}


def test_the_unknown_is_not_judged() -> None:
    """Without rating, history and a step within the day nothing is known of a sensor."""
    rows = rows_of(series(HOUR, scaled(1e-3)))
    assert flags_of(rows) == set()
    assert total(rows) == pytest.approx(total(rows_of(series(HOUR, WATTS))) / 1000)


@pytest.mark.parametrize(("factor", "kept"), [(1e-3, slice(None, 30)), (1e3, slice(None, 30))])
@pytest.mark.parametrize("history", [[], USUAL])
def test_a_sensor_that_changes_its_scale_within_the_day(
    factor: float, kept: slice, history: list[Any]
) -> None:
    values = WATTS[:30] + scaled(factor, values=WATTS[30:])
    rows = rows_of(series(HOUR, values), history=history)
    assert total(rows) == pytest.approx(total(rows_of(series(HOUR[kept], WATTS[kept]))))
    assert flags_of(rows) == {"scale_changed"}
    back = rows_of(series(HOUR, scaled(factor, values=WATTS[:30]) + WATTS[30:]))
    assert total(back) == pytest.approx(total(rows_of(series(HOUR[30:], WATTS[30:]))))


def test_round_and_busy_kilowatts_go_with_their_neighbours() -> None:
    """A node of 0.9 to 5.4 kW: 1.0 and 5.4 alone could be watts of a supply in standby."""
    values = [0.95, 1.0, 1.2, 5.4, 5.2, 2.1, 0.9, 0.0, 0.9, 1.0, 1.1]
    rows = rows_of(series(range(0, 601, 60), values), history=[said(1, 1300.0)])
    assert total(rows) == 0.0
    assert flags_of(rows) == {"scale_changed"}


@pytest.mark.parametrize(
    ("values", "usual", "quantity"),
    [
        # Real ones of Harvard: a jump of a BMC, a supply in standby, a node at rest, a start from there.
        ([150.0] * 30 + [1215.0] + [150.0] * 30, 150.0, "node_power"),
        ([5.0] * 61, 400.0, "psu_input_power"),
        ([1.0] * 61, 400.0, "psu_input_power"),
        ([10.0] * 61, 230.0, "node_power"),
        ([10.0] * 30 + [230.0] * 31, 10.0, "node_power"),
        ([1.0] * 30 + [400.0] * 31, 1.0, "psu_input_power"),
        ([12.04] * 61, 354.5, "gpu_power"),
        ([700.0] * 61, 60.3, "gpu_power"),
    ],
)
def test_what_honest_devices_do_stays(values: list[float], usual: float, quantity: str) -> None:
    device = "psu1" if quantity.startswith("psu") else "gpu0" if quantity.startswith("gpu") else "node"
    readings = series(HOUR, values, quantity, device_id=device)
    history = [said(1, usual, quantity, device_id=device)]
    with_history = rows_of(readings, history=history)
    assert flags_of(with_history) == set()
    assert with_history == rows_of(readings)


def test_the_full_scale_of_a_chassis_keeps_its_name() -> None:
    values = [95.0] * 30 + [25_550.0] + [95.0] * 30
    rows = rows_of(series(HOUR, values, "chassis_input_power", device_id="chassis"))
    assert flags_of(rows) == {"full_scale"}


def test_degrees_fahrenheit_at_the_inlet() -> None:
    celsius = [20.0 + minute % 5 for minute in range(61)]
    power = series(HOUR, WATTS)

    def inlet(values: list[float], history: list[Any]) -> list[dict[str, Any]]:
        return of_device(rows_of(power + series(HOUR, values, "inlet_temperature"), history=history))

    fahrenheit = scaled(1.8, 32, celsius)
    usual = [said(1, 22.0, "inlet_temperature")]
    for values, history, flag in (
        (fahrenheit, [], "scale_degf_as_degc"),
        (celsius[:30] + fahrenheit[30:], usual, "scale_changed"),
        (celsius[:30] + fahrenheit[30:], [], "scale_changed"),
        (celsius[:30] + [(value - 32) / 1.8 for value in celsius[30:]], usual, "scale_changed"),
    ):
        rows = inlet(values, history)
        assert flags_of(rows) == {flag}
        assert all(row["inlet_temp_c"] is None or 20 <= row["inlet_temp_c"] <= 24 for row in rows)
        assert total(rows) == pytest.approx(total(rows_of(power)))
    assert inlet(fahrenheit, [])[0]["inlet_temp_c"] is None
    # Cooling that fails takes minutes, and passes the temperatures between.
    failing = [22.0] * 20 + [22.0 + minute for minute in range(41)]
    assert flags_of(inlet(failing, usual)) == set()
    assert inlet(failing, usual)[-1]["inlet_temp_c"] == pytest.approx(62.0, abs=4)


def test_degrees_fahrenheit_of_a_chip() -> None:
    def chip(values: list[float], history: list[Any]) -> list[dict[str, Any]]:
        return rows_of(series(HOUR, values, "gpu_temperature", device_id="gpu0"), history=history)

    usual = [said(1, 60.0, "gpu_temperature", device_id="gpu0")]
    power = series(HOUR, WATTS, "gpu_power", device_id="gpu0")
    hot = series(HOUR, [140.0 + n % 3 for n in range(61)], "gpu_temperature", device_id="gpu0")
    rows = rows_of(power + hot)
    assert flags_of(rows) == {"scale_degf_as_degc"}
    assert {row["device_temp_c"] for row in rows} == {None}
    assert flags_of(chip([35.0] * 30 + [95.0] * 31, usual)) == set()


@pytest.mark.parametrize("usual", [0.02, 0.95])
def test_a_ratio_read_as_percent(usual: float) -> None:
    """Many values, all below 1 %, of a sensor that was busy in the week before."""
    power = series(HOUR, WATTS)
    values = [0.0001 * ((37 * minute) % 100) for minute in range(61)]
    history = [said(3, usual, "cpu_utilisation"), said(1, 0.003, "cpu_utilisation")]
    rows = of_device(rows_of(power + series(HOUR, values, "cpu_utilisation"), history=history))
    idle = of_device(
        rows_of(power + series(HOUR, [0.0, 0.01] * 30 + [0.0], "cpu_utilisation"), history=history)
    )
    assert flags_of(idle) == set()
    assert flags_of(rows) == ({"scale_ratio_as_percent"} if usual > 0.5 else set())
    assert {row["cpu_utilisation_ratio"] is None for row in rows} == {usual > 0.5}


@pytest.mark.parametrize("factor", [1e-3, 1 / 3600, 1 / 3.6e6, 1e3, 1e6])
@pytest.mark.parametrize("by", ["rating", "history"])
def test_a_counter_of_another_unit(factor: float, by: str) -> None:
    """400 W counted in kJ, Wh, kWh, mJ or uJ, and logged as J."""
    counts = [1e9 + 400.0 * factor * second for second in HOUR]
    rows = rows_of(
        series(HOUR, counts, "node_energy", statistic="counter"),
        RATED if by == "rating" else node(),
        history=[said(1, 400.0, "node_energy", statistic="counter")] if by == "history" else [],
    )
    assert total(rows) == 0.0
    assert flags_of(rows) == {"scale_energy_unit" if by == "rating" else "scale_changed"}


def test_a_counter_that_starts_anew_or_rests_stays() -> None:
    counts = [1e9 + 400.0 * second for second in HOUR[:30]] + [400.0 * second for second in HOUR[30:]]
    rows = rows_of(
        series(HOUR, counts, "node_energy", statistic="counter"), RATED,
        history=[said(1, 400.0, "node_energy", statistic="counter")],
    )  # fmt: skip
    assert flags_of(rows) == {"counter_reset"}
    flat = rows_of(series(HOUR, [5e8] * 61, "node_energy", statistic="counter"), RATED)
    assert flags_of(flat) == set()


def usual_after(*history: dict[str, Any]) -> float | None:
    readings = pl.from_arrow(table(series([0], [400.0])))
    assert isinstance(readings, pl.DataFrame)
    found: float | None = with_usual(readings, past(list(history)))["usual"][0]
    return found


def test_the_scale_of_most_days_is_usual() -> None:
    assert usual_after() is None
    assert usual_after(said(3, 390.0), said(2, 410.0), said(1, 430.0)) == 410.0
    # One night in kW, mended: the watts after it are believed, and those in kW were not.
    assert usual_after(said(3, 400.0), said(2, 0.4), said(1, 420.0)) == 410.0
    assert usual_after(said(2, 400.0), said(1, 0.4)) == 400.0, "of equally many the earlier"
    # A day that spoke both: what it said most.
    assert usual_after(said(1, 0.4, decade=0, readings=600), said(1, 400.0, decade=3, readings=840)) == 400.0
    # The past of another day, or of another sensor, says nothing.
    assert usual_after(said(1, 0.4, day=DAY_NUMBER + 1), said(1, 0.4, sensor="other")) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(20, 2000), min_size=12, max_size=40),
    st.sampled_from([1, 0.1, 0.01]),
    st.sampled_from([[], USUAL]),
)
def test_powers_within_the_rating_are_never_touched(
    tens: list[int], step: float, history: list[dict[str, Any]]
) -> None:
    values = [20.0 + round((ten - 20) * step, 2) for ten in tens]
    rated = node(rated_power_w=max(values))
    readings = series(range(0, 60 * len(values), 60), values)
    rows = rows_of(readings, rated, history=history)
    assert flags_of(rows) == set()
    assert rows == rows_of(readings)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(160, 790), min_size=12, max_size=40), st.integers(0, 40), st.sampled_from([1e-3, 1e3])
)
def test_wherever_the_scale_changes_only_watts_become_energy(
    watts: list[float], at: int, factor: float
) -> None:
    watts = [round(watt, 1) + 0.01 for watt in watts]
    times = range(0, 60 * len(watts), 60)
    rows = rows_of(series(times, watts[:at] + scaled(factor, values=watts[at:])), RATED)
    assert total(rows) == pytest.approx(total(rows_of(series(times[:at], watts[:at]), RATED)))


def test_judging_needs_no_rows() -> None:
    empty = pl.DataFrame(schema={**past([]).schema, "value": pl.Float64, "usual": pl.Float64})
    assert scale.flags_of(empty).to_list() == []
