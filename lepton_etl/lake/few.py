"""Tables of few rows (inventory, sites, clusters, grid, weather): compared and written by Arrow and delta-rs.

A Spark job to compare and one to write cost seconds each, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake

from lepton_etl.days import Days, adjoining
from lepton_etl.errors import LakeError
from lepton_etl.fields import Field
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables import Table


def checked(table: Table, rows: pa.Table) -> pa.Table:
    """The declared columns in the declared order and type, rows in key order.

    Raises LakeError for a missing column that must be there, a null where none may be, a value out of bounds.
    """
    missing = [name for name in table.required if name not in rows.column_names]
    if missing:
        raise LakeError(f"required columns missing: {', '.join(missing)}", where=table.name)
    found = _in_order(table, rows)
    empty = [name for name in table.required if found[name].null_count]
    if empty:
        raise LakeError(f"null in required columns: {', '.join(empty)}", where=table.name)
    broken = [field.name for field in table.fields if _breaks(field, found[field.name])]
    if broken:
        raise LakeError(
            f"outside the bounds of the field dictionary: {', '.join(broken)}",
            where=table.name,
            remedy="no row was written; mend the source of the figure",
        )
    return found


def present(table: Table, log: DeltaTable, days: Days | None) -> pa.Table:
    """The rows that stand in the table, of these days where given, in the form of `checked`.

    A column that an older release did not write is null.
    """
    chosen = None
    if days is not None:
        chosen = (pc.field("date") >= pa.scalar(days.start)) & (pc.field("date") <= pa.scalar(days.end))
    return _in_order(table, pa.table(log.to_pyarrow_dataset().to_table(filter=chosen)))


def changed_spans(fresh: pa.Table, present: pa.Table, days: Days) -> list[Days]:
    """The days whose rows differ, adjoining ones as one range; both in the form of `checked`."""
    return adjoining([day for day in days if not of_days(fresh, day).equals(of_days(present, day))])


def of_days(rows: pa.Table, first: date, last: date | None = None) -> pa.Table:
    """The rows of a day, or of the days from one to another."""
    dates = rows["date"]
    return rows.filter(
        pc.and_(pc.greater_equal(dates, pa.scalar(first)), pc.less_equal(dates, pa.scalar(last or first)))
    )


def write(
    table: Table,
    log: DeltaTable,
    rows: pa.Table,
    *,
    where: str | None,
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Overwrite the table, or what `where` names of it, by rows that `checked` gave.

    A table of an older release gets its new columns.
    """
    known = {field.name for field in log.schema().fields}
    write_deltalake(
        path,
        rows,
        mode="overwrite",
        predicate=where,
        schema_mode="merge" if set(table.columns) - known else None,
        commit_properties=CommitProperties(custom_metadata=dict(metadata)),
    )


def shaped(table: Table, rows: pa.Table) -> pa.Table:
    """The declared columns in the declared order and type; one that the rows lack is null."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in arrow_schema(table)
    ]
    return pa.table(columns, schema=arrow_schema(table))


def _in_order(table: Table, rows: pa.Table) -> pa.Table:
    return shaped(table, rows).sort_by([(name, "ascending") for name in table.key])


def _breaks(field: Field, values: pa.ChunkedArray) -> bool:
    """Whether any value breaks the constraint of `schema.constraint`, here by name; delta-rs says only how many."""
    known = values.drop_null()
    if field.one_of:
        return not pc.all(pc.is_in(known, pa.array(field.one_of)), min_count=0).as_py()
    # `not (v <= le)` refuses NaN, as the constraint does.
    too_low = field.ge is not None and pc.any(pc.less(known, field.ge)).as_py()
    return bool(too_low) or (
        field.le is not None and not pc.all(pc.less_equal(known, field.le), min_count=0).as_py()
    )
