"""What a plan of jobs is made from: jobs, node groups, the hours of each site, the objective; and what is wrong in it.

Hours are rows 0..H-1 of the forecast, H its length; row 0 begins at the origin. A job fills whole hours: one of d hours
takes ceil(d) of them, its energy spread evenly over them. A group's units are one pool: how they lie on nodes is the
scheduler's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from lepton_etl.uncertainty import Z

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
CarbonMethod = Literal["location_average", "market"]
Status = Literal["planned", "unchanged", "infeasible"]

_SHORT_H: Final = 1e-9  # below which a part of an hour is rounding
ROUNDING: Final = 1e-7  # units, so that sums of fractions of a node still fit


@dataclass(frozen=True, slots=True)
class Signal:
    """A forecast by hour: expected value and the ends of its 90 % interval, each (H,); NaN is unknown.

    Ends that are NaN leave the expected value usable; what rests on it then has no interval.
    """

    expected: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True, slots=True)
class SiteHours:
    """The hours of one site: marginal overhead, kW per kW of IT; grid intensity, kg/kWh; energy price, money/kWh.

    Sites of one `zone_id` share the errors of its intensity. `carbon_method` says what the intensity is.
    """

    site_id: str
    zone_id: str
    overhead_ratio: Floats
    intensity_kg_per_kwh: Signal | None = None
    price_per_kwh: Signal | None = None
    carbon_method: CarbonMethod = "location_average"


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Equal nodes of one site: units (GPUs, cores or nodes) free after what runs already, by hour (H,).

    `relative_speed` and `relative_power` compare classes: the same job takes duration / speed, and draws power x
    relative power. `marginal_power_w`: what the group itself adds per unit in use, beyond the jobs' own power (nodes
    woken from standby, fans), as (units up to, W per unit), W rising; the last goes on beyond its units. Where the
    objective of an hour is negative a rising curve leaves the plan's bound loose.
    """

    group_id: str
    site_id: str
    cluster_id: str
    unit: str
    capacity: Floats
    marginal_power_w: tuple[tuple[float, float], ...] = ()
    relative_speed: float = 1.0
    relative_power: float = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job that may wait: released at the begin of row `release_h`, done by the begin of row `deadline_h`.

    `group_id` is where it was submitted. `power_w` is the mean the whole job adds to the nodes there at the IT input,
    with its 90 % interval; `allowed` names the sites, clusters or groups it may run on (None: its own group alone);
    `transfer_kwh` is spent at the other site when it leaves its own.
    """

    job_id: str
    group_id: str
    release_h: int
    deadline_h: int
    duration_h: float
    units: float
    unit: str
    power_w: float
    power_lower_w: float
    power_upper_w: float
    preemptible: bool = False
    allowed: tuple[str, ...] | None = None
    transfer_kwh: float = 0.0
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised: a stated mix of facility kWh, kgCO2e and money; the weights state the mix.

    An hour counts at the `risk_quantile` of its forecast (0.5: as expected): above one half, hours of which less is
    known must promise more. One carbon method for the claim.
    """

    per_kwh: float = 0.0
    per_kgco2e: float = 0.0
    per_money: float = 0.0
    carbon_method: CarbonMethod = "location_average"
    risk_quantile: float = 0.55

    def __post_init__(self) -> None:
        weights = (self.per_kwh, self.per_kgco2e, self.per_money)
        if min(weights) < 0 or not max(weights) > 0 or not np.isfinite(weights).all():
            raise ValueError(f"weights {weights} of kWh, kgCO2e and money: none negative, one above 0")
        if not 0 < self.risk_quantile < 1:
            raise ValueError(f"risk quantile {self.risk_quantile}: between 0 and 1")

    @property
    def name(self) -> str:
        """Return energy, carbon or cost; or the mix with its weights."""
        weights = {"energy": self.per_kwh, "carbon": self.per_kgco2e, "cost": self.per_money}
        used = {name: weight for name, weight in weights.items() if weight > 0}
        return next(iter(used)) if len(used) == 1 else " + ".join(f"{w:g} {n}" for n, w in used.items())


@dataclass(frozen=True, slots=True)
class Problem:
    """All that a plan knows; `hours` is H. `tenant_share_max_ratio`: most of all delay that one tenant may bear."""

    jobs: tuple[Job, ...]
    groups: tuple[NodeGroup, ...]
    sites: tuple[SiteHours, ...]
    hours: int
    objective: Objective
    tenant_share_max_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a job runs: index of the group and the hours, rising."""

    group: int
    hours: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job has no plan. `unchanged`: it runs as it would have; `infeasible`: no place keeps its terms."""

    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Arrays:
    """A problem as arrays.

    (J, G): `allowed`, whole hours `need_h`, IT `hour_kwh` of one of them, `fixed` objective of leaving the site.
    (G, H): objective `rate` per IT kWh (0 where not `usable`), free `capacity`. (G, K): the marginal curve's `widths`,
    units, and `steps_kw` per unit; the last width reaches as far as any capacity.
    """

    problem: Problem
    allowed: Bools
    need_h: Ints
    hour_kwh: Floats
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

    def curve_kw(self, groups: Ints, used: Floats) -> Floats:
        """Return the kW that groups (n,) add with `used` units in use, (n, H)."""
        kw = self.steps_kw[groups, :1] * used
        for step in range(1, self.widths.shape[1]):
            before = self.widths[groups, :step].sum(axis=1)[:, None]
            bend = self.steps_kw[groups, step] - self.steps_kw[groups, step - 1]
            kw = kw + bend[:, None] * np.maximum(used - before, 0.0)
        return np.asarray(kw)

    def usage(self, places: Mapping[int, Place]) -> Floats:
        """Return the units in use, (G, H), of jobs at their places."""
        used = np.zeros_like(self.capacity)
        for job, place in places.items():
            used[place.group, list(place.hours)] += self.units[job]
        return used

    def own_cost(self, job: int, place: Place) -> float:
        """Return the objective of a job at a place, without the group's marginal curve."""
        rates = self.rate[place.group, list(place.hours)]
        return float(self.hour_kwh[job, place.group] * rates.sum() + self.fixed[job, place.group])

    def total(self, places: Mapping[int, Place]) -> float:
        """Return the objective of all jobs that have a place, with the marginal curves."""
        curves = self.curve_kw(np.arange(len(self.capacity)), self.usage(places)) * self.rate
        return sum(self.own_cost(job, place) for job, place in places.items()) + float(curves.sum())

    def open_hours(self, job: int, groups: Ints, used: Floats | float, *, known: bool = True) -> Bools:
        """Return the hours (groups, H) of the job's window with room beside `used`; `known`: and a known objective."""
        taken = used[groups] if isinstance(used, np.ndarray) else used
        hour = np.arange(self.problem.hours)
        is_open = self.capacity[groups] - taken >= self.units[job] - ROUNDING
        is_open &= (hour >= self.release[job]) & (hour < self.deadline[job])
        return np.asarray(is_open & self.usable[groups] if known else is_open)


def arrays_of(problem: Problem) -> Arrays:
    """Return the problem's arrays; jobs must name known groups, groups known sites (see `contradictions`)."""
    jobs, groups, shape = problem.jobs, problem.groups, (len(problem.groups), problem.hours)
    index = {group.group_id: row for row, group in enumerate(groups)}
    sites = {site.site_id: site for site in problem.sites}
    home = np.array([index[job.group_id] for job in jobs], dtype=np.int64)
    speed = np.array([group.relative_speed for group in groups])
    draws = np.array([group.relative_power for group in groups])
    duration = np.array([job.duration_h for job in jobs])[:, None] * speed[home][:, None] / speed[None, :]
    need = np.maximum(np.ceil(duration - _SHORT_H), 1).astype(np.int64)
    power_kw = np.array([job.power_w for job in jobs])[:, None] / 1000 * draws[None, :] / draws[home][:, None]
    rate = np.array([_rate(sites[group.site_id], problem) for group in groups]).reshape(shape)
    usable = np.isfinite(rate)
    rate = np.where(usable, rate, 0.0)
    capacity = np.array([np.nan_to_num(group.capacity, nan=0.0) for group in groups]).reshape(shape)
    release = np.array([max(job.release_h, 0) for job in jobs], dtype=np.int64)
    site = np.array([group.site_id for group in groups])
    transfer = (
        np.array([job.transfer_kwh for job in jobs])[:, None]
        * rate[:, np.minimum(release, problem.hours - 1)].T
    )
    widths, steps = _curves(problem, capacity)
    return Arrays(
        problem=problem,
        allowed=_allowed(problem),
        need_h=need,
        hour_kwh=power_kw * duration / need,
        fixed=np.where(site[home][:, None] != site[None, :], transfer, 0.0),
        units=np.array([job.units for job in jobs]),
        release=release,
        deadline=np.minimum(np.array([job.deadline_h for job in jobs], dtype=np.int64), problem.hours),
        preemptible=np.array([job.preemptible for job in jobs], dtype=bool),
        home=home, rate=rate, usable=usable, capacity=capacity, widths=widths, steps_kw=steps,
    )  # fmt: skip


def _rate(site: SiteHours, problem: Problem) -> Floats:
    """Return the objective per IT kWh and hour (H,) at the risk quantile; NaN where a figure it needs is unknown."""
    objective = problem.objective
    rate = np.full(problem.hours, objective.per_kwh)
    for weight, signal in (
        (objective.per_kgco2e, site.intensity_kg_per_kwh),
        (objective.per_money, site.price_per_kwh),
    ):
        if weight > 0:
            at_risk = np.nan if signal is None else _at_quantile(signal, objective.risk_quantile)
            rate = rate + weight * at_risk
    return np.asarray(rate * (1 + site.overhead_ratio), dtype=np.float64)


def _at_quantile(signal: Signal, quantile: float) -> Floats:
    """Return the forecast at a quantile, each side a half normal through the end of the 90 % interval.

    Where the interval is unknown, the expected value.
    """
    z = NormalDist().inv_cdf(quantile) / Z
    end = signal.upper if z >= 0 else signal.lower
    moved = signal.expected + abs(z) * (end - signal.expected)
    return np.asarray(np.where(np.isfinite(moved), moved, signal.expected))


def _allowed(problem: Problem) -> Bools:
    """Return the groups (J, G) that each job's own list and unit allow."""
    known: dict[tuple[object, ...], Bools] = {}
    rows = []
    for job in problem.jobs:
        key = (job.allowed, job.unit, job.group_id)
        if key not in known:
            known[key] = np.array(
                [
                    group.group_id == job.group_id
                    if job.allowed is None
                    else group.unit == job.unit
                    and not {group.group_id, group.cluster_id, group.site_id}.isdisjoint(job.allowed)
                    for group in problem.groups
                ],
                dtype=bool,
            )
        rows.append(known[key])
    return np.array(rows, dtype=bool).reshape(len(problem.jobs), len(problem.groups))


def _curves(problem: Problem, capacity: Floats) -> tuple[Floats, Floats]:
    """Return widths and steps of the marginal curves, padded to one length; the last step goes on for ever."""
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


def contradictions(problem: Problem) -> tuple[Problem, dict[str, Refusal], tuple[str, ...]]:
    """Return the problem without what names nothing or is no number, refusals by job_id, and notes on the rest.

    The second part of a job_id that stands twice is left out.
    """
    notes: list[str] = []
    sites = []
    for site in problem.sites:
        if (count := len(site.overhead_ratio)) == problem.hours:
            sites.append(site)
        else:
            notes.append(f"site {site.site_id}: {count} hours of overhead, {problem.hours} planned")
    groups = []
    for group in problem.groups:
        if wrong := _wrong_group(group, problem, {site.site_id for site in sites}):
            notes.append(f"group {group.group_id}: {wrong}")
        else:
            groups.append(group)
    units = {group.group_id: group.unit for group in groups}
    refused: dict[str, Refusal] = {}
    jobs: dict[str, Job] = {}
    for job in problem.jobs:
        if job.job_id in jobs or job.job_id in refused:
            notes.append(f"job {job.job_id}: stands twice; the first is planned")
        elif wrong := _wrong_job(job, units):
            refused[job.job_id] = Refusal("infeasible", wrong)
        else:
            jobs[job.job_id] = job
    usable = replace(problem, jobs=tuple(jobs.values()), groups=tuple(groups), sites=tuple(sites))
    return usable, refused, tuple(notes)


def _wrong_group(group: NodeGroup, problem: Problem, sites: set[str]) -> str | None:
    steps = np.array(group.marginal_power_w).reshape(-1, 2)
    if group.site_id not in sites:
        return f"site {group.site_id} has no usable hours"
    if len(group.capacity) != problem.hours:
        return f"{len(group.capacity)} hours of capacity, {problem.hours} planned"
    if not (group.relative_speed > 0 and group.relative_power > 0):
        return f"speed {group.relative_speed} and power {group.relative_power} must be above 0"
    if (np.diff(steps, axis=0) < 0).any() or not (np.isfinite(steps) & (steps >= 0)).all():
        return "marginal power must rise with the units in use: take the chord of a curve that flattens"
    return None


def _wrong_job(job: Job, units: Mapping[str, str]) -> str | None:
    if job.group_id not in units:
        return f"its group {job.group_id} is not among the usable groups"
    if not (np.isfinite(job.duration_h) and job.duration_h > 0):
        return f"duration {job.duration_h} h"
    if not (np.isfinite(job.units) and job.units > 0):
        return f"asks {job.units} {job.unit}"
    if not (np.isfinite(job.power_w) and job.power_w >= 0):
        return "mean power unknown: neither its energy nor a saving can be told"
    if units[job.group_id] != job.unit:
        return f"asks {job.unit}, its group {job.group_id} counts {units[job.group_id]}"
    return None


def mixed_methods(problem: Problem) -> str | None:
    """Return the sites whose intensity is not of the objective's carbon method; None: one method for the claim."""
    wanted = problem.objective.carbon_method
    other = [
        f"{site.site_id} {site.carbon_method}"
        for site in problem.sites
        if site.intensity_kg_per_kwh is not None and site.carbon_method != wanted
    ]
    if problem.objective.per_kgco2e == 0 or not other:
        return None
    return f"refused: the claim is {wanted}, but {', '.join(other)}; one carbon method per claim"


def refused_window(arrays: Arrays, row: int) -> Refusal | None:
    """Return why a job cannot be planned whatever the hours hold: groups, deadline, length of the forecast, units."""
    job, groups = arrays.problem.jobs[row], np.flatnonzero(arrays.allowed[row])
    if not len(groups):
        named = "none" if not job.allowed else ", ".join(job.allowed)
        return Refusal("infeasible", f"no allowed group with {job.unit}: allowed {named}")
    need, release, hours = (
        int(arrays.need_h[row, groups].min()),
        int(arrays.release[row]),
        arrays.problem.hours,
    )
    if release + need > job.deadline_h:
        return Refusal("infeasible", f"deadline {job.deadline_h} lies before release {release} + {need} h")
    if release + need > hours:
        return Refusal("unchanged", f"release {release} + {need} h runs past the {hours} h of the forecast")
    largest = float(arrays.capacity[groups].max())
    if job.units > largest:
        reason = f"asks {job.units:g} {job.unit}, no allowed group has more than {largest:g}"
        return Refusal("infeasible", reason)
    return None


def refused_hours(arrays: Arrays, row: int) -> Refusal:
    """Return which hours keep a job from every place, though it were alone: unknown, full, or never in a row."""
    job, groups = arrays.problem.jobs[row], np.flatnonzero(arrays.allowed[row])
    room = arrays.open_hours(row, groups, 0.0, known=False)
    window = f"hours {arrays.release[row]} to {arrays.deadline[row] - 1}"
    if not room.any():
        return Refusal("infeasible", f"no capacity for {job.units:g} {job.unit} in {window}")
    unknown = np.asarray(room & ~arrays.usable[groups])
    if unknown.any():
        sites = {arrays.problem.groups[group].site_id for group in groups[unknown.any(axis=1)]}
        what, spans = _unknown_signals(arrays.problem, sites), _spans(np.asarray(unknown.any(axis=0)))
        return Refusal("unchanged", f"objective {arrays.problem.objective.name}: {what} in hours {spans}")
    full = np.asarray(~room.any(axis=0))
    full[: arrays.release[row]] = full[arrays.deadline[row] :] = False
    need = int(arrays.need_h[row, groups].min())
    reason = f"no {need} h with room for {job.units:g} {job.unit} in {window}: full in {_spans(full)}"
    return Refusal("infeasible", reason)


def _unknown_signals(problem: Problem, sites: set[str]) -> str:
    objective, unknown = problem.objective, []
    for site in problem.sites:
        if site.site_id in sites:
            intensity, price = site.intensity_kg_per_kwh, site.price_per_kwh
            for weight, name, values in (
                (objective.per_kgco2e, "intensity", None if intensity is None else intensity.expected),
                (objective.per_money, "price", None if price is None else price.expected),
                (1.0, "overhead", site.overhead_ratio),
            ):
                if weight > 0 and (values is None or not np.isfinite(values).all()):
                    unknown.append(f"{name} unknown at site {site.site_id}")
    return ", ".join(unknown)


def _spans(hours: Bools) -> str:
    """Write hours as spans: 0-3, 7."""
    rows = np.flatnonzero(hours)
    if not len(rows):
        return "no single hour, but never long enough in one group"
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
