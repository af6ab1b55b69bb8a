"""`make soak`: nights in real processes that are killed at random, again and again, over random faults of the input.

A campaign has a seed. It simulates a small fleet with faults in its logs and bad files beside them, runs its nights
undisturbed, then runs them again at the same place while the driver, one of its workers, Spark's JVM or all processes
at once are killed (SIGKILL, or SIGTERM) at random moments, some under a clock that is hours off. After that every
table is equal to the undisturbed run's, every record of every file is accounted for, nothing of the lake is damaged,
and no lease, run, batch or day is left open.

    python -m tests.faults.soak [--kills 100] [--spark 30] [--minutes 60] [--seed N]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import psutil
import yaml

from lepton_etl.lake.check import check_lake
from lepton_etl.lake.compare import compare_lakes
from lepton_etl.lake.file_register import FileRegister
from lepton_etl.lake.runs import waiting_days
from lepton_etl.lake.tables import Lake
from lepton_etl.publication.published_rows import RowKey, last_said
from lepton_etl.schema.logs import FILE, JOB, READING, REJECT
from lepton_etl.schema.operations import RUN, STAGE_RUN
from lepton_etl.schema.publication import PUBLICATION, RESTATEMENT
from lepton_etl.schema.tables import TABLES
from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan
from lepton_etl.simulator.simulate import simulate
from tests.faults.bad_input import RECIPES, SOURCES
from tests.faults.site import DAY
from tests.nights import PROJECT

KILLS_A_CAMPAIGN = 10
NIGHT_TIMEOUT_S = 1200
START_S = 4.0
# A feed without readings opens the ledger, which stops the night.
FAULTS = (Fault.GAPS, Fault.DUPLICATES, Fault.BAD_LINES, Fault.TRUNCATED_GZIP)
VICTIMS = {"local": ("driver", "worker", "all", "stop"), "spark": ("driver", "worker", "jvm", "all", "stop")}
SHIFTS_S = (0, 0, 0, 0, 3600, -3600, 93_600, -93_600)
# From pipelines.nightly.STAGES, whose import costs seconds.
STAGE_NAMES = (
    "bronze", "silver", "gate", "gold", "kpi", "publish",
    "forecast", "train", "score", "diagnose", "recommend", "report",
)  # fmt: skip
# How often a figure was published is a story of the runs: one that was stopped later has published more. What is
# compared is the last word on each row.
HISTORIES = (PUBLICATION.name, RESTATEMENT.name)
COMPARED = [
    name for name in TABLES if name.startswith(("bronze/", "silver/", "gold/")) and name not in HISTORIES
]


def shifted_clock(folder: Path) -> Path | None:
    """The library that shifts a process's wall clock; None where no C compiler is there to make it."""
    library = folder / "clock.so"
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-O2",
        "-o",
        str(library),
        str(Path(__file__).with_name("clock.c")),
        "-ldl",
    ]
    with suppress(OSError):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return library
    return None


class Night:
    """A night in a process of its own, which knows when each of its stages begins."""

    def __init__(self, config: Path, day: date, engine: str, clock: Path | None, shift_s: int) -> None:
        environment = dict(os.environ)
        if clock is not None and shift_s:
            environment |= {"LD_PRELOAD": str(clock), "LEPTON_SOAK_SHIFT_S": str(shift_s)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lepton_etl.cli", "nightly", "--engine", engine, "--config", str(config),
             "--date", str(day)],
            cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.stages = 0
        self._told = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.lines.append(line.rstrip())
                self.stages += " (" in line and line.split(" ", 1)[0] in STAGE_NAMES
                self._told.notify_all()

    def reaches(self, stages: int, delay_s: float) -> bool:
        """Wait until so many stages have begun and some seconds more; whether it still runs then."""
        with self._told:
            while self.stages < stages and self.process.poll() is None:
                self._told.wait(0.2)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(delay_s)
        return self.process.poll() is None

    def strike(self, victim: str, rng: random.Random) -> bool:
        """Kill it, or one of its processes; whether there was one to kill."""
        driver = psutil.Process(self.process.pid)
        try:
            others = driver.children(recursive=True)
            if victim == "stop":
                driver.send_signal(signal.SIGTERM)
                return True
            if victim == "driver":
                driver.kill()
                return True
            if victim == "all":
                os.killpg(self.process.pid, signal.SIGKILL)
                return True
            jvms = [one for one in others if one.name() == "java"]
            # The pool's processes and Spark's Python workers: those that have no children of their own.
            workers = [one for one in others if one.name() != "java" and not one.children()]
            chosen = jvms if victim == "jvm" else workers
            if chosen:
                rng.choice(chosen).kill()
            return bool(chosen)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False

    def end(self) -> int:
        """Wait for its end; what it leaves behind is ended too."""
        try:
            code = self.process.wait(NIGHT_TIMEOUT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@dataclass
class Campaign:
    """The nights of one seed, at one place."""

    seed: int
    engine: str
    kills: int
    folder: Path
    days: int = 2
    clock: Path | None = None
    struck: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.site = self.folder / "site"
        self.config = self.site / "config.yaml"
        self.dates = [DAY + timedelta(days=day) for day in range(self.days)]

    def run(self) -> list[str]:
        """Run it all; what does not hold, a line each."""
        self._prepare()
        codes = self._quiet()
        faults = list(self._disturbed(codes))
        return faults + list(self._differences())

    def _prepare(self) -> None:
        plan = FleetPlan(
            seed=self.seed, first_date=DAY, days=self.days, bmc_period_s=300, gpu_period_s=300,
            faults=tuple(fault for fault in FAULTS if self.rng.random() < 0.5),
            clusters=(ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),),
        )  # fmt: skip
        simulate(plan, self.site)
        settings = yaml.safe_load(self.config.read_text())
        # The nodes of the bad files have no inventory, no jobs, and no meter that they are behind.
        limits = ("unattributed_max_ratio", "residual_max_ratio", "residual_hour_max_ratio")
        settings["ledger"] = settings.get("ledger", {}) | dict.fromkeys(limits, 1.0)
        settings["quality"] = settings.get("quality", {}) | {"expectations": str(self._open_gate())}
        settings["sources"] += [
            one | {"path": one["path"].replace("landing/", "landing/bad/")} for one in SOURCES
        ]
        self.config.write_text(yaml.safe_dump(settings))
        bad = self.site / "landing" / "bad"
        bad.mkdir()
        for number in range(self.rng.randrange(3, 8)):
            recipe = self.rng.choice(RECIPES[self.rng.choice(list(RECIPES))])
            file = recipe(self.rng, f"n{number + 1}")
            (bad / file.name).write_bytes(file.content)
        # Each night finds the logs of its day.
        self.later = {}
        for day in self.dates[1:]:
            for file in sorted((self.site / "landing").rglob(f"*{day}*")):
                self.later[file] = self.folder / f"held-{day}" / file.name
        self.hold_back()

    def _open_gate(self) -> Path:
        """The rules as shipped, which only warn: bad files are there to break them."""
        rules = self.folder / "expectations"
        shutil.copytree(PROJECT / "conf" / "expectations", rules)
        for file in rules.iterdir():
            file.write_text(file.read_text().replace("severity: fail", "severity: warn"))
        return rules

    def hold_back(self) -> None:
        for file, place in self.later.items():
            place.parent.mkdir(exist_ok=True)
            file.rename(place)

    def deliver(self, day: date) -> None:
        for file, place in self.later.items():
            if place.parent.name.endswith(str(day)):
                place.rename(file)

    def _quiet(self) -> list[int]:
        """The nights undisturbed, on the local engine: the tables are those of any engine."""
        codes = []
        for day in self.dates:
            self.deliver(day)
            code, lines = self._whole(day, "local")
            # 3: the bad files say more than the meters can bear.
            assert code in (0, 3, 6), "\n".join(lines[-5:])
            codes.append(code)
        quiet = self.folder / "quiet"
        quiet.mkdir()
        # What a night leaves outside of the lake is state too: models, docs, pages.
        for path in [*self.site.iterdir()]:
            if path.name in ("lake", "report", "quality") or path.name.startswith("ml"):
                path.rename(quiet / path.name)
        stages = Lake(quiet / "lake").read(STAGE_RUN).sort("start_time")
        self.seconds = {
            (day, number): row["duration_s"]
            for day in self.dates
            for number, row in enumerate(stages.filter(pl.col("date_until") == day).to_dicts(), 1)
        }
        self.hold_back()
        return codes

    def _disturbed(self, codes: list[int]) -> Iterator[str]:
        of_night = Counter(self.rng.choices(self.dates, k=self.kills))
        for day, wanted in zip(self.dates, codes, strict=True):
            self.deliver(day)
            tries = 0
            while of_night[day] > 0 and tries < 4 * self.kills:
                tries += 1
                of_night[day] -= self._one_kill(day)
            code, lines = self._whole(day, self.engine)
            if code != wanted:
                yield f"the night of {day} ended with {code}, undisturbed with {wanted}: {lines[-1:]}"

    def _whole(self, day: date, engine: str) -> tuple[int, list[str]]:
        """Run the day's night: its exit code and what it said.

        One that was stopped for its data may have stopped an earlier day with it, which the next night makes up.
        """
        for _ in range(2):
            night = Night(self.config, day, engine, None, 0)
            code = night.end()
            if code != 3:
                break
        return code, night.lines

    def _one_kill(self, day: date) -> int:
        """Start the night and strike it at a random moment of a random stage; 1 where it was struck."""
        # 0 is the start of the process, 1 the first stage.
        stage = self.rng.randrange(len(STAGE_NAMES) + 1)
        most_s = self.seconds.get((day, stage), START_S) + 0.2
        delay_s, victim = self.rng.random() * most_s, self.rng.choice(VICTIMS[self.engine])
        shift_s = self.rng.choice(SHIFTS_S)
        night = Night(self.config, day, self.engine, self.clock, shift_s)
        struck = night.reaches(stage, delay_s) and night.strike(victim, self.rng)
        code = night.end()
        if struck:
            self.struck.append(victim)
            clock = f", clock {shift_s:+d} s" if self.clock and shift_s else ""
            print(
                f"  seed {self.seed}: {day} in stage {night.stages}, {victim}{clock}: exit {code}",
                flush=True,
            )
        return int(struck)

    def _differences(self) -> Iterator[str]:
        lake, quiet = Lake(self.site / "lake"), Lake(self.folder / "quiet" / "lake")
        for one in compare_lakes(self.folder / "quiet" / "lake", self.site / "lake", only=COMPARED):
            if not one.equal:
                yield from one.lines()
        for name in COMPARED:
            if name.startswith("gold/"):
                seen = [at.as_published().read(TABLES[name]).height for at in (quiet, lake)]
                if seen[0] != seen[1]:
                    yield f"{name}: readers see {seen[1]} rows, undisturbed {seen[0]}"
        said, would_say = (last_words(one) for one in (lake, quiet))
        for key in sorted(said.keys() | would_say.keys()):
            if said.get(key) != would_say.get(key):
                yield f"last published of {key}: {said.get(key)}, undisturbed {would_say.get(key)}"
        yield from not_conserved(lake)
        for finding in check_lake(lake):
            yield f"lepton-etl tables check: {finding}"
        yield from left_open(lake)
        waits, would_wait = (
            {day: waiting.stage for day, waiting in waiting_days(one).items()} for one in (lake, quiet)
        )
        if waits != would_wait:
            yield f"days wait, by stage: {waits}, undisturbed {would_wait}"


def last_words(lake: Lake) -> dict[RowKey, str]:
    """The figures last published of each row, `null` of one that was taken back."""
    return {key: said.figures for key, said in last_said(lake.read(PUBLICATION).to_arrow()).items()}


def not_conserved(lake: Lake) -> Iterator[str]:
    """Each file whose records are not readings + jobs + rejects + duplicates + ignored, or not in the tables."""
    counts = {
        name: dict(lake.read(table).group_by("file_id").len().iter_rows())
        for name, table in (("readings", READING), ("rejects", REJECT), ("jobs", JOB))
    }
    files = lake.read(FILE)
    for row in files.to_dicts():
        parts = sum(row[name] or 0 for name in ("readings", "jobs", "rejects", "duplicates", "ignored"))
        if row["records"] != parts:
            yield f"{row['path']}: {row['records']} records, {parts} accounted for"
        for name, of_file in counts.items():
            found = of_file.get(row["file_id"], 0)
            if row["state"] != "duplicate" and (row[name] or 0) != found:
                yield f"{row['path']}: {row[name]} {name} in the register, {found} in the table"
    unknown = set().union(*counts.values()) - set(files["file_id"])
    if unknown:
        yield f"{len(unknown)} files in the tables that the register does not know"


def left_open(lake: Lake) -> Iterator[str]:
    """What a run should have ended: leases, runs, batches."""
    leases = Path(str(lake.root)) / "_leases"
    yield from (f"lease left: {one.name}" for one in leases.iterdir())
    runs = lake.read(RUN)
    ended = set(runs.filter(pl.col("state") != "running")["run_id"])
    yield from (f"run left open: {run}" for run in sorted(set(runs["run_id"]) - ended))
    if FileRegister(lake).unfinished() is not None:
        yield f"batch left open: {FileRegister(lake).unfinished()}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--kills", type=int, default=100, help="How often something is killed in all.")
    parser.add_argument("--spark", type=int, default=30, help="How many of the kills under Spark.")
    parser.add_argument("--minutes", type=float, default=60, help="No campaign begins after so long.")
    parser.add_argument("--seed", type=int, help="Run this campaign alone.")
    asked = parser.parse_args()
    local = -(-(asked.kills - asked.spark) // KILLS_A_CAMPAIGN)
    engines = ["local"] * local + ["spark"] * -(-asked.spark // KILLS_A_CAMPAIGN)
    seeds = range(1, len(engines) + 1) if asked.seed is None else [asked.seed]
    begun, struck, failed = time.monotonic(), Counter[str](), dict[int, list[str]]()
    with tempfile.TemporaryDirectory(prefix="lepton-soak-") as scratch:
        clock = shifted_clock(Path(scratch))
        if clock is None:
            print("left out: a shifted clock, for there is no C compiler (cc)")
        for seed in seeds:
            if time.monotonic() - begun > 60 * asked.minutes:
                print(f"left out: seeds from {seed} on, after {asked.minutes:g} minutes")
                break
            engine = engines[(seed - 1) % len(engines)]
            campaign = Campaign(seed, engine, KILLS_A_CAMPAIGN, Path(scratch) / str(seed), clock=clock)
            faults = campaign.run()
            struck.update(campaign.struck)
            print(f"seed {seed} on {engine}: {len(campaign.struck)} kills, "
                  f"{'as undisturbed' if not faults else f'{len(faults)} faults'}", flush=True)  # fmt: skip
            for line in faults:
                print(f"  {line}", flush=True)
            if faults:
                failed[seed] = faults
                kept = PROJECT / "var" / "soak" / f"seed-{seed}"
                shutil.rmtree(kept, ignore_errors=True)
                print(f"  both lakes are kept in {shutil.move(campaign.folder, kept)}", flush=True)
            else:
                shutil.rmtree(campaign.folder)
    kinds = ", ".join(f"{count} {victim}" for victim, count in sorted(struck.items()))
    print(f"{struck.total()} of {asked.kills if asked.seed is None else KILLS_A_CAMPAIGN} kills ({kinds}) in "
          f"{(time.monotonic() - begun) / 60:.0f} minutes; failed seeds: {sorted(failed) or 'none'}")  # fmt: skip
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
