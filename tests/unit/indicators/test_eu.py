"""The report in the shape of Delegated Regulation (EU) 2024/1364."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from lepton_etl.cli.export import eu_text
from lepton_etl.config.sections import EuReport
from lepton_etl.config.settings import Settings
from lepton_etl.errors import NoInputError
from lepton_etl.indicators.eu_report import Facts, Indicator, eu_report, in_scope, year_facts
from lepton_etl.indicators.figures import Totals, day_kpis, roll_up
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.types import arrow_schema

YEAR = date(2025, 1, 1)
DECLARED = EuReport(installed_it_power_kw=800.0, potable_water_ratio=0.25, refrigerants=("R-134a", "R-32"))
MARKET = [
    {"instrument_type": "certificate", "matched_kwh": 50_000.0},
    {"instrument_type": "contract", "matched_kwh": 20_000.0},
]


def year_rows(days: int = 365) -> list[dict[str, Any]]:
    rows = []
    for n in range(days):
        day = Totals(
            YEAR + timedelta(days=n), "s", it_kwh={2: 1000.0}, facility_kwh=1250.0, water_l=1500.0,
            heat_reused_kwh=125.0, renewable_kwh=250.0,
        )  # fmt: skip
        rows += day_kpis([day], 0.9)
    return roll_up(rows, "year", YEAR, 0.9)


# Every point of annexes I to III that holds something to report.
POINTS = {
    *(f"I.1.{point}" for point in "abcde"), "I.2.a", "I.2.b", *(f"II.1.{point}" for point in "abcdefghijklmnopqr"),
    "II.2.a", "II.2.b", *(f"II.3.{point}" for point in "abcd"), *(f"III.{point}" for point in "abcd"),
}  # fmt: skip
FACTS = Facts(generator_kwh=1200.0, on_site_kwh=21_250.0, cooling_degree_days=31.5)


def by_point(indicators: list[Indicator]) -> dict[tuple[str, str], Indicator]:
    return {(one.annex, one.code): one for one in indicators}


def test_a_year_in_the_regulations_shape() -> None:
    found = by_point(eu_report(year_rows(), MARKET, DECLARED, FACTS))
    expected = {
        ("II.1.a", "PD_IT"): 800.0, ("II.1.d", "E_DC"): 456_250.0, ("II.1.d", "E_DC-BG"): 1200.0,
        ("II.1.e", "E_IT"): 365_000.0, ("II.1.h", "W_IN"): 547.5, ("II.1.i", "W_IN-POT"): 136.875,
        ("II.1.j", "E_REUSE"): 45_625.0, ("II.1.n", "CDD"): 31.5, ("II.1.o", "E_RES-TOT"): 91_250.0,
        ("II.1.p", "E_RES-GOO"): 50_000.0, ("II.1.q", "E_RES-PPA"): 20_000.0, ("II.1.r", "E_RES-OS"): 21_250.0,
        ("III.a", "PUE"): 1.25, ("III.b", "WUE"): 1.5, ("III.c", "ERF"): 0.1, ("III.d", "REF"): 0.2,
    }  # fmt: skip
    assert {key: found[key].value for key in expected} == pytest.approx(expected)
    assert found["II.1.m", "refrigerants"].value == "R-134a, R-32"
    pue, it = found["III.a", "PUE"], found["II.1.e", "E_IT"]
    assert (pue.basis, it.note) == ("measured", "IT energy of PUE category 2")
    assert found["II.1.h", "W_IN"].note == "WUE category not declared in kpi.eu.water_category"
    assert in_scope(DECLARED) is True
    assert in_scope(EuReport()) is None


def test_every_point_of_the_annexes_has_a_row_and_what_nobody_knows_a_reason() -> None:
    for declared in (EuReport(), DECLARED):
        rows = eu_report([], [], declared)
        assert {one.annex for one in rows} == POINTS
        assert all(one.note for one in rows if one.value is None)
        assert [one.annex for one in rows] == sorted(one.annex for one in rows)
    said = EuReport(
        name="North", data_centre_type="colocation", offers_both=False, operation_month="2019-05",
        server_sert_performance=1.2e6, traffic_in_ebyte=0.4, grid_functions=("none",),
    )  # fmt: skip
    found = by_point(eu_report([], [], said))
    assert [found[key].value for key in (
        ("I.1.a", "name"), ("I.1.d", "type"), ("I.1.d", "also_offers"), ("I.1.e", "operation"), ("II.2.a", "C_SERV"),
        ("II.3.c", "T_IN"), ("II.1.f", "grid_functions"),
    )] == ["North", "colocation", "no", "2019-05", 1.2e6, 0.4, "none"]  # fmt: skip
    assert "declare kpi.eu.storage_capacity_pb" in found["II.2.b", "C_STOR"].note


def test_it_energy_is_metered_at_the_ups_where_there_is_one() -> None:
    rows = [
        {**row, "kpi": "pue1", "pue_category": 1, "denominator": 370_000.0}
        for row in year_rows() if row["kpi"] == "pue2"
    ]  # fmt: skip
    found = by_point(eu_report([*year_rows(), *rows], MARKET, DECLARED))
    assert found["II.1.e", "E_IT"].value == 370_000.0
    assert found["III.a", "PUE"].value == pytest.approx(456_250 / 370_000)


def test_what_is_unknown_is_empty_with_a_note_and_a_short_year_is_interim() -> None:
    rows = [row for row in year_rows(40) if row["kpi"] not in ("wue", "ref")]
    found = by_point(eu_report(rows, [], EuReport()))
    water = found["II.1.h", "W_IN"]
    assert (water.value, water.basis, water.note) == (None, "none", "not metered")
    assert found["III.b", "WUE"].note == "W_IN is not known"
    assert found["II.1.r", "E_RES-OS"].value is None
    assert found["II.1.d", "E_DC"].note == "interim: data up to 2025-02-09, coverage 1.000"


def test_what_the_hours_of_a_site_say_of_its_year() -> None:
    hours = pl.DataFrame({
        "generator_kwh": [0.0, 30.0, None], "pv_kwh": [5.0, 40.0, None], "export_kwh": [0.0, 15.0, None],
    }, schema=dict.fromkeys(("generator_kwh", "pv_kwh", "export_kwh"), pl.Float64))  # fmt: skip
    days = [YEAR, YEAR, YEAR + timedelta(days=1), YEAR + timedelta(days=2)]
    weather = pl.DataFrame({"date": days, "outdoor_dry_bulb_temp_c": [20.0, 30.0, 23.9, 24.0]})
    facts = year_facts(hours, weather, 2025, certificates_sold=False)
    assert (facts.generator_kwh, facts.on_site_kwh) == (30.0, 30.0)
    # Means of 25, 23.9 and 24 degC: 4 + 0 + 3 above 21.
    assert facts.cooling_degree_days == pytest.approx(7.0)
    assert "3 of 365 days" in facts.weather_note
    assert year_facts(hours, weather, 2025, certificates_sold=True).on_site_kwh == 0.0
    assert year_facts(hours.clear(), weather.clear(), 2025, certificates_sold=True).on_site_kwh is None


def test_it_is_read_from_the_lake_without_spark(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "site": {"site_id": "s"},
            "lake": {"root": tmp_path},
            "fleet": {"inventory": "nodes.csv"},
            "sources": [{"name": "bmc", "format": "ipmitool", "path": "logs/*"}],
            "kpi": {"eu": {"installed_it_power_kw": 800}},
        }
    )
    with pytest.raises(NoInputError, match="no KPI of 2025"):
        eu_text(settings, 2025, "csv")
    Lake(tmp_path).write_rows(KPI, pa.Table.from_pylist(year_rows(), schema=arrow_schema(KPI)).to_pylist())
    lines = list(csv.DictReader(io.StringIO(eu_text(settings, 2025, "csv"))))
    assert {line["code"]: line["value"] for line in lines}["PUE"] == "1.25"
    assert {line["annex"] for line in lines} == POINTS
    assert {line["site_id"] for line in lines} == {"s"}
    assert json.loads(eu_text(settings, 2025, "json"))[0]["code"] == "name"
