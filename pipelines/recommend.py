"""The lake after a night -> gold/recommendation: what to change, with what it promises and where it stands.

- bronze/job, what ran before and the forecast -> when the jobs that wait should start.
- Each lever from the lake's tables: proposals for the day after, as rows of `Advice.row`, and why there are
  none.
- gold/recommendation that is applied, and the energy since -> gold/saving: what each has brought, from logs
  alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.facility.set_points import operating_hours
from lepton_etl.forecast.job_power import predict_jobs
from lepton_etl.lake import tables as plain
from lepton_etl.lake.spark import Lake, Written
from lepton_etl.recommend.advice import LEFT_TO_OTHERS, Advice, SiteRates, Subject, state_advice, valued
from lepton_etl.recommend.idle_jobs import COLUMNS as JOB_COLUMNS
from lepton_etl.recommend.idle_jobs import zombie_advice
from lepton_etl.recommend.idle_nodes import COLUMNS as NODE_COLUMNS
from lepton_etl.recommend.idle_nodes import node_advice
from lepton_etl.recommend.lifecycle import APPLIED, EXPIRED, REJECTED, Decision, standing
from lepton_etl.recommend.power_caps import COLUMNS as CAP_COLUMNS
from lepton_etl.recommend.power_caps import cap_advice
from lepton_etl.recommend.savings import DAILY, saving_rows
from lepton_etl.recommend.waiting import HORIZON_H, Queue, shift_advice
from lepton_etl.schema.declare import SECONDS_PER_HOUR
from lepton_etl.schema.diagnosis import FORECAST, STATE
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN, TENANT_DAY
from lepton_etl.schema.ledger import SITE_COST
from lepton_etl.schema.logs import JOB
from lepton_etl.schema.recommend import DECISION, RECOMMENDATION, SAVING
from lepton_etl.schema.types import arrow_rows, arrow_schema, spark_schema
from lepton_etl.uncertainty import Estimate
from pipelines.forecast import JOB_HISTORY_DAYS, with_mean_power
from pipelines.ledger import fits_of
from pipelines.stage import StageContext, StageResult

_REQUEST = ("user_name", "partition", "gpu_count", "cpu_count", "memory_byte", "submit_time")


def waiting_jobs(context: StageContext) -> Found:
    """Later starts for the pending jobs of the partitions that may wait."""
    settings = context.settings.optimize.shift
    if settings is None:
        return Found(notes=("no job is shifted: optimize.shift is not stated",))
    at = context.days.until_time
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


LeversRow = dict[str, Any]
# GPU utilisation from which a GPU works.
AT_WORK: Final = 0.5
# The columns of an advice as they cross from the executors; the others the night adds.
_FILLED: Final = ("date", "recommendation_state", "first_proposed_date", "state_time")


@dataclass(frozen=True)
class Found:
    """The proposals of one lever and what it has to say."""

    rows: list[LeversRow] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def idle_nodes(context: StageContext) -> Found:
    """Nodes that may sleep and nodes that draw too much at rest, cluster by cluster."""
    settings, day = context.settings.optimize, context.days.end
    days = Days(day - timedelta(days=settings.history_days - 1), day)
    hours = context.lake.read(NODE_HOUR, days).select(*NODE_COLUMNS)
    found = _judged(hours, ("site_id", "cluster_id"), lambda rows: node_advice(rows, day, settings))
    notes = () if settings.power_down else ("no node may sleep: optimize.power_down is not stated",)
    return Found(found, notes)


def zombie_jobs(context: StageContext) -> Found:
    """Jobs that ran at the end of the day and whose boards did nothing."""
    settings, day = context.settings.optimize, context.days.end
    today = Days.of(day)
    running = context.lake.read(JOB_NODE, today).where(
        (F.col("to_time") >= F.lit(today.until_time)) & (F.size("device_ids") > 0)
    )
    if running.isEmpty():
        return Found()
    boards = running.select(
        "site_id", "cluster_id", "node_id", "job_id", "tenant_id", "from_time", "to_time",
        F.explode("device_ids").alias("device_id"),
    )  # fmt: skip
    power = context.lake.read(INTERVAL, today).select(
        "site_id",
        "cluster_id",
        "node_id",
        "device_id",
        "interval_start",
        "energy_kwh",
        "gpu_utilisation_ratio",
    )
    inside = F.col("interval_start").between(F.col("from_time"), F.col("to_time"))
    hours = (
        boards.join(power, ["site_id", "cluster_id", "node_id", "device_id"])
        .where(inside)
        .groupBy(
            "site_id", "cluster_id", "job_id", F.date_trunc("hour", "interval_start").alias("hour_start")
        )
        .agg(
            F.first("tenant_id").alias("tenant_id"),
            F.sum("energy_kwh").alias("energy_kwh"),
            # One board that worked, or of which nothing is known, clears the job.
            F.when(F.count("gpu_utilisation_ratio") == F.count("*"), F.max("gpu_utilisation_ratio")).alias(
                "utilisation_ratio"
            ),
            F.array_sort(F.collect_set("node_id")).alias("node_ids"),
        )
        .select(*JOB_COLUMNS)
    )
    return Found(_judged(hours, ("site_id", "cluster_id"), lambda rows: zombie_advice(rows, day, settings)))


def device_states(context: StageContext) -> Found:
    """What the states of the day's devices ask for."""
    if not context.lake.exists(STATE):
        return Found()
    hours = F.count("*") * context.settings.energy.interval_s / SECONDS_PER_HOUR
    rows = (
        context.lake.read(STATE, Days.of(context.days.end))
        .where(~F.col("adjustment").isin(*LEFT_TO_OTHERS))
        .groupBy("site_id", "cluster_id", "node_id", "device_id", "performance_state", "adjustment")
        .agg(F.max("adjustment_reason").alias("adjustment_reason"), hours.alias("hours"))
        .orderBy("site_id", "cluster_id", "node_id", "device_id", "adjustment")
        .collect()
    )
    return Found([one.row() for one in state_advice([row.asDict() for row in rows], context.days.end)])


def power_caps(context: StageContext) -> Found:
    """Caps for job classes whose GPUs were logged under more than one limit; days of history together."""
    settings, day = context.settings.optimize, context.days.end
    days = Days(day - timedelta(days=settings.history_days - 1), day)
    limited = context.lake.read(INTERVAL, days).where(F.col("power_limit_w") > 0)
    # Before the joins that tell whose work it was: most sites log one limit, or none.
    if limited.select("power_limit_w").distinct().limit(2).count() < 2:
        return Found(
            notes=("no cap is proposed: logged under one limit or none; cap some runs to learn from",)
        )
    hours = F.sum("observed_s") / SECONDS_PER_HOUR
    newest = F.when(F.col("date") == F.lit(day), F.col("energy_kwh")).otherwise(0.0)
    rows = (
        _gpus_at_work(context, days)
        .groupBy("site_id", "hardware_class", "user_name", "job_class", "power_limit_w")
        .agg(
            _mean("power_mean_w").alias("power_w"), _mean("work_rate").alias("work_rate"), hours.alias("hours"),
            F.sum(newest).alias("newest_kwh"),
        )
        .orderBy("site_id", "hardware_class", "job_class", "power_limit_w")
        .select(*CAP_COLUMNS)
    )  # fmt: skip
    # Rows by job class and limit are few; what they are made of stays in the executors.
    found, notes = cap_advice(rows.toArrow().to_pandas(), day, settings)
    return Found([one.row() for one in found], notes)


def capped_work(context: StageContext, days: Days) -> pl.DataFrame:
    """Energy, kWh, and work, 1e9 clock cycles at full utilisation, of GPUs at work by day and job class."""
    cycles = F.col("work_rate") * F.col("observed_s") / 1e9
    rows = (
        _gpus_at_work(context, days)
        .withColumn("job_class", F.concat_ws(" on ", "job_class", "hardware_class"))
        .groupBy("site_id", "job_class", "date")
        .agg(F.sum("energy_kwh").alias("energy_kwh"), F.sum(cycles).alias("work"))
    )
    return pl.DataFrame(rows.toArrow())


def _gpus_at_work(context: StageContext, days: Days) -> DataFrame:
    """Intervals of GPUs that worked for a job, with its class, the hardware class and the rate of work, Hz."""
    lake, key = context.lake, ["site_id", "cluster_id", "node_id", "device_id"]
    run = ["site_id", "cluster_id", "job_id", "submit_time", "restart"]
    at_work = (
        lake.read(INTERVAL, days)
        .where(F.col("device_id").rlike("^gpu[0-9]+$") & (F.col("gpu_utilisation_ratio") >= AT_WORK))
        .where((F.col("power_limit_w") > 0) & (F.col("clock_hz") > 0) & F.col("power_mean_w").isNotNull())
        .select(
            *key, "date", "interval_start", "observed_s", "energy_kwh", "power_limit_w", "power_mean_w",
            (F.col("clock_hz") * F.col("gpu_utilisation_ratio")).alias("work_rate"),
        )
    )  # fmt: skip
    holders = lake.read(JOB_NODE, days).select(
        *run, "node_id", "from_time", "to_time", "date", F.explode("device_ids").alias("device_id")
    )
    users = lake.read(JOB_RUN, days).groupBy(*run).agg(
        F.max("user_name").alias("user_name"), F.max("partition").alias("partition")
    )  # fmt: skip
    classes = lake.read_few(NODE).groupBy("site_id", "node_id").agg(
        F.max_by("hardware_class", "valid_from").alias("hardware_class")
    )  # fmt: skip
    inside = (F.col("interval_start") >= F.col("from_time")) & (F.col("interval_start") < F.col("to_time"))
    return (
        at_work.join(holders, [*key, "date"])
        .where(inside)
        .join(users, run)
        .join(F.broadcast(classes), ["site_id", "node_id"])
        .where(F.col("user_name").isNotNull() & F.col("hardware_class").isNotNull())
        .withColumn("job_class", F.concat_ws(" in ", "user_name", "partition"))
    )


def _mean(name: str) -> Column:
    """Mean by observed seconds."""
    return F.sum(F.col(name) * F.col("observed_s")) / F.sum("observed_s")


def cooling(context: StageContext) -> Found:
    """Set points of the next day within the envelope and the ramp limits, if tomorrow's hours are like today's."""
    plant, day = context.settings.facility.operating, context.days.end
    if plant is None:
        return Found(notes=("no set point is proposed: facility.operating is not stated",))
    fits, _ = fits_of(context.lake, day)
    fit = fits.get(context.settings.site.site_id)
    if fit is None:
        return Found(notes=("no set point is proposed: the facility has no fit",))
    hours = pl.DataFrame(plain.read(context.lake.root, SITE_HOUR, Days.of(day))).sort("hour_start")
    it_kwh, wet_bulb_c = (
        hours[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        for name in ("it_energy_kwh", "outdoor_wet_bulb_temp_c")
    )
    best = operating_hours(fit, plant, it_kwh, wet_bulb_c, deployable=True)
    free = operating_hours(fit, plant, it_kwh, wet_bulb_c, deployable=False)
    if best.reason is not None:
        return Found(notes=(f"no set point is proposed: {best.reason}",))
    if not best.saving_kwh > 0:
        return Found(notes=("the present set point is the cheapest that the envelope allows",))
    start = Days.of(day).until_time
    low_c, high_c = float(np.min(best.supply_temp_c)), float(np.max(best.supply_temp_c))
    advice = Advice(
        Subject(fit.site_id), "cooling", "set_supply_temperature",
        f"supply air of {low_c:.1f} to {high_c:.1f} degC instead of {plant.supply_temp_c:g}, flow "
        f"{float(np.min(best.flow_ratio)):.2f} to {float(np.max(best.flow_ratio)):.2f} of rated instead of "
        f"{plant.flow_ratio:g}",
        start, start + timedelta(days=1), best.baseline_kwh,
        Estimate(best.saving_kwh, best.saving_lower_kwh, best.saving_upper_kwh),
        f"the site's fitted facility model at today's hours; without the envelope {free.saving_kwh:.1f} kWh",
        guard_rail=f"inlet air inside ASHRAE {plant.inlet_class}, at most 20 K an hour",
        parameters={
            "supply_temp_c": [round(float(one), 1) for one in best.supply_temp_c],
            "flow_ratio": [round(float(one), 3) for one in best.flow_ratio],
            "inlet_temp_max_c": round(float(np.max(best.inlet_temp_c)), 1),
        },
    )  # fmt: skip
    return Found([advice.row()], best.warnings)


def _judged(
    rows: DataFrame, key: tuple[str, ...], judge: Callable[[pl.DataFrame], Sequence[Advice]]
) -> list[LeversRow]:
    """The proposals of each group of rows, judged where it lies."""

    def of_group(table: pa.Table) -> pa.Table:
        found = [one.row() | dict.fromkeys(_FILLED) for one in judge(pl.DataFrame(table))]
        return arrow_rows(RECOMMENDATION, pl.DataFrame(found, infer_schema_length=None))

    schema = spark_schema(RECOMMENDATION)
    for one in schema.fields:
        one.nullable = True
    told: list[LeversRow] = rows.groupBy(*key).applyInArrow(of_group, schema=schema).toArrow().to_pylist()
    for row in told:
        for name in _FILLED:
            del row[name]
    return told


Row = Mapping[str, Any]


def grade(context: StageContext, standing: Sequence[Row]) -> tuple[Written | None, tuple[str, ...]]:
    """Grade what was applied before the run's last day; None where nothing was."""
    lake, day = context.lake, context.days.end
    applied = [
        row for row in standing
        if row["recommendation_state"] == APPLIED and row["state_time"].date() < day
    ]  # fmt: skip
    if not applied and not lake.exists(SAVING):
        return None, ()
    daily = _daily(context, applied)
    rows = saving_rows(applied, daily, day, context.settings.optimize.baseline_days)
    table = pa.Table.from_pylist(rows, schema=arrow_schema(SAVING))
    written = lake.replace_few(SAVING, Days.of(day), lake.spark.createDataFrame(table), allow_empty=True)
    proven = [row for row in rows if row["proven"]]
    saved = sum(row["realised_saving_kwh"] for row in proven)
    told = f"{len(proven)} of {len(rows)} applied recommendations have a proven saving, {saved:,.0f} kWh together"
    return written, (told,) if rows else ()


def _daily(context: StageContext, applied: Sequence[Row]) -> dict[str, pl.DataFrame]:
    """Daily energy, work and weather of what each row changed, by recommendation_id."""
    if not applied:
        return {}
    day = context.days.end
    first = min(row["state_time"].date() for row in applied)
    days = Days(first - timedelta(days=context.settings.optimize.baseline_days), day)
    found: dict[str, pl.DataFrame] = {}
    site = _site_days(context, days)
    weather = site.select("site_id", "date", "weather_c")
    clusters, nodes = _cluster_days(context, days, weather), _node_days(context, days, applied)
    caps = capped_work(context, days) if any(row["lever"] == "power_cap" for row in applied) else None
    for row in applied:
        name, whose = row["recommendation_id"], pl.col("site_id") == row["site_id"]
        if row["lever"] == "power_cap" and caps is not None:
            own = caps.filter(whose, pl.col("job_class") == row["job_class"]).with_columns(
                weather_c=pl.lit(None)
            )
        elif row["lever"] == "cooling":
            own = site.filter(whose)
        elif row["node_id"] is not None:
            own = nodes.filter(whose, pl.col("node_id") == row["node_id"])
        elif row["cluster_id"] is not None:
            own = clusters.filter(whose, pl.col("cluster_id") == row["cluster_id"])
        else:
            continue
        found[name] = own.select(pl.col(column).cast(kind) for column, kind in DAILY.items())
    return found


def _site_days(context: StageContext, days: Days) -> pl.DataFrame:
    """Facility energy of whole days by site; work is the IT energy that the cooling serves."""
    hours = pl.DataFrame(plain.read(context.lake.root, SITE_HOUR, days))
    return _whole_days(
        hours.group_by("site_id", "date").agg(
            pl.col("facility_energy_kwh").drop_nulls().sum().alias("energy_kwh"),
            pl.col("it_energy_kwh").drop_nulls().sum().alias("work"),
            pl.col("outdoor_wet_bulb_temp_c").mean().alias("weather_c"),
            (pl.col("facility_energy_kwh").is_not_null() & pl.col("it_energy_kwh").is_not_null())
            .sum()
            .alias("_hours"),
        )
    )


def _cluster_days(context: StageContext, days: Days, weather: pl.DataFrame) -> pl.DataFrame:
    """IT energy of clusters; work is node-hours held by jobs."""
    root = context.lake.root
    energy = pl.DataFrame(plain.read(root, CLUSTER_DAY, days)).select(
        "site_id", "cluster_id", "date", pl.col("it_energy_kwh").alias("energy_kwh")
    )
    held = (
        pl.DataFrame(plain.read(root, TENANT_DAY, days))
        .group_by("site_id", "cluster_id", "date")
        .agg(pl.col("node_held_h").sum().alias("work"))
    )
    return energy.join(held, on=["site_id", "cluster_id", "date"], how="left").join(
        weather, on=["site_id", "date"], how="left"
    )


def _node_days(context: StageContext, days: Days, applied: Sequence[Row]) -> pl.DataFrame:
    """IT energy of the nodes that were changed; work is utilisation-hours, of GPUs where the node has any."""
    names = sorted({row["node_id"] for row in applied if row["node_id"] is not None})
    load = F.coalesce("gpu_utilisation_ratio", "cpu_utilisation_ratio")
    rows = (
        context.lake.read(NODE_HOUR, days)
        .where(F.col("node_id").isin(names) & F.col("it_energy_kwh").isNotNull() & load.isNotNull())
        .groupBy("site_id", "node_id", "date")
        .agg(
            F.sum("it_energy_kwh").alias("energy_kwh"), F.sum(load).alias("work"),
            F.avg("inlet_temp_c").alias("weather_c"), F.count("*").alias("_hours"),
        )
    )  # fmt: skip
    return _whole_days(pl.DataFrame(rows.toArrow()))


def _whole_days(rows: pl.DataFrame) -> pl.DataFrame:
    """A day of which an hour is missing is coverage, not energy."""
    return rows.filter(pl.col("_hours") == 24).drop("_hours")


LEVERS: Final[tuple[Callable[[StageContext], Found], ...]] = (
    idle_nodes, zombie_jobs, device_states, power_caps, cooling,
    waiting_jobs,
)  # fmt: skip
# Days that a kWh's emissions and price rest on.
RATE_DAYS: Final = 28
_SHOWN: Final = 3


def run(context: StageContext) -> StageResult:
    """Recommend for the day after the run's last; earlier days of a range keep what was recommended on them."""
    day, lake = context.days.end, context.lake
    rates = _site_rates(lake, day)
    found, notes = [], list[str]()
    for lever in LEVERS:
        told = lever(context)
        found += [valued(row, rates) for row in told.rows]
        notes += told.notes
    rows = standing(day, found, before(lake, day), decisions(lake))
    table = pa.Table.from_pylist(rows, schema=arrow_schema(RECOMMENDATION))
    written = lake.replace_few(
        RECOMMENDATION, Days.of(day), lake.spark.createDataFrame(table), allow_empty=True
    )
    graded, brought = grade(context, rows)
    done = (written,) if graded is None else (written, graded)
    return StageResult(
        rows_out=sum(one.rows for one in done), written=done, notes=(*_told(rows), *brought, *notes)
    )


def before(lake: Lake, day: date) -> list[dict[str, Any]]:
    """The rows of the newest night before the day."""
    nights = [one for one in plain.partitions(lake.root, RECOMMENDATION) if one < day.isoformat()]
    if not nights:
        return []
    found: list[dict[str, Any]] = plain.read(
        lake.root, RECOMMENDATION, Days.of(date.fromisoformat(max(nights)))
    ).to_pylist()
    return found


def decisions(lake: Lake) -> list[Decision]:
    """All that people have decided."""
    return [
        Decision(row["recommendation_id"], row["decision"], row["decided_time"], row["effective_time"])
        for row in plain.read(lake.root, DECISION).to_pylist()
    ]


def _site_rates(lake: Lake, day: date) -> SiteRates:
    """Return mean and spread of the days' intensity and price at the site, by location."""
    days = Days(day - timedelta(days=RATE_DAYS - 1), day)
    hours = pl.DataFrame(plain.read(lake.root, SITE_HOUR, days))
    costs = pl.DataFrame(plain.read(lake.root, SITE_COST, days))
    currencies = costs["currency"].drop_nulls().unique().to_list()
    price = _by_day(costs, "energy_price") if len(currencies) == 1 else None
    return SiteRates(
        _by_day(hours, "carbon_intensity_gco2e_per_kwh"), price, currencies[0] if price is not None else None
    )


def _by_day(rows: pl.DataFrame, name: str) -> Estimate | None:
    daily = rows.drop_nulls(name).group_by("date").agg(pl.col(name).mean())[name].to_numpy()
    if not len(daily):
        return None
    low, high = np.quantile(daily, [0.05, 0.95])
    middle = float(np.mean(daily))
    return Estimate(middle, min(float(low), middle), max(float(high), middle))


def _told(rows: list[dict[str, Any]]) -> list[str]:
    """How many stand, and the largest promises in words."""
    open_rows = [row for row in rows if row["recommendation_state"] not in (EXPIRED, REJECTED)]
    largest = sorted(
        open_rows, key=lambda row: (-(row["expected_saving_kwh"] or 0.0), row["recommendation_id"])
    )
    words = [
        f"{row['advice']} ({row['expected_saving_kwh']:.1f} kWh a day)"
        for row in largest[:_SHOWN]
        if row["expected_saving_kwh"]
    ]
    return [f"{len(open_rows):,} recommendations", *words]
