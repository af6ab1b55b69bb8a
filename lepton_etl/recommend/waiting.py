"""Jobs that wait in the queue and may wait longer -> when each should start, by the forecast of the hours ahead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.config.sections import ShiftSettings
from lepton_etl.recommend.advice import Advice, Subject
from lepton_etl.recommend.schedule.inputs import Job, NodeGroup, Objective, Problem, Signal, SiteHours
from lepton_etl.recommend.schedule.outcome import Estimate
from lepton_etl.recommend.schedule.plan import JobPlan, plan
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM
from lepton_etl.uncertainty import Estimate as Promise

HORIZON_H: Final = 48
# Runs of like jobs from which their length is known; the 90th percentile is planned with.
_LEAST_RUNS: Final = 5
_DURATION_QUANTILE: Final = 0.9
_OBJECTIVES: Final = {
    "energy": Objective(per_kwh=1.0), "carbon": Objective(per_kgco2e=1.0), "cost": Objective(per_money=1.0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Queue:
    """What is known at `at`, the end of the day, of one site.

    `pending`: site_id, cluster_id, job_id, user_name, partition, gpu_count, cpu_count, predicted_power_w and its ends.
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


def shift_advice(queue: Queue, settings: ShiftSettings) -> tuple[list[Advice], tuple[str, ...]]:
    """Advice for the jobs that should start later, and in words why others are left as they are."""
    jobs, notes = _jobs(queue, settings)
    if not jobs:
        return [], tuple(notes)
    groups = tuple(
        NodeGroup(
            f"{row['cluster_id']}/{row['unit']}", queue.site_id, row["cluster_id"], "", row["unit"],
            np.full(HORIZON_H, float(row["free"])),
        )
        for row in queue.room.to_dicts()
    )  # fmt: skip
    site = SiteHours(
        queue.site_id, queue.zone_id, np.full(HORIZON_H, queue.overhead_ratio),
        _signal(queue, *(f"{name}_gco2e_per_kwh" for name in _INTENSITY), scale=1 / GRAMS_PER_KILOGRAM),
        _signal(queue, "energy_price", "energy_price", "energy_price"),
    )  # fmt: skip
    made = plan(Problem(tuple(jobs), groups, (site,), HORIZON_H, _OBJECTIVES[settings.objective]))
    found = [_advice(queue, job) for job in made.jobs if job.moved]
    refused = [f"job {job.job_id} is left as it is: {job.reason}" for job in made.jobs if job.reason]
    return found, (*notes, *made.words, *refused)


_INTENSITY: Final = ("carbon_intensity", "intensity_lower", "intensity_upper")


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
                )
            )  # fmt: skip
    return jobs, notes


def _lengths(ended: pl.DataFrame) -> dict[tuple[str | None, str | None], float]:
    """Hours that a user's runs in a partition stay below in nine of ten cases."""
    rows = ended.group_by("user_name", "partition").agg(
        pl.col("hours").quantile(_DURATION_QUANTILE, "higher"), pl.len().alias("runs")
    )
    return {
        (row["user_name"], row["partition"]): row["hours"]
        for row in rows.to_dicts()
        if row["runs"] >= _LEAST_RUNS and row["hours"] > 0
    }


def _signal(queue: Queue, *names: str, scale: float = 1.0) -> Signal | None:
    """Expected, lower and upper of the hours ahead; None where no hour is known."""
    wanted = pl.DataFrame({"hour_start": [queue.at + timedelta(hours=h) for h in range(HORIZON_H)]})
    rows = wanted.join(
        queue.hours.with_columns(pl.col("hour_start").cast(wanted.schema["hour_start"])),
        on="hour_start",
        how="left",
    )
    ends = [rows[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() * scale for name in names]
    return None if np.isnan(ends[0]).all() else Signal(*ends)


def _advice(queue: Queue, job: JobPlan) -> Advice:
    assert job.savings is not None and job.group_id is not None
    start = queue.at + timedelta(hours=job.hours[0])
    end = queue.at + timedelta(hours=job.hours[-1] + 1)
    emissions, money = _promise(job.savings.emissions_kgco2e), _promise(job.savings.money)
    worth = f"{emissions.value:.2f} kgCO2e" if emissions is not None else "energy"
    return Advice(
        Subject(queue.site_id, job.group_id.split("/")[0], job_id=job.job_id), "shift", "start_later",
        f"start job {job.job_id} at {start:%Y-%m-%d %H:%M} UTC, {job.hours[0]} h later: saves {worth}",
        queue.at, end, job.savings.baseline.energy_kwh, _promise(job.savings.energy_kwh),
        "expected power of the job, forecast of the grid's intensity and the tariff's prices",
        saving_kgco2e=emissions, carbon_method="none" if emissions is None else "location",
        saving_cost=money if queue.currency is not None else None,
        currency=queue.currency if money is not None else None,
        guard_rail="its owner is told; hold it no longer than its own deadline",
        parameters={"start_time": start.isoformat(), "delay_h": job.finish_delay_h},
    )  # fmt: skip


def _promise(found: Estimate) -> Promise | None:
    if not np.isfinite([found.value, found.lower, found.upper]).all():
        return None
    return Promise(found.value, min(found.lower, found.value), max(found.upper, found.value))
