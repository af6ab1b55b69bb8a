"""Run a cluster's queue again: one event after another, EASY backfill over nodes that may sleep.

A job holds its nodes from `held_s`; it begins when all of them are on. Events of one instant are taken together before
jobs are started, so that the result does not depend on their order. What each node drew is recorded without holes.

A policy is made of small objects: order of the queue, choice of nodes, power-down, caps. The baseline is first come
first served, nodes that are on before sleeping ones in inventory order, power-down after an idle time, no caps: what
Slurm does where nothing is tuned. Source: Slurm Power Saving Guide (SuspendTime).
Backfill: where a job fits now, when the head of the queue fits at the latest, and what others may take. Source: Lifka,
The ANL/IBM SP scheduling system, JSSPP 1995; Mu'alem and Feitelson, IEEE TPDS 12(6), 2001.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from bench.replay_cluster import Flags, Jobs, Nodes, Run, Setting, Workloads, checked
from lepton_etl.recommend.replay import Floats, Ints, ReplayError

ON: Final = 0
SLEEP: Final = 1
WAKING: Final = 2
SHUTTING: Final = 3


@dataclass(frozen=True, slots=True)
class Segments:
    """Stretches of constant power: node, from and to, s, power, W, running boards and the state's number."""

    node: Ints
    from_s: Floats
    to_s: Floats
    power_w: Floats
    busy_gpus: Ints
    state: Ints

    def energy_kwh(self) -> Floats:
        """Energy of each stretch, kWh."""
        return np.asarray(self.power_w * (self.to_s - self.from_s) / 3.6e6, dtype=np.float64)


@dataclass(slots=True)
class State:
    """What the scheduler sees of each node. `free` counts boards that no job holds, `busy` those that run."""

    nodes: Nodes
    free: Ints
    busy: Ints
    state: Ints
    ready_s: Floats  # when a waking node is on, or a node shutting down asleep
    idle_since_s: Floats  # NaN where a job holds the node or it is not on
    kept_until_s: Floats  # no power-down before: the head of the queue waits for the node
    free_expected_s: Floats  # when the last of its jobs should end by what they asked for
    gpu_w: Floats
    since_s: Floats
    rows: list[tuple[int, float, float, float, int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, nodes: Nodes, asleep: bool = False) -> State:
        """All nodes on and idle at 0 s, or all asleep."""
        count = len(nodes)
        return cls(
            nodes=nodes,
            free=nodes.gpus.copy(),
            busy=np.zeros(count, dtype=np.int64),
            state=np.full(count, SLEEP if asleep else ON),
            ready_s=np.zeros(count),
            idle_since_s=np.full(count, np.nan if asleep else 0.0),
            kept_until_s=np.zeros(count),
            free_expected_s=np.zeros(count),
            gpu_w=np.zeros(count),
            since_s=np.zeros(count),
        )

    def power_w(self, node: int) -> float:
        """What the node draws now, W."""
        nodes, state = self.nodes, self.state[node]
        if state == SLEEP:
            return float(nodes.sleep_w[node])
        if state == WAKING:
            return float(nodes.wake_w[node])
        busy = int(self.busy[node])
        idle_boards = int(nodes.gpus[node]) - busy
        return float(
            nodes.base_w[node]
            + nodes.busy_w[node] * busy
            + self.gpu_w[node]
            + nodes.gpu_idle_w[node] * idle_boards
        )

    def close(self, node: int, now_s: float) -> None:
        """End the node's stretch of constant power: call before anything about it changes."""
        since = float(self.since_s[node])
        if now_s > since:
            self.rows.append(
                (node, since, now_s, self.power_w(node), int(self.busy[node]), int(self.state[node]))
            )
            self.since_s[node] = now_s

    def hold(self, node: int, gpus: int, now_s: float) -> float:
        """Give boards of a node to a job; a sleeping node wakes. Seconds until the node is on."""
        self.free[node] -= gpus
        assert self.free[node] >= 0, f"node {node} has no such boards"
        self.idle_since_s[node] = np.nan
        if self.state[node] == SLEEP:
            self.wake(node, now_s)
        return max(float(self.ready_s[node]) - now_s, 0.0) if self.state[node] == WAKING else 0.0

    def wake(self, node: int, now_s: float) -> None:
        """Start waking a sleeping node."""
        assert self.state[node] == SLEEP
        self.close(node, now_s)
        self.state[node] = WAKING
        self.ready_s[node] = now_s + self.nodes.wake_s

    def shut_down(self, node: int, now_s: float) -> None:
        """Start shutting an idle node down; it can be woken when it sleeps."""
        assert self.state[node] == ON and self.free[node] == self.nodes.gpus[node]
        self.close(node, now_s)
        self.state[node] = SHUTTING
        self.ready_s[node] = now_s + self.nodes.shut_down_s
        self.idle_since_s[node] = np.nan

    def settle(self, node: int, now_s: float) -> bool:
        """Finish a transition that is due; whether there was one."""
        if self.state[node] not in (WAKING, SHUTTING) or self.ready_s[node] > now_s:
            return False
        self.close(node, now_s)
        woke = self.state[node] == WAKING
        self.state[node] = ON if woke else SLEEP
        if woke and self.free[node] == self.nodes.gpus[node]:
            self.idle_since_s[node] = now_s
        return True

    def begin(self, node: int, gpus: int, gpu_w: float, now_s: float) -> None:
        """Boards of a job start to work at `gpu_w` each."""
        assert self.state[node] == ON
        self.close(node, now_s)
        self.busy[node] += gpus
        self.gpu_w[node] += gpus * gpu_w

    def end(self, node: int, gpus: int, gpu_w: float, now_s: float) -> None:
        """A job gives its boards back."""
        self.close(node, now_s)
        self.busy[node] -= gpus
        self.gpu_w[node] = self.gpu_w[node] - gpus * gpu_w if self.busy[node] else 0.0
        self.free[node] += gpus
        if self.free[node] == self.nodes.gpus[node]:
            self.idle_since_s[node] = now_s

    def segments(self, until_s: float) -> Segments:
        """The record up to `until_s`, s."""
        for node in range(len(self.nodes)):
            self.close(node, until_s)
        columns = list(zip(*self.rows, strict=True))
        whole = [np.asarray(columns[place], dtype=np.int64) for place in (0, 4, 5)]
        real = [np.asarray(columns[place], dtype=np.float64) for place in (1, 2, 3)]
        return Segments(whole[0], real[0], real[1], real[2], whole[1], whole[2])


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the head of the queue was promised at `now_s`: to hold its nodes by `shadow_s` at the latest."""

    now_s: float
    job: int
    shadow_s: float


@dataclass(frozen=True, slots=True)
class Replayed:
    """Jobs as they ran, s: nodes given (`held_s`), running, done; their board power, W; and what the nodes drew.

    `final_w` is the cap a job
    ended with, None: none. `overrun` counts jobs that ran beyond the wall time granted: they are let run on.
    """

    held_s: Floats
    begin_s: Floats
    end_s: Floats
    hardware_class: Ints
    limit_s: Floats
    gpu_w: Floats
    overrun: int
    wakes: int
    settings: tuple[Setting, ...]
    final_w: tuple[float | None, ...]
    node_lists: tuple[tuple[int, ...], ...]
    reservations: tuple[Reservation, ...]
    segments: Segments


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


@dataclass(frozen=True, slots=True)
class Shape:
    """What a job takes of a hardware class: `count` nodes with `gpus` boards of each."""

    count: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Kinds:
    """The hardware classes of a site: which nodes, and how many boards a node has."""

    member: tuple[Flags, ...]
    size: tuple[int, ...]
    nodes: tuple[tuple[int, ...], ...]
    of_node: tuple[int, ...]

    @classmethod
    def of(cls, nodes: Nodes) -> Kinds:
        """Of the site's nodes; nodes of a class have equally many boards."""
        member = tuple(nodes.hardware_class == kind for kind in range(nodes.classes))
        for kind, mine in enumerate(member):
            if len(set(nodes.gpus[mine].tolist())) != 1:
                raise ReplayError(f"nodes of class {kind} have different numbers of GPUs: name two classes")
        return cls(
            member,
            tuple(int(nodes.gpus[mine][0]) for mine in member),
            tuple(tuple(np.flatnonzero(mine).tolist()) for mine in member),
            tuple(nodes.hardware_class.tolist()),
        )

    def shape(self, kind: int, gpus: int) -> Shape:
        """Part of one node, or whole nodes where it is not enough."""
        size = self.size[kind]
        return Shape(1, gpus) if gpus <= size else Shape(-(-gpus // size), size)


@dataclass(frozen=True, slots=True)
class Fit:
    """Nodes for a job: their class, and boards of each."""

    kind: int
    nodes: tuple[int, ...]
    gpus: int


@dataclass(slots=True)
class Held:
    """The head's reservation: its latest time, s, its nodes, and the boards it leaves there at that time."""

    shadow_s: float
    kept: Flags
    spare: Ints


def fit_now(
    state: State, kinds: Kinds, placement: Placement, jobs: Jobs, job: int, allowed: tuple[int, ...], room: Ints,
    now_s: float,
) -> Fit | None:  # fmt: skip
    """The nodes for a job out of `room`, boards that each node may give now; None where it does not fit."""
    best: tuple[float, Fit] | None = None
    for kind in allowed:
        shape = kinds.shape(kind, int(jobs.gpus[job]))
        candidates = np.flatnonzero(kinds.member[kind] & (room >= shape.gpus))
        if len(candidates) < shape.count:
            continue
        cost = placement.cost(state, jobs, job, candidates, shape.gpus, now_s)
        if shape.count == 1:
            place = int(np.argmin(cost))
            total, chosen = float(cost[place]), (int(candidates[place]),)
        else:
            order = np.argsort(cost, kind="stable")[: shape.count]
            total, chosen = float(cost[order].sum()), tuple(candidates[order].tolist())
        if best is None or total < best[0]:
            best = total, Fit(kind, chosen, shape.gpus)
    return None if best is None else best[1]


def room_now(state: State) -> Ints:
    """Boards that each node may give: none while it shuts down."""
    return np.asarray(np.where(state.state == SHUTTING, 0, state.free), dtype=np.int64)


def reservation(
    state: State, kinds: Kinds, jobs: Jobs, job: int, allowed: tuple[int, ...],
    releases: Iterable[tuple[float, tuple[int, ...], int]],
) -> Held:  # fmt: skip
    """The earliest time by requested times at which a job that does not fit now will; its nodes and what it leaves.

    Raises ReplayError where it never does.
    """
    # Plain lists: one element at a time is what arrays are slow at.
    free: list[int] = room_now(state).tolist()
    shapes = {kind: kinds.shape(kind, int(jobs.gpus[job])) for kind in allowed}
    whole = {
        kind: sum(free[node] >= shape.gpus for node in kinds.nodes[kind])
        for kind, shape in shapes.items()
        if shape.count > 1
    }
    for end_s, nodes, gpus in releases:
        for node in nodes:
            kind = kinds.of_node[node]
            free[node] += gpus
            if kind in whole and free[node] >= shapes[kind].gpus > free[node] - gpus:
                whole[kind] += 1
        kind = kinds.of_node[nodes[0]]
        if kind not in shapes:
            continue
        found = _found(kinds, kind, shapes[kind], free, nodes, whole.get(kind, 0))
        if found:
            kept = np.zeros(len(free), dtype=bool)
            kept[list(found)] = True
            return Held(end_s, kept, np.where(kept, np.array(free) - shapes[kind].gpus, 0))
    raise ReplayError(f"job {job} never fits: its nodes are held without end")


def _found(
    kinds: Kinds, kind: int, shape: Shape, free: list[int], changed: tuple[int, ...], whole: int
) -> tuple[int, ...]:
    """The nodes that a job fits on, now that some of them have changed; none where it does not."""
    if shape.count == 1:
        return next(((node,) for node in changed if free[node] >= shape.gpus), ())
    if whole < shape.count:
        return ()
    return tuple(node for node in kinds.nodes[kind] if free[node] >= shape.gpus)[: shape.count]


def behind_room(state: State, held: Held) -> Ints:
    """Boards that a job may take which does not end before the head's time: on the head's nodes only the spare."""
    return np.asarray(
        np.where(held.kept, np.minimum(room_now(state), held.spare), room_now(state)), dtype=np.int64
    )


_END: Final = 0
_READY: Final = 1
_BEGIN: Final = 2
_RELEASE: Final = 3
_LOOK: Final = 4
_SOON_S: Final = 60.0


def replay_queue(
    nodes: Nodes,
    jobs: Jobs,
    workloads: Workloads,
    policy: Policy,
    *,
    until_s: float = 0.0,
    asleep: bool = False,
) -> Replayed:
    """Run all jobs; the record ends at `until_s`, s, or when the last job is done, whichever is later.

    All nodes start on and idle, or `asleep`. The same inputs give the same result. Raises ReplayError where a job can
    never start.
    """
    checked(nodes, jobs)
    return _Replay(nodes, jobs, workloads, policy, Kinds.of(nodes), State.of(nodes, asleep)).run(until_s)


@dataclass(slots=True)
class _Running:
    fit: Fit
    run: Run
    planned_end_s: float


@dataclass(slots=True)
class _Replay:
    nodes: Nodes
    jobs: Jobs
    workloads: Workloads
    policy: Policy
    kinds: Kinds
    state: State
    waiting: list[int] = field(default_factory=list)
    running: dict[int, _Running] = field(default_factory=dict)
    on_node: list[dict[int, float]] = field(default_factory=list)
    events: list[tuple[float, int, int]] = field(default_factory=list)
    promised: list[Reservation] = field(default_factory=list)
    settings: dict[int, Setting] = field(default_factory=dict)
    limits: dict[int, float] = field(default_factory=dict)
    held: dict[int, float] = field(default_factory=dict)
    begun: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    runs: dict[int, tuple[Fit, Run]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    named: list[tuple[int, ...]] = field(default_factory=list)
    wakes: int = 0

    def run(self, until_s: float) -> Replayed:
        self.sizes = self.jobs.gpus.tolist()
        self.named = [tuple(np.flatnonzero(row).tolist()) for row in self.jobs.allowed]
        self.on_node = [{} for _ in range(len(self.nodes))]
        for job, release_s in enumerate(self.jobs.release_s.tolist()):
            heapq.heappush(self.events, (release_s, _RELEASE, job))
        for node in range(len(self.nodes)):
            self._look_later(node, self.policy.power_down.idle_s())
        now_s = 0.0
        while self.events:
            if len(self.ended) == len(self.jobs) and self.events[0][0] > until_s:
                break
            now_s = self.events[0][0]
            changed = False
            while self.events and self.events[0][0] == now_s:
                _, kind, number = heapq.heappop(self.events)
                changed |= self._happens(kind, number, now_s)
            if changed and self.waiting:
                self._schedule(now_s)
        if len(self.ended) < len(self.jobs):
            raise ReplayError(f"job {self.waiting[0] if self.waiting else '?'} never started")
        return self._result(max(until_s, max(self.ended.values(), default=0.0)))

    def _happens(self, kind: int, number: int, now_s: float) -> bool:
        """Take one event; whether jobs may be able to start after it."""
        if kind == _END:
            self._end(number, now_s)
        elif kind == _READY:
            woke = self.state.state[number] == WAKING
            if self.state.settle(number, now_s) and woke:
                self._look_later(number, now_s + self.policy.power_down.idle_s())
        elif kind == _BEGIN:
            self._begin(number, now_s)
            return False
        elif kind == _RELEASE:
            self.waiting.append(number)
        else:
            self._look(number, now_s)
            return False
        return True

    def _look_later(self, node: int, at_s: float) -> None:
        heapq.heappush(self.events, (at_s, _LOOK, node))

    def _look(self, node: int, now_s: float) -> None:
        """Power the node down if the policy says so; look again later while it stays idle."""
        state, down = self.state, self.policy.power_down
        idle_s = now_s - state.idle_since_s[node]
        if not idle_s >= down.idle_s() - 1e-6:
            return
        due = down.due(state, np.array([node]), now_s) if state.kept_until_s[node] <= now_s else ()
        if len(due):
            state.shut_down(node, now_s)
            heapq.heappush(self.events, (now_s + self.nodes.shut_down_s, _READY, node))
        else:
            self._look_later(node, now_s + down.again_s())

    def _schedule(self, now_s: float) -> None:
        """Start what may start: the queue in order, then backfill behind the first that must wait."""
        order = self.policy.order(self.waiting, self.jobs, now_s)
        self.state.kept_until_s[:] = 0.0
        started: set[int] = set()
        failed: set[tuple[int, tuple[int, ...]]] = set()
        # Shapes that fit nowhere, or nowhere but on the head's nodes: boards only get fewer in a pass.
        failed_behind: set[tuple[int, tuple[int, ...]]] = set()
        placement = self.policy.placement
        room = room_now(self.state)
        most = self._most(room)
        head: Held | None = None
        for place, job in enumerate(order):
            if head is not None and place > self.policy.backfill_depth:
                break
            allowed = placement.kinds(self.jobs, job, self.named[job], now_s)
            shape = (self.sizes[job], allowed)
            if shape in failed or (
                head is not None and shape in failed_behind and now_s + self._longest_s(job) > head.shadow_s
            ):
                continue
            # Most fail, and most of these by the fullest node: the search is for the others.
            hopeless = all(most[kind] < min(shape[0], self.kinds.size[kind]) for kind in allowed)
            fit = (
                None
                if hopeless
                else fit_now(self.state, self.kinds, placement, self.jobs, job, allowed, room, now_s)
            )
            if fit is None:
                failed.add(shape)
                if head is None:
                    head = self._promise(job, allowed, now_s)
                continue
            if head is not None:
                checked_fit = self._behind(job, allowed, fit, head, now_s)
                if checked_fit is None:
                    failed_behind.add(shape)
                    continue
                fit = checked_fit
            self._start(job, fit, now_s)
            started.add(job)
            room = room_now(self.state)
            most = self._most(room)
        if started:
            self.waiting = [job for job in self.waiting if job not in started]

    def _most(self, room: Ints) -> list[int]:
        """The most boards that a node of each class may give."""
        return [int(room[member].max()) for member in self.kinds.member]

    def _promise(self, job: int, allowed: tuple[int, ...], now_s: float) -> Held:
        state = self.state
        releases = [(max(r.planned_end_s, now_s + _SOON_S * (r.planned_end_s < now_s)), r.fit.nodes, r.fit.gpus)
                    for r in self.running.values()]  # fmt: skip
        shutting = np.flatnonzero(state.state == SHUTTING)
        releases += [
            (float(state.ready_s[node]), (int(node),), int(self.nodes.gpus[node])) for node in shutting
        ]
        head = reservation(state, self.kinds, self.jobs, job, allowed, sorted(releases))
        state.kept_until_s = np.where(head.kept, head.shadow_s, 0.0)
        self.promised.append(Reservation(now_s, job, head.shadow_s))
        return head

    def _behind(self, job: int, allowed: tuple[int, ...], fit: Fit, head: Held, now_s: float) -> Fit | None:
        """The nodes of a job behind the head, such that it does not delay it; None where there are none."""
        if now_s + self._delay_s(fit, now_s) + self._longest_s(job) <= head.shadow_s:
            return fit
        if any(head.kept[node] for node in fit.nodes):
            room = behind_room(self.state, head)
            placement = self.policy.placement
            other = fit_now(self.state, self.kinds, placement, self.jobs, job, allowed, room, now_s)
            if other is None:
                return None
            fit = other
        for node in fit.nodes:
            if head.kept[node]:
                head.spare[node] -= fit.gpus
        return fit

    def _longest_s(self, job: int) -> float:
        return self.policy.caps.longest_s(self.jobs, job)

    def _delay_s(self, fit: Fit, now_s: float) -> float:
        state = self.state
        waits = [
            self.nodes.wake_s if state.state[node] == SLEEP
            else max(float(state.ready_s[node]) - now_s, 0.0) if state.state[node] == WAKING else 0.0
            for node in fit.nodes
        ]  # fmt: skip
        return max(waits)

    def _start(self, job: int, fit: Fit, now_s: float) -> None:
        setting = self.policy.caps.choose(self.jobs, job, fit.kind, now_s)
        run = self.workloads.run(job, fit.kind, setting)
        delay_s = 0.0
        for node in fit.nodes:
            asleep = self.state.state[node] == SLEEP
            delay_s = max(delay_s, self.state.hold(node, fit.gpus, now_s))
            if asleep:
                self.wakes += 1
                heapq.heappush(self.events, (float(self.state.ready_s[node]), _READY, node))
        limit_s = self.policy.caps.limit_s(self.jobs, job, setting)
        begin_s = now_s + delay_s
        self.settings[job], self.limits[job], self.held[job] = setting, limit_s, now_s
        self.running[job] = _Running(fit, run, begin_s + limit_s)
        self.runs[job] = fit, run
        expected_s = begin_s + min(self.policy.placement.expected_s(self.jobs, job, fit.kind), limit_s)
        for node in fit.nodes:
            self.on_node[node][job] = expected_s
            self.state.free_expected_s[node] = max(self.on_node[node].values())
        if delay_s > 0:
            heapq.heappush(self.events, (begin_s, _BEGIN, job))
        else:
            self._begin(job, now_s)

    def _begin(self, job: int, now_s: float) -> None:
        one = self.running[job]
        for node in one.fit.nodes:
            self.state.begin(node, one.fit.gpus, one.run.gpu_w, now_s)
        self.begun[job] = now_s
        self.policy.caps.began(self.jobs, job, one.fit.kind, one.run, now_s)
        heapq.heappush(self.events, (now_s + one.run.duration_s, _END, job))

    def _end(self, job: int, now_s: float) -> None:
        one = self.running.pop(job)
        for node in one.fit.nodes:
            self.state.end(node, one.fit.gpus, one.run.gpu_w, now_s)
            del self.on_node[node][job]
            self.state.free_expected_s[node] = max(self.on_node[node].values(), default=0.0)
            if not self.on_node[node]:
                self._look_later(node, now_s + self.policy.power_down.idle_s())
        self.ended[job] = now_s

    def _result(self, until_s: float) -> Replayed:
        every = range(len(self.jobs))
        ran = np.array([self.runs[job][1].duration_s for job in every])
        limit_s = np.array([self.limits[job] for job in every])
        return Replayed(
            held_s=np.array([self.held[job] for job in every]),
            begin_s=np.array([self.begun[job] for job in every]),
            end_s=np.array([self.ended[job] for job in every]),
            hardware_class=np.array([self.runs[job][0].kind for job in every], dtype=np.int64),
            limit_s=limit_s,
            gpu_w=np.array([self.runs[job][1].gpu_w for job in every]),
            overrun=int((ran > limit_s + 1e-6).sum()),
            wakes=self.wakes,
            settings=tuple(self.settings[job] for job in every),
            final_w=tuple(self.runs[job][1].final_w for job in every),
            node_lists=tuple(self.runs[job][0].nodes for job in every),
            reservations=tuple(self.promised),
            segments=self.state.segments(until_s),
        )
