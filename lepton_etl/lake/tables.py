"""Tables read and appended by Arrow and delta-rs alone: for verbs that start no Spark.

- Tables of few rows (inventory, sites, clusters, grid, weather): compared and written by Arrow and delta-
  rs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake

from lepton_etl.days import Days, adjoining
from lepton_etl.errors import LakeError
from lepton_etl.lake.creation import create_table
from lepton_etl.schema.declare import Field, Table
from lepton_etl.schema.types import arrow_schema


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


def present_rows(table: Table, log: DeltaTable, days: Days | None) -> pa.Table:
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


def exists(root: Path, table: Table) -> bool:
    """Whether the table has a log."""
    return (root / table.name / "_delta_log").is_dir()


def version(root: Path, table: Table) -> int | None:
    """The newest Delta version; None where the table does not exist."""
    return DeltaTable(str(root / table.name)).version() if exists(root, table) else None


def read(root: Path, table: Table, days: Days | None = None, where: pc.Expression | None = None) -> pa.Table:
    """The rows, of these UTC days and by `where` if given; empty where there is no table, columns it lacks null."""
    schema = arrow_schema(table)
    if not exists(root, table):
        return schema.empty_table()
    within = where
    if days is not None:
        in_days = (pc.field("date") >= pa.scalar(days.start)) & (pc.field("date") <= pa.scalar(days.end))
        within = in_days if where is None else in_days & where
    log = DeltaTable(str(root / table.name))
    return shaped(table, pa.table(log.to_pyarrow_dataset().to_table(filter=within)))


def partitions(root: Path, table: Table) -> list[str]:
    """The values that the table is parted by, sorted; none where it does not exist."""
    if not exists(root, table) or table.partition is None:
        return []
    found = DeltaTable(str(root / table.name)).partitions()
    return sorted({str(part[table.partition]) for part in found})


def append(root: Path, table: Table, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]) -> None:
    """Append rows in one commit; no rows make none."""
    if not rows:
        return
    if not exists(root, table):
        create_table(root / table.name, table)
    data = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(table))
    properties = CommitProperties(custom_metadata=dict(metadata))
    write_deltalake(root / table.name, data, mode="append", schema_mode="merge", commit_properties=properties)


def replace_keyed(
    root: Path, table: Table, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> bool:
    """Put rows in place of those with the same key in a table of few rows; False where they stood there already.

    Raises LakeError for a row outside the field dictionary.
    """
    if not exists(root, table):
        create_table(root / table.name, table)
    log = DeltaTable(str(root / table.name))
    present = present_rows(table, log, None)
    fresh = {tuple(row[name] for name in table.key) for row in rows}
    kept = [row for row in present.to_pylist() if tuple(row[name] for name in table.key) not in fresh]
    whole = checked(table, pa.Table.from_pylist([*kept, *map(dict, rows)], schema=arrow_schema(table)))
    if whole.equals(present):
        return False
    write(table, log, whole, where=None, path=root / table.name, metadata=metadata)
    return True


def replace_days(root: Path, table: Table, days: Days, rows: pa.Table, metadata: Mapping[str, str]) -> bool:
    """Replace the rows of those of the days whose rows differ; the files of the others stay. False where none does.

    Raises LakeError for a row outside the field dictionary.
    """
    if not exists(root, table):
        create_table(root / table.name, table)
    log = DeltaTable(str(root / table.name))
    fresh, present = checked(table, rows), present_rows(table, log, days)
    changed = changed_spans(fresh, present, days)
    for span in changed:
        where = f"date >= '{span.start.isoformat()}' AND date <= '{span.end.isoformat()}'"
        rows_now = of_days(fresh, span.start, span.end)
        write(table, log, rows_now, where=where, path=root / table.name, metadata=metadata)
        log = DeltaTable(str(root / table.name))
    return bool(changed)


def files_by_day(root: Path, table: Table) -> dict[str, str]:
    """UTC day -> SHA-256 of the names of its files, of a table partitioned by `date`.

    A replace by equal rows makes no commit, so another name means other rows.
    """
    if not exists(root, table):
        return {}
    actions = pa.table(DeltaTable(str(root / table.name)).get_add_actions(flatten=True))
    names: dict[str, list[str]] = {}
    for day, path in zip(actions["partition.date"].to_pylist(), actions["path"].to_pylist(), strict=True):
        names.setdefault(str(day), []).append(path)
    return {day: sha256("\n".join(sorted(paths)).encode()).hexdigest() for day, paths in names.items()}
