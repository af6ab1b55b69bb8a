"""Which sensor is which quantity of which device: worked out before the clock starts and given to every contender."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lepton_etl.ingest.sensors import RULES_FOLDER, load_rules

COLUMNS: Final = (
    "sensor",
    "logged_unit",
    "quantity",
    "device_id",
    "factor",
    "divisor",
    "offset",
    "not_measured",
)


def write(kind: str, files: Iterable[Path], target: Path) -> None:
    """One line per distinct (sensor, unit) that a rule maps; nothing for kinds that need no rules."""
    if kind not in ("ipmitool", "prometheus"):
        return
    rules = load_rules(RULES_FOLDER / f"{kind}.yaml")
    rows = []
    for sensor, unit in sorted({pair for file in files for pair in _named(kind, file)}):
        mapped = rules.find(sensor)
        if mapped is None:
            continue
        change = rules.convert(mapped.rule, unit or rules.rules[mapped.rule].unit[0])
        if change:
            scale = (change.factor, change.divisor, change.offset)
            # The number by which the sensor says that it measures nothing: no reading. No rule here knows two.
            (blank,) = rules.rules[mapped.rule].not_measured or ("",)
            rows.append((sensor, unit, mapped.quantity, mapped.devices[0], *scale, blank))
    with target.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([COLUMNS, *rows])


def _named(kind: str, file: Path) -> set[tuple[str, str]]:
    """(sensor, unit as logged) of one file."""
    if kind == "prometheus":
        return {
            (line.partition("{")[0], "") for line in file.read_text().splitlines() if not line.startswith("#")
        }
    found = set()
    for line in gzip.decompress(file.read_bytes()).decode().splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3:
            found.add((fields[0], fields[1].partition(" ")[2]))
    return found


def read(target: Path) -> list[dict[str, str]]:
    """The lines of `write`."""
    with target.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))
