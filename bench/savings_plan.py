"""Planning at scale: 10,000 deferrable jobs on 1,000 nodes of several sites, 24 hours ahead.

    python -m bench.savings_plan [--jobs 10000] [--nodes 1000] [--sites 5] [--seconds 55]

Jobs are drawn by a fixed seed: release over the day, 1 to 8 hours (log-uniform), 1 to 8 GPUs, spare time 0 to 16
hours, a third preemptible, no two of equal power; each may run on its own site and two others, in a group of the same
unit. Sites have a grid wave of their own phase and depth with an interval that widens with the hours, a price, and a
marginal overhead that follows the day; groups wake nodes from standby. Running jobs hold part of the capacity. The
bound holds for every plan of the problem, so a gap of 0.001 says: at most 0.1 % from the best plan there is. Wall and
CPU seconds are of the whole of `plan`: checks, baseline, programme and moves, and the intervals of every job.
"""

from __future__ import annotations

import argparse
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from bench.measure import Figure, figure, print_figures, timed, write
from lepton_etl.recommend.job_problem import Job, NodeGroup, Objective, Problem, Signal, SiteHours
from lepton_etl.recommend.job_shift import Plan, plan

SEED: Final = 20250603
HOURS: Final = 24
GPUS_PER_NODE: Final = 8
# What a GPU in use adds beyond its job: its part of waking a node of 700 W idle from a standby of 60 W.
WAKE_W_PER_GPU: Final = (700.0 - 60.0) / GPUS_PER_NODE
OBJECTIVES: Final = {
    "carbon": Objective(per_kgco2e=1.0),
    "energy": Objective(per_kwh=1.0),
    "cost + carbon at 0.1": Objective(per_money=1.0, per_kgco2e=0.1),
}


def problem(jobs: int, nodes: int, sites: int, objective: Objective, seed: int = SEED) -> Problem:
    """A seeded problem; two groups of unlike class at every site."""
    rng = np.random.default_rng(seed)
    hour = np.arange(HOURS)
    places, groups = [], []
    for number in range(sites):
        wave = np.cos(2 * np.pi * (hour - 4 * number - 13) / 24)
        expected = rng.uniform(0.15, 0.5) * (1 - rng.uniform(0.1, 0.5) * wave)
        wide = expected * 0.25 * np.sqrt((hour + 1) / HOURS)
        price = 0.12 * (1 - 0.3 * wave) * rng.uniform(0.7, 1.3)
        places.append(
            SiteHours(
                f"site{number}", f"zone{number}", 0.15 + 0.08 * np.sin(np.pi * hour / 24) * rng.uniform(0.2, 1),
                Signal(expected, expected - wide, expected + wide), Signal(price, price, price),
            )
        )  # fmt: skip
        for kind, (speed, draw) in {"a": (1.0, 1.0), "b": (0.8, 0.7)}.items():
            size = nodes // (2 * sites)
            busy = rng.uniform(0.2, 0.5) * np.exp(-hour / rng.uniform(4, 20))
            groups.append(
                NodeGroup(
                    f"site{number}{kind}", f"site{number}", f"cluster{number}{kind}", "gpu",
                    np.floor(size * GPUS_PER_NODE * (1 - busy)), ((size * GPUS_PER_NODE, WAKE_W_PER_GPU),), speed, draw,
                )
            )  # fmt: skip
    return Problem(tuple(_jobs(jobs, sites, rng)), tuple(groups), tuple(places), HOURS, objective)


def _jobs(count: int, sites: int, rng: np.random.Generator) -> list[Job]:
    found = []
    for number in range(count):
        site = int(rng.integers(sites))
        duration = float(np.exp(rng.uniform(0, np.log(8))))
        units = float(rng.choice([1, 1, 1, 1, 2, 2, 4, 8]))
        release = int(rng.integers(0, HOURS - int(np.ceil(duration / 0.8)) + 1))
        deadline = release + int(np.ceil(duration)) + int(rng.integers(0, 17))
        power = float(units * rng.uniform(150, 600))
        others = rng.choice([i for i in range(sites) if i != site], min(2, sites - 1), replace=False)
        found.append(
            Job(
                f"job{number}", f"site{site}{'ab'[int(rng.integers(2))]}", release, deadline, duration, units, "gpu",
                power, 0.9 * power, 1.1 * power, bool(rng.random() < 1 / 3),
                (f"site{site}", *(f"site{i}" for i in others)), float(rng.uniform(0, 0.2)),
            )
        )  # fmt: skip
    return found


def figures(jobs: int = 10_000, nodes: int = 1_000, sites: int = 5, seconds: float = 55.0) -> list[Figure]:
    """One plan for each objective."""
    found = []
    for name, objective in OBJECTIVES.items():
        asked = problem(jobs, nodes, sites, objective)
        kept: list[Plan] = []

        def work(asked: Problem = asked, kept: list[Plan] = kept) -> int:
            kept.append(plan(asked, seconds=seconds))
            return jobs

        run = timed(work)
        made = kept[0]
        label = f"{jobs} jobs, {nodes} nodes, {sites} sites, {HOURS} h, {name}"
        without = sum(job.status == "infeasible" for job in made.jobs)
        saved = 1 - made.plan_objective / made.baseline_objective
        found += [
            figure(f"{label}: wall", run.wall_s, "s", 1, at_most=60.0),
            figure(f"{label}: CPU", run.cpu_s, "s", 1),
            figure(f"{label}: gap to the bound", made.gap_ratio, "ratio", 1, at_most=0.01),
            figure(f"{label}: jobs without a place", without, "jobs", 1),
            figure(f"{label}: objective below running at once", saved, "ratio", 1),
            figure(f"{label}: deadlines that the baseline misses", made.deadlines_missed_baseline, "jobs", 1),
            figure(f"{label}: deadlines lost", made.deadlines_lost, "jobs", 1, at_most=0),
        ]
    return found


def main() -> None:
    """Print the figures, and write var/bench/savings_plan.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=55.0)
    asked = parser.parse_args()
    with threadpool_limits(1):
        found = figures(asked.jobs, asked.nodes, asked.sites, asked.seconds)
    print_figures("Load shifting in time and place, planned 24 h ahead on one core", found)
    write("savings_plan", found)


if __name__ == "__main__":
    main()
