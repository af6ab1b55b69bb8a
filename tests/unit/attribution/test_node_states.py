"""What nodes were doing: power and holdings of many nodes and days at once -> timelines without holes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.attribution.node_states import node_states
from lepton_etl.intervals.known_off import STATE_READINGS, state_spans
from lepton_etl.intervals.readings import OPEN_END_US, ROSTER_COLUMNS
from lepton_etl.schema.common import STATE_CODES

DAY = date(2025, 6, 3)
MIDNIGHT = datetime(2025, 6, 3, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")
INTERVALS = {
    "cluster_id": pl.String, "node_id": pl.String, "date": pl.Date, "interval_start": UTC_US, "interval_s": pl.Int32,
    "power_mean_w": pl.Float64,
}  # fmt: skip
HELD = {
    "cluster_id": pl.String,
    "node_id": pl.String,
    "date": pl.Date,
    "from_time": UTC_US,
    "to_time": UTC_US,
}


def listed(node_id: str, idle_power_w: float | None = 100.0, **facts: Any) -> dict[str, Any]:
    row = dict.fromkeys(ROSTER_COLUMNS) | {"cluster_id": "blue", "from_us": 0, "until_us": OPEN_END_US}
    return row | {"node_id": node_id, "idle_power_w": idle_power_w} | facts


def measured(node_id: str, hours: list[float], power_w: float | None, day: int = 0) -> list[dict[str, Any]]:
    """An interval of 300 s at the start of each of these hours."""
    at = MIDNIGHT + timedelta(days=day)
    return [
        {"cluster_id": "blue", "node_id": node_id, "date": at.date(), "interval_start": at + timedelta(hours=hour),
         "interval_s": 300, "power_mean_w": power_w}
        for hour in hours
    ]  # fmt: skip


def held(node_id: str, start_h: float, end_h: float) -> dict[str, Any]:
    return {
        "cluster_id": "blue", "node_id": node_id, "date": DAY, "from_time": MIDNIGHT + timedelta(hours=start_h),
        "to_time": MIDNIGHT + timedelta(hours=end_h),
    }  # fmt: skip


def states(
    intervals: list[dict[str, Any]],
    holdings: list[dict[str, Any]] | None,
    *nodes: dict[str, Any],
    said: list[dict[str, Any]] | None = None,
) -> pl.DataFrame:
    inventory = pl.DataFrame(list(nodes), schema=ROSTER_COLUMNS)
    return node_states(
        pl.DataFrame(intervals, schema=INTERVALS),
        None if holdings is None else pl.DataFrame(holdings, schema=HELD),
        inventory,
        "here",
        state_spans(pl.DataFrame(said or [], schema=STATE_READINGS)),
        [DAY],
    )


def word(
    node_id: str, hour: float, state: str, hours: float = 6.0, kind: str = "node_state"
) -> dict[str, Any]:
    """What a scheduler or a power command says at an hour of the day, believed for so many hours."""
    at = MIDNIGHT + timedelta(hours=hour)
    return {"node_id": node_id, "quantity": kind, "time_us": int(at.timestamp() * 1e6), "value": STATE_CODES[state],
            "max_gap_s": hours * 3600}  # fmt: skip


def timeline(rows: pl.DataFrame) -> list[tuple[float, float, str, str]]:
    """Hours of the day from and to, state and basis."""

    def hours(at: datetime) -> float:
        return (at - MIDNIGHT).total_seconds() / 3600

    return [
        (hours(row["from_time"]), hours(row["to_time"]), row["node_state"], row["state_basis"])
        for row in rows.iter_rows(named=True)
    ]


def test_what_is_said_fills_what_is_not_read() -> None:
    said = [
        word("n1", -1, "on", 7), word("n1", 6, "drained"), word("n1", 12, "asleep"), word("n1", 18, "failed", 3),
        word("n1", 14, "on", 1, "power_state"), word("n1", 15, "off", 1, "power_state"),
    ]  # fmt: skip
    assert timeline(states([], None, listed("n1"), said=said)) == [
        (0, 6, "on", "scheduler"), (6, 12, "drained", "scheduler"), (12, 14, "asleep", "scheduler"),
        (14, 15, "on", "power_command"), (15, 16, "asleep", "power_command"), (16, 18, "asleep", "scheduler"),
        (18, 21, "failed", "scheduler"), (21, 24, "silent", "silence"),
    ]  # fmt: skip


def test_what_is_read_goes_before_what_is_said_and_a_job_before_a_drain() -> None:
    read = [*measured("n1", [0], 300.0), *measured("n1", [1], 20.0), *measured("n1", [2], 0.0)]
    said = [word("n1", 0, "asleep", 3), word("n1", 4, "drained", 2), word("n1", 7, "asleep", 1)]
    found = timeline(states(read, [held("n1", 5, 8)], listed("n1"), said=said))
    five = 1 / 12
    assert found == [
        (0, five, "idle", "power"), (five, 1, "asleep", "scheduler"), (1, 1 + five, "asleep", "power"),
        (1 + five, 2, "asleep", "scheduler"), (2, 2 + five, "asleep", "power"), (2 + five, 3, "asleep", "scheduler"),
        (3, 4, "silent", "silence"), (4, 5, "drained", "scheduler"), (5, 7, "active", "jobs"),
        (7, 8, "asleep", "scheduler"), (8, 24, "silent", "silence"),
    ]  # fmt: skip
    assert timeline(states(measured("n1", [0], 300.0), None, listed("n1")))[0][2] == "on", "nobody says idle"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-3600, 90_000), st.sampled_from(sorted(STATE_CODES)), st.integers(60, 40_000), st.booleans()
        ),
        max_size=12, unique_by=lambda one: (one[0], one[3]),
    )
)  # fmt: skip
def test_spans_say_what_the_last_word_of_every_moment_says(words: list[tuple[int, str, int, bool]]) -> None:
    kinds = {True: "node_state", False: "power_state"}
    said = [
        word("n1", at / 3600, state if of_node else ("off" if state == "off" else "on"), length / 3600, kinds[of_node])
        for at, state, length, of_node in words
    ]  # fmt: skip
    spans = state_spans(pl.DataFrame(said, schema=STATE_READINGS)).rows(named=True)
    assert all(one["until_us"] <= other["from_us"] for one, other in pairwise(spans))
    names = {code: name for name, code in STATE_CODES.items()}
    midnight = int(MIDNIGHT.timestamp() * 1e6)
    for second in {at + shift for at, _, length, _ in words for shift in (0, 1, length - 1, length)}:
        moment = midnight + second * 1_000_000
        holding = {}
        for kind in kinds.values():
            before = [one for one in said if one["quantity"] == kind and one["time_us"] <= moment]
            last = max(before, key=lambda one: one["time_us"], default=None)
            if last is not None and moment < last["time_us"] + round(last["max_gap_s"]) * 1_000_000:
                holding[kind] = names[last["value"]]
        power, scheduler = holding.get("power_state"), holding.get("node_state")
        expected = scheduler or power
        if power == "off":
            expected = "asleep" if scheduler == "asleep" else "off"
        elif power == "on" and scheduler == "asleep":
            expected = "on"
        inside = [one["node_state"] for one in spans if one["from_us"] <= moment < one["until_us"]]
        assert inside == ([expected] if expected else []), (second, holding)


def test_power_jobs_and_silence_make_the_timeline() -> None:
    found = states(
        [*measured("n1", [0, 5], 300.0), *measured("n1", [6], 20.0), *measured("n1", [7], 0.1),
         *measured("n2", [0], None), *measured("n1", [1], 200.0, day=1), *measured("stray", [0], 10.0)],
        [held("n1", 5, 5.5), held("n1", 5.25, 6.5), held("n3", 23, 24)],
        listed("n1"), listed("n2"), listed("n3", None),
    )  # fmt: skip
    told = [
        (
            row["node_id"],
            str(row["from_time"])[5:16],
            str(row["to_time"])[5:16],
            row["node_state"],
            row["state_basis"],
        )
        for row in found.iter_rows(named=True)
    ]
    assert told == [
        ("n1", "06-03 00:00", "06-03 00:05", "idle", "power"),
        ("n1", "06-03 00:05", "06-03 05:00", "silent", "silence"),
        ("n1", "06-03 05:00", "06-03 06:00", "active", "jobs"),
        ("n1", "06-03 06:00", "06-03 06:05", "standby", "power"),
        ("n1", "06-03 06:05", "06-03 06:30", "active", "jobs"),
        ("n1", "06-03 06:30", "06-03 07:00", "silent", "silence"),
        ("n1", "06-03 07:00", "06-03 07:05", "off", "power"),
        ("n1", "06-03 07:05", "06-04 00:00", "silent", "silence"),
        ("n1", "06-04 00:00", "06-04 01:00", "silent", "silence"),
        ("n1", "06-04 01:00", "06-04 01:05", "idle", "power"),
        ("n1", "06-04 01:05", "06-05 00:00", "silent", "silence"),
        ("n2", "06-03 00:00", "06-04 00:00", "silent", "silence"),
        ("n3", "06-03 00:00", "06-03 23:00", "silent", "silence"),
        ("n3", "06-03 23:00", "06-04 00:00", "active", "jobs"),
    ]


def test_a_node_outside_its_cluster_or_its_time_has_no_states() -> None:
    ended = listed("n1", until_us=int(MIDNIGHT.timestamp() * 1e6))
    moved = listed("n2", cluster_id="green")
    assert states(measured("n1", [0], 300.0) + measured("n2", [0], 300.0), [], ended, moved).is_empty()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 287), st.sampled_from([0.0, 20.0, 300.0])),
        max_size=12,
        unique_by=lambda p: p[0],
    ),
    st.lists(st.tuples(st.integers(0, 86_400), st.integers(0, 86_400)), max_size=6),
)
def test_a_timeline_has_no_holes_and_is_what_every_moment_says(
    powers: list[tuple[int, float]], jobs: list[tuple[int, int]]
) -> None:
    intervals = [row for place, watts in powers for row in measured("n1", [place / 12], watts)]
    holdings = [held("n1", start / 3600, end / 3600) for start, end in jobs]
    if not intervals and not holdings:
        return
    rows = states(intervals, holdings, listed("n1")).rows(named=True)
    assert rows[0]["from_time"] == MIDNIGHT
    assert rows[-1]["to_time"] == MIDNIGHT + timedelta(days=1)
    assert all(one["to_time"] == other["from_time"] for one, other in pairwise(rows))
    by_place = dict(powers)
    for row in rows:
        for at in (row["from_time"], row["to_time"] - timedelta(microseconds=1)):
            second = (at - MIDNIGHT).total_seconds()
            watts = by_place.get(int(second // 300))
            is_held = any(start <= second < end for start, end in jobs)
            plain = "silent" if watts is None else "idle"
            expected = "off" if watts == 0 else "standby" if watts == 20 else "active" if is_held else plain
            assert row["node_state"] == expected, (second, row)
