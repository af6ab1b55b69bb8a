"""One node through all its days: load, physics, logs on disk, and its part of the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.fleet import formats, power
from lepton_etl.fleet.attribution import JobShares, split_by_job
from lepton_etl.fleet.faults import FaultRecord, Injection, Log, spoil, truncated
from lepton_etl.fleet.hardware import HardwareClass
from lepton_etl.fleet.jobs import Assignment, OffWindow
from lepton_etl.fleet.plan import DAY_S, INTERVAL_S, STEP_S, STEPS_PER_DAY, Fault, FleetPlan

Array = NDArray[np.float64]

JOULES_PER_KWH: Final = 3.6e6
IDLE_UTILISATION: Final = 0.01
CPU_NOISE: Final = 0.05
GPU_NOISE: Final = 0.05
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


@dataclass(slots=True)
class _Sensors:
    """The node's own sampling seconds and gain errors."""

    bmc_offset_s: int
    gpu_offset_s: int
    gain: Array


def simulate_node(plan: FleetPlan, task: NodeTask, supply_air_c: Array, landing: Path) -> NodeTruth:
    """Run a node over the plan's days, write its logs, return its truth.

    `supply_air_c` has one value a minute, both ends included. One day is in memory at a time.
    """
    traits, sensors = _traits(plan, task), _sensors(plan, task)
    gpus = task.hardware.gpu_count
    truth = NodeTruth(
        task.node_id,
        task.cluster_id,
        interval_energy_kwh=np.zeros(plan.days * DAY_S // INTERVAL_S),
        minute_power_w=np.zeros(plan.days * 1440),
        gpu_hour_energy_kwh=np.zeros((plan.days * 24, gpus)),
        jobs_hour_energy_kwh=np.zeros(plan.days * 24),
    )
    noise = plan.rng("first noise", task.node_id).standard_normal(gpus + 2)
    counters_j = plan.rng("counters", task.node_id).uniform(1e8, 5e8, gpus)
    carry: power.Carry | None = None
    for day in range(plan.days):
        load, noise = _load(plan, task, traits, day, supply_air_c, noise)
        carry = carry or power.settle(task.hardware, traits, load)
        node_day, carry = power.node_day(task.hardware, traits, load, carry)
        _add_truth(truth, task, node_day, day)
        injections = task.injections.get(day, [])
        _write(truth, plan, day, injections, _ipmi_log(plan, task, sensors, node_day, day), landing)
        if gpus:
            log, counters_j = _gpu_log(plan, task, sensors, node_day, day, counters_j, truth)
            _write(truth, plan, day, injections, log, landing)
    return truth


def _traits(plan: FleetPlan, task: NodeTask) -> power.Traits:
    rng = plan.rng("traits", task.node_id)
    return power.Traits(
        idle_factor=float(np.clip(rng.normal(1.0, 0.02), 0.94, 1.06)),
        dynamic_factor=float(np.clip(rng.normal(1.0, 0.02), 0.94, 1.06)),
        inlet_offset_k=float(rng.uniform(-1.0, 2.5)),
    )


def _sensors(plan: FleetPlan, task: NodeTask) -> _Sensors:
    rng = plan.rng("sensors", task.node_id)
    return _Sensors(
        bmc_offset_s=int(rng.integers(plan.bmc_period_s)),
        gpu_offset_s=int(rng.integers(plan.gpu_period_s)),
        gain=1.0 + plan.sensor_gain_sigma * rng.standard_normal(1 + task.hardware.psu_count),
    )


def _coloured(white: Array, tau_s: float, start: Array | float) -> Array:
    """Unit-variance AR(1) noise from white noise along the last axis, continuing from `start`."""
    keep = float(np.exp(-STEP_S / tau_s))
    return power.relax(white * np.sqrt((1 + keep) / (1 - keep)), tau_s, start)


def _load(
    plan: FleetPlan, task: NodeTask, traits: power.Traits, day: int, supply_air_c: Array, noise: Array
) -> tuple[power.Load, Array]:
    """Targets of one day's grid from the node's jobs, and the noise state at its end."""
    gpus, first = task.hardware.gpu_count, day * STEPS_PER_DAY
    rng = plan.rng("noise", task.node_id, plan.first_date.toordinal() + day)
    white = rng.standard_normal((gpus + 2, STEPS_PER_DAY + 1))
    swings = _coloured(white[:-1], NOISE_TAU_S, noise[:-1])
    drift = _coloured(white[-1], INLET_TAU_S, noise[-1])
    cpu = np.full(STEPS_PER_DAY + 1, IDLE_UTILISATION)
    gpu = np.zeros((gpus, STEPS_PER_DAY + 1))
    for assignment in task.assignments:
        span = assignment.span(first, STEPS_PER_DAY + 1)
        if span is not None:
            steps = np.arange(*span)
            wave = assignment.wave(steps + first)
            cpu[steps] += len(assignment.slots) / task.hardware.slots * assignment.job.cpu_level * wave
            if gpus:
                gpu[np.array(assignment.slots)[:, None], steps] = assignment.job.gpu_level * wave
    on = np.ones(STEPS_PER_DAY + 1, dtype=bool)
    for window in task.off:
        on[max(window.start_step - first, 0) : max(window.end_step - first, 0)] = False
    minutes = day * 1440 + np.arange(STEPS_PER_DAY + 1) * STEP_S / 60.0
    inlet = np.interp(minutes, np.arange(len(supply_air_c)), supply_air_c) + traits.inlet_offset_k
    load = power.Load(
        cpu=np.clip(cpu * (1 + CPU_NOISE * swings[0]), 0.0, 1.0),
        gpu=np.clip(gpu * (1 + GPU_NOISE * swings[1:]), 0.0, 1.0),
        inlet_temp_c=inlet + INLET_NOISE_K * drift,
        on=on,
    )
    return load, np.append(swings[:, -1], drift[-1])


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


def _sampled(series: Array, seconds: NDArray[np.int64]) -> Array:
    """Values of a series on the grid at whole seconds of the day: linear between instants, as the truth is."""
    step, rest = np.divmod(seconds, STEP_S)
    weight = rest / STEP_S
    return np.asarray(series[..., step] * (1 - weight) + series[..., step + 1] * weight, dtype=np.float64)


def _ipmi_log(plan: FleetPlan, task: NodeTask, sensors: _Sensors, day: power.NodeDay, number: int) -> Log:
    seconds = np.arange(sensors.bmc_offset_s, DAY_S, plan.bmc_period_s)
    on = day.on[seconds // STEP_S] & day.on[seconds // STEP_S + 1]
    always = np.ones_like(on)
    resolution_w = plan.resolution_w

    def watts(series: Array, gain: float, present: NDArray[np.bool_]) -> list[str]:
        values = np.rint(_sampled(series, seconds) * gain / resolution_w) * resolution_w
        return formats.reading_cells(values, "Watts", present)

    def degrees(series: Array, present: NDArray[np.bool_]) -> list[str]:
        return formats.reading_cells(_sampled(series, seconds), "degrees C", present)

    psus = task.hardware.psu_count
    columns = {
        "node_w": watts(day.ac_power_w, sensors.gain[0], always),
        "cpu_w": watts(day.cpu_power_w, 1.0, on),
        "dram_w": watts(day.dram_power_w, 1.0, on),
        "cpu_percent": formats.reading_cells(_sampled(day.cpu, seconds) * 100.0, "percent", on),
        "inlet_c": degrees(day.inlet_temp_c, always),
        "exhaust_c": degrees(day.exhaust_temp_c, on),
    }
    for psu in range(1, psus + 1) if task.hardware.layout == "xcc_psu" else ():
        columns[f"psu{psu}_in_w"] = watts(day.ac_power_w / psus, sensors.gain[psu], always)
        columns[f"psu{psu}_out_w"] = watts(day.dc_power_w / psus, sensors.gain[psu], always)
    for socket in range(1, task.hardware.sockets + 1):
        columns[f"cpu{socket}_c"] = degrees(day.cpu_temp_c + (socket - 1) * 1.5, on)
    for fan in range(1, task.hardware.fan_count + 1):
        rpm = np.rint(_sampled(day.fan_ratio, seconds) * task.hardware.fan_max_rpm / 40 + fan % 3) * 40
        columns[f"fan{fan}_rpm"] = formats.reading_cells(rpm, "RPM", on)
    midnight = plan.start_epoch_s + number * DAY_S
    snapshots = formats.ipmi_snapshots(
        formats.ipmi_rows(task.hardware), columns, (seconds + midnight).tolist()
    )
    name = f"ipmi/{task.node_id}-{plan.dates[number]}.txt.gz"
    return Log(name, task.node_id, midnight, "", snapshots, seconds.tolist(), stamp_lines=1)


def _gpu_log(
    plan: FleetPlan,
    task: NodeTask,
    sensors: _Sensors,
    day: power.NodeDay,
    number: int,
    counters_j: Array,
    truth: NodeTruth,
) -> tuple[Log, Array]:
    """The scrapes of one day while the node is on, and the joule counters at its end.

    A counter restarts when the node is switched on again and where a fault asks for it.
    """
    seconds = np.arange(sensors.gpu_offset_s, DAY_S, plan.gpu_period_s)
    seconds = seconds[day.on[seconds // STEP_S] & day.on[seconds // STEP_S + 1]]
    midnight = plan.start_epoch_s + number * DAY_S
    name = f"prom/{task.node_id}-{plan.dates[number]}.prom.gz"
    restarts = np.zeros(STEPS_PER_DAY + 1, dtype=bool)
    restarts[1:] = day.on[1:] & ~day.on[:-1]
    for injection in task.injections.get(number, []):
        if injection.kind is Fault.COUNTER_RESETS:
            restarts[injection.from_s // STEP_S] = True
            moment, gpus = midnight + injection.from_s, task.hardware.gpu_count
            truth.faults.append(
                FaultRecord(
                    injection.kind, name, task.node_id, moment, moment, gpus, gpus * int(len(seconds) > 0)
                )
            )
    total_j = counters_j[:, None] + np.concatenate(
        [
            np.zeros((len(counters_j), 1)),
            np.cumsum((day.gpu_power_w[:, 1:] + day.gpu_power_w[:, :-1]) / 2 * STEP_S, axis=1),
        ],
        axis=1,
    )
    base_j = np.maximum.accumulate(np.where(restarts, total_j, 0.0), axis=1)
    step, rest = np.divmod(seconds, STEP_S)
    at_w, next_w = day.gpu_power_w[:, step], day.gpu_power_w[:, step + 1]
    counter_j = total_j[:, step] - base_j[:, step] + at_w * rest + (next_w - at_w) * rest**2 / (2 * STEP_S)
    hardware, utilisation = task.hardware, _sampled(day.gpu, seconds)
    clock_mhz = hardware.gpu_idle_mhz + (hardware.gpu_max_mhz - hardware.gpu_idle_mhz) * np.minimum(
        4 * utilisation, 1
    )
    metrics = {
        "DCGM_FI_DEV_SM_CLOCK": np.rint(clock_mhz / 15) * 15,
        "DCGM_FI_DEV_GPU_TEMP": _sampled(day.gpu_temp_c, seconds),
        "DCGM_FI_DEV_POWER_USAGE": _sampled(day.gpu_power_w, seconds),
        "DCGM_FI_DEV_POWER_MGMT_LIMIT": np.full_like(utilisation, hardware.gpu_rated_w),
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": np.floor(counter_j * 1000.0),
        "DCGM_FI_DEV_GPU_UTIL": utilisation * 100.0,
    }
    snapshots = formats.exposition_snapshots(
        task.node_id, hardware.gpu_model, metrics, ((seconds + midnight) * 1000).tolist()
    )
    log = Log(
        name, task.node_id, midnight, formats.exposition_head(), snapshots, seconds.tolist(), stamp_lines=0
    )
    return log, np.asarray(total_j[:, -1] - base_j[:, -1], dtype=np.float64)


def _write(
    truth: NodeTruth, plan: FleetPlan, day: int, injections: list[Injection], log: Log, landing: Path
) -> None:
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
