"""Jobs and tenants: when they come and how they end, and when nodes are switched off."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.plan import DAY_S, STEP_S, ClusterPlan, FleetPlan

TENANTS: Final = 12
MEDIAN_DURATION_S: Final = 5400.0
DURATION_SIGMA: Final = 1.1
SHORTEST_S: Final = 300.0
LONGEST_S: Final = 86_400.0
# How jobs end, in Slurm's words, and how many of them.
OUTCOMES: Final = {
    "COMPLETED": 0.86, "FAILED": 0.06, "CANCELLED": 0.03, "TIMEOUT": 0.03, "REQUEUED": 0.02,
}  # fmt: skip
_ID_EPOCH: Final = date(2020, 1, 1)
SHARES: Final = (0.45, 0.2, 0.35)  # jobs that take one slot, half a node, whole nodes


@dataclass(slots=True)
class Job:
    """One job; times in s after the plan's start (negative: before it), levels are utilisation ratios."""

    job_id: str
    tenant_id: str
    cluster_id: str
    submit_s: float
    duration_s: float
    node_count: int
    slots_per_node: int
    cpu_level: float
    gpu_level: float
    swing: float
    period_s: float
    phase: float
    start_step: int = 0
    end_step: int = 0
    nodes: list[int] = field(default_factory=list)
    outcome: str = "COMPLETED"
    restart: int = 0

    @property
    def run_id(self) -> str:
        """Tells the runs of a requeued job apart."""
        return f"{self.job_id}-{self.restart}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """A job on one node: its slots from `start_step` to `end_step` (exclusive, in STEP_S after the start)."""

    job: Job
    slots: tuple[int, ...]

    def span(self, first_step: int, steps: int) -> tuple[int, int] | None:
        """The job's steps within `steps` from `first_step`, counted from there; None when it is not there."""
        start, end = max(self.job.start_step - first_step, 0), min(self.job.end_step - first_step, steps)
        return (start, end) if start < end else None

    def wave(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Utilisation over its level at steps after the plan's start: phases of work and of waiting."""
        elapsed_s = (steps - self.job.start_step) * float(STEP_S)
        return np.asarray(
            1.0 + self.job.swing * np.sin(2 * np.pi * elapsed_s / self.job.period_s + self.job.phase),
            dtype=np.float64,
        )


@dataclass(frozen=True, slots=True)
class OffWindow:
    """A node switched off, in STEP_S after the plan's start, end exclusive."""

    start_step: int
    end_step: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens on one cluster: its jobs and, by node index, their assignments and off windows."""

    jobs: list[Job]
    assignments: list[list[Assignment]]
    off: list[list[OffWindow]]


def arrival_rate(hour_local: NDArray[np.float64], weekend: bool) -> NDArray[np.float64]:
    """Relative arrivals by the local hour, mean near 1: busiest at 15:00, quieter at weekends.

    Source: the daily and weekly cycle of HPC arrivals, Lublin and Feitelson, JPDC 63 (2003); the depth is
    ours.
    """
    daily = 1.0 + 0.4 * np.cos(2 * np.pi * (hour_local - 15.0) / 24.0)
    return np.asarray(daily * (0.72 if weekend else 1.1), dtype=np.float64)


def _mean_slot_seconds(cluster: ClusterPlan) -> float:
    """Expected slots x seconds of one job: the log-normal's mean times the mean size."""
    duration_s = MEDIAN_DURATION_S * float(np.exp(DURATION_SIGMA**2 / 2))
    slots = cluster.hardware.slots
    whole = float(np.mean(_whole_node_sizes(cluster)))
    return duration_s * (SHARES[0] + SHARES[1] * max(1, slots // 2) + SHARES[2] * slots * whole)


def _whole_node_sizes(cluster: ClusterPlan) -> list[int]:
    return [size for size in (1, 1, 1, 2, 2, 4, 8) if size <= max(1, cluster.nodes // 2)]


def arrivals(plan: FleetPlan, cluster: ClusterPlan, day: int) -> list[Job]:
    """The jobs submitted on one day (day 0 is the plan's first), drawn from that day's own stream.

    Tenants come with Zipf's weights, durations are log-normal, utilisation levels beta distributed.
    """
    submitted = plan.first_date + timedelta(days=day)
    rng = plan.rng("jobs", cluster.cluster_id, submitted.toordinal())
    slots, has_gpus = cluster.hardware.slots, bool(cluster.hardware.gpu_count)
    hours = (np.arange(24, dtype=np.float64) + plan.local_offset_h) % 24
    per_hour = plan.load_target * cluster.nodes * slots * 3600 / _mean_slot_seconds(cluster)
    hourly = rng.poisson(per_hour * arrival_rate(hours, weekend=submitted.weekday() >= 5))
    count = int(hourly.sum())
    submit_s = np.sort((np.repeat(np.arange(24), hourly) + rng.random(count)) * 3600.0) + day * DAY_S
    tenant_weight = 1 / np.arange(1, TENANTS + 1)
    tenants = rng.choice(TENANTS, size=count, p=tenant_weight / tenant_weight.sum())
    sizes = rng.choice(3, size=count, p=SHARES)
    nodes = np.where(sizes == 2, rng.choice(_whole_node_sizes(cluster), size=count), 1)
    duration_s = np.clip(
        rng.lognormal(np.log(MEDIAN_DURATION_S), DURATION_SIGMA, count), SHORTEST_S, LONGEST_S
    )
    cpu_level = rng.beta(1.6, 4.0, count) if has_gpus else rng.beta(5.0, 2.0, count)
    gpu_level = rng.beta(4.0, 1.6, count) if has_gpus else np.zeros(count)
    swing, period_s, phase = (
        rng.uniform(low, high, count) for low, high in ((0.02, 0.25), (300.0, 2400.0), (0.0, 2 * np.pi))
    )
    place = 1 + [one.cluster_id for one in plan.clusters].index(cluster.cluster_id)
    jobs = [
        Job(
            job_id=f"{place}{(submitted - _ID_EPOCH).days:04d}{number:05d}",
            tenant_id=f"tenant{tenants[number] + 1:02d}",
            cluster_id=cluster.cluster_id,
            submit_s=float(submit_s[number]),
            duration_s=float(duration_s[number]),
            node_count=int(nodes[number]),
            slots_per_node=(1, max(1, slots // 2), slots)[sizes[number]],
            cpu_level=float(cpu_level[number]),
            gpu_level=float(gpu_level[number]),
            swing=float(swing[number]),
            period_s=float(period_s[number]),
            phase=float(phase[number]),
        )
        for number in range(count)
    ]
    for job in jobs:
        job.outcome = str(
            plan.rng("outcome", cluster.cluster_id, job.job_id).choice(
                list(OUTCOMES), p=list(OUTCOMES.values())
            )
        )
    return jobs


def next_run(job: Job) -> Job:
    """The run of a requeued job that follows: submitted when the first was stopped, and left to end."""
    return replace(
        job, submit_s=job.end_step * float(STEP_S), restart=job.restart + 1, outcome="COMPLETED", nodes=[],
    )  # fmt: skip


def off_windows(plan: FleetPlan, node_id: str) -> list[OffWindow]:
    """When a node is switched off (energy saving, service): one draw a day from its own stream."""
    windows: list[OffWindow] = []
    for day in range(
        -1, plan.days + 2
    ):  # to the end of the last job, so that a longer plan changes no earlier day
        rng = plan.rng("off", node_id, plan.first_date.toordinal() + day)
        switched_off, start_h, length_h = rng.random(), rng.uniform(0, 24), rng.uniform(2, 8)
        if switched_off >= plan.off_share:
            continue
        start = int((day * 24 + start_h) * 3600 // STEP_S)
        window = OffWindow(start, start + int(length_h * 3600 // STEP_S))
        if windows and window.start_step <= windows[-1].end_step:
            before = windows.pop()
            window = OffWindow(before.start_step, max(before.end_step, window.end_step))
        windows.append(window)
    return windows
