"""What finished jobs tell of the next ones: how much of the requested time is used, board power, nodes to keep on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_etl.optimize.replay.cluster import Flags, Floats, Ints


@dataclass(frozen=True, slots=True)
class JobLog:
    """Finished jobs as logs have them: instants and durations, s; board power by its sensor, W.

    `any_class` marks jobs that named no class of nodes.
    """

    begin_s: Floats
    runtime_s: Floats
    requested_s: Floats
    workload: Ints
    hardware_class: Ints
    gpus: Ints
    gpu_w: Floats
    any_class: Flags

    def where(self, chosen: Flags) -> JobLog:
        """Some of the jobs."""
        return JobLog(
            self.begin_s[chosen], self.runtime_s[chosen], self.requested_s[chosen], self.workload[chosen],
            self.hardware_class[chosen], self.gpus[chosen], self.gpu_w[chosen], self.any_class[chosen],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Habits:
    """Mean of actual over requested time, mean board power, W, and ten-minute windows logged, (workloads, classes)."""

    used_ratio: Floats
    gpu_w: Floats
    windows: Floats


def habits(log: JobLog, workloads: int, classes: int, *, prior_jobs: float = 5.0) -> Habits:
    """Means of each workload on each class, drawn to those of the workload, then of the class, where jobs are few.

    Time is compared between classes on jobs that name none, where there are some: who names a class asks for the time
    that the job takes there, who names none for that on the slowest. A workload never seen has the means of the class.
    Raises ValueError where a class has no job at all.
    """
    free = log.where(log.any_class)
    if len(np.unique(free.hardware_class)) < classes:
        free = log
    return Habits(
        _shrunk(free.runtime_s / free.requested_s, free, workloads, classes, prior_jobs),
        _shrunk(log.gpu_w, log, workloads, classes, prior_jobs),
        windows_logged(log, workloads, classes),
    )


def windows_logged(log: JobLog, workloads: int, classes: int, window_s: float = 600.0) -> Floats:
    """Whole windows of each workload on each class, (workloads, classes)."""
    found = np.zeros((workloads, classes))
    np.add.at(found, (log.workload, log.hardware_class), np.floor(log.runtime_s / window_s))
    return found


def _shrunk(values: Floats, log: JobLog, workloads: int, classes: int, prior_jobs: float) -> Floats:
    cell = log.workload * classes + log.hardware_class
    count = np.bincount(cell, minlength=workloads * classes).reshape(workloads, classes)
    total = np.bincount(cell, values, minlength=workloads * classes).reshape(workloads, classes)
    if (count.sum(axis=0) == 0).any():
        raise ValueError(
            f"no job has run on class {int(np.argmin(count.sum(axis=0)))}: nothing is known of it"
        )
    by_class = total.sum(axis=0) / count.sum(axis=0)
    # A workload's own level, over what its classes would give by themselves.
    expected = (count * by_class).sum(axis=1)
    level = (total.sum(axis=1) + prior_jobs * by_class.mean()) / (expected + prior_jobs * by_class.mean())
    prior = level[:, None] * by_class[None, :]
    return np.asarray((total + prior_jobs * prior) / (count + prior_jobs), dtype=np.float64)


def reserve_by_hour(
    log: JobLog, gpus_per_node: Ints, window_s: float, days: float, hour_at_start: float, quantile: float
) -> Ints:
    """Nodes of each class to keep on at each hour of the day, (classes, 24): boards begun within one wake, a quantile.

    `gpus_per_node` by class. Windows in which nothing begins count as 0.
    """
    found = np.zeros((len(gpus_per_node), 24), dtype=np.int64)
    windows = int(days * 86400.0 // window_s)
    hour = ((hour_at_start + np.arange(windows) * window_s / 3600.0) % 24).astype(np.int64)
    for kind, size in enumerate(gpus_per_node):
        mine = (log.hardware_class == kind) & (log.begin_s < windows * window_s)
        begun = np.bincount(
            (log.begin_s[mine] // window_s).astype(np.int64), log.gpus[mine], minlength=windows
        )
        for clock in range(24):
            wanted = float(np.quantile(begun[hour == clock], quantile))
            found[kind, clock] = int(np.ceil(wanted / size))
    return found


def break_even_s(idle_w: float, sleep_w: float, wake_w: float, wake_s: float, shut_down_s: float) -> float:
    """The idle time after which sleeping costs no more than staying on, s: the timeout that is never twice as dear.

    Source: Karlin, Manasse, McGeoch and Owicki, Competitive randomized algorithms, Algorithmica 11 (1994).
    """
    return (wake_s * (wake_w - sleep_w) + shut_down_s * (idle_w - sleep_w)) / (idle_w - sleep_w)
