"""Readings of facility meters -> rows of silver/facility_interval."""

from __future__ import annotations

from math import sqrt
from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.energy.channels import READING_COLUMNS, integrate_channels, numbered, resolve_repeats
from lepton_etl.energy.integrate import MICROSECONDS
from lepton_etl.energy.intervals import CONFLICT, PARTIAL, IntervalPolicy
from lepton_etl.energy.roster import DAY_US
from lepton_etl.energy.sensor_classes import SAMPLED, class_of_meter, meter_gain_ratio, of_class
from lepton_etl.energy.sources import ROW, choose_power
from lepton_etl.fields import JOULES_PER_KWH
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables import FACILITY_INTERVAL

METER_QUANTITIES: Final = ("facility_power", "facility_energy", "heat_power", "heat_energy")
# The columns that say how a meter speaks; they travel with its readings, whose node_id is the meter_id.
METER_COLUMNS: Final = ("point", "kind", "multiplier", "class_pct", "counter_max_kwh", "meter_peak_power_w")


def facility_intervals(readings: pa.Table, policy: IntervalPolicy) -> pa.Table:
    """The rows of silver/facility_interval of the days in `readings`, sorted by key.

    `readings` has READING_COLUMNS and METER_COLUMNS; times are starts of windows (a meter labelled `end` is
    shifted before). Logged values are multiplied by the transformer ratio they still lack; the sign stays
    with the meter. The energies of an interval meter are spread evenly over their window. A meter whose class nobody
    states has no gain error: it is not known.
    """
    frame = pl.DataFrame(readings.select([*READING_COLUMNS, *METER_COLUMNS]))
    is_energy = pl.col("quantity").str.ends_with("_energy")
    spread = is_energy & pl.col("statistic").is_in(("mean", "instant")) & (pl.col("window_s") > 0)
    prepared = frame.with_columns(
        pl.lit("meter").alias("device_id"),
        pl.col("node_id").alias("owner_id"),
        pl.lit(1, pl.Int32).alias("multiplicity"),
        (pl.col("meter_peak_power_w") * pl.col("multiplier")).alias("peak_w"),
        (
            pl.coalesce(pl.col("counter_max_kwh") * JOULES_PER_KWH, "counter_max_j") * pl.col("multiplier")
        ).alias("counter_max_j"),
        pl.lit(None, pl.Float64).alias("supply_resolution"),
        pl.when(spread).then(pl.lit("mean")).otherwise("statistic").alias("statistic"),
        (
            pl.col("value") * pl.col("multiplier") / pl.when(spread).then(pl.col("window_s")).otherwise(1.0)
        ).alias("value"),
        # An energy without its window says nothing about when it was used.
        pl.when(is_energy & (pl.col("statistic") != "counter") & ~spread)
        .then(True)
        .otherwise(False)
        .alias("windowless"),
    )
    usable = prepared.filter(~pl.col("windowless")).drop("windowless")
    winners, conflicts = resolve_repeats(usable, policy.interval_us)
    channels = integrate_channels(numbered(winners).sort("channel", "time_us"), policy.interval_us)
    ways = winners.select("day", "node_id", "point", "kind", "class_pct").unique(
        ["day", "node_id"], maintain_order=True
    )
    candidates = _ranked(channels.sensors.join(ways, on=["day", "node_id"], how="left"))
    power = choose_power(channels.values, candidates).with_columns(class_of_meter().alias("sensor_class"))
    flags = _flags(power, channels.marks, conflicts, policy)
    return _table(power.join(flags, on=ROW, how="left"), policy)


def _ranked(sensors: pl.DataFrame) -> pl.DataFrame:
    """Which channel speaks first: the declared kind, then counters, then means, then instants."""
    kind = (
        pl.when(pl.col("statistic") == "counter")
        .then(pl.lit("counter"))
        .when(pl.col("quantity").str.ends_with("_energy"))
        .then(pl.lit("interval"))
        .otherwise(pl.lit("power"))
    )
    order = pl.col("statistic").replace_strict({"counter": 0, "mean": 1, "instant": 2}, default=None)
    return sensors.filter(order.is_not_null()).with_columns(
        (order + pl.when(kind == pl.col("kind")).then(0).otherwise(3)).alias("rank"),
        pl.when(kind == "interval")
        .then(pl.lit("interval_meter"))
        .otherwise(pl.lit("meter"))
        .alias("energy_source"),
    )


def _flags(
    power: pl.DataFrame, marks: pl.DataFrame, conflicts: pl.DataFrame, policy: IntervalPolicy
) -> pl.DataFrame:
    named = {"owner_id": "node_id"}
    short = power.filter(pl.col("observed_s") < policy.interval_s - 1e-6)
    found = [
        marks.rename(named).select(*ROW, "flag"),
        conflicts.rename(named).select(*ROW, pl.lit(CONFLICT).alias("flag")),
        short.select(*ROW, pl.lit(PARTIAL).alias("flag")),
    ]
    return pl.concat(found).group_by(ROW).agg(pl.col("flag").unique().sort().alias("flags"))


def _table(rows: pl.DataFrame, policy: IntervalPolicy) -> pa.Table:
    # By multiplication, for the reason that intervals.py gives.
    energy = pl.col("integral") * (1 / JOULES_PER_KWH)
    rounding = pl.col("resolution") * (1 / sqrt(12) / JOULES_PER_KWH)
    seconds = pl.when(pl.col("statistic") == "counter").then(1.0).otherwise("observed_s")
    unseen = 1 - of_class(policy.classes, SAMPLED)
    frame = (
        rows.filter(pl.col("interval_us") // DAY_US == pl.col("day"))
        .select(
            pl.lit(policy.site_id).alias("site_id"),
            pl.col("node_id").alias("meter_id"),
            "point",
            pl.from_epoch("interval_us", "us").dt.replace_time_zone("UTC").alias("interval_start"),
            pl.from_epoch("day", "d").alias("date"),
            pl.lit(policy.interval_us // MICROSECONDS).alias("interval_s"),
            energy.alias("energy_kwh"),
            (pl.col("integral") / pl.col("observed_s")).alias("power_mean_w"),
            "observed_s",
            "energy_source",
            pl.col("flags").fill_null(pl.lit([], dtype=pl.List(pl.String))),
            "sensor_class",
            (energy * meter_gain_ratio(policy.classes)).alias("gain_sigma_kwh"),
            (rounding * seconds).alias("resolution_sigma_kwh"),
            ((pl.col("sampling") * unseen).sqrt() * (1 / JOULES_PER_KWH)).alias("sampling_sigma_kwh"),
        )
        .sort("meter_id", "interval_start")
    )
    return frame.to_arrow().select(list(FACILITY_INTERVAL.columns)).cast(arrow_schema(FACILITY_INTERVAL))
