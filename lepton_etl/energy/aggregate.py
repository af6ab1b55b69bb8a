"""Hours of nodes -> sums by cluster or site, over an hour or a day; peaks and inlets of clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from lepton_etl.energy.exact_sums import (
    FINE_DIGITS,
    ends,
    error_sum,
    exact_sum,
    most_frequent,
    over,
    quotient,
    whole_sum,
)
from lepton_etl.energy.node_hours import covered_basis, read_energy
from lepton_etl.schema.declare import SECONDS_PER_HOUR
from lepton_etl.uncertainty import Z

INLET_PERCENTILE: Final = 0.99
# Below half of its seconds a group is not told from the rest, however well the rest can be filled.
# Source: OpenDSM's thresholds, 0.5 for sums and 0.9 for publication.
ESTIMATE_MIN_RATIO: Final = 0.5


def group_parts(
    node_hours: pl.DataFrame, by: tuple[str, ...], shared_variance: Mapping[str, float] | None = None
) -> pl.DataFrame:
    """gold/node_hour of whole nodes -> what `group_sums` sums: a row for each group of `by` and hardware class.

    Parts of different nodes add up. `shared_variance` is the share of a gain error that sensors of one class have in
    common; a class that is not named shares all of it. An error by gain, sampling or imputation that nobody knows
    leaves that of the group unknown; a resolution that nothing shows is taken to lie within the gain.
    """
    key, read = [*by, "node_id"], read_energy()
    # Hours of one node add up linearly: energies, seconds and its errors, all but that of sampling.
    nodes = node_hours.group_by(key).agg(
        pl.lit(1).alias("nodes"),
        pl.col("hardware_class").max(),
        *(exact_sum(addend).alias(name) for name, addend in _addends().items()),
        error_sum(pl.col("gain_sigma_kwh"), read).alias("gain_kwh"),
        error_sum(pl.col("sampling_sigma_kwh").pow(2), read).alias("sampling_kwh2"),
        error_sum(pl.col("imputed_sigma_kwh"), pl.col("it_energy_imputed_kwh")).alias("filled_kwh"),
        exact_sum(pl.col("resolution_sigma_kwh"), FINE_DIGITS).fill_null(0.0).alias("resolution_kwh"),
    ).join(most_frequent(node_hours, key, "sensor_class"), on=key, how="left")  # fmt: skip
    shares = pl.col("sensor_class").replace_strict(
        dict(shared_variance or {}), default=1.0, return_dtype=pl.Float64
    )
    alone = (
        (1 - pl.col("_shared")) * pl.col("gain_kwh").pow(2) + pl.col("resolution_kwh").pow(2)
        + pl.col("sampling_kwh2") + pl.col("filled_kwh").pow(2)
    )  # fmt: skip
    common = pl.col("_shared").sqrt() * pl.col("gain_kwh")
    return (
        nodes.with_columns(shares.alias("_shared"))
        .with_columns(common.alias("common_kwh"), alone.alias("alone_kwh2"))
        .group_by(*by, "hardware_class")
        .agg(*_sums(), *_fine_sums())
    )


def group_sums(parts: pl.DataFrame, by: tuple[str, ...], coverage_min_ratio: float) -> pl.DataFrame:
    """Parts of `group_parts` -> one row for each group of `by` (hour or day of a cluster or site).

    The total is measured + modelled + imputed energy: `measured` where coverage by measurement reaches the limit,
    `modelled` where coverage with modelled energy does, `estimated` where it reaches ESTIMATE_MIN_RATIO and imputation
    brings it to the limit, else null with basis `insufficient`.
    Coverage is weighted by rated power where every node has one, else by node-seconds (which stands beside it).
    Errors: the gain of a sensor adds linearly over time; over nodes of one hardware class the share that its sensor
    class has in common adds linearly, the rest, each sensor's own, in quadrature. Resolution and imputation add
    linearly over time and in quadrature over nodes, sampling in quadrature over both. Idle energy is published where
    nodes whose utilisation is known hold the same share of the energy as the limit.
    Source: docs/methodology.md, sections 1 to 4; JCGM 100:2008 (GUM) 5.2 for correlated errors.
    """
    groups = (
        parts.group_by(*by, "hardware_class")
        .agg(*_sums(), *_fine_sums())
        .group_by(by)
        .agg(
            *_sums(),
            (
                whole_sum(pl.col("common_kwh").pow(2), digits=FINE_DIGITS)
                + whole_sum(pl.col("alone_kwh2"), digits=FINE_DIGITS)
            )
            .sqrt()
            .alias("sigma_kwh"),
        )
    )
    return _figures(groups, by, coverage_min_ratio)


def _sums() -> list[pl.Expr]:
    return [exact_sum(pl.col(name)).alias(name) for name in ("nodes", *_addends())]


def _fine_sums() -> list[pl.Expr]:
    return [whole_sum(pl.col(name), digits=FINE_DIGITS).alias(name) for name in ("common_kwh", "alone_kwh2")]


def _utilisation_seconds() -> dict[str, pl.Expr]:
    """Return what the utilisation of node-hours is summed from: seconds, and seconds times utilisation.

    `cpu_*`: of servers in the scope of ITEUsv, those that are on and not mostly accelerators: 0 s of one that is off,
    null where that is not known. Of a server whose power nobody knows, work done says that it is on. A node whose GPUs
    nobody counted has some where one of them speaks. `gpu_*` by node, `board_*` by GPU board. An hour weighs by the
    seconds of it that were observed; of a node whose boards alone are read, by the seconds expected of it; of a server
    without those in which it was off.
    Source: ISO/IEC 30134-5 (ITEUsv); docs/definitions.md section 10.
    """
    cpu, gpu, boards = pl.col("cpu_utilisation_ratio"), pl.col("gpu_utilisation_ratio"), pl.col("gpu_count")
    seconds = pl.when(pl.col("observed_s") > 0).then("observed_s").otherwise("expected_s")
    power_w = pl.col("power_mean_w")
    is_server = pl.coalesce(boards == 0, gpu.is_null() & pl.col("gpu_energy_kwh").is_null())
    off_s = pl.col("off_s").fill_null(0.0)
    is_off = is_server & ((power_w == 0) | (off_s >= pl.col("expected_s")))
    on_s = (seconds - off_s).clip(lower_bound=0.0)
    is_on = is_server & cpu.is_not_null() & pl.coalesce(power_w > 0, cpu > 0)
    server_s = pl.when(is_off).then(0.0).when(is_on).then(on_s)
    busy_s = pl.when(is_off).then(0.0).when(is_on).then(on_s * cpu)
    gpu_s = pl.when(gpu.is_not_null()).then(seconds)
    return {
        "cpu_s": server_s, "cpu_busy_s": busy_s, "gpu_s": gpu_s, "gpu_busy_s": gpu_s * gpu,
        "board_s": gpu_s * boards, "board_busy_s": gpu_s * boards * gpu,
    }  # fmt: skip


def _addends() -> dict[str, pl.Expr]:
    """What is summed over the hours of a node, over nodes and over hardware classes."""
    observed_s, expected_s = pl.col("observed_s"), pl.col("expected_s")
    rated_w = pl.col("rated_power_w")
    accounted_s = pl.min_horizontal(observed_s + pl.col("imputed_s").fill_null(0.0), expected_s)
    return {
        "unrated": rated_w.is_null(),
        "measured_kwh": pl.col("it_energy_measured_kwh"),
        "modelled_kwh": pl.col("it_energy_modelled_kwh"),
        "imputed_kwh": pl.col("it_energy_imputed_kwh"),
        "chassis_shared_kwh": pl.col("chassis_shared_kwh"),
        "told_kwh": pl.when(pl.col("idle_basis") != "none").then(read_energy()),
        "by_utilisation": pl.col("idle_basis") == "utilisation",
        "idle_kwh": pl.col("idle_energy_kwh"),
        "gpu_kwh": pl.col("gpu_energy_kwh"),
        "observed_s": observed_s,
        "accounted_s": accounted_s,
        "expected_s": expected_s,
        "observed_ws": rated_w * observed_s,
        "accounted_ws": rated_w * accounted_s,
        "expected_ws": rated_w * expected_s,
        "off_s": pl.col("off_s"),
        "off_saved_kwh": pl.col("off_saved_kwh"),
        "uncounted": pl.col("gpu_utilisation_ratio").is_not_null() & pl.col("gpu_count").is_null(),
        **_utilisation_seconds(),
    }


def _figures(groups: pl.DataFrame, by: tuple[str, ...], coverage_min_ratio: float) -> pl.DataFrame:
    is_rated = pl.col("unrated") == 0

    def over_expected(name: str) -> pl.Expr:
        by_rating = pl.when(is_rated).then(quotient(pl.col(f"{name}_ws"), pl.col("expected_ws")))
        return pl.coalesce(by_rating, quotient(pl.col(f"{name}_s"), pl.col("expected_s")))

    read, coverage = read_energy(), pl.col("coverage_ratio")
    imputed = pl.col("it_energy_imputed_kwh")
    is_covered = read.is_not_null() & (coverage >= coverage_min_ratio)
    is_estimate = (coverage >= ESTIMATE_MIN_RATIO) & (pl.col("accounted_ratio") >= coverage_min_ratio)
    basis = (
        pl.when(is_covered).then(covered_basis(coverage_min_ratio))
        .when(is_estimate & imputed.is_not_null()).then(pl.lit("estimated"))
        .when(read.is_not_null() | imputed.is_not_null()).then(pl.lit("insufficient"))
        .when(pl.col("gpu_energy_kwh").is_not_null()).then(pl.lit("gpu_only"))
        .otherwise(pl.lit("none"))
    )  # fmt: skip
    told_by = pl.when(pl.col("by_utilisation") == 0).then(pl.lit("jobs")).otherwise(pl.lit("utilisation"))
    read_kwh = pl.sum_horizontal("measured_kwh", "modelled_kwh")
    is_told = pl.col("told_kwh") >= coverage_min_ratio * read_kwh
    # By board where every node says how many it has, else by node; the hours and the ratio are of the same.
    gpus = {
        name: pl.when(pl.col("uncounted") == 0).then(f"board_{name}").otherwise(f"gpu_{name}")
        for name in ("s", "busy_s")
    }
    used_h = {
        "server_observed_h": pl.col("cpu_s"), "server_busy_h": pl.col("cpu_busy_s"),
        "gpu_observed_h": gpus["s"], "gpu_busy_h": gpus["busy_s"],
    }  # fmt: skip
    has_total = pl.col("energy_basis").is_in(("measured", "modelled", "estimated"))
    return (
        groups.select(
            *by,
            pl.col("nodes").alias("node_count"),
            pl.col("measured_kwh").alias("it_energy_measured_kwh"),
            pl.col("modelled_kwh").alias("it_energy_modelled_kwh"),
            pl.col("imputed_kwh").alias("it_energy_imputed_kwh"),
            "chassis_shared_kwh",
            over_expected("accounted").alias("accounted_ratio"),
            pl.col("gpu_kwh").alias("gpu_energy_kwh"),
            over_expected("observed").clip(upper_bound=1.0).alias("coverage_ratio"),
            quotient(pl.col("observed_s"), pl.col("expected_s"))
            .clip(upper_bound=1.0)
            .alias("node_second_coverage_ratio"),
            pl.when(is_told).then("idle_kwh").alias("idle_energy_kwh"),
            pl.when(is_told).then(told_by).otherwise(pl.lit("none")).alias("idle_basis"),
            quotient(pl.col("cpu_busy_s"), pl.col("cpu_s")).alias("cpu_utilisation_ratio"),
            quotient(gpus["busy_s"], gpus["s"]).alias("gpu_utilisation_ratio"),
            *(over(seconds, SECONDS_PER_HOUR).alias(name) for name, seconds in used_h.items()),
            pl.col("sigma_kwh").alias("it_energy_sigma_kwh"),
            "off_s",
            "off_saved_kwh",
        )
        .with_columns(basis.alias("energy_basis"))
        .with_columns(
            pl.when(has_total).then(read.fill_null(0.0) + imputed.fill_null(0.0)).alias("it_energy_kwh")
        )
        .with_columns(*ends("it_energy_kwh", pl.col("it_energy_kwh"), Z * pl.col("it_energy_sigma_kwh")))
        .drop("accounted_ratio")
    )


def with_peak_power(cluster_hours: pl.DataFrame, powers: pl.DataFrame) -> pl.DataFrame:
    """Add `peak_power_w`: the largest sum over the cluster's nodes of one interval's mean powers.

    `powers` are power_sums of one or more buckets of nodes. Null where the hour's energy is not published: a sum over
    a part of the nodes is no peak.
    """
    key = ["site_id", "cluster_id", "hour_start"]
    sums = powers.group_by(*key, "interval_start").agg(exact_sum(pl.col("power_w")).alias("power_w"))
    peaks = sums.group_by(key).agg(pl.col("power_w").max().alias("_peak_w"))
    peak = pl.when(pl.col("it_energy_kwh").is_not_null()).then("_peak_w")
    return (
        cluster_hours.join(peaks, on=key, how="left").with_columns(peak.alias("peak_power_w")).drop("_peak_w")
    )


def with_inlet_p99(clusters: pl.DataFrame, counts: pl.DataFrame, period: str) -> pl.DataFrame:
    """Add `inlet_temp_p99_c`: the exact 99th percentile over node-intervals of `period` (hour_start, date).

    `counts` are inlet_counts of one or more buckets of nodes.
    """
    key = ["site_id", "cluster_id", period]
    each = counts.with_columns(pl.col("hour_start").dt.date().alias("date")).select(
        *key, pl.col("inlet_temp_c").repeat_by("count")
    )
    p99 = pl.col("inlet_temp_c").quantile(INLET_PERCENTILE, "linear").alias("inlet_temp_p99_c")
    return clusters.join(each.explode("inlet_temp_c").group_by(key).agg(p99), on=key, how="left")
