"""Published rows of any table as canonical JSON, and the newest published one of each row.

Canonical: keys sorted, no blanks, unknown figures left out, so that equal content has equal text on every machine and
a column that a later release adds changes nothing while it is null. `status` is the publication's own and stands
beside the figures.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.schema.declare import Table

INPUTS: Final = "inputs"
WITHDRAWN: Final = "null"
_NOT_FIGURES: Final = ("status",)

RowKey = tuple[str, str]  # (table name, canonical JSON of the key)


@dataclass(frozen=True, slots=True)
class Said:
    """One row as a publication says it; `figures` is `null` where the row was withdrawn."""

    table: str
    key: str
    date: dt.date
    figures: str
    status: str = "provisional"
    publication_id: str = ""

    @property
    def row_hash(self) -> str:
        return sha256(self.figures.encode()).hexdigest()

    @property
    def row(self) -> RowKey:
        return self.table, self.key

    def values(self) -> dict[str, Any]:
        """Column -> figure; empty for a withdrawn row."""
        return orjson.loads(self.figures) or {}


def canonical(row: Mapping[str, Any]) -> str:
    """The mapping as canonical JSON, without nulls."""
    known = {name: value for name, value in row.items() if value is not None}
    return orjson.dumps(known, option=orjson.OPT_SORT_KEYS).decode()


def rows_said(table: Table, rows: pa.Table) -> list[Said]:
    """Each row of a gold table with a `date`, as it would be published."""
    return [
        Said(
            table.name,
            canonical({name: row[name] for name in table.key}),
            row["date"],
            canonical({name: value for name, value in row.items() if name not in _NOT_FIGURES}),
        )
        for row in rows.to_pylist()
    ]


def last_said(publications: pa.Table, until: dt.datetime | None = None) -> dict[RowKey, Said]:
    """The last word on each row by `until` (default: ever), from rows of gold/publication.

    A withdrawn row stays in, so that its return is seen as one.
    """
    if until is not None:
        moment = pa.scalar(until, pa.timestamp("us", tz="UTC"))
        publications = publications.filter(pc.less_equal(publications["published_time"], moment))
    ordered = publications.sort_by([("published_time", "ascending"), ("publication_id", "ascending")])
    columns = ("table_name", "row_key", "date", "figures", "status", "publication_id")
    said = (Said(*row) for row in zip(*(ordered[name].to_pylist() for name in columns), strict=True))
    return {one.row: one for one in said}


def standing(last: Iterable[Said], table: str) -> list[Said]:
    """The rows of one table that are not withdrawn, by date and key."""
    kept = (one for one in last if one.table == table and one.figures != WITHDRAWN)
    return sorted(kept, key=lambda one: (one.date, one.key))
