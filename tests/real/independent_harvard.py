"""Energy of the Harvard nodes by plain Python, from the raw text: no part of the library is used here.

The rules are those of docs/methodology.md, said again: instants are integrated by trapezoid between consecutive
readings at most 330 s apart; of the supplies' AC input and the BMC's total, a 300 s interval takes the supplies where
they cover at least nine tenths of what the BMC covers. Supplies count only at stamps where all of them answer.
"""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

STAMP = re.compile(r"^Timestamp: (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
ROW = re.compile(r"^(.+?)\s*\|\s*(-?\d+(?:\.\d+)?) Watts\s*\|")
MAX_GAP_S = 330.0
INTERVAL_S = 300
JOULES_PER_KWH = 3.6e6
COVER_RATIO = 0.9

Series = list[tuple[float, float]]


def readings(path: Path, sensors: tuple[str, ...]) -> dict[str, Series]:
    """Time (epoch seconds) and watts of each sensor; of a repeated stamp the first value holds."""
    found: dict[str, dict[float, float]] = {sensor: {} for sensor in sensors}
    now = None
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            stamp = STAMP.match(line)
            if stamp:
                now = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
                continue
            row = ROW.match(line)
            if row and now is not None and row[1].strip() in found:
                found[row[1].strip()].setdefault(now, float(row[2]))
    return {sensor: sorted(values.items()) for sensor, values in found.items()}


def added(parts: list[Series]) -> Series:
    """The sum of several sensors at the stamps where all of them answer."""
    by_stamp: dict[float, list[float]] = defaultdict(list)
    for part in parts:
        for time, watts in part:
            by_stamp[time].append(watts)
    return sorted((time, sum(watts)) for time, watts in by_stamp.items() if len(watts) == len(parts))


def intervals(series: Series) -> dict[int, tuple[float, float]]:
    """Interval start -> (joules, seconds) by trapezoid; a step that crosses a boundary is cut there."""
    sums: dict[int, tuple[float, float]] = {}
    for (start, first), (end, last) in pairwise(series):
        if end - start > MAX_GAP_S:
            continue
        time = start
        while time < end:
            interval = int(time // INTERVAL_S) * INTERVAL_S
            until = min(end, interval + INTERVAL_S)
            low = first + (last - first) * (time - start) / (end - start)
            high = first + (last - first) * (until - start) / (end - start)
            joules, seconds = sums.get(interval, (0.0, 0.0))
            sums[interval] = (joules + (low + high) / 2 * (until - time), seconds + until - time)
            time = until
    return sums


def node_hours(path: Path, supplies: tuple[str, ...], totals: tuple[str, ...]) -> dict[int, float]:
    """Hour start (epoch seconds) -> kWh of one node-day, by the best source of each interval."""
    raw = readings(path, supplies + totals)
    sources = []
    if supplies:
        sources.append(intervals(added([raw[name] for name in supplies])))
    sources += [intervals(raw[name]) for name in totals]
    hours: dict[int, float] = defaultdict(float)
    for interval in sorted({start for source in sources for start in source}):
        of = [source.get(interval, (0.0, 0.0)) for source in sources]
        most = max(seconds for _, seconds in of)
        joules = next(joules for joules, seconds in of if seconds >= COVER_RATIO * most)
        hours[interval // 3600 * 3600] += joules / JOULES_PER_KWH
    return dict(hours)
