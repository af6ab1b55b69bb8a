"""The exact planner: column generation from good prices to the linear bound, then whole jobs by HiGHS.

Small problems list every place and are solved to the optimum. In larger ones places enter as their reduced cost asks;
prices give a lower bound that holds for every plan, so each plan's distance from the optimum can be said.
Source: Dantzig and Wolfe, Decomposition principle for linear programs, Operations Research 8 (1960); Wentges, Weighted
Dantzig-Wolfe decomposition, Int. Trans. Operational Research 4 (1997), for the smoothing of prices.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.recommend.schedule.arrays import Arrays, Place
from lepton_etl.recommend.schedule.classes import all_places, classes_of, price
from lepton_etl.recommend.schedule.inputs import Floats
from lepton_etl.recommend.schedule.master import Master, Relaxed
from lepton_etl.recommend.schedule.prices import Prices, bound

_ALL_PLACES: Final = 20_000
_ALL_AT_ONCE: Final = 1_500  # classes
_ENTER_PER_CLASS: Final = 3
# Prices a little off the best ones bring in the places that whole jobs will need.
_AROUND: Final = (0.97, 1.03)
# At good prices no place much dearer than the class's best is ever used.
_NEAR: Final = 0.05
_SMOOTHING: Final = 0.5
_GAP: Final = 5e-4
_WHOLE: Final = 1e-6
_SEED: Final = 20250603


@dataclass(frozen=True, slots=True)
class Exact:
    """Places, the lower bound on the objective of any plan, and whether it compared every place to the end."""

    places: dict[int, Place]
    bound: float
    proven: bool


def solve(
    arrays: Arrays, jobs: list[int], start: dict[int, Place], prices: Prices, until_s: float
) -> Exact | None:
    """The best places of `jobs`; the places of `start` enter at first, `prices` are the first prices.

    The bound charges jobs without a place as `prices.left_out` says. None: no solution in time.
    """
    classes = classes_of(arrays, jobs)
    master = Master.of(arrays, classes)
    if _list_all(arrays, master):
        free = np.zeros_like(arrays.capacity)
        solved = master.integers(classes.counts, free, until_s - time.monotonic(), 0.0)
        if solved is not None:
            return Exact(_hand_out(master, solved[0]), solved[1], solved[2])
    of_class = {row: c for c, rows in enumerate(classes.members) for row in rows}
    for row, place in start.items():
        master.add(of_class[row], place)
    found = _generate(arrays, master, prices.unit_price, until_s)
    if found is None:
        return None
    relaxed, best = found
    return Exact(_whole(arrays, master, relaxed, until_s), best, False)


def _list_all(arrays: Arrays, master: Master) -> bool:
    """Every place as a column, where they are few enough."""
    count, listed = 0, []
    for c, row in enumerate(master.classes.first):
        own = all_places(arrays, int(row), _ALL_PLACES - count)
        if own is None:
            return False
        count += len(own)
        listed.append((c, own))
    for c, own in listed:
        for place in own:
            master.add(c, place)
    return True


def _generate(arrays: Arrays, master: Master, prices: Floats, until_s: float) -> tuple[Relaxed, float] | None:
    """Rounds of pricing until no place would enter, the bound is near, or another round would pass the time."""
    everything = np.full(len(master.classes.members), np.inf)
    best, _ = _enter(arrays, master, prices, everything)
    rng = np.random.default_rng(_SEED)
    for _ in range(2):
        _enter(arrays, master, prices * rng.uniform(*_AROUND, prices.shape), everything, 1)
    relaxed: Relaxed | None = None
    while True:
        began = time.monotonic()
        solved = master.relax(until_s - began)
        if solved is None:
            break
        relaxed, entered = solved, 0
        for weight in (_SMOOTHING, 0.0):
            asked = weight * prices + (1 - weight) * relaxed.unit_price
            value, entered = _enter(arrays, master, asked, relaxed.class_price)
            if value > best:
                best, prices = value, asked
            if entered:
                break
        now = time.monotonic()
        if (
            not entered
            or relaxed.value - best <= _GAP * abs(relaxed.value)
            or 2 * (now - began) > until_s - now
        ):
            break
    return None if relaxed is None else (relaxed, best)


def _enter(
    arrays: Arrays, master: Master, unit_price: Floats, class_price: Floats, most: int = _ENTER_PER_CLASS
) -> tuple[float, int]:
    """Add at most `most` places a class that the prices make attractive; the bound here, and how many entered."""
    priced = price(arrays, master.classes, unit_price)
    gain = np.where(np.isfinite(priced.cost), class_price[:, None], -np.inf) - np.where(
        np.isfinite(priced.cost), priced.cost, 0.0
    )
    # All that may enter is ranked by its cost alone.
    order = np.argsort(priced.cost, axis=1, kind="stable")[:, :most]
    cheap = np.take_along_axis(priced.cost, order, axis=1)
    wanted = cheap <= cheap[:, :1] + _NEAR * np.abs(cheap[:, :1])
    wanted &= np.take_along_axis(gain, order, axis=1) > 1e-7 * master.scale
    entered = 0
    for c, k in zip(*np.nonzero(wanted), strict=True):
        group = int(order[c, k])
        slots = priced.slots[c, group]
        entered += master.add(int(c), Place(group, tuple(slots[slots >= 0].tolist())))
    return bound(arrays, master.classes, priced, unit_price, master.left_out), entered


def _whole(arrays: Arrays, master: Master, relaxed: Relaxed, until_s: float) -> dict[int, Place]:
    """Whole jobs stay where the relaxation put them; the rest, at most one a full hour, is solved in integers.

    Few classes are solved in integers all at once as well, and the better is kept.
    """
    classes = master.classes
    of_column = np.array([c for c, _ in master.columns], dtype=np.int64)
    kept = np.zeros(len(of_column))
    kept[: len(relaxed.counts)] = np.floor(relaxed.counts + _WHOLE)
    found = [kept]
    for fixed in (kept, np.zeros_like(kept))[: 1 + (len(classes.members) <= _ALL_AT_ONCE)]:
        left = np.round(
            classes.counts - np.bincount(of_column, weights=fixed, minlength=len(classes.members))
        )
        seconds = until_s - time.monotonic()
        if (left > 0).any() and seconds > 0:
            solved = master.integers(left, _usage(arrays, master, fixed), seconds / 2, _GAP)
            if solved is not None:
                found.append(fixed + solved[0])
    return min(
        (_hand_out(master, counts) for counts in found), key=lambda one: (-len(one), arrays.total(one))
    )


def _usage(arrays: Arrays, master: Master, counts: Floats) -> Floats:
    used = np.zeros_like(arrays.capacity)
    for column in np.flatnonzero(counts > 0):
        c, place = master.columns[column]
        used[place.group, list(place.slots)] += counts[column] * arrays.units[master.classes.first[c]]
    return used


def _hand_out(master: Master, counts: Floats) -> dict[int, Place]:
    """Places of single jobs from counts of their classes."""
    waiting = [list(rows) for rows in master.classes.members]
    places = {}
    for column in np.flatnonzero(counts > 0.5):
        c, place = master.columns[column]
        for _ in range(round(float(counts[column]))):
            places[waiting[c].pop(0)] = place
    return places
