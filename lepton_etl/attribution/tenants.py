"""Hours of jobs -> energy, emissions, water and cost of each run and of each tenant on a UTC day."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.attribution.runs import WASTED_OUTCOMES
from lepton_etl.schema.columns import FINE_SUM, Transform, conform, exact_sum
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
    "dynamic_kwh", "static_kwh", "static_usage_kwh", "static_equal_kwh", "imputed_kwh", "gpu_energy_kwh",
    "idle_gpu_kwh", "gpu_held_h", "held_s", "covered_s",
)  # fmt: skip
# A job that holds this much of every node while it holds it is alone there.
_EXCLUSIVE_RATIO: Final = 0.999
_BASIS_ORDER: Final = ("none", "devices", "count", "cores")


def job_energy(
    cluster_hours: DataFrame,
    node_hours: DataFrame,
    runs: DataFrame,
    cluster_costs: DataFrame | None,
    limit: float,
) -> Transform:
    """job_hours (one row a job, node and hour) -> gold/job_energy.

    `cluster_hours` has the columns of gold/cluster_hour: what an hour of the cluster emits, draws, drinks goes to its
    jobs by their IT energy. `node_hours` has `embodied_kgco2e` beside the key of gold/node_hour: embodied carbon goes
    by the reserved share. `runs` are rows of silver/job_run, `cluster_costs` of gold/cluster_cost (None: no tariff).
    A figure that an hour with energy lacks is null for the day; so is the IT energy below `limit` of covered time.
    SCI = location-based operational + embodied emissions, per run; data-centre overhead is in it, market-based
    measures are not. Source: definitions of the project, sections 5 and 6; Green Software Foundation, SCI 1.0.
    """
    rates = _rates(cluster_hours, cluster_costs)

    def transform(job_hours: DataFrame) -> DataFrame:
        it_kwh = F.col("dynamic_kwh") + F.col("static_kwh")
        hours = (
            job_hours.join(F.broadcast(rates), list(_CLUSTER_HOUR), how="left")
            .join(node_hours.select(*_NODE_HOUR, *_of_node()), list(_NODE_HOUR), how="left")
            .withColumn("_embodied", F.col("_te") * F.col("reserved_share_ratio"))
        )
        day = hours.groupBy(*_RUN_DAY).agg(
            *(exact_sum(F.col(name), FINE_SUM).alias(name) for name in _SUMS),
            *(_whole(it_kwh * F.col(f"_{name}"), it_kwh > 0).alias(name) for name in (*_RATED, *_ENDS)),
            _whole(F.col("_embodied"), F.col("reserved_share_ratio") > 0).alias("embodied_kgco2e"),
            (exact_sum(F.col("reserved_share_ratio"), FINE_SUM)).alias("node_held_h"),
            F.max("tenant_id").alias("tenant_id"),
            F.max("outcome").alias("outcome"),
            F.max("currency").alias("currency"),
            F.max(_rank(F.col("attribution_basis"))).alias("_basis"),
            F.count_distinct("node_id").alias("node_count"),
        )
        return (
            day.transform(_with_total(limit))
            .join(_of_scheduler(runs), list(_RUN_DAY), how="left")
            .transform(_with_sci_and_check)
            .transform(conform(JOB_ENERGY))
        )

    return transform


def _of_node() -> list[Column]:
    """What an hour of a node gives to its jobs: embodied carbon, and the ends of its energy for each kWh of it.

    A node's error is its sensor's gain above all: every job on it is wrong by the same share at the same time.
    """
    ends = [F.try_divide(F.col(name), F.col("it_energy_kwh")).alias(f"_{name}") for name in _ENDS]
    return [F.col("embodied_kgco2e").alias("_te"), *ends]


def tenant_day(limit: float) -> Transform:
    """gold/job_energy -> gold/tenant_day: the three rules side by side, and figures per job and GPU-hour.

    Jobs without a tenant are those of `_unknown`.
    """
    unit_sums = ("gpu_held_h", "node_held_h", "held_s", "covered_s", "imputed_kwh", "gpu_energy_kwh", "dynamic_kwh",
                 "static_kwh", "_usage", "_equal", "wasted_energy_kwh")  # fmt: skip
    # Ends are added: gains of sensors and errors of factors are the same for all jobs of a tenant.
    whole = (*SHARED_FIGURES, *_ENDS, "embodied_kgco2e", "energy_cost")

    def transform(jobs: DataFrame) -> DataFrame:
        parts = F.col("dynamic_kwh") + F.col("static_kwh")
        named = jobs.withColumns(
            {
                "tenant_id": F.coalesce("tenant_id", F.lit(UNKNOWN_TENANT)),
                "_usage": F.coalesce("it_energy_usage_kwh", parts),
                "_equal": F.coalesce("it_energy_equal_kwh", parts),
            }
        )
        sums = named.groupBy("site_id", "cluster_id", "tenant_id", "date").agg(
            *(exact_sum(F.col(name), FINE_SUM).alias(name) for name in unit_sums),
            *(_whole(F.col(name), F.lit(True)).alias(name) for name in whole),
            F.count(F.lit(1)).alias("job_count"),
            F.max("currency").alias("currency"),
        )
        rules = (F.col("it_energy_kwh"), F.col("it_energy_usage_kwh"), F.col("it_energy_equal_kwh"))
        emitted_g = (F.col("emissions_location_kgco2e") + F.col("embodied_kgco2e")) * GRAMS_PER_KILOGRAM
        return (
            sums.transform(_with_basis(limit))
            .withColumns(
                {
                    "it_energy_kwh": F.when(_is_covered(limit), parts),
                    "it_energy_usage_kwh": F.when(_is_covered(limit), F.col("_usage")),
                    "it_energy_equal_kwh": F.when(_is_covered(limit), F.col("_equal")),
                    **{name: F.when(_is_covered(limit), F.col(name)) for name in _ENDS},
                }
            )
            .withColumns(
                {
                    "rule_spread_ratio": F.try_divide(F.greatest(*rules) - F.least(*rules), rules[0]),
                    "sci_gco2e_per_job": emitted_g / F.col("job_count"),
                    "sci_gco2e_per_gpu_hour": F.try_divide(emitted_g, F.col("gpu_held_h")),
                    "status": F.lit("provisional"),
                }
            )
            .transform(conform(TENANT_DAY))
        )

    return transform


def _rates(cluster_hours: DataFrame, costs: DataFrame | None) -> DataFrame:
    """Each figure of a cluster-hour per kWh of its IT energy, as `_<figure>`; without a tariff the cost is unknown."""
    if costs is None:
        rows = cluster_hours.withColumns(
            {"energy_cost": F.lit(None).cast("double"), "currency": F.lit(None).cast("string")}
        )
    else:
        paid = costs.select(*_CLUSTER_HOUR, "energy_cost", "currency")
        rows = cluster_hours.join(paid, list(_CLUSTER_HOUR), how="left")
    per_kwh = [F.try_divide(F.col(name), F.col("it_energy_kwh")).alias(f"_{name}") for name in _RATED]
    return rows.select(*_CLUSTER_HOUR, *per_kwh, "currency")


def _whole(value: Column, needed: Column) -> Column:
    """Sum of a figure, null where a row that needs one has none."""
    is_whole = F.count_if(needed & value.isNull()) == 0
    return F.when(is_whole, exact_sum(value, FINE_SUM))


def _rank(basis: Column) -> Column:
    """The weakest ground that any hour stands on, as a number."""
    return F.array_position(F.array(*(F.lit(name) for name in _BASIS_ORDER)), basis)


def _is_covered(limit: float) -> Column:
    return F.col("coverage_ratio") >= limit


def _with_basis(limit: float) -> Transform:
    """Add coverage_ratio and energy_basis."""

    def transform(rows: DataFrame) -> DataFrame:
        basis = (
            F.when(F.col("covered_s") <= 0, "none")
            .when(~_is_covered(limit), "insufficient")
            .when(F.col("imputed_kwh") > 0, "estimated")
            .otherwise("measured")
        )
        ratio = F.least(F.try_divide(F.col("covered_s"), F.col("held_s")), F.lit(1.0))
        return rows.withColumn("coverage_ratio", ratio).withColumn("energy_basis", basis)

    return transform


def _with_total(limit: float) -> Transform:
    """Add the totals by the three rules, what was wasted, shares and grounds."""

    def transform(day: DataFrame) -> DataFrame:
        dynamic, failed = F.col("dynamic_kwh"), F.col("outcome").isin(*WASTED_OUTCOMES)
        total = dynamic + F.col("static_kwh")
        return day.transform(_with_basis(limit)).withColumns(
            {
                "it_energy_kwh": F.when(_is_covered(limit), total),
                "it_energy_usage_kwh": F.when(_is_covered(limit), dynamic + F.col("static_usage_kwh")),
                "it_energy_equal_kwh": F.when(_is_covered(limit), dynamic + F.col("static_equal_kwh")),
                **{name: F.when(_is_covered(limit), F.col(name)) for name in _ENDS},
                "wasted_energy_kwh": F.when(failed, total).otherwise(F.col("idle_gpu_kwh")),
                "reserved_share_ratio": F.least(
                    F.try_divide(F.col("node_held_h") * SECONDS_PER_HOUR, F.col("held_s")), F.lit(1.0)
                ),
                "attribution_basis": F.element_at(
                    F.array(*(F.lit(name) for name in _BASIS_ORDER)), F.col("_basis").cast("int")
                ),
                "status": F.lit("provisional"),
            }
        )

    return transform


def _of_scheduler(runs: DataFrame) -> DataFrame:
    """Of silver/job_run: GPUs of the run, and its plugin's energy where the run lies within the day."""
    within = (F.to_date("start_time") == F.col("date")) & (F.to_date("end_time") == F.col("date"))
    energy = F.when(within, F.col("consumed_energy_j") / JOULES_PER_KWH)
    return runs.select(*_RUN_DAY, "gpu_count", energy.alias("_scheduler")).dropDuplicates(list(_RUN_DAY))


def _with_sci_and_check(rows: DataFrame) -> DataFrame:
    alone = F.col("reserved_share_ratio") >= _EXCLUSIVE_RATIO
    emitted = F.col("emissions_location_kgco2e") + F.col("embodied_kgco2e")
    return rows.withColumn("scheduler_energy_kwh", F.when(alone, F.col("_scheduler"))).withColumns(
        {
            "scheduler_energy_ratio": F.try_divide(F.col("scheduler_energy_kwh"), F.col("it_energy_kwh")),
            "sci_gco2e_per_job": emitted * GRAMS_PER_KILOGRAM,
        }
    )
