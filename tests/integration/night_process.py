"""A real process that runs nights, and is killed by SIGKILL after its n-th commit to gold: for test_killed_night.

Modules are imported once; each night is then a child of this process, so that it costs its stages and no imports. A
line of standard input asks for a night (settings, first and last day, commits to gold before it is killed, or none); a
line of standard output says how the child ended and how many commits to gold it had made.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import deltalake

from lepton_etl.lake import tables

COMMITS = "commits.count"


def main() -> None:
    from pipelines.nightly import STAGES

    for stage in STAGES:
        import_module(f"pipelines.{stage}")
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(night(Path(asked["settings"]), asked["first"], asked["last"], asked["commits"]))
        _, status = os.waitpid(pid, 0)
        ended = (
            {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"exit": os.WEXITSTATUS(status)}
        )
        count = Path(asked["settings"]).with_name(COMMITS)
        print(json.dumps(ended | {"commits": int(count.read_text())}), flush=True)


def night(settings_file: Path, first: str, last: str, most_commits: int | None) -> int:
    """Run the night in this child; never returns where it is killed."""
    from lepton_etl.config.settings import load
    from lepton_etl.days import Days
    from pipelines.engine import InlineEngine
    from pipelines.nightly import run_night

    kill_after(most_commits, settings_file.with_name(COMMITS))
    settings = load(settings_file)
    done = run_night(InlineEngine(), settings, Days(date.fromisoformat(first), date.fromisoformat(last)))
    if done.exit_code:
        print(done.message, file=sys.stderr, flush=True)
    return int(done.exit_code)


def kill_after(most: int | None, count: Path) -> None:
    """Count the commits to gold and ops/night in a file, and kill this process once there are so many."""
    made = 0
    count.write_text("0")

    def counting(commit: Callable[..., Any]) -> Callable[..., Any]:
        def counted(where: Any, *given: Any, **named: Any) -> Any:
            nonlocal made
            place = where.table_uri if isinstance(where, deltalake.DeltaTable) else str(where)
            result = commit(where, *given, **named)
            if "/gold/" in place or place.rstrip("/").endswith("/ops/night"):
                made += 1
                count.write_text(str(made))
                if made == most:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    transaction = deltalake.DeltaTable.create_write_transaction
    deltalake.DeltaTable.create_write_transaction = counting(transaction)  # type: ignore[method-assign]
    tables.write_deltalake = counting(tables.write_deltalake)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
