"""The section `grid` of the settings becomes the source that reads its files."""

from typing import Any

import pytest
from pydantic import ValidationError

from lepton_etl.config.settings import Grid
from lepton_etl.config.sources import SOURCES
from lepton_etl.ingest.eia930 import Eia930
from lepton_etl.ingest.electricitymaps import ElectricityMaps
from lepton_etl.ingest.grid_csv import PlainGrid
from lepton_etl.ingest.units import conversion


def grid(**changes: Any) -> Grid:
    return Grid.model_validate({"zone": "US-NY-NYIS", "intensity": "landing/grid/*.csv"} | changes)


def test_each_format_has_its_source_and_label() -> None:
    maps, eia, plain = (grid(format=name).source for name in ("electricitymaps", "eia930", "grid_csv"))
    assert (maps.format, eia.format, plain.format) == ("electricitymaps", "eia930", "grid_csv")
    assert isinstance(maps, ElectricityMaps)
    assert isinstance(eia, Eia930)
    assert isinstance(plain, PlainGrid)
    assert (maps.label, eia.label, plain.label) == ("start", "end", "start")
    assert eia.zone == plain.zone == "US-NY-NYIS"
    assert {source.name for source in (maps, eia, plain)} == {"grid"}


def test_what_is_said_reaches_the_source() -> None:
    source = grid(format="grid_csv", unit="t/MWh", timezone="Europe/Berlin", label="end", credit="us").source
    assert isinstance(source, PlainGrid)
    assert (source.unit, source.timezone, source.label, source.basis, source.credit) == (
        "t/MWh", "Europe/Berlin", "end", "direct", "us"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": "entsoe"}, "format"),
        ({"format": "eia930", "unit": "lb/MWh"}, "fixed by the publisher"),
        ({"timezone": "Europe/Berlin"}, "fixed by the publisher"),
        ({"intensity_basis": "lifecycle"}, "location-based"),
    ],
)
def test_a_wrong_grid_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        grid(**changes)


def test_a_unit_that_is_no_intensity_is_refused() -> None:
    with pytest.raises(ValidationError, match="cannot be brought to g/kWh"):
        SOURCES["grid_csv"](name="g", path="*.csv", zone="DE", unit="kg/m3")


@pytest.mark.parametrize(
    ("unit", "one"),
    [
        ("g/kWh", 1.0),
        ("kg/MWh", 1.0),
        ("t/MWh", 1000.0),
        ("lb/MWh", 0.45359237),
        ("kg/kWh", 1000.0),
        ("t/GWh", 1.0),
    ],
)
def test_units_of_intensity_convert(unit: str, one: float) -> None:
    change = conversion(unit, "grid_intensity")
    assert change is not None
    assert change.factor / change.divisor == pytest.approx(one, rel=1e-12)
    assert change.offset == 0
