"""The built wheel in an empty environment with the users' lock: simulate and a night, far from any checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.spark]

UV = str(Path(sys.executable).parent / "uv")
DATE = "2025-06-03"


def run(command: list[str], folder: Path, **environment: str) -> str:
    """What a command prints; its error output where it fails."""
    not_its_own = ("MLFLOW", "PYTHON", "PYSPARK", "SPARK_HOME", "VIRTUAL_ENV")
    around = {key: value for key, value in os.environ.items() if not key.startswith(not_its_own)}
    done = subprocess.run(
        command, cwd=folder, env=around | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def install(folder: Path, python: Path, arguments: list[str]) -> None:
    """By uv from its cache, which the set-up of this environment has filled; else from the index."""
    command = [
        UV,
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--python",
        str(python),
        *arguments,
    ]
    try:
        run([*command, "--offline"], folder)
    except AssertionError:
        run(command, folder)


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment with the wheel and the packages of requirements.lock, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # Not in the checkout: setuptools leaves a build folder, and takes what an earlier one left there.
    listed = run(["git", "ls-files", "-z"], PROJECT).split("\0")
    for name in filter(None, listed):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).exists():
            shutil.copy(PROJECT / name, source / name, follow_symlinks=False)
    options = ["--no-build-isolation", "--offline", "--python", sys.executable, "--out-dir", str(folder)]
    run([UV, "build", "--quiet", "--wheel", *options, str(source)], folder)
    (wheel,) = folder.glob("*.whl")
    run([UV, "venv", "--quiet", "--python", sys.executable, "env"], folder)
    python = folder / "env" / "bin" / "python"
    for lock in ("requirements-build.lock", "requirements.lock"):
        install(folder, python, ["--require-hashes", "--requirement", str(PROJECT / lock)])
    install(folder, python, [str(wheel)])
    shutil.rmtree(source)
    return python.parent


def test_the_wheel_simulates_and_runs_a_night_elsewhere(bin_folder: Path, tmp_path: Path) -> None:
    lepton_etl = str(bin_folder / "lepton-etl")
    # As an earlier start leaves them: Ivy asks the network, and a test shall not.
    cache = tmp_path / "cache"
    shutil.copytree(PROJECT / "var" / "ivy" / "jars", cache / "lepton-etl" / "ivy" / "jars")
    place = run([str(bin_folder / "python"), "-c", "import lepton_etl; print(lepton_etl.__file__)"], tmp_path)
    assert place.startswith(str(bin_folder.parent))
    size = ["--seed", "42", "--date", DATE, "--days", "1", "--clusters", "1", "--nodes", "2"]
    run([lepton_etl, "simulate", "fleet", *size], tmp_path)
    night = [lepton_etl, "nightly", "--config", "fleet/config.yaml", "--date", DATE]
    run(night, tmp_path, XDG_CACHE_HOME=str(cache), SPARK_LOCAL_IP="127.0.0.1")
    assert (tmp_path / "fleet" / "report" / DATE / "index.html").is_file()
    shown = run([lepton_etl, "tables", "show", "gold/cluster_day", "--config", "fleet/config.yaml"], tmp_path)
    assert "c01" in shown
