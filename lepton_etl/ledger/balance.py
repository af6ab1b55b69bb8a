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
    KNOWN,
    MEASURED,
    NODES_TERM,
    NOTHING_KWH,
    PARTIAL,
    SILENT,
    SOURCE,
    Accounts,
    combine,
    is_elsewhere,
    known_sum,
    residual_terms,
)
from lepton_etl.ledger.reconcile import CLOSED, NODE_HOURS, UNVERIFIED, VIOLATED, Checks
from lepton_etl.schema.common import BOUNDARY
from lepton_etl.schema.ledger import ENERGY_LEDGER, METER_CHECK
from lepton_etl.schema.types import arrow_schema
from lepton_etl.uncertainty import Z

BALANCE: Final = "balance"
SIGMAS: Final = 3.0
_SITE: Final = ["site_id", "date"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One limit that a site-day or site-hour breaks, in words for the operator."""

    site_id: str
    when: str
    text: str


def node_hours(accounts: Accounts, it_hours: pl.DataFrame) -> pl.DataFrame:
    """NODE_HOURS of the hours in which the nodes can check a meter.

    Every node of the inventory is known, none was read beside it (it may stand behind another meter), the IT meter
    sees nothing beyond them, and the error of their sensors is known.
    """
    terms, whole = accounts.terms, pl.col("is_known") & (pl.col("unlisted_kwh").fill_null(0.0) <= NOTHING_KWH)
    by_meter = pl.col("term").str.starts_with("meter:")
    beyond = terms.filter((pl.col("account") == "unattributed") & by_meter)
    sums = (
        terms.filter(pl.col("term") == NODES_TERM)
        .join(beyond, on=HOUR, how="anti")
        .sort(*HOUR, "account", "value_kwh")
        .group_by(HOUR, maintain_order=True)
        .agg(pl.col("value_kwh").sum().alias("energy_kwh"), known_sum(pl.col("sigma_kwh")))
        .drop_nulls("sigma_kwh")
    )
    return sums.join(it_hours.filter(whole), on=HOUR, how="semi").select(list(NODE_HOURS))


def meter_check_rows(checks: Checks) -> pa.Table:
    """The rows of gold/meter_check."""
    schema = arrow_schema(METER_CHECK)
    rows = checks.rows.with_columns(pl.lit("provisional").alias("status")).sort(list(METER_CHECK.key))
    return rows.select(schema.names).to_arrow().cast(schema)


def ledger_rows(accounts: Accounts, checks: Checks) -> pa.Table:
    """The rows of gold/energy_ledger: every source and account of each site-hour, and the hour's balance.

    The balance row holds the sum of the sources, and in columns of its own the residual: sources minus the accounts
    that are known. `balance_state` is what the reconciled meters say: `violated`, `closed`, or `unverified`, where
    nothing checks the utility meter or an account is never known. An hour that is neither violated nor unverified and
    in which an account's own meters are silent is `silent`: their energy is in the residual.
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
    known = pl.col("account_basis").is_in((*KNOWN, PARTIAL, SILENT))
    # A known account without a term is an account of nothing: no idle node in the hour.
    zero = pl.when(pl.col("account_basis") == MEASURED).then(0.0)
    rows = pl.concat([listed, unlisted.select(listed.columns)]).with_columns(
        pl.when(known).then(pl.coalesce("value_kwh", zero)).alias("account_kwh"),
        pl.when(pl.col("value_kwh").is_null()).then(0.0).otherwise("sigma_kwh").alias("sigma_kwh"),
    )
    energy, half = pl.col("account_kwh"), Z * pl.col("sigma_kwh")
    lines = rows.select(
        *HOUR, "side", "account", energy,
        pl.when(energy.is_not_null()).then(energy - half).alias("account_lower_kwh"),
        pl.when(energy.is_not_null()).then(energy + half).alias("account_upper_kwh"),
        "account_basis", "detail",
    )  # fmt: skip
    balance = _balances(accounts, checks)
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


def _balances(accounts: Accounts, checks: Checks) -> pl.DataFrame:
    """One row an hour: sources, residual with its error and tolerance, state."""
    residual = combine(residual_terms(accounts.terms), HOUR).rename(
        {"value_kwh": "residual_kwh", "sigma_kwh": "residual_sigma_kwh"}
    )
    sources = accounts.terms.filter(pl.col("side") == SOURCE)
    drawn = combine(sources, HOUR).rename({"value_kwh": "account_kwh", "sigma_kwh": "source_sigma_kwh"})
    unknown = ~pl.col("account_basis").is_in(KNOWN) & ~is_elsewhere()
    states = accounts.bases.group_by(HOUR).agg(
        pl.col("account").filter(unknown).sort().alias("unknown"),
        (pl.col("account").is_in(list(BOUNDARY)) & unknown).any().alias("no_sources"),
        (unknown & (pl.col("account_basis") == SILENT)).any().alias("is_silent"),
        (unknown & (pl.col("account_basis") != SILENT)).any().alias("never_known"),
    )
    state = (
        pl.when(pl.col("state") == VIOLATED).then("state")
        .when(pl.col("no_sources") | pl.col("never_known")).then(pl.lit(UNVERIFIED))
        .when("is_silent").then(pl.lit(SILENT))
        .otherwise("state")
    )  # fmt: skip
    is_balanced = ~pl.col("no_sources") & pl.col("account_kwh").is_not_null()
    half = Z * pl.col("source_sigma_kwh")
    lacks = pl.when(pl.col("unknown").list.len() > 0).then(
        pl.lit("not known: ") + pl.col("unknown").list.join(", ")
    )
    return (
        states.join(drawn, on=HOUR, how="left")
        .join(residual, on=HOUR, how="left")
        .join(checks.hours, on=HOUR, how="left")
        .with_columns(
            pl.when(is_balanced).then(pl.col("residual_kwh", "residual_sigma_kwh", "account_kwh"))
        )
        .select(
            *HOUR, pl.lit(BALANCE).alias("side"), pl.lit(BALANCE).alias("account"), "account_kwh",
            (pl.col("account_kwh") - half).alias("account_lower_kwh"),
            (pl.col("account_kwh") + half).alias("account_upper_kwh"),
            "residual_kwh", "residual_sigma_kwh",
            (SIGMAS * pl.col("residual_sigma_kwh")).alias("residual_tolerance_kwh"),
            state.alias("balance_state"),
            pl.lit(MEASURED).alias("account_basis"),
            pl.concat_str([lacks, "check_detail"], separator="; ", ignore_nulls=True).replace("", None).alias("detail"),
        )
    )  # fmt: skip


def findings(
    ledger: pa.Table, accounts: Accounts, checks: Checks, settings: LedgerSettings, *, has_jobs: bool
) -> list[Finding]:
    """What forbids publication: meters that contradict each other, and energy that nobody owns.

    Hours are judged by themselves and a day together. The residual of a day (of its hours that are closed or silent,
    with the error of their sums) is limited too: what a silent feed hides belongs to nobody. The unattributed share is
    judged only where jobs are accounted (`has_jobs`).
    """
    read = pl.DataFrame(ledger)
    found = read.rename({"ledger_account": "account"})
    balances = found.filter(pl.col("side") == BALANCE)
    violated = [Finding(site_id, str(day), text) for site_id, day, text in checks.days]
    hours = [
        Finding(row["site_id"], f"{row['hour_start']:%Y-%m-%dT%H:%MZ}", row["detail"])
        for row in balances.filter(pl.col("balance_state") == VIOLATED).sort(HOUR).iter_rows(named=True)
        if "of the day: " not in row["detail"]
    ]
    judged = balances.filter(pl.col("balance_state").is_in((CLOSED, SILENT)))
    return [
        *violated, *hours, *_day_findings(judged, accounts, settings), *_unowned(found, settings, has_jobs=has_jobs)
    ]  # fmt: skip


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
