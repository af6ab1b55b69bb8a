"""Verify a lake by reading all of it: what a disk, a copy or another writer may have done to it.

Every file of the newest version of every declared table is read whole. Looked for are files that are not what was
written, by the SHA-256 that was committed with them, or that cannot be read, required columns that are missing or null,
values out of the field dictionary's bounds, keys that stand twice, and files of the register whose records do not add
up, by themselves and against the rows of bronze.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.errors import LakeError
from lepton_etl.lake.file_register import ROWS_OF, rows_by_file
from lepton_etl.lake.log_files import refuse_without_log
from lepton_etl.lake.rows import broken_columns, columns_of, empty_columns, missing_columns
from lepton_etl.lake.tables import DIFFERS, DataFile, Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.tables import TABLES

_RESTORE: Final = "restore the file from a copy of the lake"
_SUM: Final = ("readings", "jobs", "rejects", "duplicates", "ignored")
# So many files of the register are named; the others are counted.
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a table: its version, the file where one is to blame, and what to do."""

    table: str
    version: int
    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        place = f" {self.file}" if self.file else ""
        return f"{self.table} version {self.version}{place}: {self.what} -> {self.remedy}"


def check_lake(lake: Lake, only: Collection[str] = ()) -> Iterator[Finding]:
    """Yield what is wrong with the tables, or with those that are named; a lake in order yields nothing."""
    for table in TABLES.values():
        if not only or table.name in only:
            yield from _check_table(lake, table)
    if lake.exists(FILE) and (not only or FILE.name in only):
        yield from _check_counts(lake)


def _check_table(lake: Lake, table: Table) -> Iterator[Finding]:
    try:
        if not lake.exists(table):
            refuse_without_log(lake.at(table))
            return
        log = lake.log(table)
        version = log.version()
        files = lake.files_of(table, log, None)
    except LakeError as error:
        yield Finding(table.name, -1, error.where, error.what, error.remedy)
        return
    except OSError as error:
        what = f"the log cannot be read: {_line(error)}"
        yield Finding(table.name, -1, "_delta_log", what, "restore it from a copy of the lake")
        return
    folder = f"{lake.path(table)}/"
    keys: dict[object, list[pl.DataFrame]] = {}
    for file in files:
        name = file.path.removeprefix(folder)
        try:
            if not file.is_intact():
                yield Finding(table.name, version, name, DIFFERS, _remedy(table, file))
                continue
            stored = pl.read_parquet(
                file.path,
                glob=False,
                hive_partitioning=False,
                storage_options=dict(file.options) or None,
            )
        except (OSError, pl.exceptions.PolarsError) as error:
            yield Finding(table.name, version, name, f"cannot be read: {_line(error)}", _remedy(table, file))
            continue
        if file.rows >= 0 and stored.height != file.rows:
            what = f"holds {stored.height} rows where the log says {file.rows}"
            yield Finding(table.name, version, name, what, _remedy(table, file))
        yield from (
            Finding(table.name, version, name, what, _remedy(table, file)) for what in _wrong(table, stored)
        )
        key = [column for column in table.key if column != table.partition]
        if key and set(key) <= set(stored.columns):
            keys.setdefault(file.day, []).append(stored.select(key))
    for day, parts in keys.items():
        rows = pl.concat(parts)
        twice = rows.height - rows.n_unique()
        if twice:
            where = "" if day is None else f" of {day}"
            again = "run the night of that day again" if day is not None else "run the newest night again"
            yield Finding(table.name, version, "", f"{twice} rows{where} have the key of another row", again)


def _wrong(table: Table, stored: pl.DataFrame) -> Iterator[str]:
    """What the dictionary does not allow in the rows of a file, which lack the partition's column."""
    missing = missing_columns(table, [*stored.columns, table.partition or ""])
    if missing:
        yield f"required columns missing: {', '.join(missing)}"
    try:
        present = [name for name in table.columns if name in stored.columns and name != table.partition]
        rows = columns_of(table, stored.to_arrow(), present)
    except pa.ArrowInvalid as error:
        yield f"columns of another type: {_line(error)}"
        return
    empty = empty_columns(table, rows)
    if empty:
        yield f"null in required columns: {', '.join(empty)}"
    broken = broken_columns(table, rows)
    if broken:
        yield f"outside the bounds of the field dictionary: {', '.join(broken)}"


def _check_counts(lake: Lake) -> Iterator[Finding]:
    """Every file of the register: its records add up, and bronze holds as many of its rows as it says."""
    version = lake.version(FILE) or 0
    files = lake.read(FILE).filter(pl.col("state") != "planned")
    total = pl.sum_horizontal(pl.col(name).fill_null(0) for name in _SUM)
    open_sum = files.filter(pl.col("records").fill_null(0) != total)
    yield from _of_files(
        version, open_sum, "records are not readings + jobs + rejects + duplicates + ignored",
        "deliver the file under another name, so that it is read again",
    )  # fmt: skip
    own = files.filter(pl.col("state") != "duplicate")
    for column, table in ROWS_OF.items():
        try:
            held = rows_by_file(lake, table)
        except (OSError, pl.exceptions.PolarsError):
            # Named above, with the file that cannot be read.
            continue
        both = own.select("path", "file_id", column).join(held, on="file_id", how="left")
        differ = both.filter(pl.col(column).fill_null(0) != pl.col("len").fill_null(0))
        yield from _of_files(
            version, differ, f"{table.name} does not hold the {column} that are counted", _RESTORE
        )
        strangers = held.join(files, on="file_id", how="anti")
        if strangers.height:
            what = f"rows of {strangers.height} files that bronze/file does not know"
            remedy = "run lepton-etl tables rebuild-register"
            yield Finding(table.name, lake.version(table) or 0, "", what, remedy)


def _of_files(version: int, rows: pl.DataFrame, what: str, remedy: str) -> Iterator[Finding]:
    for path in rows["path"].head(_NAMED):
        yield Finding(FILE.name, version, path, what, remedy)
    if rows.height > _NAMED:
        yield Finding(FILE.name, version, "", f"and of {rows.height - _NAMED} more files: {what}", remedy)


def _remedy(table: Table, file: DataFile) -> str:
    if table.name.startswith("bronze/") or table.partition != "date":
        return _RESTORE
    return f"{_RESTORE}, or remove its day from the table and run the night of {file.day} again"


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
