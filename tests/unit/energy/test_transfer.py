"""Bytes of a cluster-hour: how many of its nodes must be known, and what one that is off adds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from lepton_etl.energy.transfer import transfer_hours, transfer_parts
from lepton_etl.schema.energy import NODE_HOUR
from lepton_etl.schema.fleet import TRANSFER_INTERVAL
from lepton_etl.schema.ledger import ENERGY_LEDGER
from tests.integration.laying import rows_of

HOUR = datetime(2025, 6, 3, tzinfo=UTC)
LIMIT = 0.9


def hour_of(seen_s: dict[str, float | None], off_s: float | None = None) -> dict[str, Any]:
    """The row of a cluster whose nodes received a byte a second while their ports were seen."""
    nodes = [
        {"site_id": "here", "cluster_id": "blue", "node_id": name, "hour_start": HOUR, "off_s": off_s}
        for name in seen_s
    ]
    moved = [
        {
            "site_id": "here", "node_id": name, "interval_start": HOUR, "interval_s": 3600, "received_byte": seconds,
            "transmitted_byte": 0.0, "observed_s": seconds,
        }
        for name, seconds in seen_s.items() if seconds is not None
    ]  # fmt: skip
    parts = transfer_parts(rows_of(NODE_HOUR, nodes), rows_of(TRANSFER_INTERVAL, moved), LIMIT)
    rows = transfer_hours(pl.concat([parts, parts.clear()]), rows_of(ENERGY_LEDGER, []), LIMIT, 2.0)
    assert rows["cluster_id"].to_list() == ["_shared", "blue"]
    assert rows.row(0, named=True)["network_by_feed_basis"] == "unmetered"
    return rows.row(1, named=True)


@pytest.mark.parametrize(
    ("silent", "basis", "byte"),
    [(0, "measured", 36_000.0), (1, "partial", 32_400.0), (2, "insufficient", None), (10, "none", None)],
)
def test_a_cluster_is_known_where_enough_of_its_nodes_are(
    silent: int, basis: str, byte: float | None
) -> None:
    row = hour_of({f"n{number}": None if number < silent else 3600.0 for number in range(10)})
    assert (row["node_count"], row["transfer_node_count"], row["transfer_basis"]) == (10, 10 - silent, basis)
    assert (row["data_transferred_byte"], row["received_byte"]) == (byte, byte)
    assert row["network_energy_by_bytes_kwh"] == (None if byte is None else pytest.approx(byte * 2e-9))


def test_a_node_whose_ports_were_hardly_seen_is_not_known() -> None:
    row = hour_of({"n1": 3600.0, "n2": 3200.0})
    assert (row["transfer_node_count"], row["transfer_basis"], row["received_byte"]) == (
        1,
        "insufficient",
        None,
    )


def test_a_node_that_was_off_moved_nothing_and_is_known() -> None:
    row = hour_of({"n1": None}, off_s=3600.0)
    assert (row["transfer_basis"], row["data_transferred_byte"]) == ("measured", 0.0)
    row = hour_of({"n1": 1800.0}, off_s=1800.0)
    assert (row["transfer_basis"], row["data_transferred_byte"]) == ("measured", 1800.0)
