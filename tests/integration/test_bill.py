"""Costs and bills from a lake's own tables, without a JVM."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
import structlog

from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, METER
from lepton_etl.schema.ledger import BILL_CHECK, CLUSTER_COST, COST_MONTH, SITE_COST, TARIFF
from lepton_etl.schema.types import arrow_schema
from pipelines.gold import run_bill as run
from pipelines.stage import StageContext

FIRST = datetime(2025, 6, 1, tzinfo=UTC)
BOTH = Days(date(2025, 6, 1), date(2025, 6, 2))
TARIFF_FILE = (
    "tariff_id,charge,price,currency,weekdays,local_from,local_to,valid_from\n"
    "supply,energy,0.30,EUR,,06:00,22:00,2025-01-01\n"
    "supply,energy,0.20,EUR,,00:00,06:00,2025-01-01\n"
    "supply,energy,0.20,EUR,,22:00,24:00,2025-01-01\n"
    "supply,demand,8,EUR,,,,2025-01-01\n"
    "supply,fixed,50,EUR,,,,2025-01-01\n"
)
INVOICES = (
    "month,first_day,last_day,invoice_id,invoice_kwh,invoice_cost,currency\n"
    "2025-06,2025-06-01,2025-06-02,A-7,{kwh},400,EUR\n"
)
# A day at 10 kW by night, 20 kW by day: 8 h x 10 + 16 h x 20 = 400 kWh, 8 h at 0.20 and 16 h at 0.30.
DAY_KWH, DAY_COST = 400.0, 80 * 0.20 + 320 * 0.30


def power_w(moment: datetime) -> float:
    return 20_000.0 if 6 <= moment.hour < 22 else 10_000.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name, text in {
        "inventory.csv": "node_id\n",
        "tariff.csv": TARIFF_FILE,
        "invoices.csv": INVOICES.format(kwh=810),
        "config.yaml": "site: {site_id: s}\nlake: {root: lake}\nfleet: {inventory: inventory.csv}\n"
        "sources: [{name: bmc, format: ipmitool, path: '*.txt'}]\n"
        "tariff: {file: tariff.csv}\nbilling: {invoices: invoices.csv}\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = load(tmp_path / "config.yaml")
    fill(settings.lake.root)
    return settings


def fill(root: str) -> None:
    """Two days of a site with one utility meter and two clusters, the first with three quarters of the energy."""
    meter = {
        "site_id": "s", "meter_id": "m", "parent_id": None, "point": "utility", "carrier": "electricity", "sign": 1,
        "unit": "kWh", "multiplier": 1.0, "kind": "interval", "label": "start", "serves": None, "class_pct": None,
        "valid_from": datetime(2025, 1, 1, tzinfo=UTC), "valid_to": None,
    }  # fmt: skip
    Lake(root).replace_keyed(METER, [meter])
    starts = [FIRST + timedelta(minutes=5 * k) for k in range(2 * 288)]
    replace_days(
        root,
        FACILITY_INTERVAL,
        [
            {"site_id": "s", "meter_id": "m", "point": "utility", "interval_start": at, "date": at.date(),
             "interval_s": 300, "energy_kwh": power_w(at) / 12_000, "observed_s": 300.0}
            for at in starts
        ],
    )  # fmt: skip
    basis = {"energy_basis": "measured", "pue_basis": "none", "status": "provisional", "site_id": "s"}
    of_cluster = basis | {
        "node_count": 1,
        "facility_basis": "measured",
        "emissions_basis": "none",
        "idle_basis": "none",
    }
    hours: list[dict[str, Any]] = [{"hour_start": at, "date": at.date()} for at in starts[::12]]
    kwh = {row["hour_start"]: power_w(row["hour_start"]) / 1000 for row in hours}
    site = [
        row | basis | {"facility_energy_kwh": kwh[row["hour_start"]], "facility_basis": "measured"}
        for row in hours
    ]
    replace_days(root, SITE_HOUR, site)
    clusters = [
        row | of_cluster | {"cluster_id": name, "facility_energy_kwh": kwh[row["hour_start"]] * share}
        for row in hours
        for name, share in (("a", 0.75), ("b", 0.25))
    ]
    replace_days(root, CLUSTER_HOUR, clusters)


def replace_days(root: str, table: Table, rows: list[dict[str, Any]]) -> None:
    Lake(root).replace(table, BOTH, pa.Table.from_pylist(rows, schema=arrow_schema(table)), allow_empty=True)


def bill(settings: Settings, days: Days = BOTH) -> None:
    lake = Lake(settings.lake.root)
    run(StageContext(lake, settings, days, "r1", structlog.get_logger()))


def only(settings: Settings, table: Table) -> Mapping[str, Any]:
    (row,) = Lake(settings.lake.root).arrow(table).to_pylist()
    return cast("Mapping[str, Any]", row)


def test_a_billed_period_is_held_against_its_invoice(settings: Settings) -> None:
    bill(settings)
    row = only(settings, BILL_CHECK)
    assert row["ledger_kwh"] == pytest.approx(2 * DAY_KWH)
    assert (row["ledger_basis"], row["missing_hours"], row["verdict"]) == ("measured", 0, "agrees")
    assert row["difference_kwh"] == pytest.approx(-10.0)
    assert row["demand_peak_w"] == pytest.approx(20_000.0)
    assert (row["energy_cost"], row["demand_cost"], row["fixed_cost"]) == (
        pytest.approx(2 * DAY_COST), pytest.approx(160.0), pytest.approx(50.0),
    )  # fmt: skip
    assert row["cost"] == pytest.approx(2 * DAY_COST + 210)
    assert (row["invoice_id"], row["cost_verdict"]) == ("A-7", "differs")


def test_hours_and_clusters_add_up_to_the_month(settings: Settings) -> None:
    bill(settings)
    root = settings.lake.root
    site, clusters = Lake(root).arrow(SITE_COST).to_pylist(), Lake(root).arrow(CLUSTER_COST).to_pylist()
    assert sum(row["energy_cost"] for row in site) == pytest.approx(2 * DAY_COST)
    assert sum(row["energy_cost"] for row in clusters) == pytest.approx(2 * DAY_COST)
    months = {row["cluster_id"]: row for row in Lake(root).arrow(COST_MONTH).to_pylist()}
    assert {name: row["cost"] for name, row in months.items()} == {
        "a": pytest.approx(0.75 * (2 * DAY_COST + 210)),
        "b": pytest.approx(0.25 * (2 * DAY_COST + 210)),
    }
    assert {row["cost_basis"] for row in months.values()} == {"measured"}


def test_a_second_run_commits_nothing_and_a_corrected_invoice_only_its_check(
    settings: Settings, tmp_path: Path
) -> None:
    tables = (TARIFF, SITE_COST, CLUSTER_COST, COST_MONTH, BILL_CHECK)
    bill(settings)
    before = {table.name: Lake(settings.lake.root).version(table) for table in tables}
    bill(settings)
    assert {table.name: Lake(settings.lake.root).version(table) for table in tables} == before
    (tmp_path / "invoices.csv").write_text(INVOICES.format(kwh=900), encoding="utf-8")
    # The night of another month: nothing of June is made again but its check.
    july = Days.of(date(2025, 7, 9))
    bill(settings, july)
    june = {row["month"]: row for row in Lake(settings.lake.root).arrow(BILL_CHECK).to_pylist()}
    assert (june["2025-06"]["invoice_kwh"], june["2025-06"]["verdict"]) == (900.0, "differs")
    assert (june["2025-07"]["ledger_kwh"], june["2025-07"]["verdict"]) == (None, "no_invoice")
    assert Lake(settings.lake.root).version(SITE_COST) == before[SITE_COST.name]


def test_a_month_with_a_gap_is_incomplete_with_what_is_known(settings: Settings) -> None:
    root = settings.lake.root
    rows = Lake(root).arrow(FACILITY_INTERVAL).to_pylist()
    replace_days(root, FACILITY_INTERVAL, [row for row in rows if row["interval_start"].hour != 3])
    bill(settings)
    row = only(settings, BILL_CHECK)
    assert (row["ledger_kwh"], row["ledger_basis"], row["missing_hours"]) == (None, "insufficient", 2)
    assert row["ledger_known_kwh"] == pytest.approx(2 * DAY_KWH - 20)
    assert (row["verdict"], row["cost"], row["cost_verdict"]) == ("incomplete", None, "incomplete")
    assert {row["cost"] for row in Lake(root).arrow(COST_MONTH).to_pylist()} == {None}


def test_without_tariff_and_invoices_nothing_is_written(settings: Settings) -> None:
    bare = settings.model_copy(
        update={
            "tariff": settings.tariff.model_copy(update={"file": None}),
            "billing": settings.billing.model_copy(update={"invoices": None}),
        }
    )
    bill(bare)
    assert Lake(settings.lake.root).version(BILL_CHECK) is None
