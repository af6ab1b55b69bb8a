"""Publish: what gold says of the days -> gold/publication and gold/restatement, appended where it changed.

A re-run of equal rows appends nothing. The rows of a publication and what they rest on (table `inputs`) are one commit;
the restatements go before it under the publication's own name, so a run that was cut in between writes them once.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc

from lepton_etl.days import Days
from lepton_etl.factors import load_factors
from lepton_etl.lake import plain
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.store import Written
from lepton_etl.lake.tables import CLUSTER_DAY, TABLES
from lepton_etl.lake.tables.carbon import KPI
from lepton_etl.lake.tables.jobs import JOB_ENERGY, TENANT_DAY
from lepton_etl.lake.tables.publication import PERIOD, PUBLICATION, RESTATEMENT
from lepton_etl.publication.changes import (
    CLOSED,
    RESTATED,
    Change,
    changes,
    closing_month,
    publication_id,
    to_append,
)
from lepton_etl.publication.reasons import changed_inputs
from lepton_etl.publication.said import INPUTS, RowKey, Said, canonical, last_said, rows_said
from lepton_etl.settings import Settings
from pipelines.marks import Marks, marks_now, model_versions
from pipelines.stage import StageContext, StageResult

PUBLISHED: Final = (CLUSTER_DAY, TENANT_DAY, JOB_ENERGY, KPI)


@dataclass(frozen=True)
class Press:
    """Where and for whom is published."""

    root: Path
    settings: Settings
    run_id: str


def run(context: StageContext) -> StageResult:
    """Publish the context's days."""
    root = context.lake.root
    press = Press(root, context.settings, context.run_id)
    context.lake.inputs.update(_versions(root))
    said, restated = publish(press, context.days)
    written = tuple(
        Written(table.name, len(rows), plain.version(root, table) or 0, changed=bool(rows))
        for table, rows in ((PUBLICATION, said), (RESTATEMENT, restated))
    )
    return StageResult(len(said), len(said) + len(restated), written, _notes(restated))


def publish(press: Press, days: Days) -> tuple[list[Said], list[Change]]:
    """Append what changed of the days since it was last said; the rows and the restated figures."""
    said, last = _said_now(press, days), last_words(press.root, days)
    marks = marks_now(press.root, press.settings, days)
    inputs = [_inputs(press, day, marks[day]) for day in days if any(one.date == day for one in said)]
    rows = to_append([*said, *inputs], last, closed_months(press))
    reasons = {day: changed_inputs(_marks_said(press, day, last), marks[day]) for day in days}
    restated = list(changes(rows, last, _for_all(reasons, rows), press.settings.restate))
    append(press, rows, last, restated)
    _reopen_periods(press, rows)
    return rows, restated


def append(
    press: Press, rows: Sequence[Said], last: Mapping[RowKey, Said], restated: Sequence[Change] = ()
) -> None:
    """Append rows as one publication with the figures that it restates; no rows, no commit."""
    if not rows:
        return
    name, now = publication_id(rows, last), dt.datetime.now(dt.UTC)
    metadata = {"run_id": press.run_id, "publication_id": name}
    common = {"publication_id": name, "published_time": now}
    versions = json.dumps(_versions(press.root), sort_keys=True)
    of_run = {
        "input_versions": versions,
        "factor_set_version": load_factors(press.settings.carbon.factors).version,
        "code_version": code_version(),
        "run_id": press.run_id,
    }
    span = Days(min(one.date for one in rows), max(one.date for one in rows))
    if not _is_restated(press.root, name, span):
        plain.append(press.root, RESTATEMENT, [common | _restatement(one) for one in restated], metadata)
    models = model_versions(press.root, press.settings.model.name, span)
    said = [common | of_run | _publication(one) | {"model_version": models.get(one.date)} for one in rows]
    plain.append(press.root, PUBLICATION, said, metadata)


def last_words(root: Path, days: Days) -> dict[RowKey, Said]:
    """The last word on each row that a publication of these days covers."""
    found: dict[RowKey, Said] = {}
    for name in (INPUTS, *(table.name for table in PUBLISHED)):
        for span in _spans(name, days):
            found |= last_said(plain.read(root, PUBLICATION, span, pc.field("table_name") == name))
    return found


def closed_months(press: Press) -> frozenset[str]:
    """The months of the site that were closed."""
    rows = plain.read(press.root, PERIOD)
    own = rows.filter(pc.equal(rows["site_id"], press.settings.site.site_id))
    return frozenset(own["month"].to_pylist())


def _said_now(press: Press, days: Days) -> list[Said]:
    return [
        said
        for table in PUBLISHED
        for span in _spans(table.name, days)
        for said in rows_said(table, plain.read(press.root, table, span))
    ]


def _spans(name: str, days: Days) -> list[Days]:
    """The days, and for KPIs the first days of their months and years, under which those periods stand."""
    if name != KPI.name:
        return [days]
    firsts = {first for day in days for first in (day.replace(day=1), day.replace(month=1, day=1))}
    return [days, *(Days.of(first) for first in sorted(firsts - set(days)))]


def _inputs(press: Press, day: dt.date, marks: Marks) -> Said:
    key = canonical({"site_id": press.settings.site.site_id, "date": day})
    return Said(INPUTS, key, day, canonical(marks))


def _marks_said(press: Press, day: dt.date, last: Mapping[RowKey, Said]) -> Marks | None:
    before = last.get(_inputs(press, day, {}).row)
    return before.values() if before else None


def _for_all(
    reasons: Mapping[dt.date, tuple[str, ...]], rows: Iterable[Said]
) -> dict[dt.date, tuple[str, ...]]:
    """A figure of a month or a year changes for the reasons of any of its days."""
    every = tuple(dict.fromkeys(reason for found in reasons.values() for reason in found))
    return {one.date: reasons.get(one.date, every) for one in rows}


def _publication(one: Said) -> dict[str, Any]:
    return {
        "table_name": one.table,
        "row_key": one.key,
        "date": one.date,
        "status": one.status,
        "figures": one.figures,
        "row_hash": one.row_hash,
    }


def _restatement(one: Change) -> dict[str, Any]:
    return {
        "table_name": one.row.table,
        "row_key": one.row.key,
        "date": one.row.date,
        "status": one.row.status,
        "column_name": one.column,
        "old_value": None if one.old is None else json.dumps(one.old, sort_keys=True),
        "new_value": None if one.new is None else json.dumps(one.new, sort_keys=True),
        "change_ratio": one.ratio,
        "reasons": ",".join(one.reasons),
        "materiality": "material" if one.material else "immaterial",
    }


def _is_restated(root: Path, name: str, days: Days) -> bool:
    """Whether an earlier attempt has written this publication's restatements."""
    return name in plain.read(root, RESTATEMENT, days)["publication_id"].to_pylist()


def _reopen_periods(press: Press, rows: Iterable[Said]) -> None:
    """Mark closed months of which a row was said anew as restated."""
    touched = {(one.table, closing_month(one)) for one in rows if one.status == RESTATED}
    site_id, now = press.settings.site.site_id, dt.datetime.now(dt.UTC)
    changed = [
        row | {"status": RESTATED, "restated_time": now}
        for row in plain.read(press.root, PERIOD).to_pylist()
        if row["site_id"] == site_id and (row["table_name"], row["month"]) in touched
    ]
    if changed:
        plain.replace_keyed(press.root, PERIOD, changed, {"run_id": press.run_id})


def _versions(root: Path) -> dict[str, int]:
    """Every silver and gold table's version; publication's own tables are no input."""
    own = (PUBLICATION, RESTATEMENT, PERIOD)
    found = {
        name: plain.version(root, table)
        for name, table in TABLES.items()
        if name.startswith(("silver/", "gold/")) and table not in own
    }
    return {name: version for name, version in found.items() if version is not None}


def _notes(restated: Sequence[Change]) -> tuple[str, ...]:
    if not restated:
        return ()
    days = sorted({one.row.date for one in restated})
    why = sorted({reason for one in restated for reason in one.reasons})
    late = sum(one.row.status in (CLOSED, RESTATED) for one in restated)
    closed = f", {late} of them in closed months" if late else ""
    return (
        f"{len(restated)} figures restated on {', '.join(map(str, days[:5]))}"
        f"{', ...' if len(days) > 5 else ''}{closed} (why: {', '.join(why)}); see gold/restatement",
    )
