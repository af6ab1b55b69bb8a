"""Whole nodes of days of a table partitioned by date: what one task of a node-scale stage reads.

Files are read by polars straight from the table's log: neither a session nor the driver holds their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import polars as pl

from lepton_etl.days import Days
from lepton_etl.lake.tables import DataFile, Lake, read_files
from lepton_etl.schema.declare import Table

# A task holds about so many rows; a node is never split.
MOST_ROWS: Final = 2_000_000
# Fewer rows are read faster than a further task reads the files again.
LEAST_ROWS: Final = 200_000


@dataclass(frozen=True, slots=True)
class NodePart:
    """The rows of those nodes whose hash falls to part `part` of `parts`."""

    table: Table
    files: tuple[DataFile, ...]
    part: int
    parts: int

    def read(self, columns: Sequence[str], where: pl.Expr | None = None) -> pl.DataFrame:
        """Return these columns in the dictionary's types; a column that an older file lacks is null."""
        mine = pl.col("node_id").hash(seed=0) % self.parts == self.part
        own = mine if where is None else mine & where
        return read_files(self.table, self.files, columns, where if self.parts == 1 else own)


def node_parts(
    lake: Lake, table: Table, days: Days, *, by_day: bool = True, tasks: int = 1
) -> list[NodePart]:
    """Return parts that together hold every row of the days once, each of about MOST_ROWS; none without the table.

    `by_day`: no part holds two days; else a part holds all the days of its nodes. So many rows that `tasks` of them can
    have LEAST_ROWS each make as many parts at least.
    """
    groups: dict[date | None, list[DataFile]] = {}
    for file in lake.files(table, days):
        groups.setdefault(file.day if by_day else None, []).append(file)
    found = []
    for _, files in sorted(groups.items(), key=lambda group: str(group[0])):
        rows = sum(max(file.rows, 0) for file in files)
        parts = max(1, -(-rows // MOST_ROWS), min(tasks, rows // LEAST_ROWS))
        found += [NodePart(table, tuple(files), part, parts) for part in range(parts)]
    return found


def rows_of(parts: Sequence[NodePart]) -> int:
    """Return how many rows the parts hold together, by the log."""
    return sum(max(file.rows, 0) for part in parts if part.part == 0 for file in part.files)


def beside(lake: Lake, table: Table, days: Days, part: NodePart) -> NodePart:
    """Return the rows of another table and other days of the nodes of `part`."""
    return NodePart(table, tuple(lake.files(table, days)), part.part, part.parts)
