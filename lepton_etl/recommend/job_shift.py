"""Start waiting jobs later: when each should run by the forecast of the hours ahead, and what that saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.config.sections import ShiftSettings
from lepton_etl.recommend.advice import Advice, Subject
from lepton_etl.recommend.fair_share import Price, equal_or, within_share
from lepton_etl.recommend.job_placement import (
    LINEAR_COLUMNS,
    PROVEN_RATIO,
    WHOLE_COLUMNS,
    Occupancy,
    at_once,
    search,
)
from lepton_etl.recommend.job_problem import (
    ROUNDING,
    Arrays,
    Floats,
    Job,
    NodeGroup,
    Objective,
    Place,
    Problem,
    Refusal,
    Signal,
    SiteHours,
    Status,
    arrays_of,
    contradictions,
    mixed_methods,
    refused_hours,
    refused_window,
)
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM
from lepton_etl.uncertainty import Estimate, Z

HORIZON_H: Final = 48
# Runs of like jobs from which their length is known; the 90th percentile is planned with.
_LEAST_RUNS: Final = 5
_DURATION_QUANTILE: Final = 0.9
_OBJECTIVES: Final = {
    "energy": Objective(per_kwh=1.0), "carbon": Objective(per_kgco2e=1.0), "cost": Objective(per_money=1.0),
}  # fmt: skip
# Lag-one correlation of forecast errors within a day: docs/planning.md says what it was measured on.
ERROR_CORRELATION: Final = 0.9
# Share of the time for finding places; the rest goes to checks and savings.
_SEARCH_RATIO: Final = 0.9


@dataclass(frozen=True, slots=True)
class Queue:
    """What is known at `at`, the end of the day, of one site.

    `pending`: site_id, cluster_id, job_id, user_name, partition, gpu_count, cpu_count, predicted_power_w and its ends;
    tenant_id where it is known.
    `ended`: user_name, partition, hours of runs that ended. `room`: cluster_id, unit (gpu, core) and free units after
    what runs now. `hours`: hour_start, carbon_intensity_gco2e_per_kwh with its ends, energy_price (null: unknown) for
    HORIZON_H hours from `at`. `overhead_ratio`: kW of overhead a kW of IT.
    """

    site_id: str
    zone_id: str
    at: datetime
    pending: pl.DataFrame
    ended: pl.DataFrame
    room: pl.DataFrame
    hours: pl.DataFrame
    overhead_ratio: float
    currency: str | None = None


def shift_advice(
    queue: Queue, settings: ShiftSettings, tenant_share_max_ratio: float | None = None
) -> tuple[list[Advice], tuple[str, ...], Price | None]:
    """Return advice for the jobs that should start later, notes why others are left as they are, a limit's price.

    Of all delay one tenant bears at most `tenant_share_max_ratio`.
    """
    jobs, notes = _jobs(queue, settings)
    if not jobs:
        return [], tuple(notes), None
    groups = tuple(
        NodeGroup(
            f"{row['cluster_id']}/{row['unit']}", queue.site_id, row["cluster_id"], row["unit"],
            np.full(HORIZON_H, float(row["free"])),
        )
        for row in queue.room.to_dicts()
    )  # fmt: skip
    intensity = [
        f"{name}_gco2e_per_kwh" for name in ("carbon_intensity", "intensity_lower", "intensity_upper")
    ]
    site = SiteHours(
        queue.site_id, queue.zone_id, np.full(HORIZON_H, queue.overhead_ratio),
        _signal(queue, *intensity, scale=1 / GRAMS_PER_KILOGRAM),
        _signal(queue, "energy_price", "energy_price", "energy_price"),
    )  # fmt: skip
    objective = _OBJECTIVES[settings.objective]
    planned = plan(Problem(tuple(jobs), groups, (site,), HORIZON_H, objective, tenant_share_max_ratio))
    advice = [
        _advice(queue, job, job.savings) for job in planned.jobs if job.moved and job.savings is not None
    ]
    reasons = [f"job {job.job_id} is left as it is: {job.reason}" for job in planned.jobs if job.reason]
    return advice, (*notes, *planned.notes, *reasons), planned.price


def _jobs(queue: Queue, settings: ShiftSettings) -> tuple[list[Job], list[str]]:
    lengths = _lengths(queue.ended)
    jobs, notes = [], []
    for row in queue.pending.to_dicts():
        name, length = row["job_id"], lengths.get((row["user_name"], row["partition"]))
        unit, units = ("gpu", row["gpu_count"]) if row["gpu_count"] else ("core", row["cpu_count"])
        if length is None:
            notes.append(f"job {name} is left as it is: fewer than {_LEAST_RUNS} like runs tell its length")
        elif row["predicted_power_w"] is None or not units:
            notes.append(f"job {name} is left as it is: its power cannot be told from its request")
        else:
            expected = row["predicted_power_w"]
            low, high = row["predicted_power_lower_w"], row["predicted_power_upper_w"]
            deadline = min(ceil(length) + settings.max_delay_h, HORIZON_H)
            jobs.append(
                Job(
                    name, f"{row['cluster_id']}/{unit}", 0, deadline, length, float(units), unit, expected,
                    expected if low is None else low, expected if high is None else high, settings.preemptible,
                    tenant_id=row.get("tenant_id"),
                )
            )  # fmt: skip
    return jobs, notes


def _lengths(ended: pl.DataFrame) -> dict[tuple[str | None, str | None], float]:
    """Return the hours that a user's runs in a partition stay below in nine of ten cases."""
    rows = ended.group_by("user_name", "partition").agg(
        pl.col("hours").quantile(_DURATION_QUANTILE, "higher"), pl.len().alias("runs")
    )
    return {
        (row["user_name"], row["partition"]): row["hours"]
        for row in rows.to_dicts()
        if row["runs"] >= _LEAST_RUNS and row["hours"] > 0
    }


def _signal(queue: Queue, *names: str, scale: float = 1.0) -> Signal | None:
    """Return expected, lower and upper of the hours ahead; None where no hour is known."""
    wanted = pl.DataFrame({"hour_start": [queue.at + timedelta(hours=h) for h in range(HORIZON_H)]})
    rows = wanted.join(
        queue.hours.with_columns(pl.col("hour_start").cast(wanted.schema["hour_start"])),
        on="hour_start",
        how="left",
    )
    ends = [rows[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() * scale for name in names]
    return None if np.isnan(ends[0]).all() else Signal(*ends)


def _advice(queue: Queue, job: JobPlan, savings: Savings) -> Advice:
    start, end = (queue.at + timedelta(hours=hour) for hour in (job.hours[0], job.hours[-1] + 1))
    emissions = _promise(savings.emissions_kgco2e)
    money = _promise(savings.money) if queue.currency is not None else None
    worth = [f"{emissions.value:.2f} kgCO2e"] if emissions is not None else []
    worth += [f"{money.value:.2f} {queue.currency}"] if money is not None else []
    return Advice(
        Subject(queue.site_id, str(job.group_id).split("/")[0], job_id=job.job_id), "shift", "start_later",
        f"start job {job.job_id} at {start:%Y-%m-%d %H:%M} UTC, {job.hours[0]} h later: "
        f"saves {' and '.join(worth) or 'energy'}",
        queue.at, end, savings.energy_kwh.baseline, _promise(savings.energy_kwh),
        "expected power of the job, forecast of the grid's intensity and the tariff's prices",
        saving_kgco2e=emissions, carbon_method="none" if emissions is None else "location",
        saving_cost=money, currency=None if money is None else queue.currency,
        guard_rail="its owner is told; hold it no longer than its own deadline",
        parameters={"start_time": start.isoformat(), "delay_h": job.finish_delay_h},
    )  # fmt: skip


def _promise(saving: Saving) -> Estimate | None:
    if not np.isfinite([saving.value, saving.lower, saving.upper]).all():
        return None
    return Estimate(saving.value, min(saving.lower, saving.value), max(saving.upper, saving.value))


@dataclass(frozen=True, slots=True)
class Saving:
    """What the baseline and the plan are expected to use, and the saving with its 90 % interval; NaN is unknown."""

    baseline: float
    plan: float
    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Savings:
    """Facility energy, location or market emissions by the claim's method, and money: of one job or of all."""

    energy_kwh: Saving
    emissions_kgco2e: Saving
    money: Saving


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job's place in the plan and without it; hours are rows, `finish_delay_h` is plan less baseline.

    `unchanged` and `infeasible` jobs carry their reason and no saving: they run as they would have.
    """

    job_id: str
    status: Status
    reason: str | None
    group_id: str | None = None
    hours: tuple[int, ...] = ()
    baseline_group_id: str | None = None
    baseline_hours: tuple[int, ...] = ()
    finish_delay_h: int | None = None
    savings: Savings | None = None

    @property
    def moved(self) -> bool:
        """Whether the plan is another than the baseline."""
        before = (self.baseline_group_id, self.baseline_hours)
        return self.status == "planned" and (self.group_id, self.hours) != before


@dataclass(frozen=True, slots=True)
class Plan:
    """`savings` and both objectives are of all jobs with a plan and a baseline.

    No plan of the problem is below `bound`; `gap_ratio` is this plan's distance from it, jobs without a place charged,
    `deadlines_lost` counts what the baseline met and the plan would not: 0. `price` is what a limit on a tenant's share
    of the delay costs, by which moves of this plan stay; bound and gap are those of the plan before.
    """

    jobs: tuple[JobPlan, ...]
    savings: Savings
    bound: float
    gap_ratio: float
    proven_optimal: bool
    baseline_objective: float
    plan_objective: float
    deadlines_missed_baseline: int
    deadlines_lost: int
    notes: tuple[str, ...]
    price: Price | None = None


def plan(
    problem: Problem,
    *,
    seconds: float = 60.0,
    error_correlation: float = ERROR_CORRELATION,
    whole_columns: int = WHOLE_COLUMNS,
    linear_columns: int = LINEAR_COLUMNS,
) -> Plan:
    """Plan the hours ahead in about `seconds` of wall time.

    A problem of at most `whole_columns` starts is solved in whole numbers, one of `linear_columns` by one relaxation.

    Nothing in the input raises: what contradicts itself is named in the job's `reason` or in `notes`, and the rest is
    planned. A claim of mixed carbon methods leaves every job as it is.
    """
    usable, refused_ids, notes = contradictions(problem)
    arrays = arrays_of(usable)
    rows = range(len(usable.jobs))
    baseline = at_once(arrays)
    refused = _refusals(arrays, baseline)
    if mixed := mixed_methods(usable):
        notes = (*notes, mixed)
        refused = dict.fromkeys(rows, Refusal("unchanged", mixed)) | refused
    taken = arrays.usage({row: place for row, place in baseline.items() if row in refused})
    free = replace(arrays, capacity=np.maximum(arrays.capacity - taken, 0.0))
    jobs = [row for row in rows if row not in refused]
    late = {row for row in jobs if row in baseline and baseline[row].hours[-1] >= arrays.deadline[row]}
    met = {
        row: baseline[row]
        for row in jobs
        if row in baseline and row not in late and arrays.allowed[row, arrays.home[row]]
    }
    best = search(free, jobs, met, seconds * _SEARCH_RATIO, whole_columns, linear_columns)
    both, places, price = sorted(set(best.places) & set(baseline)), best.places, None
    savings = _savings(free, places, baseline, both, error_correlation)
    if usable.tenant_share_max_ratio is not None:
        places, limit = _within_share(free, places, baseline, both, usable.tenant_share_max_ratio)
        before, savings = savings[-1], _savings(free, places, baseline, both, error_correlation)
        price = _price(before, savings[-1], limit, [best.places, places, baseline], both)
    by_row = dict(zip(both, savings, strict=False))
    plans = [
        _job_plan(arrays, row, places.get(row), baseline.get(row), refused.get(row), by_row.get(row))
        for row in rows
    ]
    return Plan(
        (*plans, *(JobPlan(job_id, why.status, why.reason) for job_id, why in refused_ids.items())),
        savings[-1],
        best.bound,
        best.gap_ratio,
        best.gap_ratio <= PROVEN_RATIO,
        baseline_objective=free.total({row: baseline[row] for row in both}),
        plan_objective=free.total({row: places[row] for row in both}),
        deadlines_missed_baseline=len(late),
        deadlines_lost=len(set(met) - set(places)),
        notes=notes if price is None else (*notes, str(price)),
        price=price,
    )


def _within_share(
    arrays: Arrays,
    planned: Mapping[int, Place],
    baseline: Mapping[int, Place],
    rows: Sequence[int],
    share_max_ratio: float,
) -> tuple[dict[int, Place], float]:
    """Return the plan with some of its moves taken back, so that no tenant bears more of the delay, and the limit.

    All baseline places fit at once, so without any move the plan stands. A job that has no baseline keeps its place
    where there is still room.
    """
    moved = [row for row in rows if planned[row] != baseline[row]]
    places = {row: baseline[row] for row in rows}
    tenants = [arrays.problem.jobs[row].tenant_id for row in moved]
    delay_h = [max(planned[row].hours[-1] - baseline[row].hours[-1], 0) for row in moved]
    burden = np.array(delay_h)[:, None] * np.array(
        [[tenant == one for one in dict.fromkeys(tenants)] for tenant in tenants]
    ).reshape(len(moved), -1)
    saving = np.array(
        [arrays.own_cost(row, baseline[row]) - arrays.own_cost(row, planned[row]) for row in moved]
    )
    more = np.array(
        [(arrays.usage({row: planned[row]}) - arrays.usage({row: baseline[row]})).ravel() for row in moved]
    ).reshape(len(moved), -1)
    is_used = more.any(axis=0)
    room = np.maximum(arrays.capacity - arrays.usage(places), 0.0).ravel() + ROUNDING
    kept = within_share(saving, burden, share_max_ratio, (more[:, is_used].T, room[is_used]))
    places |= {row: planned[row] for row, is_kept in zip(moved, kept, strict=True) if is_kept}
    done = Occupancy(arrays, places)
    for row in sorted(set(planned) - set(rows)):
        if done.fits(row, planned[row]):
            done.put(row, planned[row])
    return done.places, equal_or(share_max_ratio, burden)


def _price(
    before: Savings, after: Savings, limit: float, places: Sequence[Mapping[int, Place]], rows: Sequence[int]
) -> Price:
    """Return what the limit costs: `places` are those of the plan without it, with it, and of the baseline."""
    without, kept, baseline = places
    proposed = [row for row in rows if without[row] != baseline[row]]
    carbon = before.emissions_kgco2e.value - after.emissions_kgco2e.value
    return Price(
        "delay", limit, len(proposed), sum(kept[row] == baseline[row] for row in proposed),
        before.energy_kwh.value, before.energy_kwh.value - after.energy_kwh.value,
        float(carbon) if np.isfinite(carbon) else None,
    )  # fmt: skip


def _refusals(arrays: Arrays, baseline: Mapping[int, Place]) -> dict[int, Refusal]:
    """Return why jobs, by row, cannot be planned even if each were alone; the others can."""
    alone, refused = Occupancy(arrays), {}
    for row in range(len(arrays.problem.jobs)):
        refusal, place = refused_window(arrays, row), baseline.get(row)
        if refusal is None and alone.cheapest(row) is None:
            refusal = refused_hours(arrays, row)
        if refusal is None and place is not None and not arrays.usable[place.group, list(place.hours)].all():
            name, site = arrays.problem.objective.name, arrays.problem.groups[place.group].site_id
            refusal = Refusal("unchanged", f"objective {name} unknown at {site} where it runs now")
        if refusal is not None:
            refused[row] = refusal
    return refused


def _job_plan(
    arrays: Arrays, row: int, place: Place | None, before: Place | None, refusal: Refusal | None,
    savings: Savings | None,
) -> JobPlan:  # fmt: skip
    job, groups = arrays.problem.jobs[row], arrays.problem.groups
    now = place if refusal is None else before
    status: Status
    reason: str | None
    if refusal is not None:
        status, reason = refusal.status, refusal.reason
    elif place is None:
        window = f"hours {arrays.release[row]} to {arrays.deadline[row] - 1}"
        need = f"{arrays.need_h[row, arrays.home[row]]} h of {job.units:g} {job.unit}"
        status, reason = "infeasible", f"no room left beside the other jobs in {window} for {need}"
    else:
        without = "without a plan it finds no room in the hours ahead: no baseline, no saving"
        status, reason = "planned", without if before is None else None
    return JobPlan(
        job.job_id,
        status,
        reason,
        group_id=None if now is None else groups[now.group].group_id,
        hours=() if now is None else now.hours,
        baseline_group_id=None if before is None else groups[before.group].group_id,
        baseline_hours=() if before is None else before.hours,
        finish_delay_h=None if now is None or before is None else now.hours[-1] - before.hours[-1],
        savings=savings,
    )


def _savings(
    arrays: Arrays,
    plan: Mapping[int, Place],
    baseline: Mapping[int, Place],
    rows: list[int],
    correlation: float,
) -> list[Savings]:
    """Return the savings of the jobs in `rows`, and of all of them last, on the expected forecast.

    Their intervals have two parts, put together as independent: the job's mean power (one error for all jobs in the
    total: a model's errors are alike), and the forecast of the hours used, whose errors within a zone fall off as
    correlation^|h - h'|.
    """
    before, after = (_facility_kwh(arrays, places, rows) for places in (baseline, plan))
    hour = np.arange(arrays.problem.hours)
    correlated = correlation ** np.abs(hour[:, None] - hour[None, :])
    root = np.linalg.cholesky(correlated + 1e-12 * np.eye(len(hour)))
    jobs = [arrays.problem.jobs[row] for row in rows]
    power, lower, upper = (
        np.array([(j.power_w, j.power_lower_w, j.power_upper_w) for j in jobs]).reshape(-1, 3).T
    )
    share = np.divide([power - lower, upper - power], power, out=np.zeros((2, len(rows))), where=power > 0)
    kinds = []
    for name in ("energy", "intensity_kg_per_kwh", "price_per_kwh"):
        errors: dict[str, Floats] = {}
        used, planned = np.zeros(len(rows)), np.zeros(len(rows))
        for index, site in enumerate(arrays.problem.sites):
            expected, sigma = _expected_and_sigma(site, name)
            used += _times(before[:, index], expected).sum(axis=1)
            planned += _times(after[:, index], expected).sum(axis=1)
            net = before[:, index] - after[:, index]
            # Sites of one zone share its intensity's errors.
            zone = site.zone_id if name == "intensity_kg_per_kwh" else site.site_id
            errors[zone] = errors.get(zone, 0.0) + _times(np.vstack([net, net.sum(axis=0)]), sigma)
        saving = used - planned
        half = Z * np.sqrt(
            sum((((error @ root) ** 2).sum(axis=1) for error in errors.values()), np.zeros(len(rows) + 1))
        )
        by_power = np.where(saving >= 0, share, share[::-1]) * np.abs(saving)
        below, above = (np.hypot(half, np.append(part, part.sum())) for part in by_power)
        used, planned, saving = (np.append(part, part.sum()) for part in (used, planned, saving))
        kinds.append(np.column_stack([used, planned, saving, saving - below, saving + above]).tolist())
    return [Savings(*(Saving(*kind) for kind in row)) for row in zip(*kinds, strict=True)]


def _facility_kwh(arrays: Arrays, places: Mapping[int, Place], rows: list[int]) -> Floats:
    """Return the kWh of each job by site and hour, (n, S, H): its own energy, its part of the curve, its transfer."""
    problem = arrays.problem
    index = {site.site_id: row for row, site in enumerate(problem.sites)}
    site_of = [index[group.site_id] for group in problem.groups]
    used = arrays.usage({row: places[row] for row in rows})
    drawn = arrays.curve_kw(np.arange(len(used)), used)
    per_unit = np.divide(drawn, used, out=np.zeros_like(drawn), where=used > 0)
    kwh = np.zeros((len(rows), len(problem.sites), problem.hours))
    for number, row in enumerate(rows):
        group, hours = places[row].group, list(places[row].hours)
        kwh[number, site_of[group], hours] = (
            arrays.hour_kwh[row, group] + per_unit[group, hours] * arrays.units[row]
        )
        if site_of[group] != site_of[arrays.home[row]]:
            kwh[number, site_of[group], arrays.release[row]] += problem.jobs[row].transfer_kwh
    overhead = np.array([site.overhead_ratio for site in problem.sites]).reshape(kwh.shape[1:])
    return _times(kwh, 1 + overhead)


def _expected_and_sigma(site: SiteHours, name: str) -> tuple[Floats, Floats]:
    if name == "energy":
        return np.ones(len(site.overhead_ratio)), np.zeros(len(site.overhead_ratio))
    signal = site.intensity_kg_per_kwh if name == "intensity_kg_per_kwh" else site.price_per_kwh
    if signal is None:
        unknown = np.full(len(site.overhead_ratio), np.nan)
        return unknown, unknown
    return signal.expected, (signal.upper - signal.lower) / (2 * Z)


def _times(kwh: Floats, factor: Floats) -> Floats:
    """Return the products; hours without energy are 0 even where the factor is unknown."""
    return np.asarray(np.where(kwh == 0, 0.0, kwh * factor))
