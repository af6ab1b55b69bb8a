"""What a Spark executor does with raw files: hash them for the plan, decode them, stage Parquet.

Nothing of a file's content goes back to the driver: only its counts and the names of the staged files do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.lake.landing import Delivered, read_delivered
from lepton_etl.lake.staging import StagedFile, StagedWriter
from lepton_etl.lake.tables import READING, REJECT
from lepton_etl.settings import Source
from lepton_etl.telemetry import codec
from lepton_etl.telemetry.decoded import REJECT_SCHEMA, Decoded, Origin, only_reject
from lepton_etl.telemetry.formats import decode

CHANGED = "changed_while_read"


@dataclass(frozen=True, slots=True)
class Hashed:
    """A delivered file with its identity; `reason` says why it cannot be used."""

    file: Delivered
    file_id: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """The counts of one decoded file: records == readings + rejects + duplicates + ignored."""

    path: str
    file_id: str
    state: str
    reason: str | None
    records: int
    readings: int
    rejects: int
    duplicates: int
    ignored: int
    ignored_detail: str
    structure_lines: int
    first_reading_time: str | None
    last_reading_time: str | None


@dataclass(frozen=True)
class Decoding:
    """What an executor needs to decode files of any source."""

    root: Path
    site_id: str
    sources: Mapping[str, Source]
    ingest_time: datetime

    def hash(self, files: Iterable[Delivered]) -> Iterator[Hashed]:
        for file in files:
            yield self._hashed(file)

    def stage(self, files: Iterable[Hashed]) -> Iterator[Loaded | StagedFile]:
        """Decode the files of one task into one Parquet file of readings and one of rejects.

        A file is decoded whole before any of it is written, so one that ends badly leaves nothing but its reject row.
        """
        day = self.ingest_time.date()
        readings = StagedWriter(self.root, READING, day)
        rejects = StagedWriter(self.root, REJECT, day)
        for hashed in files:
            result, decoded = self._decoded(hashed)
            readings.write(self._reading_rows(decoded.readings, hashed))
            rejects.write(self._reject_rows(decoded.rejects, hashed))
            yield result
        for staged in (readings.close(), rejects.close()):
            if staged:
                yield staged

    def _hashed(self, file: Delivered) -> Hashed:
        content = _content(file)
        if isinstance(content, str):
            # Without its text a file is known by its place, size and time: delivered anew, it is another file.
            known_by = f"{file.path}\0{file.size_bytes}\0{file.modified_time.isoformat()}".encode()
            return Hashed(file, codec.file_id(file.source_name, file.node_id, known_by), content)
        return Hashed(file, codec.file_id(file.source_name, file.node_id, content))

    def _decoded(self, hashed: Hashed) -> tuple[Loaded, Decoded]:
        if hashed.reason:
            return self._discarded(hashed, hashed.reason)
        content = _content(hashed.file)
        if isinstance(content, str):
            return self._discarded(hashed, content)
        source = self.sources[hashed.file.source_name]
        # The plan named these bytes; a file rewritten since then is another file, loaded by the next run.
        if hashed.file_id != codec.file_id(source.name, hashed.file.node_id, content):
            return self._discarded(hashed, f"{CHANGED}: the bytes are not those of the plan")
        origin = Origin(
            site_id=self.site_id,
            source_name=source.name,
            path=hashed.file.path,
            node_id=hashed.file.node_id,
            timezone=source.timezone,
            path_time=hashed.file.path_time,
        )
        decoded = decode(content, origin, source)
        decoded.check()
        return _counts(hashed, decoded, "loaded", None), decoded

    @staticmethod
    def _discarded(hashed: Hashed, reason: str) -> tuple[Loaded, Decoded]:
        code, _, detail = reason.partition(": ")
        decoded = only_reject(code, f"{hashed.file.path}: {detail or code}")
        return _counts(hashed, decoded, "discarded", code), decoded

    def _reading_rows(self, readings: pa.Table, hashed: Hashed) -> pa.Table:
        days = readings["reading_time"].cast(pa.date32())
        return _with(readings, self._common(hashed) | {"reading_date": days})

    def _reject_rows(self, rejects: pa.Table, hashed: Hashed) -> pa.Table:
        assert rejects.schema.equals(REJECT_SCHEMA)
        named = {"node_id": hashed.file.node_id, "path": hashed.file.path}
        return _with(rejects, self._common(hashed) | named)

    def _common(self, hashed: Hashed) -> dict[str, Any]:
        return {
            "site_id": self.site_id,
            "source_name": hashed.file.source_name,
            "file_id": hashed.file_id,
            "ingest_time": self.ingest_time,
        }


def _content(file: Delivered) -> bytes | str:
    """The text of a file, or `reason: detail` where there is none."""
    if file.unsafe:
        return file.unsafe
    try:
        with read_delivered(file) as handle:
            content = codec.read_bytes(handle, gzipped=file.path.endswith(".gz"))
    except OSError as error:
        return f"unreadable_file: {error.strerror}"
    return f"{content.reason}: {content.detail}" if isinstance(content, codec.Failure) else content


def _with(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Add columns; a plain value stands in every row."""
    for name, value in columns.items():
        if not isinstance(value, pa.ChunkedArray):
            kind = pa.timestamp("us", "UTC") if isinstance(value, datetime) else pa.string()
            value = pa.repeat(pa.scalar(value, kind), table.num_rows)
        table = table.append_column(name, value)
    return table


def _counts(hashed: Hashed, decoded: Decoded, state: str, reason: str | None) -> Loaded:
    times = pc.min_max(decoded.readings["reading_time"]).as_py()
    detail: Counter[tuple[str, str]] = Counter(dict(decoded.ignored))
    return Loaded(
        path=hashed.file.path,
        file_id=hashed.file_id,
        state=state,
        reason=reason,
        records=decoded.records,
        readings=decoded.readings.num_rows,
        rejects=decoded.rejects.num_rows,
        duplicates=decoded.duplicates,
        ignored=sum(detail.values()),
        ignored_detail=json.dumps([[s, r, n] for (s, r), n in sorted(detail.items())], ensure_ascii=False),
        structure_lines=decoded.structure_lines,
        first_reading_time=times["min"].isoformat() if times["min"] else None,
        last_reading_time=times["max"].isoformat() if times["max"] else None,
    )
