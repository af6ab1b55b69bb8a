"""Timing that a shared machine cannot bend: contenders in turn, on the same cores, several rounds, ratios a round."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from lepton_etl.models.footprint import tree, tree_cpu_s

RESULTS: Final = Path("var/bench")


@dataclass(frozen=True)
class Run:
    """One timed piece of work of one contender."""

    wall_s: float
    cpu_s: float
    rows: int
    worker_peak_mib: float


@dataclass(frozen=True)
class Figure:
    """One line of a benchmark's JSON."""

    name: str
    value: float
    unit: str
    target: str | None
    ok: bool | None
    machine: str
    date: str
    rounds: int


def timed(work: Callable[[], int]) -> Run:
    """Run `work`, which returns the rows it wrote; CPU seconds are those of this process and all below it."""
    before, start = tree_cpu_s(), time.perf_counter()
    rows = work()
    wall_s = time.perf_counter() - start
    return Run(wall_s, tree_cpu_s() - before, rows, _worker_peak_mib())


def _worker_peak_mib() -> float:
    """The largest peak of resident memory among the Python processes here, other than the JVM."""
    peaks = []
    for process in tree():
        status = Path(f"/proc/{process.pid}/status")
        try:
            if process.name() == "java":
                continue
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except (OSError, psutil.NoSuchProcess):
            continue
        peaks.append(int(lines.get("VmHWM", "0 kB").split()[0]) / 1024)
    return max(peaks, default=0.0)


def in_turn(commands: Mapping[str, Sequence[str]], number: int, cores: Sequence[int]) -> dict[str, Run]:
    """Round `number`: each contender once, in an order that turns, each as a process of its own pinned to `cores`.

    A contender prints its Run as the last line of its output. Raises SystemExit naming the one that failed.
    """
    runs: dict[str, Run] = {}
    names = list(commands)
    for name in names[number % len(names) :] + names[: number % len(names)]:
        done = subprocess.run(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), sys.executable, *commands[name]],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"bench: {name} failed:\n{done.stderr[-3000:]}")
        runs[name] = Run(**json.loads(done.stdout.splitlines()[-1]))
        print(f"  round {number + 1} {name}: {runs[name].wall_s:.1f} s", file=sys.stderr, flush=True)
    return runs


def ratio(runs: Mapping[str, list[Run]], ours: str, other: str) -> float:
    """Median over the rounds of our wall time by another's."""
    return statistics.median(a.wall_s / b.wall_s for a, b in zip(runs[ours], runs[other], strict=True))


def print_runs(title: str, runs: Mapping[str, list[Run]], ours: str) -> None:
    """A table of medians; the ratio is ours by theirs, round by round."""
    table = Table(title=title)
    for column in ("contender", "wall s", "CPU s", "rows / CPU s", "worker peak MiB", "ours / this"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for name, done in runs.items():
        wall, cpu, rate, peak = (
            statistics.median(values)
            for values in (
                [run.wall_s for run in done],
                [run.cpu_s for run in done],
                [run.rows / run.cpu_s for run in done],
                [run.worker_peak_mib for run in done],
            )
        )
        share = "" if name == ours else f"{ratio(runs, ours, name):.2f}"
        table.add_row(name, f"{wall:.2f}", f"{cpu:.2f}", f"{rate:,.0f}", f"{peak:,.0f}", share)
    Console(width=110).print(table)


def figure(
    name: str,
    value: float,
    unit: str,
    rounds: int,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """A figure with its target, if it has one: not above `at_most`, not below `at_least`."""
    named = (("<=", at_most), (">=", at_least))
    bounds = [f"{sign} {bound:g}" for sign, bound in named if bound is not None]
    inside = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    return Figure(
        name=name,
        value=round(value, 6),
        unit=unit,
        target=" and ".join(bounds) or None,
        ok=inside if bounds else None,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        rounds=rounds,
    )


def print_figures(title: str, figures: Sequence[Figure]) -> None:
    """One line a figure, with its target and whether it is reached."""
    table = Table(title=title)
    for column in ("figure", "value", "unit", "target", "reached"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for one in figures:
        reached = "" if one.ok is None else ("yes" if one.ok else "NO")
        table.add_row(one.name, f"{one.value:.6g}", one.unit, one.target or "", reached)
    Console(width=130).print(table)


def write(name: str, figures: Sequence[Figure]) -> Path:
    """var/bench/<name>.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    rows: list[dict[str, Any]] = [asdict(row) for row in figures]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return path
