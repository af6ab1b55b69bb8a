"""What several sensors say together: supplies of one node summed, copies of one chassis taken once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.intervals.channels import CHANNEL, resolution_by_channel
from lepton_etl.intervals.integrate import MICROSECONDS

# Nodes of one chassis are polled seconds apart, once a minute: readings of one minute are copies of one
# another.
COPY_BIN_US: Final = 60 * MICROSECONDS
_INPUT: Final = "psu_input_power"
_OUTPUT: Final = "psu_output_power"
SUM_SENSOR: Final = "sum of supplies"
MEDIAN_SENSOR: Final = "median of copies"


@dataclass(frozen=True)
class Spoken:
    """Sensors (a line for each channel) and their readings (channel, MEASURED), by channel and time."""

    sensors: pl.DataFrame
    readings: pl.DataFrame


@dataclass(frozen=True, slots=True)
class SupplyLoss:
    """What a power supply takes in beyond what it gives out: `fixed_w` and a share `ratio` of its output."""

    fixed_w: float = 0.0
    ratio: float = 0.0


def summed_supplies(spoken: Spoken, loss: SupplyLoss | None, totals: Collection[str]) -> Spoken:
    """The AC input of each node as the sum of its supplies (or outlets), at stamps where all of them report.

    Of a node without a reading of `totals` (quantities that say its input) the outputs of its supplies and their `loss`
    stand for the input (None: nothing does); supplies that give nothing out say nothing.

    All are those that the node shows on this day, at least `psu_count` of the inventory where that is known.
    A refused supply makes its stamp refused. The sums stand at device 'node' with sensor SUM_SENSOR; the
    resolutions of the supplies add in quadrature to `supply_resolution`. Channels count from 0.
    Source: docs/definitions.md section 2.
    """
    whose = ["day", "node_id", "quantity", "statistic"]
    lost = loss or SupplyLoss()
    quantity, is_supply = pl.col("quantity"), pl.col("device_id").str.contains(r"^psu\d+$")
    numbered = is_supply & ((quantity == _INPUT) | _is_output(spoken, () if loss is None else totals))
    outlets = (pl.col("quantity") == "outlet_power") & (pl.col("device_id") != "node")
    supplies = spoken.sensors.filter((numbered | outlets) & pl.col("statistic").is_in(("instant", "mean")))
    if supplies.is_empty():
        return Spoken(spoken.sensors.clear(), spoken.readings.clear())
    sums = (
        supplies.select(*whose)
        .unique()
        .sort(whose)
        .with_row_index("sum")
        .with_columns(pl.col("sum").cast(pl.Int64))
    )
    supplies = (
        supplies.join(sums, on=whose, how="left")
        .sort("sum", "device_id", "channel")
        .with_columns(pl.struct("sum", "device_id").rle_id().cast(pl.Int64).alias("supply"))
    )
    expected = supplies.group_by("sum").agg(
        pl.max_horizontal(
            pl.col("device_id").n_unique(),
            pl.when(quantity.is_in((_INPUT, _OUTPUT))).then(pl.col("psu_count")).max(),
        ).alias("expected")
    )
    said = (
        spoken.readings.join(supplies.select("channel", "sum", "supply"), on="channel", how="inner")
        # Two sensors of one supply are two views of it: the first by name stands for it.
        .sort("supply", "time_us", "channel")
    )
    if supplies["supply"].n_unique() < supplies.height:
        said = said.unique(["supply", "time_us"], keep="first", maintain_order=True)
    measured = said.filter(pl.col("value").is_finite()).sort("channel", maintain_order=True)
    channel, step = resolution_by_channel(
        measured["channel"].to_numpy(),
        measured["value"].to_numpy(),
        np.zeros(spoken.sensors.height, dtype=np.bool_),
    )
    quadrature = (
        said.select("sum", "channel").unique(maintain_order=True)
        .join(pl.DataFrame({"channel": channel, "step": step}), on="channel", how="left")
        .sort("sum", "channel")
        .group_by("sum").agg(pl.col("step").pow(2).sum().sqrt().alias("supply_resolution"))
    )  # fmt: skip
    readings = (
        said.group_by("sum", "time_us", "window_s", maintain_order=True)
        .agg(
            pl.len().alias("present"),
            pl.col("value").sum(),
            *(pl.col(name).max() for name in ("max_gap_s", "spot_samples")),
        )
        .join(expected, on="sum", how="left")
        .filter(pl.col("present") == pl.col("expected"))
        .join(sums.select("sum", (quantity == _OUTPUT).alias("is_output")), on="sum", how="left")
        .with_columns(
            pl.when(~pl.col("is_output"))
            .then("value")
            .when(pl.col("value") > 0)
            .then(pl.col("value") * (1 + lost.ratio) + pl.col("present") * lost.fixed_w)
            .otherwise(float("nan"))
            .alias("value")
        )
        .sort("sum", "time_us")
    )
    spoken_of = readings.select(pl.col("sum").unique().sort()).with_row_index("channel")
    facts = [
        name for name in spoken.sensors.columns if name not in ("channel", "supply_resolution", *CHANNEL)
    ]
    sensors = (
        spoken_of.join(sums, on="sum", how="left")
        .join(quadrature, on="sum", how="left")
        .join(supplies.group_by("sum").agg(pl.col(facts).first()), on="sum", how="left")
        .with_columns(
            pl.col("node_id").alias("owner_id"), device_id=pl.lit("node"), sensor=pl.lit(SUM_SENSOR)
        )
        .sort("channel")
    )
    return Spoken(
        _like(sensors, spoken.sensors),
        _like(
            readings.join(spoken_of, on="sum", how="left", maintain_order="left").with_columns(
                multiplicity=pl.lit(1, pl.Int32)
            ),
            spoken.readings,
        ),
    )


def _is_output(spoken: Spoken, totals: Collection[str]) -> pl.Expr:
    """Whether a sensor is of a supply's output on a day on which nothing says the node's input."""
    is_output = pl.col("quantity") == _OUTPUT
    if not totals or not spoken.sensors.select(is_output.any()).item():
        return pl.lit(value=False)
    channels = spoken.readings.filter(pl.col("value").is_finite())["channel"].unique()
    total = pl.col("quantity").is_in(list(totals)) & pl.col("channel").is_in(channels.implode())
    return is_output & ~total.any().over("day", "node_id")


def chassis_once(spoken: Spoken) -> Spoken:
    """Each chassis reading once: the median of its nodes' copies within a minute, under node_id = chassis_id.

    Refused copies do not vote; where all are refused the stamp is refused. A node without a chassis in the
    inventory keeps its own reading. Needs `chassis_id`. Channels are numbered anew, in the order of CHANNEL.
    Source: docs/definitions.md section 2.
    """
    sensors = spoken.sensors
    is_copy = (
        pl.col("quantity").is_in(("chassis_input_power", "chassis_input_energy"))
        & pl.col("chassis_id").is_not_null()
    )
    copies = sensors.filter(is_copy)
    if copies.is_empty():
        return _renumbered([spoken])
    # Counters of one chassis may have started at different times: the first node's stands for all.
    first_node = pl.col("node_id") == pl.col("node_id").min().over("day", "chassis_id")
    is_counter = pl.col("statistic") == "counter"
    counters = copies.filter(is_counter & first_node).with_columns(
        pl.col("chassis_id").alias("node_id"), pl.lit("chassis").alias("device_id")
    )
    powers = copies.filter((pl.col("quantity") == "chassis_input_power") & ~is_counter)
    voices = (
        powers.select("day", "chassis_id", "quantity", "statistic").unique().sort(pl.all())
        .with_row_index("voice").with_columns(pl.col("voice").cast(pl.Int64))
    )  # fmt: skip
    whose = powers.join(voices, on=["day", "chassis_id", "quantity", "statistic"], how="left")
    instant = pl.col("statistic") == "instant"
    voted = (
        spoken.readings.join(whose.select("channel", "voice", "statistic"), on="channel", how="inner")
        .with_columns(
            pl.col("value").fill_nan(None),
            pl.when(instant).then(pl.col("time_us") // COPY_BIN_US).otherwise("time_us").alias("copy"),
        )
        .group_by("voice", "copy", "window_s", maintain_order=True)
        .agg(
            pl.col("value").median().fill_null(float("nan")),
            pl.col("time_us").quantile(0.5, "lower").cast(pl.Int64),
            *(pl.col(name).max() for name in ("max_gap_s", "spot_samples")),
        )
        .sort("voice", "time_us", "window_s")
        .with_columns(pl.col("voice").alias("channel"), multiplicity=pl.lit(1, pl.Int32))
    )
    voters = voices.with_columns(
        pl.col("voice").alias("channel"),
        pl.col("chassis_id").alias("node_id"),
        pl.col("chassis_id").alias("owner_id"),
        device_id=pl.lit("chassis"),
        sensor=pl.lit(MEDIAN_SENSOR),
    )
    return _renumbered([
        _of(spoken, sensors.filter(~is_copy)),
        _of(spoken, counters),
        Spoken(_like(voters, sensors), _like(voted, spoken.readings)),
    ])  # fmt: skip


def together(one: Spoken, other: Spoken) -> Spoken:
    """Both, the channels of the second counted on from those of the first."""
    further = pl.col("channel") + one.sensors.height
    return Spoken(
        pl.concat([one.sensors, other.sensors.with_columns(further)]),
        pl.concat([one.readings, other.readings.with_columns(further)]),
    )


def _of(spoken: Spoken, sensors: pl.DataFrame) -> Spoken:
    """These of the sensors and their readings."""
    chosen = np.zeros(spoken.sensors.height, dtype=np.bool_)
    chosen[sensors["channel"].to_numpy()] = True
    return Spoken(sensors, spoken.readings.filter(chosen[spoken.readings["channel"].to_numpy()]))


def _renumbered(parts: list[Spoken]) -> Spoken:
    """All the parts, channels numbered in the order of CHANNEL; readings stay channel by channel."""
    whole = pl.concat([part.sensors.with_columns(part=pl.lit(place)) for place, part in enumerate(parts)])
    ordered = whole.sort(CHANNEL).with_row_index("number").with_columns(pl.col("number").cast(pl.Int64))
    readings = []
    for place, part in enumerate(parts):
        own = ordered.filter(pl.col("part") == place)
        number = np.zeros(int(own["channel"].max() or 0) + 1, dtype=np.int64)  # type: ignore[arg-type]
        number[own["channel"].to_numpy()] = own["number"].to_numpy()
        readings.append(
            part.readings.with_columns(channel=pl.Series(number[part.readings["channel"].to_numpy()]))
        )
    sensors = ordered.drop("channel", "part").rename({"number": "channel"})
    return Spoken(sensors, pl.concat(readings))


def _like(rows: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """The columns of `frame`; those that rows lack are null."""
    absent = [pl.lit(None).alias(name) for name in frame.columns if name not in rows.columns]
    return rows.with_columns(absent).select(frame.columns).cast(frame.schema)
