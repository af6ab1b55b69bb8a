"""One node through all its days: load, physics, logs on disk, and its part of the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator import formats, power
from lepton_etl.simulator.attribution import JobShares, split_by_job
from lepton_etl.simulator.faults import FaultRecord, Injection, Log, spoil, truncated
from lepton_etl.simulator.load import NodeTask, day_load, first_noise, traits_of
from lepton_etl.simulator.logs import gpu_log, ipmi_log, sensors_of
from lepton_etl.simulator.plan import DAY_S, INTERVAL_S, STEP_S, STEPS_PER_DAY, Fault, FleetPlan

Array = NDArray[np.float64]

JOULES_PER_KWH: Final = 3.6e6


@dataclass(slots=True)
class NodeTruth:
    """What one node truly did: kWh by 300 s interval, mean W by minute, GPU board kWh by hour, kWh by job."""

    node_id: str
    cluster_id: str
    interval_energy_kwh: Array  # (days * 288,)
    minute_power_w: Array  # (days * 1440,)
    gpu_hour_energy_kwh: Array  # (days * 24, gpus)
    jobs_hour_energy_kwh: Array  # (days * 24,)
    jobs: dict[str, JobShares] = field(default_factory=dict)
    faults: list[FaultRecord] = field(default_factory=list)
    files: int = 0
    bytes_written: int = 0


def simulate_node(plan: FleetPlan, task: NodeTask, supply_air_c: Array, landing: Path) -> NodeTruth:
    """Run a node over the plan's days, write its logs, return its truth.

    `supply_air_c` has one value a minute, both ends included. One day is in memory at a time.
    """
    sensors = sensors_of(plan, task)
    gpus = task.hardware.gpu_count
    truth = NodeTruth(
        task.node_id,
        task.cluster_id,
        interval_energy_kwh=np.zeros(plan.days * DAY_S // INTERVAL_S),
        minute_power_w=np.zeros(plan.days * 1440),
        gpu_hour_energy_kwh=np.zeros((plan.days * 24, gpus)),
        jobs_hour_energy_kwh=np.zeros(plan.days * 24),
    )
    counters_j = plan.rng("counters", task.node_id).uniform(1e8, 5e8, gpus)
    for day, node_day in enumerate(node_days(plan, task, supply_air_c)):
        _add_truth(truth, task, node_day, day)
        injections = task.injections.get(day, [])
        _write(truth, plan, injections, ipmi_log(plan, task, sensors, node_day, day), landing)
        if gpus:
            log, counters_j, resets = gpu_log(plan, task, sensors, node_day, day, counters_j)
            truth.faults += resets
            _write(truth, plan, injections, log, landing)
    return truth


def node_days(plan: FleetPlan, task: NodeTask, supply_air_c: Array) -> Iterator[power.NodeDay]:
    """The physics of a node, day after day of the plan, each going on where the one before ended."""
    traits, noise = traits_of(plan, task), first_noise(plan, task)
    carry: power.Carry | None = None
    for day in range(plan.days):
        load, noise = day_load(plan, task, traits, day, supply_air_c, noise)
        node_day, carry = power.node_day(
            task.hardware, traits, load, carry or power.settle(task.hardware, traits, load)
        )
        yield node_day


def _add_truth(truth: NodeTruth, task: NodeTask, day: power.NodeDay, number: int) -> None:
    step_energy_j = (day.ac_power_w[1:] + day.ac_power_w[:-1]) / 2 * STEP_S
    gpu_energy_j = (day.gpu_power_w[:, 1:] + day.gpu_power_w[:, :-1]) / 2 * STEP_S
    per_interval, per_day = INTERVAL_S // STEP_S, DAY_S // INTERVAL_S
    energy_kwh = step_energy_j.reshape(-1, per_interval).sum(axis=1) / JOULES_PER_KWH
    truth.interval_energy_kwh[number * per_day : (number + 1) * per_day] = energy_kwh
    truth.minute_power_w[number * 1440 : (number + 1) * 1440] = (
        step_energy_j.reshape(1440, -1).sum(axis=1) / 60.0
    )
    hours = slice(number * 24, (number + 1) * 24)
    truth.gpu_hour_energy_kwh[hours] = (
        gpu_energy_j.reshape(len(gpu_energy_j), 24, 3600 // STEP_S).sum(axis=2).T / JOULES_PER_KWH
    )
    by_hour_kwh, shares = split_by_job(
        task.assignments,
        task.hardware,
        day,
        step_energy_j,
        task.idle_power_w * STEP_S,
        number * STEPS_PER_DAY,
    )
    truth.jobs_hour_energy_kwh[hours] = by_hour_kwh
    for job_id, share in shares.items():
        truth.jobs[job_id] = truth.jobs.get(job_id, JobShares()) + share


def _write(truth: NodeTruth, plan: FleetPlan, injections: list[Injection], log: Log, landing: Path) -> None:
    """Spoil a log as asked and put it on disk; the records of it go to the truth."""
    if injections:
        truth.faults += spoil(log, injections, plan.rng("spoil", log.file))
    data = formats.compress(log.head + "".join(log.snapshots))
    is_ipmi = log.file.startswith("ipmi/")
    if is_ipmi and any(injection.kind is Fault.TRUNCATED_GZIP for injection in injections):
        data = truncated(data)
        records = sum(log.records(snapshot) for snapshot in log.snapshots)
        span = (log.midnight_epoch_s, log.midnight_epoch_s + DAY_S)
        truth.faults.append(FaultRecord(Fault.TRUNCATED_GZIP, log.file, log.node_id, *span, 1, records))
    (landing / log.file).write_bytes(data)
    truth.files += 1
    truth.bytes_written += len(data)
