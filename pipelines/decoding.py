"""What a Spark executor does with raw files: hash them for the plan, decode them, stage Parquet.

Nothing of a file's content goes back to the driver: only its counts and the names of the staged files do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.lake.landing import Delivered, Landing
from lepton_etl.lake.staging import StagedFile, StagedWriter
from lepton_etl.lake.tables import JOB, READING, REJECT, Table
from lepton_etl.sources import Source
from lepton_etl.telemetry import codec
from lepton_etl.telemetry.decoded import EARLIEST, LATEST, Decoded, Origin, only_reject
from lepton_etl.telemetry.formats import decode_parts

CHANGED: Final = "changed_while_read"
# A file named by its day holds that day; two cover a zone and a collector that was late.
EARLIER_OF_NAMED_D: Final = 2.0


@dataclass(frozen=True, slots=True)
class Hashed:
    """A delivered file with its identity; `reason` says why it cannot be used."""

    file: Delivered
    file_id: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """The counts of one decoded file: records == readings + jobs + rejects + duplicates + ignored."""

    path: str
    file_id: str
    state: str
    reason: str | None
    records: int
    readings: int
    jobs: int
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
    landing: Landing
    site_id: str
    sources: Mapping[str, Source]
    ingest_time: datetime

    def hash(self, files: Iterable[Delivered]) -> Iterator[Hashed]:
        for file in files:
            yield self._hashed(file)

    def stage(self, files: Iterable[Hashed]) -> Iterator[Loaded | StagedFile]:
        """Decode the files of one task: those of one part into shared Parquet files, a large one into its own.

        A file that ends badly leaves nothing but its reject row: one of one part is written when it is known to be
        whole, and the own Parquet files of a large one are dropped.
        """
        shared = _Output(self)
        for hashed in files:
            own = _Output(self)
            try:
                loaded = self._load(hashed, shared, own)
            except codec.UnreadableError as error:
                own.drop()
                loaded = self._discarded(hashed, str(error), shared)
            except (
                ArithmeticError,
                AssertionError,
                LookupError,
                TypeError,
                ValueError,
                pl.exceptions.PolarsError,
            ) as bug:
                # A mistake of a decoder must not keep the fleet's other files from the night. The file is named to
                # the operator; touched or delivered anew it is read again.
                own.drop()
                loaded = self._discarded(hashed, f"decoder_error: {type(bug).__name__}: {bug}", shared)
            yield loaded
            yield from own.close()
        yield from shared.close()

    def _hashed(self, file: Delivered) -> Hashed:
        identity = codec.FileIdentity(file.source_name, file.node_id)
        try:
            for _ in identity.watch(self._chunks(file)):
                pass
        except codec.UnreadableError as error:
            # Without its text a file is known by its place, size and time: delivered anew, it is another file.
            known_by = f"{file.path}\0{file.size_bytes}\0{file.modified_time.isoformat()}".encode()
            return Hashed(file, codec.file_id(file.source_name, file.node_id, known_by), str(error))
        return Hashed(file, identity.file_id)

    def _load(self, hashed: Hashed, shared: _Output, own: _Output) -> Loaded:
        """Raises UnreadableError where the file cannot be read to its end, or is another than the planned one."""
        if hashed.reason:
            return self._discarded(hashed, hashed.reason, shared)
        source = self.sources[hashed.file.source_name]
        identity = codec.FileIdentity(source.name, hashed.file.node_id)
        chunks = identity.watch(self._chunks(hashed.file))
        parts = decode_parts(chunks, self._origin(hashed.file, source), source)
        tally = Tally(hashed)
        first = next(parts, Decoded.merge([]))
        second = next(parts, None)
        if second is None:
            _check_identity(identity, hashed)
            tally.add(first)
            shared.write(first, hashed)
            return tally.loaded()
        for part in chain((first, second), parts):
            tally.add(part)
            own.write(part, hashed)
        _check_identity(identity, hashed)
        return tally.loaded()

    def _chunks(self, file: Delivered) -> Iterator[bytes]:
        """The text of a file in bounded chunks; UnreadableError where there is none."""
        if file.unsafe:
            raise codec.UnreadableError(codec.Failure(file.unsafe, f"{file.path} is not opened"))
        try:
            with self.landing.open(file) as handle:
                yield from codec.text_chunks(handle, file.path)
        except OSError as error:
            detail = error.strerror or str(error)
            raise codec.UnreadableError(codec.Failure("unreadable_file", detail)) from error

    def _origin(self, file: Delivered, source: Source) -> Origin:
        earliest, latest = stamp_window(file, source)
        return Origin(
            site_id=self.site_id,
            source_name=source.name,
            path=file.path,
            node_id=file.node_id,
            timezone=source.timezone,
            path_time=file.path_time,
            earliest=earliest,
            latest=latest,
        )

    def _discarded(self, hashed: Hashed, reason: str, output: _Output) -> Loaded:
        code, _, detail = reason.partition(": ")
        decoded = only_reject(code, f"{hashed.file.path}: {detail or code}")
        output.write(decoded, hashed)
        tally = Tally(hashed, state="discarded", reason=code)
        tally.add(decoded)
        return tally.loaded()


class _Output:
    """The staged Parquet files of one task, or of one large file; begun when there are rows for them."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._writers: dict[str, StagedWriter] = {}

    def write(self, decoded: Decoded, hashed: Hashed) -> None:
        common = {
            "site_id": self._decoding.site_id,
            "source_name": hashed.file.source_name,
            "file_id": hashed.file_id,
            "ingest_time": self._decoding.ingest_time,
        }
        if decoded.readings.num_rows:
            days = {"reading_date": decoded.readings["reading_time"].cast(pa.date32())}
            self._writer(READING).write(_with(decoded.readings, common | days))
        if decoded.rejects.num_rows:
            named = {"node_id": hashed.file.node_id, "path": hashed.file.path}
            self._writer(REJECT).write(_with(decoded.rejects, common | named))
        if decoded.jobs.num_rows:
            self._writer(JOB).write(_with(decoded.jobs.rename_columns({"state": "job_state"}), common))

    def close(self) -> Iterator[StagedFile]:
        for writer in self._writers.values():
            staged = writer.close()
            if staged:
                yield staged

    def drop(self) -> None:
        for writer in self._writers.values():
            writer.drop()

    def _writer(self, table: Table) -> StagedWriter:
        if table.name not in self._writers:
            day = self._decoding.ingest_time.date()
            self._writers[table.name] = StagedWriter(self._decoding.root, table, day)
        return self._writers[table.name]


def stamp_window(file: Delivered, source: Source) -> tuple[datetime, datetime]:
    """[earliest, latest) that stamps of a file are believed in, around the time that the file itself names."""
    own = file.path_time or file.modified_time
    earlier_d = source.earlier_d
    if earlier_d is None and file.path_time is not None:
        earlier_d = EARLIER_OF_NAMED_D
    earliest = EARLIEST if earlier_d is None else max(EARLIEST, own - timedelta(days=earlier_d))
    return earliest, min(LATEST, own + timedelta(days=source.later_d))


def _check_identity(identity: codec.FileIdentity, hashed: Hashed) -> None:
    # The plan named these bytes; a file rewritten since then is another file, loaded by the next run.
    if identity.file_id != hashed.file_id:
        raise codec.UnreadableError(codec.Failure(CHANGED, "the bytes are not those of the plan"))


def _with(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Add columns; a plain value stands in every row."""
    for name, value in columns.items():
        if not isinstance(value, pa.ChunkedArray):
            kind = pa.timestamp("us", "UTC") if isinstance(value, datetime) else pa.string()
            value = pa.repeat(pa.scalar(value, kind), table.num_rows)
        table = table.append_column(name, value)
    return table


class Tally:
    """The counts of one file, part by part."""

    def __init__(self, hashed: Hashed, state: str = "loaded", reason: str | None = None) -> None:
        self._hashed = hashed
        self._state = state
        self._reason = reason
        self._counts: Counter[str] = Counter()
        self._ignored: Counter[tuple[str, str]] = Counter()
        self._times: list[datetime] = []

    def add(self, part: Decoded) -> None:
        """Count a part; raises AssertionError where its records do not add up."""
        part.check()
        self._counts.update(
            records=part.records,
            readings=part.readings.num_rows,
            jobs=part.jobs.num_rows,
            rejects=part.rejects.num_rows,
            duplicates=part.duplicates,
            structure_lines=part.structure_lines,
        )
        self._ignored.update(part.ignored)
        times = pc.min_max(part.readings["reading_time"]).as_py()
        self._times += [time for time in times.values() if time is not None]

    def loaded(self) -> Loaded:
        detail = [[sensor, reason, count] for (sensor, reason), count in sorted(self._ignored.items())]
        return Loaded(
            path=self._hashed.file.path,
            file_id=self._hashed.file_id,
            state=self._state,
            reason=self._reason,
            records=self._counts["records"],
            readings=self._counts["readings"],
            jobs=self._counts["jobs"],
            rejects=self._counts["rejects"],
            duplicates=self._counts["duplicates"],
            ignored=self._ignored.total(),
            ignored_detail=json.dumps(detail, ensure_ascii=False),
            structure_lines=self._counts["structure_lines"],
            first_reading_time=min(self._times).isoformat() if self._times else None,
            last_reading_time=max(self._times).isoformat() if self._times else None,
        )
