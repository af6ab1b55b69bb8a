"""Turn silver/interval and silver/node into device-hours with target and features, as Spark plans."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lepton_etl.config.sections import DeviceKind
from lepton_etl.models.features import FEATURES, KEYS, TARGET, UNKNOWN, Feature
from lepton_etl.schema.columns import FINE_SUM, Transform, exact_sum, weighted_mean
from lepton_etl.schema.declare import SECONDS_PER_HOUR


def device_hours(device: DeviceKind, nodes: DataFrame) -> Transform:
    """Turn silver/interval into one row per device-hour: KEYS, date, observed_s, `energy_kwh`, and the features.

    `nodes` is silver/node; the row that holds at the hour's start is joined, none leaves the nameplate null.
    Means are weighted by observed seconds and summed in decimal: the same intervals give the same bits
    in any partitioning. Energy that is itself modelled (psu_output, modelled_sum) teaches nothing: left out.
    """

    def transform(intervals: DataFrame) -> DataFrame:
        hours = intervals.withColumn("hour_start", F.date_trunc("hour", "interval_start"))
        target_rows = hours.where(_is_target(device) & ~_is_modelled())
        keys = [F.col(key) for key in KEYS]
        energy = exact_sum(F.col("energy_kwh") / F.col("multiplicity"), FINE_SUM)
        known_s = exact_sum(F.when(F.col("energy_kwh").isNotNull(), F.col("observed_s")))
        targets = target_rows.groupBy(*keys).agg(
            F.max("date").alias("date"),
            exact_sum(F.col("observed_s")).alias("observed_s"),
            F.when(known_s > 0, energy / known_s * SECONDS_PER_HOUR).alias(TARGET),
            *_aggregates(device),
        )
        rows = targets if device == "gpu" else _with_component_load(targets, hours)
        return _with_nameplate(rows, nodes, device).select(
            *KEYS, "date", "observed_s", TARGET, *(_typed(feature) for feature in FEATURES[device])
        )

    return transform


def covered(coverage_min_ratio: float) -> Transform:
    """Keep device-hours with a target and at least this share of observed seconds."""

    def transform(hours: DataFrame) -> DataFrame:
        return hours.where(
            F.col(TARGET).isNotNull() & (F.col("observed_s") >= coverage_min_ratio * SECONDS_PER_HOUR)
        )

    return transform


def capped(max_rows: int) -> Transform:
    """Return at most `max_rows` rows, those whose hash of the key is lowest: the same rows on every run."""

    def transform(hours: DataFrame) -> DataFrame:
        return hours.orderBy(F.xxhash64(*KEYS), *KEYS).limit(max_rows)

    return transform


def capped_by_class(max_rows: int) -> Transform:
    """Return at most `max_rows` rows of each hardware class, by the same rule."""

    def transform(hours: DataFrame) -> DataFrame:
        order = Window.partitionBy("hardware_class").orderBy(F.xxhash64(*KEYS), *KEYS)
        return (
            hours.withColumn("_rank", F.row_number().over(order))
            .where(F.col("_rank") <= max_rows)
            .drop("_rank")
        )

    return transform


def _is_target(device: DeviceKind) -> Column:
    if device == "node":
        return F.col("device_id") == "node"
    return F.col("device_id").rlike("^gpu[0-9]*$")


def _is_modelled() -> Column:
    return F.coalesce(F.col("energy_source").isin("psu_output", "modelled_sum"), F.lit(False))


def _mean(column: str, multiplicity: bool = False) -> Column:
    # A row without power to observe still says load and temperature: it counts with its whole interval.
    seconds = F.when(F.col("observed_s") > 0, F.col("observed_s")).otherwise(F.col("interval_s"))
    weight = seconds * F.col("multiplicity") if multiplicity else seconds
    return weighted_mean(F.col(column), weight)


def _load_columns(device: DeviceKind) -> list[str]:
    return [
        f.name for f in FEATURES[device] if f.made_from == (f.name,) and f.name.endswith("_utilisation_ratio")
    ]


def _load_aggregates(column: str, suffix: str = "", multiplicity: bool = False) -> list[Column]:
    stem = column.removesuffix("_ratio")
    return [
        _mean(column, multiplicity).alias(f"{column}{suffix}"),
        F.min(column).alias(f"{stem}_min_ratio{suffix}"),
        F.max(column).alias(f"{stem}_max_ratio{suffix}"),
    ]


def _aggregates(device: DeviceKind) -> list[Column]:
    temperature = "inlet_temp_c" if device == "node" else "device_temp_c"
    loads = [aggregate for column in _load_columns(device) for aggregate in _load_aggregates(column)]
    return [_mean(temperature).alias(temperature), *loads]


def _with_component_load(targets: DataFrame, hours: DataFrame) -> DataFrame:
    """Take the load from a node's components (mean over the devices) where the node's own row has none."""
    node_keys = [key for key in KEYS if key != "device_id"]
    columns = _load_columns("node")
    parts = [part for column in columns for part in _load_aggregates(column, "_part", multiplicity=True)]
    components = hours.where(F.col("device_id") != "node").groupBy(*node_keys).agg(*parts)
    filled = [
        F.coalesce(F.col(name), F.col(f"{name}_part")).alias(name)
        for column in columns
        for name in (column, *(column.replace("_ratio", f"_{end}_ratio") for end in ("min", "max")))
    ]
    names = {name for name in components.columns if name.endswith("_part")}
    kept = [c for c in targets.columns if f"{c}_part" not in names]
    # cluster_id may be null (a shared node): null-safe, or such a node would lose its load.
    return _null_safe_join(targets, components, node_keys).select(*kept, *filled)


def _null_safe_join(left: DataFrame, right: DataFrame, keys: list[str]) -> DataFrame:
    renamed = right.withColumnsRenamed({key: f"{key}_right" for key in keys})
    condition = F.lit(True)
    for key in keys:
        condition = condition & F.col(key).eqNullSafe(F.col(f"{key}_right"))
    return left.join(renamed, on=condition, how="left").drop(*(f"{key}_right" for key in keys))


def _with_nameplate(rows: DataFrame, nodes: DataFrame, device: DeviceKind) -> DataFrame:
    board = "" if device == "node" else "gpu_"
    inventory = nodes.select(
        F.col("site_id").alias("inventory_site_id"),
        F.col("node_id").alias("inventory_node_id"),
        "valid_from",
        "valid_to",
        F.col(f"{board}rated_power_w").alias("rated_power_w"),
        F.col(f"{board}idle_power_w").alias("idle_power_w"),
        "gpu_count",
        F.coalesce("hardware_class", F.lit(UNKNOWN)).alias("hardware_class"),
    )
    starts_before = F.col("valid_from").isNull() | (F.col("valid_from") <= F.col("hour_start"))
    ends_after = F.col("valid_to").isNull() | (F.col("hour_start") < F.col("valid_to"))
    same_node = (F.col("site_id") == F.col("inventory_site_id")) & (
        F.col("node_id") == F.col("inventory_node_id")
    )
    joined = rows.join(F.broadcast(inventory), on=same_node & starts_before & ends_after, how="left")
    return joined.withColumn("hardware_class", F.coalesce("hardware_class", F.lit(UNKNOWN)))


def _typed(feature: Feature) -> Column:
    return F.col(feature.name).cast("string" if feature.category else "double").alias(feature.name)
