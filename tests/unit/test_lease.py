"""Leases of a folder by real processes: one holder, a dead holder gives way, a living one never does."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from lepton_etl.days import Days
from lepton_etl.errors import Exit, LockedError
from lepton_etl.lake.lease import DaysLease, Lease
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.operations import RUN
from pipelines.engine import prepare

THIRD = Days.of(date(2025, 6, 3))
KINDS = ("bronze", "days")
# As the pool of the local engine does: a process that has imported the lake, and costs no import.
FORKED = get_context("forkserver")


@dataclass(frozen=True)
class Holder:
    """A process that takes a lease when it is told to, says whether it got it, and holds it until its end."""

    process: ForkServerProcess
    told: Connection

    def said(self) -> str:
        return str(self.told.recv())

    def go(self) -> None:
        self.told.send("go")

    def stop(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


Start = Callable[..., Holder]


def hold(folder: Path, kind: str, run: str, told: Connection) -> None:
    lease = lease_of(folder, kind, run)
    told.send("ready")
    told.recv()
    try:
        with lease:
            told.send("held")
            told.recv()
    except LockedError:
        told.send("refused")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Holder] = []

    def started(kind: str = "bronze", run: str = "other-run") -> Holder:
        prepare()
        here, there = FORKED.Pipe()
        holder = Holder(FORKED.Process(target=hold, args=(tmp_path, kind, run, there)), here)
        holder.process.start()
        there.close()
        running.append(holder)
        assert holder.said() == "ready"
        return holder

    yield started
    for holder in running:
        holder.kill()


def lease_of(folder: Path, kind: str, run: str) -> Lease:
    lake = Lake(folder)
    return Lease(lake, "bronze", run) if kind == "bronze" else DaysLease(lake, [THIRD], run)


def mine(folder: Path, kind: str) -> Lease:
    return lease_of(folder, kind, "mine")


def test_a_second_run_is_refused_by_name_and_gets_it_afterwards(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with Lease(lake, "bronze", "first"):
        with (
            pytest.raises(LockedError, match="held by run first") as caught,
            Lease(lake, "bronze", "second"),
        ):
            pass
        assert caught.value.exit_code == Exit.LOCKED
    with Lease(lake, "bronze", "second"):
        assert json.loads((tmp_path / "_leases" / "bronze.json").read_text())["run_id"] == "second"
    assert not list((tmp_path / "_leases").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_the_lease_of_a_killed_process_is_free_at_once(tmp_path: Path, start: Start, kind: str) -> None:
    holder = start(kind)
    holder.go()
    assert holder.said() == "held"
    with pytest.raises(LockedError, match="other-run"), mine(tmp_path, kind):
        pass
    holder.kill()
    with mine(tmp_path, kind):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_of_many_that_find_a_dead_holder_at_once_one_gets_its_lease(
    tmp_path: Path, start: Start, kind: str
) -> None:
    dead = start(kind, "dead")
    dead.go()
    assert dead.said() == "held"
    dead.kill()
    racing = [start(kind, f"r{number}") for number in range(4)]
    for one in racing:
        one.go()
    assert sorted(one.said() for one in racing) == ["held", "refused", "refused", "refused"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_holder_that_is_stopped_keeps_its_lease(tmp_path: Path, start: Start, kind: str) -> None:
    """Whatever its file says: a clock that was set, another host's name, or half of a line."""
    holder = start(kind)
    holder.go()
    assert holder.said() == "held"
    holder.stop()
    (file,) = (tmp_path / "_leases").glob("*.json")
    gone = {
        "run_id": "other-run",
        "host": "elsewhere",
        "pid": 2**22,
        "heartbeat_time": "2001-01-01T00:00:00+00:00",
    }
    for content in (json.dumps(gone), '{"run_id": "other-r', ""):
        file.write_text(content)
        with pytest.raises(LockedError), mine(tmp_path, kind):
            pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", ['{"run_id": "dead", "pid": %d}', '{"run_id": "de', ""])
def test_a_file_that_nobody_locks_holds_nothing(tmp_path: Path, kind: str, content: str) -> None:
    """Half written by a run that was killed, or naming a process id that another process has by now."""
    name = "bronze.json" if kind == "bronze" else "days-dead.json"
    (tmp_path / "_leases").mkdir()
    (tmp_path / "_leases" / name).write_text(content % os.getpid() if "%" in content else content)
    with mine(tmp_path, kind):
        pass


def test_days_are_one_lease_and_another_run_gets_those_that_are_free(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    years = Days(date(2022, 1, 1), date(2024, 12, 31))
    june = [Days(date(2025, 6, 1), date(2025, 6, 2)), Days.of(date(2025, 6, 9))]
    with DaysLease(lake, [years], "first"):
        assert [file.name for file in (tmp_path / "_leases").iterdir()] == ["days-first.json"]
        with DaysLease(lake, june, "second"):
            wanted = Days(date(2025, 6, 5), date(2025, 6, 10))
            with (
                pytest.raises(LockedError, match="lease 'day-2025-06-09' is held by run second"),
                DaysLease(lake, [Days.of(date(2025, 7, 1)), wanted], "third"),
            ):
                pass
            # What was refused holds nothing.
            assert {file.name for file in (tmp_path / "_leases").iterdir()} == {
                "days-first.json",
                "days-second.json",
            }
        with DaysLease(lake, [wanted], "third"):
            pass
    assert not list((tmp_path / "_leases").iterdir())


def test_a_lake_whose_lease_was_lost_commits_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with Lease(lake, "bronze", "first"):
        lake.write_rows(RUN, [{"run_id": "first", "state": "running"}])
        # An operator who removes the file by hand: the next run takes it.
        (tmp_path / "_leases" / "bronze.json").unlink()
        with (
            Lease(Lake(tmp_path), "bronze", "second"),
            pytest.raises(LockedError, match="'bronze' of run first was lost"),
        ):
            lake.write_rows(RUN, [{"run_id": "first", "state": "done"}])
    assert lake.read(RUN)["state"].to_list() == ["running"]
