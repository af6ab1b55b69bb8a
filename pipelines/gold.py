"""Gold: intervals, meters, grid and weather -> the hours and days that people read."""

from __future__ import annotations

from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.carbon.days import emission_days, with_emission_days
from lepton_etl.carbon.emissions import with_location_emissions
from lepton_etl.carbon.intensity import hourly_intensity, with_intensity
from lepton_etl.columns import conform
from lepton_etl.energy.aggregate import sum_nodes, with_inlet_p99, with_peak_power
from lepton_etl.energy.cluster_days import facility_days, with_facility_days
from lepton_etl.energy.facility import meter_hours, sum_meters, with_overhead, with_pue, with_shared_it
from lepton_etl.energy.node_hours import node_hours
from lepton_etl.lake.store import Written
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
from pipelines.stage import StageContext, StageResult

_SITE_HOUR: Final = ("date", "hour_start", "site_id")
_CLUSTER_HOUR: Final = ("date", "hour_start", "site_id", "cluster_id")
_CLUSTER_DAY: Final = ("date", "site_id", "cluster_id")


def run(context: StageContext) -> StageResult:
    """Make the four gold tables of the context's days, each from silver and the ones before it."""
    rows_in = context.lake.read(INTERVAL, context.days).count()
    intensity = _intensity(context)
    written = (
        node_hour(context),
        site_hour(context, intensity),
        cluster_hour(context, intensity),
        cluster_day(context),
    )
    return StageResult(rows_in, sum(one.rows for one in written), written)


def node_hour(context: StageContext) -> Written:
    """Inventory and intervals -> energy and coverage of every node-hour."""
    lake, days, energy = context.lake, context.days, context.settings.energy
    rows = lake.read_few(NODE).transform(
        node_hours(
            lake.read(INTERVAL, days),
            days,
            coverage_min_ratio=energy.coverage_min_ratio,
            idle_utilisation_ratio=energy.idle_utilisation_ratio,
        )
    )
    return lake.replace(NODE_HOUR, days, rows)


def site_hour(context: StageContext, intensity: DataFrame) -> Written:
    """Node hours, facility meters, grid and weather -> energy and PUE of every site-hour."""
    lake, days, limit = context.lake, context.days, context.settings.energy.coverage_min_ratio
    meters = lake.read_few(METER).transform(meter_hours(lake.read(FACILITY_INTERVAL, days), days, limit))
    nodes = lake.read(NODE_HOUR, days).transform(sum_nodes(_SITE_HOUR, limit))
    rows = (
        lake.local(nodes)
        .transform(with_pue(lake.local(meters.transform(sum_meters)), context.settings.facility.pue_assumed))
        .transform(with_intensity(intensity))
        .join(lake.read_few(WEATHER_HOUR, days).drop("date"), ["site_id", "hour_start"], how="left")
        .transform(conform(SITE_HOUR))
    )
    return lake.replace_few(SITE_HOUR, days, rows)


def cluster_hour(context: StageContext, intensity: DataFrame) -> Written:
    """Node hours, site hours, intervals and grid -> efficiency and carbon of every cluster-hour."""
    lake, days, limit = context.lake, context.days, context.settings.energy.coverage_min_ratio
    intervals, site_hours = lake.read(INTERVAL, days), lake.read_few(SITE_HOUR, days)
    nodes = (
        lake.read(NODE_HOUR, days)
        .transform(sum_nodes(_CLUSTER_HOUR, limit))
        .transform(with_peak_power(intervals))
        .transform(with_inlet_p99(intervals, "hour_start"))
    )
    rows = (
        lake.local(nodes)
        .transform(with_shared_it(site_hours))
        .transform(with_overhead(site_hours))
        .transform(with_location_emissions(intensity))
        .withColumn("status", F.lit("provisional"))
        .transform(conform(CLUSTER_HOUR))
    )
    return lake.replace_few(CLUSTER_HOUR, days, rows)


def cluster_day(context: StageContext) -> Written:
    """Node hours, cluster hours and intervals -> the day of every cluster."""
    lake, days, limit = context.lake, context.days, context.settings.energy.coverage_min_ratio
    hours = lake.read_few(CLUSTER_HOUR, days)
    nodes = lake.read(NODE_HOUR, days).transform(sum_nodes(_CLUSTER_DAY, limit))
    rows = (
        lake.local(nodes)
        .transform(with_facility_days(hours.transform(facility_days(limit))))
        .transform(with_inlet_p99(lake.read(INTERVAL, days), "date"))
        .transform(with_emission_days(hours.transform(emission_days(limit))))
        .withColumn("status", F.lit("provisional"))
        .transform(conform(CLUSTER_DAY))
    )
    return lake.replace_few(CLUSTER_DAY, days, rows)


def _intensity(context: StageContext) -> DataFrame:
    """Direct average intensity of the site's zone by the hour; no rows where no grid is set."""
    grid = context.settings.grid
    zone, flow = (grid.zone, grid.flow) if grid else (None, "consumption")
    hours = context.lake.read_few(GRID_HOUR, context.days).transform(hourly_intensity(zone, flow))
    return context.lake.local(hours)
