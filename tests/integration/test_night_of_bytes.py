"""A small night with counters of network ports: bytes of nodes, clusters and runs, and the network's energy."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import TRANSFER_HOUR
from lepton_etl.schema.fleet import TRANSFER_INTERVAL
from lepton_etl.schema.jobs import JOB_ENERGY
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night

DAY = Days.of(date(2025, 6, 3))
SETTINGS = """
site: {{site_id: here, timezone: UTC}}
lake: {{root: {root}/lake}}
fleet: {{inventory: {root}/inventory.csv}}
quality: {{docs: {root}/quality}}
energy: {{transfer_kwh_per_gbyte: {factor}}}
sources:
  - {{name: exporter, format: prometheus, path: "{root}/scrapes/*.prom",
      node_id_from_path: "(?P<node_id>[^/]+)\\\\.prom", sampling_period_s: 300}}
  - {{name: slurm, format: slurm, path: "{root}/sacct.txt"}}
"""
# Node -> cluster, kind, bytes a second received and sent by each of its ports; a port of the switch is no node's.
NODES: dict[str, tuple[str, str, float | None]] = {
    "n1": ("blue", "compute", 1e6),
    "n2": ("blue", "compute", 2e6),
    "n3": ("green", "compute", None),
    "sw": ("blue", "network", 5e6),
}
# Two runs share n2 for an hour; after it run 4 has the node alone, and run 5 a node whose ports nobody reads.
SACCT = """JobIDRaw|Cluster|Account|State|Submit|Start|End|NNodes|AllocCPUS|NodeList|Restarts
1|blue|phys|COMPLETED|2025-06-03T00:00:00|2025-06-03T01:01:00|2025-06-03T03:00:00|1|8|n1|0
2|blue|phys|COMPLETED|2025-06-03T00:00:00|2025-06-03T04:00:00|2025-06-03T05:00:00|1|4|n2|0
3|blue|chem|COMPLETED|2025-06-03T00:00:00|2025-06-03T04:00:00|2025-06-03T05:00:00|1|4|n2|0
4|blue|chem|COMPLETED|2025-06-03T00:00:00|2025-06-03T08:00:00|2025-06-03T09:00:00|1|4|n2|0
5|green|chem|COMPLETED|2025-06-03T00:00:00|2025-06-03T08:00:00|2025-06-03T09:00:00|1|4|n3|0
"""
FACTOR = 0.001


def scrapes(byte_per_s: float | None) -> str:
    """A day of one node at 100 W; its counters start anew at 06:05, and what lies upon the port repeats it."""
    lines = []
    for number in range(289):
        at_ms = int((DAY.from_time + timedelta(minutes=5 * number)).timestamp() * 1000)
        lines.append(f"ipmi_dcmi_power_consumption_watts 100 {at_ms}")
        count = 300.0 * (number if number < 73 else number - 73)
        for direction, part in (("receive", 1.0), ("transmit", 0.5)):
            for port in ("eno1", "bond0", "lo") if byte_per_s else ():
                total = count * part * (byte_per_s or 1)
                lines.append(f'node_network_{direction}_bytes_total{{device="{port}"}} {total} {at_ms}')
    return "\n".join([*lines, ""])


def night(root: Path, factor: str) -> Lake:
    (root / "config.yaml").write_text(SETTINGS.format(root=root, factor=factor), encoding="utf-8")
    for stage in ("bronze", "silver", "gold"):
        assert run_night(InlineEngine(), load(root / "config.yaml"), DAY, stage).exit_code == Exit.DONE
    return Lake(load(root / "config.yaml").lake.root)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "scrapes").mkdir()
    head = (
        "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,"
    )
    rows = [
        f"{name},{cluster},,web,500,50,,,2025-01-01,{kind},8" for name, (cluster, kind, _) in NODES.items()
    ]
    (folder / "inventory.csv").write_text("\n".join([f"{head}valid_from,node_kind,core_count", *rows, ""]))
    for name, (_, _, byte_per_s) in NODES.items():
        (folder / "scrapes" / f"{name}.prom").write_text(scrapes(byte_per_s), encoding="utf-8")
    (folder / "sacct.txt").write_text(SACCT)
    return folder


@pytest.fixture(scope="module")
def lake(root: Path) -> Lake:
    return night(root, str(FACTOR))


def hours_of(lake: Lake, cluster_id: str) -> dict[int, dict[str, Any]]:
    rows = lake.read(TRANSFER_HOUR, DAY).filter(pl.col("cluster_id") == cluster_id).sort("hour_start")
    return dict(enumerate(rows.to_dicts()))


def test_a_node_moves_what_its_physical_port_counted(lake: Lake) -> None:
    rows = lake.read(TRANSFER_INTERVAL, DAY).filter(pl.col("node_id") == "n1").sort("interval_start")
    # The step in which the counters start anew is of nobody.
    assert rows.height == 287 and rows["port_count"].unique().to_list() == [2]
    assert rows["received_byte"].to_list() == pytest.approx([3e8] * 287)
    assert rows["transmitted_byte"].to_list() == pytest.approx([1.5e8] * 287)


def test_a_cluster_has_the_bytes_of_its_nodes_and_no_switch(lake: Lake) -> None:
    hours = hours_of(lake, "blue")
    assert len(hours) == 24
    row = hours[3]
    assert (row["node_count"], row["transfer_node_count"], row["transfer_basis"]) == (2, 2, "measured")
    assert row["received_byte"] == pytest.approx(3.6e9 * 3)
    assert row["data_transferred_byte"] == pytest.approx(3.6e9 * 3 * 1.5)
    assert row["network_energy_by_bytes_kwh"] == pytest.approx(16.2 * FACTOR)
    assert (row["network_by_bytes_basis"], row["network_by_feed_basis"]) == ("stated", "shared")
    assert row["network_energy_by_feed_kwh"] is None
    # As seen: five minutes less.
    assert hours[6]["received_byte"] == pytest.approx(3.3e9 * 3)


def test_the_feed_of_the_site_stands_beside_once(lake: Lake) -> None:
    row = hours_of(lake, "_shared")[3]
    assert (row["network_energy_by_feed_kwh"], row["network_by_feed_basis"]) == (
        pytest.approx(0.1), "measured",
    )  # fmt: skip
    assert (row["node_count"], row["data_transferred_byte"], row["transfer_basis"]) == (0, None, "none")
    assert (row["network_energy_by_bytes_kwh"], row["network_by_bytes_basis"]) == (None, "no_bytes")


def test_bytes_that_nobody_counted_are_null_and_not_zero(lake: Lake) -> None:
    row = hours_of(lake, "green")[3]
    assert (row["node_count"], row["transfer_node_count"]) == (1, 0)
    assert (row["received_byte"], row["data_transferred_byte"], row["transfer_basis"]) == (None, None, "none")


def test_bytes_are_of_the_run_that_is_alone_on_its_nodes(lake: Lake) -> None:
    rows = lake.read(JOB_ENERGY, DAY).sort("job_id").select(
        "job_id", "data_transferred_byte", "transfer_energy_kwh", "transfer_basis"
    )  # fmt: skip
    alone, after = 1.5e6 * 119 * 60, 3e6 * 3600
    assert rows.rows() == [
        ("1", pytest.approx(alone), pytest.approx(alone / 1e9 * FACTOR), "alone"),
        ("2", None, None, "shared"), ("3", None, None, "shared"),
        ("4", pytest.approx(after), pytest.approx(after / 1e9 * FACTOR), "alone"),
        ("5", None, None, "no_counters"),
    ]  # fmt: skip


def test_without_a_factor_bytes_stand_and_their_energy_is_null(root: Path, lake: Lake) -> None:
    before = hours_of(lake, "blue")[3]["data_transferred_byte"]
    row = hours_of(night(root, "null"), "blue")[3]
    assert row["data_transferred_byte"] == before
    assert (row["network_energy_by_bytes_kwh"], row["network_by_bytes_basis"]) == (None, "no_factor")
