"""Real tables of other people's tools, by settings alone: wide ones, epochs, seconds of a day, power of two scopes.

Each file is read a second time by the csv module and every value compared.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from lepton_etl.ingest.decoded import Origin
from tests.conftest import real_data
from tests.decoding import decode, read_bytes, settings_of

REAL = real_data()
MIDNIGHT = datetime(2024, 4, 7, tzinfo=UTC)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (REAL / "kepler-node-power").is_dir(), reason="LEPTON_REAL_DATA has no kepler-node-power"
    ),
]


@dataclass(frozen=True)
class Source:
    """How a family of files is mapped, and what its rows mean in plain Python."""

    time: dict[str, str]
    columns: dict[str, tuple[str, str, str]]
    """column -> (quantity, unit, device)"""
    to_canonical: Callable[[str, float], float]
    instant: Callable[[str], datetime]
    no_value: tuple[str, ...] = ("",)

    def spec(self) -> dict[str, Any]:
        return {
            "format": "delimited",
            "time": self.time,
            "no_value": self.no_value,
            "readings": [
                {"column": column, "quantity": quantity, "unit": unit, "device": device}
                for column, (quantity, unit, device) in self.columns.items()
            ],
        }


def of_epoch(text: str) -> datetime:
    return datetime.fromtimestamp(float(text), UTC)


def as_logged(_: str, number: float) -> float:
    return number


KEPLER_RAPL = Source(
    time={"column": "timestamp", "epoch": "s"},
    columns={"package_power": ("cpu_power", "W", "cpu"), "dram_power": ("dram_power", "W", "dram")},
    to_canonical=as_logged,
    instant=of_epoch,
)
KEPLER_ACPI = Source(
    time={"column": "timestamp", "epoch": "s"},
    columns={"platform_power": ("node_power", "W", "node")},
    to_canonical=as_logged,
    instant=of_epoch,
)
# Its rapl_power is shifted by a row (SOURCE.md), so power is not mapped.
CODECARBON = Source(
    time={"column": "timestamp", "epoch": "s"},
    columns={
        "cpu_load": ("cpu_utilisation", "percent", "cpu"),
        "temperature": ("cpu_temperature", "degC", "cpu"),
        "cpu_freq": ("clock", "MHz", "cpu"),
    },
    to_canonical=lambda column, number: {"cpu_load": number / 100, "cpu_freq": number * 1e6}.get(
        column, number
    ),
    instant=of_epoch,
    no_value=("", "0"),
)
FRONTIER = Source(
    time={"column": "time", "elapsed": "s"},
    columns={
        **{f"power[{loop}]": ("heat_power", "W", f"loop{loop}") for loop in range(1, 26)},
        "OA Wetbulb Temp": ("outdoor_wet_bulb_temperature", "degC", "weather"),
    },
    to_canonical=as_logged,
    instant=lambda text: MIDNIGHT + timedelta(seconds=float(text)),
)
FILES = [
    ("kepler-node-power/nx12_preprocess_abs_default_rapl_Basic.csv.gz", KEPLER_RAPL, 2202),
    ("kepler-node-power/nx12_preprocess_abs_default_acpi_Basic.csv.gz", KEPLER_ACPI, 2202),
    ("frontier-cdu-power/input_04-07-24_first16h.csv.gz", FRONTIER, 3840),
    *(
        (f"codecarbon-load-profiles/{name}__{cores}_cores.csv", CODECARBON, rows)
        for name, cores, rows in (
            ("AMD_Threadripper", "all", 11), ("AMD_Threadripper", "some", 11), ("E3-1240", "all", 11),
            ("E3-1240", "some", 9), ("E5-2620", "all", 11), ("E5-2620", "some", 11),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "source", "rows"), FILES, ids=[name for name, _, _ in FILES])
def test_every_cell_is_the_csv_modules(name: str, source: Source, rows: int) -> None:
    path = REAL / name
    data = read_bytes(path.read_bytes(), path.name)
    assert isinstance(data, bytes)
    result = decode(
        data, Origin("site", "source", path.name, "n1", "UTC", MIDNIGHT), settings_of(source.spec())
    )
    result.check()
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    table = list(csv.DictReader(text.decode().splitlines()))
    assert len(table) == rows
    expected = {
        (column, position): (
            source.to_canonical(column, float(row[column])),
            source.instant(row[source.time["column"]]),
        )
        for position, row in enumerate(table, start=2)
        for column in source.columns
        if row[column].lower() not in source.no_value
    }
    found = {(r["sensor"], r["source_position"]): r for r in result.readings.to_pylist()}
    assert result.rejects.num_rows == 0
    assert result.duplicates == 0
    assert found.keys() == expected.keys()
    for key, (value, instant) in expected.items():
        assert math.isclose(found[key]["value"], value, rel_tol=1e-12), key
        assert abs(found[key]["reading_time"] - instant) <= timedelta(microseconds=1), key
        quantity, unit, device = source.columns[key[0]]
        assert (found[key]["quantity"], found[key]["raw_unit"], found[key]["device_id"]) == (
            quantity,
            unit,
            device,
        )
    unmapped = sum(count for (_, reason), count in result.ignored.items() if reason == "unmapped")
    others = [name for name in table[0] if name not in source.columns and name != source.time["column"]]
    assert unmapped == sum(row[name] != "" for row in table for name in others)


def test_frontier_adds_up_to_its_published_energy() -> None:
    """SOURCE.md: the trapezoid over the sum of the loops is 249.452 MWh."""
    path = REAL / "frontier-cdu-power" / "input_04-07-24_first16h.csv.gz"
    data = read_bytes(path.read_bytes(), path.name)
    assert isinstance(data, bytes)
    result = decode(
        data, Origin("site", "source", path.name, None, "UTC", MIDNIGHT), settings_of(FRONTIER.spec())
    )
    total: dict[datetime, float] = {}
    for reading in result.readings.to_pylist():
        if reading["quantity"] == "heat_power":
            total[reading["reading_time"]] = total.get(reading["reading_time"], 0.0) + reading["value"]
    points = sorted(total.items())
    joules = sum(
        (later - earlier).total_seconds() * (low + high) / 2
        for (earlier, low), (later, high) in pairwise(points)
    )
    assert joules / 3.6e9 == pytest.approx(249.452, abs=5e-4)
