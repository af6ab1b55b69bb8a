"""One Spark session for the whole suite, started only when a test asks for it; a lake of its own for each test."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lepton_etl.lake.tables import Lake
    from tests.nights import Nights

# No test is timed: machines are shared, and a slow example says nothing about the code. Each run draws other examples:
# some here, 40 in CI, 200 in `make test-slow`.
settings.register_profile("untimed", deadline=None, max_examples=int(os.environ.get("EXAMPLES", "25")))
settings.load_profile("untimed")

# Two workers and Spark share the cores: threads of OpenMP that wait for each other would take most of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # As the engine's own processes do.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")

PROJECT = Path(__file__).resolve().parents[1]

# What is collected lives to the end: looked through again and again, it takes a twentieth of a run.
gc.disable()


# Marks that `make test` leaves out, and what runs them.
ELSEWHERE = {"slow": "make test-slow", "cluster": "make cluster-test", "fault": "make fault-test"}
LEFT_OUT = pytest.StashKey[dict[str, int]]()


def pytest_collection_finish() -> None:
    """Let the garbage collector look at what tests make alone, and less often than it would."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the tests that a run leaves out by their mark; a worker hands its counts to the controller."""
    config = items[0].config
    marks = Counter(mark for item in items for mark in ELSEWHERE if item.get_closest_marker(mark))
    config.stash[LEFT_OUT] = dict(marks)
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = dict(marks)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the counts of a worker of pytest-xdist; each has collected the same tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all files whose tests share the Spark session to one worker: a JVM starts, and warms up, once."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class ByFileAndSession(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "spark" if _shares_the_session(file) else file

    return ByFileAndSession(config, log) if config.getoption("dist") == "loadfile" else None


@cache
def _shares_the_session(file: str) -> bool:
    return "spark: SparkSession" in (PROJECT / file).read_text(encoding="utf-8")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which tests were left out by their mark, and what runs them; `-ra` says what was skipped, and why."""
    for mark, count in sorted(config.stash.get(LEFT_OUT, {}).items()):
        terminalreporter.write_line(f"left out: {count} tests marked {mark}; {ELSEWHERE[mark]} runs them")


def real_data() -> Path:
    """The folder of real data, whether or not it exists."""
    return Path(os.environ.get("LEPTON_REAL_DATA", PROJECT / ".." / "shared" / "data")).resolve()


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A local session with the settings of conf/spark-defaults.conf."""
    from lepton_etl.lake.session import spark_session

    scratch = tmp_path_factory.mktemp("spark")
    session = spark_session(
        "lepton-etl-tests",
        {
            "spark.master": "local[2]",
            # Tests move kilobytes; the rest of the machine is for MLflow and Great Expectations.
            "spark.driver.memory": "1g",
            "spark.sql.shuffle.partitions": "2",
            # Planning anew after every stage costs more than these frames; the night of test-slow has it on.
            "spark.sql.adaptive.enabled": "false",
            # C1 alone: these frames are gone before the optimising compiler has paid for itself.
            "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Duser.timezone=UTC "
            f"-Dfile.encoding=UTF-8 -Dlog4j2.configurationFile={PROJECT / 'conf' / 'log4j2.properties'}",
            "spark.sql.warehouse.dir": str(scratch / "warehouse"),
            "spark.local.dir": str(scratch / "local"),
        },
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def nights() -> Iterator[Nights]:
    """The process of a worker that runs nights which may be killed: it imports the stages once for all of them."""
    from tests.nights import Nights

    with Nights() as found:
        yield found


@pytest.fixture(scope="session", autouse=True)
def _one_making_of_an_mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow migrates a fresh database for seconds: one is made for all workers, and their stores are copies of it."""
    registry = sys.modules.get("lepton_etl.models.registry")
    if registry is None:
        yield
        return
    own = tmp_path_factory.mktemp("mlflow")
    # Workers of one run have their folders side by side.
    shared = own.parent.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    whole, make = shared / "mlflow-whole.db", registry._make

    def copy(database: Path) -> None:
        with (shared / "mlflow-whole.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                make(own / "mlflow.db")
                (own / "mlflow.db").rename(whole)
        shutil.copyfile(whole, database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_make", copy)
        yield


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    from lepton_etl.lake.tables import Lake

    return Lake(tmp_path / "lake")


@pytest.fixture(autouse=True)
def _logs_go_where_they_went() -> Iterator[None]:
    """A test that runs the command line sets where logs go: to a stream that is closed after it."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
