"""Fields and tables of what was published when, and what changed since."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.common import REASONS
from lepton_etl.schema.declare import DOUBLE, Field, Table, count, text, time

FIELDS: Final[tuple[Field, ...]] = (
    text("publication_id", "One publication: SHA-256 of its rows and of the publication before, 16 digits."),
    time("published_time", "When the publication was made, UTC."),
    text(
        "table_name",
        "Table whose row was published; `inputs` for the digests of what the figures of a day rest on.",
    ),
    text("row_key", "Canonical JSON of the row's key."),
    text(
        "figures",
        "Canonical JSON of the row without its unknown figures; `null` where the row was withdrawn.",
    ),
    text("row_hash", "SHA-256 of figures."),
    text("factor_set_version", "SHA-256 of the factor files in force."),
    text("column_name", "Column whose figure changed; `*` where the row came or went."),
    text("old_value", "The figure published before, as JSON; null where it was unknown."),
    text("new_value", "The figure published now, as JSON; null where it is unknown."),
    Field(
        "change_ratio",
        DOUBLE,
        "dimensionless",
        "Change over the old figure, without sign; null where one of them is unknown, no number or the old one 0.",
        ge=0.0,
        le=1e12,
    ),
    text("reasons", f"Why, comma-separated: {', '.join(REASONS)}."),
    text(
        "materiality", "Whether the change is at or above restate.material_ratio.", ("material", "immaterial")
    ),
    text("month", "Calendar month, such as 2025-06."),
    time("closed_time", "When the month was closed, UTC."),
    time("restated_time", "When a row of the closed month last changed, UTC; null where none did."),
    count("row_count", "Rows of the table in the month when it was closed."),
    text("content_hash", "SHA-256 of the row hashes in key order."),
)

PUBLICATION: Final = Table(
    "gold/publication", grain="one row as one publication said it", key=(), append_only=True,
    # A night is one small file a table; asking for one table, or for what days rest on, opens no other.
    partition="table_name",
    owner="publication",
    columns=(
        "publication_id", "published_time", "table_name", "row_key", "date", "status", "figures", "row_hash",
        "input_versions", "factor_set_version", "model_version", "code_version", "run_id",
    ),
    not_null=(
        "publication_id", "published_time", "table_name", "row_key", "date", "status", "figures", "row_hash",
    ),
    warnings=("Only rows that changed are appended; `lepton-etl figures --as-of` puts a day together.",),
)  # fmt: skip

RESTATEMENT: Final = Table(
    "gold/restatement", grain="one figure that a publication changed", key=(), append_only=True,
    partition="date", owner="publication",
    columns=(
        "publication_id", "published_time", "table_name", "row_key", "date", "status", "column_name",
        "old_value", "new_value", "change_ratio", "reasons", "materiality",
    ),
    not_null=("publication_id", "published_time", "table_name", "row_key", "date", "column_name", "reasons"),
)  # fmt: skip

PERIOD: Final = Table(
    "gold/period", grain="one table of one closed month", key=("site_id", "month", "table_name"),
    owner="publication",
    columns=(
        "site_id", "month", "table_name", "status", "closed_time", "restated_time", "row_count", "content_hash",
        "run_id",
    ),
    not_null=("status", "closed_time", "row_count", "content_hash"),
)  # fmt: skip
