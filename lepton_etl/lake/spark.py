"""The door to the Delta tables: read, replace days, overwrite, append.

Every writer says what it changed as `Written`; a replace whose rows equal the present ones makes no commit.

- Whether two sets of rows are the same, told by one pass over each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake
from deltalake import DeltaTable as DeltaLog
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from lepton_etl.days import Days, adjoining
from lepton_etl.errors import LakeError
from lepton_etl.lake import tables as few
from lepton_etl.lake import tables as plain
from lepton_etl.lake.creation import create_table
from lepton_etl.schema.declare import Table
from lepton_etl.schema.logs import FILE, READING, REJECT
from lepton_etl.schema.types import arrow_schema, spark_schema


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


@dataclass(frozen=True, slots=True)
class Written:
    """What a door did to a table; `changed` is False when the rows were there already."""

    table: str
    rows: int
    version: int
    changed: bool


@dataclass
class Lake:
    """The tables below one root.

    `inputs` collects the Delta version of every table read since `forget_inputs`, for the run record;
    `metadata` goes into the commits (`userMetadata`): which run wrote this version.
    """

    spark: SparkSession
    root: Path
    metadata: Mapping[str, str] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)

    def path(self, table: Table) -> str:
        return str(self.root / table.name)

    def exists(self, table: Table) -> bool:
        return plain.exists(self.root, table)

    def version(self, table: Table) -> int | None:
        """The newest Delta version, None where the table does not exist."""
        return plain.version(self.root, table)

    def log(self, table: Table) -> DeltaLog:
        """The table's transaction log, without a JVM."""
        return DeltaLog(self.path(table))

    def forget_inputs(self) -> None:
        self.inputs.clear()

    def ensure(self, table: Table) -> None:
        """Create the table if it is missing: columns, comments, constraints, partition, properties.

        A table of an older release gets its new columns at the next write (`mergeSchema`).
        """
        if not self.exists(table):
            create_table(self.root / table.name, table)

    def read(self, table: Table, days: Days | None = None) -> DataFrame:
        """The rows, of these UTC days where given; a missing table is created and reads as empty."""
        self.ensure(table)
        version = self.version(table)
        assert version is not None
        self.inputs[table.name] = version
        rows = self.spark.read.format("delta").load(self.path(table))
        return rows if days is None else rows.where(_within(table, days))

    def read_few(self, table: Table, days: Days | None = None) -> DataFrame:
        """`read` for a table of few rows: held by the driver, so that joins with it are planned as such."""
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

    def replace(self, table: Table, days: Days, rows: DataFrame, *, allow_empty: bool = False) -> Written:
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
                raise _empty(table, days)
            _refuse_others(table, days, content)
            changed = adjoining([day for day in days if content.get(day) != present.get(day)])
            for span in changed:
                count = sum(content[day].rows for day in span if day in content)
                self._write_days(table, span, fresh.where(_within(table, span)), rows=count)
            rows_now = sum(found.rows for found in content.values())
            return Written(table.name, rows_now, self._version(table), bool(changed))
        finally:
            fresh.unpersist()

    def replace_few(self, table: Table, days: Days, rows: DataFrame, *, allow_empty: bool = False) -> Written:
        """`replace` for a table of few rows a day (sites, clusters): without a Spark job to compare and to write."""
        self.ensure(table)
        fresh = few.checked(table, rows.toArrow())
        _refuse_others(table, days, fresh["date"].unique().to_pylist())
        if fresh.num_rows == 0 and not allow_empty:
            raise _empty(table, days)
        changed = few.changed_spans(fresh, few.present_rows(table, self.log(table), days), days)
        for span in changed:
            self._write_few(table, few.of_days(fresh, span.start, span.end), span)
        return Written(table.name, fresh.num_rows, self._version(table), bool(changed))

    def overwrite(self, table: Table, rows: DataFrame | pa.Table) -> Written:
        """Replace a table without days (inventory, meters); equal rows make no commit."""
        self.ensure(table)
        arrow = rows if isinstance(rows, pa.Table) else rows.toArrow()
        fresh = few.checked(table, arrow)
        changed = not fresh.equals(few.present_rows(table, self.log(table), None))
        if changed:
            self._write_few(table, fresh, None)
        return Written(table.name, fresh.num_rows, self._version(table), changed)

    def _write_few(self, table: Table, fresh: pa.Table, days: Days | None) -> None:
        where = None if days is None else _predicate(days)
        path = self.root / table.name
        few.write(table, self.log(table), fresh, where=where, path=path, metadata=self.metadata)

    def rows(self, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        """A small table (run record, file manifest) as Arrow, without the JVM; empty where it does not exist."""
        if not self.exists(table):
            empty = arrow_schema(table).empty_table()
            return empty.select(list(columns)) if columns else empty
        found = pa.table(
            self.log(table).to_pyarrow_dataset().to_table(columns=list(columns or table.columns))
        )
        return found

    def write_rows(
        self, table: Table, rows: Sequence[Mapping[str, Any]], *, where: str | None = None
    ) -> Written:
        """Append a few rows (run record, file manifest) without the JVM; `where` names rows that they replace."""
        self.ensure(table)
        data = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(table))
        how: dict[str, Any] = (
            {"mode": "append"} if where is None else {"mode": "overwrite", "predicate": where}
        )
        properties = CommitProperties(custom_metadata=dict(self.metadata))
        write_deltalake(self.path(table), data, schema_mode="merge", commit_properties=properties, **how)
        return Written(table.name, data.num_rows, self._version(table), changed=True)

    def _version(self, table: Table) -> int:
        version = self.version(table)
        assert version is not None
        return version

    def _present(self, table: Table, days: Days) -> dict[date, Fingerprint]:
        rows = self.spark.read.format("delta").load(self.path(table)).where(_within(table, days))
        return fingerprints_by_day(self._conform(table, rows))

    def _write_days(self, table: Table, days: Days, fresh: DataFrame, rows: int | None = None) -> Written:
        writer = fresh.write.format("delta").mode("overwrite").option("mergeSchema", "true")
        if days.count > 1:
            # Bins rows by partition before writing: a day is one file of sensible size, not one a task.
            writer = writer.option("optimizeWrite", "true")
        writer.option("replaceWhere", _predicate(days)).option(
            "userMetadata", json.dumps(self.metadata, sort_keys=True)
        ).save(self.path(table))
        if rows is None:
            rows = int(self.log(table).history(1)[0]["operationMetrics"]["numOutputRows"])
            if rows == 0:
                raise _empty(table, days)
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


def _refuse_others(table: Table, days: Days, found: Iterable[date]) -> None:
    """Raise LakeError for a row of another day."""
    outside = sorted(day for day in found if day not in days)
    if outside:
        raise LakeError(f"rows of {outside[0]} do not belong to {days}", where=table.name)


def _empty(table: Table, days: Days) -> LakeError:
    return LakeError(
        f"refusing to replace the rows of {days} by nothing",
        where=table.name,
        remedy="check the stage's inputs; no row was removed",
    )


def day_column(table: Table) -> str:
    """The column that holds a row's UTC day."""
    if table in (READING,):
        return "reading_date"
    if table in (REJECT, FILE):
        return "ingest_date"
    if "date" in table.columns:
        return "date"
    raise LakeError("the table has no days", where=table.name)


def _within(table: Table, days: Days) -> Column:
    return F.col(day_column(table)).between(F.lit(days.start), F.lit(days.end))


def _predicate(days: Days) -> str:
    # Dates are parsed values, so the string holds nothing that a caller typed.
    return f"date >= '{days.start.isoformat()}' AND date < '{(days.end + timedelta(days=1)).isoformat()}'"
