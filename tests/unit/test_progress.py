"""What a person sees of a night: time left on a terminal, plain lines elsewhere, Spark's work where there was any."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from lepton_etl.cli.progress import outcome, time_left, watching
from lepton_etl.days import Days
from lepton_etl.lake.runs import StageRecord
from pipelines.engine import LocalEngine

DAYS = Days.of(date(2025, 6, 3))
START = datetime(2025, 6, 4, 2, tzinfo=UTC)


def record(jobs: int = 0) -> StageRecord:
    return StageRecord(
        "bronze", DAYS, START, START + timedelta(seconds=4), "done", 1000, 800, "", {}, {}, spark_jobs=jobs
    )


def test_time_left_follows_the_rate_so_far() -> None:
    assert time_left(30.0, 10, 40) == ", 1:30 left"
    assert time_left(30.0, 0, 40) == time_left(30.0, 40, 40) == ""


def test_a_stage_ends_in_one_line() -> None:
    assert outcome(record()) == "bronze 2025-06-03 done: 1,000 rows in, 800 out, 4.0 s, 250 rows/s"
    assert outcome(record(2)).endswith("250 rows/s, 2 jobs, 0 SQL executions")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_pipe_and_a_dumb_terminal_get_plain_lines(is_terminal: bool) -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=200, _environ={"TERM": "dumb"})
    with watching(console) as watch:
        watch.begins("bronze", DAYS)
        watch.tasks(1, 2)
        watch.ends(record())
    first, last = text.getvalue().splitlines()
    assert first == "bronze 2025-06-03 (1/12)"
    assert last == outcome(record())


def test_a_terminal_shows_tasks_and_the_rate_of_the_stage_before() -> None:
    text = StringIO()
    terminal = Console(file=text, force_terminal=True, width=200, _environ={"TERM": "xterm"})
    with watching(terminal) as watch:
        watch.begins("bronze", DAYS)
        watch.ends(record())
        watch.begins("silver", DAYS)
        watch.tasks(3, 8)
    assert "silver 2025-06-03 (2/12): 3 of 8 tasks" in text.getvalue()
    assert "250 rows/s" in text.getvalue()


def test_an_engine_tells_of_every_task() -> None:
    told: list[tuple[int, int]] = []
    with LocalEngine(2) as engine:
        engine.progress = lambda done, total: told.append((done, total))
        assert engine.map(abs, [-1, -2, -3]) == [1, 2, 3]
    assert told == [(1, 3), (2, 3), (3, 3)]
