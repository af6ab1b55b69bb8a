"""What set-up asks of the machine: run and log a command, install by apt, find Python and Java, stand alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON_MINOR = 14
OLDEST_JAVA = 17
SHOWN_LINES = 15
LOOK_EVERY_S = 0.2
# The operating system's words for it, whichever program it told.
DISK_FULL = os.strerror(errno.ENOSPC)
# Where nobody sees a line being rewritten (a file, CI), a line now and then says that the work goes on.
SAY_EVERY_S = 15.0

# Handed to every command: one that outlives a killed set-up still holds the lock, and the next set-up waits for it.
_held_locks: list[int] = []


class SetUpError(Exception):
    """A step could not be done; the text says what to do about it."""


class Progress:
    """Show one step: its number and name, what it is at and for how long, and the seconds it took."""

    def __init__(self, title: str, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._begin = self._said = time.monotonic()
        print(f"{title} ...", file=self._out, flush=True)

    def show(self, text: str) -> None:
        """Say what the step is at: on a terminal in one line that is rewritten, elsewhere now and then."""
        now = time.monotonic()
        line = f"  {now - self._begin:.0f} s  {text}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]:<{width}}", end="", file=self._out, flush=True)
        elif now - self._said >= SAY_EVERY_S:
            self._said = now
            print(line, file=self._out, flush=True)

    def close(self, result: str) -> None:
        """Say how the step ended."""
        if self._terminal:
            print(f"\r{'':<{shutil.get_terminal_size().columns - 1}}\r", end="", file=self._out)
        print(f"  {result} in {time.monotonic() - self._begin:.0f} s", file=self._out, flush=True)


def run(
    command: list[str],
    log: Path,
    remedy: str,
    env: dict[str, str] | None = None,
    watch: Callable[[str], None] | None = None,
) -> None:
    """Run a command, its output in the log; SetUpError with the output's end and the remedy when it fails.

    `watch` is called several times a second with what the command has printed since the last call.
    """
    with log.open("a", encoding="utf-8") as out, log.open(encoding="utf-8", errors="replace") as written:
        out.write(f"\n$ {' '.join(command)}\n")
        out.flush()
        begin = out.tell()
        written.seek(begin)
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=_held_locks,
        )
        with process:
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=LOOK_EVERY_S)
                if watch is not None:
                    watch(written.read())
        if code != 0:
            written.seek(begin)
            said = written.read()
            tail = [f"  | {line}" for line in said.splitlines()[-SHOWN_LINES:]]
            if DISK_FULL in said:
                remedy = "the disk is full: make room (`df -h`; a set-up takes some 5 GB), then run again"
            raise SetUpError("\n".join([*tail, f"{remedy} (full output: {log})"]))


def succeeds(command: list[str]) -> bool:
    """Whether a command can be started and exits with 0; its output is dropped."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def stand_alone(lock: Path) -> Iterator[None]:
    """Wait until no other set-up works on this checkout, and hold others off meanwhile."""
    lock.parent.mkdir(exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up: another one is at work here; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        _held_locks.append(handle)
        yield
    finally:
        if handle in _held_locks:
            _held_locks.remove(handle)
        os.close(handle)


def apt_install(packages: list[str], log: Path) -> bool:
    """Install the first of these packages that the distribution has.

    False where there is no apt, or where it would need a password or a question answered.
    """
    if shutil.which("apt-get") is None:
        return False
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if sudo and not succeeds([*sudo, "true"]):
        return False
    asked_nothing = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive"]
    apt_get = [*asked_nothing, "apt-get", "--yes"]
    try:
        # An install that was broken off must be ended first, or apt refuses every further one.
        run([*asked_nothing, "dpkg", "--configure", "-a"], log, "dpkg could not end what it had begun")
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
