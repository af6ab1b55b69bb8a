"""The table of the forty faults names tests that are there."""

from __future__ import annotations

import ast

import pytest

from tests.faults.bad_input import RECIPES
from tests.faults.rows import ROWS, TESTS, function_of


def test_all_forty_faults_are_covered() -> None:
    assert list(ROWS) == list(range(1, 41))
    assert all(row.tests for row in ROWS.values())
    # Each kind of bad input is a row of the table.
    assert all(any(f"[{row}]" in test for test in ROWS[row].tests) for row in RECIPES)


@pytest.mark.parametrize("number", ROWS)
def test_the_tests_of_a_fault_are_there(number: int) -> None:
    for test in ROWS[number].tests:
        path, function = function_of(test)
        tree = ast.parse((TESTS / path).read_text())
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        assert len(found) == 1, f"{test} is not there"
        # Where a machine refuses, the test says so itself; one that never runs covers nothing.
        assert not any(ast.unparse(mark).startswith("pytest.mark.skip(") for mark in found[0].decorator_list)
