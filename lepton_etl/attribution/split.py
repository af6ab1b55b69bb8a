"""One node's day: its energy to jobs and idle, by interval and then by hour. Jobs + idle = the node's energy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_etl.attribution.facts import NodeFacts
from lepton_etl.attribution.measured import HOURS, Energies, Holdings
from lepton_etl.attribution.shares import cpu_shares, gpu_shares, over, reserved_shares
from lepton_etl.fields import JOULES_PER_KWH, SECONDS_PER_HOUR

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """Energies in kWh of jobs, (J, 24), and of the node, (24,); shares and seconds likewise."""

    dynamic_kwh: Array
    static_kwh: Array
    static_usage_kwh: Array
    static_equal_kwh: Array
    imputed_kwh: Array
    gpu_energy_kwh: Array
    idle_gpu_kwh: Array
    reserved_share: Array
    gpu_held_h: Array
    held_s: Array
    covered_s: Array
    idle_energy_kwh: Array


@dataclass(frozen=True, slots=True)
class _Parts:
    """The same before the hours are summed: dynamic and three static shares of jobs, and what is nobody's."""

    dynamic: Array
    static: Array
    usage: Array
    equal: Array
    idle: Array


def split_day(measured: Energies, held: Holdings, facts: NodeFacts, idle_activity: float) -> Split:
    """Split a node's measured and imputed energy of a day.

    Per interval: static S = min(E, idle power x observed time), dynamic D = E - S. D goes by component (`gpu_shares`,
    `cpu_shares`), scaled to D; S by what is reserved, its unreserved part to idle. Rules `usage` and `equal` share out
    the reserved part of S among the same jobs otherwise, so idle is the same by every rule. Without an idle power all
    energy is dynamic. Imputed energy of an hour is split alike, D by reservation, over the seconds that nobody saw.
    `idle_activity` is the utilisation below which a held GPU does nothing.
    Source: definitions of the project, section 5.
    """
    gpu = gpu_shares(measured, held, facts, idle_activity)
    reserved = reserved_shares(measured, held, facts, gpu.held_gpus)
    cpu = cpu_shares(measured, held, facts.core_count)
    idle_kwh = (facts.idle_power_w or 0.0) * measured.observed_s / JOULES_PER_KWH
    static = np.minimum(measured.node_kwh, idle_kwh)
    keys, nobody = _dynamic_keys(
        measured, facts, gpu.dynamic_kwh, gpu.unheld_kwh, cpu, measured.node_kwh - static
    )
    seen = _share_out(measured.node_kwh - static, static, keys, nobody, reserved, held.seconds)
    hour = measured.by_hour
    unseen_s = measured.interval_s - measured.observed_s
    filled = _imputed(
        measured, facts, hour(reserved * unseen_s), hour(held.seconds * unseen_s / measured.interval_s)
    )
    imputed = filled.dynamic + filled.static
    observed = hour(held.seconds * measured.observed_s / measured.interval_s)
    held_s = hour(held.seconds)
    return Split(
        dynamic_kwh=hour(seen.dynamic) + filled.dynamic,
        static_kwh=hour(seen.static) + filled.static,
        static_usage_kwh=hour(seen.usage) + filled.usage,
        static_equal_kwh=hour(seen.equal) + filled.equal,
        imputed_kwh=imputed,
        gpu_energy_kwh=hour(gpu.dynamic_kwh + gpu.static_kwh),
        idle_gpu_kwh=hour(np.minimum(gpu.idle_kwh, seen.dynamic + seen.static)),
        reserved_share=hour(reserved) * measured.interval_s / SECONDS_PER_HOUR,
        gpu_held_h=hour(gpu.held_gpus) * measured.interval_s / SECONDS_PER_HOUR,
        held_s=held_s,
        covered_s=np.where(measured.imputed_kwh > 0, held_s, observed),
        idle_energy_kwh=hour(seen.idle) + filled.idle,
    )


def _dynamic_keys(
    measured: Energies, facts: NodeFacts, gpu: Array, unheld: Array, cpu: Array, dynamic: Array
) -> tuple[Array, Array]:
    """Shares of D by job, (J, K), and of nobody, (K,), together 1.

    CPU and memory energy above idle where measured, else what D leaves beside the GPUs. Where no component says
    anything, by CPU shares; where nobody holds anything, D is nobody's.
    """
    spent = gpu.sum(axis=0) + unheld
    host = np.maximum(dynamic - spent, 0.0)
    known = ~np.isnan(measured.cpu_kwh)
    above = _above(measured.cpu_kwh, facts.cpu_idle_power_w, measured) + _above(
        measured.memory_kwh, facts.memory_idle_power_w, measured
    )
    host = np.where(known, above, host)
    weight = gpu + host * cpu
    holders = cpu.sum(axis=0) > 0
    total = weight.sum(axis=0) + np.where(holders, unheld, 0.0)
    keys = np.where(total > 0, over(weight, total), cpu)
    return keys, 1.0 - keys.sum(axis=0)


def _above(energy_kwh: Array, idle_w: float | None, measured: Energies) -> Array:
    return np.maximum(np.nan_to_num(energy_kwh) - (idle_w or 0.0) * measured.observed_s / JOULES_PER_KWH, 0.0)


def _share_out(
    dynamic: Array, static: Array, keys: Array, nobody: Array, reserved: Array, held: Array
) -> _Parts:
    """Dynamic and static energy to jobs by the three rules, and the rest to idle, for any last axis."""
    own = dynamic * keys
    reservation = static * reserved
    pool = reservation.sum(axis=0)
    by_usage = over(own, own.sum(axis=0))
    usage = np.where(own.sum(axis=0) > 0, pool * by_usage, reservation)
    equal = np.where(held.sum(axis=0) > 0, pool * over(held, held.sum(axis=0)), reservation)
    idle = dynamic * nobody + (static - pool)
    return _Parts(own, reservation, usage, equal, np.maximum(idle, 0.0))


def _imputed(measured: Energies, facts: NodeFacts, reserved_s: Array, held_s: Array) -> _Parts:
    """Imputed energy of the hours, split over their unseen seconds; `reserved_s` and `held_s` are (J, 24)."""
    energy, unseen_s = measured.imputed_kwh, measured.by_hour(_unseen_s(measured))
    static = np.minimum(energy, (facts.idle_power_w or 0.0) * unseen_s / JOULES_PER_KWH)
    total = reserved_s.sum(axis=0)
    keys = np.where(total > 0, over(reserved_s, total), over(held_s, held_s.sum(axis=0)))
    return _share_out(
        energy - static, static, keys, 1.0 - keys.sum(axis=0), over(reserved_s, unseen_s), held_s
    )


def _unseen_s(measured: Energies) -> Array:
    """Seconds of each interval that imputed energy stands for; of an hour that was seen throughout, all of them."""
    unseen = measured.interval_s - measured.observed_s
    of_hour = np.repeat(measured.by_hour(unseen), measured.count // HOURS)
    return np.where(of_hour > 0, unseen, float(measured.interval_s))
