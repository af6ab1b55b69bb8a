"""Is the simulator's GPU like a real one? Quantiles of board power and temperature beside those of the Kalos cluster.

    python -m bench.realism [--nodes 8] [--days 5] [--seeds 3]

Kalos (400 W boards of one make, LLM training, August 2023, 15 s samples; Hu et al., NSDI 2024) is another fleet with
other work: its boards are idle or full, rarely between. So the figure is a gap that is stated, not a test that is
passed; nothing of the simulator was fitted to it. The gap of power is also given over 400 W, the rated power of both.
"""

from __future__ import annotations

import argparse
from datetime import date
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from lepton_etl.simulator.hardware import GPU_400
from lepton_etl.simulator.load import node_tasks
from lepton_etl.simulator.node import node_days
from lepton_etl.simulator.placement import schedule
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.weather import supply_air_c, weather

Floats = NDArray[np.float64]

QUANTILES: Final = (0.05, 0.25, 0.50, 0.75, 0.95, 0.99)


def simulated(seed: int, nodes: int, days: int) -> tuple[Floats, Floats]:
    """Power, W, and temperature, degC, of all boards that are on, once a minute."""
    cluster = ClusterPlan(cluster_id="c01", nodes=nodes, hardware_class=GPU_400.name)
    plan = FleetPlan(seed=seed, clusters=(cluster,), first_date=date(2025, 8, 4), days=days)
    air, placed = supply_air_c(weather(plan)), schedule(plan, cluster)
    watts, degrees = [], []
    for task in node_tasks(cluster, placed):
        for done in node_days(plan, task, air):
            watts.append(done.gpu_power_w[:, :-1:6][:, done.on[:-1:6]].ravel())
            degrees.append(done.gpu_temp_c[:, :-1:6][:, done.on[:-1:6]].ravel())
    return np.concatenate(watts), np.concatenate(degrees)


def gaps(name: str, unit: str, ours: Floats, real: pl.DataFrame, column: str, share: str) -> list[Figure]:
    """Each quantile of both, and the mean distance of the two distributions (Wasserstein)."""
    grid = np.linspace(0.005, 0.995, 199)
    theirs = np.interp(grid * 100, real[share].to_numpy(), real[column].to_numpy())
    found = []
    for q in QUANTILES:
        other = float(np.interp(q * 100, real[share].to_numpy(), real[column].to_numpy()))
        found.append(figure(f"{name} p{q * 100:.0f}: simulated", float(np.quantile(ours, q)), unit, 1))
        found.append(figure(f"{name} p{q * 100:.0f}: Kalos", other, unit, 1))
    distance = float(np.abs(np.quantile(ours, grid) - theirs).mean())
    return [*found, figure(f"{name}: mean distance of the distributions", distance, unit, 1)]


def main() -> None:
    """Print the quantiles of both, and write var/bench/realism.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    root = REAL / "acme-cluster-distributions"
    runs = [simulated(seed, asked.nodes, asked.days) for seed in range(1, asked.seeds + 1)]
    watts, degrees = (np.concatenate([run[part] for run in runs]) for part in (0, 1))
    powers = pl.read_csv(root / "gpu_power_kalos_cdf.csv")
    temps = pl.read_csv(root / "gpu_temp_kalos_cdf.csv")
    found = gaps("GPU power", "W", watts, powers, "gpu_power_w", "cdf_percent")
    found += gaps("GPU temperature", "degC", degrees, temps, "gpu_temp_c", "cdf_percent")
    found.append(
        figure("GPU power: mean distance over 400 W rated", found[2 * len(QUANTILES)].value / 400, "ratio", 1)
    )
    print_figures("Simulated boards beside Kalos", found)
    write("realism", found)


if __name__ == "__main__":
    main()
