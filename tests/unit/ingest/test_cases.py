"""Every folder of tests/cases/<format>/ is a case: an input, its settings, and what must come out."""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from lepton_etl.ingest.decoded import JOB_SCHEMA, READING_SCHEMA, REJECT_SCHEMA, Decoded, Origin
from lepton_etl.ingest.formats import decode
from lepton_etl.ingest.specs import spec_of

CASES = Path(__file__).parents[2] / "cases"
FORMATS = (
    "ipmitool",
    "delimited",
    "prometheus",
    "electricitymaps",
    "redfish",
    "otlp_json",
    "rocm_smi",
    "nvidia_smi",
    "slurm",
    "scontrol",
    "opencost",
    "eia930",
    "grid_csv",
    "openmeteo",
)
FOLDERS = [folder for name in FORMATS for folder in sorted((CASES / name).iterdir())]


def decoded(folder: Path) -> Decoded:
    settings = yaml.safe_load((folder / "spec.yaml").read_text(encoding="utf-8"))
    origin = settings["origin"]
    path_time = origin.get("path_time")
    return decode(
        (folder / "input.txt").read_bytes(),
        Origin(
            site_id="site",
            source_name="source",
            path="input.txt",
            node_id=origin["node_id"],
            timezone=origin["timezone"],
            path_time=None if path_time is None else datetime.fromisoformat(path_time),
        ),
        spec_of(settings["spec"]),
    )


def rows_of(path: Path, names: list[str]) -> list[dict[str, Any]]:
    frame = pl.read_csv(path, infer_schema=False)
    assert frame.columns == names
    return frame.to_dicts()


def said(rows: list[dict[str, Any]]) -> list[dict[str, str | None]]:
    """Rows as a CSV says them."""
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


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_case(folder: Path) -> None:
    result = decoded(folder)
    result.check()

    # A table may be read column by column; the place in the file is a column.
    expected = sorted(rows_of(folder / "readings.csv", READING_SCHEMA.names), key=place)
    found = sorted(result.readings.to_pylist(), key=place)
    assert len(found) == len(expected)
    for reading, wanted in zip(found, expected, strict=True):
        value = reading.pop("value")
        assert math.isclose(value, float(wanted.pop("value")), rel_tol=1e-12), reading
        reading["reading_time"] = reading["reading_time"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert {name: None if item is None else str(item) for name, item in reading.items()} == wanted

    rejects = rows_of(folder / "rejects.csv", REJECT_SCHEMA.names)
    assert [
        {name: None if item is None else str(item) for name, item in reject.items()}
        for reject in result.rejects.to_pylist()
    ] == rejects

    assert said(result.jobs.to_pylist()) == (
        rows_of(folder / "jobs.csv", JOB_SCHEMA.names) if (folder / "jobs.csv").exists() else []
    )

    counts = yaml.safe_load((folder / "counts.yaml").read_text(encoding="utf-8"))
    ignored: dict[str, dict[str, int]] = {}
    for (sensor, reason), count in result.ignored.items():
        ignored.setdefault(reason, {})[sensor] = count
    assert {
        "records": result.records,
        "duplicates": result.duplicates,
        "structure_lines": result.structure_lines,
        "ignored": ignored,
    } == counts
