"""The real rocm-smi document of four MI100, read a second time in plain Python."""

import json
from datetime import UTC, datetime

import pytest

from lepton_etl.ingest.decoded import Origin
from tests.conftest import real_data
from tests.decoding import decode, settings_of

REAL = real_data()
MI100 = REAL / "telegraf-hw" / "amd_rocm_smi__mi100_rocm602.json"
POLLED = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MI100.is_file(), reason="LEPTON_REAL_DATA has no telegraf-hw"),
]

# rocm-smi's name -> quantity, factor to the canonical unit.
QUANTITIES = {
    "Average Graphics Package Power (W)": ("gpu_power", 1.0),
    "Max Graphics Package Power (W)": ("power_limit", 1.0),
    "Temperature (Sensor junction) (C)": ("gpu_temperature", 1.0),
    "Temperature (Sensor memory) (C)": ("gpu_memory_temperature", 1.0),
    "GPU use (%)": ("gpu_utilisation", 0.01),
    "GPU memory use (%)": ("gpu_memory_utilisation", 0.01),
    "sclk clock speed:": ("clock", 1e6),
}


def test_four_mi100() -> None:
    result = decode(
        MI100.read_bytes(),
        Origin("site", "source", MI100.name, "node", "UTC", POLLED),
        settings_of({"format": "rocm_smi"}),
    )
    result.check()
    document = json.loads(MI100.read_text(encoding="utf-8"))
    cards = {name: card for name, card in document.items() if name != "system"}
    expected = {
        (name.replace("card", "gpu"), quantity, round(float(card[key].strip("()Mhz")) * factor, 9))
        for name, card in cards.items()
        for key, (quantity, factor) in QUANTITIES.items()
    }
    found = {(r["device_id"], r["quantity"], round(r["value"], 9)) for r in result.readings.to_pylist()}
    assert found == expected
    assert {r["reading_time"] for r in result.readings.to_pylist()} == {POLLED}
    assert len(expected) == result.readings.num_rows == 4 * len(QUANTITIES) == 28
    assert result.records == sum(len(card) for card in cards.values()) == 280
    assert (result.rejects.num_rows, result.duplicates, result.structure_lines) == (0, 0, 1)
    assert {reason for _, reason in result.ignored} == {"unmapped"}
