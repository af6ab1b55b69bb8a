"""make bench-night: what a night takes, in units of the smallest thing Spark can do and of peers on the same logs.

Everything of a round runs in the same minutes on the same machine, and only ratios have targets: seconds of a busy or a
slow machine say little. A round is the floor (`bench.night_floor`), the demo's three nights on Spark and on the local
engine, a day of two fleets on both engines and by both peers (`bench.night_peers`), the demo's third night in a lake of
many days, and the same with a large file register. What the peers and we both tell is compared in every round.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import altair as alt
import polars as pl
import vl_convert
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

from bench.measure import RESULTS, Figure, figure, print_figures, write
from bench.night_inputs import DAY, Fleet, hold_since, lay_files, lay_history, make_fleet
from bench.night_peers import NODE_HOUR, PEERS
from bench.watched import DRIVER, JVM, WORKER, Watched, run
from lepton_etl.config.sections import AuditSettings
from lepton_etl.lake.tables import Lake
from lepton_etl.trust.chain import record

PARTS: Final = ("demo", "fleets", "history", "register")
SPARK: Final = "spark"
LOCAL: Final = "local"
ENGINES: Final = (SPARK, LOCAL)
FLOOR: Final = "floor"
NIGHTS: Final = tuple(DAY + timedelta(days=number) for number in range(3))

_WORK: Final = RESULTS / "night"
_PYTHON: Final = Path(sys.executable)
_SUBMIT: Final = (_PYTHON.parent / "spark-submit", "--properties-file", "conf/spark-defaults.conf")
_BETWEEN: Final = "start and end"
_EQUAL: Final = 1e-9


@dataclass(frozen=True)
class Size:
    """How large the inputs are; the ratios of fleets, history and register have targets from `default` on."""

    fleets: tuple[int, int]
    history_days: int
    register_files: int
    largest: int | None = None
    has_targets: bool = True


SIZES: Final = {
    "small": Size((8, 32), 10, 20_000, has_targets=False),
    "default": Size((250, 1000), 90, 1_000_000),
    "full": Size((250, 1000), 90, 1_000_000, largest=4000),
}


@dataclass(frozen=True)
class StageTime:
    """A stage of one night, with the Spark jobs and SQL executions that began in it."""

    name: str
    seconds: float
    jobs: int = 0
    executions: int = 0


@dataclass(frozen=True)
class Done:
    """One timed piece of work of a round."""

    watched: Watched
    stages: tuple[StageTime, ...] = ()
    written_bytes: int = 0

    @property
    def wall_s(self) -> float:
        return self.watched.wall_s

    @property
    def jobs(self) -> int:
        return sum(stage.jobs for stage in self.stages)

    @property
    def executions(self) -> int:
        return sum(stage.executions for stage in self.stages)

    def stage_s(self, name: str) -> float:
        return sum(stage.seconds for stage in self.stages if stage.name == name)


@dataclass
class Rounds:
    """What was done in each round, by name."""

    done: dict[str, list[Done]] = field(default_factory=dict)

    def add(self, name: str, done: Done) -> None:
        self.done.setdefault(name, []).append(done)
        print(f"  {name}: {done.wall_s:.1f} s, {done.watched.cpu_s:.1f} CPU-s", file=sys.stderr, flush=True)

    @property
    def count(self) -> int:
        return len(self.done[FLOOR])

    def median(self, of: Callable[[Done], float], name: str) -> float:
        return statistics.median(map(of, self.done[name]))

    def each(self, of: Callable[[Mapping[str, Done]], float]) -> float:
        """Median over the rounds of a figure of one round."""
        whole = {name: runs for name, runs in self.done.items() if len(runs) == self.count}
        return statistics.median(
            of({name: runs[number] for name, runs in whole.items()}) for number in range(self.count)
        )

    def ratio(
        self,
        fold: Callable[[Iterable[float]], float],
        names: Sequence[str],
        base_of: Callable[[Done], float],
        of: Callable[[Done], float] | None = None,
        base: str = FLOOR,
    ) -> float:
        """Median over the rounds of a fold of some pieces of work over another piece, the floor by default."""
        take = of or base_of

        def of_round(one: Mapping[str, Done]) -> float:
            return fold(take(one[name]) for name in names) / base_of(one[base])

        return self.each(of_round)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="default", choices=list(SIZES))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    chosen = parser.parse_args()
    size, parts = SIZES[chosen.size], set(chosen.parts)
    if parts & {"history", "register"}:
        parts.add("demo")
    fleets = [make_fleet(_WORK / f"fleet-{nodes}", nodes) for nodes in size.fleets if "fleets" in parts]
    if parts & {"demo"}:
        run(_simulate(_WORK / "demo-fleet"))
    rounds = Rounds()
    for number in range(chosen.rounds):
        print(f"round {number + 1} of {chosen.rounds}", file=sys.stderr, flush=True)
        one_round(rounds, size, parts, fleets, is_even=number % 2 == 0)
    if size.largest is not None and "fleets" in parts:
        largest = make_fleet(_WORK / f"fleet-{size.largest}", size.largest)
        rounds.add(f"{largest.nodes} nodes, {SPARK}", fleet_night(largest, SPARK))
    figures = [
        *demo_figures(rounds, parts),
        *fleet_figures(rounds, size, parts),
        *more_figures(rounds, size, parts),
    ]
    print_work(rounds, fleets)
    print_stages(rounds)
    print_figures(f"The night: medians of {chosen.rounds} rounds, SIZE={chosen.size}", figures)
    picture = RESULTS / "night.svg"
    picture.write_text(draw(rounds), encoding="utf-8")
    print(f"figures: {write('night', figures)}; where the time goes: {picture}")
    if any(row.ok is False for row in figures):
        raise SystemExit(1)


def one_round(rounds: Rounds, size: Size, parts: set[str], fleets: Sequence[Fleet], *, is_even: bool) -> None:
    """Each piece of work once; the engines and the peers in an order that turns."""
    order = ENGINES if is_even else ENGINES[::-1]
    rounds.add(FLOOR, floor())
    if "demo" in parts:
        for engine in order:
            demo(rounds, engine, size, parts if engine == LOCAL else set())
    for fleet in fleets:
        for engine in order:
            rounds.add(f"{fleet.nodes} nodes, {engine}", fleet_night(fleet, engine))
        ours = _our_hours(_WORK / f"night-{fleet.nodes}-{order[-1]}")
        for peer in PEERS if is_even else PEERS[::-1]:
            rounds.add(f"{fleet.nodes} nodes, {peer}", fleet_peer(fleet, peer))
            check_equal(
                ours, _WORK / f"night-{fleet.nodes}-{peer}" / NODE_HOUR, f"{fleet.nodes} nodes, {peer}"
            )


def floor() -> Done:
    folder = _fresh("floor")
    return Done(run([*_SUBMIT, *_python(), "bench/night_floor.py", folder / "table"]))


def demo(rounds: Rounds, engine: str, size: Size, parts: set[str]) -> None:
    """The three nights of `make demo`; in a lake of many days, and with a large register, the third one again."""
    fleet, site = _WORK / "demo-fleet", _fresh(f"demo-{engine}") / "site"
    site.mkdir()
    for name in ("config.yaml", "inventory.csv", "meters.csv"):
        shutil.copy2(fleet / name, site)
    # In every lake: one that learns of it later makes all days of it anew.
    hold_since(site, NIGHTS[0], NIGHTS[0] - timedelta(days=size.history_days))
    before = _WORK / "demo-two-nights"
    for number, day in enumerate(NIGHTS, start=1):
        if number == len(NIGHTS) and parts & {"history", "register"}:
            _copy(site, before)
        _deliver(fleet, site, day)
        rounds.add(f"demo night {number}, {engine}", night(site, day, engine))
    if engine == SPARK:
        for name, words in (("models", ("models",)), ("tables", ("tables", "show", "gold/cluster_day"))):
            rounds.add(f"demo {name}", Done(run([*_command(*words), "--config", site / "config.yaml"])))
    for name in ("history", "register"):
        if name not in parts:
            continue
        laid = _WORK / f"demo-{name}-{size.history_days if name == 'history' else size.register_files}"
        if not (laid / ".done").exists():
            _copy(before, laid)
            if name == "history":
                lay_history(Lake(laid / "lake"), NIGHTS[0], size.history_days - 2)
                # The nights of that history would have: what is measured is one night's audit, not 90.
                record(Lake(laid / "lake"), AuditSettings(), "history")
            else:
                lay_files(Lake(laid / "lake"), NIGHTS[0], size.register_files)
            (laid / ".done").touch()
        _copy(laid, site)
        _deliver(fleet, site, NIGHTS[-1])
        rounds.add(f"demo night 3 with {name}, {engine}", night(site, NIGHTS[-1], engine))


def _simulate(folder: Path) -> list[str | Path]:
    """What `make demo` simulates."""
    faults = [word for fault in ("gaps", "duplicates", "bad_lines") for word in ("--fault", fault)]
    shape = [
        "--seed",
        "42",
        "--date",
        str(DAY),
        "--days",
        str(len(NIGHTS)),
        "--clusters",
        "2",
        "--nodes",
        "4",
    ]
    return [*_command("simulate"), folder, *shape, *faults]


def _deliver(fleet: Path, site: Path, day: date) -> None:
    """Put the logs of a day into the site's landing folder, as a collector would."""
    for file in sorted((fleet / "landing").glob(f"*/*-{day}.*")):
        folder = site / "landing" / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, folder)


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def fleet_night(fleet: Fleet, engine: str) -> Done:
    site = _fresh(f"night-{fleet.nodes}-{engine}")
    for name in ("config.yaml", "inventory.csv"):
        shutil.copy2(fleet.folder / name, site)
    (site / "landing").symlink_to((fleet.folder / "landing").resolve())
    return night(site, DAY, engine)


def fleet_peer(fleet: Fleet, peer: str) -> Done:
    out = _fresh(f"night-{fleet.nodes}-{peer}")
    done = run([_PYTHON, "-m", "bench.night_peers", peer, fleet.folder / "landing" / "ipmi", out])
    return Done(done, written_bytes=_bytes_below(out))


def night(site: Path, day: date, engine: str) -> Done:
    """A night by the command that a person gives, with its stages and, on Spark, its jobs and SQL executions."""
    lake, began, events = site / "lake", datetime.now(UTC), _fresh("events")
    before = _bytes_below(lake)
    of_night: list[str | Path] = ["--config", site / "config.yaml", "--date", str(day)]
    if engine == SPARK:
        done = run([*_SUBMIT, *_python(), *_logged(events), "jobs/nightly.py", *of_night])
    else:
        done = run([*_command("nightly"), *of_night, "--engine", LOCAL])
    return Done(done, _stages(lake, began, _events(events)), _bytes_below(lake) - before)


def _command(*words: str) -> list[str | Path]:
    return [_PYTHON, "-c", "from lepton_etl.cli.main import run; run()", *words]


def _python() -> list[str]:
    # The interpreter that runs this, wherever the environment stands.
    return ["--conf", f"spark.pyspark.python={sys.executable}"]


def _logged(folder: Path) -> list[str]:
    settings = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": folder.resolve().as_uri(),
        "spark.eventLog.rolling.enabled": "false",
        "spark.eventLog.compress": "false",
    }
    return [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]


def _events(folder: Path) -> list[tuple[str, datetime]]:
    """Kind and time of each job and SQL execution that Spark's own event log names."""
    found = []
    for file in folder.iterdir():
        for line in file.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["Event"] == "SparkListenerJobStart":
                found.append(("job", event["Submission Time"]))
            elif event["Event"].endswith("SparkListenerSQLExecutionStart"):
                found.append(("execution", event["time"]))
    return [(kind, datetime.fromtimestamp(at / 1000, UTC)) for kind, at in found]


def _stages(lake: Path, began: datetime, events: Iterable[tuple[str, datetime]]) -> tuple[StageTime, ...]:
    """The stages of the run that began then, in their order, from the lake's own record."""
    rows = pl.DataFrame(pa_table(lake / "ops/stage_run")).filter(pl.col("start_time") >= began)
    seen = list(events)
    found = []
    for row in rows.sort("start_time").to_dicts():
        kinds = [kind for kind, at in seen if row["start_time"] <= at < row["end_time"]]
        found.append(StageTime(row["stage"], row["duration_s"], kinds.count("job"), kinds.count("execution")))
    counted = {kind: sum(1 for one, _ in seen if one == kind) for kind in ("job", "execution")}
    rest = StageTime(
        _BETWEEN,
        0.0,
        counted["job"] - sum(stage.jobs for stage in found),
        counted["execution"] - sum(stage.executions for stage in found),
    )
    return (*found, rest)


def pa_table(path: Path) -> Any:
    return DeltaTable(str(path)).to_pyarrow_table()


def _fresh(name: str) -> Path:
    folder = _WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _our_hours(site: Path) -> pl.DataFrame:
    """Node-hours of our lake: readings as bronze has them, energy as gold says it was measured."""
    hour = pl.col("reading_time").dt.truncate("1h").alias("hour_start")
    reading = pl.scan_delta(str(site / "lake/bronze/reading"))
    counted = (
        reading.filter(pl.col("source_name") == "bmc")
        .group_by("node_id", hour)
        .agg(pl.len().cast(pl.Int64).alias("readings"))
        .collect()
    )
    energy = pl.DataFrame(pa_table(site / "lake/gold/node_hour")).select(
        "node_id", "hour_start", pl.col("it_energy_measured_kwh").alias("energy_kwh")
    )
    return counted.join(energy, on=["node_id", "hour_start"], how="full", coalesce=True)


def check_equal(ours: pl.DataFrame, path: Path, name: str) -> None:
    """Raise SystemExit unless a peer's node-hours have our counts of readings and our measured energy."""
    theirs = pl.DataFrame(pa_table(path))
    joined = ours.join(theirs, on=["node_id", "hour_start"], how="full", suffix="_peer")
    same = (pl.col("readings") == pl.col("readings_peer")) & (
        (pl.col("energy_kwh") - pl.col("energy_kwh_peer")).abs() <= _EQUAL * pl.col("energy_kwh").abs()
    )
    other = joined.filter(~same.fill_null(value=False))
    if other.height or joined.is_empty():
        raise SystemExit(
            f"bench: {name}: {other.height} of {joined.height} node-hours differ:\n{other.head(5).to_dicts()}"
        )


def wall_s(done: Done) -> float:
    return done.watched.wall_s


def cpu_s(done: Done) -> float:
    return done.watched.cpu_s


def demo_figures(rounds: Rounds, parts: set[str]) -> list[Figure]:
    """The demo's nights in units of the floor."""
    if "demo" not in parts:
        return []
    found = []
    for engine, at_most in ((SPARK, 3.0), (LOCAL, 1.5)):
        names = [_demo_night(number, engine) for number in (1, 2, 3)]
        worst = rounds.ratio(max, names, wall_s)
        title = f"demo night on {engine} / floor, the worst of three"
        found += [
            figure(title, worst, "ratio", rounds.count, at_most),
            figure(f"{title}, CPU seconds", rounds.ratio(max, names, cpu_s), "ratio", rounds.count),
        ]
    nights = [_demo_night(number, SPARK) for number in (1, 2, 3)]
    spark = [done for name in nights for done in rounds.done[name]]
    whole = rounds.ratio(sum, [*nights, "demo models", "demo tables"], wall_s)
    found += [
        figure(
            "SQL executions of a demo night", max(done.executions for done in spark), "1", rounds.count, 10
        ),
        figure("Spark jobs of a demo night", max(done.jobs for done in spark), "1", rounds.count, 30),
        figure("make demo without its simulation / floor", whole, "ratio", rounds.count, 11.0),
    ]
    for stage in ("gate", "train", "score", "report"):
        share = rounds.ratio(max, [_demo_night(3, LOCAL)], wall_s, partial(_stage_s, stage))
        found.append(figure(f"stage {stage} with its imports / floor, {LOCAL}", share, "ratio", rounds.count))
    return found


def _demo_night(number: int, engine: str) -> str:
    return f"demo night {number}, {engine}"


def _stage_s(stage: str, done: Done) -> float:
    return done.stage_s(stage)


@dataclass(frozen=True)
class _Beside:
    """One engine's fleet nights beside the faster of the peers, in one round."""

    engine: str
    small: int
    large: int

    def ours_s(self, one: Mapping[str, Done], nodes: int) -> float:
        return one[f"{nodes} nodes, {self.engine}"].wall_s

    def peer_s(self, one: Mapping[str, Done], nodes: int) -> float:
        return min(one[f"{nodes} nodes, {peer}"].wall_s for peer in PEERS)

    def whole(self, one: Mapping[str, Done]) -> float:
        return self.ours_s(one, self.large) / self.peer_s(one, self.large)

    def marginal(self, one: Mapping[str, Done]) -> float:
        """What a further reading costs, over what it costs the peer; nan where the peer took no longer."""
        peer_s = self.peer_s(one, self.large) - self.peer_s(one, self.small)
        ours_s = self.ours_s(one, self.large) - self.ours_s(one, self.small)
        return ours_s / peer_s if peer_s > 0 else math.nan

    def a_row(self, one: Mapping[str, Done]) -> float:
        return self.ours_s(one, self.large) / self.ours_s(one, self.small) * self.small / self.large


def fleet_figures(rounds: Rounds, size: Size, parts: set[str]) -> list[Figure]:
    """A fleet's night beside the peers', and what a further reading costs."""
    if "fleets" not in parts:
        return []
    small, large = size.fleets
    found = []
    for engine, over_peer in ((SPARK, 2.5), (LOCAL, 2.0)):
        beside, night_of = _Beside(engine, small, large), f"night of {large} nodes on {engine}"
        for title, of, bound in (
            (f"{night_of} / faster peer", beside.whole, over_peer),
            (f"a further reading, {engine} / faster peer", beside.marginal, 1.5),
            (f"cost of a row, {large} / {small} nodes, {engine}", beside.a_row, 1.05),
        ):
            value = rounds.each(of)
            found.append(figure(title, value, "ratio", rounds.count, bound if size.has_targets else None))
        found += _memory(night_of, rounds.done[f"{large} nodes, {engine}"])
    if size.largest is not None:
        of_largest = rounds.done[f"{size.largest} nodes, {SPARK}"]
        found += _memory(f"night of {size.largest} nodes on {SPARK}", of_largest)
    return found


def _memory(title: str, runs: Sequence[Done]) -> list[Figure]:
    peaks = {kind: _peak_mib(runs, kind) for kind in (JVM, DRIVER, WORKER)}
    return [
        figure(f"{title}: peak memory, {kind}", mib, "MiB", len(runs)) for kind, mib in peaks.items() if mib
    ]


def _peak_mib(runs: Sequence[Done], kind: str) -> float:
    return max(done.watched.peak_mib.get(kind, 0.0) for done in runs)


def more_figures(rounds: Rounds, size: Size, parts: set[str]) -> list[Figure]:
    """What a long history and many known files add to the demo's third night."""
    words = {
        "history": f"{size.history_days} days before it",
        "register": f"{size.register_files:,} files known",
    }
    plain = _demo_night(3, LOCAL)
    return [
        figure(
            f"third demo night with {words[name]} / without, {LOCAL}",
            rounds.ratio(max, [f"demo night 3 with {name}, {LOCAL}"], wall_s, base=plain),
            "ratio",
            rounds.count,
            1.1 if size.has_targets else None,
        )
        for name in ("history", "register")
        if name in parts
    ]


def print_work(rounds: Rounds, fleets: Sequence[Fleet]) -> None:
    """A line a piece of work: seconds, memory, Spark's counts, bytes written a raw byte."""
    table = Table(title="Each piece of work, medians over the rounds")
    kinds = (JVM, DRIVER, WORKER)
    peaks = [f"{kind} MiB" for kind in kinds]
    for column in ("work", "wall s", "/ floor", "CPU s", "jobs", "SQL", *peaks, "written / raw"):
        table.add_column(column, justify="left" if column == "work" else "right")
    raw = {str(fleet.nodes): fleet.raw_bytes for fleet in fleets}
    base = rounds.median(wall_s, FLOOR)
    for name, runs in rounds.done.items():
        seconds, on_spark = rounds.median(wall_s, name), name.endswith(SPARK)
        text_bytes = raw.get(name.split()[0])
        table.add_row(
            name,
            f"{seconds:.1f}",
            f"{seconds / base:.2f}",
            f"{rounds.median(cpu_s, name):.1f}",
            str(max(done.jobs for done in runs)) if on_spark else "",
            str(max(done.executions for done in runs)) if on_spark else "",
            *(f"{peak:,.0f}" if peak else "" for peak in (_peak_mib(runs, kind) for kind in kinds)),
            f"{runs[0].written_bytes / text_bytes:.3f}" if text_bytes else "",
        )
    Console(width=140).print(table)


def _nights(rounds: Rounds) -> list[str]:
    return [name for name, runs in rounds.done.items() if runs[0].stages]


def print_stages(rounds: Rounds) -> None:
    """Seconds of each stage by night; on Spark with jobs and SQL executions, such as 3.1 (2, 0)."""
    table = Table(title="Seconds of each stage; on Spark (jobs, SQL executions)")
    table.add_column("night")
    names = list(
        dict.fromkeys(stage.name for name in _nights(rounds) for stage in rounds.done[name][0].stages)
    )
    for stage in names:
        table.add_column(stage, justify="right")
    for name in _nights(rounds):
        cells = []
        for stage in names:
            of_stage = [one for one in rounds.done[name][-1].stages if one.name == stage]
            counts = (sum(one.jobs for one in of_stage), sum(one.executions for one in of_stage))
            seconds = f"{_stage_median_s(rounds, name, stage):.1f}"
            cells.append(f"{seconds} ({counts[0]}, {counts[1]})" if name.endswith(SPARK) else seconds)
        table.add_row(name, *cells)
    Console(width=200).print(table)


def _stage_median_s(rounds: Rounds, name: str, stage: str) -> float:
    if stage == _BETWEEN:
        return rounds.median(lambda done: done.wall_s - sum(one.seconds for one in done.stages), name)
    return rounds.median(lambda done: done.stage_s(stage), name)


def draw(rounds: Rounds) -> str:
    """Stacked bars, a night each: where the time goes, as SVG."""
    rows: list[dict[str, Any]] = [
        {
            "night": name,
            "stage": stage,
            "order": order,
            "seconds": round(_stage_median_s(rounds, name, stage), 3),
        }
        for name in _nights(rounds)
        for order, stage in enumerate(dict.fromkeys(one.name for one in rounds.done[name][0].stages))
    ]
    chart = (
        alt.Chart(alt.InlineData(values=rows), title="Where the time of a night goes, s of wall time")
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q", title="s"),
            y=alt.Y("night:N", sort=_nights(rounds), title=None, axis=alt.Axis(labelLimit=300)),
            color=alt.Color(
                "stage:N",
                sort=list(dict.fromkeys(row["stage"] for row in rows)),
                scale=alt.Scale(scheme="tableau20"),
                title="stage",
            ),
            order=alt.Order("order:Q"),
        )
        .properties(width=720)
    )
    svg: str = vl_convert.vegalite_to_svg(json.dumps(chart.to_dict()))
    return svg


if __name__ == "__main__":
    main()
