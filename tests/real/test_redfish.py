"""Every real Redfish resource, read a second time in plain Python; counts are laid down in redfish_counts.csv."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lepton_etl.ingest.decoded import Decoded
from lepton_etl.schema.common import STATE_CODES
from tests.conftest import real_data
from tests.real.laid_down import PATH_TIME, LaidDown, plain

REAL = real_data()
MOCKUP = REAL / "dmtf-redfish-mockup"
DELL = REAL / "telegraf-hw"
LAID_DOWN = LaidDown("redfish_counts.csv")
KWH = 3.6e6

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MOCKUP.is_dir(), reason="LEPTON_REAL_DATA has no dmtf-redfish-mockup"),
]

# Id of a sensor of the mock-up -> device, quantity, factor to the canonical unit.
SENSORS = {
    "TotalPower": ("node", "node_power", 1.0),
    "TotalEnergy": ("node", "node_energy", KWH),
    "PS1Energy": ("psu1", "psu_input_energy", KWH),
    "PS1InputPower": ("psu1", "psu_input_power", 1.0),
    "CPU1Power": ("cpu1", "cpu_power", 1.0),
    "CPUTemp1": ("cpu1", "cpu_temperature", 1.0),
    "DIMM1Temp": ("dimm1", "dimm_temperature", 1.0),
    "DIMM2Temp": ("dimm2", "dimm_temperature", 1.0),
    "DIMM3Temp": ("dimm3", "dimm_temperature", 1.0),
    "IntakeTemp": ("node", "inlet_temperature", 1.0),
    "ExhaustTemp": ("node", "exhaust_temperature", 1.0),
    "CPUFan1": ("cpu1_fan", "fan_duty", 0.01),
    "CPUFan2": ("cpu2_fan", "fan_duty", 0.01),
    "FanBay1": ("fan1", "fan_duty", 0.01),
    "FanBay2": ("fan2", "fan_duty", 0.01),
}
Expected = tuple[str, str, str, float]


def decoded(path: Path) -> tuple[Any, Decoded]:
    """The document by the standard library, and what the decoder makes of it; counts as laid down."""
    return json.loads(plain(path)), LAID_DOWN.decoded(path, {"format": "redfish"})


def readings(result: Decoded) -> list[Any]:
    return sorted(
        (r["device_id"], r["quantity"], r["statistic"], pytest.approx(r["value"]))
        for r in result.readings.to_pylist()
    )


def power_of(document: Any) -> Iterator[Expected]:
    """What a Power resource of one box says, its supplies named PS<n> or by their order."""
    for control in document["PowerControl"]:
        yield ("node", "node_power", "instant", control["PowerConsumedWatts"])
        yield ("node", "node_power", "mean", control["PowerMetrics"]["AverageConsumedWatts"])
        yield ("node", "node_power", "min", control["PowerMetrics"]["MinConsumedWatts"])
        yield ("node", "node_power", "max", control["PowerMetrics"]["MaxConsumedWatts"])
        yield ("node", "power_limit", "instant", control["PowerLimit"]["LimitInWatts"])
    for number, supply in enumerate(document["PowerSupplies"], start=1):
        output_w = supply.get("PowerOutputWatts", supply["LastPowerOutputWatts"])
        yield (f"psu{number}", "psu_output_power", "instant", output_w)


@pytest.mark.parametrize("path", sorted(MOCKUP.glob("*__Sensors__*.json")), ids=lambda path: path.stem[22:])
def test_sensor_of_the_mockup(path: Path) -> None:
    document, result = decoded(path)
    known = SENSORS.get(document["Id"])
    if known is None or "Reading" not in document:
        assert result.readings.num_rows == 0
        return
    device, quantity, factor = known
    (reading,) = result.readings.to_pylist()
    assert (reading["device_id"], reading["quantity"]) == (device, quantity)
    assert reading["value"] == pytest.approx(document["Reading"] * factor)
    assert reading["statistic"] == ("counter" if quantity.endswith("_energy") else "instant")
    stamp = document.get("ReadingTime")
    assert reading["reading_time"] == (datetime.fromisoformat(stamp) if stamp else PATH_TIME)


@pytest.mark.parametrize(
    "path", [MOCKUP / "Chassis__1U__Power.json", DELL / "redfish__dell__dell_power.json"], ids=str
)
def test_power(path: Path) -> None:
    document, result = decoded(path)
    assert readings(result) == sorted(power_of(document))
    windows = {r["window_s"] for r in result.readings.to_pylist() if r["statistic"] != "instant"}
    assert windows == {60.0 * document["PowerControl"][0]["PowerMetrics"]["IntervalInMin"]}


def test_an_input_of_900_w_on_a_supply_of_750_w_is_refused() -> None:
    _, result = decoded(DELL / "redfish__dell__dell_power.json")
    (reject,) = result.rejects.to_pylist()
    assert (reject["sensor"], reject["reason"]) == (
        "PowerSupplies.PowerInputWatts PS1 Status",
        "out_of_rating",
    )


def test_dell_thermal() -> None:
    document, result = decoded(DELL / "redfish__dell__dell_thermal.json")
    fans = [(fan["Name"].removeprefix("System Board ").lower(), fan["Reading"]) for fan in document["Fans"]]
    expected = [(device, "fan_speed", "instant", rpm) for device, rpm in fans]
    celsius = document["Temperatures"][0]["ReadingCelsius"]
    assert readings(result) == sorted([*expected, ("cpu1", "cpu_temperature", "instant", celsius)])
    assert len(fans) == 16


def test_a_resource_without_a_sensor_is_structure() -> None:
    _, result = decoded(DELL / "redfish__dell__dell_chassis.json")
    assert (result.records, result.structure_lines) == (0, 1)


def test_a_system_says_whether_it_is_on() -> None:
    document, result = decoded(DELL / "redfish__dell__dell_systems.json")
    assert document["PowerState"] == "On"
    assert readings(result) == [("node", "power_state", "instant", STATE_CODES["on"])]


def test_thermal_of_the_mockup() -> None:
    document, result = decoded(MOCKUP / "Chassis__1U__Thermal.json")
    cpu, _, intake = (entry.get("ReadingCelsius") for entry in document["Temperatures"])
    first, second = (fan["Reading"] for fan in document["Fans"])
    assert readings(result) == sorted(
        [
            ("cpu1", "cpu_temperature", "instant", cpu),
            ("node", "inlet_temperature", "instant", intake),
            ("fan1", "fan_speed", "instant", first),
            ("fan2", "fan_speed", "instant", second),
        ]
    )
    assert result.ignored == {("Temperatures.ReadingCelsius CPU2 Temp", "no_value"): 1}


def test_metrics_of_the_mockup() -> None:
    document, result = decoded(MOCKUP / "Chassis__1U__EnvironmentMetrics.json")
    fans = document["FanSpeedsPercent"]
    assert readings(result) == sorted(
        [
            ("node", "node_power", "instant", document["PowerWatts"]["Reading"]),
            ("node", "power_limit", "instant", document["PowerLimitWatts"]["SetPoint"]),
            *((f"fan{n}", "fan_duty", "instant", fan["Reading"] / 100) for n, fan in enumerate(fans, 1)),
            *((f"fan{n}", "fan_speed", "instant", fan["SpeedRPM"]) for n, fan in enumerate(fans, 1)),
        ]
    )
    document, result = decoded(MOCKUP / "Chassis__1U__ThermalSubsystem__ThermalMetrics.json")
    summary = document["TemperatureSummaryCelsius"]
    assert readings(result) == [
        ("node", "exhaust_temperature", "instant", summary["Exhaust"]["Reading"]),
        ("node", "inlet_temperature", "instant", summary["Intake"]["Reading"]),
    ]
    document, result = decoded(MOCKUP / "Chassis__1U__PowerSubsystem__PowerSupplies__Bay1__Metrics.json")
    assert readings(result) == sorted(
        [
            ("psu1", "psu_input_power", "instant", document["InputPowerWatts"]["Reading"]),
            ("psu1", "psu_output_power", "instant", document["OutputPowerWatts"]["Reading"]),
            ("psu1", "psu_input_energy", "counter", document["EnergykWh"]["Reading"] * KWH),
            ("psu1_fan", "fan_duty", "instant", document["FanSpeedPercent"]["Reading"] / 100),
            ("psu1_fan", "fan_speed", "instant", document["FanSpeedPercent"]["SpeedRPM"]),
        ]
    )


def test_a_collection_of_links_is_structure() -> None:
    document, result = decoded(MOCKUP / "Chassis__1U__Sensors.json")
    assert len(document["Members"]) == 41
    assert (result.records, result.structure_lines) == (0, 1)


def test_every_real_file_is_laid_down() -> None:
    paths = [*MOCKUP.glob("*.json"), *DELL.glob("redfish__*.json")]
    assert {path.name for path in paths} == LAID_DOWN.files
