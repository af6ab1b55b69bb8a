"""Embodied carbon: TE / EL for every hour in service, the rest on early retirement, nothing after EL.

Never added to Scope 2.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import polars as pl
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.registers.factors import FactorSet
from lepton_etl.schema.columns import FINE_SUM, Transform, exact_sum, seconds_between

SERVER: Final = "server"
SECONDS_PER_YEAR: Final = 31_557_600.0  # the Julian year of 365.25 days, as pint counts it
_NODE: Final = ("site_id", "node_id")
_CLUSTER_HOUR: Final = ("site_id", "cluster_id", "hour_start")


def service_lives(nodes: pa.Table, factors: FactorSet) -> pl.DataFrame:
    """silver/node -> one row a node: embodied_te_kgco2e, life_s, in_service_from, retired_at, embodied_basis.

    A node's rows are one life: it begins with the first row and, where the last one has an end, ends there; a move
    to another cluster or a new rating is no retirement. TE is the newest row's, else the archetype: a server and its
    GPUs by count. Without a count of GPUs there is no archetype, since it would leave out most of a GPU node: TE is
    null. A node without a lifetime takes the archetype's.
    Source: Green Software Foundation, Impact Framework, sci-embodied (1,000 kg a server with one CPU, 150 kg a GPU,
    4 years); docs/methodology.md, Embodied.
    """
    frame = pl.DataFrame(nodes)
    lives = (
        frame.sort(*_NODE, "valid_from")
        .group_by(*_NODE, maintain_order=True)
        .agg(
            pl.col("valid_from").min().alias("in_service_from"),
            pl.col("valid_to").last().alias("retired_at"),
            pl.col("embodied_kgco2e").last(),
            pl.col("lifetime_years").last(),
            pl.col("gpu_count").last(),
        )
    )
    parts = _archetype(lives, factors)
    archetype = parts["server"] + parts["gpu"] * pl.col("gpu_count")
    is_listed = pl.col("embodied_kgco2e").is_not_null()
    return lives.select(
        *_NODE,
        "in_service_from",
        "retired_at",
        pl.coalesce("embodied_kgco2e", archetype).alias("embodied_te_kgco2e"),
        (pl.col("lifetime_years").fill_null(parts["life"]) * SECONDS_PER_YEAR).alias("life_s"),
        pl.when(is_listed)
        .then(pl.lit("inventory"))
        .when(archetype.is_not_null())
        .then(pl.lit("archetype"))
        .otherwise(pl.lit("none"))
        .alias("embodied_basis"),
    )


def _archetype(lives: pl.DataFrame, factors: FactorSet) -> dict[str, pl.Expr]:
    """Mass of a server and of a GPU, kg, and the life, years, by the day the fleet's first node came; null if none."""
    first = lives["in_service_from"].min()
    if not isinstance(first, datetime):
        return dict.fromkeys(("server", "gpu", "life"), pl.lit(None, pl.Float64))
    day = first.date()
    found = {
        "server": (factors.find("embodied", valid_on=day, part=SERVER), "kg"),
        "gpu": (factors.find("embodied", valid_on=day, part="gpu"), "kg"),
        "life": (factors.find("lifetime", valid_on=day, part=SERVER), "year"),
    }
    return {
        name: pl.lit(factor.to(unit) if factor else None, pl.Float64)
        for name, (factor, unit) in found.items()
    }


def with_node_embodied(lives: DataFrame) -> Transform:
    """Add `embodied_kgco2e` and `embodied_basis` to gold/node_hour rows (expected_s is the row's time in service).

    TE x s / EL for the seconds before the end of life; in the hour of an early retirement the rest of TE as well.
    The sum over a node's life is TE, however long it served.
    """
    start = F.col("hour_start")
    hour_end = start + F.expr("INTERVAL 1 HOUR")
    ends_at = F.timestamp_micros(
        F.unix_micros("in_service_from") + (F.col("life_s") * F.lit(1_000_000)).cast("bigint")
    )
    before_end = F.greatest(seconds_between(start, ends_at), F.lit(0.0))
    served_s = F.least(F.col("expected_s"), before_end)
    rate = F.try_divide(F.col("embodied_te_kgco2e"), F.col("life_s"))
    retires = (F.col("retired_at") > start) & (F.col("retired_at") <= hour_end)
    unserved_s = F.greatest(seconds_between(F.col("retired_at"), ends_at), F.lit(0.0))
    amortised = rate * served_s + F.when(retires, rate * unserved_s).otherwise(F.lit(0.0))

    def transform(node_hours: DataFrame) -> DataFrame:
        return (
            node_hours.join(F.broadcast(lives), list(_NODE), how="left")
            .withColumn("embodied_kgco2e", amortised)
            .withColumn(
                "embodied_basis",
                F.when(F.col("embodied_kgco2e").isNull(), "none").otherwise(F.col("embodied_basis")),
            )
            .drop("embodied_te_kgco2e", "life_s", "in_service_from", "retired_at")
        )

    return transform


def embodied_hours(node_hours: DataFrame) -> DataFrame:
    """Hours of nodes with embodied carbon -> hours of clusters: site_id, cluster_id, hour_start and both columns.

    One node without a TE leaves the cluster's hour null: a sum over the others would look like the whole.
    """
    is_whole = F.count("embodied_kgco2e") == F.count(F.lit(1))
    bases = F.collect_set("embodied_basis")
    basis: Column = F.when(F.size(bases) == 1, F.get(bases, F.lit(0))).otherwise("mixed")
    return node_hours.groupBy(*_CLUSTER_HOUR).agg(
        F.when(is_whole, exact_sum(F.col("embodied_kgco2e"), FINE_SUM)).alias("embodied_kgco2e"),
        F.when(is_whole, basis).otherwise("none").alias("embodied_basis"),
    )


def with_embodied(sums: DataFrame) -> Transform:
    """Fill `embodied_kgco2e` and `embodied_basis` of cluster hours from embodied_hours; without nodes null, `none`."""

    def transform(cluster_hours: DataFrame) -> DataFrame:
        return (
            cluster_hours.drop("embodied_kgco2e", "embodied_basis")
            .join(sums, list(_CLUSTER_HOUR), how="left")
            .withColumn("embodied_basis", F.coalesce("embodied_basis", F.lit("none")))
        )

    return transform
