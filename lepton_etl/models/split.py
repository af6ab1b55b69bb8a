"""A split forward in time: train on earlier days, test on the last ones, an embargo between."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd


@dataclass(frozen=True)
class ForwardSplit:
    """Rows before the embargo train, rows from `cut_time` on test; rows of the embargo do neither."""

    train: pd.DataFrame
    test: pd.DataFrame
    cut_time: datetime


def split_forward(hours: pd.DataFrame, test_ratio: float, embargo_hours: int) -> ForwardSplit | None:
    """The last `test_ratio` of the days that have rows (at least one day) test; None below two days.

    `hours` has `date` (UTC day) and `hour_start` (UTC). An hour trains only if it ends `embargo_hours` before
    the cut: neighbouring hours resemble each other, and a random split would give the answers away.
    """
    days = sorted(pd.to_datetime(hours["date"].unique()))
    if len(days) < 2:
        return None
    test_days = min(max(1, round(len(days) * test_ratio)), len(days) - 1)
    cut = pd.Timestamp(days[-test_days]).tz_localize("UTC")
    test = hours[hours["hour_start"] >= cut].reset_index(drop=True)
    return ForwardSplit(before(hours, cut.to_pydatetime(), embargo_hours), test, cut.to_pydatetime())


def before(hours: pd.DataFrame, cut_time: datetime, embargo_hours: int) -> pd.DataFrame:
    """The hours that end `embargo_hours` before the cut, in their order."""
    ends = hours["hour_start"] + timedelta(hours=1)
    return hours[ends <= cut_time - timedelta(hours=embargo_hours)].reset_index(drop=True)
