"""A node's energy to its jobs and to idle: hand-worked cases, and what must hold whatever is measured and held."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.attribution.node_energy import Unit, held_units, instance_shares, units_of
from tests.unit.attribution.accounting import CASES
from tests.unit.attribution.nodes import MIDNIGHT, case_rows, holding, interval, roll, split

FOLDERS = sorted((CASES / "split").iterdir())
KWH_PER_WATT_INTERVAL = 300 / 3.6e6


def powers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Intervals of constant powers; imputed rows by the hour."""
    found = []
    for row in rows:
        hourly = row["device_id"] == "imputed"
        for minute in range(row["from_min"], row["to_min"], 60 if hourly else 5):
            energy = (
                None
                if row["power_w"] is None
                else row["power_w"] * KWH_PER_WATT_INTERVAL * (12 if hourly else 1)
            )
            utilisation = {name: value for name, value in row.items() if name.endswith("_utilisation_ratio")}
            more = {"interval_s": 3600} if hourly else utilisation
            found.append(interval(row["device_id"], minute, energy, **more))
    return found


def jobs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("restart", "cpu_count", "gpu_count", "device_ids", "cpu_time_s")
    return [
        holding(row["job_id"], row["from_min"], row["to_min"], **{n: row[n] for n in names}) for row in rows
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_case(folder: Any) -> None:
    facts = case_rows(folder / "node.csv")[0]
    found, node = split(
        powers(case_rows(folder / "power.csv")), jobs(case_rows(folder / "jobs.csv")), roll(**facts)
    )
    by_hour = {(row["job_id"], row["restart"], row["hour_start"].hour): row for row in found}
    expected = case_rows(folder / "job_hours.csv")
    assert set(by_hour) == {(row["job_id"], row["restart"], row["hour"]) for row in expected}
    for row in expected:
        got = by_hour[row.pop("job_id"), row.pop("restart"), row.pop("hour")]
        assert {name: got[name] for name in row} == pytest.approx(row, abs=1e-9)
    nodes = {row["hour_start"].hour: row for row in node}
    for row in case_rows(folder / "node_hours.csv"):
        got = nodes.pop(row.pop("hour"))
        assert {name: got[name] for name in row} == pytest.approx(row, abs=1e-9)
    assert all(row["jobs_energy_kwh"] == row["idle_energy_kwh"] == 0 for row in nodes.values())


def test_without_an_idle_power_nobody_knows_what_is_idle_beside_a_job() -> None:
    measured = [interval("node", minute, 0.01) for minute in range(0, 120, 5)]
    for idle_w, knows in ((None, [False, True]), (50.0, [True, True])):
        _, node = split(measured, [holding("a", 0, 30)], roll(idle_power_w=idle_w))
        assert [row["idle_is_known"] for row in node[:2]] == knows


def test_boards_whose_activity_nobody_knows_are_not_known_to_have_worked() -> None:
    facts, found = roll(idle_power_w=50.0, gpu_count=1, gpu_idle_power_w=20.0), []
    for activity in (None, 0.9, 0.0):
        measured = [
            interval(device, minute, kwh, gpu_utilisation_ratio=activity if device == "gpu0" else None)
            for minute in range(0, 60, 5) for device, kwh in (("node", 0.01), ("gpu0", 0.005))
        ]  # fmt: skip
        jobs, _ = split(
            measured, [holding("a", 0, 60, gpu_count=1, device_ids=["gpu0"]), holding("b", 0, 60)], facts
        )
        found.append({row["job_id"]: row["idle_gpu_kwh"] for row in jobs})
    unknown, busy, idle = found
    assert (unknown["a"], busy["a"], idle["a"]) == (None, 0.0, pytest.approx(0.055))
    assert [one["b"] for one in found] == [0.0] * 3, "it holds no GPU"


def test_the_mig_formula_of_ceems_adds_up_to_the_board() -> None:
    # Its documentation gives a board of 140 W in 1, 2 and 4 of 7 slices as 20, 40 and "40" W: 4/7 of 140 is 80.
    shares = instance_shares(np.array([1.0, 2.0, 4.0]), np.full((3, 1), np.nan), np.ones((3, 1), dtype=bool))
    assert (140 * shares[:, 0]).tolist() == pytest.approx([20, 40, 80])


def test_mig_activity_weighs_slices_and_only_held_ones_count_without_it() -> None:
    slices = np.array([3.0, 4.0])
    activity = np.array([[0.8, 0.0, np.nan], [0.2, 0.0, 0.9]])
    held = np.array([[True, True, False], [True, False, True]])
    assert instance_shares(slices, activity, held).T.tolist() == pytest.approx(
        np.array([[2.4 / 3.2, 0.8 / 3.2], [1.0, 0.0], [0.0, 1.0]])
    )


def test_devices_are_named_as_schedulers_name_them() -> None:
    units = units_of(["node", "cpu", "gpu0", "gpu0_mig7_3g.40gb", "gpu0_mig1_3g.40gb", "gpu1", "gpu10"], 3)
    assert units == [
        Unit("gpu0_mig1_3g.40gb", "gpu0", 3), Unit("gpu0_mig7_3g.40gb", "gpu0", 3), Unit("gpu1", "gpu1"),
        Unit("gpu10", "gpu10"),
    ]  # fmt: skip
    assert held_units(["mig1"], units) == [1]
    assert held_units(["gpu0", "gpu10"], units) == [0, 1, 3]
    assert held_units(["gpu2"], units) is None
    assert held_units(["mig2"], units) is None
    assert [unit.device_id for unit in units_of(["node"], 2)] == ["gpu0", "gpu1"]


def test_a_job_across_midnight_is_two_rows_of_its_two_days() -> None:
    node = roll(idle_power_w=100.0, gpu_count=0, core_count=4)
    rows = [interval("node", minute, 200 * KWH_PER_WATT_INTERVAL) for minute in range(23 * 60, 25 * 60, 5)]
    held = [
        holding("a", 23 * 60 + 30, 24 * 60, cpu_count=4),
        holding("a", 24 * 60, 24 * 60 + 30, cpu_count=4),
    ]
    found, nodes = split(rows, held, node)
    assert [(row["date"].day, row["hour_start"].hour, row["held_s"]) for row in found] == [
        (3, 23, 1800),
        (4, 0, 1800),
    ]
    assert [row["dynamic_kwh"] + row["static_kwh"] for row in found] == pytest.approx([0.1, 0.1])
    assert sum(row["idle_energy_kwh"] for row in nodes) == pytest.approx(0.2)


def test_without_an_inventory_of_cores_idle_is_not_charged_to_whoever_runs() -> None:
    rows = [interval("node", minute, 300 * KWH_PER_WATT_INTERVAL) for minute in range(0, 60, 5)]
    found, nodes = split(rows, [holding("a", 0, 60, cpu_count=8)], roll(idle_power_w=100.0, gpu_count=0))
    assert (found[0]["dynamic_kwh"], found[0]["static_kwh"]) == pytest.approx((0.2, 0.0))
    assert nodes[0]["idle_energy_kwh"] == pytest.approx(0.1)


ENERGY = st.one_of(st.none(), st.floats(0, 2))
DEVICES = ("gpu0", "gpu1", "gpu0_mig1_3g.40gb", "gpu0_mig2_4g.40gb", "cpu", "cpu0", "dram", "gpu")


@st.composite
def node_hours(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    devices = draw(st.lists(st.sampled_from(DEVICES), unique=True))
    rows = []
    for minute in draw(st.lists(st.sampled_from(range(0, 120, 5)), unique=True)):
        observed_s = draw(st.floats(0, 300))
        rows.append(interval("node", minute, draw(st.floats(0, 5)), observed_s=observed_s))
        for name in devices:
            utilisation = draw(st.one_of(st.none(), st.floats(0, 1)))
            rows.append(interval(name, minute, draw(ENERGY), gpu_utilisation_ratio=utilisation))
    for hour in draw(st.lists(st.sampled_from((0, 1)), unique=True)):
        rows.append(interval("imputed", hour * 60, draw(st.floats(0, 20)), interval_s=3600))
    held = []
    for number in range(draw(st.integers(0, 5))):
        start = draw(st.floats(0, 119))
        more = {
            "cpu_count": draw(st.one_of(st.none(), st.integers(0, 64))),
            "gpu_count": draw(st.one_of(st.none(), st.integers(0, 4))),
            "cpu_time_s": draw(st.one_of(st.none(), st.floats(0, 1e5))),
            "memory_byte": draw(st.one_of(st.none(), st.floats(0, 1e12))),
            "device_ids": draw(
                st.one_of(st.none(), st.lists(st.sampled_from(("gpu0", "gpu1", "mig0", "mig1", "gpu9"))))
            ),
        }
        held.append(holding(f"j{number}", start, start + draw(st.floats(0.01, 120)), **more))
    maybe = st.one_of(st.none(), st.floats(0, 500))
    facts = {name: draw(maybe) for name in (
        "idle_power_w", "rated_power_w", "gpu_rated_power_w", "cpu_idle_power_w", "memory_idle_power_w",
        "gpu_idle_power_w",
    )}  # fmt: skip
    facts |= {"gpu_count": draw(st.one_of(st.none(), st.integers(0, 4)))}
    facts |= {"core_count": draw(st.one_of(st.none(), st.integers(1, 64)))}
    facts |= {"memory_total_byte": draw(st.one_of(st.none(), st.floats(1e9, 1e12)))}
    return rows, held, facts


@settings(max_examples=150, deadline=None)
@given(node_hours())
def test_jobs_and_idle_are_the_nodes_energy_and_nothing_is_negative(case: Any) -> None:
    rows, held, facts = case
    found, nodes = split(rows, held, roll(**facts))
    for node in nodes:
        start = node["hour_start"]
        inside = (start, start + timedelta(hours=1))
        total = sum(
            row["energy_kwh"] for row in rows
            if row["device_id"] in ("node", "imputed") and inside[0] <= row["interval_start"] < inside[1]
        )  # fmt: skip
        own = [row for row in found if row["hour_start"] == start]
        assert node["jobs_energy_kwh"] + node["idle_energy_kwh"] == pytest.approx(total, rel=1e-9, abs=1e-12)
        dynamic = sum(row["dynamic_kwh"] for row in own)
        for rule in ("static_kwh", "static_usage_kwh", "static_equal_kwh"):
            jobs_kwh = dynamic + sum(row[rule] for row in own)
            assert jobs_kwh == pytest.approx(node["jobs_energy_kwh"], rel=1e-9, abs=1e-12)
        assert sum(row["reserved_share_ratio"] for row in own) <= 1 + 1e-9
        assert sum(row["imputed_kwh"] for row in own) <= total + 1e-9
        for row in own:
            amounts = {
                name: value
                for name, value in row.items()
                if name.endswith(("_kwh", "_s", "_ratio", "_h")) and value is not None
            }
            assert min(amounts.values()) >= 0, amounts
            assert all(np.isfinite(value) for value in amounts.values())
            assert row["covered_s"] <= row["held_s"] + 1e-6


def test_energy_of_boards_is_charged_once() -> None:
    rows = [interval("node", m, 0.1) for m in range(0, 60, 5)]
    rows += [interval(f"gpu{gpu}", m, 0.02 * (gpu + 1)) for m in range(0, 60, 5) for gpu in range(2)]
    held = [
        holding("listed", 0, 60, cpu_count=1, gpu_count=1, device_ids=["gpu0"]),
        holding("again", 0, 60, cpu_count=1, gpu_count=1, device_ids=["gpu0"]),
        holding("counted", 0, 60, cpu_count=1, gpu_count=3),
    ]
    found, _ = split(rows, held, roll(idle_power_w=100.0, gpu_count=2, core_count=4, gpu_idle_power_w=30.0))
    assert sum(row["gpu_energy_kwh"] for row in found) == pytest.approx(12 * 0.06)
    assert sum(row["gpu_held_h"] for row in found) == pytest.approx(2.0)
    assert MIDNIGHT in {row["hour_start"] for row in found}


def test_gpus_that_nobody_read_are_no_0_kwh() -> None:
    rows = [interval("node", m, 0.1) for m in range(0, 120, 5)]
    rows += [interval("gpu0", m, 0.02) for m in range(0, 60, 5)]
    held = [
        holding("gpus", 0, 120, cpu_count=1, gpu_count=1, device_ids=["gpu0"]),
        holding("counted", 0, 120, cpu_count=1, gpu_count=1),
        holding("cores", 0, 120, cpu_count=1, gpu_count=0),
    ]
    found, _ = split(rows, held, roll(idle_power_w=100.0, gpu_count=2, core_count=4))
    told = {(row["job_id"], row["hour_start"].hour): row["gpu_energy_kwh"] for row in found}
    assert told["gpus", 0] == pytest.approx(12 * 0.02)
    assert {job: told[job, 1] for job in ("gpus", "counted", "cores")} == {
        "gpus": None, "counted": None, "cores": 0.0
    }  # fmt: skip


def test_the_energy_of_a_job_on_a_modelled_node_is_not_measured() -> None:
    """An hour half measured, half modelled: the modelled half counts as filled in by a model."""
    rows = [
        interval("node", minute, 0.02, energy_source="bmc" if minute < 30 else "modelled_sum")
        for minute in range(0, 60, 5)
    ]
    (job,), _ = split(rows, [holding("1", 0, 60, cpu_count=4)], roll(core_count=4, idle_power_w=100.0))
    assert job["dynamic_kwh"] + job["static_kwh"] == pytest.approx(0.24)
    assert job["imputed_kwh"] == pytest.approx(0.12)
