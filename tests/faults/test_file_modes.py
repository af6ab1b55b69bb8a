"""File modes by policy: what a night writes has the rights that the settings leave, in the driver and in its tasks."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lepton_etl.config.settings import load
from lepton_etl.errors import ConfigurationError
from tests.faults.site import DAY, SmallSite, ipmi_text


def rights(folder: Path) -> set[tuple[bool, int]]:
    """What the files and folders below a folder may be used for by group and others."""
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode) & 0o077) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("umask", "left"),
    [
        ("077", {(True, 0), (False, 0)}),
        ("027", {(True, 0o050), (False, 0o040)}),
        (None, {(True, 0o055), (False, 0o044)}),
    ],
)
@pytest.mark.parametrize("engine", ["local", pytest.param("spark", marks=pytest.mark.spark)])
def test_a_night_writes_with_the_rights_of_the_settings(
    tmp_path: Path, umask: str | None, left: set[tuple[bool, int]], engine: str
) -> None:
    if engine == "spark" and umask != "027":
        pytest.skip("one session is enough: the tasks' environment is the same")
    site = SmallSite(tmp_path, settings={"lake": {"root": "lake", "umask": umask}})
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    arguments = ("nightly", "--engine", engine, "--date", str(DAY), "--stage", "bronze")
    done = site.command(*arguments, umask=0o022)
    assert done.returncode == 0, done.stderr
    assert rights(tmp_path / "lake") == left


@pytest.mark.parametrize("umask", ["7", "999", "rwx"])
def test_what_is_no_umask_is_refused(tmp_path: Path, umask: str) -> None:
    site = SmallSite(tmp_path, settings={"lake": {"root": "lake", "umask": umask}})
    with pytest.raises(ConfigurationError, match=f"key lake.umask = '{umask}': three octal digits"):
        load(site.config)
