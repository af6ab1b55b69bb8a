"""The places a job can take beside what others use, and the cheapest of them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lepton_etl.recommend.schedule.arrays import Arrays, Bools, Ints, Place
from lepton_etl.recommend.schedule.inputs import Floats

ROUNDING: Final = 1e-7  # units, so that sums of fractions of a node still fit


def open_slots(arrays: Arrays, job: int, groups: Ints, used: Floats, *, priced: bool) -> Bools:
    """Hours (groups, H) of the job's window with room for it; `priced`: and an hour whose objective is known."""
    room = arrays.capacity[groups] - used[groups] >= arrays.units[job] - ROUNDING
    hour = np.arange(arrays.hours)
    room &= (hour >= arrays.release[job]) & (hour < arrays.deadline[job])
    return np.asarray(room & arrays.usable[groups] if priced else room)


def cheapest(
    arrays: Arrays, job: int, used: Floats, unit_price: Floats | None = None
) -> tuple[float, Place] | None:
    """The place that adds least to the objective beside `used` units (G, H); None: there is none. Ties run first.

    `unit_price` (G, H) is added per unit and hour, for what the place takes from others.
    """
    groups = np.flatnonzero(arrays.allowed[job])
    if not len(groups):
        return None
    is_open = open_slots(arrays, job, groups, used, priced=True)
    cost = arrays.slot_kwh[job, groups][:, None] * arrays.rate[groups] + _curve_added(
        arrays, job, groups, used
    )
    if unit_price is not None:
        cost += arrays.units[job] * unit_price[groups]
    needs = arrays.need_h[job, groups]
    best: tuple[float, Place] | None = None
    for need in np.unique(needs):
        same = np.flatnonzero(needs == need)
        found = (_preempted if arrays.preemptible[job] else _in_a_row)(cost[same], is_open[same], int(need))
        if found is None:
            continue
        sums, slots = found
        sums = sums + arrays.fixed[job, groups[same]]
        row = int(np.argmin(sums))
        if np.isfinite(sums[row]) and (best is None or sums[row] < best[0]):
            best = float(sums[row]), Place(int(groups[same[row]]), tuple(int(one) for one in slots[row]))
    return best


def earliest(arrays: Arrays, job: int, used: Floats, *, by_deadline: bool) -> Place | None:
    """The first hours in a row on the job's own group: what happens without a plan, in order of release."""
    own = np.array([arrays.home[job]])
    room = arrays.capacity[own] - used[own] >= arrays.units[job] - ROUNDING
    room &= np.arange(arrays.hours) >= arrays.release[job]
    if by_deadline:
        room &= np.arange(arrays.hours) < arrays.deadline[job]
    need = int(arrays.need_h[job, own[0]])
    if need > arrays.hours:
        return None
    starts = np.flatnonzero(sliding_window_view(room[0], need).all(axis=1))
    if not len(starts):
        return None
    return Place(int(own[0]), tuple(range(int(starts[0]), int(starts[0]) + need)))


def added(arrays: Arrays, job: int, place: Place, used: Floats) -> float:
    """What the job at this place adds to the objective beside `used` units."""
    group = np.array([place.group])
    curve = _curve_added(arrays, job, group, used)[0, list(place.slots)].sum()
    return arrays.own_cost(job, place) + float(curve)


def fits(arrays: Arrays, job: int, place: Place, used: Floats) -> bool:
    """Whether every hour of the place has room beside `used`."""
    slots = list(place.slots)
    free = arrays.capacity[place.group, slots] - used[place.group, slots]
    return bool((free >= arrays.units[job] - ROUNDING).all())


def _curve_added(arrays: Arrays, job: int, groups: Ints, used: Floats) -> Floats:
    """Objective (groups, H) that one more job adds through the groups' marginal curves."""
    if arrays.widths.shape[1] == 1:
        return np.asarray(arrays.units[job] * arrays.steps_kw[groups] * arrays.rate[groups])
    before = arrays.curve_kw(groups, used[groups])
    after = arrays.curve_kw(groups, used[groups] + arrays.units[job])
    return np.asarray((after - before) * arrays.rate[groups])


def _in_a_row(cost: Floats, is_open: Bools, need: int) -> tuple[Floats, Ints] | None:
    if need > cost.shape[1]:
        return None
    summed = np.zeros((len(cost), cost.shape[1] + 1))
    closed = np.zeros(summed.shape)
    np.cumsum(cost, axis=1, out=summed[:, 1:])
    np.cumsum(~is_open, axis=1, out=closed[:, 1:])
    sums = np.where(closed[:, need:] == closed[:, :-need], summed[:, need:] - summed[:, :-need], np.inf)
    start = sums.argmin(axis=1)
    return sums[np.arange(len(sums)), start], start[:, None] + np.arange(need)[None, :]


def _preempted(cost: Floats, is_open: Bools, need: int) -> tuple[Floats, Ints] | None:
    if need > cost.shape[1]:
        return None
    price = np.where(is_open, cost, np.inf)
    order = np.argsort(price, axis=1, kind="stable")[:, :need]
    return np.take_along_axis(price, order, axis=1).sum(axis=1), np.sort(order, axis=1)
