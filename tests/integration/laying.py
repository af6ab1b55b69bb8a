"""Lay a site down in a folder, and rows in its lake as a stage would have left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import yaml

from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.types import arrow_schema


def rows_of(table: Table, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as the table's columns and types; what a row lacks is null."""
    whole = [{name: row.get(name) for name in table.columns} for row in rows]
    return pl.DataFrame(pa.Table.from_pylist(whole, schema=arrow_schema(table)))


def lay(lake: Lake, table: Table, rows: Sequence[Mapping[str, Any]], days: Days | None = None) -> None:
    """Replace the days, or a table without days, by these rows."""
    if days is None:
        lake.overwrite(table, rows_of(table, rows))
    else:
        lake.replace(table, days, rows_of(table, rows))


def lay_site(folder: Path, *sources: Mapping[str, Any]) -> Settings:
    """Settings (site.yaml) of a site of one node with these sources, whose landing folder is empty."""
    (folder / "landing").mkdir()
    (folder / "inventory.csv").write_text("node_id,cluster_id,valid_from\nn1,c1,2020-01-01\n")
    keys = {
        "site": {"site_id": "s1"}, "lake": {"root": "lake"}, "fleet": {"inventory": "inventory.csv"},
        "sources": [dict(source) for source in sources],
    }  # fmt: skip
    (folder / "site.yaml").write_text(yaml.safe_dump(keys))
    return load(folder / "site.yaml")
