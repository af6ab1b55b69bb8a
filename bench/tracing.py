"""How long `lepton-etl trace --all` takes, by the size of the fleet: the day of a simulated cluster down to its lines.

python -m bench.tracing --nodes 8 40
"""

from __future__ import annotations

import argparse
import resource
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from lepton_etl.cli.trace import tracer_of
from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from lepton_etl.trust.trace import Choice
from pipelines import nightly
from pipelines.engine import InlineEngine

DAY: Final = date(2025, 6, 3)


def traced(nodes: int, folder: Path) -> str:
    """Return a line of the table: the whole walk of the energy of a cluster of so many nodes, its night made before."""
    cluster = ClusterPlan(cluster_id="c01", nodes=nodes, hardware_class="cpu-2s")
    simulate(FleetPlan(seed=20, first_date=DAY, days=1, clusters=(cluster,)), folder)
    settings = load(folder / "config.yaml")
    for stage in ("bronze", "silver", "gold", "publish"):
        night = nightly.run_night(InlineEngine(), settings, Days.of(DAY), stage)
        assert night.exit_code == Exit.DONE, night.message
    begun, used = time.perf_counter(), time.process_time()
    tracer = tracer_of(settings, DAY, Choice(whole=True))
    steps = tracer.figures("gold/cluster_day", "it_energy_kwh", {"cluster_id": ["c01"]})
    seconds, cpu_s = time.perf_counter() - begun, time.process_time() - used
    walk = [step for one in steps for step in one.walk()]
    lines = sum(len(step.lines) for step in walk)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"| {nodes} | {len(walk):,} | {lines:,} | {seconds:.1f} | {cpu_s:.1f} | {1000 * cpu_s / nodes:.0f} | "
        f"{peak_mib:,.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", nargs="+", type=int, default=[8, 40])
    print("| nodes | steps | lines | s | CPU s | CPU ms a node | peak of the process MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for nodes in parser.parse_args().nodes:
        with TemporaryDirectory() as folder:
            print(traced(nodes, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
