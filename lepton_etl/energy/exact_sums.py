"""Sums, ratios and means over rows that do not depend on the order or the partitioning of the rows.

Doubles added in another order differ in their last digits, and a re-run would look like new content. Every sum over
rows is therefore taken in whole units of a power of ten (docs/definitions.md section 8) and given back as a double.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from lepton_etl.schema.declare import Table, end_names
from lepton_etl.schema.types import arrow_schema

# Digits after the point that a sum keeps: of energies and seconds, as decimal(28,9) does.
ENERGY_DIGITS: Final = 9
# For addends far below one, as decimal(38,18) does: 300 s of one idle board is 1e-3 kWh, a squared sensor error 1e-9.
FINE_DIGITS: Final = 18


def exact_sum(value: pl.Expr, digits: int = ENERGY_DIGITS) -> pl.Expr:
    """Sum of a number over the rows of a group, null where every addend is null; the same for any order of rows."""
    number = value.cast(pl.Float64)
    if digits == FINE_DIGITS:
        # As decimals of their printed digits: so a sum of halves of the ninth digit is such a half again.
        total = number.cast(pl.String).str.to_decimal(scale=digits).sum().cast(pl.Float64)
    else:
        total = over(_units(number, digits).sum().cast(pl.Float64), 10.0**digits)
    return pl.when(value.count() > 0).then(total)


def over(number: pl.Expr, divisor: float) -> pl.Expr:
    """Divide by a constant, the same in a frame of one row and of many.

    polars divides one row, and multiplies more than one by the reciprocal, which may end in another digit: a day made
    alone would differ from the same day made with its neighbour.
    """
    return number / (number * 0.0 + divisor)


def _units(number: pl.Expr, digits: int) -> pl.Expr:
    """Whole units of the last digit; halves, as their digits are printed, away from zero."""
    size, scale = number.abs(), 10.0**digits
    whole = (size * scale).floor()
    # The product itself may round up to a half. Above 2^51 a double has no half.
    rounds_up = (whole < 2.0**51) & (size >= (whole + 0.5) / scale)
    return ((whole + rounds_up.cast(pl.Float64)) * number.sign()).cast(pl.Int128)


def quotient(numerator: pl.Expr, denominator: pl.Expr) -> pl.Expr:
    """Quotient, null where the denominator is 0 or unknown."""
    return pl.when(denominator != 0).then(numerator / denominator)


def weighted_mean(value: pl.Expr, weight: pl.Expr) -> pl.Expr:
    """Mean of `value` by `weight` over the rows that have a value; null where none has, or no weight."""
    known_weight = pl.when(value.is_not_null()).then(weight)
    products, weights = (
        _units(part.cast(pl.Float64), FINE_DIGITS).sum() for part in (value * weight, known_weight)
    )
    return quotient(products.cast(pl.Float64), weights.cast(pl.Float64))


def whole_sum(value: pl.Expr, needed: pl.Expr | None = None, digits: int = ENERGY_DIGITS) -> pl.Expr:
    """Sum of a figure over the rows of a group, null where a row (that is `needed`) has none."""
    unknown = value.is_null() if needed is None else needed & value.is_null()
    return pl.when(unknown.sum() == 0).then(exact_sum(value, digits))


def error_sum(error: pl.Expr, of: pl.Expr) -> pl.Expr:
    """Sum of the errors of a figure over the rows of a group: 0 where no row has the figure.

    Null where a row has the figure and no error: an error that nobody knows is not none.
    """
    unknown = of.is_not_null() & error.is_null()
    return pl.when(unknown.sum() == 0).then(exact_sum(error, FINE_DIGITS).fill_null(0.0))


def most_frequent(rows: pl.DataFrame, keys: Sequence[str], column: str) -> pl.DataFrame:
    """The most frequent known value of a column by `keys`; of several the first by its order."""
    counts = rows.filter(pl.col(column).is_not_null()).group_by(*keys, column).len("_count")
    return (
        counts.sort([*keys, "_count", column], descending=[*(False for _ in keys), True, False])
        .unique(keys, keep="first", maintain_order=True)
        .drop("_count")
    )


def ends(name: str, value: pl.Expr, half_width: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Lower and upper end of the 90 % interval of a figure, under their names; the lower end is never below 0."""
    lower, upper = end_names(name)
    return (value - half_width).clip(lower_bound=0.0).alias(lower), (value + half_width).alias(upper)


def whole_ends(name: str, is_published: pl.Expr) -> tuple[pl.Expr, ...]:
    """Ends of a sum over hours: those of the hours, added; null where an hour that has the figure has none.

    One sensor and one factor err alike all day: hours in quadrature would make a bias vanish.
    """
    return tuple(
        pl.when(is_published & (pl.col(end).count() == pl.col(name).count()))
        .then(exact_sum(pl.col(end)))
        .alias(end)
        for end in end_names(name)
    )


def rows_of(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """The table's columns in its order, cast to the dictionary's types: what a transform promises."""
    schema = pl.DataFrame(arrow_schema(table).empty_table()).schema
    return frame.select(pl.col(name).cast(type_) for name, type_ in schema.items())
