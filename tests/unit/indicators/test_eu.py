"""The report in the shape of Delegated Regulation (EU) 2024/1364."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lepton_etl.cli.export import eu_text
from lepton_etl.config.sections import EuReport
from lepton_etl.config.settings import Settings
from lepton_etl.errors import NoInputError
from lepton_etl.indicators.eu_report import eu_report, in_scope
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


def test_a_year_in_the_regulations_shape() -> None:
    found = {one.code: one for one in eu_report(year_rows(), MARKET, DECLARED)}
    expected = {
        "PD_IT": 800.0, "E_DC": 456_250.0, "E_IT": 365_000.0, "W_IN": 547.5, "W_IN-POT": 136.875, "E_REUSE": 45_625.0,
        "E_RES-TOT": 91_250.0, "E_RES-GOO": 50_000.0, "E_RES-PPA": 20_000.0, "E_RES-OOS": 21_250.0, "PUE": 1.25,
        "WUE": 1.5, "ERF": 0.1, "REF": 0.2, "refrigerants": "R-134a, R-32",
    }  # fmt: skip
    assert {code: found[code].value for code in expected} == pytest.approx(expected)
    assert (found["PUE"].basis, found["PUE"].note) == ("measured", "category 2")
    assert (found["S_DC"].value, found["S_DC"].note) == (None, "not declared in kpi.eu")
    assert in_scope(DECLARED) is True
    assert in_scope(EuReport()) is None


def test_what_is_unknown_is_empty_with_a_note_and_a_short_year_is_interim() -> None:
    rows = [row for row in year_rows(40) if row["kpi"] not in ("wue", "ref")]
    found = {one.code: one for one in eu_report(rows, [], EuReport())}
    assert (found["W_IN"].value, found["W_IN"].basis, found["W_IN"].note) == (None, "none", "not metered")
    assert found["E_RES-OOS"].value is None
    assert found["E_DC"].note == "interim: data up to 2025-02-09, coverage 1.000"


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
    assert {line["site_id"] for line in lines} == {"s"}
    assert json.loads(eu_text(settings, 2025, "json"))[0]["code"] == "PD_IT"
