"""Run a plan: schedule the jobs, stream the nodes to disk, then the site around them, then the truth."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.errors import ConfigurationError
from lepton_etl.simulator import power, site_files
from lepton_etl.simulator.accounting import write_accounting
from lepton_etl.simulator.attribution import JobShares
from lepton_etl.simulator.facility import facility, ratings
from lepton_etl.simulator.faults import Injection, plan_faults
from lepton_etl.simulator.grid import grid_hours
from lepton_etl.simulator.jobs import Schedule
from lepton_etl.simulator.load import NodeTask, node_tasks
from lepton_etl.simulator.meters import COMPUTE_FEEDS, compute_feeds, write_meters
from lepton_etl.simulator.node import NodeTruth, simulate_node
from lepton_etl.simulator.on_site import supply
from lepton_etl.simulator.placement import schedule
from lepton_etl.simulator.plan import FleetPlan
from lepton_etl.simulator.truth import TruthWriter
from lepton_etl.simulator.weather import MINUTES_PER_DAY, supply_air_c, weather

FOLDERS: Final = (
    "landing/ipmi",
    "landing/prom",
    "landing/meters",
    "landing/heat",
    "landing/water",
    "landing/fuel",
    "landing/weather",
    "landing/grid",
    "landing/slurm",
    "truth",
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a simulation wrote, and the true energy of all nodes' AC inputs and of the whole site."""

    nodes: int
    days: int
    jobs: int
    files: int
    bytes_written: int
    fault_records: int
    it_energy_kwh: float
    utility_energy_kwh: float
    seconds: float

    @property
    def node_days_per_s(self) -> float:
        """Node-days written per second."""
        return self.nodes * self.days / self.seconds


def simulate(plan: FleetPlan, out_dir: Path, progress: Progress | None = None, processes: int = 1) -> Summary:
    """Write the whole tree of a plan below `out_dir`; equal plans write equal bytes, whatever `processes` is.

    `progress(done, total)` is called after each node. Raises ConfigurationError when `out_dir` holds anything
    but an earlier run of the same plan.
    """
    began = time.monotonic()
    _prepare(plan, out_dir)
    site_weather = weather(plan)
    placed = {cluster.cluster_id: schedule(plan, cluster) for cluster in plan.clusters}
    tasks = _tasks(plan, placed, plan_faults(plan))
    run = partial(simulate_node, plan, supply_air_c=supply_air_c(site_weather), landing=out_dir / "landing")
    feed_of = compute_feeds(plan)
    feeds_w = np.zeros((len(COMPUTE_FEEDS), plan.days * MINUTES_PER_DAY))
    jobs_hour_kwh = np.zeros(plan.days * 24)
    shares: dict[str, JobShares] = {}
    files = bytes_written = fault_records = 0
    with TruthWriter(plan, out_dir / "truth") as truth:
        for done, node in enumerate(_results(run, tasks, processes), start=1):
            truth.add_node(node)
            feeds_w[feed_of[node.node_id]] += node.minute_power_w
            jobs_hour_kwh += node.jobs_hour_energy_kwh
            for job_id, share in node.jobs.items():
                shares[job_id] = shares.get(job_id, JobShares()) + share
            files, bytes_written = files + node.files, bytes_written + node.bytes_written
            fault_records += len(node.faults)
            if progress is not None:
                progress(done, len(tasks))
        sizes = ratings(_rated_w(plan))
        site = facility(feeds_w.sum(axis=0), site_weather, sizes, plan.local_offset_h)
        supplied = supply(plan, site.demand_w, site_weather, sizes)
        meter_files, meter_faults = write_meters(plan, site, supplied, feeds_w, out_dir / "landing")
        truth.add_faults(meter_faults)
        truth.add_accounts(site, supplied, jobs_hour_kwh)
        for cluster in plan.clusters:
            truth.add_states(cluster, placed[cluster.cluster_id])
            truth.add_jobs(cluster, placed[cluster.cluster_id], shares)
    landing = out_dir / "landing"
    files += meter_files + site_files.write_weather(plan, site_weather, landing)
    files += site_files.write_grid(plan, grid_hours(plan), landing)
    files += write_accounting(plan, placed, shares, landing)
    return Summary(
        nodes=len(tasks),
        days=plan.days,
        jobs=len(shares),
        files=files,
        bytes_written=bytes_written,
        fault_records=fault_records + len(meter_faults),
        it_energy_kwh=_energy_kwh(site.nodes_w),
        utility_energy_kwh=_energy_kwh(supplied.utility_w),
        seconds=time.monotonic() - began,
    )


def _energy_kwh(minute_w: NDArray[np.float64]) -> float:
    return float(minute_w.sum() / 60_000.0)


def _rated_w(plan: FleetPlan) -> float:
    return sum(power.rated_power_w(cluster.hardware) * cluster.nodes for cluster in plan.clusters)


def _prepare(plan: FleetPlan, out_dir: Path) -> None:
    """Make the folders and the files that need no simulation; refuse a folder with something else in it."""
    written, wanted = out_dir / "plan.json", plan.model_dump_json(indent=2) + "\n"
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigurationError("is a file, not a folder", where=str(out_dir), remedy="give another folder")
    same_plan = written.is_file() and written.read_text(encoding="utf-8") == wanted
    if out_dir.is_dir() and any(out_dir.iterdir()) and not same_plan:
        raise ConfigurationError(
            "the folder holds something else than this plan's earlier run",
            where=str(out_dir),
            remedy="give an empty folder, or remove this one",
        )
    for folder in FOLDERS:
        (out_dir / folder).mkdir(parents=True, exist_ok=True)
    written.write_text(wanted, encoding="utf-8", newline="\n")
    site_files.write_inventory(plan, out_dir)
    site_files.write_meter_list(plan, out_dir)
    site_files.write_settings(plan, out_dir)


def _tasks(
    plan: FleetPlan, placed: dict[str, Schedule], faults: dict[tuple[str, int], list[Injection]]
) -> list[NodeTask]:
    of_node: dict[str, dict[int, list[Injection]]] = {}
    for (node_id, day), injections in faults.items():
        of_node.setdefault(node_id, {})[day] = injections
    return [
        task for cluster in plan.clusters for task in node_tasks(cluster, placed[cluster.cluster_id], of_node)
    ]


def _results(
    run: Callable[[NodeTask], NodeTruth], tasks: list[NodeTask], processes: int
) -> Iterator[NodeTruth]:
    """Nodes in the plan's order, so that sums do not depend on which worker was faster."""
    if processes <= 1:
        yield from map(run, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(run, tasks)
