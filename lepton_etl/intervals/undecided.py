"""Powers of a node that are not taken: of several sensors that differ, and 0 W that nothing confirms.

Sensors of a node's numbered sockets or modules (`Module 0 Power`, `Module 1 Power`) are its parts: they are summed.
Else a name decides nothing: of sensors that agree within their errors the one with the highest mean of the day is taken
(what a sensor leaves out is commoner than what it counts twice), of others none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.intervals.source_choice import FLAGGED

AMBIGUOUS: Final = "ambiguous_power"
SUSPECT_ZERO: Final = "suspect_zero"
# Outside two standard deviations of both gains together two sensors are not of one power.
SIGMAS: Final = 2.0

# A sensor of one socket or module, and its number.
PART: Final = r"(?i)((?:socket|skt|module|superchip)[ _#-]*)(\d+)"

_CLAIM: Final = ["day", "node_id", "quantity", "statistic"]
_AT_NODE: Final = ("day", "node_id", pl.lit("node").alias("device_id"), "interval_us")


@dataclass(frozen=True, slots=True)
class Decided:
    """What may speak for a node's power (values and candidates as `choose_power` takes them), and marks: ROW, flag."""

    values: pl.DataFrame
    candidates: pl.DataFrame
    marks: pl.DataFrame

    @property
    def ambiguous(self) -> pl.DataFrame:
        """Node-days on which sensors contradict each other."""
        return self.marks.filter(pl.col("flag") == AMBIGUOUS).select("day", "node_id").unique()


def decided(
    values: pl.DataFrame,
    candidates: pl.DataFrame,
    gains: Mapping[str, float],
    off: pl.DataFrame,
    interval_us: int,
) -> Decided:
    """Return the powers without those that cannot be believed.

    `gains`: one sigma of the gain error by source. `off`: spans (node_id, from_us, until_us) in which a node is known
    to be off. Source: docs/definitions.md section 2.
    """
    values, zeros = _without_zeros(values, candidates, off, interval_us)
    several = candidates.filter("at_node").filter(pl.col("channel").n_unique().over(_CLAIM) > 1)
    if several.is_empty():
        return Decided(values, candidates, zeros)
    values, candidates = _with_summed_parts(values, candidates, several)
    several = several.join(candidates, on="channel", how="semi")
    said = values.join(
        several.select("channel", *_CLAIM, "energy_source"), on="channel", how="inner"
    ).with_columns(mean_w=pl.col("integral") / pl.col("observed_s"))
    highest, lowest = pl.col("mean_w").max(), pl.col("mean_w").min()
    allowed = pl.col("energy_source").replace_strict(
        {name: SIGMAS * float(np.hypot(gain, gain)) for name, gain in gains.items()},
        default=0.0,
        return_dtype=pl.Float64,
    )
    apart = (
        said.group_by(*_CLAIM, "energy_source", "interval_us")
        .agg(((highest - lowest) / highest).alias("apart"), pl.len())
        .filter(pl.col("len") > 1)
        .group_by(*_CLAIM, "energy_source").agg(pl.col("apart").median())
        .filter(pl.col("apart") > allowed)
        .select(_CLAIM)
    )  # fmt: skip
    silent = said.join(apart, on=_CLAIM, how="semi")
    marks = silent.select(
        "day", "node_id", pl.lit("node").alias("device_id"), "interval_us", pl.lit(AMBIGUOUS).alias("flag")
    )
    order = (
        said.group_by("channel", *_CLAIM).agg(pl.col("mean_w").mean())
        .select("channel", (pl.col("mean_w").rank("ordinal", descending=True).over(_CLAIM) - 1).alias("order"))
    )  # fmt: skip
    # Less than the distance of two ranks, however many claim it.
    ranked = candidates.join(order, on="channel", how="left", maintain_order="left").with_columns(
        pl.col("rank") + pl.col("order").fill_null(0) / (pl.col("order").max().fill_null(0) + 1)
    )
    return Decided(
        values,
        ranked.drop("order").join(
            silent.select("channel").unique(), on="channel", how="anti", maintain_order="left"
        ),
        pl.concat([zeros, marks]).unique(),
    )


def _with_summed_parts(
    values: pl.DataFrame, candidates: pl.DataFrame, several: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Put one channel, the sum, in the place of sensors whose names differ by the number of a socket or module alone.

    Numbers run from 0 or 1 without a gap, else a part is missing and nothing is summed; an interval needs all parts.
    """
    number = pl.col("sensor").str.extract(PART, 2).cast(pl.Int64, strict=False)
    whole = [*_CLAIM, "named"]
    low, high = number.min().over(whole), number.max().over(whole)
    parts = (
        several.with_columns(named=pl.col("sensor").str.replace(PART, "${1}#"))
        .filter(number.is_not_null())
        .filter((low <= 1) & (high > low) & (high - low + 1 == pl.len().over(whole)))
        .filter(number.n_unique().over(whole) == pl.len().over(whole))
        .select("channel", sum=pl.col("channel").min().over(whole), parts=pl.len().over(whole))
    )
    if parts.is_empty():
        return values, candidates
    mean_w = pl.col("integral") / pl.col("observed_s")
    summed = (
        values.join(parts, on="channel", how="inner")
        .group_by("sum", "interval_us", maintain_order=True)
        .agg(
            (mean_w.sum() * pl.col("observed_s").min()).alias("integral"),
            pl.col("observed_s").min(),
            pl.col("lowest", "highest", "sampling").sum(),
            (pl.len() == pl.col("parts").first()).alias("all"),
        )
        .filter("all")
        .rename({"sum": "channel"})
        .select(values.columns)
    )
    rest = values.join(parts, on="channel", how="anti", maintain_order="left")
    kept = candidates.join(
        parts.filter(pl.col("channel") != pl.col("sum")), on="channel", how="anti", maintain_order="left"
    ).join(parts.select("channel", "parts"), on="channel", how="left", maintain_order="left")
    # Their steps add as independent errors do.
    steps = pl.col("resolution") * pl.col("parts").fill_null(1).sqrt()
    return (
        pl.concat([rest, summed]).sort("channel", "interval_us"),
        kept.with_columns(steps.alias("resolution")).drop("parts"),
    )


def _without_zeros(
    values: pl.DataFrame, candidates: pl.DataFrame, off: pl.DataFrame, interval_us: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Leave out the intervals in which a node's power is 0 W all along.

    Unless all its sources say so, and two do, or the node is known to be off. A counter that stands still may be a
    coarse one.
    """
    nothing = pl.DataFrame(schema=FLAGGED)
    is_zero = (pl.col("highest") == 0) & (pl.col("lowest") == 0)
    if not values.select(is_zero.any()).item():
        return values, nothing
    powers = candidates.filter(pl.col("at_node") & (pl.col("statistic") != "counter"))
    whose = powers.select("channel", "day", "node_id", "energy_source")
    interval = ["day", "node_id", "interval_us"]
    agree, several = is_zero.all().over(interval), pl.col("energy_source").n_unique().over(interval) > 1
    found = (
        values.join(whose, on="channel", how="inner")
        .with_columns(agree=agree, several=several)
        .filter(is_zero & ~(pl.col("agree") & pl.col("several")))
    )
    if off.height and found.height:
        within = (pl.col("from_us") <= pl.col("interval_us")) & (
            pl.col("interval_us") + interval_us <= pl.col("until_us")
        )
        is_off = found.join(off, on="node_id", how="inner").filter("agree", within)
        found = found.join(is_off.select(interval).unique(), on=interval, how="anti", maintain_order="left")
    marks = found.select(*_AT_NODE, pl.lit(SUSPECT_ZERO).alias("flag"))
    kept = values.join(
        found.select("channel", "interval_us"),
        on=["channel", "interval_us"],
        how="anti",
        maintain_order="left",
    )
    return kept, pl.concat([nothing, marks.unique()])
