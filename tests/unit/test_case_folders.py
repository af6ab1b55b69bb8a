"""Every folder of tests/cases has a test that reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = sorted(folder.name for folder in (TESTS / "cases").iterdir() if folder.is_dir())
SOURCES = [file.read_text(encoding="utf-8") for file in TESTS.rglob("*.py") if file != Path(__file__)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_cases_has_a_reader(folder: str) -> None:
    named = re.compile(rf'cases"? ?/ ?"?{re.escape(folder)}["/]')
    assert any(named.search(source) for source in SOURCES), f"no test reads tests/cases/{folder}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_cases_is_explained(folder: str) -> None:
    readme = (TESTS / "cases" / "README.md").read_text(encoding="utf-8")
    headings = [line for line in readme.splitlines() if line.startswith("## ")]
    assert any(re.search(rf"\b{re.escape(folder)}\b", heading) for heading in headings)
