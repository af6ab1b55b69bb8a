"""Make gold, the hours and days that people read, of intervals, meters, jobs, grid and weather.

Everything up to the days of clusters is computed first and the ledger is checked; only then a table is
written. A night whose ledger does not close leaves gold as it was. The split of nodes' energy among jobs
comes early, because the ledger needs it; bills, and the energy of jobs and tenants, which take prices and
emissions, come last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.attribution.node_energy import roll
from lepton_etl.attribution.node_split import HOLDING_COLUMNS, split_nodes
from lepton_etl.attribution.node_split import INTERVAL_COLUMNS as SPLIT_COLUMNS
from lepton_etl.attribution.tenants import SCI_COLUMNS, job_energy, tenant_day, with_node_figures, with_sci
from lepton_etl.attribution.transfer import run_parts, with_transfer
from lepton_etl.billing.bill import Invoice, bill_check, cluster_months, month_cost, period_of, read_invoices
from lepton_etl.billing.costs import Meters, cluster_costs, currency_of, site_costs
from lepton_etl.billing.tariff import read_tariff
from lepton_etl.carbon.embodied import (
    embodied_error_ratio,
    embodied_hours,
    embodied_parts,
    service_lives,
    with_embodied,
    with_node_embodied,
)
from lepton_etl.carbon.emissions import (
    GeneratorFactor,
    emission_days,
    hourly_intensity,
    intensity_error,
    location_emissions,
    source_ratios,
)
from lepton_etl.carbon.market import (
    MarketMix,
    market_emissions,
    market_rows,
    mix_of,
)
from lepton_etl.carbon.used_factors import factor_columns, site_factors, used_factors
from lepton_etl.carbon.water import site_volumes, with_water
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import group_parts, group_sums, with_inlet_p99, with_peak_power
from lepton_etl.energy.exact_sums import rows_of
from lepton_etl.energy.gaps import HISTORY_COLUMNS, HISTORY_DAYS, with_imputed
from lepton_etl.energy.node_hours import (
    INTERVAL_COLUMNS,
    NODE_HOUR_KEY,
    inlet_counts,
    measured_node_hours,
    node_hours,
    node_intervals,
    power_sums,
)
from lepton_etl.energy.owners import owner_parts, with_job_idle
from lepton_etl.energy.transfer import TRANSFER_COLUMNS, transfer_hours, transfer_parts
from lepton_etl.errors import MissingFactorError, RegistryError
from lepton_etl.facility.meter_hours import (
    HOUR_S,
    bucket_starts,
)
from lepton_etl.facility.modelled_meters import with_modelled_overhead
from lepton_etl.facility.pue import (
    BURNT,
    ELECTRICITY,
    boundary_fuel,
    facility_days,
    meter_hours,
    site_carriers,
    site_meters,
    with_facility_days,
    with_overhead,
    with_pue,
    with_shared_it,
)
from lepton_etl.intervals.sensor_classes import sensor_classes
from lepton_etl.lake.location import Location
from lepton_etl.lake.runs import UNANSWERED, recorded_models
from lepton_etl.lake.staging import StagedFile, stage
from lepton_etl.lake.tables import DataFile, Lake, Written, read_files
from lepton_etl.models.device_hours import gap_features, interval_columns
from lepton_etl.models.registry import Registry
from lepton_etl.models.stored import FORWARD_ERROR_TAG, VerifiedModel
from lepton_etl.registers.factors import FactorSet
from lepton_etl.registers.instruments import fuel_kgco2e
from lepton_etl.schema.carbon import INSTRUMENT, MARKET_YEAR, VOLUME_INTERVAL
from lepton_etl.schema.declare import SECONDS_PER_HOUR
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, SITE_HOUR, TRANSFER_HOUR
from lepton_etl.schema.fleet import (
    FACILITY_INTERVAL,
    GRID_HOUR,
    INTERVAL,
    METER,
    NODE,
    TRANSFER_INTERVAL,
    WEATHER_HOUR,
)
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN, NODE_STATE, TENANT_DAY
from lepton_etl.schema.ledger import (
    BILL_CHECK,
    CLUSTER_COST,
    COST_MONTH,
    ENERGY_LEDGER,
    METER_CHECK,
    SITE_COST,
    TARIFF,
)
from lepton_etl.schema.types import arrow_schema
from pipelines import ledger
from pipelines.engine import InlineEngine
from pipelines.ledger import fits_of, run_fit
from pipelines.publish import with_status
from pipelines.stage import StageContext, StageResult

_SITE_HOUR: Final = ("date", "hour_start", "site_id")
_CLUSTER_HOUR: Final = ("date", "hour_start", "site_id", "cluster_id")
_CLUSTER_DAY: Final = ("date", "site_id", "cluster_id")
# What node-hours are summed by.
GROUPS: Final = (_SITE_HOUR, _CLUSTER_HOUR, _CLUSTER_DAY)
_HOUR: Final = ["site_id", "hour_start"]
# Days of nodes in one task: some 10^5 rows of silver/interval, and as many node-hours again of history.
NODE_DAYS: Final = 256


def run(context: StageContext) -> StageResult:
    """Make the gold tables of the context's days. Raises LedgerError, before any is written, if it does not close."""
    lake, days = context.lake, context.days
    rows_in = sum(file.rows for file in lake.files(INTERVAL, days))
    factors = site_factors(context.settings.carbon)
    fleet = node_figures(context, factors)
    # Committed before the ledger, which takes it where a meter is missing.
    fitted = run_fit(context)
    intensity, metered = _intensity(context), _meter_hours(context)
    meters, carriers = metered.filter(pl.col("carrier") == ELECTRICITY), _carriers(context, metered)
    site_base = _site_base(context, fleet, meters, carriers)
    book = ledger.ledger(context, fleet.owners, meters, site_base, has_jobs=fleet.job_hours is not None)
    checked = ledger.checked(context, book)
    balanced = _site_hours(context, site_base, book)
    sources = _sources(context, balanced, carriers, factors)
    # What a site draws needs no sensor in each of its nodes: its emissions are of its own meters, not of clusters.
    site_hours = rows_of(SITE_HOUR, location_emissions(balanced, intensity, sources))
    sensed = _sensed_hours(context, fleet)
    cluster_hours = _cluster_hours(context, sensed, fleet.embodied, site_hours, intensity, sources, factors)
    cluster_days = _cluster_days(context, fleet, cluster_hours)
    written = [
        *((fitted,) if fitted else ()),
        *checked,
        lake.commit(NODE_HOUR, days, fleet.node_hours),
        lake.replace(ENERGY_LEDGER, days, book.rows, allow_empty=True),
        lake.replace(METER_CHECK, days, book.meter_rows, allow_empty=True),
        lake.replace(SITE_HOUR, days, site_hours),
        lake.replace(CLUSTER_HOUR, days, cluster_hours),
        lake.replace(CLUSTER_DAY, days, with_status(context, CLUSTER_DAY, cluster_days)),
        market_year(context),
    ]
    if fleet.transfers is not None:
        moved = transfer_hours(
            fleet.transfers,
            pl.DataFrame(book.rows),
            _limit(context),
            context.settings.energy.transfer_kwh_per_gbyte,
        )
        written.append(lake.replace(TRANSFER_HOUR, days, moved, allow_empty=True))
    written += run_bill(context)
    if fleet.job_hours is not None:
        costs = lake.read(CLUSTER_COST, days) if context.settings.tariff.file else None
        written += write_jobs(context, fleet.job_hours, cluster_hours, costs, fleet.job_transfers)
    return StageResult(rows_in, sum(one.rows for one in written), tuple(written), fleet.notes)


@dataclass(frozen=True)
class Fleet:
    """What the nodes of a run's days give: staged rows of gold/node_hour, and what is summed from them.

    `sums` are parts of group_sums by what they are grouped by, `owners` of owner_hours, `embodied` of embodied_hours;
    `power` and `inlets` are power_sums and inlet_counts. `job_hours` (one row a job, node and hour) is None where no
    cluster has accounting. `transfers` (of transfer_parts) and `job_transfers` (of run_parts) are None where no counter
    of a port was ever read. `notes` are for the operator.
    """

    node_hours: tuple[StagedFile, ...]
    sums: Mapping[tuple[str, ...], pl.DataFrame]
    owners: pl.DataFrame
    embodied: pl.DataFrame
    power: pl.DataFrame
    inlets: pl.DataFrame
    job_hours: pl.DataFrame | None
    transfers: pl.DataFrame | None = None
    job_transfers: pl.DataFrame | None = None
    notes: tuple[str, ...] = ()


def node_figures(context: StageContext, factors: FactorSet) -> Fleet:
    """Stage the node-hours of the days and return what is summed from nodes, made bucket by bucket of nodes."""
    lake, days, settings = context.lake, context.days, context.settings
    nodes, clusters = lake.read(NODE), accounted_clusters(context)
    intervals = tuple(lake.files(INTERVAL, days))
    before = Days(days.start - timedelta(days=HISTORY_DAYS), days.start - timedelta(days=1))
    held = tuple(lake.files(JOB_NODE, days)) if clusters else ()
    states = tuple(lake.files(NODE_STATE, days)) if lake.exists(NODE_STATE) else ()
    transfers = tuple(lake.files(TRANSFER_INTERVAL, days)) if lake.exists(TRANSFER_INTERVAL) else None
    measure = MeasureNodes(days, intervals, states, settings.energy.idle_utilisation_ratio)
    make = MakeNodes(
        lake.root, intervals, tuple(lake.files(NODE_HOUR, before)), held, tuple(clusters), _limit(context),
        settings.attribution.idle_gpu_utilisation_ratio, _shared_variance(factors, days),
        embodied_error_ratio(factors, days.end), transfers, settings.energy.interval_s,
    )  # fmt: skip
    buckets = node_buckets(nodes, days)
    # One bucket is not worth the start of an engine.
    engine = context.engine if len(buckets) > 1 else InlineEngine()
    seen = engine.map(measure, buckets)
    modelled, notes = modelled_gaps(context, pl.concat([one.gaps for one in seen]))
    lives, node = service_lives(nodes, factors), ["site_id", "node_id"]
    made = engine.map(
        make,
        [
            (
                one.nodes,
                one.node_hours,
                lives.join(one.nodes, on=node, how="semi"),
                None if modelled is None else modelled.join(one.nodes, on=node, how="semi"),
            )
            for one in seen
        ],
    )
    return Fleet(
        node_hours=tuple(file for one in made for file in one.node_hours),
        sums={by: pl.concat([one.sums[by] for one in made]) for by in GROUPS},
        owners=pl.concat([one.owners for one in made]),
        embodied=pl.concat([one.embodied for one in made]),
        power=pl.concat([one.power for one in seen]),
        inlets=pl.concat([one.inlets for one in seen]),
        job_hours=pl.concat([one.job_hours for one in made]) if clusters else None,
        transfers=_together(one.transfers for one in made),
        job_transfers=_together(one.job_transfers for one in made),
        notes=notes,
    )


def node_buckets(nodes: pl.DataFrame, days: Days) -> list[pl.DataFrame]:
    """Return the inventory (silver/node) cut into buckets of about NODE_DAYS node-days; a chassis stays whole.

    One empty bucket where nothing is listed. The cut depends on the inventory and the number of days alone.
    """
    node, chassis = ["site_id", "node_id"], ["site_id", "_chassis"]
    rows = nodes.with_columns(pl.coalesce("chassis_id", "node_id").alias("_chassis")).with_columns(
        pl.col("_chassis").alias("_group")
    )
    while True:
        # Nodes that ever shared a chassis with another belong to one group, by its smallest name.
        joined = rows.with_columns(pl.col("_group").min().over(chassis)).with_columns(
            pl.col("_group").min().over(node)
        )
        if joined["_group"].equals(rows["_group"]):
            break
        rows = joined
    sizes = (
        rows.group_by("site_id", "_group")
        .agg(pl.struct(node).n_unique().alias("_nodes"))
        .sort("site_id", "_group")
    )
    first = pl.col("_nodes").cum_sum() - pl.col("_nodes")
    placed = sizes.with_columns((first * days.count // NODE_DAYS).alias("_bucket")).drop("_nodes")
    listed = rows.join(placed, on=["site_id", "_group"], how="left").sort("_bucket", *NODE.key)
    parts = listed.partition_by("_bucket", maintain_order=True)
    return [part.select(nodes.columns) for part in parts] or [nodes]


@dataclass(frozen=True)
class Measured:
    """What the intervals of a bucket give: measured node-hours, sums by interval, gaps whose load is known.

    The node-hours are Arrow IPC that the driver hands on and does not unpack.
    """

    nodes: pl.DataFrame
    node_hours: bytes
    power: pl.DataFrame
    inlets: pl.DataFrame
    gaps: pl.DataFrame


@dataclass(frozen=True)
class Made:
    """Staged rows of gold/node_hour of a bucket, and their sums as `Fleet` has them; without jobs no job_hours."""

    node_hours: tuple[StagedFile, ...]
    sums: Mapping[tuple[str, ...], pl.DataFrame]
    owners: pl.DataFrame
    embodied: pl.DataFrame
    job_hours: pl.DataFrame
    transfers: pl.DataFrame | None = None
    job_transfers: pl.DataFrame | None = None


@dataclass(frozen=True)
class MeasureNodes:
    """The first work of a task: intervals of a bucket of nodes -> measured node-hours and sums over nodes."""

    days: Days
    intervals: tuple[DataFile, ...]
    states: tuple[DataFile, ...]
    idle_utilisation_ratio: float

    def __call__(self, nodes: pl.DataFrame) -> Measured:
        names = tuple(dict.fromkeys((*INTERVAL_COLUMNS, *interval_columns("node"))))
        intervals = read_files(INTERVAL, self.intervals, names, _of(nodes))
        means = node_intervals(intervals)
        hours = measured_node_hours(
            intervals, means, nodes, self.days, idle_utilisation_ratio=self.idle_utilisation_ratio,
            states=read_files(NODE_STATE, self.states, NODE_STATE.columns, _of(nodes)),
        )  # fmt: skip
        gaps = gap_features(intervals, hours, nodes)
        packed = hours.write_ipc(None, compression="lz4").getvalue()
        return Measured(nodes, packed, power_sums(means), inlet_counts(means), gaps)


@dataclass(frozen=True)
class MakeNodes:
    """The second work: measured node-hours of a bucket -> gold/node_hour, gaps filled and staged, and its sums.

    `history` are files of gold/node_hour of the days before, `held` those of silver/job_node, `transfers` those of
    silver/transfer_interval (None: no port was ever read), `clusters` have accounting. Called with the bucket's nodes,
    its measured node-hours, its service lives and modelled gaps.
    """

    root: Location
    intervals: tuple[DataFile, ...]
    history: tuple[DataFile, ...]
    held: tuple[DataFile, ...]
    clusters: tuple[str, ...]
    coverage_min_ratio: float
    idle_gpu_utilisation_ratio: float
    shared_variance: Mapping[str, float]
    embodied_error_ratio: Mapping[str, float]
    transfers: tuple[DataFile, ...] | None
    interval_s: int

    def __call__(self, inputs: tuple[pl.DataFrame, bytes, pl.DataFrame, pl.DataFrame | None]) -> Made:
        nodes, packed, lives, modelled = inputs
        history = read_files(NODE_HOUR, self.history, HISTORY_COLUMNS, _of(nodes))
        filled = with_imputed(pl.read_ipc(packed), history, modelled)
        hours = node_hours(filled, self.coverage_min_ratio)
        accounted = pl.col("cluster_id").is_in(self.clusters)
        mine = accounted & _of(nodes)
        held = read_files(JOB_NODE, self.held, ("site_id", *HOLDING_COLUMNS), mine)
        job_hours, split = split_nodes(
            read_files(INTERVAL, self.intervals if self.clusters else (), SPLIT_COLUMNS, mine),
            hours.filter(accounted), held,
            roll(nodes.to_arrow()), self.idle_gpu_utilisation_ratio,
        )  # fmt: skip
        rows = with_job_idle(hours, split).sort(NODE_HOUR.key)
        embodied = with_node_embodied(rows, lives, self.embodied_error_ratio)
        made = Made(
            node_hours=tuple(stage(self.root, NODE_HOUR, rows)),
            sums={by: group_parts(rows, by, self.shared_variance) for by in GROUPS},
            owners=owner_parts(rows, split if self.clusters else None),
            embodied=embodied_parts(embodied),
            job_hours=with_node_figures(job_hours, embodied),
        )
        if self.transfers is None:
            return made
        moved = read_files(TRANSFER_INTERVAL, self.transfers, TRANSFER_COLUMNS, _of(nodes))
        return replace(
            made,
            transfers=transfer_parts(rows, moved, self.coverage_min_ratio),
            job_transfers=run_parts(held, moved, self.interval_s),
        )


def _together(parts: Iterable[pl.DataFrame | None]) -> pl.DataFrame | None:
    """The parts of all buckets; None where none has any."""
    known = [part for part in parts if part is not None]
    return pl.concat(known) if known else None


def _of(nodes: pl.DataFrame) -> pl.Expr:
    """Whether a row is of one of these nodes or of their chassis."""
    names = pl.concat_list("node_id", "chassis_id")
    sites = nodes.group_by("site_id").agg(names.explode().drop_nulls().unique().sort()).sort("site_id")
    return pl.any_horizontal(
        pl.lit(value=False),
        *((pl.col("site_id") == site) & pl.col("node_id").is_in(ids) for site, ids in sites.iter_rows()),
    )


def accounted_clusters(context: StageContext) -> list[str]:
    """Return the clusters of which a run is known within the longest run before the days: they have accounting."""
    longest_d = round(context.settings.attribution.longest_run_d)
    within = Days(context.days.start - timedelta(days=longest_d), context.days.end)
    runs = context.lake.read(JOB_RUN, within, columns=["cluster_id"])
    return sorted(runs["cluster_id"].unique().to_list())


def modelled_gaps(context: StageContext, gaps: pl.DataFrame) -> tuple[pl.DataFrame | None, tuple[str, ...]]:
    """Rows of gap_features -> what the model says of the gap, None without a model or such an hour; and notes.

    Result: the node-hour's key, `model_kwh` and `model_sigma_kwh` of the uncovered seconds. The error is the model's
    forward CV(RMSE); without it none is asked. A day that was made before takes the version recorded for it, else the
    champion's. Where the registry does not answer no gap takes the model: `imputation_basis` says so in every hour.
    Source: docs/definitions.md section 8.
    """
    settings = context.settings
    if settings.model.device != "node" or gaps.is_empty():
        return None, ()
    registry = Registry.of(settings.mlflow)
    try:
        days_of = _days_by_version(context, registry)
        models = {
            version: registry.verified_model(settings.model.name, version=version) for version in days_of
        }
    except RegistryError as error:
        context.lake.inputs[f"model/{settings.model.name}"] = UNANSWERED
        return None, (f"gaps are filled without {settings.model.name}: {error}",)
    found = [
        _by_model(context, gaps.filter(pl.col("hour_start").dt.date().is_in(days)), models[version])
        for version, days in days_of.items()
    ]
    known = [rows for rows in found if rows is not None]
    return pl.concat(known) if known else None, ()


def _days_by_version(context: StageContext, registry: Registry) -> dict[str, list[date]]:
    """Model version -> its days: the recorded one of a day that was made before, if any, else the champion's."""
    name = context.settings.model.name
    recorded = recorded_models(context.lake, name, context.days)
    champion = registry.champion(name) if set(context.days) - set(recorded) else None
    days_of: dict[str, list[date]] = {}
    for day in context.days:
        version = recorded.get(day, champion.version if champion else None)
        if version is not None:
            days_of.setdefault(version, []).append(day)
    return days_of


def _by_model(context: StageContext, gaps: pl.DataFrame, model: VerifiedModel) -> pl.DataFrame | None:
    """What one version says of these gaps; None where it does not state its forward error."""
    error = float(model.version.tags.get(FORWARD_ERROR_TAG, "nan"))
    if not error > 0:
        return None
    context.lake.inputs[f"model/{model.version.name}"] = int(model.version.version)
    predicted = pl.Series("model_kwh", model.predict(gaps.to_pandas()), dtype=pl.Float64)
    filled = gaps.with_columns(predicted * (gaps["gap_s"] / SECONDS_PER_HOUR)).filter(
        pl.col("model_kwh") >= 0
    )
    return filled.select(*NODE_HOUR_KEY, "model_kwh", (pl.col("model_kwh") * error).alias("model_sigma_kwh"))


def _meter_hours(context: StageContext) -> pl.DataFrame:
    """Intervals of facility meters -> energy and coverage of every expected hour of a meter."""
    lake, days = context.lake, context.days
    return meter_hours(lake.read(METER), lake.read(FACILITY_INTERVAL, days), days, _limit(context))


def _carriers(context: StageContext, meters: pl.DataFrame) -> pl.DataFrame:
    """Hours of all meters and the litres of fuel -> what other carriers than electricity brought into each site."""
    lake, days, weights = context.lake, context.days, context.settings.facility.carriers
    fuel = site_volumes(
        boundary_fuel(lake.read(METER)),
        lake.read(VOLUME_INTERVAL, days),
        "fuel",
        "fuel_l",
        days,
        _limit(context),
    )
    by_kwh = {"heat": weights.heat_ratio, "cooling": weights.cooling_ratio} | dict.fromkeys(BURNT, 1.0)
    return site_carriers(meters, fuel, by_kwh, weights.fuel_kwh_per_l)


def _site_base(
    context: StageContext, fleet: Fleet, meters: pl.DataFrame, carriers: pl.DataFrame
) -> pl.DataFrame:
    """Sums of nodes, meter-hours and weather -> energy and PUE of every site-hour, before the ledger."""
    sums = group_sums(fleet.sums[_SITE_HOUR], _SITE_HOUR, _limit(context))
    weather = context.lake.read(WEATHER_HOUR, context.days).drop("date")
    rows = with_pue(sums, site_meters(meters), carriers, context.settings.facility.pue_assumed)
    return rows.join(weather, on=_HOUR, how="left")


def _site_hours(context: StageContext, site_base: pl.DataFrame, book: ledger.Ledger) -> pl.DataFrame:
    """Site-hours with the ledger's sources and overheads, and modelled facility energy where no meter says it."""
    rows = site_base.join(book.site_columns(), on=_HOUR, how="left")
    filled = [
        with_modelled_overhead(rows.filter(pl.col("date") == day), fits_of(context.lake, day)[0])
        for day in context.days
    ]
    return pl.concat(filled)


def _sensed_hours(context: StageContext, fleet: Fleet) -> pl.DataFrame:
    """What the nodes say of every cluster-hour: energy, coverage, utilisation, peak and inlet temperature."""
    sums = group_sums(fleet.sums[_CLUSTER_HOUR], _CLUSTER_HOUR, _limit(context))
    return with_inlet_p99(with_peak_power(sums, fleet.power), fleet.inlets, "hour_start")


def _cluster_hours(
    context: StageContext,
    sensed: pl.DataFrame,
    embodied: pl.DataFrame,
    site_hours: pl.DataFrame,
    intensity: pl.DataFrame,
    sources: pl.DataFrame,
    factors: FactorSet,
) -> pl.DataFrame:
    """Hours of clusters by their nodes, site-hours and grid -> efficiency and carbon of every cluster-hour."""
    placed = with_overhead(with_shared_it(sensed, site_hours), site_hours)
    error = intensity_error(factors, context.days.end)
    located = location_emissions(placed, intensity, sources, error)
    marketed = market_emissions(located, _mixes_of_run(context, factors, located), error)
    water = site_volume(context, "water", "water_l")
    whole = with_water(with_embodied(marketed, embodied_hours(embodied)), water)
    aged = _with_factor_state(context, factors, whole)
    return rows_of(CLUSTER_HOUR, aged.with_columns(pl.lit("provisional").alias("status")))


def _with_factor_state(context: StageContext, factors: FactorSet, hours: pl.DataFrame) -> pl.DataFrame:
    """Add how old the factors of each day are, and which tables have none for it."""
    carbon, grid = context.settings.carbon, context.settings.grid
    zone = grid.zone if grid else None
    states = [
        pl.select(pl.lit(day).alias("date"), *factor_columns(used_factors(factors, carbon, zone, day)))
        for day in context.days
    ]
    return hours.join(pl.concat(states), on="date", how="left")


def _sources(
    context: StageContext, site_hours: pl.DataFrame, carriers: pl.DataFrame, factors: FactorSet
) -> pl.DataFrame:
    """What of each site-hour came from the grid, and what was burnt (source_ratios)."""
    rows = site_hours.join(site_volume(context, "fuel", "fuel_l"), on=_HOUR, how="left")
    burnt = carriers.select(*_HOUR, "burnt_kwh")
    return source_ratios(rows.join(burnt, on=_HOUR, how="left"), _generators(context, factors))


def _cluster_days(context: StageContext, fleet: Fleet, cluster_hours: pl.DataFrame) -> pl.DataFrame:
    """Node-hours and cluster-hours -> the day of every cluster."""
    limit = _limit(context)
    sums = group_sums(fleet.sums[_CLUSTER_DAY], _CLUSTER_DAY, limit)
    rows = with_inlet_p99(with_facility_days(sums, facility_days(cluster_hours, limit)), fleet.inlets, "date")
    emitted = rows.join(emission_days(cluster_hours, limit), on=_CLUSTER_DAY, how="left")
    return rows_of(CLUSTER_DAY, emitted.with_columns(pl.lit("provisional").alias("status")))


def write_jobs(
    context: StageContext,
    job_hours: pl.DataFrame,
    cluster_hours: pl.DataFrame,
    cluster_costs: pl.DataFrame | None = None,
    transfers: pl.DataFrame | None = None,
) -> list[Written]:
    """Write gold/job_energy and gold/tenant_day of the days.

    `job_hours` are of with_node_figures, `cluster_hours` and `cluster_costs` rows of gold/cluster_hour and
    gold/cluster_cost, `transfers` are of run_parts.
    """
    lake, days, limit = context.lake, context.days, _limit(context)
    runs = lake.read(JOB_RUN, days)
    made = job_energy(job_hours, cluster_hours, runs, cluster_costs, limit)
    told = with_transfer(made, transfers, limit, context.settings.energy.transfer_kwh_per_gbyte)
    jobs = with_sci(told, _days_before(context, runs), runs)
    tenants = tenant_day(jobs, limit)
    return [
        lake.replace(table, days, with_status(context, table, rows), allow_empty=True)
        for table, rows in ((JOB_ENERGY, jobs), (TENANT_DAY, tenants))
    ]


def _days_before(context: StageContext, runs: pl.DataFrame) -> pl.DataFrame:
    """Rows of gold/job_energy, of the days before, of the runs that began there and have ended."""
    first = context.days.start
    began = runs.filter(pl.col("start_time") < context.days.from_time, pl.col("end_time").is_not_null())
    since = began["start_time"].dt.date().min()
    if not isinstance(since, date):
        return pl.DataFrame(arrow_schema(JOB_ENERGY).empty_table()).select(SCI_COLUMNS)
    ids = pc.field("job_id").isin(began["job_id"].unique().sort().to_list())
    before = Days(since, first - timedelta(days=1))
    return context.lake.read(JOB_ENERGY, before, columns=SCI_COLUMNS, where=ids)


def _intensity(context: StageContext) -> pl.DataFrame:
    """Direct average intensity of the site's zone by the hour; no rows where no grid is set."""
    grid = context.settings.grid
    zone, flow = (grid.zone, grid.flow) if grid else (None, "consumption")
    return hourly_intensity(context.lake.read(GRID_HOUR, context.days), zone, flow)


def _shared_variance(factors: FactorSet, days: Days) -> dict[str, float]:
    """By sensor class, the share of a gain error's variance that sensors of one make have in common."""
    classes = sensor_classes(factors, days.end)
    return {name: one.shared_variance_ratio for name, one in classes.items()}


def _limit(context: StageContext) -> float:
    return context.settings.energy.coverage_min_ratio


def site_volume(context: StageContext, carrier: str, name: str) -> pl.DataFrame:
    """Litres of one carrier (water, fuel) of each site-hour: site_id, hour_start, `name`."""
    lake, days = context.lake, context.days
    volumes = lake.read(VOLUME_INTERVAL, days)
    return site_volumes(lake.read(METER), volumes, carrier, name, days, _limit(context))


def market_year(context: StageContext) -> Written:
    """gold/cluster_day and instruments -> gold/market_year of the run's years: matched volumes and what is left."""
    return context.lake.swapped([MARKET_YEAR], lambda: _market_year(context))


def _market_year(context: StageContext) -> Written:
    lake, factors = context.lake, site_factors(context.settings.carbon)
    years = {day.year for day in context.days}
    kept = [row for row in lake.read(MARKET_YEAR).to_dicts() if row["reporting_year"] not in years]
    made = []
    for year in sorted(years):
        days = lake.read(CLUSTER_DAY, Days(date(year, 1, 1), date(year, 12, 31)))
        last = days["date"].max()
        if isinstance(last, date):
            until = datetime.combine(last + timedelta(days=1), time(), UTC)
            mix = _mix(context, factors, year, days, until)
            if mix is not None:
                made += market_rows(mix, context.settings.site.site_id, "provisional")
    return lake.overwrite(MARKET_YEAR, pa.Table.from_pylist([*kept, *made], schema=arrow_schema(MARKET_YEAR)))


def _mixes_of_run(context: StageContext, factors: FactorSet, hours: pl.DataFrame) -> list[MarketMix]:
    """The mix of each reporting year of the run, by the consumption up to its last day and no later one.

    So a day made again alone takes what it took the first time.
    """
    days, mixes = context.days, []
    for year in sorted({day.year for day in days}):
        first = date(year, 1, 1)
        drawn = hours.filter(pl.col("hour_start").dt.year() == year).select("grid_import_kwh")
        if days.start > first:
            before = context.lake.read(CLUSTER_DAY, Days(first, days.start - timedelta(days=1)))
            drawn = pl.concat([drawn, before.select("grid_import_kwh")])
        mix = _mix(context, factors, year, drawn, days.until_time)
        if mix is not None:
            mixes.append(mix)
    return mixes


def _mix(
    context: StageContext, factors: FactorSet, year: int, drawn: pl.DataFrame, until: datetime
) -> MarketMix | None:
    """The mix by the year's hours or days with `grid_import_kwh`; see carbon.market.mix_of."""
    settings, grid = context.settings, context.settings.grid
    instruments = context.lake.read(INSTRUMENT).to_dicts()
    return mix_of(settings.carbon, grid.zone if grid else None, factors, instruments, year, drawn, until)


def _generators(context: StageContext, factors: FactorSet) -> GeneratorFactor | None:
    carbon, on = context.settings.carbon, context.days.end
    if carbon.generator_fuel is None:
        return None
    try:
        by_litre = fuel_kgco2e(carbon.generator_fuel, 1.0, factors, carbon.gwp_set, on)
    except MissingFactorError:
        by_litre = None
    by_kwh = factors.find("generator", valid_on=on, fuel=carbon.generator_fuel)
    return GeneratorFactor(by_litre, by_kwh.to("kg/kWh") if by_kwh else None)


# An invoice that says otherwise than the last check of its month makes the month anew.
_OF_INVOICE: Final = ("first_day", "last_day", "invoice_id", "invoice_kwh", "invoice_cost")


def run_bill(context: StageContext) -> list[Written]:
    """Costs of the context's days and the months that they, or changed invoices, touch; nothing without both files.

    Raises ConfigurationError for a wrong tariff or invoice file.
    """
    settings, lake = context.settings, context.lake
    if settings.tariff.file is None and settings.billing.invoices is None:
        return []
    tariff = _tariff(settings)
    written = [lake.overwrite(TARIFF, tariff)]
    if tariff.num_rows:
        written += _hourly(context, tariff)
    invoices = read_invoices(settings.billing.invoices) if settings.billing.invoices else {}
    return written + lake.swapped([BILL_CHECK, COST_MONTH], lambda: _monthly(context, tariff, invoices))


def _monthly(context: StageContext, tariff: pa.Table, invoices: dict[str, Invoice]) -> list[Written]:
    """gold/bill_check and gold/cost_month of the months that the days touch, of all their days."""
    settings, lake, days = context.settings, context.lake, context.days
    months = sorted(_months(lake, days, invoices, settings))
    rows = [_month(lake, settings, tariff, month, invoices.get(month)) for month in months]
    checks, clusters = [check for check, _ in rows], [row for _, found in rows for row in found]
    return [lake.replace_keyed(BILL_CHECK, checks), lake.replace_keyed(COST_MONTH, clusters)]


def _tariff(settings: Settings) -> pa.Table:
    if settings.tariff.file is None:
        return arrow_schema(TARIFF).empty_table()
    return read_tariff(settings.tariff.file, settings.site.site_id)


def _hourly(context: StageContext, tariff: pa.Table) -> list[Written]:
    """gold/site_cost and gold/cluster_cost of the days."""
    lake, days = context.lake, context.days
    site_hours = _own(lake.arrow(SITE_HOUR, days), context.settings)
    costs = site_costs(_meters(lake, context.settings, days), tariff, site_hours)
    clusters = cluster_costs(costs, site_hours, _own(lake.arrow(CLUSTER_HOUR, days), context.settings))
    return [
        lake.replace(table, days, rows, allow_empty=True)
        for table, rows in ((SITE_COST, costs), (CLUSTER_COST, clusters))
    ]


def _month(
    lake: Lake, settings: Settings, tariff: pa.Table, month: str, invoice: Invoice | None
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """The month's row of gold/bill_check and its rows of gold/cost_month."""
    start, end = period_of(month, invoice, settings.site.timezone)
    days = Days(start.date(), end.date())
    cost = month_cost(_meters(lake, settings, days), tariff, start, end)
    currency = currency_of(tariff)
    site_id = settings.site.site_id
    check = bill_check(site_id, month, cost, currency, invoice, settings.billing.tolerance_ratio)
    if currency is None:
        return check, []
    keys = ["site_id", "cluster_id", "hour_start"]
    energy = pl.DataFrame(_own(lake.arrow(CLUSTER_HOUR, days), settings)).select(*keys, "facility_energy_kwh")
    priced = pl.DataFrame(lake.arrow(CLUSTER_COST, days)).select(*keys, "energy_cost", "cost_basis")
    hours = energy.join(priced, on=keys, how="left").filter(
        (pl.col("hour_start") >= start) & (pl.col("hour_start") < end)
    )
    return check, cluster_months(month, cost, hours, currency, len(bucket_starts(start, end, HOUR_S)))


def _months(lake: Lake, days: Days, invoices: dict[str, Invoice], settings: Settings) -> set[str]:
    """Months that the days touch in the site's zone or by an invoice's period, and those whose invoice changed."""
    zone, instant = settings.site.zone, timedelta(microseconds=1)
    local = Days(days.from_time.astimezone(zone).date(), (days.until_time - instant).astimezone(zone).date())
    checked = {row["month"]: row for row in lake.arrow(BILL_CHECK).to_pylist()}
    return {f"{day:%Y-%m}" for day in local} | {
        month
        for month, one in invoices.items()
        if (one.period[0] <= local.end and one.period[1] >= local.start)
        or _invoice_values(one) != _values_checked(checked.get(month))
    }


def _invoice_values(invoice: Invoice) -> tuple[object, ...]:
    return (*invoice.period, invoice.invoice_id, invoice.invoice_kwh, invoice.invoice_cost)


def _values_checked(row: dict[str, object] | None) -> tuple[object, ...] | None:
    return tuple(row[name] for name in _OF_INVOICE) if row else None


def _meters(lake: Lake, settings: Settings, days: Days) -> Meters:
    return Meters(
        _own(lake.arrow(METER), settings),
        _own(lake.arrow(FACILITY_INTERVAL, days), settings),
        settings.site.timezone,
        settings.energy.coverage_min_ratio,
    )


def _own(rows: pa.Table, settings: Settings) -> pa.Table:
    return rows.filter(pc.equal(rows["site_id"], settings.site.site_id))
