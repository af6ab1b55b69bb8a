"""Gate: bronze and silver of the run's days are judged before gold is made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from lepton_etl.days import Days
from lepton_etl.errors import QualityGateError
from lepton_etl.lake.file_register import FileRegister
from lepton_etl.lake.location import Location
from lepton_etl.lake.tables import Lake, verified
from lepton_etl.models.registry import import_ahead
from lepton_etl.quality.gate import GATED, verdict, write_docs
from lepton_etl.quality.rules import GateOutcome, TableRules, load_rules
from lepton_etl.schema.declare import Table
from lepton_etl.schema.logs import FILE, REJECT
from pipelines.stage import Read, StageContext, StageResult

_SHOWN: Final = 3
# Rules of conf/expectations about rejects: where one does not hold, their reasons are named.
_OF_REJECTS: Final = {
    "few_rejects",
    "few_rejects_of_a_source",
    "few_rejects_in_a_file",
    "no_file_is_discarded",
}


def run(context: StageContext) -> StageResult:
    """Judge the slices of the days; warnings become notes.

    Raises QualityGateError where a `fail` does not hold: bronze and silver stay, gold is not touched.
    """
    quality, days = context.settings.quality, context.days
    rules = load_rules(quality.expectations)
    docs = docs_folder(quality.docs, days)
    work = _Judging(context.lake.root, days, rules, docs, quality.project or quality.docs)
    judged, pages = context.engine.aside(work), context.engine.aside(partial(write_docs, docs))
    if context.engine.has_aside:
        import_ahead()
    read = judged()
    found = read.made
    context.lake.inputs |= read.versions
    for outcome in (*found.failures, *found.warnings):
        context.log.warning(
            "expectation not met",
            table=outcome.table,
            check=outcome.check,
            severity=outcome.severity,
            observed=outcome.observed,
            expected=outcome.expected,
        )
    broken = {outcome.check for outcome in (*found.failures, *found.warnings)}
    worst = worst_reasons(context.lake, days) if broken & _OF_REJECTS else []
    if found.failures:
        raise _error(replace(found, docs=pages()), days, docs, worst)
    notes = [f"warning: {outcome}" for outcome in found.warnings]
    notes += [f"rejects of {line}" for line in worst]
    # The verdict waits for no page that another process writes.
    beside = partial(_written, pages, docs) if context.engine.has_aside else None
    notes += () if beside else _written(pages, docs)
    return StageResult(rows_in=sum(found.rows.values()), notes=tuple(notes), beside=beside)


def _written(pages: Callable[[], Path | None], docs: Path) -> tuple[str, ...]:
    """Wait for the Data Docs; what is amiss with them, for the operator."""
    return () if pages() else (f"warning: the Data Docs could not be written to {docs}",)


@dataclass(frozen=True)
class _Judging:
    """The judging, by whoever can reach the lake."""

    root: Location
    days: Days
    rules: Mapping[str, TableRules]
    docs: Path
    project: Path

    def __call__(self) -> Read[GateOutcome]:
        lake = Lake(self.root)
        return Read(verdict(slices(lake, self.days), self.rules, self.docs, self.project), lake.inputs)


def docs_folder(docs: Path, days: Days) -> Path:
    """The folder of the Data Docs of these days: `<docs>/2025-06-03`, or `<docs>/2025-06-03_2025-06-05`."""
    return docs / (str(days.start) if days.count == 1 else f"{days.start}_{days.end}")


def slices(lake: Lake, days: Days) -> dict[str, pads.Dataset]:
    """Table name -> the rows that this run publishes from; tables that do not exist are left out."""
    return {table.name: _slice(lake, table, days) for table in GATED if lake.exists(table)}


def _slice(lake: Lake, table: Table, days: Days) -> pads.Dataset:
    log = lake.log(table)
    lake.inputs[table.name] = log.version()
    if table is FILE:
        where = files_of(lake, days)
        return verified(table, log, where=where).filter(where)
    return verified(table, log, days).filter(within(days))


def within(days: Days) -> pc.Expression:
    """The rows of the days."""
    return (pc.field("date") >= pa.scalar(days.start)) & (pc.field("date") <= pa.scalar(days.end))


def files_of(lake: Lake, days: Days) -> pc.Expression:
    """The files whose readings touch the days, and those of the newest batch without one.

    A file without readings belongs to no day; judged with its batch it warns once, not every night.
    """
    first, last, batch = map(pc.field, ("first_reading_time", "last_reading_time", "batch"))
    begins, ends = (pa.scalar(time, pa.timestamp("us", "UTC")) for time in (days.from_time, days.until_time))
    touched = (first < ends) & (last >= begins)
    return touched | (first.is_null() & (batch == FileRegister(lake).last_batch()))


def worst_reasons(lake: Lake, days: Days) -> list[str]:
    """Say of each source the commonest reasons of its rejects in the files of the days, the worst source first."""
    files = lake.read(FILE, columns=["file_id", "source_name", "rejects"], where=files_of(lake, days))
    lost = files.filter(pl.col("rejects") > 0)
    rejects = lake.read(
        REJECT, columns=["source_name", "reason"], where=pc.field("file_id").isin(lost["file_id"].to_list())
    )
    reasons = (
        rejects.group_by("source_name", "reason")
        .len("count")
        .sort("count", "reason", descending=[True, False])
    )
    by_source = reasons.group_by("source_name").agg(
        pl.concat_str("count", "reason", separator=" ").head(_SHOWN), pl.col("count").sum().alias("all")
    )
    worst = by_source.sort("all", "source_name", descending=[True, False]).head(_SHOWN)
    return [
        f"{source}: {', '.join(said)}" for source, said in worst.select("source_name", "count").iter_rows()
    ]


def _error(found: GateOutcome, days: Days, docs: Path, worst: Sequence[str]) -> QualityGateError:
    shown = [str(outcome) for outcome in found.failures[:_SHOWN]]
    more = len(found.failures) - len(shown)
    if more:
        shown.append(f"and {more} more")
    shown += [f"rejects of {line}" for line in worst]
    pages = f"see {found.docs}" if found.docs else f"(no Data Docs: {docs} cannot be written)"
    return QualityGateError(
        "; ".join(shown),
        where=f"stopped at gate before gold for {days}",
        remedy=f"{pages}; bronze and silver are kept: mend the source or the rule and run again",
    )
