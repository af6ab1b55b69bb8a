"""Leases: one run at a time for bronze, and for each UTC day after it.

A lease is a small file `<lake.root>/_leases/<name>.json` that says which run holds it. In a folder it is held by a lock
of the operating system on that file, which ends with the process, however that ends: no clock, process id or content
is asked. In an object store it is held by who wrote the object last: taken by a conditional write, renewed and taken
over by writes that need the tag of what was read. A holder that was silent for ten minutes by the store's own clock
may be taken over; it counts its lease as lost a minute before that, and a lake under a lost lease commits nothing.
A run's days are one lease however many they are; it is granted where no living run holds one of them.
Source: flock(2); Amazon S3 User Guide, "Conditional writes".
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from obstore.exceptions import BaseError

from lepton_etl.days import Days
from lepton_etl.errors import LakeError, LockedError
from lepton_etl.lake.location import Location

if TYPE_CHECKING:
    from lepton_etl.lake.tables import Lake

HEARTBEAT_S: Final = 30.0
SILENT_AFTER_S: Final = 600.0
# A commit that begins before its lease is lost ends before another run may take the lease over.
_MARGIN_S: Final = 60.0
# How long a run waits for another one that is just looking which days are free.
_LOOK_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.05
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_FREE: Final = b""


class _Hold(Protocol):
    """A lease that was taken."""

    def is_held(self) -> bool:
        """Return whether nobody else can hold it."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class Lease:
    """Holds `<name>.json` while entered, and the lake under it.

    Raises LockedError where another run holds it, for longer than `wait_s`.
    """

    def __init__(self, lake: Lake, name: str, run_id: str, *, wait_s: float = 0.0) -> None:
        self.lake = lake
        self.wait_s = wait_s
        self.name = name
        self.run_id = run_id
        self.folder = lake.root / "_leases"
        self.place = self.folder / f"{name}.json"
        self._hold: _Hold | None = None

    def __enter__(self) -> Lease:
        try:
            self._hold = self._taken()
        except PermissionError as error:
            raise LakeError(
                f"no permission to write: {error.strerror}",
                where=str(self.folder),
                remedy="let the user of the night write below lake.root",
            ) from error
        self.lake.leases.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.lake.leases.remove(self)
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def require(self) -> None:
        """Raise LockedError where the lease is no longer held: another run may be writing."""
        if self._hold is None or not self._hold.is_held():
            raise LockedError(
                f"lease '{self.name}' of run {self.run_id} was lost; nothing more is committed",
                where=str(self.place),
                remedy="run the same command again; find out what paused this run, or removed its lease",
            )

    def _taken(self) -> _Hold:
        until = time.monotonic() + self.wait_s
        while (hold := _take(self.place, self._holder())) is None:
            if time.monotonic() >= until:
                raise _held(self.name, _read(self.place), self.place)
            time.sleep(_LOOK_AGAIN_S)
        return hold

    def _holder(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "start_time": datetime.now(UTC).isoformat(timespec="seconds"),
        }


class DaysLease(Lease):
    """Holds all UTC days of some ranges as one lease; raises LockedError where another run holds one of them."""

    def __init__(self, lake: Lake, ranges: Sequence[Days], run_id: str) -> None:
        super().__init__(lake, f"days-{run_id}", run_id)
        self.ranges = tuple(ranges)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        # The name is this run's own, and nobody takes it over.
        self.place.remove()

    def _taken(self) -> _Hold:
        # Looking and taking is one step: two runs of the same day that start together must not both see it free.
        with Lease(self.lake, "days", self.run_id, wait_s=_LOOK_S):
            self._refuse_held()
            return super()._taken()

    def _refuse_held(self) -> None:
        for name in self.folder.names():
            place = self.folder / name
            if not (name.startswith("days-") and name.endswith(".json")) or place == self.place:
                continue
            if _is_free(place):
                place.remove()
                continue
            holder = _read(place)
            # What nobody can read may be of any day.
            for first, last in holder.get("days", [[date.min.isoformat(), date.max.isoformat()]]):
                for days in self.ranges:
                    day = max(days.start, date.fromisoformat(first))
                    if day <= min(days.end, date.fromisoformat(last)):
                        raise _held(f"day-{day}", holder, place)

    def _holder(self) -> dict[str, Any]:
        days = [[one.start.isoformat(), one.end.isoformat()] for one in self.ranges]
        return super()._holder() | {"days": days}


def _take(place: Location, holder: dict[str, Any]) -> _Hold | None:
    """Take a lease; None where another holds it."""
    return _FileLock.taken(place, holder) if place.is_local else _ObjectLease.taken(place, holder)


def _is_free(place: Location) -> bool:
    """Whether nobody holds this lease; called where nobody takes one meanwhile."""
    if not place.is_local:
        return _ObjectLease.is_free(place)
    lock = _FileLock.taken(place, {})
    if lock is not None:
        lock.release()
    return lock is not None


class _FileLock:
    """A lock of the operating system on a file: the kernel gives it back when its process ends."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    @classmethod
    def taken(cls, place: Location, holder: dict[str, Any]) -> _FileLock | None:
        path = Path(place.uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            lock = cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
            try:
                fcntl.flock(lock._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock._handle)
                return None
            except OSError as error:
                os.close(lock._handle)
                if error.errno not in _NO_LOCKS:
                    raise
                raise LakeError(
                    f"the file system has no locks: {error.strerror}",
                    where=str(path),
                    remedy="mount it with locks, or put lake.root on one that has them",
                ) from error
            # The last holder may have removed the file between the two calls: then another can lock a new one.
            if lock.is_held():
                os.ftruncate(lock._handle, 0)
                os.pwrite(lock._handle, json.dumps(holder).encode(), 0)
                return lock
            os.close(lock._handle)

    def is_held(self) -> bool:
        mine = os.fstat(self._handle)
        try:
            return os.path.samestat(mine, self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self.is_held():
            self._path.unlink(missing_ok=True)
        os.close(self._handle)


class _ObjectLease:
    """An object that its holder writes anew every half minute; who cannot, holds it no longer."""

    def __init__(self, place: Location, holder: dict[str, Any]) -> None:
        self._place = place
        self._holder = holder
        self._tag = ""
        self._renewed = -SILENT_AFTER_S
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._renew, name=f"lease-{place}", daemon=True)

    @classmethod
    def taken(cls, place: Location, holder: dict[str, Any]) -> _ObjectLease | None:
        lease = cls(place, holder)
        before, content = _now_s(), lease._content()
        tag = place.create(content)
        if tag is None:
            try:
                _, seen = place.read()
                tag = place.update(content, seen) if cls.is_free(place, seen) else None
            except FileNotFoundError:
                tag = place.create(content)
        if tag is None:
            return None
        lease._tag, lease._renewed = tag, before
        lease._beat.start()
        return lease

    @staticmethod
    def is_free(place: Location, seen: str | None = None) -> bool:
        """Whether it was given back, or its holder is silent by the clock of the store; `seen` is its tag."""
        try:
            content, tag = place.read()
        except FileNotFoundError:
            return True
        if seen is not None and tag != seen:
            return False
        modified = place.modified()
        if content == _FREE or modified is None:
            return True
        probe = Location(f"{place.uri}.now-{uuid.uuid4().hex}", place.options)
        probe.create(_FREE)
        now = probe.modified()
        probe.remove()
        return now is not None and (now - modified).total_seconds() > SILENT_AFTER_S

    def is_held(self) -> bool:
        return _now_s() - self._renewed < SILENT_AFTER_S - _MARGIN_S

    def release(self) -> None:
        self._stop.set()
        self._beat.join()
        # Not removed: another run could have taken it between a look and the removal.
        self._place.update(_FREE, self._tag)

    def _renew(self) -> None:
        tried: set[bytes] = set()
        while not self._stop.wait(HEARTBEAT_S):
            before, content = _now_s(), self._content()
            try:
                tag = self._place.update(content, self._tag)
                if tag is None:
                    # An earlier write may have been done although its answer was lost.
                    found, seen = self._place.read()
                    tag = self._place.update(content, seen) if found in tried else None
                tried = {content}
            except (OSError, BaseError):
                # The store does not answer: the lease holds for a while, and is tried again.
                tried.add(content)
                continue
            if tag is None:
                self._renewed = -SILENT_AFTER_S
                return
            self._tag, self._renewed = tag, before

    def _content(self) -> bytes:
        # A tag may be a digest of the content, and no two writes shall have the same.
        return json.dumps(self._holder | {"beat": uuid.uuid4().hex}).encode()


def _now_s() -> float:
    """Seconds that go on while the process is stopped or the machine sleeps, whatever is done to the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _held(name: str, holder: dict[str, Any], place: Location) -> LockedError:
    return LockedError(
        f"lease '{name}' is held by run {holder.get('run_id')} (pid {holder.get('pid')} on "
        f"{holder.get('host')}, since {holder.get('start_time')})",
        where=str(place),
        remedy="wait for that run, or stop it; a dead holder's lease is free by itself",
    )


def _read(place: Location) -> dict[str, Any]:
    """What the lease says of its holder; empty where it cannot be read."""
    try:
        found = json.loads(place.read()[0])
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
