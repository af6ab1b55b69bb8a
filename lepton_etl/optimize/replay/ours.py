"""The planned policy: which of the levers are pulled, each from what earlier logs taught."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.optimize.replay.caps import LearnedCaps
from lepton_etl.optimize.replay.cluster import Floats, Jobs, Nodes
from lepton_etl.optimize.replay.habits import Habits, JobLog, break_even_s, reserve_by_hour
from lepton_etl.optimize.replay.policies import (
    Caps,
    FirstCome,
    IdleTimeout,
    InventoryOrder,
    LeastEnergy,
    NoCaps,
    Placement,
    Policy,
    PowerDown,
    Reserve,
    UrgentFirst,
)  # fmt: skip

PACKING: Final = "packing"
POWER_DOWN: Final = "power-down"
CAPS: Final = "caps"
COOLING: Final = "cooling"
LEVERS: Final = (CAPS, PACKING, POWER_DOWN, COOLING)


@dataclass(frozen=True, slots=True)
class Known:
    """What the planner has: the site's own setting, earlier logs, the boards' limits."""

    idle_timeout_s: float
    log: JobLog
    log_days: float
    hour_at_log_start: float
    hour_at_start: float
    habits: Habits
    least_w: Floats
    most_w: Floats
    backfill_depth: int = 500
    reserve_quantile: float = 0.75
    opening_ratio: float = 0.25
    patience_s: float = 86400.0
    hurry_s: float = 86400.0


def planned(nodes: Nodes, known: Known, levers: frozenset[str]) -> Policy:
    """A policy with some of the levers, the rest as the site has it. Deadlines are looked at where any is pulled."""
    depth = known.backfill_depth
    if not levers - {COOLING}:
        return Policy(FirstCome(), InventoryOrder(), IdleTimeout(known.idle_timeout_s), NoCaps(), depth)
    placement: Placement = InventoryOrder()
    if PACKING in levers:
        first = [int((nodes.hardware_class == kind).argmax()) for kind in range(nodes.classes)]
        board_w = np.asarray((nodes.base_w / nodes.gpus + nodes.busy_w)[first])
        placement = LeastEnergy(
            known.habits.used_ratio, known.habits.gpu_w, board_w, known.opening_ratio, known.patience_s
        )
    down: PowerDown = _reserve(nodes, known) if POWER_DOWN in levers else IdleTimeout(known.idle_timeout_s)
    caps: Caps = NoCaps()
    if CAPS in levers:
        caps = LearnedCaps(
            nodes, known.habits.gpu_w, known.habits.used_ratio, known.least_w, known.most_w, known.habits.windows
        )  # fmt: skip
    return Policy(UrgentFirst(known.hurry_s), placement, down, caps, depth)


def _reserve(nodes: Nodes, known: Known) -> Reserve:
    first = [int((nodes.hardware_class == kind).argmax()) for kind in range(nodes.classes)]
    reserve = reserve_by_hour(
        known.log,
        nodes.gpus[first],
        nodes.wake_s,
        known.log_days,
        known.hour_at_log_start,
        known.reserve_quantile,
    )
    timeout_s = max(
        break_even_s(
            float(nodes.idle_w[one]), float(nodes.sleep_w[one]), float(nodes.wake_w[one]), nodes.wake_s,
            nodes.shut_down_s,
        )
        for one in first
    )  # fmt: skip
    return Reserve(reserve, timeout_s, hour_at_start=known.hour_at_start)


def shifted(
    jobs: Jobs, habits: Habits, forecast: Floats, step_s: float, margin_s: float, stretch: float
) -> Floats:
    """When to release each job, s, so that its expected run meets the lowest forecast before its latest start.

    `forecast[k, h]` is what was expected at the start of step k for step k + h. Only jobs with a deadline wait; the
    latest start leaves the requested time times `stretch` and `margin_s`. Ties start sooner.
    """
    release = jobs.submit_s.copy()
    used = np.where(jobs.allowed, habits.used_ratio[jobs.workload], np.nan)
    expected_s = jobs.requested_s * np.nanmean(used, axis=1)
    for job in np.flatnonzero(np.isfinite(jobs.deadline_s)):
        latest_s = jobs.deadline_s[job] - stretch * jobs.requested_s[job] - margin_s
        first = int(jobs.submit_s[job] // step_s)
        if first >= len(forecast):
            continue
        ahead = forecast[first]
        starts = int((latest_s - jobs.submit_s[job]) // step_s)
        lasts = max(int(np.ceil(expected_s[job] / step_s)), 1)
        starts = min(starts, len(ahead) - lasts)
        if starts < 1:
            continue
        running = np.convolve(ahead, np.full(lasts, 1.0 / lasts), mode="valid")[: starts + 1]
        best = int(np.argmin(running))
        if best > 0:
            release[job] = (first + best) * step_s
    return release
