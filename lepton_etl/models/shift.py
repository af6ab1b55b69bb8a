"""Find that a device has left what its model says of it: a sequential test on the residuals of every night.

The model claims an interval for each hour. In the standard deviations of that claim, an hour that it describes misses
by a number of mean 0 and spread 1, and so does the mean of a day at most, however alike its hours are. Three sums of a
day rise where the days keep off it: more energy than expected, less, and a wider spread. Each falls by ALLOWANCE a day,
never below 0 nor above LIMIT; at the limit the device has shifted, since the sum last was 0, until that is 0 again or
another version answers. An hour counts as at most CLIP deviations, so that no single one decides.

Sources: Page, Biometrika 41 (1954) 100, cumulative sums; Montgomery, Introduction to Statistical Quality Control (2012)
section 9.1, allowance 1/2 and limit 4 or 5 (a false alarm in 168 days at 4, were days independent and hours of a day
one); Hawkins, J. Quality Technology 13 (1981) 228, the root of the deviation for the spread.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.uncertainty import Z

ALLOWANCE: Final = 0.5
LIMIT: Final = 4.0
CLIP: Final = 4.0
# A day of fewer measured hours decides nothing.
LEAST_HOURS: Final = 12
# Mean and standard deviation of the root of a standard normal's absolute value.
_ROOT_MEAN: Final = 0.822
_ROOT_SIGMA: Final = 0.349
_DEVICE: Final = ("site_id", "cluster_id", "node_id", "device_id")
# Kind of shift -> its figure of a day, whose mean is 0 where the claim holds.
_FIGURES: Final = {
    "more": pl.col("residual_level"),
    "less": -pl.col("residual_level"),
    "spread": pl.col("residual_spread"),
}
# How long ago the last row of a device may be: then it begins anew.
REMEMBERED_DAYS: Final = 7


def shifts(hours: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of gold/model_shift of these scored hours: one a device and day, in the order of the days.

    `hours` are rows of gold/prediction with the model's own interval, of one model name; `before` are rows of
    gold/model_shift of the days before, of which the newest of each device counts.
    """
    days = _figures(hours)
    state = before.sort("date").unique(list(_DEVICE), keep="last")
    found = []
    for _, today in days.group_by("date", maintain_order=True):
        rows = _tested(today, state)
        state = pl.concat([rows, state.join(rows, on=_DEVICE, how="anti")], how="diagonal_relaxed")
        found.append(rows)
    return pl.concat(found) if found else before.clear()


def in_force(hours: pl.DataFrame, rows: pl.DataFrame) -> pl.Series:
    """Return since when each hour's device has shifted by what the days before its own say; null where it has not.

    `rows` are those of gold/model_shift of the hours' days and of the days before.
    """
    known = rows.select(*_DEVICE, "model_version", "date", "shift_since").sort("date")
    dated = hours.select(*_DEVICE, "model_version", pl.col("date").dt.offset_by("-1d"), "hour_start")
    joined = dated.with_row_index("_row").sort("date").join_asof(
        known, on="date", by=[*_DEVICE, "model_version"], check_sortedness=False
    )  # fmt: skip
    return joined.sort("_row")["shift_since"]


def _figures(hours: pl.DataFrame) -> pl.DataFrame:
    """Return each device's days with the mean deviation of its measured hours and that of their roots, both about 0."""
    off = pl.col("energy_kwh") - pl.col("predicted_kwh")
    end = pl.when(off >= 0).then("predicted_upper_kwh").otherwise("predicted_lower_kwh")
    claimed = (end - pl.col("predicted_kwh")).abs() / Z
    # An end that lies at the prediction claims to be exact: what is off at all is off by much.
    deviation = pl.when(off == 0).then(0.0).otherwise((off / claimed).clip(-CLIP, CLIP))
    spread = (deviation.abs().sqrt() - _ROOT_MEAN) / _ROOT_SIGMA
    known = deviation.is_not_null() & deviation.is_not_nan()
    enough = pl.col("compared_hours") >= LEAST_HOURS
    return (
        hours.sort("date", *_DEVICE, "hour_start")
        .group_by("date", *_DEVICE, "model_name", "model_version", maintain_order=True)
        .agg(
            deviation.filter(known).mean().alias("residual_level"),
            spread.filter(known).mean().alias("residual_spread"),
            known.sum().cast(pl.Int64).alias("compared_hours"),
        )
        .with_columns(
            pl.when(enough).then(name).alias(name) for name in ("residual_level", "residual_spread")
        )
    )


def _tested(today: pl.DataFrame, state: pl.DataFrame) -> pl.DataFrame:
    """Return today's rows with the sums carried on from `state`, and what they say."""
    carried = [name for kind in _FIGURES for name in (f"{kind}_sum", f"{kind}_since")]
    own = state.select(*_DEVICE, "model_version", *carried, "shift_kind", "shift_since", "shift_found")
    joined = today.join(own, on=[*_DEVICE, "model_version"], how="left", maintain_order="left")
    sums = {
        kind: (pl.col(f"{kind}_sum").fill_null(0.0) + figure.fill_null(ALLOWANCE) - ALLOWANCE).clip(
            0.0, LIMIT
        )
        for kind, figure in _FIGURES.items()
    }
    began = {
        kind: pl.when(pl.col(f"{kind}_sum").fill_null(0.0) > 0).then(f"{kind}_since").otherwise("date")
        for kind in _FIGURES
    }
    moved = joined.with_columns(
        *(one.alias(f"{kind}_sum") for kind, one in sums.items()),
        *(pl.when(one > 0).then(began[kind]).alias(f"{kind}_since") for kind, one in sums.items()),
    )
    at_limit = [pl.when(pl.col(f"{kind}_sum") >= LIMIT).then(pl.lit(kind)) for kind in _FIGURES]
    since = [pl.when(pl.col(f"{kind}_sum") >= LIMIT).then(f"{kind}_since") for kind in _FIGURES]
    # A shift that is in force stays while its own sum does, or another one is at the limit.
    own_sum = pl.coalesce(pl.when(pl.col("shift_kind") == kind).then(f"{kind}_sum") for kind in _FIGURES)
    lasts = pl.col("shift_kind").is_not_null() & (own_sum > 0)
    return moved.with_columns(
        pl.when(lasts).then("shift_kind").otherwise(pl.coalesce(at_limit)).alias("shift_kind"),
        pl.when(lasts).then("shift_since").otherwise(pl.coalesce(since)).alias("shift_since"),
        pl.when(lasts).then("shift_found").otherwise(
            pl.when(pl.any_horizontal(one.is_not_null() for one in at_limit)).then("date")
        ).alias("shift_found"),
    )  # fmt: skip
