"""Leases: one run at a time for bronze, and for each UTC day after it.

A lease is a small file `<lake.root>/_leases/<name>.json` with run, host, pid, process start and heartbeat. It is made
by an exclusive create, so two runs cannot both have it. A lease whose holder is dead (same host, the process is gone or
another one has its pid) or silent (another host, no heartbeat for ten minutes) is taken over. A run's days are one
lease however many they are; it is granted where no living run holds one of them.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from lepton_etl.days import Days
from lepton_etl.errors import LakeError, LockedError

HEARTBEAT_S: Final = 30.0
SILENT_AFTER_S: Final = 600.0
_START_TOLERANCE_S: Final = 2.0
# How long a run waits for another one that is just looking which days are free.
_LOOK_S: Final = 10.0


class Lease:
    """Holds `<folder>/<name>.json` while entered; raises LockedError where another run holds it."""

    def __init__(self, root: Path, name: str, run_id: str) -> None:
        self.root = root
        self.file = root / "_leases" / f"{name}.json"
        self.name = name
        self.run_id = run_id
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

    def __enter__(self) -> Lease:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._take()
        except PermissionError as error:
            raise LakeError(
                f"no permission to write: {error.strerror}",
                where=str(self.file.parent),
                remedy="let the user of the night write below lake.root",
            ) from error
        self._beat = threading.Thread(target=self._heartbeat, name=f"lease-{self.name}", daemon=True)
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._beat:
            self._beat.join(timeout=5)
        holder = _read(self.file)
        if holder and holder.get("run_id") == self.run_id:
            self.file.unlink(missing_ok=True)

    def _take(self) -> None:
        for _ in range(2):
            try:
                self._create()
                return
            except FileExistsError:
                holder = _read(self.file)
                if holder and not _is_dead(holder):
                    raise _held(self.name, holder, self.file) from None
                _take_away(self.file)
        raise LockedError(f"lease '{self.name}' was taken by another run just now", where=str(self.file))

    def _create(self) -> None:
        # A hard link is exclusive and shows the file only when it is written whole.
        fresh = self.file.with_suffix(f".new-{os.getpid()}")
        fresh.write_text(json.dumps(self._holder()), encoding="utf-8")
        try:
            os.link(fresh, self.file)
        finally:
            fresh.unlink()

    def _holder(self) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        process = psutil.Process()
        return {
            "run_id": self.run_id,
            "host": socket.gethostname(),
            "pid": process.pid,
            "process_start": process.create_time(),
            "start_time": now,
            "heartbeat_time": now,
        }

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            holder = _read(self.file)
            if not holder or holder.get("run_id") != self.run_id:
                return
            holder["heartbeat_time"] = datetime.now(UTC).isoformat(timespec="seconds")
            fresh = self.file.with_suffix(".beat")
            fresh.write_text(json.dumps(holder), encoding="utf-8")
            fresh.replace(self.file)


class DaysLease(Lease):
    """Holds all UTC days of some ranges as one lease; raises LockedError where another run holds one of them."""

    def __init__(self, root: Path, ranges: Sequence[Days], run_id: str) -> None:
        super().__init__(root, f"days-{run_id}", run_id)
        self.ranges = tuple(ranges)

    def _take(self) -> None:
        # Looking and taking is one step: two runs of the same day that start together must not both see it free.
        until = time.monotonic() + _LOOK_S
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(Lease(self.root, "days", self.run_id))
                    break
                except LockedError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.05)
            self._refuse_held()
            self._create()

    def _refuse_held(self) -> None:
        for file in sorted(self.file.parent.glob("days-*.json")):
            holder = _read(file)
            if holder is None or file == self.file:
                continue
            if _is_dead(holder):
                _take_away(file)
                continue
            for first, last in holder.get("days", []):
                for days in self.ranges:
                    day = max(days.start, date.fromisoformat(first))
                    if day <= min(days.end, date.fromisoformat(last)):
                        raise _held(f"day-{day}", holder, file)

    def _holder(self) -> dict[str, Any]:
        days = [[one.start.isoformat(), one.end.isoformat()] for one in self.ranges]
        return super()._holder() | {"days": days}


def _held(name: str, holder: dict[str, Any], file: Path) -> LockedError:
    return LockedError(
        f"lease '{name}' is held by run {holder.get('run_id')} (pid {holder.get('pid')} on "
        f"{holder.get('host')}, since {holder.get('start_time')})",
        where=str(file),
        remedy="wait for that run, or stop it; a dead holder's lease is taken over by itself",
    )


def _take_away(file: Path) -> None:
    """Remove the lease of a dead holder."""
    # Renaming first: of two runs that both see the dead holder, one rename fails.
    with suppress(FileNotFoundError):
        stale = file.with_suffix(f".stale-{os.getpid()}")
        file.rename(stale)
        stale.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _is_dead(holder: dict[str, Any]) -> bool:
    if holder.get("host") == socket.gethostname():
        try:
            process = psutil.Process(int(holder["pid"]))
        except (psutil.NoSuchProcess, KeyError, ValueError):
            return True
        started = float(holder.get("process_start", 0))
        return (
            abs(process.create_time() - started) > _START_TOLERANCE_S
            or process.status() == psutil.STATUS_ZOMBIE
        )
    try:
        beat = datetime.fromisoformat(str(holder["heartbeat_time"]))
    except (KeyError, ValueError):
        return True
    return (datetime.now(UTC) - beat).total_seconds() > SILENT_AFTER_S
