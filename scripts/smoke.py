"""Write and read one small Delta table through a Python worker: the set-up's last check.

spark-submit --properties-file conf/spark-defaults.conf scripts/smoke.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

NODES = 4


def double_power(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Runs in the worker: proves that executors find the environment's own Python with pyarrow."""
    for batch in batches:
        power = pa.array([2 * value for value in batch.column("power_w").to_pylist()], pa.int64())
        yield pa.record_batch([power], names=["power_w"])


def main() -> int:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    with tempfile.TemporaryDirectory(prefix="lepton-smoke-") as scratch:
        table = str(Path(scratch) / "power")
        spark = SparkSession.builder.master("local[2]").appName("smoke").getOrCreate()
        watts = spark.range(NODES).selectExpr("100 * id AS power_w")
        watts.mapInArrow(double_power, "power_w BIGINT").write.format("delta").save(table)
        total = spark.read.format("delta").load(table).agg({"power_w": "sum"}).first()
        spark.stop()
    expected = 2 * 100 * sum(range(NODES))
    if total is None or total[0] != expected:
        print(f"smoke: wrote {expected} W to Delta and read back {total}", file=sys.stderr)
        return 1
    print(f"smoke: {NODES} rows through a Python worker into Delta and back")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
