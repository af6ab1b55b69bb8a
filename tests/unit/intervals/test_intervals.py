"""What one day of readings becomes: sources, supplies, chassis, counters, windows, flags."""

from __future__ import annotations

import random
from math import sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.intervals.node_day import IntervalPolicy
from tests.unit.intervals.readings import (
    DAY_NUMBER,
    POLICY,
    node,
    of_device,
    reading,
    rows_of,
    series,
    table,
    total,
)

MINUTES = range(0, 601, 60)


def flags(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [row["flags"] for row in rows]


def test_a_steady_node() -> None:
    (first, second) = rows_of(series(MINUTES, [360.0] * 11))
    assert first["energy_kwh"] == pytest.approx(0.03)
    assert (first["power_min_w"], first["power_mean_w"], first["power_max_w"]) == (360.0, 360.0, 360.0)
    assert (first["observed_s"], first["resolution_s"], first["interval_s"]) == (300.0, 60.0, 300)
    assert (first["cluster_id"], first["energy_source"], first["counts_in_total"]) == ("blue", "bmc", True)
    assert first["flags"] == second["flags"] == []


def test_the_sensor_errors_follow_energy_and_seconds() -> None:
    (first, _) = rows_of(series(MINUTES, [350.0, 360.0] * 5 + [350.0]))
    assert first["gain_sigma_kwh"] == pytest.approx(0.05 * first["energy_kwh"])
    assert first["resolution_sigma_kwh"] == pytest.approx(10 / sqrt(12) * 300 / 3.6e6)
    (better, _) = rows_of(series(MINUTES, [350.0] * 11), node(sensor_gain_ratio=0.01))
    assert better["gain_sigma_kwh"] == pytest.approx(0.01 * better["energy_kwh"])
    # A sensor that never changes speaks by its last digit.
    assert better["resolution_sigma_kwh"] == pytest.approx(10 / sqrt(12) * 300 / 3.6e6)


def test_the_class_of_the_sensor_gives_the_errors_that_the_inventory_leaves_open() -> None:
    supply = series(MINUTES, [100.0] * 11, "psu_input_power", device_id="psu1")
    (row, _) = of_device(rows_of(supply))
    assert (row["sensor_class"], row["gain_sigma_kwh"]) == ("psu", pytest.approx(0.0289 * row["energy_kwh"]))
    listed = IntervalPolicy("site", 300, sensor_gain_ratio=0.02, classes=POLICY.classes)
    (row, _) = of_device(rows_of(supply, policy=listed))
    assert row["gain_sigma_kwh"] == pytest.approx(0.02 * row["energy_kwh"])
    (board, _) = of_device(rows_of(series(MINUTES, [300.0] * 11, "gpu_power", device_id="gpu0")), "gpu0")
    assert (board["sensor_class"], board["sampling_sigma_kwh"]) == ("gpu_board", 0.0)
    nobody = rows_of(supply, policy=IntervalPolicy("site"))
    assert [r["gain_sigma_kwh"] for r in of_device(nobody)] == [None, None]


def test_an_hour_of_eight_moments_errs_by_their_spread_for_the_time_that_the_board_did_not_see() -> None:
    """Two GPUs in one mean of 8 momentary samples; a board sees a quarter of the time."""
    hours = [
        reading(
            3600 * hour, watt, "gpu_power", device_id="gpu", statistic="mean", window_s=3600.0,
            multiplicity=2, spot_samples=8,
        )
        for hour, watt in ((0, 100.0), (1, 180.0))
    ]  # fmt: skip
    rows = of_device(rows_of(hours), "gpu")
    second = sum(row["sampling_sigma_kwh"] ** 2 for row in rows[12:24]) ** 0.5
    assert second == pytest.approx(2 * sqrt(80**2 / 2 / 8 * 0.75) / 1000)
    assert rows[0]["sampling_sigma_kwh"] == pytest.approx(rows[12]["sampling_sigma_kwh"])
    (alone, *_) = of_device(rows_of(hours[:1]), "gpu")
    # No other hour to differ from: not known, neither NaN nor nothing.
    assert (alone["energy_kwh"], alone["sampling_sigma_kwh"]) == (pytest.approx(0.2 / 12), None)


def test_supplies_are_summed_where_all_report() -> None:
    both = series(MINUTES, [100.0] * 11, "psu_input_power", device_id="psu1")
    both += series(MINUTES, [150.0] * 11, "psu_input_power", device_id="psu2")
    bmc = series(MINUTES, [260.0] * 11)
    rows = rows_of(both + bmc)
    assert {(r["energy_source"], r["power_mean_w"]) for r in of_device(rows)} == {("psu_input", 250.0)}
    assert {r["counts_in_total"] for r in of_device(rows, "psu1")} == {False}
    assert of_device(rows, "psu2")[0]["power_mean_w"] == 150.0
    # The second supply is silent in the second interval: its stamps are no sum, and the BMC takes over.
    rows = rows_of([r for r in both if r["device_id"] == "psu1" or r["time_us"] <= both[5]["time_us"]] + bmc)
    assert [r["energy_source"] for r in of_device(rows)] == ["psu_input", "bmc"]
    assert flags(of_device(rows)) == [[], ["source_changed"]]


def test_a_supply_that_never_reports_is_missed_where_the_inventory_knows_it() -> None:
    one = series(MINUTES, [100.0] * 11, "psu_input_power", device_id="psu1")
    assert {r["energy_source"] for r in of_device(rows_of(one))} == {"psu_input"}
    known = of_device(rows_of(one + series(MINUTES, [30.0] * 11, "inlet_temperature"), node(psu_count=2)))
    assert [(r["energy_kwh"], r["energy_source"], r["observed_s"]) for r in known] == [(None, None, 0.0)] * 2


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("outlet_power", "psu_input_power"), ("psu_input_power", "node_input_power"),
        ("node_input_power", "node_power"), ("outlet_energy", "outlet_power"),
    ],
)  # fmt: skip
def test_the_source_nearest_the_plug_wins(better: str, worse: str) -> None:
    def at(quantity: str, watt: float) -> list[dict[str, Any]]:
        device = "psu1" if quantity.startswith("psu") else "node"
        if quantity.endswith("_energy"):
            return series(
                MINUTES, [watt * t for t in MINUTES], quantity, statistic="counter", device_id=device
            )
        return series(MINUTES, [watt] * 11, quantity, device_id=device)

    rows = of_device(rows_of(at(better, 100.0) + at(worse, 200.0)))
    assert [r["power_mean_w"] for r in rows] == [100.0, 100.0]
    sources = {
        "outlet_energy": "outlet_counter",
        "outlet_power": "outlet_power",
        "psu_input_power": "psu_input",
    }
    assert {r["energy_source"] for r in rows} == {sources.get(better, "bmc")}


def test_a_short_glimpse_of_a_better_source_displaces_nothing() -> None:
    glimpse = series((0, 60), [100.0, 100.0], "outlet_power")
    assert rows_of(glimpse + series(MINUTES, [200.0] * 11))[0]["energy_source"] == "bmc"


def test_four_nodes_of_a_chassis_count_it_once() -> None:
    nodes = [node(f"n{i}", chassis_id="box") for i in (1, 2, 3, 4)]
    readings = []
    for i in (1, 2, 3, 4):
        # Each node is asked some seconds later than the one before; the fourth reads the full scale once.
        times = [minute + 5 * i for minute in MINUTES]
        values = [250.0] * 11
        values[3] = 25_550.0 if i == 4 else 250.0
        readings += series(times, values, "chassis_input_power", node_id=f"n{i}", device_id="chassis")
        readings += series(times, [20.0] * 11, node_id=f"n{i}")
    rows = rows_of(readings, *nodes)
    box = of_device(rows, "chassis", "box")
    assert {(r["power_mean_w"], r["counts_in_total"], r["cluster_id"]) for r in box} == {
        (250.0, False, "blue")
    }
    assert total(box) == pytest.approx(250 * 600 / 3.6e6)
    assert box[0]["flags"] == ["full_scale", "partial"]
    assert total([r for r in rows if r["counts_in_total"]]) == pytest.approx(4 * 20 * 600 / 3.6e6)
    assert not of_device(rows, "chassis", "n1")


def test_a_chassis_that_the_inventory_does_not_know_stays_at_its_node() -> None:
    values = [250.0, 250.0, 25_550.0, *[250.0] * 8]
    rows = rows_of(series(MINUTES, values, "chassis_input_power", device_id="chassis"))
    (first, _) = of_device(rows, "chassis")
    assert first["counts_in_total"] is False
    # Two segments touch the refused sample and are uncovered.
    assert (first["observed_s"], first["power_max_w"]) == (180.0, 250.0)
    assert first["flags"] == ["full_scale", "partial"]


def test_a_reading_far_above_the_rating_is_uncovered() -> None:
    values = [300.0] * 11
    values[2] = 751.0
    (first, second) = rows_of(series(MINUTES, values), node(rated_power_w=500.0))
    assert (first["observed_s"], first["power_max_w"]) == (180.0, 300.0)
    assert flags([first, second]) == [["out_of_rated", "partial"], []]
    # Nothing is judged without a rating.
    assert rows_of(series(MINUTES, values))[0]["power_max_w"] == 751.0


def test_a_counter_reset_starts_anew() -> None:
    counts = [1_000.0 * t for t in MINUTES]
    counts[4:] = [100.0 * (t - 200) for t in MINUTES][4:]
    (first, second) = rows_of(series(MINUTES, counts, "node_energy", statistic="counter"))
    assert first["energy_kwh"] == pytest.approx((3 * 60_000 + 6_000) / 3.6e6)
    assert first["observed_s"] == 240.0
    assert flags([first, second]) == [["counter_reset", "partial"], []]
    assert first["energy_kwh"] >= 0


def test_an_hour_is_spread_over_its_intervals_for_all_devices_of_the_mean() -> None:
    hours = series(
        (0, 7200),
        (300.0, 100.0),
        "gpu_power",
        device_id="gpu",
        statistic="mean",
        window_s=3600.0,
        multiplicity=2,
    )
    boards = of_device(rows_of(hours), "gpu")
    assert len(boards) == 24, "the missing hour in between is not bridged"
    assert {(r["power_mean_w"], r["multiplicity"]) for r in boards} == {(300.0, 2), (100.0, 2)}
    assert total(boards) == pytest.approx(2 * (300 + 100) / 1000, rel=1e-14)
    # An hourly mean does not say how low the power went.
    assert {(r["power_min_w"], r["power_max_w"]) for r in boards} == {(None, None)}


def test_published_minima_and_maxima_are_believed() -> None:
    hour = {"device_id": "gpu", "window_s": 3600.0}
    rows = rows_of(
        [
            reading(0, 300.0, "gpu_power", statistic="mean", **hour),
            reading(0, 100.0, "gpu_power", statistic="min", sensor="low", **hour),
            reading(0, 400.0, "gpu_power", statistic="max", sensor="high", **hour),
        ]
    )
    assert {(r["power_min_w"], r["power_mean_w"], r["power_max_w"]) for r in rows} == {(100.0, 300.0, 400.0)}


def test_the_merged_hour_of_autumn_covers_two_hours() -> None:
    rows = rows_of([reading(3600, 200.0, "gpu_power", device_id="gpu", statistic="mean", window_s=7200.0)])
    assert total(rows, "observed_s") == 7200.0
    assert total(rows) == pytest.approx(0.4)


def test_a_window_that_runs_into_the_next_ends_there() -> None:
    means = series((0, 200), (100.0, 200.0), statistic="mean", window_s=300.0)
    (first, second) = rows_of(means)
    assert first["energy_kwh"] == pytest.approx((200 * 100 + 100 * 200) / 3.6e6)
    assert (first["observed_s"], second["observed_s"]) == (300.0, 200.0)
    assert flags([first, second]) == [["overlap"], ["partial"]]


def test_single_boards_win_over_the_shared_figure() -> None:
    rows = rows_of(
        series(MINUTES, [300.0] * 11, "gpu_power", device_id="gpu0")
        + series(MINUTES, [310.0] * 11, "gpu_power", device_id="gpu", sensor="GPU Board Power")
    )
    assert {r["energy_kwh"] is None for r in of_device(rows, "gpu")} == {True}
    assert flags(of_device(rows, "gpu")) == [["cross_check"]] * 2
    assert total(rows) == pytest.approx(300 * 600 / 3.6e6)


def test_a_node_row_carries_what_its_devices_say() -> None:
    rows = rows_of(
        series(MINUTES, [22.0] * 11, "inlet_temperature")
        + series(MINUTES, [50.0] * 11, "cpu_temperature", device_id="cpu1")
        + series(MINUTES, [60.0] * 11, "cpu_temperature", device_id="cpu2")
        + series(MINUTES, [70.0] * 11, "gpu_temperature", device_id="gpu0")
        + series(MINUTES, [0.25] * 11, "cpu_utilisation", device_id="cpu")
        + series(MINUTES, [0.5] * 11, "gpu_utilisation", device_id="gpu0")
        + series(MINUTES, [1.0] * 11, "gpu_utilisation", device_id="gpu1")
        + series(MINUTES, [8000.0] * 11, "fan_speed", device_id="fan1")
        + series(MINUTES, [1e9] * 11, "clock", device_id="gpu0")
        + series(MINUTES, [300.0] * 11, "power_limit", device_id="gpu0")
        + series(MINUTES, [0.1] * 11, "gpu_memory_utilisation", device_id="gpu0")
    )
    own = of_device(rows)[0]
    assert (own["inlet_temp_c"], own["device_temp_c"], own["fan_rpm"]) == (22.0, 55.0, 8000.0)
    assert (own["cpu_utilisation_ratio"], own["gpu_utilisation_ratio"]) == (0.25, 0.75)
    assert (own["energy_kwh"], own["observed_s"], own["clock_hz"]) == (None, 0.0, None)
    gpu = of_device(rows, "gpu0")[0]
    assert (gpu["device_temp_c"], gpu["gpu_utilisation_ratio"], gpu["clock_hz"]) == (70.0, 0.5, 1e9)
    assert (gpu["power_limit_w"], gpu["memory_utilisation_ratio"]) == (300.0, 0.1)
    assert not of_device(rows, "fan1")


def test_repeats_go_by_file_then_position_and_are_counted() -> None:
    readings = series(MINUTES, [100.0] * 11, file_rank=2)
    readings += [
        reading(60, 900.0, file_rank=3),
        reading(120, 100.0, file_rank=3),
        reading(180, 800.0, file_rank=1),
    ]
    (first, second) = rows_of(readings)
    assert (first["conflicts"], second["conflicts"]) == (2, 0)
    assert first["power_max_w"] == 800.0
    assert first["flags"] == ["conflict"]


def test_a_node_outside_the_inventory_is_invented_into_no_cluster() -> None:
    rows = rows_of(series(MINUTES, [100.0] * 11), node("other"))
    assert {(r["cluster_id"], r["counts_in_total"]) for r in rows} == {("_unlisted", True)}
    assert flags(rows) == [["unlisted_node"]] * 2


def test_the_inventory_row_of_the_interval_gives_the_cluster() -> None:
    change_us = reading(300, 0.0)["time_us"]
    rows = rows_of(
        series(MINUTES, [100.0] * 11),
        node(until_us=change_us, until_day=DAY_NUMBER - 1),
        node(cluster_id="green", from_us=change_us, from_day=DAY_NUMBER),
    )
    assert [r["cluster_id"] for r in of_device(rows)] == ["blue", "green"]


def test_a_component_logged_for_the_node_adds_nothing_to_it() -> None:
    rows = rows_of(series(MINUTES, [100.0] * 11) + series(MINUTES, [60.0] * 11, "cpu_power"))
    assert total([r for r in rows if r["counts_in_total"]]) == pytest.approx(100 * 600 / 3.6e6)
    assert {r["counts_in_total"] for r in of_device(rows, "cpu")} == {False}


def test_other_interval_lengths() -> None:
    (only,) = rows_of(series(MINUTES, [100.0] * 11), policy=IntervalPolicy("site", interval_s=900))
    assert (only["interval_s"], only["observed_s"], only["flags"]) == (900, 600.0, ["partial"])


scattered = st.lists(
    st.tuples(st.integers(-600, 87_000), st.integers(0, 600).map(float)),
    min_size=1,
    max_size=40,
    unique_by=lambda r: r[0],
)


@settings(deadline=None, max_examples=25)
@given(scattered, st.randoms(use_true_random=False))
def test_neither_order_nor_files_change_anything(points: list[tuple[int, float]], rng: random.Random) -> None:
    readings = [reading(t, v) for t, v in points] + [reading(t, v, "inlet_temperature") for t, v in points]
    shuffled = [
        row | {"file_rank": rng.randrange(5), "source_position": rng.randrange(9)} for row in readings
    ]
    rng.shuffle(shuffled)
    assert rows_of(shuffled) == rows_of(readings)


@settings(deadline=None, max_examples=25)
@given(scattered)
def test_days_apart_give_what_they_give_together(points: list[tuple[int, float]]) -> None:
    """Two days around a midnight, each from its own readings and a margin, against one day that holds both."""
    noon = 43_200
    as_one = rows_of([reading(t % 86_400, v) for t, v in _far_from_midnight(points, noon)])
    split = []
    for day in (0, 1):
        for t, v in _far_from_midnight(points, noon):
            shifted = t % 86_400 + noon
            if -330 <= shifted - 86_400 * day <= 86_400 + 330:
                split.append(reading(shifted, v, day=DAY_NUMBER + day))
    apart = rows_of(split)
    for column in ("energy_kwh", "observed_s"):
        assert total(apart, column) == pytest.approx(total(as_one, column), rel=1e-12, abs=1e-15)


def _far_from_midnight(points: list[tuple[int, float]], noon: int) -> list[tuple[int, float]]:
    """Squeeze times into an hour around noon, so that the shifted ones cross a midnight."""
    squeezed = {noon - 1800 + t % 3600: v for t, v in points}
    return sorted(squeezed.items())


def test_an_empty_group_is_empty() -> None:
    assert table([]).num_rows == 0
    assert rows_of([]) == []
    assert POLICY.interval_us == 300_000_000
