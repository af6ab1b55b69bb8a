"""What a site takes of the factors, and what its rows say of their age."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.carbon.used_factors import factor_columns, site_factors, used_factors
from lepton_etl.cli.factors import print_factors
from lepton_etl.config.sections import CarbonSettings
from lepton_etl.config.settings import Settings
from lepton_etl.registers.factors import load_factors

DAY = date(2026, 3, 2)


def state_of(carbon: CarbonSettings, zone: str | None, day: date = DAY) -> tuple[int | None, list[str]]:
    uses = used_factors(site_factors(carbon), carbon, zone, day)
    return pl.select(*factor_columns(uses)).row(0)


def test_the_oldest_factor_gives_the_age_and_missing_ones_are_named() -> None:
    carbon = CarbonSettings(average_zone="US-NY")
    assert state_of(carbon, "US-NY-NYIS") == (3, ["aged:grid_average", "missing:residual_mix"])
    assert state_of(carbon, "US-NY-NYIS", date(2023, 3, 2)) == (0, ["missing:residual_mix"])
    assert state_of(CarbonSettings(), None) == (0, [])
    assert state_of(CarbonSettings(average_zone="nowhere"), "nowhere")[1] == [
        "missing:grid_average",
        "missing:residual_mix",
    ]


def test_an_own_residual_mix_takes_the_place_of_the_grid_average(tmp_path: Path) -> None:
    own = tmp_path / "residual_mix.csv"
    own.write_text(
        "zone_id,value,unit,source,licence,valid_from,valid_to\nNY,300,g/kWh,registry,own,2025-01-01,2026-01-01\n",
        encoding="utf-8",
    )
    carbon = CarbonSettings(average_zone="US-NY", market_zone="NY", own_factors=own)
    assert state_of(carbon, "US-NY-NYIS") == (1, ["aged:residual_mix"])


def test_every_table_that_a_generator_needs_is_listed() -> None:
    carbon = CarbonSettings(generator_fuel="diesel")
    uses = used_factors(load_factors(), carbon, "US-NY-NYIS", DAY)
    assert {use.table for use in uses} >= {
        "fuel",
        "gwp",
        "generator",
        "embodied",
        "lifetime",
        "electricity_water",
    }
    assert {use.table for use in uses if use.factor is None} == {"residual_mix"}
    water = next(use for use in uses if use.table == "electricity_water")
    assert water.factor is not None
    assert water.factor.age_years == 4


def test_the_list_names_age_and_what_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root, inventory = tmp_path / "lake", tmp_path / "inventory.csv"
    inventory.touch()
    settings = Settings.model_validate(
        {
            "site": {"site_id": "s", "timezone": "UTC"},
            "lake": {"root": root},
            "fleet": {"inventory": inventory},
            "sources": [
                {
                    "name": "bmc",
                    "format": "ipmitool",
                    "path": "*.txt",
                    "node_id_from_path": "(?P<node_id>.+)",
                    "timezone": "UTC",
                }
            ],
            "grid": {"zone": "US-NY-NYIS", "intensity": "*.csv"},
        }
    )
    print_factors(settings, DAY, None, as_csv=True)
    rows = {(row["table"], row["keys"]): row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert rows["electricity_water", "US-NY-NYIS"]["age_years"] == "4"
    assert rows["electricity_water", "US-NY-NYIS"]["state"] == "aged"
    assert rows["residual_mix", "US-NY-NYIS"]["state"] == "missing"
    assert rows["embodied", "ssd"]["state"] == "holds"
    print_factors(settings, DAY, None, as_csv=False)
    assert "1 of another year, 1 missing" in capsys.readouterr().out


@pytest.mark.parametrize("zone", ["SIM", None])
def test_a_folder_of_its_own_may_lack_a_table(tmp_path: Path, zone: str | None) -> None:
    (tmp_path / "residual_mix.csv").write_text(
        "zone_id,value,unit,source,licence,valid_from,valid_to\n", encoding="utf-8"
    )
    age, flags = state_of(CarbonSettings(factors=tmp_path), zone)
    assert age is None
    assert "missing:embodied" in flags
