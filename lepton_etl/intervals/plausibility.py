"""Which readings of power cannot be true.

A refused reading keeps its place with the value NaN, so that nothing bridges it.
"""

from __future__ import annotations

import math
from typing import Final

import polars as pl

from lepton_etl.intervals.integrate import RATED_LIMIT_RATIO

# An 8-bit sensor with M = 100 W and B = 50 W reads 255 x 100 + 50 when its source does not answer. Seen once
# on a real Chassis Power whose other readings were 150 W (IPMI 2.0 section 36.3: y = M x + B).
FULL_SCALE_W: Final = 255 * 100 + 50.0

# No node draws less than this share of its rating, in whatever state it computes.
FLOOR_OF_RATED: Final = 0.02

FULL_SCALE: Final = "full_scale"
OUT_OF_RATED: Final = "out_of_rated"

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


def with_refusals(readings: pl.DataFrame) -> pl.DataFrame:
    """Add `refused` (flag or null) and `peak_w` (highest power of what is measured, or null); refused is NaN.

    Needs `quantity`, `value`, `scale` (why it is NaN already, or null), `rated_power_w`, `gpu_rated_power_w`. Above
    1.5 x rated power a node reading is an error (docs/definitions.md section 8); one GPU board is held against its own
    rating. Without a rating nothing is judged.
    """
    quantity = pl.col("quantity")
    limit = rated_power() * RATED_LIMIT_RATIO
    # NaN is larger than any number in polars: what is refused already is not refused again.
    is_power = quantity.str.ends_with("_power") & pl.col("value").is_finite()
    refused = (
        pl.when((quantity == "chassis_input_power") & (pl.col("value") == FULL_SCALE_W))
        .then(pl.lit(FULL_SCALE))
        .when(is_power & (pl.col("value") > limit))
        .then(pl.lit(OUT_OF_RATED))
        .otherwise(pl.col("scale"))
    )
    return readings.with_columns(rated_power().alias("peak_w"), refused.alias("refused")).with_columns(
        pl.when(pl.col("refused").is_null()).then(pl.col("value")).otherwise(float("nan")).alias("value")
    )


def within_rating(power_w: float, rated_w: float) -> bool | None:
    """Whether a running node of this rating can draw this power; None where the rating is not known (NaN)."""
    if math.isnan(rated_w):
        return None
    return FLOOR_OF_RATED * rated_w <= power_w <= RATED_LIMIT_RATIO * rated_w
