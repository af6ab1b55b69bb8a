"""A lake that was damaged is told by a full read: which table, version and file, and what to do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lepton_etl.cli.tables import print_findings
from lepton_etl.days import Days
from lepton_etl.errors import LakeError
from lepton_etl.lake.check import check_lake
from lepton_etl.lake.staging import StagedWriter
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.logs import FILE, READING
from lepton_etl.schema.types import arrow_schema

DAY = date(2025, 6, 3)
NOON = datetime(2025, 6, 3, 12, tzinfo=UTC)


def hours(**changed: object) -> pl.DataFrame:
    rows = [
        {
            "zone_id": "ZZ", "hour_start": NOON + timedelta(hours=hour), "date": DAY, "intensity_basis": "direct",
            "signal": "average", "flow": "consumption", "carbon_intensity_gco2e_per_kwh": 200.0,
            "is_estimated": False, "source_name": "grid",
        } | changed
        for hour in range(3)
    ]  # fmt: skip
    return pl.DataFrame(pa.Table.from_pylist(rows, schema=arrow_schema(GRID_HOUR)))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake in order: hours of a grid, and one file of two readings."""
    lake = Lake(tmp_path / "lake")
    lake.replace(GRID_HOUR, Days.of(DAY), hours())
    writer = StagedWriter(lake.root, READING, DAY)
    reading = {
        "site_id": "s", "node_id": "n", "device_id": "node", "quantity": "node_power", "value": 200.0,
        "statistic": "instant", "window_s": 0.0, "reading_time": NOON, "file_id": "f1", "reading_date": DAY,
    }  # fmt: skip
    writer.write(pa.Table.from_pylist([reading, reading | {"value": 201.0}]))
    staged = writer.close()
    assert staged is not None
    lake.append_staged(READING, [staged], 1)
    lake.write_rows(FILE, [file_row()])
    return lake


def file_row(**changed: object) -> dict[str, object]:
    counts = {"records": 3, "readings": 2, "jobs": 0, "rejects": 0, "duplicates": 0, "ignored": 1}
    return {"path": "a.txt", "file_id": "f1", "batch": 1, "state": "loaded", **counts, **changed}


def found(lake: Lake) -> list[str]:
    return [str(finding) for finding in check_lake(lake)]


def foreign(lake: Lake, rows: pl.DataFrame) -> None:
    """Append as a writer would that knows nothing of the dictionary."""
    folder = Path(lake.path(GRID_HOUR)) / "_delta_log" / f"{0:020d}.json"
    text = folder.read_text(encoding="utf-8")
    start = text.index('"configuration"')
    folder.write_text(
        text[:start] + '"configuration":{}' + text[text.index("}", start) + 1 :], encoding="utf-8"
    )
    write_deltalake(lake.path(GRID_HOUR), rows.to_arrow(), mode="append")


def test_a_lake_in_order_has_no_findings(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(lake) == []
    print_findings(lake, [])
    assert "every file was read" in capsys.readouterr().out


def test_a_damaged_and_a_lost_file_are_named_with_their_remedy(lake: Lake) -> None:
    (file,) = lake.files(GRID_HOUR)
    path = Path(file.path)
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\0" * (len(content) - 200) + content[-100:])
    (damaged,) = found(lake)
    assert damaged.startswith(f"silver/grid_hour version 1 date=2025-06-03/{path.name}: ")
    assert "run the night of 2025-06-03 again" in damaged
    path.unlink()
    (lost,) = found(lake)
    assert path.name in lost and "cannot be read" in lost
    with pytest.raises(LakeError, match="1 findings in the lake"):
        print_findings(lake, [])
    print_findings(lake, [READING.name])


def test_bounds_required_columns_and_keys_of_another_writer_are_checked(lake: Lake) -> None:
    foreign(lake, hours(carbon_intensity_gco2e_per_kwh=-1.0, flow="other"))
    (line,) = found(lake)
    assert "outside the bounds of the field dictionary: flow, carbon_intensity_gco2e_per_kwh" in line
    foreign(lake, hours())
    assert any("3 rows of 2025-06-03 have the key of another row" in line for line in found(lake))


def test_counts_of_the_register_are_held_against_bronze(lake: Lake) -> None:
    lake.write_rows(FILE, [file_row(records=4)], where="batch = 1")
    (line,) = found(lake)
    assert "a.txt: records are not readings + jobs + rejects + duplicates + ignored" in line
    lake.write_rows(FILE, [file_row(readings=1, records=2)], where="batch = 1")
    (line,) = found(lake)
    assert "a.txt: bronze/reading does not hold the readings that are counted" in line
    lake.write_rows(FILE, [file_row(file_id="f2", readings=0, ignored=3)], where="batch = 1")
    (line,) = found(lake)
    assert "bronze/reading" in line and "1 files that bronze/file does not know" in line
