"""DuckDB: one SQL script, its own readers, its own threads.

For ipmitool, five scripts were tried: one text column or three, the stamp carried down by a partitioned window, a
running maximum or an ASOF join, and two halves under UNION ALL. This one was the fastest of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import duckdb

from bench.measure import Run, timed

_TEXT: Final = "header=false, quote='', escape='', filename=true, auto_detect=false, strict_mode=false"
_NAME: Final = "regexp_extract(filename, '[^/]+$')"

SCRIPTS: Final = {
    "ipmitool": f"""
        WITH raw AS (
            SELECT filename, a, b, row_number() OVER () AS line
            FROM read_csv('{{files}}', delim='|', columns={{{{'a': 'VARCHAR', 'b': 'VARCHAR', 'c': 'VARCHAR'}}}},
                          null_padding=true, {_TEXT})
        ), first AS (SELECT filename, min(line) AS first FROM raw GROUP BY filename
        ), kept AS (
            SELECT raw.*, sensor, quantity, device_id, logged_unit, factor, divisor, "offset", not_measured,
                   a LIKE 'Timestamp:%' AS is_stamp, trim(b) AS said
            FROM raw LEFT JOIN mapping ON mapping.sensor = rtrim(a)
                 AND trim(b) LIKE '% ' || mapping.logged_unit
            WHERE mapping.sensor IS NOT NULL OR a LIKE 'Timestamp:%'
        ), stamped AS (
            SELECT *, last_value(CASE WHEN is_stamp THEN strptime(a[12:30], '%Y-%m-%d %H:%M:%S') END IGNORE NULLS)
                   OVER (PARTITION BY filename ORDER BY line) AS reading_time
            FROM kept
        )
        SELECT {_NAME} AS file, line - first + 1 AS position, sensor, quantity, device_id,
               split_part(said, ' ', 1) AS raw_value, logged_unit AS raw_unit, reading_time,
               TRY_CAST(raw_value AS DOUBLE) * factor / divisor + "offset" AS value
        FROM stamped JOIN first USING (filename)
        WHERE NOT is_stamp AND value IS NOT NULL AND TRY_CAST(raw_value AS DOUBLE) IS DISTINCT FROM not_measured""",
    "csv": f"""
        WITH raw AS (SELECT *, row_number() OVER () AS line FROM read_csv('{{files}}', filename=true, header=true)
        ), first AS (SELECT filename, min(line) AS first FROM raw GROUP BY filename
        ), long AS (UNPIVOT raw ON COLUMNS(* EXCLUDE (filename, line, time)) INTO NAME sensor VALUE value)
        SELECT {_NAME} AS file, line - first + 2 AS position, sensor, time AS reading_time, value
        FROM long JOIN first USING (filename)""",
    "prometheus": f"""
        WITH raw AS (
            SELECT filename, text, row_number() OVER () AS line
            FROM read_csv('{{files}}', delim='\\x01', columns={{{{'text': 'VARCHAR'}}}}, {_TEXT})
        ), first AS (SELECT filename, min(line) AS first FROM raw GROUP BY filename
        ), kept AS (
            SELECT raw.*, mapping.sensor, factor, divisor, "offset", string_split(text, ' ') AS words
            FROM raw JOIN mapping ON mapping.sensor = split_part(text, '{{{{', 1)
        )
        SELECT {_NAME} AS file, line - first + 1 AS position, sensor, make_timestamp(words[-1]::BIGINT * 1000)
               AS reading_time, TRY_CAST(words[-2] AS DOUBLE) * factor / divisor + "offset" AS value
        FROM kept JOIN first USING (filename) WHERE value IS NOT NULL""",
    "parquet": f"""
        WITH long AS (
            UNPIVOT (SELECT * FROM read_parquet('{{files}}', filename=true, file_row_number=true))
            ON COLUMNS(* EXCLUDE (filename, file_row_number, time)) INTO NAME sensor VALUE value
        )
        SELECT {_NAME} AS file, file_row_number + 1 AS position, sensor, time AS reading_time, value FROM long""",
}  # fmt: skip


def run(kind: str, folder: Path, target: Path, cores: int) -> Run:
    connection = duckdb.connect()
    connection.execute(f"SET threads = {cores}; SET TimeZone = 'UTC'")
    mapping = folder / ".mapping.csv"
    if mapping.exists():
        connection.execute(f"CREATE TABLE mapping AS FROM read_csv('{mapping}', header=true)")
    script = SCRIPTS[kind].format(files=f"{folder}/[!.]*")

    def work() -> int:
        done = connection.execute(
            f"COPY ({script}) TO '{target}/rows.parquet' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
        ).fetchone()
        assert done is not None
        return int(done[0])

    return timed(work)
