"""A fit as a row of gold/facility_fit, and back; parameters are numbers in JSON, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from lepton_etl.errors import ModelError
from lepton_etl.facility.challenger import RisingGrid
from lepton_etl.facility.fit import FacilityFit
from lepton_etl.facility.hours import day_of
from lepton_etl.facility.identify import Identified
from lepton_etl.facility.reference import RatioCurve
from lepton_etl.facility.scores import Scores
from lepton_etl.facility.stages import StageLoss

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
