"""The one table of docs/security.md: four cells a row, and each test that it names is there and runs."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import PROJECT

TESTS = PROJECT / "tests"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (PROJECT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
][2:]
NAMED = sorted({test for row in ROWS for test in re.findall(r"`([^`]+)`", row[-1])})


def test_each_row_says_asset_threat_measure_and_test() -> None:
    assert len(ROWS) > 30 and ROWS[0][0]
    for row in ROWS:
        assert len(row) == 4 and all(row[1:]), row
        assert re.fullmatch(r"`[^`]+::test_[^`]+`(, `[^`]+::test_[^`]+`)*", row[3]), row


@pytest.mark.parametrize("test", NAMED)
def test_each_test_of_the_page_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    found = [
        node
        for node in ast.parse((TESTS / path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert len(found) == 1, f"{test} is not there"
    assert not any(ast.unparse(mark).startswith("pytest.mark.skip(") for mark in found[0].decorator_list)
