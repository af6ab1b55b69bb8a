"""Spark's own text functions and readers, to a Delta table, in a session that is already up."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from bench.mapping import COLUMNS, read
from bench.measure import Run, timed
from lepton_etl.lake.session import spark_defaults, spark_session

_JAVA: Final = "spark.driver.extraJavaOptions"


def run(kind: str, folder: Path, target: Path, cores: int) -> Run:
    # What works in the JVM is worth both of its compilers.
    java = spark_defaults()[_JAVA].replace("-XX:TieredStopAtLevel=1", "")
    spark = spark_session(
        "bench", {"spark.master": f"local[{cores}]", "spark.driver.memory": "4g", _JAVA: java}
    )
    spark.sparkContext.setLogLevel("ERROR")
    spark.range(10).write.format("delta").save(f"{target}/warm")
    plan = {"ipmitool": _ipmitool, "csv": _csv, "prometheus": _prometheus, "parquet": _parquet}[kind]
    table = f"{target}/rows"

    def work() -> int:
        plan(spark, folder).write.format("delta").save(table)
        return int(spark.read.format("delta").load(table).count())

    return timed(work)


def _texts(spark: SparkSession, folder: Path) -> DataFrame:
    """file, position and line of every line; whole files, because position is a place in one."""
    files = spark.read.text(str(folder), wholetext=True).withColumn("file", _name())
    return files.select("file", F.posexplode(F.split("value", "\n")).alias("at", "line")).select(
        "file", (F.col("at") + 1).alias("position"), "line"
    )


def _name() -> Column:
    return F.element_at(F.split(F.input_file_name(), "/"), -1)


def _value(number: Column) -> Column:
    return F.expr("try_cast(raw_value AS double)") * F.col("factor") / F.col("divisor") + F.col("offset")


def _mapping(spark: SparkSession, folder: Path) -> DataFrame:
    types = (
        "sensor string, logged_unit string, quantity string, device_id string, factor double, divisor double"
    )
    rows = [
        (
            *(row[name] for name in COLUMNS[:4]),
            *(float(row[name]) if row[name] else None for name in COLUMNS[4:]),
        )
        for row in read(folder / ".mapping.csv")
    ]
    return F.broadcast(spark.createDataFrame(rows, f"{types}, offset double, not_measured double"))


def _ipmitool(spark: SparkSession, folder: Path) -> DataFrame:
    is_stamp = F.col("line").startswith("Timestamp:")
    stamp = F.when(is_stamp, F.to_timestamp(F.substring("line", 12, 19), "yyyy-MM-dd HH:mm:ss"))
    below = Window.partitionBy("file").orderBy("position").rowsBetween(Window.unboundedPreceding, 0)
    said = F.trim(F.split_part("line", F.lit("|"), F.lit(2)))
    kept = (
        _texts(spark, folder)
        .withColumn("sensor", F.rtrim(F.split_part("line", F.lit("|"), F.lit(1))))
        .withColumn("raw_value", F.split_part(said, F.lit(" "), F.lit(1)))
        .withColumn("logged_unit", F.expr("substring(trim(split_part(line, '|', 2)), length(raw_value) + 2)"))
        .join(_mapping(spark, folder), on=["sensor", "logged_unit"], how="left")
        .where(is_stamp | F.col("quantity").isNotNull())
        .withColumn("reading_time", F.last(stamp, ignorenulls=True).over(below))
    )
    is_blank = F.expr("try_cast(raw_value AS double) <=> not_measured")
    return kept.where(~is_stamp & ~is_blank).select(
        "file", "position", "sensor", "quantity", "device_id", "raw_value", F.col("logged_unit").alias("raw_unit"),
        "reading_time", _value(F.col("raw_value")).alias("value"),
    ).where(F.col("value").isNotNull())  # fmt: skip


def _prometheus(spark: SparkSession, folder: Path) -> DataFrame:
    words = F.split("line", " ")
    return (
        _texts(spark, folder)
        .withColumn("sensor", F.split_part("line", F.lit("{"), F.lit(1)))
        .join(_mapping(spark, folder), on="sensor", how="inner")
        .withColumn("raw_value", F.element_at(words, -2))
        .select(
            "file", "position", "sensor",
            F.timestamp_millis(F.element_at(words, -1).cast("long")).alias("reading_time"),
            _value(F.col("raw_value")).alias("value"),
        )
        .where(F.col("value").isNotNull())
    )  # fmt: skip


def _csv(spark: SparkSession, folder: Path) -> DataFrame:
    """Position comes from the order in a file: each file here is one task's, read from its start."""
    first = (folder / sorted(path.name for path in folder.glob("*.csv"))[0]).open(encoding="utf-8").readline()
    names = first.strip().split(",")
    schema = ", ".join(f"`{name}` {'string' if name == 'time' else 'double'}" for name in names)
    wide = spark.read.schema(schema).csv(str(folder / "*.csv"), header=True)
    return _long(
        wide.withColumn("file", _name()).withColumn("order", F.monotonically_increasing_id()), names[1:], 1
    )


def _parquet(spark: SparkSession, folder: Path) -> DataFrame:
    wide = spark.read.parquet(str(folder / "*.parquet"))
    names = [name for name in wide.columns if name != "time"]
    ordered = wide.select("*", (F.col("_metadata.row_index") + 1).alias("position"))
    return _unpivoted(ordered.withColumn("file", _name()), names)


def _long(wide: DataFrame, names: list[str], header_lines: int) -> DataFrame:
    in_file = Window.partitionBy("file").orderBy("order")
    return _unpivoted(wide.withColumn("position", F.row_number().over(in_file) + header_lines), names)


def _unpivoted(wide: DataFrame, names: list[str]) -> DataFrame:
    columns: list[Column | str] = [F.col(f"`{name}`") for name in names]
    long = wide.select("file", "position", F.to_timestamp("time").alias("reading_time"), *columns)
    return long.unpivot(["file", "position", "reading_time"], columns, "sensor", "value")
