"""The file register, bronze/file: which files were delivered, in which batch, with what counts.

It grows by every file of every night, so it is asked about the files at hand and never read whole: by batch and by
time of writing, which the log's statistics bound file by file, and within those by path and by identity.

The register and the tables of bronze are committed one after the other, and may be lost, restored or copied one
without the other. `behind` tells that they do not belong together, `rebuild` makes the register again from bronze.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.errors import LakeError
from lepton_etl.lake.landing import Delivered
from lepton_etl.lake.location import Location
from lepton_etl.lake.tables import Conditions, Lake, Written, read_files
from lepton_etl.schema.declare import Table
from lepton_etl.schema.logs import FILE, JOB, READING, REJECT

# Where the rows of a file stand, by the column that counts them.
ROWS_OF: Final = {"readings": READING, "jobs": JOB, "rejects": REJECT}
# The reason of a register's row that was made again from the rows of bronze.
REBUILT: Final = "rebuilt_from_bronze"
UNKNOWN_PATH: Final = "(not known)"
_SEEN: Final = ("path", "source_name", "size_bytes", "modified_time")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What `rebuild` did: files taken up from the rows of bronze, paths forgotten, paths with a part of their rows."""

    added: int
    forgotten: tuple[str, ...]
    broken: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.added} files taken up from the rows of bronze, {len(self.forgotten)} forgotten whose rows are "
            "gone (read again where they still lie in the landing folder)"
        )


class FileRegister:
    """Reads and writes bronze/file."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def last_batch(self) -> int:
        """Return the number of the newest batch, 0 before the first; the log's statistics say it."""
        if not self._lake.exists(FILE):
            return 0
        actions = pa.table(self._lake.log(FILE).get_add_actions(flatten=True))
        if actions.num_rows == 0:
            return 0
        newest = actions["max.batch"] if "max.batch" in actions.column_names else None
        if newest is None or newest.null_count:
            # Another writer kept no statistics.
            return int(self._lake.read(FILE, columns=["batch"])["batch"].max() or 0)  # type: ignore[arg-type]
        return int(pc.max(newest).as_py())

    def unfinished(self) -> int | None:
        """Return the batch that was planned and not finished: the newest, since none is planned before it is loaded."""
        last = self.last_batch()
        states = self._lake.read(FILE, columns=["state"], only=_of(last))["state"]
        return last if "planned" in states else None

    def newest_committed(self) -> int:
        """Return the newest batch that a table of bronze holds, by its own transactions."""
        return max(self._lake.newest_batch(table) for table in ROWS_OF.values())

    def summary(self, batch: int) -> Location:
        """Return the file that says what the tasks of a batch staged; it stands until the batch is marked loaded."""
        return self._lake.root / "_staging" / f"batch-{batch}.json"

    def is_replayable(self, batch: int) -> bool:
        """Return whether a planned batch can be finished: what stands in the tables under its number is its own."""
        return self.summary(batch).exists() or self.newest_committed() < batch

    def behind(self) -> str | None:
        """Return what shows that the register is older than the tables of bronze; None where they belong together.

        Raises LakeError where the tables are older than the register: rows that it counts are gone.
        """
        last, planned = self.last_batch(), self.unfinished()
        for column, table in ROWS_OF.items():
            newest = self._lake.newest_batch(table)
            if newest > last or (newest == last and planned == last and not self.is_replayable(last)):
                return f"{self._place(FILE)} ends before {self._place(table)}, which holds batch {newest}"
            if newest < last and planned is None and self._counted(column, last):
                raise LakeError(
                    f"ends with batch {newest}, where {self._place(FILE)} counts rows of batch {last}",
                    where=self._place(table),
                    remedy="restore all of bronze from one copy; or run lepton-etl tables rebuild-register, after "
                    "which the next night reads the files again that still lie in the landing folder",
                )
        return None

    def _counted(self, column: str, batch: int) -> int:
        """The rows that the files of a batch are said to have in one of the tables."""
        found = self._lake.read(FILE, columns=[column], only=_of(batch))
        return int(found[column].sum())

    def rebuild(self) -> Rebuilt:
        """Make the register agree with the rows of bronze. Call under the lake's bronze lease.

        Files that bronze holds and the register lacks are added, known by their identity: found again in the landing
        folder they are duplicates. Counted files whose batch a table does not hold, and plans whose number another
        batch has, are forgotten where nothing of them stands in bronze.
        """
        self._lake.ensure(FILE)
        held = self._held()
        newest = {column: self._lake.newest_batch(table) for column, table in ROWS_OF.items()}
        known = self._lake.read(FILE)
        planned = pl.col("state") == "planned"
        unplanned = known.filter(planned).filter(
            ~pl.col("batch").map_elements(self.is_replayable, return_dtype=pl.Boolean)
        )
        lost = known.filter(
            pl.any_horizontal(
                (pl.col(column).fill_null(0) > 0) & (pl.col("batch") > last)
                for column, last in newest.items()
            )
            & pl.col("state").is_in(["loaded", "discarded"])
        )
        broken = lost.join(held, on="file_id", how="semi")
        gone = lost.join(held, on="file_id", how="anti")
        removed = pl.concat([unplanned, gone])
        duplicates = known.filter(state="duplicate").join(removed, on="file_id", how="semi")
        removed = pl.concat([removed, duplicates])
        kept = known.join(removed, on=["path", "file_id", "batch", "state"], how="anti", nulls_equal=True)
        added = held.join(kept, on="file_id", how="anti")
        batches = sorted(set(removed["batch"]))
        if batches:
            rows = kept.filter(pl.col("batch").is_in(batches)).to_dicts()
            self._lake.write_rows(FILE, rows, where=f"batch IN ({', '.join(map(str, batches))})")
        if added.height:
            self._lake.write_rows(FILE, _numbered(added, max(newest.values())).to_dicts())
        return Rebuilt(added.height, tuple(removed["path"]), tuple(broken["path"]))

    def _held(self) -> pl.DataFrame:
        """What the tables of bronze say of each file: its rows, times and source."""
        found = []
        for column, table in ROWS_OF.items():
            wanted = ["file_id", "source_name", "ingest_time"]
            if table is READING:
                wanted.append("reading_time")
            for file in self._lake.files(table):
                rows = read_files(table, [file], wanted)
                found.append(rows.group_by("file_id").agg(pl.len().alias(column), *_said(rows.columns)))
        shape = pl.DataFrame(schema=_HELD)
        whole = pl.concat([shape, *found], how="diagonal_relaxed")
        return whole.group_by("file_id").agg(
            pl.col(*ROWS_OF).sum(), *_said([name for name in _HELD if name not in (*ROWS_OF, "file_id")])
        )

    def _place(self, table: Table) -> str:
        return f"{table.name} version {self._lake.version(table)}"

    def unseen(self, files: Sequence[Delivered]) -> list[Delivered]:
        """Return the files that no batch saw with this size and time; the others are not even opened."""
        if not files:
            return []
        of_paths = pc.field("path").isin([file.path for file in files])
        known = self._lake.read(FILE, columns=_SEEN, where=of_paths, only=_modified_as(files))
        seen = set(known.iter_rows())
        return [
            file
            for file in files
            if (file.path, file.source_name, file.size_bytes, file.modified_time) not in seen
        ]

    def identities(self, files: Sequence[Delivered]) -> dict[str, set[str]]:
        """Return path -> the identities of what was read there with this size and time."""
        read_there = pc.field("path").isin([file.path for file in files])
        rows = self._lake.read(
            FILE,
            columns=[*_SEEN, "file_id"],
            where=read_there & pc.field("state").isin(["loaded", "duplicate"]),
            only=_modified_as(files),
        )
        listed = {(file.path, file.source_name, file.size_bytes, file.modified_time) for file in files}
        found: dict[str, set[str]] = {}
        for *seen, file_id in rows.iter_rows():
            if tuple(seen) in listed:
                found.setdefault(seen[0], set()).add(file_id)
        return found

    def loaded(self, file_ids: Collection[str]) -> dict[str, int]:
        """Return the identities among these that stand as loaded, with their records."""
        if not file_ids:
            return {}
        rows = self._lake.read(
            FILE,
            columns=["file_id", "records"],
            where=pc.field("file_id").isin(sorted(file_ids)) & (pc.field("state") == "loaded"),
        )
        return dict(rows.iter_rows())

    def same_content(self, content_ids: Collection[str]) -> pl.DataFrame:
        """Return file_id, content_id and path of the loaded files of these contents."""
        wanted = sorted(content_ids)
        known = ["file_id", "content_id", "path"]
        if not wanted or not self._lake.exists(FILE):
            return pl.DataFrame(schema=dict.fromkeys(known, pl.String))
        # Until a batch of this release is written, the register of an older one has no such column.
        has_contents = any(field.name == "content_id" for field in self._lake.log(FILE).schema().fields)
        names = ["file_id", "content_id"] if has_contents else ["file_id"]
        is_wanted = reduce(or_, (pc.field(name).isin(wanted) for name in names))
        found = self._lake.read(FILE, columns=known, where=is_wanted & (pc.field("state") == "loaded"))
        return found.with_columns(pl.coalesce("content_id", "file_id").alias("content_id"))

    def of_batch(self, batch: int) -> list[dict[str, Any]]:
        """Return the rows of one batch."""
        return self._lake.read(FILE, only=_of(batch)).to_dicts()

    def since(self, batch: int, columns: Iterable[str]) -> pl.DataFrame:
        """Return these columns of the files that came after a batch."""
        return self._lake.read(FILE, columns=list(columns), only=[("batch", ">", batch)])

    def plan(self, rows: Sequence[Mapping[str, Any]]) -> Written:
        """Add the rows of a new batch."""
        return self._lake.write_rows(FILE, rows)

    def finish(self, batch: int, rows: Sequence[Mapping[str, Any]]) -> Written:
        """Put the rows of a loaded batch in place of its plan."""
        return self._lake.write_rows(FILE, rows, where=f"batch = {int(batch)}")


_TIME: Final = pl.Datetime("us", "UTC")
_HELD: Final[dict[str, Any]] = {
    "file_id": pl.String, "source_name": pl.String, "ingest_time": _TIME, "first_reading_time": _TIME,
    "last_reading_time": _TIME, **dict.fromkeys(ROWS_OF, pl.Int64),
}  # fmt: skip


def _said(columns: Iterable[str]) -> Iterator[pl.Expr]:
    """One value a file of each column; of the times of its readings the first and the last."""
    for name in columns:
        if name == "reading_time":
            yield pl.col(name).min().alias("first_reading_time")
            yield pl.col(name).max().alias("last_reading_time")
        elif name != "file_id":
            yield pl.col(name).max() if name == "last_reading_time" else pl.col(name).min()


def _numbered(added: pl.DataFrame, newest: int) -> pl.DataFrame:
    """Rows of bronze/file for files known by their rows alone; what only the register knew is null.

    The files of a batch share their time of reading, so the latest of them are those of the newest batch.
    """
    later = added["ingest_time"].n_unique() - pl.col("ingest_time").rank("dense").cast(pl.Int64)
    return added.with_columns(
        batch=pl.max_horizontal(newest - later, 1),
        path=pl.lit(UNKNOWN_PATH),
        state=pl.lit("loaded"),
        reason=pl.lit(REBUILT),
        records=pl.sum_horizontal(*ROWS_OF),
        ingest_date=pl.col("ingest_time").dt.date(),
    )


def rows_by_file(lake: Lake, table: Table, written: datetime | None = None) -> pl.DataFrame:
    """Return how many rows of each file a bronze table holds (file_id, len), read file by file.

    `written` leaves out all rows but those of the batch that was planned at this time.
    """
    of_batch = None if written is None else pl.col("ingest_time") == written
    counts = [
        read_files(table, [file], ["file_id"], of_batch).group_by("file_id").len()
        for file in lake.files(table)
        if written is None or file.day == written.date()
    ]
    empty = pl.DataFrame(schema={"file_id": pl.String, "len": pl.get_index_type()})
    return pl.concat([empty, *counts]).group_by("file_id").agg(pl.col("len").sum())


def _of(batch: int) -> Conditions:
    return [("batch", "=", batch)]


def _modified_as(files: Sequence[Delivered]) -> Conditions:
    """From the first to the last of their times."""
    times = [file.modified_time for file in files]
    return [("modified_time", ">=", min(times)), ("modified_time", "<=", max(times))]
