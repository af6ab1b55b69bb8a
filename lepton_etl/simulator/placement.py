"""Where jobs run: first fit in order of submission, with a short look ahead."""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Final

import numpy as np

from lepton_etl.simulator.jobs import Assignment, Job, OffWindow, Schedule, arrivals, next_run, off_windows
from lepton_etl.simulator.plan import DAY_S, STEP_S, ClusterPlan, FleetPlan

LOOKAHEAD: Final = 8  # queued jobs that may overtake a job that does not fit yet


def schedule(plan: FleetPlan, cluster: ClusterPlan) -> Schedule:
    """Place the jobs of a cluster first-fit on its nodes, in order of submission with a short look ahead.

    Starts a day before the plan with an empty cluster, so that the first midnight finds it loaded. A job is
    only placed where it ends before the node's next off window. Placement never looks at later arrivals: a
    longer plan leaves earlier days as they are.
    """
    off = [off_windows(plan, node_id) for node_id in cluster.node_ids()]
    placer = _Placer(cluster, off)
    jobs = [job for day in range(-1, plan.days) for job in arrivals(plan, cluster, day)]
    ends: list[tuple[int, int, Job]] = []
    queue: deque[Job] = deque()
    pending = deque(jobs)
    last_step = plan.days * DAY_S // STEP_S
    started: list[Job] = []
    while pending or (queue and ends):
        arrival = math.ceil(pending[0].submit_s / STEP_S) if pending else last_step
        now = min(arrival, ends[0][0]) if ends else arrival
        if now >= last_step:
            break
        while ends and ends[0][0] <= now:
            ended = heapq.heappop(ends)[2]
            placer.release(ended)
            if ended.outcome == "REQUEUED":
                queue.append(next_run(ended))
        while pending and math.ceil(pending[0].submit_s / STEP_S) <= now:
            queue.append(pending.popleft())
        for job in list(queue)[:LOOKAHEAD]:
            if placer.place(job, now):
                queue.remove(job)
                started.append(job)
                heapq.heappush(ends, (job.end_step, len(started), job))
    return Schedule(started, placer.assignments, off)


class _Placer:
    """Free slots of each node, and first-fit over them."""

    def __init__(self, cluster: ClusterPlan, off: list[list[OffWindow]]) -> None:
        self.free = np.ones((cluster.nodes, cluster.hardware.slots), dtype=bool)
        self.free_count = self.free.sum(axis=1)
        self.assignments: list[list[Assignment]] = [[] for _ in range(cluster.nodes)]
        flat = [(node, w.start_step, w.end_step) for node, windows in enumerate(off) for w in windows]
        self.off = np.array(flat, dtype=np.int64).reshape(-1, 3)
        self.held: dict[str, list[tuple[int, tuple[int, ...]]]] = {}

    def place(self, job: Job, now_step: int) -> bool:
        """Start the job on the first nodes that have room until its end; False when there are too few."""
        end_step = now_step + max(1, int(job.duration_s // STEP_S))
        fits = self.free_count >= job.slots_per_node
        fits[self.off[(self.off[:, 1] < end_step) & (self.off[:, 2] > now_step), 0]] = False
        nodes = np.flatnonzero(fits)[: job.node_count]
        if len(nodes) < job.node_count:
            return False
        job.start_step, job.end_step, job.nodes = now_step, end_step, [int(node) for node in nodes]
        held = []
        for node in job.nodes:
            slots = tuple(int(slot) for slot in np.flatnonzero(self.free[node])[: job.slots_per_node])
            self.free[node, list(slots)] = False
            self.free_count[node] -= len(slots)
            self.assignments[node].append(Assignment(job, slots))
            held.append((node, slots))
        self.held[job.run_id] = held
        return True

    def release(self, job: Job) -> None:
        """Give back the slots of a job that ended."""
        for node, slots in self.held.pop(job.run_id):
            self.free[node, list(slots)] = True
            self.free_count[node] += len(slots)
