"""Real files as a decoder takes them, held against the counts that a table beside the tests lays down."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from lepton_etl.ingest.decoded import Decoded, Origin
from tests.decoding import decode, read_bytes, settings_of

PATH_TIME: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When a file was taken, for those that do not say it themselves."""


def plain(path: Path) -> bytes:
    """The content of a file by the standard library, so that a test shares no code with what it checks."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


class LaidDown:
    """The table `name` beside this file: one row a real file, its columns the counts that its decoding must give."""

    def __init__(self, name: str) -> None:
        with (Path(__file__).parent / name).open(newline="", encoding="utf-8") as table:
            self._counts = {
                row.pop("file"): {column: int(count) for column, count in row.items()}
                for row in csv.DictReader(table)
            }

    @property
    def files(self) -> set[str]:
        return set(self._counts)

    def decoded(self, path: Path, settings: dict[str, Any], node_id: str | None = "node") -> Decoded:
        """What the decoder of these settings makes of a file; every record accounted for, counts as laid down."""
        data = read_bytes(path.read_bytes(), path.name)
        assert isinstance(data, bytes)
        result = decode(
            data, Origin("site", "source", path.name, node_id, "UTC", PATH_TIME), settings_of(settings)
        )
        result.check()
        found = {
            "records": result.records,
            "readings": result.readings.num_rows,
            "jobs": result.jobs.num_rows,
            "rejects": result.rejects.num_rows,
            "duplicates": result.duplicates,
            "unmapped": _ignored(result, "unmapped"),
            "no_value": _ignored(result, "no_value"),
            "structure_lines": result.structure_lines,
        }
        assert found == self._counts[path.name]
        return result


def _ignored(result: Decoded, why: str) -> int:
    return sum(count for (_, reason), count in result.ignored.items() if reason == why)
