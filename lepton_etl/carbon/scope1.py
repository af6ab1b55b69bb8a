"""Scope 1: fuel that the site burnt and refrigerant that it lost, by mass or volume and warming potential."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from lepton_etl.factors import FactorSet

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
