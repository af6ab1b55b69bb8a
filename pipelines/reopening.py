"""Which days a night makes: those asked for, and those made before that something new reaches.

New are files whose readings or jobs were loaded since the last published night, and rows of the inventory, the meters,
the tariff or the factors that differ from what a day's last publication rested on. Nothing else is touched.
Source: definitions of late files, docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.days import Days, adjoining
from lepton_etl.lake import plain
from lepton_etl.lake.runs import last_published_batch
from lepton_etl.lake.store import Lake
from lepton_etl.lake.tables import FILE, JOB, NODE_HOUR
from lepton_etl.lake.tables.publication import PUBLICATION
from lepton_etl.publication.said import INPUTS, last_said
from lepton_etl.settings import Settings
from pipelines.marks import DATED, marks_of_files

# What names a delivery and not its content.
_OF_DELIVERY: Final = ("source_name", "file_id", "source_position", "ingest_time", "ingest_date")


def dirty_days(lake: Lake, settings: Settings, days: Days) -> list[Days]:
    """The asked days, and the days made before that new files and changed rows reach.

    Adjoining days are one range, in time order. Raises ConfigurationError for a wrong inventory, meters, tariff or
    factor file.
    """
    made = made_days(lake)
    batch = last_published_batch(lake)
    touched = set(days)
    touched |= _of_spans(made, _reading_spans(lake, batch, settings.energy.max_gap_s))
    touched |= _of_spans(made, _job_spans(lake, batch, made))
    touched |= _remarked(lake, settings, made)
    return adjoining(sorted(touched))


def made_days(lake: Lake) -> set[date]:
    """Days that an earlier night published."""
    if not lake.exists(NODE_HOUR):
        return set()
    return {date.fromisoformat(str(part["date"])) for part in lake.log(NODE_HOUR).partitions()}


def _of_spans(made: set[date], spans: Iterable[tuple[date, date]]) -> set[date]:
    return {day for first, last in set(spans) for day in made if first <= day <= last}


def _reading_spans(lake: Lake, batch: int, gap_s: float) -> Iterator[tuple[date, date]]:
    """UTC days of [first reading - gap, last reading + gap] of each file that came after the batch."""
    files = lake.rows(FILE, ["batch", "first_reading_time", "last_reading_time"])
    fresh = files.filter(pc.field("batch") > batch)
    margin = timedelta(seconds=gap_s)
    for first, last in zip(
        fresh["first_reading_time"].to_pylist(), fresh["last_reading_time"].to_pylist(), strict=True
    ):
        if first and last:
            yield (first - margin).date(), (last + margin).date()


def _job_spans(lake: Lake, batch: int, made: set[date]) -> Iterator[tuple[date, date]]:
    """UTC days of [start, end] of each job that came after the batch and says something that no earlier file said.

    A job without an end runs until the last day made.
    """
    files = pl.DataFrame(lake.rows(FILE, ["batch", "file_id", "jobs"])).filter(pl.col("jobs") > 0)
    fresh = files.filter(pl.col("batch") > batch)["file_id"].unique()
    if fresh.is_empty() or not lake.exists(JOB):
        return
    said = [name for name in JOB.columns if name not in _OF_DELIVERY]
    jobs = lake.log(JOB).to_pyarrow_dataset()
    is_fresh = pc.field("file_id").isin(fresh.to_list())
    new = jobs.to_table(filter=is_fresh)
    same_jobs = ~is_fresh & pc.field("job_id").isin(pc.unique(new["job_id"]))
    columns = [name for name in said if name in new.column_names]
    known = pl.DataFrame(pa.table(jobs.to_table(filter=same_jobs, columns=columns)))
    news = pl.DataFrame(pa.table(new.select(columns))).join(known, on=columns, how="anti", nulls_equal=True)
    latest = max(made, default=datetime.now(UTC).date())
    for first, last in news.select("start_time", "end_time").unique().iter_rows():
        if first is not None:
            yield first.date(), last.date() if last is not None else max(latest, first.date())


def _remarked(lake: Lake, settings: Settings, made: set[date]) -> set[date]:
    """The days made whose dated rows are not those that their last publication rested on.

    A day that an older release made says nothing about them and stays as it is.
    """
    if not made:
        return set()
    rows = plain.read(lake.root, PUBLICATION, where=pc.field("table_name") == INPUTS)
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
