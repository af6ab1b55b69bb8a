"""Estimates by arithmetic, and the conformal rank, quantile and ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.uncertainty import Estimate, Z, conformal_ends, conformal_quantile, conformal_rank


def test_a_figure_lies_within_its_interval() -> None:
    with pytest.raises(ValueError, match="outside"):
        Estimate(1.0, 2.0, 3.0)


def test_sums_and_shares_of_estimates() -> None:
    one = Estimate(10.0, 8.0, 13.0)
    assert one + Estimate(1.0, 0.0, 2.0) == Estimate(11.0, 8.0, 15.0)
    assert one.times(0.5) == Estimate(5.0, 4.0, 6.5)
    assert one.times(-1.0) == Estimate(-10.0, -13.0, -8.0)
    assert one.by(Estimate(-2.0, -3.0, 1.0)) == Estimate(-20.0, -39.0, 13.0)


def test_two_sided_ninety_percent_of_a_normal_error() -> None:
    assert pytest.approx(1.6448536) == Z


def test_the_conformal_quantile_is_the_ranked_score() -> None:
    scores = np.arange(1.0, 20.0)  # 19 of them: rank ceil(20 x 0.9) = 18
    assert conformal_rank(19, 0.9) == 18
    assert conformal_quantile(scores) == 18.0
    assert conformal_quantile(scores[:8]) == np.inf


def test_conformal_ends_take_the_ranks_of_each_side() -> None:
    # 99 residuals: the 95 % rank of 100 is the 95th smallest, and the 5th largest from below.
    assert conformal_ends(np.append(np.arange(1.0, 100.0), np.nan), 0.90) == (5.0, 95.0)


def test_too_few_residuals_give_no_interval() -> None:
    assert np.isnan(conformal_ends(np.arange(18.0))).all()
    assert np.isnan(conformal_ends(np.arange(40.0), least_count=41)).all()


@given(st.lists(st.floats(-1e3, 1e3), min_size=9, max_size=300))
def test_at_least_the_stated_share_of_the_calibration_lies_inside(values: list[float]) -> None:
    residuals = np.array(values)
    assert (np.abs(residuals) <= conformal_quantile(np.abs(residuals))).mean() >= 0.9
