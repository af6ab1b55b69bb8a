"""What the kernels must know of a node beside its intervals: powers at idle, and what there is to share out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One inventory row of a node; None where the inventory does not say. Powers in W."""

    site_id: str
    cluster_id: str
    node_id: str
    idle_power_w: float | None = None
    rated_power_w: float | None = None
    gpu_count: int | None = None
    gpu_rated_power_w: float | None = None
    core_count: int | None = None
    memory_total_byte: float | None = None
    cpu_idle_power_w: float | None = None
    memory_idle_power_w: float | None = None
    gpu_idle_power_w: float | None = None


_NAMES = tuple(NodeFacts.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Roll:
    """The inventory by node, asked for a day; plain data that travels to executors."""

    rows: Mapping[str, tuple[tuple[datetime, datetime | None, NodeFacts], ...]]

    def of(self, node_id: str, day: date, cluster_id: str | None = None) -> NodeFacts | None:
        """The newest row of a node that holds on a UTC day, of a cluster where given; None without one."""
        begin = datetime.combine(day, time(), UTC)
        holding = [
            facts
            for valid_from, valid_to, facts in self.rows.get(node_id, ())
            if valid_from < begin + timedelta(days=1) and (valid_to is None or valid_to > begin)
            if cluster_id in (None, facts.cluster_id)
        ]
        return holding[-1] if holding else None


def roll(nodes: pa.Table) -> Roll:
    """silver/node -> Roll; a column that an older table lacks is unknown."""
    rows: dict[str, list[tuple[datetime, datetime | None, NodeFacts]]] = {}
    ordered = sorted(nodes.to_pylist(), key=lambda row: (row["node_id"], row["valid_from"]))
    for row in ordered:
        rows.setdefault(row["node_id"], []).append((row["valid_from"], row["valid_to"], _facts(row)))
    return Roll({node_id: tuple(found) for node_id, found in rows.items()})


def _facts(row: Mapping[str, Any]) -> NodeFacts:
    named: dict[str, Any] = {name: row.get(name) for name in _NAMES}
    return NodeFacts(**named)
