"""Lock files: what they must hold so that they can still be installed on a later day, and that the check can fail."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from tests.conftest import PROJECT
from tests.unit.test_set_up import tiny_wheel

HASH = f"--hash=sha256:{'0' * 64}"
FILES = ("requirements-uv.lock", "requirements-build.lock", "requirements.lock", "requirements-dev.lock")


@pytest.fixture
def check_lock(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    return importlib.import_module("check_lock")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with this checkout's locks and setup.cfg."""
    for name in (*FILES, "setup.cfg"):
        shutil.copy(PROJECT / name, tmp_path)
    return tmp_path


def problems(
    check_lock: ModuleType,
    folder: Path,
    lines: Iterable[str],
    wants: dict[str, list[str]],
    python: str = "3.11",
) -> list[str]:
    """What is wrong with a lock of these lines whose user asks for pytest-cov."""
    file = folder / "requirements.lock"
    file.write_text(
        "".join(f"{line} \\\n    {HASH}\n    # via somebody\n" for line in lines), encoding="utf-8"
    )
    pins = check_lock.read_lock(file)
    root = check_lock.Wanted(Requirement("pytest-cov>=7"), "setup.cfg")
    environment = check_lock.environment_of(python)
    found: list[str] = check_lock.unmet(pins, [root], lambda name, _: wants.get(name), environment)
    return found


WANTS = {
    "pytest-cov": ["coverage[toml]>=7.10.6", "pluggy>=1.2", 'fields; extra == "testing"'],
    "coverage": ['tomli; python_full_version <= "3.11.0a6" and extra == "toml"', 'tomlkit; extra == "toml"'],
}


def test_a_lock_that_pins_all_that_is_wanted_passes(check_lock: ModuleType, tmp_path: Path) -> None:
    lines = ["coverage==7.17.3", "pluggy==1.7.0", "pytest-cov==7.1.0", "tomlkit==1.0"]
    assert problems(check_lock, tmp_path, lines, WANTS) == []


def test_a_package_that_is_wanted_with_an_extra_and_not_pinned_is_named(
    check_lock: ModuleType, tmp_path: Path
) -> None:
    lines = ["coverage==7.17.3", "pluggy==1.7.0", "pytest-cov==7.1.0"]
    assert problems(check_lock, tmp_path, lines, WANTS) == [
        'tomlkit; extra == "toml" is wanted by coverage==7.17.3 with the extra toml and not pinned'
    ]


def test_a_package_that_is_not_pinned_is_named(check_lock: ModuleType, tmp_path: Path) -> None:
    lines = ["pluggy==1.7.0", "pytest-cov==7.1.0"]
    assert problems(check_lock, tmp_path, lines, WANTS) == [
        "coverage[toml]>=7.10.6 is wanted by pytest-cov==7.1.0 and not pinned"
    ]


def test_the_line_of_a_pin_that_does_not_fit_is_named(check_lock: ModuleType, tmp_path: Path) -> None:
    lines = ["coverage==7.10.5", "pluggy==1.7.0", "pytest-cov==7.1.0", "tomlkit==1.0"]
    (found,) = problems(check_lock, tmp_path, lines, WANTS)
    assert found.startswith("requirements.lock:1: coverage==7.10.5 does not fit coverage[toml]>=7.10.6")


def test_a_pin_for_another_python_does_not_count(check_lock: ModuleType, tmp_path: Path) -> None:
    lines = [
        "coverage==7.17.3",
        "pytest-cov==7.1.0",
        "tomlkit==1.0",
        'pluggy==1.7.0 ; python_version < "3.12"',
    ]
    assert problems(check_lock, tmp_path, lines, WANTS, "3.11") == []
    (found,) = problems(check_lock, tmp_path, lines, WANTS, "3.12")
    assert found == "pluggy>=1.2 is wanted by pytest-cov==7.1.0 and not pinned"


def test_lines_without_a_hash_or_a_single_version_are_named(check_lock: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "requirements.lock"
    file.write_text(
        f"bare==1.0\nloose>=1.0 {chr(92)}\n    {HASH}\nstar==1.* {chr(92)}\n    {HASH}\n", encoding="utf-8"
    )
    assert check_lock.unpinned(check_lock.read_lock(file)) == [
        "requirements.lock:2: loose>=1.0 names no single version",
        "requirements.lock:4: star==1.* names no single version",
        "requirements.lock:1: bare==1.0 has no hash",
    ]


def test_this_checkouts_locks_pass(check_lock: ModuleType) -> None:
    """Every requirement, those wanted with an extra included, is pinned and hashed, for each Python of setup.cfg."""
    pythons = check_lock.supported_pythons(PROJECT / "setup.cfg")
    assert pythons == ["3.11", "3.12", "3.13"]
    assert check_lock.check_metadata(PROJECT, pythons) == []


@pytest.mark.parametrize(
    ("name", "file", "wanted_by"),
    [
        ("idna", "requirements.lock", "requests=="),
        ("coverage", "requirements-dev.lock", "pytest-cov=="),
        ("py-partiql-parser", "requirements-dev.lock", "moto==5.2.5 with the extra s3"),
        ("numpy", "requirements.lock", r"setup.cfg \(install_requires\)"),
    ],
)
def test_a_package_cut_out_of_this_checkouts_lock_is_missed(
    check_lock: ModuleType, copied: Path, name: str, file: str, wanted_by: str
) -> None:
    text = (copied / file).read_text(encoding="utf-8")
    cut = re.sub(rf"(?m)^{name}==.*\n(?: .*\n)+", "", text)
    assert len(cut) < len(text)
    (copied / file).write_text(cut, encoding="utf-8")
    found = check_lock.check_metadata(copied, ["3.11"])
    assert any(
        re.search(rf"{file} on Python 3.11: {name}.* is wanted by {wanted_by}.*not pinned", line)
        for line in found
    )


def test_uv_refuses_a_lock_that_misses_a_package(
    check_lock: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second half of the check, on two packages in a folder and no network."""
    hashes = {}
    for name, further in (("watts", "Requires-Dist: volts\n"), ("volts", "")):
        wheel, hashes[name] = tiny_wheel(name, further)
        (tmp_path / f"{name}-1.0-py3-none-any.whl").write_bytes(wheel)
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(check_lock, "PYTHON", Path(sys.executable))
    lines = {name: f"{name}==1.0 --hash=sha256:{digest}\n" for name, digest in hashes.items()}
    lock = tmp_path / "requirements.lock"
    lock.write_text(lines["watts"], encoding="utf-8")
    assert "volts" in check_lock.resolve(tmp_path, lock.name, "3.12")
    lock.write_text(lines["watts"] + lines["volts"], encoding="utf-8")
    assert check_lock.resolve(tmp_path, lock.name, "3.12") == ""
