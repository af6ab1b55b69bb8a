"""One small clean fleet and one with every fault, simulated once for all tests of the room."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan
from lepton_etl.simulator.simulate import Summary, simulate

CLUSTERS = (
    ClusterPlan(cluster_id="c01", nodes=3, hardware_class="cpu-2s"),
    ClusterPlan(cluster_id="c02", nodes=2, hardware_class="gpu-400"),
    ClusterPlan(cluster_id="c03", nodes=1, hardware_class="gpu-700", gpus_per_node=2),
)
CLEAN = FleetPlan(seed=11, clusters=CLUSTERS, first_date=date(2025, 6, 3), days=2, off_share=0.25)
SPOILT = FleetPlan(
    seed=12, clusters=CLUSTERS, first_date=date(2025, 6, 3), days=2, faults=tuple(Fault), off_share=0.0
)


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clean") / "fleet"
    simulate(CLEAN, out)
    return out


@pytest.fixture(scope="session")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    out = tmp_path_factory.mktemp("spoilt") / "fleet"
    return out, simulate(SPOILT, out)
