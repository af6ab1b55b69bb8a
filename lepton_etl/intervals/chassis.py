"""What several sensors say together: supplies of one node summed, copies of one chassis taken once."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.intervals.channels import resolution_by_channel
from lepton_etl.intervals.integrate import MICROSECONDS

# Nodes of one chassis are polled seconds apart, once a minute: readings of one minute are copies of one
# another.
COPY_BIN_US: Final = 60 * MICROSECONDS
SUMMED: Final = ("outlet_power", "psu_input_power")
SUM_SENSOR: Final = "sum of supplies"
MEDIAN_SENSOR: Final = "median of copies"


def summed_supplies(readings: pl.DataFrame) -> pl.DataFrame:
    """The AC input of each node as the sum of its supplies (or outlets), at stamps where all of them report.

    All are those that the node shows on this day, at least `psu_count` of the inventory where that is known.
    A refused supply makes its stamp refused. Rows come at device 'node' with sensor SUM_SENSOR; the
    resolutions of the supplies add in quadrature to `supply_resolution`. Source: docs/definitions.md section 2.
    """
    whose = ["day", "node_id", "quantity", "statistic"]
    numbered = (pl.col("quantity") == "psu_input_power") & pl.col("device_id").str.contains(r"^psu\d+$")
    outlets = (pl.col("quantity") == "outlet_power") & (pl.col("device_id") != "node")
    supplies = (
        readings.filter((numbered | outlets) & pl.col("statistic").is_in(("instant", "mean")))
        # Two sensors of one supply are two views of it: the first by name stands for it.
        .sort("day", "node_id", "quantity", "statistic", "device_id", "sensor", "time_us")
        .unique([*whose, "device_id", "time_us"], keep="first", maintain_order=True)
    )
    if supplies.is_empty():
        return readings.clear()
    supplies = supplies.with_columns(
        pl.max_horizontal(
            pl.col("device_id").n_unique().over(whose),
            pl.when(pl.col("quantity") == "psu_input_power").then(pl.col("psu_count")),
        ).alias("expected")
    )
    measured = supplies.filter(pl.col("value").is_finite())
    channel, step = resolution_by_channel(
        measured["channel"].to_numpy(),
        measured["value"].to_numpy(),
        (measured["statistic"] == "counter").to_numpy(),
    )
    steps = pl.DataFrame({"channel": channel, "step": step})
    quadrature = (
        supplies.select(*whose, "channel").unique(maintain_order=True).join(steps, on="channel", how="left")
        .group_by(whose).agg(pl.col("step").pow(2).sum().sqrt().alias("supply_resolution"))
    )  # fmt: skip
    return (
        supplies.drop("supply_resolution")
        .group_by(*whose, "time_us", "window_s", maintain_order=True)
        .agg(
            pl.len().alias("present"),
            pl.col("expected").first(),
            pl.col("value").sum(),
            *(
                pl.col(name).max()
                for name in ("max_gap_s", "spot_samples", "file_rank", "source_position", "rated_power_w")
            ),
            *(pl.col(name).first() for name in ("gpu_rated_power_w", "psu_count")),
        )
        .filter(pl.col("present") == pl.col("expected"))
        .join(quadrature, on=whose, how="left")
        .with_columns(
            pl.col("node_id").alias("owner_id"),
            device_id=pl.lit("node"),
            sensor=pl.lit(SUM_SENSOR),
            multiplicity=pl.lit(1, pl.Int32),
        )
        .pipe(_like, readings)
    )


def chassis_once(readings: pl.DataFrame) -> pl.DataFrame:
    """Each chassis reading once: the median of its nodes' copies within a minute, under node_id = chassis_id.

    Refused copies do not vote; where all are refused the stamp is refused. A node without a chassis in the
    inventory keeps its own reading. Needs `chassis_id`. Source: docs/definitions.md section 2.
    """
    copies = readings.filter(
        pl.col("quantity").is_in(("chassis_input_power", "chassis_input_energy"))
        & pl.col("chassis_id").is_not_null()
    ).sort("day", "chassis_id", "statistic", "time_us", "node_id", "sensor")
    # Counters of one chassis may have started at different times: the first node's stands for all.
    first_node = pl.col("node_id") == pl.col("node_id").min().over("day", "chassis_id")
    counted = copies.filter((pl.col("statistic") == "counter") & first_node).with_columns(
        pl.col("chassis_id").alias("node_id"), pl.lit("chassis").alias("device_id")
    )
    power = copies.filter((pl.col("quantity") == "chassis_input_power") & (pl.col("statistic") != "counter"))
    voted = (
        power.with_columns(
            pl.col("value").fill_nan(None),
            pl.when(pl.col("statistic") == "instant")
            .then(pl.col("time_us") // COPY_BIN_US)
            .otherwise(pl.col("time_us"))
            .alias("copy"),
        )
        .group_by("day", "chassis_id", "quantity", "statistic", "copy", "window_s", maintain_order=True)
        .agg(
            pl.col("value").median().fill_null(float("nan")),
            pl.col("time_us").quantile(0.5, "lower").cast(pl.Int64),
            *(pl.col(name).max() for name in ("max_gap_s", "spot_samples", "file_rank", "source_position")),
        )
        .with_columns(
            pl.col("chassis_id").alias("node_id"),
            pl.col("chassis_id").alias("owner_id"),
            device_id=pl.lit("chassis"),
            sensor=pl.lit(MEDIAN_SENSOR),
            multiplicity=pl.lit(1, pl.Int32),
        )
        .pipe(_like, readings)
    )
    others = readings.join(copies.select("channel").unique(), on="channel", how="anti")
    return pl.concat([others, counted, voted])


def _like(rows: pl.DataFrame, readings: pl.DataFrame) -> pl.DataFrame:
    """The columns of `readings`; those that rows lack are null."""
    absent = [pl.lit(None).alias(name) for name in readings.columns if name not in rows.columns]
    return rows.with_columns(absent).select(readings.columns).cast(readings.schema)
