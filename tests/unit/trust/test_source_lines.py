"""The text at a position is by the decoder's own count: lines of any compression, rows of Parquet, no documents'."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lepton_etl.config.settings import load
from lepton_etl.ingest.text import ContentIdentity, drain, file_id, text_chunks
from lepton_etl.lake.landing import Landing
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE
from lepton_etl.trust import source_lines
from lepton_etl.trust.source_lines import Line, SourceLines

AT = datetime(2025, 6, 3, tzinfo=UTC)
SETTINGS = """
site: {site_id: s}
lake: {root: lake}
fleet: {inventory: inventory.csv}
sources:
  - {name: bmc, format: ipmitool, path: "landing/*", node_id_from_path: "(?P<node_id>[^/.]+)[.]"}
"""


@pytest.fixture
def lines(tmp_path: Path) -> SourceLines:
    (tmp_path / "landing").mkdir()
    (tmp_path / "inventory.csv").write_text("node_id\n")
    (tmp_path / "config.yaml").write_text(SETTINGS)
    settings = load(tmp_path / "config.yaml")
    return SourceLines(Lake(settings.lake.root), settings, Landing(), {"ann": "u-1"})


def loaded(lines: SourceLines, tmp_path: Path, name: str, content: bytes) -> str:
    """Lay a file down and register it as the night does; its file_id."""
    path = tmp_path / "landing" / name
    path.write_bytes(content)
    seen = ContentIdentity("bmc", name.partition(".")[0])
    with path.open("rb") as stream:
        drain(seen.watch(text_chunks(stream, name)))
    identity = file_id(seen.content_id, None)
    row = {
        "path": str(path), "file_id": identity, "source_name": "bmc", "size_bytes": len(content), "modified_time": AT,
        "state": "loaded", "batch": 1, "ingest_time": AT, "ingest_date": AT.date(),
    }  # fmt: skip
    lines.lake.write_rows(FILE, [row])
    return identity


def line_of(lines: SourceLines, file: str, position: int) -> Line:
    reading: dict[str, Any] = {
        "file_id": file, "source_position": position, "sensor": "Sys Power", "raw_value": "300", "raw_unit": "Watts",
        "value": 300.0, "reading_time": AT,
    }  # fmt: skip
    return lines.read([source_lines.line_of(reading)])[0]


def test_lines_of_a_compressed_text_are_counted_as_the_decoder_counts_them(
    lines: SourceLines, tmp_path: Path
) -> None:
    text = "\ufeffSys Power | 1 Watts\r\n\r\nuser=bob seen by ann | 300 Watts\nlast".encode()
    file = loaded(lines, tmp_path, "n1.txt.gz", gzip.compress(text))
    found = {position: line_of(lines, file, position) for position in (1, 2, 3, 4, 5)}
    assert [one.text for one in found.values()] == [
        "Sys Power | 1 Watts", "", "user=*** seen by u-1 | 300 Watts", "last", None,
    ]  # fmt: skip
    assert found[5].missing == "the file has no such line"
    assert {one.kind for one in found.values()} == {"line"}


def test_a_position_of_parquet_is_its_row(lines: SourceLines, tmp_path: Path) -> None:
    pq.write_table(pa.table({"t": [1, 2], "power_w": [300.0, 301.5]}), tmp_path / "made")
    file = loaded(lines, tmp_path, "n2.parquet", (tmp_path / "made").read_bytes())
    assert (line_of(lines, file, 2).kind, line_of(lines, file, 2).text) == (
        "row",
        "{'t': 2, 'power_w': 301.5}",
    )
    assert line_of(lines, file, 3).missing == "the file has no such row"


def test_a_document_says_which_object_and_shows_no_line(lines: SourceLines, tmp_path: Path) -> None:
    file = loaded(lines, tmp_path, "n3.json", b'{"PowerControl": [{"PowerConsumedWatts": 300}]}')
    found = line_of(lines, file, 1)
    assert (found.kind, found.text, found.raw_value) == ("object", None, "300")
    assert found.missing is not None
    assert found.missing.startswith("a document")


def test_a_file_that_nobody_registered_is_said_to_be_unknown(lines: SourceLines) -> None:
    assert line_of(lines, "0" * 64, 1).missing == "bronze/file has no record of the file"
