"""Measure what a model costs itself: Joules of training, and of a million predictions.

Where the kernel lets the process read the CPU's energy counters (RAPL) the energy is measured; elsewhere it is
CPU-seconds times a stated power of one busy core, and the basis says so. The CPU-seconds of a whole run, with all the
processes that it started, are counted here too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd
import psutil

from lepton_etl.models.metrics import Values

# Spark's JVM sets it for a Python driver that it starts (spark-submit); a driver that starts its JVM has it not.
_STARTED_BY_JVM: Final = "PYSPARK_GATEWAY_PORT"


def tree() -> list[psutil.Process]:
    """Return the processes of this run: the JVM and its workers among them.

    Under spark-submit the JVM is the driver's parent, and Spark's Python workers are below the JVM; else it is a child.
    """
    root = psutil.Process()
    if _STARTED_BY_JVM in os.environ:
        root = next((parent for parent in root.parents() if parent.name() == "java"), root)
    return [root, *root.children(recursive=True)]


def tree_cpu_s() -> float:
    """Return CPU-seconds of the tree until now, user and system, with those of children that have ended."""
    return sum(_cpu_s(tree()))


def _cpu_s(processes: list[psutil.Process]) -> Iterator[float]:
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        yield times.user + times.system + times.children_user + times.children_system


RAPL: Final = "rapl"
CPU_SECONDS: Final = "cpu_seconds"
# Median of 187 servers' watts at full load over their cores.
# Source: SPECpower_ssj2008 results published 2019 to 2021, as in the Cloud Carbon Footprint's coefficients.
DEFAULT_CORE_POWER_W: Final = 7.4
_POWERCAP: Final = Path("/sys/class/powercap")
_MILLION: Final = 1_000_000


@dataclass
class ComputeCost:
    """Filled when the block ends: CPU-seconds, Joules and how these are known."""

    cpu_s: float = 0.0
    energy_j: float = 0.0
    basis: str = CPU_SECONDS


def _busy_s() -> float:
    """CPU-seconds of all processes of the machine since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


@contextmanager
def measured_cost(core_power_w: float = DEFAULT_CORE_POWER_W) -> Iterator[ComputeCost]:
    """Measure the block: its share of the package energy where RAPL is readable, else CPU-seconds x W of a core.

    The share is of the busy CPU-seconds meanwhile: other stages, and others, work beside it.
    """
    cost, before, busy, started = ComputeCost(), package_energy_j(), _busy_s(), time.process_time()
    try:
        yield cost
    finally:
        cost.cpu_s = time.process_time() - started
        after, others = package_energy_j(), _busy_s() - busy
        if before is not None and after is not None and after >= before:
            # The machine's clock ticks in hundredths: a short block is all that is known of it.
            cost.energy_j, cost.basis = (after - before) * cost.cpu_s / max(others, cost.cpu_s, 1e-9), RAPL
        else:
            cost.energy_j = cost.cpu_s * core_power_w


def with_executors(
    cost: ComputeCost, cpu_s: float, core_power_w: float = DEFAULT_CORE_POWER_W
) -> ComputeCost:
    """Return the same with CPU-seconds of other processes (executors): their energy is CPU-seconds x W in any case."""
    if cpu_s <= 0:
        return cost
    return ComputeCost(cost.cpu_s + cpu_s, cost.energy_j + cpu_s * core_power_w, CPU_SECONDS)


def package_energy_j(powercap: Path = _POWERCAP) -> float | None:
    """Return the sum of the packages' RAPL counters in J; None where there are none or they may not be read."""
    found = []
    for counter in sorted(powercap.glob("intel-rapl:[0-9]*/energy_uj")):
        try:
            # Sub-zones (intel-rapl:0:1) are inside their package.
            if counter.parent.name.count(":") == 1:
                found.append(int(counter.read_text()) / 1e6)
        except OSError:
            return None
    return sum(found) if found else None


def joules_per_million(
    predict: Callable[[pd.DataFrame], Values], rows: pd.DataFrame, core_power_w: float = DEFAULT_CORE_POWER_W
) -> ComputeCost:
    """Return the energy of a million predictions: what at least 20,000 cost (`rows`, repeated), scaled."""
    batch = pd.concat([rows] * max(1, -(-20_000 // len(rows))), ignore_index=True)
    with measured_cost(core_power_w) as cost:
        predict(batch)
    scale = _MILLION / len(batch)
    return ComputeCost(cost.cpu_s * scale, cost.energy_j * scale, cost.basis)
