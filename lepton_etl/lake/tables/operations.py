"""What the runs did."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

RUN: Final = Table(
    "ops/run", grain="one run of the night, in one state", key=("run_id", "state"), owner="operations",
    columns=(
        "run_id", "state", "date_from", "date_until", "start_time", "end_time", "duration_s", "exit_code",
        "message", "code_version", "settings_hash",
    ),
)  # fmt: skip

STAGE_RUN: Final = Table(
    "ops/stage_run", grain="one stage of one run", key=("run_id", "stage"), owner="operations",
    columns=(
        "run_id", "stage", "state", "date_from", "date_until", "start_time", "end_time", "duration_s", "rows_in",
        "rows_out", "input_versions", "table_versions", "code_version", "message",
    ),
)  # fmt: skip
