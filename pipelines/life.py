"""Gold rows with the status that the months closed so far give them; and the close of a month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any

from pyspark.sql import DataFrame

from lepton_etl.days import Days
from lepton_etl.errors import NoInputError
from lepton_etl.lake import few, plain
from lepton_etl.lake.lease import leases
from lepton_etl.lake.runs import new_run_id
from lepton_etl.lake.schema import spark_schema
from lepton_etl.lake.tables import CLUSTER_DAY, Table
from lepton_etl.lake.tables.publication import PERIOD, PUBLICATION
from lepton_etl.ledger.invoices import month_days
from lepton_etl.publication.changes import CLOSED, closing_month, month_of, to_close
from lepton_etl.publication.life import with_life
from lepton_etl.publication.said import Said, last_said, standing
from lepton_etl.settings import Settings
from pipelines.publish import PUBLISHED, Press, append, closed_months
from pipelines.stage import StageContext


def with_status(context: StageContext, table: Table, rows: DataFrame, days: Days | None = None) -> DataFrame:
    """Rows of a published gold table with `status` by closed months and the rows that stand.

    All rows of the days (default: the context's), as `lake.replace_few` takes them.
    """
    root, days = context.lake.root, days or context.days
    closed = closed_months(Press(root, context.settings, context.run_id))
    if not {month_of(day) for day in days} & closed:
        return rows
    fresh = few.checked(table, rows.toArrow())
    context.lake.ensure(table)
    present = few.present(table, context.lake.log(table), days)
    lived = with_life(fresh, present, table.key, closed)
    return context.lake.spark.createDataFrame(lived, spark_schema(table))


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
    root, press = settings.lake.root, Press(settings.lake.root, settings, new_run_id())
    days = Days(*month_days(month))
    with leases(root, [f"day-{day}" for day in days], press.run_id):
        rows = [
            row
            for row in plain.read(root, PERIOD).to_pylist()
            if (row["site_id"], row["month"]) == (settings.site.site_id, month)
        ]
        if rows:
            counts = {row["table_name"]: row["row_count"] for row in rows}
            return Close(month, rows[0]["closed_time"], counts, already=True)
        last = last_said(plain.read(root, PUBLICATION, days))
        _require_all_days(days, [one.date for one in standing(last.values(), CLUSTER_DAY.name)])
        append(press, to_close(last, month), last)
        for table in PUBLISHED:
            _stamp(press, table, days, month)
        closed = _period_rows(press, month, list(last.values()))
        plain.replace_keyed(root, PERIOD, closed, {"run_id": press.run_id})
        counts = {row["table_name"]: row["row_count"] for row in closed}
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
    if not plain.exists(press.root, table):
        return
    rows = plain.read(press.root, table, days)
    plain.replace_days(
        press.root, table, days, with_life(rows, rows, table.key, (month,)), {"run_id": press.run_id}
    )


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
                    "closed_time": datetime.now(UTC),
                    "restated_time": None,
                    "row_count": len(rows),
                    "content_hash": digest.hexdigest(),
                    "run_id": press.run_id,
                }
            )
    return found
