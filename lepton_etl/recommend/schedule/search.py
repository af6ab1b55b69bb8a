"""Both planners on one problem: their plans, how far each is from the bound, and which is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from lepton_etl.recommend.schedule.arrays import Arrays, Bools, Place
from lepton_etl.recommend.schedule.classes import classes_of
from lepton_etl.recommend.schedule.exact import Exact, solve
from lepton_etl.recommend.schedule.greedy import greedy, improve, make_room
from lepton_etl.recommend.schedule.inputs import Floats
from lepton_etl.recommend.schedule.prices import left_out, subgradient

# Shares of the time, at most: for prices, as much again for the fast planner, for the last moves after the exact one.
_FAST: Final = 0.3
_LAST: Final = 0.15


@dataclass(frozen=True, slots=True)
class Arm:
    """One planner's objective at the risk quantile, its distance from the bound, and its wall seconds.

    The distance charges jobs without a place as the bound does; NaN where nothing is to be planned.
    """

    objective: float
    gap_ratio: float
    seconds: float
    without_place: int


@dataclass(frozen=True, slots=True)
class Found:
    """The kept places; `bound` holds for every plan; `proven`: all places of all jobs were compared."""

    places: dict[int, Place]
    chosen: str
    arms: dict[str, Arm]
    bound: float
    proven: bool


def search(
    free: Arrays, jobs: list[int], met: dict[int, Place], start_s: float, seconds: float, exact: bool
) -> Found:
    """Places of `jobs` by both planners: the one with more jobs placed, then the better objective.

    `met` are the baseline's places that keep their deadlines: every one of these jobs gets a place.
    """
    if not jobs:
        return Found({}, "none", {}, 0.0, True)
    began, end_s = time.monotonic(), start_s + seconds
    classes = classes_of(free, jobs)
    charged = left_out(free, classes)
    prices = subgradient(free, classes, free.total(met), start_s + _FAST * seconds)
    worth = prices.unit_price
    fast = _guarded(free, jobs, greedy(free, jobs, worth), met, worth, start_s + 2 * _FAST * seconds)
    found = {"heuristic": (fast, time.monotonic() - began)}
    bound, proven = prices.bound, False
    if exact:
        began = time.monotonic()
        solved = [
            solve(free, part, _start(fast, met, part), prices, until_s)
            for part, until_s in _shares(free, jobs, end_s - _LAST * seconds)
        ]
        if all(one is not None for one in solved):
            done: list[Exact] = [one for one in solved if one is not None]
            places = {row: place for one in done for row, place in one.places.items()}
            found["exact"] = (_guarded(free, jobs, places, met, worth, end_s), time.monotonic() - began)
            bound = max(bound, sum(one.bound for one in done))
            proven = all(one.proven for one in done)
    charge = {row: float(charged[c]) for c, rows in enumerate(classes.members) for row in rows}
    arms = {name: _arm(free, jobs, places, bound, spent, charge) for name, (places, spent) in found.items()}
    chosen = min(arms, key=lambda name: (arms[name].without_place, arms[name].objective))
    return Found(found[chosen][0], chosen, arms, bound, proven)


def _guarded(
    free: Arrays,
    jobs: list[int],
    places: dict[int, Place],
    met: dict[int, Place],
    unit_price: Floats,
    until_s: float,
) -> dict[int, Place]:
    """Moves until none helps; from the baseline itself where a job that it served in time would find no place."""
    places = improve(free, make_room(free, places, jobs, unit_price), jobs, until_s)
    return places if set(met) <= set(places) else improve(free, met, jobs, until_s)


def _arm(
    free: Arrays,
    jobs: list[int],
    places: dict[int, Place],
    bound: float,
    spent_s: float,
    charged: dict[int, float],
) -> Arm:
    objective = free.total(places)
    missing = [row for row in jobs if row not in places]
    whole = objective + sum(charged[row] for row in missing)
    gap = (whole - bound) / abs(whole) if whole and np.isfinite(bound) else float("nan")
    return Arm(objective, gap, spent_s, len(missing))


def _shares(free: Arrays, jobs: list[int], until_s: float) -> list[tuple[list[int], float]]:
    """Parts of the jobs that share no group, the smallest first, each with the time by which it must be done."""
    parts = components(free.allowed[jobs])
    rows = sorted(([jobs[i] for i in part] for part in parts), key=len)
    now = time.monotonic()
    ends = np.cumsum([len(part) for part in rows]) / len(jobs) * max(until_s - now, 0.0) + now
    return list(zip(rows, ends.tolist(), strict=True))


def components(allowed: Bools) -> list[list[int]]:
    """Jobs (J, G) that have groups in common, directly or through others: what can be planned apart."""
    jobs, groups = allowed.shape
    row, column = np.nonzero(allowed)
    edges = csr_array((np.ones(len(row)), (row, jobs + column)), shape=(jobs + groups, jobs + groups))
    _, label = connected_components(edges, directed=False)
    return [np.flatnonzero(label[:jobs] == one).tolist() for one in np.unique(label[:jobs])]


def _start(fast: dict[int, Place], met: dict[int, Place], rows: list[int]) -> dict[int, Place]:
    """Where the fast planner put these jobs, and the baseline those that it did not."""
    both = met | fast
    return {row: both[row] for row in rows if row in both}
