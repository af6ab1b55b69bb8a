"""Column expressions that more than one room needs: sums whatever the partitioning, means, contracts.

Spark adds doubles in the order in which tasks deliver them, so the last digits of a sum change from run to
run and a re-run would look like new content. Every sum over rows is therefore taken in decimals and cast
back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lepton_etl.schema.declare import Table
from lepton_etl.schema.types import spark_schema


def interval_90(half_width: Column) -> dict[str, Column]:
    """Lower and upper end of the 90 % interval around `it_energy_kwh`; the lower end is never below 0."""
    energy = F.col("it_energy_kwh")
    lower = energy - half_width
    # greatest() passes over nulls: an unknown lower end would become 0.
    return {
        "it_energy_lower_kwh": F.when(lower.isNotNull(), F.greatest(lower, F.lit(0.0))),
        "it_energy_upper_kwh": energy + half_width,
    }


Transform = Callable[[DataFrame], DataFrame]

ENERGY_SUM: Final = T.DecimalType(28, 9)
# For addends far below one: 300 s of one idle board is 1e-3 kWh, a squared sensor error 1e-9.
FINE_SUM: Final = T.DecimalType(38, 18)


def exact_sum(value: Column, type_: T.DecimalType = ENERGY_SUM) -> Column:
    """Sum in decimals, as double; null where every addend is null."""
    return F.sum(value.cast(type_)).cast(T.DoubleType())


def weighted_mean(value: Column, weight: Column) -> Column:
    """Mean of `value` by `weight` over the rows that have a value; null where none has, or no weight."""
    known_weight = F.when(value.isNotNull(), weight)
    return F.try_divide(exact_sum(value * weight, FINE_SUM), exact_sum(known_weight, FINE_SUM))


def seconds_between(start: Column, end: Column) -> Column:
    """Seconds from one timestamp to another, with microseconds."""
    return (F.unix_micros(end) - F.unix_micros(start)) / F.lit(1e6)


def conform(table: Table) -> Transform:
    """Select the table's columns in its order, cast to the dictionary's types: its contract."""

    def transform(rows: DataFrame) -> DataFrame:
        return rows.select(*(F.col(c.name).cast(c.dataType).alias(c.name) for c in spark_schema(table)))

    return transform
