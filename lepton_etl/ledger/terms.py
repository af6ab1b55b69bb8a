"""Accounts as sums of terms, so that what rests on one sensor stays correlated wherever it is booked.

A term is what one source of error says in one hour: a meter, the nodes' sensors, a fitted curve. An account is a sum
of terms with signs; the residual is a sum of accounts with signs. Errors of one term add linearly, with their
signs, over accounts and over hours (a meter's gain is wrong the same way all day); different terms are independent
and add in quadrature. A meter that stands in two accounts with opposite signs thus cancels in their sum.
Source: JCGM 100:2008 (GUM) 5.2.2, with correlation +1 within a term and 0 between terms.
"""

from __future__ import annotations

from typing import Final

import polars as pl

SOURCE: Final = "source"
ACCOUNT: Final = "account"

TERMS: Final = pl.Schema(
    {
        "site_id": pl.String(),
        "hour_start": pl.Datetime("us", "UTC"),
        "side": pl.String(),
        "account": pl.String(),
        "term": pl.String(),
        "value_kwh": pl.Float64(),
        "sigma_kwh": pl.Float64(),
    }
)
"""One row an account and term; `value_kwh` and `sigma_kwh` carry the sign with which the term enters the account."""


def combine(terms: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Terms -> `by`, `value_kwh`, `sigma_kwh` (one standard deviation, >= 0) of their sums."""
    # Sorted: a sum of doubles changes with the order in which joins deliver rows, and with it the table.
    ordered = terms.sort(*by, "term", "value_kwh")
    by_term = ordered.group_by(*by, "term", maintain_order=True).agg(pl.col("value_kwh", "sigma_kwh").sum())
    return by_term.group_by(by, maintain_order=True).agg(
        pl.col("value_kwh").sum(), pl.col("sigma_kwh").pow(2).sum().sqrt()
    )


def residual_terms(terms: pl.DataFrame) -> pl.DataFrame:
    """Sources minus accounts, as terms: what the residual is a sum of."""
    sign = pl.when(pl.col("side") == SOURCE).then(1.0).otherwise(-1.0)
    return terms.with_columns(pl.col("value_kwh") * sign, pl.col("sigma_kwh") * sign)
