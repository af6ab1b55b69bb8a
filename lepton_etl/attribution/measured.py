"""One node's day as arrays over its intervals: energies of the node and its components, and who held what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.attribution.devices import Unit, held_units, units_of
from lepton_etl.attribution.facts import NodeFacts

Array = NDArray[np.float64]

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
    observed_s = np.where(np.isnan(node_kwh), 0.0, np.nan_to_num(series("node", "observed_s")))
    units = tuple(units_of(names.tolist(), facts.gpu_count))
    boards = sorted({unit.board_id for unit in units})
    shared = series(SHARED_GPUS, "energy_kwh") / max(1, len(boards))
    single = {board: series(board, "energy_kwh") for board in boards}
    activity = [series(unit.device_id, "gpu_utilisation_ratio") for unit in units]
    return Energies(
        interval_s=interval_s,
        node_kwh=np.nan_to_num(node_kwh),
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
