"""Measured savings: the uncertainty's arithmetic, what is graded, and what is refused."""

from __future__ import annotations

import csv
from dataclasses import replace
from math import inf, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.recommend.baseline import (
    Floats,
    Form,
    ModelErrors,
    Period,
    autocorrelation,
    block_days,
    effective_points,
    fit_baseline,
    fractional_uncertainty,
    saving_error_kwh,
    saving_interval,
)
from lepton_etl.recommend.savings import grade_isolated, grade_saving

CASES = Path(__file__).parents[3] / "cases" / "savings"
with (CASES / "guideline14.csv").open(newline="", encoding="utf-8") as lines:
    WORKED = list(csv.DictReader(lines))


@pytest.mark.parametrize("case", WORKED, ids=lambda case: case["name"])
def test_worked_examples_of_the_formula(case: dict[str, str]) -> None:
    """The formula in its docstring, worked apart from the code with the t of its column."""
    model = ModelErrors(
        int(case["points"]), int(case["parameters"]), float(case["sse_kwh2"]), float(case["autocorrelation"]),
        float(case["mean_kwh"]),
    )  # fmt: skip
    error = saving_error_kwh(model, float(case["expected_kwh"]), int(case["reported_days"]))
    assert error == pytest.approx(float(case["error_kwh"]), rel=2e-3)


def test_effective_points() -> None:
    assert effective_points(300, 0.5) == pytest.approx(100)
    assert effective_points(300, -0.5) == 300
    assert fractional_uncertainty(30, 100) == pytest.approx(0.3)
    assert fractional_uncertainty(30, -100) == inf


@given(rho=st.floats(-0.99, 0.99), points=st.integers(20, 5000), scale=st.floats(0.01, 100))
def test_uncertainty_scales_with_energy_and_never_falls_with_autocorrelation(
    rho: float, points: int, scale: float
) -> None:
    one = ModelErrors(points, 3, 4.0 * points, rho, 50.0)
    scaled = replace(one, sse_kwh2=one.sse_kwh2 * scale**2, mean_kwh=one.mean_kwh * scale)
    error = saving_error_kwh(one, 1500, 30)
    assert saving_error_kwh(scaled, 1500 * scale, 30) == pytest.approx(error * scale)
    assert error >= saving_error_kwh(replace(one, autocorrelation=0.0), 1500, 30)


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=200))
def test_autocorrelation_is_a_ratio(values: list[float]) -> None:
    assert -1.0 <= autocorrelation(np.array(values)) <= 1.0


def period(
    days: int, seed: int, scatter: float = 0.01, keep: float = 0.5, start: int = 0, more: float = 1.0
) -> Period:
    """Energy of work and weather above 12 degC, with autocorrelated scatter."""
    random = np.random.default_rng(seed)
    day = start + np.arange(days)
    work = more * (100 + 15 * random.standard_normal(days).clip(-2, 2) - 10.0 * (day % 7 >= 5))
    weather = 14 + 8 * np.sin(2 * np.pi * day / 365) + 3 * random.standard_normal(days)
    noise = random.standard_normal(days)
    noise[1:] *= sqrt(1 - keep**2)
    for at in range(1, days):
        noise[at] += keep * noise[at - 1]
    energy = (500 + 4 * work + 6 * np.maximum(weather - 12, 0)) * (1 + scatter * noise)
    return Period(day, energy, work, weather)


def split(whole: Period, days: int = 30) -> tuple[Period, Period]:
    after = whole.day >= whole.day[-1] - days + 1
    return whole.taken(~after), whole.taken(after)


def test_the_baseline_finds_its_terms_and_no_others() -> None:
    form = fit_baseline(period(330, 1)).form  # type: ignore[union-attr]
    assert form.weather
    assert form.weather_bend_c == pytest.approx(12, abs=3)
    assert form.work_bend is None
    flat = period(330, 2)
    indifferent = replace(flat, energy_kwh=500 + 4 * flat.work + np.random.default_rng(0).normal(0, 5, 330))
    baseline = fit_baseline(indifferent)
    assert baseline is not None
    assert not baseline.form.weather
    assert baseline.coefficients == pytest.approx([500, 4], rel=0.05)


def test_energy_that_falls_with_work_is_no_baseline() -> None:
    whole = period(330, 3)
    before, after = split(replace(whole, energy_kwh=2000 - 5 * whole.work))
    assert grade_saving(before, after).verdict == "insufficient baseline"


def test_placebos_claim_nothing_and_a_true_saving_is_proven() -> None:
    false = true = loss = 0
    for seed in range(12):
        before, after = split(period(360, seed))
        placebo = grade_saving(before, after)
        false += placebo.proven
        loss += placebo.verdict == "loss"
        saved = grade_saving(before, replace(after, energy_kwh=after.energy_kwh * 0.95))
        true += saved.proven
        assert placebo.saving_kwh is not None and saved.saving_kwh is not None
        difference = saved.saving_kwh.value - placebo.saving_kwh.value
        assert difference == pytest.approx(0.05 * after.energy_kwh.sum())
    assert false + loss <= 1
    assert true >= 10


def test_more_work_is_neither_a_loss_nor_less_work_a_saving() -> None:
    for more in (1.12, 0.88):
        verdicts = []
        for seed in range(6):
            before = period(330, seed)
            after = period(30, 500 + seed, start=330, more=more)
            naive = after.energy_kwh.mean() / before.energy_kwh.mean() - 1
            assert naive * (more - 1) > 0
            verdicts.append(grade_saving(before, after).verdict)
        assert verdicts.count("not proven") >= 5


def test_a_loss_is_said() -> None:
    before, after = split(period(360, 4))
    assert grade_saving(before, replace(after, energy_kwh=after.energy_kwh * 1.08)).verdict == "loss"


def test_outside_the_baselines_range_nothing_is_graded() -> None:
    before = period(330, 5)
    busy = grade_saving(before, period(30, 6, start=330, more=1.8))
    assert busy.verdict == "outside support"
    assert "work" in busy.reason
    assert busy.saving_kwh is None
    after = period(30, 6, start=330)
    assert after.weather_c is not None
    hot = grade_saving(before, replace(after, weather_c=after.weather_c + 30))
    assert hot.verdict == "outside support"
    assert "weather" in hot.reason
    blind = grade_saving(before, replace(after, weather_c=None))
    assert blind.verdict == "outside support"


def test_a_poor_or_short_baseline_says_why() -> None:
    before, after = split(period(360, 7, scatter=0.4))
    grade = grade_saving(before, after)
    assert grade.verdict == "insufficient baseline"
    assert "CV(RMSE)" in grade.reason
    short = grade_saving(*split(period(60, 8)))
    assert short.verdict == "insufficient baseline"
    assert "30 days before" in short.reason
    with pytest.raises(ValueError, match="before the baseline ends"):
        grade_saving(after, before)


@given(scale=st.floats(0.1, 100))
@settings(deadline=None, max_examples=10)
def test_the_interval_scales_with_energy(scale: float) -> None:
    random = np.random.default_rng(11)
    design: Floats = np.column_stack([np.ones(100), random.standard_normal(100)])
    missed: Floats = random.standard_normal(100)
    one = saving_interval(10.0, design, missed, design[:30], 1)
    many = saving_interval(10.0 * scale, design, missed * scale, design[:30], 1)
    assert one.lower < 10.0 < one.upper
    assert (many.lower, many.upper) == pytest.approx((one.lower * scale, one.upper * scale))


def test_blocks_grow_with_autocorrelation_and_the_reporting_period() -> None:
    random = np.random.default_rng(12)
    white: Floats = random.standard_normal(365)
    drift: Floats = np.cumsum(white)
    assert block_days(white, 1) == 7
    assert block_days(white, 30) == 30
    assert block_days(drift, 30) == 73


def test_a_period_must_be_whole() -> None:
    with pytest.raises(ValueError, match="finite"):
        Period(np.arange(2), np.array([1.0, np.nan]), np.ones(2))
    with pytest.raises(ValueError, match="order"):
        Period(np.array([2, 1]), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="weather"):
        Form(weather=True).design(Period(np.arange(2), np.ones(2), np.ones(2)))


def test_caps_are_graded_on_the_device() -> None:
    random = np.random.default_rng(13)
    work = random.uniform(50, 150, 90)
    kwh = 0.2 * work * (1 + 0.02 * random.standard_normal(90))
    same = grade_isolated(kwh[:60], work[:60], kwh[60:], work[60:])
    assert same.verdict == "not proven"
    capped = grade_isolated(kwh[:60], work[:60], 0.92 * kwh[60:], work[60:])
    assert capped.proven
    assert capped.saving_kwh is not None and capped.expected_kwh is not None
    assert capped.saving_kwh.value / capped.expected_kwh == pytest.approx(0.08, abs=0.02)
    # Half the work for half the energy is no saving.
    assert grade_isolated(kwh[:60], work[:60], kwh[60:] / 2, work[60:] / 2).verdict == "not proven"
    assert grade_isolated(kwh[:5], work[:5], kwh[60:], work[60:]).verdict == "insufficient baseline"
    with pytest.raises(ValueError, match="without work"):
        grade_isolated(kwh, np.zeros(90), kwh, work)
