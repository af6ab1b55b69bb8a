"""A problem as arrays: what an hour of a group costs, which hours a job may take, and what a place costs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from lepton_etl.recommend.schedule.inputs import Floats, Job, Problem, Signal, SiteHours
from lepton_etl.uncertainty import Z

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SHORT: Final = 1e-9  # h, below which a part of an hour is rounding


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a job runs: index of the group and the hours, rising."""

    group: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Arrays:
    """(J, G): `allowed`, whole hours `need_h`, IT `slot_kwh` of one of them, `fixed` objective of leaving the site.

    (G, H): objective `rate` per IT kWh (0 where not `usable`), free `capacity`. (G, K): the marginal curve's widths,
    units, and steps, kW per unit; the last width reaches as far as any capacity.
    """

    problem: Problem
    allowed: Bools
    need_h: Ints
    slot_kwh: Floats
    fixed: Floats
    units: Floats
    release: Ints
    deadline: Ints
    preemptible: Bools
    home: Ints
    rate: Floats
    usable: Bools
    capacity: Floats
    widths: Floats
    steps_kw: Floats

    @property
    def hours(self) -> int:
        return self.problem.hours

    def curve_kw(self, groups: Ints, used: Floats) -> Floats:
        """kW that groups (n,) add with `used` units in use, (n, H)."""
        kw = self.steps_kw[groups, :1] * used
        for step in range(1, self.widths.shape[1]):
            before = self.widths[groups, :step].sum(axis=1)[:, None]
            bend = self.steps_kw[groups, step] - self.steps_kw[groups, step - 1]
            kw = kw + bend[:, None] * np.maximum(used - before, 0.0)
        return np.asarray(kw)

    def own_cost(self, job: int, place: Place) -> float:
        """Objective of a job at a place, without the group's marginal curve."""
        slots = list(place.slots)
        rates = self.rate[place.group, slots]
        return float(self.slot_kwh[job, place.group] * rates.sum() + self.fixed[job, place.group])

    def curve_cost(self, used: Floats) -> float:
        """Objective of the groups' marginal curves at `used` units, (G, H)."""
        return float((self.curve_kw(np.arange(len(used)), used) * self.rate).sum())

    def usage(self, places: dict[int, Place]) -> Floats:
        """Units in use, (G, H), of jobs at their places."""
        used = np.zeros_like(self.capacity)
        for job, place in places.items():
            used[place.group, list(place.slots)] += self.units[job]
        return used

    def total(self, places: dict[int, Place]) -> float:
        """Objective of all jobs that have a place, with the marginal curves."""
        return sum(self.own_cost(job, place) for job, place in places.items()) + self.curve_cost(
            self.usage(places)
        )


def arrays_of(problem: Problem) -> Arrays:
    """The problem's arrays; jobs must name known groups, groups known sites (`check.contradictions`)."""
    jobs, groups = problem.jobs, problem.groups
    at = {group.group_id: index for index, group in enumerate(groups)}
    sites = {site.site_id: site for site in problem.sites}
    home = np.array([at[job.group_id] for job in jobs], dtype=np.int64)
    speed = np.array([group.relative_speed for group in groups])
    draws = np.array([group.relative_power for group in groups])
    duration = np.array([job.duration_h for job in jobs])[:, None] * speed[home][:, None] / speed[None, :]
    need = np.maximum(np.ceil(duration - _SHORT), 1).astype(np.int64)
    power_kw = np.array([job.power_w for job in jobs])[:, None] / 1000 * draws[None, :] / draws[home][:, None]
    shape = (len(groups), problem.hours)
    rate = np.array([planning_rate(sites[group.site_id], problem) for group in groups]).reshape(shape)
    capacity = np.array([np.nan_to_num(group.capacity, nan=0.0) for group in groups]).reshape(shape)
    usable = np.isfinite(rate)
    rate = np.where(usable, rate, 0.0)
    release = np.array([max(job.release_h, 0) for job in jobs], dtype=np.int64)
    transfer = np.array([job.transfer_kwh for job in jobs])
    site = np.array([group.site_id for group in groups])
    leaves = site[home][:, None] != site[None, :]
    arrival = rate[:, np.minimum(release, problem.hours - 1)].T
    widths, steps = _curves(problem, capacity)
    return Arrays(
        problem=problem,
        allowed=_allowed(problem, home),
        need_h=need,
        slot_kwh=power_kw * duration / need,
        fixed=np.where(leaves, transfer[:, None] * arrival, 0.0),
        units=np.array([job.units for job in jobs]),
        release=release,
        deadline=np.minimum(np.array([job.deadline_h for job in jobs], dtype=np.int64), problem.hours),
        preemptible=np.array([job.preemptible for job in jobs], dtype=bool),
        home=home,
        rate=rate,
        usable=usable,
        capacity=capacity,
        widths=widths,
        steps_kw=steps,
    )


def planning_rate(site: SiteHours, problem: Problem) -> Floats:
    """Objective per IT kWh and hour (H,) at the risk quantile; NaN where a figure it needs is unknown."""
    objective = problem.objective
    rate = np.full(problem.hours, objective.per_kwh)
    for weight, signal in (
        (objective.per_kgco2e, site.intensity_kg_per_kwh),
        (objective.per_money, site.price_per_kwh),
    ):
        if weight > 0:
            rate = rate + (
                np.nan if signal is None else weight * at_quantile(signal, objective.risk_quantile)
            )
    return np.asarray(rate * (1 + site.overhead_ratio), dtype=np.float64)


def at_quantile(signal: Signal, quantile: float) -> Floats:
    """The forecast at a quantile, each side a half normal through the end of the 90 % interval.

    Where the interval is unknown, the expected value.
    """
    z = float(norm.ppf(quantile)) / Z
    end = signal.upper if z >= 0 else signal.lower
    moved = signal.expected + abs(z) * (end - signal.expected)
    return np.asarray(np.where(np.isfinite(moved), moved, signal.expected))


def names_allowed(job: Job, problem: Problem) -> list[int]:
    """Groups that the job's own list and unit allow."""
    if job.allowed is None:
        return [i for i, group in enumerate(problem.groups) if group.group_id == job.group_id]
    named = set(job.allowed)
    return [
        i
        for i, group in enumerate(problem.groups)
        if group.unit == job.unit and named & {group.group_id, group.cluster_id, group.site_id}
    ]


def _allowed(problem: Problem, home: Ints) -> Bools:
    found = np.zeros((len(problem.jobs), len(problem.groups)), dtype=bool)
    seen: dict[tuple[tuple[str, ...] | None, str, int], list[int]] = {}
    for row, job in enumerate(problem.jobs):
        key = (job.allowed, job.unit, int(home[row]))
        if key not in seen:
            seen[key] = names_allowed(job, problem)
        found[row, seen[key]] = True
    return found


def _curves(problem: Problem, capacity: Floats) -> tuple[Floats, Floats]:
    """Widths and steps of the marginal curves, padded to one length; the last step goes on for ever."""
    count = max([len(group.marginal_power_w) for group in problem.groups] + [1])
    widths, steps = np.zeros((len(capacity), count)), np.zeros((len(capacity), count))
    for row, group in enumerate(problem.groups):
        before = 0.0
        for column, (units, watt) in enumerate(group.marginal_power_w):
            widths[row, column], steps[row, column] = units - before, watt / 1000
            before = units
        last = max(len(group.marginal_power_w) - 1, 0)
        widths[row, last] += max(float(capacity[row].max(initial=0.0)) - widths[row].sum(), 0.0)
        steps[row, last + 1 :] = steps[row, last]
    return widths, steps
