"""Which days are one range: adjoining ones, in time order."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.days import adjoining

START = date(2025, 6, 1)


@given(st.sets(st.integers(0, 40), max_size=25))
def test_ranges_hold_exactly_the_days_and_never_touch(offsets: set[int]) -> None:
    days = sorted(START + timedelta(days=offset) for offset in offsets)
    ranges = adjoining(days)
    assert [day for found in ranges for day in found] == days
    assert all(b.start - a.end > timedelta(days=1) for a, b in itertools.pairwise(ranges))
