"""Plan anew every hour: the same problem at its next origin, what has run taken off, what has begun kept to its end.

Reached by tests alone so far: the nightly stage plans once, at the end of its day.
"""

from __future__ import annotations

from dataclasses import replace

from lepton_etl.recommend.job_problem import Job, NodeGroup, Problem, SiteHours, arrays_of
from lepton_etl.recommend.job_shift import Plan


def advance(
    problem: Problem,
    plan: Plan,
    hours: int,
    groups: tuple[NodeGroup, ...],
    sites: tuple[SiteHours, ...],
    arriving: tuple[Job, ...] = (),
) -> Problem:
    """Return the problem `hours` after the origin of `plan`, on the forecasts and capacities of then (H hours again).

    `groups` state what is free beside everything but the jobs of `problem`. Jobs that were to begin by then have
    begun: one that cannot be stopped holds its units to its end and is planned no more; one that can be keeps its group
    and needs what is left. All others are planned anew, and with them the `arriving`, whose hours count from the new
    origin. The new baseline of a job is the old one's remainder: it is released at once.
    """
    arrays = arrays_of(problem)
    row_of = {job.job_id: row for row, job in enumerate(problem.jobs)}
    group_at = {group.group_id: index for index, group in enumerate(problem.groups)}
    capacity = {group.group_id: group.capacity.copy() for group in groups}
    left: list[Job] = []
    for planned in plan.jobs:
        row = row_of[planned.job_id]
        job = problem.jobs[row]
        later = replace(
            job, release_h=max(job.release_h - hours, 0), deadline_h=job.deadline_h - hours
        )  # fmt: skip
        run = [hour for hour in planned.hours if hour < hours]
        if not run or planned.group_id is None:
            left.append(later)
            continue
        coming = [hour - hours for hour in planned.hours if hour >= hours]
        if coming and not job.preemptible:
            capacity[planned.group_id][coming] -= job.units
        elif coming:
            need = int(arrays.need_h[row, group_at[planned.group_id]])
            home = problem.groups[group_at[planned.group_id]]
            draws = home.relative_power / problem.groups[group_at[job.group_id]].relative_power
            speed = home.relative_speed / problem.groups[group_at[job.group_id]].relative_speed
            left.append(
                replace(
                    later, group_id=planned.group_id, allowed=(planned.group_id,), transfer_kwh=0.0,
                    duration_h=job.duration_h / speed * len(coming) / need,
                    power_w=job.power_w * draws, power_lower_w=job.power_lower_w * draws,
                    power_upper_w=job.power_upper_w * draws,
                )
            )  # fmt: skip
    return replace(
        problem,
        jobs=(*left, *arriving),
        groups=tuple(replace(group, capacity=capacity[group.group_id].clip(min=0.0)) for group in groups),
        sites=sites,
    )
