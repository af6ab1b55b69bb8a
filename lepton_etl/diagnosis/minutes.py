"""Average each device's readings as they come: sums that can be added up, and the intervals that they make.

Polars in and out. A reading belongs to the window that holds its time. Sums of a window are added over batches, so its
mean does not depend on how the readings were cut into batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

MICROSECONDS: Final = 1_000_000
# A node is judged by its own row, its boards each by theirs; supplies, fans and chassis have no state.
DEVICES: Final = r"^(node|gpu[0-9]*)$"
KEPT_S: Final = 3600
# A stamp that is further ahead than clocks drift is no reading of now.
AHEAD_S: Final = 300
SUMS: Final = {
    "node_id": pl.String, "device_id": pl.String, "quantity": pl.String, "window_us": pl.Int64,
    "value_sum": pl.Float64, "value_count": pl.Int64, "newest_us": pl.Int64,
}  # fmt: skip
_KEY: Final = ("node_id", "device_id", "quantity", "window_us")
_DEVICE: Final = ("node_id", "device_id")
INPUTS: Final = (
    "power_mean_w", "power_limit_w", "gpu_utilisation_ratio", "cpu_utilisation_ratio", "memory_utilisation_ratio",
    "clock_hz", "device_temp_c", "slowdown_temp_c", "slowdown_margin_k",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class QuantityRoles:
    """Which quantity speaks for which of INPUTS.

    `node_power`: quantities of a node's power, best first. `of_device`, `of_node`: quantity -> column of the device's
    own row and of its node's. `component`: quantity of a component logged at the node -> its device.
    """

    node_power: tuple[str, ...]
    device_power: tuple[str, ...]
    of_device: Mapping[str, str]
    of_node: Mapping[str, str]
    component: Mapping[str, str]

    @property
    def quantities(self) -> frozenset[str]:
        return frozenset((*self.node_power, *self.device_power, *self.of_device, *self.of_node))


def sums(readings: pl.DataFrame, roles: QuantityRoles, window_s: int) -> pl.DataFrame:
    """Return rows of SUMS from readings (telemetry's READING_SCHEMA): moments, and means over at most two windows.

    A component's power at the node stands at the component; what a board says of temperature and utilisation speaks
    for its node too. Readings without a node, of other quantities and of other devices are left out.
    """
    component = pl.col("quantity").replace_strict(dict(roles.component), default=None, return_dtype=pl.String)
    own = (
        readings.lazy()
        .filter(
            pl.col("node_id").is_not_null(),
            pl.col("quantity").is_in(list(roles.quantities)),
            (pl.col("statistic") == "instant")
            | ((pl.col("statistic") == "mean") & (pl.col("window_s") <= 2 * window_s)),
        )
        .with_columns(
            pl.when(pl.col("device_id") == "node")
            .then(pl.coalesce(component, "device_id"))
            .otherwise("device_id")
            .alias("device_id"),
            pl.col("reading_time").dt.epoch("us").alias("newest_us"),
        )
    )
    at_node = own.filter(
        pl.col("quantity").is_in(list(roles.of_node)), pl.col("device_id") != "node"
    ).with_columns(device_id=pl.lit("node"))
    width = window_s * MICROSECONDS
    return (
        pl.concat([own.filter(pl.col("device_id").str.contains(DEVICES)), at_node])
        .with_columns((pl.col("newest_us") // width * width).alias("window_us"))
        .group_by(_KEY)
        .agg(
            pl.col("value").sum().alias("value_sum"),
            pl.len().cast(pl.Int64).alias("value_count"),
            pl.col("newest_us").max(),
        )
        .select(pl.col(name).cast(kind) for name, kind in SUMS.items())
        .collect()
    )


@dataclass(frozen=True, slots=True)
class RecentSums:
    """The sums of the newest hour of each device, and what was not taken: readings too old, or ahead of the clock."""

    rows: pl.DataFrame
    late: int = 0
    ahead: int = 0


def added(recent: pl.DataFrame, fresh: pl.DataFrame, now: datetime) -> RecentSums:
    """Return `recent` with the sums of a batch; windows more than an hour before a device's newest are let go.

    The hour is the device's own, so that one with a wrong clock costs no other its past.
    """
    limit = int((now.timestamp() + AHEAD_S) * MICROSECONDS)
    believed = fresh.filter(pl.col("newest_us") <= limit)
    together = (
        pl.concat([recent, believed])
        .group_by(_KEY, maintain_order=True)
        .agg(pl.col("value_sum").sum(), pl.col("value_count").sum(), pl.col("newest_us").max())
    )
    newest = together.group_by(_DEVICE).agg(
        (pl.col("window_us").max() - KEPT_S * MICROSECONDS).alias("_from")
    )
    late = believed.join(newest, on=_DEVICE, how="inner").filter(pl.col("window_us") <= pl.col("_from"))
    kept = together.join(newest, on=_DEVICE, how="inner").filter(pl.col("window_us") > pl.col("_from"))
    ahead = fresh.filter(pl.col("newest_us") > limit)
    return RecentSums(
        kept.select(list(SUMS)), int(late["value_count"].sum()), int(ahead["value_count"].sum())
    )


def minutes(
    recent: pl.DataFrame, roles: QuantityRoles, site_id: str, clusters: Mapping[str, str], unlisted: str
) -> pl.DataFrame:
    """Return intervals in the columns of silver/interval that a state is judged by; null without readings."""
    mean = (pl.col("value_sum") / pl.col("value_count")).alias("mean")
    at_node = pl.col("device_id") == "node"
    rank = {name: place for place, name in enumerate((*roles.node_power, *roles.device_power))}
    powers = list(rank)
    is_power = pl.when(at_node).then(pl.col("quantity").is_in(list(roles.node_power))).otherwise(
        pl.col("quantity").is_in(list(roles.device_power))
    )  # fmt: skip
    column = (
        pl.when(is_power).then(pl.lit("power_mean_w"))
        .when(at_node).then(_named(roles.of_node))
        .otherwise(_named(roles.of_device))
        .alias("input")
    )  # fmt: skip
    cells = (
        recent.with_columns(
            mean, column, pl.col("quantity").replace_strict(rank, default=len(powers)).alias("rank")
        )
        .filter(pl.col("input").is_in(INPUTS))
        # Of several powers of a node the best alone speaks, as in silver/interval.
        .sort(*_DEVICE, "window_us", "input", "rank")
        .unique([*_DEVICE, "window_us", "input"], keep="first", maintain_order=True)
    )
    wide = cells.pivot("input", index=[*_DEVICE, "window_us"], values="mean", aggregate_function="first")
    start = pl.from_epoch("window_us", "us").dt.replace_time_zone("UTC")
    return wide.select(
        pl.lit(site_id).alias("site_id"),
        pl.col("node_id").replace_strict(dict(clusters), default=unlisted, return_dtype=pl.String).alias("cluster_id"),
        *_DEVICE,
        start.alias("interval_start"),
        start.dt.date().alias("date"),
        *(
            pl.col(name) if name in wide.columns else pl.lit(None, dtype=pl.Float64).alias(name)
            for name in INPUTS
        ),
    )  # fmt: skip


def newest_times(recent: pl.DataFrame) -> pl.DataFrame:
    """Return (node_id, device_id, newest_us): when each device was last heard of."""
    return recent.group_by(_DEVICE).agg(pl.col("newest_us").max())


def _named(names: Mapping[str, str]) -> pl.Expr:
    return pl.col("quantity").replace_strict(dict(names), default=None, return_dtype=pl.String)
