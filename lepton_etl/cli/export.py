"""`lepton-etl export`: reports in formats that regulations prescribe. No Spark."""

from __future__ import annotations

import io
import json
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from lepton_etl.csv_cells import write_csv
from lepton_etl.days import Days
from lepton_etl.errors import NoInputError
from lepton_etl.redaction import redact

if TYPE_CHECKING:
    from lepton_etl.config.settings import Settings

export_app = typer.Typer(no_args_is_help=True, help="Export reports in prescribed formats; starts no Spark.")
_ENCODING: Final = "utf-8"


@export_app.callback()
def _verbs() -> None:
    """A group, so that each report has its own verb."""


@export_app.command("eu-2024-1364")
def eu_2024_1364(
    config: Annotated[Path, typer.Option(help="Settings file of the site (YAML).")],
    year: Annotated[int, typer.Option(min=2000, max=2100, help="Calendar year of the report.")],
    form: Annotated[Literal["csv", "json"], typer.Option("--format", help="csv or json.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
) -> None:
    """Export the indicators of Delegated Regulation (EU) 2024/1364 for one calendar year."""
    from lepton_etl.config.settings import load

    text = eu_text(load(config), year, form)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(redact(text), encoding=_ENCODING)


def eu_text(settings: Settings, year: int, form: str) -> str:
    """The report as CSV or JSON. Raises NoInputError where gold/kpi has no row of the year."""
    import pyarrow.compute as pc

    from lepton_etl.carbon.market import RENEWABLE
    from lepton_etl.indicators.eu_report import as_records, eu_report, in_scope, year_facts
    from lepton_etl.lake.tables import Lake
    from lepton_etl.schema.carbon import INSTRUMENT, KPI, MARKET_YEAR
    from lepton_etl.schema.energy import SITE_HOUR
    from lepton_etl.schema.fleet import WEATHER_HOUR

    lake, site_id = Lake.of(settings), settings.site.site_id
    first, whole = Days.of(date(year, 1, 1)), Days(date(year, 1, 1), date(year, 12, 31))
    published = lake.as_published(whole)
    rows = [
        row
        for row in published.read(KPI, first).to_dicts()
        if row["period"] == "year" and row["site_id"] == site_id
    ]
    if not rows:
        raise NoInputError(
            f"no KPI of {year}", where="gold/kpi", remedy="run the night of a day of that year first"
        )
    renewable = {
        row["instrument_id"] for row in lake.read(INSTRUMENT).to_dicts() if row["technology"] in RENEWABLE
    }
    balance = [
        row
        for row in published.read(MARKET_YEAR).to_dicts()
        if row["reporting_year"] == year and row["instrument_id"] in renewable
    ]
    of_site = pc.field("site_id") == site_id
    facts = year_facts(
        published.read(SITE_HOUR, whole, columns=["generator_kwh", "pv_kwh", "export_kwh"], where=of_site),
        lake.read(WEATHER_HOUR, whole, columns=["date", "outdoor_dry_bulb_temp_c"], where=of_site),
        year,
        certificates_sold=settings.kpi.onsite_certificates_sold,
    )
    declared = settings.kpi.eu
    if in_scope(declared) is False:
        typer.echo("the site is below 500 kW of installed IT power and need not report", file=sys.stderr)
    records = as_records(eu_report(rows, balance, declared, facts), site_id, year)
    return _json(records) if form == "json" else _csv(records)


def _json(records: list[dict[str, Any]]) -> str:
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"


def _csv(records: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    write_csv(text, list(records[0]), (record.values() for record in records))
    return text.getvalue()
