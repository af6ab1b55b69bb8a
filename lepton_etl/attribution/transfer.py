"""Bytes of nodes that a run holds alone -> the run's bytes and their energy."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.attribution.node_energy import MICROSECONDS
from lepton_etl.energy.exact_sums import exact_sum
from lepton_etl.energy.transfer import energy_of
from lepton_etl.schema.jobs import RUN_KEY

_RUN_DAY: Final = [*RUN_KEY, "date"]


def run_parts(held: pl.DataFrame, transfers: pl.DataFrame, interval_s: int) -> pl.DataFrame:
    """Bytes of runs on some nodes, to be added: _RUN_DAY, _bytes, and seconds _held_s, _alone_s, _seen_s.

    `held` are rows of silver/job_node, `transfers` has TRANSFER_COLUMNS. In an interval in which no other run holds a
    part of the node its bytes are the run's by the time that it holds it; in any other nobody knows whose they are.
    """
    step = interval_s * MICROSECONDS
    begin, end = (pl.col(name).dt.epoch("us") for name in ("from_time", "to_time"))
    spans = (
        held.with_columns(begin.alias("_from"), end.alias("_to"))
        .with_columns(pl.int_ranges(pl.col("_from") // step * step, "_to", step, dtype=pl.Int64).alias("_us"))
        .explode("_us", empty_as_null=False)
    )
    overlap = pl.min_horizontal("_to", pl.col("_us") + step) - pl.max_horizontal("_from", "_us")
    is_alone = pl.len().over("site_id", "node_id", "_us") == 1
    of_node = transfers.select(
        "site_id", "node_id", pl.col("interval_start").dt.epoch("us").alias("_us"),
        pl.sum_horizontal("received_byte", "transmitted_byte").alias("_moved"),
        pl.col("observed_s").alias("_observed_s"),
    )  # fmt: skip
    share = pl.col("_overlap_s") / interval_s
    alone = pl.col("_alone")
    return (
        spans.select(
            *_RUN_DAY,
            "node_id",
            "_us",
            (overlap / MICROSECONDS).alias("_overlap_s"),
            is_alone.alias("_alone"),
        )
        .join(of_node, on=["site_id", "node_id", "_us"], how="left")
        .group_by(_RUN_DAY)
        .agg(
            exact_sum((pl.col("_moved") * share).filter(alone)).alias("_bytes"),
            exact_sum(pl.col("_overlap_s")).alias("_held_s"),
            pl.col("_overlap_s").filter(alone).sum().alias("_alone_s"),
            (pl.col("_observed_s") * share).filter(alone).sum().alias("_seen_s"),
        )
    )


def with_transfer(
    jobs: pl.DataFrame, parts: pl.DataFrame | None, limit: float, kwh_per_gbyte: float | None
) -> pl.DataFrame:
    """Give rows of gold/job_energy their bytes, null below the share `limit` of the run's node-seconds.

    `parts` are of run_parts, None where no counter of a port is read.
    """
    if parts is None:
        return jobs.with_columns(pl.lit("no_counters").alias("transfer_basis"))
    sums = parts.group_by(_RUN_DAY).agg(
        *(exact_sum(pl.col(name)) for name in ("_bytes", "_held_s", "_alone_s", "_seen_s"))
    )
    needed, moved = limit * pl.col("_held_s"), pl.col("data_transferred_byte")
    basis = (
        pl.when(pl.col("_alone_s") < needed).then(pl.lit("shared"))
        .when(pl.col("_seen_s") >= needed).then(pl.lit("alone"))
        .otherwise(pl.lit("no_counters"))
    )  # fmt: skip
    return (
        jobs.join(sums, on=_RUN_DAY, how="left")
        .with_columns(basis.alias("transfer_basis"))
        .with_columns(
            pl.when(pl.col("transfer_basis") == "alone").then("_bytes").alias("data_transferred_byte")
        )
        .with_columns(energy_of(moved, kwh_per_gbyte).alias("transfer_energy_kwh"))
        .select(jobs.columns)
    )
