"""Make the suite of a table: the field dictionary's expectations, and the rules of its file.

An expectation's `meta` holds the name of the check, and as `breaks` the SQL condition of a row that breaks it.
All are Great Expectations' own kinds, so that plain Great Expectations opens the suite. A rule of rows is a column of
the judged view that says whether it holds (null, the unknown, is not judged), a figure one that holds its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from lepton_etl.quality.rules import Rule, Severity, great_expectations
from lepton_etl.quality.slices import ROW_KEY, Copied, rule_column
from lepton_etl.schema.declare import Field, Table
from lepton_etl.schema.types import constraint

COLUMNS: Final = "columns_match_the_dictionary"
KEY_UNIQUE: Final = "key_is_unique"
NOT_EMPTY: Final = "not_empty"
_SEVERITY: Final = {"fail": "critical", "warn": "warning"}


def suite_name(table: Table) -> str:
    """`silver/interval` -> `silver.interval`: Data Docs refuse a slash and make folders of dots."""
    return table.name.replace("/", ".")


def suite_of(table: Table, copied: Copied, *, required: bool) -> Any:
    """Return the suite of a table; a rule that could not be computed and checks of missing columns are not in it.

    Without rows there is nothing to ask but the columns and, where the table is required, that there are some.
    """
    gx = great_expectations()
    found = [*_of_the_table(table, copied, required=required)]
    if copied.rows:
        found += [*_of_the_rows(table, copied), *map(_of_rule, copied.rules)]
    return gx.ExpectationSuite(name=suite_name(table), expectations=found)


def _of_the_table(table: Table, copied: Copied, *, required: bool) -> Iterator[Any]:
    made = [rule_column(rule) for rule in copied.rules if rule.expectation is None]
    yield _expect(
        "expect_table_columns_to_match_ordered_list", COLUMNS, "fail",
        "the columns of the field dictionary in their order, then row_key and one a rule",
        column_list=[*table.columns, ROW_KEY, *made],
    )  # fmt: skip
    if required:
        says = f"{table.name} holds rows of the days"
        yield _expect("expect_table_row_count_to_be_between", NOT_EMPTY, "fail", says, min_value=1)


def _of_the_rows(table: Table, copied: Copied) -> Iterator[Any]:
    if table.key and set(table.key) <= set(copied.columns):
        says = f"one row for each {', '.join(table.key)}"
        yield _unique(table.key, says)
    for field in table.fields:
        if field.name in copied.columns:
            yield from _of_field(field, known=field.name in table.required)


def _unique(key: tuple[str, ...], says: str) -> Any:
    if len(key) == 1:
        return _expect("expect_column_values_to_be_unique", KEY_UNIQUE, "fail", says, column=key[0])
    return _expect("expect_compound_columns_to_be_unique", KEY_UNIQUE, "fail", says, column_list=list(key))


def _of_field(field: Field, *, known: bool) -> Iterator[Any]:
    """Never null, a set or bounds: NaN and infinity break an upper bound, the unknown breaks none."""
    name = field.name
    if known:
        says = f"{name} is never null"
        yield _expect(
            "expect_column_values_to_not_be_null", f"{name}_is_known", "fail", says,
            breaks=f"{name} IS NULL", column=name,
        )  # fmt: skip
    if field.one_of:
        says = f"{name} is one of the dictionary's names"
        yield _expect(
            "expect_column_values_to_be_in_set", f"{name}_is_in_set", "fail", says,
            breaks=f"NOT ({constraint(field)})", column=name, value_set=list(field.one_of),
        )  # fmt: skip
    elif field.ge is not None or field.le is not None:
        unit = f" {field.unit}" if field.unit else ""
        low = "-inf" if field.ge is None else f"{field.ge:g}"
        top = "inf" if field.le is None else f"{field.le:g}"
        yield _expect(
            "expect_column_values_to_be_between", f"{name}_is_in_bounds", "fail",
            f"{name} lies in {low} .. {top}{unit}{', NaN does not' if field.le is not None else ''}",
            breaks=f"NOT ({constraint(field)})", column=name, min_value=field.ge, max_value=field.le,
        )  # fmt: skip


def _of_rule(rule: Rule) -> Any:
    if rule.expectation is not None:
        return _expect(
            rule.expectation, rule.name, rule.severity, rule.says, about=rule.column, **rule.kwargs
        )
    column = rule_column(rule)
    if rule.figure is not None:
        bounds = [f"at least {rule.at_least:g}"] if rule.at_least is not None else []
        bounds += [f"at most {rule.at_most:g}"] if rule.at_most is not None else []
        return _expect(
            "expect_column_max_to_be_between", rule.name, rule.severity,
            f"{' and '.join(bounds)}: {rule.says}",
            about=rule.column, column=column, min_value=rule.at_least, max_value=rule.at_most,
        )  # fmt: skip
    share = f"at least {100 * rule.mostly:g} % of rows: " if rule.mostly < 1 else ""
    return _expect(
        "expect_column_values_to_be_in_set", rule.name, rule.severity, f"{share}{rule.says}",
        breaks=f'NOT "{column}"', about=rule.column, column=column, value_set=[True], mostly=rule.mostly,
    )  # fmt: skip


def _expect(
    kind: str,
    check: str,
    severity: Severity,
    says: str,
    *,
    breaks: str | None = None,
    about: str | None = None,
    **kwargs: Any,
) -> Any:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity

    return ExpectationConfiguration(
        type=kind, kwargs=kwargs, severity=FailureSeverity(_SEVERITY[severity]), description=says,
        meta={"check": check, "breaks": breaks, "about": about or kwargs.get("column")},
    ).to_domain_obj()  # fmt: skip
