"""Every folder of tests/cases/intervals: readings in, interval rows out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.unit.intervals.readings import node, reading, rows_of

CASES = Path(__file__).parents[2] / "cases" / "intervals"


def cells(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def seconds(clock: str) -> int:
    parts = [int(part) for part in clock.split(":")]
    return sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))


def shown(row: dict[str, Any], column: str) -> Any:
    """A cell as the case files write it; numbers stay numbers."""
    value = row[column]
    if column == "flags":
        return ";".join(value)
    if column == "interval_start":
        return f"{value:%H:%M}"
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


@pytest.mark.parametrize("case", sorted(p.name for p in CASES.iterdir() if p.is_dir()))
def test_intervals_of_the_case(case: str) -> None:
    readings = []
    for row in cells(CASES / case / "readings.csv"):
        numbers = {
            "window_s": float(row.get("window_s") or 0),
            "multiplicity": int(row.get("multiplicity") or 1),
        }
        names = {
            "node_id": row["node_id"],
            "device_id": row["device_id"],
            "statistic": row.get("statistic") or "instant",
        } | ({"sensor": row["sensor"]} if "sensor" in row else {})
        readings.append(
            reading(seconds(row["time"]), float(row["value"]), row["quantity"], **names, **numbers)
        )
    listed = [node(**row) for row in cells(CASES / case / "nodes.csv")] or [node("nobody")]

    rows = rows_of(readings, *listed)

    expected = cells(CASES / case / "intervals.csv")
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        found = {column: shown(row, column) for column in wanted}
        typed = {
            column: pytest.approx(float(text), rel=1e-12) if isinstance(found[column], int | float) else text
            for column, text in wanted.items()
        }
        assert found == typed
