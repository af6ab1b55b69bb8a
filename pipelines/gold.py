"""Gold: intervals, meters, jobs, grid and weather -> the hours and days that people read.

Everything is computed first and the ledger is checked; only then a table is written. A night whose ledger does not
close leaves gold as it was.

- Attribution: intervals, imputed node-hours and what jobs held -> energy of jobs and tenants.
- What the registered model says of node-hours whose power was not seen and whose load was.
- Carbon: registers and factors -> what cluster hours emit, embody and drink; the balance of a reporting
  year.
- Costs and bills: tariff, utility meters and gold hours -> hourly costs, cluster months, the check of
  invoices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from lepton_etl.attribution.node_energy import IMPUTED, Roll, roll
from lepton_etl.attribution.node_split import (
    HOLDING_COLUMNS,
    INTERVAL_COLUMNS,
    JOB_HOUR_COLUMNS,
    NODE_SPLIT_COLUMNS,
    SCHEMA,
    node_days,
)
from lepton_etl.attribution.tenants import job_energy, tenant_day
from lepton_etl.billing.bill import Invoice, bill_check, cluster_months, month_cost, period_of, read_invoices
from lepton_etl.billing.costs import Meters, cluster_costs, currency_of, site_costs
from lepton_etl.billing.tariff import read_tariff
from lepton_etl.carbon.embodied import embodied_hours, service_lives, with_embodied, with_node_embodied
from lepton_etl.carbon.emissions import (
    GeneratorFactor,
    IntensityError,
    emission_days,
    hourly_intensity,
    source_ratios,
    with_emission_days,
    with_intensity,
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
from lepton_etl.carbon.water import site_volumes, with_water
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import sum_nodes, with_inlet_p99, with_peak_power
from lepton_etl.energy.gaps import HISTORY_DAYS, SHORTEST_GAP_S, with_imputed, with_modelled
from lepton_etl.energy.node_hours import measured_node_hours, node_hours
from lepton_etl.energy.owners import with_job_idle
from lepton_etl.facility.meter_hours import (
    HOUR_S,
    VOLUME_COLUMNS,
    VOLUME_QUANTITIES,
    bucket_starts,
    volume_intervals,
)
from lepton_etl.facility.modelled_meters import with_modelled_overhead
from lepton_etl.facility.pue import (
    facility_days,
    meter_hours,
    sum_meters,
    with_facility_days,
    with_overhead,
    with_pue,
    with_shared_it,
)
from lepton_etl.intervals.sensor_classes import sensor_classes
from lepton_etl.lake import tables as plain
from lepton_etl.lake.runs import recorded_models
from lepton_etl.lake.tables import Written
from lepton_etl.models.device_hours import device_hours
from lepton_etl.models.registry import Registry
from lepton_etl.models.scoring import with_prediction
from lepton_etl.models.stored import FORWARD_ERROR_TAG
from lepton_etl.registers.factors import FactorSet, load_factors
from lepton_etl.registers.instruments import fuel_kgco2e, read_instruments, read_scope1
from lepton_etl.schema.carbon import INSTRUMENT, MARKET_YEAR, SCOPE1, VOLUME_INTERVAL
from lepton_etl.schema.columns import Transform, conform, exact_sum
from lepton_etl.schema.declare import SECONDS_PER_HOUR, Table
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, GRID_HOUR, INTERVAL, METER, NODE, WEATHER_HOUR
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN, TENANT_DAY
from lepton_etl.schema.ledger import BILL_CHECK, CLUSTER_COST, COST_MONTH, ENERGY_LEDGER, SITE_COST, TARIFF
from lepton_etl.schema.logs import READING
from lepton_etl.schema.types import arrow_schema, spark_schema
from pipelines import ledger
from pipelines.ledger import fits_of, run_fit
from pipelines.publish import with_status
from pipelines.stage import StageContext, StageResult


@dataclass(frozen=True)
class Frames:
    """The split of a run's node-hours, computed once and held until `release`.

    `job_hours`: one row a job, node and hour (JOB_HOUR_COLUMNS). `node_split`: one row a node-hour of clusters with
    accounting (NODE_SPLIT_COLUMNS); jobs + idle = measured + imputed energy of the node.
    """

    rows: DataFrame

    @property
    def job_hours(self) -> DataFrame:
        return self.rows.where(F.col("job_id").isNotNull()).select(*JOB_HOUR_COLUMNS)

    @property
    def node_split(self) -> DataFrame:
        return self.rows.where(F.col("job_id").isNull()).select(*NODE_SPLIT_COLUMNS)

    def release(self) -> None:
        self.rows.unpersist()


def frames(context: StageContext, node_hours: DataFrame) -> Frames | None:
    """Split the node-hours of clusters that have accounting; None where none has any.

    `node_hours` has the columns of gold/node_hour; its imputed energy is split by what was held while it was unseen.
    A cluster has accounting when any run of the last `attribution.longest_run_d` days stood on it.
    """
    lake, days = context.lake, context.days
    clusters = _accounted(context)
    if not clusters:
        return None
    names = ("cluster_id", "node_id", "date")
    listed = F.col("cluster_id").isin(*clusters)
    unknown = [F.lit(None).cast("double").alias(name) for name in INTERVAL_COLUMNS if name.endswith("_ratio")]
    imputed = node_hours.where(listed & (F.col("it_energy_imputed_kwh") > 0)).select(
        *names, F.lit(IMPUTED).alias("device_id"), F.col("hour_start").alias("interval_start"),
        F.lit(3600).alias("interval_s"), F.col("it_energy_imputed_kwh").alias("energy_kwh"),
        F.col("imputed_s").alias("observed_s"), *unknown,
    )  # fmt: skip
    measured = lake.read_frame(INTERVAL, days).where(listed).select(*INTERVAL_COLUMNS)
    held = lake.read_frame(JOB_NODE, days).where(listed).select(*HOLDING_COLUMNS)
    idle_activity = context.settings.attribution.idle_gpu_utilisation_ratio
    rows = (
        measured.unionByName(imputed)
        .groupBy(*names)
        .cogroup(held.groupBy(*names))
        .applyInArrow(_split_of(roll(lake.rows(NODE)), idle_activity), schema=_spark_schema(context))
    )
    return Frames(rows.persist(StorageLevel.MEMORY_AND_DISK))


def write(
    context: StageContext,
    found: Frames | None,
    node_hours: DataFrame,
    cluster_hours: DataFrame,
    cluster_costs: DataFrame | None = None,
) -> list[Written]:
    """gold/job_energy and gold/tenant_day of the days; nothing without accounting.

    `node_hours` must have `embodied_kgco2e`; `cluster_hours` are rows of gold/cluster_hour, `cluster_costs` of
    gold/cluster_cost.
    """
    if found is None:
        return []
    lake, days, limit = context.lake, context.days, context.settings.energy.coverage_min_ratio
    runs = lake.read_few(JOB_RUN, days)
    jobs = lake.local(
        found.job_hours.transform(job_energy(cluster_hours, node_hours, runs, cluster_costs, limit))
    )
    tenants = jobs.transform(tenant_day(limit))
    return [
        lake.replace_few(JOB_ENERGY, days, with_status(context, JOB_ENERGY, jobs), allow_empty=True),
        lake.replace_few(TENANT_DAY, days, with_status(context, TENANT_DAY, tenants), allow_empty=True),
    ]


def _accounted(context: StageContext) -> list[str]:
    """Clusters of which a run is known within the longest run before the days."""
    if not context.lake.exists(JOB_RUN):
        return []
    days, longest = context.days, context.settings.attribution.longest_run_d
    first = F.date_sub(F.lit(days.start), round(longest))
    rows = context.lake.read_frame(JOB_RUN).where(F.col("date").between(first, F.lit(days.end)))
    return sorted(row["cluster_id"] for row in rows.select("cluster_id").distinct().collect())


def _split_of(nodes: Roll, idle_activity: float) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def kernel(intervals: pa.Table, held: pa.Table) -> pa.Table:
        return node_days(intervals, held, nodes, idle_activity)

    return kernel


def _spark_schema(context: StageContext) -> str:
    """SCHEMA in Spark's words."""
    return str(context.lake.spark.createDataFrame(SCHEMA.empty_table()).schema.simpleString())


_NODE_HOUR: Final = ("site_id", "cluster_id", "node_id", "hour_start")
_LOADS: Final = ("cpu_utilisation_ratio", "gpu_utilisation_ratio")


def modelled_gaps(context: StageContext, measured: DataFrame) -> DataFrame | None:
    """Node-hours with a gap and a known load -> what the model says of the gap; None without a model or such an hour.

    `measured` has the columns of energy.node_hours.measured_node_hours. Result: the node-hour's key, `model_kwh` and
    `model_sigma_kwh` of the uncovered seconds. The error is the model's forward CV(RMSE); without it none is asked. A
    day that was made before takes the version recorded for it, else the champion's. Source: definitions.md section 8.
    """
    settings = context.settings.model
    if settings.device != "node":
        return None
    gap_s = F.col("expected_s") - F.col("observed_s")
    has_load = F.coalesce(*(F.col(name) for name in _LOADS)).isNotNull()
    gaps = measured.where((gap_s > SHORTEST_GAP_S) & has_load).select(*_NODE_HOUR, gap_s.alias("gap_s"))
    if not gaps.head(1):
        return None
    registry = Registry.of(context.settings.mlflow)
    found = [
        _by_model(context, gaps.where(F.to_date("hour_start").isin(days)), registry, version)
        for version, days in _days_by_version(context, registry).items()
    ]
    said = [rows for rows in found if rows is not None]
    return reduce(DataFrame.unionByName, said) if said else None


def _days_by_version(context: StageContext, registry: Registry) -> dict[str, list[date]]:
    """Model version -> its days: the recorded one of a day that was made before, if any, else the champion's."""
    name = context.settings.model.name
    recorded = recorded_models(context.lake.root, name, context.days)
    champion = registry.champion(name) if set(context.days) - set(recorded) else None
    days_of: dict[str, list[date]] = {}
    for day in context.days:
        version = recorded.get(day, champion.version if champion else None)
        if version is not None:
            days_of.setdefault(version, []).append(day)
    return days_of


def _by_model(context: StageContext, gaps: DataFrame, registry: Registry, version: str) -> DataFrame | None:
    """What one version says of these gaps; None where it does not state its forward error."""
    name = context.settings.model.name
    model = registry.verified_model(name, version=version)
    error = float(model.version.tags.get(FORWARD_ERROR_TAG, "nan"))
    if not error > 0:
        return None
    context.lake.inputs[f"model/{name}"] = int(version)
    predict = with_prediction(model, context.settings.energy.coverage_min_ratio)
    scored = _hours_with_load(context, gaps).transform(predict)
    share = F.col("gap_s") / SECONDS_PER_HOUR
    return (
        gaps.join(scored.select(*_NODE_HOUR, "predicted_kwh"), list(_NODE_HOUR), how="inner")
        .where(F.col("predicted_kwh") >= 0)
        .select(
            *_NODE_HOUR,
            (F.col("predicted_kwh") * share).alias("model_kwh"),
            (F.col("predicted_kwh") * share * F.lit(error)).alias("model_sigma_kwh"),
        )
    )


def _hours_with_load(context: StageContext, gaps: DataFrame) -> DataFrame:
    """Device-hours of these node-hours; a node that said nothing itself has its row from its components."""
    lake = context.lake
    intervals = lake.read_frame(INTERVAL, context.days)
    keyed = intervals.withColumn("hour_start", F.date_trunc("hour", "interval_start"))
    own = keyed.join(gaps.select(*_NODE_HOUR), list(_NODE_HOUR), how="left_semi").drop("hour_start")
    stand_in = gaps.select(
        *_NODE_HOUR[:3], F.lit("node").alias("device_id"), F.col("hour_start").alias("interval_start"),
        F.to_date("hour_start").alias("date"), F.lit(int(SECONDS_PER_HOUR)).alias("interval_s"),
        F.lit(1).alias("multiplicity"), F.lit(0.0).alias("observed_s"), F.lit(True).alias("counts_in_total"),
    )  # fmt: skip
    rows = own.unionByName(stand_in, allowMissingColumns=True)
    hours = rows.transform(device_hours("node", lake.read_few(NODE)))
    loads = [F.col(name) for name in _LOADS if name in hours.columns]
    return hours.where(reduce(lambda a, b: a | b, (load.isNotNull() for load in loads)))


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
        context.lake.read_frame(READING, Days(days.start - one_day, days.end + one_day))
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


# An invoice that says otherwise than the last check of its month makes the month anew.
_OF_INVOICE: Final = ("first_day", "last_day", "invoice_id", "invoice_kwh", "invoice_cost")


def check(settings: Settings) -> None:
    """Read the tariff and the invoices once. Raises ConfigurationError before any data is touched."""
    _tariff(settings)
    if settings.billing.invoices:
        read_invoices(settings.billing.invoices)


def run_bill(context: StageContext) -> list[Written]:
    """Costs of the context's days and the months that they, or changed invoices, touch; nothing without both files.

    Raises ConfigurationError for a wrong tariff or invoice file.
    """
    settings, lake, days = context.settings, context.lake, context.days
    if settings.tariff.file is None and settings.billing.invoices is None:
        return []
    tariff = _tariff(settings)
    written = [lake.overwrite(TARIFF, tariff)]
    if tariff.num_rows:
        written += _hourly(context, tariff)
    invoices = read_invoices(settings.billing.invoices) if settings.billing.invoices else {}
    months = sorted(_months(lake.root, days, invoices, settings))
    rows = [_month(lake.root, settings, tariff, month, invoices.get(month)) for month in months]
    metadata = lake.metadata
    checks, clusters = [check for check, _ in rows], [row for _, found in rows for row in found]
    for table, found in ((BILL_CHECK, checks), (COST_MONTH, clusters)):
        changed = plain.replace_keyed(lake.root, table, found, metadata)
        written.append(Written(table.name, len(found), plain.version(lake.root, table) or 0, changed))
    return written


def _tariff(settings: Settings) -> pa.Table:
    if settings.tariff.file is None:
        return arrow_schema(TARIFF).empty_table()
    return read_tariff(settings.tariff.file, settings.site.site_id)


def _hourly(context: StageContext, tariff: pa.Table) -> list[Written]:
    """gold/site_cost and gold/cluster_cost of the days."""
    lake, days = context.lake, context.days
    site_hours = _own(plain.read(lake.root, SITE_HOUR, days), context.settings)
    costs = site_costs(_meters(lake.root, context.settings, days), tariff, site_hours)
    clusters = cluster_costs(
        costs, site_hours, _own(plain.read(lake.root, CLUSTER_HOUR, days), context.settings)
    )
    return [_replaced(context, table, rows) for table, rows in ((SITE_COST, costs), (CLUSTER_COST, clusters))]


def _replaced(context: StageContext, table: Table, rows: pl.DataFrame) -> Written:
    root, days = context.lake.root, context.days
    changed = plain.replace_days(root, table, days, rows.to_arrow(), context.lake.metadata)
    return Written(table.name, rows.height, plain.version(root, table) or 0, changed)


def _month(
    root: Path, settings: Settings, tariff: pa.Table, month: str, invoice: Invoice | None
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """The month's row of gold/bill_check and its rows of gold/cost_month."""
    start, end = period_of(month, invoice, settings.site.timezone)
    days = Days(start.date(), end.date())
    cost = month_cost(_meters(root, settings, days), tariff, start, end)
    currency = currency_of(tariff)
    site_id = settings.site.site_id
    check = bill_check(site_id, month, cost, currency, invoice, settings.billing.tolerance_ratio)
    if currency is None:
        return check, []
    keys = ["site_id", "cluster_id", "hour_start"]
    energy = pl.DataFrame(_own(plain.read(root, CLUSTER_HOUR, days), settings)).select(
        *keys, "facility_energy_kwh"
    )
    priced = pl.DataFrame(plain.read(root, CLUSTER_COST, days)).select(*keys, "energy_cost", "cost_basis")
    hours = energy.join(priced, on=keys, how="left").filter(
        (pl.col("hour_start") >= start) & (pl.col("hour_start") < end)
    )
    return check, cluster_months(month, cost, hours, currency, len(bucket_starts(start, end, HOUR_S)))


def _months(root: Path, days: Days, invoices: dict[str, Invoice], settings: Settings) -> set[str]:
    """Months that the days touch in the site's zone or by an invoice's period, and those whose invoice changed."""
    zone, instant = settings.site.zone, timedelta(microseconds=1)
    local = Days(days.from_time.astimezone(zone).date(), (days.until_time - instant).astimezone(zone).date())
    checked = {row["month"]: row for row in plain.read(root, BILL_CHECK).to_pylist()}
    return {f"{day:%Y-%m}" for day in local} | {
        month
        for month, one in invoices.items()
        if (one.period[0] <= local.end and one.period[1] >= local.start)
        or _said(one) != _said_before(checked.get(month))
    }


def _said(invoice: Invoice) -> tuple[object, ...]:
    return (*invoice.period, invoice.invoice_id, invoice.invoice_kwh, invoice.invoice_cost)


def _said_before(row: dict[str, object] | None) -> tuple[object, ...] | None:
    return tuple(row[name] for name in _OF_INVOICE) if row else None


def _meters(root: Path, settings: Settings, days: Days) -> Meters:
    return Meters(
        _own(plain.read(root, METER), settings),
        _own(plain.read(root, FACILITY_INTERVAL, days), settings),
        settings.site.timezone,
        settings.energy.coverage_min_ratio,
    )


def _own(rows: pa.Table, settings: Settings) -> pa.Table:
    return rows.filter(pc.equal(rows["site_id"], settings.site.site_id))


_SITE_HOUR: Final = ("date", "hour_start", "site_id")
_CLUSTER_HOUR: Final = ("date", "hour_start", "site_id", "cluster_id")
_CLUSTER_DAY: Final = ("date", "site_id", "cluster_id")


def run(context: StageContext) -> StageResult:
    """Make the gold tables of the context's days. Raises LedgerError, before any is written, if it does not close."""
    lake, days = context.lake, context.days
    rows_in = lake.read_frame(INTERVAL, days).count()
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
            lake.replace_frame(NODE_HOUR, days, owned),
            lake.replace_few(ENERGY_LEDGER, days, lake.spark.createDataFrame(book.rows), allow_empty=True),
            lake.replace_few(SITE_HOUR, days, site_hours),
            lake.replace_few(CLUSTER_HOUR, days, cluster_hours),
            lake.replace_few(CLUSTER_DAY, days, with_status(context, CLUSTER_DAY, cluster_days)),
            market_year(context),
        ]
        written += run_bill(context)
        embodied = node_embodied(context, owned)
        costs = lake.read_few(CLUSTER_COST, days) if context.settings.tariff.file else None
        written += write(context, split, embodied, cluster_hours, costs)
    return StageResult(rows_in, sum(one.rows for one in written), tuple(written))


def _measured(context: StageContext) -> DataFrame:
    """Inventory and intervals -> measured energy and coverage of every expected node-hour."""
    lake, days, idle_ratio = context.lake, context.days, context.settings.energy.idle_utilisation_ratio
    intervals = lake.read_frame(INTERVAL, days)
    return lake.read_few(NODE).transform(
        measured_node_hours(intervals, days, idle_utilisation_ratio=idle_ratio)
    )


def _node_hours(context: StageContext, measured: DataFrame) -> DataFrame:
    """Measured node-hours and those of the days before -> gold/node_hour, gaps filled."""
    first = context.days.start
    before = Days(first - timedelta(days=HISTORY_DAYS), first - timedelta(days=1))
    history = context.lake.read_frame(NODE_HOUR, before)
    return (
        measured.transform(with_imputed(history))
        .transform(with_modelled(modelled_gaps(context, measured)))
        .transform(node_hours(_limit(context)))
    )


def _meter_hours(context: StageContext) -> DataFrame:
    """Intervals of facility meters -> energy and coverage of every expected meter-hour."""
    lake, days = context.lake, context.days
    intervals = lake.read_frame(FACILITY_INTERVAL, days)
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
    intervals = context.lake.read_frame(INTERVAL, context.days)
    sums = (
        nodes.transform(sum_nodes(_CLUSTER_HOUR, _limit(context), _shared_variance(context)))
        .transform(with_peak_power(intervals))
        .transform(with_inlet_p99(intervals, "hour_start"))
    )
    return (
        context.lake.local(sums)
        .transform(with_shared_it(site_hours))
        .transform(with_overhead(site_hours))
        .transform(with_carbon(context, nodes, site_hours, intensity))
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
        .transform(with_inlet_p99(lake.read_frame(INTERVAL, context.days), "date"))
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
def _attributed(context: StageContext, nodes: DataFrame) -> Iterator[Frames | None]:
    """The split of the nodes' energy by jobs, computed once; None where no job is accounted."""
    found = frames(context, nodes)
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
