"""Silver -> gold on Delta tables, against cases that were worked out by hand (tests/cases/gold). No JVM."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import structlog
import yaml
from polars.testing import assert_frame_equal

from lepton_etl.carbon.embodied import embodied_hours
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import group_sums, with_inlet_p99, with_peak_power
from lepton_etl.energy.exact_sums import whole_sum
from lepton_etl.lake.rows import Digest
from lepton_etl.lake.tables import Lake
from lepton_etl.registers.factors import load_factors
from lepton_etl.schema.carbon import VOLUME_INTERVAL
from lepton_etl.schema.declare import BOOLEAN, DATE, DOUBLE, INT, LONG, STRINGS, TIMESTAMP, Table
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, GRID_HOUR, INTERVAL, METER, NODE, WEATHER_HOUR
from pipelines import gold
from pipelines.engine import InlineEngine
from pipelines.stage import StageContext
from tests.integration.laying import lay

CASES = Path(__file__).resolve().parents[1] / "cases" / "gold"
DAYS = Days.of(date(2025, 6, 3))
ALL_DAYS = Days(date(2025, 6, 3), date(2025, 6, 4))
INPUTS = (NODE, METER, INTERVAL, FACILITY_INTERVAL, VOLUME_INTERVAL, WEATHER_HOUR)
OUTPUTS = (NODE_HOUR, SITE_HOUR, CLUSTER_HOUR, CLUSTER_DAY)
FILLED = {"counts_in_total": "true", "multiplicity": "1", "source_name": "case", "flags": ""}
# Of all cases: nobody says what a kWh of heat counts.
CARRIERS = {"cooling_ratio": 0.25, "fuel_kwh_per_l": 10.0}
GRID = {"zone": "ZZ", "intensity": "grid/*.csv"}

CASE_NAMES = sorted(folder.name for folder in CASES.iterdir() if folder.is_dir())


def test_cases_are_there() -> None:
    assert len(CASE_NAMES) >= 12


@pytest.mark.parametrize("case", CASE_NAMES)
def test_case(case: str, gold_rows: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    compared = 0
    for table in OUTPUTS:
        file = CASES / case / f"expected_{stem(table)}.csv"
        if file.exists():
            expected = [parse(row, table) for row in read_csv(file)]
            compare(gold_rows[table.name].get(case, []), expected, table)
            compared += 1
    assert compared


def test_a_second_run_commits_nothing(ran: Lake) -> None:
    before = {table.name: ran.version(table) for table in OUTPUTS}
    result = gold.run(context(ran, settings_of({}, ran), DAYS))
    assert [one.changed for one in result.written] == [False] * 9
    assert {table.name: ran.version(table) for table in OUTPUTS} == before
    assert result.rows_out == sum(one.rows for one in result.written)
    assert result.rows_in == ran.read(INTERVAL, DAYS).height


def test_many_buckets_give_the_rows_of_one(ran: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gold.node_figures(context(ran, settings_of({}, ran), DAYS), load_factors())
    monkeypatch.setattr(gold, "NODE_DAYS", 1)
    parted = gold.node_figures(context(ran, settings_of({}, ran), DAYS), load_factors())
    assert len(gold.node_buckets(ran.read(NODE), DAYS)) > 10
    assert len(parted.node_hours) > 10 and len(whole.node_hours) == 1
    digests = [sum((file.digest for file in fleet.node_hours), Digest()) for fleet in (whole, parted)]
    assert digests[0] == digests[1] and digests[0].rows > 40
    for by in gold.GROUPS:
        sums = [group_sums(fleet.sums[by], by, 0.9).sort(by) for fleet in (whole, parted)]
        assert_frame_equal(sums[0], sums[1], rel_tol=1e-12, abs_tol=0.0)
    embodied = [embodied_hours(fleet.embodied).sort(pl.all()) for fleet in (whole, parted)]
    assert_frame_equal(embodied[0], embodied[1], rel_tol=1e-12, abs_tol=0.0)
    hours = ran.read(CLUSTER_HOUR, DAYS).select("site_id", "cluster_id", "hour_start", "it_energy_kwh")
    order = ["site_id", "cluster_id", "hour_start"]
    for fleet in (whole, parted):
        assert fleet.power.height
    peaks = [with_peak_power(hours, fleet.power).sort(order) for fleet in (whole, parted)]
    inlets = [with_inlet_p99(hours, fleet.inlets, "hour_start").sort(order) for fleet in (whole, parted)]
    assert_frame_equal(peaks[0], peaks[1], check_exact=True)
    assert_frame_equal(inlets[0], inlets[1], check_exact=True)


def test_a_chassis_stays_in_one_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a node moved from one chassis to another: both are of its bucket."""
    monkeypatch.setattr(gold, "NODE_DAYS", 2)
    rows = [(f"n{i}", f"ch{i // 3}") for i in range(9)] + [
        ("n2", "ch1"),
        *((f"x{i}", None) for i in range(5)),
    ]
    nodes = pl.DataFrame(
        [
            {"site_id": "s", "node_id": node, "chassis_id": chassis, "valid_from": None}
            for node, chassis in rows
        ]
    )
    buckets = [set(bucket["node_id"]) for bucket in gold.node_buckets(nodes, DAYS)]
    assert sum(len(bucket) for bucket in buckets) == 14
    assert {f"n{i}" for i in range(6)} in [bucket & {f"n{i}" for i in range(6)} for bucket in buckets]
    assert any({"n6", "n7", "n8"} <= bucket for bucket in buckets)
    assert max(map(len, buckets)) <= 6 + 2


def test_clusters_share_the_whole_overhead_and_no_residual(ran: Lake) -> None:
    site = ["site_id", "hour_start"]
    share = whole_sum(
        pl.col("facility_energy_kwh") - pl.col("it_energy_kwh"), pl.col("it_energy_kwh").is_null()
    )
    clusters = ran.read(CLUSTER_HOUR, DAYS).group_by(site).agg(
        share.alias("shares_kwh"), pl.col("it_energy_kwh").null_count().alias("unknown")
    )  # fmt: skip
    rest = pl.col("facility_energy_kwh") - pl.col("it_energy_kwh")
    rows = (
        ran.read(SITE_HOUR, DAYS)
        .join(clusters, on=site, how="inner")
        .filter(pl.col("pue_basis").is_in(("measured", "partial")) & (pl.col("unknown") == 0))
        .select(pl.coalesce("overhead_kwh", rest), "shares_kwh")
    )
    assert rows.height > 15
    assert all(math.isclose(whole, parts, rel_tol=1e-9) for whole, parts in rows.iter_rows())


def test_upper_and_lower_enclose_the_energy(ran: Lake) -> None:
    lower, upper = pl.col("it_energy_lower_kwh"), pl.col("it_energy_upper_kwh")
    energy = pl.col("it_energy_kwh")
    for table in (NODE_HOUR, CLUSTER_HOUR, CLUSTER_DAY):
        assert ran.read(table, DAYS).filter((lower > energy) | (upper < energy) | (lower < 0)).is_empty()


def test_every_row_says_how_old_its_factors_are(ran: Lake) -> None:
    for table in (CLUSTER_HOUR, CLUSTER_DAY):
        rows = ran.read(table, DAYS)
        assert rows.height
        assert rows["factor_age_years"].unique().to_list() == [0]
        assert rows["factor_flags"].null_count() == 0


# --- the runs ---


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake in which gold ran on every case: one run for the plain ones, one a day for those with settings."""
    lake = Lake(tmp_path_factory.mktemp("gold") / "lake")
    for table in INPUTS:
        put(lake, table, [row for case in CASE_NAMES for row in case_rows(case, table)])
    put(lake, GRID_HOUR, read_csv(CASES / "grid_hour.csv"))
    gold.run(context(lake, settings_of({}, lake), DAYS))
    for case in CASE_NAMES:
        own = own_settings(case)
        if own:
            gold.run(context(lake, settings_of(own, lake), Days.of(own["date"])))
    return lake


@pytest.fixture(scope="module")
def gold_rows(ran: Lake) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Table -> case -> rows."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {table.name: {} for table in OUTPUTS}
    for table in OUTPUTS:
        for row in ran.read(table).to_dicts():
            found[table.name].setdefault(row["site_id"], []).append(row)
    return found


def put(lake: Lake, table: Table, rows: list[dict[str, str]]) -> None:
    parsed = [parse(FILLED | {"date": day_of(row)} | row, table) for row in rows]
    lay(lake, table, parsed, ALL_DAYS if table.partition else None)


def context(lake: Lake, settings: Settings, days: Days) -> StageContext:
    return StageContext(lake, settings, days, "test", structlog.stdlib.get_logger(), InlineEngine())


def own_settings(case: str) -> dict[str, Any]:
    file = CASES / case / "settings.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}


def settings_of(own: dict[str, Any], lake: Lake) -> Settings:
    source = {
        "name": "bmc",
        "format": "ipmitool",
        "path": "*.txt",
        "node_id_from_path": "(?P<node_id>.+)[.]txt",
    }
    raw: dict[str, Any] = {
        "site": {"site_id": "cases"},
        "lake": {"root": lake.root.uri},
        "mlflow": {"tracking_uri": f"sqlite:///{Path(lake.root.uri).parent / 'mlflow.db'}"},
        "fleet": {"inventory": "inventory.csv"},
        "sources": [source],
        "facility": {"pue_assumed": own.get("pue_assumed"), "carriers": CARRIERS},
        "grid": own.get("grid", GRID),
    }
    return Settings(**raw)


# --- case files ---


def stem(table: Table) -> str:
    return table.name.partition("/")[2]


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def case_rows(case: str, table: Table) -> Iterator[dict[str, str]]:
    file = CASES / case / f"{stem(table)}.csv"
    for row in read_csv(file) if file.exists() else []:
        yield row | {"site_id": case}


def day_of(row: dict[str, str]) -> str:
    return (row.get("interval_start") or row.get("hour_start") or "")[:10]


def parse(row: dict[str, str], table: Table) -> dict[str, Any]:
    types = {field.name: field.type for field in table.fields}
    assert not [name for name in row if name not in types and name not in FILLED and name != "date"], row
    return {name: parse_cell(cell, types[name]) for name, cell in row.items() if name in types}


def parse_cell(cell: str, type_: str) -> Any:
    if type_ == STRINGS:
        return sorted(cell.split("+")) if cell else []
    if cell == "":
        return None
    if type_ == TIMESTAMP:
        return datetime.fromisoformat(cell).astimezone(UTC)
    if type_ == DATE:
        return date.fromisoformat(cell)
    if type_ == BOOLEAN:
        return cell == "true"
    if type_ in (INT, LONG):
        return int(cell)
    return float(cell) if type_ == DOUBLE else cell


def compare(rows: list[dict[str, Any]], expected: list[dict[str, Any]], table: Table) -> None:
    keys = [name for name in table.key if name != "site_id"]

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(normal(row[name]) for name in keys)

    found = {key(row): row for row in rows}
    assert sorted(found) == sorted(key(row) for row in expected), table.name
    for row in expected:
        for name, value in row.items():
            got = found[key(row)][name]
            where = f"{table.name} {key(row)} {name}"
            if isinstance(value, float) and got is not None:
                assert got == pytest.approx(value, rel=1e-6, abs=1e-9), where
            elif name not in keys:
                assert got == value, where


def normal(value: Any) -> str:
    """A key as text."""
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
