"""The floor of a night on Spark: a session, one Python task, one row committed by delta-rs.

    spark-submit --properties-file conf/spark-defaults.conf bench/night_floor.py FOLDER

What no night under spark-submit can be quicker than.
"""

from __future__ import annotations

import sys

import pyarrow as pa
from deltalake import write_deltalake

from lepton_etl.lake.session import spark_session


def doubled(value: int) -> int:
    return 2 * value


def main(folder: str) -> None:
    spark = spark_session("bench night floor")
    values = spark.sparkContext.parallelize([21], 1).map(doubled).collect()
    write_deltalake(folder, pa.table({"value": pa.array(values, pa.int64())}))
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
