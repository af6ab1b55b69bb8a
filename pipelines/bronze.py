"""Load every delivered file once into bronze, as readings and rejects, each with file and position.

A batch is planned in bronze/file, decoded and staged in tasks, committed to bronze/reading and bronze/reject
under an application transaction of the batch's number, and marked loaded. Killed at any point, the next run
finishes the planned batch first; what was committed already is not committed again.

Nothing of a file's content goes back to the driver: only its counts and the names of the staged files do.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.config.settings import Settings
from lepton_etl.config.sources import Source
from lepton_etl.errors import LakeError, WorkerLostError
from lepton_etl.ingest import text as codec
from lepton_etl.ingest.decoded import EARLIEST, LATEST, Decoded, Origin, only_reject
from lepton_etl.intervals.channels import coded
from lepton_etl.lake.file_register import ROWS_OF, FileRegister, rows_by_file
from lepton_etl.lake.landing import UNSAFE, Delivered, Landing, ObjectStore, UnsafeFileError, identity
from lepton_etl.lake.location import Location
from lepton_etl.lake.maintenance import compact
from lepton_etl.lake.staging import StagedFile, StagedWriter
from lepton_etl.lake.tables import Lake, Written
from lepton_etl.registers.inventory import listed_nodes
from lepton_etl.registers.node_names import NodeNames
from lepton_etl.schema.declare import Table
from lepton_etl.schema.logs import FILE, JOB, READING, REJECT
from lepton_etl.trust.people import People
from lepton_etl.trust.pseudonyms import Hiding, Pseudonyms
from pipelines.engine import ATTEMPTS, Engine, MemoryLimit, balanced
from pipelines.stage import StageContext, StageResult

CHANGED: Final = "changed_while_read"
# A file named by its day holds that day; two cover a zone and a collector that was late.
EARLIER_OF_NAMED_D: Final = 2.0


@dataclass(frozen=True, slots=True)
class Hashed:
    """A delivered file with its identity; `reason` says why it cannot be used."""

    file: Delivered
    content_id: str
    file_id: str
    reason: str | None = None


def hashed_file(file: Delivered, text: Iterable[bytes], reason: str | None = None) -> Hashed:
    """Return a file by its text. Raises what reading the text raises."""
    identity = codec.ContentIdentity(file.source_name, file.node_id)
    codec.drain(identity.watch(text))
    return Hashed(file, identity.content_id, codec.file_id(identity.content_id, file.path_time), reason)


def unread(file: Delivered, reason: str) -> Hashed:
    """Return a file without its text: known by its place, size and time; delivered anew, it is another file."""
    known_by = f"{file.path}\0{file.size_bytes}\0{file.modified_time.isoformat()}".encode()
    return hashed_file(file, [known_by], reason)


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
    nodes: Sequence[str] = ()
    """As logged."""


@dataclass(frozen=True, slots=True)
class Introduced:
    """The people that a task met for the first time, sealed for the driver."""

    sealed: str


# A mistake of a decoder must not keep the fleet's other files from the night.
DECODER_BUGS: Final = (
    ArithmeticError, AssertionError, LookupError, RecursionError, SystemError, TypeError, ValueError,
    pl.exceptions.PolarsError,
)  # fmt: skip
NO_SOURCE: Final = "source_not_in_settings"
CRASHED: Final = "decoder_crash: the process that reads this file dies of it, alone too"


def origin_of(file: Delivered, source: Source, site_id: str) -> Origin:
    """Return what a decoder must know of a file beside its text."""
    earliest, latest = stamp_window(file, source)
    return Origin(
        site_id=site_id,
        source_name=source.name,
        path=file.path,
        node_id=file.node_id,
        timezone=source.timezone,
        path_time=file.path_time,
        earliest=earliest,
        latest=latest,
        sampling_period_s=source.sampling_period_s,
    )


@dataclass(frozen=True)
class Decoding:
    """What a task needs to decode files of any source."""

    root: Location
    landing: Landing
    site_id: str
    sources: Mapping[str, Source]
    ingest_time: datetime
    memory_mib: int
    names: NodeNames
    pseudonyms: Pseudonyms = field(default_factory=lambda: Pseudonyms.of({}, tenants=False))

    def hash(self, files: Iterable[Delivered]) -> Iterator[Hashed]:
        for file in files:
            try:
                yield hashed_file(file, self._chunks(file))
            except codec.UnreadableError as error:
                yield unread(file, str(error))

    def stamped(self, files: Iterable[Hashed]) -> Iterator[tuple[str, bool]]:
        """Yield of each file its content_id and whether its readings have the same times whatever its path names."""
        with MemoryLimit(self.memory_mib << 20) as limit:
            for hashed in files:
                try:
                    with limit.piece():
                        stamped = self._is_stamped(hashed.file)
                except (codec.UnreadableError, MemoryError, *DECODER_BUGS):
                    stamped = False  # Two files, each with a reject of its own that says what is wrong.
                yield hashed.content_id, stamped

    def _is_stamped(self, file: Delivered) -> bool:
        source = self.sources[file.source_name]
        assert file.path_time is not None
        origin = replace(origin_of(file, source, self.site_id), earliest=EARLIEST, latest=LATEST)
        moved = replace(origin, path_time=file.path_time + timedelta(days=1))
        readings = rejects = 0
        for one, other in zip(
            source.read(self._chunks(file), origin), source.read(self._chunks(file), moved), strict=True
        ):
            if not one.readings["reading_time"].equals(other.readings["reading_time"]):
                return False
            readings, rejects = readings + one.readings.num_rows, rejects + one.rejects.num_rows
        return bool(readings or not rejects)  # Of rejects alone nobody knows the time.

    def stage(self, files: Iterable[Hashed]) -> Iterator[Loaded | StagedFile | Introduced]:
        """Decode the files of one task: those of one part into shared Parquet files, a large one into its own.

        A file that ends badly leaves nothing but its reject row: one of one part is written when it is known to be
        whole, and the own Parquet files of a large one are dropped.
        """
        hiding = Hiding(self.pseudonyms)
        shared = _Output(self, hiding)
        with MemoryLimit(self.memory_mib << 20) as limit:
            for hashed in files:
                own = _Output(self, hiding)
                try:
                    loaded = self._load(hashed, shared, own, limit)
                except codec.UnreadableError as error:
                    own.drop()
                    loaded = self._discarded(hashed, str(error), shared)
                except MemoryError:
                    own.drop()
                    reason = f"too_much_memory: decoding it takes more than {self.memory_mib} MiB"
                    loaded = self._discarded(hashed, reason, shared)
                except DECODER_BUGS as bug:
                    # The file is named to the operator; touched or delivered anew it is read again.
                    own.drop()
                    said = f"decoder_error: {type(bug).__name__}"
                    # The message may quote a line of accounting, which names people.
                    quoted = "" if "jobs" in self.sources[hashed.file.source_name].subjects else f": {bug}"
                    loaded = self._discarded(hashed, said + quoted, shared)
                yield loaded
                yield from own.close()
        yield from shared.close()
        sealed = hiding.sealed()
        if sealed is not None:
            yield Introduced(sealed)

    def _load(self, hashed: Hashed, shared: _Output, own: _Output, limit: MemoryLimit) -> Loaded:
        """Raises UnreadableError where the file cannot be read to its end, or is another than the planned one."""
        if hashed.reason:
            return self._discarded(hashed, hashed.reason, shared)
        source = self.sources[hashed.file.source_name]
        identity = codec.ContentIdentity(source.name, hashed.file.node_id)
        chunks = identity.watch(self._chunks(hashed.file))
        parts = source.read(chunks, origin_of(hashed.file, source, self.site_id))
        tally = Tally(hashed)
        of_jobs = source.subjects == ("jobs",)
        with limit.piece():
            first = next(parts, None) or Decoded.merge([])
            second = next(parts, None)
            if second is not None:
                for part in chain((first, second), parts):
                    tally.add(part)
                    own.write(part, hashed, of_jobs=part.of_jobs or of_jobs)
            _check_identity(identity, hashed)
        if second is None:
            tally.add(first)
            shared.write(first, hashed, of_jobs=first.of_jobs or of_jobs)
        return tally.loaded()

    def _chunks(self, file: Delivered) -> Iterator[bytes]:
        """The text of a file in bounded chunks; UnreadableError where there is none."""
        if file.unsafe:
            raise codec.UnreadableError(file.unsafe, f"{file.path} is not opened")
        try:
            with self.landing.open(file, self.sources[file.source_name]) as handle:
                yield from codec.text_chunks(handle, file.path)
        except UnsafeFileError as error:
            raise codec.UnreadableError(str(error), f"{file.path} was listed as a regular file") from error
        except OSError as error:
            detail = error.strerror or str(error)
            raise codec.UnreadableError("unreadable_file", detail) from error

    def _discarded(self, hashed: Hashed, reason: str, output: _Output) -> Loaded:
        code, _, detail = reason.partition(": ")
        decoded = only_reject(code, f"{hashed.file.path}: {detail or code}")
        output.write(decoded, hashed)
        tally = Tally(hashed, state="discarded", reason=code)
        tally.add(decoded)
        return tally.loaded()


class _Output:
    """The staged Parquet files of one task, or of one large file; begun when there are rows for them.

    People in what is written have their pseudonyms by then.
    """

    def __init__(self, decoding: Decoding, hiding: Hiding) -> None:
        self._decoding = decoding
        self._hiding = hiding
        self._writers: dict[str, StagedWriter] = {}

    def write(self, decoded: Decoded, hashed: Hashed, *, of_jobs: bool = False) -> None:
        decoded = self._hiding(decoded, of_jobs=of_jobs)
        common = {
            "site_id": self._decoding.site_id,
            "source_name": hashed.file.source_name,
            "file_id": hashed.file_id,
            "ingest_time": self._decoding.ingest_time,
        }
        names = self._decoding.names
        if decoded.readings.num_rows:
            days = {"reading_date": decoded.readings["reading_time"].cast(pa.date32())}
            self._writer(READING).write(_with(named(decoded.readings, names), common | days))
        if decoded.rejects.num_rows:
            node_id = hashed.file.node_id
            of_file = {"node_id": node_id and names.of(node_id), "path": hashed.file.path}
            self._writer(REJECT).write(_with(decoded.rejects, common | of_file))
        if decoded.jobs.num_rows:
            jobs = named(decoded.jobs, names).rename_columns({"state": "job_state"})
            self._writer(JOB).write(_with(jobs, common))

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


def _check_identity(identity: codec.ContentIdentity, hashed: Hashed) -> None:
    # The plan named these bytes; a file rewritten since then is another file, loaded by the next run.
    if identity.content_id != hashed.content_id:
        raise codec.UnreadableError(CHANGED, "the bytes are not those of the plan")


def _with(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Add columns; a plain value stands in every row."""
    for name, value in columns.items():
        if isinstance(value, str):
            value = pa.DictionaryArray.from_arrays(
                pa.repeat(pa.scalar(0, pa.int32()), table.num_rows), pa.array([value])
            )
        elif not isinstance(value, pa.ChunkedArray):
            kind = pa.timestamp("us", "UTC") if isinstance(value, datetime) else pa.string()
            value = pa.repeat(pa.scalar(value, kind), table.num_rows)
        table = table.append_column(name, value)
    return table


def named(table: pa.Table, names: NodeNames) -> pa.Table:
    """Give each node its one name."""
    place = table.column_names.index("node_id")
    column = coded(table["node_id"])
    logged = column.dictionary.to_pylist()
    ids = [name and names.of(name) for name in logged]
    if ids == logged:
        return table
    renamed = pa.array(ids, pa.string()).take(column.indices).dictionary_encode()
    kind = table.schema.field(place)
    return table.set_column(place, kind.with_type(renamed.type), renamed).cast(table.schema)


class Tally:
    """The counts of one file, part by part."""

    def __init__(self, hashed: Hashed, state: str = "loaded", reason: str | None = None) -> None:
        self._hashed = hashed
        self._state = state
        self._reason = reason
        self._counts: Counter[str] = Counter()
        self._ignored: Counter[tuple[str, str]] = Counter()
        self._times: list[datetime] = []
        self._nodes: set[str] = set()

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
        self._nodes.update(part.readings["node_id"].unique().drop_null().to_pylist())
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
            nodes=sorted(self._nodes),
        )


# A task of this many delivered (compressed) bytes gives one Parquet file of a sensible size.
_TASK_BYTES: Final = 32 * 1024 * 1024
# What leaves no file behind is worth a task's start from here on.
_HASHED_BYTES: Final = 4 * _TASK_BYTES
_NAMED_FILES: Final = 10
# Of the files that are known already, so many a night are read again.
_SAMPLED_FILES: Final = 20
_SAMPLED_BYTES: Final = 32 << 20
# Clocks of two machines that nobody sets agree to minutes.
_CLOCK_AHEAD: Final = timedelta(minutes=15)
_DAY: Final = timedelta(days=1)
# A file may name its day in local time; no zone is further from UTC.
_ZONES: Final = timedelta(hours=14)
Item = TypeVar("Item")
Result = TypeVar("Result")
_COUNTS: Final = ("records", "readings", "jobs", "rejects", "duplicates", "ignored")


def run(context: StageContext) -> StageResult:
    """Load what the landing folder holds and bronze/file does not."""
    lake = context.lake
    for table in (FILE, READING, REJECT, *_job_tables(context)):
        lake.ensure(table)
    written: list[Written] = []
    loaded: list[dict[str, Any]] = []
    nodes: set[str] = set()
    register = FileRegister(lake)
    batch = register.unfinished()
    if batch is not None and register.is_replayable(batch):
        context.log.info("an unfinished batch is replayed", batch=batch)
        loaded += _load(context, batch, written, nodes)
    mended = []
    behind = register.behind()
    if behind is not None:
        mended.append(f"{behind}; the register is rebuilt: {register.rebuild()}")
    landing = landing_of(context)
    delivered = [f for source in context.settings.all_sources for f in landing.delivered(source)]
    new = register.unseen(delivered)
    changed = _changed(
        context, register, sorted(set(delivered) - set(new), key=lambda file: file.modified_time)
    )
    mended += [f"{file.path} has other bytes than were read, with the same size and time: read as another file"
               for file in changed]  # fmt: skip
    new += changed
    if new:
        loaded += _load(context, _plan(context, new), written, nodes)
    if loaded:
        for table in (READING, REJECT, *_job_tables(context)):
            for day in compact(lake, table):
                context.log.info("small files put together", table=table.name, ingest_date=day)
    return StageResult(
        rows_in=sum(row["records"] for row in loaded),
        rows_out=sum(row["readings"] + row["jobs"] for row in loaded),
        written=tuple(written),
        notes=(*mended, *_notes(loaded), *_clock_notes(context, loaded), *_name_notes(context, nodes)),
    )


def _changed(context: StageContext, register: FileRegister, known: Sequence[Delivered]) -> list[Delivered]:
    """Return those of a few known files, in order of time, whose bytes are not those that were read.

    Size and time of the last writing tell a new file from a known one; a program can write others with both kept. Each
    night looks at files that were written one after the other, so that a part of the register tells of them; its day
    says which.
    """
    if not known:
        return []
    # No secret: the night's day names the files.
    first = random.Random(str(context.days.start)).randrange(len(known))  # noqa: S311
    sample, size_bytes = [], 0
    for file in known[first : first + _SAMPLED_FILES]:
        size_bytes += file.size_bytes
        if size_bytes <= _SAMPLED_BYTES and file.unsafe is None:
            sample.append(file)
    read = register.identities(sample) if sample else {}
    hashed = _decoding(context, datetime.now(UTC)).hash(file for file in sample if file.path in read)
    return [one.file for one in hashed if one.reason is None and one.file_id not in read[one.file.path]]


def _clock_notes(context: StageContext, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each source whose readings lie after their file was written, or far from the day that it names."""
    sources = {source.name: source for source in context.settings.all_sources}
    off: dict[tuple[str, str], list[tuple[timedelta, str]]] = {}
    for row in rows:
        first, last = row.get("first_reading_time"), row.get("last_reading_time")
        if first is None or last is None or row["modified_time"] is None:
            continue
        named = identity(sources[row["source_name"]], row["path"])[1]
        ahead = last - row["modified_time"]
        apart = timedelta(0) if named is None else max(named - last, first - named - _DAY)
        if ahead > _CLOCK_AHEAD:
            off.setdefault((row["source_name"], "after their file was written"), []).append(
                (ahead, row["path"])
            )
        elif apart > _ZONES:
            off.setdefault((row["source_name"], "from the day that its file names"), []).append(
                (apart, row["path"])
            )
    return [
        f"clock: readings of {name} lie up to {far} {what} ({len(found)} files, such as {path}): the clock of its "
        f"collector is off, or sources.{name}.timezone is wrong"
        for (name, what), found in sorted(off.items())
        for far, path in [max(found)]
    ]


def _job_tables(context: StageContext) -> tuple[Table, ...]:
    """bronze/job where a source may hold a scheduler's accounting; other sites have no such table."""
    return (JOB,) if any("jobs" in source.subjects for source in context.settings.all_sources) else ()


def _plan(context: StageContext, files: Sequence[Delivered]) -> int:
    """Write the plan of a new batch to bronze/file: identity and state of every new file. Returns its number."""
    register = FileRegister(context.lake)
    # A number that a table has seen is skipped there as committed: the register may be older than the tables.
    batch = 1 + max(register.last_batch(), register.newest_committed())
    now = datetime.now(UTC)
    decoding = _decoding(context, now)
    rows = []
    hashed = _in_tasks(
        context.engine,
        decoding.hash,
        files,
        lambda file: file.size_bytes,
        lambda file: [unread(file, CRASHED)],
        _HASHED_BYTES,
    )
    hashed.sort(key=lambda one: (one.file.path, one.file.source_name))
    loaded = set(register.loaded({one.file_id for one in hashed}))
    again = _equal_texts(context, decoding, [one for one in hashed if one.file_id not in loaded])
    for file in hashed:
        first = again.get(file.file_id, file.file_id)
        state = "duplicate" if first in loaded or first != file.file_id else "planned"
        # An unreadable file stays planned: its one reject row is written with the batch.
        if not file.reason:
            loaded.add(first)
        rows.append(_file_row(replace(file, file_id=first), batch, state, now))
    register.plan(rows)
    return batch


def _equal_texts(context: StageContext, decoding: Decoding, files: Sequence[Hashed]) -> dict[str, str]:
    """Return file_id -> file_id of the file that it repeats although their paths name different times.

    A text that says all its times itself is one file wherever it lies. A file of an older release is known by its
    content alone: it is the same where its path names the same time.
    """
    timed = [one for one in files if one.file.path_time is not None and not one.reason]
    known = FileRegister(context.lake).same_content({one.content_id for one in timed})
    sources = {source.name: source for source in context.settings.all_sources}
    groups: dict[str, list[Hashed]] = {}
    for one in timed:
        groups.setdefault(one.content_id, []).append(one)
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for file_id, content_id, path in known.select("file_id", "content_id", "path").iter_rows():
        first[content_id] = min(file_id, first.get(content_id, file_id))
        source = sources[groups[content_id][0].file.source_name]
        if file_id == content_id:
            same[codec.file_id(content_id, identity(source, path)[1])] = file_id
    doubtful = [
        group[-1]
        for content_id, group in groups.items()
        if content_id in first or len({one.file_id for one in group}) > 1
    ]
    stamped = dict(
        _in_tasks(
            context.engine,
            decoding.stamped,
            doubtful,
            lambda one: one.file.size_bytes,
            lambda one: [(one.content_id, False)],
        )
    )
    repeated = {
        one.file_id: first.get(content_id, group[0].file_id)
        for content_id, group in groups.items()
        if stamped.get(content_id)
        for one in group
    }
    return repeated | same


def _load(context: StageContext, batch: int, written: list[Written], nodes: set[str]) -> list[dict[str, Any]]:
    """Decode, commit and mark one planned batch, from where a killed run left it. Returns its file rows.

    What was committed is added to `written`, the names of nodes as logged to `nodes`.
    """
    lake = context.lake
    register = FileRegister(lake)
    plan = register.of_batch(batch)
    now = plan[0]["ingest_time"]
    summary = register.summary(batch)
    found = _read_summary(summary)
    if found is None or not all(map(lake.holds, found[1])):
        # Without the summary nothing of the batch is committed: what an earlier attempt staged is named by nobody.
        # Where it or what it names is torn, the same files give the same rows again, and a table that has the batch
        # is left as it is.
        _stage(context, plan, now, summary)
        found = _read_summary(summary)
        assert found is not None
    outcomes, staged = found
    for table in (READING, REJECT, *_job_tables(context)):
        files = [f for f in staged if f.table == table.name]
        if lake.newest_batch(table) < batch:
            written.append(lake.append_staged(table, files, batch))
    _check_committed(lake, batch, now, outcomes.values())
    nodes.update(*(outcome.nodes for outcome in outcomes.values()))
    rows = _finished(register, plan, outcomes)
    written.append(register.finish(batch, rows))
    summary.remove()
    return rows


def _stage(context: StageContext, plan: Sequence[dict[str, Any]], now: datetime, summary: Location) -> None:
    files = [_hashed(context, row) for row in plan if row["state"] == "planned"]
    people = People.of(context.lake, context.settings, context.run_id)
    with_pods = {source.name for source in context.settings.all_sources if source.jobs_are_named}
    results: list[Loaded | StagedFile | Introduced] = []
    # Names of jobs may hold those of people, whom other files of the batch introduce.
    for of_pods in (False, True):
        asked = [file for file in files if (file.file.source_name in with_pods) == of_pods]
        if not asked:
            continue
        pseudonyms = people.for_tasks(context.settings.privacy)
        decoding = replace(_decoding(context, now), pseudonyms=pseudonyms)
        found = _in_tasks(
            context.engine,
            decoding.stage,
            asked,
            lambda hashed: hashed.file.size_bytes,
            # A file with a reason is not opened.
            partial(_crashed, decoding),
        )
        # Before anything names the staged files: whoever has a pseudonym in the lake stands in the map.
        people.add(pseudonyms.opened(one.sealed for one in found if isinstance(one, Introduced)))
        results += found
    lines = [
        {"staged": asdict(result)} if isinstance(result, StagedFile) else {"loaded": asdict(result)}
        for result in results
        if not isinstance(result, Introduced)
    ]
    summary.write(json.dumps(lines).encode())


def _crashed(decoding: Decoding, hashed: Hashed) -> Iterator[Loaded | StagedFile | Introduced]:
    return decoding.stage([replace(hashed, reason=CRASHED)])


def _read_summary(summary: Location) -> tuple[dict[tuple[str, str], Loaded], list[StagedFile]] | None:
    """What tasks staged, by the summary of a batch; None where there is none, or a torn one."""
    try:
        lines = json.loads(summary.read()[0])
        outcomes = [Loaded(**line["loaded"]) for line in lines if "loaded" in line]
        staged = [StagedFile(**line["staged"]) for line in lines if "staged" in line]
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return {(o.path, o.file_id): o for o in outcomes}, staged


def _check_committed(lake: Lake, batch: int, written: datetime, outcomes: Collection[Loaded]) -> None:
    """Raise LakeError where a table does not hold as many rows of each file as were decoded."""
    for column, table in ROWS_OF.items():
        decoded = Counter({one.file_id: getattr(one, column) for one in outcomes})
        if not decoded.total():
            continue
        held = dict(rows_by_file(lake, table, written).iter_rows())
        wrong = [one for one in outcomes if held.get(one.file_id, 0) != decoded[one.file_id]]
        if wrong:
            first = wrong[0]
            raise LakeError(
                f"batch {batch} is committed, but {len(wrong)} of its files are not there whole: of {first.path} "
                f"{held.get(first.file_id, 0):,} of {decoded[first.file_id]:,} rows; nothing is marked loaded",
                where=f"{table.name} version {lake.version(table)}",
                remedy="restore all of bronze from one copy, then run the same command again",
            )


def _finished(
    register: FileRegister, plan: Sequence[dict[str, Any]], outcomes: dict[tuple[str, str], Loaded]
) -> list[dict[str, Any]]:
    """The batch's rows of bronze/file with their counts; of a file delivered again, all records are duplicates."""
    records = {o.file_id: o.records for o in outcomes.values() if o.state == "loaded"}
    again = {row["file_id"] for row in plan if row["state"] == "duplicate"} - set(records)
    records |= register.loaded(again)
    rows = []
    for row in plan:
        if row["state"] == "duplicate":
            # The first file may have been discarded after the plan; then this one holds nothing that was loaded.
            count = records.get(row["file_id"], 0)
            rows.append(row | dict.fromkeys(_COUNTS, 0) | {"records": count, "duplicates": count})
            continue
        outcome = asdict(outcomes[row["path"], row["file_id"]])
        del outcome["nodes"]
        for key in ("first_reading_time", "last_reading_time"):
            outcome[key] = datetime.fromisoformat(outcome[key]) if outcome[key] else None
        rows.append(row | outcome)
    return rows


@dataclass(frozen=True)
class _Whole:
    """Work over the items of a task, all of them before the task ends."""

    work: Callable[[Iterable[Any]], Iterator[Any]]

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        return list(self.work(items))


def _in_tasks(
    engine: Engine,
    work: Callable[[Iterable[Item]], Iterator[Result]],
    items: Sequence[Item],
    size: Callable[[Item], int],
    crashed: Callable[[Item], Iterable[Result]],
    task_bytes: int = _TASK_BYTES,
) -> list[Result]:
    """Run `work` over groups of items of about equal size, a task each; results in the order of the tasks.

    Where the process of a task dies, the items are run by halves, until one that it dies of is alone: `crashed` gives
    the results of that one.
    """
    if not items:
        return []
    total = sum(size(item) for item in items)
    # As many for each core: one left over is a round in which the other cores wait.
    wanted = engine.parallelism * max(1, -(-total // (task_bytes * engine.parallelism)))
    try:
        found = engine.map(_Whole(work), balanced(items, wanted, size), 1 if len(items) > 1 else ATTEMPTS)
    except WorkerLostError:
        if len(items) == 1:
            return list(crashed(items[0]))
        halves = balanced(items, 2, size)
        return [one for half in halves for one in _in_tasks(engine, work, half, size, crashed, task_bytes)]
    return [result for of_task in found for result in of_task]


def _decoding(context: StageContext, now: datetime) -> Decoding:
    settings = context.settings
    sources = {source.name: source for source in settings.all_sources}
    return Decoding(
        context.lake.root, landing_of(context), settings.site.site_id, sources, now,
        settings.ingest.file_memory_mib, node_names(settings),
    )  # fmt: skip


def node_names(settings: Settings) -> NodeNames:
    """Return the rule by which logged names become nodes. Raises ConfigurationError for a wrong inventory."""
    return NodeNames(listed_nodes(settings.fleet.inventory), settings.fleet.node_names)


def landing_of(context: StageContext) -> Landing:
    """Return the landing folders of the settings' sources."""
    paths = tuple(source.path for source in context.settings.all_sources)
    return Landing(ObjectStore.of(context.engine.storage_option, paths))


def _file_row(hashed: Hashed, batch: int, state: str, now: datetime) -> dict[str, Any]:
    file = hashed.file
    return {
        "path": file.path,
        "file_id": hashed.file_id,
        "content_id": None if hashed.content_id == hashed.file_id else hashed.content_id,
        "source_name": file.source_name,
        "node_id": file.node_id,
        "size_bytes": file.size_bytes,
        "modified_time": file.modified_time,
        "batch": batch,
        "state": state,
        "reason": hashed.reason,
        "ingest_time": now,
        "ingest_date": now.date(),
    }


def _hashed(context: StageContext, row: dict[str, Any]) -> Hashed:
    """A planned row of bronze/file as the tasks take it."""
    source = {s.name: s for s in context.settings.all_sources}.get(row["source_name"])
    if source is None:
        # Under the name that the source has now, the file is another one, and is read by it.
        file = Delivered(
            row["source_name"], row["path"], row["size_bytes"], row["modified_time"], row["node_id"], None
        )
        return _planned(file, row, f"{NO_SOURCE}: the settings have no source '{row['source_name']}' now")
    node_id, path_time = identity(source, row["path"])
    file = Delivered(
        row["source_name"], row["path"], row["size_bytes"], row["modified_time"], node_id, path_time,
        unsafe=row["reason"] if row["reason"] in UNSAFE else None,
    )  # fmt: skip
    return _planned(file, row, row["reason"])


def _planned(file: Delivered, row: Mapping[str, Any], reason: str | None) -> Hashed:
    return Hashed(file, row["content_id"] or row["file_id"], row["file_id"], reason)


def _name_notes(context: StageContext, logged: Collection[str]) -> list[str]:
    """Lines on nodes that were logged under another name than their own, and on those that may be one."""
    if not logged:
        return []
    names = node_names(context.settings)
    ids = {name: names.of(name) for name in sorted(logged)}
    moved = [f"{name} is {node_id}" for name, node_id in ids.items() if name != node_id]
    alike = [" and ".join(group) for group in names.look_alikes(ids.values())]
    return [*_listed("node names", moved), *_listed("look alike, one node or several (inventory)", alike)]


def _listed(what: str, entries: Sequence[str]) -> list[str]:
    more = [f"and {len(entries) - _NAMED_FILES} more"] * (len(entries) > _NAMED_FILES)
    return [f"{what}: {', '.join([*entries[:_NAMED_FILES], *more])}"] if entries else []


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for the operator: files that gave nothing are named."""
    states = Counter(row["state"] for row in rows)
    if not states:
        return ["no new files"]
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    lost = [row for row in rows if row["state"] == "discarded"]
    shown = [f"file discarded: {row['path']} ({row['reason']})" for row in lost[:_NAMED_FILES]]
    if len(lost) > _NAMED_FILES:
        shown.append(f"and {len(lost) - _NAMED_FILES} more discarded files, see bronze/file")
    rejects = sum(row["rejects"] for row in rows)
    return [f"files: {counts}; records rejected: {rejects:,}", *shown]
