"""Every folder of tests/cases/ingest: an input, its settings, and what must come out (tests/cases/README.md)."""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lepton_etl.ingest.decoded import JOB_SCHEMA, READING_SCHEMA, REJECT_SCHEMA
from lepton_etl.ingest.registry import formats
from tests.decoding import CASES, Case, decode

FILES = {"case.yaml", "readings.csv", "rejects.csv", "jobs.csv"}


def rows_of(path: Path, names: list[str]) -> list[dict[str, Any]]:
    """The rows of a table of a case; no file, no rows."""
    if not path.exists():
        return []
    frame = pl.read_csv(path, infer_schema=False)
    assert frame.columns == names
    return frame.to_dicts()


def as_written(rows: list[dict[str, Any]]) -> list[dict[str, str | None]]:
    """Rows as a CSV holds them."""
    return [
        {
            name: None
            if item is None
            else f"{item:%Y-%m-%dT%H:%M:%SZ}"
            if isinstance(item, datetime)
            else str(item)
            for name, item in row.items()
        }
        for row in rows
    ]


def place(row: dict[str, Any]) -> tuple[int, str]:
    return int(row["source_position"]), row["sensor"]


def test_every_format_but_those_of_binary_files_and_auto_has_cases() -> None:
    assert {case.format for case in CASES} == set(formats()) - {"auto", "parquet"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    files = {file.name for file in case.folder.iterdir() if file.stem != "input"}
    assert files <= FILES, f"nobody reads {files - FILES}"
    result = decode(case.data, case.read_origin(), case.read_settings())
    result.check()

    # A table may be read column by column; the place in the file is a column.
    expected = sorted(rows_of(case.folder / "readings.csv", READING_SCHEMA.names), key=place)
    found = sorted(result.readings.to_pylist(), key=place)
    assert len(found) == len(expected)
    for reading, wanted in zip(found, expected, strict=True):
        value = reading.pop("value")
        assert math.isclose(value, float(wanted.pop("value")), rel_tol=1e-12), reading
        reading["reading_time"] = reading["reading_time"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert {name: None if item is None else str(item) for name, item in reading.items()} == wanted

    rejects = rows_of(case.folder / "rejects.csv", REJECT_SCHEMA.names)
    assert [
        {name: None if item is None else str(item) for name, item in reject.items()}
        for reject in result.rejects.to_pylist()
    ] == rejects
    assert as_written(result.jobs.to_pylist()) == rows_of(case.folder / "jobs.csv", JOB_SCHEMA.names)

    ignored: dict[str, dict[str, int]] = {}
    for (sensor, reason), count in result.ignored.items():
        ignored.setdefault(reason, {})[sensor] = count
    assert {
        "records": result.records,
        "duplicates": result.duplicates,
        "structure_lines": result.structure_lines,
        "ignored": ignored,
    } == {"duplicates": 0, "structure_lines": 0, "ignored": {}, **case.counts}
