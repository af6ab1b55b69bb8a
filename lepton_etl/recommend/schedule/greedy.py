"""The fast planner: the tightest job first, each at its cheapest place at given prices, then moves while any helps."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from lepton_etl.recommend.schedule.arrays import Arrays, Place
from lepton_etl.recommend.schedule.inputs import Floats
from lepton_etl.recommend.schedule.places import added, cheapest, earliest, fits

_PASSES: Final = 6
_TIE: Final = 1e-9  # share of a job's cost below which a move is no gain


def run_at_once(arrays: Arrays) -> dict[int, Place]:
    """The baseline: in order of release, each at once where it was submitted, or as soon as there is room.

    Deadlines hasten nothing here. Jobs that find no room in the hours ahead have no place.
    """
    places: dict[int, Place] = {}
    used = np.zeros_like(arrays.capacity)
    for row in map(int, np.argsort(arrays.release, kind="stable")):
        place = earliest(arrays, row, used, by_deadline=False)
        if place is not None:
            places[row] = place
            take(arrays, used, row, place, 1)
    return places


def take(arrays: Arrays, used: Floats, job: int, place: Place, sign: int) -> None:
    """Add (1) or take back (-1) a job's units in `used`, in place."""
    used[place.group, list(place.slots)] += sign * arrays.units[job]


def greedy(arrays: Arrays, jobs: list[int], unit_price: Floats) -> dict[int, Place]:
    """Places of `jobs`; a job that finds none is missing.

    Those with the least spare time first, among them the largest: what comes last must find a gap. `unit_price` (G, H)
    is what an hour's units are worth to others: who comes first leaves the best hours to those who gain most.
    """
    used = np.zeros_like(arrays.capacity)
    places: dict[int, Place] = {}
    spare = arrays.deadline - arrays.release - arrays.need_h[np.arange(len(arrays.home)), arrays.home]
    for row in sorted(jobs, key=lambda row: (int(spare[row]), -float(arrays.units[row]), row)):
        best = cheapest(arrays, row, used, unit_price)
        if best is not None:
            places[row] = best[1]
            take(arrays, used, row, best[1], 1)
    return make_room(arrays, places, jobs, unit_price)


def make_room(
    arrays: Arrays, places: dict[int, Place], jobs: list[int], unit_price: Floats
) -> dict[int, Place]:
    """Each job without a place takes its best one, if those that stand there all find another."""
    places, used, nothing = dict(places), arrays.usage(places), np.zeros_like(arrays.capacity)
    for row in [row for row in jobs if row not in places]:
        wanted = cheapest(arrays, row, nothing, unit_price)
        if wanted is None:
            continue
        place = wanted[1]
        there = [
            other
            for other, at in places.items()
            if at.group == place.group and set(at.slots) & set(place.slots)
        ]
        gone: list[int] = []
        # The smallest find a new place most easily.
        for other in sorted(there, key=lambda other: (float(arrays.units[other]), other)):
            if fits(arrays, row, place, used):
                break
            gone.append(other)
            take(arrays, used, other, places[other], -1)
        new: dict[int, Place] = {}
        if fits(arrays, row, place, used):
            new[row] = place
            take(arrays, used, row, place, 1)
            for other in reversed(gone):
                found = cheapest(arrays, other, used, unit_price)
                if found is None:
                    break
                new[other] = found[1]
                take(arrays, used, other, found[1], 1)
        if len(new) == len(gone) + 1:
            places |= new
        else:
            for other, at in new.items():
                take(arrays, used, other, at, -1)
            for other in gone:
                take(arrays, used, other, places[other], 1)
    return places


def improve(arrays: Arrays, places: dict[int, Place], jobs: list[int], until_s: float) -> dict[int, Place]:
    """Moves of one job at a time, each strictly better, until none is or `time.monotonic()` passes `until_s`.

    Jobs without a place get one as soon as there is room; no job ever loses its place.
    """
    places = dict(places)
    used = arrays.usage(places)
    for _ in range(_PASSES):
        moved = False
        for row in jobs:
            if time.monotonic() > until_s:
                return places
            now = places.get(row)
            if now is not None:
                take(arrays, used, row, now, -1)
            best = cheapest(arrays, row, used)
            if best is not None:
                before = np.inf if now is None else added(arrays, row, now, used)
                if best[0] < before - _TIE * max(abs(before), 1e-12):
                    now = best[1]
                    moved = True
            if now is not None:
                places[row] = now
                take(arrays, used, row, now, 1)
        if not moved:
            break
    return places


def settle(arrays: Arrays, places: dict[int, Place], baseline: dict[int, Place]) -> dict[int, Place]:
    """Jobs go back to where they would have run where that costs nothing: no move without a gain."""
    places = dict(places)
    used = arrays.usage(places)
    for row, place in sorted(places.items()):
        before = baseline.get(row)
        if before is None or before == place or before.slots[-1] >= arrays.deadline[row]:
            continue
        if not arrays.allowed[row, before.group] or not arrays.usable[before.group, list(before.slots)].all():
            continue
        take(arrays, used, row, place, -1)
        if fits(arrays, row, before, used):
            now, then = added(arrays, row, place, used), added(arrays, row, before, used)
            if then <= now + _TIE * max(abs(now), 1e-12):
                place = before
        places[row] = place
        take(arrays, used, row, place, 1)
    return places
