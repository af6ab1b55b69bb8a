"""The plan refuses what cannot be simulated, and its streams depend on names alone."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from lepton_etl.errors import ConfigurationError
from lepton_etl.simulator.command import plan_of_options, simulate_command
from lepton_etl.simulator.jobs import off_windows
from lepton_etl.simulator.load import node_tasks
from lepton_etl.simulator.logs import BMC_LIMIT, PSU_LIMIT, sensors_of
from lepton_etl.simulator.placement import schedule
from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan
from lepton_etl.simulator.simulate import simulate
from lepton_etl.simulator.site_files import write_inventory

CPU = ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s")
DAY = date(2025, 6, 3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"resolution_w": 5}, "resolution_w"),
        ({"timezone": "Europe/Atlantis"}, "Europe/Atlantis"),
        ({"clusters": (CPU, CPU)}, "unique"),
        ({"bmc_period_s": 70}, "bmc_period_s"),
        ({"faults": (Fault.COUNTER_RESETS,)}, "counter_resets"),
        ({"site_id": "../x"}, "site_id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        FleetPlan.model_validate({"seed": 1, "clusters": (CPU,), "first_date": DAY} | change)


def test_gpus_on_a_class_without_any_are_refused() -> None:
    with pytest.raises(ValidationError, match="has no GPU"):
        ClusterPlan(cluster_id="c01", nodes=1, hardware_class="cpu-2s", gpus_per_node=4)


def test_streams_follow_seed_and_names_only() -> None:
    small = FleetPlan(seed=1, clusters=(CPU,), first_date=DAY)
    grown = FleetPlan(seed=1, clusters=(CPU.model_copy(update={"nodes": 9}),), first_date=DAY, days=5)
    assert small.rng("traits", "c01n0001").random() == grown.rng("traits", "c01n0001").random()
    assert small.rng("traits", "c01n0001").random() != small.rng("traits", "c01n0002").random()
    assert off_windows(small, "c01n0001")[:1] == off_windows(grown, "c01n0001")[:1]


def test_options_make_a_rotation_of_classes() -> None:
    options: dict[str, Any] = {
        "seed": 1, "first_date": date(2025, 6, 3), "days": 1, "nodes": 2, "faults": [], "resolution_w": 1,
        "sensor_gain_sigma": 0.0, "site": "s", "timezone": "UTC",
    }  # fmt: skip
    plan = plan_of_options(clusters=3, gpus=None, **options)
    assert [cluster.hardware.gpu_count for cluster in plan.clusters] == [0, 4, 8]
    assert [c.hardware.gpu_count for c in plan_of_options(clusters=2, gpus=2, **options).clusters] == [0, 2]
    assert {c.hardware_class for c in plan_of_options(clusters=3, gpus=0, **options).clusters} == {"cpu-2s"}
    with pytest.raises(ConfigurationError, match="resolution_w = 3"):
        plan_of_options(clusters=1, gpus=None, **(options | {"resolution_w": 3}))


def test_sensors_err_within_their_class_and_the_inventory_does_not_say_by_how_much(tmp_path: Path) -> None:
    plan = FleetPlan(
        seed=2, clusters=(CPU.model_copy(update={"nodes": 40}),), first_date=DAY, sensor_gain_sigma=None
    )
    cluster = plan.clusters[0]
    tasks = list(node_tasks(cluster, schedule(plan, cluster)))
    gains = np.array([sensors_of(plan, task).gain for task in tasks]) - 1
    assert gains.tolist() == (np.array([sensors_of(plan, task).gain for task in tasks]) - 1).tolist()
    assert 0.05 < np.abs(gains[:, 0]).max() <= BMC_LIMIT
    assert 0.03 < np.abs(gains[:, 1:]).max() <= PSU_LIMIT
    assert gains[:, 0].std() == pytest.approx(0.05, rel=0.25)
    for sigma, cell in ((None, ""), (0.0, "0")):
        write_inventory(plan.model_copy(update={"sensor_gain_sigma": sigma}), tmp_path)
        with (tmp_path / "inventory.csv").open(encoding="utf-8") as file:
            assert {row["sensor_gain_ratio"] for row in csv.DictReader(file)} == {cell}


def test_the_command_writes_a_tree_and_says_what_it_did(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command("simulate")(simulate_command)
    out = tmp_path / "fleet"
    options = (
        "--seed 3 --date 2025-02-01 --clusters 1 --nodes 2 --fault gaps --fault bad_lines --resolution-w 10"
    )
    result = CliRunner().invoke(app, [str(out), *options.split()])
    assert result.exit_code == 0, result.output
    assert "2 nodes, 1 days" in result.output
    assert f"settings: {out / 'config.yaml'}" in result.output
    plan = FleetPlan.model_validate_json((out / "plan.json").read_text())
    assert (plan.seed, plan.first_date, plan.resolution_w) == (3, date(2025, 2, 1), 10)
    assert plan.faults == (Fault.BAD_LINES, Fault.GAPS)
    assert CliRunner().invoke(app, [str(out), "--fault", "fire"]).exit_code == 2


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="something else"):
        simulate(FleetPlan(seed=1, clusters=(CPU,), first_date=DAY), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
