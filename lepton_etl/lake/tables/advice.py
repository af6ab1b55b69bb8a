"""What to change, what people decided about it, and what it brought."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

SUBJECT: Final = ("cluster_id", "node_id", "device_id", "job_id", "job_class")
PROMISE: Final = (
    "baseline_kwh", "expected_saving_kwh", "expected_saving_lower_kwh", "expected_saving_upper_kwh",
    "expected_saving_kgco2e", "expected_saving_lower_kgco2e", "expected_saving_upper_kgco2e", "carbon_method",
    "expected_saving_cost", "expected_saving_lower_cost", "expected_saving_upper_cost", "currency",
    "expected_slowdown_ratio", "expected_slowdown_lower_ratio", "expected_slowdown_upper_ratio",
)  # fmt: skip

RECOMMENDATION: Final = Table(
    "gold/recommendation", grain="one recommendation as it stands at the end of one night", partition="date",
    owner="optimize", key=("date", "recommendation_id"),
    columns=(
        "date", "recommendation_id", "site_id", "lever", "action", *SUBJECT, "advice", "action_json",
        "recommendation_state", "first_proposed_date", "state_time", "window_start", "window_end", *PROMISE,
        "guard_rail", "promise_basis",
    ),
    not_null=(
        "site_id", "lever", "action", "advice", "action_json", "recommendation_state", "first_proposed_date",
        "state_time", "window_start", "window_end", "carbon_method", "promise_basis",
    ),
    warnings=(
        "Recommendations are for a person to read; nothing is carried out.",
        "Promises of levers overlap: their sum is more than all of them together would bring.",
        "From acceptance on the promise stays as it was accepted.",
    ),
)  # fmt: skip

DECISION: Final = Table(
    "ops/decision", grain="one decision of a person about one recommendation", key=(), append_only=True,
    owner="operations",
    columns=("recommendation_id", "decision", "decided_time", "effective_time", "decided_by", "note"),
    not_null=("recommendation_id", "decision", "decided_time", "effective_time"),
)  # fmt: skip

SAVING: Final = Table(
    "gold/saving", grain="what one applied recommendation has brought until one night", partition="date",
    owner="optimize", key=("date", "recommendation_id"),
    columns=(
        "date", "recommendation_id", "site_id", "lever", *SUBJECT, "saving_method", "baseline_from", "baseline_until",
        "reporting_from", "reporting_until", "expected_kwh", "realised_kwh", "realised_saving_kwh",
        "realised_saving_lower_kwh", "realised_saving_upper_kwh", "savings_uncertainty_ratio",
        "guideline14_uncertainty_ratio", "cv_rmse_ratio",
        "bias_ratio", "proven", "kept_promise", "hit_ratio", "grade_reason",
    ),
    not_null=("site_id", "lever", "saving_method", "proven"),
    warnings=("Measured from logs alone; a saving that is not proven is not a saving to report.",),
)  # fmt: skip
