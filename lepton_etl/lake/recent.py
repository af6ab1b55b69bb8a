"""What the job `watch` holds between its batches: one Parquet file beside its checkpoint, replaced whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_BATCH = b"lepton.batch"


@dataclass(frozen=True, slots=True)
class Recent:
    """Rows as they were after `batch`; -1 before the first one."""

    rows: pa.Table
    batch: int = -1


def folder(root: Path) -> Path:
    """Where the job keeps its checkpoint and its rows."""
    return root / "_watch"


def load(root: Path, empty: pa.Table) -> Recent:
    """What was saved last, or `empty`."""
    file = folder(root) / "recent.parquet"
    if not file.is_file():
        return Recent(empty)
    rows = pq.read_table(file)
    return Recent(rows.cast(empty.schema), int((rows.schema.metadata or {}).get(_BATCH, b"-1")))


def save(root: Path, recent: Recent) -> None:
    """Put the rows in place of the last ones; a crash leaves either."""
    target = folder(root) / "recent.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    with fresh.open("wb") as handle:
        pq.write_table(recent.rows.replace_schema_metadata({_BATCH: str(recent.batch).encode()}), handle)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(target)
