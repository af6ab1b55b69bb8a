"""Fields and table of aggregates that were released under differential privacy: the releases, and their account."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.declare import DOUBLE, Field, Table, text, time

UNITS: Final = ("user", "tenant")
STATISTICS: Final = ("count", "energy", "histogram")

FIELDS: Final[tuple[Field, ...]] = (
    text("consumer", "Whom it was released to, whose budget it was taken from."),
    text("protected_unit", "Whose presence or absence the noise hides.", UNITS),
    text("released_statistic", "What was released.", STATISTICS),
    Field(
        "bin_from_kwh", DOUBLE, "kilowatt_hour", "Histogram: least energy of the month in the bin; else null.",
        ge=0.0, le=1e12,
    ),
    Field(
        "released_value", DOUBLE, None, "How many, or kWh of energy, with noise: below 0 where the noise is.",
        ge=-1e15, le=1e15,
    ),
    Field(
        "released_error", DOUBLE, None, "Half-width that holds the noise in 95 % of draws, in the unit of the value.",
        ge=0.0, le=1e15,
    ),
    Field("clamp_kwh", DOUBLE, "kilowatt_hour", "Energy that one of the unit counts for at most.", ge=0.0, le=1e12),
    Field("epsilon", DOUBLE, None, "Epsilon of this row's statistic; a histogram's bins share one.", ge=0.0, le=1e3),
    time("released_time", "When the noise was drawn, UTC."),
)  # fmt: skip

RELEASE: Final = Table(
    "ops/release", grain="one figure of a month that was released to one consumer", append_only=True, owner="trust",
    key=(), not_null=("consumer", "site_id", "month", "protected_unit", "released_statistic", "epsilon"),
    columns=(
        "consumer", "site_id", "month", "protected_unit", "released_statistic", "bin_from_kwh", "released_value",
        "released_error", "clamp_kwh", "epsilon", "released_time", "run_id",
    ),
    warnings=(
        "Released once: asked again for the same month, the same figures are given, at no epsilon.",
        "Jobs whose energy is not covered count 0 kWh.",
    ),
)  # fmt: skip
