"""The same raw logs through Polars and through DuckDB with delta-rs: python -m bench.night_peers PEER FOLDER OUT.

What a good engineer writes by hand in an afternoon: every reading with its time, sensor, value and unit to a Delta
table; readings and energy of each node-hour; energy and emissions of the cluster-day at a fixed intensity. Without
rejects, bounds, units other than those of the log, file identity, gate, uncertainty and models.

Polars runs in as many processes as there are cores. Its parts that count: gzip by ISA-L, a stamp parsed once a
snapshot and not once a line, and each distinct text of a reading parsed once a batch. Parquet is written by the
processes and committed once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import AddAction
from isal import igzip_lib

PEERS: Final = ("polars", "duckdb")
NODE_HOUR: Final = "node_hour"
READING: Final = "reading"

_POWER: Final = "Sys Power"
_GAP_LIMIT_S: Final = 300
_KG_PER_KWH: Final = 0.4
_FILES_PER_BATCH: Final = 32
_READINGS: Final = pa.schema(
    [
        ("node_id", pa.string()),
        ("reading_time", pa.timestamp("us", "UTC")),
        ("sensor", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
    ]
)


def run(peer: str, folder: Path, out: Path) -> int:
    """Write the three tables of a peer; how many readings."""
    files = sorted(folder.glob("*.txt.gz"))
    batches = [files[at : at + _FILES_PER_BATCH] for at in range(0, len(files), _FILES_PER_BATCH)]
    DeltaTable.create(str(out / READING), _READINGS)
    hours = {"polars": _polars, "duckdb": _duckdb}[peer](batches, out)
    write_deltalake(str(out / NODE_HOUR), hours.to_arrow(compat_level=pl.CompatLevel.oldest()))
    energy = pl.col("energy_kwh").sum()
    day = hours.group_by(pl.lit("fleet").alias("cluster_id")).agg(
        energy, (energy * _KG_PER_KWH).alias("kgco2e")
    )
    write_deltalake(str(out / "cluster_day"), day.to_arrow(compat_level=pl.CompatLevel.oldest()))
    return int(hours["readings"].sum())


def _polars(batches: Sequence[Sequence[Path]], out: Path) -> pl.DataFrame:
    cores = len(os.sched_getaffinity(0))
    # Spawned, because the threads of Polars do not survive a fork; each process has one of its own.
    os.environ["POLARS_MAX_THREADS"] = "1"
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        done = list(pool.map(partial(_polars_batch, out / READING), range(len(batches)), batches))
    DeltaTable(str(out / READING)).create_write_transaction(
        [action for action, _ in done], mode="append", schema=DeltaTable(str(out / READING)).schema()
    )
    return pl.concat(hours for _, hours in done)


def _polars_batch(target: Path, number: int, files: Sequence[Path]) -> tuple[AddAction, pl.DataFrame]:
    lines = pl.concat(map(_lines, files))
    # A fleet says the same few hundred texts again and again.
    texts = lines.select("said").unique().drop_nulls()
    said = pl.col("said").str.strip_chars().str.splitn(" ", 2)
    parsed = texts.select(
        "said", said.struct[0].cast(pl.Float64, strict=False).alias("value"), said.struct[1].alias("unit")
    ).drop_nulls("value")
    rows = lines.join(parsed, on="said", how="inner", maintain_order="left").select(
        "node_id", "reading_time", pl.col("sensor").str.strip_chars_end(), "value", "unit"
    )
    path = target / f"part-{number:05d}.parquet"
    rows.write_parquet(path, compression="zstd", compression_level=1)
    statistics = json.dumps({"numRecords": rows.height})
    action = AddAction(path.name, path.stat().st_size, {}, int(time.time() * 1000), True, statistics)
    return action, _node_hours(rows)


def _lines(file: Path) -> pl.DataFrame:
    text = igzip_lib.decompress(file.read_bytes(), flag=igzip_lib.DECOMP_GZIP)
    raw = pl.read_csv(
        BytesIO(text),
        separator="|",
        has_header=False,
        quote_char=None,
        schema={"sensor": pl.String, "said": pl.String, "state": pl.String},
        truncate_ragged_lines=True,
        missing_columns="insert",
    )
    stamp = pl.when(pl.col("said").is_null()).then(pl.col("sensor").str.slice(11, 19))
    instant = stamp.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", time_zone="UTC")
    return raw.select(
        pl.lit(_node_id(file)).alias("node_id"),
        instant.forward_fill().alias("reading_time"),
        "sensor",
        "said",
    ).filter(pl.col("said").is_not_null())


def _node_id(file: Path) -> str:
    found = re.match(r"(.+)-\d{4}-\d\d-\d\d\.", file.name)
    assert found is not None
    return found[1]


def _node_hours(rows: pl.DataFrame) -> pl.DataFrame:
    """Readings of every sensor, and energy by trapezoids that belong to the hour in which they start."""
    key = ["node_id", "hour_start"]
    counted = rows.group_by("node_id", pl.col("reading_time").dt.truncate("1h").alias("hour_start")).agg(
        pl.len().cast(pl.Int64).alias("readings")
    )
    start, value = pl.col("reading_time"), pl.col("value")
    energy = (
        rows.filter(pl.col("sensor") == _POWER)
        .sort("node_id", "reading_time")
        .with_columns(
            ((start.shift(-1) - start).dt.total_microseconds() / 1e6).over("node_id").alias("seconds"),
            ((value + value.shift(-1)) / 2).over("node_id").alias("mean_w"),
        )
        .filter(pl.col("seconds") <= _GAP_LIMIT_S)
        .group_by("node_id", start.dt.truncate("1h").alias("hour_start"))
        .agg((pl.col("seconds") * pl.col("mean_w")).sum().truediv(3.6e6).alias("energy_kwh"))
    )
    return counted.join(energy, on=key, how="left").select(*key, "readings", "energy_kwh")


_DUCK_READINGS: Final = """
    CREATE OR REPLACE TEMP TABLE rows AS
    WITH raw AS (
        SELECT filename, a, b, row_number() OVER () AS line
        FROM read_csv($files, delim='|', columns={'a': 'VARCHAR', 'b': 'VARCHAR', 'c': 'VARCHAR'}, header=false,
                      null_padding=true, quote='', escape='', filename=true, auto_detect=false, strict_mode=false)
    ), stamped AS (
        SELECT *, last_value(CASE WHEN b IS NULL THEN strptime(a[12:30], '%Y-%m-%d %H:%M:%S') END IGNORE NULLS)
               OVER (PARTITION BY filename ORDER BY line) AS stamp
        FROM raw
    )
    SELECT regexp_extract(filename, '([^/]+)-[0-9]{4}-[0-9]{2}-[0-9]{2}[.]', 1) AS node_id,
           stamp AT TIME ZONE 'UTC' AS reading_time, rtrim(a) AS sensor,
           TRY_CAST(split_part(trim(b), ' ', 1) AS DOUBLE) AS value, substr(trim(b), strpos(trim(b), ' ') + 1) AS unit
    FROM stamped WHERE b IS NOT NULL AND value IS NOT NULL"""
_DUCK_HOURS: Final = f"""
    WITH power AS (
        SELECT node_id, reading_time, value,
               lead(reading_time) OVER node AS next_time, lead(value) OVER node AS next_value
        FROM rows WHERE sensor = '{_POWER}' WINDOW node AS (PARTITION BY node_id ORDER BY reading_time)
    ), energy AS (
        SELECT node_id, date_trunc('hour', reading_time) AS hour_start,
               sum(epoch(next_time - reading_time) * (value + next_value) / 2) / 3.6e6 AS energy_kwh
        FROM power WHERE epoch(next_time - reading_time) <= {_GAP_LIMIT_S} GROUP BY ALL
    ), counted AS (
        SELECT node_id, date_trunc('hour', reading_time) AS hour_start, count(*)::BIGINT AS readings
        FROM rows GROUP BY ALL
    )
    SELECT node_id, hour_start, readings, energy_kwh FROM counted LEFT JOIN energy USING (node_id, hour_start)"""


def _duckdb(batches: Sequence[Sequence[Path]], out: Path) -> pl.DataFrame:
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    hours: list[pl.DataFrame] = []
    for files in batches:
        connection.execute(_DUCK_READINGS, {"files": [str(file) for file in files]})
        rows: Any = connection.sql("FROM rows").to_arrow_table()
        write_deltalake(str(out / READING), rows.cast(_READINGS), mode="append")
        hours.append(connection.sql(_DUCK_HOURS).pl())
    whole: pl.DataFrame = pl.concat(hours)
    return whole.with_columns(pl.col("hour_start").dt.cast_time_unit("us"))


if __name__ == "__main__":
    print(run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
