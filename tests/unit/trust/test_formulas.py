"""Formulas name columns that there are, and what they name can be followed."""

from __future__ import annotations

import polars as pl
import pytest

from lepton_etl.schema.declare import DOUBLE, INT, LONG
from lepton_etl.schema.formulas import FILLED, MADE, OWN, formulas_of, told_columns, told_tables
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.untold import ALL_COLUMNS, REASONS, reason_of
from lepton_etl.trust.pseudonyms import renamed
from lepton_etl.trust.source_lines import mask_lines
from lepton_etl.trust.trace import SHORT_NAMES, with_numbers

ALL = [
    formula
    for table in (*told_tables(), *MADE)
    for column in told_columns(table)
    for formula in formulas_of(table, column)
]


@pytest.mark.parametrize("formula", ALL, ids=lambda formula: f"{formula.table}.{formula.column}")
def test_each_name_of_a_formula_is_a_column_of_the_table_that_it_is_said_to_be_of(formula) -> None:  # type: ignore[no-untyped-def]
    if formula.table not in MADE:
        assert formula.column in TABLES[formula.table].columns
    for name in formula.names():
        table, column = formula.source_of(name)
        if table not in MADE:
            assert column in TABLES[table].columns, f"{name} of {table}"
    for beside in formula.beside:
        if beside.table not in MADE:
            assert set(beside.on) <= {*TABLES[beside.table].columns, "hour_start"}


@pytest.mark.parametrize("table", [name for name in TABLES if name.startswith("gold/")])
def test_every_number_of_gold_has_a_formula_or_a_reason_and_not_both(table: str) -> None:
    told = set(told_columns(table)) | {column for name, column in [FILLED] if name == table}
    numbers = {
        one.name for one in TABLES[table].fields
        if one.type == DOUBLE or (one.unit is not None and one.type in (INT, LONG))
    }  # fmt: skip
    assert {name for name in numbers - told if reason_of(table, name) is None} == set()
    reasons = {name for tables in REASONS.values() for name in tables.get(table, ())}
    assert not reasons & told
    assert reasons <= {*numbers, *ALL_COLUMNS}


def test_a_reason_is_of_a_table_that_there_is() -> None:
    assert {name for tables in REASONS.values() for name in tables} <= {*TABLES, *MADE}


@pytest.mark.parametrize(
    "table", ["gold/tenant_day", "gold/job_energy", "gold/cluster_day", "gold/cluster_hour"]
)
def test_the_words_people_ask_with_are_figures_of_the_tables_they_ask(table: str) -> None:
    wanted = {"energy_kwh", "carbon"} | ({"cost"} if "energy_cost" in TABLES[table].columns else set())
    wanted |= {"pue"} if "pue_ratio" in TABLES[table].columns else set()
    assert {SHORT_NAMES[word] for word in wanted} <= set(told_columns(table))


def test_an_expression_with_its_numbers_gives_what_the_expression_gives() -> None:
    frame = pl.DataFrame({"a_kwh": [1.5, 2.5, None], "b_kwh": [2.0, 3.0, 4.0], f"{OWN}c": [8.0] * 3})
    text = "SUM(COALESCE(a_kwh, 0) * b_kwh) + MAX(own_c) / SUM(CASE WHEN a_kwh IS NOT NULL THEN b_kwh END)"
    shown = with_numbers(text, frame)
    assert shown == "10.5 + 8.0 / 5.0"
    assert eval(shown) == frame.select(pl.sql_expr(text)).item()  # noqa: S307
    assert with_numbers("COALESCE(a_kwh, 0) + b_kwh", frame.tail(1)) == "COALESCE(null, 0) + 4.0"


def test_a_line_says_no_name_that_the_map_knows_nor_what_a_label_calls_a_user() -> None:
    line = '17|ann|COMPLETED|anna|user="bob",node="n1"'
    assert mask_lines([line], renamed({"ann": "p-1"})) == ['17|p-1|COMPLETED|anna|user="***",node="n1"']
