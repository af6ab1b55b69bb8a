"""The first commit of a Delta table: schema with comments, constraints, partition, properties; no rows.

Written straight into the log: through Spark each of a lake's tables costs half a second, and delta-rs refuses
constraints at creation.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from lepton_etl.lake.location import Location
from lepton_etl.schema.declare import Table
from lepton_etl.schema.types import constraints, delta_schema

# The oldest protocol that knows constraints and append-only tables: every Delta reader and writer takes it.
MIN_WRITER_VERSION: Final = 3
_PROTOCOL: Final = {"minReaderVersion": 1, "minWriterVersion": MIN_WRITER_VERSION}
_PROPERTIES: Final = {
    # A long history of small nightly commits: a checkpoint every 10 keeps the log short to replay.
    "delta.checkpointInterval": "10",
    # delta-rs and DuckDB must be able to read and write every table.
    "delta.enableDeletionVectors": "false",
}
# Bronze is a log: its rows are never changed, and a reader of a delta-rs or DuckDB sees the promise.
_APPEND_ONLY: Final = {"delta.appendOnly": "true"}


def create_table(place: Location, table: Table, metadata: Mapping[str, str]) -> None:
    """Make the empty table at `place`; one that another process made meanwhile stays as it is.

    `metadata` says which run made it.

    Source: Delta Transaction Log Protocol, sections "Actions" and "Delta Log Entries".
    """
    now_ms = int(time.time() * 1000)
    columns = [table.partition] if table.partition else []
    configuration = configuration_of(table)
    actions: list[dict[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now_ms,
                **metadata,
                "operation": "CREATE TABLE",
                "operationParameters": {
                    "description": table.grain,
                    "partitionBy": json.dumps(columns),
                    "properties": json.dumps(configuration),
                },
            }
        },
        {"protocol": _PROTOCOL},
        {
            "metaData": {
                "id": str(uuid.uuid4()),
                "description": table.grain,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": delta_schema(table).to_json(),
                "partitionColumns": columns,
                "configuration": configuration,
                "createdTime": now_ms,
            }
        },
    ]
    # Whole or not at all, and never over another's.
    content = "".join(f"{json.dumps(action)}\n" for action in actions)
    (place / f"_delta_log/{0:020d}.json").create(content.encode())


def configuration_of(table: Table) -> dict[str, str]:
    """The table's properties: constraints of the dictionary, statistics of the columns that readers filter by."""
    append_only = _APPEND_ONLY if table.append_only else {}
    # Statistics of every figure would cost more code than the rows themselves.
    indexed = {"delta.dataSkippingStatsColumns": ",".join(table.indexed)}
    checks = {f"delta.constraints.{name}": check for name, check in constraints(table).items()}
    log = {} if table.log_days is None else {"delta.logRetentionDuration": f"interval {table.log_days} days"}
    return _PROPERTIES | append_only | indexed | log | checks
