"""Work out the month's bill by the ledger, each cluster's share of it, and its difference to the invoice.

Invoices are the rows of invoices.csv. Demand charges go by the largest 15-minute mean of the import.
"""

from __future__ import annotations

import calendar
import csv
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lepton_etl.billing.costs import Meters, currency_of, hour_prices
from lepton_etl.billing.tariff import in_window, local_clock
from lepton_etl.errors import ConfigurationError
from lepton_etl.facility.meter_hours import HOUR_S, QUARTER_S, bucket_starts, import_intervals, local_bounds

_LONGEST_PERIOD = timedelta(days=62)


def _known(cell: object) -> object:
    return None if cell == "" else cell


class Invoice(BaseModel):
    """One invoice: local days, both included; an empty period is the calendar month, an empty amount is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    month: str = Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")
    first_day: Annotated[date | None, BeforeValidator(_known)] = None
    last_day: Annotated[date | None, BeforeValidator(_known)] = None
    invoice_id: Annotated[str | None, BeforeValidator(_known)] = None
    invoice_kwh: Annotated[float | None, BeforeValidator(_known)] = Field(default=None, ge=0, le=1e9)
    invoice_cost: Annotated[float | None, BeforeValidator(_known)] = Field(default=None, ge=-1e12, le=1e12)
    currency: Annotated[str | None, BeforeValidator(_known)] = Field(default=None, pattern=r"^[A-Z]{3}$")

    @model_validator(mode="after")
    def _is_a_period(self) -> Self:
        if (self.first_day is None) != (self.last_day is None):
            raise ValueError("first_day and last_day stand together")
        first, last = self.period
        if not timedelta(0) <= last - first <= _LONGEST_PERIOD:
            raise ValueError(f"the period {first} .. {last} is no billed month")
        if (self.invoice_cost is None) != (self.currency is None):
            raise ValueError("invoice_cost and currency stand together")
        return self

    @property
    def period(self) -> tuple[date, date]:
        """First and last local day."""
        if self.first_day and self.last_day:
            return self.first_day, self.last_day
        return month_days(self.month)


def month_days(month: str) -> tuple[date, date]:
    """First and last day of a calendar month such as 2025-06."""
    year, number = map(int, month.split("-"))
    return date(year, number, 1), date(year, number, calendar.monthrange(year, number)[1])


def read_invoices(path: Path) -> dict[str, Invoice]:
    """Month -> invoice. Raises ConfigurationError naming file and line for a cell that is wrong or a month twice."""
    found: dict[str, Invoice] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                invoice = _invoice(path, reader.line_num, row)
                if invoice.month in found:
                    raise _error(path, reader.line_num, f"month {invoice.month} is there already")
                found[invoice.month] = invoice
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(
            f"no readable CSV file: {error}",
            where=str(path),
            remedy="name an existing CSV file in billing.invoices",
        ) from error
    return found


def _invoice(path: Path, line: int, row: dict[str, str]) -> Invoice:
    try:
        return Invoice.model_validate(
            {(name or "").strip(): (cell or "").strip() for name, cell in row.items()}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        column = ".".join(map(str, first["loc"])) or "row"
        raise _error(path, line, f"{column}: {first['msg'].removeprefix('Value error, ')}") from error


def _error(path: Path, line: int, what: str) -> ConfigurationError:
    columns = ", ".join(Invoice.model_fields)
    return ConfigurationError(
        what, where=f"{path}:{line}", remedy=f"mend the file; its columns are {columns}"
    )


_W_PER_KW: Final = 1000.0


@dataclass(frozen=True)
class MonthCost:
    """A billed month by the ledger; None is unknown."""

    import_kwh: float | None
    known_kwh: float
    missing_hours: int
    peak_w: float | None
    peak_time: datetime | None
    energy: float | None
    demand: float | None
    fixed: float | None

    @property
    def total(self) -> float | None:
        parts = [part for part in (self.energy, self.demand, self.fixed) if part is not None]
        return sum(parts) if len(parts) == 3 else None


def month_cost(meters: Meters, tariff: pa.Table, start: datetime, end: datetime) -> MonthCost:
    """Import, peak and charges from `start` up to `end`; hours are counted from `start`.

    The import and its cost are null where one hour is unknown, the demand charge where one quarter is.
    """
    starts = bucket_starts(start, end, HOUR_S)
    hours = meters.imports(starts, HOUR_S)
    missing = hours["import_kwh"].null_count()
    known_kwh = float(hours["import_kwh"].sum())
    quarters = local_quarters(meters, start, end)
    known = quarters.drop_nulls("power_w")
    peak = known.row(int(known["power_w"].arg_max() or 0), named=True) if known.height else None
    if currency_of(tariff) is None:
        energy = demand = fixed = None
    else:
        prices = hour_prices(meters, tariff, starts)["energy_price"]
        costs = hours["import_kwh"] * prices
        energy = None if costs.null_count() else float(costs.sum())
        demand = _demand(tariff, quarters, start, end)
        fixed = sum(
            row["price"] * _held_ratio(row, start, end)
            for row in tariff.to_pylist()
            if row["charge"] == "fixed"
        )
    return MonthCost(
        import_kwh=None if missing else known_kwh,
        known_kwh=known_kwh,
        missing_hours=missing,
        peak_w=peak["power_w"] if peak else None,
        peak_time=peak["start"] if peak else None,
        energy=energy,
        demand=demand,
        fixed=fixed,
    )


def local_quarters(meters: Meters, start: datetime, end: datetime) -> pl.DataFrame:
    """15-minute means of the import with their local weekday and minute; null where a meter was silent."""
    quarters = meters.imports(bucket_starts(start, end, QUARTER_S), QUARTER_S)
    clock = local_clock(quarters["start"], meters.zone)
    intervals = import_intervals(meters.meters, meters.intervals)
    # A mean over longer than 15 minutes hides the peak that is charged.
    coarse = bool((intervals["interval_s"] > QUARTER_S).any())
    power = pl.lit(None, pl.Float64) if coarse else pl.col("power_w")
    return quarters.select("start", power.alias("power_w")).join(clock, on="start", how="left")


def _demand(tariff: pa.Table, quarters: pl.DataFrame, start: datetime, end: datetime) -> float | None:
    """Each demand row's price x the largest 15-minute mean in its window, by the share of the month it holds."""
    total = 0.0
    for row in tariff.to_pylist():
        held = _held_ratio(row, start, end)
        if row["charge"] != "demand" or held == 0:
            continue
        in_force = (pl.col("start") >= row["valid_from"]) & (
            pl.lit(value=True) if row["valid_to"] is None else pl.col("start") < row["valid_to"]
        )
        powers = quarters.filter(in_window(row) & in_force)["power_w"].to_list()
        if not powers or None in powers:
            return None
        total += row["price"] * max(powers) / _W_PER_KW * held
    return total


def _held_ratio(row: dict[str, Any], start: datetime, end: datetime) -> float:
    """The share of the period in which a tariff row is valid."""
    until = end if row["valid_to"] is None else min(end, row["valid_to"])
    held = (until - max(start, row["valid_from"])).total_seconds()
    return float(max(held, 0.0) / (end - start).total_seconds())


def cluster_months(
    month: str, cost: MonthCost, hours: pl.DataFrame, currency: str | None, count: int
) -> list[dict[str, Any]]:
    """Rows of gold/cost_month from the month's hours of clusters (facility_energy_kwh, energy_cost, cost_basis).

    Energy cost is the sum of the hours; demand is shared by facility energy in the hour of the peak, the fixed charges
    by facility energy over the month. A cluster with less than `count` hours, or an unknown one, has no cost; where one
    is unknown in the hour of the peak, nobody's share of the demand charge is known.
    """
    peak_hour = pl.lit(cost.peak_time, pl.Datetime("us", "UTC")).dt.truncate("1h")
    at_peak, basis = (
        pl.col("facility_energy_kwh").filter(pl.col("hour_start") == peak_hour),
        pl.col("cost_basis"),
    )
    sums = (
        hours.sort("hour_start")
        .group_by("site_id", "cluster_id", maintain_order=True)
        .agg(
            *(_whole(name, count).alias(name) for name in ("facility_energy_kwh", "energy_cost")),
            pl.when(at_peak.null_count() == 0).then(at_peak.sum()).alias("peak_kwh"),
            pl.when(basis.n_unique() == 1)
            .then(basis.first())
            .otherwise(pl.lit("partial"))
            .alias("cost_basis"),
        )
    )
    shares = sums.with_columns(
        _share(pl.col("peak_kwh")).mul(pl.lit(cost.demand, pl.Float64)).alias("demand_cost"),
        _share(pl.col("facility_energy_kwh")).mul(pl.lit(cost.fixed, pl.Float64)).alias("fixed_cost"),
    ).with_columns((pl.col("energy_cost") + pl.col("demand_cost") + pl.col("fixed_cost")).alias("cost"))
    found = shares.select(
        "site_id", "cluster_id", pl.lit(month).alias("month"), "facility_energy_kwh", "energy_cost", "demand_cost",
        "fixed_cost", "cost", pl.lit(currency).alias("currency"),
        pl.when(pl.col("cost").is_null()).then(pl.lit("none")).otherwise("cost_basis").alias("cost_basis"),
    ).sort("site_id", "cluster_id")  # fmt: skip
    return found.to_dicts()


def _whole(name: str, count: int) -> pl.Expr:
    """The sum over the hours; null where they are not `count` known ones."""
    value = pl.col(name)
    return pl.when((value.count() == count) & (pl.len() == count)).then(value.sum())


def _share(energy: pl.Expr) -> pl.Expr:
    """Energy over that of all clusters; null where one is unknown or nothing was used."""
    total = pl.when((energy.null_count() == 0) & (energy.sum() > 0)).then(energy.sum())
    return energy / total


def bill_check(
    site_id: str, month: str, cost: MonthCost, currency: str | None, invoice: Invoice | None, tolerance: float
) -> dict[str, Any]:
    """The month's row of gold/bill_check; ledger minus invoice, a verdict on energy and one on cost."""
    first, last = invoice.period if invoice else month_days(month)
    billed_kwh = invoice.invoice_kwh if invoice else None
    billed_cost = invoice.invoice_cost if invoice else None
    same_money = invoice is None or invoice.currency in (None, currency)
    kwh_gap = _difference(cost.import_kwh, billed_kwh)
    cost_gap = _difference(cost.total, billed_cost) if same_money else None
    nothing_metered = cost.known_kwh == 0 and cost.import_kwh is None
    return {
        "site_id": site_id,
        "month": month,
        "first_day": first,
        "last_day": last,
        "invoice_id": invoice.invoice_id if invoice else None,
        "ledger_kwh": cost.import_kwh,
        "ledger_known_kwh": None if nothing_metered else cost.known_kwh,
        "ledger_basis": "none" if nothing_metered else ("insufficient" if cost.missing_hours else "measured"),
        "missing_hours": cost.missing_hours,
        "invoice_kwh": billed_kwh,
        "difference_kwh": kwh_gap,
        "difference_ratio": _ratio(kwh_gap, billed_kwh),
        "verdict": _verdict(kwh_gap, billed_kwh, tolerance),
        "demand_peak_w": cost.peak_w,
        "demand_peak_time": cost.peak_time,
        "energy_cost": cost.energy,
        "demand_cost": cost.demand,
        "fixed_cost": cost.fixed,
        "cost": cost.total,
        "currency": currency,
        "invoice_cost": billed_cost,
        "cost_difference": cost_gap,
        "cost_difference_ratio": _ratio(cost_gap, billed_cost),
        "cost_verdict": "no_tariff" if currency is None else _verdict(cost_gap, billed_cost, tolerance),
    }


def period_of(month: str, invoice: Invoice | None, zone: str) -> tuple[datetime, datetime]:
    """The instants (UTC) at which the billed month begins and has ended at the site."""
    first, last = invoice.period if invoice else month_days(month)
    return local_bounds(first, last, zone)


def _difference(ledger: float | None, billed: float | None) -> float | None:
    return None if ledger is None or billed is None else ledger - billed


def _ratio(difference: float | None, billed: float | None) -> float | None:
    return None if difference is None or not billed else difference / billed


def _verdict(difference: float | None, billed: float | None, tolerance: float) -> str:
    if billed is None:
        return "no_invoice"
    if difference is None:
        return "incomplete"
    return "agrees" if abs(difference) <= tolerance * abs(billed) else "differs"
