"""Find places for jobs that may wait at the least objective: counts of like jobs first, then job by job.

Jobs that differ in nothing but their name are a class. A programme has a count for every (class, group, first hour)
and, for jobs that may pause, for every (class, group, hour); each hour of a group holds its units. HiGHS solves its
linear relaxation, of a large problem over the starts that are near the cheapest at the prices of a sample of the jobs;
what is whole in it is kept, and the rest is placed job by job. Where that is not the best yet and the problem is small,
the programme is solved in whole numbers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Final

import numpy as np

from lepton_etl.recommend.job_problem import ROUNDING, Arrays, Bools, Floats, Ints, Place

if TYPE_CHECKING:
    from scipy.sparse import csc_array

# Columns up to which whole numbers are asked of the solver, and up to which one linear programme holds every start.
WHOLE_COLUMNS: Final = 5_000
LINEAR_COLUMNS: Final = 80_000
# Of a class in a larger programme only starts remain that are dearer than its cheapest by at most this share, at the
# prices of the sample; two at least.
_NEAR_RATIO: Final = 0.002
_FEWEST: Final = 2
# A job without a place costs so many times the dearest unit-hour that no plan leaves one out to save energy.
_LEFT_OUT: Final = 100.0
# A plan so near to the bound is as good as the best.
PROVEN_RATIO: Final = 1e-4
_WHOLE_NUMBER: Final = 1e-6  # a count so near to a whole number is one
_TIE: Final = 1e-9  # share of a job's cost below which a move is no gain
_PASSES: Final = 6
_SEED: Final = 20250603


def _ways(values: Floats, is_open: Bools, need: int, preemptible: bool) -> tuple[Floats, Ints]:
    """Return the sum of values (n,) and the hours (n, need) of each run of open hours.

    Of a job that may pause: its cheapest open hours alone, the earliest of equals.
    """
    hours = np.flatnonzero(is_open)
    if len(hours) < need:
        return np.zeros(0), np.zeros((0, need), dtype=np.int64)
    if preemptible:
        taken = np.sort(hours[np.argsort(values[hours], kind="stable")[:need]])[None, :]
    else:
        starts = hours[: len(hours) - need + 1]
        taken = starts[hours[need - 1 :] - starts == need - 1][:, None] + np.arange(need)
    return values[taken].sum(axis=1), taken


@dataclass(slots=True)
class Occupancy:
    """Jobs at their places, and the units in use (G, H)."""

    arrays: Arrays
    places: dict[int, Place] = field(default_factory=dict)
    used: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.used = self.arrays.usage(self.places)

    def put(self, job: int, place: Place) -> None:
        self.places[job] = place
        self.used[place.group, list(place.hours)] += self.arrays.units[job]

    def remove(self, job: int) -> Place:
        place = self.places.pop(job)
        self.used[place.group, list(place.hours)] -= self.arrays.units[job]
        return place

    def fits(self, job: int, place: Place) -> bool:
        hours = list(place.hours)
        free = self.arrays.capacity[place.group, hours] - self.used[place.group, hours]
        return bool((free >= self.arrays.units[job] - ROUNDING).all())

    def added(self, job: int, place: Place) -> float:
        """Return what the job at this place adds to the objective."""
        curve = self._curve_added(job, np.array([place.group]))[0, list(place.hours)].sum()
        return self.arrays.own_cost(job, place) + float(curve)

    def cheapest(self, job: int, unit_price: Floats | None = None) -> tuple[float, Place] | None:
        """Return the open place that adds least to the objective, the earliest of equals; None: there is none.

        `unit_price` (G, H), what a unit of an hour is worth to all jobs, stands for the groups' marginal curves.
        """
        arrays, best = self.arrays, None
        groups = np.flatnonzero(arrays.allowed[job])
        curve = (
            self._curve_added(job, groups) if unit_price is None else arrays.units[job] * unit_price[groups]
        )
        values = arrays.hour_kwh[job, groups][:, None] * arrays.rate[groups] + curve
        is_open = arrays.open_hours(job, groups, self.used)
        for row, group in enumerate(groups.tolist()):
            need, pauses = int(arrays.need_h[job, group]), bool(arrays.preemptible[job])
            sums, hours = _ways(values[row], is_open[row], need, pauses)
            if len(sums):
                cost = float(sums.min() + arrays.fixed[job, group])
                if best is None or cost < best[0]:
                    best = cost, Place(group, tuple(hours[sums.argmin()].tolist()))
        return best

    def _curve_added(self, job: int, groups: Ints) -> Floats:
        """Return the objective (groups, H) that one more job adds through the groups' marginal curves."""
        arrays, used = self.arrays, self.used[groups]
        if arrays.widths.shape[1] == 1:
            return np.asarray(arrays.units[job] * arrays.steps_kw[groups] * arrays.rate[groups])
        more = arrays.curve_kw(groups, used + arrays.units[job]) - arrays.curve_kw(groups, used)
        return np.asarray(more * arrays.rate[groups])

    def improve(self, jobs: Sequence[int], until_s: float) -> None:
        """Move one job at a time, each strictly better, until none is or the time is over.

        Jobs without a place get one as soon as there is room; no job ever loses its place.
        """
        moved, passes = True, 0
        while moved and passes < _PASSES:
            moved, passes = False, passes + 1
            for row in jobs:
                if time.monotonic() > until_s:
                    return
                now = self.remove(row) if row in self.places else None
                best = self.cheapest(row)
                before = np.inf if now is None else self.added(row, now)
                if best is not None and best[0] < before - _TIE * max(abs(before), 1e-12):
                    now, moved = best[1], True
                if now is not None:
                    self.put(row, now)

    def restore(self, met: Mapping[int, Place]) -> None:
        """Give every job of `met` a place, these places fitting all at once.

        One that has none gets that of `met`; who is in its way finds another or goes to its own of `met` as well. No
        job goes there twice, so this ends.
        """
        waiting, back = [row for row in met if row not in self.places], set[int]()
        while waiting:
            row = waiting.pop()
            place, gone = met[row], list[int]()
            back.add(row)
            in_the_way = [
                other
                for other, at in self.places.items()
                if other not in back and at.group == place.group and not set(at.hours).isdisjoint(place.hours)
            ]
            # The smallest find a new place most easily.
            for other in sorted(in_the_way, key=lambda other: (float(self.arrays.units[other]), other)):
                if self.fits(row, place):
                    break
                self.remove(other)
                gone.append(other)
            self.put(row, place)
            for other in reversed(gone):
                best = self.cheapest(other)
                if best is not None:
                    self.put(other, best[1])
                elif other in met:
                    waiting.append(other)

    def settle(self, baseline: Mapping[int, Place]) -> None:
        """Return jobs to where they would have run where that costs nothing: no move without a gain."""
        for row in sorted(set(self.places) & set(baseline)):
            place = now = self.remove(row)
            before = baseline[row]
            if before != now and self.fits(row, before):
                cost = self.added(row, now)
                if self.added(row, before) <= cost + _TIE * max(abs(cost), 1e-12):
                    place = before
            self.put(row, place)


def at_once(arrays: Arrays) -> dict[int, Place]:
    """Return the baseline: in order of release, each at once where it was submitted, or as soon as there is room.

    Deadlines hasten nothing here. Jobs that find no room in the hours ahead have no place.
    """
    running, hour = Occupancy(arrays), np.arange(arrays.problem.hours, dtype=np.float64)
    for row in np.argsort(arrays.release, kind="stable").tolist():
        group, need = int(arrays.home[row]), int(arrays.need_h[row, arrays.home[row]])
        room = arrays.capacity[group] - running.used[group] >= arrays.units[row] - ROUNDING
        _, hours = _ways(hour, room & (hour >= arrays.release[row]), need, False)
        if len(hours):
            running.put(row, Place(group, tuple(hours[0].tolist())))
    return running.places


@dataclass(frozen=True, slots=True)
class Placement:
    """Places of jobs; no plan is below `bound`, `gap_ratio` is their distance from it, jobs without a place charged."""

    places: dict[int, Place]
    bound: float
    gap_ratio: float


def search(
    arrays: Arrays,
    jobs: Sequence[int],
    met: Mapping[int, Place],
    seconds: float,
    whole_columns: int = WHOLE_COLUMNS,
    linear_columns: int = LINEAR_COLUMNS,
) -> Placement:
    """Find places of `jobs` in about `seconds`; `met` are places that all fit at once: their jobs get a place."""
    if not jobs:
        return Placement({}, 0.0, 0.0)
    until_s = time.monotonic() + seconds
    # Who is sure of a place comes first among its like.
    jobs = sorted(jobs, key=lambda row: (row not in met, row))
    charge, size = _charges(arrays), _size(arrays, jobs)

    def complete(places: Mapping[int, Place], unit_price: Floats | None) -> tuple[float, Occupancy]:
        done = _complete(arrays, jobs, places, unit_price)
        done.restore(met)
        done.improve(jobs, until_s)
        return arrays.total(done.places) + sum(charge[row] for row in jobs if row not in done.places), done

    places, unit_price, bound = _relaxation(arrays, jobs, charge, linear_columns / size, until_s)
    cost, best = complete(places, unit_price)
    if cost - bound > PROVEN_RATIO * abs(cost) and size <= whole_columns:
        programme = _programme(arrays, jobs, charge, met=met)
        solved = programme.solve((time.monotonic() + until_s) / 2, whole=True)
        if solved is not None:
            bound = max(bound, solved.bound)
            cost, best = min(
                (cost, best), complete(programme.deal(solved.counts), None), key=lambda draft: draft[0]
            )
    best.settle(met)
    return Placement(best.places, bound, (cost - bound) / abs(cost) if cost else 0.0)


def _relaxation(
    arrays: Arrays, jobs: Sequence[int], charge: Floats, share: float, until_s: float
) -> tuple[dict[int, Place], Floats | None, float]:
    """Return the places that the linear relaxation leaves whole, prices (G, H) of a unit in an hour, and a lower bound.

    Where one programme holds only a `share` of the starts, prices come from a sample of so many jobs, each standing
    for several.
    """
    sampled = None
    if share < 1:
        rng = np.random.default_rng(_SEED)
        sample = sorted(rng.choice(jobs, ceil(len(jobs) * share), replace=False).tolist())
        few = _programme(arrays, sample, charge, weight=len(jobs) / len(sample))
        if (sampled := few.solve(until_s)) is None:
            return {}, None, -np.inf
    unit_price = None if sampled is None else sampled.unit_price
    programme = _programme(arrays, jobs, charge, unit_price)
    bound = -np.inf if unit_price is None else programme.bound(unit_price)
    if (solved := programme.solve(until_s)) is None:
        return {}, unit_price, bound
    if unit_price is None:
        return programme.deal(solved.counts), solved.unit_price, solved.bound
    return programme.deal(solved.counts), unit_price, bound


def _complete(
    arrays: Arrays, jobs: Sequence[int], places: Mapping[int, Place], unit_price: Floats | None
) -> Occupancy:
    """Place what a programme left: the largest first, each at its cheapest place at the prices."""
    done = Occupancy(arrays)
    for row, place in places.items():
        # A solver's counts may exceed an hour by its tolerance.
        if done.fits(row, place):
            done.put(row, place)
    work = arrays.units * arrays.need_h[np.arange(len(arrays.home)), arrays.home]
    left = [row for row in jobs if row not in done.places]
    for row in sorted(left, key=lambda row: (-float(work[row]), row)):
        best = done.cheapest(row, unit_price)
        if best is not None:
            done.put(row, best[1])
    return done


def _size(arrays: Arrays, jobs: list[int]) -> int:
    """Return how many starts, or hours of jobs that may pause, the classes of `jobs` have at most."""
    first = np.array([rows[0] for rows in _classes(arrays, jobs)])
    window = (arrays.deadline - arrays.release)[first][:, None]
    starts = np.where(arrays.preemptible[first][:, None], window + 1, window - arrays.need_h[first] + 1)
    return int((np.maximum(starts, 0) * arrays.allowed[first]).sum())


def _classes(arrays: Arrays, jobs: Sequence[int]) -> list[list[int]]:
    """Return the jobs of each class: those of equal window, need, energy, units and allowed groups."""
    at = np.array(jobs, dtype=np.int64)
    numbers = np.column_stack(
        [
            arrays.release[at], arrays.deadline[at], arrays.preemptible[at], arrays.units[at],
            arrays.allowed[at], arrays.need_h[at], arrays.hour_kwh[at], arrays.fixed[at],
        ]
    )  # fmt: skip
    alike: dict[bytes, list[int]] = {}
    for row, line in zip(jobs, numbers, strict=True):
        alike.setdefault(line.tobytes(), []).append(row)
    return list(alike.values())


def _charges(arrays: Arrays) -> Floats:
    """Return what a job without a place is charged, (J,)."""
    rate, work = np.abs(arrays.rate), arrays.units * arrays.need_h.max(axis=1)
    steps = float((arrays.steps_kw.max(axis=1) * rate.max(axis=1)).max(initial=0.0))
    own = arrays.need_h.max(axis=1) * arrays.hour_kwh.max(axis=1) * rate.max(initial=0.0)
    dearest = (own + np.abs(arrays.fixed).max(axis=1)) / work + steps
    return np.asarray(_LEFT_OUT * (float(dearest.max(initial=0.0)) or 1.0) * work)


@dataclass(frozen=True, slots=True)
class _Option:
    """Jobs of a class in a group: each takes the `sure` hours, and `more` of the hours `among`."""

    of_class: int
    group: int
    sure: Ints
    among: Ints
    more: int


def _options(
    arrays: Arrays, of_class: int, job: int, unit_price: Floats | None
) -> tuple[list[_Option], float]:
    """Return the options of a class, and what the cheapest costs; with prices only those that are near it.

    With prices, an hour of a job that may pause is sure if it is clearly cheaper than the last that it needs.
    """
    groups, none = np.flatnonzero(arrays.allowed[job]), np.zeros(0, dtype=np.int64)
    near = np.inf if unit_price is None else _NEAR_RATIO
    price = 0.0 if unit_price is None else arrays.units[job] * unit_price[groups]
    values = arrays.hour_kwh[job, groups][:, None] * arrays.rate[groups] + price
    is_open = arrays.open_hours(job, groups, 0.0)
    priced: list[tuple[float, _Option]] = []
    for row, group in enumerate(groups.tolist()):
        need, fixed = int(arrays.need_h[job, group]), float(arrays.fixed[job, group])
        sums, hours = _ways(values[row], is_open[row], need, bool(arrays.preemptible[job]))
        if not arrays.preemptible[job]:
            priced += [
                (cost + fixed, _Option(of_class, group, run, none, 0))
                for cost, run in zip(sums.tolist(), hours, strict=True)
            ]
        elif len(sums):
            cost = float(sums[0]) + fixed
            every = np.flatnonzero(is_open[row])
            beyond, margin = values[row, every] - values[row, hours[0]].max(), near * max(abs(cost), 1e-12)
            sure, among = every[beyond < -margin], every[np.abs(beyond) <= margin]
            if len(sure) + len(among) == need:
                sure, among = np.sort(np.concatenate([sure, among])), none
            priced.append((cost, _Option(of_class, group, sure, among, need - len(sure))))
    if not priced:
        return [], np.inf
    priced.sort(key=lambda pair: pair[0])
    cheapest = priced[0][0]
    limit = cheapest + near * max(abs(cheapest), 1e-12)
    return [option for rank, (cost, option) in enumerate(priced) if rank < _FEWEST or cost <= limit], cheapest


@dataclass(frozen=True, slots=True)
class _Solved:
    """Counts by column, the solver's bound, and prices (G, H) of a unit in an hour; none in whole numbers."""

    counts: Floats
    bound: float
    unit_price: Floats | None


@dataclass(frozen=True, slots=True)
class _Programme:
    """Columns: jobs by option, then by option and hour `among`, jobs left out by class, units by step of the curves.

    Rows: jobs of each class, units of each (group, hour), hours of those that may pause.
    """

    arrays: Arrays
    classes: list[list[int]]
    options: list[_Option]
    cheapest: Floats
    charge: Floats
    cost: Floats
    rows: csc_array
    wanted: Floats
    pairs: csc_array
    upper: Floats

    def solve(self, until_s: float, *, whole: bool = False) -> _Solved | None:
        """Solve by HiGHS, `whole` in whole numbers; None: no solution in time.

        The relaxation takes its interior-point method: on 10,000 classes a tenth of the simplex's time.
        """
        # By who places jobs alone: every task of the stage `recommend` imports this module.
        from scipy.optimize import Bounds, LinearConstraint, linprog, milp

        # Scaled, so that the solver's tolerances mean the same in every unit.
        scale = float(np.median(self.charge)) / 100.0
        limit = max(until_s - time.monotonic(), 0.1)
        if whole:
            steps = len(self.cost) - self.arrays.capacity.size * self.arrays.widths.shape[1]
            done = milp(
                self.cost / scale, integrality=np.arange(len(self.cost)) < steps, bounds=Bounds(0.0, self.upper),
                constraints=[
                    LinearConstraint(self.rows, self.wanted, self.wanted),
                    LinearConstraint(self.pairs, -np.inf, 0.0),
                ],
                options={"time_limit": limit, "mip_rel_gap": PROVEN_RATIO / 2},
            )  # fmt: skip
            if done.x is None:
                return None
            return _Solved(done.x, float(done.mip_dual_bound) * scale, None)
        done = linprog(
            self.cost / scale, A_eq=self.rows, b_eq=self.wanted, A_ub=self.pairs,
            b_ub=np.zeros(self.pairs.shape[0]), bounds=np.column_stack([np.zeros_like(self.upper), self.upper]),
            method="highs-ipm", options={"time_limit": limit},
        )  # fmt: skip
        if done.status != 0:
            return None
        first, shape = len(self.classes), self.arrays.capacity.shape
        marginals = np.asarray(done.eqlin.marginals)[first : first + self.arrays.capacity.size]
        return _Solved(done.x, float(done.fun) * scale, -marginals.reshape(shape) * scale)

    def bound(self, unit_price: Floats) -> float:
        """Return a lower bound on every plan by the prices that the programme was built with.

        Each class takes its cheapest option, and an hour's units are bought at their price.
        Source: Geoffrion, Lagrangean relaxation for integer programming, Math. Programming Study 2 (1974).
        """
        jobs = np.minimum(self.cheapest, self.charge) @ self.wanted[: len(self.classes)]
        last = self.arrays.capacity.size * self.arrays.widths.shape[1]
        price = np.repeat(unit_price.ravel(), self.arrays.widths.shape[1])
        return float(jobs + (np.minimum(self.cost[-last:] - price, 0.0) * self.upper[-last:]).sum())

    def deal(self, counts: Floats) -> dict[int, Place]:
        """Return places of single jobs from counts: as many of each option as are whole.

        Hours of jobs that may pause are dealt out in turn: no job gets an hour twice, since none has more than jobs.
        """
        waiting, places = [list(rows) for rows in self.classes], dict[int, Place]()
        counts = np.floor(counts + _WHOLE_NUMBER).astype(np.int64)
        column = len(self.options)
        for option, jobs in zip(self.options, counts.tolist(), strict=False):
            hours, column = counts[column : column + len(option.among)], column + len(option.among)
            while np.minimum(hours, jobs).sum() < jobs * option.more:
                jobs -= 1
            turns = np.repeat(option.among, np.minimum(hours, jobs))[: jobs * option.more]
            for turn in range(min(jobs, len(waiting[option.of_class]))):
                taken = np.sort(np.concatenate([option.sure, turns[turn::jobs]]))
                places[waiting[option.of_class].pop(0)] = Place(option.group, tuple(taken.tolist()))
        return places


def _programme(
    arrays: Arrays, jobs: Sequence[int], charge: Floats, unit_price: Floats | None = None, *, weight: float = 1.0,
    met: Collection[int] = (),
) -> _Programme:  # fmt: skip
    """Return the programme of `jobs`, each standing for `weight`; with prices only of the options near the cheapest.

    Jobs of `met` are not left out.
    """
    classes = _classes(arrays, jobs)
    options, cheapest = list[_Option](), np.zeros(len(classes))
    for number, members in enumerate(classes):
        own, cheapest[number] = _options(arrays, number, members[0], unit_price)
        options += own
    first = np.array([members[0] for members in classes])
    of_class = np.array([option.of_class for option in options], dtype=np.int64)
    group = np.array([option.group for option in options], dtype=np.int64)
    job = first[of_class]
    none = np.zeros(0, dtype=np.int64)
    sure = np.concatenate([none, *(option.sure for option in options)])
    among = np.concatenate([none, *(option.among for option in options)])
    of_sure = np.repeat(np.arange(len(options)), [len(option.sure) for option in options])
    of_among = np.repeat(np.arange(len(options)), [len(option.among) for option in options])
    cell_sure, cell_among = (
        group[of_hour] * arrays.problem.hours + hour for of_hour, hour in ((of_sure, sure), (of_among, among))
    )
    choosing, row_among = np.unique(of_among, return_inverse=True)
    steps, rate = np.repeat(np.arange(arrays.capacity.size), arrays.widths.shape[1]), arrays.rate.ravel()
    # Columns: options, hours among, left out, steps. Rows: classes, cells (group, hour), options that choose hours.
    column = np.split(
        np.arange(len(options) + len(among) + len(classes) + len(steps)),
        np.cumsum([len(options), len(among), len(classes)]),
    )
    row = np.split(
        np.arange(len(classes) + arrays.capacity.size + len(choosing)),
        np.cumsum([len(classes), arrays.capacity.size]),
    )
    entries = (
        (row[0][of_class], column[0], np.ones(len(options))),
        (row[0], column[2], np.ones(len(classes))),
        (row[1][cell_sure], column[0][of_sure], arrays.units[job[of_sure]]),
        (row[1][cell_among], column[1], arrays.units[job[of_among]]),
        (row[1][steps], column[3], -np.ones(len(steps))),
        (row[2][row_among], column[1], np.ones(len(among))),
        (row[2], choosing, -np.array([options[at].more for at in choosing], dtype=np.float64)),
    )
    pair, one = np.arange(len(among)), np.ones(len(among))
    before = np.cumsum(arrays.widths, axis=1) - arrays.widths
    room = np.clip(arrays.capacity[:, :, None] - before[:, None, :], 0.0, arrays.widths[:, None, :])
    own = np.bincount(of_sure, rate[cell_sure], len(options)) * arrays.hour_kwh[job, group]
    left_out = np.array([sum(job not in met for job in members) for members in classes], dtype=np.float64)
    return _Programme(
        arrays, classes, options, cheapest,
        charge=charge[first],
        cost=np.concatenate([
            own + arrays.fixed[job, group], arrays.hour_kwh[job, group][of_among] * rate[cell_among],
            charge[first], (arrays.steps_kw[:, None, :] * arrays.rate[:, :, None]).ravel(),
        ]),
        rows=_sparse(entries, (sum(map(len, row)), sum(map(len, column)))),
        wanted=np.concatenate([[len(members) * weight for members in classes], np.zeros(len(row[1]) + len(row[2]))]),
        pairs=_sparse(((pair, column[1], one), (pair, of_among, -one)), (len(among), sum(map(len, column)))),
        upper=np.concatenate([np.full(len(options) + len(among), np.inf), left_out * weight, room.ravel()]),
    )  # fmt: skip


def _sparse(entries: Iterable[tuple[Ints, Ints, Floats]], shape: tuple[int, int]) -> csc_array:
    from scipy.sparse import coo_array

    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    return coo_array((value, (row, column)), shape=shape).tocsc()
