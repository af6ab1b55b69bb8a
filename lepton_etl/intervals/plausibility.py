"""Which readings of power cannot be true.

A refused reading keeps its place with the value NaN, so that nothing bridges it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.intervals.integrate import RATED_LIMIT_RATIO, Floats

# An 8-bit sensor with M = 100 W and B = 50 W reads 255 x 100 + 50 when its source does not answer. Seen once
# on a real Chassis Power whose other readings were 150 W (IPMI 2.0 section 36.3: y = M x + B).
FULL_SCALE_W: Final = 255 * 100 + 50.0

# No node draws less than this share of its rating, in whatever state it computes.
FLOOR_OF_RATED: Final = 0.02

FULL_SCALE: Final = "full_scale"
OUT_OF_RATED: Final = "out_of_rated"
PLACES: Final = pl.Schema({"place": pl.Int64, "flag": pl.String})
REFUSED: Final = pl.Schema({"channel": pl.Int64, "time_us": pl.Int64, "flag": pl.String})

NODE_POWERS: Final = (
    "outlet_power",
    "node_input_power",
    "node_power",
    "psu_input_power",
    "cpu_power",
    "dram_power",
)
NODE_ENERGIES: Final = tuple(name.replace("_power", "_energy") for name in NODE_POWERS)


def rated_power() -> pl.Expr:
    """The rating that a reading is held against, in W: the node's, for one GPU board its own; else null."""
    quantity = pl.col("quantity")
    return (
        pl.when(quantity.is_in(NODE_POWERS + NODE_ENERGIES))
        .then(pl.col("rated_power_w"))
        .when(quantity.is_in(("gpu_power", "gpu_energy")))
        .then(pl.col("gpu_rated_power_w"))
    )


def peak_power(sensors: pl.DataFrame) -> Floats:
    """The rating that each sensor's readings are held against in W, NaN where there is none."""
    found: Floats = sensors.select(rated_power().fill_null(float("nan"))).to_series().to_numpy()
    return found


def no_places() -> pl.DataFrame:
    """Readings in a wrong unit, where nothing is asked of units: none."""
    return pl.DataFrame(schema=PLACES)


def with_refusals(
    readings: pl.DataFrame, sensors: pl.DataFrame, scaled: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the readings, a refused one with the value NaN, and the refused ones: channel, time_us, flag.

    `readings` have channel, time_us and value; `sensors` a line for each channel in the order of its number, with
    `quantity` and the ratings. `scaled` (place, flag) are those in a wrong unit, by their place in `readings`. Above
    1.5 x rated power a node reading is an error (docs/definitions.md section 8); one GPU board is held against its own
    rating. Without a rating nothing is judged.
    """
    quantity = sensors["quantity"]
    is_power = quantity.str.ends_with("_power").to_numpy()
    limit = np.where(is_power, peak_power(sensors) * RATED_LIMIT_RATIO, np.nan)
    channel, value = readings["channel"].to_numpy(), readings["value"].to_numpy().copy()
    value[scaled["place"].to_numpy()] = np.nan
    full = value == FULL_SCALE_W
    if full.any():
        full &= (quantity == "chassis_input_power").to_numpy()[channel]
    # What is no number is refused already, and not again.
    over = np.isfinite(value) & (value > limit[channel]) & ~full
    places = {FULL_SCALE: np.flatnonzero(full), OUT_OF_RATED: np.flatnonzero(over)}
    found = pl.concat([
        scaled,
        *(pl.DataFrame({"place": rows}).with_columns(flag=pl.lit(flag)) for flag, rows in places.items()),
    ])  # fmt: skip
    if not found.height:
        return readings, pl.DataFrame(schema=REFUSED)
    value[found["place"].to_numpy()] = np.nan
    named = readings[found["place"].to_numpy()].select("channel", "time_us").with_columns(found["flag"])
    return readings.with_columns(value=pl.Series(value)), named


def within_rating(power_w: float, rated_w: float) -> bool | None:
    """Whether a running node of this rating can draw this power; None where the rating is not known (NaN)."""
    if math.isnan(rated_w):
        return None
    return FLOOR_OF_RATED * rated_w <= power_w <= RATED_LIMIT_RATIO * rated_w
