"""Fields and tables of the record of runs, and of which versions of the gold tables belong together."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.declare import DATE, DOUBLE, INT, STRINGS, Field, Table, count, energy, ratio, text

SHIFT_KINDS: Final = ("more", "less", "spread")


def _score(name: str, description: str) -> Field:
    return Field(name, DOUBLE, None, description, ge=-100.0, le=100.0)


FIELDS: Final[tuple[Field, ...]] = (
    # Predictions
    text("model_name", "Registered model."),
    text("model_version", "Version in the registry."),
    energy("predicted_kwh", "Predicted energy of the device over the hour."),
    energy(
        "predicted_lower_kwh",
        "Lower end of the 90 % interval of predicted_kwh; null where the model has none.",
    ),
    energy(
        "predicted_upper_kwh",
        "Upper end of the 90 % interval of predicted_kwh; null where the model has none.",
    ),
    Field(
        "outside_inputs",
        STRINGS,
        None,
        "Inputs far outside of what the model learnt, which widen its interval; null where it does not say.",
    ),
    energy(
        "recalibrated_kwh",
        "Predicted energy, corrected by what was missed on the device at like load, temperature and memory.",
    ),
    energy(
        "recalibrated_lower_kwh",
        "Lower end of the 90 % interval of the recalibrated energy, by what those of the device's newest days missed.",
    ),
    energy("recalibrated_upper_kwh", "Upper end of the same interval."),
    # Shift
    count("compared_hours", "Hours of the day that were both measured and predicted with an interval."),
    _score(
        "residual_level",
        "Mean of measured less predicted energy, in standard deviations of what the model claims; null below 12 hours.",
    ),
    _score(
        "residual_spread",
        "How much wider the day missed than the model claims, in standard deviations; 0 is as claimed.",
    ),
    *(
        field
        for kind, what in (
            ("more", "More energy than expected"),
            ("less", "Less energy than expected"),
            ("spread", "Wider misses"),
        )
        for field in (
            _score(f"{kind}_sum", f"{what}: cumulative sum of its days less 0.5 each; 4 is a shift."),
            Field(f"{kind}_since", DATE, None, f"Day on which that sum last left 0: {what.lower()}."),
        )
    ),
    text(
        "shift_kind",
        "How the device has left what its model says: more or less energy, wider misses.",
        SHIFT_KINDS,
    ),
    Field("shift_since", DATE, None, "First day of the shift that is in force; null where there is none."),
    Field(
        "shift_found", DATE, None, "Day whose residuals showed that shift; the next day's interval is wider."
    ),
    ratio(
        "load_ratio",
        "GPU utilisation of the device-hour where known, else CPU utilisation: what expected energy follows.",
    ),
    # Runs
    text("run_id", "Run of the pipeline."),
    text("stage", "Stage of the night."),
    text("code_version", "Version of lepton_etl, with the git commit where there is one."),
    text("settings_hash", "SHA-256 of the settings in force, secrets left out."),
    Field("date_from", DATE, None, "First UTC day of the run."),
    Field("date_until", DATE, None, "Last UTC day of the run."),
    Field("exit_code", INT, None, "Exit code.", ge=0, le=255),
    text("message", "The last line for the operator."),
    count("rows_in", "Rows read."),
    count("rows_out", "Rows written."),
    Field("duration_s", DOUBLE, "second", "Wall time.", ge=0.0, le=1e9),
    text("table_versions", "JSON: table -> Delta version after the stage."),
    text("input_versions", "JSON: table -> Delta version that the stage read."),
    count("spark_jobs", "Spark jobs of the stage; 0 on the local engine."),
    count("sql_executions", "SQL executions of the stage in Spark."),
    text(
        "file_digests",
        "JSON: table -> digest of the names of the day's files; of a table without days, of all.",
    ),
)

RUN: Final = Table(
    "ops/run", grain="one run of the night, in one state", key=("run_id", "state"), owner="lake",
    columns=(
        "run_id", "state", "date_from", "date_until", "start_time", "end_time", "duration_s", "exit_code",
        "message", "code_version", "settings_hash", "stage",
    ),
)  # fmt: skip

STAGE_RUN: Final = Table(
    "ops/stage_run", grain="one stage of one run over one range of days",
    key=("run_id", "stage", "date_from", "date_until"), owner="lake",
    columns=(
        "run_id", "stage", "state", "date_from", "date_until", "start_time", "end_time", "duration_s", "rows_in",
        "rows_out", "input_versions", "table_versions", "code_version", "message", "spark_jobs", "sql_executions",
    ),
)  # fmt: skip

NIGHT: Final = Table(
    "ops/night", grain="one published UTC day: the gold tables that belong together", key=("date",),
    owner="lake", partition="date",
    columns=("date", "run_id", "published_time", "table_versions", "file_digests", "code_version"),
    not_null=("published_time", "table_versions", "file_digests"),
)  # fmt: skip
