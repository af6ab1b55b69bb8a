"""Store a site's fit as a row of gold/facility_fit, read it back, and give it as one exact estimator.

In a row, parameters are numbers in JSON, never a pickle. The estimator is scikit-learn's, for registry
consumers who do not have this package. Both forms of the fit are linear between points of Q (IT energy) and
wet bulb. So sums of ramps, each rising from 0 to 1 between two neighbouring points, and their products hold
them without an error; a scaler that clips is such a ramp.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lepton_etl.errors import ModelError
from lepton_etl.facility.fit import FacilityFit, Identified, RatioCurve, RisingGrid, Scores, StageLoss
from lepton_etl.facility.hours import Floats, day_of

# Digits kept: what lies beyond is noise of the solver, and would make a re-run look like new content.
_DIGITS: Final = 9
# Hours that are all warmer than the last bend make columns of one another: no larger condition number says more.
_SINGULAR: Final = 1e6


def fit_row(
    day: date, fit: FacilityFit, stages: Mapping[str, StageLoss], operating: Mapping[str, object] | None
) -> dict[str, Any]:
    """The row of a fit that may be used on `day`; its hours must lie before it (ModelError)."""
    if day_of(fit.last_day) >= day:
        raise ModelError(
            f"a facility model of {fit.site_id} was fitted on {day_of(fit.last_day)}, not before {day}",
            where="gold/facility_fit",
            remedy="fit on earlier days only",
        )
    scores, seen = fit.scores, fit.identified
    parameters = {
        "cooling": asdict(fit.cooling), "management_kwh": fit.management_kwh, "low_ratio": fit.low_ratio,
        "high_ratio": fit.high_ratio, "loss": _plain(fit.loss), "mean_it_kwh": fit.mean_it_kwh,
        "mean_wet_bulb_c": fit.mean_wet_bulb_c, "week_hours_cv_rmse_ratio": scores.week_hours_cv_rmse_ratio,
        "stages": {name: _plain(curve) for name, curve in sorted(stages.items())},
    }  # fmt: skip
    return {
        "date": day,
        "site_id": fit.site_id,
        "fitted_from": day_of(fit.first_day),
        "fitted_until": day_of(fit.last_day),
        "fit_hours": fit.hours,
        "test_hours": scores.hours,
        "fit_kind": fit.kind,
        "parameters_json": _text(parameters),
        "intervals_json": _text({name: list(ends) for name, ends in fit.intervals.items()}),
        "cooling_ratio": _round(fit.cooling_ratio),
        "management_power_w": None if fit.management_kwh is None else _round(fit.management_kwh * 1000.0),
        "heat_k2_ratio": _round(fit.heat_k2_ratio),
        "conversion_loss_ratio": _round(fit.loss_ratio),
        "cv_rmse_ratio": _round(scores.cv_rmse_ratio),
        "nmbe_ratio": _round(scores.nmbe_ratio),
        "it_share_cv_rmse_ratio": _round(scores.it_share_cv_rmse_ratio),
        "last_week_cv_rmse_ratio": _round(scores.last_week_cv_rmse_ratio),
        "design_condition_ratio": _round(min(seen.condition, _SINGULAR)),
        "wet_bulb_p05_c": _round(seen.wet_bulb_p05_c),
        "wet_bulb_p95_c": _round(seen.wet_bulb_p95_c),
        "it_variation_ratio": _round(seen.it_variation_ratio),
        "identifiable": not seen.reasons,
        "accepted": fit.accepted,
        "fit_reason": "; ".join((*seen.reasons, *fit.refused)) or None,
        "operating_json": None if operating is None else _text(operating),
        "code_sha256": code_sha256(),
    }


def fit_of(row: Mapping[str, Any]) -> tuple[FacilityFit, dict[str, StageLoss]]:
    """The fit and the stages' curves of a row."""
    parameters = json.loads(row["parameters_json"])
    kind, cooling = row["fit_kind"], parameters["cooling"]
    loss = parameters["loss"]
    reasons = tuple(filter(None, (row["fit_reason"] or "").split("; ")))
    fit = FacilityFit(
        site_id=row["site_id"],
        first_day=_day_number(row["fitted_from"]),
        last_day=_day_number(row["fitted_until"]),
        hours=row["fit_hours"],
        kind=kind,
        cooling=_grid(cooling) if kind == "monotone_grid" else _curve(cooling),
        management_kwh=parameters["management_kwh"],
        low_ratio=parameters["low_ratio"],
        high_ratio=parameters["high_ratio"],
        loss=None if loss is None else StageLoss(**loss),
        mean_it_kwh=parameters["mean_it_kwh"],
        mean_wet_bulb_c=parameters["mean_wet_bulb_c"],
        heat_k2_ratio=row["heat_k2_ratio"],
        loss_ratio=row["conversion_loss_ratio"],
        scores=Scores(
            row["test_hours"], row["cv_rmse_ratio"], row["nmbe_ratio"], row["it_share_cv_rmse_ratio"],
            row["last_week_cv_rmse_ratio"], parameters["week_hours_cv_rmse_ratio"],
        ),
        identified=Identified(
            row["design_condition_ratio"], row["wet_bulb_p05_c"], row["wet_bulb_p95_c"],
            row["it_variation_ratio"], () if row["identifiable"] else reasons,
        ),
        refused=() if row["accepted"] else reasons,
        intervals={name: (ends[0], ends[1]) for name, ends in json.loads(row["intervals_json"]).items()},
    )  # fmt: skip
    return fit, {name: StageLoss(**curve) for name, curve in parameters["stages"].items()}


def code_sha256() -> str:
    """SHA-256 of this package's code: a fit by other code is another fit."""
    folder = Path(__file__).parent
    digest = sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _curve(plain: Mapping[str, Any]) -> RatioCurve:
    return RatioCurve(tuple(plain["knots_c"]), tuple(plain["coefficients"]), plain["constant_kwh"])


def _grid(plain: Mapping[str, Any]) -> RisingGrid:
    values = tuple(tuple(row) for row in plain["values_kwh"])
    return RisingGrid(tuple(plain["q_kwh"]), tuple(plain["wet_bulb_c"]), values)


def _plain(curve: StageLoss | None) -> dict[str, Any] | None:
    return None if curve is None else asdict(curve)


def _day_number(day: date) -> int:
    return day.toordinal() - date(1970, 1, 1).toordinal()


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return _round(value)
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


def _text(value: Any) -> str:
    return json.dumps(_rounded(value), sort_keys=True, separators=(",", ":"))


Q: Final = "it_energy_kwh"
WET_BULB: Final = "outdoor_wet_bulb_temp_c"
COLUMNS: Final = (
    {"name": Q, "unit": "kWh", "description": "IT energy of the hour, all of it heat.", "category": False},
    {"name": WET_BULB, "unit": "degC", "description": "Outdoor wet bulb of the hour.", "category": False},
)
TARGET: Final = {
    "name": "overhead_kwh", "unit": "kWh",
    "description": "Cooling and management energy of the hour; where only a total is metered, conversion losses too.",
}  # fmt: skip
# Where a line that goes on may end: no outdoor air is warmer or colder, no site grows so much under one fit.
_WARMEST_C: Final = 100.0
_COLDEST_C: Final = -100.0
_GROWTH: Final = 1000.0


def estimator(fit: FacilityFit) -> Any:
    """A fitted pipeline: frame with COLUMNS -> overhead of each hour, kWh, as `predict_overhead` tells it."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures

    points = {Q: _q_points(fit), WET_BULB: _wet_bulb_points(fit)}
    segments = [
        (column, low, high) for column, axis in points.items() for low, high in pairwise(axis.tolist())
    ]
    ramps = ColumnTransformer(
        [(f"{column} from {low:g}", MinMaxScaler(clip=True), [column]) for column, low, _ in segments]
    )
    products = PolynomialFeatures(degree=2, interaction_only=True, include_bias=False)
    model = Pipeline([("ramps", ramps), ("products", products), ("sum", LinearRegression())])
    model.fit(pd.DataFrame({name: axis[:2] for name, axis in points.items()}), np.zeros(2))
    # What is fitted above are the columns; the numbers are the fit's own.
    for (column, low, high), (_, ramp, _) in zip(segments, ramps.transformers_, strict=True):
        ramp.fit(pd.DataFrame({column: [low, high]}))
    grid_q, grid_t = np.meshgrid(points[Q], points[WET_BULB], indexing="ij")
    moved = fit.cooling.energy_kwh(grid_q.ravel(), grid_t.ravel()).reshape(grid_q.shape)
    values = moved + (fit.management_kwh or 0.0)
    model.named_steps["sum"].intercept_ = float(values[0, 0])
    model.named_steps["sum"].coef_ = _coefficients(values, products.powers_)
    return model


def _coefficients(values: Floats, powers: NDArray[np.int64]) -> Floats:
    """Of ramps of Q, ramps of wet bulb and their products, in the order of `powers`, from values at the points."""
    of_q, of_t = np.diff(values[:, 0]), np.diff(values[0])
    mixed = np.diff(np.diff(values, axis=0), axis=1)
    found = np.zeros(len(powers))
    for at, row in enumerate(powers):
        q, t = np.flatnonzero(row[: len(of_q)]), np.flatnonzero(row[len(of_q) :])
        if len(q) + len(t) == 1:
            found[at] = of_q[q[0]] if len(q) else of_t[t[0]]
        elif len(q) == len(t) == 1:
            found[at] = mixed[q[0], t[0]]
    return found


def _q_points(fit: FacilityFit) -> Floats:
    """Points of Q, kWh, between which the fit is linear; beyond the seen ones it goes on in proportion to Q."""
    cooling = fit.cooling
    if not isinstance(cooling, RisingGrid):
        return np.array([0.0, _GROWTH * max(fit.mean_it_kwh, 1.0)])
    axis = np.array(cooling.q_kwh)
    # At zero itself a proportion has no value: a point near it stands on the same line.
    least = axis[0] / _GROWTH
    return np.concatenate([[least] if least > 0 else [], axis, [_GROWTH * axis[-1]]])


def _wet_bulb_points(fit: FacilityFit) -> Floats:
    cooling = fit.cooling
    if isinstance(cooling, RisingGrid):
        return np.array(cooling.wet_bulb_c)
    return np.array([_COLDEST_C, *cooling.knots_c, _WARMEST_C])
