"""Hours of nodes -> energy of a site's nodes by who owns it: jobs, nobody (idle), shared services, nobody known."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.energy.exact_sums import FINE_DIGITS, exact_sum
from lepton_etl.energy.node_hours import NODE_HOUR_KEY

SERVICE_KINDS: Final = ("storage", "network", "service")
_HOUR: Final = ["site_id", "hour_start"]


_SUMS: Final = (
    "jobs_kwh", "idle_kwh", "unowned_kwh", *(f"{kind}_kwh" for kind in SERVICE_KINDS), "chassis_shared_kwh",
)  # fmt: skip
_OWNERS: Final = ("jobs", "idle")
_COUNTS: Final = ("unknown_nodes", "owned_nodes", *(f"{owner}_nodes" for owner in _OWNERS))


def owner_parts(node_hours: pl.DataFrame, node_split: pl.DataFrame | None) -> pl.DataFrame:
    """gold/node_hour -> one row a site-hour: _SUMS and _COUNTS; parts of different nodes add up.

    With `node_split` (job accounting) a compute node's energy is its jobs' and idle. Without it idle is told by
    utilisation, and the rest has no owner that is known. `unknown_nodes` counts expected nodes without an energy,
    `owned_nodes` compute nodes with one, `jobs_nodes` and `idle_nodes` those of them whose jobs and idle are known.
    """
    energy, kind = pl.col("it_energy_kwh"), pl.col("node_kind").fill_null("compute")
    has_load = pl.col("idle_energy_kwh").is_not_null()
    by_load: pl.Expr = pl.when(has_load).then(pl.min_horizontal("idle_energy_kwh", energy))
    rows = node_hours
    if node_split is None:
        jobs, idle, knows_idle = pl.lit(None, pl.Float64), by_load, has_load
    else:
        parts = node_split.select(
            *NODE_HOUR_KEY,
            "jobs_energy_kwh",
            pl.col("idle_energy_kwh").alias("split_idle_kwh"),
            "idle_is_known",
        )
        rows = rows.join(parts, on=NODE_HOUR_KEY, how="left")
        jobs, idle = pl.col("jobs_energy_kwh"), pl.coalesce("split_idle_kwh", by_load)
        knows_idle = pl.coalesce("idle_is_known", has_load)
    owned = {
        "jobs_kwh": jobs,
        "idle_kwh": idle,
        "unowned_kwh": energy - jobs.fill_null(0.0) - idle.fill_null(0.0),
    }
    is_service = kind.is_in(SERVICE_KINDS)
    has_owner = ~is_service & energy.is_not_null()
    return rows.group_by(_HOUR).agg(
        *(exact_sum(pl.when(~is_service).then(value), FINE_DIGITS).alias(name) for name, value in owned.items()),
        *(exact_sum(pl.when(kind == name).then(energy), FINE_DIGITS).alias(f"{name}_kwh") for name in SERVICE_KINDS),
        exact_sum(pl.col("chassis_shared_kwh"), FINE_DIGITS).alias("chassis_shared_kwh"),
        energy.null_count().alias("unknown_nodes"),
        has_owner.sum().alias("owned_nodes"),
        (has_owner & jobs.is_not_null()).sum().alias("jobs_nodes"),
        (has_owner & knows_idle).sum().alias("idle_nodes"),
    )  # fmt: skip


def owner_hours(parts: pl.DataFrame, unlisted: pl.DataFrame) -> pl.DataFrame:
    """Parts of `owner_parts` -> one row a site-hour: _SUMS, unknown_nodes, unlisted_kwh, jobs_basis and idle_basis.

    `unlisted` holds silver/interval rows of nodes outside the inventory, which have no owner either. A basis says
    whether the owner is known of all compute nodes (measured), of some (partial) or of none (unmetered).
    """
    sums = parts.group_by(_HOUR).agg(
        *(exact_sum(pl.col(name), FINE_DIGITS).alias(name) for name in _SUMS), pl.col(*_COUNTS).sum()
    ).with_columns(
        pl.when(pl.col(f"{owner}_nodes") == pl.col("owned_nodes")).then(pl.lit("measured"))
        .when((pl.col(f"{owner}_nodes") > 0) | (pl.col(f"{owner}_kwh") > 0)).then(pl.lit("partial"))
        .otherwise(pl.lit("unmetered")).alias(f"{owner}_basis")
        for owner in _OWNERS
    )  # fmt: skip
    outside = (
        unlisted.filter(pl.col("counts_in_total"))
        .group_by("site_id", pl.col("interval_start").dt.truncate("1h").alias("hour_start"))
        .agg(exact_sum(pl.col("energy_kwh"), FINE_DIGITS).alias("unlisted_kwh"))
    )
    return sums.join(outside, on=_HOUR, how="left")


def with_job_idle(node_hours: pl.DataFrame, node_split: pl.DataFrame) -> pl.DataFrame:
    """gold/node_hour with idle energy by job accounting (`idle_basis` jobs) where that knows it."""
    idle = node_split.filter("idle_is_known").select(*NODE_HOUR_KEY, pl.col("idle_energy_kwh").alias("_idle"))
    known = pl.col("_idle").is_not_null() & pl.col("it_energy_kwh").is_not_null()
    return (
        node_hours.join(idle, on=NODE_HOUR_KEY, how="left")
        .with_columns(
            pl.when(known).then("_idle").otherwise("idle_energy_kwh").alias("idle_energy_kwh"),
            pl.when(known).then(pl.lit("jobs")).otherwise("idle_basis").alias("idle_basis"),
        )
        .drop("_idle")
    )
