"""Read instruments.csv and scope1.csv into silver/instrument and silver/scope1, every cell checked.

Scope 1 is fuel burnt on the site and refrigerant lost, by volume or mass and warming potential.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from lepton_etl.registers.factors import FactorSet
from lepton_etl.registers.inventory import cell_error, keyed_table, read_dated
from lepton_etl.schema.carbon import INSTRUMENT, SCOPE1

# In the order in which they are matched.
RANKS: Final = ("certificate", "contract", "supplier")
GASES: Final = ("CO2", "CH4", "N2O")


def fuel_kgco2e(fuel: str, fuel_l: float, factors: FactorSet, gwp_set: str, on: date) -> float:
    """Emissions of burnt fuel, kgCO2e: litres x the mass of each gas a litre x its warming potential.

    Source: EPA GHG Emission Factors Hub, table 1; IPCC AR5 or AR6, 100 years. Raises MissingFactorError.
    """
    return fuel_l * sum(
        factors.get("fuel", valid_on=on, fuel=fuel, gas=gas).to("kg/L")
        * factors.get("gwp", valid_on=on, gwp_set=gwp_set, substance=gas).to("dimensionless")
        for gas in GASES
    )


def refrigerant_kgco2e(substance: str, leak_kg: float, factors: FactorSet, gwp_set: str, on: date) -> float:
    """Emissions of lost refrigerant, kgCO2e. Raises MissingFactorError."""
    return leak_kg * factors.get("gwp", valid_on=on, gwp_set=gwp_set, substance=substance).to("dimensionless")


def scope1_row(row: Mapping[str, Any], factors: FactorSet, gwp_set: str) -> dict[str, Any]:
    """A record of silver/scope1 with its emissions. Raises MissingFactorError for a substance without a factor."""
    on = row["valid_from"].date()
    if row["scope1_kind"] == "fuel":
        kilograms = fuel_kgco2e(row["substance"], row["fuel_l"], factors, gwp_set, on)
    else:
        kilograms = refrigerant_kgco2e(row["substance"], row["leak_kg"], factors, gwp_set, on)
    return {**row, "emissions_scope1_kgco2e": kilograms, "gwp_set": gwp_set}


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
