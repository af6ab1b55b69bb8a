"""Checks of a table: the field dictionary's (required, bounds, sets, key) and those of conf/expectations.

A check is one aggregate over the slice and the range it must lie in, so all checks of a table cost one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lepton_etl.fields import Field
from lepton_etl.lake.schema import constraint
from lepton_etl.lake.tables import Table
from lepton_etl.quality.outcome import Severity
from lepton_etl.quality.rules import Rule, TableRules

KEY_UNIQUE = "key_is_unique"
NOT_EMPTY = "not_empty"


@dataclass(frozen=True, slots=True)
class Check:
    """`sql` is a Spark SQL aggregate whose value lies in [low, high] (None: open); null is not judged.

    `bad` is the condition of a row that breaks the check, None where no single row does. A check of [0, 0]
    counts such rows.
    """

    name: str
    column: str | None
    severity: Severity
    says: str
    sql: str
    low: float | None
    high: float | None
    bad: str | None = None

    @property
    def counts_rows(self) -> bool:
        return self.high == 0 and self.low == 0

    @property
    def expected(self) -> str:
        """What the value should be, for a person."""
        if self.counts_rows:
            return f"none: {self.says}"
        bounds = [f"at least {self.low:g}"] if self.low is not None else []
        bounds += [f"at most {self.high:g}"] if self.high is not None else []
        return f"{' and '.join(bounds)}: {self.says}"


def checks_of(table: Table, rules: TableRules) -> tuple[Check, ...]:
    """Every check of the table; the dictionary's own are all `fail`."""
    return (
        *_row_count(table, rules),
        *(_known(name) for name in table.required),
        *(check for field in table.fields for check in _within(field)),
        *_unique(table),
        *(_of_rule(rule) for rule in rules.rules),
    )


def _row_count(table: Table, rules: TableRules) -> Iterator[Check]:
    if rules.required:
        yield Check(NOT_EMPTY, None, "fail", f"{table.name} holds rows of the days", "count(1)", 1, None)


def _known(column: str) -> Check:
    bad = f"{column} IS NULL"
    return _counting(f"{column}_is_known", column, "fail", f"{column} is never null", bad)


def _within(field: Field) -> Iterator[Check]:
    """Bounds or set, in the constraint's own words: NaN and infinity break it, the unknown does not."""
    condition = constraint(field)
    if condition is None:
        return
    if field.one_of:
        yield _counting(
            f"{field.name}_is_in_set", field.name, "fail", f"{field.name} is one of the dictionary's names",
            f"NOT ({condition})",
        )  # fmt: skip
        return
    unit = f" {field.unit}" if field.unit else ""
    low = "-inf" if field.ge is None else f"{field.ge:g}"
    top = "inf" if field.le is None else f"{field.le:g}"
    says = f"{field.name} lies in {low} .. {top}{unit}, NaN does not"
    yield _counting(f"{field.name}_is_in_bounds", field.name, "fail", says, f"NOT ({condition})")


def _unique(table: Table) -> Iterator[Check]:
    if table.key:
        # Its value comes from a second aggregate (profile.py): a distinct count in the first would be slower.
        says = f"one row for each {', '.join(table.key)}"
        yield Check(KEY_UNIQUE, None, "fail", says, "", 0, 0)


def _of_rule(rule: Rule) -> Check:
    if rule.figure is not None:
        return Check(
            rule.name, rule.column, rule.severity, rule.says, f"({rule.figure})", rule.at_least, rule.at_most
        )
    where = f"({rule.where})" if rule.where else "TRUE"
    bad = f"{where} AND NOT ({rule.every_row})"
    if rule.mostly == 1:
        return _counting(rule.name, rule.column, rule.severity, rule.says, bad)
    judged = f"count_if({where} AND ({rule.every_row}) IS NOT NULL)"
    share = f"try_divide(count_if({where} AND ({rule.every_row})), {judged})"
    says = f"share of rows in which {rule.says}"
    return Check(rule.name, rule.column, rule.severity, says, share, rule.mostly, None, bad)


def _counting(name: str, column: str | None, severity: Severity, says: str, bad: str) -> Check:
    return Check(name, column, severity, says, f"count_if({bad})", 0, 0, bad)
