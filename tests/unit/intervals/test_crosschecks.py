"""Sources of one node held against each other: what is found, what is believed, and what is kept of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from lepton_etl.intervals.channels import DAY_US
from lepton_etl.intervals.node_day import node_days
from lepton_etl.intervals.readings import ROSTER_COLUMNS
from lepton_etl.intervals.sensor_checks import (
    SERIES_COLUMNS,
    Comparison,
    compare_sources,
)
from lepton_etl.intervals.usual_values import SENSOR_DAY_COLUMNS
from tests.unit.intervals.readings import (
    CLASSES,
    DAY,
    DAY_NUMBER,
    POLICY,
    node,
    of_device,
    rows_of,
    series,
    table,
)

INTERVAL_US = 300_000_000
DAY_LENGTH = 288
GAINS = POLICY.gains
Floats = NDArray[np.float64]


def day_of_load(seed: int = 1) -> Floats:
    """A working day in W: steps of an hour between idle and full load."""
    levels = np.random.default_rng(seed).uniform(200.0, 600.0, 24)
    return np.repeat(levels, DAY_LENGTH // 24)


def compared(rated_w: float | None = None, **sources: Floats) -> Comparison:
    """Check of a node whose sources said these powers, one an interval."""
    start = DAY_NUMBER * DAY_US
    rows = [
        (DAY_NUMBER, "n1", source, start + place * INTERVAL_US, float(watt))
        for source, power in sources.items()
        for place, watt in enumerate(power)
        if np.isfinite(watt)
    ]
    frame = pl.DataFrame(rows, schema=SERIES_COLUMNS, orient="row")
    return compare_sources(frame, GAINS, {(DAY_NUMBER, "n1"): rated_w} if rated_w else {}, INTERVAL_US)


def verdicts(found: Comparison) -> dict[str, str]:
    return dict(zip(found.checks["check_source"], found.checks["sensor_verdict"], strict=True))


def check(found: Comparison, source: str) -> dict[str, Any]:
    return found.checks.row(by_predicate=pl.col("check_source") == source, named=True)


def suspect_hours(found: Comparison) -> dict[str, set[int]]:
    hours = found.suspects.with_columns((pl.col("interval_us") % DAY_US // 3_600_000_000).alias("hour"))
    return {str(source): set(rows["hour"]) for (source,), rows in hours.group_by("energy_source")}


def test_sources_within_their_errors_agree() -> None:
    load = day_of_load()
    found = compared(psu_input=load, bmc=load * 0.92)
    assert verdicts(found) == {"psu_input": "agrees", "bmc": "agrees"}
    bmc = check(found, "bmc")
    assert (bmc["against_source"], bmc["samples"], bmc["lag_s"]) == ("psu_input", DAY_LENGTH, 0.0)
    assert bmc["median_ratio"] == pytest.approx(0.92)
    assert bmc["offset_w"] == pytest.approx(float(np.median(-0.08 * load)))
    assert found.suspects.is_empty()


def test_a_source_outside_both_errors_is_biased_and_the_better_one_stays() -> None:
    # Twice the hypotenuse of 2.9 % and 5 % is 11.6 %.
    load = day_of_load()
    assert verdicts(compared(psu_input=load, bmc=load * 0.87))["bmc"] == "bias"
    assert verdicts(compared(psu_input=load, bmc=load * 0.89))["bmc"] == "agrees"
    found = compared(psu_input=load, bmc=load * 0.6)
    assert verdicts(found) == {"psu_input": "agrees", "bmc": "bias"}
    assert found.suspects.is_empty()


def test_the_best_source_is_biased_where_it_stands_alone() -> None:
    load = day_of_load()
    found = compared(outlet_power=load * 1.3, psu_input=load, bmc=load * 1.02)
    assert verdicts(found) == {"outlet_power": "bias", "psu_input": "bias", "bmc": "bias"}


@pytest.mark.parametrize(("share", "verdict"), [(0.7, "agrees"), (1.1, "agrees"), (1.3, "bias")])
def test_the_parts_are_no_more_than_the_whole(share: float, verdict: str) -> None:
    load = day_of_load()
    assert verdicts(compared(bmc=load, components=load * share))["components"] == verdict


def test_a_stuck_source_gives_way_where_it_is_stuck() -> None:
    load = day_of_load()
    stuck = load.copy()
    stuck[120:240] = stuck[120]
    found = compared(psu_input=stuck, bmc=load)
    assert verdicts(found) == {"psu_input": "stuck", "bmc": "agrees"}
    assert suspect_hours(found) == {"psu_input": set(range(10, 20))}


def test_a_coarse_sensor_of_an_idle_node_is_not_stuck() -> None:
    idle = 100 + np.random.default_rng(2).normal(0, 3.0, DAY_LENGTH)
    assert verdicts(compared(psu_input=idle, bmc=np.round(idle, -2)))["bmc"] == "agrees"


def test_another_unit_is_told_by_the_rating() -> None:
    load = day_of_load()
    found = compared(rated_w=700.0, psu_input=load * 100, bmc=load)
    assert verdicts(found) == {"psu_input": "scale", "bmc": "agrees"}
    assert suspect_hours(found) == {"psu_input": set(range(24))}
    found = compared(rated_w=700.0, psu_input=load, bmc=load * 100)
    assert verdicts(found) == {"psu_input": "agrees", "bmc": "scale"}


def test_another_unit_is_told_by_a_third_source() -> None:
    load = day_of_load()
    found = compared(outlet_power=load * 10, psu_input=load, bmc=load * 1.05)
    assert verdicts(found)["outlet_power"] == "scale"
    assert set(suspect_hours(found)) == {"outlet_power"}
    found = compared(outlet_power=load, psu_input=load * 10, bmc=load * 1.05)
    assert verdicts(found) == {"outlet_power": "agrees", "psu_input": "scale", "bmc": "agrees"}


def test_one_supply_of_two_is_told_by_the_parts() -> None:
    load = day_of_load()
    found = compared(psu_input=load / 2, bmc=load, components=load * 0.7)
    assert verdicts(found)["psu_input"] == "scale"


def test_of_two_without_a_witness_the_better_one_stays() -> None:
    load = day_of_load()
    assert verdicts(compared(psu_input=load / 2, bmc=load)) == {"psu_input": "agrees", "bmc": "scale"}
    # A factor that may as well be an offset is a bias: the node does not move.
    flat = np.full(DAY_LENGTH, 200.0) + np.arange(DAY_LENGTH) % 2
    assert verdicts(compared(psu_input=flat / 2, bmc=flat))["bmc"] == "bias"


@pytest.mark.parametrize("late", [12, -6])
def test_another_clock_shows_as_the_lag_of_the_best_correlation(late: int) -> None:
    load = day_of_load() + np.random.default_rng(3).normal(0, 10.0, DAY_LENGTH)
    found = compared(psu_input=load, bmc=np.roll(load, late))
    assert verdicts(found)["bmc"] == "clock_skew"
    assert check(found, "bmc")["lag_s"] == late * 300


def test_too_few_intervals_say_nothing() -> None:
    load = day_of_load()
    short = np.where(np.arange(DAY_LENGTH) < 11, load, np.nan)
    assert compared(psu_input=load, bmc=short * 3).checks.is_empty()
    assert compared(psu_input=load).checks.is_empty()


def test_of_no_readings_nothing_is_said() -> None:
    found = compared()
    assert found.checks.is_empty() and found.suspects.is_empty()


TIMES = range(0, 4 * 3600 + 1, 60)


def two_sources(better: list[float], bmc: list[float]) -> list[dict[str, Any]]:
    """Rows of a node with an outlet and a BMC, read every minute for four hours."""
    return rows_of(series(TIMES, better, "outlet_power") + series(TIMES, bmc))


def test_the_next_source_speaks_while_the_best_is_stuck() -> None:
    moving = [200.0 + 100 * (t // 600 % 4) for t in TIMES]
    stuck = [value if t < 3600 else 300.0 for t, value in zip(TIMES, moving, strict=True)]
    rows = of_device(two_sources(stuck, moving))
    sources = [row["energy_source"] for row in rows]
    assert sources[:10] == ["outlet_power"] * 10
    assert sources[13:48] == ["bmc"] * 35
    assert {"source_changed", "stuck_outlet_power"} <= set(rows[20]["flags"])
    assert rows[5]["flags"] == []
    truth = sum(a + b for a, b in pairwise(moving)) / 2 * 60 / 3.6e6
    assert sum(row["energy_kwh"] for row in rows) == pytest.approx(truth, rel=0.02)


def test_what_was_not_chosen_is_kept_and_never_added() -> None:
    rows = two_sources([300.0] * len(TIMES), [200.0] * len(TIMES))
    own, other = of_device(rows), of_device(rows, "node.bmc")
    assert {row["power_mean_w"] for row in own} == {300.0}
    assert {tuple(row["flags"]) for row in own} == {("bias_bmc",)}
    assert {(r["power_mean_w"], r["energy_kwh"], r["counts_in_total"]) for r in other} == {
        (200.0, None, False)
    }
    assert {(r["sensor_class"], *r["flags"]) for r in other} == {("bmc", "cross_check")}
    assert CLASSES["bmc"].gain_sigma_ratio == 0.05


def test_a_bucket_gives_the_checks_of_its_nodes() -> None:
    readings = series(TIMES, [300.0] * len(TIMES), "outlet_power") + series(TIMES, [200.0] * len(TIMES))
    listed = pl.DataFrame([node()], schema=ROSTER_COLUMNS)
    made = node_days(table(readings), pl.DataFrame(schema=SENSOR_DAY_COLUMNS), listed, POLICY)
    bmc, outlet = made.checks.to_dicts()
    assert (bmc["site_id"], bmc["node_id"], bmc["date"], bmc["samples"]) == ("site", "n1", DAY, 48)
    assert (bmc["check_source"], bmc["against_source"]) == ("bmc", "outlet_power")
    assert bmc["median_ratio"] == pytest.approx(2 / 3)
    assert (bmc["offset_w"], bmc["lag_s"], bmc["sensor_verdict"]) == (-100.0, None, "bias")
    assert (outlet["check_source"], outlet["sensor_verdict"]) == ("outlet_power", "agrees")


def test_parts_of_a_node_check_its_only_total() -> None:
    parts = series(TIMES, [150.0] * len(TIMES), "cpu_power", device_id="cpu0")
    parts += series(TIMES, [150.0] * len(TIMES), "gpu_power", device_id="gpu0")
    rows = rows_of(parts + series(TIMES, [200.0] * len(TIMES)))
    assert {tuple(row["flags"]) for row in of_device(rows)} == {("bias_components",)}
    assert {row["device_id"] for row in rows} == {"node", "cpu0", "gpu0"}
