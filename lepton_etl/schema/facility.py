"""Fields and table of the fitted facility model."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.declare import (
    BOOLEAN,
    DATE,
    DOUBLE,
    Field,
    Table,
    count,
    ratio,
    temperature,
    text,
    watts,
)

FIT_KINDS: Final = ("reference", "monotone_grid", "total_only")


def _error(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "dimensionless", description, ge=0.0, le=1e6)


FIELDS: Final[tuple[Field, ...]] = (
    Field("fitted_from", DATE, None, "First UTC day of the hours that a facility model was fitted on."),
    Field("fitted_until", DATE, None, "Last UTC day of these hours; always before `date`."),
    count("fit_hours", "Hours that a facility model was fitted on."),
    count("test_hours", "Later hours of the forward test that its errors are from."),
    text(
        "fit_kind",
        "reference: non-negative least squares; monotone_grid: boosted trees on a grid; total_only: one overhead.",
        FIT_KINDS,
    ),
    text("parameters_json", "The fitted parameters, as JSON; kWh an hour, degC."),
    text("intervals_json", "90 % intervals of the parameters by resampling days, as JSON."),
    Field(
        "cooling_ratio", DOUBLE, "dimensionless",
        "Cooling over IT energy at the mean wet bulb of the fit; null where only a total is metered.",
        ge=0.0, le=10.0,
    ),
    watts("management_power_w", "Constant management load; null where only a total is metered."),
    Field(
        "heat_k2_ratio", DOUBLE, "dimensionless",
        "Metered IT energy over metered heat to be removed (k2); null where no heat is metered.",
        ge=0.0, le=10.0,
    ),
    _error("cv_rmse_ratio", "CV(RMSE) of cooling + management on the forward test."),
    Field("nmbe_ratio", DOUBLE, "dimensionless", "Mean bias, measured - predicted.", ge=-1e6, le=1e6),
    _error("it_share_cv_rmse_ratio", "CV(RMSE) of a constant share of IT energy on the same hours."),
    _error("last_week_cv_rmse_ratio", "CV(RMSE) of the same hour a week before, where that is known."),
    _error("design_condition_ratio", "Condition number of the scaled design; large: parameters cannot be separated."),
    temperature("wet_bulb_p05_c", "5th percentile of wet bulb over the fit's hours."),
    temperature("wet_bulb_p95_c", "95th percentile of wet bulb over the fit's hours."),
    _error("it_variation_ratio", "Standard deviation over mean of hourly IT energy."),
    Field("identifiable", BOOLEAN, None, "Whether cooling ratio and management load can be separated."),
    Field("accepted", BOOLEAN, None, "Whether the model passed its gates and may stand for a missing meter."),
    text("fit_reason", "Why not identifiable or not accepted, or what else is to be known."),
    text("code_sha256", "Hash of the code of the facility model."),
    text("operating_json", "Model figure: best supply temperature and flow, free and within limits, as JSON."),
    ratio("conversion_loss_ratio", "Conversion loss over IT energy of the fit's hours; null where not metered."),
)  # fmt: skip

FACILITY_FIT: Final = Table(
    "gold/facility_fit", grain="the facility model of one site that may be used on one UTC day", partition="date",
    owner="facility", key=("date", "site_id"),
    warnings=("Only rows with accepted = true stand for a missing meter; figures of operating_json are modelled.",),
    columns=(
        "date", "site_id", "fitted_from", "fitted_until", "fit_hours", "test_hours", "fit_kind", "parameters_json",
        "intervals_json", "cooling_ratio", "management_power_w", "heat_k2_ratio", "conversion_loss_ratio",
        "cv_rmse_ratio", "nmbe_ratio", "it_share_cv_rmse_ratio", "last_week_cv_rmse_ratio", "design_condition_ratio",
        "wet_bulb_p05_c", "wet_bulb_p95_c", "it_variation_ratio", "identifiable", "accepted", "fit_reason",
        "operating_json", "code_sha256",
    ),
    not_null=(
        "fitted_from", "fitted_until", "fit_hours", "fit_kind", "parameters_json", "identifiable", "accepted",
    ),
)  # fmt: skip
