"""Run a command and watch all the processes that it starts: wall and CPU seconds, peak memory by what they do."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

JVM: Final = "JVM"
DRIVER: Final = "driver"
WORKER: Final = "worker"

_PERIOD_S: Final = 0.25
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# Words of a command line by which Spark's Python workers and the processes of a pool are known.
_WORKER_WORDS: Final = ("pyspark.daemon", "multiprocessing", "loky")


@dataclass(frozen=True)
class Watched:
    """What a command took; peaks of resident memory are those of the largest process of a kind, MiB."""

    wall_s: float
    cpu_s: float
    output: str
    peak_mib: Mapping[str, float]


@dataclass
class _Watch:
    """What was seen so far of the processes of one session: they keep it when their parent ends."""

    session: int
    cpu_s: dict[tuple[str, str], float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    self._look_at(entry)
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue

    def _look_at(self, entry: Path) -> None:
        # The name in parentheses may hold spaces; fields are counted behind it.
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
        if int(fields[3]) != self.session:
            return
        self.cpu_s[entry.name, fields[19]] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        kind = _kind((entry / "cmdline").read_bytes().decode(errors="replace").split("\0"))
        if kind is None:
            return
        for line in (entry / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                self.peak_mib[kind] = max(self.peak_mib.get(kind, 0.0), int(line.split()[1]) / 1024)


def _kind(command: Sequence[str]) -> str | None:
    program = Path(command[0]).name
    if program == "java":
        return JVM
    if not program.startswith(("python", "lepton-etl")):
        return None
    return WORKER if any(word in part for part in command[1:] for word in _WORKER_WORDS) else DRIVER


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Watched:
    """Run a command to its end. Raises SystemExit with its last lines where it fails.

    CPU seconds are the larger of two sums: what the kernel says of the command and of the descendants that were waited
    for, and what was last seen of each process, which holds those that nobody waits for (Spark's Python workers).
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    watch, ended, parts = _Watch(process.pid), threading.Event(), list[bytes]()

    def look() -> None:
        while not ended.wait(_PERIOD_S):
            watch.look()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            parts.extend(lines)

    threads = [threading.Thread(target=look), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    for thread in threads:
        thread.join()
    output = b"".join(parts).decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, command))} failed:\n{output[-3000:]}")
    cpu_s = max(usage.ru_utime + usage.ru_stime, sum(watch.cpu_s.values()))
    return Watched(wall_s, cpu_s, output, watch.peak_mib)
