"""The state of the nodes while a replay runs, and the record of what each drew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from lepton_etl.optimize.replay.cluster import Floats, Ints, Nodes

ON: Final = 0
SLEEP: Final = 1
WAKING: Final = 2
SHUTTING: Final = 3
STATES: Final = ("on", "sleep", "waking", "shutting_down")


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
