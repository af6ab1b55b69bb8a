"""What the person at 3 a.m. reads when the settings are wrong: exit code 2, one line, nothing read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lepton_etl.cli.main import main
from tests.conftest import PROJECT

GOOD = {
    "site": {"site_id": "s1"},
    "lake": {"root": "lake"},
    "fleet": {"inventory": "inventory.csv"},
    "sources": [{"name": "bmc", "format": "ipmitool", "path": "landing/*.txt"}],
}


def command(folder: Path, changes: dict[str, object], *arguments: str) -> list[str]:
    """The command's arguments, with its settings written down."""
    (folder / "inventory.csv").write_text(
        "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,valid_from\n"
        "n1,c1,,,,,,,2025-01-01\n"
    )
    (folder / "site.yaml").write_text(yaml.safe_dump(GOOD | changes))
    return ["nightly", "--config", str(folder / "site.yaml"), "--date", "2025-06-03", *arguments]


def ended(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The exit code and standard error of the command, run in this process."""
    with pytest.raises(SystemExit) as done:
        main(arguments)
    return done.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"site": {"site_id": "s1", "timezone": "Mars/Olympus"}}, "key site.timezone = 'Mars/Olympus'"),
        ({"lakes": {}}, "key lakes = {}: no such key"),
        ({"energy": {"interval_s": 7}}, "interval_s = 7"),
        (
            {"lake": {"root": "${NOT_SET_ANYWHERE}/lake"}},
            "the environment variable NOT_SET_ANYWHERE is not set",
        ),
        ({"fleet": {"inventory": "nowhere.csv"}}, "nowhere.csv"),
        ({"lake": {"root": "lake\0/../x"}}, "key lake.root holds a NUL character"),
    ],
    ids=["time zone", "unknown key", "bound", "variable", "inventory", "NUL"],
)
def test_wrong_settings_end_with_exit_2_and_one_line(
    tmp_path: Path, changes: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = ended(command(tmp_path, changes), capsys)
    is_one_line_of_exit_2(code, told, said)
    assert not (tmp_path / "lake").exists()


def is_one_line_of_exit_2(code: object, told: str, said: str) -> None:
    assert code == 2, told
    last = told.rstrip().splitlines()[-1]
    assert said in last and "->" in last
    assert "Traceback" not in told


def test_a_process_ends_so_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lepton_etl.cli", *command(tmp_path, {"lakes": {}})],
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    is_one_line_of_exit_2(done.returncode, done.stderr, "key lakes = {}: no such key")
    assert not (tmp_path / "lake").exists()


def test_an_unknown_stage_is_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = ended(command(tmp_path, {}, "--stage", "platinum"), capsys)
    assert code == 2
    assert "one of bronze, silver, gate, gold" in told


def test_a_range_that_ends_before_it_starts_is_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = ended(command(tmp_path, {}, "--until", "2025-06-01"), capsys)
    assert code == 2
    assert "the range ends before it starts" in told
