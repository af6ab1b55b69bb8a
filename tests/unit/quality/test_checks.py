"""Checks made from the field dictionary and the rules, without a JVM."""

from __future__ import annotations

import pytest

from lepton_etl.quality.gate import GATED
from lepton_etl.quality.rules import KEY_UNIQUE, NOT_EMPTY, Check, Rule, TableRules, checks_of, load_rules
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.tables import TABLES


def by_name(table: Table, *rules: Rule, required: bool = True) -> dict[str, Check]:
    found = checks_of(table, TableRules(table=table.name, required=required, rules=rules))
    return {check.name: check for check in found}


@pytest.mark.parametrize("table", GATED, ids=lambda table: table.name)
def test_every_bound_set_and_required_column_has_a_fail_check(table: Table) -> None:
    found = by_name(table)
    for name in table.required:
        assert found[f"{name}_is_known"].severity == "fail"
    for field in table.fields:
        bounded = field.ge is not None or field.le is not None
        assert (f"{field.name}_is_in_bounds" in found) == bounded
        assert (f"{field.name}_is_in_set" in found) == bool(field.one_of)
    assert found[KEY_UNIQUE].expected == f"none: one row for each {', '.join(table.key)}"


@pytest.mark.parametrize("table", GATED, ids=lambda table: table.name)
def test_names_are_unique_with_the_shipped_rules(table: Table) -> None:
    names = [check.name for check in checks_of(table, load_rules()[table.name])]
    assert len(names) == len(set(names))


def test_bounds_come_from_the_dictionary_with_their_unit() -> None:
    check = by_name(INTERVAL)["energy_kwh_is_in_bounds"]
    assert check.bad == "NOT (energy_kwh IS NULL OR (energy_kwh >= 0.0 AND energy_kwh <= 1000000000.0))"
    assert check.expected == "none: energy_kwh lies in 0 .. 1e+09 kilowatt_hour, NaN does not"


def test_only_a_required_table_must_hold_rows() -> None:
    assert NOT_EMPTY in by_name(INTERVAL)
    assert NOT_EMPTY not in by_name(INTERVAL, required=False)


def test_mostly_becomes_a_share_and_a_figure_its_bounds() -> None:
    share = Rule(name="a", severity="warn", says="x", every_row="p > 1", where="q", mostly=0.9)
    figure = Rule(name="b", severity="fail", says="y", figure="sum(p)", at_least=1, at_most=2)
    found = by_name(TABLES["silver/interval"], share, figure)
    assert (found["a"].low, found["a"].high) == (0.9, None)
    assert found["a"].bad == "(q) AND NOT (p > 1)"
    assert found["a"].expected == "at least 0.9: share of rows in which x"
    assert found["b"].bad is None
    assert found["b"].expected == "at least 1 and at most 2: y"
