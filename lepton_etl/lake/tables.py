"""Read the lake's tables, replace their days and commit staged files, without a Spark session.

Arrow and delta-rs do it: a Spark job to compare rows and one to write them cost seconds each, whatever the
number of rows. Every writer says what it changed as `Written`; a replace whose rows equal the present ones
makes no commit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import structlog
from deltalake import CommitProperties, DeltaTable, Field, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from lepton_etl.days import Days
from lepton_etl.errors import LakeError, naming
from lepton_etl.lake.creation import MIN_WRITER_VERSION, configuration_of, create_table
from lepton_etl.lake.location import Location
from lepton_etl.lake.log_files import NewestLog, open_log
from lepton_etl.lake.rows import Digest, checked, columns_of, digest, digest_scheme, in_order, shaped
from lepton_etl.lake.staging import StagedFile, digest_of_name, sha256_of_name, stage
from lepton_etl.schema.declare import Table
from lepton_etl.schema.types import arrow_schema, delta_schema

if TYPE_CHECKING:
    from lepton_etl.config.settings import Settings
    from lepton_etl.lake.lease import Lease

# What is said of a file whose bytes are others than those that were committed.
DIFFERS: Final = "the file is not what was written (its SHA-256 differs)"
GONE: Final = "the file is gone from under the table"
RESTORE: Final = (
    "restore the file from a copy of the lake; lepton-etl tables check names all files that are broken"
)
# An object of this size is fetched whole at the price of a request, which all of its columns take anyway.
_WHOLE_BYTES: Final = 1 << 20
# How often work is done again that another run of other days committed in between of.
_ATTEMPTS: Final = 20
T = TypeVar("T")
# How a bound reads that no statistics give.
_UNKNOWN_BOUND: Final = "null["
# The application of bronze's transactions.
BRONZE: Final = "lepton-etl-bronze"

# All of these are met by a row: column, operator (= != < <= > >=), value.
Conditions = Sequence[tuple[str, str, Any]]


def present_rows(table: Table, log: DeltaTable, days: Days | None) -> pa.Table:
    """The rows that stand in the table, of these days where given, in the form of `checked`.

    A column that an older release did not write is null.
    """
    return in_order(table, _rows(table, log, days))


def _place(table: Table, log: DeltaTable) -> str:
    return f"{table.name} version {log.version()}"


def _rows(
    table: Table,
    log: DeltaTable,
    days: Days | None,
    where: pc.Expression | None = None,
    columns: Sequence[str] | None = None,
    only: Conditions = (),
) -> pa.Table:
    """Rows of one version as they stand. Raises LakeError for a file that is not what was written."""
    dataset, within = verified(table, log, days, where, only), _within(table, days, where, only)
    try:
        return pa.table(dataset.to_table(columns=columns, filter=within))
    except (OSError, pa.ArrowException) as error:
        named = _named(_fragments(table, log, dataset, within))
        if named is None:
            raise
        raise named from error


def verified(
    table: Table,
    log: DeltaTable,
    days: Days | None = None,
    where: pc.Expression | None = None,
    only: Conditions = (),
) -> pads.Dataset:
    """Return the rows of one version to read by columns and conditions, its files of `where` as they were written.

    Files without a row of the days and of `only` are not among them, as far as the log knows: an entry for each file of
    a table is what a small read costs. Raises LakeError for a file that is not as written.
    """
    dataset = _bounded(log.to_pyarrow_dataset(file_pruning_predicate=[*_of_days(table, days), *only] or None))
    for file in _fragments(table, log, dataset, _within(table, days, where, only)):
        file.verify()
    return dataset


def _bounded(dataset: pads.FileSystemDataset) -> pads.FileSystemDataset:
    """The same files, without bounds that nobody knows.

    Where some files of a table have statistics of a column and others were written before it had any, delta-rs gives
    these the bound null, which no condition on the column meets, and their rows would be left out.
    """
    files = list(dataset.get_fragments())
    unknown = {at for at, one in enumerate(files) if _UNKNOWN_BOUND in str(one.partition_expression)}
    if not unknown:
        return dataset
    for at in unknown:
        part = None
        for name, value in pads.get_partition_keys(files[at].partition_expression).items():
            same = pc.field(name) == pa.scalar(value)
            part = same if part is None else part & same
        files[at] = dataset.format.make_fragment(files[at].path, dataset.filesystem, part)
    return pads.FileSystemDataset(files, dataset.schema, dataset.format, dataset.filesystem)


def _fragments(
    table: Table, log: DeltaTable, dataset: pads.Dataset, where: pc.Expression | None
) -> Iterator[DataFile]:
    """The files of a dataset that may hold rows of `where`."""
    folder = unquote(log.table_uri).removeprefix("file://").rstrip("/")
    for fragment in dataset.get_fragments(filter=where):
        yield DataFile(f"{folder}/{fragment.path}", -1, -1, place=_place(table, log))


def _named(files: Iterable[DataFile]) -> LakeError | None:
    """The first of the files that cannot be read, by its name; None where each can."""
    for file in files:
        try:
            pl.read_parquet(file.path, glob=False, storage_options=dict(file.options) or None)
        except (OSError, pl.exceptions.PolarsError) as own:
            what = f"the file cannot be read ({next(iter(str(own).splitlines()), type(own).__name__)[:200]})"
            return LakeError(f"{what}: {file.path}", where=file.place, remedy=RESTORE)
    return None


def _of_days(table: Table, days: Days | None) -> Conditions:
    if days is None:
        return ()
    column = day_column(table)
    return ((column, ">=", days.start), (column, "<=", days.end))


def _within(
    table: Table, days: Days | None, where: pc.Expression | None, only: Conditions = ()
) -> pc.Expression | None:
    """The rows of these UTC days and of `only` that `where` lets pass."""
    conditions = [*_of_days(table, days), *only]
    if not conditions:
        return where
    met = pq.filters_to_expression(conditions)
    return met if where is None else met & where


def read_log(
    table: Table,
    log: DeltaTable,
    days: Days | None,
    columns: Sequence[str],
    where: pc.Expression | None = None,
    only: Conditions = (),
) -> pl.DataFrame:
    """Return the rows of one version: these columns, of these UTC days, by `where` and `only` where given."""
    known = {one.name for one in log.schema().fields}
    found = _rows(table, log, days, where, [n for n in columns if n in known], only)
    return pl.DataFrame(columns_of(table, found, columns))


def _add(table: Table, file: StagedFile, root: Location) -> AddAction:
    """Return what commits the file. Raises LakeError where it is not what its task wrote."""
    assert table.partition is not None
    _as_data(file, root).verify("run the night again")
    now_ms = int(time.time() * 1000)
    values: Mapping[str, str | None] = {table.partition: file.partition}
    return AddAction(file.path, file.size_bytes, values, now_ms, True, file.statistics)


def _add_columns(table: Table, log: DeltaTable, properties: CommitProperties) -> bool:
    """Give a table of an older release its new columns; whether it lacked any."""
    known = {one.name for one in log.schema().fields}
    missing = [one for one in delta_schema(table).fields if one.name not in known]
    if missing:
        # The rows that stand have no value there, whatever the table asks of new ones.
        log.alter.add_columns(
            [Field(one.name, one.type, nullable=True, metadata=one.metadata) for one in missing],
            commit_properties=properties,
        )
    return bool(missing)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file of a table's newest version, as a task reads it.

    `day` is the date that it is partitioned by, which its rows lack; `first_day` and `last_day` bound the UTC days of
    its rows where the log says so; `options` open the store that it lies in; `place` is table and version, for
    messages.
    """

    path: str
    rows: int
    size_bytes: int
    day: date | None = None
    first_day: date | None = None
    last_day: date | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    place: str = field(default="", compare=False)

    def source(self) -> Any:
        """Return what pyarrow opens to read the file. Raises LakeError where it is not what was written."""
        self.verify()
        return Location(self.path, self.options).source()

    def verify(self, remedy: str = RESTORE) -> None:
        """Read the file once a process and compare its SHA-256 with the one that was committed, if any was.

        Object stores keep checksums of their own, and of large objects tasks take but the columns that they need:
        `lepton-etl tables check` reads those whole. Raises LakeError.
        """
        if not Location(self.path).is_local and not 0 <= self.size_bytes <= _WHOLE_BYTES:
            return
        try:
            what = "" if self.is_intact() else DIFFERS
        except FileNotFoundError:
            what = GONE
        if what:
            raise LakeError(f"{what}: {self.path}", where=self.place, remedy=remedy)

    def is_intact(self) -> bool:
        """Return whether the file has the SHA-256 that its commit says; True where none does.

        Raises FileNotFoundError where it is gone.
        """
        said, place = sha256_of_name(self.path), Location(self.path, self.options)
        if not place.is_local:
            return said is None or _sha256_of_object(self.path, tuple(sorted(self.options.items()))) == said
        found = Path(self.path).stat()
        return said is None or _sha256(self.path, found.st_size, found.st_mtime_ns) == said


@lru_cache(maxsize=4096)
def _sha256_of_object(uri: str, options: tuple[tuple[str, str], ...]) -> str:
    """The SHA-256 of an object, which nobody rewrites."""
    return sha256(Location(uri, dict(options)).read()[0]).hexdigest()


@lru_cache(maxsize=4096)
def _sha256(path: str, size_bytes: int, modified_ns: int) -> str:
    """The SHA-256 of a local file; many parts of a day's nodes read the same one in turn."""
    with Path(path).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


# Files of a table that one read opens together.
_AT_ONCE = 64


def _as_data(file: StagedFile, root: Location) -> DataFile:
    place = root / file.table / file.path
    return DataFile(place.uri, file.rows, file.size_bytes, options=place.options, place=file.table)


def read_files(
    table: Table,
    files: Iterable[DataFile],
    columns: Sequence[str] | None = None,
    where: pl.Expr | None = None,
) -> pl.DataFrame:
    """Return the rows of files in a task: declared columns, the partition's among them, `where` pushed down.

    A column that an older release did not write is null.
    """
    names, files = list(columns or table.columns), list(files)
    try:
        return _read_files(table, files, names, where)
    except (OSError, pl.exceptions.PolarsError) as error:
        named = _named(files)
        if named is None:
            raise
        raise named from error


def _read_files(
    table: Table, files: Sequence[DataFile], names: Sequence[str], where: pl.Expr | None
) -> pl.DataFrame:
    schema = arrow_schema(table)
    empty = pl.DataFrame(schema.empty_table())
    needed = [
        *names,
        *(name for name in (where.meta.root_names() if where is not None else ()) if name not in names),
    ]
    frames = []
    for file in files:
        file.verify()
        scanned = pl.scan_parquet(file.path, glob=False, storage_options=dict(file.options) or None)
        known = scanned.collect_schema().names()
        shape = [
            pl.col(name).cast(empty.schema[name])
            if name in known
            else pl.lit(file.day if name == table.partition else None, empty.schema[name]).alias(name)
            for name in needed
        ]
        rows = scanned.select(shape)
        frames.append((rows if where is None else rows.filter(where)).select(names))
    # polars opens all that it is given at once, a thread each: hundreds of days at a time would wait for threads.
    parts = (frames[first : first + _AT_ONCE] for first in range(0, len(frames), _AT_ONCE))
    return pl.concat([empty.select(names), *(rows for part in parts for rows in pl.collect_all(part))])


def _of_rows(files: Sequence[DataFile], folder: str) -> str:
    digests = [digest_of_name(file.path, file.rows) for file in files]
    known = [one for one in digests if one is not None]
    if len(known) < len(files):
        return "\n".join(sorted(file.path.removeprefix(folder) for file in files))
    whole = sum(known, Digest())
    return f"{digest_scheme()} {whole.rows} {whole.hash_sum:016x}"


@dataclass(frozen=True, slots=True)
class Written:
    """What a door did to a table; `changed` is False when the rows were there already."""

    table: str
    rows: int
    version: int
    changed: bool


class Lake:
    """The tables below one root: the one door to them.

    `inputs` collects the Delta version of every table read since `forget_inputs`, for the run record;
    `metadata` goes into the commits: which run wrote this version; `leases` are those that it is held under.
    """

    def __init__(
        self,
        root: Location | Path | str,
        metadata: Mapping[str, str] | None = None,
        inputs: dict[str, int] | None = None,
    ) -> None:
        self.root = Location.of(root)
        self.metadata = metadata or {}
        self.inputs = {} if inputs is None else inputs
        self.leases: list[Lease] = []
        self.clock_behind = timedelta()
        self._pinned: dict[str, int] = {}
        self._newest: dict[str, NewestLog] = {}

    @classmethod
    def of(cls, settings: Settings, metadata: Mapping[str, str] | None = None) -> Lake:
        """Return the lake that the settings name."""
        return cls(Location.of_lake(settings), metadata)

    def at(self, table: Table) -> Location:
        """Return where the table lies."""
        return self.root / table.name

    def path(self, table: Table) -> str:
        """Return the path or URI of the table."""
        return self.at(table).uri

    def exists(self, table: Table) -> bool:
        """Return whether the table has a log."""
        known = self._newest.get(table.name)
        return (known is not None and known.is_current()) or self.at(table).is_table()

    def version(self, table: Table) -> int | None:
        """The newest Delta version, None where the table does not exist."""
        return self.log(table).version() if self.exists(table) else None

    def log(self, table: Table) -> DeltaTable:
        """Return the table's transaction log: the newest, or within `swapped` the version that is to be replaced.

        For reading: others are given the same object, so who changes a table otherwise than here opens its log himself.
        """
        pinned = self._pinned.get(table.name)
        newest = self._newest.setdefault(table.name, NewestLog(self.at(table))).get()
        # Nearly always nobody else has committed meanwhile.
        return newest if pinned in (None, newest.version()) else open_log(self.at(table), pinned)

    def saying(self, metadata: Mapping[str, str]) -> Lake:
        """Return the same lake, under the same leases, whose commits carry other metadata."""
        other = Lake(self.root, metadata, self.inputs)
        other.leases, other._pinned, other.clock_behind = self.leases, self._pinned, self.clock_behind
        other._newest = self._newest
        return other

    def now(self) -> datetime:
        """Return the time, put forward where this machine's clock is behind earlier runs (`runs.follow_clock`)."""
        return datetime.now(UTC) + self.clock_behind

    def swapped(self, tables: Sequence[Table], work: Callable[[], T]) -> T:
        """Run work that reads tables and writes them, against one version of each.

        Where another run commits to one of them in between, the work is run again on what stands then: rows that span
        days, such as a year's, rest on all that is there when they are committed, and no commit is tried blindly again.
        Within other work on the same tables it is a part of that. Raises LockedError where a lease was lost.
        """
        own = [table for table in tables if table.name not in self._pinned]
        for attempt in range(1, _ATTEMPTS + 1):
            self._pinned |= {table.name: self._declared(table).version() for table in own}
            try:
                return work()
            except CommitFailedError:
                if attempt == _ATTEMPTS or not own:
                    raise
            finally:
                for table in own:
                    del self._pinned[table.name]
            time.sleep(random.uniform(0.01, 0.1 * attempt))  # noqa: S311  # no secret: two runs shall not meet again
        raise AssertionError("the last attempt returns or raises")

    def forget_inputs(self) -> None:
        self.inputs.clear()

    def ensure(self, table: Table) -> None:
        """Create the table if it is missing: columns, comments, constraints, partition, properties.

        A table of an older release gets its new columns at the next write.
        """
        if not self.exists(table):
            create_table(self.at(table), table, self.metadata)

    def _declared(self, table: Table) -> DeltaTable:
        """The newest log of a table that is about to be written, with the properties that the dictionary gives it.

        Another program may have made it anew without its constraints. Raises LakeError where it is partitioned
        otherwise: that stands in every file.
        """
        self.ensure(table)
        log = open_log(self.at(table))
        found, wanted = log.metadata(), configuration_of(table)
        if found.partition_columns != ([table.partition] if table.partition else []):
            raise LakeError(
                f"partitioned by {', '.join(found.partition_columns) or 'nothing'}, not by {table.partition}: another "
                "program made it",
                where=_place(table, log),
                remedy="restore the table from a copy of the lake; or move its folder away and run the nights of its "
                "days again",
            )
        lacking = {name: value for name, value in wanted.items() if found.configuration.get(name) != value}
        if lacking:
            log.alter.set_table_properties(
                # Writers that do not know constraints must not write.
                lacking | {"delta.minWriterVersion": str(MIN_WRITER_VERSION)},
                raise_if_not_exists=False,
                commit_properties=self._properties(),
            )
            structlog.get_logger().warning(
                "constraints and properties given back", table=table.name, properties=sorted(lacking)
            )
        return log

    def arrow(self, table: Table, days: Days | None = None, where: pc.Expression | None = None) -> pa.Table:
        """Return the rows as they stand in the declared types: a look-up that is no input of the run record.

        Empty where there is no table; columns that an older release did not write are null.
        """
        if not self.exists(table):
            return arrow_schema(table).empty_table()
        return shaped(table, _rows(table, self.log(table), days, where))

    def partitions(self, table: Table) -> list[str]:
        """Return the values that the table is parted by, sorted; none where it does not exist."""
        if not self.exists(table) or table.partition is None:
            return []
        return sorted({str(part[table.partition]) for part in self.log(table).partitions()})

    def read(
        self,
        table: Table,
        days: Days | None = None,
        *,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
        only: Conditions = (),
    ) -> pl.DataFrame:
        """Return the rows, of these UTC days, by `where` and `only` where given; empty where there is no table.

        By `only`, conditions of column, operator and value, whole files are left out before any is looked at.
        Columns that an older release did not write are null. For tables that a driver can hold.
        """
        names = list(columns or table.columns)
        if not self.exists(table):
            return pl.DataFrame(arrow_schema(table).empty_table().select(names))
        log = self.log(table)
        self.inputs[table.name] = log.version()
        return read_log(table, log, days, names, where, only)

    def as_published(self, days: Days | None = None) -> Lake:
        """Return the lake as readers see it: gold tables in the versions that ops/night names for these days.

        Without days all of ops/night is read, and whole tables can be.
        """
        # The nights know every gold table, and the tables' door no table at all.
        from lepton_etl.lake.nights import PublishedLake

        return PublishedLake(self, days)

    def replace(
        self, table: Table, days: Days, rows: pl.DataFrame | pa.Table, *, allow_empty: bool = False
    ) -> Written:
        """Replace exactly these UTC days by `rows`; a day of equal rows makes no commit and keeps its files.

        No rows at all are refused unless told. Raises LakeError, also for a row out of the dictionary's bounds.
        """
        if table.partition != "date":
            raise LakeError("only a table partitioned by date can replace days", where=table.name)
        arrow = rows.to_arrow() if isinstance(rows, pl.DataFrame) else rows
        refuse_other_days(table, days, arrow["date"].unique().to_pylist())
        if arrow.num_rows == 0 and not allow_empty:
            raise empty_days(table, days)
        fresh = checked(table, arrow)
        of_days = {day: fresh.filter(pc.equal(fresh["date"], pa.scalar(day))) for day in days}
        digests = {day: digest(rows.drop_columns(["date"])) for day, rows in of_days.items()}
        staged: dict[date, list[StagedFile]] = {}

        def work() -> Written:
            differ = self._differing(table, digests)
            for day in differ - set(staged):
                staged[day] = stage(self.root, table, of_days[day])
            self._commit_days(table, {day: staged[day] for day in differ})
            return Written(table.name, arrow.num_rows, self._version(table), bool(differ))

        return self.swapped([table], work)

    def files(self, table: Table, days: Days | None = None) -> list[DataFile]:
        """Return the Parquet files of the newest version that may hold rows of these days, from the log alone.

        What a task reads by `read_files`. A file without statistics is among them.
        """
        if not self.exists(table):
            return []
        log = self.log(table)
        self.inputs[table.name] = log.version()
        return self.files_of(table, log, days)

    def files_of(self, table: Table, log: DeltaTable, days: Days | None) -> list[DataFile]:
        """Return the files of this version that may hold rows of the days, by path."""
        actions = pa.table(log.get_add_actions(flatten=True))
        column = (
            day_column(table) if days is not None or {"date", "ingest_date"} & set(table.columns) else None
        )
        found = []
        for action in actions.to_pylist():
            day = action.get(f"partition.{table.partition}") if table.partition else None
            if column == table.partition:
                first = last = day
            else:
                first, last = action.get(f"min.{column}"), action.get(f"max.{column}")
            if days is not None and ((first and first > days.end) or (last and last < days.start)):
                continue
            file = self.at(table) / unquote(action["path"])
            rows = action["num_records"]
            count = -1 if rows is None else rows
            size = action["size_bytes"]
            found.append(DataFile(file.uri, count, size, day, first, last, file.options, _place(table, log)))
        return sorted(found, key=lambda file: file.path)

    def files_by_day(self, table: Table) -> dict[str, str]:
        """Return UTC day -> SHA-256 of what its files say of their rows, of a table partitioned by `date`.

        Staged files carry their rows' digest, so equal rows have equal text in every lake; of files of another writer
        the names are taken: a replace by equal rows makes no commit, so another name means other rows.
        """
        if not self.exists(table):
            return {}
        files: dict[str, list[DataFile]] = {}
        for file in self.files_of(table, self.log(table), None):
            files.setdefault(str(file.day), []).append(file)
        folder = f"{self.path(table)}/"
        return {day: sha256(_of_rows(of_day, folder).encode()).hexdigest() for day, of_day in files.items()}

    def commit(
        self, table: Table, days: Days, staged: Sequence[StagedFile], *, allow_empty: bool = False
    ) -> Written:
        """Replace exactly these UTC days by what tasks staged, in one transaction.

        A day whose staged rows equal the present ones keeps its files, and its staged ones are removed; where no day
        differs there is no commit. No rows at all are refused unless told. Raises LakeError.
        """
        if table.partition != "date":
            raise LakeError("only a table partitioned by date can replace days", where=table.name)
        fresh: dict[date, list[StagedFile]] = {}
        for file in staged:
            if file.table != table.name:
                raise LakeError(f"a file staged for {file.table} does not belong here", where=table.name)
            fresh.setdefault(file.day, []).append(file)
        refuse_other_days(table, days, fresh)
        count = sum(file.rows for file in staged)
        if count == 0 and not allow_empty:
            raise empty_days(table, days)
        digests = {day: sum((file.digest for file in fresh.get(day, ())), Digest()) for day in days}

        def work() -> tuple[set[date], int]:
            differ = self._differing(table, digests)
            self._commit_days(table, {day: fresh.get(day, []) for day in differ})
            return differ, self._version(table)

        differ, version = self.swapped([table], work)
        for file in staged:
            if file.day not in differ:
                (self.at(table) / file.path).remove()
        return Written(table.name, count, version, bool(differ))

    def append(self, table: Table, rows: pa.Table) -> Written:
        """Append rows in one commit to a table partitioned by a date, as files whose names say their SHA-256.

        Raises LakeError for a row outside the field dictionary.
        """
        staged = stage(self.root, table, rows)

        def work() -> Written:
            self._transact(table, staged)
            return Written(table.name, rows.num_rows, self._version(table), changed=True)

        return self.swapped([table], work)

    def append_staged(self, table: Table, staged: Sequence[StagedFile], batch: int) -> Written:
        """Append what tasks staged in one commit, the batch being its application transaction.

        A batch already committed changes nothing. Call under the lake's bronze lease, since delta-rs refuses no older
        transaction. Raises LakeError for an older batch.
        """
        return self.swapped([table], lambda: self._append_staged(table, staged, batch))

    def _append_staged(self, table: Table, staged: Sequence[StagedFile], batch: int) -> Written:
        log = self.log(table)
        last = log.transaction_version(BRONZE)
        rows = sum(file.rows for file in staged)
        if last is not None and last > batch:
            raise LakeError(
                f"batch {batch} is older than batch {last}, which is loaded",
                where=table.name,
                remedy="another lake was copied over this one, or bronze/file was rolled back: restore both together",
            )
        if last == batch or not staged:
            return Written(table.name, rows, log.version(), changed=False)
        self._transact(table, staged, Transaction(BRONZE, batch))
        return Written(table.name, rows, self._version(table), changed=True)

    def holds(self, file: StagedFile) -> bool:
        """Return whether the staged file lies there as its task wrote it."""
        try:
            return _as_data(file, self.root).is_intact()
        except FileNotFoundError:
            return False

    def newest_batch(self, table: Table) -> int:
        """Return the newest batch that is committed to the table, 0 before the first."""
        if not self.exists(table):
            return 0
        return self.log(table).transaction_version(BRONZE) or 0

    def replace_own_days(self, table: Table, rows: pl.DataFrame | pa.Table) -> Written:
        """Replace the days that the rows are of, adjoining or not, in one transaction. Raises LakeError."""
        files: dict[date, list[StagedFile]] = {}
        for file in stage(self.root, table, rows):
            files.setdefault(file.day, []).append(file)
        count = sum(file.rows for of_day in files.values() for file in of_day)

        def work() -> Written:
            self._commit_days(table, files)
            return Written(table.name, count, self._version(table), bool(files))

        return self.swapped([table], work)

    def overwrite(self, table: Table, rows: pl.DataFrame | pa.Table) -> Written:
        """Replace a table without days (inventory, meters); equal rows make no commit."""
        fresh = checked(table, rows.to_arrow() if isinstance(rows, pl.DataFrame) else rows)
        return self.swapped([table], lambda: self._overwrite(table, fresh))

    def rewrite(self, table: Table, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Written:
        """Put what `change` makes of each partition in its place, of any table; equal rows keep their files.

        For a change of form that leaves every row standing; readers of `date` alone replace days by `replace`.
        """
        # Of a table that is parted by another column than a day (gold/publication) all rows are one part.
        is_dated = (
            table.partition is not None and arrow_schema(table).field(table.partition).type == pa.date32()
        )
        days = [date.fromisoformat(day) for day in self.partitions(table)] if is_dated else [None]

        def work() -> Written:
            fresh: dict[date | None, pl.DataFrame] = {}
            for day in days:
                within = None if day is None else pc.field(table.partition) == pa.scalar(day)
                rows = pl.DataFrame(shaped(table, _rows(table, self.log(table), None, within)))
                changed = change(rows)
                if not changed.equals(rows):
                    fresh[day] = changed
            if fresh and table.append_only:
                self._set_append_only(table, "false")
            if None in fresh:
                self._write(table, shaped(table, fresh[None].to_arrow()), mode="overwrite")
            else:
                self._commit_days(
                    table, {day: stage(self.root, table, rows) for day, rows in fresh.items() if day}
                )
            if fresh and table.append_only:
                self._set_append_only(table, "true")
            count = sum(rows.height for rows in fresh.values())
            return Written(table.name, count, self._version(table), bool(fresh))

        return self.swapped([table], work)

    def _set_append_only(self, table: Table, value: str) -> None:
        """Let the table's rows be replaced, or not; what a kill leaves open the next write shuts."""
        self._own_log(table).alter.set_table_properties(
            {"delta.appendOnly": value}, raise_if_not_exists=False, commit_properties=self._properties()
        )
        self._pinned[table.name] += 1

    def replace_keyed(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> Written:
        """Put rows in place of those with the same key in a table of few rows; equal rows make no commit.

        Raises LakeError for a row outside the field dictionary.
        """
        fresh = {tuple(row[name] for name in table.key) for row in rows}

        def work() -> Written:
            present = present_rows(table, self.log(table), None).to_pylist()
            kept = [row for row in present if tuple(row[name] for name in table.key) not in fresh]
            whole = pa.Table.from_pylist([*kept, *map(dict, rows)], schema=arrow_schema(table))
            return replace(self._overwrite(table, checked(table, whole)), rows=len(rows))

        return self.swapped([table], work)

    def write_rows(
        self, table: Table, rows: Sequence[Mapping[str, Any]], *, where: str | None = None
    ) -> Written:
        """Append a few rows in one commit; `where` (SQL) names rows that they replace; nothing to do makes none."""
        changed = bool(rows) or where is not None
        data = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(table))
        how: dict[str, Any] = (
            {"mode": "append"} if where is None else {"mode": "overwrite", "predicate": where}
        )

        def work() -> Written:
            if changed:
                self._write(table, data, schema_mode="merge", **how)
            return Written(table.name, data.num_rows, self._version(table), changed)

        return self.swapped([table], work)

    def _overwrite(self, table: Table, rows: pa.Table) -> Written:
        """Overwrite the table by rows that `checked` gave; one of an older release gets its new columns."""
        log = self.log(table)
        changed = not rows.equals(present_rows(table, log, None))
        if changed:
            known = {field.name for field in log.schema().fields}
            merge = "merge" if set(table.columns) - known else None
            self._write(table, rows, mode="overwrite", schema_mode=merge)
        return Written(table.name, rows.num_rows, self._version(table), changed)

    def _write(self, table: Table, rows: pa.Table, **how: Any) -> None:
        with naming(self.at(table)):
            write_deltalake(self._own_log(table), rows, commit_properties=self._properties(), **how)
        self._pinned[table.name] += 1

    def _differing(self, table: Table, wanted: Mapping[date, Digest]) -> set[date]:
        """The days whose rows have another digest: said by the files' names, or told from the rows."""
        log, days = self.log(table), Days(min(wanted), max(wanted))
        found: dict[date, Digest] = {}
        unnamed: set[date] = set()
        for file in self.files_of(table, log, days):
            assert file.day is not None
            if file.day not in wanted:
                continue
            said = digest_of_name(file.path, file.rows)
            if said is None:
                unnamed.add(file.day)
            else:
                found[file.day] = found.get(file.day, Digest()) + said
        for day in unnamed:
            found[day] = digest(present_rows(table, log, Days.of(day)).drop_columns(["date"]))
        return {day for day, one in wanted.items() if one != found.get(day, Digest())}

    def _commit_days(self, table: Table, changed: Mapping[date, Sequence[StagedFile]]) -> None:
        """Put staged files in place of all files of their days, in one transaction."""
        if not changed:
            return
        staged = [file for files in changed.values() for file in files]
        self._transact(table, staged, replaced=sorted(changed))

    def _transact(
        self,
        table: Table,
        staged: Sequence[StagedFile],
        *transactions: Transaction,
        replaced: Sequence[date] | None = None,
    ) -> None:
        """Commit staged files, in place of all files of the days `replaced`, or beside all there are."""
        log = self._with_columns(table)
        with naming(self.at(table)):
            log.create_write_transaction(
                actions=[_add(table, file, self.root) for file in staged],
                mode="append" if replaced is None else "overwrite",
                schema=log.schema(),
                partition_by=[table.partition] if table.partition else None,
                partition_filters=None
                if replaced is None or table.partition is None
                else [(table.partition, "in", list(map(str, replaced)))],
                commit_properties=self._properties(*transactions),
            )
        self._pinned[table.name] += 1

    def _with_columns(self, table: Table) -> DeltaTable:
        """The log of a table that has all columns: one of an older release gets its new ones."""
        log = self._own_log(table)
        if not _add_columns(table, log, self._properties()):
            return log
        self._pinned[table.name] += 1
        return self._own_log(table)

    def _own_log(self, table: Table) -> DeltaTable:
        """The log of the version that is to be replaced, for who changes the table by it."""
        return open_log(self.at(table), self._pinned[table.name])

    def _properties(self, *transactions: Transaction) -> CommitProperties:
        """What every commit carries. Raises LockedError where a lease that the lake is held under was lost.

        Without retries delta-rs commits the next version or nothing. With them it takes two overwrites of a day that
        had no rows for no conflict, and both stand.
        """
        for lease in self.leases:
            lease.require()
        return CommitProperties(
            custom_metadata={key: str(value) for key, value in self.metadata.items()},
            app_transactions=list(transactions) or None,
            max_commit_retries=0,
        )

    def _version(self, table: Table) -> int:
        found = self.version(table)
        assert found is not None
        return found


def day_column(table: Table) -> str:
    """The column that holds a row's UTC day."""
    if table.name == "bronze/reading":
        return "reading_date"
    if "ingest_date" in table.columns:
        return "ingest_date"
    if "date" in table.columns:
        return "date"
    raise LakeError("the table has no days", where=table.name)


def refuse_other_days(table: Table, days: Days, found: Iterable[date]) -> None:
    """Raise LakeError for a row of another day."""
    outside = sorted(day for day in found if day not in days)
    if outside:
        raise LakeError(f"rows of {outside[0]} do not belong to {days}", where=table.name)


def empty_days(table: Table, days: Days) -> LakeError:
    return LakeError(
        f"refusing to replace the rows of {days} by nothing",
        where=table.name,
        remedy="check the stage's inputs; no row was removed",
    )
