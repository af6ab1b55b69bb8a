"""Hours of jobs -> energy, emissions, water and cost of each run and of each tenant on a UTC day."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.energy.exact_sums import FINE_DIGITS, exact_sum, over, quotient, rows_of, whole_sum
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM, JOULES_PER_KWH, SECONDS_PER_HOUR, end_names
from lepton_etl.schema.energy import CARBON_ENDS
from lepton_etl.schema.jobs import (
    FACILITY_ENDS,
    FACTOR_STATE,
    JOB_ENERGY,
    RUN_KEY,
    TENANT_DAY,
    WASTED_OUTCOMES,
)

UNKNOWN_TENANT: Final = "_unknown"
# Of a cluster-hour, by its IT energy: an hour's job takes its part of each of them.
SHARED_FIGURES: Final = (
    "facility_energy_kwh", "emissions_location_kgco2e", "emissions_location_lower_kgco2e",
    "emissions_location_upper_kgco2e", "emissions_upstream_kgco2e", "emissions_market_kgco2e", "water_l",
    *FACILITY_ENDS, *(end for end in CARBON_ENDS if end not in end_names("embodied_kgco2e")),
)  # fmt: skip
_COST: Final = ("energy_cost", *end_names("energy_cost"))
_EMBODIED: Final = ("embodied_kgco2e", *end_names("embodied_kgco2e"))
_ENDS: Final = ("it_energy_lower_kwh", "it_energy_upper_kwh")
_RATED: Final = (*SHARED_FIGURES, *_COST)
_CLUSTER_HOUR: Final = ("site_id", "cluster_id", "hour_start")
_NODE_HOUR: Final = (*_CLUSTER_HOUR, "node_id")
_RUN_DAY: Final = (*RUN_KEY, "date")
_SUMS: Final = (
    "dynamic_kwh", "static_kwh", "static_usage_kwh", "static_equal_kwh", "imputed_kwh",
    "idle_gpu_kwh", "gpu_held_h", "held_s", "covered_s",
)  # fmt: skip
# What a day adds to the SCI of its run.
SCI_COLUMNS: Final = (*_RUN_DAY, "emissions_location_kgco2e", "embodied_kgco2e")
# A job that holds this much of every node while it holds it is alone there.
_EXCLUSIVE_RATIO: Final = 0.999
# What transfer.with_transfer adds.
_TRANSFER: Final = ("data_transferred_byte", "transfer_energy_kwh", "transfer_basis")
# From the firmest ground to the weakest; a day stands on the weakest of its hours.
_BASIS_ORDER: Final = ("none", "devices", "count", "cores")


def with_node_figures(job_hours: pl.DataFrame, node_hours: pl.DataFrame) -> pl.DataFrame:
    """Add to job_hours what is the node's: `node_embodied_kgco2e`, and the ends of its energy as shares of it.

    `node_hours` are rows of gold/node_hour with `embodied_kgco2e`. A node's error is its sensor's gain above all: every
    job on it is wrong by the same share at the same time.
    """
    ends = [quotient(pl.col(name), pl.col("it_energy_kwh")).alias(f"_{name}") for name in _ENDS]
    mass = [pl.col(name).alias(f"node_{name}") for name in _EMBODIED]
    figures = node_hours.select(*_NODE_HOUR, *mass, *ends)
    return job_hours.join(figures, on=_NODE_HOUR, how="left")


def job_energy(
    job_hours: pl.DataFrame,
    cluster_hours: pl.DataFrame,
    runs: pl.DataFrame,
    cluster_costs: pl.DataFrame | None,
    limit: float,
) -> pl.DataFrame:
    """job_hours (one row a job, node and hour, by `with_node_figures`) -> gold/job_energy.

    `cluster_hours` has the columns of gold/cluster_hour: what an hour of the cluster emits, draws, drinks goes to its
    jobs by their IT energy; embodied carbon goes by the reserved share. `runs` are rows of silver/job_run,
    `cluster_costs` of gold/cluster_cost (None: no tariff). A figure that an hour with energy lacks is null for the day;
    so is the IT energy below `limit` of covered time. The SCI is null: `with_sci` adds it.
    Source: definitions of the project, sections 5 and 6.
    """
    energy, share = pl.col("dynamic_kwh") + pl.col("static_kwh"), pl.col("reserved_share_ratio")
    basis = pl.col("attribution_basis").cast(pl.Enum(_BASIS_ORDER))
    day = (
        job_hours.join(_rates(cluster_hours, cluster_costs), on=_CLUSTER_HOUR, how="left")
        .group_by(_RUN_DAY)
        .agg(
            *(exact_sum(pl.col(name), FINE_DIGITS).alias(name) for name in _SUMS),
            _of_read_boards(),
            *(
                whole_sum(energy * pl.col(f"_{name}"), energy > 0, FINE_DIGITS).alias(name)
                for name in (*_RATED, *_ENDS)
            ),
            *(
                whole_sum(pl.col(f"node_{name}") * share, share > 0, FINE_DIGITS).alias(name) for name in _EMBODIED
            ),
            exact_sum(share, FINE_DIGITS).alias("node_held_h"),
            pl.col("tenant_id", "outcome", "currency").max(),
            pl.col(FACTOR_STATE).drop_nulls().first(),
            basis.to_physical().max().alias("_basis"),
            pl.col("node_id").n_unique().alias("node_count"),
        )
    )  # fmt: skip
    total, covered = pl.col("dynamic_kwh") + pl.col("static_kwh"), _is_covered(limit)
    rows = (
        _with_basis(day, limit)
        .with_columns(
            pl.when(covered).then(total).alias("it_energy_kwh"),
            pl.when(covered).then(pl.col("dynamic_kwh") + pl.col("static_usage_kwh")).alias("it_energy_usage_kwh"),
            pl.when(covered).then(pl.col("dynamic_kwh") + pl.col("static_equal_kwh")).alias("it_energy_equal_kwh"),
            *(pl.when(covered).then(name).alias(name) for name in _ENDS),
            pl.when(pl.col("outcome").is_in(WASTED_OUTCOMES))
            .then(total)
            .otherwise("idle_gpu_kwh")
            .alias("wasted_energy_kwh"),
            quotient(pl.col("node_held_h") * SECONDS_PER_HOUR, pl.col("held_s"))
            .clip(upper_bound=1.0)
            .alias("reserved_share_ratio"),
            pl.col("_basis").replace_strict(dict(enumerate(_BASIS_ORDER)), default=None, return_dtype=pl.String)
            .alias("attribution_basis"),
            pl.lit(None, pl.Float64).alias("sci_gco2e_per_job"),
            pl.lit("unknown").alias("sci_basis"),
            *(pl.lit(None).alias(name) for name in _TRANSFER),
            pl.lit("provisional").alias("status"),
        )
        .join(_of_scheduler(runs), on=_RUN_DAY, how="left")
        .with_columns(
            pl.when(pl.col("reserved_share_ratio") >= _EXCLUSIVE_RATIO).then("_scheduler").alias("scheduler_energy_kwh")
        )
        .with_columns(
            quotient(pl.col("scheduler_energy_kwh"), pl.col("it_energy_kwh")).alias("scheduler_energy_ratio")
        )
    )  # fmt: skip
    return rows_of(JOB_ENERGY, rows)


def with_sci(jobs: pl.DataFrame, before: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """Give each run of gold/job_energy its SCI, once: on the row of the day on which it ended, of all its days.

    SCI = (location-based operational + embodied emissions of all days) / 1 run; data-centre overhead is in it,
    market-based measures are not. `before` are rows of the days before those of `jobs`, `runs` of silver/job_run.
    `sci_basis`: complete; running where the run goes on after the day; unknown where one of its days lacks a figure.
    Source: definitions of the project, section 6; ISO/IEC 21031, SCI = (E I + M) / R.
    """
    emitted_g = (pl.col("emissions_location_kgco2e") + pl.col("embodied_kgco2e")) * GRAMS_PER_KILOGRAM
    facts = [*_RUN_DAY, emitted_g.alias("_g")]
    # A run that ends at midnight did nothing on the day that begins then.
    last = pl.max_horizontal("start_time", pl.col("end_time") - pl.duration(microseconds=1)).dt.date()
    spans = runs.select(
        *_RUN_DAY, pl.col("start_time").dt.date().alias("_first"),
        pl.when(pl.col("end_time").is_not_null()).then(last).alias("_last"),
    ).unique(_RUN_DAY, keep="first")  # fmt: skip
    ends = jobs.select(_RUN_DAY).join(spans, on=_RUN_DAY, how="left")
    is_last = pl.col("date") == pl.col("_last")
    days = pl.concat([before.select(facts), jobs.select(facts)]).rename({"date": "_day"})
    whole = (
        ends.filter(is_last)
        .join(days, on=RUN_KEY, how="inner")
        .filter(pl.col("_day").is_between("_first", "_last"))
        .group_by(_RUN_DAY)
        .agg(
            whole_sum(pl.col("_g"), digits=FINE_DIGITS).alias("_sci"),
            (pl.len() == (pl.col("_last") - pl.col("_first")).dt.total_days().first() + 1).alias("_is_whole"),
        )
    )
    sci = pl.when("_is_whole").then("_sci")
    basis = (
        pl.when(sci.is_not_null()).then(pl.lit("complete"))
        .when(is_last.fill_null(value=False)).then(pl.lit("unknown"))
        .otherwise(pl.lit("running"))
    )  # fmt: skip
    rows = jobs.join(ends, on=_RUN_DAY, how="left").join(whole, on=_RUN_DAY, how="left")
    return rows_of(JOB_ENERGY, rows.with_columns(sci.alias("sci_gco2e_per_job"), basis.alias("sci_basis")))


def tenant_day(jobs: pl.DataFrame, limit: float) -> pl.DataFrame:
    """gold/job_energy -> gold/tenant_day: the three rules side by side, and figures per job and GPU-hour.

    Jobs without a tenant are those of `_unknown`. The SCI per job is the mean of the runs that ended on the day, null
    where one of them has none; per GPU-hour it is of what the day emitted and held.
    """
    unit_sums = ("gpu_held_h", "node_held_h", "held_s", "covered_s", "imputed_kwh", "dynamic_kwh",
                 "static_kwh", "_usage", "_equal", "wasted_energy_kwh")  # fmt: skip
    # Ends are added: gains of sensors and errors of factors are the same for all jobs of a tenant.
    whole = (*SHARED_FIGURES, *_ENDS, *_EMBODIED, *_COST)
    parts = pl.col("dynamic_kwh") + pl.col("static_kwh")
    has_ended = pl.col("sci_basis") != "running"
    sums = (
        jobs.with_columns(
            pl.col("tenant_id").fill_null(UNKNOWN_TENANT),
            pl.coalesce("it_energy_usage_kwh", parts).alias("_usage"),
            pl.coalesce("it_energy_equal_kwh", parts).alias("_equal"),
        )
        .group_by("site_id", "cluster_id", "tenant_id", "date")
        .agg(
            *(exact_sum(pl.col(name), FINE_DIGITS).alias(name) for name in unit_sums),
            _of_read_boards(),
            *(whole_sum(pl.col(name), digits=FINE_DIGITS).alias(name) for name in whole),
            pl.len().alias("job_count"),
            pl.col("currency").max(),
            quotient(
                whole_sum(pl.col("sci_gco2e_per_job"), has_ended, FINE_DIGITS),
                has_ended.sum().cast(pl.Float64),
            ).alias("sci_gco2e_per_job"),
            pl.col(FACTOR_STATE).drop_nulls().first(),
        )
    )
    rules = ("it_energy_kwh", "it_energy_usage_kwh", "it_energy_equal_kwh")
    shares: tuple[pl.Expr | str, ...] = (parts, "_usage", "_equal")
    spread = pl.max_horizontal(rules) - pl.min_horizontal(rules)
    emitted_g = (pl.col("emissions_location_kgco2e") + pl.col("embodied_kgco2e")) * GRAMS_PER_KILOGRAM
    covered = _is_covered(limit)
    rows = (
        _with_basis(sums, limit)
        .with_columns(
            *(pl.when(covered).then(value).alias(name) for name, value in zip(rules, shares, strict=True)),
            *(pl.when(covered).then(name).alias(name) for name in _ENDS),
        )
        .with_columns(
            quotient(spread, pl.col("it_energy_kwh")).alias("rule_spread_ratio"),
            quotient(emitted_g, pl.col("gpu_held_h")).alias("sci_gco2e_per_gpu_hour"),
            pl.lit("provisional").alias("status"),
        )
    )
    return rows_of(TENANT_DAY, rows)


def _of_read_boards() -> pl.Expr:
    """`gpu_energy_kwh` of the boards that were read; null where GPUs were held and none was."""
    energy = pl.col("gpu_energy_kwh")
    unread = energy.is_null().any() & (energy.sum() == 0)
    return pl.when(~unread).then(exact_sum(energy, FINE_DIGITS)).alias("gpu_energy_kwh")


def _rates(cluster_hours: pl.DataFrame, costs: pl.DataFrame | None) -> pl.DataFrame:
    """Each figure of a cluster-hour per kWh of its IT energy, as `_<figure>`; without a tariff the cost is unknown."""
    if costs is None:
        rows = cluster_hours.with_columns(
            *(pl.lit(None, pl.Float64).alias(name) for name in _COST),
            pl.lit(None, pl.String).alias("currency"),
        )
    else:
        paid = costs.select(*_CLUSTER_HOUR, *_COST, "currency")
        rows = cluster_hours.join(paid, on=_CLUSTER_HOUR, how="left")
    per_kwh = [quotient(pl.col(name), pl.col("it_energy_kwh")).alias(f"_{name}") for name in _RATED]
    return rows.select(*_CLUSTER_HOUR, *per_kwh, "currency", *FACTOR_STATE)


def _is_covered(limit: float) -> pl.Expr:
    return pl.col("coverage_ratio") >= limit


def _with_basis(rows: pl.DataFrame, limit: float) -> pl.DataFrame:
    """Add coverage_ratio and energy_basis."""
    basis = (
        pl.when(pl.col("covered_s") <= 0).then(pl.lit("none"))
        .when(~_is_covered(limit)).then(pl.lit("insufficient"))
        .when(pl.col("imputed_kwh") > 0).then(pl.lit("estimated"))
        .otherwise(pl.lit("measured"))
    )  # fmt: skip
    ratio = quotient(pl.col("covered_s"), pl.col("held_s")).clip(upper_bound=1.0)
    return rows.with_columns(ratio.alias("coverage_ratio")).with_columns(basis.alias("energy_basis"))


def _of_scheduler(runs: pl.DataFrame) -> pl.DataFrame:
    """Of silver/job_run: GPUs of the run, and its plugin's energy where the run lies within the day."""
    within = (pl.col("start_time").dt.date() == pl.col("date")) & (
        pl.col("end_time").dt.date() == pl.col("date")
    )
    energy = pl.when(within).then(over(pl.col("consumed_energy_j"), JOULES_PER_KWH))
    return runs.select(*_RUN_DAY, "gpu_count", energy.alias("_scheduler")).unique(_RUN_DAY, keep="first")
