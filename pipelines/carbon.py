"""Carbon: registers and factors -> what cluster hours emit, embody and drink; the balance of a reporting year."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.carbon.embodied import embodied_hours, service_lives, with_embodied, with_node_embodied
from lepton_etl.carbon.emissions import (
    GeneratorFactor,
    IntensityError,
    source_ratios,
    with_location_emissions,
)
from lepton_etl.carbon.market import (
    MarketMix,
    annual_kwh,
    instruments_of,
    market_mix,
    market_rows,
    with_market_emissions,
)
from lepton_etl.carbon.registers import read_instruments, read_scope1
from lepton_etl.carbon.scope1 import fuel_kgco2e
from lepton_etl.carbon.water import site_volumes, with_water
from lepton_etl.columns import Transform, exact_sum
from lepton_etl.days import Days
from lepton_etl.energy.volumes import VOLUME_COLUMNS, VOLUME_QUANTITIES, volume_intervals
from lepton_etl.factors import FactorSet, load_factors
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.store import Written
from lepton_etl.lake.tables import CLUSTER_DAY, METER, NODE, READING
from lepton_etl.lake.tables.carbon import INSTRUMENT, MARKET_YEAR, SCOPE1, VOLUME_INTERVAL
from pipelines.stage import StageContext

_HOUR: Final = ("site_id", "hour_start")
_GRAMS: Final = "g/kWh"


def registers(context: StageContext) -> tuple[Written, ...]:
    """instruments.csv and scope1.csv -> silver/instrument and silver/scope1; empty where the settings name none."""
    carbon, site_id, lake = context.settings.carbon, context.settings.site.site_id, context.lake
    instruments = (
        read_instruments(carbon.instruments, site_id)
        if carbon.instruments
        else arrow_schema(INSTRUMENT).empty_table()
    )
    scope1 = (
        read_scope1(carbon.scope1, site_id, load_factors(carbon.factors), carbon.gwp_set)
        if carbon.scope1
        else arrow_schema(SCOPE1).empty_table()
    )
    return lake.overwrite(INSTRUMENT, instruments), lake.overwrite(SCOPE1, scope1)


def volume_interval(context: StageContext, meters: pa.Table) -> Written:
    """Readings of listed water and fuel meters -> silver/volume_interval; a site has few, so the driver does it."""
    lake, days, energy = context.lake, context.days, context.settings.energy
    known = meters.filter(pc.is_in(meters["carrier"], pa.array(("water", "fuel"))))
    rows = arrow_schema(VOLUME_INTERVAL).empty_table()
    if known.num_rows:
        first, last = (int(at.timestamp() * 1_000_000) for at in (days.from_time, days.until_time))
        readings = _volume_readings(context, lake.spark.createDataFrame(known))
        rows = volume_intervals(
            readings.toArrow(), context.settings.site.site_id, energy.interval_s, first, last
        )
    return lake.replace_few(VOLUME_INTERVAL, days, lake.spark.createDataFrame(rows), allow_empty=True)


def _volume_readings(context: StageContext, meters: DataFrame) -> DataFrame:
    """Bronze of water and fuel of the days and of a day on both sides, as VOLUME_COLUMNS; stamps are window starts."""
    days, one_day = context.days, timedelta(days=1)
    facts = meters.select("meter_id", "carrier", "multiplier", "label", "valid_from", "valid_to")
    window_us = (F.col("window_s") * F.lit(1_000_000)).cast("bigint")
    shift_us = F.when(F.col("label") == "end", window_us).otherwise(0)
    holds = (F.col("reading_time") >= F.col("valid_from")) & (
        F.col("valid_to").isNull() | (F.col("reading_time") < F.col("valid_to"))
    )
    is_volume = F.col("quantity").isin(*VOLUME_QUANTITIES)
    return (
        context.lake.read(READING, Days(days.start - one_day, days.end + one_day))
        .where((F.col("site_id") == context.settings.site.site_id) & is_volume)
        .join(F.broadcast(facts), F.col("device_id") == F.col("meter_id"), how="inner")
        .where(holds)
        .withColumn("time_us", F.unix_micros("reading_time") - shift_us)
        .select(*VOLUME_COLUMNS)
    )


def site_water(context: StageContext) -> DataFrame:
    """Litres of water of each site-hour: site_id, hour_start, water_l."""
    return _site_volumes(context, "water", "water_l")


def node_embodied(context: StageContext, nodes: DataFrame) -> DataFrame:
    """gold/node_hour rows with `embodied_kgco2e` and `embodied_basis`, for clusters and for jobs."""
    lives = service_lives(context.lake.rows(NODE), load_factors(context.settings.carbon.factors))
    return nodes.transform(with_node_embodied(context.lake.spark.createDataFrame(lives.to_arrow())))


def with_carbon(
    context: StageContext, nodes: DataFrame, site_hours: DataFrame, intensity: DataFrame
) -> Transform:
    """Cluster hours with facility energy -> with emissions in three views, embodied carbon and water.

    `nodes` are rows of gold/node_hour, `site_hours` of gold/site_hour. Where the site has instruments the grid energy
    of the year so far is summed first, which runs a Spark job.
    """
    lake, factors = context.lake, load_factors(context.settings.carbon.factors)
    fuel = lake.local(_site_volumes(context, "fuel", "fuel_l"))
    sources = source_ratios(site_hours.join(fuel, list(_HOUR), how="left"), _generators(context, factors))
    embodied = lake.local(node_embodied(context, nodes).transform(embodied_hours))
    water = lake.local(site_water(context))
    error = _intensity_error(factors, context.days.end)

    def transform(cluster_hours: DataFrame) -> DataFrame:
        located = lake.local(cluster_hours.transform(with_location_emissions(intensity, sources, error)))
        return (
            located.transform(with_market_emissions(_mixes_of_run(context, factors, located)))
            .transform(with_embodied(embodied))
            .transform(with_water(water))
        )

    return transform


def market_year(context: StageContext) -> Written:
    """gold/cluster_day and instruments -> gold/market_year of the run's years: matched volumes and what is left."""
    lake, factors = context.lake, load_factors(context.settings.carbon.factors)
    years = {day.year for day in context.days}
    kept = [row for row in lake.rows(MARKET_YEAR).to_pylist() if row["reporting_year"] not in years]
    made = []
    for year in sorted(years):
        days = lake.read_few(CLUSTER_DAY, Days(date(year, 1, 1), date(year, 12, 31)))
        last = days.agg(F.max("date")).first()
        if last is not None and last[0] is not None:
            until = datetime.combine(last[0] + timedelta(days=1), time(), UTC)
            mix = _mix(context, factors, year, _grid_kwh(days), until)
            if mix is not None:
                made += market_rows(mix, context.settings.site.site_id, "provisional")
    return lake.overwrite(MARKET_YEAR, pa.Table.from_pylist([*kept, *made], schema=arrow_schema(MARKET_YEAR)))


def _mixes_of_run(context: StageContext, factors: FactorSet, hours: DataFrame) -> list[MarketMix]:
    """The mix of each reporting year of the run, by the consumption up to its last day and no later one.

    So a day made again alone takes what it took the first time.
    """
    days, mixes = context.days, []
    for year in sorted({day.year for day in days}):
        first = date(year, 1, 1)
        drawn = _grid_kwh(hours.where(F.year("hour_start") == year))
        if days.start > first:
            before = Days(first, days.start - timedelta(days=1))
            drawn += _grid_kwh(context.lake.read_few(CLUSTER_DAY, before))
        mix = _mix(context, factors, year, drawn, days.until_time)
        if mix is not None:
            mixes.append(mix)
    return mixes


def _mix(
    context: StageContext, factors: FactorSet, year: int, drawn_kwh: float, until: datetime
) -> MarketMix | None:
    """None where the market is not named: then nobody knows which residual mix holds."""
    carbon, grid = context.settings.carbon, context.settings.grid
    zone = carbon.market_zone or (grid.zone if grid else None)
    if zone is None:
        return None
    on = min((until - timedelta(seconds=1)).date(), date(year, 12, 31))
    residual = factors.find("residual_mix", valid_on=on, zone_id=zone)
    average = carbon.average_zone and factors.get(
        "grid_average", valid_on=on, zone_id=carbon.average_zone, intensity_basis="direct"
    )
    return market_mix(
        instruments_of(context.lake.rows(INSTRUMENT).to_pylist()),
        year=year,
        zone_id=zone,
        consumption_kwh=annual_kwh(drawn_kwh, year, until, carbon.annual_consumption_kwh),
        residual_g_per_kwh=residual.to(_GRAMS) if residual else None,
        average_g_per_kwh=average.to(_GRAMS) if average else None,
    )


def _grid_kwh(rows: DataFrame) -> float:
    found = rows.agg(exact_sum(F.col("grid_import_kwh"))).first()
    return float(found[0]) if found is not None and found[0] is not None else 0.0


def _site_volumes(context: StageContext, carrier: str, name: str) -> DataFrame:
    lake, days, least = context.lake, context.days, context.settings.energy.coverage_min_ratio
    volumes = lake.read_few(VOLUME_INTERVAL, days)
    return lake.read_few(METER).transform(site_volumes(volumes, carrier, name, days, least))


def _generators(context: StageContext, factors: FactorSet) -> GeneratorFactor | None:
    carbon, on = context.settings.carbon, context.days.end
    if carbon.generator_fuel is None:
        return None
    return GeneratorFactor(
        fuel_kgco2e(carbon.generator_fuel, 1.0, factors, carbon.gwp_set, on),
        factors.get("generator", valid_on=on, fuel=carbon.generator_fuel).to("kg/kWh"),
    )


def _intensity_error(factors: FactorSet, on: date) -> IntensityError | None:
    measured, estimated = (
        factors.find("grid_intensity_uncertainty", valid_on=on, estimated=flag) for flag in ("false", "true")
    )
    return IntensityError(measured.value, estimated.value) if measured and estimated else None
