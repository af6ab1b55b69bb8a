"""What the logs say against the truth: a plain trapezoid of the sampled watts, no library code in between."""

from __future__ import annotations

import gzip
import re
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate

JOULES_PER_KWH = 3.6e6


def watts_of(out: Path, node_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and node powers (W) of all snapshots of one node."""
    times: list[float] = []
    watts: list[float] = []
    stamp = 0.0
    for path in sorted((out / "landing/ipmi").glob(f"{node_id}-*.txt.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            if line.startswith("Timestamp: "):
                stamp = datetime.strptime(line[11:30], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
            elif line.startswith(("Sys Power ", "Pwr Consumption ")):
                times.append(stamp)
                watts.append(float(line.split("|")[1].split()[0]))
    return np.array(times), np.array(watts)


@pytest.mark.parametrize("cluster_id", ["c01", "c02", "c03"])
def test_trapezoid_of_minute_samples_gives_the_true_energy_of_a_cluster(clean: Path, cluster_id: str) -> None:
    truth = pl.read_parquet(clean / "truth/node_interval.parquet").filter(pl.col("cluster_id") == cluster_id)
    sampled_kwh = 0.0
    for node_id in truth["node_id"].unique().to_list():
        times, watts = watts_of(clean, node_id)
        assert len(times) == 2 * 1440
        assert np.all(np.diff(times) == 60)
        sampled_kwh += float(np.sum((watts[1:] + watts[:-1]) / 2 * np.diff(times))) / JOULES_PER_KWH
    # The two ends (60 s of two days together) are never observed: 0.035 % of the 0.2 % allowed.
    assert sampled_kwh == pytest.approx(truth["energy_kwh"].sum(), rel=0.002)


def test_trapezoid_gives_the_true_energy_of_each_interval_without_bias(clean: Path) -> None:
    truth = pl.read_parquet(clean / "truth/node_interval.parquet").filter(pl.col("node_id") == "c02n0001")
    times, watts = watts_of(clean, "c02n0001")
    edges = truth["interval_start"].dt.epoch("s").to_numpy()[1:].astype(float)
    joules = np.concatenate([[0.0], np.cumsum((watts[1:] + watts[:-1]) / 2 * np.diff(times))])
    at_edges = np.array([_integral_at(edge, times, watts, joules) for edge in edges])
    errors_kwh = np.diff(at_edges) / JOULES_PER_KWH - truth["energy_kwh"].to_numpy()[1:-1]
    assert np.abs(errors_kwh).max() < 0.15 * truth["energy_kwh"].max()
    assert abs(errors_kwh.mean()) < 0.001 * truth["energy_kwh"].mean()


def _integral_at(edge: float, times: np.ndarray, watts: np.ndarray, joules: np.ndarray) -> float:
    index = int(np.searchsorted(times, edge, side="right")) - 1
    power_w = float(np.interp(edge, times, watts))
    return float(joules[index] + (watts[index] + power_w) / 2 * (edge - times[index]))


def test_ten_watt_sensors_print_tens_and_stay_near_the_truth(tmp_path: Path) -> None:
    cluster = ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s")
    plan = FleetPlan(seed=5, clusters=(cluster,), first_date=date(2025, 1, 6), resolution_w=10)
    summary = simulate(plan, tmp_path / "fleet")
    joules = 0.0
    for node_id in cluster.node_ids():
        times, watts = watts_of(tmp_path / "fleet", node_id)
        assert np.all(watts % 10 == 0)
        joules += float(np.sum((watts[1:] + watts[:-1]) / 2 * np.diff(times)))
    assert joules / JOULES_PER_KWH == pytest.approx(summary.it_energy_kwh, rel=0.005)


def test_joule_counters_and_board_watts_agree_with_the_true_gpu_energy(clean: Path) -> None:
    truth = pl.read_parquet(clean / "truth/gpu_hour.parquet").filter(
        (pl.col("node_id") == "c03n0001") & (pl.col("device_id") == "gpu1")
    )
    pattern = re.compile(r'(\w+)\{gpu="1",.*Hostname="c03n0001"\} ([\d.]+) (\d+)')
    series: dict[str, list[tuple[float, float]]] = {}
    for path in sorted((clean / "landing/prom").glob("c03n0001-*.prom.gz")):
        for name, value, stamp_ms in pattern.findall(gzip.decompress(path.read_bytes()).decode()):
            series.setdefault(name, []).append((int(stamp_ms) / 1000, float(value)))
    times, counter_mj = np.array(series["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"]).T
    watts = np.array(series["DCGM_FI_DEV_POWER_USAGE"])[:, 1]
    rises_j = np.diff(counter_mj) / 1000.0
    known = (np.diff(times) == 60) & (rises_j >= 0)
    trapezoid_j = (watts[1:] + watts[:-1]) / 2 * np.diff(times)
    assert rises_j[known].sum() == pytest.approx(trapezoid_j[known].sum(), rel=0.005)
    assert rises_j[known].sum() / JOULES_PER_KWH == pytest.approx(truth["energy_kwh"].sum(), rel=0.005)
    assert watts.max() <= 700
