"""Fields and tables of recommendations, of decisions on them, and of what they saved."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.common import (
    BURDEN_KINDS,
    CARBON_METHODS,
    DECISIONS,
    FAIR_SHARE_BASIS,
    LEVERS,
    RECOMMENDATION_STATES,
    SAVING_METHODS,
)
from lepton_etl.schema.declare import BOOLEAN, DATE, DOUBLE, Field, Table, energy, ratio, text, time

_SIGNED: Final = 1e9


def _signed(name: str, unit: str | None, description: str) -> Field:
    return Field(name, DOUBLE, unit, description, ge=-_SIGNED, le=_SIGNED)


def _interval(name: str, unit: str | None, suffix: str, what: str) -> tuple[Field, ...]:
    return (
        _signed(f"{name}{suffix}", unit, f"{what}."),
        _signed(
            f"{name}_lower{suffix}", unit, f"Lower end of the 90 % interval: {what[0].lower()}{what[1:]}."
        ),
        _signed(
            f"{name}_upper{suffix}", unit, f"Upper end of the 90 % interval: {what[0].lower()}{what[1:]}."
        ),
    )


FIELDS: Final[tuple[Field, ...]] = (
    # What to change
    text("job_class", "Jobs of one user and partition, or of a hardware class."),
    text("recommendation_id", "Hash of site, lever, action and subject; the same every night."),
    text("lever", "What is changed.", LEVERS),
    text("action", "What to do, as an identifier for programs."),
    text("advice", "What to do and why, as a sentence with numbers."),
    text("action_json", "JSON: the action's numbers, each with its unit in its name."),
    text("recommendation_state", "Where the recommendation stands.", RECOMMENDATION_STATES),
    Field("first_proposed_date", DATE, None, "UTC day of the night that first proposed it."),
    time("state_time", "Since when it is in this state, UTC."),
    time("window_start", "First instant for which the promise holds, UTC."),
    time("window_end", "First instant after, UTC; then it expires."),
    energy("baseline_kwh", "Energy over the window if nothing is changed."),
    *_interval("expected_saving", "kilowatt_hour", "_kwh", "Energy expected to be saved over the window"),
    *_interval("expected_saving", "kilogram_co2e", "_kgco2e", "Emissions expected to be saved over the window"),
    *_interval("expected_saving", None, "_cost", "Money expected to be saved over the window"),
    *_interval("expected_slowdown", "dimensionless", "_ratio", "Run time expected over that before, less one"),
    text("carbon_method", "The one method behind every emission of the row.", CARBON_METHODS),
    text("guard_rail", "What must stay true; where it does not, undo."),
    text("promise_basis", "What the promise rests on."),
    # What people decided
    text("decision", "What was decided.", DECISIONS),
    time("decided_time", "When it was recorded, UTC."),
    time("effective_time", "From when it holds, UTC."),
    text("decided_by", "Who decided, by pseudonym."),
    text("note", "Reason given with the decision."),
    # What it brought
    text("saving_method", "IPMVP option of the measurement.", SAVING_METHODS),
    Field("baseline_from", DATE, None, "First UTC day of the period before."),
    Field("baseline_until", DATE, None, "Last UTC day of the period before."),
    Field("reporting_from", DATE, None, "First UTC day of the period after."),
    Field("reporting_until", DATE, None, "Last UTC day of the period after."),
    _signed("expected_kwh", "kilowatt_hour", "Energy of the period after as the baseline expects it at its load."),
    _signed("realised_kwh", "kilowatt_hour", "Energy of the period after as measured."),
    *_interval("realised_saving", "kilowatt_hour", "_kwh", "Energy saved: expected less realised"),
    Field(
        "savings_uncertainty_ratio", DOUBLE, "dimensionless",
        "Half the 90 % interval over the saving; below 0.5 to be proven.", ge=0.0, le=1e9,
    ),
    Field(
        "guideline14_uncertainty_ratio", DOUBLE, "dimensionless",
        "Fractional savings uncertainty by ASHRAE Guideline 14, 90 %, beside it; null where there is no regression.",
        ge=0.0, le=1e9,
    ),
    Field("bias_ratio", DOUBLE, "dimensionless", "NMBE of the baseline on its own period.", ge=-1e6, le=1e6),
    Field("proven", BOOLEAN, None, "Lower end above 0, fractional uncertainty below half, and gates passed."),
    Field("kept_promise", BOOLEAN, None, "Whether the realised saving lies inside the promised interval."),
    text("grade_reason", "Why it is not graded or not proven; null: proven."),
    ratio("hit_ratio", "Share of graded recommendations of the lever whose saving lay inside the promise."),
    # Who bears it
    text(
        "burden_kind",
        "What tenants bear: slowdown by caps that stand, delays of advised starts, waiting to start, idle energy "
        "of the nodes they were placed on, overhead allocated to them.",
        BURDEN_KINDS,
    ),
    Field("burden_h", DOUBLE, "hour", "Burden of a cap (GPU-hours), a delay or waiting (job-hours).", ge=0.0, le=1e12),
    energy("burden_kwh", "Burden of placement or overhead."),
    ratio("burden_share_ratio", "The tenant's share of the burden of all tenants of the site."),
    ratio("fair_share_ratio", "The tenant's share of what the burden would be shared out by."),
    text("fair_share_basis", "What that is.", FAIR_SHARE_BASIS),
    ratio("jain_index_ratio", "Jain's index of burden over fair share over the site's tenants: 1 is even."),
    ratio("share_max_ratio", "Largest share of the burden of one tenant that the plan allowed; null: no limit."),
    _signed("forgone_saving_kwh", "kilowatt_hour", "Energy saving that the limit forgoes; null: no limit."),
    Field(
        "forgone_saving_ratio", DOUBLE, "dimensionless",
        "The same over the saving without the limit; null where that is not above 0.", ge=-1e9, le=1e9,
    ),
)  # fmt: skip

SUBJECT: Final = ("cluster_id", "node_id", "device_id", "job_id", "job_class")
PROMISE: Final = (
    "baseline_kwh", "expected_saving_kwh", "expected_saving_lower_kwh", "expected_saving_upper_kwh",
    "expected_saving_kgco2e", "expected_saving_lower_kgco2e", "expected_saving_upper_kgco2e", "carbon_method",
    "expected_saving_cost", "expected_saving_lower_cost", "expected_saving_upper_cost", "currency",
    "expected_slowdown_ratio", "expected_slowdown_lower_ratio", "expected_slowdown_upper_ratio",
)  # fmt: skip

RECOMMENDATION: Final = Table(
    "gold/recommendation", grain="one recommendation as it stands at the end of one night", partition="date",
    owner="recommend", key=("date", "recommendation_id"),
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
    owner="lake",
    columns=("recommendation_id", "decision", "decided_time", "effective_time", "decided_by", "note"),
    not_null=("recommendation_id", "decision", "decided_time", "effective_time"),
)  # fmt: skip

SAVING: Final = Table(
    "gold/saving", grain="what one applied recommendation has brought until one night", partition="date",
    owner="recommend", key=("date", "recommendation_id"),
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

TENANT_BURDEN: Final = Table(
    "gold/tenant_burden", grain="one burden of one tenant of a site on one UTC day", partition="date",
    owner="trust", key=("site_id", "tenant_id", "burden_kind", "date"),
    columns=(
        "site_id", "tenant_id", "burden_kind", "date", "burden_h", "burden_kwh", "burden_share_ratio",
        "fair_share_ratio", "fair_share_basis", "jain_index_ratio", "share_max_ratio", "forgone_saving_kwh",
        "forgone_saving_ratio",
    ),
    not_null=("fair_share_ratio", "fair_share_basis"),
    warnings=("Caps and delays are proposals: a tenant bears them once somebody carries them out.",),
)  # fmt: skip
