"""Keeping the files of a log table at a sensible size.

A batch already writes one file a task, however many raw files it loaded. What is left are the many batches of a site
that loads every few minutes: their small files of one day are put together once there are enough of them, so that a
row is rewritten at most a few times and a large file never.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import pyarrow as pa
from deltalake import CommitProperties, PostCommitHookProperties
from deltalake.exceptions import CommitFailedError

from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table

SMALL_BYTES: Final = 16 << 20
TARGET_BYTES: Final = 128 << 20
# Two cores and a run every quarter of an hour give eight small files an hour: a day is put together a dozen times.
SMALL_FILES: Final = 16


def compact(lake: Lake, table: Table) -> list[str]:
    """Put the small files of each crowded partition together; the partitions that were rewritten.

    The rows stay what they are (`dataChange` false), readers of older versions keep their files until VACUUM. A commit
    of another writer that removed some of the files in between leaves them to the next run. Under the bronze lease:
    delta-rs lets two compactions of the same files both commit (its pull request 3982), and every row would be there
    twice.
    """
    assert table.partition is not None
    log = lake.log(table)
    files = pa.table(log.get_add_actions(flatten=True))
    days, sizes = files[f"partition.{table.partition}"].to_pylist(), files["size_bytes"].to_pylist()
    small = Counter(str(day) for day, size in zip(days, sizes, strict=True) if size < SMALL_BYTES)
    crowded = sorted(day for day, count in small.items() if count >= SMALL_FILES)
    for day in crowded:
        try:
            log.optimize.compact(
                partition_filters=[(table.partition, "=", day)],
                target_size=TARGET_BYTES,
                commit_properties=CommitProperties(custom_metadata=dict(lake.metadata)),
                post_commithook_properties=PostCommitHookProperties(
                    create_checkpoint=False, cleanup_expired_logs=False
                ),
            )
        except CommitFailedError:
            return crowded[: crowded.index(day)]
    return crowded
