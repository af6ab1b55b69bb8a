"""The run record: one row a state of a run in ops/run, one row a stage in ops/stage_run.

Written without the JVM (delta-rs), so a night spends milliseconds on its own bookkeeping.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import DEVNULL, CalledProcessError, check_output
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.days import Days
from lepton_etl.errors import Exit, LockedError
from lepton_etl.lake.lease import Lease
from lepton_etl.lake.tables import Lake
from lepton_etl.redaction import redact
from lepton_etl.schema.operations import RUN, STAGE_RUN
from lepton_etl.schema.publication import PERIOD

BATCH_KEY: Final = "bronze/file batch"
# Stands for the version of a model whose registry did not answer.
UNANSWERED: Final = -1
# Clocks of machines that share a lake differ by so much without a word.
_SMALL_STEP: Final = timedelta(minutes=1)


def new_run_id(now: datetime | None = None) -> str:
    """A run id that sorts by start time, such as 20250603T020000-1f3c."""
    return f"{(now or datetime.now(UTC)):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}"


def follow_clock(lake: Lake) -> list[str]:
    """Let the times of this run follow those of all earlier ones; a line for the operator where the clock is behind.

    Which run, publication or night is the newest goes by its time. One whose clock was ahead, or a clock that was set
    back, must not put what is said now before what was said then.
    """
    rows = lake.read(RUN, columns=["start_time", "end_time"])
    # A month is closed without a run.
    closed = lake.read(PERIOD, columns=["closed_time"])
    times = pl.concat([rows["start_time"], rows["end_time"], closed["closed_time"]]).drop_nulls()
    newest = max(times.to_list(), default=None)
    if newest is None or (behind := newest - datetime.now(UTC)) < timedelta():
        return []
    # Ids of runs sort by the second.
    lake.clock_behind = behind + timedelta(seconds=1)
    if behind < _SMALL_STEP:
        return []
    by = timedelta(seconds=round(behind.total_seconds()))
    return [
        f"this machine's clock is {by} behind the newest run of the lake, of {newest:%Y-%m-%dT%H:%M:%SZ}; times of "
        "this run go on from there -> set the clock"
    ]


@lru_cache
def code_version() -> str:
    """The package's version, with the git commit where the code runs from a checkout."""
    try:
        released = version("lepton-etl")
    except PackageNotFoundError:
        released = "unknown"
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return released
    try:
        commit = check_output(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], stderr=DEVNULL, text=True
        )
    except (OSError, CalledProcessError):
        return released
    return f"{released}+{commit.strip()}"


@dataclass(frozen=True)
class StageRecord:
    """What one stage did, for the record and for the table at the end of the night."""

    stage: str
    days: Days
    start_time: datetime
    end_time: datetime
    state: str
    rows_in: int
    rows_out: int
    message: str
    input_versions: Mapping[str, int]
    table_versions: Mapping[str, int]
    spark_jobs: int = 0
    sql_executions: int = 0

    @property
    def duration_s(self) -> float:
        return (self.end_time - self.start_time).total_seconds()


class RunRecord:
    """Writes the record of one run."""

    def __init__(
        self, lake: Lake, run_id: str, days: Days, settings_hash: str, stage: str | None = None
    ) -> None:
        self.lake = lake
        self.run_id = run_id
        self._common: dict[str, Any] = {
            "run_id": run_id,
            "date_from": days.start,
            "date_until": days.end,
            "code_version": code_version(),
        }
        self._of_run = {"settings_hash": settings_hash, "stage": stage}
        self._start = lake.now()

    def started(self) -> None:
        self._run("running", None, None, None)

    def finished(self, exit_code: int, message: str) -> None:
        self._run("done" if exit_code == 0 else "failed", self.lake.now(), exit_code, message)

    def stage(self, record: StageRecord) -> None:
        row = self._common | {
            "stage": record.stage,
            "state": record.state,
            "date_from": record.days.start,
            "date_until": record.days.end,
            "start_time": record.start_time,
            "end_time": record.end_time,
            "duration_s": record.duration_s,
            "rows_in": record.rows_in,
            "rows_out": record.rows_out,
            "input_versions": json.dumps(dict(record.input_versions), sort_keys=True),
            "table_versions": json.dumps(dict(record.table_versions), sort_keys=True),
            "message": redact(record.message),
            "spark_jobs": record.spark_jobs,
            "sql_executions": record.sql_executions,
        }
        self.lake.write_rows(STAGE_RUN, [row])

    def _run(self, state: str, end: datetime | None, exit_code: int | None, message: str | None) -> None:
        row = (
            self._common
            | self._of_run
            | {
                "state": state,
                "start_time": self._start,
                "end_time": end,
                "duration_s": (end - self._start).total_seconds() if end else None,
                "exit_code": exit_code,
                "message": None if message is None else redact(message),
            }
        )
        self.lake.write_rows(RUN, [row])


class RunLease(Lease):
    """Held by a run from its first to its last record: it tells a living run from a lost one."""

    def __init__(self, lake: Lake, run_id: str, holder: str | None = None) -> None:
        super().__init__(lake, f"run-{run_id}", holder or run_id)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        # The name is this run's own, and nobody waits for it.
        self.place.remove()


def end_lost_runs(lake: Lake, run_id: str) -> list[str]:
    """Record the end of runs whose process is gone without a word; a line each. `run_id` is the run that does so."""
    runs = lake.read(RUN)
    ended = runs.filter(pl.col("state") != "running")["run_id"].implode()
    is_open = (pl.col("state") == "running") & ~pl.col("run_id").is_in(ended) & (pl.col("run_id") != run_id)
    lost = []
    for row in runs.filter(is_open).to_dicts():
        # A living run holds its lease.
        with suppress(LockedError), RunLease(lake, row["run_id"], run_id):
            message = f"the process was killed or the machine stopped: nothing was heard of it; told by run {run_id}"
            lost.append(row | {"state": "failed", "message": message})
    if lost:
        lake.write_rows(RUN, lost)
    # One that was killed before its first record has left its lease alone.
    for name in RunLease(lake, run_id).folder.names():
        other = name.removeprefix("run-").removesuffix(".json")
        if name == f"run-{other}.json" and other != run_id:
            with suppress(LockedError), RunLease(lake, other, run_id):
                pass
    return [
        f"run {row['run_id']} for {Days(row['date_from'], row['date_until'])} was killed, or its machine stopped"
        for row in lost
    ]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A day that a night was asked for, or reopened, and did not publish."""

    run_id: str
    stage: str | None
    message: str

    @property
    def needs_a_person(self) -> bool:
        """Whether a quality gate stopped it: the same data are stopped again."""
        return self.stage == "gate"


def waiting_days(lake: Lake) -> dict[date, Waiting]:
    """Return the days that the newest whole night which touched them did not publish, and why, in time order."""
    if not lake.exists(RUN):
        return {}
    stages: dict[str, list[dict[str, Any]]] = {}
    # The others say nothing of it, and what each read and wrote is most of a row.
    telling = (pc.field("stage") == "publish") | (pc.field("state") == "failed")
    columns = ["run_id", "stage", "state", "date_from", "date_until", "message", "end_time"]
    for row in lake.read(STAGE_RUN, columns=columns, where=telling).sort("end_time").to_dicts():
        stages.setdefault(row["run_id"], []).append(row)
    runs = lake.read(RUN).filter((pl.col("state") != "running") & pl.col("stage").is_null())
    found: dict[date, Waiting] = {}
    for run in runs.sort("run_id").to_dicts():
        if run["exit_code"] in (Exit.CONFIGURATION, Exit.NO_INPUT, Exit.LOCKED) or run["date_from"] is None:
            continue
        own = Days(run["date_from"], run["date_until"])
        published = run["exit_code"] in (Exit.DONE, Exit.PUBLISHED_THEN_FAILED)
        failed: str | None = None
        for row in stages.get(run["run_id"], ()):
            is_failed = row["state"] == "failed"
            for day in Days(row["date_from"], row["date_until"]):
                if day not in own and is_failed:
                    found[day] = Waiting(run["run_id"], row["stage"], row["message"] or "")
                elif row["stage"] == "publish" and (published or day not in own):
                    found.pop(day, None)
            failed = row["stage"] if is_failed else failed
        if not published:
            stage = "gate" if run["exit_code"] == Exit.QUALITY_GATE else failed
            found |= dict.fromkeys(own, Waiting(run["run_id"], stage, run["message"] or ""))
    return dict(sorted(found.items()))


def last_published_batch(lake: Lake) -> int:
    """The newest ingestion batch whose days a full run has carried to publication; 0 before the first.

    A run that was stopped between gold and publication counts for nothing: the next one makes its days again.
    """
    runs = lake.read(RUN, columns=["run_id", "exit_code"]).to_arrow()
    ended = pc.is_in(runs["exit_code"], pa.array([Exit.DONE, Exit.PUBLISHED_THEN_FAILED], pa.int32()))
    published = set(runs.filter(ended)["run_id"].to_pylist())
    rows = stage_runs(lake).filter((pc.field("stage") == "publish") & (pc.field("state") == "done"))
    batches = [
        json.loads(versions or "{}").get(BATCH_KEY, 0)
        for versions, run_id in zip(
            rows["input_versions"].to_pylist(), rows["run_id"].to_pylist(), strict=True
        )
        if run_id in published
    ]
    return max(batches, default=0)


def stage_runs(lake: Lake) -> pa.Table:
    """All of ops/stage_run as Arrow; a few rows a night."""
    return lake.read(STAGE_RUN).to_arrow()


def recorded_models(lake: Lake, name: str, days: Days) -> dict[date, str | None]:
    """Of the days that gold was made of before: the version of the model it was last made with, None for none.

    A day that is made again takes what it took before, so that equal input gives equal rows; one that was made while
    the registry did not answer is as if it had not been made.
    """
    done = (pc.field("stage") == "gold") & (pc.field("state") == "done")
    rows = lake.arrow(STAGE_RUN, where=done).to_pylist()
    found: dict[date, str | None] = {}
    for row in sorted(rows, key=lambda row: row["end_time"]):
        version = json.loads(row["input_versions"] or "{}").get(f"model/{name}")
        for day in Days(row["date_from"], row["date_until"]):
            if version == UNANSWERED:
                found.pop(day, None)
            elif day in days:
                found[day] = None if version is None else str(version)
    return found
