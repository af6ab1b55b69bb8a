"""A night of nodes that no BMC measures: energy where it can be modelled, else what the operator has to add."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lepton_etl.cli.main import app
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from pipelines.engine import InlineEngine
from pipelines.nightly import Night, run_night

DAY = Days.of(date(2025, 6, 3))
MINUTES = [DAY.from_time + timedelta(minutes=minute) for minute in range(24 * 60 + 1)]
SETTINGS = """
site: {{site_id: here, timezone: UTC}}
lake: {{root: {root}/lake}}
fleet: {{inventory: {root}/inventory.csv}}
quality: {{docs: {root}/quality}}
sources:
  - {{name: kepler, format: prometheus, path: "{root}/landing/*.prom"}}
  - {{name: bmc, format: ipmitool, path: "{root}/landing/*.txt", node_id_from_path: "(?P<node_id>[^/]+)\\\\.txt"}}
"""
INVENTORY = """node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,\
valid_from,gpu_count,rest_power_w
kepler1,blue,,web,,,,,2025-01-01,0,100
kepler2,blue,,web,,,,,2025-01-01,,100
mate,green,,db,,,,,2025-01-01,0,
kin,green,,db,,,,,2025-01-01,0,
zork1,red,,zork,,,,,2025-01-01,0,
"""  # fmt: skip


def _rapl(node: str, at: datetime) -> Iterator[str]:
    """140 W of components, memory among them."""
    for zone, watts in (("package", 100), ("dram", 40)):
        yield f'kepler_node_cpu_watts{{zone="{zone}",instance="{node}"}} {watts} {_ms(at)}'


def _samples() -> Iterator[str]:
    """RAPL of three nodes; of a fourth RAPL and DCMI on the day before."""
    for at in MINUTES:
        for node in ("kepler1", "kepler2", "kin"):
            yield from _rapl(node, at)
    for at in (minute - timedelta(days=1) for minute in MINUTES[:121]):
        yield from _rapl("mate", at)
        yield f'ipmi_dcmi_power_consumption_watts{{instance="mate"}} 300 {_ms(at)}'


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kepler")
    (root / "landing").mkdir()
    (root / "config.yaml").write_text(SETTINGS.format(root=root), encoding="utf-8")
    (root / "inventory.csv").write_text(INVENTORY, encoding="utf-8")
    (root / "landing" / "all.prom").write_text("\n".join([*_samples(), ""]), encoding="utf-8")
    table = "Zork Power | {} Watts | ok\nPower Supply 1 | 0x01 | ok\nInlet Temp | 22 degrees C | ok\n"
    rows = "".join(
        f"Timestamp: {at:%Y-%m-%d %H:%M:%S} UTC\n" + table.format(300 + at.minute) for at in MINUTES[:60]
    )
    (root / "landing" / "zork1.txt").write_text(rows, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def settings(site: Path) -> Settings:
    return load(site / "config.yaml")


@pytest.fixture(scope="module")
def silver(settings: Settings) -> Night:
    before = Days.of(date(2025, 6, 2))
    assert run_night(InlineEngine(), settings, before, "bronze").exit_code == Exit.DONE
    assert run_night(InlineEngine(), settings, before, "silver").exit_code == Exit.DONE
    nights = {stage: run_night(InlineEngine(), settings, DAY, stage) for stage in ("silver", "gold")}
    assert {night.exit_code for night in nights.values()} == {Exit.DONE}
    return nights["silver"]


def test_the_modelled_node_has_energy_that_does_not_pose_as_measured(
    settings: Settings, silver: Night
) -> None:
    lake = Lake(settings.lake.root)
    hours = {(row["node_id"], row["hour_start"]): row for row in lake.read(NODE_HOUR, DAY).to_dicts()}
    row = hours["kepler1", datetime(2025, 6, 3, 12, tzinfo=UTC)]
    assert row["it_energy_kwh"] == row["it_energy_modelled_kwh"] == pytest.approx((100 + 1.14 * 140) / 1000)
    assert (row["it_energy_measured_kwh"], row["energy_basis"], row["energy_source"]) == (
        None, "modelled", "modelled_sum",
    )  # fmt: skip
    assert row["flags"] == ["modelled_stated"]
    assert row["it_energy_upper_kwh"] - row["it_energy_kwh"] > 0.08 * row["it_energy_kwh"]
    other = hours["kepler2", datetime(2025, 6, 3, 12, tzinfo=UTC)]
    assert (other["it_energy_kwh"], other["flags"]) == (None, ["unmodelled_gpu"])
    (blue,) = (row for row in lake.read(CLUSTER_DAY, DAY).to_dicts() if row["cluster_id"] == "blue")
    assert blue["it_energy_measured_kwh"] is None
    assert blue["it_energy_modelled_kwh"] == pytest.approx(24 * 0.2596)


def test_a_node_of_the_class_that_has_a_sensor_says_what_the_other_draws(
    settings: Settings, silver: Night
) -> None:
    rows = Lake(settings.lake.root).read(NODE_HOUR, DAY).filter(node_id="kin").to_dicts()
    assert {tuple(row["flags"]) for row in rows} == {("modelled_fitted",)}
    assert sum(row["it_energy_kwh"] for row in rows) == pytest.approx(24 * 0.3)
    assert rows[0]["it_energy_upper_kwh"] - rows[0]["it_energy_kwh"] == pytest.approx(1.645 * 0.03, rel=0.06)


def test_the_night_names_what_is_missing_and_the_line_to_add(silver: Night, site: Path) -> None:
    said = "\n".join(silver.notes)
    assert (
        "1 nodes log components and have no energy (unmodelled_gpu: gpu_count of the inventory is empty"
        in said
    )
    assert (
        f"1 nodes have no power, and no rule reads 'Zork Power' (300 .. 359 Watts in {site}/landing/zork1.txt)"
        in said
    )
    assert "Power Supply 1" not in said, "a discrete sensor is no power"
    assert (
        "add `- {match: 'Zork Power', quantity: node_power, device: node, unit: W}` to conf/sensors/ipmitool.yaml"
    ) in said
    assert "kepler1" not in said


def test_the_verb_lists_unmapped_sensors_with_unit_range_and_rule(site: Path) -> None:
    shown = CliRunner().invoke(app, ["sensors", "--config", str(site / "config.yaml")])
    assert shown.exit_code == 0, shown.output
    (line,) = (line for line in shown.stdout.splitlines() if "Zork Power" in line)
    assert line.split() == [
        "bmc", "Zork", "Power", "60", "Watts", "300", "..", "359", "-", "{match:", "'Zork", "Power',", "quantity:",
        "node_power,", "device:", "node,", "unit:", "W}",
    ]  # fmt: skip
