"""Every real output of nvidia-smi, read a second time in plain Python; counts are in nvidia_smi_counts.csv."""

import csv
import re
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_etl.ingest.decoded import Decoded
from tests.conftest import real_data
from tests.real.laid_down import PATH_TIME, LaidDown, plain

REAL = real_data()
CAPTURES = REAL / "nvidia-smi-captures"
DOCUMENTS = REAL / "telegraf-hw"
LAID_DOWN = LaidDown("nvidia_smi_counts.csv")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CAPTURES.is_dir(), reason="LEPTON_REAL_DATA has no nvidia-smi-captures"),
]

FACTOR = {"W": 1.0, "%": 0.01, "C": 1.0, "MHz": 1e6, "": 1.0}
FIELDS = {
    "power.draw": "gpu_power",
    "enforced.power.limit": "power_limit",
    "temperature.gpu": "gpu_temperature",
    "temperature.gpu.tlimit": "slowdown_margin",
    "temperature.memory": "gpu_memory_temperature",
    "utilization.gpu": "gpu_utilisation",
    "utilization.memory": "gpu_memory_utilisation",
    "clocks.current.sm": "clock",
    "fan.speed": "fan_duty",
}
DMON = {
    "pwr": "gpu_power", "gtemp": "gpu_temperature", "mtemp": "gpu_memory_temperature", "sm": "gpu_utilisation",
    "mem": "gpu_memory_utilisation", "pclk": "clock",
}  # fmt: skip
Expected = tuple[datetime, str, str, float]


def decoded(path: Path) -> tuple[str, Decoded]:
    """The text by the standard library, and what the decoder makes of it; counts as laid down."""
    return plain(path).decode("utf-8"), LAID_DOWN.decoded(path, {"format": "nvidia_smi"})


def readings(result: Decoded, kind: str) -> set[Expected]:
    """Time, device, quantity, value of the readings whose sensor name fits `kind`."""
    return {
        (r["reading_time"], r["device_id"], r["quantity"], round(r["value"], 9))
        for r in result.readings.to_pylist()
        if re.fullmatch(kind, r["sensor"])
    }


def expected(time: datetime, device: str, quantity: str, text: str, unit: str = "") -> set[Expected]:
    """One reading, or none where the text holds no number."""
    number, _, own = text.strip().partition(" ")
    if not number.replace(".", "", 1).isdigit():
        return set()
    return {(time, device, quantity, round(float(number) * FACTOR[own or unit], 9))}


def sections(text: str) -> dict[str, str]:
    """The outputs of a capture by title, such as `idle :: query (-q)`."""
    parts = re.split(r"^#{40,}\n((?:#.*\n)+)#{40,}\n", text, flags=re.MULTILINE)
    return {
        title.splitlines()[0].removeprefix("# "): body
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def section(parts: dict[str, str], state: str, what: str) -> str:
    return next(body for title, body in parts.items() if title.startswith(f"{state} :: {what}"))


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.txt.gz")), ids=lambda path: path.name.split("__")[1])
def test_queries_of_a_capture(path: Path) -> None:
    text, result = decoded(path)
    parts = sections(text)
    wanted: set[Expected] = set()
    for state in ("idle", "load"):
        rows = csv.reader(section(parts, state, "query-gpu").strip().splitlines(), skipinitialspace=True)
        header = next(rows)
        for row in rows:
            cells = {name.split(" [")[0]: cell for name, cell in zip(header, row, strict=True)}
            time = datetime.strptime(cells["timestamp"], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC)
            for name, quantity in FIELDS.items():
                wanted |= expected(time, "gpu" + cells["index"], quantity, cells[name])
    assert readings(result, "|".join(map(re.escape, FIELDS))) == wanted
    assert len(wanted) >= 12


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.txt.gz")), ids=lambda path: path.name.split("__")[1])
def test_documents_of_a_capture(path: Path) -> None:
    text, result = decoded(path)
    parts = sections(text)
    wanted: set[Expected] = set()

    def value(body: str, heading: str, name: str) -> str:
        found = re.search(
            rf"^ {{4}}{heading} *\n(?: {{8}}.*\n)*? {{8,12}}{name} +: (.*)", body, flags=re.MULTILINE
        )
        return found[1] if found else ""

    for state in ("idle", "load"):
        body = section(parts, state, "query (-q)")
        stamp = re.search(r"^Timestamp +: (.*)$", body, flags=re.MULTILINE)
        assert stamp is not None
        time = datetime.strptime(stamp[1], "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
        average = value(body, "GPU Power Readings", "Average Power Draw")
        instant = value(body, "GPU Power Readings", "Instantaneous Power Draw")
        fan = re.search(r"^ {4}Fan Speed +: (.*)$", body, flags=re.MULTILINE)
        assert fan is not None
        wanted |= expected(time, "gpu0", "gpu_power", instant if average == "N/A" else average)
        wanted |= expected(time, "gpu0", "fan_duty", fan[1])
        for quantity, heading, name in (
            ("power_limit", "GPU Power Readings", "Current Power Limit"),
            ("gpu_temperature", "Temperature", "GPU Current Temp"),
            ("gpu_memory_temperature", "Temperature", "Memory Current Temp"),
            ("slowdown_temperature", "Temperature", "GPU Slowdown Temp"),
            ("gpu_utilisation", "Utilization", "GPU"),
            ("gpu_memory_utilisation", "Utilization", "Memory"),
            ("clock", "Clocks", "SM"),
        ):
            wanted |= expected(time, "gpu0", quantity, value(body, heading, name))
    assert readings(result, "[A-Z].*") == wanted
    assert len(wanted) >= 12


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.txt.gz")), ids=lambda path: path.name.split("__")[1])
def test_monitor_of_a_capture(path: Path) -> None:
    """Its rows have no stamp: the first is of the file's time, the nine after it of no known one."""
    text, result = decoded(path)
    names, units, *rows = section(sections(text), "idle", "dmon").strip("\n").splitlines()
    unit_of = dict(zip(names.lstrip("#").split(), units.lstrip("#").split(), strict=True))
    first = dict(zip(unit_of, rows[0].split(), strict=True))
    wanted = set[Expected]().union(
        *(
            expected(PATH_TIME, "gpu0", quantity, first[name], unit_of[name])
            for name, quantity in DMON.items()
        )
    )
    assert readings(result, r"dmon\..*") == wanted
    assert len(wanted) >= 5
    assert result.rejects["reason"].to_pylist() == ["no_time"] * 9
    assert result.rejects["raw_text"].to_pylist()[:4] == rows[1:]


@pytest.mark.parametrize(
    ("name", "device"), [("a100-sxm4-v12", "gpu1"), ("rtx-3080-v13", "gpu0"), ("tesla-t4", "gpu0")]
)
def test_document_in_xml(name: str, device: str) -> None:
    """The A100 is one of four attached boards and says that it is minor number 1."""
    text, result = decoded(DOCUMENTS / f"nvidia_smi__{name}.xml")
    root = ElementTree.fromstring(text)  # noqa: S314 (a file of the test data)
    time = datetime.strptime(root.findtext("timestamp", ""), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    (board,) = root.findall("gpu")
    powers = "gpu_power_readings" if board.find("gpu_power_readings") is not None else "power_readings"
    limit = "current_power_limit" if powers.startswith("gpu") else "enforced_power_limit"
    drawn = "power_draw" if board.find(f"{powers}/power_draw") is not None else "average_power_draw"
    power = board.findtext(f"{powers}/{drawn}", "")
    wanted = expected(time, device, "gpu_power", power)
    for quantity, place in (
        ("power_limit", f"{powers}/{limit}"),
        ("gpu_temperature", "temperature/gpu_temp"),
        ("gpu_memory_temperature", "temperature/memory_temp"),
        ("slowdown_temperature", "temperature/gpu_temp_slow_threshold"),
        ("gpu_utilisation", "utilization/gpu_util"),
        ("gpu_memory_utilisation", "utilization/memory_util"),
        ("clock", "clocks/sm_clock"),
        ("fan_duty", "fan_speed"),
    ):
        wanted |= expected(time, device, quantity, board.findtext(place, ""))
    assert readings(result, ".*") == wanted
    leaves = sum(len(element) == 0 for element in board.iter())
    assert result.records == leaves


def test_every_real_file_is_laid_down() -> None:
    paths = [*CAPTURES.glob("*.txt.gz"), *DOCUMENTS.glob("nvidia_smi__*.xml")]
    assert {path.name for path in paths} == LAID_DOWN.files
