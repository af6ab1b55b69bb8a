"""Find what a new publication changes: rows to append, figures that were restated, and the reasons.

A reason is an input on which the day rests now otherwise than when it was last published.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from lepton_etl.config.sections import RestateSettings
from lepton_etl.publication.published_rows import INPUTS, WITHDRAWN, RowKey, Said
from lepton_etl.schema.common import REASONS

UNKNOWN: Final = "unknown"
# A change of these inputs can move only the columns that begin so; every other reason can move any column.
# Energy from meters and prices do not reach back into the nodes' own figures.
_REACH: Final[Mapping[str, tuple[str, ...]]] = {
    "intensity": ("carbon_", "emissions_", "sci_"),
    "factors": ("carbon_", "embodied_", "emissions_", "it_energy_", "market_", "sci_", "water_"),
    "instruments": ("emissions_market", "market_"),
    "scope1": ("emissions_", "sci_"),
    "tariff": ("cost", "currency", "demand_cost", "energy_cost", "fixed_cost"),
}
# Tables whose rows hold any figure in one column, told apart by their key.
_ANY_COLUMN: Final = ("gold/kpi",)


def changed_inputs(before: Mapping[str, str] | None, now: Mapping[str, str]) -> tuple[str, ...]:
    """The reasons whose marks differ, in the order of the dictionary; `unknown` where nothing explains a change."""
    if before is None:
        return (UNKNOWN,)
    found = tuple(reason for reason in REASONS if before.get(reason) != now.get(reason))
    return found or (UNKNOWN,)


def reasons_of(table: str, column: str, reasons: tuple[str, ...]) -> tuple[str, ...]:
    """The reasons of the day that can have moved this column; all of them where none can."""
    if table in _ANY_COLUMN:
        return reasons
    found = tuple(r for r in reasons if r not in _REACH or column.startswith(_REACH[r]))
    return found or (UNKNOWN,)


PROVISIONAL: Final = "provisional"
CLOSED: Final = "closed"
RESTATED: Final = "restated"
ROW: Final = "*"
# The last day that a figure of a month or a year rests on.
_GROWN: Final = "last_date"
_PART_OF: Final = {
    "it_energy_imputed_kwh": "it_energy_kwh",
    "it_energy_modelled_kwh": "it_energy_kwh",
    "imputed_kwh": "it_energy_kwh",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One figure that a publication changed; `ratio` is null where the figures have none."""

    row: Said
    column: str
    old: Any
    new: Any
    ratio: float | None
    reasons: tuple[str, ...]
    material: bool


def month_of(day: dt.date) -> str:
    """The calendar month of a day, such as 2025-06."""
    return f"{day:%Y-%m}"


def closing_month(one: Said) -> str | None:
    """The month whose close closes the row; None for a figure of a year, which stands under its first day."""
    return None if '"period":"year"' in one.key else month_of(one.date)


def to_append(
    fresh: Iterable[Said], last: Mapping[RowKey, Said], closed_months: Collection[str]
) -> list[Said]:
    """The rows whose content changed since their last word, each with its status, and withdrawals.

    `last` holds the days of `fresh` and no others: a row that is in it and not in `fresh` was withdrawn. In a closed
    month a changed or new row is `restated`; an unchanged one keeps its status and is not said again.
    """
    found = {one.row: one for one in fresh}
    gone = (
        replace(old, figures=WITHDRAWN)
        for row, old in last.items()
        if row not in found and old.figures != WITHDRAWN
    )
    return [
        replace(one, status=RESTATED if closing_month(one) in closed_months else PROVISIONAL)
        for one in (*found.values(), *gone)
        if one.row not in last or last[one.row].figures != one.figures
    ]


def to_close(last: Mapping[RowKey, Said], month: str) -> list[Said]:
    """The standing rows of the month that are still provisional, as closed."""
    return [
        replace(one, status=CLOSED)
        for one in last.values()
        if closing_month(one) == month and one.status == PROVISIONAL and one.figures != WITHDRAWN
    ]


def publication_id(rows: Iterable[Said], last: Mapping[RowKey, Said]) -> str:
    """Names what is said and what it follows: a publication that was cut short gets the same name again."""
    entries = sorted(
        (*one.row, one.row_hash, one.status, last[one.row].publication_id if one.row in last else "")
        for one in rows
    )
    return sha256(json.dumps(entries).encode()).hexdigest()[:16]


def changes(
    appended: Iterable[Said],
    last: Mapping[RowKey, Said],
    reasons_by_day: Mapping[dt.date, tuple[str, ...]],
    settings: RestateSettings,
) -> Iterator[Change]:
    """The figures that `appended` changes of what was said before.

    A provisional figure that moves by less than `min_change_ratio` is no change, and neither is one of a period that
    has grown by a day. A row that came after its month was closed, and one that was withdrawn, is one change of
    column `*`.
    """
    for one in appended:
        if one.table == INPUTS:
            continue
        reasons = reasons_by_day.get(one.date, ("unknown",))
        old = last.get(one.row)
        if old is None or WITHDRAWN in (old.figures, one.figures):
            if old is not None or one.status == RESTATED:
                said = old.values() if old else {}
                yield Change(one, ROW, said or None, one.values() or None, None, reasons, material=True)
            continue
        yield from _figure_changes(one, old.values(), reasons, settings)


def _figure_changes(
    one: Said, before: Mapping[str, Any], reasons: tuple[str, ...], settings: RestateSettings
) -> Iterator[Change]:
    after = one.values()
    if before.get(_GROWN) != after.get(_GROWN):
        return
    for column in sorted(set(before) | set(after)):
        old, new = before.get(column), after.get(column)
        if old == new:
            continue
        ratio = _ratio(column, before, after)
        if one.status == PROVISIONAL and ratio is not None and ratio < settings.min_change_ratio:
            continue
        material = ratio is None or ratio >= settings.material_ratio
        yield Change(one, column, old, new, ratio, reasons_of(one.table, column, reasons), material)


def _ratio(column: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    whole = _PART_OF.get(column)
    if whole is None:
        return change_ratio(before.get(column), after.get(column))
    # Nothing filled in is null, so a part that comes or goes is judged by the whole that it belongs to.
    moved = float(after.get(column) or 0.0) - float(before.get(column) or 0.0)
    total = before.get(whole)
    return change_ratio(total, float(total) + moved) if total is not None else None


def change_ratio(old: Any, new: Any) -> float | None:
    """|new - old| / |old|; None where one is unknown or no number, or the old one is 0."""
    if not (_is_number(old) and _is_number(new)) or old == 0:
        return None
    return min(abs(float(new) - float(old)) / abs(float(old)), 1e12)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
