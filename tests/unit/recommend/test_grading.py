"""Rows of gold/saving from daily energy: real savings are proven, more work is no loss, the rest says why."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from lepton_etl.recommend.advice import Advice, Subject
from lepton_etl.recommend.savings import DAILY, saving_rows
from lepton_etl.schema.recommend import SAVING
from lepton_etl.uncertainty import Estimate

CHANGED = date(2025, 6, 1)
LAST = CHANGED + timedelta(days=40)


def applied(lever: str = "cooling", kwh: float = 100.0) -> dict[str, Any]:
    start = datetime(2025, 5, 31, tzinfo=UTC)
    promise = Estimate(kwh, kwh / 2, 2 * kwh)
    row = Advice(
        Subject("s"), lever, "act", "words", start, start + timedelta(days=1), 1000.0, promise, "model"
    ).row()  # fmt: skip
    return row | {"state_time": datetime(2025, 6, 1, 9, tzinfo=UTC), "recommendation_state": "applied"}


def days(saved_ratio: float, more_work: float = 1.0, seed: int = 1) -> pl.DataFrame:
    """100 days around the change: 1,000 kWh at full work, with noise of 2 % and a share saved after it."""
    rng = np.random.default_rng(seed)
    rows = []
    for back in range(-60, 41):
        day = CHANGED + timedelta(days=back)
        work = rng.uniform(80, 120) * (more_work if back > 0 else 1.0)
        energy = (400 + 6 * work) * (1 + rng.normal(0, 0.02)) * (1 - (saved_ratio if back > 0 else 0))
        rows.append({"date": day, "energy_kwh": energy, "work": work, "weather_c": None})
    return pl.DataFrame(rows, schema=DAILY)


def graded(row: dict[str, Any], daily: pl.DataFrame | None) -> dict[str, Any]:
    by_id = {} if daily is None else {row["recommendation_id"]: daily}
    (found,) = saving_rows([row], by_id, LAST, 60)
    return found


def test_a_saving_is_proven_and_holds_its_promise() -> None:
    found = graded(applied(), days(0.10))
    assert found["proven"] and found["kept_promise"] and found["grade_reason"] is None
    assert found["realised_saving_kwh"] == pytest.approx(0.10 * found["expected_kwh"], rel=0.1)
    assert (found["baseline_until"], found["reporting_from"]) == (date(2025, 5, 31), date(2025, 6, 2))
    assert found["hit_ratio"] == 1.0 and set(found) <= set(SAVING.columns)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_saved_proves_nothing_and_more_work_is_no_loss(seed: int) -> None:
    found = graded(applied(), days(0.0, more_work=1.02, seed=seed))
    assert not found["proven"] and found["grade_reason"].startswith("not proven")


def test_a_broken_promise_is_told_though_the_saving_is_proven() -> None:
    found = graded(applied(kwh=1000.0), days(0.10))
    assert found["proven"] and found["kept_promise"] is False and found["hit_ratio"] == 0.0


def test_a_cap_is_measured_by_energy_per_work_of_its_devices() -> None:
    found = graded(applied("power_cap"), days(0.10, more_work=1.5))
    assert found["saving_method"] == "ipmvp_b" and found["expected_kwh"] is not None


@pytest.mark.parametrize(("lever", "daily", "why"), [
    ("zombie", None, "leaves no energy"), ("shift", days(0.1), "moves energy"), ("cooling", None, "no daily energy"),
    ("cooling", days(0.1).head(30), "insufficient baseline"),
])  # fmt: skip
def test_what_cannot_be_graded_says_why(lever: str, daily: pl.DataFrame | None, why: str) -> None:
    found = graded(applied(lever), daily)
    assert not found["proven"] and why in found["grade_reason"] and found.get("realised_saving_kwh") is None
