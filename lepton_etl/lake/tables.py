"""The door to the lake without a session: read tables, replace days, commit what executors staged, by delta-rs.

Every writer says what it changed as `Written`; a replace whose rows equal the present ones makes no commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
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


@dataclass(frozen=True, slots=True)
class Written:
    """What a door did to a table; `changed` is False when the rows were there already."""

    table: str
    rows: int
    version: int
    changed: bool


@dataclass
class Lake:
    """The tables below one root.

    `inputs` collects the Delta version of every table read since `forget_inputs`, for the run record;
    `metadata` goes into the commits: which run wrote this version.
    """

    root: Path
    metadata: Mapping[str, str] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)

    def path(self, table: Table) -> str:
        return str(self.root / table.name)

    def exists(self, table: Table) -> bool:
        return exists(self.root, table)

    def version(self, table: Table) -> int | None:
        """The newest Delta version, None where the table does not exist."""
        return version(self.root, table)

    def log(self, table: Table) -> DeltaTable:
        """The table's transaction log."""
        return DeltaTable(self.path(table))

    def forget_inputs(self) -> None:
        self.inputs.clear()

    def ensure(self, table: Table) -> None:
        """Create the table if it is missing: columns, comments, constraints, partition, properties.

        A table of an older release gets its new columns at the next write.
        """
        if not self.exists(table):
            create_table(self.root / table.name, table)

    def read(
        self,
        table: Table,
        days: Days | None = None,
        *,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pl.DataFrame:
        """Return the rows, of these UTC days and by `where` where given; empty where there is no table.

        Columns that an older release did not write are null. For tables that a driver can hold.
        """
        names = list(columns or table.columns)
        if not self.exists(table):
            return pl.DataFrame(arrow_schema(table).empty_table().select(names))
        log = self.log(table)
        self.inputs[table.name] = log.version()
        within = where
        if days is not None:
            day = pc.field(day_column(table))
            in_days = (day >= pa.scalar(days.start)) & (day <= pa.scalar(days.end))
            within = in_days if where is None else in_days & where
        known = {one.name for one in log.schema().fields}
        found = log.to_pyarrow_dataset().to_table(columns=[n for n in names if n in known], filter=within)
        return pl.DataFrame(_typed(table, pa.table(found), names))

    def replace(
        self, table: Table, days: Days, rows: pl.DataFrame | pa.Table, *, allow_empty: bool = False
    ) -> Written:
        """Replace exactly these UTC days by `rows`; a day of equal rows makes no commit and keeps its files.

        No rows at all are refused unless told. Raises LakeError, also for a row out of the dictionary's bounds.
        """
        if table.partition != "date":
            raise LakeError("only a table partitioned by date can replace days", where=table.name)
        arrow = rows.to_arrow() if isinstance(rows, pl.DataFrame) else rows
        refuse_other_days(table, days, arrow["date"].unique().to_pylist())
        if arrow.num_rows == 0 and not allow_empty:
            raise empty_days(table, days)
        changed = replace_days(self.root, table, days, arrow, self.metadata)
        return Written(table.name, arrow.num_rows, self._version(table), changed)

    def overwrite(self, table: Table, rows: pl.DataFrame | pa.Table) -> Written:
        """Replace a table without days (inventory, meters); equal rows make no commit."""
        self.ensure(table)
        fresh = checked(table, rows.to_arrow() if isinstance(rows, pl.DataFrame) else rows)
        log = self.log(table)
        changed = not fresh.equals(present_rows(table, log, None))
        if changed:
            write(table, log, fresh, where=None, path=self.root / table.name, metadata=self.metadata)
        return Written(table.name, fresh.num_rows, self._version(table), changed)

    def write_rows(
        self, table: Table, rows: Sequence[Mapping[str, Any]], *, where: str | None = None
    ) -> Written:
        """Append a few rows (run record, file register); `where` names rows that they replace."""
        self.ensure(table)
        data = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(table))
        how: dict[str, Any] = (
            {"mode": "append"} if where is None else {"mode": "overwrite", "predicate": where}
        )
        properties = CommitProperties(custom_metadata=dict(self.metadata))
        write_deltalake(self.path(table), data, schema_mode="merge", commit_properties=properties, **how)
        return Written(table.name, data.num_rows, self._version(table), changed=True)

    def _version(self, table: Table) -> int:
        found = self.version(table)
        assert found is not None
        return found


def day_column(table: Table) -> str:
    """The column that holds a row's UTC day."""
    if table.name == "bronze/reading":
        return "reading_date"
    if table.name in ("bronze/reject", "bronze/file"):
        return "ingest_date"
    if "date" in table.columns:
        return "date"
    raise LakeError("the table has no days", where=table.name)


def refuse_other_days(table: Table, days: Days, found: Iterable[date]) -> None:
    """Raise LakeError for a row of another day."""
    outside = sorted(day for day in found if day not in days)
    if outside:
        raise LakeError(f"rows of {outside[0]} do not belong to {days}", where=table.name)


def empty_days(table: Table, days: Days) -> LakeError:
    return LakeError(
        f"refusing to replace the rows of {days} by nothing",
        where=table.name,
        remedy="check the stage's inputs; no row was removed",
    )


def days_predicate(days: Days) -> str:
    # Dates are parsed values, so the string holds nothing that a caller typed.
    return f"date >= '{days.start.isoformat()}' AND date < '{(days.end + timedelta(days=1)).isoformat()}'"


def _typed(table: Table, rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """These declared columns in their declared type; one that the rows lack is null."""
    schema = pa.schema([arrow_schema(table).field(name) for name in names])
    columns = [
        rows[one.name].cast(one.type) if one.name in rows.column_names else pa.nulls(rows.num_rows, one.type)
        for one in schema
    ]
    return pa.table(columns, schema=schema)
