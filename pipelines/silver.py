"""Silver: inventory, meters and readings -> intervals of devices and meters, hours of grid and weather.

- Accounting: jobs as delivered, and the power of nodes -> runs, what they held, and what nodes were doing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.attribution.node_energy import Roll, roll
from lepton_etl.attribution.node_states import node_states
from lepton_etl.attribution.runs import job_nodes, job_runs, run_table
from lepton_etl.days import Days
from lepton_etl.facility.grid_weather import GRID_QUANTITIES, WEATHER_QUANTITIES, grid_hours, weather_hours
from lepton_etl.facility.meter_hours import METER_COLUMNS, METER_QUANTITIES, facility_intervals
from lepton_etl.intervals.node_day import UNLISTED_CLUSTER, IntervalPolicy, intervals
from lepton_etl.intervals.readings import (
    SourceFacts,
    for_each_day,
    longest_step_s,
    of_quantities,
    roster,
    span_days,
)
from lepton_etl.intervals.sensor_checks import CHECKED_DEVICES, sensor_checks
from lepton_etl.intervals.sensor_classes import sensor_classes
from lepton_etl.intervals.source_choice import INTERVAL_QUANTITIES
from lepton_etl.intervals.usual_values import HISTORY_DAYS, day_histories
from lepton_etl.lake.tables import Written
from lepton_etl.registers.factors import load_factors
from lepton_etl.registers.inventory import read_meters, read_nodes
from lepton_etl.schema.columns import Transform
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import (
    FACILITY_INTERVAL,
    GRID_HOUR,
    INTERVAL,
    METER,
    NODE,
    SENSOR_CHECK,
    WEATHER_HOUR,
)
from lepton_etl.schema.jobs import JOB_NODE, JOB_RUN, NODE_STATE
from lepton_etl.schema.logs import JOB, READING
from lepton_etl.schema.types import arrow_schema, spark_schema
from pipelines import gold as carbon
from pipelines.stage import StageContext, StageResult


def run_accounting(context: StageContext) -> list[Written]:
    """Make silver/job_run, silver/job_node and silver/node_state of the context's days."""
    lake = context.lake
    if not lake.exists(JOB):
        return []
    nodes = lake.rows(NODE)
    runs = job_runs(_jobs(context), nodes, context.settings.site.site_id, context.days)
    held = job_nodes(runs, nodes)
    return [
        _written(context, JOB_RUN, run_table(runs)),
        _written(context, JOB_NODE, held),
        node_state(context, roll(nodes)),
    ]


def _written(context: StageContext, table: Table, rows: pa.Table) -> Written:
    frame = context.lake.spark.createDataFrame(rows, spark_schema(table))
    return context.lake.replace_few(table, context.days, frame, allow_empty=True)


def node_state(context: StageContext, nodes: Roll) -> Written:
    """Intervals and holdings -> silver/node_state, by node and day."""
    lake, days = context.lake, context.days
    names = ("cluster_id", "node_id", "date")
    own = lake.read_frame(INTERVAL, days).where(F.col("device_id") == "node").select(
        *names, "device_id", "interval_start", "interval_s", "power_mean_w"
    )  # fmt: skip
    held = lake.read_frame(JOB_NODE, days).select(*names, "from_time", "to_time")
    rows = (
        own.groupBy(*names)
        .cogroup(held.groupBy(*names))
        .applyInArrow(_states_of(nodes), schema=spark_schema(NODE_STATE))
    )
    return lake.replace_frame(NODE_STATE, days, rows, allow_empty=True)


def _jobs(context: StageContext) -> pa.Table:
    """Jobs that may have held something on the days; one without an end until the longest run is over.

    A run that was seen going on and that had ended before the days comes with its end: without it, it would go on.
    """
    days = context.days
    longest = timedelta(days=context.settings.attribution.longest_run_d)
    start, end = F.col("start_time"), F.col("end_time")
    recent, over = start > F.lit(days.from_time - longest), end <= F.lit(days.from_time)
    touches = (start < F.lit(days.until_time)) & ((end > F.lit(days.from_time)) | (end.isNull() & recent))
    jobs = context.lake.read_frame(JOB)
    held = jobs.where(touches)
    seen_running = F.broadcast(held.where(end.isNull()).select("job_id").distinct())
    ended = jobs.where(over & recent).join(seen_running, "job_id", how="left_semi")
    return held.unionByName(ended).toArrow()


def _states_of(nodes: Roll) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def kernel(own: pa.Table, held: pa.Table) -> pa.Table:
        first = (own if own.num_rows else held).slice(0, 1).to_pylist()[0]
        facts = nodes.of(first["node_id"], first["date"], first["cluster_id"])
        if facts is None:
            return arrow_schema(NODE_STATE).empty_table()
        return node_states(own, held, facts)

    return kernel


_NAMES_IN_NOTE: Final = 10
_CHECK_BUCKETS: Final = 16
_EPOCH: Final = date(1970, 1, 1)


def run(context: StageContext) -> StageResult:
    """Make the silver tables of the context's days. Raises ConfigurationError for a wrong inventory."""
    settings = context.settings
    nodes = read_nodes(settings.fleet.inventory, settings.site.site_id)
    meters = _meters(context)
    rows_in = context.lake.read_frame(READING, context.days).count()
    written = (
        context.lake.overwrite(NODE, nodes),
        context.lake.overwrite(METER, meters),
        interval(context, nodes),
        sensor_check(context, nodes),
        facility_interval(context, meters),
        grid_hour(context),
        weather_hour(context),
        carbon.volume_interval(context, meters),
        *carbon.registers(context),
        *run_accounting(context),
    )
    notes = (*_unlisted_nodes(context), *_unlisted_meters(context, meters))
    return StageResult(rows_in, sum(one.rows for one in written), written, notes)


def interval(context: StageContext, nodes: pa.Table) -> Written:
    """Readings of nodes and the inventory -> silver/interval, by chassis or lone node."""
    listed, policy = roster(nodes), _policy(context)
    rows = (
        _readings(context)
        .transform(of_quantities(INTERVAL_QUANTITIES, policy.site_id))
        .where(F.col("node_id").isNotNull())
        .transform(_for_each_day(context))
        .transform(_with_unit(listed))
        .groupBy("unit", "span")
        .cogroup(_histories(context).transform(_with_unit(listed)).groupBy("unit", "span"))
        .applyInArrow(_intervals_of(listed, policy), schema=spark_schema(INTERVAL))
    )
    return context.lake.replace_frame(INTERVAL, context.days, rows)


def sensor_check(context: StageContext, nodes: pa.Table) -> Written:
    """silver/interval and the inventory -> silver/sensor_check: what the sources of a node say about one another."""
    listed, policy = roster(nodes), _policy(context)
    step = span_days(context.days)
    rows = (
        context.lake.read_frame(INTERVAL, context.days)
        .where(F.col("device_id").rlike(CHECKED_DEVICES) & F.col("power_mean_w").isNotNull())
        .withColumn("span", F.floor(F.datediff("date", F.lit(_EPOCH)) / step))
        # Some hundred nodes a call: starting one costs more than checking a node.
        .groupBy(F.pmod(F.xxhash64("node_id"), F.lit(_CHECK_BUCKETS)), "span")
        .applyInArrow(_sensor_checks_of(listed, policy), schema=spark_schema(SENSOR_CHECK))
    )
    return context.lake.replace_few(SENSOR_CHECK, context.days, rows, allow_empty=True)


def facility_interval(context: StageContext, meters: pa.Table) -> Written:
    """Readings of listed meters -> silver/facility_interval."""
    policy = _policy(context)
    rows = (
        _readings(context)
        .transform(of_quantities(METER_QUANTITIES, policy.site_id))
        .transform(_with_meter(context.lake.spark.createDataFrame(meters)))
        .transform(_for_each_day(context, METER_COLUMNS))
        .groupBy("node_id", "span")
        .applyInArrow(_facility_intervals_of(policy), schema=spark_schema(FACILITY_INTERVAL))
    )
    return context.lake.replace_frame(FACILITY_INTERVAL, context.days, rows, allow_empty=True)


def grid_hour(context: StageContext) -> Written:
    """Readings of grid intensity -> silver/grid_hour; empty without the settings' section `grid`."""
    grid = context.settings.grid
    readings = context.lake.read_frame(READING, context.days)
    if grid is None:
        rows = context.lake.read_frame(GRID_HOUR, context.days).limit(0)
    else:
        rows = readings.where(F.col("quantity").isin(*GRID_QUANTITIES)).transform(
            grid_hours(grid.intensity_basis, grid.signal, grid.flow)
        )
    return context.lake.replace_few(GRID_HOUR, context.days, rows, allow_empty=True)


def weather_hour(context: StageContext) -> Written:
    """Readings of outdoor weather -> silver/weather_hour."""
    rows = (
        context.lake.read_frame(READING, context.days)
        .transform(of_quantities(WEATHER_QUANTITIES, context.settings.site.site_id))
        .transform(weather_hours)
    )
    return context.lake.replace_few(WEATHER_HOUR, context.days, rows, allow_empty=True)


def _readings(context: StageContext) -> DataFrame:
    """Bronze of the days and of a day on both sides: longest step and window are at most a day."""
    one_day, days = timedelta(days=1), context.days
    return context.lake.read_frame(READING, Days(days.start - one_day, days.end + one_day))


def _histories(context: StageContext) -> DataFrame:
    """What each sensor of a node said on the days before, as HISTORY_COLUMNS."""
    days = context.days
    before = Days(days.start - timedelta(days=HISTORY_DAYS), days.end - timedelta(days=1))
    quantities = of_quantities(INTERVAL_QUANTITIES, context.settings.site.site_id)
    return context.lake.read_frame(READING, before).transform(quantities).transform(day_histories(days))


def _for_each_day(context: StageContext, further: tuple[str, ...] = ()) -> Transform:
    energy = context.settings.energy
    facts = {
        source.name: SourceFacts(
            longest_step_s(energy.max_gap_s, source.sampling_period_s),
            source.counter_max_j,
            source.spot_samples,
        )
        for source in context.settings.sources
    }
    return for_each_day(context.days, facts, SourceFacts(energy.max_gap_s), energy.interval_s, further)


def _policy(context: StageContext) -> IntervalPolicy:
    """How intervals are made; the errors of sensors are those of the last day."""
    settings = context.settings
    classes = sensor_classes(load_factors(settings.carbon.factors), context.days.end)
    energy = settings.energy
    return IntervalPolicy(settings.site.site_id, energy.interval_s, energy.sensor_gain_ratio, classes)


def _with_unit(listed: pl.DataFrame) -> Transform:
    """Add `unit`: the chassis that the node shares on the day, else the node itself."""
    shared = listed.filter(pl.col("chassis_id").is_not_null())
    chassis = shared.select("node_id", "chassis_id", "from_day", "until_day").to_arrow()

    def transform(readings: DataFrame) -> DataFrame:
        if not chassis.num_rows:
            return readings.withColumn("unit", F.col("node_id"))
        lookup = readings.sparkSession.createDataFrame(chassis).withColumnRenamed("node_id", "member_id")
        is_member = (F.col("node_id") == F.col("member_id")) & F.col("day").between(
            F.col("from_day"), F.col("until_day")
        )
        joined = readings.join(F.broadcast(lookup), is_member, how="left")
        return joined.select(*readings.columns, F.coalesce("chassis_id", "node_id").alias("unit"))

    return transform


def _with_meter(meters: DataFrame) -> Transform:
    """Readings of listed meters, each with how its meter speaks; a stamp at a window's end is moved."""
    known = meters.select(
        F.col("meter_id").alias("device_id"), F.col("point").alias("meter_point"), "kind", "multiplier",
        "class_pct", "counter_max_kwh", "meter_peak_power_w", "label", "valid_from", "valid_to",
    )  # fmt: skip
    window = F.make_dt_interval(secs=F.col("window_s").cast("decimal(18,6)"))
    time = F.when(F.col("label") == "end", F.col("reading_time") - window).otherwise(F.col("reading_time"))

    def transform(readings: DataFrame) -> DataFrame:
        return (
            readings.join(F.broadcast(known), "device_id", how="inner")
            .withColumns({"reading_time": time, "node_id": F.col("device_id"), "point": F.col("meter_point")})
            .where(
                (F.col("reading_time") >= F.col("valid_from"))
                & (F.col("valid_to").isNull() | (F.col("reading_time") < F.col("valid_to")))
            )
        )

    return transform


def _intervals_of(listed: pl.DataFrame, policy: IntervalPolicy) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def kernel(readings: pa.Table, history: pa.Table) -> pa.Table:
        return intervals(readings, history, listed, policy)

    return kernel


def _sensor_checks_of(listed: pl.DataFrame, policy: IntervalPolicy) -> Callable[[pa.Table], pa.Table]:
    gains = policy.gains

    def kernel(rows: pa.Table) -> pa.Table:
        return sensor_checks(rows, listed, gains)

    return kernel


def _facility_intervals_of(policy: IntervalPolicy) -> Callable[[pa.Table], pa.Table]:
    def kernel(readings: pa.Table) -> pa.Table:
        return facility_intervals(readings, policy)

    return kernel


def _meters(context: StageContext) -> pa.Table:
    path = context.settings.facility.meters
    if path is None:
        return arrow_schema(METER).empty_table()
    return read_meters(path, context.settings.site.site_id)


def _unlisted_nodes(context: StageContext) -> tuple[str, ...]:
    rows = context.lake.read_frame(INTERVAL, context.days).where(F.col("cluster_id") == UNLISTED_CLUSTER)
    return _note(rows.select("node_id"), "nodes are not in the inventory; they stand in cluster _unlisted")


def _unlisted_meters(context: StageContext, meters: pa.Table) -> tuple[str, ...]:
    listed = context.lake.spark.createDataFrame(meters.select(["meter_id"]))
    rows = (
        context.lake.read_frame(READING, context.days)
        .transform(of_quantities(METER_QUANTITIES, context.settings.site.site_id))
        .select(F.col("device_id").alias("meter_id"))
        .join(F.broadcast(listed), "meter_id", how="left_anti")
    )
    return _note(rows, "meters are not in the meters file; their readings are not used")


def _note(names: DataFrame, what: str) -> tuple[str, ...]:
    column = names.columns[0]
    found = names.agg(
        F.count_distinct(column).alias("count"),
        F.slice(F.array_sort(F.collect_set(column)), 1, _NAMES_IN_NOTE).alias("names"),
    ).first()
    if found is None or not found["count"]:
        return ()
    more = ", ..." if found["count"] > _NAMES_IN_NOTE else ""
    return (f"{found['count']} {what}: {', '.join(found['names'])}{more}",)
