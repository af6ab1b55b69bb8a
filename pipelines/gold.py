"""Gold: intervals, meters, jobs, grid and weather -> the hours and days that people read.

Everything is computed first and the ledger is checked; only then a table is written. A night whose ledger does not
close leaves gold as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from lepton_etl.carbon.days import emission_days, with_emission_days
from lepton_etl.carbon.intensity import hourly_intensity, with_intensity
from lepton_etl.columns import conform
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import sum_nodes, with_inlet_p99, with_peak_power
from lepton_etl.energy.cluster_days import facility_days, with_facility_days
from lepton_etl.energy.facility import meter_hours, sum_meters, with_overhead, with_pue, with_shared_it
from lepton_etl.energy.gaps import HISTORY_DAYS, with_imputed, with_modelled
from lepton_etl.energy.node_hours import measured_node_hours, node_hours
from lepton_etl.energy.owners import with_job_idle
from lepton_etl.energy.sensor_classes import sensor_classes
from lepton_etl.facility.stand_in import with_modelled_overhead
from lepton_etl.factors import load_factors
from lepton_etl.lake.schema import spark_schema
from lepton_etl.lake.tables import (
    CLUSTER_DAY,
    CLUSTER_HOUR,
    FACILITY_INTERVAL,
    GRID_HOUR,
    INTERVAL,
    METER,
    NODE,
    NODE_HOUR,
    SITE_HOUR,
    WEATHER_HOUR,
)
from lepton_etl.lake.tables.accounts import ENERGY_LEDGER
from lepton_etl.lake.tables.ledger import CLUSTER_COST
from pipelines import attribution, bill, carbon, ledger
from pipelines.facility_fit import fits_of, run_fit
from pipelines.imputation import modelled_gaps
from pipelines.life import with_status
from pipelines.stage import StageContext, StageResult

_SITE_HOUR: Final = ("date", "hour_start", "site_id")
_CLUSTER_HOUR: Final = ("date", "hour_start", "site_id", "cluster_id")
_CLUSTER_DAY: Final = ("date", "site_id", "cluster_id")


def run(context: StageContext) -> StageResult:
    """Make the gold tables of the context's days. Raises LedgerError, before any is written, if it does not close."""
    lake, days = context.lake, context.days
    rows_in = lake.read(INTERVAL, days).count()
    fitted = run_fit(context)
    with (
        _held(_measured(context)) as measured,
        _held(_node_hours(context, measured)) as nodes,
        _attributed(context, nodes) as split,
        _held(nodes.transform(with_job_idle(split.node_split if split else None))) as owned,
    ):
        intensity, meters = _intensity(context), lake.local(_meter_hours(context))
        site_base = lake.local(_site_base(context, owned, meters))
        book = ledger.ledger(context, owned, meters, site_base, split.node_split if split else None)
        checked = ledger.checked(lake, context, book)
        site_hours = lake.local(_site_hours(context, site_base, book, intensity))
        cluster_hours = lake.local(_cluster_hours(context, owned, site_hours, intensity))
        cluster_days = _cluster_days(context, owned, cluster_hours)
        written = [
            *((fitted,) if fitted else ()),
            checked,
            lake.replace(NODE_HOUR, days, owned),
            lake.replace_few(ENERGY_LEDGER, days, lake.spark.createDataFrame(book.rows), allow_empty=True),
            lake.replace_few(SITE_HOUR, days, site_hours),
            lake.replace_few(CLUSTER_HOUR, days, cluster_hours),
            lake.replace_few(CLUSTER_DAY, days, with_status(context, CLUSTER_DAY, cluster_days)),
            carbon.market_year(context),
        ]
        written += bill.run(context)
        embodied = carbon.node_embodied(context, owned)
        costs = lake.read_few(CLUSTER_COST, days) if context.settings.tariff.file else None
        written += attribution.write(context, split, embodied, cluster_hours, costs)
    return StageResult(rows_in, sum(one.rows for one in written), tuple(written))


def _measured(context: StageContext) -> DataFrame:
    """Inventory and intervals -> measured energy and coverage of every expected node-hour."""
    lake, days, idle_ratio = context.lake, context.days, context.settings.energy.idle_utilisation_ratio
    intervals = lake.read(INTERVAL, days)
    return lake.read_few(NODE).transform(
        measured_node_hours(intervals, days, idle_utilisation_ratio=idle_ratio)
    )


def _node_hours(context: StageContext, measured: DataFrame) -> DataFrame:
    """Measured node-hours and those of the days before -> gold/node_hour, gaps filled."""
    first = context.days.start
    before = Days(first - timedelta(days=HISTORY_DAYS), first - timedelta(days=1))
    history = context.lake.read(NODE_HOUR, before)
    return (
        measured.transform(with_imputed(history))
        .transform(with_modelled(modelled_gaps(context, measured)))
        .transform(node_hours(_limit(context)))
    )


def _meter_hours(context: StageContext) -> DataFrame:
    """Intervals of facility meters -> energy and coverage of every expected meter-hour."""
    lake, days = context.lake, context.days
    intervals = lake.read(FACILITY_INTERVAL, days)
    return lake.read_few(METER).transform(meter_hours(intervals, days, _limit(context)))


def _site_base(context: StageContext, nodes: DataFrame, meters: DataFrame) -> DataFrame:
    """Sums of nodes, meter-hours and weather -> energy and PUE of every site-hour, before the ledger."""
    lake, days = context.lake, context.days
    return (
        lake.local(nodes.transform(sum_nodes(_SITE_HOUR, _limit(context), _shared_variance(context))))
        .transform(with_pue(meters.transform(sum_meters), context.settings.facility.pue_assumed))
        .join(lake.read_few(WEATHER_HOUR, days).drop("date"), ["site_id", "hour_start"], how="left")
    )


def _site_hours(
    context: StageContext, site_base: DataFrame, book: ledger.Ledger, intensity: DataFrame
) -> DataFrame:
    """Site-hours with the ledger's sources and overheads, modelled facility energy where no meter says it, and grid."""
    lake = context.lake
    accounts = lake.spark.createDataFrame(book.site_columns().to_arrow())
    rows = (
        site_base.join(accounts, ["site_id", "hour_start"], how="left")
        .transform(with_intensity(intensity))
        .transform(conform(SITE_HOUR))
    )
    return lake.spark.createDataFrame(_with_model(context, rows.toArrow()), spark_schema(SITE_HOUR))


def _with_model(context: StageContext, site_hours: pa.Table) -> pa.Table:
    """Facility energy and PUE by the model fitted on earlier days (`modelled`) where the site's meters do not say."""
    rows = pl.DataFrame(site_hours)
    filled = [
        with_modelled_overhead(rows.filter(pl.col("date") == day), fits_of(context.lake, day)[0])
        for day in context.days
    ]
    return pl.concat(filled).select(rows.columns).to_arrow().cast(site_hours.schema)


def _cluster_hours(
    context: StageContext, nodes: DataFrame, site_hours: DataFrame, intensity: DataFrame
) -> DataFrame:
    """Node hours, site hours, intervals and grid -> efficiency and carbon of every cluster-hour."""
    intervals = context.lake.read(INTERVAL, context.days)
    sums = (
        nodes.transform(sum_nodes(_CLUSTER_HOUR, _limit(context), _shared_variance(context)))
        .transform(with_peak_power(intervals))
        .transform(with_inlet_p99(intervals, "hour_start"))
    )
    return (
        context.lake.local(sums)
        .transform(with_shared_it(site_hours))
        .transform(with_overhead(site_hours))
        .transform(carbon.with_carbon(context, nodes, site_hours, intensity))
        .withColumn("status", F.lit("provisional"))
        .transform(conform(CLUSTER_HOUR))
    )


def _cluster_days(context: StageContext, nodes: DataFrame, cluster_hours: DataFrame) -> DataFrame:
    """Node hours, cluster hours and intervals -> the day of every cluster."""
    lake, limit = context.lake, _limit(context)
    sums = nodes.transform(sum_nodes(_CLUSTER_DAY, limit, _shared_variance(context)))
    return (
        lake.local(sums)
        .transform(with_facility_days(cluster_hours.transform(facility_days(limit))))
        .transform(with_inlet_p99(lake.read(INTERVAL, context.days), "date"))
        .transform(with_emission_days(cluster_hours.transform(emission_days(limit))))
        .withColumn("status", F.lit("provisional"))
        .transform(conform(CLUSTER_DAY))
    )


def _intensity(context: StageContext) -> DataFrame:
    """Direct average intensity of the site's zone by the hour; no rows where no grid is set."""
    grid = context.settings.grid
    zone, flow = (grid.zone, grid.flow) if grid else (None, "consumption")
    hours = context.lake.read_few(GRID_HOUR, context.days).transform(hourly_intensity(zone, flow))
    return context.lake.local(hours)


def _shared_variance(context: StageContext) -> dict[str, float]:
    """By sensor class, the share of a gain error's variance that sensors of one make have in common."""
    classes = sensor_classes(load_factors(context.settings.carbon.factors), context.days.end)
    return {name: one.shared_variance_ratio for name, one in classes.items()}


def _limit(context: StageContext) -> float:
    return context.settings.energy.coverage_min_ratio


@contextmanager
def _attributed(context: StageContext, nodes: DataFrame) -> Iterator[attribution.Frames | None]:
    """The split of the nodes' energy by jobs, computed once; None where no job is accounted."""
    found = attribution.frames(context, nodes)
    try:
        yield found
    finally:
        if found is not None:
            found.release()


@contextmanager
def _held(rows: DataFrame) -> Iterator[DataFrame]:
    """Rows that many figures rest on, computed once."""
    held = rows.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield held
    finally:
        held.unpersist()
