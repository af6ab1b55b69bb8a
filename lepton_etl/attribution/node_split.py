"""Split the energy of nodes among jobs and idle, by hour; jobs and idle together are the node's energy.

Each interval of a day is shared out and then summed to hours: dynamic energy by component to whoever used it,
static energy by what is reserved. Imputed energy is shared over the seconds that it stands for.
Source: docs/definitions.md section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.attribution.node_energy import (
    HOURS,
    IMPUTED,
    Energies,
    Holdings,
    NodeFacts,
    Roll,
    energies,
    holdings,
    instance_shares,
)
from lepton_etl.schema.declare import JOULES_PER_KWH, SECONDS_PER_HOUR

Array = NDArray[np.float64]
Columns = Mapping[str, Sequence[Any] | Array]


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
    whole day. Overbooked components are shared. Source: docs/definitions.md section 5, rule `reservation`.
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


@dataclass(frozen=True, slots=True)
class Split:
    """Energies in kWh of jobs, (J, 24), and of the node, (24,); shares and seconds likewise. NaN is unknown."""

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
    energy is dynamic, and how much of it is idle is not known (`idle_is_known` of a node-hour). Imputed energy of an
    hour is split alike, D by reservation, over the seconds that nobody saw.
    `imputed_kwh` holds the energy of modelled intervals too: a job on such a node is not measured.
    `idle_activity` is the utilisation below which a held GPU does nothing.
    Source: docs/definitions.md section 5.
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
    imputed = filled.dynamic + filled.static + hour((seen.dynamic + seen.static) * measured.modelled)
    observed = hour(held.seconds * measured.observed_s / measured.interval_s)
    held_s = hour(held.seconds)
    return Split(
        dynamic_kwh=hour(seen.dynamic) + filled.dynamic,
        static_kwh=hour(seen.static) + filled.static,
        static_usage_kwh=hour(seen.usage) + filled.usage,
        static_equal_kwh=hour(seen.equal) + filled.equal,
        imputed_kwh=imputed,
        gpu_energy_kwh=np.where(
            _unread_boards(measured, held), np.nan, hour(gpu.dynamic_kwh + gpu.static_kwh)
        ),
        idle_gpu_kwh=np.where(
            _without_activity(measured, held),
            np.nan,
            hour(np.minimum(gpu.idle_kwh, seen.dynamic + seen.static)),
        ),
        reserved_share=hour(reserved) * measured.interval_s / SECONDS_PER_HOUR,
        gpu_held_h=hour(gpu.held_gpus) * measured.interval_s / SECONDS_PER_HOUR,
        held_s=held_s,
        covered_s=np.where(measured.imputed_kwh > 0, held_s, observed),
        idle_energy_kwh=hour(seen.idle) + filled.idle,
    )


def _unread_boards(measured: Energies, held: Holdings) -> NDArray[np.bool_]:
    """Hours (J, 24) of jobs with GPUs in which no board of the node was read."""
    read = sum((~np.isnan(energy) for energy in measured.board_kwh.values()), np.zeros(measured.count))
    return np.asarray(_with_gpus(held)[:, None] & (measured.by_hour(read) == 0))


def _without_activity(measured: Energies, held: Holdings) -> NDArray[np.bool_]:
    """Hours (J, 24) of jobs with GPUs in which nothing says whether any board of the node worked."""
    told = (~np.isnan(measured.activity)).sum(axis=0).astype(float)
    return np.asarray(_with_gpus(held)[:, None] & (measured.by_hour(told) == 0))


def _with_gpus(held: Holdings) -> NDArray[np.bool_]:
    """Jobs (J,) that hold GPUs."""
    return np.asarray(held.holds.any(axis=0) | (np.nan_to_num(held.gpu_count) > 0))


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


_TIME: Final = pl.Datetime("us", "UTC")
_NUMBERS: Final = (
    "dynamic_kwh", "static_kwh", "static_usage_kwh", "static_equal_kwh", "imputed_kwh", "gpu_energy_kwh",
    "idle_gpu_kwh", "reserved_share_ratio", "gpu_held_h", "held_s", "covered_s",
)  # fmt: skip
JOB_HOUR_COLUMNS: Final = (
    "date", "hour_start", "site_id", "cluster_id", "node_id", "job_id", "submit_time", "restart", "tenant_id",
    "outcome", *_NUMBERS, "attribution_basis",
)  # fmt: skip
NODE_SPLIT_COLUMNS: Final = (
    "date", "hour_start", "site_id", "cluster_id", "node_id", "jobs_energy_kwh", "idle_energy_kwh", "idle_is_known",
)  # fmt: skip
_TYPES: Final[dict[str, pl.DataType]] = {
    "date": pl.Date(), "hour_start": _TIME, "submit_time": _TIME, "restart": pl.Int32(),
    **dict.fromkeys((*_NUMBERS, "jobs_energy_kwh", "idle_energy_kwh"), pl.Float64()), "idle_is_known": pl.Boolean(),
}  # fmt: skip

INTERVAL_COLUMNS: Final = (
    "cluster_id", "node_id", "device_id", "date", "interval_start", "interval_s", "energy_kwh", "observed_s",
    "gpu_utilisation_ratio", "cpu_utilisation_ratio", "energy_source",
)  # fmt: skip
HOLDING_COLUMNS: Final = (
    "cluster_id", "node_id", "date", "job_id", "submit_time", "restart", "tenant_id", "outcome", "from_time", "to_time",
    "cpu_count", "memory_byte", "gpu_count", "device_ids", "cpu_time_s", "attribution_basis",
)  # fmt: skip


def split_nodes(
    intervals: pl.DataFrame, imputed: pl.DataFrame, held: pl.DataFrame, nodes: Roll, idle_activity: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split the energy of nodes: rows of jobs (JOB_HOUR_COLUMNS) and of node-hours (NODE_SPLIT_COLUMNS).

    intervals, held: rows of silver/interval and silver/job_node of clusters with accounting; imputed: their rows of
    gold/node_hour, whose imputed energy is split by what was held while it was unseen. Jobs + idle = measured +
    imputed energy of the node.
    """
    key = ["cluster_id", "node_id"]
    filled = imputed.filter(pl.col("it_energy_imputed_kwh") > 0).select(
        *key, pl.lit(IMPUTED).alias("device_id"), "date", pl.col("hour_start").alias("interval_start"),
        pl.lit(3600, intervals.schema["interval_s"]).alias("interval_s"),
        pl.col("it_energy_imputed_kwh").alias("energy_kwh"), pl.col("imputed_s").alias("observed_s"),
    )  # fmt: skip
    rows = pl.concat([intervals.select(INTERVAL_COLUMNS), filled], how="diagonal")
    of_node, held_of = (
        frame.partition_by(key, as_dict=True) for frame in (rows, held.select(HOLDING_COLUMNS))
    )
    days = [
        day
        for node in sorted(of_node.keys() | held_of.keys())
        for day in _days_of(
            of_node.get(node, rows.clear()), held_of.get(node, held.clear()), nodes, idle_activity
        )
    ]
    return _frames(days)


def _days_of(
    intervals: pl.DataFrame, held: pl.DataFrame, nodes: Roll, idle_activity: float
) -> list[tuple[Columns, Columns]]:
    """The columns of the rows of jobs and of the node, of each UTC day of one node."""
    rows = held.sort("date", "job_id", "submit_time", "restart").to_dicts()
    names = intervals if intervals.height else held
    found = []
    for day in sorted(set(intervals["date"].unique()) | {row["date"] for row in rows}):
        node_id, cluster_id = names["node_id"][0], names["cluster_id"][0]
        facts = nodes.of(node_id, day, cluster_id)
        if facts is None:
            continue
        measured = energies(intervals, day, facts)
        holding = holdings(rows, day, measured)
        split = split_day(measured, holding, facts, idle_activity)
        place = {"site_id": facts.site_id, "cluster_id": cluster_id, "node_id": node_id, "date": day}
        found.append((_of_jobs(split, holding.rows, place), _of_node(split, place, facts)))
    return found


def _hours(day: date) -> list[datetime]:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return [midnight + timedelta(hours=hour) for hour in range(HOURS)]


def _of_jobs(split: Split, rows: Sequence[Mapping[str, Any]], place: Mapping[str, Any]) -> Columns:
    """The hours in which a job held something, or was charged."""
    jobs, hours = np.nonzero(split.held_s > 0)
    starts = _hours(place["date"])
    values = {name: getattr(split, name)[jobs, hours] for name in _NUMBERS if name != "reserved_share_ratio"}
    values["reserved_share_ratio"] = np.minimum(split.reserved_share[jobs, hours], 1.0)
    of_job = {
        name: [rows[job][name] for job in jobs.tolist()]
        for name in ("job_id", "submit_time", "restart", "tenant_id", "outcome", "attribution_basis")
    }
    placed = {name: [value] * len(jobs) for name, value in place.items()}
    return {"hour_start": [starts[hour] for hour in hours.tolist()], **placed, **of_job, **values}


def _of_node(split: Split, place: Mapping[str, Any], facts: NodeFacts) -> Columns:
    """The hours of the node; beside a job what is idle is known only where the inventory has an idle power."""
    is_known = (split.held_s.sum(axis=0) == 0) | (facts.idle_power_w is not None)
    jobs_kwh = (split.dynamic_kwh + split.static_kwh).sum(axis=0)
    placed = {name: [value] * HOURS for name, value in place.items()}
    values = {
        "jobs_energy_kwh": jobs_kwh, "idle_energy_kwh": split.idle_energy_kwh, "idle_is_known": is_known
    }  # fmt: skip
    return {"hour_start": _hours(place["date"]), **placed, **values}


def _frames(days: Sequence[tuple[Columns, Columns]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of jobs and rows of node-hours, made once for all nodes: a frame a node would cost more than its split."""
    return (
        _frame([jobs for jobs, _ in days], JOB_HOUR_COLUMNS).with_columns(
            pl.col("gpu_energy_kwh", "idle_gpu_kwh").fill_nan(None)
        ),
        _frame([node for _, node in days], NODE_SPLIT_COLUMNS),
    )


def _frame(parts: Sequence[Columns], names: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            pl.Series(
                name, list(chain.from_iterable(part[name] for part in parts)), _TYPES.get(name, pl.String())
            )
            for name in names
        ]
    )
