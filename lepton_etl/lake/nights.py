"""Nights seen whole: which version of each gold table belongs to a published day, and the lake as a reader sees it.

A night commits many tables one after another. When all of them stand, one commit of ops/night names, for each of its
days, the version of every gold table and a digest of the day's files. A reader goes by these rows: between two commits
of a night, and after a night that was killed there, it sees the night before. Delta versions expire; then the newest
version whose files of the day have this digest counts.

A lake without ops/night was made by an older release, or by single stages: it is read as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lepton_etl.days import Days
from lepton_etl.lake.location import Location
from lepton_etl.lake.log_files import open_log, refuse_without_log
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.tables import Conditions, DataFile, Lake, Written, read_log
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.declare import Table
from lepton_etl.schema.diagnosis import DEVICE_NOW, FORECAST
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.operations import NIGHT, STAGE_RUN
from lepton_etl.schema.publication import RESTATEMENT
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.types import arrow_schema

_GOLD: Final = {
    name: table for name, table in TABLES.items() if name.startswith("gold/") and name != DEVICE_NOW.name
}
# A figure of a month or a year stands under its first day, which the night itself need not make; a forecast stands
# under the day after the last.
_OF_PERIODS: Final = frozenset((KPI.name, RESTATEMENT.name))
_OF_NEXT_DAY: Final = frozenset((FORECAST.name,))
_DIGEST_DIGITS: Final = 16


def name_night(lake: Lake, days: Days, run_id: str, *, only_named: bool = False) -> Written:
    """Name the gold tables as they stand for the days: the last commit of a night.

    Tables that say something of a day under another date are named there too.

    A day whose files are those that it was named with keeps its row. `only_named` leaves out days that were never
    published: a single stage that is run again does not publish by itself.
    """
    return lake.swapped([NIGHT], lambda: _name_night(lake, days, run_id, only_named=only_named))


def _name_night(lake: Lake, days: Days, run_id: str, *, only_named: bool) -> Written:
    tables = {name: _Standing.of(lake, table) for name, table in _GOLD.items() if lake.exists(table)}
    # Tables without days are named with every row: the row that was written last says what holds.
    undated = {name for name in tables if _GOLD[name].partition != "date"}
    wanted: dict[date, set[str]] = {days.end + timedelta(days=1): {*_OF_NEXT_DAY, *undated}}
    for day in days:
        for first in (day.replace(day=1), day.replace(month=1, day=1)):
            wanted.setdefault(first, set()).update(_OF_PERIODS, undated)
    named = _read_nights(lake, {*days, *wanted})
    asked = {day for day in days if not only_named or (day in named and named[day].is_published)}
    fresh: dict[date, _Night] = {}
    for day in sorted({*asked, *(wanted if asked else ())}):
        before = named.get(day, _Night({}, {}))
        if day in asked:
            now = _Night.of(tables, day)
        else:
            own = {name: standing for name, standing in tables.items() if name in wanted[day]}
            found = _Night.of(own, day)
            # A day that was never made and of which nothing is said has no row.
            now = before.updated(found) if before.digests or set(found.digests) - undated else before
        if now.digests != before.digests:
            fresh[day] = now
    return _write(lake, fresh, run_id)


def adopt(lake: Lake, run_id: str) -> Written | None:
    """Name every day of a lake that was made before there was ops/night, as it stands; None where there is one.

    Called before a night changes anything, so that what an older release published is seen until this night is whole.
    """
    if lake.exists(NIGHT):
        return None
    tables = {name: _Standing.of(lake, table) for name, table in _GOLD.items() if lake.exists(table)}
    days = sorted({day for standing in tables.values() for day in standing.digests if day is not None})
    return _write(lake, {day: _Night.of(tables, day) for day in days}, run_id)


@dataclass(frozen=True, slots=True)
class _Night:
    """What ops/night says of a day: table -> version, and table -> digest, which a table without rows lacks."""

    versions: Mapping[str, int]
    digests: Mapping[str, str]

    @classmethod
    def of(cls, tables: Mapping[str, _Standing], day: date) -> _Night:
        digests = {name: standing.digest(day) for name, standing in tables.items()}
        known = {name: digest for name, digest in digests.items() if digest is not None}
        return cls({name: tables[name].version for name in known}, known)

    @property
    def is_published(self) -> bool:
        """Whether the day itself was made, and not only what another day says under its date."""
        own = {name for name in self.digests if _GOLD.get(name, NIGHT).partition == "date"}
        return bool(own - _OF_PERIODS - _OF_NEXT_DAY)

    def updated(self, other: _Night) -> _Night:
        return _Night({**self.versions, **other.versions}, {**self.digests, **other.digests})


@dataclass(frozen=True, slots=True)
class _Standing:
    """One version of a table: its log, and the digest of its files by day; under None of a table without days."""

    log: DeltaTable
    version: int
    digests: Mapping[date | None, str]
    files: Mapping[date | None, tuple[str, ...]]

    @classmethod
    def of(cls, lake: Lake, table: Table, version: int | None = None) -> _Standing:
        log = lake.log(table) if version is None else open_log(lake.at(table), version)
        actions = pa.table(log.get_add_actions(flatten=True))
        days = (
            actions["partition.date"].to_pylist()
            if table.partition == "date" and actions.num_rows
            else [None] * actions.num_rows
        )
        names: dict[date | None, list[str]] = {}
        for day, path in zip(days, actions["path"].to_pylist(), strict=True):
            names.setdefault(day, []).append(path)
        files = {day: tuple(sorted(paths)) for day, paths in names.items()}
        digests = {
            day: sha256("\n".join(paths).encode()).hexdigest()[:_DIGEST_DIGITS]
            for day, paths in files.items()
        }
        return cls(log, log.version(), digests, files)

    def digest(self, day: date | None) -> str | None:
        """The digest of the day's files, or of all files of a table without days."""
        return self.digests.get(None) if None in self.digests else self.digests.get(day)

    def is_whole(self, day: date | None, table: Location) -> bool:
        """Whether the files still lie there: VACUUM removes those of old versions before their log expires."""
        return all((table / unquote(path)).exists() for path in self.files.get(day, ()))


class PublishedLake(Lake):
    """The lake as it was published: gold tables by ops/night, all others as they stand.

    ops/night is read once, for the days that will be read: a night that ends meanwhile changes nothing for this
    reader.
    """

    def __init__(self, lake: Lake, days: Days | None = None) -> None:
        super().__init__(lake.root, lake.metadata, lake.inputs)
        self._newest = lake._newest
        self._is_named = lake.exists(NIGHT)
        self._nights = _read_nights(lake, days)
        self._last = _last_night(lake) if self._is_named else None
        self._days = days

    def read(
        self,
        table: Table,
        days: Days | None = None,
        *,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
        only: Conditions = (),
    ) -> pl.DataFrame:
        """Return the published rows, of these UTC days, by `where` and `only` where given."""
        parts = self._parts(table, days)
        if parts is None:
            return super().read(table, days, columns=columns, where=where, only=only)
        names = list(columns or table.columns)
        found = [pl.DataFrame(arrow_schema(table).empty_table().select(names))]
        for log, of_days in parts:
            within, asked = where, days
            if of_days:
                in_days = pc.field("date").isin(sorted(of_days))
                within = in_days if where is None else in_days & where
                asked = Days(min(of_days), max(of_days))
            found.append(read_log(table, log, asked, names, within, only))
        return pl.concat(found)

    def files(self, table: Table, days: Days | None = None) -> list[DataFile]:
        """Return the Parquet files of the published rows."""
        parts = self._parts(table, days)
        if parts is None:
            return super().files(table, days)
        return [
            file
            for log, of_days in parts
            for file in self.files_of(table, log, days)
            if of_days is None or file.day in of_days
        ]

    def versions(self, table: Table) -> list[int]:
        """Return the versions of a table by which its published days are read, but for the newest, which stands."""
        parts = self._parts(table, None) or []
        newest = super().log(table).version()
        return sorted({log.version() for log, _ in parts} - {newest})

    def digests(self, days: Days, tables: Iterable[Table]) -> dict[date, dict[str, str]]:
        """Return the digest of each of these tables' files by published day; a table without rows of it has none."""
        names = {table.name for table in tables}
        return {
            day: {name: digest for name, digest in night.digests.items() if name in names}
            for day, night in self._nights_of(days).items()
            if night.is_published
        }

    def _parts(self, table: Table, days: Days | None) -> list[tuple[DeltaTable, set[date] | None]] | None:
        """The logs to read with the days to take from each; None where the table is read as it stands."""
        if not self._is_named or not self.exists(table) or table.name not in _GOLD:
            return None
        newest = _Standing.of(self, table)
        self.inputs[table.name] = newest.version
        if table.partition != "date":
            return self._undated(table, newest)
        parts: dict[int, tuple[DeltaTable, set[date]]] = {}
        for day, night in self._nights_of(days).items():
            named = night.digests.get(table.name)
            if named is None:
                continue
            standing = self._standing(table, newest, day, named, night.versions.get(table.name))
            parts.setdefault(standing.version, (standing.log, set()))[1].add(day)
        return [(log, of_days) for _, (log, of_days) in sorted(parts.items())]

    def _undated(self, table: Table, newest: _Standing) -> list[tuple[DeltaTable, set[date] | None]]:
        named = self._last.digests.get(table.name) if self._last else None
        if self._last is None or named is None:
            return []
        version = self._last.versions.get(table.name)
        return [(self._standing(table, newest, None, named, version).log, None)]

    def _nights_of(self, days: Days | None) -> Mapping[date, _Night]:
        """What was read at the start, or is read now for days that were not announced."""
        if self._days is None and days is None:
            return self._nights
        if days is None:
            return _read_nights(self, None)
        if self._days is None or (days.start in self._days and days.end in self._days):
            return {day: night for day, night in self._nights.items() if day in days}
        return _read_nights(self, days)

    def _standing(
        self, table: Table, newest: _Standing, day: date | None, digest: str, version: int | None
    ) -> _Standing:
        """The newest version whose files of the day have the digest: the standing one in all but unfinished nights.

        Where none is left, the rows that stand: the files were put together anew and their old ones removed.
        """
        if newest.digest(day) == digest:
            return newest
        below = range(newest.version - 1, -1, -1)
        for number in ([version] if version is not None else []) + list(below):
            try:
                found = _Standing.of(self, table, number)
            except DeltaError:
                # Its log has expired, and so have those before it; the named one may be older than the others.
                if number == version:
                    continue
                break
            if found.digest(day) == digest and found.is_whole(day, self.at(table)):
                return found
        return newest


def _read_nights(lake: Lake, days: Iterable[date] | None) -> dict[date, _Night]:
    within = None if days is None else pc.field("date").isin(sorted(days))
    rows = Lake.read(lake, NIGHT, columns=["date", "table_versions", "file_digests"], where=within)
    return {
        day: _Night(json.loads(versions), json.loads(digests)) for day, versions, digests in rows.iter_rows()
    }


def _last_night(lake: Lake) -> _Night | None:
    """The night that was published last."""
    day = _last_day(lake)
    return None if day is None else _read_nights(lake, Days.of(day))[day]


def _last_day(lake: Lake) -> date | None:
    """A day of the night that was published last, found by the log's statistics."""
    actions = pa.table(lake.log(NIGHT).get_add_actions(flatten=True))
    if actions.num_rows == 0:
        return None
    times = actions["max.published_time"] if "max.published_time" in actions.column_names else None
    days = actions["partition.date"]
    if times is None or times.null_count:
        candidates: Iterable[date] = days.to_pylist()
    else:
        # The statistics are in milliseconds: all days of one run look alike, and say the same.
        last = pc.max(times)
        candidates = days.filter(pc.equal(times, last)).to_pylist()
    return max(candidates)


def lost_tables(lake: Lake) -> list[str]:
    """Return a line for each table that the last published night wrote and whose folder is gone since.

    Raises LakeError where a table's data are there and its log is not.
    """
    recorded = _recorded(lake)
    lost = []
    for name, table in TABLES.items():
        if table is FILE:
            # It is made again from the rows of bronze.
            continue
        # What no task stages has no data before it has a log; of other tables a first night that was killed may.
        if (name in recorded or table.partition is None) and not lake.exists(table):
            refuse_without_log(lake.at(table))
            if name in recorded:
                lost.append(
                    f"{name} is gone, which was at version {recorded[name]}: it is made anew, without its earlier days"
                    " -> restore it from a copy of the lake, or run their nights again"
                )
    return lost


def _recorded(lake: Lake) -> dict[str, int]:
    """The tables that the run wrote or named which published last, with their versions."""
    day = _last_day(lake) if lake.exists(NIGHT) else None
    if day is None:
        return {}
    (night,) = lake.read(NIGHT, Days.of(day), columns=["run_id", "table_versions"]).to_dicts()
    written = lake.read(STAGE_RUN, columns=["table_versions"], where=pc.field("run_id") == night["run_id"])
    recorded: dict[str, int] = {}
    for versions in (*written["table_versions"], night["table_versions"]):
        recorded |= json.loads(versions or "{}")
    return recorded


def _write(lake: Lake, nights: Mapping[date, _Night], run_id: str) -> Written:
    now = lake.now()
    rows = [
        {
            "date": day,
            "run_id": run_id,
            "published_time": now,
            "table_versions": json.dumps(dict(night.versions), sort_keys=True),
            "file_digests": json.dumps(dict(night.digests), sort_keys=True),
            "code_version": code_version(),
        }
        for day, night in sorted(nights.items())
    ]
    # One commit for all days, those of months and years among them: a reader between two would see half a night.
    return lake.replace_own_days(NIGHT, pa.Table.from_pylist(rows, schema=arrow_schema(NIGHT)))
