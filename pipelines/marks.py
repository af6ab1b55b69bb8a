"""What the figures of a day rest on: told from silver after a night, from the files of the settings before one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa

from lepton_etl.factors import FactorSet, load_factors
from lepton_etl.inventory import read_meters, read_nodes
from lepton_etl.lake import plain
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables import FACILITY_INTERVAL, GRID_HOUR, INTERVAL, METER, NODE, WEATHER_HOUR, Table
from lepton_etl.lake.tables.jobs import JOB_NODE, JOB_RUN
from lepton_etl.lake.tables.ledger import TARIFF
from lepton_etl.ledger.tariff import read_tariff
from lepton_etl.publication.marks import DatedRow, dated_rows, mark, marks_by_day
from lepton_etl.publication.said import canonical
from lepton_etl.settings import Settings

# A change of these re-opens the days made before that lie in the changed rows' validity.
DATED: Final = ("inventory", "meters", "tariff", "factors")
_DELIVERED: Final[Mapping[str, tuple[Table, ...]]] = {
    "late_readings": (INTERVAL,),
    "late_jobs": (JOB_RUN, JOB_NODE),
    "intensity": (GRID_HOUR,),
    "weather": (WEATHER_HOUR,),
    "meter_readings": (FACILITY_INTERVAL,),
}

Marks = dict[str, str]


def marks_now(root: Path, settings: Settings, days: Iterable[dt.date]) -> dict[dt.date, Marks]:
    """Day -> reason -> mark of what the figures just made rest on; inventory and meters as silver took them."""
    wanted = list(days)
    rows = {
        "inventory": plain.read(root, NODE),
        "meters": plain.read(root, METER),
        "tariff": plain.read(root, TARIFF),
    }
    dated = _dated(rows, load_factors(), wanted)
    delivered = {
        name: [plain.files_by_day(root, table) for table in tables] for name, tables in _DELIVERED.items()
    }
    whole = {"settings": mark(settings.digest), "code": code_version()}
    found = {}
    for day in wanted:
        arrived = {
            name: mark(*(files.get(day.isoformat()) for files in tables))
            for name, tables in delivered.items()
        }
        found[day] = whole | arrived | {name: marks[day] for name, marks in dated.items()}
    return found


def marks_of_files(settings: Settings, days: Iterable[dt.date]) -> dict[dt.date, Marks]:
    """Day -> reason of DATED -> mark, as the files of the settings stand. Raises ConfigurationError."""
    site_id = settings.site.site_id
    meters, tariff = settings.facility.meters, settings.tariff.file
    rows = {
        "inventory": read_nodes(settings.fleet.inventory, site_id),
        "meters": read_meters(meters, site_id) if meters else arrow_schema(METER).empty_table(),
        "tariff": read_tariff(tariff, site_id) if tariff else arrow_schema(TARIFF).empty_table(),
    }
    wanted = list(days)
    dated = _dated(rows, load_factors(), wanted)
    return {day: {name: marks[day] for name, marks in dated.items()} for day in wanted}


def _dated(
    tables: Mapping[str, pa.Table], factors: FactorSet, days: list[dt.date]
) -> dict[str, dict[dt.date, str]]:
    found = {name: marks_by_day(dated_rows(rows), days) for name, rows in tables.items()}
    return found | {"factors": marks_by_day(_factor_rows(factors), days)}


def _factor_rows(factors: FactorSet) -> list[DatedRow]:
    one_day = dt.timedelta(days=1)
    return [
        DatedRow(
            canonical({"table": name, "key": key, "value": row.value, "unit": row.unit}),
            row.valid_from,
            row.valid_to - one_day if row.valid_to else None,
        )
        for name, table in factors.tables.items()
        for key, rows in table.rows.items()
        for row in rows
    ]
