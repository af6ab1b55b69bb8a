"""Who is behind a node's energy: dynamic shares by component, static shares by what is reserved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_etl.attribution.devices import instance_shares
from lepton_etl.attribution.facts import NodeFacts
from lepton_etl.attribution.measured import Energies, Holdings
from lepton_etl.fields import JOULES_PER_KWH

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GpuShares:
    """Energy of GPU boards by job (J, K), kWh: above idle, at idle, and of boards that did nothing while held."""

    dynamic_kwh: Array
    static_kwh: Array
    idle_kwh: Array
    unheld_kwh: Array  # (K,): above idle, of units that nobody held
    held_gpus: Array  # (J, K): boards held, by slices, times held time over the interval


def over(numerator: Array, denominator: Array) -> Array:
    """Ratio, 0 where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(
        numerator, denominator, out=np.zeros(shape), where=np.broadcast_to(denominator > 0, shape)
    )


def cpu_shares(measured: Energies, held: Holdings, core_count: int | None) -> Array:
    """Share of CPU and memory of each job and interval, (J, K): by CPU time, else by cores, else by held time.

    Jobs without a CPU time (they still run) take, by their cores, what the node's CPU utilisation leaves beside the
    others' time; where that is not known, all holders of the interval go by cores. The shares of an interval sum to 1
    where anybody holds.
    """
    present = held.seconds > 0
    unknown = present & np.isnan(held.cpu_time_s)[:, None]
    time_s = over(np.nan_to_num(held.cpu_time_s), held.seconds.sum(axis=1))[:, None] * held.seconds
    cores = np.nan_to_num(held.cores)[:, None] * held.seconds
    left_s = measured.cpu_utilisation * (core_count or np.nan) * measured.interval_s - time_s.sum(axis=0)
    rest = over(np.where(unknown, cores, 0.0), np.where(unknown, cores, 0.0).sum(axis=0))
    time_s = time_s + rest * np.nan_to_num(np.maximum(left_s, 0.0))
    told = ~unknown.any(axis=0) | ~np.isnan(left_s)
    timed = told & (time_s.sum(axis=0) > 0)
    cored = ~(present & np.isnan(held.cores)[:, None]).any(axis=0) & (cores.sum(axis=0) > 0)
    weight = np.where(timed, time_s, np.where(cored, cores, held.seconds))
    return over(weight, weight.sum(axis=0))


def gpu_shares(measured: Energies, held: Holdings, facts: NodeFacts, idle_activity: float) -> GpuShares:
    """GPU energy by holder: of the board's holder, of MIG instances by slices and activity, else by number.

    What stands above the board's idle power goes to who held it within the interval; the idle part goes by held time.
    Devices that two jobs hold at once are shared by held time. Units that no list names are a pool: its energy goes by
    number of GPUs; to jobs of unknown number by cores; to nobody where no such job is there.
    """
    units, jobs, count = len(measured.units), len(held.rows), measured.count
    unit_s = held.holds @ held.seconds  # (U, K)
    above, idle = _unit_energies(measured, facts, unit_s > 0)
    nothing = np.zeros((jobs, count))
    if not units:
        return GpuShares(nothing, nothing, nothing, np.zeros(count), nothing)
    # Of a device that several hold, each held second counts once; of one, its share of the interval.
    per_s = over(np.ones((1, 1)), np.maximum(unit_s, measured.interval_s))
    of_boards = _slice_shares(measured)[:, None]
    mine = held.holds.T
    dynamic = held.seconds * (mine @ over(above, unit_s))
    static = held.seconds * (mine @ (idle * per_s))
    boards = held.seconds * (mine @ (of_boards * per_s))
    asleep = np.where(measured.activity < idle_activity, 1.0, 0.0)
    idle_kwh = held.seconds * (mine @ (asleep * (over(above, unit_s) + idle * per_s)))
    pool = (unit_s == 0).astype(float)
    key, part = _pool_shares(held, (pool * of_boards).sum(axis=0), measured.interval_s)
    pool_above = (pool * above).sum(axis=0)
    dynamic = dynamic + key * pool_above
    static = static + part * (pool * idle).sum(axis=0)
    boards = boards + part * (pool * of_boards).sum(axis=0)
    return GpuShares(dynamic, static, idle_kwh, np.where(key.sum(axis=0) > 0, 0.0, pool_above), boards)


def reserved_shares(measured: Energies, held: Holdings, facts: NodeFacts, boards: Array) -> Array:
    """Reserved share of the node by job and interval, (J, K), at most 1 together.

    GPUs, cores and memory, each over what the node has, weighted by the components' idle power; where the inventory
    does not say those, by rated power; else by cores alone. A component that a job is not known by is left out for the
    whole day. Overbooked components are shared. Source: definitions of the project, section 5, rule `reservation`.
    """
    time = held.seconds / measured.interval_s
    gpus = len({unit.board_id for unit in measured.units})
    parts: list[tuple[float | None, float | None, Array]] = []
    gpu_known = bool(gpus) and not np.isnan(held.gpu_count).any()
    if gpu_known:
        rated_w = _times(facts.gpu_rated_power_w, gpus)
        parts.append((_times(facts.gpu_idle_power_w, gpus), rated_w, boards / gpus))
    if facts.core_count and not np.isnan(held.cores).any():
        rated_w = _less(facts.rated_power_w, _times(facts.gpu_rated_power_w, gpus) if gpus else 0.0)
        parts.append((facts.cpu_idle_power_w, rated_w, held.cores[:, None] * time / facts.core_count))
    if facts.memory_total_byte and facts.memory_idle_power_w and not np.isnan(held.memory_byte).any():
        parts.append(
            (facts.memory_idle_power_w, 0.0, held.memory_byte[:, None] * time / facts.memory_total_byte)
        )
    for known in (0, 1):
        weights = [part[known] for part in parts]
        if weights and all(weight is not None for weight in weights) and any(weights):
            shares = [
                (float(weight or 0.0), _not_above_one(part[2]))
                for weight, part in zip(weights, parts, strict=True)
            ]
            total = sum(weight for weight, _ in shares)
            return np.asarray(sum(weight / total * share for weight, share in shares))
    return _not_above_one(parts[-1][2]) if parts else np.zeros_like(held.seconds)


def _unit_energies(measured: Energies, facts: NodeFacts, held: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Energy above and at idle of each unit, (U, K), kWh; unmeasured is 0."""
    above = np.zeros((len(measured.units), measured.count))
    idle = np.zeros_like(above)
    idle_kwh = (facts.gpu_idle_power_w or 0.0) * measured.observed_s / JOULES_PER_KWH
    for board, energy in measured.board_kwh.items():
        places = [place for place, unit in enumerate(measured.units) if unit.board_id == board]
        slices = np.array([measured.units[place].slices for place in places], dtype=np.float64)
        known = np.nan_to_num(energy)
        shares = np.ones((1, measured.count))
        if len(places) > 1 or measured.units[places[0]].device_id != board:
            shares = instance_shares(slices, measured.activity[places], held[places])
        board_above = np.maximum(known - idle_kwh, 0.0)
        above[places] = board_above * shares
        # What nobody's activity explains stands with the idle part, which goes by slices.
        rest = known - above[places].sum(axis=0)
        idle[places] = rest * (slices / slices.sum())[:, None]
    return above, idle


def _slice_shares(measured: Energies) -> Array:
    """Each unit's part of its board, (U,)."""
    total: dict[str, int] = {}
    for unit in measured.units:
        total[unit.board_id] = total.get(unit.board_id, 0) + unit.slices
    return np.array([unit.slices / total[unit.board_id] for unit in measured.units], dtype=np.float64)


def _pool_shares(held: Holdings, pool_gpus: Array, interval_s: int) -> tuple[Array, Array]:
    """Of the units that no list names: shares of what is above idle, and of what goes by held time, both (J, K).

    By number of GPUs, at most the whole pool; jobs whose number nobody counts share by cores, and all of it.
    """
    counts = np.nan_to_num(held.gpu_count)[:, None] * held.seconds
    uncounted = np.isnan(held.gpu_count)[:, None]
    cores = np.where(uncounted, np.where(np.isnan(held.cores), 1.0, held.cores)[:, None] * held.seconds, 0.0)
    counted = counts.sum(axis=0) > 0
    key = np.where(counted, over(counts, counts.sum(axis=0)), over(cores, cores.sum(axis=0)))
    asked = (counts / interval_s).sum(axis=0)
    part = over(counts / interval_s, np.maximum(asked, pool_gpus))
    present = np.minimum(held.seconds / interval_s * uncounted, 1.0).max(axis=0, initial=0.0)
    part = np.where(counted, part, over(cores, cores.sum(axis=0)) * present)
    return key * (pool_gpus > 0), part * (pool_gpus > 0)


def _not_above_one(shares: Array) -> Array:
    return np.asarray(shares / np.maximum(shares.sum(axis=0), 1.0))


def _times(value: float | None, count: int) -> float | None:
    return None if value is None else value * count


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else max(value - other, 0.0)
