"""invoices.csv: what the supplier billed, one row a month."""

from __future__ import annotations

import calendar
import csv
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lepton_etl.errors import ConfigurationError

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
