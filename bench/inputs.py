"""Inputs of the ingest benchmark: real logs, repeated under new node names and shifted dates until they are large."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from isal import igzip

REAL: Final = Path(os.environ.get("LEPTON_REAL_DATA", "../shared/data"))
_CDU_DAY: Final = date(2024, 4, 7)
_PARQUET_ROW_GROUP: Final = 20_000


def make(kind: str, folder: Path, least_bytes: int) -> list[Path]:
    """Files of one kind in `folder`, of at least `least_bytes` of text together; made once, then found again."""
    done = folder / ".done"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        MAKERS[kind](folder, least_bytes)
        done.touch()
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _ipmitool(folder: Path, least_bytes: int) -> None:
    """The 46 real node-days; each copy is another set of nodes on another day."""
    texts = {
        path.name: gzip.decompress(path.read_bytes())
        for path in _real("harvard-ipmi-weather/ipmi", "*.txt.gz")
    }
    given = copy = 0
    while given < least_bytes:
        day = (date(2025, 6, 3) + timedelta(days=copy)).isoformat()
        for name, text in texts.items():
            node = name.removesuffix("-2025-06-03.txt.gz")
            shifted = text.replace(b"Timestamp: 2025-06-03", f"Timestamp: {day}".encode())
            (folder / f"{node}x{copy}-{day}.txt.gz").write_bytes(igzip.compress(shifted, compresslevel=2))
            given += len(shifted)
        copy += 1


def _large(folder: Path, least_bytes: int) -> None:
    """All the node-days again and again as the log of one node in one file: members of gzip, one after another."""
    texts = [gzip.decompress(path.read_bytes()) for path in _real("harvard-ipmi-weather/ipmi", "*.txt.gz")]
    given = copy = 0
    with (folder / "all-2025-06-03.txt.gz").open("wb") as out:
        while given < least_bytes:
            day = f"Timestamp: {date(2025, 6, 3) + timedelta(days=copy)}".encode()
            for text in texts:
                shifted = text.replace(b"Timestamp: 2025-06-03", day)
                out.write(igzip.compress(shifted, compresslevel=2))
                given += len(shifted)
            copy += 1


def _csv(folder: Path, least_bytes: int) -> None:
    """16 hours of 25 coolant loops, one column each; each copy is another day."""
    header, *rows = (
        gzip.decompress(_real("frontier-cdu-power", "*.csv.gz")[0].read_bytes()).decode().splitlines()
    )
    given = copy = 0
    while given < least_bytes:
        midnight = datetime.combine(_CDU_DAY + timedelta(days=copy), datetime.min.time(), UTC)
        lines = [header]
        for row in rows:
            seconds, _, cells = row.partition(",")
            stamp = midnight + timedelta(seconds=float(seconds))
            lines.append(f"{stamp:%Y-%m-%d %H:%M:%S},{cells}")
        text = "\n".join(lines).encode() + b"\n"
        (folder / f"cdu-{midnight:%Y-%m-%d}.csv").write_bytes(text)
        given += len(text)
        copy += 1


def _prometheus(folder: Path, least_bytes: int) -> None:
    """Scrapes of a real exporter, one a minute and node, with stamps."""
    scrape = [
        line.decode()
        for line in gzip.decompress(
            _real("nvidia-smi-captures", "*h100*load.metrics.gz")[0].read_bytes()
        ).splitlines()
    ]
    given = node = 0
    while given < least_bytes:
        lines = []
        for minute in range(60):
            stamp = 1748908800000 + minute * 60_000
            lines += [line if line.startswith("#") else f"{line} {stamp}" for line in scrape]
        text = "\n".join(lines).encode() + b"\n"
        (folder / f"gpu{node:04d}.prom").write_bytes(text)
        given += len(text)
        node += 1


def _parquet(folder: Path, least_bytes: int) -> None:
    """The coolant loops again, as columns of doubles."""
    header, *rows = (
        gzip.decompress(_real("frontier-cdu-power", "*.csv.gz")[0].read_bytes()).decode().splitlines()
    )
    cells = [row.split(",") for row in rows]
    values = {
        name: pa.array([float(row[i]) for row in cells]) for i, name in enumerate(header.split(",")) if i > 0
    }
    # The text that the same rows have as CSV is what the size is counted in.
    text_bytes = sum(map(len, rows))
    given = copy = 0
    while given < least_bytes:
        midnight = datetime.combine(_CDU_DAY + timedelta(days=copy), datetime.min.time(), UTC)
        stamps = [midnight + timedelta(seconds=float(row[0])) for row in cells]
        table = pa.table({"time": pa.array(stamps, pa.timestamp("us", "UTC")), **values})
        pq.write_table(table, folder / f"cdu-{midnight:%Y-%m-%d}.parquet", row_group_size=_PARQUET_ROW_GROUP)
        given += text_bytes
        copy += 1


def _real(folder: str, pattern: str) -> list[Path]:
    found = sorted((REAL / folder).glob(pattern))
    if not found:
        raise SystemExit(f"bench: no {pattern} in {REAL / folder}: set LEPTON_REAL_DATA to the real data")
    return found


MAKERS: Final[dict[str, Callable[[Path, int], None]]] = {
    "ipmitool": _ipmitool,
    "large": _large,
    "csv": _csv,
    "prometheus": _prometheus,
    "parquet": _parquet,
}
