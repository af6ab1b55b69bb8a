"""Gold: intervals, meters, jobs, grid and weather -> the hours and days that people read.

Everything is computed first and the ledger is checked; only then a table is written. A night whose ledger does not
close leaves gold as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from lepton_etl.carbon.days import emission_days, with_emission_days
from lepton_etl.carbon.emissions import with_location_emissions
from lepton_etl.carbon.intensity import hourly_intensity, with_intensity
from lepton_etl.columns import conform
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import sum_nodes, with_inlet_p99, with_peak_power
from lepton_etl.energy.cluster_days import facility_days, with_facility_days
from lepton_etl.energy.facility import meter_hours, sum_meters, with_overhead, with_pue, with_shared_it
from lepton_etl.energy.gaps import HISTORY_DAYS, with_imputed
from lepton_etl.energy.node_hours import measured_node_hours, node_hours
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
from pipelines import ledger
from pipelines.stage import StageContext, StageResult

_SITE_HOUR: Final = ("date", "hour_start", "site_id")
_CLUSTER_HOUR: Final = ("date", "hour_start", "site_id", "cluster_id")
_CLUSTER_DAY: Final = ("date", "site_id", "cluster_id")


def run(context: StageContext) -> StageResult:
    """Make the gold tables of the context's days. Raises LedgerError, before any is written, if it does not close."""
    lake, days = context.lake, context.days
    rows_in = lake.read(INTERVAL, days).count()
    with _held(_measured(context)) as measured, _held(_node_hours(context, measured)) as nodes:
        site_sums = lake.local(nodes.transform(sum_nodes(_SITE_HOUR, _limit(context))))
        book = ledger.ledger(context, nodes, site_sums, None)
        checked = ledger.checked(lake, context, book)
        intensity = _intensity(context)
        site_hours = lake.local(_site_hours(context, site_sums, book, intensity))
        cluster_hours = lake.local(_cluster_hours(context, nodes, site_hours, intensity))
        cluster_days = _cluster_days(context, nodes, cluster_hours)
        written = (
            checked,
            lake.replace(NODE_HOUR, days, nodes),
            lake.replace_few(ENERGY_LEDGER, days, lake.spark.createDataFrame(book.rows), allow_empty=True),
            lake.replace_few(SITE_HOUR, days, site_hours),
            lake.replace_few(CLUSTER_HOUR, days, cluster_hours),
            lake.replace_few(CLUSTER_DAY, days, cluster_days),
        )
    return StageResult(rows_in, sum(one.rows for one in written), written)


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
    return measured.transform(with_imputed(history)).transform(node_hours(_limit(context)))


def _site_hours(
    context: StageContext, site_sums: DataFrame, book: ledger.Ledger, intensity: DataFrame
) -> DataFrame:
    """Sums of nodes, facility meters, the ledger, grid and weather -> energy and PUE of every site-hour."""
    lake, days = context.lake, context.days
    meters = lake.read_few(METER).transform(
        meter_hours(lake.read(FACILITY_INTERVAL, days), days, _limit(context))
    )
    accounts = lake.spark.createDataFrame(book.site_columns().to_arrow())
    return (
        site_sums.transform(
            with_pue(lake.local(meters.transform(sum_meters)), context.settings.facility.pue_assumed)
        )
        .join(accounts, ["site_id", "hour_start"], how="left")
        .transform(with_intensity(intensity))
        .join(lake.read_few(WEATHER_HOUR, days).drop("date"), ["site_id", "hour_start"], how="left")
        .transform(conform(SITE_HOUR))
    )


def _cluster_hours(
    context: StageContext, nodes: DataFrame, site_hours: DataFrame, intensity: DataFrame
) -> DataFrame:
    """Node hours, site hours, intervals and grid -> efficiency and carbon of every cluster-hour."""
    intervals = context.lake.read(INTERVAL, context.days)
    sums = (
        nodes.transform(sum_nodes(_CLUSTER_HOUR, _limit(context)))
        .transform(with_peak_power(intervals))
        .transform(with_inlet_p99(intervals, "hour_start"))
    )
    return (
        context.lake.local(sums)
        .transform(with_shared_it(site_hours))
        .transform(with_overhead(site_hours))
        .transform(with_location_emissions(intensity))
        .withColumn("status", F.lit("provisional"))
        .transform(conform(CLUSTER_HOUR))
    )


def _cluster_days(context: StageContext, nodes: DataFrame, cluster_hours: DataFrame) -> DataFrame:
    """Node hours, cluster hours and intervals -> the day of every cluster."""
    lake, limit = context.lake, _limit(context)
    sums = nodes.transform(sum_nodes(_CLUSTER_DAY, limit))
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


def _limit(context: StageContext) -> float:
    return context.settings.energy.coverage_min_ratio


@contextmanager
def _held(rows: DataFrame) -> Iterator[DataFrame]:
    """Rows that many figures rest on, computed once."""
    held = rows.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        yield held
    finally:
        held.unpersist()
