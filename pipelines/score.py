"""silver/interval -> gold/prediction: the measured and the predicted energy of every device-hour of the days.

A day that was scored before is scored again with the model version recorded for it, so a re-run gives the
same rows; a day that was not gets the champion.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import reduce

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.lake.spark import SparkLake
from lepton_etl.models.device_hours import device_hours
from lepton_etl.models.recalibration import Recalibration
from lepton_etl.models.registry import Registry
from lepton_etl.models.scoring import recalibrated, with_prediction
from lepton_etl.schema.energy import PREDICTION
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.types import arrow_rows, spark_schema
from pipelines.stage import StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Score the days of the run; no champion or no device-hours is a note, not a failure."""
    settings, lake = context.settings.model, context.lake
    registry = Registry.of(context.settings.mlflow)
    hours = (
        lake.read_frame(INTERVAL, context.days)
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
        rows = _recalibrated(context, reduce(DataFrame.unionByName, scored))
        written = lake.replace_frame(PREDICTION, context.days, rows)
    finally:
        hours.unpersist()
    versions = ", ".join(sorted(days_of))
    note = f"{settings.name} version {versions} scored {written.rows:,} {settings.device} hours"
    return StageResult(rows_in=rows_in, rows_out=written.rows, written=(written,), notes=(note,))


def _recalibrated(context: StageContext, scored: DataFrame) -> DataFrame:
    """The scored hours with `recalibrated_kwh`, from what was scored in the days before; node by node."""
    first = context.days.start
    before = Days(first - timedelta(days=Recalibration().newest_days), first - timedelta(days=1))
    name = context.settings.model.name
    history = context.lake.read_frame(PREDICTION, before).where(F.col("model_name") == name)

    def correct(table: pa.Table) -> pa.Table:
        rows = pl.DataFrame(table).sort("cluster_id", "device_id", "hour_start")
        rows = rows.with_columns(recalibrated(rows)).filter(pl.col("date") >= first)
        return arrow_rows(PREDICTION, rows)

    kept = [column for column in PREDICTION.columns if column != "recalibrated_kwh"]
    whole = scored.select(*kept).unionByName(history.select(*kept))
    return whole.groupBy("site_id", "node_id").applyInArrow(correct, schema=spark_schema(PREDICTION))


def _days_by_version(lake: SparkLake, context: StageContext, champion: str | None) -> dict[str, list[date]]:
    """Model version -> the days it scores: the recorded version where a day has one, else the champion."""
    recorded = (
        lake.read_frame(PREDICTION, context.days)
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
