"""Intervals -> hours of nodes: one row for every node that the inventory expects, silent ones included."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.days import Days
from lepton_etl.energy.exact_sums import (
    FINE_DIGITS,
    ends,
    exact_sum,
    most_frequent,
    quotient,
    rows_of,
    weighted_mean,
    whole_sum,
)
from lepton_etl.schema.common import MODELLED_SOURCES, OFF_STATES
from lepton_etl.schema.declare import JOULES_PER_KWH, SECONDS_PER_HOUR
from lepton_etl.schema.energy import NODE_HOUR
from lepton_etl.uncertainty import Z

SHARED: Final = "_shared"
UNATTRIBUTED: Final = "_unattributed"
CHASSIS: Final = "chassis"
CHASSIS_BELOW_NODES: Final = "chassis_below_nodes"
# Chassis and nodes must have been seen for the same time of the hour, up to two minutes of polling.
CHASSIS_MISMATCH_S: Final = 120.0

NODE_HOUR_KEY: Final = ("site_id", "cluster_id", "node_id", "hour_start")
# What is read of silver/interval.
INTERVAL_COLUMNS: Final = (
    "site_id", "cluster_id", "node_id", "device_id", "interval_start", "interval_s", "multiplicity", "counts_in_total",
    "energy_kwh", "observed_s", "power_mean_w", "gain_sigma_kwh", "resolution_sigma_kwh", "sampling_sigma_kwh",
    "energy_source", "sensor_class", "cpu_utilisation_ratio", "gpu_utilisation_ratio", "inlet_temp_c", "device_temp_c",
    "flags",
)  # fmt: skip
_NODE: Final = NODE_HOUR_KEY[:3]
_BOARD: Final = r"^gpu\d+$"
_FACTS: Final = (
    "rack_id", "chassis_id", "hardware_class", "node_kind", "rated_power_w", "idle_power_w", "gpu_count",
)  # fmt: skip


def expected_hours(listed: pl.DataFrame, days: Days) -> pl.DataFrame:
    """Return one row for each row of an inventory and UTC hour of `days` in which it holds.

    Needs valid_from and valid_to (null is open); adds `hour_start`, `date` and `expected_s`, the seconds of the hour
    in which the row holds (0 < expected_s <= 3600).
    """
    begin = pl.max_horizontal("valid_from", pl.lit(days.from_time))
    end = pl.min_horizontal("valid_to", pl.lit(days.until_time))
    first_hour = pl.col("_begin").dt.truncate("1h")
    each_hour = pl.datetime_ranges(first_hour, pl.col("_end"), "1h", closed="left")
    hour_end = pl.col("hour_start") + pl.duration(hours=1)
    held = pl.min_horizontal("_end", hour_end) - pl.max_horizontal("_begin", "hour_start")
    return (
        listed.with_columns(begin.alias("_begin"), end.alias("_end"))
        .filter(pl.col("_begin") < pl.col("_end"))
        .with_columns(each_hour.alias("hour_start"))
        .explode("hour_start")
        .with_columns(
            (held.dt.total_microseconds() / 1e6).alias("expected_s"),
            pl.col("hour_start").dt.date().alias("date"),
        )
        .drop("_begin", "_end")
    )


def node_intervals(intervals: pl.DataFrame) -> pl.DataFrame:
    """Return one row a node and interval of silver/interval: its own power source, its GPU boards, its utilisations.

    Energy, observed seconds and sigmas are those of the node's counting row; a component never adds to its
    node. Of GPU energies single boards win over the shared mean. `busiest_ratio` is the largest utilisation
    known of any device. `weight_s` weights utilisations and temperatures: the observed seconds, or the whole
    interval of a row that has no power to observe.
    """
    device, energy = pl.col("device_id"), pl.col("energy_kwh")
    is_node = device == "node"
    counts = is_node & pl.col("counts_in_total") & energy.is_not_null()
    own = (
        "energy_kwh", "observed_s", "power_mean_w", "gain_sigma_kwh", "resolution_sigma_kwh", "sampling_sigma_kwh",
        "energy_source", "sensor_class",
    )  # fmt: skip
    loads = ("cpu_utilisation_ratio", "gpu_utilisation_ratio", "inlet_temp_c", "device_temp_c")
    pieces = pl.col("multiplicity").fill_null(1)
    marked = intervals.select(
        pl.col("site_id", "node_id", "interval_start"),
        pl.col("cluster_id").fill_null(SHARED),
        *(pl.when(counts).then(name).alias(name) for name in own),
        *(pl.when(is_node).then(name).alias(f"node_{name}") for name in loads),
        *(pl.when(~is_node).then(name).alias(f"part_{name}") for name in loads),
        pieces.alias("pieces"),
        pl.max_horizontal("cpu_utilisation_ratio", "gpu_utilisation_ratio").alias("busiest_ratio"),
        pl.when(device.str.contains(_BOARD)).then(energy).alias("board_kwh"),
        pl.when(device == "gpu").then(energy).alias("shared_kwh"),
        pl.when(pl.col("observed_s") > 0).then("observed_s").otherwise("interval_s").alias("weight_s"),
    )
    sums = marked.group_by(*_NODE, "interval_start").agg(
        pl.col(*own, "busiest_ratio", "weight_s", "shared_kwh").max(),
        exact_sum(pl.col("board_kwh"), FINE_DIGITS),
        *(pl.col(f"node_{name}").max() for name in loads),
        *(weighted_mean(pl.col(f"part_{name}"), pl.col("pieces")).alias(f"part_{name}") for name in loads),
    )
    return sums.select(
        *_NODE, "interval_start", pl.col("interval_start").dt.truncate("1h").alias("hour_start"),
        *own, "busiest_ratio", "weight_s", pl.coalesce("board_kwh", "shared_kwh").alias("gpu_energy_kwh"),
        *(pl.coalesce(f"node_{name}", f"part_{name}").alias(name) for name in loads),
    )  # fmt: skip


def measured_node_hours(
    intervals: pl.DataFrame,
    means: pl.DataFrame,
    nodes: pl.DataFrame,
    days: Days,
    *,
    idle_utilisation_ratio: float,
    states: pl.DataFrame,
) -> pl.DataFrame:
    """Return every node-hour that the inventory expects, with what silver/interval holds of it.

    intervals, nodes: rows of silver/interval and silver/node, whole chassis; means: node_intervals of the intervals;
    states: rows of silver/node_state.
    A node without a reading has a row with coverage 0 and null energy: silence is not off.
    """
    rows = _listed_hours(nodes, days)
    hours = _hour_sums(means, idle_utilisation_ratio)
    flags = (
        intervals.select(
            *_NODE[:1], pl.col("cluster_id").fill_null(SHARED), "node_id",
            pl.col("interval_start").dt.truncate("1h").alias("hour_start"), "flags",
        )
        .filter(pl.col("flags").list.len() > 0)
        .explode("flags")
        .group_by(NODE_HOUR_KEY)
        .agg(pl.col("flags").unique().sort())
    )  # fmt: skip
    parts = [
        hours,
        flags,
        *(most_frequent(means, NODE_HOUR_KEY, name) for name in ("energy_source", "sensor_class")),
    ]
    for part in (*parts, off_hours(intervals, states)):
        rows = rows.join(part, on=NODE_HOUR_KEY, how="left")
    saved = pl.col("idle_power_w") * pl.col("seen_off_s") * (1 / JOULES_PER_KWH) - pl.col("drawn_off_kwh")
    rows = rows.with_columns(saved.alias("off_saved_kwh")).drop("seen_off_s", "drawn_off_kwh")
    return _with_chassis_shared(
        rows.with_columns(
            pl.min_horizontal(pl.col("observed_s").fill_null(0.0), "expected_s").alias("observed_s"),
            pl.col("flags").fill_null(pl.lit([], pl.List(pl.String))),
        ).with_columns((pl.col("observed_s") / pl.col("expected_s")).alias("coverage_ratio")),
        _chassis_hours(intervals),
    )


def off_hours(intervals: pl.DataFrame, states: pl.DataFrame) -> pl.DataFrame:
    """Return the node-hours of rows of silver/node_state with what nodes did while they were off, in standby or asleep.

    NODE_HOUR_KEY, `off_s` (null where nothing is known of the node in the hour), and of the intervals with energy
    `drawn_off_kwh` and `seen_off_s`, the share of both that lies in such a state.
    """
    is_off = pl.col("node_state").is_in(OFF_STATES)
    hour, end = pl.col("hour_start"), pl.col("hour_start") + pl.duration(hours=1)
    seconds = _overlap_s(pl.col("from_time"), pl.col("to_time"), hour, end)
    first_hour = pl.col("from_time").dt.truncate("1h")
    hours = (
        states.filter(pl.col("node_state") != "silent")
        .with_columns(pl.datetime_ranges(first_hour, "to_time", "1h", closed="left").alias("hour_start"))
        .explode("hour_start")
        .group_by(NODE_HOUR_KEY)
        .agg(exact_sum(pl.when(is_off).then(seconds).otherwise(0.0)).alias("off_s"))
    )
    spans = states.filter(is_off).select(*_NODE, "from_time", "to_time")
    start, length = pl.col("interval_start"), pl.duration(seconds="interval_s")
    share = _overlap_s(pl.col("from_time"), pl.col("to_time"), start, start + length) / pl.col("interval_s")
    read = (pl.col("device_id") == "node") & pl.col("counts_in_total") & pl.col("energy_kwh").is_not_null()
    drawn = (
        intervals.filter(read)
        .select(*_NODE, "interval_start", "interval_s", "energy_kwh", "observed_s")
        .join(spans, on=_NODE, how="inner")
        .with_columns(share.alias("share"), start.dt.truncate("1h").alias("hour_start"))
        .filter(pl.col("share") > 0)
        .group_by(NODE_HOUR_KEY)
        .agg(
            exact_sum(pl.col("observed_s") * pl.col("share")).alias("seen_off_s"),
            exact_sum(pl.col("energy_kwh") * pl.col("share"), FINE_DIGITS).alias("drawn_off_kwh"),
        )
    )
    return hours.join(drawn, on=NODE_HOUR_KEY, how="left")


def _overlap_s(begin: pl.Expr, end: pl.Expr, other_begin: pl.Expr, other_end: pl.Expr) -> pl.Expr:
    """Seconds that two spans of time have in common, at least 0."""
    common = pl.min_horizontal(end, other_end) - pl.max_horizontal(begin, other_begin)
    return (common.dt.total_microseconds() * 1e-6).clip(lower_bound=0.0)


def node_hours(measured: pl.DataFrame, coverage_min_ratio: float) -> pl.DataFrame:
    """Return the rows of gold/node_hour from measured node-hours with `filled_*` (gaps.with_imputed).

    The total is measured + modelled + imputed energy, never measured / coverage: `measured` where coverage by
    measurement reaches the limit, `modelled` where coverage with modelled energy does, `estimated` below it where the
    gap is filled, else null. 90 % interval: E -/+ 1.645 sqrt(G^2 + R^2 + S^2 + I^2) by gain (of a modelled sum: the
    error of its model), resolution, sampling and imputation.
    Source: docs/methodology.md, sections 1 to 3; docs/definitions.md section 3.
    """
    energy, filled = read_energy(), pl.col("filled_kwh")
    is_covered = energy.is_not_null() & (pl.col("coverage_ratio") >= coverage_min_ratio)
    basis = (
        pl.when(is_covered).then(covered_basis(coverage_min_ratio))
        .when(filled.is_not_null()).then(pl.lit("estimated"))
        .when(energy.is_not_null()).then(pl.lit("insufficient"))
        .when(pl.col("gpu_energy_kwh").is_not_null()).then(pl.lit("gpu_only"))
        .otherwise(pl.lit("none"))
    )  # fmt: skip
    variance = (
        _variance("gain_sigma_kwh", energy)
        # A resolution that nothing shows, of a sensor that never moves, is taken to lie within the gain.
        + pl.col("resolution_sigma_kwh").fill_null(0.0).pow(2)
        + _variance("sampling_sigma_kwh", energy)
        + _variance("filled_sigma_kwh", filled)
    )
    is_told = pl.col("idle_energy_kwh").is_not_null()
    rows = measured.with_columns(
        pl.when(is_covered | filled.is_not_null())
        .then(energy.fill_null(0.0) + filled.fill_null(0.0))
        .alias("it_energy_kwh"),
        basis.alias("energy_basis"),
        filled.alias("it_energy_imputed_kwh"),
        pl.col("filled_sigma_kwh").alias("imputed_sigma_kwh"),
        pl.col("filled_s").alias("imputed_s"),
        pl.col("filled_by").alias("imputation_basis"),
        quotient(energy * JOULES_PER_KWH, pl.col("observed_s")).alias("power_mean_w"),
        pl.when(is_told).then(pl.lit("utilisation")).otherwise(pl.lit("none")).alias("idle_basis"),
        pl.lit("provisional").alias("status"),
    )
    return rows_of(
        NODE_HOUR, rows.with_columns(*ends("it_energy_kwh", pl.col("it_energy_kwh"), Z * variance.sqrt()))
    )


def _variance(sigma: str, of: pl.Expr) -> pl.Expr:
    """The square of an error: 0 where there is nothing that it is of, null where nobody knows it."""
    return pl.when(of.is_null()).then(0.0).otherwise(pl.col(sigma).pow(2))


def read_energy() -> pl.Expr:
    """Return the energy of the seconds that were read: measured plus modelled, null where there is neither."""
    measured, modelled = pl.col("it_energy_measured_kwh"), pl.col("it_energy_modelled_kwh")
    return pl.coalesce(measured + modelled, measured, modelled)


def covered_basis(coverage_min_ratio: float) -> pl.Expr:
    """Return the basis of covered energy: `measured` where the measured share of it leaves coverage above the limit."""
    share = quotient(pl.col("it_energy_measured_kwh").fill_null(0.0), read_energy())
    is_modelled = pl.col("it_energy_modelled_kwh").is_not_null() & (
        (share * pl.col("coverage_ratio") < coverage_min_ratio).fill_null(value=True)
    )
    return pl.when(is_modelled).then(pl.lit("modelled")).otherwise(pl.lit("measured"))


def power_sums(means: pl.DataFrame) -> pl.DataFrame:
    """Return the summed mean power of a cluster's nodes in each interval; sums of buckets add up by the same sum."""
    return means.group_by("site_id", "cluster_id", "hour_start", "interval_start").agg(
        exact_sum(pl.col("power_mean_w")).alias("power_w")
    )


def inlet_counts(means: pl.DataFrame) -> pl.DataFrame:
    """Return how many node-intervals of a cluster-hour had each inlet temperature, rounded to 0.01 degC.

    Counts of buckets of nodes add up, so a percentile over all nodes of a cluster is exact.
    """
    known = means.filter(pl.col("inlet_temp_c").is_not_null())
    rounded = pl.col("inlet_temp_c").round(2, mode="half_away_from_zero")
    return known.group_by("site_id", "cluster_id", "hour_start", rounded).len("count")


def _hour_sums(means: pl.DataFrame, idle_utilisation_ratio: float) -> pl.DataFrame:
    """Node-intervals -> hours of nodes that have readings, with idle energy told by utilisation."""
    energy, busiest = pl.col("energy_kwh"), pl.col("busiest_ratio")
    is_read = energy.is_not_null()
    is_told = busiest.is_not_null() & is_read
    idle = pl.when(busiest < idle_utilisation_ratio).then(energy).otherwise(0.0)
    is_modelled = pl.col("energy_source").is_in(MODELLED_SOURCES).fill_null(value=False)
    sampled = whole_sum(pl.col("sampling_sigma_kwh").pow(2), is_read, FINE_DIGITS)
    linear = ("resolution_sigma_kwh", "gpu_energy_kwh")
    loads = ("cpu_utilisation_ratio", "gpu_utilisation_ratio", "inlet_temp_c", "device_temp_c")
    return means.group_by(NODE_HOUR_KEY).agg(
        exact_sum(pl.when(~is_modelled).then(energy), FINE_DIGITS).alias("it_energy_measured_kwh"),
        exact_sum(pl.when(is_modelled).then(energy), FINE_DIGITS).alias("it_energy_modelled_kwh"),
        *(exact_sum(pl.col(name), FINE_DIGITS).alias(name) for name in linear),
        whole_sum(pl.col("gain_sigma_kwh"), is_read, FINE_DIGITS).alias("gain_sigma_kwh"),
        sampled.sqrt().alias("sampling_sigma_kwh"),
        exact_sum(pl.col("observed_s")).alias("observed_s"),
        exact_sum(pl.when(is_told).then(idle), FINE_DIGITS).alias("idle_energy_kwh"),
        pl.col("power_mean_w").max().alias("peak_power_w"),
        *(weighted_mean(pl.col(name), pl.col("weight_s")).alias(name) for name in loads),
    )


def _chassis_hours(intervals: pl.DataFrame) -> pl.DataFrame:
    known = (pl.col("device_id") == CHASSIS) & pl.col("energy_kwh").is_not_null()
    return (
        intervals.filter(known)
        .group_by(
            "site_id",
            pl.col("node_id").alias("chassis_id"),
            pl.col("interval_start").dt.truncate("1h").alias("hour_start"),
        )
        .agg(
            exact_sum(pl.col("energy_kwh"), FINE_DIGITS).alias("chassis_kwh"),
            exact_sum(pl.col("observed_s")).alias("chassis_s"),
        )
    )


def _with_chassis_shared(hours: pl.DataFrame, chassis: pl.DataFrame) -> pl.DataFrame:
    """Add `chassis_shared_kwh`: what the chassis draws beyond its nodes, split by their energy.

    Known where the chassis and all its nodes were measured in the hour. A chassis below its nodes contradicts
    them: null and a flag, never negative. Source: docs/definitions.md section 2.
    """
    members = ["site_id", "chassis_id", "hour_start"]
    energy = read_energy()
    is_known = (
        pl.col("chassis_kwh").is_not_null()
        & ((pl.col("chassis_s") - pl.col("observed_s").min().over(members)).abs() <= CHASSIS_MISMATCH_S)
        & (energy.null_count().over(members) == 0)
    )
    share = pl.coalesce(quotient(energy, pl.col("_nodes_kwh")), 1 / pl.len().over(members))
    below = pl.concat_list("flags", pl.lit(CHASSIS_BELOW_NODES)).list.unique().list.sort()
    return (
        hours.join(chassis, on=members, how="left")
        .with_columns(exact_sum(energy, FINE_DIGITS).over(members).alias("_nodes_kwh"))
        .with_columns(pl.when(is_known).then(pl.col("chassis_kwh") - pl.col("_nodes_kwh")).alias("_rest"))
        .with_columns(
            pl.when(pl.col("_rest") >= 0).then(pl.col("_rest") * share).alias("chassis_shared_kwh"),
            pl.when(pl.col("_rest") < 0).then(below).otherwise("flags").alias("flags"),
        )
        .drop("_rest", "_nodes_kwh", "chassis_kwh", "chassis_s")
    )


def _listed_hours(nodes: pl.DataFrame, days: Days) -> pl.DataFrame:
    """silver/node -> node-hours with what the newest inventory row of the hour says of the node.

    Two rows of one node may meet within an hour (a new rating, a move): the seconds add up in the cluster
    they name.
    """
    listed = nodes.with_columns(pl.col("cluster_id").fill_null(SHARED)).sort("valid_from")
    seconds = pl.min_horizontal(exact_sum(pl.col("expected_s")), SECONDS_PER_HOUR)
    return (
        expected_hours(listed, days)
        .group_by(*_NODE, "date", "hour_start", maintain_order=True)
        .agg(seconds.alias("expected_s"), pl.col(*_FACTS).last())
    )
