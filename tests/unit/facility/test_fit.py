"""The fitted overhead against buildings whose truth is known: one the model can be, and one that it cannot."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from lepton_etl.config.sections import FacilityGates, FacilityModelSettings
from lepton_etl.errors import ModelError
from lepton_etl.facility.fit import FacilityFit, fit_facility, normalised_pue, predict_overhead, why_not
from lepton_etl.facility.hours import PlantHours, day_of
from lepton_etl.facility.stored_fit import fit_of, fit_row
from tests.unit.facility.plant import FIRST_DAY, simulated

SETTINGS = FacilityModelSettings()
FEW_RESAMPLES = SETTINGS.model_copy(update={"resamples": 40, "challenger_min_days": 3000})


def known_plant(days: int = 20, noise: float = 0.0, seed: int = 3) -> PlantHours:
    """A plant that the reference can be: k1 = 0.05 + 0.01 (T - 10)+, 12 kW of management, loss 1 + 0.04 x."""
    rng = np.random.default_rng(seed)
    count = days * 24
    it = 600 + 150 * np.sin(np.arange(count) / 17) + rng.normal(0, 20, count)
    wet_bulb = 12 + 6 * np.sin(np.arange(count) / 24 * 2 * np.pi) + 4 * np.sin(np.arange(count) / 130)
    gain = 1 + noise * rng.standard_normal(count)
    cooling = it * (0.05 + 0.01 * np.maximum(wet_bulb - 10, 0)) * gain
    management = np.full(count, 12.0)
    first = FIRST_DAY.toordinal() - date(1970, 1, 1).toordinal()
    return PlantHours(
        hour=first * 24 + np.arange(count),
        it_kwh=it,
        wet_bulb_c=wet_bulb,
        cooling_kwh=cooling,
        management_kwh=management,
        overhead_kwh=cooling + management,
        loss_kwh=1.0 + 0.04 * it,
        heat_kwh=it * 1.05,
    )


@pytest.fixture(scope="module")
def month() -> FacilityFit:
    return fit_facility("here", simulated(30), SETTINGS)


def test_the_parameters_of_a_known_plant_are_found() -> None:
    fit = fit_facility("here", known_plant(), SETTINGS)
    assert fit.kind == "reference"
    ratios = fit.cooling.energy_kwh(np.full(3, 1.0), np.array([4.0, 10.0, 16.0]))
    assert ratios == pytest.approx([0.05, 0.05, 0.11], abs=1e-9)
    assert fit.management_kwh == pytest.approx(12.0)
    assert fit.heat_k2_ratio == pytest.approx(1 / 1.05)
    assert fit.loss is not None
    assert fit.loss.from_output(np.array([700.0])) == pytest.approx([29.0], rel=1e-6)
    assert fit.scores.cv_rmse_ratio == pytest.approx(0.0, abs=1e-9)
    assert not fit.identified.reasons and fit.accepted


def test_intervals_hold_the_truth_and_narrow_with_more_days() -> None:
    truth, held, widths = 0.05 + 0.01 * 5, [], {12: [], 60: []}
    for days, seen in widths.items():
        for seed in range(15):
            low, high = fit_facility(
                "here", known_plant(days, noise=0.1, seed=seed), FEW_RESAMPLES
            ).intervals["k1_at_15_c"]
            held.append(low < truth < high)
            seen.append(high - low)
    assert 0.8 <= np.mean(held) <= 1.0
    assert np.mean(widths[60]) < 0.7 * np.mean(widths[12])


def test_a_month_of_another_buildings_truth_passes_the_gates(month: FacilityFit) -> None:
    scores = month.scores
    assert month.accepted, month.refused
    assert scores.hours == 6 * 24
    assert scores.cv_rmse_ratio is not None and scores.cv_rmse_ratio < 0.30
    assert scores.it_share_cv_rmse_ratio is not None and scores.last_week_cv_rmse_ratio is not None
    assert scores.cv_rmse_ratio < 0.9 * scores.it_share_cv_rmse_ratio
    assert scores.cv_rmse_ratio < 0.9 * scores.last_week_cv_rmse_ratio


def test_the_challenger_is_chosen_only_from_enough_days_and_where_it_is_better() -> None:
    long = fit_facility("here", simulated(120), SETTINGS)
    plain = fit_facility("here", simulated(120), SETTINGS.model_copy(update={"challenger_min_days": 3000}))
    assert (long.kind, plain.kind) == ("monotone_grid", "reference")
    assert long.scores.cv_rmse_ratio is not None and plain.scores.cv_rmse_ratio is not None
    assert long.scores.cv_rmse_ratio < plain.scores.cv_rmse_ratio
    assert fit_facility("here", known_plant(60), SETTINGS).kind == "reference"


def test_the_challenger_never_falls_with_load_or_wet_bulb() -> None:
    fit = fit_facility("here", simulated(120), SETTINGS)
    assert fit.kind == "monotone_grid"
    loads, wet_bulbs = np.linspace(100, 1400, 60), np.linspace(-10, 35, 60)
    grid = np.array([fit.cooling.energy_kwh(loads, np.full(60, t)) for t in wet_bulbs])
    assert np.diff(grid, axis=0).min() >= -1e-9
    assert np.diff(grid, axis=1).min() >= -1e-9
    assert grid.min() >= 0


def test_from_a_total_one_overhead_is_told_and_nothing_is_identified() -> None:
    fit = fit_facility("here", simulated(30, sub_metered=False), SETTINGS)
    assert fit.kind == "total_only"
    assert "one overhead" in fit.identified.reasons[0]
    assert fit.management_kwh is None and fit.cooling_ratio is None
    made = predict_overhead(fit, np.array([700.0]), np.array([12.0]))
    assert made.cooling_kwh is None and made.management_kwh is None
    assert made.lower_kwh[0] < made.total_kwh[0] < made.upper_kwh[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wet_bulb_c": np.full(480, 12.0)}, "wet bulb spans 0.0 K"),
        ({"it_kwh": np.full(480, 600.0)}, "IT energy varies by 0.0%"),
    ],
)
def test_drivers_that_stand_still_identify_nothing(change: dict[str, np.ndarray], said: str) -> None:
    fit = fit_facility("here", replace(known_plant(20, noise=0.05), **change), SETTINGS)
    assert any(said in reason for reason in fit.identified.reasons)


def test_what_no_model_can_know_is_refused() -> None:
    hours = known_plant()
    rng = np.random.default_rng(0)
    noise = rng.uniform(10, 300, len(hours))
    random = replace(hours, cooling_kwh=noise, overhead_kwh=noise + hours.management_kwh)
    fit = fit_facility("here", random, SETTINGS)
    assert not fit.accepted
    assert "CV(RMSE)" in fit.refused[0]


def test_a_baseline_without_hours_is_not_beaten() -> None:
    fit = fit_facility("here", known_plant(5), SETTINGS)
    assert fit.refused == ("the same hour a week before cannot be compared with: too few hours",)


def test_stricter_gates_refuse_what_looser_ones_accept(month: FacilityFit) -> None:
    strict = SETTINGS.model_copy(update={"gates": FacilityGates(cv_rmse_max_ratio=0.01)})
    assert not fit_facility("here", simulated(30), strict).accepted
    assert month.accepted


def test_too_few_hours_or_days_are_named() -> None:
    assert why_not(known_plant(2), SETTINGS) == "48 hours with IT energy, wet bulb and overhead, 72 needed"
    one_day = SETTINGS.model_copy(update={"min_hours": 24})
    assert why_not(known_plant(1), one_day) == "all hours are of one day: nothing to test forward in time"
    dark = replace(known_plant(), wet_bulb_c=np.full(480, np.nan))
    assert str(why_not(dark, SETTINGS)).startswith("0 hours")


def test_hours_without_a_reading_teach_nothing() -> None:
    hours = known_plant()
    holes = hours.overhead_kwh.copy()
    holes[::7] = np.nan
    fit = fit_facility("here", replace(hours, overhead_kwh=holes), SETTINGS)
    assert fit.hours == len(hours) - len(holes[::7])
    assert fit.management_kwh == pytest.approx(12.0)


def test_ninety_percent_of_later_hours_lie_in_the_interval() -> None:
    inside = []
    for seed in range(8):
        hours = known_plant(80, noise=0.15, seed=seed)
        fit = fit_facility("here", hours.at(hours.day < hours.day[0] + 60), FEW_RESAMPLES)
        later = hours.at(hours.day >= hours.day[0] + 60)
        made = predict_overhead(fit, later.it_kwh, later.wet_bulb_c)
        inside.append(
            np.mean((made.lower_kwh <= later.overhead_kwh) & (later.overhead_kwh <= made.upper_kwh))
        )
    assert 0.85 < np.mean(inside) < 0.95


def test_a_fit_survives_its_row(month: FacilityFit) -> None:
    for fit in (month, fit_facility("here", simulated(120), SETTINGS)):
        day = day_of(fit.last_day) + timedelta(days=1)
        row = fit_row(day, fit, {"ups": fit.loss} if fit.loss else {}, None)
        again, stages = fit_of(row)
        q_kwh, wet_bulb_c = np.linspace(300, 1200, 50), np.linspace(-5, 30, 50)
        before, after = (predict_overhead(one, q_kwh, wet_bulb_c) for one in (fit, again))
        assert after.total_kwh == pytest.approx(before.total_kwh, rel=1e-6)
        assert after.upper_kwh == pytest.approx(before.upper_kwh, rel=1e-6)
        assert (again.kind, again.accepted, again.first_day) == (fit.kind, fit.accepted, fit.first_day)
        assert set(stages) == {"ups"}
        assert fit_row(day, again, stages, None) == row
        assert row["cooling_ratio"] == pytest.approx(fit.cooling_ratio, rel=1e-6)


def test_a_fit_never_serves_a_day_that_it_has_seen(month: FacilityFit) -> None:
    with pytest.raises(ModelError, match="earlier days only"):
        fit_row(day_of(month.last_day), month, {}, None)


def test_equal_hours_give_an_equal_row(month: FacilityFit) -> None:
    day = day_of(month.last_day) + timedelta(days=1)
    again = fit_facility("here", simulated(30), SETTINGS)
    assert fit_row(day, again, {}, None) == fit_row(day, month, {}, None)


def test_normalised_pue_compares_sites_under_one_weather(month: FacilityFit) -> None:
    cool, warm = np.full(100, 4.0), np.full(100, 14.0)
    load = np.linspace(0.8, 1.2, 100)
    mild, hot = normalised_pue(month, cool, load), normalised_pue(month, warm, load)
    assert mild is not None and hot is not None
    assert 1.05 < mild < hot < 1.4
    exact = normalised_pue(fit_facility("here", known_plant(), SETTINGS), np.full(10, 15.0), np.ones(10))
    it_kwh = fit_facility("here", known_plant(), SETTINGS).mean_it_kwh
    assert exact == pytest.approx(1 + 0.05 + 0.01 * 5 + 0.04 + 13.0 / it_kwh, rel=1e-6)
    with pytest.raises(ValueError, match="same hours"):
        normalised_pue(month, cool, load[:5])
