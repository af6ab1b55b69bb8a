"""Which sensor is which quantity of which device: worked out before the clock starts and given to every contender."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lepton_etl.telemetry.sensors import RULES_FOLDER, load_rules

COLUMNS: Final = ("sensor", "logged_unit", "quantity", "device_id", "factor", "divisor", "offset")


def write_ipmitool(files: Iterable[Path], target: Path) -> None:
    """One line per distinct (sensor, unit) that a rule maps."""
    rules = load_rules(RULES_FOLDER / "ipmitool.yaml")
    seen: set[tuple[str, str]] = set()
    for file in files:
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            fields = [field.strip() for field in line.split("|")]
            if len(fields) == 3:
                seen.add((fields[0], fields[1].partition(" ")[2]))
    rows = []
    for sensor, unit in sorted(seen):
        mapped = rules.find(sensor)
        change = rules.convert(mapped.rule, unit) if mapped else None
        if mapped and change:
            rows.append((sensor, unit, mapped.quantity, mapped.devices[0], change.factor, change.divisor, change.offset))
    with target.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([COLUMNS, *rows])


def read(target: Path) -> list[dict[str, str]]:
    """The rows of `write_ipmitool`."""
    with target.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
