"""Open the log of a table, recover what the log itself makes good, and name what it does not.

A checkpoint only spares reading the commits before it: one that is torn or gone is set aside, and the log is read
without it. A commit is a part of the table: one that is torn, empty or missing is named with its version, its file and
what to do, and nothing is read past it. (An empty commit is what a machine leaves that lost its power; readers take it
for one that changed nothing.)
Source: Delta Transaction Log Protocol, sections "Delta Log Entries", "Checkpoints" and "Last Checkpoint File".
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lepton_etl.errors import LakeError
from lepton_etl.lake.location import Location

_FOLDER: Final = "_delta_log"
_HINT: Final = "_last_checkpoint"
_COMMIT: Final = re.compile(r"(\d{20})\.json")
_CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint.*\.parquet")
# Commits since a checkpoint at most; a commit before it is in the checkpoint.
_CHECKED: Final = 10
_SET_ASIDE: Final = ".broken"


def open_log(place: Location, version: int | None = None) -> DeltaTable:
    """Return the log of the table at `place`, at its newest version or at this one.

    Raises LakeError naming table, version and file where the newest version cannot be known, DeltaError where an older
    one has expired.
    """
    try:
        log = DeltaTable(place.uri, version, place.storage_options)
    except DeltaError:
        if version is not None:
            raise
        _mend(place)
        try:
            log = DeltaTable(place.uri, None, place.storage_options)
        except DeltaError as error:
            what = f"the log cannot be read: {next(iter(str(error).splitlines()), '')[:200]}"
            raise _broken(place, None, what, _FOLDER) from error
    if version is None and place.is_local:
        _refuse_empty(place, log.version())
    return log


class NewestLog:
    """The newest log of a table, opened again where another commit was made: a night asks for it hundreds of times."""

    def __init__(self, place: Location) -> None:
        self._place = place
        self._log: DeltaTable | None = None
        self._mark: tuple[int, ...] | None = None

    def get(self) -> DeltaTable:
        """Return the log for reading. Raises LakeError as open_log."""
        if self._log is None or not self.is_current():
            self._log = open_log(self._place)
            self._mark = self._last_commit(self._log.version())
        return self._log

    def is_current(self) -> bool:
        """Return whether the log was opened and is known to be the newest still."""
        if self._log is None or self._mark is None:
            return False
        return self._mark == self._last_commit(self._log.version())

    def _last_commit(self, version: int) -> tuple[int, ...] | None:
        """What tells the commit of a version from one written anew; None where it is not the last, or is not known."""
        if not self._place.is_local:
            return None
        folder = Path(self._place.uri) / _FOLDER
        try:
            found = (folder / f"{version:020}.json").stat()
        except FileNotFoundError:
            return None
        if (folder / f"{version + 1:020}.json").exists():
            return None
        return version, found.st_ino, found.st_size, found.st_mtime_ns


def refuse_without_log(place: Location) -> None:
    """Raise LakeError where the table at `place` has data and no log: made anew it would forget all its rows."""
    if not place.is_table() and place.holds_files(".parquet"):
        raise LakeError(
            "the table has data and no log",
            where=f"{_name(place)} ({place}/{_FOLDER})",
            remedy="restore that folder from a copy of the lake; without one move the table's folder away, then run "
            "the nights of its days again",
        )


def _refuse_empty(place: Location, newest: int) -> None:
    """Raise LakeError where one of the newest commits is empty: its rows would be missing, and nothing would say so."""
    for version in range(newest, max(newest - _CHECKED, -1), -1):
        commit = Path(place.uri, _FOLDER, f"{version:020d}.json")
        # Of a commit that is gone, a checkpoint holds what it said.
        if commit.exists() and commit.stat().st_size == 0:
            raise _torn(place, version, newest)


def _mend(place: Location) -> None:
    """Set checkpoints aside that cannot be read. Raises LakeError for a commit that is torn or missing."""
    folder = place / _FOLDER
    names = folder.names()
    commits = sorted(int(found[1]) for name in names if (found := _COMMIT.fullmatch(name)))
    checkpoints = sorted(name for name in names if _CHECKPOINT.fullmatch(name))
    broken = [name for name in checkpoints if not _is_readable(folder / name)]
    known = [int(name[:20]) for name in checkpoints if name not in broken]
    start = max(known, default=-1)
    wanted = range(start + 1, max(commits, default=start) + 1)
    newest = max(wanted, default=start)
    missing = sorted(set(wanted) - set(commits))
    if missing and broken:
        what = "the checkpoint cannot be read, and commits before it are gone"
        raise _broken(place, int(broken[-1][:20]), what, f"{_FOLDER}/{broken[-1]}")
    if missing:
        raise _broken(place, missing[0], "the commit is missing", f"{_FOLDER}/{missing[0]:020d}.json")
    for version in wanted:
        if not _is_whole((folder / f"{version:020d}.json").read()[0]):
            raise _torn(place, version, newest)
    for name in broken:
        (folder / f"{name}{_SET_ASIDE}").write((folder / name).read()[0])
        (folder / name).remove()
    (folder / _HINT).remove()
    structlog.get_logger().warning("checkpoint set aside", table=_name(place), files=broken or [_HINT])


def _is_readable(checkpoint: Location) -> bool:
    try:
        pq.read_table(pa.BufferReader(checkpoint.read()[0]))
    except (OSError, pa.ArrowException):
        return False
    return True


def _is_whole(commit: bytes) -> bool:
    try:
        actions = [json.loads(line) for line in commit.splitlines() if line.strip()]
    except ValueError:
        return False
    return bool(actions)


def _torn(place: Location, version: int, newest: int) -> LakeError:
    file = f"{_FOLDER}/{version:020d}.json"
    if version < newest:
        return _broken(place, version, "the commit is torn", file)
    return LakeError(
        "the commit is torn, as the machine lost its power or its disk was full",
        where=_where(place, version, file),
        remedy="restore that file from a copy of the lake; without one move it away, then run the last night again: "
        f"the table is as it was before, at version {version - 1}",
    )


def _broken(place: Location, version: int | None, what: str, file: str) -> LakeError:
    return LakeError(
        what, where=_where(place, version, file), remedy="restore that file from a copy of the lake"
    )


def _where(place: Location, version: int | None, file: str) -> str:
    at = "" if version is None else f" version {version}"
    return f"{_name(place)}{at} ({place}/{file})"


def _name(place: Location) -> str:
    return "/".join(place.uri.split("/")[-2:])
