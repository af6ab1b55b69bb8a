"""Load of a node on a day: traits, the levels that its jobs set, and its inlet air."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator import power
from lepton_etl.simulator.faults import Injection
from lepton_etl.simulator.hardware import HardwareClass
from lepton_etl.simulator.jobs import Assignment, OffWindow, Schedule
from lepton_etl.simulator.plan import STEP_S, STEPS_PER_DAY, ClusterPlan, FleetPlan

Array = NDArray[np.float64]

IDLE_UTILISATION: Final = 0.01
CPU_NOISE_RATIO: Final = 0.05
GPU_NOISE_RATIO: Final = 0.05
NOISE_TAU_S: Final = 120.0
INLET_NOISE_K: Final = 0.25
INLET_TAU_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class NodeTask:
    """All that one node needs; sent to a worker process."""

    node_id: str
    cluster_id: str
    hardware: HardwareClass
    idle_power_w: float
    assignments: list[Assignment]
    off: list[OffWindow]
    injections: dict[int, list[Injection]]


def node_tasks(
    cluster: ClusterPlan,
    placed: Schedule,
    injections: Mapping[str, Mapping[int, list[Injection]]] | None = None,
) -> list[NodeTask]:
    """One task a node of the cluster, in order; `injections` by node and day number."""
    idle_w, spoiled = power.idle_power_w(cluster.hardware), injections or {}
    return [
        NodeTask(
            node_id=node_id,
            cluster_id=cluster.cluster_id,
            hardware=cluster.hardware,
            idle_power_w=idle_w,
            assignments=placed.assignments[index],
            off=placed.off[index],
            injections=dict(spoiled.get(node_id, {})),
        )
        for index, node_id in enumerate(cluster.node_ids())
    ]


def traits_of(plan: FleetPlan, task: NodeTask) -> power.Traits:
    """Silicon spread of 2 % and a place in the rack, from the node's own stream."""
    rng = plan.rng("traits", task.node_id)
    return power.Traits(
        idle_factor=float(np.clip(rng.normal(1.0, 0.02), 0.94, 1.06)),
        dynamic_factor=float(np.clip(rng.normal(1.0, 0.02), 0.94, 1.06)),
        inlet_offset_k=float(rng.uniform(-1.0, 2.5)),
    )


def first_noise(plan: FleetPlan, task: NodeTask) -> Array:
    """State of the noises at the first midnight: CPU, each GPU, inlet air."""
    return plan.rng("first noise", task.node_id).standard_normal(task.hardware.gpu_count + 2)


def _coloured(white: Array, tau_s: float, start: Array | float) -> Array:
    """Unit-variance AR(1) noise from white noise along the last axis, continuing from `start`."""
    keep = float(np.exp(-STEP_S / tau_s))
    return power.relax(white * np.sqrt((1 + keep) / (1 - keep)), tau_s, start)


def day_load(
    plan: FleetPlan, task: NodeTask, traits: power.Traits, day: int, supply_air_c: Array, noise: Array
) -> tuple[power.Load, Array]:
    """Targets of one day's grid from the node's jobs, and the noise state at its end.

    `supply_air_c` has one value a minute of the whole plan, both ends included; `noise` one value a noise.
    """
    gpus, first, instants = task.hardware.gpu_count, day * STEPS_PER_DAY, STEPS_PER_DAY + 1
    rng = plan.rng("noise", task.node_id, plan.first_date.toordinal() + day)
    white = rng.standard_normal((gpus + 2, instants))
    swings = _coloured(white[:-1], NOISE_TAU_S, noise[:-1])
    drift = _coloured(white[-1], INLET_TAU_S, noise[-1])
    cpu = np.full(instants, IDLE_UTILISATION)
    gpu = np.zeros((task.hardware.units, instants))
    for assignment in task.assignments:
        span = assignment.span(first, instants)
        if span is not None:
            steps = np.arange(*span)
            wave = assignment.wave(steps + first)
            cpu[steps] += len(assignment.slots) / task.hardware.slots * assignment.job.cpu_level * wave
            if gpus:
                gpu[np.array(assignment.slots)[:, None], steps] = assignment.job.gpu_level * wave
    on = np.ones(instants, dtype=bool)
    for window in task.off:
        on[max(window.start_step - first, 0) : max(window.end_step - first, 0)] = False
    minutes = day * 1440 + np.arange(instants) * STEP_S / 60.0
    inlet = np.interp(minutes, np.arange(len(supply_air_c)), supply_air_c) + traits.inlet_offset_k
    load = power.Load(
        cpu=np.clip(cpu * (1 + CPU_NOISE_RATIO * swings[0]), 0.0, 1.0),
        gpu=np.clip(
            gpu * (1 + GPU_NOISE_RATIO * np.repeat(swings[1:], max(1, task.hardware.mig_instances), axis=0)),
            0.0,
            1.0,
        ),
        inlet_temp_c=inlet + INLET_NOISE_K * drift,
        on=on,
    )
    return load, np.append(swings[:, -1], drift[-1])
