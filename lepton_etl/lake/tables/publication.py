"""What was published when, and what changed since."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

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
