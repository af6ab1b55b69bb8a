"""Copy what is judged of a lake into one DuckDB file: the rows of the days, and what the rules say of each.

A copy, not a view of the lake's files: it costs a second for half a million rows; the file then needs no access to
anything else (so that a rule has none), the lake may lie in an object store, and whoever opens it next week sees the
rows that were judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import duckdb

from lepton_etl.quality.rules import Rule
from lepton_etl.schema.declare import Table

# The one column that every judged table has: the key of a row, as text for a person.
ROW_KEY: Final = "row_key"
# What rule files may say beside DuckDB's own SQL: words that Spark's had.
_MACROS: Final = (
    "CREATE MACRO try_divide(a, b) AS a / nullif(b, 0)",
    "CREATE MACRO to_date(t) AS CAST(t AS DATE)",
)


@dataclass(frozen=True, slots=True)
class Copied:
    """A slice in the file: its columns and rows, the rules that have a value, and what is wrong with others."""

    columns: tuple[str, ...]
    rows: int
    rules: tuple[Rule, ...]
    complaints: Mapping[str, str] = field(default_factory=dict)


def view_name(table: Table) -> str:
    """`silver/interval` -> `silver_interval`, what expectations are asked of."""
    return table.name.replace("/", "_")


def rule_column(rule: Rule) -> str:
    """The column of a rule's values; no column of the dictionary has a space."""
    return f"rule {rule.name}"


class SlicesFile:
    """A DuckDB file while it is written; a view `<layer>_<table>` is what expectations are asked of."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._connection = duckdb.connect(str(path))
        self._connection.execute("SET TimeZone = 'UTC'")
        # One thread writes whole row groups as they come; several write each batch, and all of it again at the end.
        self._connection.execute("SET threads = 1")
        # Rows come through Arrow: no SQL of a rule reads another file of this machine.
        self._connection.execute("SET enable_external_access = false")
        for macro in _MACROS:
            self._connection.execute(macro)
        self._connection.execute("CREATE SCHEMA days")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def copy(self, table: Table, rules: Sequence[Rule], rows: Any) -> Copied:
        """Copy rows and make their view: their columns, `row_key`, and one column a rule.

        `rows` are an Arrow table, or a dataset that is never held whole.

        A rule that cannot be computed on these rows is left out and complained of; a figure that is null is left out.
        """
        columns = tuple(rows.schema.names)
        asked = [rule for rule in rules if rule.column is None or rule.column in columns]
        complaints = self._write(table, [rule for rule in asked if rule.every_row is not None], rows)
        figures = self._figures(table, [rule for rule in asked if rule.figure is not None], complaints)
        computed = [
            rule
            for rule in asked
            if rule.name not in complaints and (rule.figure is None or rule.name in figures)
        ]
        keys = [f"'{column}=' || \"{column}\"" for column in table.key if column in columns]
        shown = [f'"{column}"' for column in columns]
        shown += [f"concat_ws(' ', {', '.join(keys)}) AS {ROW_KEY}" if keys else f"'' AS {ROW_KEY}"]
        shown += [
            f'{figures.get(rule.name, "")} "{rule_column(rule)}"'
            for rule in computed
            if rule.expectation is None
        ]
        copy = _rows(table)
        self._connection.execute(f"CREATE VIEW {view_name(table)} AS SELECT {', '.join(shown)} FROM {copy}")
        ((count,),) = self._connection.execute(f"SELECT count(*) FROM {copy}").fetchall()
        return Copied(columns, count, tuple(computed), complaints)

    def _write(self, table: Table, rules: Sequence[Rule], rows: Any) -> dict[str, str]:
        """Write the rows and what the rules say of each; returns what is wrong with rules, which are left out.

        Written, a rule is computed once, and one that holds throughout is judged by the file's statistics.
        """
        create = f"CREATE TABLE {_rows(table)} AS SELECT *{{}} FROM every_row"
        alone = "SELECT count(value) FROM (SELECT *, {} AS value FROM every_row)"
        complaints = {}
        self._connection.register("every_row", rows)
        try:
            self._connection.execute(create.format(_named(rules)))
        except duckdb.Error:
            for rule in rules:
                try:
                    self._connection.execute(alone.format(rule.sql))
                except duckdb.Error as error:
                    complaints[rule.name] = _said(error)
            self._connection.execute(
                create.format(_named([rule for rule in rules if rule.name not in complaints]))
            )
        self._connection.unregister("every_row")
        return complaints

    def _figures(self, table: Table, rules: Sequence[Rule], complaints: dict[str, str]) -> dict[str, str]:
        """The figures that are not null, as SQL literals: in the view, each query would compute them again."""
        ask = f"SELECT value::VARCHAR, typeof(value) FROM (SELECT {{}} AS value FROM {_rows(table)})"
        figures = {}
        for rule in rules:
            try:
                ((value, kind),) = self._connection.execute(ask.format(rule.sql)).fetchall()
            except duckdb.Error as error:
                complaints[rule.name] = _said(error)
            else:
                if value is not None:
                    quoted = value.replace("'", "''")
                    figures[rule.name] = f"'{quoted}'::{kind}"
        return figures


def _rows(table: Table) -> str:
    return f'days."{table.name}"'


def _said(error: duckdb.Error) -> str:
    return str(error).splitlines()[0]


def _named(rules: Sequence[Rule]) -> str:
    """The rules' values as further columns of a SELECT."""
    return "".join(f', {rule.sql} AS "{rule_column(rule)}"' for rule in rules)


def keys_where(path: Path, table: Table, condition: str, column: str | None, limit: int) -> tuple[str, ...]:
    """The keys of rows by a condition, in their order, with the value of a column that is not in the key."""
    value = f", {column}" if column in table.columns and column not in table.key else ""
    return _keys(path, f"SELECT {ROW_KEY}{value} FROM {view_name(table)} WHERE {condition}", column, limit)


def keys_twice(path: Path, table: Table, limit: int) -> tuple[str, ...]:
    """The keys that more than one row has, with how many have it."""
    sql = f"SELECT {ROW_KEY}, count(*) FROM {view_name(table)} GROUP BY 1 HAVING count(*) > 1"
    return _keys(path, sql, "count", limit)


def _keys(path: Path, sql: str, value: str | None, limit: int) -> tuple[str, ...]:
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(f"{sql} ORDER BY 1 LIMIT {limit}").fetchall()
    return tuple(" ".join([key, *(f"{value}={one}" for one in values)]) for key, *values in found)
