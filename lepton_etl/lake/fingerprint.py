"""Whether two sets of rows are the same, told by one pass over each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a set of rows is, whatever their order: how many, and two sums of their 64-bit hashes."""

    rows: int
    hash_sum: int
    hash_xor: int


def fingerprint(rows: DataFrame) -> Fingerprint:
    """The fingerprint of a frame in one pass.

    Spark's xxhash64 skips nulls, so (null, 1) and (1, null) would hash alike; each column is hashed first, where a null
    gives the seed, and then all the hashes in their order.
    """
    (row,) = _hashed(rows).agg(*_sums()).collect()
    return _of(row)


def fingerprints_by_day(rows: DataFrame) -> dict[date, Fingerprint]:
    """The fingerprint of each UTC day of a frame with a `date`, in one pass."""
    return {row["date"]: _of(row) for row in _hashed(rows, "date").groupBy("date").agg(*_sums()).collect()}


def _hashed(rows: DataFrame, *kept: str) -> DataFrame:
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
