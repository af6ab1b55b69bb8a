"""A slice of a table -> one row that holds the value of every check, and keys of rows that break one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.lake.tables import Table
from lepton_etl.quality.checks import KEY_UNIQUE, Check

ROWS: Final = "rows"
_EXAMPLES: Final = 3


def complaints(checks: Sequence[Check], rows: DataFrame) -> dict[str, str]:
    """Check name -> what Spark says of an expression that it does not understand on these columns; no job."""
    own = [check for check in checks if check.name != KEY_UNIQUE]
    # Analysing all at once takes as long as one; only where that fails is each asked on its own.
    if _complaint(rows, *(check.sql for check in own)) is None:
        return {}
    found = {check.name: _complaint(rows, check.sql) for check in own}
    return {name: text for name, text in found.items() if text is not None}


def _complaint(rows: DataFrame, *sql: str) -> str | None:
    try:
        # A frame is analysed when it is made.
        rows.agg(F.count(F.lit(1)), *(F.expr(text) for text in sql))
    except (AnalysisException, ParseException) as error:
        return str(error).splitlines()[0]
    return None


def profile(table: Table, checks: Sequence[Check], rows: DataFrame) -> pa.Table:
    """One row: `rows` and one column a check, in one Spark action.

    Raises PySparkException where an expression fails on the data (ANSI: division by zero).
    """
    values = [F.expr(check.sql).alias(check.name) for check in checks if check.name != KEY_UNIQUE]
    found = rows.agg(F.count(F.lit(1)).alias(ROWS), *values)
    if any(check.name == KEY_UNIQUE for check in checks):
        # A group-by of the key columns beside the profile takes half the time of count(distinct) within it.
        surplus = rows.groupBy(*table.key).count().agg(F.sum(F.col("count") - 1).alias("surplus"))
        found = found.crossJoin(surplus.select(F.coalesce("surplus", F.lit(0)).alias(KEY_UNIQUE)))
    return found.select(ROWS, *(check.name for check in checks)).toArrow()


def examples(table: Table, check: Check, rows: DataFrame) -> tuple[str, ...]:
    """Keys (and the column's value) of up to three rows that break the check, in key order."""
    if check.name == KEY_UNIQUE:
        broken = rows.groupBy(*table.key).count().where("count > 1")
        shown = [*table.key, "count"]
    elif check.bad is not None:
        broken = rows.where(F.expr(check.bad))
        shown = [*table.key, *((check.column,) if check.column and check.column not in table.key else ())]
    else:
        return ()
    present = [name for name in shown if name in broken.columns]
    order = [name for name in present if name in table.key]
    found = broken.select(*present).orderBy(*order).limit(_EXAMPLES).collect()
    return tuple(" ".join(f"{name}={row[name]}" for name in present) for row in found)
