"""CPU-seconds of a run with all the processes that it started."""

from __future__ import annotations

from collections.abc import Iterator

import psutil


def tree() -> list[psutil.Process]:
    """This process and all below it, the JVM and its workers among them."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def tree_cpu_s() -> float:
    """CPU-seconds of the tree until now, user and system, with those of children that have ended."""
    return sum(_cpu_s(tree()))


def _cpu_s(processes: list[psutil.Process]) -> Iterator[float]:
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        yield times.user + times.system + times.children_user + times.children_system
