"""Write CSV that a spreadsheet takes as data: a text that it would run as a formula stands behind an apostrophe.

Source: OWASP, "CSV Injection"; the form is RFC 4180.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

# Also the full-width signs, which spreadsheets of East Asian locales take for the others.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(value: Any) -> Any:
    """Return what stands in a cell: a text that begins like a formula behind an apostrophe, nothing for None."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def write_csv(out: TextIO, names: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a heading and rows of cells."""
    # With another end of a row a lone carriage return would not be quoted.
    writer = csv.writer(out)
    writer.writerow(map(cell, names))
    writer.writerows(map(cell, row) for row in rows)
