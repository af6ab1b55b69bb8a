"""Silver -> gold on Delta tables, against cases that were worked out by hand (tests/cases/gold)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.lake.spark import SparkLake
from lepton_etl.schema.columns import exact_sum
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, GRID_HOUR, INTERVAL, METER, NODE, WEATHER_HOUR
from lepton_etl.schema.types import spark_schema
from pipelines import gold
from pipelines.stage import StageContext

pytestmark = pytest.mark.spark

CASES = Path(__file__).resolve().parents[1] / "cases" / "gold"
DAYS = Days.of(date(2025, 6, 3))
ALL_DAYS = Days(date(2025, 6, 3), date(2025, 6, 4))
INPUTS = (NODE, METER, INTERVAL, FACILITY_INTERVAL, WEATHER_HOUR)
OUTPUTS = (NODE_HOUR, SITE_HOUR, CLUSTER_HOUR, CLUSTER_DAY)
FILLED = {"counts_in_total": "true", "multiplicity": "1", "source_name": "case", "flags": ""}
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


def test_a_second_run_commits_nothing(ran: SparkLake) -> None:
    before = {table.name: ran.version(table) for table in OUTPUTS}
    result = gold.run(context(ran, settings_of({}, ran), DAYS))
    assert [one.changed for one in result.written] == [False] * 7
    assert {table.name: ran.version(table) for table in OUTPUTS} == before
    assert result.rows_out == sum(one.rows for one in result.written)
    assert result.rows_in == ran.read(INTERVAL, DAYS).count()


def test_clusters_share_the_whole_overhead_and_no_residual(ran: SparkLake) -> None:
    site = ["site_id", "hour_start"]
    clusters = (
        ran.read(CLUSTER_HOUR, DAYS)
        .groupBy(*site)
        .agg(
            exact_sum(F.col("facility_energy_kwh") - F.col("it_energy_kwh")).alias("shares_kwh"),
            F.count_if(F.col("it_energy_kwh").isNull()).alias("unknown"),
        )
    )
    rest = F.col("facility_energy_kwh") - F.col("it_energy_kwh")
    rows = (
        ran.read(SITE_HOUR, DAYS)
        .join(clusters, site, how="inner")
        .where("pue_basis IN ('measured', 'partial') AND unknown = 0")
        .withColumn("whole_kwh", F.coalesce("overhead_kwh", rest))
    )
    pairs = [(row["whole_kwh"], row["shares_kwh"]) for row in rows.toLocalIterator()]
    assert len(pairs) > 15
    assert all(math.isclose(whole, parts, rel_tol=1e-9) for whole, parts in pairs)


def test_upper_and_lower_enclose_the_energy(ran: SparkLake) -> None:
    for table in (NODE_HOUR, CLUSTER_HOUR, CLUSTER_DAY):
        outside = ran.read(table, DAYS).where(
            "it_energy_lower_kwh > it_energy_kwh OR it_energy_upper_kwh < it_energy_kwh OR it_energy_lower_kwh < 0"
        )
        assert outside.count() == 0


# --- the runs ---


@pytest.fixture(scope="module")
def ran(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> SparkLake:
    """A lake in which gold ran on every case: one run for the plain ones, one a day for those with settings."""
    lake = SparkLake(tmp_path_factory.mktemp("gold") / "lake", spark=spark)
    for table in INPUTS:
        write(
            lake, table, frame(spark, [row for case in CASE_NAMES for row in case_rows(case, table)], table)
        )
    write(lake, GRID_HOUR, frame(spark, read_csv(CASES / "grid_hour.csv"), GRID_HOUR))
    gold.run(context(lake, settings_of({}, lake), DAYS))
    for case in CASE_NAMES:
        own = own_settings(case)
        if own:
            gold.run(context(lake, settings_of(own, lake), Days.of(own["date"])))
    return lake


@pytest.fixture(scope="module")
def gold_rows(ran: SparkLake) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Table -> case -> rows."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {table.name: {} for table in OUTPUTS}
    for table in OUTPUTS:
        for row in ran.read(table).collect():
            found[table.name].setdefault(row["site_id"], []).append(row.asDict())
    return found


def write(lake: SparkLake, table: Table, rows: DataFrame) -> None:
    if table.partition:
        lake.replace_frame(table, ALL_DAYS, rows)
    else:
        lake.overwrite(table, rows)


def context(lake: SparkLake, settings: Settings, days: Days) -> StageContext:
    return StageContext(lake, settings, days, "test", structlog.stdlib.get_logger())


def own_settings(case: str) -> dict[str, Any]:
    file = CASES / case / "settings.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}


def settings_of(own: dict[str, Any], lake: SparkLake) -> Settings:
    source = {
        "name": "bmc",
        "format": "ipmitool",
        "path": "*.txt",
        "node_id_from_path": "(?P<node_id>.+)[.]txt",
    }
    raw: dict[str, Any] = {
        "site": {"site_id": "cases"},
        "lake": {"root": str(lake.root)},
        "mlflow": {"tracking_uri": f"sqlite:///{lake.root.parent / 'mlflow.db'}"},
        "fleet": {"inventory": "inventory.csv"},
        "sources": [source],
        "facility": {"pue_assumed": own.get("pue_assumed")},
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


def frame(spark: SparkSession, rows: list[dict[str, str]], table: Table) -> DataFrame:
    schema = spark_schema(table)
    parsed = [parse(FILLED | {"date": day_of(row)} | row, table) for row in rows]
    return spark.createDataFrame([tuple(row.get(c.name) for c in schema) for row in parsed], schema)


def day_of(row: dict[str, str]) -> str:
    return (row.get("interval_start") or row.get("hour_start") or "")[:10]


def parse(row: dict[str, str], table: Table) -> dict[str, Any]:
    types = {c.name: c.dataType for c in spark_schema(table)}
    assert not [name for name in row if name not in types and name not in FILLED and name != "date"], row
    return {name: parse_cell(cell, types[name]) for name, cell in row.items() if name in types}


def parse_cell(cell: str, type_: T.DataType) -> Any:
    if isinstance(type_, T.ArrayType):
        return sorted(cell.split("+")) if cell else []
    if cell == "":
        return None
    if isinstance(type_, T.TimestampType):
        return datetime.fromisoformat(cell).astimezone(UTC)
    if isinstance(type_, T.DateType):
        return date.fromisoformat(cell)
    if isinstance(type_, T.BooleanType):
        return cell == "true"
    if isinstance(type_, T.IntegralType):
        return int(cell)
    return float(cell) if isinstance(type_, T.DoubleType) else cell


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
    """A key as text; the session hands timestamps out as naive times of the machine's zone."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.astimezone(UTC)
        return aware.astimezone(UTC).isoformat()
    return str(value)
