"""Factors: dated rows of conf/factors, each with value, unit, source and licence.

A table is one CSV file `<table>.csv`: the columns that name what the row is about, then those of `_COMMON`. A row
holds from `valid_from` up to, not including, `valid_to` (empty: open), both UTC dates. A day on which no row holds
takes the newest row before it, else the oldest one, with its age in years. No neighbour country and no world value is
put in its place.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
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

_COMMON: Final = ("value", "unit", "source", "licence", "valid_from", "valid_to", "unchecked")
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
    """One row as it answers for a day.

    `unchecked`: nobody has compared the value with its source. `age_years`: calendar years from the nearest day on
    which the row holds to the asked one, at least 1; 0 where it holds.
    """

    value: float
    unit: str
    source: str
    licence: str
    valid_from: date
    valid_to: date | None
    unchecked: bool = False
    age_years: int = 0

    def holds_on(self, day: date) -> bool:
        """Whether the day lies in the row's validity."""
        return self.valid_from <= day and (self.valid_to is None or day < self.valid_to)

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
        """`find`. Raises MissingFactorError naming table, keys and day where no row of any year exists."""
        factor = self.find(table, valid_on=valid_on, **keys)
        if factor is not None:
            return factor
        named = ", ".join(f"{name} {value}" for name, value in keys.items())
        raise MissingFactorError(
            f"no factor of {named} for {valid_on} or any other day",
            where=f"conf/factors/{table}.csv",
            remedy="add a dated row with its source and licence",
        )

    def find(self, table: str, *, valid_on: date, **keys: str) -> Factor | None:
        """The row of these keys that holds on the day, else the nearest one with its age; None where there is none.

        Raises ConfigurationError for a table or key column that the folder does not have.
        """
        return _of_day(self._rows(table, keys), valid_on)

    def spans(self) -> Iterator[tuple[str, tuple[str, ...], Factor, date, date | None]]:
        """Table, keys and factor of every span of days with one answer, and its ends (the last not included)."""
        for name, table in self.tables.items():
            for key, rows in table.rows.items():
                ends = {day for row in rows for day in (row.valid_from, row.valid_to) if day}
                starts = [date.min, *sorted(ends)]
                for start, end in zip(starts, [*starts[1:], None], strict=True):
                    factor = _of_day(rows, start)
                    if factor is not None:
                        yield name, key, factor, start, end

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


def _of_day(rows: tuple[Factor, ...], day: date) -> Factor | None:
    """The first row that holds on the day, else the last to end before it, else the first to begin after it."""
    if not rows:
        return None
    for factor in rows:
        if factor.holds_on(day):
            return factor
    ended = [(row.valid_to, row) for row in rows if row.valid_to is not None and row.valid_to <= day]
    if ended:
        end, newest = max(ended, key=lambda one: one[0])
        age = day.year - (end - timedelta(days=1)).year
    else:
        newest = min(rows, key=lambda row: row.valid_from)
        age = newest.valid_from.year - day.year
    return replace(newest, age_years=max(age, 1))


def load_factors(folder: Path | None = None, own: Path | None = None) -> FactorSet:
    """Every `*.csv` of the folder (None: conf/factors), checked, and before its rows those of `own`.

    `own` is a site's own file, or a folder of such: `<table>.csv` with that table's columns. Its rows answer for the
    days on which they hold. Raises ConfigurationError naming file, line and column.
    """
    folder = folder or FACTORS_FOLDER
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ConfigurationError(
            "no factor tables", where=str(folder), remedy="name a folder of CSV files in carbon.factors"
        )
    added: list[Path] = []
    if own is not None:
        added = sorted(own.glob("*.csv")) if own.is_dir() else [own]
        if not added or not all(file.is_file() for file in added):
            raise ConfigurationError(
                "no factor file there", where=str(own), remedy="name a CSV file, or a folder of such"
            )
    return _parsed(*(tuple((file.name, file.read_bytes()) for file in some) for some in (files, added)))


_Contents = tuple[tuple[str, bytes], ...]


@lru_cache(maxsize=2)
def _parsed(files: _Contents, added: _Contents) -> FactorSet:
    """The set of these names and contents; a night asks for it in every stage, and pint takes a second to check it."""
    digest = sha256()
    for name, content in (*files, *added):
        digest.update(name.encode() + b"\0" + content + b"\0")
    tables = {Path(name).stem: _read(Path(name), content) for name, content in files}
    for name, content in added:
        own, table = _read(Path(name), content), tables.get(Path(name).stem)
        if table is None or table.keys != own.keys:
            wanted = f"its keys are {', '.join(table.keys)}" if table else f"there are {', '.join(tables)}"
            raise _error(Path(name), 1, "", f"no factor table of this name and these keys; {wanted}")
        before = {key: (*rows, *table.rows.get(key, ())) for key, rows in own.rows.items()}
        tables[Path(name).stem] = _Table(table.keys, {**table.rows, **before})
    return FactorSet(digest.hexdigest(), tables)


def _read(file: Path, content: bytes) -> _Table:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _error(file, content.count(b"\n", 0, error.start) + 1, "", "is not UTF-8") from error
    with io.StringIO(text, newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header = tuple(next(reader, []))
        # A file from before the last column says of no row that it was compared with its source.
        common = _COMMON if header[-1:] == _COMMON[-1:] else _COMMON[:-1]
        keys = header[: -len(common)]
        if header[-len(common) :] != common or not keys or not all(map(_KEY.fullmatch, keys)):
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
    unchecked = row.get(_COMMON[-1], _COMMON[-1])
    if unchecked not in ("", _COMMON[-1]):
        raise _error(file, line, _COMMON[-1], f"{unchecked!r} is neither empty nor {_COMMON[-1]}")
    factor = Factor(
        float(row["value"]), row["unit"], row["source"], row["licence"], start, end, bool(unchecked)
    )
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
