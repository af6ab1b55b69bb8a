"""Logs of a node's instruments for a day: controller snapshots and GPU scrapes, sampled from the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator import formats, power
from lepton_etl.simulator.faults import FaultRecord, Log
from lepton_etl.simulator.load import NodeTask
from lepton_etl.simulator.plan import DAY_S, STEP_S, STEPS_PER_DAY, Fault, FleetPlan

Array = NDArray[np.float64]
Seconds = NDArray[np.int64]

# Half width of an even error, relative. A controller's power errs by 5 % of one standard deviation, x sqrt(3); a
# supply's input by 5 % at most (Intel SR1690WB technical product specification, 3.8.4).
BMC_LIMIT: Final = 0.0866
PSU_LIMIT: Final = 0.05


@dataclass(frozen=True, slots=True)
class Sensors:
    """When a node's collectors ask, and the gain of its power sensors (node, then supplies)."""

    bmc_offset_s: int
    gpu_offset_s: int
    gain: Array


def sensors_of(plan: FleetPlan, task: NodeTask) -> Sensors:
    """A node's instruments, from its own stream."""
    rng = plan.rng("sensors", task.node_id)
    return Sensors(
        bmc_offset_s=int(rng.integers(plan.bmc_period_s)),
        gpu_offset_s=int(rng.integers(plan.gpu_period_s)),
        gain=1.0 + _gain_errors(plan, rng, 1 + task.hardware.psu_count),
    )


def _gain_errors(plan: FleetPlan, rng: np.random.Generator, count: int) -> Array:
    """Relative gain errors of the node's own sensor and of its supplies', the same for ever."""
    if plan.sensor_gain_sigma is not None:
        return plan.sensor_gain_sigma * rng.standard_normal(count)
    limits = np.full(count, PSU_LIMIT)
    limits[0] = BMC_LIMIT
    return limits * rng.uniform(-1.0, 1.0, count)


def sampled(series: Array, seconds: Seconds) -> Array:
    """Values of a grid's series at whole seconds of the day: linear between instants, as the truth is."""
    step, rest = np.divmod(seconds, STEP_S)
    weight = rest / STEP_S
    return np.asarray(series[..., step] * (1 - weight) + series[..., step + 1] * weight, dtype=np.float64)


def _awake(day: power.NodeDay, seconds: Seconds) -> NDArray[np.bool_]:
    return day.on[seconds // STEP_S] & day.on[seconds // STEP_S + 1]


def ipmi_log(plan: FleetPlan, task: NodeTask, sensors: Sensors, day: power.NodeDay, number: int) -> Log:
    """The controller's snapshots of one day; a node that is off still reports standby power and inlet air."""
    hardware = task.hardware
    seconds = np.arange(sensors.bmc_offset_s, DAY_S, plan.bmc_period_s)
    on = _awake(day, seconds)
    always = np.ones_like(on)

    def watts(series: Array, gain: float, present: NDArray[np.bool_]) -> list[str]:
        steps = np.rint(sampled(series, seconds) * gain / plan.resolution_w)
        return formats.reading_cells(steps * plan.resolution_w, "Watts", present)

    def degrees(series: Array, present: NDArray[np.bool_]) -> list[str]:
        return formats.reading_cells(sampled(series, seconds), "degrees C", present)

    columns = {
        "node_w": watts(day.ac_power_w, float(sensors.gain[0]), always),
        "cpu_w": watts(day.cpu_power_w, 1.0, on),
        "dram_w": watts(day.dram_power_w, 1.0, on),
        "cpu_percent": formats.reading_cells(sampled(day.cpu, seconds) * 100.0, "percent", on),
        "inlet_c": degrees(day.inlet_temp_c, always),
        "exhaust_c": degrees(day.exhaust_temp_c, on),
    }
    for psu in range(1, hardware.psu_count + 1) if hardware.layout == "xcc_psu" else ():
        gain = float(sensors.gain[psu])
        columns[f"psu{psu}_in_w"] = watts(day.ac_power_w / hardware.psu_count, gain, always)
        columns[f"psu{psu}_out_w"] = watts(day.dc_power_w / hardware.psu_count, gain, always)
    for socket in range(1, hardware.sockets + 1):
        columns[f"cpu{socket}_c"] = degrees(day.cpu_temp_c + (socket - 1) * 1.5, on)
    for fan in range(1, hardware.fan_count + 1):
        rpm = np.rint(sampled(day.fan_ratio, seconds) * hardware.fan_max_rpm / 40 + fan % 3) * 40
        columns[f"fan{fan}_rpm"] = formats.reading_cells(rpm, "RPM", on)
    midnight = plan.start_epoch_s + number * DAY_S
    snapshots = formats.ipmi_snapshots(formats.ipmi_rows(hardware), columns, (seconds + midnight).tolist())
    name = f"ipmi/{task.node_id}-{plan.dates[number]}.txt.gz"
    return Log(name, task.node_id, midnight, "", snapshots, seconds.tolist(), stamp_lines=1)


def gpu_counters(
    day: power.NodeDay, seconds: Seconds, resets_s: list[int], start_j: Array
) -> tuple[Array, Array]:
    """Joule counters of each GPU at these seconds, shape (gpus, scrapes), and at the day's end.

    The exact integral of the linear pieces of board power. A counter restarts when the node is switched on
    again (the driver is loaded anew) and at each of `resets_s`.
    """
    pieces_j = (day.gpu_power_w[:, 1:] + day.gpu_power_w[:, :-1]) / 2 * STEP_S
    total_j = np.concatenate([start_j[:, None], start_j[:, None] + np.cumsum(pieces_j, axis=1)], axis=1)
    restarts = np.zeros(STEPS_PER_DAY + 1, dtype=bool)
    restarts[1:] = day.on[1:] & ~day.on[:-1]
    restarts[np.array(resets_s, dtype=np.int64) // STEP_S] = True
    base_j = np.maximum.accumulate(np.where(restarts, total_j, 0.0), axis=1)
    step, rest = np.divmod(seconds, STEP_S)
    at_w, next_w = day.gpu_power_w[:, step], day.gpu_power_w[:, step + 1]
    counter_j = total_j[:, step] - base_j[:, step] + at_w * rest + (next_w - at_w) * rest**2 / (2 * STEP_S)
    return np.asarray(counter_j, dtype=np.float64), np.asarray(total_j[:, -1] - base_j[:, -1])


def gpu_log(
    plan: FleetPlan, task: NodeTask, sensors: Sensors, day: power.NodeDay, number: int, start_j: Array
) -> tuple[Log, Array, list[FaultRecord]]:
    """The scrapes of one day while the node is on, the joule counters at its end, and the resets injected."""
    hardware = task.hardware
    seconds = np.arange(sensors.gpu_offset_s, DAY_S, plan.gpu_period_s)
    seconds = seconds[_awake(day, seconds)]
    midnight = plan.start_epoch_s + number * DAY_S
    name = f"prom/{task.node_id}-{plan.dates[number]}.prom.gz"
    wanted = [fault for fault in task.injections.get(number, []) if fault.kind is Fault.COUNTER_RESETS]
    resets_s = [
        fault.from_s for fault in wanted if (seconds < fault.from_s).any() and (seconds >= fault.from_s).any()
    ]
    counter_j, end_j = gpu_counters(day, seconds, resets_s, start_j)
    utilisation = sampled(day.gpu, seconds)
    clock_range_mhz = hardware.gpu_max_mhz - hardware.gpu_idle_mhz
    clock_mhz = hardware.gpu_idle_mhz + clock_range_mhz * np.minimum(4 * utilisation, 1.0)
    metrics = {
        "DCGM_FI_DEV_SM_CLOCK": np.rint(clock_mhz / 15) * 15,
        "DCGM_FI_DEV_GPU_TEMP": sampled(day.gpu_temp_c, seconds),
        "DCGM_FI_DEV_POWER_USAGE": sampled(day.gpu_power_w, seconds),
        "DCGM_FI_DEV_POWER_MGMT_LIMIT": np.full_like(utilisation, hardware.gpu_rated_w),
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": np.floor(counter_j * 1000.0),
        # A board in MIG mode has no utilisation of its own, its instances have.
        formats.INSTANCE_METRIC if hardware.mig_instances else "DCGM_FI_DEV_GPU_UTIL": (
            sampled(day.unit, seconds) if hardware.mig_instances else utilisation * 100.0
        ),
    }
    if hardware.layout == "idrac":  # Its controller does not tell the parts of the host: Kepler does.
        metrics[formats.HOST_METRIC] = np.stack(
            [sampled(day.cpu_power_w, seconds), sampled(day.dram_power_w, seconds)]
        )
    stamps_ms = ((seconds + midnight) * 1000).tolist()
    snapshots = formats.exposition_snapshots(task.node_id, hardware, metrics, stamps_ms)
    log = Log(
        name,
        task.node_id,
        midnight,
        formats.exposition_head(metrics),
        snapshots,
        seconds.tolist(),
        stamp_lines=0,
    )
    gpus = hardware.gpu_count
    records = [
        FaultRecord(Fault.COUNTER_RESETS, name, task.node_id, midnight + at, midnight + at, gpus, gpus)
        for at in resets_s
    ]
    return log, end_j, records
