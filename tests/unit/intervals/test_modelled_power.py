"""The power of nodes without a sensor of their own, by hand: which point of the line is taken, and what is missing."""

from __future__ import annotations

from math import hypot
from typing import Any

import pytest

from tests.unit.intervals.readings import node, of_device, rows_of, series

TIMES = range(0, 601, 60)
IDLE = {
    "idle_power_w": 300.0,
    "cpu_idle_power_w": 60.0,
    "memory_idle_power_w": 20.0,
    "gpu_idle_power_w": 50.0,
}


def parts(**watts: float) -> list[dict[str, Any]]:
    """Steady components by device."""
    stems = {device: device.rstrip("0123456789") for device in watts}
    return [
        row
        for device, value in watts.items()
        for row in series(TIMES, [value] * 11, f"{stems[device]}_power", device_id=device)
    ]


HOST = parts(cpu0=60.0, cpu1=40.0, dram0=40.0)
BOARDS = parts(gpu0=300.0, gpu1=300.0)


@pytest.mark.parametrize(
    ("logged", "facts", "flag", "watts", "sigma_w"),
    [
        (HOST, {"gpu_count": 0}, "modelled_default", 86 + 1.14 * 140, hypot(40, 8.4, 5, 2)),
        (HOST, {"gpu_count": 0, "rest_power_w": 100.0}, "modelled_stated", 259.6, hypot(15, 8.4, 5, 2)),
        (HOST, {"gpu_count": 0} | IDLE, "modelled_idle", 300 + 1.14 * 60, hypot(30, 3.6, 5, 2)),
        (HOST + BOARDS, {"gpu_count": 2, "rest_power_w": 100.0}, "modelled_stated", 100 + 1.14 * 740,
         hypot(15, 44.4, 5, 2, 17.34)),
        (HOST + BOARDS, {"gpu_count": None} | IDLE, "modelled_idle", 300 + 1.14 * 560, hypot(30, 33.6, 5, 2, 17.34)),
        (parts(cpu=100.0), {"gpu_count": 0, "memory_total_byte": 64 * 2.0**30}, "modelled_default",
         86 + 1.14 * (100 + 25.088), hypot(40, 0.06 * 125.088, 5, 12.544)),
        # What is told as a whole and in pieces counts once.
        (HOST + parts(cpu=100.0, dram=40.0), {"gpu_count": 0, "rest_power_w": 100.0}, "modelled_stated", 259.6,
         hypot(15, 8.4, 5, 2)),
        (BOARDS, {"gpu_count": 2, "rated_power_w": 1200.0, "gpu_rated_power_w": 350.0} | IDLE, "modelled_host",
         600 + (200 + 500) / 2, hypot(300 / 12**0.5, 17.34)),
    ],
)  # fmt: skip
def test_the_point_of_the_line_and_its_error(
    logged: list[dict[str, Any]], facts: dict[str, Any], flag: str, watts: float, sigma_w: float
) -> None:
    (row, _) = of_device(rows_of(logged, node(**facts)))
    assert (row["energy_source"], row["sensor_class"], row["flags"]) == ("modelled_sum", "modelled", [flag])
    assert row["power_mean_w"] == pytest.approx(watts)
    assert row["gain_sigma_kwh"] == pytest.approx(sigma_w * 300 / 3.6e6)
    # What the inventory says of a node's own sensor is not said of a model.
    (better, _) = of_device(rows_of(logged, node(**facts, sensor_gain_ratio=0.01)))
    assert better["gain_sigma_kwh"] == row["gain_sigma_kwh"]


@pytest.mark.parametrize(
    ("logged", "facts", "flag"),
    [
        (HOST, {"gpu_count": None}, "unmodelled_gpu"),
        (HOST, {"gpu_count": 2}, "unmodelled_gpu"),
        (HOST + parts(gpu0=300.0), {"gpu_count": 2, "rest_power_w": 100.0}, "unmodelled_gpu"),
        (BOARDS, {"gpu_count": 2}, "unmodelled_cpu"),
        (parts(cpu=100.0), {"gpu_count": 0}, "unmodelled_memory"),
        (HOST + BOARDS, {"gpu_count": 2}, "unmodelled_rest"),
        (HOST + BOARDS, {"gpu_count": 2} | IDLE | {"idle_power_w": 120.0}, "unmodelled_rest"),
    ],
)
def test_what_cannot_be_modelled_says_what_is_missing(
    logged: list[dict[str, Any]], facts: dict[str, Any], flag: str
) -> None:
    rows = rows_of(logged, node(**facts))
    assert of_device(rows) == []
    assert [row["flags"] for row in rows if row["device_id"] == min(r["device_id"] for r in rows)] == [
        [flag]
    ] * 2


def test_a_sensor_of_the_node_goes_before_every_model_and_a_part_that_falls_silent_ends_it() -> None:
    own = rows_of(HOST + series(TIMES, [250.0] * 11), node(gpu_count=0))
    assert {row["energy_source"] for row in of_device(own)} == {"bmc"}
    cut = [
        row
        for row in HOST
        if row["device_id"] != "cpu1" or row["time_us"] <= HOST[0]["time_us"] + 300_000_000
    ]
    (only,) = of_device(rows_of(cut, node(gpu_count=0)))
    assert only["power_mean_w"] == pytest.approx(86 + 1.14 * 140)


def test_supplies_outputs_stand_for_the_input_where_nothing_says_it() -> None:
    outputs = [
        row for n in (1, 2) for row in series(TIMES, [200.0] * 11, "psu_output_power", device_id=f"psu{n}")
    ]
    (row, _) = of_device(rows_of(outputs + HOST, node(psu_count=2, gpu_count=0)))
    assert (row["energy_source"], row["sensor_class"]) == ("psu_output", "psu_output")
    assert row["power_mean_w"] == pytest.approx(400 * 1.068 + 2 * 6.5)
    assert row["gain_sigma_kwh"] == pytest.approx(0.0417 * row["energy_kwh"])
    # One of three supplies is missing: no sum, so the components speak.
    (row, _) = of_device(rows_of(outputs + HOST, node(psu_count=3, gpu_count=0)))
    assert row["energy_source"] == "modelled_sum"
    dead = [row | {"value": 0.0} for row in outputs]
    assert of_device(rows_of(dead, node(psu_count=2))) == []
    (row, _) = of_device(rows_of(outputs + series(TIMES, [450.0] * 11), node(psu_count=2)))
    assert row["power_mean_w"] == 450.0
