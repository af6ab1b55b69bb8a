"""`lepton-etl audit reproduce`: figures of a day computed again from what the audit chain recorded, beside the lake."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.compute as pc
import structlog

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, LakeError, printable
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.tables import Lake
from lepton_etl.publication.published_rows import INPUTS, last_said
from lepton_etl.publication.row_status import STATUS
from lepton_etl.schema.publication import PUBLICATION
from lepton_etl.schema.tables import TABLES
from lepton_etl.trust.recorded import how_made, rebuild, stage_of
from pipelines.publish import marks_of_files
from pipelines.stage import StageContext


def print_reproduced(
    lake: Lake, settings: Settings, table: str, day: date, chosen: Mapping[str, str], columns: Collection[str]
) -> None:
    """Compute a day of a table again and print what differs, of a single row every figure that is known.

    Raises LakeError where a figure differs, or where what it was computed from is gone.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-etl-audit-") as folder:
        again = reproduced(lake, settings, table, day, Path(folder))
    pairs = again.rows(chosen)
    for line in again.conditions:
        print(printable(line))
    differ = 0
    for key, published, computed in pairs:
        for name in columns or again.figures:
            old, new = published[name], computed[name]
            differ += old != new
            if columns or old != new or (len(pairs) == 1 and old is not None):
                word = "equal" if old == new else "DIFFERS"
                print(printable(f"{key} {name}: published {old!r}, computed {new!r}: {word}"))
    print(
        f"{table} of {day}: {len(pairs)} rows, {len(columns or again.figures)} figures of each, computed again"
    )
    if not pairs or differ:
        what = f"{differ} figures differ" if pairs else "no row is published under this key"
        remedy = (
            "the first lines say what is not as it was" if pairs else "lepton-etl tables show lists the rows"
        )
        raise LakeError(what, where="audit reproduce", remedy=remedy)
    print("equal to the last digit")


@dataclass(frozen=True)
class Reproduced:
    """A table's rows of a day as published and as computed again, and lines of what it was computed from."""

    key: tuple[str, ...]
    figures: tuple[str, ...]
    published: pl.DataFrame
    computed: pl.DataFrame
    conditions: tuple[str, ...]

    def rows(self, chosen: Mapping[str, str]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Return key, published and computed figures of the rows that are so; one that is not there is empty."""
        unknown = sorted(set(chosen) - set(self.key))
        if unknown:
            raise ConfigurationError(
                f"rows of this table have no {', '.join(unknown)}", where="audit reproduce",
                remedy=f"its key is {', '.join(self.key)}",
            )  # fmt: skip
        sides = []
        for rows in (self.published, self.computed):
            kept = rows.filter(**chosen).sort(self.key).to_dicts()
            sides.append({" ".join(str(row[name]) for name in self.key): row for row in kept})
        return [
            (key, *({name: side.get(key, {}).get(name) for name in self.figures} for side in sides))  # type: ignore[misc]
            for key in sorted({*sides[0], *sides[1]})
        ]


def reproduced(lake: Lake, settings: Settings, name: str, day: date, folder: Path) -> Reproduced:
    """Run the stage that made a gold table's day again in an empty folder, on what it found then.

    Raises ConfigurationError for a table that no stage of the chain made, LakeError where what it found is gone.
    """
    stage = stage_of(lake, name)
    table, made = TABLES[name], how_made(lake, stage, day)
    missing = rebuild(lake, made.versions, folder)
    if missing:
        raise LakeError(
            f"{len(missing)} inputs are gone: {'; '.join(missing[:5])}{'; ...' if len(missing) > 5 else ''}",
            where="audit reproduce", remedy="restore them from a copy of the lake; the figure stays as published",
        )  # fmt: skip
    days = Days(made.first, made.last)
    again = Lake(folder, {"run_id": "audit", "stage": stage})
    context = StageContext(again, settings, days, "audit", structlog.get_logger("audit"))
    result = import_module(f"pipelines.{stage}").run(context)
    of_day = Days.of(day)
    conditions = [
        f"stage {stage} of {days}, event {made.event}, published by event {made.publication}; "
        f"{len(made.versions)} tables at their recorded versions",
        *(f"{model} version {version}" for model, version in made.models.items()),
        *_changed("code", made.code_version, code_version()),
        *_changed("settings", made.settings_hash, settings.digest),
        *_changed_files(lake, settings, day),
        *result.notes,
    ]
    return Reproduced(
        table.key,
        tuple(one for one in table.columns if one not in (*table.key, STATUS)),
        lake.as_published(of_day).read(table, of_day),
        again.read(table, of_day),
        tuple(conditions),
    )


def _changed(what: str, then: str, now: str) -> list[str]:
    return [] if then == now else [f"other {what} than then: {then}, now {now}"]


def _changed_files(lake: Lake, settings: Settings, day: date) -> list[str]:
    """What the stage takes from files beside the lake, where they say something else of the day by now."""
    rows = lake.arrow(PUBLICATION, Days.of(day), pc.field("table_name") == INPUTS)
    site = f'"site_id":"{settings.site.site_id}"'
    said = next((one.values() for one in last_said(rows).values() if site in one.key), {})
    now = marks_of_files(settings, [day])[day]
    return [
        line
        for name in ("factors", "tariff")
        if name in said
        for line in _changed(name, said[name], now[name])
    ]
