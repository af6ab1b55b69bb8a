"""What set-up asks of the machine: run and log a command, install by apt, find Python and Java."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON_MINOR = 14
OLDEST_JAVA = 17
SHOWN_LINES = 15


class SetUpError(Exception):
    """A step could not be done; the text says what to do about it."""


def run(command: list[str], log: Path, remedy: str, env: dict[str, str] | None = None) -> None:
    """Run a command, its output in the log; SetUpError with the output's end and the remedy when it fails."""
    with log.open("a", encoding="utf-8") as out:
        out.write(f"\n$ {' '.join(command)}\n")
        out.flush()
        begin = out.tell()
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    if done.returncode != 0:
        with log.open(encoding="utf-8", errors="replace") as written:
            written.seek(begin)
            tail = [f"  | {line}" for line in written.read().splitlines()[-SHOWN_LINES:]]
        raise SetUpError("\n".join([*tail, f"{remedy} (full output: {log})"]))


def succeeds(command: list[str]) -> bool:
    """Whether a command can be started and exits with 0; its output is dropped."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def apt_install(packages: list[str], log: Path) -> bool:
    """Install the first of these packages that the distribution has.

    False where there is no apt, or where it would need a password or a question answered.
    """
    if shutil.which("apt-get") is None:
        return False
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if sudo and not succeeds([*sudo, "true"]):
        return False
    apt_get = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes"]
    try:
        run([*apt_get, "update"], log, "apt-get update failed")
    except SetUpError as error:
        # The lists on the machine may do; one broken third-party source must not stop the rest.
        print(f"  {str(error).splitlines()[-1]}; going on with the package lists as they are")
    for package in packages:
        try:
            run([*apt_get, "install", "--no-install-recommends", package], log, f"no {package}")
        except SetUpError:
            continue
        return True
    return False


def newer_python() -> str | None:
    """Another Python on PATH that is new enough."""
    for minor in range(NEWEST_PYTHON_MINOR, OLDEST_PYTHON[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        # A version manager's shim stands on PATH for versions switched off too: only a run tells.
        if found and succeeds([found, "-c", "pass"]):
            return found
    return None


def java_version(java: Path) -> int:
    """Major version of a java executable, 0 when it does not run."""
    try:
        shown = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    return int(found.group(1)) if found else 0


def find_java() -> Path | None:
    """Home of a Java new enough: JAVA_HOME, then `java` on PATH, then the oldest fit in /usr/lib/jvm."""
    named = [Path(home) for home in [os.environ.get("JAVA_HOME")] if home]
    on_path = shutil.which("java")
    if on_path:
        named.append(Path(on_path).resolve().parent.parent)
    for home in named:
        if java_version(home / "bin" / "java") >= OLDEST_JAVA:
            return home
    homes = sorted(java.parent.parent for java in Path("/usr/lib/jvm").glob("*/bin/java"))
    versions = [(java_version(home / "bin" / "java"), home) for home in homes]
    fit = [pair for pair in versions if pair[0] >= OLDEST_JAVA]
    return min(fit)[1] if fit else None
