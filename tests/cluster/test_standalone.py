"""One night submitted to a real standalone master and worker on loopback: nothing depends on local mode."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyspark
import pytest
from deltalake import DeltaTable as DeltaLog

from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from tests.conftest import PROJECT

DAY = date(2025, 6, 3)
START_TIMEOUT_S = 120
NIGHT_TIMEOUT_S = 900

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def environment(scratch: Path) -> dict[str, str]:
    return os.environ | {
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_WORKER_DIR": str(scratch / "work"),
        "SPARK_LOCAL_DIRS": str(scratch / "local"),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


def start(
    arguments: list[str], log: Path, env: dict[str, str], pattern: str
) -> tuple[subprocess.Popen[bytes], str]:
    """A daemon of the installed pyspark, and what the first line that fits `pattern` says."""
    spark_class = Path(env["SPARK_HOME"]) / "bin" / "spark-class"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(spark_class), *arguments], stdout=out, stderr=out, env=env, start_new_session=True
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found:
            return process, found[1]
        time.sleep(0.2)
    raise AssertionError(f"{arguments[0]} did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture
def master(tmp_path: Path) -> Iterator[str]:
    """The address of a standalone master that has one worker of two cores."""
    env = environment(tmp_path)
    processes = []
    try:
        process, address = start(
            ["org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", "0", "--webui-port", "0"],
            tmp_path / "master.log", env, r"Starting Spark master at (spark://\S+)",
        )  # fmt: skip
        processes.append(process)
        process, _ = start(
            ["org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--webui-port", "0", "--cores", "2",
             "--memory", "2g", address],
            tmp_path / "worker.log", env, r"(Successfully registered with master)",
        )  # fmt: skip
        processes.append(process)
        yield address
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def test_a_night_runs_on_a_standalone_cluster(master: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    simulate(
        FleetPlan(seed=3, first_date=DAY, days=1, clusters=(
            ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),
            ClusterPlan(cluster_id="c02", nodes=2, hardware_class="gpu-400"),
        )),
        site,
    )  # fmt: skip
    env = environment(tmp_path)
    done = subprocess.run(
        [
            str(Path(env["SPARK_HOME"]) / "bin" / "spark-submit"), "--master", master,
            "--properties-file", "conf/spark-defaults.conf", "--conf", "spark.executor.memory=1g",
            "jobs/nightly.py", "--config", str(site / "config.yaml"), "--date", DAY.isoformat(),
        ],
        cwd=PROJECT, env=env, capture_output=True, text=True, timeout=NIGHT_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # spark-submit hands the driver's standard error on as its own standard output.
    assert done.stdout.rstrip().splitlines()[-1].startswith("nightly: done for 2025-06-03")
    days = DeltaLog(str(site / "lake" / "gold" / "cluster_day")).to_pyarrow_table()
    assert set(days["cluster_id"].to_pylist()) == {"c01", "c02", "_shared"}
    executors = list((tmp_path / "work").glob("app-*/*"))
    assert executors, "no executor ran on the worker"
