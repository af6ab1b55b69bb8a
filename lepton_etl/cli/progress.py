"""What a person sees of a night: how far it is while it runs, and a table of the stages at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from lepton_etl.days import Days
from lepton_etl.errors import printable
from lepton_etl.lake.runs import StageRecord
from pipelines.nightly import STAGES, Night, Watch


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """Show the running stage with its tasks and the time left on a terminal; elsewhere a plain line a stage."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainLines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield RunningLine(bar, bar.add_task("starting", total=None))


class RunningLine(Watch):
    """One line on a terminal: stage, tasks, time left, and rows and rate of the stage before."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self._heading, self._before = "", ""
        self._start = time.monotonic()

    def begins(self, stage: str, days: Days) -> None:
        self._heading, self._start = _heading(stage, days), time.monotonic()
        self._bar.reset(self._task, description=self._heading + self._before, total=None)

    def tasks(self, done: int, total: int) -> None:
        left = time_left(time.monotonic() - self._start, done, total)
        text = f"{self._heading}: {done} of {total} tasks{left}{self._before}"
        self._bar.update(self._task, description=text, completed=done, total=total)

    def ends(self, record: StageRecord) -> None:
        self._before = f"  ({outcome(record)})"


class PlainLines(Watch):
    """A line as a stage begins and one as it ends, for a log or a pipe."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def begins(self, stage: str, days: Days) -> None:
        self._write(_heading(stage, days))

    def ends(self, record: StageRecord) -> None:
        self._write(outcome(record))


def _heading(stage: str, days: Days) -> str:
    return f"{stage} {days} ({STAGES.index(stage) + 1}/{len(STAGES)})"


def time_left(elapsed_s: float, done: int, total: int) -> str:
    """Return the time that the other tasks of a stage take at the rate so far; nothing before the first."""
    if not 0 < done < total:
        return ""
    seconds = round(elapsed_s / done * (total - done))
    return f", {seconds // 60}:{seconds % 60:02d} left"


def outcome(record: StageRecord) -> str:
    """Return what a stage did in one line: rows, seconds, rate, and Spark jobs where there were any."""
    rows = max(record.rows_in, record.rows_out)
    rate = f", {rows / record.duration_s:,.0f} rows/s" if rows and record.duration_s > 0 else ""
    spark = (
        f", {record.spark_jobs} jobs, {record.sql_executions} SQL executions"
        if record.spark_jobs or record.sql_executions
        else ""
    )
    return (
        f"{record.stage} {record.days} {record.state}: {record.rows_in:,} rows in, {record.rows_out:,} out, "
        f"{record.duration_s:.1f} s{rate}{spark}"
    )


def print_stages(night: Night) -> None:
    """The table of stages with rows, seconds and rows per second, and the lines for the operator."""
    table = RichTable(title=f"run {night.run_id}", title_justify="left")
    left = ("stage", "days", "state")
    for name in (*left, "rows in", "rows out", "seconds", "rows/s", "jobs", "SQL"):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for stage in night.stages:
        rows = max(stage.rows_in, stage.rows_out)
        rate = f"{rows / stage.duration_s:,.0f}" if rows and stage.duration_s > 0 else "-"
        table.add_row(
            stage.stage, str(stage.days), stage.state, f"{stage.rows_in:,}", f"{stage.rows_out:,}",
            f"{stage.duration_s:.1f}", rate, str(stage.spark_jobs), str(stage.sql_executions),
        )  # fmt: skip
    # A log has no width of its own; a table cut to 80 columns loses its figures.
    console = Console(width=max(Console().width, 110), soft_wrap=True)
    console.print(table)
    for note in night.notes:
        console.print(printable(note), markup=False, highlight=False)
