"""Nights in real processes that are killed by SIGKILL at a chosen write to the lake.

`Nights` starts this file as a process, which imports the stages, and what they import where it is used, once; each
night is then a child of it, so that it costs its stages and no imports. The fixture `nights` is one for all tests of a
worker. A line of its standard input asks for a night; a line of its standard output says how the child ended. What a
night writes is told as events in their order: "before bronze/reading" and "after bronze/reading" of a commit, "write"
and "made" of any other object (a lease, a summary, a staged file, a new log).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the n-th event (from 1) of those that begin with one of these words; of all events without any."""

    number: int
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a night ended: its exit code, None where it was killed; its last line; what it wrote."""

    exit_code: int | None
    message: str
    events: list[str]

    def count(self, *words: str) -> int:
        return sum(event.startswith(words or "") for event in self.events)


class Nights:
    """The process that runs nights on request; as a context manager it ends with its block."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nights"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT,
        )  # fmt: skip
        assert self._line() == "ready"

    def __enter__(self) -> Nights:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def run(
        self,
        config: Path,
        first: date,
        last: date | None = None,
        kill: Kill | None = None,
        *,
        leave_out: Sequence[str] = (),
    ) -> Ended:
        """Run a night, without the stages to leave out."""
        asked = {
            "config": str(config), "first": str(first), "last": str(last or first), "leave_out": list(leave_out),
            "kill": asdict(kill) if kill else None,
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        ended = Ended(**json.loads(self._line().removeprefix("ended ")))
        if kill is not None:
            assert ended.exit_code is None, f"the night ended before {kill}: {ended.message}"
            assert ended.count(*kill.words) == kill.number
        return ended

    def _line(self) -> str:
        assert self._process.stdout is not None
        # What the night itself prints is none of ours.
        for line in self._process.stdout:
            if line.startswith(("ready", "ended ")):
                return line.strip()
        raise AssertionError("the process of the nights has ended")


@contextmanager
def without(*stages: str) -> Iterator[None]:
    """Whole nights of this process leave these stages out.

    One after publication has to be left: the night is named, and so published, before the last of them.
    """
    from pipelines import nightly

    groups = {group: getattr(nightly, group) for group in ("DAILY", "AFTER_PUBLICATION")}
    for group, names in groups.items():
        setattr(nightly, group, tuple(name for name in names if name not in stages))
    try:
        yield
    finally:
        for group, names in groups.items():
            setattr(nightly, group, names)


def serve() -> None:
    """Run each night that is asked for in a child of this process."""
    from importlib import import_module

    import structlog

    from lepton_etl.models.registry import import_ahead
    from lepton_etl.quality.rules import great_expectations
    from pipelines.nightly import STAGES

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for stage in STAGES:
        import_module(f"pipelines.{stage}")
    import_module("lepton_etl.report.page")
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        # Seconds, of which a child would leave nothing to the next: once one runs such a stage, here.
        for stage, needed in (("gate", great_expectations), ("train", import_ahead)):
            if stage not in asked["leave_out"]:
                needed()
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            with os.fdopen(tell, "w") as events:
                code, message = _night(asked, lambda event: print(event, file=events, flush=True))
                print(f"message {message}", file=events)
            os._exit(code)
        os.close(tell)
        with os.fdopen(told) as events:
            heard = events.read().splitlines()
        _, status = os.waitpid(pid, 0)
        message = heard.pop().removeprefix("message ") if heard and heard[-1].startswith("message ") else ""
        code_or_none = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        print("ended " + json.dumps(asdict(Ended(code_or_none, message, heard))), flush=True)


def _night(asked: dict[str, Any], tell: Callable[[str], None]) -> tuple[int, str]:
    """Run the night in this child; never returns where it is killed."""
    from lepton_etl.config.settings import load
    from lepton_etl.days import Days
    from pipelines import nightly
    from pipelines.engine import InlineEngine

    _watch_writes(Kill(**asked["kill"]) if asked["kill"] else None, tell)
    days = Days(date.fromisoformat(asked["first"]), date.fromisoformat(asked["last"]))
    with without(*asked["leave_out"]):
        done = nightly.run_night(InlineEngine(), load(Path(asked["config"])), days)
    return int(done.exit_code), done.message.partition("\n")[0]


def _watch_writes(kill: Kill | None, tell: Callable[[str], None]) -> None:
    """Tell of every write to the lake, and kill this process at the chosen one."""
    import deltalake

    from lepton_etl.lake import tables
    from lepton_etl.lake.location import Location

    left = kill.number if kill else 0

    def event(what: str) -> None:
        nonlocal left
        tell(what)
        if kill is not None and what.startswith(tuple(kill.words) or ""):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def commits(commit: Callable[..., Any]) -> Callable[..., Any]:
        def committed(where: Any, *given: Any, **named: Any) -> Any:
            place = where.table_uri if isinstance(where, deltalake.DeltaTable) else str(where)
            table = "/".join(place.rstrip("/").rsplit("/", 2)[-2:])
            event(f"before {table}")
            result = commit(where, *given, **named)
            event(f"after {table}")
            return result

        return committed

    def writes(write: Callable[..., Any]) -> Callable[..., Any]:
        def written(place: Location, *given: Any) -> Any:
            event(f"write {place.uri.rsplit('/', 1)[-1]}")
            result = write(place, *given)
            event(f"made {place.uri.rsplit('/', 1)[-1]}")
            return result

        return written

    transaction = deltalake.DeltaTable.create_write_transaction
    deltalake.DeltaTable.create_write_transaction = commits(transaction)  # type: ignore[method-assign]
    tables.write_deltalake = commits(tables.write_deltalake)  # type: ignore[attr-defined]
    for name in ("write", "create", "update", "remove", "take"):
        setattr(Location, name, writes(getattr(Location, name)))


if __name__ == "__main__":
    serve()
