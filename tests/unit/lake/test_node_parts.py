"""Parts of whole nodes: how many, and that they hold every row once."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lepton_etl.days import Days
from lepton_etl.lake import node_parts as module
from lepton_etl.lake.node_parts import node_parts
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.fleet import INTERVAL
from tests.integration.laying import lay

DAYS = Days(date(2025, 6, 3), date(2025, 6, 4))


def _interval(node: int, start: datetime) -> dict[str, Any]:
    return {
        "site_id": "s", "cluster_id": "c", "node_id": f"n{node}", "device_id": "node", "interval_start": start,
        "date": start.date(), "interval_s": 300, "counts_in_total": True, "multiplicity": 1, "observed_s": 300.0,
        "conflicts": 0, "flags": [],
    }  # fmt: skip


@pytest.mark.parametrize(("tasks", "expected"), [(1, 1), (3, 3), (50, 4)])
def test_parts_of_whole_nodes_hold_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int, expected: int
) -> None:
    monkeypatch.setattr(module, "LEAST_ROWS", 10)
    lake, midnight = Lake(tmp_path / "lake"), datetime(2025, 6, 3, tzinfo=UTC)
    rows = [_interval(node, midnight + timedelta(days=day)) for node in range(20) for day in range(2)]
    lay(lake, INTERVAL, rows, DAYS)
    parts = node_parts(lake, INTERVAL, DAYS, by_day=False, tasks=tasks)
    assert len(parts) == expected
    found = [part.read(["node_id", "date"]) for part in parts]
    assert pl.concat(found).sort(pl.all()).equals(pl.DataFrame(rows).select("node_id", "date").sort(pl.all()))
    assert sum(part["node_id"].n_unique() for part in found) == 20
    assert len(node_parts(lake, INTERVAL, DAYS, tasks=tasks)) == 2 * min(tasks, 2)
