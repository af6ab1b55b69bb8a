"""Status of a published row: provisional, closed with its month, restated when it changes after that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from lepton_etl.publication.changes import CLOSED, PROVISIONAL, RESTATED, month_of

STATUS = "status"


def with_life(
    fresh: pa.Table, present: pa.Table, key: Sequence[str], closed_months: Collection[str]
) -> pa.Table:
    """Fresh rows with the `status` that follows from the rows that stand; both have the table's columns and `date`.

    In a closed month a row that equals the standing one keeps its status, any other is restated. A figure of a year is
    never closed with a month.
    """
    if not closed_months:
        return _stamped(fresh, [PROVISIONAL] * fresh.num_rows)
    standing = {tuple(row[name] for name in key): row for row in present.to_pylist()}
    rows = fresh.to_pylist()
    return _stamped(
        fresh, [_status(row, standing.get(tuple(row[name] for name in key)), closed_months) for row in rows]
    )


def _status(row: dict[str, Any], old: dict[str, Any] | None, closed_months: Collection[str]) -> str:
    if row.get("period") == "year" or month_of(row["date"]) not in closed_months:
        return PROVISIONAL
    if old is None or any(old[name] != value for name, value in row.items() if name != STATUS):
        return RESTATED
    return RESTATED if old[STATUS] == RESTATED else CLOSED


def _stamped(rows: pa.Table, status: list[str]) -> pa.Table:
    index = rows.column_names.index(STATUS)
    return rows.set_column(index, STATUS, pa.array(status, pa.string()))
