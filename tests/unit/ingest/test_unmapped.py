"""Sensors that no rule names: what is said of them, and that a proposed rule reads them."""

from __future__ import annotations

import pytest
import yaml

from lepton_etl.ingest.decoded import Origin
from lepton_etl.ingest.sensors import RuleTable, SensorRule
from lepton_etl.ingest.unmapped import Unmapped, merged, proposed, speaks_of_power, unmapped
from tests.decoding import settings_of

ORIGIN = Origin("site", "source", "file", "n1", "UTC")
TABLE = b"""Timestamp: 2025-06-03 00:00:02 UTC
Zork Power       | 310 Watts         | ok
Timestamp: 2025-06-03 00:05:02 UTC
Zork Power       | 290 Watts         | ok
PCH Temp         | 45 degrees C      | ok
SysBrd 12V       | 12.1 Volts        | ok
Power Cap Limit  | 500 Watts         | ok
Sys Power        | 300 Watts         | ok
"""
SAMPLES = b"""acme_host_power_watts{instance="a:1"} 400
acme_gpu_energy_joules_total{gpu="1"} 12345
foo_bytes 3
nvidia_smi_power_draw_instant_watts{uuid="b"} 300
kepler_container_joules_total{container_id="x"} 7
kepler_node_cpu_watts{zone="package"} 44
"""


def test_unit_and_range_come_from_the_file_and_mapped_sensors_are_left_out() -> None:
    found = {
        one.sensor: one for one in unmapped(lambda: [TABLE], ORIGIN, settings_of({"format": "ipmitool"}))
    }
    rule = "- {match: 'Zork Power', quantity: node_power, device: node, unit: W}"
    assert found == {
        "Zork Power": Unmapped("Zork Power", 2, "Watts", 290.0, 310.0, rule, "ipmitool"),
        "PCH Temp": Unmapped("PCH Temp", 1, "degrees C", 45.0, 45.0, None, "ipmitool"),
        "SysBrd 12V": Unmapped("SysBrd 12V", 1, format="ipmitool"),
        "Power Cap Limit": Unmapped("Power Cap Limit", 1, "Watts", 500.0, 500.0, None, "ipmitool"),
    }


@pytest.mark.parametrize("name", ["prometheus", "auto"])
def test_metrics_carry_their_unit_in_their_name(name: str) -> None:
    found = unmapped(lambda: [SAMPLES], ORIGIN, settings_of({"format": name}))
    assert [(one.sensor, one.unit, one.rule is not None) for one in found] == [
        ("acme_gpu_energy_joules_total", "J", True),
        ("acme_host_power_watts", "W", True),
        ("foo_bytes", None, False),
        ("kepler_container_joules_total", "J", False),
        ("nvidia_smi_power_draw_instant_watts", "W", True),
    ]
    assert [one.speaks_for_node for one in found] == [False, True, False, False, False]
    assert [one.is_power for one in found] == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("sensor", "unit", "quantity", "device"),
    [
        ("Zork Power", "W", "node_power", "node"),
        ("PSU3 Watts [in] (W+)", "W", "psu_input_power", "psu3"),
        ("PSU3 DC Draw", "W", "psu_output_power", "psu3"),
        ("CPU 1's draw", "W", "cpu_power", "cpu1"),
        ("acme_dram_joules_total", "J", "dram_energy", "dram"),
        ("HGX_GPU_4_Power", "W", "gpu_power", "gpu4"),
        ("Enclosure 2 Power", "W", "chassis_input_power", "chassis"),
        ("Ambient Front", "degF", "inlet_temperature", "node"),
        ("Fan 3B", "RPM", "fan_speed", "fan3"),
        ("GPU Utilisation", "percent", "gpu_utilisation", "node"),
    ],
)
def test_a_proposed_line_is_a_rule_that_reads_the_sensor(
    sensor: str, unit: str, quantity: str, device: str
) -> None:
    line = proposed(sensor, unit)
    assert line is not None
    (keys,) = yaml.safe_load(line)
    mapped = RuleTable(rules=(SensorRule.model_validate(keys),)).find(sensor, raw_unit=unit)
    assert mapped is not None
    assert (mapped.quantity, mapped.devices) == (quantity, (device,))
    assert mapped.statistic == ("counter" if quantity.endswith("_energy") else "instant")


def test_names_that_only_mention_power_are_no_power() -> None:
    power = ("Zork Power", "node_joules_total", "Total Watts")
    others = ("Power Cap", "Power Supply Status", "max_power_watts", "kepler_container_joules_total", "power_state",
              "node_rapl_uncore_joules_total")  # fmt: skip
    assert [name for name in (*power, *others) if speaks_of_power(name)] == list(power)


def test_texts_of_one_source_add_up() -> None:
    one, other = Unmapped("a", 2, "W", 1.0, 5.0, "r"), Unmapped("a", 3, "W", 0.5, 4.0, "r")
    assert merged([Unmapped("b", 1), one, Unmapped("a", 1), other]) == [
        Unmapped("a", 6, "W", 0.5, 5.0, "r"),
        Unmapped("b", 1),
    ]


def test_a_value_without_a_unit_is_not_taken_for_watts() -> None:
    """Of a document whose sensors carry no unit only the name can say one."""
    text = b'{"card0": {"Numa Node": "1", "Foo Graphics Power": "35.0", "MEC firmware version": "65"}}'
    found = {
        one.sensor: one.unit for one in unmapped(lambda: [text], ORIGIN, settings_of({"format": "rocm_smi"}))
    }
    assert found == {"Numa Node": None, "MEC firmware version": None, "Foo Graphics Power": "W"}
