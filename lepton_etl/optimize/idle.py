"""Nodes that draw and do nothing, and jobs that hold nodes and do nothing: by name, with the kWh they waste.

Only what was seen counts: an hour whose power, job or utilisation is unknown is neither idle nor wasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NodeHours:
    """A node's newest H hours: mean power, W (NaN unknown), whether a job held it (NaN unknown, 0, 1), each (H,).

    `idle_w` with its 90 % interval is the idle model's; `standby_w` what it would draw if it slept (None: cannot).
    """

    node_id: str
    cluster_id: str
    power_w: Floats
    has_job: Floats
    idle_w: float
    idle_lower_w: float
    idle_upper_w: float
    standby_w: float | None = None
    meter_error_ratio: float = 0.05


@dataclass(frozen=True, slots=True)
class JobHours:
    """A job's newest H hours: energy attributed to it, kWh, with interval ends, and its utilisation 0..1, each (H,).

    The lower end should be the dynamic part alone where the node would idle on without the job.
    Utilisation is the largest of its devices', so that one busy device clears it; NaN is unknown, as is energy.
    """

    job_id: str
    node_ids: tuple[str, ...]
    energy_kwh: Floats
    energy_lower_kwh: Floats
    energy_upper_kwh: Floats
    utilisation_ratio: Floats


@dataclass(frozen=True, slots=True)
class IdleRules:
    """When doing nothing is worth a word."""

    idle_h: int = 6
    zombie_h: int = 3
    zombie_utilisation_ratio: float = 0.02


@dataclass(frozen=True, slots=True)
class Waste:
    """One node or job and its wasted kWh of the hours seen.

    `idle`: on without a job, what standby would have saved. `excess`: without a job and above the idle model's upper
    end, what lies above the model. `zombie`: held by a job at no utilisation, all its energy. `per_hour_kwh` is what
    the next hour is expected to waste if nothing is done.
    """

    kind: Literal["idle", "excess", "zombie"]
    subject_id: str
    node_ids: tuple[str, ...]
    hours: int
    baseline_kwh: float
    wasted_kwh: float
    wasted_lower_kwh: float
    wasted_upper_kwh: float

    @property
    def per_hour_kwh(self) -> float:
        return self.wasted_kwh / self.hours


def idle_waste(nodes: Sequence[NodeHours], rules: IdleRules | None = None) -> list[Waste]:
    """Nodes whose newest `idle_h` known hours and more had no job; the largest waste first."""
    asked = rules or IdleRules()
    found = []
    for node in nodes:
        without: Bools = np.asarray((node.has_job == 0) & np.isfinite(node.power_w))
        run = _newest_run(without)
        if len(run) < asked.idle_h:
            continue
        power = node.power_w[run]
        energy = float(power.sum()) / 1000
        error = node.meter_error_ratio
        if node.standby_w is not None and node.standby_w < power.mean():
            asleep = node.standby_w * len(run) / 1000
            found.append(
                Waste(
                    "idle", node.node_id, (node.node_id,), len(run), energy, energy - asleep,
                    max(energy * (1 - error) - asleep, 0.0), energy * (1 + error) - asleep,
                )
            )  # fmt: skip
        above = power > node.idle_upper_w
        if above.sum() >= asked.idle_h:
            drawn = float(power[above].sum()) / 1000
            count = int(above.sum())
            found.append(
                Waste(
                    "excess", node.node_id, (node.node_id,), count, drawn, drawn - node.idle_w * count / 1000,
                    max(drawn - node.idle_upper_w * count / 1000, 0.0), drawn - node.idle_lower_w * count / 1000,
                )
            )  # fmt: skip
    return sorted(found, key=lambda one: (-one.wasted_kwh, one.subject_id, one.kind))


def zombie_waste(jobs: Sequence[JobHours], rules: IdleRules | None = None) -> list[Waste]:
    """Jobs whose newest `zombie_h` known hours and more show no utilisation; the largest waste first."""
    asked = rules or IdleRules()
    found = []
    for job in jobs:
        still: Bools = np.asarray(
            (job.utilisation_ratio <= asked.zombie_utilisation_ratio) & np.isfinite(job.energy_kwh)
        )
        run = _newest_run(still)
        if len(run) < asked.zombie_h:
            continue
        wasted, lower, upper = (
            float(ends[run].sum()) for ends in (job.energy_kwh, job.energy_lower_kwh, job.energy_upper_kwh)
        )
        found.append(Waste("zombie", job.job_id, job.node_ids, len(run), wasted, wasted, lower, upper))
    return sorted(found, key=lambda one: (-one.wasted_kwh, one.subject_id))


def _newest_run(holds: Bools) -> NDArray[np.int64]:
    """Rows of the run that reaches the newest hour; empty where the newest hour does not hold."""
    broken = np.flatnonzero(~holds)
    first = int(broken[-1]) + 1 if len(broken) else 0
    return np.arange(first, len(holds))
