"""Compare two lakes table by table: rows by key, cells by value, as two runs of the same logs should agree.

What a run writes about itself is left out: run ids, processing times, versions, digests of figures, and where the
copy of a file lies. Doubles agree within a relative tolerance, for a sum in another order ends in another digit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl
import yaml

from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, LakeError
from lepton_etl.lake.location import Location
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import DOUBLE, STRING, STRINGS, Table
from lepton_etl.schema.logs import JOB
from lepton_etl.schema.privacy import PERSONAL, PSEUDONYM
from lepton_etl.schema.publication import PUBLICATION, RESTATEMENT
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.trust import AUDIT

RELATIVE: Final = 1e-9
# Differences of nearly equal sums (a residual, an imputed part) leave some 1e-15 where exact arithmetic leaves 0.
ABSOLUTE: Final = 1e-12
ROWS: Final = "*"
"""Stands for the row itself where a column is asked for, as in gold/restatement."""

LEFT_OUT: Final = frozenset(
    {
        "run_id", "ingest_time", "ingest_date", "modified_time", "updated_time", "published_time", "closed_time",
        "restated_time", "batch", "path", "model_version", "code_version", "input_versions", "table_versions",
        "factor_set_version", "settings_hash", "publication_id", "row_hash", "content_hash", "file_digests",
    }
)  # fmt: skip
# Logs without a key: what makes two of their rows the same statement. Of other logs every column but doubles does.
_LOG_KEYS: Final = {
    PUBLICATION.name: ("table_name", "row_key"),
    RESTATEMENT.name: ("table_name", "row_key", "column_name"),
}
# Rows of gold/publication that hold digests of what a day rests on: names of files, which every run makes anew.
_INPUTS: Final = "inputs"
_OF_PEOPLE: Final = (*sorted(PERSONAL), "account", "tenant_id")
_ORDINAL: Final = "_ordinal"
_LEFT: Final = "_in_left"
_RIGHT: Final = "_in_right"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two doubles may be apart: by this share of the larger, or by this much."""

    relative: float = RELATIVE
    absolute: float = ABSOLUTE


@dataclass(frozen=True, slots=True)
class Correction:
    """A difference that is expected: a column of a table (`*`: its rows), why, and in how many rows where known."""

    table: str
    column: str
    reason: str
    rows: int | None = None

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """In how many rows a column differs, with one of them."""

    column: str
    rows: int
    key: dict[str, Any]
    left: Any
    right: Any
    expected: str | None = None
    """The reason of the correction that announced it."""


@dataclass(frozen=True, slots=True)
class TableComparison:
    """What two lakes hold of one table."""

    table: str
    left_rows: int
    right_rows: int
    only_left: int = 0
    only_right: int = 0
    example_left: dict[str, Any] | None = None
    example_right: dict[str, Any] | None = None
    rows_expected: str | None = None
    columns: tuple[ColumnDifference, ...] = ()
    misses: tuple[str, ...] = field(default=())
    """Expected corrections that were not seen as announced."""

    @property
    def equal(self) -> bool:
        return not (self.only_left or self.only_right or self.columns)

    @property
    def as_expected(self) -> bool:
        """Whether nothing differs but what was announced, and all of that does."""
        rows = not (self.only_left or self.only_right) or self.rows_expected is not None
        return rows and not self.misses and all(one.expected is not None for one in self.columns)

    def lines(self) -> Iterator[str]:
        """Yield one line for the table and one for each way in which it differs."""
        if self.equal and not self.misses:
            yield f"{self.table}: equal, {_rows(self.left_rows)}"
            return
        word = "differs as expected" if self.as_expected else "differs"
        yield f"{self.table}: {word} ({_rows(self.left_rows)} left, {_rows(self.right_rows)} right)"
        because = f"; expected: {self.rows_expected}" if self.rows_expected else ""
        for count, side, example in (
            (self.only_left, "left", self.example_left),
            (self.only_right, "right", self.example_right),
        ):
            if count:
                yield f"  {_rows(count)} only {side}, such as {_shown(example)}{because}"
        for one in self.columns:
            because = f"; expected: {one.expected}" if one.expected else ""
            yield (
                f"  {one.column} differs in {_rows(one.rows)}, such as {_shown(one.key)}: "
                f"left {_cell(one.left)}, right {_cell(one.right)}{because}"
            )
        for miss in self.misses:
            yield f"  {miss}"


def compare_lakes(
    left: Location | Path | str,
    right: Location | Path | str,
    *,
    only: Collection[str] = (),
    ignore: Collection[str] = (),
    expected: Sequence[Correction] = (),
    days: Days | None = None,
    tolerance: Tolerance | None = None,
) -> Iterator[TableComparison]:
    """Yield the comparison of each declared table that either lake has; `days` bounds the tables with a `date`.

    `ignore` holds names of tables and of columns as `table.column`. Tables that record runs alone are not compared.
    Raises ConfigurationError for a name that is no table or column, LakeError where a folder is no lake.
    """
    lakes = Lake(left), Lake(right)
    for lake in lakes:
        if not any(lake.exists(table) for table in TABLES.values()):
            raise LakeError(
                "no table of a lake", where=str(lake.root), remedy="name the folder that lake.root names"
            )
    _check_names([*only, *ignore, *(one.name for one in expected)])
    renamed = _renamed(*lakes)
    for table in TABLES.values():
        present = any(lake.exists(table) for lake in lakes)
        chosen = table.name not in ignore and (not only or table.name in only)
        if present and chosen and _compared_key(table) is not None:
            bound = days if "date" in table.columns else None
            first, second = (pl.DataFrame(lake.arrow(table, bound)) for lake in lakes)
            of_people = [name for name in _OF_PEOPLE if renamed and name in table.columns]
            yield compare_rows(
                table,
                first,
                second.with_columns(pl.col(of_people).str.replace_many(renamed)),
                ignore={name.rpartition(".")[2] for name in ignore if name.startswith(f"{table.name}.")},
                expected=[one for one in expected if one.table == table.name],
                tolerance=tolerance,
            )


def _renamed(left: Lake, right: Lake) -> dict[str, str]:
    """Return the right lake's pseudonyms -> those that the left one gives to the same people, told by their jobs.

    Each lake draws its own. An id of a recommendation is a hash of whom it is about, and remains another.
    """
    place, people = ("file_id", "source_position"), ("user_name", "account", "tenant_id")
    rows = [pl.DataFrame(lake.arrow(JOB)).select(*place, *people) for lake in (left, right)]
    both = rows[0].join(rows[1], on=place)
    pairs = pl.concat(
        both.select(pl.col(f"{name}_right").alias("right"), pl.col(name).alias("left")) for name in people
    )
    is_drawn = [pl.col(side).str.contains(rf"\A{PSEUDONYM.pattern}\z") for side in ("right", "left")]
    drawn = pairs.unique().filter(pl.all_horizontal(is_drawn))
    return dict(drawn.filter(pl.col("left") != pl.col("right")).iter_rows())


def compare_rows(
    table: Table,
    left: pl.DataFrame,
    right: pl.DataFrame,
    *,
    ignore: Collection[str] = (),
    expected: Sequence[Correction] = (),
    tolerance: Tolerance | None = None,
) -> TableComparison:
    """Compare two frames of a declared table by its key; a column that one lacks must be null in the other."""
    tolerance = tolerance or Tolerance()
    if table.name == PUBLICATION.name:
        left, right = (rows.filter(pl.col("table_name") != _INPUTS) for rows in (left, right))
    key = _compared_key(table)
    if key is None:
        raise ConfigurationError("a record of runs has nothing to compare", where=table.name)
    values = [
        name for name in table.columns if name not in key and name not in LEFT_OUT and name not in ignore
    ]
    joined = (
        _numbered(table, left, key)
        .with_columns(pl.lit(True).alias(_LEFT))
        .join(
            _numbered(table, right, key).with_columns(pl.lit(True).alias(_RIGHT)),
            on=[*key, _ORDINAL],
            how="full",
            coalesce=True,
            nulls_equal=True,
            suffix=":right",
        )
    )
    only_left = joined.filter(pl.col(_RIGHT).is_null())
    only_right = joined.filter(pl.col(_LEFT).is_null())
    both = joined.filter(pl.col(_LEFT) & pl.col(_RIGHT))
    reasons = {one.column: one for one in expected}
    columns = []
    for name in values:
        unequal = _unequal(table, both, name, tolerance)
        if unequal.height:
            first = unequal.sort(key, nulls_last=True).row(0, named=True)
            columns.append(
                ColumnDifference(
                    name,
                    unequal.height,
                    {part: first[part] for part in key},
                    first[name],
                    first[f"{name}:right"],
                    reasons[name].reason if name in reasons else None,
                )
            )
    seen = {one.column: one.rows for one in columns}
    if ROWS not in ignore:
        seen[ROWS] = only_left.height + only_right.height
    else:
        only_left, only_right = only_left.clear(), only_right.clear()
    return TableComparison(
        table.name,
        left.height,
        right.height,
        only_left.height,
        only_right.height,
        _key_of(only_left, key),
        _key_of(only_right, key),
        reasons[ROWS].reason if ROWS in reasons else None,
        tuple(columns),
        tuple(_misses(expected, seen)),
    )


def read_corrections(path: Path) -> list[Correction]:
    """Read a YAML list of expected corrections: table, column (`*`: rows), reason, and rows where it must be so many.

    Raises ConfigurationError naming the file and the entry.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"cannot be read: {error}", where=str(path)) from error
    remedy = "a list of entries with table, column, reason and, if it is known, rows"
    if not isinstance(entries, list):
        raise ConfigurationError("holds no list", where=str(path), remedy=remedy)
    corrections = []
    for number, entry in enumerate(entries, start=1):
        texts = isinstance(entry, dict) and all(
            isinstance(entry.get(name), str) and entry[name] for name in ("table", "column", "reason")
        )
        if (
            not texts
            or set(entry) - {"table", "column", "reason", "rows"}
            or not isinstance(entry.get("rows"), int | None)
        ):
            raise ConfigurationError(f"entry {number} is {entry!r}", where=str(path), remedy=remedy)
        corrections.append(Correction(entry["table"], entry["column"], entry["reason"], entry.get("rows")))
    return corrections


def _compared_key(table: Table) -> tuple[str, ...] | None:
    """The columns that tell which rows belong together; None for a table that records runs alone, or what they did."""
    if "run_id" in table.key or table.name == AUDIT.name:
        return None
    declared = table.key or _LOG_KEYS.get(table.name, ())
    if not declared:
        declared = tuple(one.name for one in table.fields if one.type != DOUBLE)
    return tuple(name for name in declared if name not in LEFT_OUT)


def _numbered(table: Table, rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the rows with lists as JSON text and the n-th of each key numbered: versions and log rows share one.

    The order within a key is by what is left out of it, times first, versions as numbers: the first meets the first.
    An id that is a hash says nothing of order, and is another where pseudonyms are.
    """
    lists = [one.name for one in table.fields if one.type == STRINGS]
    rows = rows.with_columns(
        pl.col(name).map_elements(lambda value: json.dumps(list(value)), return_dtype=pl.String)
        for name in lists
    )
    order: list[pl.Expr] = []
    for one in table.fields:
        if one.name in key:
            continue
        if one.name in LEFT_OUT and one.type == STRING:
            order.append(pl.col(one.name).cast(pl.Int64, strict=False))
        order.append(pl.col(one.name))
    if order:
        order.sort(key=lambda column: _rank(column.meta.output_name()))
        rows = rows.sort(order, nulls_last=True)
    return rows.with_columns(pl.int_range(pl.len()).over(key).alias(_ORDINAL))


def _rank(column: str) -> int:
    if column not in LEFT_OUT:
        return 2
    return 0 if column.endswith("_time") else 1


def _unequal(table: Table, both: pl.DataFrame, name: str, tolerance: Tolerance) -> pl.DataFrame:
    """Return the rows whose cells of this column differ beyond the tolerance."""
    left, right = pl.col(name), pl.col(f"{name}:right")
    kind = next(one.type for one in table.fields if one.name == name)
    if kind == DOUBLE:
        near = (left - right).abs() <= pl.max_horizontal(
            pl.lit(tolerance.absolute), tolerance.relative * pl.max_horizontal(left.abs(), right.abs())
        )
        return both.filter(~(left.eq_missing(right) | near.fill_null(False)))
    unequal = both.filter(left.ne_missing(right))
    if kind != STRING or not unequal.height:
        return unequal
    # Published figures are JSON text: their doubles are held to the same tolerance.
    mask = [
        not _same_json(one, other, tolerance)
        for one, other in zip(unequal[name], unequal[f"{name}:right"], strict=True)
    ]
    return unequal.filter(pl.Series(mask, dtype=pl.Boolean))


def _same_json(left: str | None, right: str | None, tolerance: Tolerance) -> bool:
    if left is None or right is None:
        return left is right
    try:
        return _near(json.loads(left), json.loads(right), tolerance)
    except ValueError:
        return False


def _near(left: Any, right: Any, tolerance: Tolerance) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_near(left[name], right[name], tolerance) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(
            _near(one, other, tolerance) for one, other in zip(left, right, strict=True)
        )
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if numbers and not isinstance(left, bool) and not isinstance(right, bool):
        return math.isclose(left, right, rel_tol=tolerance.relative, abs_tol=tolerance.absolute)
    return bool(left == right)


def _misses(expected: Iterable[Correction], seen: dict[str, int]) -> Iterator[str]:
    for one in expected:
        rows = seen.get(one.column, 0)
        if rows == 0:
            yield f"expected and not seen: {one.name} ({one.reason})"
        elif one.rows is not None and rows != one.rows:
            yield f"expected in {_rows(one.rows)} and seen in {rows:,}: {one.name} ({one.reason})"


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        table, _, column = name.partition(".")
        if table not in TABLES or (column and column != ROWS and column not in TABLES[table].columns):
            raise ConfigurationError(
                f"{name!r} is no declared table or column",
                where="tables compare",
                remedy="such as gold/cluster_day or gold/cluster_day.water_l; docs/data-dictionary.md lists them",
            )


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _key_of(rows: pl.DataFrame, key: Sequence[str]) -> dict[str, Any] | None:
    return rows.select(key).sort(key).row(0, named=True) if rows.height else None


def _shown(key: dict[str, Any] | None) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in (key or {}).items() if value is not None)


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.12g}"
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
