"""Balance the accounts against the meter in gold/energy_ledger, and judge whether they may be published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.config.sections import LedgerSettings
from lepton_etl.ledger.accounts import (
    ACCOUNT,
    HOUR,
    IT_ACCOUNTS,
    MEASURED,
    MODELLED,
    SILENT,
    SOURCE,
    Accounts,
    combine,
    residual_terms,
)
from lepton_etl.schema.common import BOUNDARY
from lepton_etl.schema.ledger import ENERGY_LEDGER
from lepton_etl.schema.types import arrow_schema
from lepton_etl.uncertainty import Z

BALANCE: Final = "balance"
CLOSED: Final = "closed"
OPEN: Final = "open"
EXCEEDED: Final = "exceeded"

SIGMAS: Final = 3.0
_SITE: Final = ["site_id", "date"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One limit that a site-day or site-hour breaks, in words for the operator."""

    site_id: str
    when: str
    text: str


def ledger_rows(accounts: Accounts, settings: LedgerSettings) -> pa.Table:
    """The rows of gold/energy_ledger: every source and account of each site-hour, and the hour's balance.

    The balance row holds the sum of the sources, and in columns of its own the residual: sources minus the accounts
    that are known. `balance_state` is `closed` where every account is known and the residual inside its tolerance,
    `exceeded` where it is outside, `open` where an account is not known at all (nothing is told of such a site by its
    residual). An account whose own meters fell silent leaves its energy in the residual, which is judged.
    """
    terms, bases = accounts.terms, accounts.bases
    sums = combine(terms, [*HOUR, "side", "account"])
    listed = bases.join(sums, on=[*HOUR, "account"], how="left").with_columns(
        pl.when(pl.col("account").is_in(list(BOUNDARY)))
        .then(pl.lit(SOURCE))
        .otherwise(pl.lit(ACCOUNT))
        .alias("side")
    )
    unlisted = sums.join(bases, on=[*HOUR, "account"], how="anti").with_columns(
        pl.lit(MEASURED).alias("account_basis"), pl.lit(None, pl.String).alias("detail")
    )
    known = pl.col("account_basis").is_in((MEASURED, MODELLED, "partial", SILENT))
    # A known account without a term is an account of nothing: no idle node in the hour.
    zero = pl.when(pl.col("account_basis") == MEASURED).then(0.0)
    rows = pl.concat([listed, unlisted.select(listed.columns)]).with_columns(
        pl.when(known).then(pl.coalesce("value_kwh", zero)).alias("account_kwh"),
        pl.when(known).then(pl.col("sigma_kwh")).fill_null(0.0).alias("sigma_kwh"),
    )
    energy, half = pl.col("account_kwh"), Z * pl.col("sigma_kwh")
    lines = rows.select(
        *HOUR, "side", "account", energy,
        pl.when(energy.is_not_null()).then(energy - half).alias("account_lower_kwh"),
        pl.when(energy.is_not_null()).then(energy + half).alias("account_upper_kwh"),
        "account_basis", "detail",
    )  # fmt: skip
    balance = _balances(accounts, settings)
    frame = pl.concat([lines, balance], how="diagonal_relaxed").with_columns(
        pl.col("hour_start").dt.date().alias("date"), pl.lit("provisional").alias("status")
    )
    schema = arrow_schema(ENERGY_LEDGER)
    return (
        frame.rename({"account": "ledger_account"})
        .select(schema.names)
        .sort(list(ENERGY_LEDGER.key))
        .to_arrow()
        .cast(schema)
    )


def _balances(accounts: Accounts, settings: LedgerSettings) -> pl.DataFrame:
    """One row an hour: sources, residual with its error and tolerance, state."""
    residual = combine(residual_terms(accounts.terms), HOUR).rename(
        {"value_kwh": "residual_kwh", "sigma_kwh": "residual_sigma_kwh"}
    )
    sources = accounts.terms.filter(pl.col("side") == SOURCE)
    drawn = combine(sources, HOUR).rename({"value_kwh": "account_kwh", "sigma_kwh": "source_sigma_kwh"})
    unknown = ~pl.col("account_basis").is_in((MEASURED, MODELLED))
    states = accounts.bases.group_by(HOUR).agg(
        pl.col("account").filter(unknown).sort().alias("unknown"),
        (pl.col("account").is_in(list(BOUNDARY)) & unknown).any().alias("no_sources"),
        (unknown & (pl.col("account_basis") != SILENT)).any().alias("never_known"),
    )
    tolerance = pl.max_horizontal(
        settings.residual_hour_max_ratio * pl.col("account_kwh").abs(), SIGMAS * pl.col("residual_sigma_kwh")
    )
    is_judged = ~pl.col("no_sources") & ~pl.col("never_known") & pl.col("residual_kwh").is_not_null()
    outside = pl.col("residual_kwh").abs() > pl.col("residual_tolerance_kwh")
    is_balanced = ~pl.col("no_sources") & pl.col("account_kwh").is_not_null()
    half = Z * pl.col("source_sigma_kwh")
    return (
        states.join(drawn, on=HOUR, how="left")
        .join(residual, on=HOUR, how="left")
        .with_columns(
            pl.when(is_balanced).then(pl.col("residual_kwh", "residual_sigma_kwh", "account_kwh"))
        )
        .with_columns(tolerance.alias("residual_tolerance_kwh"))
        .select(
            *HOUR, pl.lit(BALANCE).alias("side"), pl.lit(BALANCE).alias("account"), "account_kwh",
            (pl.col("account_kwh") - half).alias("account_lower_kwh"),
            (pl.col("account_kwh") + half).alias("account_upper_kwh"),
            "residual_kwh", "residual_sigma_kwh", "residual_tolerance_kwh",
            pl.when(is_judged & outside).then(pl.lit(EXCEEDED))
            .when(is_judged & (pl.col("unknown").list.len() == 0)).then(pl.lit(CLOSED))
            .when(is_judged).then(pl.lit(SILENT))
            .otherwise(pl.lit(OPEN)).alias("balance_state"),
            pl.lit(MEASURED).alias("account_basis"),
            pl.when(pl.col("unknown").list.len() > 0)
            .then(pl.lit("not known: ") + pl.col("unknown").list.join(", ")).alias("detail"),
        )
    )  # fmt: skip


def findings(
    ledger: pa.Table, accounts: Accounts, settings: LedgerSettings, *, has_jobs: bool
) -> list[Finding]:
    """What forbids publication: residuals of hours and days, and energy that nobody owns.

    Days are judged by the sums over their judged hours, with the error of those sums: a meter's gain adds up
    over the day. The unattributed share is judged only where jobs are accounted (`has_jobs`).
    """
    read = pl.DataFrame(ledger)
    found = read.rename({"ledger_account": "account"})
    balances = found.filter(pl.col("side") == BALANCE)
    judged = balances.filter(pl.col("balance_state").is_in((CLOSED, SILENT, EXCEEDED)))
    hours = [
        Finding(
            row["site_id"],
            f"{row['hour_start']:%Y-%m-%dT%H:%MZ}",
            f"residual {row['residual_kwh']:+.3f} kWh of {row['account_kwh']:.3f} kWh, tolerance "
            f"{row['residual_tolerance_kwh']:.3f} kWh" + (f" ({row['detail']})" if row["detail"] else ""),
        )
        for row in judged.filter(pl.col("balance_state") == EXCEEDED).sort(HOUR).iter_rows(named=True)
    ]
    return [*_day_findings(judged, accounts, settings), *hours, *_unowned(found, settings, has_jobs=has_jobs)]


def _day_findings(judged: pl.DataFrame, accounts: Accounts, settings: LedgerSettings) -> list[Finding]:
    terms = residual_terms(accounts.terms).join(judged.select(HOUR), on=HOUR, how="semi")
    days = combine(terms.with_columns(pl.col("hour_start").dt.date().alias("date")), _SITE)
    drawn = judged.group_by(_SITE).agg(pl.col("account_kwh").sum())
    limit = pl.max_horizontal(
        settings.residual_max_ratio * pl.col("account_kwh").abs(), SIGMAS * pl.col("sigma_kwh")
    )
    broken = days.join(drawn, on=_SITE, how="inner").with_columns(limit.alias("limit_kwh"))
    return [
        Finding(
            row["site_id"],
            str(row["date"]),
            f"residual of the day {row['value_kwh']:+.3f} kWh of {row['account_kwh']:.3f} kWh, tolerance "
            f"{row['limit_kwh']:.3f} kWh",
        )
        for row in broken.filter(pl.col("value_kwh").abs() > pl.col("limit_kwh"))
        .sort(_SITE)
        .iter_rows(named=True)
    ]


def _unowned(found: pl.DataFrame, settings: LedgerSettings, *, has_jobs: bool) -> list[Finding]:
    if not has_jobs:
        return []
    it_accounts = found.filter(pl.col("account").is_in(IT_ACCOUNTS) & pl.col("account_kwh").is_not_null())
    days = it_accounts.group_by(_SITE).agg(
        pl.col("account_kwh").sum(),
        pl.col("account_kwh").filter(pl.col("account") == "unattributed").sum().alias("unowned_kwh"),
    )
    broken = days.filter(pl.col("unowned_kwh") > settings.unattributed_max_ratio * pl.col("account_kwh"))
    return [
        Finding(
            row["site_id"],
            str(row["date"]),
            f"{row['unowned_kwh']:.3f} kWh of {row['account_kwh']:.3f} kWh IT energy have no job, idle or service "
            f"owner, tolerance {settings.unattributed_max_ratio:.0%}",
        )
        for row in broken.sort(_SITE).iter_rows(named=True)
    ]
