"""Rows as the dictionary declares them: their columns, what may not be null, their bounds, and their digest.

delta-rs transactions check no constraint, so every writer of the lake passes here before a row reaches a file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final
from zlib import crc32

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lepton_etl.errors import LakeError
from lepton_etl.schema.declare import Field, Table
from lepton_etl.schema.types import CODED, arrow_schema

_WHOLE_U64: Final = 1 << 64


def checked(table: Table, rows: pa.Table) -> pa.Table:
    """Return the declared columns in the declared order and type, rows in key order.

    Raises LakeError for a missing column that must be there, a null where none may be, a value out of bounds.
    """
    refuse_missing(table, rows.column_names)
    found = in_order(table, rows)
    refuse_values(table, found)
    return found


def refuse_missing(table: Table, columns: Collection[str]) -> None:
    """Raise LakeError where a column that is never null is not there at all."""
    missing = missing_columns(table, columns)
    if missing:
        raise LakeError(f"required columns missing: {', '.join(missing)}", where=table.name)


def refuse_values(table: Table, rows: pa.Table) -> None:
    """Raise LakeError for a null where none may be and for a value out of bounds, naming the columns.

    A column that the rows lack is not looked at.
    """
    empty = empty_columns(table, rows)
    if empty:
        raise LakeError(f"null in required columns: {', '.join(empty)}", where=table.name)
    broken = broken_columns(table, rows)
    if broken:
        raise LakeError(
            f"outside the bounds of the field dictionary: {', '.join(broken)}",
            where=table.name,
            remedy="no row was written; mend the source of the figure",
        )


def missing_columns(table: Table, columns: Collection[str]) -> list[str]:
    """Return the columns that are never null and are not among these."""
    return [name for name in table.required if name not in columns]


def empty_columns(table: Table, rows: pa.Table) -> list[str]:
    """Return the columns of the rows that hold a null where none may be."""
    present = set(rows.column_names)
    return [name for name in table.required if name in present and rows[name].null_count]


def broken_columns(table: Table, rows: pa.Table) -> list[str]:
    """Return the columns of the rows that hold a value outside the bounds of the field dictionary."""
    present = set(rows.column_names)
    return [one.name for one in table.fields if one.name in present and _breaks_bounds(one, rows[one.name])]


def _breaks_bounds(field: Field, values: pa.ChunkedArray) -> bool:
    """Return whether any value breaks the constraint of `schema.constraint`; NaN and infinity break any bound."""
    if field.one_of:
        # Few words in many rows: each is looked up once.
        known = values.unique().drop_null().cast(pa.string())
        return not pc.all(pc.is_in(known, pa.array(field.one_of)), min_count=0).as_py()
    if field.ge is None and field.le is None:
        return False
    known = values.drop_null()
    # `not (v <= le)` refuses NaN, as the constraint does.
    too_low = field.ge is not None and pc.any(pc.less(known, field.ge)).as_py()
    return bool(too_low) or (
        field.le is not None and not pc.all(pc.less_equal(known, field.le), min_count=0).as_py()
    )


def shaped(table: Table, rows: pa.Table) -> pa.Table:
    """Return the declared columns in the declared order and type; one that the rows lack is null."""
    return columns_of(table, rows, table.columns)


def columns_of(table: Table, rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return these declared columns in their declared type; one that the rows lack is null."""
    schema = pa.schema([arrow_schema(table).field(name) for name in names])
    return pa.table([_column(rows, one) for one in schema], schema=schema)


def coded_columns_of(table: Table, rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return these declared columns as `columns_of` does, dictionaries of text as they are."""
    found = []
    for name in names:
        one = arrow_schema(table).field(name)
        coded = CODED if one.type == pa.string() and name in rows.column_names else None
        found.append(rows[name] if coded and rows[name].type == coded else _column(rows, one))
    return pa.table(found, names=list(names))


def _column(rows: pa.Table, one: pa.Field) -> pa.ChunkedArray | pa.Array:
    if one.name not in rows.column_names:
        return pa.nulls(rows.num_rows, one.type)
    return rows[one.name].cast(one.type)


def in_order(table: Table, rows: pa.Table) -> pa.Table:
    """Return the shaped rows in the order of the table's key; of a log without one in theirs."""
    found = shaped(table, rows)
    return found.sort_by([(name, "ascending") for name in table.key]) if table.key else found


@dataclass(frozen=True, slots=True)
class Digest:
    """What a set of rows is, whatever their order: how many, and the sum of their hashes."""

    rows: int = 0
    hash_sum: int = 0

    def __add__(self, other: Digest) -> Digest:
        return Digest(self.rows + other.rows, (self.hash_sum + other.hash_sum) % _WHOLE_U64)


def digest(rows: pa.Table | pl.DataFrame) -> Digest:
    """Return the digest of rows; a column that is null in every row adds nothing, as one that is not there.

    Each column's values are hashed with a seed of the column's name, so that figures that change places are other
    rows.
    """
    height = len(rows)
    if height == 0:
        return Digest()
    coded = [] if isinstance(rows, pl.DataFrame) else [one.name for one in rows.schema if one.type == CODED]
    words = np.zeros(height, np.uint64)
    for name in coded:
        words += _hashes_of_words(name, rows[name])
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows.drop_columns(coded))
    hashes = [*map(_hash, frame.columns), pl.lit(pl.Series(words))]
    (total,) = frame.lazy().select(pl.sum_horizontal(hashes).hash(0).sum()).collect().row(0)
    return Digest(height, int(total))


def _hash(name: str) -> pl.Expr:
    value = pl.col(name)
    return pl.when(value.is_null()).then(pl.lit(0, pl.UInt64)).otherwise(value.hash(crc32(name.encode())))


def _hashes_of_words(name: str, column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return `_hash` of a column of CODED: each word is hashed once. Of a single word it is one for all rows."""
    parts = column.chunks
    if len({_place(part.dictionary) for part in parts}) > 1:
        # Even of parts that share one already, each would be gone through.
        parts = column.unify_dictionaries().chunks
    words = pl.Series(name, [*parts[0].dictionary.to_pylist(), None], pl.String).to_frame()
    hashes: NDArray[np.uint64] = words.select(_hash(name)).to_series().to_numpy()
    if words.height == 2 and not column.null_count:
        return hashes[:1]
    places = pl.Series(pa.chunked_array([part.indices for part in parts]))
    codes = (places.fill_null(words.height - 1) if places.null_count() else places).to_numpy()
    found: NDArray[np.uint64] = hashes[codes]
    return found


def _place(array: pa.Array) -> tuple[object, ...]:
    """Return where an array lies in memory."""
    return (
        array.offset,
        len(array),
        *(None if buffer is None else buffer.address for buffer in array.buffers()),
    )


@cache
def digest_scheme() -> str:
    """Return eight hex digits that name this release's way to hash: another polars may hash otherwise."""
    sample = pl.DataFrame({"a": ["x", None], "b": [0.5, None], "c": [7, 8], "d": [["p", "q"], None]})
    return f"{digest(sample).hash_sum >> 32:08x}"
