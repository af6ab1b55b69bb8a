"""Staged Parquet: tasks write files below a table, the driver commits all of them at once.

Rows that cross from Arrow through the JVM to Parquet cost more than decoding them (46 s against 18 s for a fleet-day),
so tasks write the files with pyarrow and only their names travel. Files of a failed or repeated task are named by
nobody: no reader sees them, and VACUUM removes them. What a file holds is checked against the field dictionary as it
is written, since a delta-rs transaction checks nothing.

A file's name carries the digest of its rows: the log alone tells whether a day's rows are those that stand already.
It carries the SHA-256 of the file too, so that the log, which names the file, says what its bytes must be: zstd without
its checksum decodes most flipped bits to other values, and polars verifies no page checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_etl.errors import LakeError, naming
from lepton_etl.lake.location import Location
from lepton_etl.lake.rows import (
    Digest,
    coded_columns_of,
    digest,
    digest_scheme,
    refuse_missing,
    refuse_values,
)
from lepton_etl.schema.declare import DATE, INT, LONG, STRING, TIMESTAMP, Table
from lepton_etl.schema.types import CODED, arrow_schema

_ROW_GROUP_ROWS: Final = 1_000_000
_BUFFER_BYTES: Final = 128 * 1024 * 1024
# Min and max of these prune files at read time; of free text they would only grow the log.
_STATISTICS: Final = (
    "site_id", "node_id", "quantity", "reading_time", "reading_date", "file_id", "reason", "source_name",
)  # fmt: skip
# They go up in steps within a file: as differences they take a tenth of the bytes and less, and less time than to look
# for repeats.
_STEPPING: Final = ("source_position", "reading_time")
# So many values at a time: with the library's 1,024 it spends an eighth of the writing between them.
_BATCH_ROWS: Final = 1 << 16
_NAME: Final = re.compile(
    r"part-(?P<scheme>[0-9a-f]{8})(?P<digest>[0-9a-f]{16})-[0-9a-f-]{36}"
    # Files of older releases say no SHA-256.
    r"(-(?P<sha256>[0-9a-f]{64}))?\.zstd\.parquet$"
)


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A Parquet file that stands below its table but in no commit yet."""

    table: str
    path: str
    partition: str
    size_bytes: int
    rows: int
    statistics: str

    @property
    def day(self) -> date:
        return date.fromisoformat(self.partition)

    @property
    def digest(self) -> Digest:
        """The digest of its rows, as its name says it."""
        found = digest_of_name(self.path, self.rows)
        assert found is not None
        return found


class _HashedFile:
    """A file that is written from its beginning to its end, and the SHA-256 of what was written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._path = path
        self.sha256 = hashlib.sha256()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        with naming(self._path):
            return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        with naming(self._path):
            self._file.close()


class StagedWriter:
    """Writes one Parquet file of one day of a table in a task; `close` tells what was written.

    The table is partitioned by a date. Rows are buffered into large row groups: a raw file of a few thousand readings
    must not become one each.
    """

    def __init__(self, root: Location, table: Table, day: date) -> None:
        if table.partition is None:
            raise LakeError("only a table partitioned by a date takes staged files", where=table.name)
        self._table = table
        self._day = day
        self._partition = f"{table.partition}={day.isoformat()}"
        # The name is complete when the rows are known. VACUUM removes what a killed task leaves under this one.
        self._id = str(uuid.uuid4())
        self._folder = root / table.name / self._partition
        self._file = Path()
        self._names = [name for name in table.columns if name != table.partition]
        self._schema = pa.schema([])
        self._buffer: list[pa.Table] = []
        self._buffered_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._sink: _HashedFile | None = None
        self._digest = Digest()

    def write(self, rows: pa.Table | pl.DataFrame) -> None:
        """Add rows; columns are matched by name, one that they lack is null.

        Raises LakeError for a required column that is missing, a null in one, a value out of the dictionary's bounds,
        a row of another day.
        """
        arrow = rows.to_arrow() if isinstance(rows, pl.DataFrame) else rows
        if arrow.num_rows == 0:
            return
        partition = self._table.partition or ""
        if partition in arrow.column_names and arrow[partition].unique().to_pylist() != [self._day]:
            raise LakeError(f"rows of another day than {self._day}", where=self._table.name)
        refuse_missing(self._table, {*arrow.column_names, partition})
        chosen = coded_columns_of(self._table, arrow, self._names)
        refuse_values(self._table, chosen)
        self._buffer.append(chosen)
        self._buffered_bytes += chosen.nbytes
        if self._buffered_bytes >= _BUFFER_BYTES:
            self._flush()

    def close(self) -> StagedFile | None:
        """Finish the file; None when nothing was written."""
        self._flush()
        if self._writer is None or self._sink is None:
            return None
        self._writer.close()
        self._sink.close()
        of_rows, of_bytes = f"{self._digest.hash_sum:016x}", self._sink.sha256.hexdigest()
        name = f"part-{digest_scheme()}{of_rows}-{self._id}-{of_bytes}.zstd.parquet"
        staged = StagedFile(
            table=self._table.name,
            path=f"{self._partition}/{name}",
            partition=self._day.isoformat(),
            size_bytes=self._file.stat().st_size,
            rows=self._digest.rows,
            statistics=_statistics(self._file, self._pruning()),
        )
        self._folder.take(self._file, name)
        return staged

    def drop(self) -> None:
        """Forget the rows; a file that was begun is removed."""
        self._buffer.clear()
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()
            self._writer = None
            self._file.unlink()

    def _pruning(self) -> list[str]:
        """The columns by which readers leave out files and row groups."""
        ordered = {one.name for one in self._table.fields if one.type in (STRING, DATE, TIMESTAMP, INT, LONG)}
        return [
            name for name in self._names
            if name in _STATISTICS or (name in self._table.indexed and name in ordered)
        ]  # fmt: skip

    def _schema_of(self, parts: Sequence[pa.Table]) -> pa.Schema:
        """The declared columns, as codes where all parts bring codes.

        Of one that is never null Parquet keeps no levels, which would be a fourth of the writing.
        """
        declared = [arrow_schema(self._table).field(name) for name in self._names]
        return pa.schema(
            one.with_type(
                CODED if all(part.schema.field(one.name).type == CODED for part in parts) else one.type
            ).with_nullable(one.name not in self._table.required)
            for one in declared
        )

    def _encodings(self) -> dict[str, Any]:
        stepping = [name for name in _STEPPING if name in self._names]
        if not stepping:
            return {}
        others = [name for name in self._names if name not in stepping]
        return {"use_dictionary": others, "column_encoding": dict.fromkeys(stepping, "DELTA_BINARY_PACKED")}

    def _flush(self) -> None:
        if not self._buffer:
            return
        if self._writer is None:
            self._file = self._folder.workspace() / f"writing-{self._id}.parquet"
            self._schema = self._schema_of(self._buffer)
            # A dictionary is how these rows came, not what the column is: readers must not see it.
            self._sink = _HashedFile(self._file)
            self._writer = pq.ParquetWriter(
                self._sink, self._schema, compression="zstd", compression_level=1, store_schema=False,
                write_statistics=self._pruning(), write_page_checksum=True, write_batch_size=_BATCH_ROWS,
                **self._encodings(),
            )  # fmt: skip
        rows = pa.concat_tables(part.cast(self._schema) for part in self._buffer).unify_dictionaries()
        self._digest += digest(rows)
        self._writer.write_table(rows, row_group_size=_ROW_GROUP_ROWS)
        self._buffer.clear()
        self._buffered_bytes = 0


def stage(root: Location, table: Table, rows: pa.Table | pl.DataFrame) -> list[StagedFile]:
    """Stage the rows of a task, a file a day: what a kernel calls with its result for `Lake.commit`.

    Raises LakeError where the dictionary does not allow a row.
    """
    assert table.partition is not None
    days = pl.Series(rows[table.partition]).unique()
    if days.null_count():
        raise LakeError(f"null in required columns: {table.partition}", where=table.name)
    of_days: dict[Any, pa.Table | pl.DataFrame] = dict.fromkeys(days, rows)
    if len(days) > 1:
        parts = pl.DataFrame(rows).partition_by(table.partition, as_dict=True)
        of_days = {day: of_day for (day,), of_day in parts.items()}
    found = []
    for day, of_day in sorted(of_days.items()):
        writer = StagedWriter(root, table, day)
        writer.write(of_day)
        staged = writer.close()
        if staged is not None:
            found.append(staged)
    return found


def digest_of_name(path: str, rows: int) -> Digest | None:
    """Return the digest that a staged file's name says; None where another writer named it."""
    found = _NAME.search(path)
    if found is None or found["scheme"] != digest_scheme():
        return None
    return Digest(rows, int(found["digest"], 16))


def sha256_of_name(path: str) -> str | None:
    """Return the SHA-256 of the file that a staged file's name says; None where another writer named it."""
    found = _NAME.search(path)
    return found["sha256"] if found else None


def _statistics(file: Path, wanted: Iterable[str]) -> str:
    """Delta statistics (JSON) from the written file's own footer."""
    footer, chosen = pq.read_metadata(file), set(wanted)
    names = [footer.schema.column(i).path for i in range(footer.num_columns)]
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for position, name in enumerate(names):
        if name not in chosen:
            continue
        parts = [
            footer.row_group(group).column(position).statistics for group in range(footer.num_row_groups)
        ]
        if any(part is None or not part.has_null_count for part in parts):
            continue
        nulls[name] = sum(part.null_count for part in parts)
        bounded = [part for part in parts if part.has_min_max]
        if bounded and len(bounded) == sum(part.num_values > 0 for part in parts):
            low[name] = _plain(min(part.min for part in bounded), up=False)
            high[name] = _plain(max(part.max for part in bounded), up=True)
    return json.dumps(
        {"numRecords": footer.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}
    )


def _plain(value: Any, *, up: bool) -> Any:
    """A statistic as the Delta protocol writes it: times in milliseconds, cut down for a minimum, up for a maximum."""
    if isinstance(value, datetime):
        micros = value.microsecond
        cut = value.replace(microsecond=micros // 1000 * 1000)
        if up and cut != value:
            # A maximum cut down would prune the file that holds it.
            return _stamp(datetime.fromtimestamp(cut.timestamp() + 0.001, UTC))
        return _stamp(cut)
    return value.isoformat() if isinstance(value, date) else value


def _stamp(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"
