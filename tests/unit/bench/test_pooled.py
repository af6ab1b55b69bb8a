"""The pooled ridge: other zones help a young one, nothing later is seen, solar hours line up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bench.pooled_forecast import PooledZone, pooled_ridge
from lepton_etl.forecast.grid_intensity import WEEK_H, Floats, ZoneSeries, targets

START = datetime(2025, 1, 6, tzinfo=UTC)


def values(length: int, seed: int, behind_h: int = 0) -> Floats:
    """A wave of the solar day on a slow wind."""
    rng = np.random.default_rng(seed)
    hour = np.arange(length)
    wind = np.zeros(length)
    for t in range(1, length):
        wind[t] = 0.95 * wind[t - 1] + rng.normal(0, 10)
    return np.asarray(300 + 60 * np.sin(2 * np.pi * (hour - behind_h) / 24) + wind)


def zone(known: Floats, behind_h: int = 0, days_before: int = 0) -> PooledZone:
    return PooledZone(ZoneSeries(START - timedelta(days=days_before), known, known), behind_h)


def error(zone_: PooledZone, others: list[PooledZone], first: int) -> float:
    made = pooled_ridge(zone_, others, first)
    came = targets(zone_.series.target, np.arange(first, len(zone_.series.known) + 1), 24)
    return float(np.nanmean(np.abs(made - came)))


def test_others_help_a_zone_of_few_weeks() -> None:
    young = zone(values(5 * WEEK_H, 1))
    old = [zone(values(40 * WEEK_H, seed, behind_h=6), behind_h=6, days_before=250) for seed in (2, 3)]
    first = 4 * WEEK_H
    assert error(young, old, first) < 0.9 * error(young, [], first)


def test_a_changed_future_of_any_zone_changes_no_forecast_made_before() -> None:
    length, first, cut = 8 * WEEK_H, 4 * WEEK_H, 6 * WEEK_H
    own, other = values(length, 1), values(length, 2)
    changed = [np.where(np.arange(length) >= cut, 999.0, one) for one in (own, other)]
    before = pooled_ridge(zone(own), [zone(other)], first)
    after = pooled_ridge(zone(changed[0]), [zone(changed[1])], first)
    upto = cut - first + 1
    np.testing.assert_array_equal(before[:upto], after[:upto])
    assert not np.array_equal(before[upto + 24 :], after[upto + 24 :])


def test_a_zone_without_a_past_is_left_out_and_the_own_one_needs_it() -> None:
    own = zone(values(6 * WEEK_H, 1))
    late = PooledZone(ZoneSeries(START + timedelta(weeks=5), values(WEEK_H, 2), values(WEEK_H, 2)), 0)
    np.testing.assert_array_equal(pooled_ridge(own, [late], 4 * WEEK_H), pooled_ridge(own, [], 4 * WEEK_H))
    with pytest.raises(ValueError, match="are needed"):
        pooled_ridge(own, [], WEEK_H)
