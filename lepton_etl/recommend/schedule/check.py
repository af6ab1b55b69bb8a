"""What in a problem cannot be planned, job by job: which constraint, which hours. Nothing here raises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lepton_etl.recommend.schedule.arrays import Arrays, Bools
from lepton_etl.recommend.schedule.classes import classes_of, price
from lepton_etl.recommend.schedule.inputs import Job, NodeGroup, Problem, Signal
from lepton_etl.recommend.schedule.places import open_slots

Status = Literal["planned", "held", "infeasible"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job has no plan. `held`: it can run as it would have, and does; `infeasible`: no place keeps its terms."""

    status: Status
    reason: str


def contradictions(problem: Problem) -> tuple[Problem, dict[str, Refusal], tuple[str, ...]]:
    """What remains after leaving out what names nothing or is no number; refusals by job_id; words on the rest.

    The second part of a job_id that stands twice is left out. Words that refuse the whole claim begin with `refused`.
    """
    words: list[str] = []
    lengths = {site.site_id for site in problem.sites if len(site.overhead_ratio) == problem.hours}
    for site in problem.sites:
        if site.site_id not in lengths:
            words.append(
                f"site {site.site_id}: {len(site.overhead_ratio)} hours of overhead, {problem.hours} planned"
            )
    sites = tuple(site for site in problem.sites if site.site_id in lengths)
    groups = tuple(group for group in problem.groups if not (why := _wrong_group(group, problem, lengths)))
    for group in problem.groups:
        if why := _wrong_group(group, problem, lengths):
            words.append(f"group {group.group_id}: {why}")
    refused: dict[str, Refusal] = {}
    kept: list[Job] = []
    known, seen = {group.group_id for group in groups}, set[str]()
    for job in problem.jobs:
        wrong = _wrong_job(job, known, {group.group_id: group.unit for group in groups})
        if job.job_id in seen:
            words.append(f"job {job.job_id}: stands twice; the first is planned")
            continue
        seen.add(job.job_id)
        if wrong:
            refused[job.job_id] = Refusal("infeasible", wrong)
        else:
            kept.append(job)
    return replace(problem, jobs=tuple(kept), groups=groups, sites=sites), refused, tuple(words)


def mixed_methods(problem: Problem) -> str | None:
    """The sites whose intensity is not of the objective's carbon method; None: one method for the claim."""
    wanted = problem.objective.carbon_method
    other = [
        f"{site.site_id} {site.carbon_method}"
        for site in problem.sites
        if site.intensity_kg_per_kwh is not None and site.carbon_method != wanted
    ]
    if problem.objective.per_kgco2e == 0 or not other:
        return None
    return f"refused: the claim is {wanted}, but {', '.join(other)}; one carbon method per claim"


def refusals(arrays: Arrays) -> dict[int, Refusal]:
    """Why jobs, by row, cannot be planned even if each were alone; jobs not named can."""
    found = {}
    classes = classes_of(arrays, list(range(len(arrays.problem.jobs))))
    cost = price(arrays, classes, np.zeros_like(arrays.capacity)).cost.min(axis=1, initial=np.inf)
    for rows, cheapest in zip(classes.members, cost, strict=True):
        for row in rows:
            job = arrays.problem.jobs[row]
            refusal = _window(arrays, row, job)
            if refusal is None and not np.isfinite(cheapest):
                refusal = _no_place(arrays, row, job)
            if refusal is not None:
                found[row] = refusal
    return found


def _wrong_group(group: NodeGroup, problem: Problem, sites: set[str]) -> str | None:
    if group.site_id not in sites:
        return f"site {group.site_id} has no usable hours"
    if len(group.capacity) != problem.hours:
        return f"{len(group.capacity)} hours of capacity, {problem.hours} planned"
    if not (group.relative_speed > 0 and group.relative_power > 0):
        return f"speed {group.relative_speed} and power {group.relative_power} must be above 0"
    steps = np.array(group.marginal_power_w).reshape(-1, 2)
    if (np.diff(steps, axis=0) < 0).any() or not (np.isfinite(steps) & (steps >= 0)).all():
        return "marginal power falls with the units in use; `rising_curve` makes it convex"
    return None


def _wrong_job(job: Job, known: set[str], units: dict[str, str]) -> str | None:
    if job.group_id not in known:
        return f"its group {job.group_id} is not among the usable groups"
    if not (np.isfinite(job.duration_h) and job.duration_h > 0):
        return f"duration {job.duration_h} h"
    if not (np.isfinite(job.units) and job.units > 0):
        return f"asks {job.units} {job.unit}"
    if not (np.isfinite(job.power_w) and job.power_w >= 0):
        return "mean power unknown: neither its energy nor a saving can be said"
    if units[job.group_id] != job.unit:
        return f"asks {job.unit}, its group {job.group_id} counts {units[job.group_id]}"
    return None


def _window(arrays: Arrays, row: int, job: Job) -> Refusal | None:
    groups = np.flatnonzero(arrays.allowed[row])
    if not len(groups):
        named = "none" if not job.allowed else ", ".join(job.allowed)
        return Refusal("infeasible", f"no allowed group with {job.unit}: allowed {named}")
    need = int(arrays.need_h[row, groups].min())
    release = int(arrays.release[row])
    if release + need > job.deadline_h:
        return Refusal("infeasible", f"deadline {job.deadline_h} lies before release {release} + {need} h")
    if release + need > arrays.hours:
        return Refusal("held", f"release {release} + {need} h runs past the {arrays.hours} h of the forecast")
    largest = float(arrays.capacity[groups].max())
    if arrays.units[row] > largest:
        return Refusal(
            "infeasible", f"asks {job.units:g} {job.unit}, no allowed group has more than {largest:g}"
        )
    return None


def _no_place(arrays: Arrays, row: int, job: Job) -> Refusal:
    groups = np.flatnonzero(arrays.allowed[row])
    unpriced = open_slots(arrays, row, groups, np.zeros_like(arrays.capacity), priced=False)
    window = f"hours {arrays.release[row]} to {arrays.deadline[row] - 1}"
    if not unpriced.any():
        return Refusal("infeasible", f"no capacity for {job.units:g} {job.unit} in {window}")
    missing: Bools = np.asarray(unpriced & ~arrays.usable[groups])
    if missing.any():
        sites = {arrays.problem.groups[g].site_id for g in groups[missing.any(axis=1)]}
        what = _missing_signals(arrays, sites)
        return Refusal(
            "held",
            f"objective {arrays.problem.objective.name}: {what} in hours {_spans(np.asarray(missing.any(axis=0)))}",
        )
    full: Bools = np.asarray(~unpriced.any(axis=0))
    full[: arrays.release[row]] = full[arrays.deadline[row] :] = False
    need = int(arrays.need_h[row, groups].min())
    return Refusal(
        "infeasible",
        f"no {need} h with room for {job.units:g} {job.unit} in {window}: full in {_spans(full)}",
    )


def _missing_signals(arrays: Arrays, sites: set[str]) -> str:
    objective, found = arrays.problem.objective, []
    for site in arrays.problem.sites:
        if site.site_id in sites:
            for weight, signal, name in (
                (objective.per_kgco2e, site.intensity_kg_per_kwh, "intensity"),
                (objective.per_money, site.price_per_kwh, "price"),
                (1.0, Signal(site.overhead_ratio, site.overhead_ratio, site.overhead_ratio), "overhead"),
            ):
                if weight > 0 and (signal is None or not np.isfinite(signal.expected).all()):
                    found.append(f"{name} unknown at site {site.site_id}")
    return ", ".join(found)


def _spans(hours: Bools) -> str:
    """Hours as spans: 0-3, 7."""
    rows = np.flatnonzero(hours)
    if not len(rows):
        return "no single hour, but never long enough in one group"
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
