"""Factor tables: the committed ones are whole, and a bad row is refused with its place."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from lepton_etl.errors import ConfigurationError, Exit, MissingFactorError
from lepton_etl.registers.factors import load_factors

HEADER = "zone_id,value,unit,source,licence,valid_from,valid_to"
ROW = "FI,0.000077,t/kWh,publisher,MIT,2022-01-01,2023-01-01"
DAY = date(2022, 6, 3)


def folder_with(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    (tmp_path / "grid.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return tmp_path


def test_committed_tables_are_whole() -> None:
    factors = load_factors()
    assert {"grid_average", "gwp", "fuel", "generator", "embodied", "lifetime", "fuel_lifecycle"} <= set(
        factors.tables
    )
    assert factors.get("embodied", valid_on=DAY, part="gpu").to("kg") == 150
    assert factors.get("lifetime", valid_on=DAY, part="server").to("year") == 4
    diesel = factors.get("fuel", valid_on=DAY, fuel="diesel", gas="CO2").to("kg/L")
    assert diesel == pytest.approx(2.697, abs=0.001)
    texas = factors.get("grid_average", valid_on=date(2023, 6, 3), zone_id="US-TX", intensity_basis="direct")
    assert texas.to("g/kWh") == pytest.approx(texas.value * 0.45359237)


def test_a_value_is_found_by_key_and_day(tmp_path: Path) -> None:
    later = "FI,50,g/kWh,publisher,MIT,2023-01-01,"
    factors = load_factors(folder_with(tmp_path, later, ROW))
    assert factors.get("grid", valid_on=DAY, zone_id="FI").to("g/kWh") == pytest.approx(77)
    assert factors.get("grid", valid_on=date(2023, 1, 1), zone_id="FI").value == 50


def test_a_missing_factor_is_an_error_and_never_another_keys_value(tmp_path: Path) -> None:
    """Country and world value are not put in its place, as mlco2/codecarbon does."""
    world = "WORLD,475,g/kWh,IEA,MIT,2020-01-01,"
    factors = load_factors(folder_with(tmp_path, ROW, world))
    with pytest.raises(
        MissingFactorError, match=r"grid\.csv: no factor of zone_id SE for 2022-06-03"
    ) as caught:
        factors.get("grid", valid_on=DAY, zone_id="SE")
    assert caught.value.exit_code == Exit.CONFIGURATION
    assert factors.find("grid", valid_on=DAY, zone_id="SE") is None


def test_a_year_without_a_row_takes_the_newest_before_it_with_its_age(tmp_path: Path) -> None:
    older = "FI,90,g/kWh,publisher,MIT,2020-01-01,2021-01-01"
    later = "FI,50,g/kWh,publisher,MIT,2025-01-01,2026-01-01"
    factors = load_factors(folder_with(tmp_path, later, ROW, older))
    found = {
        day: factors.get("grid", valid_on=day, zone_id="FI")
        for day in (date(2019, 6, 1), date(2021, 6, 1), DAY, date(2024, 12, 31), date(2028, 1, 1))
    }
    assert [one.to("g/kWh") for one in found.values()] == pytest.approx([90, 90, 77, 77, 50])
    assert [one.age_years for one in found.values()] == [1, 1, 0, 2, 3]


def test_spans_say_what_each_day_is_answered_with(tmp_path: Path) -> None:
    later = "FI,50,g/kWh,publisher,MIT,2025-01-01,2026-01-01"
    factors = load_factors(folder_with(tmp_path, later, ROW))
    for _, (zone,), factor, first, end in factors.spans():
        for day in (first, (end or date(2030, 1, 2)) - timedelta(days=1)):
            assert factors.get("grid", valid_on=day, zone_id=zone).value == factor.value
    ends = [(first, end) for *_, first, end in factors.spans()]
    assert ends[0][0] == date.min
    assert ends[-1][1] is None
    assert all(earlier[1] == later[0] for earlier, later in pairwise(ends))


def test_a_sites_own_row_goes_before_the_shipped_one_while_it_holds(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    later = "FI,50,g/kWh,ministry,MIT,2022-06-01,2023-01-01"
    folder = folder_with(tmp_path, ROW, "SE,30,g/kWh,publisher,MIT,2022-01-01,2023-01-01")
    for where in (folder_with(own, later), own / "grid.csv"):
        factors = load_factors(folder, where)
        assert factors.get("grid", valid_on=DAY, zone_id="FI").value == 50
        assert factors.get("grid", valid_on=date(2022, 5, 31), zone_id="FI").to("g/kWh") == pytest.approx(77)
        assert factors.get("grid", valid_on=DAY, zone_id="SE").value == 30
        assert factors.version != load_factors(folder).version


@pytest.mark.parametrize(
    ("name", "header"), [("other.csv", HEADER), ("grid.csv", HEADER.replace("zone", "x"))]
)
def test_an_own_file_is_of_a_table_and_its_keys(tmp_path: Path, name: str, header: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / name).write_text(f"{header}\n{ROW}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r":1: no factor table of this name and these keys"):
        load_factors(folder_with(tmp_path, ROW), own)
    with pytest.raises(ConfigurationError, match="no factor file there"):
        load_factors(tmp_path, tmp_path / "nothing.csv")


def test_what_nobody_compared_with_its_source_is_unchecked(tmp_path: Path) -> None:
    rows = [f"{ROW},", f"SE{ROW[2:]},unchecked"]
    factors = load_factors(folder_with(tmp_path, *rows, header=f"{HEADER},unchecked"))
    assert not factors.get("grid", valid_on=DAY, zone_id="FI").unchecked
    assert factors.get("grid", valid_on=DAY, zone_id="SE").unchecked
    assert load_factors(folder_with(tmp_path, ROW)).get("grid", valid_on=DAY, zone_id="FI").unchecked
    with pytest.raises(ConfigurationError, match=r"grid\.csv:2:unchecked: 'perhaps'"):
        load_factors(folder_with(tmp_path, f"{ROW},perhaps", header=f"{HEADER},unchecked"))


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ("FI,000077,g/kWh,publisher,MIT,2022-01-01,", r"grid\.csv:2:value: '000077' is no number"),
        ("Finland Central,Helsinki,,000077,EEA,t/kWh,MIT,2022-01-01,", r"grid\.csv:2: 9 cells"),
        ("FI,77,t/kWh,publisher,MIT,2022-01-01,", r"grid\.csv:2:value: 7\.7e\+07 gram / kilowatt_hour"),
        ("FI,nan,g/kWh,publisher,MIT,2022-01-01,", r"grid\.csv:2:value"),
        ("FI,77,quatloo/kWh,publisher,MIT,2022-01-01,", r"grid\.csv:2:unit"),
        ("FI,77,metre,publisher,MIT,2022-01-01,", r"grid\.csv:2:unit"),
        ("FI,77,g/kWh,,MIT,2022-01-01,", r"grid\.csv:2:source: empty"),
        ("FI,77,g/kWh,publisher,,2022-01-01,", r"grid\.csv:2:licence: empty"),
        (",77,g/kWh,publisher,MIT,2022-01-01,", r"grid\.csv:2:zone_id: empty"),
        ("FI,77,g/kWh,publisher,MIT,2022,", r"grid\.csv:2:valid_from: '2022'"),
        ("FI,77,g/kWh,publisher,MIT,2022-01-01,2022-01-01", r"grid\.csv:2:valid_to"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(tmp_path: Path, row: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match=place):
        load_factors(folder_with(tmp_path, row))


def test_two_rows_of_one_day_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"grid\.csv:3:valid_from: 2022-12-31 lies in an earlier row"
    ):
        load_factors(folder_with(tmp_path, ROW, "FI,50,g/kWh,publisher,MIT,2022-12-31,"))


def test_version_follows_the_content(tmp_path: Path) -> None:
    first = load_factors(folder_with(tmp_path, ROW)).version
    assert load_factors(folder_with(tmp_path, ROW)).version == first
    assert load_factors(folder_with(tmp_path, ROW.replace("77", "78"))).version != first


def test_asking_by_other_keys_is_a_mistake(tmp_path: Path) -> None:
    factors = load_factors(folder_with(tmp_path, ROW))
    with pytest.raises(ConfigurationError, match="keyed by zone_id"):
        factors.get("grid", valid_on=DAY, country="FI")
    with pytest.raises(ConfigurationError, match="no factor table water"):
        factors.get("water", valid_on=DAY, zone_id="FI")
