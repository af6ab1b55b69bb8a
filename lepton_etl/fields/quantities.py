"""What sensors measure, each with its canonical unit and the bounds of a possible value."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import Quantity


def _quantities() -> dict[str, Quantity]:
    node_w, rack_w, site_w = 50_000.0, 500_000.0, 2e9
    rows: list[Quantity] = []
    for stem, top in (
        ("outlet", rack_w), ("node_input", node_w), ("node", node_w), ("psu_input", node_w),
        ("psu_output", node_w), ("chassis_input", rack_w), ("cpu", 5_000.0), ("dram", 5_000.0),
        ("gpu", 5_000.0), ("fan", 5_000.0), ("facility", site_w), ("heat", site_w),
    ):  # fmt: skip
        rows.append(Quantity(f"{stem}_power", "watt", 0.0, top))
        rows.append(Quantity(f"{stem}_energy", "joule", 0.0, 1e18))
    for stem, low, top in (
        ("inlet", -20.0, 80.0), ("exhaust", -20.0, 120.0), ("cpu", -20.0, 150.0), ("gpu", -20.0, 150.0),
        ("gpu_memory", -20.0, 150.0), ("dimm", -20.0, 150.0), ("water_supply", -20.0, 100.0),
        ("water_return", -20.0, 120.0), ("outdoor_dry_bulb", -70.0, 65.0), ("outdoor_wet_bulb", -70.0, 50.0),
    ):  # fmt: skip
        rows.append(Quantity(f"{stem}_temperature", "degree_Celsius", low, top))
    for name in (
        "cpu_utilisation", "gpu_utilisation", "gpu_memory_utilisation", "fan_duty", "relative_humidity",
        "grid_estimated",
    ):  # fmt: skip
        rows.append(Quantity(name, "dimensionless", 0.0, 1.0))
    rows += [
        Quantity("fan_speed", "revolutions_per_minute", 0.0, 100_000.0),
        Quantity("clock", "hertz", 0.0, 2e10),
        Quantity("power_limit", "watt", 0.0, 50_000.0),
        Quantity("water_volume", "liter", 0.0, 1e12),
        Quantity("fuel_volume", "liter", 0.0, 1e12),
        Quantity("flow", "liter / second", 0.0, 1e6),
        Quantity("data_transferred", "byte", 0.0, 1e21),
        # A lignite plant emits some 1,200 g/kWh; a zone above 2,000 is a unit mistake.
        Quantity("grid_intensity", "gram / kilowatt_hour", 0.0, 2_000.0),
    ]
    return {row.name: row for row in rows}


QUANTITIES: Final = _quantities()
