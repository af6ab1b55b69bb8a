"""Jobs that are the same to a planner, and the cheapest places of each class when capacity has a price."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lepton_etl.recommend.schedule.arrays import Arrays, Ints, Place
from lepton_etl.recommend.schedule.inputs import Floats
from lepton_etl.recommend.schedule.places import ROUNDING


@dataclass(frozen=True, slots=True)
class Classes:
    """`members[c]` are the rows of the jobs of class c, `first` (C,) one each, `counts` (C,) how many."""

    members: tuple[tuple[int, ...], ...]
    first: Ints
    counts: Floats


def classes_of(arrays: Arrays, jobs: list[int]) -> Classes:
    """Jobs with equal window, need, energy, units and allowed groups."""
    at = np.array(jobs, dtype=np.int64)
    alike: dict[bytes, list[int]] = {}
    numbers = np.column_stack(
        [
            arrays.release[at], arrays.deadline[at], arrays.preemptible[at], arrays.units[at],
            arrays.allowed[at], arrays.need_h[at], arrays.slot_kwh[at], arrays.fixed[at],
        ]
    )  # fmt: skip
    for row, line in zip(jobs, numbers, strict=True):
        alike.setdefault(line.tobytes(), []).append(row)
    members = tuple(tuple(rows) for rows in alike.values())
    return Classes(
        members,
        np.array([rows[0] for rows in members], dtype=np.int64),
        np.array([len(rows) for rows in members], dtype=np.float64),
    )


@dataclass(frozen=True, slots=True)
class Priced:
    """Cheapest hours of each class in each group: `cost` with prices (C, G), inf where none; `slots` (C, G, longest).

    Slots beyond the class's need are -1.
    """

    cost: Floats
    slots: Ints


def price(arrays: Arrays, classes: Classes, unit_price: Floats) -> Priced:
    """Cheapest place of every class in every group, `unit_price` (G, H) added per unit and hour."""
    rows = classes.first
    longest = int(arrays.need_h[rows].max(initial=1))
    cost = np.full((len(rows), len(arrays.capacity)), np.inf)
    slots = np.full((*cost.shape, longest), -1, dtype=np.int64)
    for group in range(len(arrays.capacity)):
        for stop in (False, True):
            for need in range(1, longest + 1):
                at = np.flatnonzero(
                    arrays.allowed[rows, group]
                    & (arrays.preemptible[rows] == stop)
                    & (arrays.need_h[rows, group] == need)
                )
                if len(at) and need <= arrays.hours:
                    found = (_any_hours if stop else _in_a_row)(
                        arrays, rows[at], group, need, unit_price[group]
                    )
                    cost[at, group] = found[0] + arrays.fixed[rows[at], group]
                    slots[at, group, :need] = found[1]
    return Priced(cost, slots)


def _in_a_row(arrays: Arrays, rows: Ints, group: int, need: int, unit_price: Floats) -> tuple[Floats, Ints]:
    rate = sliding_window_view(arrays.rate[group], need).sum(axis=1)
    prices = sliding_window_view(unit_price, need).sum(axis=1)
    room = sliding_window_view(
        np.where(arrays.usable[group], arrays.capacity[group], -1.0), need
    ).min(axis=1)  # fmt: skip
    start = np.arange(len(rate))
    sums = arrays.slot_kwh[rows, group][:, None] * rate + arrays.units[rows][:, None] * prices
    allowed = (start >= arrays.release[rows][:, None]) & (start + need <= arrays.deadline[rows][:, None])
    allowed &= room >= arrays.units[rows][:, None] - ROUNDING
    sums = np.where(allowed, sums, np.inf)
    best = np.argmin(sums, axis=1)
    return sums[np.arange(len(rows)), best], best[:, None] + np.arange(need)[None, :]


def _any_hours(arrays: Arrays, rows: Ints, group: int, need: int, unit_price: Floats) -> tuple[Floats, Ints]:
    hour = np.arange(arrays.hours)
    costs = (
        arrays.slot_kwh[rows, group][:, None] * arrays.rate[group] + arrays.units[rows][:, None] * unit_price
    )
    allowed = (hour >= arrays.release[rows][:, None]) & (hour < arrays.deadline[rows][:, None])
    allowed &= arrays.capacity[group] >= arrays.units[rows][:, None] - ROUNDING
    allowed &= arrays.usable[group]
    costs = np.where(allowed, costs, np.inf)
    best = np.argsort(costs, axis=1, kind="stable")[:, :need]
    return np.take_along_axis(costs, best, axis=1).sum(axis=1), np.sort(best, axis=1)


def all_places(arrays: Arrays, row: int, at_most: int) -> list[Place] | None:
    """Every place of a job, alone; None where they are more than `at_most`."""
    found: list[Place] = []
    for group in np.flatnonzero(arrays.allowed[row]):
        need = int(arrays.need_h[row, group])
        room = (arrays.capacity[group] >= arrays.units[row] - ROUNDING) & arrays.usable[group]
        hours = [t for t in range(arrays.release[row], arrays.deadline[row]) if room[t]]
        if arrays.preemptible[row]:
            if comb(len(hours), need) + len(found) > at_most:
                return None
            found += [Place(int(group), slots) for slots in combinations(hours, need)]
        else:
            runs = (tuple(range(start, start + need)) for start in hours)
            found += [Place(int(group), run) for run in runs if set(run) <= set(hours)]
    return found if len(found) <= at_most else None
