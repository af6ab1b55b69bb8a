"""Factors: dated rows of conf/factors, each with value, unit, source and licence; a missing one is an error.

A table is one CSV file `<table>.csv`: the columns that name what the row is about, then those of `_COMMON`. A row
holds from `valid_from` up to, not including, `valid_to` (empty: open), both UTC dates. Nothing is filled in: no
neighbour country, no world value, no last known year.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Final

import pint

from lepton_etl.conf_files import conf_path
from lepton_etl.errors import ConfigurationError, MissingFactorError
from lepton_etl.schema.declare import ureg

FACTORS_FOLDER: Final = conf_path("factors")

_COMMON: Final = ("value", "unit", "source", "licence", "valid_from", "valid_to")
_KEY: Final = re.compile(r"[a-z][a-z0-9_]*")
# Digits that lost their `0.` in an export, such as 000402 for 0.000402, parse as a number a million times too large.
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
# Bounds of what a factor can be, in the unit that its dimension is compared in.
# Source: lignite emits some 1,200 g/kWh and no fuel above 5 kg/L; SF6 warms 25,200 times as CO2 (IPCC AR6 table
# 7.SM.7); reservoirs evaporate up to 70 L/kWh (Macknick et al. 2012); a full rack of GPUs stays below 100 t.
_BOUNDS: Final[tuple[tuple[str, float, float], ...]] = (
    ("gram / kilowatt_hour", 0.0, 2_000.0),
    ("liter / kilowatt_hour", 0.0, 100.0),
    ("kilogram / liter", 0.0, 5.0),
    ("kilogram", 1.0, 100_000.0),
    ("year", 0.5, 50.0),
    ("watt", 0.0, 10_000.0),
    ("dimensionless", 0.0, 30_000.0),
)


@dataclass(frozen=True, slots=True)
class Factor:
    """One row that holds on the asked day."""

    value: float
    unit: str
    source: str
    licence: str
    valid_from: date
    valid_to: date | None

    def to(self, unit: str) -> float:
        """The value in another unit of the same dimension. Raises ConfigurationError where it has another."""
        try:
            return float(ureg.Quantity(self.value, self.unit).to(unit).magnitude)
        except pint.DimensionalityError as error:
            raise ConfigurationError(
                f"a factor in {self.unit} is no {unit}", where=self.source, remedy="mend the factor's unit"
            ) from error


_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    keys: tuple[str, ...]
    rows: Mapping[_Key, tuple[Factor, ...]]


@dataclass(frozen=True, slots=True)
class FactorSet:
    """All tables of a folder; `version` is the SHA-256 of their names and contents."""

    version: str
    tables: Mapping[str, _Table]

    def get(self, table: str, *, valid_on: date, **keys: str) -> Factor:
        """The row of these keys that holds on the day.

        Raises MissingFactorError naming table, keys and date where there is none, ConfigurationError for a
        table or key column that the folder does not have.
        """
        rows = self._rows(table, keys)
        for factor in rows:
            if factor.valid_from <= valid_on and (factor.valid_to is None or valid_on < factor.valid_to):
                return factor
        named = ", ".join(f"{name} {value}" for name, value in keys.items())
        spans = "; ".join(f"{f.valid_from}..{f.valid_to or ''}" for f in rows) or "no day"
        raise MissingFactorError(
            f"no factor of {named} holds on {valid_on} (there are rows for {spans})",
            where=f"conf/factors/{table}.csv",
            remedy="add a dated row with its source and licence",
        )

    def find(self, table: str, *, valid_on: date, **keys: str) -> Factor | None:
        """`get`, or None where the table has no such row: the caller publishes a null with its reason."""
        try:
            return self.get(table, valid_on=valid_on, **keys)
        except MissingFactorError:
            return None

    def _rows(self, table: str, keys: Mapping[str, str]) -> tuple[Factor, ...]:
        if table not in self.tables:
            raise ConfigurationError(
                f"no factor table {table}", where="conf/factors", remedy=f"there are {', '.join(self.tables)}"
            )
        found = self.tables[table]
        if set(keys) != set(found.keys):
            raise ConfigurationError(
                f"asked by {', '.join(keys) or 'nothing'}; the table is keyed by {', '.join(found.keys)}",
                where=f"conf/factors/{table}.csv",
            )
        return found.rows.get(tuple(keys[name] for name in found.keys), ())


def load_factors(folder: Path | None = None) -> FactorSet:
    """Every `*.csv` of the folder (None: conf/factors), checked.

    Raises ConfigurationError naming file, line and column.
    """
    folder = folder or FACTORS_FOLDER
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ConfigurationError(
            "no factor tables", where=str(folder), remedy="name a folder of CSV files in carbon.factors"
        )
    return _parsed(tuple((file.name, file.read_bytes()) for file in files))


@lru_cache(maxsize=2)
def _parsed(files: tuple[tuple[str, bytes], ...]) -> FactorSet:
    """The set of these names and contents; a night asks for it in every stage, and pint takes a second to check it."""
    digest = sha256()
    for name, content in files:
        digest.update(name.encode() + b"\0" + content + b"\0")
    return FactorSet(
        digest.hexdigest(), {Path(name).stem: _read(Path(name), content) for name, content in files}
    )


def _read(file: Path, content: bytes) -> _Table:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _error(file, content.count(b"\n", 0, error.start) + 1, "", "is not UTF-8") from error
    with io.StringIO(text, newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header = tuple(next(reader, []))
        keys = header[: -len(_COMMON)]
        if header[-len(_COMMON) :] != _COMMON or not keys or not all(map(_KEY.fullmatch, keys)):
            raise _error(file, 1, "", f"the columns are the keys, then {', '.join(_COMMON)}")
        found: dict[_Key, list[tuple[int, Factor]]] = {}
        for line, cells in _filled(file, reader, len(header)):
            row = dict(zip(header, cells, strict=True))
            key = tuple(row[name] for name in keys)
            if not all(key):
                raise _error(file, line, keys[key.index("")], "empty")
            found.setdefault(key, []).append((line, _factor(file, line, row)))
    for rows in found.values():
        rows.sort(key=lambda item: item[1].valid_from)
        for (_, earlier), (line, later) in pairwise(rows):
            if earlier.valid_to is None or earlier.valid_to > later.valid_from:
                raise _error(
                    file, line, "valid_from", f"{later.valid_from} lies in an earlier row of this key"
                )
    return _Table(keys, {key: tuple(factor for _, factor in rows) for key, rows in found.items()})


def _filled(file: Path, reader: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    for line, cells in enumerate(reader, start=2):
        # A value with a decimal comma, or one that lost its `0.` and gained a comma, is one cell too many.
        if len(cells) != width:
            raise _error(file, line, "", f"{len(cells)} cells under {width} columns")
        yield line, [cell.strip() for cell in cells]


def _factor(file: Path, line: int, row: Mapping[str, str]) -> Factor:
    for name in ("unit", "source", "licence", "valid_from"):
        if not row[name]:
            raise _error(file, line, name, "empty")
    if not _NUMBER.fullmatch(row["value"]):
        raise _error(file, line, "value", f"{row['value']!r} is no number with a decimal point")
    start = _day(file, line, "valid_from", row["valid_from"])
    end = _day(file, line, "valid_to", row["valid_to"]) if row["valid_to"] else None
    if end is not None and end <= start:
        raise _error(file, line, "valid_to", f"{end} is not after valid_from {start}")
    factor = Factor(float(row["value"]), row["unit"], row["source"], row["licence"], start, end)
    _check_bounds(file, line, factor)
    return factor


def _check_bounds(file: Path, line: int, factor: Factor) -> None:
    bounds = _bounds_of(factor.unit)
    if bounds is None:
        raise _error(file, line, "unit", f"{factor.unit!r} is no unit such as g/kWh, lb/MWh or kg/gallon")
    for unit, low, high in bounds:
        value = float(ureg.Quantity(factor.value, factor.unit).to(unit).magnitude)
        if not (math.isfinite(value) and low <= value <= high):
            raise _error(file, line, "value", f"{value:g} {unit} is outside {low:g} .. {high:g}")
        return
    raise _error(file, line, "unit", f"{factor.unit!r} has a dimension that no factor has")


@lru_cache
def _bounds_of(unit: str) -> tuple[tuple[str, float, float], ...] | None:
    """The bounds of the unit's dimension, None where it is no unit; asked of pint once, there are few in many rows."""
    if unit not in ureg:
        return None
    return tuple(one for one in _BOUNDS if ureg.Quantity(1.0, unit).is_compatible_with(one[0]))[:1]


def _day(file: Path, line: int, column: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _error(file, line, column, f"{text!r} is no ISO 8601 date") from None


def _error(file: Path, line: int, column: str, what: str) -> ConfigurationError:
    place = f"{file.name}:{line}:{column}" if column else f"{file.name}:{line}"
    return ConfigurationError(what, where=place, remedy="mend the factor file")
