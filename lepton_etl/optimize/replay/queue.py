"""A cluster's queue run again: one event after another, EASY backfill over nodes that may sleep.

A job holds its nodes from `held_s`; it begins when all of them are on. Events of one instant are taken together before
jobs are started, so that the result does not depend on their order.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from lepton_etl.optimize.replay.cluster import (
    Ints,
    Jobs,
    Nodes,
    ReplayError,
    Run,
    Setting,
    Workloads,
    checked,
)
from lepton_etl.optimize.replay.easy import Fit, Held, Kinds, behind_room, fit_now, reservation, room_now
from lepton_etl.optimize.replay.outcome import Replayed, Reservation
from lepton_etl.optimize.replay.policies import Policy
from lepton_etl.optimize.replay.state import SHUTTING, SLEEP, WAKING, State

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
