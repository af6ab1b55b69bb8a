"""The fitted model of the facility."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

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
