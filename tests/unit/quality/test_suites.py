"""Suites made from the field dictionary and the rules."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_etl.quality.gate import GATED
from lepton_etl.quality.rules import Rule, load_rules
from lepton_etl.quality.slices import Copied
from lepton_etl.quality.suites import KEY_UNIQUE, NOT_EMPTY, suite_of
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import INTERVAL


def by_name(table: Table, *rules: Rule, required: bool = True, rows: int = 1) -> dict[str, Any]:
    suite = suite_of(table, Copied(table.columns, rows, rules), required=required)
    return {one.meta["check"]: one for one in suite.expectations}


@pytest.mark.parametrize("table", GATED, ids=lambda table: table.name)
def test_every_bound_set_and_required_column_has_a_critical_expectation(table: Table) -> None:
    found = by_name(table)
    for name in table.required:
        assert found[f"{name}_is_known"].severity == "critical"
    for field in table.fields:
        bounded = field.ge is not None or field.le is not None
        assert (f"{field.name}_is_in_bounds" in found) == bounded
        assert (f"{field.name}_is_in_set" in found) == bool(field.one_of)
    assert found[KEY_UNIQUE].description == f"one row for each {', '.join(table.key)}"


@pytest.mark.parametrize("table", GATED, ids=lambda table: table.name)
def test_names_are_unique_with_the_shipped_rules(table: Table) -> None:
    rules = load_rules()[table.name].rules
    suite = suite_of(table, Copied(table.columns, 1, rules), required=True)
    names = [one.meta["check"] for one in suite.expectations]
    assert len(names) == len(set(names)) and {rule.name for rule in rules} <= set(names)


def test_bounds_come_from_the_dictionary_with_their_unit() -> None:
    one = by_name(INTERVAL)["energy_kwh_is_in_bounds"]
    assert (one.column, one.min_value, one.max_value) == ("energy_kwh", 0, 1e9)
    assert (
        one.meta["breaks"] == "NOT (energy_kwh IS NULL OR (energy_kwh >= 0.0 AND energy_kwh <= 1000000000.0))"
    )
    assert one.description == "energy_kwh lies in 0 .. 1e+09 kilowatt_hour, NaN does not"


def test_only_a_required_table_must_hold_rows_and_without_rows_nothing_else_is_asked() -> None:
    assert NOT_EMPTY in by_name(INTERVAL)
    assert NOT_EMPTY not in by_name(INTERVAL, required=False)
    assert set(by_name(INTERVAL, rows=0)) == {NOT_EMPTY, "columns_match_the_dictionary"}


def test_mostly_becomes_a_share_and_a_figure_its_bounds() -> None:
    share = Rule(name="a", severity="warn", says="x", every_row="p > 1", where="q", mostly=0.9)
    figure = Rule(name="b", severity="fail", says="y", figure="sum(p)", at_least=1, at_most=2)
    found = by_name(INTERVAL, share, figure)
    assert (found["a"].mostly, found["a"].severity) == (0.9, "warning")
    assert found["a"].description == "at least 90 % of rows: x"
    assert (found["b"].min_value, found["b"].max_value) == (1, 2)
    assert found["b"].description == "at least 1 and at most 2: y"
