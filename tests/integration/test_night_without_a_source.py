"""A night in which one source says nothing: every stage ends well, and what it would have said is unknown, not 0."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.jobs import JOB_ENERGY, TENANT_DAY
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from pipelines.engine import InlineEngine
from pipelines.nightly import STAGES, run_night

DAY = Days.of(date(2025, 6, 3))
CPU, GPU = "c01", "c02"


@dataclass(frozen=True)
class Without:
    """What is not delivered (folders of landing, or files by the beginning of their name), and what is then unknown.

    `unknown`: columns of the table's rows that are all null. `basis`: what columns of the cluster's day say instead.
    """

    left_out: tuple[str, ...]
    unknown: tuple[tuple[Table, str], ...]
    basis: dict[str, str]
    cluster_id: str = GPU


# Two sources that no figure has in common are left out in one night.
CASES = {
    "jobs and weather": Without(
        ("slurm", "weather"), (), {"idle_basis": "utilisation", "energy_basis": "measured"}
    ),
    "meters": Without(
        ("meters", "heat", "water"),
        (
            (TENANT_DAY, "facility_energy_kwh"), (CLUSTER_DAY, "facility_energy_kwh"), (CLUSTER_DAY, "pue_ratio"),
            (CLUSTER_DAY, "emissions_location_kgco2e"), (CLUSTER_DAY, "water_l"),
        ),
        {"facility_basis": "none"},
    ),
    "grid and boards": Without(
        ("grid", "prom"),
        (
            *((table, "emissions_location_kgco2e") for table in (CLUSTER_DAY, TENANT_DAY, JOB_ENERGY)),
            (CLUSTER_DAY, "gpu_energy_kwh"), (CLUSTER_DAY, "gpu_utilisation_ratio"),
        ),
        {"emissions_basis": "none", "energy_basis": "measured"},
    ),
    # Where IT meters stand, energy that no node says is refused: definitions.md section 4.
    "BMCs of a cluster": Without(
        (f"ipmi/{CPU}", "meters", "heat", "water"),
        tuple((CLUSTER_DAY, f"{name}_kwh") for name in ("it_energy", "idle_energy", "facility_energy")),
        {"energy_basis": "none"},
        CPU,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated site to which every source has delivered."""
    folder = tmp_path_factory.mktemp("delivered") / "site"
    clusters = (
        ClusterPlan(cluster_id=CPU, nodes=1, hardware_class="cpu-2s"),
        ClusterPlan(cluster_id=GPU, nodes=1, hardware_class="gpu-400"),
    )
    plan = FleetPlan(
        seed=7, first_date=DAY.start, days=1, clusters=clusters, bmc_period_s=300, gpu_period_s=300
    )
    simulate(plan, folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_day_without_it_is_a_normal_day(name: str, delivered: Path, tmp_path: Path) -> None:
    without, folder = CASES[name], shutil.copytree(delivered, tmp_path / "site")
    for start in without.left_out:
        gone = [path for path in (folder / "landing").glob(f"{start}*/**/*") if path.is_file()]
        gone += [path for path in (folder / "landing").glob(f"{start}*") if path.is_file()]
        assert gone, f"{start} is nothing that the simulator writes"
        for path in gone:
            path.unlink()
    night = run_night(InlineEngine(), settings := load(folder / "config.yaml"), DAY)
    assert night.exit_code == Exit.DONE, night.message
    assert [record.stage for record in night.stages] == list(STAGES)
    lake = Lake.of(settings)
    for table, column in without.unknown:
        rows = lake.read(table, DAY)
        if "cluster_id" in rows.columns and without.cluster_id == CPU:
            rows = rows.filter(pl.col("cluster_id") == CPU)
        assert rows.height > 0, table.name
        assert rows[column].null_count() == rows.height, f"{table.name}.{column}"
    (cluster,) = lake.read(CLUSTER_DAY, DAY).filter(cluster_id=without.cluster_id).to_dicts()
    assert {column: cluster[column] for column in without.basis} == without.basis
    if "prom" in without.left_out:
        held = lake.read(JOB_ENERGY, DAY).filter(pl.col("gpu_held_h") > 0)
        assert held["gpu_energy_kwh"].null_count() == held.height > 0


def test_a_day_on_which_no_node_was_read_is_stopped_by_the_gate_and_says_so(
    delivered: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(delivered, tmp_path / "site")
    for path in [*(folder / "landing" / "ipmi").iterdir(), *(folder / "landing" / "prom").iterdir()]:
        path.unlink()
    night = run_night(InlineEngine(), load(folder / "config.yaml"), DAY)
    assert night.exit_code == Exit.QUALITY_GATE, night.message
    assert "silver/interval holds rows of the days" in night.message
