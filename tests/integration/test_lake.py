"""The doors to storage on real Delta tables."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from deltalake import DeltaTable as DeltaLog
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.errors import LakeError
from lepton_etl.lake.spark import SparkLake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.fleet import GRID_HOUR, NODE
from lepton_etl.schema.operations import RUN
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.types import spark_schema

DAY = date(2025, 6, 3)
READABLE_FEATURES = {"appendOnly", "invariants", "checkConstraints"}


def grid_rows(spark: SparkSession, intensity: float | None = 200.0, days: int = 1) -> DataFrame:
    start = datetime(2025, 6, 3, tzinfo=UTC)
    rows = [
        ("ZZ", start + timedelta(hours=h), (start + timedelta(hours=h)).date(), "direct", "average", "consumption",
         intensity, False, "grid")
        for h in range(24 * days)
    ]  # fmt: skip
    return spark.createDataFrame(rows, spark_schema(GRID_HOUR))


def test_replacing_a_day_twice_by_equal_rows_commits_once(spark: SparkSession, lake: SparkLake) -> None:
    first = lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark))
    again = lake.replace_frame(
        GRID_HOUR, Days.of(DAY), grid_rows(spark).repartition(3).orderBy(F.desc("hour_start"))
    )
    other = lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark, 201.0))
    assert (first.rows, first.changed) == (24, True)
    assert (again.version, again.changed) == (first.version, False)
    assert (other.version, other.changed) == (first.version + 1, True)


def test_replacing_a_day_leaves_the_other_days(spark: SparkSession, lake: SparkLake) -> None:
    lake.replace_frame(GRID_HOUR, Days(DAY, DAY + timedelta(days=1)), grid_rows(spark, days=2))
    lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark, 300.0))
    found = {r["date"]: r["i"] for r in lake.read_frame(GRID_HOUR).groupBy("date").agg(
        F.max("carbon_intensity_gco2e_per_kwh").alias("i")).collect()}  # fmt: skip
    assert found == {DAY: 300.0, DAY + timedelta(days=1): 200.0}


@pytest.mark.parametrize("door", ["replace_frame", "replace_few"])
def test_a_day_of_equal_rows_keeps_its_files(spark: SparkSession, lake: SparkLake, door: str) -> None:
    both, second = Days(DAY, DAY + timedelta(days=1)), DAY + timedelta(days=1)
    rows = grid_rows(spark, days=2)
    getattr(lake, door)(GRID_HOUR, both, rows)
    before = files_by_day(lake)
    value = F.when(F.col("date") == F.lit(second), 250.0).otherwise(F.col("carbon_intensity_gco2e_per_kwh"))
    written = getattr(lake, door)(GRID_HOUR, both, rows.withColumn("carbon_intensity_gco2e_per_kwh", value))
    after = files_by_day(lake)
    assert (written.rows, written.changed, written.version) == (48, True, 2)
    assert after[DAY] == before[DAY]
    assert not after[second] & before[second]


def files_by_day(lake: SparkLake) -> dict[date, set[str]]:
    files = pa.table(lake.log(GRID_HOUR).get_add_actions(flatten=True)).to_pylist()
    return {
        day: {f["path"] for f in files if f["partition.date"] == day}
        for day in (DAY, DAY + timedelta(days=1))
    }


def test_an_empty_frame_does_not_delete_a_day(spark: SparkSession, lake: SparkLake) -> None:
    lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark))
    with pytest.raises(LakeError, match="refusing to replace the rows of 2025-06-03 by nothing"):
        lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark).limit(0))
    assert lake.read_frame(GRID_HOUR).count() == 24


def test_few_rows_are_replaced_as_many_are(spark: SparkSession, lake: SparkLake) -> None:
    both = Days(DAY, DAY + timedelta(days=1))
    first = lake.replace_few(GRID_HOUR, both, grid_rows(spark, days=2))
    again = lake.replace_few(GRID_HOUR, both, grid_rows(spark, days=2).orderBy(F.desc("hour_start")))
    other = lake.replace_few(GRID_HOUR, Days.of(DAY), grid_rows(spark, 300.0))
    assert (first.rows, first.changed) == (48, True)
    assert (again.version, again.changed) == (first.version, False)
    assert (other.rows, other.version, other.changed) == (24, first.version + 1, True)
    # Spark and delta-rs read the same.
    intensity = "carbon_intensity_gco2e_per_kwh"
    for rows in (lake.read_frame(GRID_HOUR), lake.read_few(GRID_HOUR)):
        found = {(r["date"], r[intensity]) for r in rows.select("date", intensity).collect()}
        assert found == {(DAY, 300.0), (DAY + timedelta(days=1), 200.0)}
    # What Spark writes is what is compared with, and the other way round.
    assert not lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark, 300.0)).changed


def test_few_rows_are_refused_where_many_are(spark: SparkSession, lake: SparkLake) -> None:
    day = Days.of(DAY)
    with pytest.raises(LakeError, match="refusing to replace the rows of 2025-06-03 by nothing"):
        lake.replace_few(GRID_HOUR, day, grid_rows(spark).limit(0))
    with pytest.raises(LakeError, match="rows of 2025-06-04 do not belong to 2025-06-03"):
        lake.replace_few(GRID_HOUR, day, grid_rows(spark, days=2))
    with pytest.raises(LakeError, match="required columns missing: zone_id"):
        lake.replace_few(GRID_HOUR, day, grid_rows(spark).drop("zone_id"))
    with pytest.raises(LakeError, match="null in required columns: zone_id"):
        lake.replace_few(GRID_HOUR, day, grid_rows(spark).withColumn("zone_id", F.lit(None).cast("string")))
    with pytest.raises(LakeError, match=r"outside the bounds .*: flow"):
        lake.replace_few(GRID_HOUR, day, grid_rows(spark).withColumn("flow", F.lit("other")))
    for bad in (float("nan"), float("inf"), -1.0, 2001.0):
        with pytest.raises(LakeError, match=r"outside the bounds .*: carbon_intensity_gco2e_per_kwh"):
            lake.replace_few(GRID_HOUR, day, grid_rows(spark, bad))
    assert lake.version(GRID_HOUR) == 0
    lake.replace_few(GRID_HOUR, day, grid_rows(spark))
    gone = lake.replace_few(GRID_HOUR, day, grid_rows(spark).limit(0), allow_empty=True)
    assert (gone.rows, gone.changed, lake.read_frame(GRID_HOUR).count()) == (0, True, 0)


def test_a_new_day_without_rows_makes_no_commit(spark: SparkSession, lake: SparkLake) -> None:
    written = lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark).limit(0), allow_empty=True)
    assert (written.rows, written.version, written.changed) == (0, 0, False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 2001.0])
def test_constraints_refuse_what_the_dictionary_does_not_allow(
    spark: SparkSession, lake: SparkLake, bad: float
) -> None:
    with pytest.raises(Exception, match="carbon_intensity_gco2e_per_kwh_bounds"):
        lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark, bad))


def test_the_unknown_passes_the_constraints(spark: SparkSession, lake: SparkLake) -> None:
    assert lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark, None)).rows == 24


def test_a_row_outside_the_days_is_refused(spark: SparkSession, lake: SparkLake) -> None:
    with pytest.raises(Exception, match="DELTA_REPLACE_WHERE_MISMATCH"):
        lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark, days=2))


def test_a_missing_required_column_stops_before_the_write(spark: SparkSession, lake: SparkLake) -> None:
    lake.ensure(GRID_HOUR)
    with pytest.raises(LakeError, match="required columns missing: zone_id"):
        lake.replace_frame(GRID_HOUR, Days.of(DAY), grid_rows(spark).drop("zone_id"))


def test_small_rows_are_written_and_read_without_the_jvm(lake: SparkLake) -> None:
    row = {"run_id": "r", "state": "running", "date_from": DAY, "date_until": DAY}
    lake.write_rows(RUN, [row])
    lake.write_rows(RUN, [row | {"state": "done", "exit_code": 0}])
    assert lake.rows(RUN)["state"].to_pylist().count("running") == 1
    with pytest.raises(Exception, match="failed validation check"):
        lake.write_rows(RUN, [row | {"exit_code": 999}])


@pytest.mark.parametrize("table", [CLUSTER_DAY, NODE, GRID_HOUR], ids=lambda t: t.name)
def test_tables_carry_comments_and_no_feature_that_other_readers_lack(lake: SparkLake, table: Table) -> None:
    lake.ensure(table)
    log = DeltaLog(lake.path(table))
    protocol = log.protocol()
    assert protocol.min_reader_version <= 1 and not protocol.reader_features
    assert protocol.min_writer_version <= 3 or set(protocol.writer_features or ()) <= READABLE_FEATURES
    comments = {f.name: f.metadata.get("comment") for f in log.schema().fields}
    assert list(comments) == list(table.columns) and all(comments.values())
    assert log.to_pyarrow_table().num_rows == 0


def test_every_table_is_named_once() -> None:
    assert all(name == table.name for name, table in TABLES.items())
