"""Bytes through nodes' ports -> gold/transfer_hour: the network's energy by bytes, beside that by feeds."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.energy.exact_sums import exact_sum, rows_of
from lepton_etl.energy.node_hours import SHARED
from lepton_etl.schema.declare import SECONDS_PER_HOUR
from lepton_etl.schema.energy import TRANSFER_HOUR

BYTES_PER_GBYTE: Final = 1e9
TRANSFER_COLUMNS: Final = (
    "site_id", "node_id", "interval_start", "interval_s", "received_byte", "transmitted_byte", "observed_s",
)  # fmt: skip
_HOUR: Final = ["site_id", "hour_start"]
_CLUSTER_HOUR: Final = [*_HOUR, "cluster_id"]
_BYTES: Final = ("received_byte", "transmitted_byte")


def transfer_parts(node_hours: pl.DataFrame, transfers: pl.DataFrame, limit: float) -> pl.DataFrame:
    """Bytes of some nodes by cluster-hour, to be added: _CLUSTER_HOUR, expected, known, received, transmitted.

    `node_hours` are rows of gold/node_hour, `transfers` has TRANSFER_COLUMNS. A node's hour is known where its ports
    were seen, or it was off, for the share `limit` of it. Switches are left out: their bytes are the nodes'.
    """
    hour = pl.col("interval_start").dt.truncate("1h").alias("hour_start")
    hours = transfers.group_by("site_id", "node_id", hour).agg(
        *(exact_sum(pl.col(name)) for name in _BYTES), pl.col("observed_s").sum().alias("_seen_s")
    )  # fmt: skip
    is_known = pl.sum_horizontal("_seen_s", "off_s") >= limit * SECONDS_PER_HOUR
    return (
        node_hours.filter(pl.col("node_kind").ne_missing("network"))
        .select(*_CLUSTER_HOUR, "node_id", "off_s")
        .join(hours, on=["site_id", "node_id", "hour_start"], how="left")
        .group_by(_CLUSTER_HOUR)
        .agg(
            pl.len().alias("node_count"),
            is_known.sum().alias("transfer_node_count"),
            # Of a node that was off all the time nothing was seen.
            *(exact_sum(pl.col(name).fill_null(0.0).filter(is_known)).alias(name) for name in _BYTES),
        )
    )


def transfer_hours(
    parts: pl.DataFrame, ledger: pl.DataFrame, limit: float, kwh_per_gbyte: float | None
) -> pl.DataFrame:
    """Parts of nodes and rows of gold/energy_ledger -> gold/transfer_hour.

    A cluster's bytes are the sum of its known nodes, null below the share `limit` of them. The ledger's data_transfer
    is of the site's network, which serves all clusters: it stands at `_shared`.
    """
    fed = ledger.filter(pl.col("ledger_account") == "data_transfer").select(
        *_HOUR, pl.lit(SHARED).alias("cluster_id"), "account_kwh", "account_basis"
    )
    sums = parts.group_by(_CLUSTER_HOUR).agg(
        pl.col("node_count", "transfer_node_count").sum(), *(exact_sum(pl.col(name)) for name in _BYTES)
    )
    # Of `_shared` there is a row for the feeds even where no node is outside the clusters.
    hours = parts.select(*_HOUR, pl.lit(SHARED).alias("cluster_id")).unique()
    rest = hours.join(sums, on=_CLUSTER_HOUR, how="anti").with_columns(
        pl.lit(0).alias("node_count"), pl.lit(0).alias("transfer_node_count")
    )
    count, known = pl.col("node_count"), pl.col("transfer_node_count")
    is_enough = (known > 0) & (known >= limit * count)
    total = pl.sum_horizontal(_BYTES, ignore_nulls=False)
    moved = pl.col("data_transferred_byte")
    is_shared = pl.col("cluster_id") == SHARED
    rows = (
        pl.concat([sums, rest], how="diagonal_relaxed")
        .join(fed, on=_CLUSTER_HOUR, how="left")
        .with_columns(
            *(pl.when(is_enough).then(name).alias(name) for name in _BYTES),
            pl.when(is_enough).then(total).alias("data_transferred_byte"),
            pl.when(known == 0).then(pl.lit("none"))
            .when(known == count).then(pl.lit("measured"))
            .when(is_enough).then(pl.lit("partial"))
            .otherwise(pl.lit("insufficient")).alias("transfer_basis"),
        )
        .with_columns(
            pl.col("hour_start").dt.date().alias("date"),
            energy_of(moved, kwh_per_gbyte).alias("network_energy_by_bytes_kwh"),
            pl.when(moved.is_null()).then(pl.lit("no_bytes"))
            .otherwise(pl.lit("no_factor" if kwh_per_gbyte is None else "stated")).alias("network_by_bytes_basis"),
            pl.col("account_kwh").alias("network_energy_by_feed_kwh"),
            pl.when(~is_shared).then(pl.lit("shared"))
            .otherwise(pl.col("account_basis").fill_null("unmetered")).alias("network_by_feed_basis"),
        )
    )  # fmt: skip
    return rows_of(TRANSFER_HOUR, rows).sort(TRANSFER_HOUR.key)


def energy_of(moved: pl.Expr, kwh_per_gbyte: float | None) -> pl.Expr:
    """Energy (kWh) of bytes by the stated energy of 10^9 of them; null where nobody states it."""
    return moved * pl.lit(None if kwh_per_gbyte is None else kwh_per_gbyte / BYTES_PER_GBYTE, pl.Float64)
