"""The truth of jobs: which part of a node's energy each of them caused (dynamic) and reserved (static)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.hardware import HardwareClass
from lepton_etl.simulator.jobs import Assignment
from lepton_etl.simulator.plan import STEPS_PER_DAY
from lepton_etl.simulator.power import NodeDay

Array = NDArray[np.float64]

JOULES_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class JobShares:
    """Energy of one job on one node, kWh."""

    dynamic_kwh: float = 0.0
    static_kwh: float = 0.0

    def __add__(self, other: JobShares) -> JobShares:
        return JobShares(self.dynamic_kwh + other.dynamic_kwh, self.static_kwh + other.static_kwh)


def split_by_job(
    assignments: list[Assignment],
    hardware: HardwareClass,
    day: NodeDay,
    step_energy_j: Array,
    idle_step_j: float,
    first_step: int,
) -> tuple[Array, dict[str, JobShares]]:
    """Jobs' energy of a node-day by hour, kWh, shape (24,), and by job.

    Static S = min(E, idle) and dynamic D = E - S of each step; D by the dynamic component power a job causes
    (its GPUs, MIG instances by their part of the board's work, and the CPUs by CPU work), S by the slots it
    reserves. What no job holds is idle.
    Source: docs/definitions.md section 5, rule `reservation`, at the simulation's own step.
    """
    static_j = np.minimum(step_energy_j, idle_step_j)
    dynamic_j = step_energy_j - static_j
    present = [(assignment, assignment.span(first_step, STEPS_PER_DAY)) for assignment in assignments]
    held = [(assignment, slice(*span)) for assignment, span in present if span is not None]
    work = np.zeros(STEPS_PER_DAY)
    for assignment, steps in held:
        work[steps] += _cpu_work(assignment)
    units_w = _unit_dynamic_w(hardware, day)
    causes: list[Array] = []
    total = np.zeros(STEPS_PER_DAY)
    for assignment, steps in held:
        cause = day.cpu_dynamic_w[:-1][steps] * _cpu_work(assignment) / work[steps]
        if hardware.gpu_count:
            cause = cause + units_w[list(assignment.slots), :-1][:, steps].sum(axis=0)
        cause = cause + 1e-9  # a job that does nothing still shares what is left of its neighbour's work
        causes.append(cause)
        total[steps] += cause
    jobs_j = np.zeros(STEPS_PER_DAY)
    shares: dict[str, JobShares] = {}
    for (assignment, steps), cause in zip(held, causes, strict=True):
        own_dynamic_j = dynamic_j[steps] * cause / total[steps]
        own_static_j = static_j[steps] * len(assignment.slots) / hardware.slots
        jobs_j[steps] += own_dynamic_j + own_static_j
        share = JobShares(
            float(own_dynamic_j.sum()) / JOULES_PER_KWH, float(own_static_j.sum()) / JOULES_PER_KWH
        )
        shares[assignment.job.run_id] = share
    return jobs_j.reshape(24, -1).sum(axis=1) / JOULES_PER_KWH, shares


def _unit_dynamic_w(hardware: HardwareClass, day: NodeDay) -> Array:
    """Dynamic power of each board, or of each MIG instance by its part of the board's work, (units, instants), W."""
    if not hardware.mig_instances:
        return day.gpu_dynamic_w
    work = day.unit.reshape(hardware.gpu_count, hardware.mig_instances, -1)
    total = work.sum(axis=1, keepdims=True)
    part = np.divide(work, total, out=np.zeros_like(work), where=total > 0)
    return np.asarray((part * day.gpu_dynamic_w[:, None, :]).reshape(day.unit.shape))


def _cpu_work(assignment: Assignment) -> float:
    return len(assignment.slots) * assignment.job.cpu_level
