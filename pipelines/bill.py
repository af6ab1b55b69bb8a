"""Costs and bills: tariff, utility meters and gold hours -> hourly costs, cluster months, the check of invoices."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.days import Days
from lepton_etl.lake import plain
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.store import Written
from lepton_etl.lake.tables import CLUSTER_HOUR, FACILITY_INTERVAL, METER, SITE_HOUR, Table
from lepton_etl.lake.tables.ledger import BILL_CHECK, CLUSTER_COST, COST_MONTH, SITE_COST, TARIFF
from lepton_etl.ledger.bill import bill_check, cluster_months, month_cost, period_of
from lepton_etl.ledger.costs import Meters, cluster_costs, currency_of, site_costs
from lepton_etl.ledger.imports import HOUR_S, bucket_starts
from lepton_etl.ledger.invoices import Invoice, read_invoices
from lepton_etl.ledger.tariff import read_tariff
from lepton_etl.settings import Settings
from pipelines.stage import StageContext

# An invoice that says otherwise than the last check of its month makes the month anew.
_OF_INVOICE: Final = ("first_day", "last_day", "invoice_id", "invoice_kwh", "invoice_cost")


def check(settings: Settings) -> None:
    """Read the tariff and the invoices once. Raises ConfigurationError before any data is touched."""
    _tariff(settings)
    if settings.billing.invoices:
        read_invoices(settings.billing.invoices)


def run(context: StageContext) -> list[Written]:
    """Costs of the context's days and the months that they, or changed invoices, touch; nothing without both files.

    Raises ConfigurationError for a wrong tariff or invoice file.
    """
    settings, lake, days = context.settings, context.lake, context.days
    if settings.tariff.file is None and settings.billing.invoices is None:
        return []
    tariff = _tariff(settings)
    written = [lake.overwrite(TARIFF, tariff)]
    if tariff.num_rows:
        written += _hourly(context, tariff)
    invoices = read_invoices(settings.billing.invoices) if settings.billing.invoices else {}
    months = sorted(_months(lake.root, days, invoices, settings))
    rows = [_month(lake.root, settings, tariff, month, invoices.get(month)) for month in months]
    metadata = lake.metadata
    checks, clusters = [check for check, _ in rows], [row for _, found in rows for row in found]
    for table, found in ((BILL_CHECK, checks), (COST_MONTH, clusters)):
        changed = plain.replace_keyed(lake.root, table, found, metadata)
        written.append(Written(table.name, len(found), plain.version(lake.root, table) or 0, changed))
    return written


def _tariff(settings: Settings) -> pa.Table:
    if settings.tariff.file is None:
        return arrow_schema(TARIFF).empty_table()
    return read_tariff(settings.tariff.file, settings.site.site_id)


def _hourly(context: StageContext, tariff: pa.Table) -> list[Written]:
    """gold/site_cost and gold/cluster_cost of the days."""
    lake, days = context.lake, context.days
    site_hours = _own(plain.read(lake.root, SITE_HOUR, days), context.settings)
    costs = site_costs(_meters(lake.root, context.settings, days), tariff, site_hours)
    clusters = cluster_costs(
        costs, site_hours, _own(plain.read(lake.root, CLUSTER_HOUR, days), context.settings)
    )
    return [_replaced(context, table, rows) for table, rows in ((SITE_COST, costs), (CLUSTER_COST, clusters))]


def _replaced(context: StageContext, table: Table, rows: pl.DataFrame) -> Written:
    root, days = context.lake.root, context.days
    changed = plain.replace_days(root, table, days, rows.to_arrow(), context.lake.metadata)
    return Written(table.name, rows.height, plain.version(root, table) or 0, changed)


def _month(
    root: Path, settings: Settings, tariff: pa.Table, month: str, invoice: Invoice | None
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """The month's row of gold/bill_check and its rows of gold/cost_month."""
    start, end = period_of(month, invoice, settings.site.timezone)
    days = Days(start.date(), end.date())
    cost = month_cost(_meters(root, settings, days), tariff, start, end)
    currency = currency_of(tariff)
    site_id = settings.site.site_id
    check = bill_check(site_id, month, cost, currency, invoice, settings.billing.tolerance_ratio)
    if currency is None:
        return check, []
    keys = ["site_id", "cluster_id", "hour_start"]
    energy = pl.DataFrame(_own(plain.read(root, CLUSTER_HOUR, days), settings)).select(
        *keys, "facility_energy_kwh"
    )
    priced = pl.DataFrame(plain.read(root, CLUSTER_COST, days)).select(*keys, "energy_cost", "cost_basis")
    hours = energy.join(priced, on=keys, how="left").filter(
        (pl.col("hour_start") >= start) & (pl.col("hour_start") < end)
    )
    return check, cluster_months(month, cost, hours, currency, len(bucket_starts(start, end, HOUR_S)))


def _months(root: Path, days: Days, invoices: dict[str, Invoice], settings: Settings) -> set[str]:
    """Months that the days touch in the site's zone or by an invoice's period, and those whose invoice changed."""
    zone, instant = settings.site.zone, timedelta(microseconds=1)
    local = Days(days.from_time.astimezone(zone).date(), (days.until_time - instant).astimezone(zone).date())
    checked = {row["month"]: row for row in plain.read(root, BILL_CHECK).to_pylist()}
    return {f"{day:%Y-%m}" for day in local} | {
        month
        for month, one in invoices.items()
        if (one.period[0] <= local.end and one.period[1] >= local.start)
        or _said(one) != _said_before(checked.get(month))
    }


def _said(invoice: Invoice) -> tuple[object, ...]:
    return (*invoice.period, invoice.invoice_id, invoice.invoice_kwh, invoice.invoice_cost)


def _said_before(row: dict[str, object] | None) -> tuple[object, ...] | None:
    return tuple(row[name] for name in _OF_INVOICE) if row else None


def _meters(root: Path, settings: Settings, days: Days) -> Meters:
    return Meters(
        _own(plain.read(root, METER), settings),
        _own(plain.read(root, FACILITY_INTERVAL, days), settings),
        settings.site.timezone,
        settings.energy.coverage_min_ratio,
    )


def _own(rows: pa.Table, settings: Settings) -> pa.Table:
    return rows.filter(pc.equal(rows["site_id"], settings.site.site_id))
