"""Energy of random readings against plain arithmetic in fractions."""

from __future__ import annotations

import itertools
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from lepton_etl.intervals.integrate import (
    IntervalSums,
    Ints,
    between_instants,
    by_interval,
    over_windows,
)

SECOND = 1_000_000
INTERVAL_S = 300
GAP_S = 330


def ints(values: ArrayLike) -> Ints:
    return np.asarray(values, dtype=np.int64)


def instants(times_s: list[int], values: list[float]) -> IntervalSums:
    zeros = ints(np.zeros(len(times_s)))
    segments = between_instants(
        zeros, ints(times_s) * SECOND, np.asarray(values, dtype=float), zeros + GAP_S * SECOND
    )
    return by_interval(segments, INTERVAL_S * SECOND)


def exact(times_s: list[int], values: list[float]) -> tuple[dict[int, Fraction], dict[int, int]]:
    """Integral and covered seconds of each interval, second by second, of the line through near readings."""
    integral: dict[int, Fraction] = defaultdict(Fraction)
    covered: dict[int, int] = defaultdict(int)
    pairs = list(zip(times_s, map(Fraction, values), strict=True))
    for (t0, v0), (t1, v1) in itertools.pairwise(pairs):
        if t1 - t0 > GAP_S:
            continue
        for second in range(t0, t1):
            middle = v0 + (v1 - v0) * (Fraction(second - t0) + Fraction(1, 2)) / (t1 - t0)
            integral[second // INTERVAL_S] += middle
            covered[second // INTERVAL_S] += 1
    return integral, covered


moments = st.lists(st.integers(0, 1500), min_size=2, max_size=15, unique=True).map(sorted)
watts = st.floats(0, 5000, allow_nan=False, width=32)


@settings(deadline=None, max_examples=50)
@given(
    moments.flatmap(
        lambda times: st.tuples(st.just(times), st.lists(watts, min_size=len(times), max_size=len(times)))
    )
)
def test_energy_of_instants_is_the_exact_integral(case: tuple[list[int], list[float]]) -> None:
    times, values = case
    sums = instants(times, values)
    integral, covered = exact(times, values)
    found = (sums.interval_us // (INTERVAL_S * SECOND)).tolist()
    assert found == sorted(covered)
    assert sums.observed_s.tolist() == [covered[i] for i in found]
    assert sums.integral.tolist() == pytest.approx([float(integral[i]) for i in found], rel=1e-9, abs=1e-6)
    assert (sums.observed_s <= INTERVAL_S).all()
    mean = sums.integral / sums.observed_s
    assert (sums.lowest <= mean + 1e-6).all()
    assert (mean <= sums.highest + 1e-6).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 3600), watts), min_size=1, max_size=12))
def test_windows_never_overlap_and_never_bridge(windows: list[tuple[int, int, float]]) -> None:
    unique = sorted({start: (start, length, value) for start, length, value in windows}.values())
    start, length, value = (list(column) for column in zip(*unique, strict=True))
    zeros = ints(np.zeros(len(start)))
    segments, cut = over_windows(
        zeros,
        ints(start) * SECOND,
        ints(length) * SECOND,
        np.asarray(value, dtype=float),
        np.full(len(start), np.nan),
    )
    sums = by_interval(segments, INTERVAL_S * SECOND)
    second_by_second: dict[int, float] = {}
    for begin, span, mean in reversed(unique):
        following = min((s for s in start if s > begin), default=begin + span)
        second_by_second |= dict.fromkeys(range(begin, min(begin + span, following)), mean)
    assert sums.observed_s.sum() == len(second_by_second)
    assert sums.integral.sum() == pytest.approx(sum(second_by_second.values()), rel=1e-9, abs=1e-6)
    assert (sums.observed_s <= INTERVAL_S).all()
    assert cut.tolist() == [a + n > b for a, n, b in zip(start, length, [*start[1:], 10**9], strict=True)]


def test_a_segment_is_cut_at_the_boundary_by_interpolation() -> None:
    sums = instants([240, 360], [100.0, 200.0])
    assert sums.interval_us.tolist() == [0, 300 * SECOND]
    assert sums.integral.tolist() == [125.0 * 60, 175.0 * 60]
    assert sums.highest.tolist() == [150.0, 200.0]


@pytest.mark.parametrize(("step_s", "observed_s"), [(330, 330.0), (331, 0.0)])
def test_the_longest_step_is_bridged_and_no_longer_one(step_s: int, observed_s: float) -> None:
    assert instants([0, step_s], [100.0, 100.0]).observed_s.sum() == observed_s


def test_a_refused_reading_is_not_bridged() -> None:
    assert instants([0, 60, 120, 180], [100.0, float("nan"), 100.0, 100.0]).observed_s.sum() == 60.0


def test_channels_do_not_touch() -> None:
    segments = between_instants(
        ints([0, 0, 1, 1]), ints([0, 60, 60, 120]) * SECOND, np.ones(4), ints([GAP_S * SECOND] * 4)
    )
    assert by_interval(segments, INTERVAL_S * SECOND).observed_s.tolist() == [60.0, 60.0]


def test_a_window_of_few_moments_errs_by_their_spread() -> None:
    zeros = ints([0, 0, 0])
    segments, _ = over_windows(
        zeros,
        ints([0, 3600, 7200]) * SECOND,
        ints([3600] * 3) * SECOND,
        np.asarray([100.0, 140.0, 140.0]),
        np.asarray([8.0, 8.0, np.nan]),
    )
    # s^2 = 40^2 / 2 from the neighbour; eight moments see it; the third window saw all of its time.
    assert segments.variance.tolist() == [100.0, 100.0, 0.0]
    sums = by_interval(segments, INTERVAL_S * SECOND)
    hour = sums.interval_us < 3600 * SECOND
    # Twelve intervals in quadrature give the window's error again.
    assert np.sqrt(sums.sampling[hour].sum()) == pytest.approx(10.0 * 3600)


def test_instants_err_by_half_their_distance_and_a_steady_power_not_at_all() -> None:
    assert instants([0, 300], [100.0, 140.0]).sampling.tolist() == pytest.approx([(20.0 * 300) ** 2])
    assert instants([0, 300], [100.0, 100.0]).sampling.tolist() == [0.0]
