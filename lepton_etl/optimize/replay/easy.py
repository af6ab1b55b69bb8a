"""EASY backfill: where a job fits now, when the head of the queue fits at the latest, and what others may take.

Source: Lifka, The ANL/IBM SP scheduling system, JSSPP 1995; Mu'alem and Feitelson, IEEE TPDS 12(6), 2001.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lepton_etl.optimize.replay.cluster import Flags, Ints, Jobs, Nodes, ReplayError
from lepton_etl.optimize.replay.policies import Placement
from lepton_etl.optimize.replay.state import SHUTTING, State


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
