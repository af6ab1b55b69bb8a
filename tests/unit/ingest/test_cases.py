"""Every folder of tests/cases/ingest: an input, its settings, and what must come out (tests/cases/README.md)."""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from lepton_etl.ingest import ipmitool
from lepton_etl.ingest.decoded import JOB_SCHEMA, READING_SCHEMA, REJECT_SCHEMA, Origin
from lepton_etl.ingest.registry import formats
from tests.decoding import CASES, Case, decode, settings_of

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


@pytest.mark.parametrize("case", [one for one in CASES if one.format == "ipmitool"], ids=str)
def test_the_short_way_of_ipmitool_gives_what_the_general_one_does(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = decode(case.data, case.read_origin(), case.read_settings())
    monkeypatch.setattr(ipmitool._Cells, "readings", lambda _cells, _origin: None)
    general = decode(case.data, case.read_origin(), case.read_settings())
    assert short.readings.equals(general.readings)
    assert short.rejects.equals(general.rejects)
    assert (short.records, short.duplicates, short.ignored, short.structure_lines) == (
        general.records, general.duplicates, general.ignored, general.structure_lines,
    )  # fmt: skip


def test_the_short_way_is_taken_by_a_clean_log_and_by_no_other() -> None:
    rows = b"Timestamp: 2025-06-03 00:00:00 UTC\nSys Power | 200 Watts | ok\nSys Power | 201 Watts | ok\n"
    origin, settings = Origin("s", "bmc", "p", "n1", "UTC"), settings_of({"format": "ipmitool"})

    def is_short(text: bytes) -> bool:
        (part,) = settings.read([text], origin)
        return pa.types.is_dictionary(part.readings.schema.field("sensor").type)

    assert is_short(rows)
    assert not is_short(rows + b"Sys Power | 200 Watts | ok\n")  # a repeat
    assert not is_short(rows + b"Sys Power | 9e9 Watts | ok\n")  # out of bounds
    assert not is_short(b"Sys Power | 200 Watts | ok\n" + rows)  # without a stamp
