from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.models.select import split_forward


def _hours(days: int) -> pd.DataFrame:
    stamps = pd.date_range("2025-06-01", periods=24 * days, freq="h", tz="UTC")
    return pd.DataFrame({"hour_start": stamps, "date": stamps.date})


def test_last_days_test_and_an_embargo_lies_between() -> None:
    split = split_forward(_hours(10), test_ratio=0.2, embargo_hours=1)
    assert split is not None
    assert split.cut_time.isoformat() == "2025-06-09T00:00:00+00:00"
    assert len(split.test) == 48
    # The hour 23:00 ends at the cut, one embargo hour too late.
    assert split.train["hour_start"].max() == pd.Timestamp("2025-06-08 22:00", tz="UTC")


def test_one_day_cannot_be_split() -> None:
    assert split_forward(_hours(1), test_ratio=0.2, embargo_hours=1) is None


def test_days_without_rows_do_not_count() -> None:
    hours = _hours(10)
    gappy = hours[hours["hour_start"].dt.day.isin([1, 2, 9, 10])]
    split = split_forward(gappy, test_ratio=0.5, embargo_hours=1)
    assert split is not None
    assert sorted(split.test["hour_start"].dt.day.unique()) == [9, 10]


@given(days=st.integers(2, 40), ratio=st.floats(0.01, 0.99), embargo=st.integers(0, 48))
def test_training_ends_before_the_test_begins(days: int, ratio: float, embargo: int) -> None:
    split = split_forward(_hours(days), ratio, embargo)
    assert split is not None
    assert len(split.test) >= 24
    assert split.test["hour_start"].min() == split.cut_time
    if len(split.train):
        gap = split.cut_time - split.train["hour_start"].max()
        assert gap >= pd.Timedelta(hours=embargo + 1)


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_both_parts_keep_at_least_a_day(ratio: float) -> None:
    split = split_forward(_hours(3), ratio, 0)
    assert split is not None
    assert len(split.train) >= 24
    assert len(split.test) >= 24
