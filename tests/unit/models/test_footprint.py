"""Which processes a run's own energy counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lepton_etl.models.footprint import tree

# What spark-submit does: a JVM starts the driver, and its Python workers beside it.
PARENT = """
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
try:
    driver = "from lepton_etl.models.footprint import tree; print(*(one.pid for one in tree()))"
    print(os.getpid(), worker.pid, flush=True)
    subprocess.run([sys.executable, "-c", driver], check=True)
finally:
    worker.kill()
"""


def counted(parent: Path, environment: dict[str, str]) -> tuple[set[str], set[str]]:
    """Parent and worker, and the processes that the driver counts."""
    done = subprocess.run(
        [str(parent), "-c", PARENT.replace("sys.executable", repr(sys.executable))],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    both, found = done.stdout.splitlines()
    return set(both.split()), set(found.split())


def test_under_spark_submit_the_jvm_and_its_workers_are_counted(tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.symlink_to(Path(sys.executable).resolve())
    home = {"PYTHONHOME": sys.base_prefix}
    jvm_and_worker, found = counted(java, {"PYSPARK_GATEWAY_PORT": "1"} | home)
    assert jvm_and_worker < found and len(found) == 3
    # A driver that was not started by a JVM counts itself and what it started.
    parent, found = counted(java, home)
    assert len(found) == 1 and not parent & found


def test_a_process_counts_itself_and_what_it_started() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert {os.getpid(), child.pid} <= {one.pid for one in tree()}
    finally:
        child.kill()
        child.wait()
