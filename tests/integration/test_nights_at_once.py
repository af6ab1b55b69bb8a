"""Nights of different days in two processes at once: what spans days rests on both, as if one came after the other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import structlog
import yaml

from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.compare import compare_lakes
from lepton_etl.lake.nights import name_night
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.carbon import KPI, MARKET_YEAR
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL
from lepton_etl.schema.ledger import BILL_CHECK, CLUSTER_COST, COST_MONTH, SITE_COST
from lepton_etl.schema.operations import NIGHT
from pipelines import gold, kpi
from pipelines.stage import StageContext
from tests.conftest import PROJECT
from tests.integration import test_bill as bills
from tests.integration import test_kpi as kpis

# Does a night's step of a day; waits before its first commit to one table until it is told to go on.
NIGHT_STEP = """
import os, sys
from datetime import date
import deltalake, structlog
from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.lake import tables
from lepton_etl.lake.nights import name_night
from lepton_etl.lake.tables import Lake
from pipelines import gold, kpi
from pipelines.stage import StageContext
file, day, step, pause = sys.argv[1:]
def waiting(commit):
    def waited(where, *given, **named):
        global pause
        place = where.table_uri if isinstance(where, deltalake.DeltaTable) else str(where)
        if pause and place.rstrip("/").endswith(pause):
            pause = ""
            print("waits", flush=True)
            sys.stdin.readline()
        return commit(where, *given, **named)
    return waited
deltalake.DeltaTable.create_write_transaction = waiting(deltalake.DeltaTable.create_write_transaction)
tables.write_deltalake = waiting(tables.write_deltalake)
settings, days = load(file), Days.of(date.fromisoformat(day))
lake = Lake.of(settings, {"run_id": day})
context = StageContext(lake, settings, days, day, structlog.get_logger())
{"kpi": lambda: kpi.run(context), "bill": lambda: gold.run_bill(context), "market": lambda: gold.market_year(context),
 "name": lambda: name_night(lake, days, day)}[step]()
print("done", flush=True)
# As lepton-etl ends: threads of Arrow abort an interpreter that is taken apart beside them.
os._exit(0)
"""
DAYS = (kpis.DAY, kpis.DAY + timedelta(days=1))


def at_once(config: Path, step: str, table: Table, meanwhile: Callable[[], object]) -> None:
    """The step of the first day, which waits before its commit to the table while all of `meanwhile` is done."""
    first = subprocess.Popen(
        [sys.executable, "-c", NIGHT_STEP, str(config), str(DAYS[0]), step, table.name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT,
    )  # fmt: skip
    assert first.stdout is not None
    assert first.stdout.readline() == "waits\n"
    meanwhile()
    said, _ = first.communicate("\n")
    assert (said, first.returncode) == ("done\n", 0)


def other_night(config: Path, step: Callable[[StageContext], object]) -> None:
    """The step of the second day in this process, from beginning to end."""
    settings, day = load(config), str(DAYS[1])
    lake = Lake.of(settings, {"run_id": day})
    step(StageContext(lake, settings, Days.of(DAYS[1]), day, structlog.get_logger()))


def named(context: StageContext) -> None:
    name_night(context.lake, context.days, context.run_id)


def after_each_other(settings: Settings, lake: Lake, *steps: Callable[[StageContext], object]) -> None:
    for day in DAYS:
        for step in steps:
            step(StageContext(lake, settings, Days.of(day), str(day), structlog.get_logger()))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The site of the KPI tests with a second day like the first one, in another lake for nights one by one."""
    lake = Lake(tmp_path / "lake")
    kpis.site(lake)
    for table in (FACILITY_INTERVAL, SITE_HOUR, CLUSTER_HOUR, CLUSTER_DAY, NODE_HOUR):
        later(lake, table)
    settings = kpis.settings(lake).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "config.yaml"


def later(lake: Lake, table: Table, factor: float = 1.5) -> None:
    """The first day's rows a day later, with other energies."""
    rows = lake.read(table, Days.of(DAYS[0]))
    times = [name for name in rows.columns if rows.schema[name] in (pl.Date, pl.Datetime("us", "UTC"))]
    energies = [
        name for name in rows.columns if name in ("facility_energy_kwh", "grid_import_kwh", "utility_kwh")
    ]
    moved = rows.with_columns(
        pl.col(times) + timedelta(days=1), *(pl.col(name) * factor for name in energies)
    )
    lake.replace(table, Days.of(DAYS[1]), moved)


def equal(left: Lake, right: Lake, *tables: Table) -> None:
    found = list(compare_lakes(left.root, right.root, only=[table.name for table in tables]))
    assert len(found) == len(tables)
    assert [line for one in found if not one.equal for line in one.lines()] == []


def test_months_and_years_of_kpis_hold_both_days(config: Path, tmp_path: Path) -> None:
    settings, lake = load(config), Lake(tmp_path / "lake")
    shutil.copytree(tmp_path / "lake", tmp_path / "one-by-one")
    one_by_one = Lake(tmp_path / "one-by-one")
    after_each_other(settings, one_by_one, kpi.run)
    at_once(config, "kpi", KPI, lambda: other_night(config, kpi.run))
    assert set(lake.read(KPI).filter(pl.col("period") == "day")["date"]) == set(DAYS)
    equal(lake, one_by_one, KPI)


def test_a_year_of_instruments_rests_on_the_days_that_stand(config: Path, tmp_path: Path) -> None:
    settings, lake = load(config), Lake(tmp_path / "lake")

    def grown(of: Lake) -> None:
        later(of, CLUSTER_DAY, 7.0)

    shutil.copytree(tmp_path / "lake", tmp_path / "one-by-one")
    one_by_one = Lake(tmp_path / "one-by-one")
    after_each_other(settings, one_by_one, gold.market_year)
    grown(one_by_one)
    after_each_other(settings, one_by_one, gold.market_year)

    def meanwhile() -> None:
        grown(lake)
        other_night(config, gold.market_year)

    at_once(config, "market", MARKET_YEAR, meanwhile)
    equal(lake, one_by_one, MARKET_YEAR)


@pytest.mark.parametrize("table", [BILL_CHECK, COST_MONTH], ids=lambda table: str(table.name))
def test_the_bill_of_a_month_holds_both_days(
    tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bills.settings.__wrapped__(tmp_path)  # type: ignore[attr-defined]
    monkeypatch.setattr(sys.modules[__name__], "DAYS", tuple(bills.BOTH))
    shutil.copytree(tmp_path / "lake", tmp_path / "one-by-one")
    one_by_one, lake = Lake(tmp_path / "one-by-one"), Lake(tmp_path / "lake")
    after_each_other(settings, one_by_one, gold.run_bill)
    config = tmp_path / "config.yaml"
    at_once(config, "bill", table, lambda: other_night(config, gold.run_bill))
    equal(lake, one_by_one, SITE_COST, CLUSTER_COST, BILL_CHECK, COST_MONTH)


def test_what_a_reader_sees_of_a_year_is_what_both_nights_made(config: Path, tmp_path: Path) -> None:
    settings, lake = load(config), Lake(tmp_path / "lake")
    first, second = (
        StageContext(lake, settings, Days.of(day), str(day), structlog.get_logger()) for day in DAYS
    )
    kpi.run(first)

    def meanwhile() -> None:
        kpi.run(second)
        other_night(config, named)

    at_once(config, "name", NIGHT, meanwhile)
    assert lake.as_published().read(KPI).sort(KPI.key).equals(lake.read(KPI).sort(KPI.key))
