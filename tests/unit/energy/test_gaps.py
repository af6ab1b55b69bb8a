"""Gaps of node-hours filled from the node's own history, and refused where it does not speak."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.energy.gaps import HISTORY_DAYS, HOURS, MIN_ERRORS, fill_gaps

FIRST = 20_000 * 24
HOURS_BEFORE = HISTORY_DAYS * 24


def hours(
    powers_w: list[float | None], *, wanted_from: int = HOURS_BEFORE, observed_s: float = 3600.0
) -> pl.DataFrame:
    """A node whose hour i has mean power `powers_w[i]`, None: silent."""
    rows = [
        {"site_id": "s", "cluster_id": "c", "node_id": "n", "hour": FIRST + i, "wanted": i >= wanted_from,
         "measured_kwh": None if p is None else p * observed_s / 3.6e6,
         "observed_s": 0.0 if p is None else observed_s, "expected_s": 3600.0}
        for i, p in enumerate(powers_w)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=HOURS)


def filled(frame: pl.DataFrame) -> dict[int, dict[str, float]]:
    return {row["hour"] - FIRST: row for row in fill_gaps(frame).to_dicts()}


def day_of(power_w: float) -> list[float | None]:
    return [power_w] * (HOURS_BEFORE + 24)


def test_a_silent_hour_lies_on_the_line_between_its_neighbours() -> None:
    powers: list[float | None] = [300.0 + 10 * (i % 2) for i in range(HOURS_BEFORE + 24)]
    powers[HOURS_BEFORE + 3], powers[HOURS_BEFORE + 4] = None, None
    before, after = powers[HOURS_BEFORE + 2], powers[HOURS_BEFORE + 5]
    assert before is not None and after is not None
    found = filled(hours(powers))
    assert sorted(found) == [HOURS_BEFORE + 3, HOURS_BEFORE + 4]
    assert found[HOURS_BEFORE + 3]["filled_kwh"] == pytest.approx((2 * before + after) / 3 / 1000)
    assert found[HOURS_BEFORE + 4]["filled_kwh"] == pytest.approx((before + 2 * after) / 3 / 1000)
    assert all(row["filled_s"] == 3600.0 and row["filled_sigma_kwh"] > 0 for row in found.values())


def test_the_rest_of_an_hour_runs_as_what_was_seen_of_it() -> None:
    frame = hours(day_of(200.0)).with_columns(
        pl.when(pl.col("hour") == FIRST + HOURS_BEFORE + 5)
        .then(1800.0)
        .otherwise("observed_s")
        .alias("observed_s"),
        pl.when(pl.col("hour") == FIRST + HOURS_BEFORE + 5)
        .then(0.25)
        .otherwise("measured_kwh")
        .alias("measured_kwh"),
    )
    (row,) = filled(frame).values()
    assert row["filled_kwh"] == pytest.approx(0.25)
    assert row["filled_s"] == 1800.0


def test_an_edge_takes_the_nearest_hour_and_nothing_farther_than_a_day() -> None:
    powers = day_of(100.0)
    powers[HOURS_BEFORE:] = [None] * 24
    found = filled(hours(powers))
    assert len(found) == 24
    assert all(row["filled_kwh"] == pytest.approx(0.1) for row in found.values())
    powers[HOURS_BEFORE - 10 : HOURS_BEFORE] = [None] * 10
    assert sorted(filled(hours(powers))) == list(range(HOURS_BEFORE, HOURS_BEFORE + 14))


def test_without_history_nothing_is_said() -> None:
    few: list[float | None] = [100.0] * (MIN_ERRORS // 2)
    assert filled(hours([*few, None, *few[:2]], wanted_from=0)) == {}
    assert filled(hours([None] * 48, wanted_from=24)) == {}


def test_an_hour_without_a_gap_has_no_row() -> None:
    assert filled(hours(day_of(150.0))) == {}


def test_a_day_is_filled_the_same_whatever_range_is_asked() -> None:
    rng = np.random.default_rng(3)
    powers: list[float | None] = list(rng.uniform(200, 400, HOURS_BEFORE + 48))
    powers[HOURS_BEFORE + 7] = None
    whole = filled(hours(powers))[HOURS_BEFORE + 7]
    alone = filled(hours(powers[: HOURS_BEFORE + 24]))[HOURS_BEFORE + 7]
    assert whole == alone


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 5000)), min_size=30, max_size=30 + 24 * 8),
    st.integers(0, 24),
)
def test_what_is_filled_is_never_negative_nor_above_what_was_seen(
    powers: list[float | None], wanted: int
) -> None:
    frame = hours(powers, wanted_from=wanted)
    known = [p for p in powers if p is not None]
    for row in filled(frame).values():
        assert -1e-12 <= row["filled_kwh"] <= max(known) / 1000 + 1e-9
        assert row["filled_sigma_kwh"] >= 0
        assert np.isfinite(row["filled_sigma_kwh"])


def test_the_stated_interval_holds_what_was_hidden() -> None:
    """Hide hours of a noisy node one by one: the 90 % interval holds the hidden energy nine times in ten."""
    rng = np.random.default_rng(11)
    hits, tries = 0, 0
    for _ in range(60):
        level = np.repeat(rng.uniform(150, 900, 40), rng.integers(2, 12, 40))[: HOURS_BEFORE + 24]
        truth = level + rng.laplace(0, 8, len(level))
        for at in rng.choice(np.arange(HOURS_BEFORE + 2, len(truth) - 2), 5, replace=False):
            powers: list[float | None] = list(truth)
            powers[at] = None
            row = filled(hours(powers)).get(int(at))
            if row is not None:
                tries += 1
                hits += abs(row["filled_kwh"] - truth[at] / 1000) <= 1.6448536 * row["filled_sigma_kwh"]
    assert tries > 200
    assert 0.86 <= hits / tries <= 0.94
