"""Facility meters of few rows -> what each hour's KPIs need: IT by point, cooling, heat removed and reused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import polars as pl

from lepton_etl.fields import SECONDS_PER_HOUR
from lepton_etl.fields.words import COOLING_POINTS

REUSE: Final = "reuse"
_HOUR: Final = ("site_id", "hour_start")


def meter_totals(intervals: pl.DataFrame, meters: pl.DataFrame, least_coverage_ratio: float) -> pl.DataFrame:
    """silver/facility_interval and silver/meter -> it_ups_kwh, it_pdu_kwh, cooling_kwh, heat_removed_kwh,
    heat_reused_kwh by site_id and hour_start; null where the site has no such meter or one of them is silent.

    A meter below another of the same point and carrier is counted in its parent. Heat whose meter serves `reuse` is
    what leaves at the hand-off (ISO/IEC 30134-6), any other heat meter what cooling removes (ISO/IEC 30134-7).
    """
    listed = meters.with_columns(pl.col("carrier").fill_null("electricity"))
    parents = listed.select("site_id", pl.col("meter_id").alias("parent_id"), "point", "carrier").unique()
    top = listed.join(parents, on=["site_id", "parent_id", "point", "carrier"], how="anti").unique(
        ["site_id", "meter_id"]
    )
    # Sorted: a sum of doubles changes with the order of its rows, and with it the table.
    sums = (
        intervals.sort("site_id", "meter_id", "interval_start")
        .group_by(
            "site_id",
            "meter_id",
            pl.col("interval_start").dt.truncate("1h").alias("hour_start"),
            maintain_order=True,
        )
        .agg(pl.col("energy_kwh").sum(), pl.col("observed_s").sum())
    )
    is_known = pl.col("observed_s") >= least_coverage_ratio * SECONDS_PER_HOUR
    hours = intervals.select(
        "site_id", pl.col("interval_start").dt.truncate("1h").alias("hour_start")
    ).unique()
    each = (
        hours.join(top.select("site_id", "meter_id", "point", "carrier", "serves"), on="site_id", how="inner")
        .join(sums, on=["site_id", "meter_id", "hour_start"], how="left")
        .with_columns(pl.when(is_known).then("energy_kwh").alias("energy_kwh"))
    )
    is_heat, reuses = pl.col("carrier") == "heat", pl.col("serves").fill_null("") == REUSE
    electric = pl.col("carrier") == "electricity"
    return (
        each.sort(*_HOUR, "meter_id")
        .group_by(*_HOUR, maintain_order=True)
        .agg(
            _whole(electric & (pl.col("point") == "ups_out"), "it_ups_kwh"),
            _whole(electric & (pl.col("point") == "pdu_out"), "it_pdu_kwh"),
            _whole(electric & _at(COOLING_POINTS), "cooling_kwh"),
            _whole(is_heat & ~reuses, "heat_removed_kwh"),
            _whole(is_heat & reuses, "heat_reused_kwh"),
        )
    )


def _at(points: Iterable[str]) -> pl.Expr:
    return pl.col("point").is_in(list(points))


def _whole(chosen: pl.Expr, name: str) -> pl.Expr:
    """The sum over the chosen meters; null where there is none or one is silent."""
    energy = pl.col("energy_kwh").filter(chosen)
    return pl.when((energy.len() > 0) & (energy.null_count() == 0)).then(energy.sum()).alias(name)
