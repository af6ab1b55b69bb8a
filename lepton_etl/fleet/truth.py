"""The truth beside the logs: Parquet tables of what every node, GPU, job and account really used."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_etl.fleet.attribution import JobShares
from lepton_etl.fleet.facility import Facility
from lepton_etl.fleet.jobs import Assignment, Job, OffWindow, Schedule
from lepton_etl.fleet.node import NodeTruth
from lepton_etl.fleet.plan import DAY_S, INTERVAL_S, STEP_S, ClusterPlan, FleetPlan

MICROSECONDS: Final = 1_000_000
WATT_MINUTES_PER_KWH: Final = 60_000.0
ROW_GROUP_ROWS: Final = 100_000

_TIME: Final = pa.timestamp("us", tz="UTC")
_TEXT: Final = pa.string()
_KWH: Final = pa.float64()
_COUNT: Final = pa.int64()
SCHEMAS: Final = {
    "node_interval": pa.schema(
        [("node_id", _TEXT), ("cluster_id", _TEXT), ("interval_start", _TIME), ("energy_kwh", _KWH)]
    ),
    "gpu_hour": pa.schema(
        [
            ("node_id", _TEXT), ("cluster_id", _TEXT), ("device_id", _TEXT), ("hour_start", _TIME),
            ("energy_kwh", _KWH),
        ]
    ),
    "node_state": pa.schema(
        [
            ("node_id", _TEXT), ("cluster_id", _TEXT), ("state", _TEXT), ("from_time", _TIME),
            ("to_time", _TIME),
        ]
    ),
    "job": pa.schema(
        [
            ("job_id", _TEXT), ("tenant_id", _TEXT), ("cluster_id", _TEXT), ("submit_time", _TIME),
            ("start_time", _TIME), ("end_time", _TIME), ("node_count", _COUNT), ("slots_per_node", _COUNT),
            ("gpu_count", _COUNT), ("dynamic_energy_kwh", _KWH), ("static_energy_kwh", _KWH),
            ("energy_kwh", _KWH),
        ]
    ),
    "job_node": pa.schema(
        [
            ("job_id", _TEXT), ("cluster_id", _TEXT), ("node_id", _TEXT), ("start_time", _TIME),
            ("end_time", _TIME), ("slots", _COUNT), ("device_ids", pa.list_(_TEXT)),
        ]
    ),
    "account": pa.schema(
        [("site_id", _TEXT), ("hour_start", _TIME), ("account", _TEXT), ("energy_kwh", _KWH)]
    ),
    "fault": pa.schema(
        [
            ("kind", _TEXT), ("file", _TEXT), ("node_id", _TEXT), ("from_time", _TIME), ("to_time", _TIME),
            ("count", _COUNT), ("records", _COUNT),
        ]
    ),
}  # fmt: skip
ACCOUNTS: Final = ("jobs", "idle", "it_overhead", "conversion_loss", "cooling", "management")


class TruthWriter:
    """Open Parquet files of the truth; node tables are appended as nodes finish, so memory stays bounded."""

    def __init__(self, plan: FleetPlan, folder: Path) -> None:
        self._plan = plan
        self._writers = {
            name: pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd")
            for name, schema in SCHEMAS.items()
        }
        self._pending: dict[str, list[pa.Table]] = {name: [] for name in SCHEMAS}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for table, writer in self._writers.items():
            self._flush(table)
            writer.close()

    def add_node(self, node: NodeTruth) -> None:
        """The intervals, GPU hours and faults of one node."""
        rows = len(node.interval_energy_kwh)
        self._append(
            "node_interval",
            [
                pa.repeat(node.node_id, rows),
                pa.repeat(node.cluster_id, rows),
                self._times(np.arange(rows) * INTERVAL_S),
                node.interval_energy_kwh,
            ],
        )
        hours, gpus = node.gpu_hour_energy_kwh.shape
        if gpus:
            self._append(
                "gpu_hour",
                [
                    pa.repeat(node.node_id, hours * gpus),
                    pa.repeat(node.cluster_id, hours * gpus),
                    [f"gpu{gpu}" for _ in range(hours) for gpu in range(gpus)],
                    self._times(np.repeat(np.arange(hours) * 3600, gpus)),
                    node.gpu_hour_energy_kwh.ravel(),
                ],
            )
        start = self._plan.start_epoch_s
        self._rows(
            "fault",
            [
                (
                    f.kind.value,
                    f"landing/{f.file}",
                    f.node_id,
                    self._stamp(f.from_epoch_s - start),
                    self._stamp(f.to_epoch_s - start),
                    f.count,
                    f.records,
                )
                for f in node.faults
            ],
        )

    def add_states(self, cluster: ClusterPlan, placed: Schedule) -> None:
        """When each node was off, active (held by a job) or idle."""
        for node_id, assignments, off in zip(cluster.node_ids(), placed.assignments, placed.off, strict=True):
            self._rows(
                "node_state",
                [
                    (node_id, cluster.cluster_id, state, self._stamp(start), self._stamp(end))
                    for state, start, end in state_spans(assignments, off, self._plan.days * DAY_S)
                ],
            )

    def add_jobs(self, cluster: ClusterPlan, placed: Schedule, shares: dict[str, JobShares]) -> None:
        """Jobs that ran within the plan, with their energy within it, and where they ran."""
        gpus = cluster.hardware.gpu_count
        inside = [job for job in placed.jobs if job.end_step > 0]
        self._rows("job", [self._job_row(job, gpus, shares.get(job.job_id, JobShares())) for job in inside])
        self._rows(
            "job_node",
            [
                (
                    assignment.job.job_id,
                    cluster.cluster_id,
                    node_id,
                    self._stamp(assignment.job.start_step * STEP_S),
                    self._stamp(assignment.job.end_step * STEP_S),
                    len(assignment.slots),
                    [f"gpu{slot}" for slot in assignment.slots] if gpus else [],
                )
                for node_id, assignments in zip(cluster.node_ids(), placed.assignments, strict=True)
                for assignment in assignments
                if assignment.job.end_step > 0
            ],
        )

    def add_accounts(
        self, site: Facility, jobs_hour_kwh: np.ndarray[tuple[int], np.dtype[np.float64]]
    ) -> None:
        """The site's accounts by hour; `utility` is their sum by construction of the facility."""

        def hourly(minute_w: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
            return list((minute_w.reshape(-1, 60).sum(axis=1) / WATT_MINUTES_PER_KWH).tolist())

        nodes = hourly(site.nodes_w)
        columns = {
            "jobs": jobs_hour_kwh.tolist(),
            "idle": [total - jobs for total, jobs in zip(nodes, jobs_hour_kwh.tolist(), strict=True)],
            "it_overhead": hourly(site.it_overhead_w),
            "conversion_loss": hourly(site.conversion_loss_w),
            "cooling": hourly(site.cooling_w),
            "management": hourly(site.management_w),
            "utility": hourly(site.utility_w),
        }
        self._rows(
            "account",
            [
                (self._plan.site_id, self._stamp(hour * 3600), account, values[hour])
                for hour in range(len(nodes))
                for account, values in columns.items()
            ],
        )

    def _job_row(self, job: Job, gpus: int, share: JobShares) -> tuple[object, ...]:
        return (
            job.job_id,
            job.tenant_id,
            job.cluster_id,
            self._stamp(job.submit_s),
            self._stamp(job.start_step * STEP_S),
            self._stamp(job.end_step * STEP_S),
            job.node_count,
            job.slots_per_node,
            job.node_count * job.slots_per_node if gpus else 0,
            share.dynamic_kwh,
            share.static_kwh,
            share.dynamic_kwh + share.static_kwh,
        )

    def _stamp(self, seconds: float) -> int:
        return (self._plan.start_epoch_s * MICROSECONDS) + round(seconds * MICROSECONDS)

    def _times(self, seconds: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
        return pa.array((seconds + self._plan.start_epoch_s) * MICROSECONDS, type=_TIME)

    def _append(self, table: str, columns: list[object]) -> None:
        schema = SCHEMAS[table]
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
        self._pending[table].append(pa.Table.from_arrays(arrays, schema=schema))
        if sum(part.num_rows for part in self._pending[table]) >= ROW_GROUP_ROWS:
            self._flush(table)

    def _flush(self, table: str) -> None:
        if self._pending[table]:
            self._writers[table].write_table(pa.concat_tables(self._pending[table]))
            self._pending[table].clear()

    def _rows(self, table: str, rows: list[tuple[object, ...]]) -> None:
        if rows:
            self._append(table, [list(column) for column in zip(*rows, strict=True)])


def state_spans(
    assignments: list[Assignment], off: list[OffWindow], seconds: int
) -> list[tuple[str, int, int]]:
    """(state, from, to) of one node in seconds after the plan's start, without holes: off, active or idle."""
    steps = seconds // STEP_S
    code = np.zeros(steps, dtype=np.int8)
    for assignment in assignments:
        code[max(assignment.job.start_step, 0) : max(assignment.job.end_step, 0)] = 1
    for window in off:
        code[max(window.start_step, 0) : max(window.end_step, 0)] = 2
    edges = [0, *(np.flatnonzero(np.diff(code)) + 1).tolist(), steps]
    names = ("idle", "active", "off")
    return [(names[code[a]], a * STEP_S, b * STEP_S) for a, b in pairwise(edges)]
