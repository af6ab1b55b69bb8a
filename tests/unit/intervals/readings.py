"""Hand-written readings for the energy kernels."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from lepton_etl.intervals.channels import READING_COLUMNS
from lepton_etl.intervals.modelled_power import node_model
from lepton_etl.intervals.node_day import IntervalPolicy, intervals
from lepton_etl.intervals.readings import OPEN_END_US, ROSTER_COLUMNS
from lepton_etl.intervals.sensor_classes import sensor_classes
from lepton_etl.intervals.usual_values import HISTORY_COLUMNS
from lepton_etl.registers.factors import load_factors

DAY = date(2025, 6, 3)
DAY_NUMBER = (DAY - date(1970, 1, 1)).days
MIDNIGHT_S = datetime(2025, 6, 3, tzinfo=UTC).timestamp()
CLASSES = sensor_classes(load_factors(), DAY)
MODEL = node_model(load_factors(), DAY)
POLICY = IntervalPolicy("site", interval_s=300, classes=CLASSES, model=MODEL)


def reading(time_s: float, value: float, quantity: str = "node_power", **more: Any) -> dict[str, Any]:
    """One reading of node n1, `time_s` seconds after midnight; any column by name."""
    return {
        "day": DAY_NUMBER,
        "node_id": "n1",
        "device_id": "node",
        "quantity": quantity,
        "sensor": quantity,
        "statistic": "instant",
        "value": value,
        "window_s": 0.0,
        "time_us": round((MIDNIGHT_S + time_s) * 1e6),
        "multiplicity": 1,
        "max_gap_s": 330.0,
        "counter_max_j": None,
        "spot_samples": None,
        "file_rank": 1,
        "source_position": 1,
    } | more


def series(times_s: Any, values: Any, quantity: str = "node_power", **more: Any) -> list[dict[str, Any]]:
    return [reading(t, v, quantity, **more) for t, v in zip(times_s, values, strict=True)]


def node(node_id: str = "n1", **facts: Any) -> dict[str, Any]:
    """One row of the roster that holds always."""
    row = dict.fromkeys(ROSTER_COLUMNS) | {"cluster_id": "blue", "from_us": 0, "until_us": OPEN_END_US}
    return row | {"node_id": node_id, "from_day": 0, "until_day": DAY_NUMBER + 10_000} | facts


def table(readings: list[dict[str, Any]]) -> pa.Table:
    return pl.DataFrame(readings, schema=READING_COLUMNS).to_arrow()


def said(days_before: int, typical: float, quantity: str = "node_power", **more: Any) -> dict[str, Any]:
    """What a sensor of node n1 said on a day before."""
    row = {name: value for name, value in reading(0, 0.0, quantity).items() if name in HISTORY_COLUMNS}
    return (
        row
        | {
            "on_day": DAY_NUMBER - days_before,
            "decade": 0,
            "readings": 1440,
            "typical": typical,
        }
        | more
    )


def past(history: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(history, schema=HISTORY_COLUMNS)


def rows_of(
    readings: list[dict[str, Any]],
    *nodes: dict[str, Any],
    policy: IntervalPolicy = POLICY,
    history: list[dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """The interval rows of the day; without `nodes` the inventory lists n1."""
    listed = pl.DataFrame(list(nodes) or [node()], schema=ROSTER_COLUMNS)
    return intervals(table(readings), past(history or []).to_arrow(), listed, policy).to_pylist()


def of_device(
    rows: list[dict[str, Any]], device_id: str = "node", node_id: str = "n1"
) -> list[dict[str, Any]]:
    return [row for row in rows if (row["node_id"], row["device_id"]) == (node_id, device_id)]


def total(rows: list[dict[str, Any]], column: str = "energy_kwh") -> float:
    return sum(row[column] or 0.0 for row in rows)
