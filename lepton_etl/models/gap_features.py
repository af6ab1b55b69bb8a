"""Features of node-hours whose power was not seen and whose load was: what a registered model fills them by."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.energy.exact_sums import weighted_mean
from lepton_etl.energy.gaps import SHORTEST_GAP_S
from lepton_etl.energy.node_hours import NODE_HOUR_KEY
from lepton_etl.models.features import FEATURES, UNKNOWN

# Gaps are filled where one of these is known.
LOADS: Final = ("cpu_utilisation_ratio", "gpu_utilisation_ratio")
_MEANS: Final = (*LOADS, "memory_utilisation_ratio")
# Energy that is itself modelled says nothing about the node.
_MODELLED: Final = ("psu_output", "modelled_sum")


def gap_features(intervals: pl.DataFrame, measured: pl.DataFrame, nodes: pl.DataFrame) -> pl.DataFrame:
    """Return the node-hours with a gap and a known load: key, `gap_s` and the features of a node's hour.

    intervals, nodes: rows of silver/interval and silver/node; measured: energy.node_hours.measured_node_hours. A node
    that says no load itself takes it from its components, as training does (models.device_hours).
    """
    gap_s = pl.col("expected_s") - pl.col("observed_s")
    has_load = pl.any_horizontal(pl.col(name).is_not_null() for name in LOADS)
    gaps = measured.filter((gap_s > SHORTEST_GAP_S) & has_load).select(*NODE_HOUR_KEY, gap_s.alias("gap_s"))
    hours = intervals.with_columns(pl.col("interval_start").dt.truncate("1h").alias("hour_start")).join(
        gaps, on=NODE_HOUR_KEY, how="semi"
    )
    is_node = pl.col("device_id") == "node"
    # A row without power to observe still says load and temperature: it counts with its whole interval.
    seconds = pl.when(pl.col("observed_s") > 0).then("observed_s").otherwise("interval_s")
    own = hours.filter(is_node & ~pl.col("energy_source").is_in(_MODELLED).fill_null(value=False))
    by_node = own.group_by(NODE_HOUR_KEY).agg(
        weighted_mean(pl.col("inlet_temp_c"), seconds).alias("inlet_temp_c"), *_loads(seconds)
    )
    by_parts = hours.filter(~is_node).group_by(NODE_HOUR_KEY).agg(_loads(seconds * pl.col("multiplicity")))
    names = [name for name in by_parts.columns if name not in NODE_HOUR_KEY]
    plate = nodes.select(
        "site_id",
        "node_id",
        "valid_from",
        "valid_to",
        "rated_power_w",
        "idle_power_w",
        "gpu_count",
        "hardware_class",
    )
    joined = (
        gaps.join(by_node, on=NODE_HOUR_KEY, how="left")
        .join(by_parts, on=NODE_HOUR_KEY, how="left", suffix="_part")
        .with_columns(pl.coalesce(name, f"{name}_part").alias(name) for name in names)
        .join(plate, on=["site_id", "node_id"], how="left")
    )
    hour, start, end = pl.col("hour_start"), pl.col("valid_from"), pl.col("valid_to")
    holds = (start.is_null() | (start <= hour)) & (end.is_null() | (hour < end))
    # Without a row that holds at the hour's start the nameplate is unknown, not the node.
    chosen = (
        joined.with_columns(pl.when(holds).then(name).alias(name) for name in plate.columns[4:])
        .sort(holds, descending=True)
        .unique(NODE_HOUR_KEY, keep="first", maintain_order=True)
    )
    return (
        chosen.filter(has_load)
        .with_columns(pl.col("hardware_class").fill_null(UNKNOWN))
        .select(*NODE_HOUR_KEY, "gap_s", *(feature.name for feature in FEATURES["node"]))
        .sort(NODE_HOUR_KEY)
    )


def _loads(seconds: pl.Expr) -> list[pl.Expr]:
    """Mean, lowest and highest load of the hour."""
    return [
        expression
        for name in _MEANS
        for expression in (
            weighted_mean(pl.col(name), seconds).alias(name),
            pl.col(name).min().alias(name.replace("_ratio", "_min_ratio")),
            pl.col(name).max().alias(name.replace("_ratio", "_max_ratio")),
        )
    ]
