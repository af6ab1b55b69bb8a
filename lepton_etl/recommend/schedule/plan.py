"""From a problem to a plan: what cannot be planned is named, the rest is placed by two planners, the better kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from lepton_etl.recommend.schedule.arrays import Arrays, Place, arrays_of
from lepton_etl.recommend.schedule.check import Refusal, Status, contradictions, mixed_methods, refusals
from lepton_etl.recommend.schedule.greedy import run_at_once, settle
from lepton_etl.recommend.schedule.inputs import Problem
from lepton_etl.recommend.schedule.outcome import Savings, savings
from lepton_etl.recommend.schedule.search import Arm, search

# Share of the time that telling the savings of every job takes.
_AFTER: Final = 0.12
# Lag-one correlation of forecast errors within a day: docs/planning.md says what it was measured on.
ERROR_CORRELATION: Final = 0.9


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job's place in the plan and without it; hours are rows, `finish_delay_h` is plan less baseline.

    `held` and `infeasible` jobs carry their reason and no saving: they run as they would have.
    """

    job_id: str
    status: Status
    reason: str | None
    group_id: str | None
    hours: tuple[int, ...]
    baseline_group_id: str | None
    baseline_hours: tuple[int, ...]
    finish_delay_h: int | None
    savings: Savings | None

    @property
    def moved(self) -> bool:
        """Whether the plan says anything else than the baseline."""
        return self.status == "planned" and (self.group_id, self.hours) != (
            self.baseline_group_id, self.baseline_hours,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """`savings` and both objectives are of all jobs with a plan and a baseline.

    `deadlines_lost` counts what the baseline met and the plan would not: 0.
    """

    objective: str
    carbon_method: str
    jobs: tuple[JobPlan, ...]
    savings: Savings
    chosen: str
    arms: dict[str, Arm]
    bound: float
    baseline_objective: float
    plan_objective: float
    proven_optimal: bool
    deadlines_missed_baseline: int
    deadlines_lost: int
    words: tuple[str, ...]


def plan(
    problem: Problem,
    *,
    seconds: float = 60.0,
    exact: bool = True,
    error_correlation: float = ERROR_CORRELATION,
) -> Plan:
    """Plan the hours ahead in about `seconds` of wall time; `exact=False` leaves the fast planner alone.

    Nothing in the input raises: what contradicts itself is named in the job's `reason` or in `words`, and the rest is
    planned. A claim of mixed carbon methods holds every job.
    """
    start_s = time.monotonic()
    cleaned, by_id, words = contradictions(problem)
    arrays = arrays_of(cleaned)
    mixed = mixed_methods(cleaned)
    baseline = run_at_once(arrays)
    refused = refusals(arrays)
    for row, place in baseline.items():
        if row not in refused and not arrays.usable[place.group, list(place.slots)].all():
            site = cleaned.groups[place.group].site_id
            refused[row] = Refusal(
                "held", f"objective {cleaned.objective.name} unknown at {site} where it runs now"
            )
    if mixed is not None:
        refused |= {row: Refusal("held", mixed) for row in range(len(cleaned.jobs)) if row not in refused}
        words = (*words, mixed)
    held = arrays.usage({row: baseline[row] for row in refused if row in baseline})
    free = replace(arrays, capacity=np.maximum(arrays.capacity - held, 0.0))
    jobs = [row for row in range(len(cleaned.jobs)) if row not in refused]
    met = {row: baseline[row] for row in jobs if row in baseline and _in_time(arrays, row, baseline[row])}
    best = search(free, jobs, met, start_s, seconds * (1 - _AFTER), exact)
    places = settle(free, best.places, met)
    both = sorted(set(places) & set(baseline))
    found, total = savings(free, places, baseline, error_correlation)
    made = [
        _job_plan(arrays, row, places.get(row), baseline.get(row), refused.get(row), found.get(row))
        for row in range(len(cleaned.jobs))
    ]
    left_out = [
        JobPlan(job_id, refusal.status, refusal.reason, None, (), None, (), None, None)
        for job_id, refusal in by_id.items()
    ]
    return Plan(
        objective=cleaned.objective.name,
        carbon_method=cleaned.objective.carbon_method,
        jobs=(*made, *left_out),
        savings=total,
        chosen=best.chosen,
        arms=best.arms,
        bound=best.bound,
        baseline_objective=free.total({row: baseline[row] for row in both}),
        plan_objective=free.total({row: places[row] for row in both}),
        proven_optimal=best.proven,
        deadlines_missed_baseline=sum(
            int(place.slots[-1] >= arrays.deadline[row])
            for row, place in baseline.items()
            if row in set(jobs)
        ),
        deadlines_lost=len(set(met) - set(places)),
        words=words,
    )


def _in_time(arrays: Arrays, row: int, place: Place) -> bool:
    return bool(place.slots[-1] < arrays.deadline[row] and arrays.allowed[row, place.group])


def _job_plan(
    arrays: Arrays,
    row: int,
    place: Place | None,
    before: Place | None,
    refusal: Refusal | None,
    found: Savings | None,
) -> JobPlan:
    groups = arrays.problem.groups
    status: Status = "planned" if refusal is None else refusal.status
    reason = None if refusal is None else refusal.reason
    if refusal is None and place is None:
        job, last = arrays.problem.jobs[row], int(arrays.deadline[row]) - 1
        status, reason = (
            "infeasible",
            f"no room left beside the other jobs in hours {arrays.release[row]} to {last} for "
            f"{arrays.need_h[row, arrays.home[row]]} h of {job.units:g} {job.unit}",
        )
    elif refusal is None and before is None:
        reason = "without a plan it finds no room in the hours ahead: no baseline, no saving"
    now = before if refusal is not None else place
    return JobPlan(
        job_id=arrays.problem.jobs[row].job_id,
        status=status,
        reason=reason,
        group_id=None if now is None else groups[now.group].group_id,
        hours=() if now is None else now.slots,
        baseline_group_id=None if before is None else groups[before.group].group_id,
        baseline_hours=() if before is None else before.slots,
        finish_delay_h=None if now is None or before is None else now.slots[-1] - before.slots[-1],
        savings=found,
    )
