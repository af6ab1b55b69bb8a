"""The shifting experiment by arithmetic: foresight, a flat forecast, and the unknown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.shifting import shift


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_perfect_foresight_reaches_the_clairvoyant_and_nothing_is_below_it(seed: int, need: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(50, 500, 60)
    forecast = np.stack([np.roll(values, -t)[:24] for t in range(60)])
    released = np.arange(0, 36)
    best = shift(values, forecast, 0, released, need, 24)
    assert best.planned == pytest.approx(best.clairvoyant)
    blind = shift(values, rng.uniform(size=forecast.shape), 0, released, need, 24)
    assert blind.planned >= blind.clairvoyant - 1e-9


def test_a_flat_forecast_runs_at_once() -> None:
    values = np.arange(100.0)[::-1]
    done = shift(values, np.ones((76, 24)), 0, np.arange(50), 8, 24)
    assert done.planned == done.at_once
    assert done.share == 0.0


def test_an_unknown_hour_in_a_window_is_refused() -> None:
    values = np.ones(50)
    values[10] = np.nan
    with pytest.raises(ValueError, match="no intensity"):
        shift(values, np.ones((50, 24)), 0, np.arange(5), 8, 24)
