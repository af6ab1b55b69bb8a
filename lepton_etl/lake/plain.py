"""Tables read and appended by Arrow and delta-rs alone: for verbs that start no Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake

from lepton_etl.days import Days
from lepton_etl.lake import few
from lepton_etl.lake.creation import create_table
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables import Table


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
        of_days = (pc.field("date") >= pa.scalar(days.start)) & (pc.field("date") <= pa.scalar(days.end))
        within = of_days if where is None else of_days & where
    log = DeltaTable(str(root / table.name))
    return few.shaped(table, pa.table(log.to_pyarrow_dataset().to_table(filter=within)))


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
    present = few.present(table, log, None)
    fresh = {tuple(row[name] for name in table.key) for row in rows}
    kept = [row for row in present.to_pylist() if tuple(row[name] for name in table.key) not in fresh]
    whole = few.checked(table, pa.Table.from_pylist([*kept, *map(dict, rows)], schema=arrow_schema(table)))
    if whole.equals(present):
        return False
    few.write(table, log, whole, where=None, path=root / table.name, metadata=metadata)
    return True


def replace_days(root: Path, table: Table, days: Days, rows: pa.Table, metadata: Mapping[str, str]) -> bool:
    """Replace the rows of those of the days whose rows differ; the files of the others stay. False where none does.

    Raises LakeError for a row outside the field dictionary.
    """
    if not exists(root, table):
        create_table(root / table.name, table)
    log = DeltaTable(str(root / table.name))
    fresh, present = few.checked(table, rows), few.present(table, log, days)
    changed = few.changed_spans(fresh, present, days)
    for span in changed:
        where = f"date >= '{span.start.isoformat()}' AND date <= '{span.end.isoformat()}'"
        rows_now = few.of_days(fresh, span.start, span.end)
        few.write(table, log, rows_now, where=where, path=root / table.name, metadata=metadata)
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
