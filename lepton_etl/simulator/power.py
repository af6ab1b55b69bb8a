"""The physics of one node: utilisation -> component powers and temperatures -> AC input power.

Arrays hold one value for each instant of a day's grid, STEP_S apart, both midnights included; between
instants the true power is linear, so that its trapezoid is exact. Pure functions, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.hardware import HardwareClass
from lepton_etl.simulator.plan import STEP_S

Array = NDArray[np.float64]

LEAK_REFERENCE_C: Final = 60.0
LEAK_SCALE_K: Final = 40.0
CPU_LEAK_RATIO: Final = 0.08
GPU_LEAK_RATIO: Final = 0.06
FAN_IDLE_RATIO: Final = 0.3
HOT_FROM_C: Final = 45.0
HOT_SPAN_K: Final = 38.0
LOAD_TAU_S: Final = 25.0
CPU_TAU_S: Final = 60.0
GPU_TAU_S: Final = 45.0
FAN_TAU_S: Final = 40.0


@dataclass(frozen=True, slots=True)
class Traits:
    """What differs between equal nodes: silicon spread (ratios near 1), the rack position's inlet offset."""

    idle_factor: float
    dynamic_factor: float
    inlet_offset_k: float


@dataclass(frozen=True, slots=True)
class Load:
    """What the node is asked to do: target utilisations (ratio), inlet air (degC), switched on or not."""

    cpu: Array
    gpu: Array  # (units, instants)
    inlet_temp_c: Array
    on: NDArray[np.bool_]


@dataclass(slots=True)
class Carry:
    """The state at midnight, handed from one day to the next."""

    cpu: float
    gpu: Array  # (units,)
    cpu_temp_c: float
    gpu_temp_c: Array
    fan_ratio: float


@dataclass(frozen=True, slots=True)
class NodeDay:
    """One node over one day's grid: powers in W, temperatures in degC, the rest ratios."""

    ac_power_w: Array
    dc_power_w: Array
    cpu_power_w: Array
    dram_power_w: Array
    gpu_power_w: Array  # (gpus, instants)
    fan_power_w: Array
    cpu: Array
    gpu: Array
    cpu_temp_c: Array
    gpu_temp_c: Array
    inlet_temp_c: Array
    exhaust_temp_c: Array
    fan_ratio: Array
    on: NDArray[np.bool_]
    cpu_dynamic_w: Array
    gpu_dynamic_w: Array
    unit: Array  # (units, instants): utilisation of each board or MIG instance


def relax(target: Array, tau_s: float, start: Array | float) -> Array:
    """First-order lag of `target` along its last axis, from the value `start` at the first instant.

    y[k] = a y[k-1] + (1-a) target[k], a = exp(-step/tau), as a prefix scan of log2(n) array passes.
    Source: Hillis and Steele, Data parallel algorithms, CACM 29 (1986).
    """
    keep = float(np.exp(-STEP_S / tau_s))
    lagged: Array = (1.0 - keep) * target
    lagged[..., 0] = start
    shift, weight = 1, keep
    while shift < lagged.shape[-1] and weight > 1e-18:
        shifted = lagged.copy()
        shifted[..., shift:] += weight * lagged[..., :-shift]
        lagged, shift, weight = shifted, shift * 2, weight * weight
    return lagged


def activity(utilisation: Array) -> Array:
    """Share of the dynamic power at a utilisation: steeper at low load.

    Source: Fan, Weber and Barroso, Power provisioning for a warehouse-sized computer, ISCA 2007: 2u - u^1.4.
    """
    return np.asarray(2.0 * utilisation - utilisation**1.4, dtype=np.float64)


def leakage(rated_w: float, ratio: float, temp_c: Array) -> Array:
    """Leakage power, W: exponential in the die temperature, doubling about every 28 K.

    Source: the usual exponential fit of subthreshold leakage, e.g. Liao, He and Lepak, IEEE TCAD 24 (2005).
    """
    return np.asarray(rated_w * ratio * np.exp((temp_c - LEAK_REFERENCE_C) / LEAK_SCALE_K), dtype=np.float64)


def psu_loss(dc_power_w: Array, rating_w: float) -> Array:
    """Loss of the supplies together, W: a fixed, a linear and a quadratic part of the load.

    Gives 92.9 % at 20 %, 94.8 % at 50 % and 94.3 % at full load. Source: shape of 80 PLUS test reports.
    """
    load = dc_power_w / rating_w
    return np.asarray(rating_w * (0.010 + 0.020 * load + 0.030 * load**2), dtype=np.float64)


def fan_target(cpu_temp_c: Array, gpu_temp_c: Array) -> Array:
    """Fan speed the controller asks for (ratio of full speed), by the hottest component, degC."""
    hottest = cpu_temp_c if not len(gpu_temp_c) else np.maximum(cpu_temp_c, gpu_temp_c.max(axis=0))
    heat = np.clip((hottest - HOT_FROM_C) / HOT_SPAN_K, 0.0, 1.0)
    return np.asarray(FAN_IDLE_RATIO + (1 - FAN_IDLE_RATIO) * heat, dtype=np.float64)


def _dynamic(hardware: HardwareClass, traits: Traits, cpu: Array, gpu: Array) -> tuple[Array, Array]:
    """Dynamic powers of all sockets and of each GPU, W, without leakage."""
    cpu_w = hardware.sockets * hardware.cpu_dynamic_w * traits.dynamic_factor * activity(cpu)
    room_w = hardware.gpu_rated_w * (1 - GPU_LEAK_RATIO) - hardware.gpu_idle_w
    return cpu_w, room_w * traits.dynamic_factor * activity(gpu)


def _die_targets(
    hardware: HardwareClass, traits: Traits, cpu_dynamic_w: Array, gpu_dynamic_w: Array, inlet_c: Array
) -> tuple[Array, Array]:
    """Steady die temperatures, degC: inlet air, preheating, and thermal resistance times power.

    The leakage that heats the die is taken at the reference temperature, which keeps the recursion linear.
    """
    socket_w = (
        hardware.cpu_idle_w * traits.idle_factor
        + cpu_dynamic_w / hardware.sockets
        + hardware.cpu_dynamic_w * CPU_LEAK_RATIO
    )
    gpu_w = hardware.gpu_idle_w * traits.idle_factor + gpu_dynamic_w + hardware.gpu_rated_w * GPU_LEAK_RATIO
    return inlet_c + 5.0 + hardware.cpu_k_per_w * socket_w, inlet_c + 8.0 + hardware.gpu_k_per_w * gpu_w


def _boards(hardware: HardwareClass, units: Array) -> Array:
    """Utilisation of each board from that of its MIG instances, which are of one size; boards are their own units."""
    if not hardware.mig_instances:
        return units
    return np.asarray(
        units.reshape(hardware.gpu_count, hardware.mig_instances, *units.shape[1:]).mean(axis=1)
    )


def settle(hardware: HardwareClass, traits: Traits, load: Load) -> Carry:
    """The state of a node that has done its first instant's work for long."""
    cpu, units = load.cpu[:1] * load.on[:1], load.gpu[:, :1] * load.on[:1]
    gpu = _boards(hardware, units)
    cpu_dynamic_w, gpu_dynamic_w = _dynamic(hardware, traits, cpu, gpu)
    cpu_c, gpu_c = _die_targets(hardware, traits, cpu_dynamic_w, gpu_dynamic_w, load.inlet_temp_c[:1])
    fan = fan_target(cpu_c, gpu_c)
    return Carry(float(cpu[0]), units[:, 0], float(cpu_c[0]), gpu_c[:, 0], float(fan[0]))


def node_day(hardware: HardwareClass, traits: Traits, load: Load, carry: Carry) -> tuple[NodeDay, Carry]:
    """Run a node over one day's grid from the state of its first midnight; also the state of the next one.

    AC power = base + CPUs + DRAM + GPUs + fans (cube of their speed: affinity law) + supply loss; a node that
    is off draws its standby power alone.
    """
    cpu = np.clip(relax(load.cpu * load.on, LOAD_TAU_S, carry.cpu), 0.0, 1.0)
    units = np.clip(relax(load.gpu * load.on, LOAD_TAU_S, carry.gpu), 0.0, 1.0)
    gpu = _boards(hardware, units)
    cpu_dynamic_w, gpu_dynamic_w = _dynamic(hardware, traits, cpu, gpu)
    cpu_to, gpu_to = _die_targets(hardware, traits, cpu_dynamic_w, gpu_dynamic_w, load.inlet_temp_c)
    cpu_temp_c = relax(np.where(load.on, cpu_to, load.inlet_temp_c), CPU_TAU_S, carry.cpu_temp_c)
    gpu_temp_c = relax(np.where(load.on, gpu_to, load.inlet_temp_c), GPU_TAU_S, carry.gpu_temp_c)
    fan_ratio = relax(fan_target(cpu_temp_c, gpu_temp_c), FAN_TAU_S, carry.fan_ratio)

    cpu_leak_w = leakage(hardware.sockets * hardware.cpu_dynamic_w, CPU_LEAK_RATIO, cpu_temp_c)
    cpu_power_w = hardware.sockets * hardware.cpu_idle_w * traits.idle_factor + cpu_dynamic_w + cpu_leak_w
    gpu_leak_w = leakage(hardware.gpu_rated_w, GPU_LEAK_RATIO, gpu_temp_c)
    gpu_power_w = np.minimum(
        hardware.gpu_idle_w * traits.idle_factor + gpu_dynamic_w + gpu_leak_w, hardware.gpu_rated_w
    )
    dram_power_w = hardware.dram_idle_w + hardware.dram_dynamic_w * cpu
    fan_power_w = hardware.fans_rated_w * fan_ratio**3
    dc_power_w = hardware.base_w + cpu_power_w + dram_power_w + gpu_power_w.sum(axis=0) + fan_power_w
    ac_power_w = dc_power_w + psu_loss(dc_power_w, hardware.psu_count * hardware.psu_rating_w)
    ac_power_w = np.where(load.on, ac_power_w, hardware.standby_w)
    # Air carries the heat away: its warming is power over (flow x heat capacity), flow proportional to speed.
    warming_k = ac_power_w / (hardware.fans_rated_w * 1.1 * np.maximum(fan_ratio, FAN_IDLE_RATIO))
    day = NodeDay(
        ac_power_w=ac_power_w,
        dc_power_w=np.where(load.on, dc_power_w, hardware.standby_w * 0.85),
        cpu_power_w=cpu_power_w * load.on,
        dram_power_w=dram_power_w * load.on,
        gpu_power_w=gpu_power_w * load.on,
        fan_power_w=fan_power_w * load.on,
        cpu=cpu,
        gpu=gpu,
        cpu_temp_c=cpu_temp_c,
        gpu_temp_c=gpu_temp_c,
        inlet_temp_c=load.inlet_temp_c,
        exhaust_temp_c=load.inlet_temp_c + np.minimum(warming_k, 35.0) * load.on,
        fan_ratio=fan_ratio * load.on,
        on=load.on,
        cpu_dynamic_w=cpu_dynamic_w * load.on,
        gpu_dynamic_w=gpu_dynamic_w * load.on,
        unit=units,
    )
    last = Carry(float(cpu[-1]), units[:, -1], float(cpu_temp_c[-1]), gpu_temp_c[:, -1], float(fan_ratio[-1]))
    return day, last


def steady_power_w(hardware: HardwareClass, cpu: float, gpu: float, inlet_temp_c: float) -> float:
    """AC input power of an average node after long at one utilisation (ratios) and inlet temperature, W."""
    return float(_steady(hardware, cpu, gpu, inlet_temp_c).ac_power_w[0])


def _steady(hardware: HardwareClass, cpu: float, gpu: float, inlet_temp_c: float) -> NodeDay:
    instants = 2
    load = Load(
        cpu=np.full(instants, cpu),
        gpu=np.full((hardware.units, instants), gpu),
        inlet_temp_c=np.full(instants, inlet_temp_c),
        on=np.ones(instants, dtype=bool),
    )
    traits = Traits(1.0, 1.0, 0.0)
    return node_day(hardware, traits, load, settle(hardware, traits, load))[0]


def rated_power_w(hardware: HardwareClass) -> float:
    """Nameplate AC power, W: full load at 32 degC inlet (ASHRAE class A1's limit), rounded up to 10 W."""
    return float(np.ceil(steady_power_w(hardware, 1.0, 1.0, 32.0) / 10.0) * 10.0)


def idle_power_w(hardware: HardwareClass) -> float:
    """AC power of the idle node at 22 degC inlet, rounded to 1 W: what the inventory says."""
    return float(round(steady_power_w(hardware, 0.0, 0.0, 22.0)))


def idle_parts_w(hardware: HardwareClass) -> tuple[float, float, float]:
    """Power of all CPUs, of the memory and of one GPU board of the idle node at 22 degC inlet, W, to 0.1 W."""
    idle = _steady(hardware, 0.0, 0.0, 22.0)
    gpu_w = float(idle.gpu_power_w[0, 0]) if hardware.gpu_count else 0.0
    return round(float(idle.cpu_power_w[0]), 1), round(float(idle.dram_power_w[0]), 1), round(gpu_w, 1)
