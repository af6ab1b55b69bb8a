"""Fit the overhead of a site on earlier days, judge it forward in time, and say what an hour's overhead is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.confidence import CONFIDENCE
from lepton_etl.facility.challenger import RisingGrid, can_fit_grid, fit_grid
from lepton_etl.facility.hours import Bools, Floats, PlantHours
from lepton_etl.facility.identify import Identified, identified
from lepton_etl.facility.reference import CurveFit, RatioCurve, around, fit_curve, ratio_interval
from lepton_etl.facility.scores import Scores, cv_rmse, score, why_refused
from lepton_etl.facility.settings import FacilityModelSettings
from lepton_etl.facility.stages import StageLoss, fit_stage_loss

# Wet bulbs, degC, at which k1 is told with its interval, as far as the fit has seen them.
TOLD_WET_BULBS_C: Final = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)


@dataclass(frozen=True, slots=True)
class FacilityFit:
    """The overhead model of one site: E_c = cooling(Q, wet bulb), E_m = `management_kwh` an hour.

    Where only a total is metered, `management_kwh` is None and `cooling` is all of the overhead, conversion
    losses included. `low_ratio` and `high_ratio` are measured over predicted overhead at the ends of the 90 %
    interval on the forward test. `loss` is the conversion loss by IT energy, None where it is not known.
    """

    site_id: str
    first_day: int
    last_day: int
    hours: int
    kind: str
    cooling: RatioCurve | RisingGrid
    management_kwh: float | None
    low_ratio: float
    high_ratio: float
    loss: StageLoss | None
    mean_it_kwh: float
    mean_wet_bulb_c: float
    heat_k2_ratio: float | None
    loss_ratio: float | None
    scores: Scores
    identified: Identified
    refused: tuple[str, ...]
    intervals: dict[str, tuple[float, float]]

    @property
    def accepted(self) -> bool:
        """Whether the model may stand for a missing meter."""
        return not self.refused

    @property
    def cooling_ratio(self) -> float | None:
        """E_c over IT energy at the mean load and wet bulb; None where cooling is not metered by itself."""
        if self.management_kwh is None:
            return None
        at_mean = self.cooling.energy_kwh(np.array([self.mean_it_kwh]), np.array([self.mean_wet_bulb_c]))
        return float(at_mean[0]) / self.mean_it_kwh


@dataclass(frozen=True, slots=True)
class Overhead:
    """Hours' overhead, kWh: parts are None where they cannot be told apart; 90 % interval of the total."""

    cooling_kwh: Floats | None
    management_kwh: Floats | None
    total_kwh: Floats
    lower_kwh: Floats
    upper_kwh: Floats


def predict_overhead(fit: FacilityFit, q_kwh: Floats, wet_bulb_c: Floats) -> Overhead:
    """Cooling and management of hours of IT energy Q, kWh, at outdoor wet bulbs, degC; arrays of shape (n,)."""
    moved = fit.cooling.energy_kwh(q_kwh, wet_bulb_c)
    total = moved + (fit.management_kwh or 0.0)
    management = None if fit.management_kwh is None else np.full(len(q_kwh), fit.management_kwh)
    return Overhead(
        cooling_kwh=None if fit.management_kwh is None else moved,
        management_kwh=management,
        total_kwh=total,
        lower_kwh=total * fit.low_ratio,
        upper_kwh=total * fit.high_ratio,
    )


def why_not(hours: PlantHours, settings: FacilityModelSettings) -> str | None:
    """Why these hours cannot be fitted; None: they can."""
    count = int(hours.usable.sum())
    if count < settings.min_hours:
        return f"{count} hours with IT energy, wet bulb and overhead, {settings.min_hours} needed"
    if len(np.unique(hours.day[hours.usable])) < 2:
        return "all hours are of one day: nothing to test forward in time"
    return None


def fit_facility(site_id: str, hours: PlantHours, settings: FacilityModelSettings) -> FacilityFit:
    """The site's model from hours before the day it is for; `why_not` must be None.

    The errors are of a model fitted on the first days and tested on the last `test_ratio` of them; the
    parameters are then fitted again on all hours.
    """
    usable = hours.at(hours.usable)
    train, test = _forward(usable, settings.test_ratio)
    kind = _choose(train, settings)
    curve = _fit_curve(train, settings)
    predicted = _predict(_model(kind, train, curve, settings), train, test)
    last_week = usable.a_week_before()[len(train) :]
    scores = score(train, test, predicted, last_week)
    low_ratio, high_ratio = _error_ratios(test, predicted, settings)
    whole = _fit_curve(usable, settings)
    sub_metered = usable.is_sub_metered
    loss_known = np.isfinite(hours.loss_kwh) & np.isfinite(hours.it_kwh)
    it_kwh = float(usable.it_kwh.mean())
    return FacilityFit(
        site_id=site_id,
        first_day=int(usable.day[0]),
        last_day=int(usable.day[-1]),
        hours=len(usable),
        kind=kind,
        cooling=_model(kind, usable, whole, settings),
        management_kwh=float(usable.management_kwh.mean()) if sub_metered else None,
        low_ratio=low_ratio,
        high_ratio=high_ratio,
        loss=fit_stage_loss(hours.it_kwh + hours.loss_kwh, hours.it_kwh),
        mean_it_kwh=it_kwh,
        mean_wet_bulb_c=float(usable.wet_bulb_c.mean()),
        heat_k2_ratio=_over(hours.it_kwh, hours.heat_kwh),
        loss_ratio=_over(hours.loss_kwh, hours.it_kwh) if loss_known.any() else None,
        scores=scores,
        identified=identified(usable, whole.condition),
        refused=why_refused(scores, settings.gates),
        intervals=_intervals(whole, usable, settings),
    )


def _forward(hours: PlantHours, test_ratio: float) -> tuple[PlantHours, PlantHours]:
    """The first days and the last `test_ratio` of them, at least one day each."""
    days = np.unique(hours.day)
    held = min(max(1, round(test_ratio * len(days))), len(days) - 1)
    is_train: Bools = hours.day < days[-held]
    return hours.at(is_train), hours.at(~is_train)


def _target(hours: PlantHours) -> Floats:
    return hours.cooling_kwh if hours.is_sub_metered else hours.overhead_kwh


def _fit_curve(hours: PlantHours, settings: FacilityModelSettings) -> CurveFit:
    return fit_curve(
        hours.it_kwh, hours.wet_bulb_c, _target(hours), hours.day, knots_c=settings.knots_c,
        with_constant=not hours.is_sub_metered, resamples=settings.resamples, seed=settings.seed,
    )  # fmt: skip


def _model(
    kind: str, hours: PlantHours, curve: CurveFit, settings: FacilityModelSettings
) -> RatioCurve | RisingGrid:
    if kind == "monotone_grid":
        return fit_grid(hours.it_kwh, hours.wet_bulb_c, _target(hours), settings.seed)
    return curve.curve


def _predict(model: RatioCurve | RisingGrid, train: PlantHours, test: PlantHours) -> Floats:
    moved = model.energy_kwh(test.it_kwh, test.wet_bulb_c)
    return moved + float(train.management_kwh.mean()) if train.is_sub_metered else moved


def _choose(train: PlantHours, settings: FacilityModelSettings) -> str:
    """The kind of model, by a forward test inside the training days, so that the test days choose nothing."""
    if not train.is_sub_metered:
        return "total_only"
    if len(np.unique(train.day)) < settings.challenger_min_days or not can_fit_grid(
        train.it_kwh, train.wet_bulb_c
    ):
        return "reference"
    earlier, later = _forward(train, settings.test_ratio)
    curve = _fit_curve(earlier, _one_resample(settings))
    errors = {
        kind: cv_rmse(later.overhead_kwh, _predict(_model(kind, earlier, curve, settings), earlier, later))
        for kind in ("reference", "monotone_grid")
    }
    plain, rising = errors["reference"], errors["monotone_grid"]
    return "monotone_grid" if plain is not None and rising is not None and rising < plain else "reference"


def _one_resample(settings: FacilityModelSettings) -> FacilityModelSettings:
    """The same settings with the fewest resamples: a choice between models needs no intervals."""
    return settings.model_copy(update={"resamples": 1})


def _error_ratios(
    test: PlantHours, predicted_kwh: Floats, settings: FacilityModelSettings
) -> tuple[float, float]:
    """Measured over predicted overhead at both ends of the interval, mean over resamples of test days."""
    ratios = test.overhead_kwh / np.maximum(predicted_kwh, 1e-9)
    days = np.unique(test.day)
    by_day = [ratios[test.day == day] for day in days]
    rng = np.random.default_rng(settings.seed)
    ends = [
        np.quantile(
            np.concatenate([by_day[at] for at in drawn]), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        )
        for drawn in rng.integers(0, len(days), size=(settings.resamples, len(days)))
    ]
    low, high = np.mean(ends, axis=0)
    return float(low), float(high)


def _intervals(
    fit: CurveFit, hours: PlantHours, settings: FacilityModelSettings
) -> dict[str, tuple[float, float]]:
    """90 % intervals of k1 at wet bulbs that were seen, and of the management load, by resampling days."""
    low_c, high_c = np.quantile(hours.wet_bulb_c, [0.05, 0.95])
    told = {
        f"k1_at_{wet_bulb_c:g}_c": ratio_interval(fit, wet_bulb_c, CONFIDENCE)
        for wet_bulb_c in TOLD_WET_BULBS_C
        if low_c <= wet_bulb_c <= high_c
    }
    if not hours.is_sub_metered:
        return told
    days, index = np.unique(hours.day, return_inverse=True)
    sums = np.bincount(index, weights=hours.management_kwh)
    counts = np.bincount(index)
    drawn = np.random.default_rng(settings.seed).integers(0, len(days), (settings.resamples, len(days)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    management = around(float(hours.management_kwh.mean()), means, len(days), CONFIDENCE)
    return told | {"management_kwh": management}


def _over(part: Floats, whole: Floats) -> float | None:
    """Ratio of sums over the hours in which both are known; None where that is none."""
    known = np.isfinite(part) & np.isfinite(whole)
    total = float(whole[known].sum())
    return float(part[known].sum()) / total if total > 0 else None
