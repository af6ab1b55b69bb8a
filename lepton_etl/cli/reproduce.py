"""`lepton-etl audit reproduce`: figures of a day computed again from what the audit chain recorded, beside the lake."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.compute as pc
import structlog

from lepton_etl.billing.bill import month_days
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, LakeError, printable
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.tables import Lake
from lepton_etl.publication.published_rows import INPUTS, last_said
from lepton_etl.publication.row_status import STATUS
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.declare import Table
from lepton_etl.schema.publication import PUBLICATION
from lepton_etl.schema.tables import TABLES
from lepton_etl.trust.recorded import Made, how_made, rebuild, stages_of
from lepton_etl.trust.verify import read_chain
from pipelines.publish import marks_of_files
from pipelines.stage import StageContext

# The stages whose figures are published; what the others say of models and advice rests on the registry too.
_PUBLISHING: Final = ("silver", "gold", "kpi")
ALL: Final = "all"


def print_reproduced(
    lake: Lake,
    settings: Settings,
    tables: Sequence[str],
    day: date,
    chosen: Mapping[str, str],
    columns: Collection[str],
) -> None:
    """Compute a day of tables again and print what differs, of a single row every figure that is known.

    Raises LakeError where a figure differs, or where what it was computed from is gone.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-etl-audit-") as folder:
        made = reproduced(lake, settings, tables, day, Path(folder))
        found = [
            (name, again, again.rows(chosen))
            for name, again in made.items()
            if ALL not in tables or chosen.keys() <= set(again.key)
        ]
    for line in dict.fromkeys(line for _, again, _ in found for line in again.conditions):
        print(printable(line))
    rows = differ = 0
    for name, again, pairs in found:
        rows += len(pairs)
        figures = [one for one in columns if one in again.figures] if columns else again.figures
        for key, published, computed in pairs:
            for one in figures:
                old, new = published[one], computed[one]
                differ += old != new
                if columns or old != new or (len(pairs) == 1 and len(found) == 1 and old is not None):
                    word = "equal" if old == new else "DIFFERS"
                    print(printable(f"{key} {one}: published {old!r}, computed {new!r}: {word}"))
        print(f"{name} of {day}: {len(pairs)} rows, {len(figures)} figures of each, computed again")
    if not rows or differ:
        what = f"{differ} figures differ" if rows else "no row is published under this key"
        remedy = (
            "the first lines say what is not as it was" if rows else "lepton-etl tables show lists the rows"
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


def reproduced(
    lake: Lake, settings: Settings, names: Sequence[str], day: date, folder: Path
) -> dict[str, Reproduced]:
    """Run the stages that made a day of these gold tables again in an empty folder, on what they found then.

    ALL stands for each table of published figures that has rows of the day. A stage runs once for all of its tables.
    Raises ConfigurationError for a table that no stage of the chain made, LakeError where what one found is gone.
    """
    rows, _ = read_chain(lake)
    stages, again = stages_of(rows), _Again(lake, settings, day, folder)
    is_all = ALL in names
    if is_all:
        names = sorted(name for name, stage in stages.items() if stage in _PUBLISHING)
    unknown = sorted(set(names) - set(stages))
    if unknown:
        raise ConfigurationError(
            f"no stage in the audit chain made {', '.join(unknown)}", where="audit reproduce",
            remedy="name a gold table, such as gold/cluster_day",
        )  # fmt: skip
    found = {}
    for name in names:
        table = TABLES[name]
        dated = Days.of(day) if "date" in table.columns else None
        published = lake.as_published(Days.of(day)).read(table, dated)
        empty = published.clear()
        parts, computed, conditions = [empty], [empty], list[str]()
        for within, is_part in _parts(table, day):
            if published.filter(is_part).is_empty() and (is_all or table is KPI):
                continue
            made = how_made(rows, stages[name], within, None if dated is None else day)
            ran, said = again.of(stages[name], made)
            parts.append(published.filter(is_part))
            computed.append(ran.read(table, dated).filter(is_part))
            conditions += said
        figures = tuple(one for one in table.columns if one not in (*table.key, STATUS))
        found[name] = Reproduced(table.key, figures, pl.concat(parts), pl.concat(computed), tuple(conditions))
    return {name: one for name, one in found.items() if one.published.height or not is_all}


def _parts(table: Table, day: date) -> list[tuple[Days, pl.Expr]]:
    """The days of which the rows of a day, or of its month or year, are made, and which rows these are."""
    month, year = Days(*month_days(f"{day:%Y-%m}")), Days(date(day.year, 1, 1), date(day.year, 12, 31))
    if table is KPI:
        # Under the first day of a month or year stand its figures, made anew by each night of it.
        spans = {"day": Days.of(day), "month": month, "year": year}
        return [(days, pl.col("period") == period) for period, days in spans.items()]
    if "date" in table.columns:
        return [(Days.of(day), pl.lit(value=True))]
    if "month" in table.columns:
        return [(month, pl.col("month") == f"{day:%Y-%m}")]
    if "reporting_year" in table.columns:
        return [(year, pl.col("reporting_year") == day.year)]
    raise ConfigurationError(
        f"{table.name} has no figures of a day, month or year", where="audit reproduce", remedy="name another table"
    )  # fmt: skip


@dataclass
class _Again:
    """Stages run again, each once, in folders of their own."""

    lake: Lake
    settings: Settings
    day: date
    folder: Path
    ran: dict[int, tuple[Lake, list[str]]] = field(default_factory=dict)

    def of(self, stage: str, made: Made) -> tuple[Lake, list[str]]:
        """Return the lake in which the stage ran again, and what was not as it was."""
        if made.event not in self.ran:
            self.ran[made.event] = self._run(stage, made)
        return self.ran[made.event]

    def _run(self, stage: str, made: Made) -> tuple[Lake, list[str]]:
        folder = self.folder / str(made.event)
        missing = rebuild(self.lake, made.versions, folder)
        if missing:
            raise LakeError(
                f"{len(missing)} inputs are gone: {'; '.join(missing[:5])}{'; ...' if len(missing) > 5 else ''}",
                where="audit reproduce", remedy="restore them from a copy of the lake; the figure stays as published",
            )  # fmt: skip
        days = Days(made.first, made.last)
        again = Lake(folder, {"run_id": "audit", "stage": stage})
        context = StageContext(again, self.settings, days, "audit", structlog.get_logger("audit"))
        result = import_module(f"pipelines.{stage}").run(context)
        return again, [
            f"stage {stage} of {days}, event {made.event}, published by event {made.publication}; "
            f"{len(made.versions)} tables at their recorded versions",
            *(f"{model} version {version}" for model, version in made.models.items()),
            *_changed("code", made.code_version, code_version()),
            *_changed("settings", made.settings_hash, self.settings.digest),
            *_changed_files(self.lake, self.settings, self.day),
            *result.notes,
        ]


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
