"""Append to gold/publication and gold/restatement what gold says of the days, where it changed.

A re-run of equal rows appends nothing. The rows of a publication and what they rest on (table `inputs`) are
one commit; the restatements go before it under the publication's own name, so a run that was cut in between
writes them once.

A night makes the days asked for, and those made before that something new reaches: files whose readings or
jobs were loaded since the last published night, and rows of the inventory, the meters, the tariff, the
instruments, Scope 1 or the factors that differ from what a day's last publication rested on. Nothing else is
touched. Here is also told which status the months closed so far give a row, and how a month is closed.
Source: docs/operations.md, "Running again" and "Figures as published, and closing a month".
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.billing.bill import month_days
from lepton_etl.billing.tariff import read_tariff
from lepton_etl.carbon.used_factors import site_factors
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days, adjoining
from lepton_etl.errors import NoInputError
from lepton_etl.lake.file_register import FileRegister
from lepton_etl.lake.lease import DaysLease, Lease
from lepton_etl.lake.nights import name_night
from lepton_etl.lake.rows import checked
from lepton_etl.lake.runs import code_version, follow_clock, last_published_batch, new_run_id, recorded_models
from lepton_etl.lake.tables import Lake, Written, present_rows, read_log
from lepton_etl.publication.changes import (
    CLOSED,
    RESTATED,
    Change,
    changed_inputs,
    changes,
    closing_month,
    month_of,
    publication_id,
    to_append,
    to_close,
)
from lepton_etl.publication.input_digests import DatedRow, dated_rows, mark, marks_by_day
from lepton_etl.publication.published_rows import (
    INPUTS,
    RowKey,
    Said,
    canonical,
    last_said,
    rows_said,
    standing,
)
from lepton_etl.publication.row_status import with_life
from lepton_etl.registers.factors import FactorSet
from lepton_etl.registers.instruments import read_instruments, read_scope1
from lepton_etl.registers.inventory import read_meters, read_nodes
from lepton_etl.schema.carbon import INSTRUMENT, KPI, SCOPE1, VOLUME_INTERVAL
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.facility import FACILITY_FIT
from lepton_etl.schema.fleet import (
    FACILITY_INTERVAL,
    GRID_HOUR,
    INTERVAL,
    METER,
    NODE,
    TRANSFER_INTERVAL,
    WEATHER_HOUR,
)
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN, TENANT_DAY
from lepton_etl.schema.ledger import TARIFF
from lepton_etl.schema.logs import JOB
from lepton_etl.schema.operations import NIGHT
from lepton_etl.schema.publication import PERIOD, PUBLICATION, RESTATEMENT
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.types import arrow_schema
from lepton_etl.trust.chain import Event, record
from pipelines.stage import StageContext, StageResult

# A change of these re-opens the days made before that lie in the changed rows' validity.
DATED: Final = ("inventory", "meters", "tariff", "instruments", "scope1", "factors")
_DELIVERED: Final[Mapping[str, tuple[Table, ...]]] = {
    "late_readings": (INTERVAL, TRANSFER_INTERVAL),
    "late_jobs": (JOB_RUN, JOB_NODE),
    "intensity": (GRID_HOUR,),
    "weather": (WEATHER_HOUR,),
    "meter_readings": (FACILITY_INTERVAL, VOLUME_INTERVAL),
}

# Where silver keeps the dated rows of the settings' files.
_REGISTERS: Final[Mapping[str, Table]] = {
    "inventory": NODE,
    "meters": METER,
    "tariff": TARIFF,
    "instruments": INSTRUMENT,
    "scope1": SCOPE1,
}

Marks = dict[str, str]
# How long a run waits for another one that is just publishing.
_PUBLISHING_S: Final = 600.0


def marks_now(lake: Lake, settings: Settings, days: Iterable[dt.date]) -> dict[dt.date, Marks]:
    """Day -> reason -> mark of what the figures just made rest on; dated rows as silver took them."""
    wanted = list(days)
    rows = {name: lake.arrow(table) for name, table in _REGISTERS.items()}
    dated = _dated(rows, site_factors(settings.carbon), wanted)
    delivered = {name: [lake.files_by_day(table) for table in tables] for name, tables in _DELIVERED.items()}
    whole = {"settings": mark(settings.digest), "code": code_version()}
    models = model_versions(lake, settings.model.name, Days(min(wanted), max(wanted))) if wanted else {}
    found = {}
    for day in wanted:
        arrived = {
            name: mark(*(files.get(day.isoformat()) for files in tables))
            for name, tables in delivered.items()
        }
        of_day = {name: marks[day] for name, marks in dated.items()} | {"model": mark(models.get(day))}
        found[day] = whole | arrived | of_day
    return found


def model_versions(lake: Lake, imputation: str, days: Days) -> dict[dt.date, str]:
    """Day -> the models that its figures may rest on: the registry's version that fills gaps, the facility's fits.

    A fit is named by a hash of what it was fitted to.
    """
    columns = ("site_id", "parameters_json", "fitted_from", "fitted_until", "accepted")
    rows = lake.arrow(FACILITY_FIT, days).sort_by("site_id").to_pylist()
    found: dict[dt.date, list[str]] = {}
    for row in rows:
        if row["accepted"]:
            found.setdefault(row["date"], []).append(canonical({name: row[name] for name in columns}))
    fits = {day: [f"facility_fit {mark(*said)}"] for day, said in found.items()}
    filled = recorded_models(lake, imputation, days)
    of_gaps = {day: [f"{imputation} {version}"] for day, version in filled.items() if version}
    return {day: "; ".join([*of_gaps.get(day, ()), *fits.get(day, ())]) for day in sorted({*fits, *of_gaps})}


def marks_of_files(settings: Settings, days: Iterable[dt.date]) -> dict[dt.date, Marks]:
    """Day -> reason of DATED -> mark, as the files of the settings stand. Raises ConfigurationError."""
    wanted, factors = list(days), site_factors(settings.carbon)
    dated = _dated(_of_files(settings, factors), factors, wanted)
    return {day: {name: marks[day] for name, marks in dated.items()} for day in wanted}


def _of_files(settings: Settings, factors: FactorSet) -> dict[str, pa.Table]:
    """The rows of _REGISTERS as the files of the settings have them; empty where the settings name none."""
    site_id, carbon = settings.site.site_id, settings.carbon
    found = {"inventory": read_nodes(settings.fleet.inventory, site_id)}
    if settings.facility.meters:
        found["meters"] = read_meters(settings.facility.meters, site_id)
    if settings.tariff.file:
        found["tariff"] = read_tariff(settings.tariff.file, site_id)
    if carbon.instruments:
        found["instruments"] = read_instruments(carbon.instruments, site_id)
    if carbon.scope1:
        found["scope1"] = read_scope1(carbon.scope1, site_id, factors, carbon.gwp_set)
    return {name: found.get(name, arrow_schema(table).empty_table()) for name, table in _REGISTERS.items()}


def _dated(
    tables: Mapping[str, pa.Table], factors: FactorSet, days: list[dt.date]
) -> dict[str, dict[dt.date, str]]:
    found = {name: marks_by_day(dated_rows(rows), days) for name, rows in tables.items()}
    return found | {"factors": marks_by_day(_factor_rows(factors), days)}


def _factor_rows(factors: FactorSet) -> list[DatedRow]:
    """What each table answers for each key, by the days for which it does: an older row stands for days of its own."""
    one_day = dt.timedelta(days=1)
    return [
        DatedRow(
            canonical({"table": name, "key": key, "value": factor.value, "unit": factor.unit}),
            first,
            end - one_day if end else None,
        )
        for name, key, factor, first, end in factors.spans()
    ]


# What names a delivery and not its content.
_OF_DELIVERY: Final = ("source_name", "file_id", "source_position", "ingest_time", "ingest_date")


def dirty_days(lake: Lake, settings: Settings, days: Days, waiting: Collection[date] = ()) -> list[Days]:
    """The asked days, and the days made before that new files and changed rows reach; and days that wait.

    Adjoining days are one range, in time order; those that wait are ranges of their own, so that one that fails again
    stops none of the others. Raises ConfigurationError for a wrong inventory, meters, tariff or
    factor file.
    """
    made = made_days(lake)
    batch = last_published_batch(lake)
    reopened = _of_spans(made, _reading_spans(lake, batch, settings.energy.max_gap_s))
    reopened |= _of_spans(made, _job_spans(lake, batch, made))
    reopened |= _remarked(lake, settings, made)
    touched = {*days, *reopened, *(made & _ends_of_runs(lake, reopened))}
    ranges = [*adjoining(sorted(waiting)), *adjoining(sorted(touched - set(waiting)))]
    return sorted(ranges, key=lambda one: one.start)


def made_days(lake: Lake) -> set[date]:
    """Days that an earlier night published."""
    return {date.fromisoformat(day) for day in lake.partitions(NODE_HOUR)}


def _of_spans(made: set[date], spans: Iterable[tuple[date, date]]) -> set[date]:
    return {day for first, last in set(spans) for day in made if first <= day <= last}


def _reading_spans(lake: Lake, batch: int, gap_s: float) -> Iterator[tuple[date, date]]:
    """UTC days of [first reading - gap, last reading + gap] of each file that came after the batch."""
    fresh = FileRegister(lake).since(batch, ["first_reading_time", "last_reading_time"])
    margin = timedelta(seconds=gap_s)
    for first, last in fresh.unique().iter_rows():
        if first and last:
            yield (first - margin).date(), (last + margin).date()


def _job_spans(lake: Lake, batch: int, made: set[date]) -> Iterator[tuple[date, date]]:
    """UTC days of [start, end] of each job that came after the batch and says something that no earlier file said.

    A job without an end runs until the last day made.
    """
    files = FileRegister(lake).since(batch, ["file_id", "jobs"])
    fresh = files.filter(pl.col("jobs") > 0)["file_id"].unique()
    if fresh.is_empty() or not lake.exists(JOB):
        return
    said, jobs = [name for name in JOB.columns if name not in _OF_DELIVERY], lake.log(JOB)
    is_fresh = pc.field("file_id").isin(fresh.to_list())
    new = read_log(JOB, jobs, None, said, is_fresh)
    same_jobs = ~is_fresh & pc.field("job_id").isin(new["job_id"].unique().to_list())
    known = read_log(JOB, jobs, None, said, same_jobs)
    news = new.join(known, on=said, how="anti", nulls_equal=True)
    latest = max(made, default=datetime.now(UTC).date())
    for first, last in news.select("start_time", "end_time").unique().iter_rows():
        if first is not None:
            yield first.date(), last.date() if last is not None else max(latest, first.date())


def _ends_of_runs(lake: Lake, days: set[date]) -> set[date]:
    """The days on which the runs of these days ended: the figure of a whole run stands there."""
    parts = [lake.read(JOB_RUN, Days.of(day), columns=["end_time"]) for day in sorted(days)]
    if not parts:
        return set()
    ends = pl.concat(parts)["end_time"].drop_nulls() - timedelta(microseconds=1)
    return set(ends.dt.date().to_list())


def _remarked(lake: Lake, settings: Settings, made: set[date]) -> set[date]:
    """The days made whose dated rows are not those that their last publication rested on.

    A day that an older release made says nothing about them and stays as it is.
    """
    if not made:
        return set()
    rows = lake.arrow(PUBLICATION, where=pc.field("table_name") == INPUTS)
    site = f'"site_id":"{settings.site.site_id}"'
    published = {
        one.date: one.values() for one in last_said(rows).values() if one.date in made and site in one.key
    }
    found = marks_of_files(settings, sorted(published))
    return {
        day
        for day, before in published.items()
        if any(name in before and before[name] != found[day][name] for name in DATED)
    }


def with_status(
    context: StageContext, table: Table, rows: pl.DataFrame, days: Days | None = None
) -> pl.DataFrame:
    """Rows of a published gold table with `status` by closed months and the rows that stand.

    All rows of the days (default: the context's), as `lake.replace` takes them.
    """
    days = days or context.days
    closed = closed_months(Press(context.lake, context.settings, context.run_id))
    if not {month_of(day) for day in days} & closed:
        return rows
    fresh = checked(table, rows.to_arrow())
    context.lake.ensure(table)
    present = present_rows(table, context.lake.log(table), days)
    return pl.DataFrame(with_life(fresh, present, table.key, closed))


@dataclass(frozen=True)
class Close:
    """A month that is closed: when, and how many rows of each table."""

    month: str
    closed_time: datetime
    rows: dict[str, int]
    already: bool


def close_month(settings: Settings, month: str) -> Close:
    """Close a month: its rows are published as closed, gold says so, gold/period names their content.

    Without Spark. Closing twice changes nothing. Raises NoInputError where a day of the month was not published,
    LockedError where a night makes one of its days.
    """
    lake = Lake.of(settings)
    follow_clock(lake)
    run_id = new_run_id(lake.now())
    lake.metadata = {"run_id": run_id, "stage": "close"}
    press = Press(lake, settings, run_id)
    days = Days(*month_days(month))
    with (
        DaysLease(lake, [days], press.run_id),
        Lease(lake, "publication", press.run_id, wait_s=_PUBLISHING_S),
    ):
        rows = [
            row
            for row in lake.arrow(PERIOD).to_pylist()
            if (row["site_id"], row["month"]) == (settings.site.site_id, month)
        ]
        if rows:
            counts = {row["table_name"]: row["row_count"] for row in rows}
            return Close(month, rows[0]["closed_time"], counts, already=True)
        last = last_said(lake.arrow(PUBLICATION, days))
        _require_all_days(days, [one.date for one in standing(last.values(), CLUSTER_DAY.name)])
        append(press, to_close(last, month), last)
        for table in PUBLISHED:
            _stamp(press, table, days, month)
        closed = _period_rows(press, month, list(last.values()))
        lake.replace_keyed(PERIOD, closed)
        counts = {row["table_name"]: row["row_count"] for row in closed}
        if lake.exists(NIGHT):
            name_night(lake, days, press.run_id, only_named=True)
        record(lake, settings.audit, run_id, Event("close", month, detail={"rows": counts}))
        return Close(month, closed[0]["closed_time"], counts, already=False)


def _require_all_days(days: Days, said: list[date]) -> None:
    missing = sorted(set(days) - set(said))
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise NoInputError(
            f"{len(missing)} days of the month were never published: {shown}",
            where=f"close {days}",
            remedy="run their nights first; nothing was closed",
        )


def _stamp(press: Press, table: Table, days: Days, month: str) -> None:
    """Set the status of the month's gold rows, in their own days."""
    if not press.lake.exists(table):
        return
    rows = press.lake.arrow(table, days)
    press.lake.replace(table, days, with_life(rows, rows, table.key, (month,)), allow_empty=True)


def _period_rows(press: Press, month: str, last: list[Said]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for table in PUBLISHED:
        rows = [one for one in standing(last, table.name) if closing_month(one) == month]
        if rows:
            digest = sha256("".join(one.row_hash for one in sorted(rows, key=lambda one: one.key)).encode())
            found.append(
                {
                    "site_id": press.settings.site.site_id,
                    "month": month,
                    "table_name": table.name,
                    "status": CLOSED,
                    "closed_time": press.lake.now(),
                    "restated_time": None,
                    "row_count": len(rows),
                    "content_hash": digest.hexdigest(),
                    "run_id": press.run_id,
                }
            )
    return found


PUBLISHED: Final = (CLUSTER_DAY, TENANT_DAY, JOB_ENERGY, KPI)


@dataclass(frozen=True)
class Press:
    """Where and for whom is published."""

    lake: Lake
    settings: Settings
    run_id: str


def run(context: StageContext) -> StageResult:
    """Publish the context's days."""
    lake = context.lake
    press = Press(lake, context.settings, context.run_id)
    versions = _versions(lake)
    lake.inputs.update(versions)
    said, restated = publish(press, context.days, versions)
    written = tuple(
        Written(table.name, len(rows), lake.version(table) or 0, changed=bool(rows))
        for table, rows in ((PUBLICATION, said), (RESTATEMENT, restated))
    )
    return StageResult(len(said), len(said) + len(restated), written, _notes(restated))


def publish(
    press: Press, days: Days, versions: Mapping[str, int] | None = None
) -> tuple[list[Said], list[Change]]:
    """Append what changed of the days since it was last said; the rows and the restated figures.

    `versions` are those of the tables that it is said from, where they are known. One run publishes at a time: months
    and years, of which others say something too, are read and said as one step.
    """
    with Lease(press.lake, "publication", press.run_id, wait_s=_PUBLISHING_S):
        return _publish(press, days, versions)


def _publish(
    press: Press, days: Days, versions: Mapping[str, int] | None = None
) -> tuple[list[Said], list[Change]]:
    said, last = _said_now(press, days), last_words(press.lake, days)
    marks = marks_now(press.lake, press.settings, days)
    inputs = [_inputs(press, day, marks[day]) for day in days if any(one.date == day for one in said)]
    rows = to_append([*said, *inputs], last, closed_months(press))
    reasons = {day: changed_inputs(_marks_said(press, day, last), marks[day]) for day in days}
    restated = list(changes(rows, last, _for_all(reasons, rows), press.settings.restate))
    append(press, rows, last, restated, versions)
    _reopen_periods(press, rows)
    return rows, restated


def append(
    press: Press,
    rows: Sequence[Said],
    last: Mapping[RowKey, Said],
    restated: Sequence[Change] = (),
    versions: Mapping[str, int] | None = None,
) -> None:
    """Append rows as one publication with the figures that it restates; no rows, no commit."""
    if not rows:
        return
    name, now = publication_id(rows, last), press.lake.now()
    lake = press.lake.saying({"run_id": press.run_id, **press.lake.metadata, "publication_id": name})
    common = {"publication_id": name, "published_time": now}
    of_run = {
        "input_versions": json.dumps(versions or _versions(press.lake), sort_keys=True),
        "factor_set_version": site_factors(press.settings.carbon).version,
        "code_version": code_version(),
        "run_id": press.run_id,
    }
    span = Days(min(one.date for one in rows), max(one.date for one in rows))
    if not _is_restated(press.lake, name, span):
        lake.write_rows(RESTATEMENT, [common | _restatement(one) for one in restated])
    models = model_versions(press.lake, press.settings.model.name, span)
    said = [common | of_run | _publication(one) | {"model_version": models.get(one.date)} for one in rows]
    lake.write_rows(PUBLICATION, said)


def last_words(lake: Lake, days: Days) -> dict[RowKey, Said]:
    """The last word on each row that a publication of these days covers."""
    found: dict[RowKey, Said] = {}
    for name in (INPUTS, *(table.name for table in PUBLISHED)):
        for span in _spans(name, days):
            found |= last_said(lake.arrow(PUBLICATION, span, pc.field("table_name") == name))
    return found


def closed_months(press: Press) -> frozenset[str]:
    """The months of the site that were closed."""
    rows = press.lake.arrow(PERIOD)
    own = rows.filter(pc.equal(rows["site_id"], press.settings.site.site_id))
    return frozenset(own["month"].to_pylist())


def _said_now(press: Press, days: Days) -> list[Said]:
    return [
        said
        for table in PUBLISHED
        for span in _spans(table.name, days)
        for said in rows_said(table, press.lake.arrow(table, span))
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


def _is_restated(lake: Lake, name: str, days: Days) -> bool:
    """Whether an earlier attempt has written this publication's restatements."""
    return name in lake.arrow(RESTATEMENT, days)["publication_id"].to_pylist()


def _reopen_periods(press: Press, rows: Iterable[Said]) -> None:
    """Mark closed months of which a row was said anew as restated."""
    touched = {(one.table, closing_month(one)) for one in rows if one.status == RESTATED}
    if not touched:
        return
    press.lake.swapped([PERIOD], lambda: _restate_periods(press, touched))


def _restate_periods(press: Press, touched: set[tuple[str, str | None]]) -> None:
    site_id, now = press.settings.site.site_id, press.lake.now()
    changed = [
        row | {"status": RESTATED, "restated_time": now}
        for row in press.lake.arrow(PERIOD).to_pylist()
        if row["site_id"] == site_id and (row["table_name"], row["month"]) in touched
    ]
    if changed:
        press.lake.replace_keyed(PERIOD, changed)


def _versions(lake: Lake) -> dict[str, int]:
    """Every silver and gold table's version; publication's own tables are no input."""
    own = (PUBLICATION, RESTATEMENT, PERIOD)
    found = {
        name: lake.version(table)
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
