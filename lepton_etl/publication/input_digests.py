"""Digests of what a day's figures rest on, one an input: equal digests, equal input.

A dated row (inventory, meters, prices, factors, instruments) counts for the UTC days in which it is valid, so a
changed row changes the digests of exactly the days of its span.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa

from lepton_etl.publication.published_rows import canonical

_SHORT = 16


@dataclass(frozen=True, slots=True)
class DatedRow:
    """A row's content and the UTC days that it touches; `last` None is open."""

    content: str
    first: dt.date
    last: dt.date | None

    def touches(self, day: dt.date) -> bool:
        return self.first <= day and (self.last is None or day <= self.last)


def dated_rows(rows: pa.Table) -> list[DatedRow]:
    """Rows with valid_from and valid_to (excluded, null is open) as dated rows."""
    return [
        DatedRow(canonical(row), _day(row["valid_from"]), _last_day(row["valid_to"]))
        for row in rows.to_pylist()
    ]


def mark(*parts: str | None) -> str:
    """A mark of texts in this order; an unknown one differs from an empty one."""
    digest = sha256()
    for part in parts:
        digest.update(b"\0" if part is None else b"\1" + part.encode() + b"\0")
    return digest.hexdigest()[:_SHORT]


def marks_by_day(rows: Iterable[DatedRow], days: Iterable[dt.date]) -> dict[dt.date, str]:
    """Day -> mark of the rows that touch it, whatever their order."""
    ordered = sorted(rows, key=lambda row: row.content)
    known: dict[tuple[int, ...], str] = {}
    found = {}
    for day in days:
        touching = tuple(index for index, row in enumerate(ordered) if row.touches(day))
        if touching not in known:
            known[touching] = mark(*(ordered[index].content for index in touching))
        found[day] = known[touching]
    return found


def _day(moment: dt.datetime | dt.date) -> dt.date:
    return moment.date() if isinstance(moment, dt.datetime) else moment


def _last_day(end: dt.datetime | dt.date | None) -> dt.date | None:
    if end is None:
        return None
    if isinstance(end, dt.datetime):
        return (end - dt.timedelta(microseconds=1)).date()
    return end - dt.timedelta(days=1)
