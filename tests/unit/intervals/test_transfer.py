"""Byte counters of ports: differences by interval, resets, a silent port, two exporters of one port."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_etl.intervals.transfer import transfer_intervals
from tests.unit.intervals.readings import series, table

TIMES_S = [60.0 * minute for minute in range(11)]
RECEIVED = [1000.0 * time for time in TIMES_S]
SENT = [250.0 * time for time in TIMES_S]


def counts(device_id: str, values: list[float], times_s: list[float] = TIMES_S, **more: Any) -> list[Any]:
    return series(times_s, values, "data_transferred", device_id=device_id, statistic="counter", **more)


def moved(*readings: list[Any]) -> list[tuple[float, float, float, int]]:
    """Received, sent, observed seconds and ports of each interval in which they are known."""
    rows = transfer_intervals(table([one for part in readings for one in part]), "site", 300).to_pylist()
    return [tuple(list(row.values())[-4:]) for row in rows]  # type: ignore[misc]


def test_the_difference_of_counters_is_what_went_through() -> None:
    both = moved(counts("eno1_rx", RECEIVED), counts("eno1_tx", SENT), counts("ib0_1_rx", RECEIVED))
    assert both == [pytest.approx((600_000.0, 75_000.0, 300.0, 3))] * 2


def test_a_fall_is_a_reset_and_no_traffic() -> None:
    # A source's maximum is said of joules: no wrap of bytes comes of it.
    fallen = [*RECEIVED[:7], *(value - RECEIVED[7] for value in RECEIVED[7:])]
    first, second = moved(counts("eno1_rx", fallen, counter_max_j=1e6))
    assert first == pytest.approx((300_000.0, 0.0, 300.0, 1))
    assert second == pytest.approx((240_000.0, 0.0, 240.0, 1))


def test_a_leap_that_no_port_can_move_is_not_covered() -> None:
    leaping = [*RECEIVED[:8], *(value + 2.0**63 for value in RECEIVED[8:])]
    assert moved(counts("eno1_rx", leaping))[1][2] == 240.0


def test_a_silent_port_leaves_the_interval_unknown() -> None:
    rows = moved(counts("eno1_rx", RECEIVED), counts("eno1_tx", SENT[:6], TIMES_S[:6]))
    assert rows == [pytest.approx((300_000.0, 75_000.0, 300.0, 2))]


def test_one_port_under_two_names_counts_once() -> None:
    again = counts("eno1_rx", RECEIVED[:8], TIMES_S[:8], sensor="node_network_receive_bytes")
    assert moved(counts("eno1_rx", RECEIVED), again) == [pytest.approx((300_000.0, 0.0, 300.0, 1))] * 2


def test_what_is_no_counter_says_nothing() -> None:
    assert moved(series(TIMES_S, RECEIVED, "data_transferred", device_id="eno1_rx")) == []
