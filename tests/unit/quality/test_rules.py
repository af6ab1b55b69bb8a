"""Rule files: what is accepted, and how a mistake is named before anything is read."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from lepton_etl.errors import ConfigurationError
from lepton_etl.quality.gate import GATED
from lepton_etl.quality.rules import _as_if_not_installed, load_rules

GOOD = """
table: silver/interval
required: true
rules:
  - {name: busy, severity: warn, says: most are busy, every_row: power_mean_w > 10, mostly: 0.9}
"""


def folder_with(tmp_path: Path, text: str) -> Path:
    (tmp_path / "interval.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_shipped_rules_cover_every_gated_table() -> None:
    rules = load_rules()
    assert set(rules) == {table.name for table in GATED}
    assert rules["silver/interval"].required
    assert not rules["silver/grid_hour"].required


def test_a_good_file_is_read(tmp_path: Path) -> None:
    (rule,) = load_rules(folder_with(tmp_path, GOOD))["silver/interval"].rules
    assert (rule.name, rule.severity, rule.mostly) == ("busy", "warn", 0.9)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("required: true", "required: true\nsevere: yes", "key severe = True: no such key"),
        ("mostly: 0.9", "mosty: 0.9", "key rules.0.mosty = 0.9: no such key"),
        ("severity: warn", "severity: maybe", "key rules.0.severity = 'maybe'"),
        ("mostly: 0.9", "mostly: 1.5", "key rules.0.mostly = 1.5"),
        ("silver/interval", "silver/intervals", "key table = 'silver/intervals': not a declared table"),
        ("mostly: 0.9", "figure: count(1)", "give either every_row or figure or expectation"),
        (
            "every_row: power_mean_w > 10, mostly: 0.9",
            "expectation: expect_wonders",
            "expectation expect_wonders: expect_wonders not found",
        ),
        (
            "every_row: power_mean_w > 10, mostly: 0.9",
            "expectation: expect_column_values_to_be_between, kwargs: {min_value: 0}",
            "expectation expect_column_values_to_be_between: ",
        ),
        ("mostly: 0.9", "kwargs: {column: power_mean_w}", "kwargs belong to expectation"),
        (
            "every_row: power_mean_w > 10, mostly: 0.9",
            "figure: count(1)",
            "a figure needs at_least or at_most",
        ),
        ("mostly: 0.9", "at_most: 3", "at_least and at_most belong to figure"),
        ("mostly: 0.9", "column: power_kw", "silver/interval has no column power_kw"),
        ("name: busy", "name: Busy!", "key rules.0.name = 'Busy!'"),
        ("rules:", "rules: [", "cannot be read"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in GOOD
    folder = folder_with(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigurationError) as caught:
        load_rules(folder)
    assert named in caught.value.what
    assert caught.value.where == str(folder / "interval.yaml")


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    line = GOOD.strip().splitlines()[-1]
    with pytest.raises(ConfigurationError, match="two rules are called busy"):
        load_rules(folder_with(tmp_path, f"{GOOD.rstrip()}\n{line}\n"))


def test_two_files_of_one_table_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, GOOD)
    (folder / "other.yaml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="another file speaks of this table"):
        load_rules(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_rules(tmp_path / "nowhere")


def test_a_package_is_hidden_from_one_import_and_there_again_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_another_source.py").write_text("KNOWN = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with _as_if_not_installed(["of_another_source", "pathlib"]):
        with pytest.raises(ModuleNotFoundError):
            import_module("of_another_source")
        # What something else has imported stays.
        assert sys.modules["pathlib"].Path is Path
    assert import_module("of_another_source").KNOWN == 1
