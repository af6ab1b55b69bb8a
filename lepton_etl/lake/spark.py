"""Spark frames on top of the lake's door: for readers, and for stages that still plan in Spark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from lepton_etl.days import Days, adjoining
from lepton_etl.errors import LakeError
from lepton_etl.lake import tables as few
from lepton_etl.lake.tables import Lake, Written, day_column, days_predicate, empty_days, refuse_other_days
from lepton_etl.schema.declare import Table
from lepton_etl.schema.types import spark_schema


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a set of rows is, whatever their order: how many, and two sums of their 64-bit hashes."""

    rows: int
    hash_sum: int
    hash_xor: int


def fingerprints_by_day(rows: DataFrame) -> dict[date, Fingerprint]:
    """The fingerprint of each UTC day of a frame with a `date`, in one pass."""
    return {row["date"]: _of(row) for row in _hashed(rows, "date").groupBy("date").agg(*_sums()).collect()}


def _hashed(rows: DataFrame, *kept: str) -> DataFrame:
    # Spark's xxhash64 skips nulls, so (null, 1) and (1, null) would hash alike: each column is hashed first, where a
    # null gives the seed, and then all the hashes in their order.
    row_hash = F.xxhash64(F.array(*(F.xxhash64(F.col(name)) for name in rows.columns)))
    return rows.select(*kept, row_hash.alias("h"))


def _sums() -> tuple[Column, ...]:
    return (
        F.count(F.lit(1)).alias("rows"),
        F.coalesce(F.sum(F.col("h").cast("decimal(38,0)")), F.lit(0)).alias("hash_sum"),
        F.coalesce(F.bit_xor(F.col("h")), F.lit(0)).alias("hash_xor"),
    )


def _of(row: Row) -> Fingerprint:
    return Fingerprint(int(row["rows"]), int(row["hash_sum"]), int(row["hash_xor"]))


class SparkLake(Lake):
    """The lake with Spark frames; `start` gives the session when the first frame is asked for."""

    def __init__(
        self,
        root: Path,
        metadata: Mapping[str, str] | None = None,
        *,
        spark: SparkSession | None = None,
        start: Callable[[], SparkSession] | None = None,
    ) -> None:
        super().__init__(root, metadata or {})
        self._spark = spark
        self._start = start

    @property
    def spark(self) -> SparkSession:
        if self._spark is None:
            if self._start is None:
                raise LakeError("this lake was opened without a Spark session", where=str(self.root))
            self._spark = self._start()
        return self._spark

    def read_frame(self, table: Table, days: Days | None = None) -> DataFrame:
        """The rows, of these UTC days where given; a missing table is created and reads as empty."""
        self.ensure(table)
        version = self.version(table)
        assert version is not None
        self.inputs[table.name] = version
        rows = self.spark.read.format("delta").load(self.path(table))
        return rows if days is None else rows.where(_within(table, days))

    def read_few(self, table: Table, days: Days | None = None) -> DataFrame:
        """`read_frame` for a table of few rows: held by the driver, so that joins with it are planned as such."""
        self.ensure(table)
        log = self.log(table)
        self.inputs[table.name] = log.version()
        return self.spark.createDataFrame(few.present_rows(table, log, days), spark_schema(table))

    def local(self, rows: DataFrame) -> DataFrame:
        """A result of few rows, computed now and held by the driver.

        What is joined to it is then planned on its own and not once more with everything before it: planning a
        plan of 30 operators takes longer than running it.
        """
        return self.spark.createDataFrame(rows.toArrow(), rows.schema)

    def replace_frame(
        self, table: Table, days: Days, rows: DataFrame, *, allow_empty: bool = False
    ) -> Written:
        """Replace exactly these UTC days by `rows`; a day of equal rows makes no commit and keeps its files.

        An empty frame would delete the days without a word (`replaceWhere`), so it is refused unless told.
        Raises LakeError.
        """
        if table.partition != "date":
            raise LakeError("only a table partitioned by date can replace days", where=table.name)
        self.ensure(table)
        fresh = self._conform(table, rows)
        made = {str(part["date"]) for part in self.log(table).partitions()}
        is_new = not any(day.isoformat() in made for day in days)
        if is_new and not allow_empty:
            # The usual night: its day is new. There is nothing to compare with, and planning once is half the cost.
            return self._write_days(table, days, fresh)
        fresh = fresh.persist(StorageLevel.MEMORY_AND_DISK)
        try:
            if is_new:
                count = fresh.count()
                if count == 0:
                    return Written(table.name, 0, self._version(table), changed=False)
                return self._write_days(table, days, fresh, rows=count)
            content, present = fingerprints_by_day(fresh), self._present(table, days)
            if not content and present and not allow_empty:
                raise empty_days(table, days)
            refuse_other_days(table, days, content)
            changed = adjoining([day for day in days if content.get(day) != present.get(day)])
            for span in changed:
                count = sum(content[day].rows for day in span if day in content)
                self._write_days(table, span, fresh.where(_within(table, span)), rows=count)
            rows_now = sum(found.rows for found in content.values())
            return Written(table.name, rows_now, self._version(table), bool(changed))
        finally:
            fresh.unpersist()

    def replace_few(self, table: Table, days: Days, rows: DataFrame, *, allow_empty: bool = False) -> Written:
        """`replace_frame` for a table of few rows a day: no Spark job to compare and to write."""
        return self.replace(table, days, rows.toArrow(), allow_empty=allow_empty)

    def rows(self, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        """A small table (run record, file manifest) as Arrow; empty where it does not exist."""
        return self.read(table, columns=columns).to_arrow()

    def _present(self, table: Table, days: Days) -> dict[date, Fingerprint]:
        rows = self.spark.read.format("delta").load(self.path(table)).where(_within(table, days))
        return fingerprints_by_day(self._conform(table, rows))

    def _write_days(self, table: Table, days: Days, fresh: DataFrame, rows: int | None = None) -> Written:
        writer = fresh.write.format("delta").mode("overwrite").option("mergeSchema", "true")
        if days.count > 1:
            # Bins rows by partition before writing: a day is one file of sensible size, not one a task.
            writer = writer.option("optimizeWrite", "true")
        writer.option("replaceWhere", days_predicate(days)).option(
            "userMetadata", json.dumps(self.metadata, sort_keys=True)
        ).save(self.path(table))
        if rows is None:
            rows = int(self.log(table).history(1)[0]["operationMetrics"]["numOutputRows"])
            if rows == 0:
                raise empty_days(table, days)
        return Written(table.name, rows, self._version(table), changed=True)

    def _conform(self, table: Table, rows: DataFrame) -> DataFrame:
        """The declared columns in the declared order and type; a missing one stops the run before a write."""
        schema = spark_schema(table)
        missing = [name for name in table.columns if name not in rows.columns]
        if missing and not self.exists(table):
            raise LakeError(f"columns missing: {', '.join(missing)}", where=table.name)
        if missing and set(missing) & set(table.required):
            raise LakeError(f"required columns missing: {', '.join(missing)}", where=table.name)
        return rows.select(
            *(
                (F.lit(None) if c.name in missing else F.col(c.name)).cast(c.dataType).alias(c.name)
                for c in schema
            )
        )


def _within(table: Table, days: Days) -> Column:
    return F.col(day_column(table)).between(F.lit(days.start), F.lit(days.end))
