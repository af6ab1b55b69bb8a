"""Whether two sets of rows are the same, told by one pass over each."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
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
    row_hash = F.xxhash64(F.array(*(F.xxhash64(F.col(name)) for name in rows.columns)))
    found = rows.select(row_hash.alias("h")).agg(
        F.count(F.lit(1)).alias("rows"),
        F.coalesce(F.sum(F.col("h").cast("decimal(38,0)")), F.lit(0)).alias("hash_sum"),
        F.coalesce(F.bit_xor(F.col("h")), F.lit(0)).alias("hash_xor"),
    )
    row = found.first()
    assert row is not None
    return Fingerprint(int(row["rows"]), int(row["hash_sum"]), int(row["hash_xor"]))
