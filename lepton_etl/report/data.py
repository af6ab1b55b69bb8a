"""What the report is made from: small tables, already aggregated, in the order the page shows them.

Every table is a pyarrow table whose columns stand below; an unknown value is null. The pipeline gathers
them from the lake (lepton_etl/report/gather.py); tests make them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pyarrow as pa

from lepton_etl.days import Days
from lepton_etl.fields import FIELDS, JOULES_PER_KWH
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables import CLUSTER_DAY
from lepton_etl.lake.tables.accounts import ENERGY_LEDGER
from lepton_etl.lake.tables.advice import RECOMMENDATION, SAVING
from lepton_etl.lake.tables.diagnosis import ANOMALY
from lepton_etl.lake.tables.jobs import TENANT_DAY

_ARROW: Final[Mapping[str, pa.DataType]] = {
    "string": pa.string(), "double": pa.float64(), "int": pa.int32(), "bigint": pa.int64(),
    "boolean": pa.bool_(), "timestamp": pa.timestamp("us", "UTC"), "date": pa.date32(),
}  # fmt: skip


def _dictionary_schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([(name, _ARROW[FIELDS[name].type]) for name in columns])


_TIME: Final = pa.timestamp("us", "UTC")

CLUSTER_DAY_SCHEMA: Final = _dictionary_schema(CLUSTER_DAY.columns)
CLUSTER_HOUR_SCHEMA: Final = _dictionary_schema((
    "cluster_id", "hour_start", "it_energy_kwh", "it_energy_lower_kwh", "it_energy_upper_kwh",
    "gpu_energy_kwh", "facility_energy_kwh", "emissions_location_kgco2e", "emissions_missing_kwh",
))  # fmt: skip
POINT_SCHEMA: Final = pa.schema([
    ("subject", pa.string()),  # 'node' or 'GPU'
    ("node_id", pa.string()),
    ("device_id", pa.string()),
    ("hardware_class", pa.string()),
    ("hour_start", _TIME),
    ("power_w", pa.float64()),
    ("load_kind", pa.string()),  # 'CPU utilisation' or 'GPU utilisation', null without a reading
    ("load_ratio", pa.float64()),
    ("temperature_kind", pa.string()),  # 'Inlet temperature' or 'GPU temperature', null without a reading
    ("temperature_c", pa.float64()),
])  # fmt: skip
COVERAGE_SCHEMA: Final = pa.schema([
    ("node_id", pa.string()), ("bucket_start", _TIME), ("coverage_ratio", pa.float64()),
])  # fmt: skip
FILE_SCHEMA: Final = pa.schema([
    ("source_name", pa.string()), ("state", pa.string()), ("files", pa.int64()), ("size_bytes", pa.int64()),
    ("records", pa.int64()), ("readings", pa.int64()), ("rejects", pa.int64()), ("duplicates", pa.int64()),
    ("ignored", pa.int64()),
])  # fmt: skip
DISCARDED_SCHEMA: Final = pa.schema([
    ("path", pa.string()), ("source_name", pa.string()), ("state", pa.string()), ("reason", pa.string()),
])  # fmt: skip
REJECT_SCHEMA: Final = pa.schema([
    ("source_name", pa.string()), ("reason", pa.string()), ("records", pa.int64()), ("path", pa.string()),
    ("source_position", pa.int64()), ("raw_text", pa.string()),
])  # fmt: skip
IGNORED_SCHEMA: Final = pa.schema([
    ("source_name", pa.string()), ("sensor", pa.string()), ("reason", pa.string()), ("records", pa.int64()),
])  # fmt: skip
STATE_COUNT_SCHEMA: Final = pa.schema([
    ("performance_state", pa.string()), ("intervals", pa.int64()), ("devices", pa.int64()), ("nodes", pa.string()),
])  # fmt: skip
STAGE_SCHEMA: Final = _dictionary_schema(("stage", "state", "rows_in", "rows_out", "duration_s", "message"))
ERROR_SCHEMA: Final = pa.schema([
    ("server", pa.string()), ("hours_kind", pa.string()), ("hours", pa.int64()), ("mape_ratio", pa.float64()),
    ("wape_ratio", pa.float64()), ("cv_ratio", pa.float64()), ("nmbe_ratio", pa.float64()),
    ("baseline_wape_ratio", pa.float64()),
])  # fmt: skip
PREDICTION_SCHEMA: Final = pa.schema([
    ("node_id", pa.string()), ("device_id", pa.string()), ("hour_start", _TIME), ("energy_kwh", pa.float64()),
    ("predicted_kwh", pa.float64()),
])  # fmt: skip


@dataclass(frozen=True)
class RunInfo:
    """Which run made the page, over which UTC days, and when."""

    site_id: str
    timezone: str
    days: Days
    run_id: str
    code_version: str
    generated_time: datetime


@dataclass(frozen=True)
class Coverage:
    """Coverage of nodes over time: `cells` holds at most `worst_nodes` nodes of `nodes_total`.

    `bucket_hours` is the width of one cell; a bucket's ratio is observed over expected seconds.
    """

    cells: pa.Table
    nodes_total: int = 0
    nodes_complete: int = 0
    bucket_hours: int = 1
    worst_nodes: int = 60


@dataclass(frozen=True)
class Sample:
    """Rows for a scatter: all of them, or the `limit` rows with the lowest hash of their key."""

    rows: pa.Table
    total: int = 0


@dataclass(frozen=True)
class Gate:
    """What the quality gate said: its warnings, and where its Data Docs are, relative to the page."""

    warnings: tuple[str, ...] = ()
    docs_link: str | None = None
    ran: bool = True


@dataclass(frozen=True)
class ModelSummary:
    """Errors of the model that the train stage left, forward in time, per server and kind of hours."""

    name: str
    version: str | None
    outcome: str
    errors: pa.Table
    baseline: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnFootprint:
    """What the run has cost so far on this machine: CPU-seconds of its processes, times a stated power of a core."""

    cpu_s: float
    core_power_w: float

    @property
    def energy_kwh(self) -> float:
        return self.cpu_s * self.core_power_w / JOULES_PER_KWH


def _empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows."""

    run: RunInfo
    cluster_day: pa.Table
    cluster_hour: pa.Table
    bucket_hours: int = 1
    ledger: pa.Table = field(default_factory=lambda: _empty(arrow_schema(ENERGY_LEDGER)))
    tenants: pa.Table = field(default_factory=lambda: _empty(arrow_schema(TENANT_DAY)))
    points: Sample = field(default_factory=lambda: Sample(_empty(POINT_SCHEMA)))
    coverage: Coverage = field(default_factory=lambda: Coverage(_empty(COVERAGE_SCHEMA)))
    files: pa.Table = field(default_factory=lambda: _empty(FILE_SCHEMA))
    discarded: pa.Table = field(default_factory=lambda: _empty(DISCARDED_SCHEMA))
    rejects: pa.Table = field(default_factory=lambda: _empty(REJECT_SCHEMA))
    ignored: pa.Table = field(default_factory=lambda: _empty(IGNORED_SCHEMA))
    gate: Gate = field(default_factory=lambda: Gate(ran=False))
    stages: pa.Table = field(default_factory=lambda: _empty(STAGE_SCHEMA))
    states: pa.Table = field(default_factory=lambda: _empty(STATE_COUNT_SCHEMA))
    anomalies: pa.Table = field(default_factory=lambda: _empty(arrow_schema(ANOMALY)))
    recommendations: pa.Table = field(default_factory=lambda: _empty(arrow_schema(RECOMMENDATION)))
    savings: pa.Table = field(default_factory=lambda: _empty(arrow_schema(SAVING)))
    footprint: OwnFootprint | None = None
    model: ModelSummary | None = None
    predictions: Sample = field(default_factory=lambda: Sample(_empty(PREDICTION_SCHEMA)))
    credits: tuple[str, ...] = ()


def bucket_hours(days: Days, most: int = 200) -> int:
    """Width of a time bucket in hours, so that a chart of `days` has at most about `most` of them.

    Widths are whole hours that divide a day, then days, weeks and blocks of 30 days.
    """
    hours = days.count * 24
    for width in (1, 3, 6, 24, 168):
        if hours <= width * most:
            return width
    return 720
