"""Every real file decodes as a plain Python reading of it says; the counts are laid down in decoder_counts.csv."""

import csv
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml

from lepton_etl.ingest.decoded import Decoded, Origin
from tests.conftest import real_data
from tests.decoding import decode, settings_of
from tests.real.laid_down import PATH_TIME, LaidDown, plain

HERE = Path(__file__).parent
REAL = real_data()
HARVARD = REAL / "harvard-ipmi-weather" / "ipmi"
BIOHPC = REAL / "biohpc-gpu-servers"
WEATHER = REAL / "harvard-ipmi-weather" / "weather"
ZONES = REAL / "grid-ci-electricitymaps"
NVIDIA = REAL / "nvidia-smi-captures"
LAID_DOWN = LaidDown("decoder_counts.csv")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not HARVARD.is_dir(), reason="LEPTON_REAL_DATA has no harvard-ipmi-weather"),
]

BIOHPC_SPEC = {
    "format": "delimited",
    "delimiter": "\t",
    "timezone": "America/New_York",
    "time": {"column": "timestamp", "format": "%Y-%m-%d %H:%M:%S%.f", "ambiguous": "merged"},
    "node_id": {"column": "name"},
    "device_id": {"value": "gpu"},
    "readings": [
        {"column": "powerave", "quantity": "gpu_power", "unit": "W", "statistic": "mean", "window_s": 3600,
         "multiplicity": 2},
        {"column": "tempave", "quantity": "gpu_temperature", "unit": "degC", "statistic": "mean", "window_s": 3600},
        {"column": "utilave", "quantity": "gpu_utilisation", "unit": "percent", "statistic": "mean",
         "window_s": 3600},
    ],
}  # fmt: skip

WEATHER_SPEC = {
    "format": "delimited",
    "timezone": "America/New_York",
    "time": {"column": "Time", "format": "%Y-%m-%d %H:%M"},
    "device_id": {"value": "weather"},
    "readings": [
        {"column": "Temp (°C)", "quantity": "outdoor_dry_bulb_temperature", "unit": "degC"},
        {"column": "Humidity (%)", "quantity": "relative_humidity", "unit": "percent"},
    ],
}

# Names of the 25 layouts that speak W, degC, RPM or percent and have no quantity of their own.
NO_QUANTITY = {"Mid Board Temp", "Rear Board Temp"}
MEASURED_UNITS = {"Watts", "degrees C", "RPM", "percent"}


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def decoded(path: Path, settings: dict[str, Any], node_id: str | None = "node") -> tuple[str, Decoded]:
    """The text by the standard library, and what the decoder makes of it; counts as laid down."""
    return plain(path).decode("utf-8-sig"), LAID_DOWN.decoded(path, settings, node_id)


@pytest.mark.parametrize("name", files(HARVARD, "*.txt.gz"))
def test_harvard_node_day(name: str) -> None:
    text, result = decoded(HARVARD / name, {"format": "ipmitool"})
    stamp, expected, tables, stamps, blanks = None, Counter[tuple[str, datetime, float, int]](), 0, 0, 0
    for position, line in enumerate(text.splitlines(), start=1):
        if line.startswith("Timestamp: "):
            stamp = datetime.strptime(line, "Timestamp: %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
            stamps += 1
        elif not line.strip():
            blanks += 1
        else:
            tables += 1
            sensor, reading, _status = (part.strip() for part in line.split("|"))
            number, _, unit = reading.partition(" ")
            # 0 W out beside 30 W in: a supply that does not measure what it gives.
            not_measured = sensor.endswith("DC Out Pwr") and number == "0"
            usable = unit in MEASURED_UNITS and sensor not in NO_QUANTITY and not not_measured
            if usable or (sensor == "CPU Utilization" and unit == "unspecified"):
                assert stamp is not None
                expected[(sensor, stamp, float(number), position)] += 1
    readings = result.readings.to_pylist()
    found = Counter(
        (r["sensor"], r["reading_time"], float(r["raw_value"]), r["source_position"]) for r in readings
    )
    assert found == expected
    assert result.records == tables
    assert result.structure_lines == stamps + blanks
    for reading in readings:
        share = 100 if reading["raw_unit"] in ("percent", "unspecified") else 1
        assert reading["value"] == float(reading["raw_value"]) / share


def test_harvard_sensors_mean_what_the_table_says() -> None:
    meaning = set()
    for name in files(HARVARD, "*.txt.gz"):
        result = decode(
            plain(HARVARD / name),
            Origin("site", "source", name, "node", "UTC"),
            settings_of({"format": "ipmitool"}),
        )
        columns = (result.readings[column].to_pylist() for column in ("sensor", "quantity", "device_id"))
        meaning |= set(zip(*columns, strict=True))
    laid_down = yaml.safe_load((HERE / "harvard_sensors.yaml").read_text(encoding="utf-8"))
    assert {sensor: f"{quantity} {device}" for sensor, quantity, device in sorted(meaning)} == laid_down


@pytest.mark.parametrize("name", files(BIOHPC, "*.txt.gz"))
def test_biohpc_server(name: str) -> None:
    text, result = decoded(BIOHPC / name, BIOHPC_SPEC, node_id=None)
    zone = ZoneInfo("America/New_York")
    table = [line for line in text.splitlines() if "\t" in line]
    expected = {}
    for row in csv.DictReader(table, delimiter="\t"):
        local = datetime.strptime(row["timestamp"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=zone)
        first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        window_s = 7200.0 if second - first == timedelta(hours=1) else 3600.0
        for column, share in (("powerave", 1), ("tempave", 1), ("utilave", 100)):
            expected[(row["name"], column, first)] = (float(row[column]) / share, window_s, row[column])
    assert len(expected) == 3 * (len(table) - 1)
    found = {
        (r["node_id"], r["sensor"], r["reading_time"]): (r["value"], r["window_s"], r["raw_value"])
        for r in result.readings.to_pylist()
    }
    assert found == expected
    merged_hours = {time.date() for (_, _, time), (_, window_s, _) in found.items() if window_s == 7200.0}
    assert len(merged_hours) >= 1
    assert all(day.month == 11 for day in merged_hours)


@pytest.mark.parametrize("name", files(WEATHER, "*.txt"))
def test_harvard_weather_day(name: str) -> None:
    """Cut last lines and a day in prose (06-02) are rejects, nothing else is."""
    text, result = decoded(WEATHER / name, WEATHER_SPEC, node_id=None)
    header, *rows = csv.reader(text.splitlines())
    whole = [row for row in rows if len(row) == len(header)]
    expected = {
        (
            sensor,
            datetime.strptime(row[0], "%Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo("America/New_York")),
            value,
        )
        for row in whole
        for sensor, value in (("Temp (°C)", float(row[1])), ("Humidity (%)", float(row[3]) / 100))
    }
    found = {(r["sensor"], r["reading_time"], r["value"]) for r in result.readings.to_pylist()}
    if "Time" in header:
        assert found == expected
        assert result.rejects["reason"].to_pylist() == ["bad_line"] * (len(rows) - len(whole))
    else:
        assert result.rejects["reason"].to_pylist() == ["missing_column"]
        assert not found


@pytest.mark.parametrize("name", files(ZONES, "*.csv.gz"))
def test_electricitymaps_year(name: str) -> None:
    text, result = decoded(ZONES / name, {"format": "electricitymaps"})
    rows = list(csv.reader(text.splitlines()))
    expected = {}
    for time, _, _, zone, direct, lifecycle, _, _, _, estimated, _ in rows[1:]:
        start = datetime.fromisoformat(time).replace(tzinfo=UTC)
        for key, cell in (("direct", direct), ("lifecycle", lifecycle)):
            if cell not in ("", "NaN", "nan"):
                expected[(zone, start, "grid_intensity", key)] = float(cell)
        expected[(zone, start, "grid_estimated", None)] = {"true": 1.0, "false": 0.0}[estimated]
    found = {
        (r["device_id"], r["reading_time"], r["quantity"], r["point"]): r["value"]
        for r in result.readings.to_pylist()
    }
    assert found == expected
    assert set(result.readings["node_id"].to_pylist()) == {None}
    assert set(result.readings["window_s"].to_pylist()) == {3600.0}


@pytest.mark.parametrize("name", files(NVIDIA, "*.metrics.gz"))
def test_nvidia_exporter_scrape(name: str) -> None:
    text, result = decoded(NVIDIA / name, {"format": "prometheus"})
    samples = dict(re.findall(r'^(\w+)(?:\{uuid="[^"]*"\})? (\S+)$', text, flags=re.MULTILINE))
    quantities = {
        "nvidia_smi_power_draw_watts": "gpu_power",
        "nvidia_smi_temperature_gpu": "gpu_temperature",
        "nvidia_smi_temperature_gpu_tlimit": "slowdown_margin",
        "nvidia_smi_temperature_memory": "gpu_memory_temperature",
        "nvidia_smi_utilization_gpu_ratio": "gpu_utilisation",
        "nvidia_smi_utilization_memory_ratio": "gpu_memory_utilisation",
        "nvidia_smi_clocks_current_sm_clock_hz": "clock",
        "nvidia_smi_enforced_power_limit_watts": "power_limit",
        "nvidia_smi_fan_speed_ratio": "fan_duty",
    }
    assert {
        (r["sensor"], r["quantity"], r["value"], r["device_id"], r["node_id"], r["reading_time"])
        for r in result.readings.to_pylist()
    } == {
        (metric, quantity, float(samples[metric]), "gpu0", "node", PATH_TIME)
        for metric, quantity in quantities.items()
        if metric in samples
    }
    assert result.records == sum(1 for line in text.splitlines() if line and not line.startswith("#"))
