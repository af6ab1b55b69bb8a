"""Whole nodes of a day of a table partitioned by date: what one task of a node-scale stage reads.

Files are read by polars straight from the table's log: neither a session nor the driver holds their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.types import arrow_schema

# A task holds about so many rows; a node is never split.
MOST_ROWS: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class NodePart:
    """The rows of days of those nodes whose hash falls to part `part` of `parts`."""

    table: Table
    files: tuple[tuple[date, str], ...]
    part: int
    parts: int

    def read(self, columns: Sequence[str], where: pl.Expr | None = None) -> pl.DataFrame:
        """Return these columns in the dictionary's types; a column that an older file lacks is null."""
        schema = arrow_schema(self.table)
        wanted = list(dict.fromkeys((*columns, "node_id")))
        types = {name: pl.DataFrame(schema.empty_table().select([name])).schema[name] for name in wanted}
        frames = []
        for day, path in self.files:
            scan = pl.scan_parquet(path, hive_partitioning=False)
            present = scan.collect_schema().names()
            rows = scan.with_columns(pl.lit(day).alias("date")).select(
                (pl.col(name) if name in (*present, "date") else pl.lit(None)).cast(types[name]).alias(name)
                for name in wanted
            )
            if self.parts > 1:
                rows = rows.filter(pl.col("node_id").hash(seed=0) % self.parts == self.part)
            frames.append(rows if where is None else rows.filter(where))
        empty = pl.DataFrame(schema={name: types[name] for name in wanted})
        found = pl.concat([empty, *pl.collect_all(frames)]) if frames else empty
        return found.select(list(columns))


def node_parts(lake: Lake, table: Table, days: Days, *, by_day: bool = True) -> list[NodePart]:
    """Return parts that together hold every row of the days once, each of about MOST_ROWS; none without the table.

    `by_day`: no part holds two days; else a part holds all the days of its nodes. The version read is kept in the
    lake's inputs.
    """
    files = _files(lake, table, days)
    groups: dict[date | None, list[tuple[date, str, int]]] = {}
    for row in files:
        groups.setdefault(row[0] if by_day else None, []).append(row)
    return [
        NodePart(table, tuple((day, path) for day, path, _ in group), part, parts)
        for group in groups.values()
        for parts in (max(1, -(-sum(count for *_, count in group) // MOST_ROWS)),)
        for part in range(parts)
    ]


def beside(lake: Lake, table: Table, days: Days, part: NodePart) -> NodePart:
    """Return the rows of another table and other days of the nodes of `part`."""
    files = tuple((day, path) for day, path, _ in _files(lake, table, days))
    return NodePart(table, files, part.part, part.parts)


def _files(lake: Lake, table: Table, days: Days) -> list[tuple[date, str, int]]:
    """Day, path and rows of each file of the days, in order."""
    if not lake.exists(table):
        return []
    log = lake.log(table)
    lake.inputs[table.name] = log.version()
    actions = pa.table(log.get_add_actions(flatten=True))
    if not actions.num_rows:
        return []
    of_day = pc.and_(
        pc.greater_equal(actions["partition.date"], pa.scalar(days.start)),
        pc.less_equal(actions["partition.date"], pa.scalar(days.end)),
    )
    chosen = actions.select(["partition.date", "path", "num_records"]).filter(of_day)
    return sorted(
        (row["partition.date"], f"{lake.path(table)}/{row['path']}", row["num_records"] or 0)
        for row in chosen.to_pylist()
    )
