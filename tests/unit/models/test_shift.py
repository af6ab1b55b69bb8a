"""The test on the residuals of every night: what it finds, how soon, how often in vain, and what follows from it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from lepton_etl.models.scoring import HISTORY, night
from lepton_etl.models.shift import LEAST_HOURS, LIMIT, in_force, shifts
from lepton_etl.schema.energy import MODEL_SHIFT, PREDICTION
from lepton_etl.schema.types import arrow_schema
from lepton_etl.uncertainty import Z

FIRST = date(2025, 3, 1)
NONE_KNOWN = pl.DataFrame(arrow_schema(MODEL_SHIFT).empty_table())
NO_HISTORY = pl.DataFrame(arrow_schema(PREDICTION).empty_table()).select(HISTORY)


def _hours(deviations: np.ndarray, version: str = "1", node: str = "n1", first: date = FIRST) -> pl.DataFrame:
    """Hours of days, (days, 24), that are off by so many standard deviations of the claim: 10 % of 1 kWh."""
    start = datetime.combine(first, datetime.min.time(), UTC)
    flat = deviations.ravel()
    stamps = [start + timedelta(hours=n) for n in range(len(flat))]
    return pl.DataFrame(
        {
            "site_id": "s", "cluster_id": "c", "node_id": node, "device_id": "node", "hour_start": stamps,
            "date": [one.date() for one in stamps], "energy_kwh": 1.0 + 0.1 * flat, "predicted_kwh": 1.0,
            "predicted_lower_kwh": 1.0 - 0.1 * Z, "predicted_upper_kwh": 1.0 + 0.1 * Z, "load_ratio": 0.5,
            "model_name": "m", "model_version": version,
        }
    )  # fmt: skip


def _calm(days: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(days, 24))


@pytest.mark.parametrize(
    ("kind", "change"),
    [("more", lambda one: one + 2.0), ("less", lambda one: one - 2.0), ("spread", lambda one: 4.0 * one)],
)
def test_a_shift_is_found_within_a_week_and_since_when(kind: str, change: object) -> None:
    off = _calm(40)
    off[30:] = change(off[30:])  # type: ignore[operator]
    rows = shifts(_hours(off), NONE_KNOWN)
    assert rows["shift_kind"][:30].is_null().all()
    found = rows.filter(pl.col("shift_kind").is_not_null())
    assert found["shift_kind"].unique().to_list() == [kind]
    assert (found["date"][0] - (FIRST + timedelta(days=30))).days < 7
    assert found["shift_found"].unique().to_list() == [found["date"][0]]
    since = found["shift_since"].unique().to_list()
    assert len(since) == 1 and abs((since[0] - (FIRST + timedelta(days=30))).days) <= 1


def test_days_as_claimed_raise_no_alarm_even_where_all_hours_of_a_day_are_one() -> None:
    # Worst case of dependence: 4 years of days, each one draw. Montgomery: two-sided, one alarm in 168 days at 4.
    whole = np.repeat(np.random.default_rng(2).normal(size=(1460, 1)), 24, axis=1)
    alarms = shifts(_hours(whole), NONE_KNOWN).filter(pl.col("shift_found") == pl.col("date")).height
    assert 0 < alarms <= 1460 / 100
    assert shifts(_hours(_calm(400, 3)), NONE_KNOWN)["shift_kind"].is_null().all()


def test_one_wild_day_is_no_shift_and_a_quiet_end_ends_one() -> None:
    off = _calm(50)
    off[20] = 1000.0
    assert shifts(_hours(off), NONE_KNOWN)["shift_kind"].is_null().all()
    off[20:25] = 3.0
    rows = shifts(_hours(off), NONE_KNOWN).filter(pl.col("shift_kind").is_not_null())
    # Found on the second day; at most LIMIT / 0.5 days of no deviation let the sum fall to 0 again.
    assert rows["date"][0] == FIRST + timedelta(days=21)
    assert rows["date"][-1] <= FIRST + timedelta(days=25 + int(2 * LIMIT) + 2)


def test_night_by_night_says_the_same_as_all_days_at_once() -> None:
    off = _calm(30)
    off[10:] += 1.5
    every = shifts(_hours(off), NONE_KNOWN)
    known = NONE_KNOWN
    for day in range(30):
        night_rows = shifts(_hours(off[day : day + 1], first=FIRST + timedelta(days=day)), known)
        known = pl.concat([known, night_rows.select(known.columns)], how="vertical_relaxed")
    assert known.equals(every.select(known.columns).cast(known.schema))


def test_another_version_begins_anew_and_unmeasured_days_decide_nothing() -> None:
    off = _calm(20)
    off[10:] += 3.0
    switched = pl.concat([_hours(off[:15]), _hours(off[15:16], "2", first=FIRST + timedelta(days=15))])
    rows = shifts(switched, NONE_KNOWN)
    assert rows["shift_kind"][14] == "more"
    assert rows["shift_kind"][15] is None and rows["more_sum"][15] < LIMIT
    silent = _hours(off).with_columns(
        pl.when(pl.col("hour_start").dt.hour() < LEAST_HOURS - 1).then("energy_kwh").alias("energy_kwh")
    )
    rows = shifts(silent, NONE_KNOWN)
    assert rows["residual_level"].is_null().all() and (rows["more_sum"] == 0).all()


def test_what_is_in_force_is_what_the_day_before_knew() -> None:
    off = _calm(20)
    off[10:] += 3.0
    hours = _hours(off)
    rows = shifts(hours, NONE_KNOWN)
    since = hours.with_columns(in_force(hours, rows)).group_by("date").agg(pl.col("shift_since").first())
    known = dict(since.sort("date").iter_rows())
    found = rows.filter(pl.col("shift_found") == pl.col("date"))["date"][0]
    assert known[found] is None
    assert known[found + timedelta(days=1)] == rows.filter(pl.col("date") == found)["shift_since"][0]


def test_after_a_shift_the_interval_holds_again_from_the_next_days_on() -> None:
    off = _calm(60)
    # A new board: a third more energy, where the model claims 10 %.
    off[30:] = 1.5 * off[30:] + 3.3
    history, known, covered, widths = NO_HISTORY, NONE_KNOWN, [], []
    for day in range(60):
        scored = _hours(off[day : day + 1], first=FIRST + timedelta(days=day))
        rows, tested = night(scored, history, known)
        history = pl.concat([history, rows.select(HISTORY)], how="vertical_relaxed")
        known = pl.concat([known, tested.select(known.columns)], how="vertical_relaxed")
        covered.append(
            [
                rows["energy_kwh"].is_between(rows[f"{of}_lower_kwh"], rows[f"{of}_upper_kwh"]).mean()
                for of in ("predicted", "recalibrated")
            ]
        )
        widths.append((rows["predicted_upper_kwh"] - rows["predicted_lower_kwh"]).mean())
        assert (rows["recalibrated_lower_kwh"] <= rows["recalibrated_kwh"]).all()
    before, after = np.array(covered[5:30]).mean(axis=0), np.array(covered[30:]).mean(axis=0)
    assert before.min() >= 0.85 and before.max() <= 0.95
    assert after.min() >= 0.8
    # The model's own interval would hold hardly an hour.
    assert np.mean(off[30:] <= Z) < 0.3
    assert widths[40] > 1.5 * widths[20] == pytest.approx(1.5 * 0.2 * Z)
