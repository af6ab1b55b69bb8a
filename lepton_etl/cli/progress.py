"""Progress of a night on a terminal: a line while a stage runs, a table of the stages at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from lepton_etl.days import Days
from pipelines.nightly import STAGES, Night, Watch


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A running line on a terminal; nothing where the output goes to a file (the log has a line a stage)."""
    if not console.is_terminal:
        yield lambda *_: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def watch(stage: str, days: Days) -> None:
            bar.reset(task, description=f"{stage} {days} ({STAGES.index(stage) + 1}/{len(STAGES)})")

        yield watch


def print_stages(night: Night) -> None:
    """The table of stages with rows, seconds and rows per second, and the lines for the operator."""
    table = RichTable(title=f"run {night.run_id}", title_justify="left")
    for name in ("stage", "days", "state", "rows in", "rows out", "seconds", "rows/s"):
        table.add_column(
            name, justify="left" if name in ("stage", "days", "state") else "right", no_wrap=True
        )
    for stage in night.stages:
        rows = max(stage.rows_in, stage.rows_out)
        rate = f"{rows / stage.duration_s:,.0f}" if rows and stage.duration_s > 0 else "-"
        table.add_row(
            stage.stage, str(stage.days), stage.state, f"{stage.rows_in:,}", f"{stage.rows_out:,}",
            f"{stage.duration_s:.1f}", rate,
        )  # fmt: skip
    # A log has no width of its own; a table cut to 80 columns loses its figures.
    console = Console(width=max(Console().width, 110), soft_wrap=True)
    console.print(table)
    for note in night.notes:
        console.print(note, markup=False, highlight=False)
