"""Set-up's words on machines that lack something."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("machine")


def fake_java(home: Path, version: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    return home


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The set-up script, with its environment and log in a scratch folder."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("set_up")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(module, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(module, "LOG", tmp_path / "var" / "log")
    return module


@pytest.mark.parametrize(
    ("shown", "major"), [("17.0.15", 17), ("21", 21), ("1.8.0_402", 8), ("25-ea", 25), ("11.0.2", 11)]
)
def test_java_versions_are_read(machine: ModuleType, tmp_path: Path, shown: str, major: int) -> None:
    assert machine.java_version(fake_java(tmp_path, shown) / "bin" / "java") == major


def test_java_home_wins_over_path_unless_too_old(
    machine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = fake_java(tmp_path / "old", "11.0.2"), fake_java(tmp_path / "new", "21.0.1")
    monkeypatch.setenv("PATH", f"{new}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JAVA_HOME", str(old))
    assert machine.find_java() == new
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "other", "17.0.1")))
    assert machine.find_java() == tmp_path / "other"


def test_a_failed_command_shows_its_last_lines_and_the_remedy(machine: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('asking the network'); raise SystemExit(1)"]
    with pytest.raises(machine.SetUpError, match=r"(?s)asking the network.*check the network"):
        machine.run(command, tmp_path / "log", "check the network")


def test_apt_is_not_asked_where_it_would_need_a_password(
    machine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = tmp_path / "called"
    for name, script in {"apt-get": f"touch {called}", "sudo": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert machine.apt_install(["openjdk-17-jre-headless"], tmp_path / "log") is False
    assert not called.exists()


def test_an_environment_copied_from_elsewhere_does_not_fit(set_up: ModuleType, tmp_path: Path) -> None:
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "python").symlink_to(sys.executable)
    (scripts / "pip").write_text("#!/elsewhere/.venv/bin/python\n", encoding="utf-8")
    assert not set_up.venv_fits()
    (scripts / "pip").write_text(f"#!{scripts}/python\n", encoding="utf-8")
    assert set_up.venv_fits()


def test_a_failed_step_is_named_and_leaves_no_stamp(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def refuse() -> None:
        raise set_up.SetUpError("no route to the registry; check the network")

    steps = (
        ("first", lambda: done.append(1)),
        ("locked packages", refuse),
        ("later", lambda: done.append(3)),
    )
    monkeypatch.setattr(set_up, "STEPS", steps)
    assert set_up.main() == 1
    assert done == [1]
    assert "set-up failed at 'locked packages':\nno route to the registry" in capsys.readouterr().err
    assert not set_up.STAMP.exists()


def test_a_changed_jar_is_found(set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(set_up, "IVY", tmp_path)
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / "io.delta_delta-storage-4.4.0.jar").write_bytes(b"not what was reviewed")
    assert "io.delta_delta-storage-4.4.0.jar" in set_up.wrong_jars()


def test_a_change_of_the_lock_sets_up_again(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(set_up, "ROOT", tmp_path)
    before = set_up.wanted_stamp()
    (tmp_path / "requirements.lock").write_text("numpy==2.4.6\n", encoding="utf-8")
    assert set_up.wanted_stamp() != before
