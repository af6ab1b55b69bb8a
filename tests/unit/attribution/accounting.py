"""Bronze rows of the scheduler's own texts, through the real decoders."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa

from lepton_etl.ingest.decoded import Origin
from lepton_etl.schema.fleet import NODE
from lepton_etl.schema.logs import JOB
from lepton_etl.schema.types import arrow_schema
from tests.decoding import decode, settings_of

CASES = Path(__file__).parents[2] / "cases" / "attribution"
SITE = "here"


def bronze(text: str, format_: str = "slurm", ingest_hour: int = 1, file_id: str = "f") -> pa.Table:
    """Rows of bronze/job of one delivered text."""
    origin = Origin(SITE, "jobs", "jobs.txt", None, "UTC")
    rows = decode(text.encode(), origin, settings_of({"format": format_})).jobs
    added = {
        "job_state": rows["state"], "site_id": SITE, "source_name": "jobs", "file_id": file_id,
        "ingest_time": datetime(2025, 6, 5, ingest_hour, tzinfo=UTC), "ingest_date": date(2025, 6, 5),
    }  # fmt: skip
    columns = [
        added[f.name] if isinstance(added.get(f.name), pa.ChunkedArray)
        else pa.repeat(pa.scalar(added[f.name], f.type), rows.num_rows) if f.name in added
        else rows[f.name]
        for f in arrow_schema(JOB)
    ]  # fmt: skip
    return pa.table(columns, schema=arrow_schema(JOB))


def inventory(path: Path) -> pa.Table:
    """silver/node of a short table of nodes."""
    rows = pl.read_csv(path, schema_overrides={"node_id": pl.String}).to_dicts()
    since = datetime(2024, 1, 1, tzinfo=UTC)
    return pa.Table.from_pylist(
        [row | {"site_id": SITE, "valid_from": since} for row in rows], arrow_schema(NODE)
    )


def said(table: pa.Table, names: list[str]) -> list[dict[str, str]]:
    """Chosen columns as a CSV says them."""

    def text(value: object) -> str:
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%dT%H:%M:%SZ}"
        return "" if value is None else " ".join(value) if isinstance(value, list) else str(value)

    return [{name: text(row[name]) for name in names} for row in table.select(names).to_pylist()]
