"""silver/interval -> gold/prediction: the measured and the predicted energy of every device-hour of the days.

A day that was scored before is scored again with the model version recorded for it, so a re-run gives the
same rows; a day that was not gets the champion.
"""

from __future__ import annotations

from datetime import date
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.lake.store import Lake
from lepton_etl.lake.tables import INTERVAL, NODE, PREDICTION
from lepton_etl.models.device_hours import device_hours
from lepton_etl.models.registry import Registry
from lepton_etl.models.scoring import with_prediction
from pipelines.stage import StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Score the days of the run; no champion or no device-hours is a note, not a failure."""
    settings, lake = context.settings.model, context.lake
    mlflow = context.settings.mlflow
    registry = Registry(mlflow.tracking_uri, mlflow.artifact_location, mlflow.experiment)
    hours = (
        lake.read(INTERVAL, context.days)
        .transform(device_hours(settings.device, lake.read_few(NODE)))
        .persist()
    )
    try:
        rows_in = hours.count()
        if rows_in == 0:
            return StageResult(notes=(f"not scored: no {settings.device} hours in {context.days}",))
        champion = registry.champion(settings.name)
        days_of = _days_by_version(lake, context, champion.version if champion else None)
        if not days_of:
            return StageResult(rows_in=rows_in, notes=(f"not scored: {settings.name} has no champion",))
        scored: list[DataFrame] = []
        for version, days in sorted(days_of.items()):
            model = registry.verified_model(settings.name, version=version)
            theirs = hours.where(F.col("date").isin(days))
            scored.append(theirs.transform(with_prediction(model, settings.coverage_min_ratio)))
        written = lake.replace(PREDICTION, context.days, reduce(DataFrame.unionByName, scored))
    finally:
        hours.unpersist()
    versions = ", ".join(sorted(days_of))
    note = f"{settings.name} version {versions} scored {written.rows:,} {settings.device} hours"
    return StageResult(rows_in=rows_in, rows_out=written.rows, written=(written,), notes=(note,))


def _days_by_version(lake: Lake, context: StageContext, champion: str | None) -> dict[str, list[date]]:
    """Model version -> the days it scores: the recorded version where a day has one, else the champion."""
    recorded = (
        lake.read(PREDICTION, context.days)
        .where(F.col("model_name") == context.settings.model.name)
        .groupBy("date")
        .agg(F.max(F.col("model_version").cast("int")).cast("string").alias("model_version"))
        .collect()
    )
    version_of = {row["date"]: row["model_version"] for row in recorded}
    days_of: dict[str, list[date]] = {}
    for day in context.days:
        version = version_of.get(day, champion)
        if version is not None:
            days_of.setdefault(version, []).append(day)
    return days_of
