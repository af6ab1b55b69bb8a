"""A bucket of nodes says what each node says alone; a reading reaches the days and the bucket that need it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from lepton_etl.days import Days
from lepton_etl.intervals.channels import CHANNEL, READING_COLUMNS, by_channel, resolution_by_channel
from lepton_etl.intervals.node_day import intervals, node_days
from lepton_etl.intervals.readings import (
    ROSTER_COLUMNS,
    SourceFacts,
    buckets_of,
    for_each_day,
    units_of,
)
from lepton_etl.intervals.usual_values import (
    HISTORY_COLUMNS,
    SENSOR_DAY_COLUMNS,
    histories,
    sensor_days,
    with_usual,
)
from lepton_etl.schema.logs import READING
from lepton_etl.schema.types import arrow_schema
from tests.unit.intervals.readings import DAY, DAY_NUMBER, POLICY, node, past, reading, series

NO_PAST = pl.DataFrame(schema=SENSOR_DAY_COLUMNS)
DAY_S = 86_400


def fleet(seed: int, nodes: int, day: int = DAY_NUMBER) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Readings and inventory of nodes with everything that a node may say, faults among it."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    listed = []
    shift = (day - DAY_NUMBER) * DAY_S
    for number in range(nodes):
        name = f"n{number}"
        times = [shift + second for second in range(rng.randint(0, 300), 10_000, rng.choice([60, 300]))]
        watts = rng.uniform(80, 700)

        def say(
            quantity: str,
            value: float,
            spread: float,
            times: list[int] = times,
            name: str = name,
            **more: Any,
        ) -> Any:
            said = [round(value + rng.uniform(-spread, spread), 1) for _ in times]
            return series(times, said, quantity, node_id=name, day=day, **more)

        rows += say("node_power", watts, 30)
        if rng.random() < 0.6:
            rows += say("psu_input_power", watts / 2, 9, device_id="psu1") + say(
                "psu_input_power", watts / 2, 9, device_id="psu2"
            )
        if rng.random() < 0.5:
            counts = [1e9 + watts * second for second in range(len(times))]
            rows += series(times, counts, "node_energy", node_id=name, day=day, statistic="counter")
        if rng.random() < 0.5:
            rows += say("chassis_input_power", 3 * watts, 20, device_id="chassis")
        if rng.random() < 0.5:
            rows += say("cpu_power", watts / 3, 5) + say("gpu_power", watts / 4, 5, device_id="gpu0")
            rows += say("gpu_temperature", 60, 5, device_id="gpu0") + say("inlet_temperature", 22, 2)
        if rng.random() < 0.3:
            rows += say(
                "node_power", watts / 1000, 0.01, [shift + second for second in range(10_100, 12_000, 60)]
            )
        if rng.random() < 0.3:
            rows += say("node_power", 1e5, 10, [shift + 12_100, shift + 12_160])
        if rng.random() < 0.4:
            rows += say("node_power", watts + 50, 5, times[:5], file_rank=2)
        facts = {"rated_power_w": 800.0, "idle_power_w": 60.0} if rng.random() < 0.7 else {}
        listed.append(node(name, chassis_id=f"box{number // 2}" if number % 3 else None, **facts))
    return rows, listed


def told(rows: list[dict[str, Any]], listed: list[dict[str, Any]], **more: Any) -> pl.DataFrame:
    table = pl.DataFrame(rows, schema=READING_COLUMNS).to_arrow()
    inventory = pl.DataFrame(listed, schema=ROSTER_COLUMNS)
    return pl.DataFrame(
        node_days(table, more.get("past", NO_PAST), inventory, POLICY, more.get("days")).intervals
    )


KEY = ["cluster_id", "node_id", "device_id", "interval_start"]


@pytest.mark.parametrize("seed", range(6))
def test_a_bucket_says_what_its_units_say_alone_in_whatever_order(seed: int) -> None:
    rows, listed = fleet(seed, 7)
    whole = told(rows, listed)
    units = units_of(pl.DataFrame(listed, schema=ROSTER_COLUMNS))
    alone = []
    for unit in {units.get(one["node_id"], one["node_id"]) for one in listed}:
        members = {one["node_id"] for one in listed if units.get(one["node_id"], one["node_id"]) == unit}
        alone.append(
            told(
                [row for row in rows if row["node_id"] in members],
                [one for one in listed if one["node_id"] in members],
            )
        )
    assert whole.equals(pl.concat(alone).sort(KEY))
    assert whole.height > 100
    assert len(set(whole["flags"].explode().drop_nulls())) >= 2

    shuffled = rows.copy()
    random.Random(seed).shuffle(shuffled)
    coded = pl.DataFrame(shuffled, schema=READING_COLUMNS).to_arrow()
    columns = [one.cast(pa.string()).dictionary_encode() if name in CHANNEL[1:] else one
               for name, one in zip(coded.column_names, coded.columns, strict=True)]  # fmt: skip
    inventory = pl.DataFrame(listed, schema=ROSTER_COLUMNS)
    again = node_days(pa.table(columns, names=coded.column_names), NO_PAST, inventory, POLICY)
    assert whole.equals(pl.DataFrame(again.intervals))


def test_days_of_one_call_are_judged_by_the_days_before_them() -> None:
    """Three days at once give what the days give one after another, each with what those before it said."""
    numbers = [DAY_NUMBER, DAY_NUMBER + 1, DAY_NUMBER + 2]
    rows, listed = [], fleet(1, 5)[1]
    for number, day in enumerate(numbers):
        rows += fleet(1 + number % 2, 5, day)[0]
    whole = told(rows, listed)
    said, single = NO_PAST, []
    inventory = pl.DataFrame(listed, schema=ROSTER_COLUMNS)
    for day in numbers:
        of_day = pl.DataFrame([row for row in rows if row["day"] == day], schema=READING_COLUMNS).to_arrow()
        made = node_days(of_day, said, inventory, POLICY)
        said = pl.concat([said, made.sensor_days])
        single.append(pl.DataFrame(made.intervals))
    assert whole.equals(pl.concat(single).sort(KEY))
    # A day that is asked for its sensors alone has no intervals, and counts for the day after.
    first = said.filter(pl.col("on_day") == numbers[0])
    last = told([row for row in rows if row["day"] != numbers[0]], listed, past=first, days=numbers[2:])
    assert last.equals(single[2])


def test_intervals_take_a_history_by_day() -> None:
    rows, listed = fleet(3, 4)
    table, inventory = (
        pl.DataFrame(rows, schema=READING_COLUMNS).to_arrow(),
        pl.DataFrame(listed, schema=ROSTER_COLUMNS),
    )
    nothing = pl.DataFrame(schema=HISTORY_COLUMNS).to_arrow()
    assert pl.DataFrame(intervals(table, nothing, inventory, POLICY)).equals(told(rows, listed))


def of_sensors(rows: list[dict[str, Any]]) -> dict[str, tuple[int, float]]:
    sensors, ordered = by_channel(pl.DataFrame(rows, schema=READING_COLUMNS).to_arrow())
    found = sensor_days(ordered, sensors)
    assert set(found["on_day"]) <= {DAY_NUMBER}
    return {row["quantity"]: (row["readings"], row["typical"]) for row in found.iter_rows(named=True)}


def test_what_a_sensor_said_on_a_day() -> None:
    times = range(0, 600, 60)
    rows = series(times, [0.4] * 4 + [400.0] * 6) + series(
        times, [0.0] * 10, "psu_input_power", device_id="psu1"
    )
    rows += series(times, [20.0] * 5 + [30.0] * 5, "inlet_temperature") + series(
        times, [0.1] * 9 + [0.9], "cpu_utilisation"
    )
    rows += series(times, range(0, 6000, 600), "node_energy", statistic="counter")
    rows += series(times, [5, 6, 7, 1, 2, 3, 4, 5, 6, 7], "cpu_energy", statistic="counter") + series(
        times, [9.0] * 10, "clock"
    )
    # The margin of a day is another day's; a repeat is said once more.
    rows += [reading(-60, 9e3), reading(300, 401.0, file_rank=2)]
    assert of_sensors(rows) == {
        "node_power": (7, pytest.approx((6 * 400 + 401) / 7, rel=1e-12)),
        "inlet_temperature": (10, 25.0),
        "cpu_utilisation": (10, 0.9),
        "node_energy": (10, 10.0),
    }
    assert of_sensors([reading(-60, 9e3)]) == {}


def test_the_past_of_a_day_is_the_week_before_it() -> None:
    said = past(
        [
            {**reading(0, 0.0), "on_day": DAY_NUMBER - ago, "readings": 1, "typical": float(ago)}
            for ago in range(9)
        ]
    )
    week = histories(said.select(list(SENSOR_DAY_COLUMNS)), [DAY_NUMBER, DAY_NUMBER + 1])
    assert sorted(week.filter(pl.col("day") == DAY_NUMBER)["typical"]) == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(week.filter(pl.col("day") == DAY_NUMBER + 1)["typical"]) == [0, 1, 2, 3, 4, 5, 6]
    assert histories(said.select(list(SENSOR_DAY_COLUMNS)), []).is_empty()


@pytest.mark.parametrize("quantity", ["node_power", "inlet_temperature", "cpu_utilisation"])
@pytest.mark.parametrize("seed", range(8))
def test_the_elected_scale_is_that_of_the_votes_counted_one_by_one(quantity: str, seed: int) -> None:
    rng = random.Random(seed)
    typical = [rng.choice([0.4, 10.0, 400.0]) * rng.uniform(0.8, 1.3) for _ in range(rng.randint(1, 7))]
    history = past([{**reading(0, 0.0, quantity), "on_day": DAY_NUMBER - 1 - place, "readings": 9, "typical": value}
                    for place, value in enumerate(typical)])  # fmt: skip

    def alike(one: float, other: float) -> bool:
        if quantity == "cpu_utilisation":
            return True
        return abs(one - other) <= 20 if quantity == "inlet_temperature" else one / 30 <= other <= one * 30

    votes = [sum(alike(one, other) for other in typical) for one in typical]
    # The last of those with most votes is the earliest day: days go back in time here.
    elected = max(range(len(typical)), key=lambda place: (votes[place], place))
    of_scale = [other for other in typical if alike(typical[elected], other)]
    expected = max(typical) if quantity == "cpu_utilisation" else float(np.median(of_scale))
    readings = pl.DataFrame([reading(0, 1.0, quantity)], schema=READING_COLUMNS)
    assert with_usual(readings, history)["usual"].item() == pytest.approx(expected, rel=1e-12)


def bronze(*rows: dict[str, Any]) -> pa.Table:
    plain = {
        "site_id": "here", "node_id": "n1", "device_id": "node", "quantity": "node_power", "value": 1.0,
        "statistic": "instant", "window_s": 0.0, "multiplicity": 1, "sensor": "s", "source_name": "bmc",
        "file_id": "ab" * 32, "source_position": 1,
    }  # fmt: skip
    return pa.Table.from_pylist([plain | row for row in rows], schema=arrow_schema(READING))


def test_a_reading_stands_on_every_day_that_it_can_touch() -> None:
    midnight = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)

    def days_of(seconds: float, own_days: list[int] | None = None, **more: Any) -> list[int]:
        rows = bronze({"reading_time": midnight + timedelta(seconds=seconds)} | more)
        sources = {"hourly": SourceFacts(10_800.0, counter_max_j=5.0, spot_samples=2)}
        days = Days(DAY, DAY + timedelta(days=1))
        found = for_each_day(rows, days, sources, SourceFacts(330.0), 300, own_days=own_days or [])
        assert found.column_names == list(READING_COLUMNS)
        return sorted(day - DAY_NUMBER for day in found["day"].to_pylist())

    assert days_of(0) == [0]
    assert days_of(-330) == []
    assert days_of(-329) == [0]
    assert days_of(DAY_S - 1) == [0, 1]
    assert days_of(-10_000, source_name="hourly") == [0]
    assert days_of(-10_000, window_s=10_000.0) == [0]
    assert days_of(-20_000, window_s=DAY_S + 30_000.0) == [0, 1]
    # Sensor-days of a day before: by its own readings alone, beside what they are to the days asked.
    assert days_of(-1, [DAY_NUMBER - 1]) == [-1, 0]
    assert days_of(-DAY_S + 1, [DAY_NUMBER - 1]) == [-1]
    assert days_of(5, [DAY_NUMBER - 1, DAY_NUMBER]) == [0]


def test_what_the_settings_say_of_a_source_travels_with_its_readings() -> None:
    at = datetime.combine(DAY, datetime.min.time(), UTC) + timedelta(hours=1)
    rows = bronze(
        {"reading_time": at, "source_name": "a"},
        {"reading_time": at, "source_name": "b", "file_id": "0f" * 32},
    )
    found = for_each_day(
        rows, Days.of(DAY), {"a": SourceFacts(9.0, 7.0, 3)}, SourceFacts(330.0), 300
    ).to_pylist()
    assert [(row["max_gap_s"], row["counter_max_j"], row["spot_samples"]) for row in found] == [
        (9.0, 7.0, 3),
        (330.0, None, None),
    ]
    assert [row["file_rank"] for row in found] == [int("ab" * 7 + "a", 16), int("0f" * 7 + "0", 16)]


def test_nodes_that_ever_shared_a_chassis_are_one_unit() -> None:
    listed = [
        node("a", chassis_id="one"), node("b", chassis_id="one"), node("b", chassis_id="two"),
        node("c", chassis_id="two"), node("d"), node("e", chassis_id="d"),
    ]  # fmt: skip
    units = units_of(pl.DataFrame(listed, schema=ROSTER_COLUMNS))
    assert units["a"] == units["b"] == units["c"] != units["e"]
    assert "d" not in units
    buckets = buckets_of(pa.chunked_array([["a", "c", "d", None]]), units, 5)
    assert buckets[0] == buckets[1]
    assert buckets[3] == -1
    assert (
        buckets.tolist()
        == buckets_of(pa.chunked_array([["a", "c", "d", None]]).dictionary_encode(), units, 5).tolist()
    )


@pytest.mark.parametrize(
    ("values", "counting", "step"),
    [
        ([280.0, 280.0], False, 10.0), ([0.0], False, 1.0), ([1.25], False, 0.01), ([7.0], False, 1.0),
        ([3.0, 1.0, 3.0, 1.5], False, 0.5), ([10.0, 25.0, 40.0, 100.0], True, 15.0), ([5.0, 5.0], True, 0.0),
        ([-40.0], False, 10.0),
    ],
)  # fmt: skip
def test_the_step_in_which_a_sensor_speaks(values: list[float], counting: bool, step: float) -> None:
    other = [1.0, 3.0]
    channel = np.array([0] * len(other) + [1] * len(values))
    numbers, steps = resolution_by_channel(channel, np.array(other + values), np.array([False, counting]))
    assert numbers.tolist() == [0, 1]
    assert steps.tolist() == pytest.approx([2.0, step])
