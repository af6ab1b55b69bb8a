"""The door to storage on real Delta tables, and Spark as one of their readers."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable as DeltaLog
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.errors import LakeError
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.fleet import GRID_HOUR, NODE
from lepton_etl.schema.operations import RUN
from lepton_etl.schema.tables import TABLES
from tests.integration.laying import rows_of

DAY = date(2025, 6, 3)
BOTH = Days(DAY, DAY + timedelta(days=1))
READABLE_FEATURES = {"appendOnly", "invariants", "checkConstraints"}
INTENSITY = "carbon_intensity_gco2e_per_kwh"


def grid_rows(intensity: float | None = 200.0, days: int = 1) -> pl.DataFrame:
    start = datetime(2025, 6, 3, tzinfo=UTC)
    rows = [
        {"zone_id": "ZZ", "hour_start": at, "date": at.date(), "intensity_basis": "direct", "signal": "average",
         "flow": "consumption", INTENSITY: intensity, "estimated": False, "source_name": "grid"}
        for at in (start + timedelta(hours=h) for h in range(24 * days))
    ]  # fmt: skip
    return rows_of(GRID_HOUR, rows)


def test_replacing_a_day_twice_by_equal_rows_commits_once(lake: Lake) -> None:
    first = lake.replace(GRID_HOUR, Days.of(DAY), grid_rows())
    again = lake.replace(GRID_HOUR, Days.of(DAY), grid_rows().reverse())
    other = lake.replace(GRID_HOUR, Days.of(DAY), grid_rows(201.0))
    assert (first.rows, first.changed) == (24, True)
    assert (again.version, again.changed) == (first.version, False)
    assert (other.version, other.changed) == (first.version + 1, True)


def test_replacing_a_day_leaves_the_other_days(lake: Lake) -> None:
    lake.replace(GRID_HOUR, BOTH, grid_rows(days=2))
    lake.replace(GRID_HOUR, Days.of(DAY), grid_rows(300.0))
    found = dict(lake.read(GRID_HOUR).group_by("date").agg(pl.col(INTENSITY).max()).iter_rows())
    assert found == {DAY: 300.0, BOTH.end: 200.0}


def test_a_day_of_equal_rows_keeps_its_files(lake: Lake) -> None:
    rows = grid_rows(days=2)
    lake.replace(GRID_HOUR, BOTH, rows)
    before = files_by_day(lake)
    changed = pl.when(pl.col("date") == BOTH.end).then(250.0).otherwise(pl.col(INTENSITY)).alias(INTENSITY)
    written = lake.replace(GRID_HOUR, BOTH, rows.with_columns(changed))
    after = files_by_day(lake)
    assert (written.rows, written.changed, written.version) == (48, True, 2)
    assert after[DAY] == before[DAY]
    assert not after[BOTH.end] & before[BOTH.end]


def files_by_day(lake: Lake) -> dict[date, set[str]]:
    files = pa.table(lake.log(GRID_HOUR).get_add_actions(flatten=True)).to_pylist()
    return {day: {f["path"] for f in files if f["partition.date"] == day} for day in BOTH}


def test_rows_that_must_not_stand_are_refused_before_a_commit(lake: Lake) -> None:
    day = Days.of(DAY)
    lake.ensure(GRID_HOUR)
    with pytest.raises(LakeError, match="refusing to replace the rows of 2025-06-03 by nothing"):
        lake.replace(GRID_HOUR, day, grid_rows().head(0))
    with pytest.raises(LakeError, match="rows of 2025-06-04 do not belong to 2025-06-03"):
        lake.replace(GRID_HOUR, day, grid_rows(days=2))
    with pytest.raises(LakeError, match="required columns missing: zone_id"):
        lake.replace(GRID_HOUR, day, grid_rows().drop("zone_id"))
    with pytest.raises(LakeError, match="null in required columns: zone_id"):
        lake.replace(GRID_HOUR, day, grid_rows().with_columns(pl.lit(None, pl.String).alias("zone_id")))
    with pytest.raises(LakeError, match=r"outside the bounds .*: flow"):
        lake.replace(GRID_HOUR, day, grid_rows().with_columns(pl.lit("other").alias("flow")))
    for bad in (float("nan"), float("inf"), -1.0, 2001.0):
        with pytest.raises(LakeError, match=r"outside the bounds .*: carbon_intensity_gco2e_per_kwh"):
            lake.replace(GRID_HOUR, day, grid_rows(bad))
    assert lake.version(GRID_HOUR) == 0


def test_the_unknown_passes_and_an_empty_day_where_it_is_allowed(lake: Lake) -> None:
    assert lake.replace(GRID_HOUR, Days.of(DAY), grid_rows(None)).rows == 24
    gone = lake.replace(GRID_HOUR, Days.of(DAY), grid_rows().head(0), allow_empty=True)
    assert (gone.rows, gone.changed, lake.read(GRID_HOUR).height) == (0, True, 0)
    again = lake.replace(GRID_HOUR, Days.of(DAY), grid_rows().head(0), allow_empty=True)
    assert (again.version, again.changed) == (gone.version, False)


@pytest.mark.spark
def test_spark_reads_what_was_written(spark: SparkSession, lake: Lake) -> None:
    lake.replace(GRID_HOUR, BOTH, grid_rows(days=2))
    lake.replace(GRID_HOUR, Days.of(DAY), grid_rows(300.0))
    own = lake.read(GRID_HOUR).sort("hour_start")
    read = spark.read.format("delta").load(lake.path(GRID_HOUR))
    frame = pl.DataFrame(read.toArrow()).sort("hour_start")
    assert frame.select(own.columns).cast(own.schema).equals(own)
    assert read.where(F.col("date") == F.lit(DAY)).count() == 24


def test_small_rows_are_written_and_read_without_the_jvm(lake: Lake) -> None:
    row = {"run_id": "r", "state": "running", "date_from": DAY, "date_until": DAY}
    lake.write_rows(RUN, [row])
    lake.write_rows(RUN, [row | {"state": "done", "exit_code": 0}])
    assert lake.read(RUN)["state"].to_list().count("running") == 1
    with pytest.raises(Exception, match="failed validation check"):
        lake.write_rows(RUN, [row | {"exit_code": 999}])


@pytest.mark.parametrize("table", [CLUSTER_DAY, NODE, GRID_HOUR], ids=lambda t: t.name)
def test_tables_carry_comments_and_no_feature_that_other_readers_lack(lake: Lake, table: Table) -> None:
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
