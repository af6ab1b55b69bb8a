"""`lepton-etl sensors`: the sensors of the newest files that no rule reads, each with a rule that would."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from rich.console import Console
from rich.table import Table

from lepton_etl.config.settings import Settings
from lepton_etl.config.sources import Source
from lepton_etl.errors import printable
from lepton_etl.ingest.decoded import Origin
from lepton_etl.ingest.text import UnreadableError, text_chunks
from lepton_etl.ingest.unmapped import Unmapped, merged, speaks_of_power, unmapped
from lepton_etl.lake.landing import Delivered, Landing

_WIDTH: Final = 200


def print_unmapped(settings: Settings, files: int) -> None:
    """Print the unmapped sensors of the `files` newest files of each source, those that speak of power first.

    Raises ConfigurationError where a source's folder cannot be listed.
    """
    landing = Landing.of(settings)
    table = Table("source", "sensor", "records", "unit", "range", "rule to look over", box=None)
    rows = [
        (source.name, one) for source in settings.all_sources for one in _of(source, settings, landing, files)
    ]
    rows.sort(key=lambda row: (not speaks_of_power(row[1].sensor), row[0], row[1].sensor))
    for name, one in rows:
        span = "-" if one.lowest is None else f"{one.lowest:g} .. {one.highest:g}"
        cells = (name, one.sensor, f"{one.records:,}", one.unit or "-", span, one.rule or "-")
        table.add_row(*(printable(cell) for cell in cells))
    console = Console(width=max(Console().width, _WIDTH), markup=False, emoji=False)
    console.print(table if rows else f"Every sensor of the {files} newest files of each source has a rule.")
    if rows:
        console.print("\nA rule is a guess by name and unit: look it over, then add it to the file of conf/sensors "
                      "that the source reads by (docs/formats.md, Sensors).")  # fmt: skip


def _of(source: Source, settings: Settings, landing: Landing, files: int) -> list[Unmapped]:
    """The unmapped sensors of a source's newest files; a file that cannot be read is the night's to name."""
    newest = heapq.nlargest(
        files, landing.delivered(source), key=lambda file: (file.modified_time, file.path)
    )
    found: list[Unmapped] = []
    for file in newest:
        origin = Origin(
            settings.site.site_id, source.name, file.path, file.node_id, source.timezone, file.path_time
        )
        with suppress(UnreadableError, OSError):
            found += unmapped(lambda file=file: _text(file, source, landing), origin, source)  # type: ignore[misc]
    return merged(found)


def _text(file: Delivered, source: Source, landing: Landing) -> Iterator[bytes]:
    with landing.open(file, source) as handle:
        yield from text_chunks(handle, file.path)
