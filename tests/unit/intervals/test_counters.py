"""Counters that wrap, begin anew, wrap more often than can be told, or rise faster than the device can."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.intervals.integrate import RATED_LIMIT_RATIO, Counted, between_counts, by_interval
from tests.unit.intervals.readings import node, rows_of, series, total

SECOND = 1_000_000
STEP_S = 60
GAP_S = 330
PEAK_W = 700.0
# RAPL counts 2^32 units of 2^-14 J.
MAXIMUM_J = 2.0**32 / 2**14
NOT_KNOWN = float("nan")


def counted(counts: list[float], peak: float = NOT_KNOWN, maximum: float = NOT_KNOWN) -> Counted:
    """The steps of one counter that is read every minute."""
    many = len(counts)
    return between_counts(
        np.zeros(many, dtype=np.int64),
        np.arange(many, dtype=np.int64) * STEP_S * SECOND,
        np.asarray(counts, dtype=float),
        np.full(many, GAP_S * SECOND),
        np.full(many, peak),
        np.full(many, maximum),
    )


def joules(steps: Counted) -> float:
    return float(by_interval(steps.segments, 300 * SECOND).integral.sum())


def covered_s(steps: Counted) -> float:
    return float(by_interval(steps.segments, 300 * SECOND).observed_s.sum())


any_counts = st.lists(st.floats(0, MAXIMUM_J - 1), min_size=2, max_size=20)
maybe_peak = st.one_of(st.just(NOT_KNOWN), st.floats(1, 1e5))
maybe_maximum = st.one_of(st.just(NOT_KNOWN), st.just(MAXIMUM_J), st.floats(1, 1e6))


@settings(deadline=None, max_examples=100)
@given(any_counts, maybe_peak, maybe_maximum)
def test_no_step_is_negative_or_above_what_the_device_can(
    counts: list[float], peak: float, maximum: float
) -> None:
    steps = counted(counts, peak, maximum)
    rate = steps.segments.value_start
    assert (rate >= 0).all()
    assert np.isnan(peak) or (rate <= RATED_LIMIT_RATIO * peak).all()
    # Every step is covered, or says why not.
    lost = steps.reset | steps.ambiguous | steps.steep
    assert len(rate) + lost.sum() == len(counts) - 1
    assert not (steps.wrapped & lost).any()


@settings(deadline=None, max_examples=100)
@given(any_counts, maybe_peak, maybe_maximum, st.integers(1, 18))
def test_readings_parted_anywhere_give_the_same_energy(
    counts: list[float], peak: float, maximum: float, cut: int
) -> None:
    whole = joules(counted(counts, peak, maximum))
    parts = [counts[: cut + 1], counts[cut:]]
    assert sum(joules(counted(part, peak, maximum)) for part in parts if part) == pytest.approx(
        whole, rel=1e-9, abs=1e-6
    )


@settings(deadline=None, max_examples=100)
@given(
    st.floats(0, MAXIMUM_J, exclude_max=True),
    st.lists(st.floats(1, PEAK_W), min_size=1, max_size=60),
)
def test_wraps_at_any_place_give_the_truth(start: float, powers: list[float]) -> None:
    true_j = [start, *(start + one for one in itertools.accumulate(power * STEP_S for power in powers))]
    steps = counted([count % MAXIMUM_J for count in true_j], PEAK_W, MAXIMUM_J)
    assert joules(steps) == pytest.approx(true_j[-1] - start, rel=1e-9)
    assert steps.wrapped.sum() == true_j[-1] // MAXIMUM_J - start // MAXIMUM_J
    assert not (steps.reset | steps.ambiguous | steps.steep).any()


@pytest.mark.parametrize("counts", [[90_000.0, 100.0, 6_100.0], [190_000.0, 0.0, 6_000.0]])
def test_after_a_restart_no_range_is_added(counts: list[float]) -> None:
    steps = counted(counts, PEAK_W, MAXIMUM_J)
    assert (joules(steps), covered_s(steps)) == (6_000.0, 60.0)
    assert steps.reset.tolist() == [False, True, False]


@pytest.mark.parametrize(("peak", "maximum"), [(NOT_KNOWN, MAXIMUM_J), (PEAK_W, NOT_KNOWN)])
def test_without_maximum_and_peak_a_fall_is_a_reset(peak: float, maximum: float) -> None:
    steps = counted([MAXIMUM_J - 6_000, 6_000.0], peak, maximum)
    assert (joules(steps), steps.reset.tolist()) == (0.0, [False, True])


@pytest.mark.parametrize("counts", [[0.0, 30_000.0], [30_000.0, 0.0]])
def test_a_step_in_which_the_counter_may_wrap_twice_says_nothing(counts: list[float]) -> None:
    # At 700 W a counter of 40 kJ wraps within 57 s: neither a rise nor a fall over 60 s can be told.
    steps = counted(counts, PEAK_W, 40_000.0)
    assert (joules(steps), steps.ambiguous.tolist()) == (0.0, [False, True])


def test_a_count_above_the_stated_maximum_proves_it_wrong() -> None:
    steps = counted([500_000.0, 506_000.0, 400_000.0], PEAK_W, MAXIMUM_J)
    assert (joules(steps), steps.reset.tolist()) == (6_000.0, [False, False, True])


def test_a_step_above_the_believable_power_is_uncovered() -> None:
    steps = counted([0.0, 6_000.0, 6_000_000.0, 6_006_000.0], 500.0)
    assert joules(steps) == 12_000.0
    assert steps.steep.tolist() == [False, False, True, False]
    assert not steps.reset.any()


def intervals(counts: list[float], **more: Any) -> list[dict[str, Any]]:
    times = [60 * place for place in range(len(counts))]
    return rows_of(
        series(times, counts, "node_energy", statistic="counter", **more), node(rated_power_w=PEAK_W)
    )


def test_a_wrap_is_flagged_and_covered() -> None:
    counts = [(MAXIMUM_J - 15_000 + 6_000 * step) % MAXIMUM_J for step in range(6)]
    (row,) = intervals(counts, counter_max_j=MAXIMUM_J)
    assert (row["flags"], row["observed_s"]) == (["counter_wrap"], 300.0)
    assert row["power_mean_w"] == pytest.approx(100.0)


def test_a_possible_double_wrap_is_flagged_and_uncovered() -> None:
    rows = intervals([0.0, 6_000.0, 12_000.0], counter_max_j=40_000.0)
    assert (total(rows), [row["flags"] for row in rows]) == (0.0, [["counter_double_wrap"]])
