"""Reads of some days or batches open the entries of their files alone, and say the same as reads of all."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lepton_etl.days import Days
from lepton_etl.lake.log_files import open_log
from lepton_etl.lake.tables import Conditions, Lake, verified
from lepton_etl.schema.energy import NODE_HOUR
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.types import arrow_schema
from tests.integration.laying import lay

FIRST = datetime(2025, 6, 1, 12, tzinfo=UTC)


def _row(batch: int) -> dict[str, Any]:
    at = FIRST + timedelta(days=batch)
    said = {
        "path": f"n{batch}.txt", "file_id": f"{batch % 10}" * 64, "source_name": "bmc", "batch": batch,
        "state": "loaded", "size_bytes": 1, "modified_time": at, "ingest_time": at, "ingest_date": at.date(),
        "first_reading_time": None if batch == 3 else at, "last_reading_time": None if batch == 3 else at,
    }  # fmt: skip
    return dict.fromkeys(FILE.columns) | said


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    for batch in range(1, 5):
        lake.write_rows(FILE, [_row(batch)])
    return lake


@pytest.mark.parametrize(
    ("days", "only", "batches", "files"),
    [
        (None, (), [1, 2, 3, 4], 4),
        (None, [("batch", "=", 2)], [2], 1),
        (None, [("batch", ">", 2)], [3, 4], 2),
        (None, [("modified_time", ">=", FIRST + timedelta(days=4))], [4], 1),
        # A file whose rows all lack a reading time meets no condition on it.
        (None, [("last_reading_time", "<", FIRST + timedelta(days=2))], [1], 1),
        # The day of delivery has no statistics here.
        (Days(date(2025, 6, 2), date(2025, 6, 3)), (), [1, 2], 4),
        (Days(date(2025, 6, 2), date(2025, 6, 3)), [("batch", "=", 2)], [2], 1),
    ],
)
def test_files_are_left_out_and_no_row_is(
    lake: Lake, days: Days | None, only: Conditions, batches: list[int], files: int
) -> None:
    assert sorted(lake.read(FILE, days, columns=["batch"], only=only)["batch"]) == batches
    opened = list(verified(FILE, lake.log(FILE), days, None, only).get_fragments())
    assert len(opened) == files


def test_days_of_a_table_parted_by_them_are_told_by_the_log(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    hours = [datetime(2025, 6, day, 3, tzinfo=UTC) for day in (1, 2, 3)]
    lay(lake, NODE_HOUR, [
        {"site_id": "s", "cluster_id": "c", "node_id": "n1", "hour_start": hour, "date": hour.date(),
         "energy_basis": "measured", "expected_s": 3600.0, "observed_s": 3600.0, "status": "provisional"}
        for hour in hours
    ], Days(date(2025, 6, 1), date(2025, 6, 3)))  # fmt: skip
    for days in (Days.of(date(2025, 6, 2)), Days(date(2025, 6, 2), date(2025, 6, 9))):
        wanted = [hour for hour in hours if hour.date() in days]
        assert sorted(lake.read(NODE_HOUR, days)["hour_start"]) == wanted
        opened = list(verified(NODE_HOUR, lake.log(NODE_HOUR), days).get_fragments())
        assert len(opened) == len(wanted)


def test_rows_of_files_that_had_no_such_statistics_are_found(lake: Lake) -> None:
    """The register of an older release, under this one."""
    log = open_log(lake.at(FILE))
    log.alter.set_table_properties({"delta.dataSkippingStatsColumns": "path,file_id,batch"})
    row = pa.Table.from_pylist([_row(9)], schema=arrow_schema(FILE))
    write_deltalake(open_log(lake.at(FILE)), row, mode="append")
    lake.write_rows(FILE, [_row(10)])
    late = [("modified_time", ">=", FIRST + timedelta(days=4))]
    assert sorted(lake.read(FILE, columns=["batch"], only=late)["batch"]) == [4, 9, 10]
    assert len(list(verified(FILE, lake.log(FILE), None, None, late).get_fragments())) == 3
    early = [("last_reading_time", "<", FIRST + timedelta(days=2))]
    assert sorted(lake.read(FILE, columns=["batch"], only=early)["batch"]) == [1]
