"""The truth beside the logs: Parquet tables of what every node, GPU, job and account really used."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lepton_etl.simulator.attribution import JobShares
from lepton_etl.simulator.facility import Facility
from lepton_etl.simulator.faults import FaultRecord
from lepton_etl.simulator.jobs import Assignment, Job, OffWindow, Schedule
from lepton_etl.simulator.node import NodeTruth
from lepton_etl.simulator.on_site import Supply
from lepton_etl.simulator.plan import DAY_S, INTERVAL_S, STEP_S, ClusterPlan, FleetPlan

Array = NDArray[np.float64]

MICROSECONDS: Final = 1_000_000
WATT_MINUTES_PER_KWH: Final = 60_000.0
ROW_GROUP_ROWS: Final = 100_000

_TIME: Final = pa.timestamp("us", tz="UTC")
_TEXT: Final = pa.string()
_KWH: Final = pa.float64()
_LITRES: Final = pa.float64()
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
            ("energy_kwh", _KWH), ("restart", _COUNT), ("outcome", _TEXT),
        ]
    ),
    "job_node": pa.schema(
        [
            ("job_id", _TEXT), ("cluster_id", _TEXT), ("node_id", _TEXT), ("start_time", _TIME),
            ("end_time", _TIME), ("slots", _COUNT), ("device_ids", pa.list_(_TEXT)), ("restart", _COUNT),
        ]
    ),
    "account": pa.schema(
        [("site_id", _TEXT), ("hour_start", _TIME), ("account", _TEXT), ("energy_kwh", _KWH)]
    ),
    "plant_hour": pa.schema(
        [("site_id", _TEXT), ("hour_start", _TIME), ("heat_kwh", _KWH), ("water_l", _LITRES),
         ("fuel_l", _LITRES)]
    ),
    "fault": pa.schema(
        [
            ("kind", _TEXT), ("file", _TEXT), ("node_id", _TEXT), ("from_time", _TIME), ("to_time", _TIME),
            ("count", _COUNT), ("records", _COUNT),
        ]
    ),
}  # fmt: skip
ACCOUNTS: Final = (
    "jobs", "idle", "chassis_shared", "data_transfer", "it_overhead", "conversion_loss", "cooling", "management",
    "unattributed",
)  # fmt: skip
# Energy that crosses the site's boundary; export and battery_in leave it. The sum is that of the accounts.
SOURCES: Final = {
    "utility": 1, "pv": 1, "generator": 1, "battery_out": 1, "export": -1, "battery_in": -1,
}  # fmt: skip


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
        self.add_faults(node.faults)

    def add_faults(self, faults: list[FaultRecord]) -> None:
        """What was done to files of nodes or meters."""
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
                for f in faults
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
        gpus, unit = cluster.hardware.gpu_count, "mig" if cluster.hardware.mig_instances else "gpu"
        inside = [job for job in placed.jobs if job.end_step > 0]
        self._rows("job", [self._job_row(job, gpus, shares.get(job.run_id, JobShares())) for job in inside])
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
                    [f"{unit}{slot}" for slot in assignment.slots] if gpus else [],
                    assignment.job.restart,
                )
                for node_id, assignments in zip(cluster.node_ids(), placed.assignments, strict=True)
                for assignment in assignments
                if assignment.job.end_step > 0
            ],
        )

    def add_accounts(self, site: Facility, supplied: Supply, jobs_hour_kwh: Array) -> None:
        """The site's accounts and sources by hour; they agree by construction of the facility.

        No chassis has equipment of its own here and every node-second has an owner, so those accounts are 0.
        """
        nodes = _hourly_kwh(site.nodes_w)
        columns = {
            "jobs": jobs_hour_kwh,
            # All of a full hour is the jobs'; the difference of two sums may then fall below nothing.
            "idle": np.maximum(nodes - jobs_hour_kwh, 0.0),
            "chassis_shared": np.zeros(len(nodes)),
            "data_transfer": _hourly_kwh(site.network_w),
            "it_overhead": _hourly_kwh(site.storage_w),
            "conversion_loss": _hourly_kwh(site.conversion_loss_w),
            "cooling": _hourly_kwh(site.cooling_w),
            "management": _hourly_kwh(site.management_w),
            "unattributed": np.zeros(len(nodes)),
            **{source: _hourly_kwh(getattr(supplied, f"{source}_w")) for source in SOURCES},
        }
        hours, site_id = np.arange(len(nodes)) * 3600, self._plan.site_id
        self._append(
            "account",
            [
                pa.repeat(site_id, len(hours) * len(columns)),
                self._times(np.repeat(hours, len(columns))),
                list(columns) * len(hours),
                np.column_stack(list(columns.values())).ravel(),
            ],
        )
        self._append(
            "plant_hour",
            [
                pa.repeat(site_id, len(hours)),
                self._times(hours),
                _hourly_kwh(site.heat_w),
                site.make_up_l.reshape(-1, 60).sum(axis=1),
                supplied.fuel_l.reshape(-1, 60).sum(axis=1),
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
            job.restart,
            job.outcome,
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


def _hourly_kwh(minute_w: Array) -> Array:
    return np.asarray(minute_w.reshape(-1, 60).sum(axis=1) / WATT_MINUTES_PER_KWH, dtype=np.float64)


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
