"""silver/interval and silver/node -> device-hours with target and features, as polars kernels.

A device-hour rests on its node's intervals of that hour alone, so any set of whole node-days can be made apart.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import polars as pl

from lepton_etl.config.sections import DeviceKind
from lepton_etl.energy.exact_sums import FINE_DIGITS, exact_sum, quotient
from lepton_etl.energy.gaps import SHORTEST_GAP_S
from lepton_etl.energy.node_hours import NODE_HOUR_KEY
from lepton_etl.models.features import FEATURES, KEYS, TARGET, UNKNOWN
from lepton_etl.schema.common import KNOWN_OFF, MODELLED_SOURCES
from lepton_etl.schema.declare import SECONDS_PER_HOUR

# What a device-hour reads of an interval, beside the loads and temperatures of its features.
_IDENTITY: Final = (
    "site_id", "cluster_id", "node_id", "device_id", "date", "interval_start", "interval_s", "observed_s",
    "multiplicity", "energy_kwh", "energy_source",
)  # fmt: skip
# Of a degree times seconds, as of a ratio times seconds, a double holds so many digits after the point exactly.
_MEAN_DIGITS: Final = 12


def interval_columns(device: DeviceKind) -> tuple[str, ...]:
    """Return the columns of silver/interval that `device_hours` reads."""
    return (*_IDENTITY, _temperature(device), *_load_columns(device))


def device_hours(device: DeviceKind, intervals: pl.DataFrame, nodes: pl.DataFrame) -> pl.DataFrame:
    """Return one row a device-hour: KEYS, date, observed_s, `energy_kwh` and the features, sorted by KEYS.

    `nodes` are rows of silver/node; the row that holds at the hour's start is joined, none leaves the nameplate null.
    Means are weighted by observed seconds and summed in decimal: the same intervals give the same bits in any
    order. Energy that is itself modelled (psu_output, modelled_sum), or of a node that is only known to be off, teaches
    nothing: left out.
    """
    hours = intervals.with_columns(pl.col("interval_start").dt.truncate("1h").alias("hour_start"))
    is_modelled = pl.col("energy_source").is_in((*MODELLED_SOURCES, KNOWN_OFF)).fill_null(False)
    known_s = exact_sum(pl.when(pl.col("energy_kwh").is_not_null()).then("observed_s"))
    energy = exact_sum(pl.col("energy_kwh") / pl.col("multiplicity"), FINE_DIGITS)
    rows = (
        hours.filter(_is_target(device) & ~is_modelled)
        .group_by(KEYS)
        .agg(
            pl.col("date").max(),
            exact_sum(pl.col("observed_s")).alias("observed_s"),
            pl.when(known_s > 0).then(energy / known_s * SECONDS_PER_HOUR).alias(TARGET),
            _mean(_temperature(device)).alias(_temperature(device)),
            *(load for column in _load_columns(device) for load in _load(column)),
        )
    )
    if device == "node":
        rows = _with_component_load(rows, hours)
    rows = _with_nameplate(rows, nodes, device)
    typed = [pl.col(f.name).cast(pl.String if f.category else pl.Float64) for f in FEATURES[device]]
    return rows.select(*KEYS, "date", "observed_s", TARGET, *typed).sort(KEYS)


def gap_features(intervals: pl.DataFrame, measured: pl.DataFrame, nodes: pl.DataFrame) -> pl.DataFrame:
    """Return the node-hours whose power was not seen and whose load was: key, `gap_s` and the features of a node.

    `measured` are rows of energy.node_hours.measured_node_hours. A node that said nothing itself has its row from its
    components.
    """
    gap_s, has_load = pl.col("expected_s") - pl.col("observed_s"), pl.any_horizontal(
        pl.col("cpu_utilisation_ratio", "gpu_utilisation_ratio").is_not_null()
    )  # fmt: skip
    gaps = measured.filter((gap_s > SHORTEST_GAP_S) & has_load).select(*NODE_HOUR_KEY, gap_s.alias("gap_s"))
    own = intervals.select(interval_columns("node")).join(
        gaps,
        left_on=[*NODE_HOUR_KEY[:3], pl.col("interval_start").dt.truncate("1h")],
        right_on=NODE_HOUR_KEY,
        how="semi",
    )
    silent = gaps.select(
        *NODE_HOUR_KEY[:3], pl.lit("node").alias("device_id"), pl.col("hour_start").alias("interval_start"),
        pl.col("hour_start").dt.date().alias("date"), pl.lit(int(SECONDS_PER_HOUR)).alias("interval_s"),
        pl.lit(1).alias("multiplicity"), pl.lit(0.0).alias("observed_s"),
    )  # fmt: skip
    hours = device_hours("node", pl.concat([own, silent], how="diagonal_relaxed"), nodes)
    features = hours.filter(has_load).drop("device_id", "date", "observed_s", TARGET)
    return gaps.join(features, on=NODE_HOUR_KEY, how="inner").sort(NODE_HOUR_KEY)


def covered(hours: pl.DataFrame, coverage_min_ratio: float) -> pl.DataFrame:
    """Return the device-hours with a target and at least this share of observed seconds."""
    return hours.filter(
        pl.col(TARGET).is_not_null() & (pl.col("observed_s") >= coverage_min_ratio * SECONDS_PER_HOUR)
    )


def capped(hours: pl.DataFrame, max_rows: int) -> pl.DataFrame:
    """Return at most `max_rows` rows, those whose hash of the key is lowest: the same rows on every run."""
    if hours.height <= max_rows:
        return hours
    return hours.sort(_key_hash(hours), *KEYS).head(max_rows)


def capped_by_class(hours: pl.DataFrame, max_rows: int) -> pl.DataFrame:
    """Return at most `max_rows` rows of each hardware class, by the same rule."""
    return pl.concat(
        [capped(own, max_rows) for _, own in hours.group_by("hardware_class", maintain_order=True)]
    )


def _key_hash(hours: pl.DataFrame) -> pl.Series:
    """A hash of each row's key that is the same in every release of every library of this project."""
    text = hours.select(
        pl.concat_str([pl.col(key).cast(pl.String).fill_null("") for key in KEYS], separator="\0")
    )
    hashes = pd.util.hash_array(text.to_series().to_numpy().astype(object), categorize=False)
    return pl.Series("key_hash", hashes.astype(np.uint64))


def _is_target(device: DeviceKind) -> pl.Expr:
    if device == "node":
        return pl.col("device_id") == "node"
    return pl.col("device_id").str.contains("^gpu[0-9]*$")


def _temperature(device: DeviceKind) -> str:
    return "inlet_temp_c" if device == "node" else "device_temp_c"


def _load_columns(device: DeviceKind) -> list[str]:
    return [
        f.name for f in FEATURES[device] if f.made_from == (f.name,) and f.name.endswith("_utilisation_ratio")
    ]


def _mean(column: str, *, multiplicity: bool = False) -> pl.Expr:
    # A row without power to observe still says load and temperature: it counts with its whole interval.
    seconds = pl.when(pl.col("observed_s") > 0).then("observed_s").otherwise("interval_s").cast(pl.Float64)
    weight = seconds * pl.col("multiplicity") if multiplicity else seconds
    known = pl.when(pl.col(column).is_not_null()).then(weight)
    return quotient(exact_sum(pl.col(column) * weight, _MEAN_DIGITS), exact_sum(known, _MEAN_DIGITS))


def _load(column: str, suffix: str = "", *, multiplicity: bool = False) -> list[pl.Expr]:
    stem = column.removesuffix("_ratio")
    return [
        _mean(column, multiplicity=multiplicity).alias(f"{column}{suffix}"),
        pl.col(column).min().alias(f"{stem}_min_ratio{suffix}"),
        pl.col(column).max().alias(f"{stem}_max_ratio{suffix}"),
    ]


def _with_component_load(rows: pl.DataFrame, hours: pl.DataFrame) -> pl.DataFrame:
    """Where the node row says no load, take it from its components (mean over the devices)."""
    node_keys = [key for key in KEYS if key != "device_id"]
    parts = [part for column in _load_columns("node") for part in _load(column, "_part", multiplicity=True)]
    says = pl.any_horizontal(pl.col(_load_columns("node")).is_not_null())
    components = hours.filter((pl.col("device_id") != "node") & says).group_by(node_keys).agg(*parts)
    # cluster_id may be null (a shared node): nulls are equal here, or such a node would lose its load.
    joined = rows.join(components, on=node_keys, how="left", nulls_equal=True)
    names = [name for name in components.columns if name.endswith("_part")]
    filled = [
        pl.coalesce(name.removesuffix("_part"), name).alias(name.removesuffix("_part")) for name in names
    ]
    return joined.with_columns(filled).drop(names)


def _with_nameplate(rows: pl.DataFrame, nodes: pl.DataFrame, device: DeviceKind) -> pl.DataFrame:
    board = "" if device == "node" else "gpu_"
    plates = nodes.select(
        "site_id", "node_id", "valid_from", "valid_to",
        pl.col(f"{board}rated_power_w").alias("rated_power_w"),
        pl.col(f"{board}idle_power_w").alias("idle_power_w"),
        "gpu_count", "hardware_class",
    )  # fmt: skip
    starts_before = pl.col("valid_from").is_null() | (pl.col("valid_from") <= pl.col("hour_start"))
    ends_after = pl.col("valid_to").is_null() | (pl.col("hour_start") < pl.col("valid_to"))
    of_node = rows.select(KEYS).join(plates, on=["site_id", "node_id"], how="inner")
    holding = of_node.filter(starts_before & ends_after).drop("valid_from", "valid_to")
    return rows.join(holding, on=KEYS, how="left", nulls_equal=True).with_columns(
        pl.col("hardware_class").fill_null(UNKNOWN)
    )
