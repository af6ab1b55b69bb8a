"""Hours of nodes -> energy of a site's nodes by who owns it: jobs, nobody (idle), shared services, nobody known."""

from __future__ import annotations

from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.schema.columns import FINE_SUM, Transform, conform, exact_sum
from lepton_etl.schema.energy import NODE_HOUR

SERVICE_KINDS: Final = ("storage", "network", "service")
_HOUR: Final = ("site_id", "hour_start")
_NODE_HOUR: Final = ("site_id", "cluster_id", "node_id", "hour_start")


def owner_hours(node_split: DataFrame | None, unlisted: DataFrame) -> Transform:
    """gold/node_hour -> one row a site-hour: jobs_kwh, idle_kwh, storage_kwh, network_kwh, service_kwh,
    chassis_shared_kwh, unowned_kwh, unlisted_kwh, unknown_nodes.

    With `node_split` (job accounting) a compute node's energy is its jobs' and idle. Without it idle is told by
    utilisation, and the rest has no owner that is known. `unlisted` holds silver/interval rows of nodes outside the
    inventory, which have none either. `unknown_nodes` counts expected nodes without an energy.
    """
    energy, kind = F.col("it_energy_kwh"), F.coalesce("node_kind", F.lit("compute"))
    is_compute = ~kind.isin(*SERVICE_KINDS)
    told_idle = F.least(F.coalesce("idle_energy_kwh", F.lit(0.0)), energy)
    split = {
        "jobs_kwh": F.lit(None).cast("double"), "idle_kwh": told_idle, "unowned_kwh": energy - told_idle,
    } if node_split is None else {
        "jobs_kwh": F.col("jobs_energy_kwh"), "idle_kwh": F.col("split_idle_kwh"),
        "unowned_kwh": energy - F.coalesce("jobs_energy_kwh", F.lit(0.0)) - F.coalesce("split_idle_kwh", F.lit(0.0)),
    }  # fmt: skip
    services = {f"{name}_kwh": F.when(kind == name, energy) for name in SERVICE_KINDS}

    def transform(node_hours: DataFrame) -> DataFrame:
        rows = node_hours
        if node_split is not None:
            parts = node_split.select(
                *_NODE_HOUR, "jobs_energy_kwh", F.col("idle_energy_kwh").alias("split_idle_kwh")
            )
            rows = rows.join(parts, list(_NODE_HOUR), how="left")
        sums = rows.groupBy(*_HOUR).agg(
            *(exact_sum(F.when(is_compute, value), FINE_SUM).alias(name) for name, value in split.items()),
            *(exact_sum(value, FINE_SUM).alias(name) for name, value in services.items()),
            exact_sum(F.col("chassis_shared_kwh"), FINE_SUM).alias("chassis_shared_kwh"),
            F.count_if(energy.isNull()).alias("unknown_nodes"),
        )
        outside = (
            unlisted.where(F.col("counts_in_total"))
            .groupBy("site_id", F.date_trunc("hour", "interval_start").alias("hour_start"))
            .agg(exact_sum(F.col("energy_kwh"), FINE_SUM).alias("unlisted_kwh"))
        )
        return sums.join(outside, list(_HOUR), how="left")

    return transform


def with_job_idle(node_split: DataFrame | None) -> Transform:
    """gold/node_hour with idle energy by job accounting (`idle_basis` jobs) where the node is accounted."""

    def transform(node_hours: DataFrame) -> DataFrame:
        if node_split is None:
            return node_hours
        idle = node_split.select(*_NODE_HOUR, F.col("idle_energy_kwh").alias("_idle"))
        known = F.col("_idle").isNotNull() & F.col("it_energy_kwh").isNotNull()
        return (
            node_hours.join(idle, list(_NODE_HOUR), how="left")
            .withColumn("idle_energy_kwh", F.when(known, F.col("_idle")).otherwise(F.col("idle_energy_kwh")))
            .withColumn("idle_basis", F.when(known, "jobs").otherwise(F.col("idle_basis")))
            .drop("_idle")
            .transform(conform(NODE_HOUR))
        )

    return transform
