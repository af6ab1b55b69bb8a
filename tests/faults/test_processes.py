"""Faults that need processes, small file systems and Spark of their own: `make fault-test` runs them."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import polars as pl
import psutil
import pyspark
import pytest
import yaml

from lepton_etl.lake.compare import compare_lakes
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.logs import READING
from tests.conftest import PROJECT
from tests.faults.site import DAY, SmallSite, day_text, ipmi_text
from tests.faults.soak import COMPARED, left_open, not_conserved
from tests.faults.test_stopped_night import started, states
from tests.pages import Page

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1500)]
OTHER_DAY = DAY + timedelta(days=7)
LOCAL = ("nightly", "--engine", "local", "--date", str(DAY))


def is_equal(left: Path, right: Path) -> None:
    compared = compare_lakes(left, right, only=COMPARED)
    assert [line for one in compared if not one.equal for line in one.lines()] == []


def nothing_is_left(lake: Lake) -> None:
    assert [*not_conserved(lake), *left_open(lake)] == []


def test_two_nights_of_different_days_at_once_both_commit(tmp_path: Path) -> None:
    """Both days made again at once, after a setting that changes their figures: as if one came after the other."""
    site = SmallSite(tmp_path)
    for day in (DAY, OTHER_DAY):
        for node in (1, 2):
            site.deliver(f"n{node}-{day}.txt", day_text(200 * node, day))
    for day in (DAY, OTHER_DAY):
        assert site.command("nightly", "--engine", "local", "--date", str(day)).returncode == 0
    settings = yaml.safe_load(site.config.read_text()) | {"facility": {"pue_assumed": 1.5}}
    site.config.write_text(yaml.safe_dump(settings))
    shutil.copytree(tmp_path / "lake", tmp_path / "before")
    both = [started(site.config, "--date", str(day)) for day in (DAY, OTHER_DAY)]
    said = [night.communicate(timeout=900) for night in both]
    for night, (_, errors) in zip(both, said, strict=True):
        # One that finds bronze held says so and changes nothing: it is started again, as a supervisor does.
        assert night.returncode in (0, 5), errors
    for night, day in zip(both, (DAY, OTHER_DAY), strict=True):
        if night.returncode == 5:
            assert site.command("nightly", "--engine", "local", "--date", str(day)).returncode == 0
    shutil.move(tmp_path / "lake", tmp_path / "at-once")
    shutil.move(tmp_path / "before", tmp_path / "lake")
    for day in (DAY, OTHER_DAY):
        assert site.command("nightly", "--engine", "local", "--date", str(day)).returncode == 0
    lake = Lake(tmp_path / "at-once")
    assert set(lake.as_published().read(CLUSTER_DAY)["date"]) == {DAY, OTHER_DAY}
    assert {"day", "month", "year"} <= set(lake.as_published().read(KPI)["period"])
    is_equal(tmp_path / "lake", tmp_path / "at-once")
    nothing_is_left(lake)


def submitted(site: SmallSite, *options: str, memory: str = "1g") -> subprocess.Popen[str]:
    """The night by spark-submit; its standard output carries what the driver says on standard error."""
    return subprocess.Popen(
        ["spark-submit", "--properties-file", "conf/spark-defaults.conf", "--driver-memory", memory, *options,
         "jobs/nightly.py", "--config", str(site.config), "--date", str(DAY)],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.spark
@pytest.mark.parametrize("victim", ["driver", "jvm"])
def test_sigterm_under_spark_submit(tmp_path: Path, victim: str) -> None:
    """An operator stops the driver, a supervisor the process that it started, which is the JVM."""
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text(200, 60))
    night = submitted(site)
    assert night.stdout is not None
    heard = []
    for line in night.stdout:
        heard.append(line)
        if line.startswith(f"silver {DAY} ("):
            break
    assert night.poll() is None, "".join(heard[-20:])
    processes = [psutil.Process(night.pid), *psutil.Process(night.pid).children(recursive=True)]
    (driver,) = (
        one for one in processes
        if one.name() == "python" and any(word.endswith("jobs/nightly.py") for word in one.cmdline())
    )  # fmt: skip
    begun = time.monotonic()
    (driver if victim == "driver" else processes[0]).send_signal(signal.SIGTERM)
    said, _ = night.communicate(timeout=60)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == [] and time.monotonic() - begun < 30
    assert night.returncode != 0
    if victim == "driver":
        assert "stopped by SIGTERM -> run the same command again" in said
        ((_, exit_code, message),) = states(site.lake)
        assert exit_code == 1 and message.startswith("stopped by SIGTERM")
    done = site.command(*LOCAL)
    assert done.returncode == 0, done.stderr
    nothing_is_left(site.lake)
    assert site.lake.read(READING).height == 120


# A task of the first job kills its executor: the JVM above the daemon of Python workers.
ON_AN_EXECUTOR = """
import os, signal, sys
from pathlib import Path
import psutil, structlog
from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.lake.session import spark_session
from lepton_etl.lake.tables import Lake
from pipelines import bronze, silver
from pipelines.engine import SparkEngine
from pipelines.stage import StageContext
config, day, marker = sys.argv[1:]

def striking(work, marker):
    def strike(item):
        if not Path(marker).exists():
            Path(marker).touch()
            jvm = next(one for one in psutil.Process().parents() if one.name() == "java")
            print("killed", jvm.pid, file=sys.stderr)
            jvm.kill()
        return work(item)
    return strike

class Striking(SparkEngine):
    def map(self, work, items, attempts=1):
        return super().map(striking(work, marker), items, attempts)

session = spark_session("executor", {"spark.master": "local-cluster[2,1,1024]", "spark.executor.memory": "1g",
                                     "spark.driver.memory": "1g"})
settings, days = load(Path(config)), Days.of(__import__("datetime").date.fromisoformat(day))
context = StageContext(Lake.of(settings), settings, days, "test", structlog.get_logger(), Striking.of(session))
bronze.run(context)
silver.run(context)
session.stop()
"""


@pytest.mark.spark
def test_a_killed_executor_costs_its_tasks_once_more(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    for node in (1, 2, 3):
        site.deliver(f"n{node}-2025-06-03.txt", ipmi_text(200 * node, 60))
    marker, home = tmp_path / "struck", tmp_path / "spark"
    # Its workers leave what executors say below Spark's home: one of its own.
    home.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        (home / part.name).symlink_to(part)
    done = subprocess.run(
        [sys.executable, "-c", ON_AN_EXECUTOR, str(site.config), str(DAY), str(marker)],
        cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False,
        env=os.environ | {"SPARK_HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert marker.exists()
    # Two were asked for, and one was started in place of the one that was killed.
    assert len(list((home / "work").glob("app-*/*"))) == 3
    shutil.move(tmp_path / "lake", tmp_path / "struck-lake")
    for stage in ("bronze", "silver"):
        assert site.command(*LOCAL, "--stage", stage).returncode == 0
    is_equal(tmp_path / "lake", tmp_path / "struck-lake")


@pytest.mark.spark
def test_a_day_ten_times_as_large_with_a_small_heap(tmp_path: Path) -> None:
    """-Xmx512m: no stage collects a fact table into the driver's JVM. The page counts that JVM in its own energy."""
    before = cpu_s_of_children()
    site = SmallSite(tmp_path)
    for node in range(1, 10):
        site.deliver(f"n{node}-2025-06-03.txt", day_text(200 + node, DAY, period_s=10))
    night = submitted(site, memory="512m")
    said, _ = night.communicate(timeout=1200)
    assert night.returncode == 0, said[-2000:]
    assert site.lake.read(READING).height == 9 * 8640 * 2
    nothing_is_left(site.lake)
    (page,) = tmp_path.rglob(f"report/{DAY}/index.html")
    cpu_s, kwh, watts = (
        float(one.value)
        for one in Page(page.read_text(encoding="utf-8")).figures
        if one.section == "footprint"
    )
    # The driver alone was a twelfth of it. What follows the page is not in it; workers that nobody waits for are.
    assert 0.6 < cpu_s / (cpu_s_of_children() - before) < 1.5
    assert kwh == pytest.approx(cpu_s * watts / 3.6e6)


def cpu_s_of_children() -> float:
    """CPU-seconds of the processes that this one has started and waited for, with all below them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.spark
def test_a_heap_that_spark_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    night = submitted(site, memory="100m")
    said, _ = night.communicate(timeout=300)
    last = said.rstrip().splitlines()[-1]
    assert night.returncode == 2, said[-2000:]
    assert "Spark does not start: " in last and "must be at least" in last and "->" in last
    assert "Traceback" not in said


@contextmanager
def small_disk(at: Path, free_pages: int) -> Iterator[None]:
    """Lay a file system of its own over a folder, with what is in it and little room, and take it away again.

    Skips the test where this machine lets nobody mount one. A tmpfs of size 0 would have no limit.
    """
    held = at.with_name("held")
    at.rename(held)
    at.mkdir()
    try:
        tmpfs = ["mount", "-t", "tmpfs", "tmpfs", str(at)]
        if subprocess.run(tmpfs, capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount")
        try:
            shutil.copytree(held, at, dirs_exist_ok=True)
            usage = os.statvfs(at)
            used = usage.f_blocks - usage.f_bfree
            size = max(1, used + free_pages) * usage.f_bsize
            subprocess.run(["mount", "-o", f"remount,size={size}", str(at)], check=True)
            yield
            shutil.rmtree(held)
            shutil.copytree(at, held)
        finally:
            subprocess.run(["umount", str(at)], check=True)
    finally:
        at.rmdir()
        held.rename(at)


@pytest.mark.parametrize("place", ["staging", "commit", "exchange"])
def test_a_full_disk_names_its_place_and_leaves_the_last_version(tmp_path: Path, place: str) -> None:
    """Full as rows are staged, as their commit is written, and as an exchange spills."""
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text(200, 60))
    assert site.command(*LOCAL).returncode == 0
    before = site.lake.read(READING)
    for node in range(2, 10):
        site.deliver(f"n{node}-2025-06-03.txt", day_text(200 + node, DAY, period_s=60))
    table = Path(site.lake.path(READING))
    full = {"staging": table, "commit": table / "_delta_log", "exchange": tmp_path / "tmp"}[place]
    full.mkdir(exist_ok=True)
    with small_disk(full, free_pages={"staging": 4, "commit": 0, "exchange": 2}[place]):
        done = site.command(*LOCAL, env=os.environ | ({"TMPDIR": str(full)} if place == "exchange" else {}))
        last = done.stderr.rstrip().splitlines()[-1]
        assert done.returncode == 1, done.stderr[-2000:]
        assert "No space left on device -> free space there" in last, last
        assert str(full if place == "exchange" else table) in last, last
        assert "Traceback" not in done.stderr
        # An exchange is silver's: bronze is whole by then.
        assert place == "exchange" or site.lake.read(READING).equals(before)
    assert site.command(*LOCAL).returncode == 0
    nothing_is_left(site.lake)
    assert site.lake.read(READING).height == 120 + 8 * 1440 * 2
    assert not site.lake.read(INTERVAL).filter(pl.col("node_id") == "n9").is_empty()


@pytest.mark.spark
@pytest.mark.parametrize("moment", ["start", "exchange"])
def test_a_full_disk_under_spark_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Full before Spark unpacks its jars there, and as a task writes what it exchanges."""
    site = SmallSite(tmp_path)
    for node in range(1, 5):
        site.deliver(f"n{node}-2025-06-03.txt", day_text(200 + node, DAY, period_s=60))
    full = tmp_path / "local"
    full.mkdir()
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(full))
    with small_disk(full, free_pages={"start": 100, "exchange": 50_000}[moment]):
        night = submitted(site)
        assert night.stdout is not None
        said = []
        for line in night.stdout:
            said.append(line)
            if moment == "exchange" and line.startswith(f"silver {DAY} ("):
                fill(full)
        assert night.wait(60) == 1, "".join(said[-20:])
        (last,) = [line for line in said if line.startswith("nightly: ")]
        assert "No space left on device -> free space there" in last, last
        assert str(full) in last, last
    assert site.command(*LOCAL).returncode == 0
    nothing_is_left(site.lake)
    assert site.lake.read(READING).height == 4 * 1440 * 2


def fill(at: Path) -> None:
    """Leave no room in a file system."""
    with suppress(OSError), (at / "fill").open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
            file.flush()
