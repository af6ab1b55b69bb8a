"""inventory.csv and meters.csv -> silver/node and silver/meter, every cell checked before anything is read.

Empty cells stay unknown (null). A mistake raises ConfigurationError naming file, line and column.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from lepton_etl.errors import ConfigurationError
from lepton_etl.schema.declare import DOUBLE, INT, TIMESTAMP, Field, Table, ureg
from lepton_etl.schema.fields import FIELDS
from lepton_etl.schema.fleet import METER, NODE
from lepton_etl.schema.types import arrow_schema

SHARED_CLUSTER: Final = "_shared"
# What stands outside clusters may leave its cluster empty.
_SHARED_KINDS: Final = ("storage", "network", "service")
POINTS: Final = (
    "utility", "export", "generator", "pv", "battery_in", "battery_out", "transformer_out", "ups_in",
    "ups_out", "pdu_out", "chiller", "crah", "pump", "tower", "other",
)  # fmt: skip

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}")
_NODE_REQUIRED: Final = (
    "node_id", "cluster_id", "rack_id", "hardware_class", "rated_power_w", "idle_power_w", "embodied_kgco2e",
    "lifetime_years", "valid_from",
)  # fmt: skip
_METER_REQUIRED: Final = (
    "meter_id", "point", "carrier", "sign", "unit", "multiplier", "kind", "label", "valid_from",
)  # fmt: skip


class _CellError(Exception):
    """A cell that cannot be what its column says."""


def read_nodes(path: Path, site_id: str) -> pa.Table:
    """The rows of silver/node of an inventory file, sorted by key. Raises ConfigurationError."""
    rows = []
    for line, row in _rows(path, NODE, _NODE_REQUIRED, filled=("node_id", "valid_from")):
        if row["cluster_id"] is None:
            if row["node_kind"] not in _SHARED_KINDS:
                raise cell_error(
                    path,
                    line,
                    "cluster_id",
                    "",
                    f"empty; only a node_kind of {', '.join(_SHARED_KINDS)} may be",
                )
            row["cluster_id"] = SHARED_CLUSTER
        rows.append((line, row | {"site_id": site_id}))
    _refuse_overlaps(path, rows, "node_id")
    _refuse_twins(path, rows)
    return keyed_table(rows, NODE)


def listed_nodes(path: Path) -> frozenset[str]:
    """The nodes of an inventory file, whatever else it says of them. Raises ConfigurationError."""
    return frozenset(row["node_id"] for _, row in _rows(path, NODE, ("node_id",), filled=("node_id",)))


def read_meters(path: Path, site_id: str) -> pa.Table:
    """The rows of silver/meter of a meters file, sorted by key. Raises ConfigurationError."""
    rows = read_dated(path, METER, _METER_REQUIRED, _METER_REQUIRED, site_id)
    ids = {row["meter_id"] for _, row in rows}
    for line, row in rows:
        if row["parent_id"] is not None and row["parent_id"] not in ids:
            raise cell_error(path, line, "parent_id", row["parent_id"], "no such meter in this file")
        if row["parent_id"] == row["meter_id"]:
            raise cell_error(path, line, "parent_id", row["parent_id"], "a meter is not upstream of itself")
        if row["point"] not in POINTS:
            raise cell_error(path, line, "point", row["point"], f"not one of {', '.join(POINTS)}")
        if row["sign"] == 0:
            raise cell_error(path, line, "sign", "0", "1 for energy drawn, -1 for energy fed back")
        if row["unit"] not in ureg:
            raise cell_error(path, line, "unit", row["unit"], "not a unit such as kW, kWh or MJ")
    _refuse_overlaps(path, rows, "meter_id")
    return keyed_table(rows, METER)


def read_dated(
    path: Path, table: Table, required: Iterable[str], filled: Iterable[str], site_id: str
) -> list[tuple[int, dict[str, Any]]]:
    """Line number and typed cells of each row of a site's CSV with valid_from and valid_to.

    An empty site_id is the settings' site. Raises ConfigurationError naming file, line and column.
    """
    rows = list(_rows(path, table, required, filled))
    for line, row in rows:
        if row["site_id"] not in (None, site_id):
            raise cell_error(path, line, "site_id", row["site_id"], f"the settings' site is {site_id}")
        row["site_id"] = site_id
    return rows


def _rows(
    path: Path, table: Table, required: Iterable[str], filled: Iterable[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and typed cells of each row; every column of the table is there, unknown ones as None."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, table, required)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                line = reader.line_num
                if len(cells) != len(header):
                    raise cell_error(path, line, "", "", f"{len(cells)} cells under {len(header)} columns")
                named = dict(zip(header, (cell.strip() for cell in cells), strict=True))
                yield line, _typed(path, line, named, table, set(filled))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read it: {error.strerror}",
            where=str(path),
            remedy="name an existing CSV file in the settings",
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(
            f"not a CSV file in UTF-8: {error}", where=str(path), remedy="save it as UTF-8 CSV"
        ) from error


def _check_header(path: Path, header: list[str], table: Table, required: Iterable[str]) -> None:
    missing = [name for name in required if name not in header]
    unknown = [name for name in header if name not in table.columns]
    twice = sorted({name for name in header if header.count(name) > 1})
    for names, what in ((missing, "missing"), (unknown, "unknown"), (twice, "named twice")):
        if names:
            raise ConfigurationError(
                f"column{'s' if len(names) > 1 else ''} {what}: {', '.join(names)}",
                where=f"{path}:1",
                remedy=f"the columns are {', '.join(table.columns)}",
            )


def _typed(path: Path, line: int, cells: Mapping[str, str], table: Table, filled: set[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in table.columns:
        text = cells.get(name, "")
        if not text and name in filled:
            raise cell_error(path, line, name, text, "empty")
        try:
            row[name] = _value(FIELDS[name], text) if text else None
        except _CellError as mistake:
            raise cell_error(path, line, name, text, str(mistake)) from None
    if row["valid_to"] is not None and row["valid_to"] <= row["valid_from"]:
        raise cell_error(path, line, "valid_to", cells["valid_to"], "not after valid_from")
    return row


def _value(field: Field, text: str) -> Any:
    """A cell in its column's type, inside its bounds; _CellError says what is wrong."""
    if field.type == TIMESTAMP:
        return _instant(text)
    if field.type in (DOUBLE, INT):
        return _number(field, text)
    if field.one_of and text not in field.one_of:
        raise _CellError(f"not one of {', '.join(field.one_of)}")
    if field.name.endswith("_id") and not _IDENTIFIER.fullmatch(text):
        raise _CellError("letters, digits, '_', '.', ':', '-', at most 63, starting with a letter or digit")
    return text


def _instant(text: str) -> datetime:
    """An ISO 8601 date (midnight UTC) or stamp; one without an offset is UTC."""
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        raise _CellError("not an ISO 8601 date or time such as 2025-06-03 or 2025-06-03T12:00:00Z") from None
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def _number(field: Field, text: str) -> float | int:
    try:
        number = int(text) if field.type == INT else float(text)
    except ValueError:
        raise _CellError(
            "not a whole number" if field.type == INT else "not a number (decimal point, no unit)"
        ) from None
    low = -math.inf if field.ge is None else field.ge
    high = math.inf if field.le is None else field.le
    if not (math.isfinite(number) and low <= number <= high):
        raise _CellError(f"outside {low:g} .. {high:g}{f' {field.unit}' if field.unit else ''}")
    return number


def _refuse_overlaps(path: Path, rows: list[tuple[int, dict[str, Any]]], key: str) -> None:
    """Two rows of one node or meter must not hold at the same time."""
    ordered = sorted(rows, key=lambda item: (item[1][key], item[1]["valid_from"]))
    for (earlier_line, earlier), (line, row) in pairwise(ordered):
        open_end = earlier["valid_to"] is None or earlier["valid_to"] > row["valid_from"]
        if earlier[key] == row[key] and open_end:
            raise cell_error(
                path, line, key, row[key],
                f"holds from {row['valid_from']:%Y-%m-%dT%H:%M:%SZ}, while line {earlier_line} still holds",
                "give the earlier row a valid_to",
            )  # fmt: skip


def _refuse_twins(path: Path, rows: list[tuple[int, dict[str, Any]]]) -> None:
    """A chassis stands in silver/interval under its chassis_id, so no node may bear the same name."""
    nodes = {row["node_id"] for _, row in rows}
    for line, row in rows:
        if row["chassis_id"] in nodes:
            raise cell_error(path, line, "chassis_id", row["chassis_id"], "a node has this name")


def keyed_table(rows: list[tuple[int, dict[str, Any]]], table: Table) -> pa.Table:
    """The rows in the table's types, by its key."""
    ordered = sorted((row for _, row in rows), key=lambda row: tuple(row[name] for name in table.key))
    return pa.Table.from_pylist(ordered, schema=arrow_schema(table))


def cell_error(
    path: Path, line: int, column: str, text: str, what: str, remedy: str = ""
) -> ConfigurationError:
    """The error of one cell: file, line, column, what it holds and what is wrong with it."""
    shown = f"{text!r}: {what}" if text else what
    place = f"{path}:{line}:{column}" if column else f"{path}:{line}"
    return ConfigurationError(shown, where=place, remedy=remedy or "mend the file")
