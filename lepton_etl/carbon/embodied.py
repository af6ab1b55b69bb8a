"""Embodied carbon: TE / EL for every hour in service, the rest on early retirement, nothing after EL.

Never added to Scope 2. The ESG view books the whole TE in the year of purchase instead; both are of the same TE and
are never summed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Final

import polars as pl

from lepton_etl.energy.exact_sums import FINE_DIGITS, ends, quotient, whole_sum
from lepton_etl.registers.factors import FactorSet
from lepton_etl.schema.declare import end_names
from lepton_etl.uncertainty import Z_EVEN

SERVER: Final = "server"
# What a node has beyond the plain server (one CPU, 16 GB, no disk), in pieces of conf/factors/embodied.csv.
_PIECES: Final = {
    "cpu": pl.col("cpu_socket_count") - 1,
    "memory_16gb": pl.col("memory_total_byte") * (1 / (16 * 2**30)) - 1,
    "ssd": pl.col("ssd_count"),
    "hdd": pl.col("hdd_count"),
}
PARTS: Final = (SERVER, "gpu", *_PIECES)
SECONDS_PER_YEAR: Final = 31_557_600.0  # the Julian year of 365.25 days, as pint counts it
_NODE: Final = ("site_id", "node_id")
_FIGURES: Final = ("embodied_kgco2e", *end_names("embodied_kgco2e"))
_CLUSTER_HOUR: Final = ("site_id", "cluster_id", "hour_start")


def service_lives(nodes: pl.DataFrame, factors: FactorSet) -> pl.DataFrame:
    """silver/node -> one row a node: embodied_te_kgco2e, life_s, in_service_from, retired_at, embodied_basis.

    A node's rows are one life: it begins with the first row and, where the last one has an end, ends there; a move
    to another cluster or a new rating is no retirement. TE is the newest row's, else the archetype: a server with one
    CPU and 16 GB, and its GPUs, further CPUs and memory, and its disks by what the inventory counts; what it does not
    count is as in the plain server. Without a count of GPUs there is no archetype, since it would leave out most of a
    GPU node: TE is null. A node without a lifetime takes the archetype's; with a TE of its own it is `default_life`.
    Source: Cloud Carbon Footprint, cloud-carbon-coefficients; docs/methodology.md, Embodied.
    """
    lives = (
        nodes.sort(*_NODE, "valid_from")
        .group_by(*_NODE, maintain_order=True)
        .agg(
            pl.col("valid_from").min().alias("in_service_from"),
            pl.col("valid_to").last().alias("retired_at"),
            pl.col("embodied_kgco2e").last(),
            pl.col("lifetime_years").last(),
            pl.col("gpu_count", "cpu_socket_count", "memory_total_byte", "ssd_count", "hdd_count").last(),
        )
    )
    parts = _archetype(lives, factors)
    pieces = [parts[part] * count.clip(lower_bound=0) for part, count in _PIECES.items()]
    archetype = parts[SERVER] + parts["gpu"] * pl.col("gpu_count") + pl.sum_horizontal(pieces)
    is_listed = pl.col("embodied_kgco2e").is_not_null()
    return lives.select(
        *_NODE,
        "in_service_from",
        "retired_at",
        pl.coalesce("embodied_kgco2e", archetype).alias("embodied_te_kgco2e"),
        (pl.col("lifetime_years").fill_null(parts["life"]) * SECONDS_PER_YEAR).alias("life_s"),
        pl.when(is_listed & pl.col("lifetime_years").is_not_null())
        .then(pl.lit("inventory"))
        .when(is_listed)
        .then(pl.lit("default_life"))
        .when(archetype.is_not_null())
        .then(pl.lit("archetype"))
        .otherwise(pl.lit("none"))
        .alias("embodied_basis"),
    )


def _archetype(lives: pl.DataFrame, factors: FactorSet) -> dict[str, pl.Expr]:
    """Mass of each part, kg, and the life, years, by the day the fleet's first node came; null if none."""
    first = lives["in_service_from"].min()
    if not isinstance(first, datetime):
        return dict.fromkeys((*PARTS, "life"), pl.lit(None, pl.Float64))
    day = first.date()
    found = {part: (factors.find("embodied", valid_on=day, part=part), "kg") for part in PARTS}
    found["life"] = (factors.find("lifetime", valid_on=day, part=SERVER), "year")
    return {
        name: pl.lit(factor.to(unit) if factor else None, pl.Float64)
        for name, (factor, unit) in found.items()
    }


def with_node_embodied(
    node_hours: pl.DataFrame, lives: pl.DataFrame, error_ratio: Mapping[str, float]
) -> pl.DataFrame:
    """Add `embodied_kgco2e`, its ends and `embodied_basis` to gold/node_hour rows: see booked_hours."""
    return booked_hours(node_hours, lives, error_ratio).drop("te_kgco2e", "life_s", "booked_s")


def booked_hours(
    node_hours: pl.DataFrame, lives: pl.DataFrame, error_ratio: Mapping[str, float]
) -> pl.DataFrame:
    """Add to gold/node_hour rows what is booked of TE (`te_kgco2e`) over EL (`life_s`): `embodied_kgco2e`, its basis.

    `booked_s` are the seconds of EL that the hour takes: those in service (expected_s) before the end of life; in the
    hour of an early retirement the rest of EL as well. Embodied carbon is TE x booked_s / EL.
    The sum over a node's life is TE, however long it served. Interval, 90 %: the error of TE by its basis
    (`error_ratio` of embodied_error_ratio); null where that is not known.
    """
    start, retired = pl.col("hour_start"), pl.col("retired_at")
    ends_at = pl.col("in_service_from") + pl.duration(microseconds=(pl.col("life_s") * 1e6).cast(pl.Int64))

    def seconds_until_end(instant: pl.Expr) -> pl.Expr:
        return ((ends_at - instant).dt.total_microseconds() / 1e6).clip(lower_bound=0.0)

    booked = pl.col("embodied_kgco2e")
    ratio = pl.col("embodied_basis").replace_strict(dict(error_ratio), default=None, return_dtype=pl.Float64)
    served_s = pl.min_horizontal("expected_s", seconds_until_end(start))
    rate = quotient(pl.col("embodied_te_kgco2e"), pl.col("life_s"))
    retires = (retired > start) & (retired <= start + pl.duration(hours=1))
    unserved_s = pl.when(retires).then(seconds_until_end(retired)).otherwise(0.0)
    return (
        node_hours.join(lives, on=_NODE, how="left")
        .with_columns(
            (rate * served_s + rate * unserved_s).alias("embodied_kgco2e"),
            (served_s + unserved_s).alias("booked_s"),
        )
        .with_columns(
            pl.when(pl.col("embodied_kgco2e").is_null())
            .then(pl.lit("none"))
            .otherwise("embodied_basis")
            .alias("embodied_basis")
        )
        .with_columns(*ends("embodied_kgco2e", booked, Z_EVEN * booked * ratio))
        .rename({"embodied_te_kgco2e": "te_kgco2e"})
        .drop("in_service_from", "retired_at")
    )


def embodied_parts(node_hours: pl.DataFrame) -> pl.DataFrame:
    """Hours of nodes with embodied carbon -> parts of hours of clusters, for `embodied_hours`, by basis."""
    return node_hours.group_by(*_CLUSTER_HOUR, "embodied_basis").agg(
        *(whole_sum(pl.col(name), digits=FINE_DIGITS).alias(name) for name in _FIGURES)
    )


def embodied_error_ratio(factors: FactorSet, day: date) -> dict[str, float]:
    """One relative standard deviation of TE by embodied_basis; a basis without a factor is left out."""
    table = "figure_uncertainty"
    named = {"inventory": "inventory", "default_life": "archetype", "archetype": "archetype"}
    rows = {
        basis: factors.find(table, valid_on=day, figure=f"embodied_{row}")
        for basis, row in named.items()
        if table in factors.tables
    }
    return {basis: row.to("dimensionless") for basis, row in rows.items() if row}


def embodied_hours(parts: pl.DataFrame) -> pl.DataFrame:
    """Parts of `embodied_parts` -> hours of clusters: site_id, cluster_id, hour_start, figure, interval and basis.

    One node without a TE leaves the cluster's hour null: a sum over the others would look like the whole. Ends
    are added: nodes of a class have the mass of one footprint.
    """
    basis = pl.col("embodied_basis")
    one_basis = pl.when(basis.n_unique() == 1).then(basis.max()).otherwise(pl.lit("mixed"))
    is_whole = pl.col("embodied_kgco2e").null_count() == 0
    return parts.group_by(_CLUSTER_HOUR).agg(
        *(whole_sum(pl.col(name), digits=FINE_DIGITS).alias(name) for name in _FIGURES),
        pl.when(is_whole).then(one_basis).otherwise(pl.lit("none")).alias("embodied_basis"),
    )


def with_embodied(cluster_hours: pl.DataFrame, sums: pl.DataFrame) -> pl.DataFrame:
    """Add `embodied_kgco2e` and `embodied_basis` of embodied_hours to cluster hours; without nodes null, `none`."""
    return cluster_hours.join(sums, on=_CLUSTER_HOUR, how="left").with_columns(
        pl.col("embodied_basis").fill_null("none")
    )
