"""Scope 1: fuel and refrigerant."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from lepton_etl.errors import ConfigurationError, MissingFactorError
from lepton_etl.registers.factors import load_factors
from lepton_etl.registers.instruments import fuel_kgco2e, read_scope1, refrigerant_kgco2e

DAY = date(2025, 6, 3)


def test_fuel_and_refrigerant_by_the_set_of_warming_potentials() -> None:
    factors = load_factors()
    litre = 1 / 3.785411784
    by_hand = litre * (10.21 + 0.00041 * 29.8 + 0.00008 * 273)
    assert fuel_kgco2e("diesel", 1.0, factors, "AR6", DAY) == pytest.approx(by_hand)
    assert fuel_kgco2e("diesel", 1.0, factors, "AR5", DAY) < by_hand
    assert refrigerant_kgco2e("R-134a", 2.0, factors, "AR5", DAY) == 2600
    assert refrigerant_kgco2e("R-134a", 2.0, factors, "AR6", DAY) == 3060


def test_an_unknown_refrigerant_is_an_error() -> None:
    with pytest.raises(MissingFactorError, match="substance R-999"):
        refrigerant_kgco2e("R-999", 1.0, load_factors(), "AR6", DAY)


def test_records_of_scope_1_are_read(tmp_path: Path) -> None:
    file = tmp_path / "scope1.csv"
    header = "scope1_id,scope1_kind,substance,fuel_l,leak_kg,valid_from,valid_to"
    file.write_text(f"{header}\nt1,fuel,diesel,100,,2025-06-03,2025-06-04\n", encoding="utf-8")
    (row,) = read_scope1(file, "s", load_factors(), "AR6").to_pylist()
    assert row["emissions_scope1_kgco2e"] == pytest.approx(100 * 2.7062, rel=1e-3)
    assert row["gwp_set"] == "AR6"
    file.write_text(f"{header}\nt1,refrigerant,R-134a,5,,2025-06-03,\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="leak_kg"):
        read_scope1(file, "s", load_factors(), "AR6")
