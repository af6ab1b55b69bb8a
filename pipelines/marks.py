"""What the figures of a day rest on: told from silver after a night, from the files of the settings before one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa

from lepton_etl.carbon.registers import read_instruments, read_scope1
from lepton_etl.days import Days
from lepton_etl.factors import FactorSet, load_factors
from lepton_etl.inventory import read_meters, read_nodes
from lepton_etl.lake import plain
from lepton_etl.lake.runs import code_version, recorded_models
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables import FACILITY_INTERVAL, GRID_HOUR, INTERVAL, METER, NODE, WEATHER_HOUR, Table
from lepton_etl.lake.tables.carbon import INSTRUMENT, SCOPE1, VOLUME_INTERVAL
from lepton_etl.lake.tables.facility import FACILITY_FIT
from lepton_etl.lake.tables.jobs import JOB_NODE, JOB_RUN
from lepton_etl.lake.tables.ledger import TARIFF
from lepton_etl.ledger.tariff import read_tariff
from lepton_etl.publication.marks import DatedRow, dated_rows, mark, marks_by_day
from lepton_etl.publication.said import canonical
from lepton_etl.settings import Settings

# A change of these re-opens the days made before that lie in the changed rows' validity.
DATED: Final = ("inventory", "meters", "tariff", "instruments", "scope1", "factors")
_DELIVERED: Final[Mapping[str, tuple[Table, ...]]] = {
    "late_readings": (INTERVAL,),
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


def marks_now(root: Path, settings: Settings, days: Iterable[dt.date]) -> dict[dt.date, Marks]:
    """Day -> reason -> mark of what the figures just made rest on; dated rows as silver took them."""
    wanted = list(days)
    rows = {name: plain.read(root, table) for name, table in _REGISTERS.items()}
    dated = _dated(rows, load_factors(settings.carbon.factors), wanted)
    delivered = {
        name: [plain.files_by_day(root, table) for table in tables] for name, tables in _DELIVERED.items()
    }
    whole = {"settings": mark(settings.digest), "code": code_version()}
    models = model_versions(root, settings.model.name, Days(min(wanted), max(wanted))) if wanted else {}
    found = {}
    for day in wanted:
        arrived = {
            name: mark(*(files.get(day.isoformat()) for files in tables))
            for name, tables in delivered.items()
        }
        of_day = {name: marks[day] for name, marks in dated.items()} | {"model": mark(models.get(day))}
        found[day] = whole | arrived | of_day
    return found


def model_versions(root: Path, imputation: str, days: Days) -> dict[dt.date, str]:
    """Day -> the models that its figures may rest on: the registry's version that fills gaps, the facility's fits.

    A fit is named by a hash of what it was fitted to.
    """
    columns = ("site_id", "parameters_json", "fitted_from", "fitted_until", "accepted")
    rows = plain.read(root, FACILITY_FIT, days).sort_by("site_id").to_pylist()
    found: dict[dt.date, list[str]] = {}
    for row in rows:
        if row["accepted"]:
            found.setdefault(row["date"], []).append(canonical({name: row[name] for name in columns}))
    fits = {day: [f"facility_fit {mark(*said)}"] for day, said in found.items()}
    filled = recorded_models(root, imputation, days)
    of_gaps = {day: [f"{imputation} {version}"] for day, version in filled.items() if version}
    return {day: "; ".join([*of_gaps.get(day, ()), *fits.get(day, ())]) for day in sorted({*fits, *of_gaps})}


def marks_of_files(settings: Settings, days: Iterable[dt.date]) -> dict[dt.date, Marks]:
    """Day -> reason of DATED -> mark, as the files of the settings stand. Raises ConfigurationError."""
    wanted, factors = list(days), load_factors(settings.carbon.factors)
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
