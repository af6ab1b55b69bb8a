"""Days of one node -> energy of each job by hour, and of the node's jobs and idle together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from lepton_etl.attribution.facts import Roll
from lepton_etl.attribution.measured import HOURS, energies, holdings
from lepton_etl.attribution.split import Split, split_day

_TIME: Final = pa.timestamp("us", tz="UTC")
_NUMBERS: Final = (
    "dynamic_kwh", "static_kwh", "static_usage_kwh", "static_equal_kwh", "imputed_kwh", "gpu_energy_kwh",
    "idle_gpu_kwh", "reserved_share_ratio", "gpu_held_h", "held_s", "covered_s",
)  # fmt: skip
JOB_HOUR_COLUMNS: Final = (
    "date", "hour_start", "site_id", "cluster_id", "node_id", "job_id", "submit_time", "restart", "tenant_id",
    "outcome", *_NUMBERS, "attribution_basis",
)  # fmt: skip
NODE_SPLIT_COLUMNS: Final = (
    "date", "hour_start", "site_id", "cluster_id", "node_id", "jobs_energy_kwh", "idle_energy_kwh",
)  # fmt: skip
_TYPES: Final = {
    "date": pa.date32(), "hour_start": _TIME, "submit_time": _TIME, "restart": pa.int32(),
    **dict.fromkeys((*_NUMBERS, "jobs_energy_kwh", "idle_energy_kwh"), pa.float64()),
}  # fmt: skip
SCHEMA: Final = pa.schema(
    [(name, _TYPES.get(name, pa.string())) for name in (*JOB_HOUR_COLUMNS, *NODE_SPLIT_COLUMNS[-2:])]
)
"""Rows of jobs (job_id filled) and of nodes (job_id null) in one table, for a kernel gives one."""

INTERVAL_COLUMNS: Final = (
    "cluster_id", "node_id", "device_id", "date", "interval_start", "interval_s", "energy_kwh", "observed_s",
    "gpu_utilisation_ratio", "cpu_utilisation_ratio",
)  # fmt: skip
HOLDING_COLUMNS: Final = (
    "cluster_id", "node_id", "date", "job_id", "submit_time", "restart", "tenant_id", "outcome", "from_time", "to_time",
    "cpu_count", "memory_byte", "gpu_count", "device_ids", "cpu_time_s", "attribution_basis",
)  # fmt: skip


def node_days(intervals: pa.Table, held: pa.Table, nodes: Roll, idle_activity: float) -> pa.Table:
    """SCHEMA rows of one node of one cluster.

    `intervals` has INTERVAL_COLUMNS of silver/interval, and rows of device `imputed` with a node-hour's imputed energy;
    `held` HOLDING_COLUMNS of silver/job_node. Rows of the inventory that no reading speaks of give energy 0 here: their
    node-hours are unknown in gold/node_hour. A node outside the inventory gives nothing.
    """
    frame = pl.DataFrame(intervals.select(list(INTERVAL_COLUMNS)))
    ordered = held.sort_by([(name, "ascending") for name in ("date", "job_id", "submit_time", "restart")])
    rows = ordered.select(list(HOLDING_COLUMNS)).to_pylist()
    days = sorted(set(frame["date"].to_list()) | {row["date"] for row in rows})
    if not days:
        return SCHEMA.empty_table()
    names = intervals if intervals.num_rows else held
    node_id, cluster_id = names["node_id"][0].as_py(), names["cluster_id"][0].as_py()
    tables = []
    for day in days:
        facts = nodes.of(node_id, day, cluster_id)
        if facts is None:
            continue
        measured = energies(frame, day, facts)
        holding = holdings(rows, day, measured)
        split = split_day(measured, holding, facts, idle_activity)
        place = {"site_id": facts.site_id, "cluster_id": cluster_id, "node_id": node_id, "date": day}
        tables += [_job_rows(split, holding.rows, place), _node_rows(split, place)]
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def _hours(day: date) -> list[datetime]:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return [midnight + timedelta(hours=hour) for hour in range(HOURS)]


def _job_rows(split: Split, rows: Sequence[Mapping[str, Any]], place: Mapping[str, Any]) -> pa.Table:
    """The hours in which a job held something, or was charged."""
    jobs, hours = np.nonzero(split.held_s > 0)
    starts = _hours(place["date"])
    values = {name: getattr(split, name)[jobs, hours] for name in _NUMBERS if name != "reserved_share_ratio"}
    values["reserved_share_ratio"] = np.minimum(split.reserved_share[jobs, hours], 1.0)
    said = {
        name: [rows[job][name] for job in jobs.tolist()]
        for name in ("job_id", "submit_time", "restart", "tenant_id", "outcome", "attribution_basis")
    }
    return _table(
        {"hour_start": [starts[hour] for hour in hours.tolist()], **said, **values}, place, len(jobs)
    )


def _node_rows(split: Split, place: Mapping[str, Any]) -> pa.Table:
    jobs_kwh = (split.dynamic_kwh + split.static_kwh).sum(axis=0)
    values = {"jobs_energy_kwh": jobs_kwh, "idle_energy_kwh": split.idle_energy_kwh}
    return _table({"hour_start": _hours(place["date"]), **values}, place, HOURS)


def _table(columns: Mapping[str, Any], place: Mapping[str, Any], rows: int) -> pa.Table:
    return pa.table(
        [
            pa.array(columns[field.name], type=field.type)
            if field.name in columns
            else pa.repeat(pa.scalar(place.get(field.name), type=field.type), rows)
            for field in SCHEMA
        ],
        schema=SCHEMA,
    )
