"""silver/grid_hour and the runs of jobs -> gold/forecast and gold/job_power: what is expected before it happens.

The forecast's origin is the end of the run's last day; a job's power is expected at the start of the day it began on,
from runs that had ended by then.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.config.settings import Grid
from lepton_etl.days import Days
from lepton_etl.forecast.grid_intensity import forecast_rows
from lepton_etl.forecast.job_power import predict_jobs
from lepton_etl.lake import tables as plain
from lepton_etl.lake.tables import Written
from lepton_etl.schema.declare import JOULES_PER_KWH
from lepton_etl.schema.diagnosis import FORECAST, JOB_POWER
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN, RUN_KEY
from lepton_etl.schema.types import arrow_rows, spark_schema
from pipelines.stage import StageContext, StageResult

# Older hours tell little about the next four days, and the members learn anew on every origin.
GRID_HISTORY_DAYS: Final = 180
JOB_HISTORY_DAYS: Final = 90
_REQUEST: Final = ("user_name", "partition", "gpu_count", "cpu_count", "memory_byte")


def run(context: StageContext) -> StageResult:
    """Forecast the site's zone after the last day, and expect the power of the runs that began on the days."""
    written = [*_grid(context), *_jobs(context)]
    notes = [f"{one.table}: {one.rows:,} rows" for one in written] or ["no grid zone and no job is known"]
    return StageResult(rows_out=sum(one.rows for one in written), written=tuple(written), notes=tuple(notes))


def _grid(context: StageContext) -> list[Written]:
    grid, lake = context.settings.grid, context.lake
    if grid is None:
        return []
    origin = context.days.until_time
    looked_at = Days(context.days.end - timedelta(days=GRID_HISTORY_DAYS), context.days.end)
    # One zone is 24 rows a day: read without Spark, forecast once.
    known = pl.DataFrame(plain.read(lake.root, GRID_HOUR, looked_at))
    rows = forecast_rows(of_zone(known, grid), grid.zone, origin)
    day = Days.of(origin.date())
    fresh = lake.spark.createDataFrame(arrow_rows(FORECAST, rows), spark_schema(FORECAST))
    return [lake.replace_few(FORECAST, day, fresh, allow_empty=True)]


def of_zone(hours: pl.DataFrame, grid: Grid) -> pl.DataFrame:
    """The rows of silver/grid_hour that location-based emissions take: the site's zone and flow, average and direct."""
    return hours.filter(
        (pl.col("zone_id") == grid.zone) & (pl.col("flow") == grid.flow)
        & (pl.col("signal") == "average") & (pl.col("intensity_basis") == "direct")
    )  # fmt: skip


def _jobs(context: StageContext) -> list[Written]:
    lake, days = context.lake, context.days
    looked_at = Days(days.start - timedelta(days=JOB_HISTORY_DAYS), days.end)
    runs = lake.read_frame(JOB_RUN, looked_at)
    if runs.isEmpty():
        return []
    rows = (
        with_mean_power(runs, lake.read_frame(JOB_ENERGY, looked_at))
        .groupBy("site_id")
        .applyInArrow(_expected_of(list(days)), schema=spark_schema(JOB_POWER))
    )
    return [lake.replace_frame(JOB_POWER, days, rows, allow_empty=True)]


def with_mean_power(runs: DataFrame, energy: DataFrame) -> DataFrame:
    """One row a run: its request, when it ran, and the mean power over its nodes, W; null where gold lacks a day."""
    requests = runs.groupBy(*RUN_KEY).agg(
        F.min("start_time").alias("start_time"),
        F.max("end_time").alias("end_time"),
        *(F.max(name).alias(name) for name in _REQUEST),
    )
    sums = energy.groupBy(*RUN_KEY).agg(
        F.when(F.count("it_energy_kwh") == F.count("*"), F.sum("it_energy_kwh")).alias("energy_kwh"),
        F.min("date").alias("first_date"),
    )
    seconds = F.unix_timestamp("end_time") - F.unix_timestamp("start_time")
    # A run that began before the days looked at has part of its energy here.
    is_whole = F.col("first_date") <= F.to_date("start_time")
    power_w = F.try_divide(F.col("energy_kwh") * JOULES_PER_KWH, seconds)
    return (
        requests.join(sums, list(RUN_KEY), how="left")
        .withColumn("mean_power_w", F.when(is_whole, power_w))
        .drop("energy_kwh", "first_date")
    )


def _expected_of(days: list[date]) -> Callable[[pa.Table], pa.Table]:
    def expect(table: pa.Table) -> pa.Table:
        runs = pl.DataFrame(table)
        found = []
        for day in days:
            at = datetime.combine(day, time(), UTC)
            began = runs.filter(pl.col("start_time").dt.date() == day)
            if began.height:
                told = predict_jobs(began, runs.filter(pl.col("end_time").is_not_null()), at)
                found.append(told.with_columns(pl.lit(day).alias("date")))
        return arrow_rows(JOB_POWER, pl.concat(found) if found else pl.DataFrame())

    return expect
