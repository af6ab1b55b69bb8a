"""Losses by nameplate, errors by accuracy class, and what stands in for meters."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import polars as pl

from lepton_etl.ledger.inputs import HOUR, MODELLED_HOURS


def transformer_losses(
    meters: pl.DataFrame, rated_power_w: float, no_load_loss_ratio: float, load_loss_ratio: float
) -> pl.DataFrame:
    """MODELLED_HOURS of a transformer by its nameplate: rating x (no-load + load loss x (load / rating)^2).

    The load is the utility meters' mean power of the hour. The error is half of the load loss: the square is
    of the hour's mean, and the nameplate speaks of the reference temperature.
    Source: IEC 60076-1 (no-load loss constant, load loss by the square of the current).
    """
    rating_kwh = rated_power_w / 1000.0
    utility = meters.filter(pl.col("point") == "utility").sort("meter_id").group_by(HOUR, maintain_order=True).agg(
        pl.col("energy_kwh").sum(), pl.col("energy_kwh").is_null().any().alias("unknown")
    ).filter(~pl.col("unknown"))  # fmt: skip
    by_load = rating_kwh * load_loss_ratio * (pl.col("energy_kwh") / rating_kwh).pow(2)
    return utility.select(
        *HOUR, pl.lit("transformer").alias("part"),
        (rating_kwh * no_load_loss_ratio + by_load).alias("energy_kwh"), (by_load / 2).alias("sigma_kwh"),
    )  # fmt: skip


def class_sigma_ratio(class_pct: float) -> float:
    """One standard deviation of a meter of an accuracy class: any gain within the class is as likely as another.

    Source: JCGM 100:2008 (GUM) 4.3.7, uniform distribution of half width `class_pct` percent.
    """
    return class_pct / 100.0 / sqrt(3)


def modelled_hours(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """What stands in for silent or missing meters, one frame; the first that speaks for a part is taken."""
    frames = [pl.DataFrame(schema=MODELLED_HOURS), *(part.cast(MODELLED_HOURS) for part in parts)]
    return pl.concat(frames).unique([*HOUR, "part"], keep="first", maintain_order=True)
