"""Days -> KPIs of a calendar month and year: sums over the days, then the formula."""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final

from lepton_etl.kpi.definitions import DEFINITIONS, judged

PERIODS: Final = ("month", "year")


def roll_up(
    day_rows: Iterable[Mapping[str, Any]], period: str, first: date, least_coverage_ratio: float
) -> list[dict[str, Any]]:
    """Day rows of a calendar month or year -> its rows: sums over the known days, then the formula.

    A mean of daily ratios would weigh an idle day like a busy one. Null below the least coverage of the days since the
    first in the lake; interim until every day of a full year is there. Days of another basis make it `partial`.
    Source: ISO/IEC 30134-1 (annual KPIs; shorter spans are interim).
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in day_rows:
        if row["period"] == "day" and first <= row["date"] <= _last_day(period, first):
            groups.setdefault((row["site_id"], row["boundary"], row["kpi"]), []).append(row)
    dates = {row["date"] for rows in groups.values() for row in rows}
    last = max(dates, default=first)
    # A lake that begins within the period does not owe the days before; what is missing in between it does.
    days = (last - min(dates, default=first)).days + 1
    return [
        _period_row(rows, period, first, last, days, least_coverage_ratio)
        for _, rows in sorted(groups.items())
    ]


def _period_row(
    rows: Sequence[Mapping[str, Any]], period: str, first: date, last: date, days: int, least: float
) -> dict[str, Any]:
    one = DEFINITIONS[rows[0]["kpi"]]
    known = [row for row in rows if row["numerator"] is not None and row["denominator"] is not None]
    # In the order of days, so that a re-run adds the same floats in the same order.
    known.sort(key=lambda row: row["date"])
    numerator = sum(row["numerator"] for row in known) if known else None
    denominator = sum(row["denominator"] for row in known) if known else None
    coverage = len(known) / days
    value, reason = judged(one, numerator, denominator)
    if value is not None and coverage < least:
        value, reason = None, f"only {len(known)} of {days} days are known"
    bases = {row["kpi_basis"] for row in known} - {"none"}
    basis = bases.pop() if len(bases) == 1 else "partial"
    is_year = period == "year" and last == _last_day(period, first) and len(known) == (last - first).days + 1
    return {
        **rows[0],
        "date": first,
        "period": period,
        "kpi_value": value,
        "kpi_basis": "none" if value is None else basis,
        "kpi_reason": reason,
        "is_interim": not is_year,
        "numerator": numerator,
        "denominator": denominator,
        "coverage_ratio": coverage,
        "last_date": last,
    }


def period_start(period: str, day: date) -> date:
    """First day of the calendar month or year that holds `day`."""
    return day.replace(day=1) if period == "month" else day.replace(month=1, day=1)


def _last_day(period: str, first: date) -> date:
    if period == "month":
        return first.replace(day=calendar.monthrange(first.year, first.month)[1])
    return date(first.year + 1, 1, 1) - timedelta(days=1)
