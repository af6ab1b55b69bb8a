"""Each lever from the lake's tables: proposals for the day after, as rows of `Advice.row`, and why there are none.

What is judged by node or job is judged in the executors; only the proposals come to the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.facility.operating_hours import operating_hours
from lepton_etl.fields import SECONDS_PER_HOUR
from lepton_etl.lake import plain
from lepton_etl.lake.schema import arrow_rows, spark_schema
from lepton_etl.lake.tables import INTERVAL, NODE, NODE_HOUR, SITE_HOUR
from lepton_etl.lake.tables.advice import RECOMMENDATION
from lepton_etl.lake.tables.diagnosis import STATE
from lepton_etl.lake.tables.jobs import JOB_NODE, JOB_RUN
from lepton_etl.optimize import held, limits, nodes
from lepton_etl.optimize.advice import Advice, Promise, Subject
from lepton_etl.optimize.states import LEFT_TO_OTHERS, state_advice
from pipelines.facility_fit import fits_of
from pipelines.stage import StageContext

Row = dict[str, Any]
# GPU utilisation from which a GPU works.
AT_WORK: Final = 0.5
# The columns of an advice as they cross from the executors; the others the night adds.
_FILLED: Final = ("date", "recommendation_state", "first_proposed_date", "state_time")


@dataclass(frozen=True)
class Found:
    """The proposals of one lever and what it has to say."""

    rows: list[Row] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def idle_nodes(context: StageContext) -> Found:
    """Nodes that may sleep and nodes that draw too much at rest, cluster by cluster."""
    settings, day = context.settings.optimize, context.days.end
    days = Days(day - timedelta(days=settings.history_days - 1), day)
    hours = context.lake.read(NODE_HOUR, days).select(*nodes.COLUMNS)
    found = _judged(hours, ("site_id", "cluster_id"), lambda rows: nodes.node_advice(rows, day, settings))
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
        .select(*held.COLUMNS)
    )
    return Found(
        _judged(hours, ("site_id", "cluster_id"), lambda rows: held.zombie_advice(rows, day, settings))
    )


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
        .select(*limits.COLUMNS)
    )  # fmt: skip
    # Rows by job class and limit are few; what they are made of stays in the executors.
    found, notes = limits.cap_advice(rows.toArrow().to_pandas(), day, settings)
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
        Promise(best.saving_kwh, best.saving_lower_kwh, best.saving_upper_kwh),
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
) -> list[Row]:
    """The proposals of each group of rows, judged where it lies."""

    def of_group(table: pa.Table) -> pa.Table:
        found = [one.row() | dict.fromkeys(_FILLED) for one in judge(pl.DataFrame(table))]
        return arrow_rows(RECOMMENDATION, pl.DataFrame(found, infer_schema_length=None))

    schema = spark_schema(RECOMMENDATION)
    for one in schema.fields:
        one.nullable = True
    told: list[Row] = rows.groupBy(*key).applyInArrow(of_group, schema=schema).toArrow().to_pylist()
    for row in told:
        for name in _FILLED:
            del row[name]
    return told
