"""`lepton-etl figures` and `close`: figures as they were published at a time, and the close of a month. No Spark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import pyarrow as pa
import typer

from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from lepton_etl.lake.tables import Lake

_MONTH: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_DEFAULT_TABLE: Final = "gold/cluster_day"
_Config = Annotated[Path, typer.Option(help="Settings file of the site (YAML).")]
_Date = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only figures of this UTC day.")]


def figures(
    config: _Config,
    as_of: Annotated[str, typer.Option(help="UTC time such as 2025-07-01T06:00; of a day its end.")],
    table: Annotated[str, typer.Option(help="A published table.")] = _DEFAULT_TABLE,
    date: _Date = None,
    until: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last UTC day.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="Only these columns; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Print at most this many rows.")] = 40,
    csv: Annotated[bool, typer.Option("--csv", help="Print all columns as CSV.")] = False,
) -> None:
    """Show figures as they were published at a given time, from gold/publication alone."""
    from lepton_etl.cli.tables import show_rows
    from lepton_etl.config.settings import load
    from lepton_etl.lake.tables import Lake

    days = Days.of(date.date(), until.date() if until else None) if date else None
    moment = moment_of(as_of)
    declared, rows = figures_as_of(Lake.of(load(config)), table, moment, days)
    show_rows(
        declared,
        rows,
        column,
        limit,
        as_csv=csv,
        title=f"{table} as published by {moment:%Y-%m-%d %H:%M:%SZ}",
    )


def close(
    config: _Config, month: Annotated[str, typer.Option(help="Calendar month such as 2025-06.")]
) -> None:
    """Close a month: every later change of its figures is recorded as a restatement."""
    from lepton_etl.config.settings import load
    from pipelines.publish import close_month

    if not _MONTH.fullmatch(month):
        raise ConfigurationError(f"--month {month!r} is not a month", where="close", remedy="such as 2025-06")
    done = close_month(load(config), month)
    counts = ", ".join(f"{count} rows of {name}" for name, count in done.rows.items())
    word = "was closed already" if done.already else "is closed"
    typer.echo(f"{month} {word} ({done.closed_time:%Y-%m-%d %H:%M:%SZ}): {counts}")


def moment_of(text: str) -> datetime:
    """A UTC instant of an ISO 8601 time; of a date its last instant. Raises ConfigurationError."""
    try:
        if len(text) == len("2025-07-01"):
            day = date.fromisoformat(text) + timedelta(days=1)
            return datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(microseconds=1)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--as-of {text!r} is not a time",
            where="figures",
            remedy="such as 2025-07-01 or 2025-07-01T06:00Z",
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def figures_as_of(lake: Lake, name: str, moment: datetime, days: Days | None = None) -> tuple[Any, pa.Table]:
    """The declared table and its rows as published by then. Raises ConfigurationError for a name never published."""
    import pyarrow.compute as pc

    from lepton_etl.publication.published_rows import last_said, standing
    from lepton_etl.schema.publication import PUBLICATION
    from lepton_etl.schema.tables import TABLES
    from lepton_etl.schema.types import arrow_schema

    published = [table for table in lake.partitions(PUBLICATION) if table in TABLES]
    if name not in published:
        known = f"one of {', '.join(published)}" if published else "run a night first"
        raise ConfigurationError(f"{name!r} was never published", where="figures", remedy=known)
    published_rows = (
        lake.as_published(days).read(PUBLICATION, days, where=pc.field("table_name") == name).to_arrow()
    )
    last = last_said(published_rows, moment)
    schema = arrow_schema(TABLES[name])
    rows = [
        {field.name: _typed(one.values() | {"status": one.status}, field) for field in schema}
        for one in standing(last.values(), name)
    ]
    return TABLES[name], pa.Table.from_pylist(rows, schema=schema)


def _typed(values: Mapping[str, Any], field: pa.Field) -> Any:
    """A published figure in its column's type; what was not published is null."""
    value = values.get(field.name)
    if value is not None and pa.types.is_timestamp(field.type):
        return datetime.fromisoformat(value)
    if value is not None and pa.types.is_date(field.type):
        return date.fromisoformat(value)
    return value
