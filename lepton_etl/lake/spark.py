"""Tables of the lake as Spark frames, for readers and consumers in Spark SQL; nothing is written this way."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake, day_column
from lepton_etl.schema.declare import Table


def read_frame(spark: SparkSession, lake: Lake, table: Table, days: Days | None = None) -> DataFrame:
    """Return the rows of a table's newest version by Spark's own Delta reader, of these UTC days where given."""
    rows = spark.read.format("delta").load(lake.path(table))
    if days is None:
        return rows
    return rows.where(F.col(day_column(table)).between(F.lit(days.start), F.lit(days.end)))
