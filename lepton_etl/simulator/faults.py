"""Faults on request: which node-days they touch, how they spoil a log, and the record of what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.simulator.plan import DAY_S, Fault, FleetPlan

GAP_HOURS: Final = (2.0, 5.0)
REPEATED_SNAPSHOTS: Final = (3, 12)
BAD_LINES_PER_FILE: Final = 6
KEPT_SHARE: Final = 0.6


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault in the logs of one node-day; seconds count from that day's midnight UTC."""

    kind: Fault
    from_s: int
    to_s: int


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """What was really done to a file.

    `count` snapshots (gaps, duplicates), lines, reset counters, windows or files; `records` is the rows with a
    number that were lost, repeated, spoiled or reset. A dropped feed names its meter as `node_id`.
    """

    kind: Fault
    file: str
    node_id: str
    from_epoch_s: int
    to_epoch_s: int
    count: int
    records: int


@dataclass(slots=True)
class Log:
    """A file being written: snapshots (blocks of lines) with their second of the day.

    `head` opens the file; each snapshot starts with `stamp_lines` lines that are no records.
    """

    file: str
    node_id: str
    midnight_epoch_s: int
    head: str
    snapshots: list[str]
    seconds: list[int]
    stamp_lines: int

    def records(self, snapshot: str) -> int:
        """Rows of one snapshot that carry a number: what a decoder turns into readings."""
        rows = snapshot.splitlines()[self.stamp_lines :]
        return sum(_value_at(row) is not None for row in rows)


def plan_faults(plan: FleetPlan) -> dict[tuple[str, int], list[Injection]]:
    """Injections by (node, day index): each fault of nodes on `fault_share` of all node-days, at least one.

    Different faults keep to different node-days while there are enough of them.
    """
    wanted = set(plan.faults) - {Fault.FEED_DROPPED}
    injections: dict[tuple[str, int], list[Injection]] = {}
    for kind in [fault for fault in Fault if fault in wanted]:
        needs_gpu = kind is Fault.COUNTER_RESETS
        candidates = [
            (node_id, day)
            for cluster in plan.clusters
            if cluster.hardware.gpu_count or not needs_gpu
            for node_id in cluster.node_ids()
            for day in range(plan.days)
        ]
        rng = plan.rng("faults", kind)
        share = 1 if kind is Fault.TRUNCATED_GZIP else max(1, round(plan.fault_share * len(candidates)))
        order = [candidates[index] for index in rng.permutation(len(candidates))]
        order.sort(key=lambda node_day: len(injections.get(node_day, ())))
        for node_day in order[:share]:
            injections.setdefault(node_day, []).append(_injection(kind, rng))
    return injections


def _injection(kind: Fault, rng: np.random.Generator) -> Injection:
    if kind is Fault.GAPS:
        start = int(rng.uniform(1, 18) * 3600)
        return Injection(kind, start, start + int(rng.uniform(*GAP_HOURS) * 3600))
    if kind is Fault.COUNTER_RESETS:
        moment = int(rng.uniform(3600, DAY_S - 3600)) // 10 * 10
        return Injection(kind, moment, moment)
    return Injection(kind, 0, DAY_S)


def spoil(log: Log, injections: list[Injection], rng: np.random.Generator) -> list[FaultRecord]:
    """Apply the gaps, repeats and bad lines of a node-day to one log, in place; records of what was done."""
    done: list[FaultRecord] = []
    for injection in injections:
        if not log.snapshots:
            continue
        if injection.kind is Fault.GAPS:
            done += _cut(log, injection)
        elif injection.kind is Fault.DUPLICATES:
            done.append(_repeat(log, rng))
        elif injection.kind is Fault.BAD_LINES:
            done.append(_garble(log, rng))
    return done


def _record(log: Log, kind: Fault, from_s: int, to_s: int, count: int, records: int) -> FaultRecord:
    start = log.midnight_epoch_s
    return FaultRecord(kind, log.file, log.node_id, start + from_s, start + to_s, count, records)


def _cut(log: Log, gap: Injection) -> list[FaultRecord]:
    """Drop the snapshots of the gap; the record runs from the last one kept to the next one kept."""
    gone = [index for index, second in enumerate(log.seconds) if gap.from_s <= second < gap.to_s]
    if not gone:
        return []
    first, last = gone[0], gone[-1] + 1
    from_s = log.seconds[first - 1] if first else 0
    to_s = log.seconds[last] if last < len(log.seconds) else DAY_S
    records = sum(log.records(snapshot) for snapshot in log.snapshots[first:last])
    del log.snapshots[first:last], log.seconds[first:last]
    return [_record(log, gap.kind, from_s, to_s, len(gone), records)]


def _repeat(log: Log, rng: np.random.Generator) -> FaultRecord:
    """Write a run of snapshots twice, one after the other, as a collector does that retries."""
    length = min(int(rng.integers(*REPEATED_SNAPSHOTS)), len(log.snapshots))
    first = int(rng.integers(0, len(log.snapshots) - length + 1))
    again, seconds = log.snapshots[first : first + length], log.seconds[first : first + length]
    log.snapshots[first + length : first + length] = again
    log.seconds[first + length : first + length] = seconds
    records = sum(log.records(snapshot) for snapshot in again)
    return _record(log, Fault.DUPLICATES, seconds[0], seconds[-1], length, records)


def _garble(log: Log, rng: np.random.Generator) -> FaultRecord:
    """Spoil one sensor row in each of some snapshots: a bad number, a row cut short, noise from the line."""
    count = min(BAD_LINES_PER_FILE, len(log.snapshots))
    chosen = sorted(int(index) for index in rng.choice(len(log.snapshots), size=count, replace=False))
    for number, index in enumerate(chosen):
        lines = log.snapshots[index].splitlines()
        numeric = [at for at in range(log.stamp_lines, len(lines)) if _value_at(lines[at]) is not None]
        at = numeric[int(rng.integers(len(numeric)))]
        lines[at] = _spoiled(lines[at], number % 3)
        log.snapshots[index] = "\n".join(lines) + "\n"
    return _record(log, Fault.BAD_LINES, log.seconds[chosen[0]], log.seconds[chosen[-1]], count, count)


def _value_at(line: str) -> tuple[int, int] | None:
    """Where the number of a sensor row stands: behind `| ` (ipmitool) or behind the labels (Prometheus)."""
    start = line.find("| ") + 2 if "| " in line else line.find("} ") + 2
    end = start
    while end < len(line) and (line[end].isdigit() or line[end] == "."):
        end += 1
    is_status = line[start:].startswith("0x")
    return None if end == start or is_status else (start, end)


def _spoiled(line: str, way: int) -> str:
    span = _value_at(line)
    assert span is not None, "only rows with a number are spoiled"
    start, end = span
    if way == 0:
        return f"{line[:start]}{line[start:end]}.{line[start:end]}.#{line[end:].lstrip('0123456789')}"
    if way == 1:
        return line[: max(4, line.find("|") - 8 if "|" in line else line.find("{") + 5)].rstrip()
    return "~~^?[[ 7f 00 e1 " + line[::-1][:12].replace("|", "/").strip()


def truncated(data: bytes) -> bytes:
    """A gzip stream that ends in the middle, as a copy does that broke off."""
    return data[: int(len(data) * KEPT_SHARE)]
