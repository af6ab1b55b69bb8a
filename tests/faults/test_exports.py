"""Cells of exports that a spreadsheet would run: each stands behind an apostrophe, in every way out that writes CSV."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_etl.csv_cells import cell, write_csv
from lepton_etl.schema.recommend import DECISION
from tests.conftest import PROJECT
from tests.faults.site import SmallSite

FORMULAS = [
    "=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20x",
]  # fmt: skip
PLAIN = ["n1", "", " =1", "a=b", "2025-06-03", "'x", "1-2"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_stands_behind_an_apostrophe_and_is_one_cell(text: str) -> None:
    out = io.StringIO(newline="")
    write_csv(out, ["name", text], [[text, 1]])
    heading, row = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert heading == ["name", f"'{text}"]
    assert row == [f"'{text}", "1"]


def test_figures_and_other_texts_stay_as_they_are() -> None:
    assert [cell(value) for value in (-1.5, 0, None, *PLAIN)] == [-1.5, 0, "", *PLAIN]


def test_the_command_line_prints_no_formula(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    now = datetime(2025, 6, 3, tzinfo=UTC)
    row = {"decision": "accepted", "decided_time": now, "effective_time": now, "decided_by": "me"}
    site.lake.write_rows(
        DECISION, [row | {"recommendation_id": f"r{n}", "note": note} for n, note in enumerate(FORMULAS)]
    )
    done = site.command("tables", "show", DECISION.name, "--csv")
    assert done.returncode == 0, done.stderr
    # A pipe read as text gives every end of a line as \n.
    rows = csv.DictReader(io.StringIO(done.stdout))
    assert {one["note"].replace("\r", "\n") for one in rows} == {
        f"'{text}".replace("\r", "\n") for text in FORMULAS
    }


def test_csv_is_written_by_one_door() -> None:
    """What writes CSV by itself escapes nothing."""
    writes = re.compile(r"csv\.(writer|DictWriter)|\.to_csv\(|\.write_csv\(")
    files = [file for room in ("lepton_etl", "pipelines", "jobs") for file in (PROJECT / room).rglob("*.py")]
    found = [file.name for file in files if writes.search(file.read_text(encoding="utf-8"))]
    assert found == ["csv_cells.py"]
