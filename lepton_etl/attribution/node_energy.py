"""Lay out one node's day as arrays over its intervals: energies of node and components, who held what.

Beside its intervals a node is known by its inventory row of the day: powers at idle, and what there is to
share out. A GPU board's energy goes to its MIG instances by their compute slices and activity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from lepton_etl.schema.common import MODELLED_SOURCES


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One inventory row of a node; None where the inventory does not say. Powers in W."""

    site_id: str
    cluster_id: str
    node_id: str
    idle_power_w: float | None = None
    rated_power_w: float | None = None
    gpu_count: int | None = None
    gpu_rated_power_w: float | None = None
    core_count: int | None = None
    memory_total_byte: float | None = None
    cpu_idle_power_w: float | None = None
    memory_idle_power_w: float | None = None
    gpu_idle_power_w: float | None = None


_NAMES = tuple(NodeFacts.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Roll:
    """The inventory by node, asked for a day; plain data that travels to executors."""

    rows: Mapping[str, tuple[tuple[datetime, datetime | None, NodeFacts], ...]]

    def of(self, node_id: str, day: date, cluster_id: str | None = None) -> NodeFacts | None:
        """The newest row of a node that holds on a UTC day, of a cluster where given; None without one."""
        begin = datetime.combine(day, time(), UTC)
        holding = [
            facts
            for valid_from, valid_to, facts in self.rows.get(node_id, ())
            if valid_from < begin + timedelta(days=1) and (valid_to is None or valid_to > begin)
            if cluster_id in (None, facts.cluster_id)
        ]
        return holding[-1] if holding else None


def roll(nodes: pa.Table) -> Roll:
    """silver/node -> Roll; a column that an older table lacks is unknown."""
    rows: dict[str, list[tuple[datetime, datetime | None, NodeFacts]]] = {}
    ordered = sorted(nodes.to_pylist(), key=lambda row: (row["node_id"], row["valid_from"]))
    for row in ordered:
        rows.setdefault(row["node_id"], []).append((row["valid_from"], row["valid_to"], _facts(row)))
    return Roll({node_id: tuple(found) for node_id, found in rows.items()})


def _facts(row: Mapping[str, Any]) -> NodeFacts:
    named: dict[str, Any] = {name: row.get(name) for name in _NAMES}
    return NodeFacts(**named)


Array = NDArray[np.float64]

_BOARD: Final = re.compile(r"gpu(\d+)")
_INSTANCE: Final = re.compile(r"gpu(\d+)_mig(\d+)_(\d+)g\..+")
_NUMBERED: Final = re.compile(r"mig(\d+)")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a job can hold of a node's GPUs: a whole board, or one MIG instance of it with its compute slices."""

    device_id: str
    board_id: str
    slices: int = 1


def units_of(device_ids: Iterable[str], gpu_count: int | None) -> list[Unit]:
    """The units of a node by what was measured of it, in order of board and instance.

    A board with instances is held by instance, any other as a whole. Boards that no sensor names count from 0.
    """
    named = sorted(set(device_ids))
    boards = {found[1]: int(found[1]) for name in named if (found := _BOARD.match(name))}
    numbers = sorted(boards.values()) or list(range(gpu_count or 0))
    instances = [(int(found[1]), int(found[2]), int(found[3]), name)
                 for name in named if (found := _INSTANCE.fullmatch(name))]  # fmt: skip
    cut = {board for board, *_ in instances}
    whole = [(board, 0, 1, f"gpu{board}") for board in numbers if board not in cut]
    return [Unit(name, f"gpu{board}", slices) for board, _, slices, name in sorted(instances + whole)]


def held_units(device_ids: Sequence[str] | None, units: Sequence[Unit]) -> list[int] | None:
    """The places in `units` of the devices that a job names; None where one of them is not on the node.

    `gpu2` is a board with all its instances, `mig5` the sixth instance of the node: Slurm numbers them through in
    order of board and instance.
    """
    if not device_ids:
        return None
    instances = [place for place, unit in enumerate(units) if unit.device_id != unit.board_id]
    places: list[int] = []
    for name in device_ids:
        numbered = _NUMBERED.fullmatch(name)
        if numbered:
            found = instances[int(numbered[1]) : int(numbered[1]) + 1]
        else:
            found = [place for place, unit in enumerate(units) if name in (unit.device_id, unit.board_id)]
        if not found:
            return None
        places += found
    return sorted(set(places))


def instance_shares(slices: Array, activity: Array, held: NDArray[np.bool_]) -> Array:
    """Share of a board's energy above idle of each of its instances, shape (instances, intervals).

    slices (instances,), activity (instances, intervals; NaN: unknown), held likewise. Share = slices x activity over
    its sum; where nothing is active or known, by slices over the instances that are held, and 0 where none is.
    Source: CEEMS, recording rules for NVIDIA DCGM: board power x SMs x activity / sum(SMs x activity), and SMs over
    those in use without profiling metrics.
    """
    weight = slices[:, None] * np.nan_to_num(activity)
    weight = np.where(
        np.isnan(activity).any(axis=0) | (weight.sum(axis=0) <= 0), slices[:, None] * held, weight
    )
    total = weight.sum(axis=0)
    return np.asarray(np.divide(weight, total, out=np.zeros_like(weight), where=total > 0))


DAY_S: Final = 86_400
HOURS: Final = 24
MICROSECONDS: Final = 1_000_000
SHARED_GPUS: Final = "gpu"
IMPUTED: Final = "imputed"
"""Device of the rows that carry a node-hour's imputed energy beside its intervals."""
DEFAULT_INTERVAL_S: Final = 300


@dataclass(frozen=True, slots=True)
class Energies:
    """Energies in kWh by interval, shape (K,) or (devices, K); NaN is unmeasured. Seconds observed of the node."""

    interval_s: int
    node_kwh: Array
    modelled: NDArray[np.bool_]  # where node_kwh is
    observed_s: Array
    cpu_kwh: Array
    memory_kwh: Array
    cpu_utilisation: Array
    units: tuple[Unit, ...]
    board_kwh: Mapping[str, Array]
    activity: Array  # of each unit
    imputed_kwh: Array  # by hour

    @property
    def count(self) -> int:
        """Intervals of the day."""
        return DAY_S // self.interval_s

    def by_hour(self, values: Array) -> Array:
        """Sums over the last axis, from intervals to the 24 hours."""
        return np.asarray(values.reshape(*values.shape[:-1], HOURS, self.count // HOURS).sum(axis=-1))


@dataclass(frozen=True, slots=True)
class Holdings:
    """What J jobs held: seconds by interval (J, K), cores, memory, units (U, J) or a number of GPUs; NaN is unknown."""

    rows: tuple[Mapping[str, Any], ...]
    seconds: Array
    cores: Array
    memory_byte: Array
    cpu_time_s: Array
    gpu_count: Array  # of jobs that name no device of the node; NaN: unknown
    holds: NDArray[np.bool_]  # (U, J)
    by_device: NDArray[np.bool_]  # (J,)


def energies(intervals: pl.DataFrame, day: date, facts: NodeFacts) -> Energies:
    """The day's silver/interval rows of one node (with rows of device IMPUTED) as arrays."""
    own = intervals.filter(pl.col("date") == day)
    timed = own.filter(pl.col("device_id") != IMPUTED)
    interval_s = int(timed["interval_s"][0]) if timed.height else DEFAULT_INTERVAL_S
    midnight_us = int(np.datetime64(day, "us").astype(np.int64))
    place = (timed["interval_start"].dt.epoch("us").to_numpy() - midnight_us) // (interval_s * MICROSECONDS)
    names = timed["device_id"].to_numpy()

    def series(device_id: str, column: str) -> Array:
        values = np.full(DAY_S // interval_s, np.nan)
        rows = names == device_id
        values[place[rows]] = timed[column].cast(pl.Float64).fill_null(np.nan).to_numpy()[rows]
        return values

    def component(stem: str) -> Array:
        """The component as a whole, else the sum of its numbered parts."""
        parts = [
            name
            for name in set(names.tolist())
            if name.removeprefix(stem).isdecimal() and name.startswith(stem)
        ]
        whole = series(stem, "energy_kwh")
        summed = np.sum([series(name, "energy_kwh") for name in sorted(parts)], axis=0) if parts else whole
        return np.where(np.isnan(whole), summed, whole)

    node_kwh = series("node", "energy_kwh")
    is_modelled = (
        (timed["energy_source"].is_in(MODELLED_SOURCES) & (timed["device_id"] == "node"))
        .fill_null(value=False)
        .to_numpy()
    )
    modelled = np.zeros(len(node_kwh), dtype=np.bool_)
    modelled[place[is_modelled]] = True
    observed_s = np.where(np.isnan(node_kwh), 0.0, np.nan_to_num(series("node", "observed_s")))
    units = tuple(units_of(names.tolist(), facts.gpu_count))
    boards = sorted({unit.board_id for unit in units})
    shared = series(SHARED_GPUS, "energy_kwh") / max(1, len(boards))
    single = {board: series(board, "energy_kwh") for board in boards}
    activity = [series(unit.device_id, "gpu_utilisation_ratio") for unit in units]
    return Energies(
        interval_s=interval_s,
        node_kwh=np.nan_to_num(node_kwh),
        modelled=modelled,
        observed_s=np.minimum(observed_s, interval_s),
        cpu_kwh=component("cpu"),
        memory_kwh=component("dram"),
        cpu_utilisation=series("node", "cpu_utilisation_ratio"),
        units=units,
        board_kwh={board: np.where(np.isnan(values), shared, values) for board, values in single.items()},
        activity=np.array(activity).reshape(len(units), DAY_S // interval_s),
        imputed_kwh=_imputed(own, midnight_us),
    )


def _imputed(own: pl.DataFrame, midnight_us: int) -> Array:
    rows = own.filter((pl.col("device_id") == IMPUTED) & pl.col("energy_kwh").is_not_null())
    hours = np.zeros(HOURS)
    place = (rows["interval_start"].dt.epoch("us").to_numpy() - midnight_us) // (3600 * MICROSECONDS)
    np.add.at(hours, place, rows["energy_kwh"].to_numpy())
    return hours


def holdings(held: Sequence[Mapping[str, Any]], day: date, measured: Energies) -> Holdings:
    """The silver/job_node rows of the day and node as arrays, in the order given."""
    rows = tuple(row for row in held if row["date"] == day)
    begin = int(np.datetime64(day, "us").astype(np.int64)) / MICROSECONDS
    edges = begin + np.arange(measured.count + 1) * float(measured.interval_s)
    start, end = (
        np.array([row[name].timestamp() for row in rows], dtype=np.float64)
        for name in ("from_time", "to_time")
    )
    overlap = np.minimum(end[:, None], edges[1:]) - np.maximum(start[:, None], edges[:-1])
    named = [held_units(row["device_ids"], measured.units) for row in rows]
    holds = np.zeros((len(measured.units), len(rows)), dtype=bool)
    for job, places in enumerate(named):
        holds[places or [], job] = True
    # A list with a device that is not on the node still says how many.
    counts = [len(row["device_ids"]) if row["device_ids"] else row["gpu_count"] for row in rows]
    return Holdings(
        rows=rows,
        seconds=np.maximum(overlap, 0.0).reshape(len(rows), measured.count),
        cores=_numbers(row["cpu_count"] for row in rows),
        memory_byte=_numbers(row["memory_byte"] for row in rows),
        cpu_time_s=_numbers(row["cpu_time_s"] for row in rows),
        gpu_count=_numbers(
            count if places is None else 0 for count, places in zip(counts, named, strict=True)
        ),
        holds=holds,
        by_device=np.array([places is not None for places in named], dtype=bool),
    )


def _numbers(values: Any) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
