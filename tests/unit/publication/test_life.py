"""A figure is provisional, closed with its month, and restated when it changes after that."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from lepton_etl.publication.row_status import with_life
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.types import arrow_schema

DAY = date(2025, 6, 3)


def cluster_day(kwh: float | None, status: str = "provisional", day: date = DAY) -> pa.Table:
    row = {"date": day, "site_id": "s", "cluster_id": "c01", "it_energy_kwh": kwh, "status": status}
    return pa.Table.from_pylist([row], schema=arrow_schema(CLUSTER_DAY))


def status(fresh: pa.Table, present: pa.Table, *closed: str) -> Any:
    found = with_life(fresh, present, CLUSTER_DAY.key, closed)
    assert found.schema == fresh.schema
    assert found.drop_columns("status").equals(fresh.drop_columns("status"))
    return found["status"][0].as_py()


@pytest.mark.parametrize(
    ("now", "before", "closed", "expected"),
    [
        (1.0, cluster_day(1.0, "closed"), "2025-05", "provisional"),
        (1.0, cluster_day(1.0), "2025-06", "closed"),
        (1.0, cluster_day(1.0, "closed"), "2025-06", "closed"),
        (1.1, cluster_day(1.0, "closed"), "2025-06", "restated"),
        (1.1, cluster_day(1.1, "restated"), "2025-06", "restated"),
        (1.1, cluster_day(1.1).slice(1), "2025-06", "restated"),
        (None, cluster_day(None, "closed"), "2025-06", "closed"),
    ],
)
def test_status_follows_the_month_and_the_row_that_stands(
    now: float | None, before: pa.Table, closed: str, expected: str
) -> None:
    assert status(cluster_day(now), before, closed) == expected


def test_without_a_closed_month_every_row_is_provisional() -> None:
    assert status(cluster_day(1.0, "closed"), cluster_day(1.0, "closed")) == "provisional"


def test_a_figure_of_a_year_is_not_closed_with_its_first_month() -> None:
    row = {"date": date(2025, 1, 1), "period": "year", "site_id": "s", "boundary": "site", "kpi": "PUE"}
    rows = pa.Table.from_pylist([row], schema=arrow_schema(KPI))
    assert with_life(rows, rows, KPI.key, ("2025-01",))["status"][0].as_py() == "provisional"
