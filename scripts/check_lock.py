"""Say whether the lock files can still be installed by someone who comes later, and which line is in the way.

    make check-lock

First from the installed packages' own metadata, without the network: whatever a locked package wants, with its extras,
must be pinned in the same file, in a version that fits, with the hashes of its files. A package that is wanted and not
pinned is taken in the newest version of the day, and fails on the day that one is released. Then uv resolves each lock
for an empty environment of each supported Python; where the index cannot be reached, from uv's cache.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from locked_packages import BUILD_LOCK, DEVELOPER_LOCK, USER_LOCK, UV_LOCK, pip_settings, uv_environment
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from set_up import PYTHON, ROOT

# What a package of this version wants; None where it is not installed here, so nobody can say.
Wants = Callable[[str, str], Iterable[str] | None]


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock file."""

    file: str
    line: int
    requirement: Requirement
    hashes: int

    @property
    def version(self) -> str:
        """The pinned version, empty where the line pins none."""
        clauses = list(self.requirement.specifier)
        exact = len(clauses) == 1 and clauses[0].operator == "==" and "*" not in clauses[0].version
        return clauses[0].version if exact else ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.requirement}"


@dataclass(frozen=True)
class Wanted:
    """A requirement, and who has it."""

    requirement: Requirement
    by: str


def read_lock(file: Path) -> list[Pin]:
    """Return the pins of a lock file. Raises ValueError naming the line that is no requirement."""
    pins: list[Pin] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip().removesuffix("\\").strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("--hash=sha256:"):
            last = pins.pop()
            pins.append(Pin(last.file, last.line, last.requirement, last.hashes + 1))
            continue
        try:
            pins.append(Pin(file.name, number, Requirement(text), 0))
        except ValueError as error:
            raise ValueError(f"{file.name}:{number}: {error}") from error
    return pins


def unmet(
    pins: Iterable[Pin], roots: Iterable[Wanted], wants: Wants, environment: Mapping[str, str]
) -> list[str]:
    """Return one sentence for each requirement that the pins do not meet, in an environment of markers.

    Goes from the roots through what each pinned package wants, with the extras that it is wanted with.
    """
    problems: list[str] = []
    by_name = {
        canonicalize_name(pin.requirement.name): pin
        for pin in pins
        if pin.requirement.marker is None or pin.requirement.marker.evaluate(environment)
    }
    waiting = list(roots)
    looked: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        requirement = wanted.requirement
        name = canonicalize_name(requirement.name)
        pin = by_name.get(name)
        if pin is None:
            problems.append(f"{requirement} is wanted by {wanted.by} and not pinned")
            continue
        if not requirement.specifier.contains(pin.version, prereleases=True):
            problems.append(f"{pin} does not fit {requirement}, wanted by {wanted.by}")
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in looked:
                continue
            looked.add((name, extra))
            who = f"{pin.requirement.name}=={pin.version}" + (f" with the extra {extra}" if extra else "")
            for line in wants(name, pin.version) or ():
                further = Requirement(line)
                if _holds(further, extra, environment):
                    waiting.append(Wanted(further, who))
    return sorted(set(problems))


def _holds(requirement: Requirement, extra: str, environment: Mapping[str, str]) -> bool:
    """Whether a package's requirement holds; with an extra only those of the extra, for the plain ones held before."""
    if requirement.marker is None:
        return not extra
    if requirement.marker.evaluate({**environment, "extra": extra}):
        return not extra or not requirement.marker.evaluate({**environment, "extra": ""})
    return False


def unpinned(pins: Iterable[Pin]) -> list[str]:
    """Return one sentence for each line that does not name one version and the hashes of its files."""
    pins = list(pins)
    loose = [f"{pin} names no single version" for pin in pins if not pin.version]
    return loose + [f"{pin} has no hash" for pin in pins if not pin.hashes]


def installed_wants(name: str, version: str) -> Iterable[str] | None:
    """Return what the installed package wants by its own metadata, where it is the version of the lock."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return found.requires or [] if found.version == version else None


def roots_of(config: Path, extra: str | None) -> list[Wanted]:
    """Return what setup.cfg asks for, with an extra's."""
    parser = configparser.ConfigParser()
    parser.read(config, encoding="utf-8")
    texts = [("install_requires", parser["options"]["install_requires"])]
    if extra is not None:
        texts.append((f"extra {extra}", parser["options.extras_require"][extra]))
    return [
        Wanted(Requirement(line), f"setup.cfg ({where})")
        for where, text in texts
        for line in text.splitlines()
        if line and not line.startswith("#")
    ]


def supported_pythons(config: Path) -> list[str]:
    """Return the Python versions that setup.cfg says are supported."""
    parser = configparser.ConfigParser()
    parser.read(config, encoding="utf-8")
    lines = parser["metadata"]["classifiers"].splitlines()
    return [
        line.rsplit(" ", 1)[1] for line in lines if line.startswith("Programming Language :: Python :: 3.")
    ]


def check_metadata(folder: Path, pythons: Iterable[str]) -> list[str]:
    """Return the problems of a folder's lock files, by the packages' own metadata."""
    problems: list[str] = []
    for name in (UV_LOCK, BUILD_LOCK, USER_LOCK, DEVELOPER_LOCK):
        problems += unpinned(read_lock(folder / name))
    for name, extra in ((USER_LOCK, None), (DEVELOPER_LOCK, "dev")):
        for python in pythons:
            environment = environment_of(python)
            asked = [
                root
                for root in roots_of(folder / "setup.cfg", extra)
                if _holds(root.requirement, "", environment)
            ]
            found = unmet(read_lock(folder / name), asked, installed_wants, environment)
            problems += [f"{name} on Python {python}: {problem}" for problem in found]
    return problems


def environment_of(python: str) -> dict[str, str]:
    """Return the values of markers on this machine under another Python version, such as 3.12."""
    here = {key: str(value) for key, value in default_environment().items()}
    return here | {"python_version": python, "python_full_version": f"{python}.0"}


def resolve(folder: Path, lock: str, python: str) -> str:
    """Return why uv cannot resolve a lock for an empty environment of this Python, empty where it can."""
    environment = uv_environment(pip_settings(PYTHON), os.environ)
    with tempfile.TemporaryDirectory(prefix="lepton-lock-") as empty:
        command = [str(PYTHON.parent / "uv"), "pip", "install", "--quiet", "--dry-run", "--require-hashes"]
        command += ["--python", str(PYTHON), "--python-version", python, "--target", empty]
        command += ["--no-build-isolation", "--requirement", str(folder / lock)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0 and "error sending request" in done.stderr:
            print(f"{lock} on Python {python}: the index cannot be reached; resolved from uv's cache")
            done = subprocess.run([*command, "--offline"], env=environment, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip()


def main() -> int:
    """Print what is in the way; 1 where there is something."""
    pythons = supported_pythons(ROOT / "setup.cfg")
    problems = check_metadata(ROOT, pythons)
    for lock in (USER_LOCK, DEVELOPER_LOCK) if not problems else ():
        for python in pythons:
            found = resolve(ROOT, lock, python)
            problems += [f"{lock} on Python {python}: uv: {found}"] if found else []
            print(f"{lock} on Python {python}: {'cannot be installed' if found else 'ok'}", flush=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("check-lock: run `make lock`, and look at what it changed", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
