"""Hours of jobs -> energy, emissions, water and cost of each run and of each tenant on a UTC day."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.attribution.runs import WASTED_OUTCOMES
from lepton_etl.energy.exact_sums import FINE_DIGITS, exact_sum, over, quotient, rows_of, whole_sum
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM, JOULES_PER_KWH, SECONDS_PER_HOUR
from lepton_etl.schema.jobs import JOB_ENERGY, RUN_KEY, TENANT_DAY

UNKNOWN_TENANT: Final = "_unknown"
# Of a cluster-hour, by its IT energy: an hour's job takes its part of each of them.
SHARED_FIGURES: Final = (
    "facility_energy_kwh", "emissions_location_kgco2e", "emissions_location_lower_kgco2e",
    "emissions_location_upper_kgco2e", "emissions_upstream_kgco2e", "emissions_market_kgco2e", "water_l",
)  # fmt: skip
_ENDS: Final = ("it_energy_lower_kwh", "it_energy_upper_kwh")
_RATED: Final = (*SHARED_FIGURES, "energy_cost")
_CLUSTER_HOUR: Final = ("site_id", "cluster_id", "hour_start")
_NODE_HOUR: Final = (*_CLUSTER_HOUR, "node_id")
_RUN_DAY: Final = (*RUN_KEY, "date")
_SUMS: Final = (
    "dynamic_kwh", "static_kwh", "static_usage_kwh", "static_equal_kwh", "imputed_kwh",
    "idle_gpu_kwh", "gpu_held_h", "held_s", "covered_s",
)  # fmt: skip
# A job that holds this much of every node while it holds it is alone there.
_EXCLUSIVE_RATIO: Final = 0.999
# From the firmest ground to the weakest; a day stands on the weakest of its hours.
_BASIS_ORDER: Final = ("none", "devices", "count", "cores")


def with_node_figures(job_hours: pl.DataFrame, node_hours: pl.DataFrame) -> pl.DataFrame:
    """Add to job_hours what is the node's: `node_embodied_kgco2e`, and the ends of its energy as shares of it.

    `node_hours` are rows of gold/node_hour with `embodied_kgco2e`. A node's error is its sensor's gain above all: every
    job on it is wrong by the same share at the same time.
    """
    ends = [quotient(pl.col(name), pl.col("it_energy_kwh")).alias(f"_{name}") for name in _ENDS]
    figures = node_hours.select(*_NODE_HOUR, pl.col("embodied_kgco2e").alias("node_embodied_kgco2e"), *ends)
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
    so is the IT energy below `limit` of covered time. SCI = location-based operational + embodied emissions, per run;
    data-centre overhead is in it, market-based measures are not.
    Source: definitions of the project, sections 5 and 6; Green Software Foundation, SCI 1.0.
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
            whole_sum(pl.col("node_embodied_kgco2e") * share, share > 0, FINE_DIGITS).alias("embodied_kgco2e"),
            exact_sum(share, FINE_DIGITS).alias("node_held_h"),
            pl.col("tenant_id", "outcome", "currency").max(),
            basis.to_physical().max().alias("_basis"),
            pl.col("node_id").n_unique().alias("node_count"),
        )
    )  # fmt: skip
    total, covered = pl.col("dynamic_kwh") + pl.col("static_kwh"), _is_covered(limit)
    emitted_kg = pl.col("emissions_location_kgco2e") + pl.col("embodied_kgco2e")
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
            (emitted_kg * GRAMS_PER_KILOGRAM).alias("sci_gco2e_per_job"),
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


def tenant_day(jobs: pl.DataFrame, limit: float) -> pl.DataFrame:
    """gold/job_energy -> gold/tenant_day: the three rules side by side, and figures per job and GPU-hour.

    Jobs without a tenant are those of `_unknown`.
    """
    unit_sums = ("gpu_held_h", "node_held_h", "held_s", "covered_s", "imputed_kwh", "dynamic_kwh",
                 "static_kwh", "_usage", "_equal", "wasted_energy_kwh")  # fmt: skip
    # Ends are added: gains of sensors and errors of factors are the same for all jobs of a tenant.
    whole = (*SHARED_FIGURES, *_ENDS, "embodied_kgco2e", "energy_cost")
    parts = pl.col("dynamic_kwh") + pl.col("static_kwh")
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
            (emitted_g / pl.col("job_count")).alias("sci_gco2e_per_job"),
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
            pl.lit(None, pl.Float64).alias("energy_cost"), pl.lit(None, pl.String).alias("currency")
        )
    else:
        paid = costs.select(*_CLUSTER_HOUR, "energy_cost", "currency")
        rows = cluster_hours.join(paid, on=_CLUSTER_HOUR, how="left")
    per_kwh = [quotient(pl.col(name), pl.col("it_energy_kwh")).alias(f"_{name}") for name in _RATED]
    return rows.select(*_CLUSTER_HOUR, *per_kwh, "currency")


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
