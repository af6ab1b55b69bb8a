"""Choose the nodes to drain and power down in the hours ahead; demand, reserve and failure domains stay served.

Demand is a quantile of a forecast: what is kept on serves it, plus the reserve, in every hour. A node goes down for a
run of hours only if that pays its waking, it is awake again before it is needed, and enough of each of its failure
domains stays on. Nodes that save most go first: at the sizes of a cluster the order decides, not the search.
Source: break-even time of powering down, Benini, Bogliolo and De Micheli, IEEE Trans. VLSI Systems 8 (2000).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.uncertainty import Estimate

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_WORK: Final = "compute"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that may be powered down: W at idle and at standby, units, and what waking costs.

    `domains` names its failure domains by kind ({"rack": "r7", "pdu": "p2"}); `free_from_h` is the first row in which
    it runs nothing any more; `kind` other than compute (storage, service) and `on` = False are never touched.
    """

    node_id: str
    cluster_id: str
    units: float
    idle_w: Estimate
    standby_w: float
    wake_h: float
    wake_kwh: float
    domains: Mapping[str, str] = field(default_factory=dict)
    free_from_h: int = 0
    kind: str = _WORK
    on: bool = True

    @property
    def saved_w(self) -> float:
        return self.idle_w.value - self.standby_w

    @property
    def break_even_h(self) -> float:
        """Return hours off that pay the waking; infinite where standby saves nothing."""
        return self.wake_kwh * 1000 / self.saved_w if self.saved_w > 0 else float("inf")


@dataclass(frozen=True, slots=True)
class Rules:
    """What stays on of a cluster: `reserve_nodes` of its largest or `reserve_ratio` of its units, whichever is more.

    And `least_on` nodes of every failure domain; a run shorter than `least_off_h` is not worth the operator's while.
    """

    reserve_nodes: int = 1
    reserve_ratio: float = 0.05
    least_on: int = 1
    least_off_h: int = 2


@dataclass(frozen=True, slots=True)
class PowerDown:
    """One node down from row `from_h` up to before row `until_h`, awake again then; kWh of IT saved, waking paid.

    The saving's lower end: the least idle power, the waking paid, and the share of runs that the demand's quantile
    lets be cut short saving nothing.
    """

    node_id: str
    cluster_id: str
    from_h: int
    until_h: int
    baseline_kwh: float
    saving_kwh: Estimate


def consolidate(
    nodes: Sequence[Node], demand_units: Mapping[str, Floats], quantile: float, rules: Rules | None = None
) -> list[PowerDown]:
    """Return runs of power-down over H hours; `demand_units` of a cluster (H,) is the `quantile` of its forecast.

    NaN demand keeps the whole cluster on in that hour. A cluster without demand keeps every node.
    """
    asked = rules or Rules()
    runs: list[PowerDown] = []
    by_cluster: dict[str, list[Node]] = {}
    on_in_domain: dict[tuple[str, str], NDArray[np.int64]] = {}
    hours = len(next(iter(demand_units.values()))) if demand_units else 0
    for node in nodes:
        by_cluster.setdefault(node.cluster_id, []).append(node)
        for domain in node.domains.items():
            count = on_in_domain.setdefault(domain, np.zeros(hours, dtype=np.int64))
            count += int(node.on)
    for cluster_id in sorted(set(by_cluster) & set(demand_units)):
        awake = [node for node in by_cluster[cluster_id] if node.on and node.kind == _WORK]
        units_on = np.full(hours, sum(node.units for node in awake))
        needed = demand_units[cluster_id] + _reserve(awake, asked)
        order = sorted(
            awake, key=lambda node: (-node.saved_w / max(node.units, 1e-9), node.break_even_h, node.node_id)
        )
        for node in order:
            for start, end in _runs(node, units_on, needed, on_in_domain, asked):
                units_on[start:end] -= node.units
                for domain in node.domains.items():
                    on_in_domain[domain][start:end] -= 1
                runs.append(_power_down(node, start, end, quantile))
    return runs


def _reserve(awake: list[Node], rules: Rules) -> float:
    largest = sorted((node.units for node in awake), reverse=True)[: rules.reserve_nodes]
    return max(sum(largest), rules.reserve_ratio * sum(node.units for node in awake))


def _runs(
    node: Node,
    units_on: Floats,
    needed: Floats,
    on_in_domain: Mapping[tuple[str, str], NDArray[np.int64]],
    rules: Rules,
) -> list[tuple[int, int]]:
    """Return rows [start, end) in which the node can be down and it pays."""
    if not node.saved_w > 0:
        return []
    hours = np.arange(len(units_on))
    # A NaN demand compares false: the node stays.
    spare: Bools = np.asarray((units_on - node.units >= needed) & (hours >= node.free_from_h))
    for domain in node.domains.items():
        spare &= on_in_domain[domain] > rules.least_on
    least = max(rules.least_off_h, ceil(node.break_even_h + node.wake_h))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], spare.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= least]


def _power_down(node: Node, start: int, end: int, quantile: float) -> PowerDown:
    # It wakes in the last hours of its run, on but serving nobody.
    asleep_h = end - start - node.wake_h

    def saved_kwh(idle_w: float) -> float:
        return (idle_w - node.standby_w) * asleep_h / 1000 - node.wake_kwh

    # Where demand passes its quantile the node is woken before its time and may have saved nothing but paid.
    cut_short = 1 - quantile
    lower = (1 - cut_short) * saved_kwh(node.idle_w.lower) - cut_short * node.wake_kwh
    saving = Estimate(saved_kwh(node.idle_w.value), lower, saved_kwh(node.idle_w.upper))
    return PowerDown(
        node.node_id, node.cluster_id, start, end, node.idle_w.value * (end - start) / 1000, saving
    )
