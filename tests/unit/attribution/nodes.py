"""Days of one node written by hand: what its sensors measured in one hour, and who held what."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from lepton_etl.attribution.node_energy import NodeFacts, Roll
from lepton_etl.attribution.node_split import HOLDING_COLUMNS, INTERVAL_COLUMNS, split_nodes
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import NODE_HOUR
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.jobs import JOB_NODE
from lepton_etl.schema.types import arrow_schema

MIDNIGHT = datetime(2025, 6, 3, tzinfo=UTC)
SINCE = datetime(2024, 1, 1, tzinfo=UTC)


def roll(**facts: Any) -> Roll:
    known = NodeFacts("here", "alpha", "n1", **facts)
    return Roll({"n1": ((SINCE, None, known),)})


def interval(device_id: str, minute: float, energy_kwh: float | None, **more: Any) -> dict[str, Any]:
    """One silver/interval row of 300 s that begins `minute` minutes after midnight."""
    start = MIDNIGHT + timedelta(minutes=minute)
    return {
        "cluster_id": "alpha", "node_id": "n1", "device_id": device_id, "date": start.date(), "interval_start": start,
        "interval_s": 300, "energy_kwh": energy_kwh, "observed_s": 300.0,
    } | more  # fmt: skip


def holding(job_id: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    """One silver/job_node row from `start` to `end`, minutes after midnight."""
    return {
        "cluster_id": "alpha", "node_id": "n1", "date": (MIDNIGHT + timedelta(minutes=start)).date(), "job_id": job_id,
        "submit_time": MIDNIGHT, "restart": 0, "tenant_id": "t", "outcome": "completed",
        "from_time": MIDNIGHT + timedelta(minutes=start), "to_time": MIDNIGHT + timedelta(minutes=end),
        "attribution_basis": "count",
    } | more  # fmt: skip


def table_of(rows: list[dict[str, Any]], table: Table, names: Sequence[str]) -> pl.DataFrame:
    schema = pa.schema([arrow_schema(table).field(name) for name in names])
    return pl.DataFrame(pa.Table.from_pylist(rows, schema=schema))


# Rows of device `imputed` stand among the intervals of these cases.
NOTHING_IMPUTED = pl.DataFrame(arrow_schema(NODE_HOUR).empty_table())


def split(
    intervals: list[dict[str, Any]], held: list[dict[str, Any]], nodes: Roll
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of jobs and rows of the node."""
    measured, holdings = (
        table_of(intervals, INTERVAL, INTERVAL_COLUMNS),
        table_of(held, JOB_NODE, HOLDING_COLUMNS),
    )
    jobs, node = split_nodes(measured, NOTHING_IMPUTED, holdings, nodes, 0.01)
    return jobs.to_dicts(), node.to_dicts()


def case_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV: numbers as numbers, nothing as None, devices as lists."""

    def value(name: str, text: str) -> Any:
        if text == "":
            return None
        if name == "device_ids":
            return text.split()
        try:
            return int(text) if text.isdecimal() else float(text)
        except ValueError:
            return text

    with path.open(encoding="utf-8") as file:
        return [{name: value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]
