"""instruments.csv and scope1.csv -> silver/instrument and silver/scope1, every cell checked."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa

from lepton_etl.carbon.market import RANKS
from lepton_etl.carbon.scope1 import scope1_row
from lepton_etl.factors import FactorSet
from lepton_etl.inventory import cell_error, keyed_table, read_dated
from lepton_etl.lake.tables.carbon import INSTRUMENT, SCOPE1

_INSTRUMENT_FILLED: Final = (
    "instrument_id", "instrument_type", "zone_id", "instrument_intensity_gco2e_per_kwh", "valid_from",
)  # fmt: skip
_SCOPE1_FILLED: Final = ("scope1_id", "scope1_kind", "substance", "valid_from")
_AMOUNT: Final = {"fuel": "fuel_l", "refrigerant": "leak_kg"}


def read_instruments(path: Path, site_id: str) -> pa.Table:
    """The rows of silver/instrument of a register, sorted by key. Raises ConfigurationError.

    A certificate needs volume and vintage, a contract a volume; a retired volume must not stand twice.
    """
    rows = read_dated(path, INSTRUMENT, _INSTRUMENT_FILLED, _INSTRUMENT_FILLED, site_id)
    seen: dict[str, int] = {}
    retired: dict[str, int] = {}
    for line, row in rows:
        kind = row["instrument_type"]
        if kind != RANKS[-1] and row["volume_kwh"] is None:
            raise cell_error(path, line, "volume_kwh", "", f"a {kind} has a volume")
        if kind == "certificate" and row["vintage_year"] is None:
            raise cell_error(path, line, "vintage_year", "", "a certificate has a vintage")
        for column, known in (("instrument_id", seen), ("retirement_id", retired)):
            value = row[column]
            if value in known:
                raise cell_error(path, line, column, value, f"stands in line {known[value]} already")
            if value is not None:
                known[value] = line
    return keyed_table(rows, INSTRUMENT)


def read_scope1(path: Path, site_id: str, factors: FactorSet, gwp_set: str) -> pa.Table:
    """The rows of silver/scope1 with their emissions, sorted by key.

    Raises ConfigurationError, and MissingFactorError for a substance without a factor on the day.
    """
    rows = read_dated(path, SCOPE1, _SCOPE1_FILLED, _SCOPE1_FILLED, site_id)
    for line, row in rows:
        wanted = _AMOUNT[row["scope1_kind"]]
        if row[wanted] is None:
            raise cell_error(path, line, wanted, "", f"a record of {row['scope1_kind']} has this amount")
    return keyed_table([(line, scope1_row(row, factors, gwp_set)) for line, row in rows], SCOPE1)
