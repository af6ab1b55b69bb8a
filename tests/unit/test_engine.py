"""The engine: the same tables from a pool of processes, from this process and from Spark."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from importlib import import_module, invalidate_caches
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import polars as pl
import pyarrow as pa
import pytest

from lepton_etl.days import Days
from lepton_etl.errors import LakeError, WorkerLostError
from lepton_etl.lake.staging import StagedFile, stage
from lepton_etl.lake.tables import DataFile, Lake, read_files
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.types import arrow_schema
from pipelines.engine import Engine, InlineEngine, LocalEngine, SparkEngine, Work, keep_archives

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST = date(2025, 6, 3)
DAYS = Days(FIRST, FIRST + timedelta(days=1))
BUCKETS = 3


def hours(day: date, zone: str, intensity: float) -> pl.DataFrame:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    rows = [
        {
            "zone_id": zone, "hour_start": start + timedelta(hours=hour), "date": day, "intensity_basis": "direct",
            "signal": "average", "flow": "consumption", "carbon_intensity_gco2e_per_kwh": intensity + hour,
            "is_estimated": False, "source_name": "grid",
        }
        for hour in range(24)
    ]  # fmt: skip
    return pl.DataFrame(pa.Table.from_pylist(rows, schema=arrow_schema(GRID_HOUR)))


def split(file: DataFile) -> Iterator[tuple[int, bytes]]:
    """Part a file's rows by zone, as Arrow bytes."""
    rows = read_files(GRID_HOUR, [file]).with_columns(
        bucket=pl.col("zone_id").str.slice(1).cast(pl.Int64) % BUCKETS
    )
    for (bucket,), part in rows.group_by("bucket"):
        content = BytesIO()
        part.drop("bucket").write_ipc_stream(content)
        assert isinstance(bucket, int)
        yield bucket, content.getvalue()


@dataclass(frozen=True)
class Halved:
    """Stages the rows of a bucket with half their intensity."""

    root: Path

    def __call__(self, bucket: int, parts: Sequence[bytes]) -> list[StagedFile]:
        if not parts:
            return []
        rows = pl.concat([pl.read_ipc_stream(part) for part in parts]).sort("zone_id", "hour_start")
        return stage(self.root, GRID_HOUR, rows.with_columns(pl.col("carbon_intensity_gco2e_per_kwh") / 2))


def made_by(engine: Engine, source: Lake, target: Lake) -> pl.DataFrame:
    """Read in tasks, exchange by zone, stage and commit."""
    found = engine.exchange(source.files(GRID_HOUR, DAYS), split, Halved(target.root), BUCKETS)
    assert len(found) == BUCKETS
    target.commit(GRID_HOUR, DAYS, [file for files in found for file in files])
    return target.read(GRID_HOUR).sort("zone_id", "hour_start")


@pytest.fixture(scope="module")
def local() -> Iterator[LocalEngine]:
    with LocalEngine(2) as engine:
        yield engine


@pytest.fixture
def source(tmp_path: Path) -> Lake:
    """A lake with two days of four zones, of which two fall into one bucket."""
    lake = Lake(tmp_path / "source")
    staged = [
        file
        for day in DAYS
        for zone in ("z0", "z1", "z3", "z4")
        for file in stage(lake.root, GRID_HOUR, hours(day, zone, 200.0))
    ]
    lake.commit(GRID_HOUR, DAYS, staged)
    return lake


def test_a_pool_and_this_process_make_equal_tables(source: Lake, local: LocalEngine, tmp_path: Path) -> None:
    inline = made_by(InlineEngine(), source, Lake(tmp_path / "inline"))
    assert inline.height == 2 * 4 * 24
    assert inline["carbon_intensity_gco2e_per_kwh"].max() == 111.5
    assert made_by(local, source, Lake(tmp_path / "local")).equals(inline)


@pytest.mark.spark
def test_spark_makes_the_same_tables(spark: SparkSession, source: Lake, tmp_path: Path) -> None:
    inline = made_by(InlineEngine(), source, Lake(tmp_path / "inline"))
    engine = SparkEngine.of(spark)
    assert engine.map(abs, [-1]) == [1]
    before, told = engine.work(), list[tuple[int, int]]()
    engine.progress = lambda done, total: told.append((done, total))
    assert made_by(engine, source, Lake(tmp_path / "spark")).equals(inline)
    assert engine.work() - before == Work(jobs=1, executions=0)
    assert all(0 <= done <= total == 8 + BUCKETS for done, total in told)
    assert engine.map(abs, [-3, 2, -1]) == [3, 2, 1]
    assert engine.map(abs, []) == [] == engine.exchange([], split, Halved(tmp_path), BUCKETS)


def test_results_keep_the_order_of_the_items(local: LocalEngine) -> None:
    for engine in (local, InlineEngine()):
        assert engine.map(abs, [-3, 2, -1]) == [3, 2, 1]
        assert engine.map(abs, []) == []
        assert engine.exchange([], split, Halved(Path()), BUCKETS) == []


def refuse(_: int) -> int:
    raise LakeError("no", where="here", remedy="none")


def test_an_error_of_a_task_arrives_whole(local: LocalEngine) -> None:
    with pytest.raises(LakeError, match="here: no -> none"):
        local.map(refuse, [1, 2])


def process(_: int) -> int:
    return os.getpid()


def test_a_pool_is_other_processes(local: LocalEngine) -> None:
    assert os.getpid() not in local.map(process, [1, 2, 3])


def miss() -> None:
    raise LakeError("no such table", where="gold/none")


def die() -> None:
    os._exit(1)


def test_what_runs_aside_has_its_own_process_while_the_driver_goes_on() -> None:
    with LocalEngine(1) as engine:
        assert not engine.has_aside
        assert engine.aside(os.getpid)() == os.getpid()
        engine.begin_aside(miss)
        assert engine.has_aside
        first, second = engine.aside(os.getpid), engine.aside(os.getppid)
        # In whatever order they are asked for, each is its own.
        assert second() not in (os.getppid(), first())
        missed = engine.aside(miss)
        with pytest.raises(LakeError, match="no such table"):
            missed()
        died = engine.aside(die)
        with pytest.raises(WorkerLostError):
            died()
        later = engine.aside(os.getpid)
        with pytest.raises(WorkerLostError):
            later()
        engine.end_aside()
        assert engine.aside(os.getpid)() == os.getpid()
    inline = InlineEngine()
    inline.begin_aside(miss)
    assert inline.aside(os.getpid)() == os.getpid()


def test_the_driver_does_other_things_while_tasks_run(tmp_path: Path) -> None:
    go, ended, done = tmp_path / "go", tmp_path / "ended", list[str]()

    def hold() -> None:
        assert wait_for(ended)
        time.sleep(1.0)

    with LocalEngine(1) as engine:
        # The task waits for the second piece; when the third ends it has ended, and the fourth is nobody's.
        engine.meanwhile = [miss, go.touch, hold, partial(done.append, "too late")]
        assert engine.map(partial(after, ended), [go]) == [True]
        assert len(engine.meanwhile) == 1 and not done


def after(ended: Path, file: Path) -> bool:
    found = wait_for(file)
    ended.touch()
    return found


def test_the_driver_does_other_things_while_a_job_of_spark_runs(spark: SparkSession) -> None:
    engine, done = SparkEngine.of(spark), list[str]()
    engine.meanwhile = [miss, partial(done.append, "done")]
    assert engine.map(abs, [-1, -2]) == [1, 2]
    assert done == ["done"]
    engine.meanwhile = [partial(time.sleep, 0.1)]
    with pytest.raises(LakeError, match="no such table"):
        engine.map(fail, [1])


def fail(_: int) -> None:
    miss()


def test_what_is_imported_aside_ends_where_work_begins(tmp_path: Path) -> None:
    first, never = tmp_path / "first", tmp_path / "never"
    with LocalEngine(1) as engine:
        engine.begin_aside(miss, first.touch, partial(wait_for, tmp_path / "go"), never.touch)
        assert wait_for(first)
        asked = engine.aside(os.getpid)
        (tmp_path / "go").touch()
        assert asked() != os.getpid()
        assert not never.exists()


def wait_for(file: Path) -> bool:
    for _ in range(100):
        if file.exists():
            return True
        time.sleep(0.1)
    raise TimeoutError(file)


def test_the_driver_waits_for_no_work_to_be_taken_aside(tmp_path: Path) -> None:
    # More than a pipe holds.
    large = partial(len, b"x" * 1_000_000)
    with LocalEngine(1) as engine:
        engine.begin_aside(int)
        first, second = engine.aside(partial(wait_for, tmp_path / "go")), engine.aside(large)
        (tmp_path / "go").touch()
        assert first() and second() == 1_000_000
        engine.aside(partial(wait_for, tmp_path / "never"))
        engine.aside(large)


def test_a_zip_of_modules_is_listed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "kept.zip"
    names = ["of_zip/__init__.py", "of_zip/first.py", "of_zip/later.py"]

    def write(members: Sequence[str]) -> None:
        with ZipFile(archive, "w") as file:
            for name in members:
                file.writestr(name, "")

    write(names)
    monkeypatch.setattr(sys, "path_importer_cache", dict(sys.path_importer_cache))
    monkeypatch.syspath_prepend(archive)
    import_module("of_zip.first")
    keep_archives()
    invalidate_caches()
    import_module("of_zip.later")
    # What is added later is not seen, as it would be if the archive were listed anew.
    write([*names, "of_zip/added.py"])
    invalidate_caches()
    with pytest.raises(ImportError):
        import_module("of_zip.added")
