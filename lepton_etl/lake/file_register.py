"""The file register, bronze/file: which files were delivered, in which batch, with what counts.

It grows by every file of every night, so it is asked about the files at hand and never read whole: by batch and by
time of writing, which the log's statistics bound file by file, and within those by path and by identity.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.lake.landing import Delivered
from lepton_etl.lake.tables import Lake, Written
from lepton_etl.schema.logs import FILE

_SEEN: Final = ("path", "source_name", "size_bytes", "modified_time")


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
        states = self._lake.read(FILE, columns=["state"], where=pc.field("batch") == last)["state"]
        return last if "planned" in states else None

    def unseen(self, files: Sequence[Delivered]) -> list[Delivered]:
        """Return the files that no batch saw with this size and time; the others are not even opened."""
        if not files:
            return []
        times = [file.modified_time for file in files]
        known = self._lake.read(
            FILE,
            columns=_SEEN,
            where=(pc.field("modified_time") >= _instant(min(times)))
            & (pc.field("modified_time") <= _instant(max(times)))
            & pc.field("path").isin([file.path for file in files]),
        )
        seen = set(known.iter_rows())
        return [
            file
            for file in files
            if (file.path, file.source_name, file.size_bytes, file.modified_time) not in seen
        ]

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

    def of_batch(self, batch: int) -> list[dict[str, Any]]:
        """Return the rows of one batch."""
        return self._lake.read(FILE, where=pc.field("batch") == batch).to_dicts()

    def since(self, batch: int, columns: Iterable[str]) -> pl.DataFrame:
        """Return these columns of the files that came after a batch."""
        return self._lake.read(FILE, columns=list(columns), where=pc.field("batch") > batch)

    def plan(self, rows: Sequence[Mapping[str, Any]]) -> Written:
        """Add the rows of a new batch."""
        return self._lake.write_rows(FILE, rows)

    def finish(self, batch: int, rows: Sequence[Mapping[str, Any]]) -> Written:
        """Put the rows of a loaded batch in place of its plan."""
        return self._lake.write_rows(FILE, rows, where=f"batch = {int(batch)}")


def _instant(value: datetime) -> pa.Scalar:
    return pa.scalar(value, pa.timestamp("us", tz="UTC"))
