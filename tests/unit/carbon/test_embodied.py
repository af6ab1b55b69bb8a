"""Embodied carbon of nodes: inventory, archetype, and what is booked when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from lepton_etl.carbon.embodied import SECONDS_PER_YEAR, service_lives
from lepton_etl.registers.factors import load_factors
from lepton_etl.schema.fleet import NODE
from lepton_etl.schema.types import arrow_schema


def lives_of(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    filled = [{"site_id": "s", "cluster_id": "c", **row} for row in rows]
    nodes = pa.Table.from_pylist(filled, schema=arrow_schema(NODE))
    return {row["node_id"]: row for row in service_lives(pl.DataFrame(nodes), load_factors()).to_dicts()}


def on(year: int, month: int = 1) -> datetime:
    return datetime(year, month, 1, tzinfo=UTC)


def test_gpus_are_counted_in_an_archetype() -> None:
    """boaviztapi#527 left out GPU count and GPU mass."""
    found = lives_of(
        {"node_id": "cpu", "gpu_count": 0, "valid_from": on(2024)},
        {"node_id": "gpu8", "gpu_count": 8, "valid_from": on(2024)},
    )
    assert found["cpu"]["embodied_te_kgco2e"] == 1000
    assert found["gpu8"]["embodied_te_kgco2e"] == 1000 + 8 * 150
    assert found["gpu8"]["embodied_basis"] == "archetype"
    assert found["gpu8"]["life_s"] == 4 * SECONDS_PER_YEAR


def test_further_cpus_memory_and_disks_count_in_an_archetype() -> None:
    """Masses of Cloud Carbon Footprint: 100 kg a CPU, SSD, 50 kg an HDD, 533 kg for 384 GB."""
    counted = {
        "gpu_count": 0,
        "cpu_socket_count": 2,
        "memory_total_byte": 400 * 2.0**30,
        "ssd_count": 2,
        "hdd_count": 4,
    }
    found = lives_of(
        {"node_id": "full", "valid_from": on(2024), **counted},
        {
            "node_id": "small",
            "gpu_count": 0,
            "cpu_socket_count": 1,
            "memory_total_byte": 2.0**30,
            "valid_from": on(2024),
        },
    )
    assert found["full"]["embodied_te_kgco2e"] == pytest.approx(1000 + 100 + 533 + 200 + 200, abs=0.01)
    assert found["small"]["embodied_te_kgco2e"] == 1000


def test_an_unknown_count_of_gpus_leaves_the_mass_unknown() -> None:
    found = lives_of({"node_id": "n", "gpu_count": None, "valid_from": on(2024)})["n"]
    assert (found["embodied_te_kgco2e"], found["embodied_basis"]) == (None, "none")


def test_the_inventory_wins_and_a_move_is_no_retirement() -> None:
    row = {"node_id": "n", "embodied_kgco2e": 1800.0, "lifetime_years": 6.0, "gpu_count": 4}
    found = lives_of(
        {**row, "valid_from": on(2023), "valid_to": on(2024, 7)},
        {**row, "cluster_id": "other", "valid_from": on(2024, 7), "valid_to": None},
    )["n"]
    assert found["embodied_te_kgco2e"] == 1800
    assert found["embodied_basis"] == "inventory"
    assert found["in_service_from"] == on(2023)
    assert found["retired_at"] is None
    assert found["life_s"] == pytest.approx(6 * SECONDS_PER_YEAR)


def test_a_life_that_nobody_states_is_said() -> None:
    found = lives_of({"node_id": "n", "embodied_kgco2e": 1800.0, "gpu_count": 4, "valid_from": on(2024)})["n"]
    assert (found["life_s"], found["embodied_basis"]) == (4 * SECONDS_PER_YEAR, "default_life")


def test_an_empty_inventory_has_no_lives() -> None:
    assert service_lives(pl.DataFrame(arrow_schema(NODE).empty_table()), load_factors()).is_empty()
