"""Say beside each figure of the page where it stands: table, rows, column, and how it is made of them.

A reader sees the figure; an auditor, and the test that compares each page with its lake, read `data-table`,
`data-where`, `data-column` and `data-how` of it (docs/report.md, "Look a figure up").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

from markupsafe import Markup, escape

from lepton_etl.days import Days

VALUE: Final = "value"
SUM: Final = "sum"
# A sum that is unknown where one of its rows is.
WHOLE: Final = "whole sum"
MAX: Final = "max"
LIST: Final = "list"
KNOWN: Final = "known"
ROWS: Final = "rows"
RATIO: Final = "ratio"


@dataclass(frozen=True)
class Origin:
    """Rows of a table: of each column its value, a list of values, or `first..last`.

    `made` says of a figure by its name on the page which column it is of and how it is made of the rows; what is not
    in it is the value of the column of its own name.
    """

    table: str
    where: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def attributes(self) -> Markup:
        """`data-table` and `data-where`, for the element around the figures."""
        return Markup('data-table="{}" data-where="{}"').format(
            self.table, json.dumps(self.where, default=str)
        )


def within(days: Days) -> str:
    """The days as a value of Origin.where."""
    return str(days.start) if days.count == 1 else f"{days.start}..{days.end}"


def figure(
    text: str, value: Any, column: str, how: str = VALUE, origin: Origin | None = None, **where: Any
) -> Markup:
    """The text of a figure with its value and where it is from; `origin` where no element around it says so."""
    around = Markup("")
    if origin is not None:
        around = Markup(" ") + Origin(origin.table, {**origin.where, **where}).attributes()
    made = Markup("") if how == VALUE else Markup(' data-how="{}"').format(how)
    return Markup('<data value="{}" data-column="{}"{}{}>{}</data>').format(
        _plain(value), column, made, around, escape(text)
    )


def of_row(row: Mapping[str, Any], name: str, text: str) -> Markup:
    """A figure of a row that says by `origin` where it stands."""
    column, how = row["origin"].made.get(name, (name, VALUE))
    return figure(text, row[name], column, how)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, tuple):
        return ", ".join(value)
    return json.dumps(value) if isinstance(value, float | bool) else str(value)
