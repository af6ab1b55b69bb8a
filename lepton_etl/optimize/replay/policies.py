"""The parts of a policy as small objects: order of the queue, choice of nodes, power-down, caps.

The baseline is first come first served, nodes that are on before sleeping ones in inventory order, power-down after an
idle time, no caps: what Slurm does where nothing is tuned. Source: Slurm Power Saving Guide (SuspendTime).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from lepton_etl.optimize.replay.cluster import Floats, Ints, Jobs, Run, Setting
from lepton_etl.optimize.replay.state import ON, SLEEP, State

# Beyond any cost in kWh or any node number.
_LATER: Final = 1e9


class Order(Protocol):
    """In which order jobs wait."""

    def __call__(self, waiting: Sequence[int], jobs: Jobs, now_s: float) -> list[int]:
        """`waiting`, which is by release, as it shall be served."""


class Placement(Protocol):
    """Which nodes a job gets."""

    def kinds(self, jobs: Jobs, job: int, named: tuple[int, ...], now_s: float) -> tuple[int, ...]:
        """The classes that it may have now, some or all of those it names."""

    def cost(self, state: State, jobs: Jobs, job: int, candidates: Ints, gpus: int, now_s: float) -> Floats:
        """One figure a candidate node: the lowest are taken, of the class whose sum is lowest."""

    def expected_s(self, jobs: Jobs, job: int, hardware_class: int) -> float:
        """How long the job should run, for who plans with it, s."""


class PowerDown(Protocol):
    """When an idle node goes to sleep."""

    def idle_s(self) -> float:
        """How long a node is idle before it is looked at, s."""

    def due(self, state: State, idle: Ints, now_s: float) -> Ints:
        """Those of the nodes idle for `idle_s()` or more that shall go to sleep now."""

    def again_s(self) -> float:
        """When a node that stays on is looked at again, s."""


class Caps(Protocol):
    """Which cap a job runs with."""

    def choose(self, jobs: Jobs, job: int, hardware_class: int, now_s: float) -> Setting:
        """A cap in W, a trial, or None."""

    def limit_s(self, jobs: Jobs, job: int, setting: Setting) -> float:
        """The wall time that is granted, s."""

    def longest_s(self, jobs: Jobs, job: int) -> float:
        """The longest wall time that any of its settings would be granted, s: what backfill reckons with."""

    def began(self, jobs: Jobs, job: int, hardware_class: int, run: Run, now_s: float) -> None:
        """A job has begun: what its log will say may be learnt from when it is logged on, not before."""


@dataclass(frozen=True, slots=True)
class FirstCome:
    """By release."""

    def __call__(self, waiting: Sequence[int], jobs: Jobs, now_s: float) -> list[int]:
        return list(waiting)


@dataclass(frozen=True, slots=True)
class UrgentFirst:
    """Jobs whose latest start by requested time and stretch is less than `ahead_s` away go first, earliest ahead."""

    ahead_s: float = 7200.0
    stretch: float = 1.0

    def __call__(self, waiting: Sequence[int], jobs: Jobs, now_s: float) -> list[int]:
        latest = {job: float(jobs.deadline_s[job] - self.stretch * jobs.requested_s[job]) for job in waiting}
        urgent = sorted(job for job in waiting if latest[job] - now_s < self.ahead_s)
        hurried = set(urgent)
        return [*sorted(urgent, key=latest.__getitem__), *(job for job in waiting if job not in hurried)]


@dataclass(frozen=True, slots=True)
class InventoryOrder:
    """Nodes that are on or waking before sleeping ones, then in inventory order."""

    def kinds(self, jobs: Jobs, job: int, named: tuple[int, ...], now_s: float) -> tuple[int, ...]:
        return named

    def cost(self, state: State, jobs: Jobs, job: int, candidates: Ints, gpus: int, now_s: float) -> Floats:
        return np.asarray(np.where(state.state[candidates] == SLEEP, _LATER, 0.0) + candidates)

    def expected_s(self, jobs: Jobs, job: int, hardware_class: int) -> float:
        return float(jobs.requested_s[job])


@dataclass(frozen=True, slots=True)
class LeastEnergy:
    """The nodes where the job should cost the least energy, by what logs taught.

    `used_ratio` is the mean of actual over requested time, `gpu_w` the boards' mean power, both (workloads, classes);
    `board_w` a board's part of the host's power, by class.
    A node that would empty earlier stays on for the job: that idle energy is the job's, as is the wake of a sleeping
    node. So full nodes fill up, and jobs that end together stand together. `opening_ratio` is the part of that idle
    energy that is laid to this job, the rest to those that will fill the node later. A job without a deadline waits up
    to `patience_s` for the class where it costs the least, if the others cost `worth_ratio` times as much or more.
    """

    used_ratio: Floats
    gpu_w: Floats
    board_w: Floats
    opening_ratio: float = 1.0
    patience_s: float = 0.0
    worth_ratio: float = 1.3
    worthy: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = field(default_factory=dict)

    def kinds(self, jobs: Jobs, job: int, named: tuple[int, ...], now_s: float) -> tuple[int, ...]:
        if (
            len(named) < 2
            or now_s - jobs.release_s[job] >= self.patience_s
            or jobs.deadline_s[job] < math.inf
        ):
            return named
        key = int(jobs.workload[job]), named
        if key not in self.worthy:
            joule = self.used_ratio[key[0]] * (self.gpu_w[key[0]] + self.board_w)
            least = min(float(joule[kind]) for kind in named)
            self.worthy[key] = tuple(kind for kind in named if joule[kind] < self.worth_ratio * least)
        return self.worthy[key]

    def expected_s(self, jobs: Jobs, job: int, hardware_class: int) -> float:
        return float(jobs.requested_s[job] * self.used_ratio[jobs.workload[job], hardware_class])

    def cost(self, state: State, jobs: Jobs, job: int, candidates: Ints, gpus: int, now_s: float) -> Floats:
        nodes = state.nodes
        kind = int(nodes.hardware_class[candidates[0]])
        lasts_s = self.expected_s(jobs, job, kind)
        work_w = gpus * (self.gpu_w[jobs.workload[job], kind] - nodes.gpu_idle_w[candidates])
        left_s = np.maximum(state.free_expected_s[candidates] - now_s, 0.0)
        longer_s = np.maximum(lasts_s - left_s, 0.0)
        asleep = state.state[candidates] == SLEEP
        spared_w = nodes.idle_w[candidates] - nodes.sleep_w[candidates]
        wake_j = np.where(asleep, nodes.wake_s * (nodes.wake_w - nodes.sleep_w)[candidates], 0.0)
        joule = (
            (work_w + gpus * nodes.busy_w[candidates]) * lasts_s
            + self.opening_ratio * spared_w * longer_s
            + wake_j
            + state.free[candidates]
        )
        return np.asarray(joule, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class IdleTimeout:
    """Every node sleeps after an idle time; `always_on` nodes, the first of the inventory, never do."""

    timeout_s: float
    always_on: int = 0

    def idle_s(self) -> float:
        return self.timeout_s

    def due(self, state: State, idle: Ints, now_s: float) -> Ints:
        return idle[idle >= self.always_on]

    def again_s(self) -> float:
        return 300.0


@dataclass(frozen=True, slots=True)
class Reserve:
    """Idle nodes beyond a reserve sleep after a short look; the reserve sleeps after its own, longer time.

    `reserve` is how many nodes of a class stay on at an hour of the day, (classes, 24), from the starts that earlier
    logs show within one wake; `local_offset_h` of the replay's start.
    """

    reserve: Ints
    reserve_timeout_s: float
    look_s: float = 60.0
    hour_at_start: float = 0.0

    def idle_s(self) -> float:
        return self.look_s

    def again_s(self) -> float:
        return 300.0

    def due(self, state: State, idle: Ints, now_s: float) -> Ints:
        nodes = state.nodes
        hour = int(self.hour_at_start + now_s / 3600.0) % 24
        chosen: list[int] = []
        for kind in range(nodes.classes):
            mine = idle[nodes.hardware_class[idle] == kind]
            spare = np.flatnonzero(
                (nodes.hardware_class == kind) & (state.state == ON) & (state.free == nodes.gpus)
            )
            beyond = max(len(spare) - int(self.reserve[kind, hour]), 0)
            # The longest idle go first; the rest when their own time has come.
            oldest = mine[np.argsort(state.idle_since_s[mine], kind="stable")]
            chosen += oldest[:beyond].tolist()
            kept = oldest[beyond:]
            chosen += kept[now_s - state.idle_since_s[kept] >= self.reserve_timeout_s].tolist()
        return np.asarray(chosen, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class NoCaps:
    """Boards at their own limit, the requested wall time as it is."""

    def choose(self, jobs: Jobs, job: int, hardware_class: int, now_s: float) -> Setting:
        return None

    def limit_s(self, jobs: Jobs, job: int, setting: Setting) -> float:
        return float(jobs.requested_s[job])

    def longest_s(self, jobs: Jobs, job: int) -> float:
        return float(jobs.requested_s[job])

    def began(self, jobs: Jobs, job: int, hardware_class: int, run: Run, now_s: float) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy: an order, a placement, a power-down and caps; and how far down the queue backfill looks."""

    order: Order = field(default_factory=FirstCome)
    placement: Placement = field(default_factory=InventoryOrder)
    power_down: PowerDown = field(default_factory=lambda: IdleTimeout(1800.0))
    caps: Caps = field(default_factory=NoCaps)
    backfill_depth: int = 500
