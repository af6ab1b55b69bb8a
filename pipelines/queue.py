"""bronze/job, what ran before and the forecast -> when the jobs that wait should start."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import polars as pl
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.lake import plain
from lepton_etl.lake.tables import FORECAST, JOB, NODE, SITE_HOUR
from lepton_etl.lake.tables.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN
from lepton_etl.lake.tables.ledger import SITE_COST
from lepton_etl.models.job_power import predict_jobs
from lepton_etl.recommend.job_shift import HORIZON_H, Queue, shift_advice
from pipelines.forecast import JOB_HISTORY_DAYS, with_mean_power
from pipelines.levers import Found
from pipelines.stage import StageContext

_REQUEST = ("user_name", "partition", "gpu_count", "cpu_count", "memory_byte", "submit_time")


def waiting_jobs(context: StageContext) -> Found:
    """Later starts for the pending jobs of the partitions that may wait."""
    settings = context.settings.optimize.shift
    if settings is None:
        return Found(notes=("no job is shifted: optimize.shift is not stated",))
    at = datetime.combine(context.days.end + timedelta(days=1), time(), UTC)
    pending = _pending(context, at, settings.partitions)
    if not pending.height:
        return Found(notes=("no job waits in the partitions that may",))
    known = Days(context.days.end - timedelta(days=JOB_HISTORY_DAYS), context.days.end)
    runs = context.lake.read(JOB_RUN, known).where(F.col("partition").isin(*settings.partitions))
    history = pl.DataFrame(with_mean_power(runs, context.lake.read(JOB_ENERGY, known)).toArrow())
    told = predict_jobs(pending, history.filter(pl.col("end_time").is_not_null()), at)
    hours = (pl.col("end_time") - pl.col("start_time")).dt.total_seconds() / 3600
    ended = history.filter(pl.col("end_time") <= at).select("user_name", "partition", hours.alias("hours"))
    costs = pl.DataFrame(plain.read(context.lake.root, SITE_COST, Days.of(context.days.end)))
    currencies = costs["currency"].drop_nulls().unique().to_list()
    queue = Queue(
        context.settings.site.site_id,
        context.settings.grid.zone if context.settings.grid else "",
        at,
        told,
        ended,
        _room(context),
        _hours_ahead(context, at, costs),
        _overhead_ratio(context),
        currencies[0] if len(currencies) == 1 else None,
    )
    found, notes = shift_advice(queue, settings)
    return Found([one.row() for one in found], notes)


def _pending(context: StageContext, at: datetime, partitions: tuple[str, ...]) -> pl.DataFrame:
    """Jobs whose newest record by the end of the day is that they wait, with the cluster as silver names it."""
    key = ["site_id", "cluster_name", "job_id", "submit_time"]
    newest: DataFrame = (
        context.lake.read(JOB)
        .where(F.col("partition").isin(*partitions) & (F.col("submit_time") < F.lit(at)))
        .where(F.coalesce("record", F.lit("job")) == "job")
        .groupBy(*key)
        .agg(
            F.max_by("job_state", F.struct("ingest_time", "source_position")).alias("job_state"),
            F.max("start_time").alias("start_time"),
            *(F.max(name).alias(name) for name in _REQUEST if name != "submit_time"),
        )
        .where(F.col("start_time").isNull() & (F.col("job_state") == "PENDING"))
        .withColumnRenamed("cluster_name", "cluster_id")
        .orderBy("submit_time", "job_id")
    )
    return pl.DataFrame(newest.toArrow()).drop("job_state", "start_time")


def _room(context: StageContext) -> pl.DataFrame:
    """Free GPUs and cores of each cluster, if what runs at the end of the day keeps what it holds."""
    today = Days.of(context.days.end)
    listed = (
        context.lake.read_few(NODE)
        .where(F.col("valid_to").isNull() | (F.col("valid_to") > F.lit(today.until_time)))
        .groupBy("cluster_id")
        .agg(F.sum("gpu_count").alias("gpu"), F.sum("core_count").alias("core"))
    )
    running = (
        context.lake.read(JOB_NODE, today)
        .where(F.col("to_time") >= F.lit(today.until_time))
        .groupBy("cluster_id")
        .agg(F.sum("gpu_count").alias("gpu_held"), F.sum("cpu_count").alias("core_held"))
    )
    rows = pl.DataFrame(listed.join(running, "cluster_id", "left").toArrow())
    parts = [
        rows.select(
            "cluster_id",
            pl.lit(unit).alias("unit"),
            (pl.col(unit) - pl.col(f"{unit}_held").fill_null(0)).clip(0).cast(pl.Float64).alias("free"),
        ).drop_nulls("free")
        for unit in ("gpu", "core")
    ]
    return pl.concat(parts)


def _hours_ahead(context: StageContext, at: datetime, costs: pl.DataFrame) -> pl.DataFrame:
    """The newest forecast of the hours ahead; prices are those of the same hours of the day before."""
    rows = pl.DataFrame(plain.read(context.lake.root, FORECAST, Days.of(at.date())))
    zone = context.settings.grid.zone if context.settings.grid else None
    rows = rows.filter((pl.col("zone_id") == zone) & (pl.col("origin_time") == at)).select(
        "hour_start", "carbon_intensity_gco2e_per_kwh", "intensity_lower_gco2e_per_kwh",
        "intensity_upper_gco2e_per_kwh",
    )  # fmt: skip
    every = pl.DataFrame(
        {"hour_start": [at + timedelta(hours=hour) for hour in range(HORIZON_H)]}
    ).with_columns(pl.col("hour_start").cast(pl.Datetime("us", "UTC")))
    prices = costs.select(pl.col("hour_start").dt.hour().alias("_hour"), "energy_price").unique("_hour")
    return (
        every.join(rows, on="hour_start", how="left")
        .with_columns(pl.col("hour_start").dt.hour().alias("_hour"))
        .join(prices, on="_hour", how="left")
        .drop("_hour")
    )


def _overhead_ratio(context: StageContext) -> float:
    """kW of overhead a kW of IT over the day; 0 where no meter tells, so that nothing is promised of it."""
    rows = pl.DataFrame(plain.read(context.lake.root, SITE_HOUR, Days.of(context.days.end)))
    known = rows.drop_nulls(["facility_energy_kwh", "it_energy_kwh"])
    facility_kwh, it_kwh = (
        float(known[name].to_numpy().sum()) for name in ("facility_energy_kwh", "it_energy_kwh")
    )
    return max(facility_kwh / it_kwh - 1, 0.0) if it_kwh > 0 else 0.0
