"""Keep the lake small and quick to open: put small files together, write checkpoints, remove files nobody needs.

A batch already writes one file a task, however many raw files it loaded. What is left are the many batches of a site
that loads every few minutes, and the run record's commits of a row each: their small files are put together once there
are enough of them, so that a row is rewritten at most a few times and a large file never. Days of silver and gold are
replaced whole and stay as they are: their files' names say what they hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, PostCommitHookProperties
from deltalake.exceptions import CommitFailedError

from lepton_etl.errors import LockedError
from lepton_etl.lake.lease import Lease
from lepton_etl.lake.log_files import open_log
from lepton_etl.lake.nights import PublishedLake
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.operations import RUN, STAGE_RUN
from lepton_etl.schema.tables import TABLES

SMALL_BYTES: Final = 16 << 20
TARGET_BYTES: Final = 128 << 20
# Two cores and a run every quarter of an hour give eight small files an hour: a day is put together a dozen times.
SMALL_FILES: Final = 16
# Delta's own bound: whatever a reader or a night may still have open is younger.
LEAST_DAYS: Final = 7
# Tables that grow by appended rows alone, and whose files nobody knows by their names.
_LOGS: Final = ("bronze/", "ops/")


# The lease under which the tables of the run record are put together.
_RECORD: Final = "record"
_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Maintained:
    """A table after maintenance: what it holds, and what was done to it; sizes in bytes.

    `days` is over how many partitions by date its rows lie, 0 of a table that has none.
    """

    table: str
    version: int
    rows: int
    files: int
    size_bytes: int
    days: int
    put_together: int
    removed_files: int
    removed_bytes: int

    @property
    def growth_bytes(self) -> float | None:
        """Bytes that a day adds; None where the table has no days."""
        return self.size_bytes / self.days if self.days else None


def maintain(lake: Lake, run_id: str, keep_days: int, *, dry_run: bool = False) -> Iterator[Maintained]:
    """Maintain every table and yield what was done; `dry_run` changes nothing and yields what would be removed.

    Removed are the files of versions older than `keep_days`, and what killed tasks left, but for files of a version by
    which ops/night still names a day. Raises LockedError while a run loads files.
    """
    lake.metadata = {"run_id": run_id, "stage": "maintain"}
    published = PublishedLake(lake)
    with Lease(lake, "bronze", run_id), Lease(lake, _RECORD, run_id, wait_s=_WAIT_S):
        for table in TABLES.values():
            if lake.exists(table):
                yield _maintain(lake, published, table, max(keep_days, LEAST_DAYS), dry_run=dry_run)


def compact_record(lake: Lake, run_id: str) -> None:
    """Put the run record together where it has many small files: each night reads all of it.

    Where another run does so, it is left to that one.
    """
    with suppress(LockedError), Lease(lake, _RECORD, run_id):
        for table in (RUN, STAGE_RUN):
            if lake.exists(table):
                compact(lake, table)


def _maintain(
    lake: Lake, published: PublishedLake, table: Table, keep_days: int, *, dry_run: bool
) -> Maintained:
    is_log = table.name.startswith(_LOGS)
    put_together = compact(lake, table) if is_log and not dry_run else []
    log = open_log(lake.at(table))
    needed = published.versions(table)
    unneeded = log.vacuum(24 * keep_days, full=True, keep_versions=needed)
    size = sum((lake.at(table) / path).size_bytes() for path in unneeded)
    if not dry_run:
        if unneeded:
            log.vacuum(
                24 * keep_days, dry_run=False, full=True, keep_versions=needed,
                commit_properties=_properties(lake), post_commithook_properties=_NO_HOOK,
            )  # fmt: skip
        if put_together or unneeded:
            log = open_log(lake.at(table))
            log.create_checkpoint()
    actions = pa.table(log.get_add_actions(flatten=True))
    dated = table.partition == "date" or table.partition == "ingest_date"
    return Maintained(
        table=table.name,
        version=log.version(),
        rows=log.count(),
        files=actions.num_rows,
        size_bytes=pc.sum(actions["size_bytes"]).as_py() or 0,
        days=len(actions[f"partition.{table.partition}"].unique()) if dated and actions.num_rows else 0,
        put_together=len(put_together),
        removed_files=len(unneeded),
        removed_bytes=size,
    )


def purge(lake: Lake, table: Table) -> None:
    """Remove every version of a table but the newest: the files that it alone does not name, and their commits.

    What is there for erasure, and for nothing else: no reader of an older version is asked. Under the lake's leases.
    """
    log = open_log(lake.at(table))
    log.vacuum(
        0, dry_run=False, enforce_retention_duration=False, full=True,
        commit_properties=_properties(lake), post_commithook_properties=_NO_HOOK,
    )  # fmt: skip
    log = open_log(lake.at(table))
    log.create_checkpoint()
    folder = lake.at(table) / "_delta_log"
    for name in folder.names():
        version = name.partition(".")[0]
        if version.isdecimal() and int(version) < log.version():
            (folder / name).remove()


# A checkpoint is made once, at the end.
_NO_HOOK: Final = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def _properties(lake: Lake) -> CommitProperties:
    return CommitProperties(custom_metadata=dict(lake.metadata))


def compact(lake: Lake, table: Table) -> list[str]:
    """Put the small files of each crowded partition together; the partitions that were rewritten, "" for all of it.

    The rows stay what they are (`dataChange` false), readers of older versions keep their files until VACUUM. A commit
    of another writer that removed some of the files in between leaves them to the next run. Under a lease:
    delta-rs lets two compactions of the same files both commit (its pull request 3982), and every row would be there
    twice.
    """
    log = open_log(lake.at(table))
    files = pa.table(log.get_add_actions(flatten=True))
    sizes = files["size_bytes"].to_pylist()
    parts = files[f"partition.{table.partition}"].to_pylist() if table.partition else [""] * len(sizes)
    small = Counter(str(part) for part, size in zip(parts, sizes, strict=True) if size < SMALL_BYTES)
    crowded = sorted(part for part, count in small.items() if count >= SMALL_FILES)
    for part in crowded:
        try:
            log.optimize.compact(
                partition_filters=[(table.partition, "=", part)] if table.partition else None,
                target_size=TARGET_BYTES,
                commit_properties=_properties(lake),
                post_commithook_properties=_NO_HOOK,
            )
        except CommitFailedError:
            return crowded[: crowded.index(part)]
    return crowded
