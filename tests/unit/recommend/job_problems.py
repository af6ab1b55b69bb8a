"""Small problems for the planner's tests, drawn or written out."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from lepton_etl.recommend.job_problem import Floats, Job, NodeGroup, Objective, Problem, Signal, SiteHours

HOURS = 6


def flat(value: float, hours: int = HOURS) -> Signal:
    one = np.full(hours, value)
    return Signal(one, one, one)


def wave(values: list[float], half: float = 0.0) -> Signal:
    expected = np.array(values)
    return Signal(expected, expected - half, expected + half)


def site(
    name: str = "here", intensity: Signal | None = None, price: Signal | None = None, overhead: float = 0.0
) -> SiteHours:
    return SiteHours(name, f"zone {name}", np.full(HOURS, overhead), intensity, price)


def group(name: str = "g", at: str = "here", capacity: float | list[float] = 4.0) -> NodeGroup:
    free: Floats = np.broadcast_to(np.asarray(capacity, dtype=np.float64), HOURS).copy()
    return NodeGroup(name, at, f"cluster {name}", "gpu", free)


def job(name: str = "j", **changed: object) -> Job:
    plain: dict[str, object] = {
        "group_id": "g", "release_h": 0, "deadline_h": HOURS, "duration_h": 2.0, "units": 1.0, "unit": "gpu",
        "power_w": 1000.0, "power_lower_w": 900.0, "power_upper_w": 1100.0,
    }  # fmt: skip
    return Job(name, **(plain | changed))  # type: ignore[arg-type]


def problem(
    jobs: list[Job],
    groups: list[NodeGroup] | None = None,
    sites: list[SiteHours] | None = None,
    objective: Objective | None = None,
) -> Problem:
    return Problem(
        tuple(jobs),
        tuple(groups or [group()]),
        tuple(sites or [site(intensity=wave([0.5, 0.4, 0.1, 0.1, 0.3, 0.6]))]),
        HOURS,
        objective or Objective(per_kgco2e=1.0, risk_quantile=0.5),
    )


@st.composite
def drawn(draw: st.DrawFn, most_jobs: int = 4) -> Problem:
    """Two sites, three groups of unlike speed and curve, jobs that may have any place or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sites = [
        SiteHours(
            name, name, rng.uniform(0, 0.5, HOURS),
            wave(list(rng.uniform(0.05, 0.8, HOURS)), 0.04), wave(list(rng.uniform(-0.02, 0.3, HOURS)), 0.01),
        )
        for name in ("a", "b")
    ]  # fmt: skip
    groups = [
        NodeGroup(
            name, at, f"cluster {name}", "gpu", rng.integers(0, 5, HOURS).astype(float),
            ((2.0, 50.0), (4.0, 150.0)) if rng.random() < 0.5 else (), float(rng.choice([1.0, 0.5])), 0.8,
        )
        for name, at in (("a1", "a"), ("a2", "a"), ("b1", "b"))
    ]  # fmt: skip
    jobs = []
    for number in range(draw(st.integers(1, most_jobs))):
        release = int(rng.integers(0, HOURS))
        jobs.append(
            Job(
                f"j{number}", str(rng.choice(["a1", "a2", "b1"])), release, release + int(rng.integers(1, 8)),
                float(rng.choice([0.5, 1.0, 1.5, 2.0])), float(rng.integers(1, 4)), "gpu", 1000.0, 900.0, 1100.0,
                bool(rng.random() < 0.5), [None, ("a",), ("a", "b")][int(rng.integers(3))], 0.01,
            )
        )  # fmt: skip
    weights = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.1, 1.0, 0.5)][int(rng.integers(4))]
    return Problem(tuple(jobs), tuple(groups), tuple(sites), HOURS, Objective(*weights, risk_quantile=0.5))
