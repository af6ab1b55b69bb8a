"""Power caps learned while jobs run: windows at a few caps in long jobs, then the cap that takes the least energy.

A trial is a window without a cap and some with one, in a job that goes on with what it found; its energy and its time
are in the replay like all others. What jobs of the same workload found on the same class counts together. Nothing is
promised where nothing was tried. Source: You, Chung and Chowdhury, Zeus, NSDI 2023 (profiling within the job).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from lepton_etl.optimize.replay.cluster import Floats, Jobs, Measured, Nodes, Run, Setting, Trial

# Caps that are tried, as shares of the power that the workload draws by itself: down while it is not slowed too much,
# the mild one where the first slows it.
_SHARES: Final = (0.85, 0.75, 0.65)
_MILDER: Final = 0.92


@dataclass(slots=True)
class _Cell:
    """What is known of one workload on one class: windows by the share of its own power that the cap is."""

    free_w: float
    seen: dict[float, list[Measured]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Where a cell stands: the best cap so far, as a share, and the next to try; None: none."""

    best: float | None
    following: float | None


@dataclass(slots=True)
class LearnedCaps:
    """Caps by trial: at most `most_caps` a workload and class, slowed by at most `slowdown_ratio`.

    `free_w` is the boards' mean power and `used_ratio` the actual over the requested time by earlier logs, both
    (workloads, classes); `least_w` and `most_w` the limits that a board takes, by class. A cap is kept where its mean
    slowdown plus `sure` standard errors of that mean is within the bound. A job with a deadline is capped only where
    the granted time still ends before it. Only jobs expected to last `least_trial_s` try.
    """

    nodes: Nodes
    free_w: Floats
    used_ratio: Floats
    least_w: Floats
    most_w: Floats
    slowdown_ratio: float = 0.05
    window_s: float = 600.0
    window_error_ratio: float = 0.021
    sure: float = 2.0
    least_windows: int = 2
    most_windows: int = 8
    most_caps: int = 3
    least_trial_s: float = 5400.0
    host_w: tuple[float, ...] = ()
    cells: dict[tuple[int, int], _Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shares = []
        for kind in range(self.nodes.classes):
            first = int((self.nodes.hardware_class == kind).argmax())
            base = float(self.nodes.base_w[first] / self.nodes.gpus[first])
            shares.append(base + float(self.nodes.busy_w[first]))
        self.host_w = tuple(shares)

    def time_ratio(self, workload: int, hardware_class: int, cap_w: float) -> float:
        """Time with a cap over time without, by the windows of it, at least 1; 1 where there are none."""
        cell = self.cells.get((workload, hardware_class))
        found = cell.seen.get(round(cap_w / cell.free_w, 6), []) if cell is not None else []
        return max(sum(one.time_ratio for one in found) / len(found), 1.0) if found else 1.0

    def choose(self, jobs: Jobs, job: int, hardware_class: int, now_s: float) -> Setting:
        latest_s = now_s + self.nodes.wake_s + self.longest_s(jobs, job)
        if latest_s > jobs.deadline_s[job]:
            return None
        key = int(jobs.workload[job]), hardware_class
        if key not in self.cells:
            self.cells[key] = _Cell(float(self.free_w[key]))
        cell = self.cells[key]
        verdict = self._verdict(cell, (), hardware_class)
        lasts_s = float(jobs.requested_s[job] * self.used_ratio[key])
        if verdict.following is None or lasts_s < self.least_trial_s:
            return None if verdict.best is None else verdict.best * cell.free_w

        def step(measured: Sequence[Measured]) -> tuple[float | None, float]:
            now = self._verdict(cell, measured, hardware_class)
            if now.following is not None:
                return now.following * cell.free_w, self.window_s
            return None if now.best is None else now.best * cell.free_w, math.inf

        return Trial(self.window_s, step)

    def limit_s(self, jobs: Jobs, job: int, setting: Setting) -> float:
        return float(jobs.requested_s[job]) if setting is None else self.longest_s(jobs, job)

    def longest_s(self, jobs: Jobs, job: int) -> float:
        # The windows of a trial may be much slower than what will be kept.
        return float(jobs.requested_s[job]) * (1 + self.slowdown_ratio) + self.window_s

    def ended(self, jobs: Jobs, job: int, hardware_class: int, setting: Setting, run: Run) -> None:
        cell = self.cells.get((int(jobs.workload[job]), hardware_class))
        for one in run.measured:
            assert cell is not None
            cell.seen.setdefault(round(one.cap_w / cell.free_w, 6), []).append(one)

    def _verdict(self, cell: _Cell, more: Sequence[Measured], kind: int) -> _Verdict:
        """Walk down the caps by the windows of earlier jobs and of this one."""
        best: float | None = None
        least = cell.free_w + self.host_w[kind]
        share: float | None = _SHARES[0]
        tried = 0
        while share is not None and tried < self.most_caps:
            watt = share * cell.free_w
            if not self.least_w[kind] <= watt <= self.most_w[kind]:
                break
            found = [*cell.seen.get(share, ()), *(one for one in more if abs(one.cap_w - watt) < 1e-6)]
            kept = self._kept(found)
            if kept is None:
                return _Verdict(best, share)
            tried += 1
            if kept:
                joule = self._joule(found, cell, kind)
                if joule < least:
                    best, least = share, joule
            lower = [one for one in _SHARES if one < share]
            share = (lower[0] if lower else None) if kept else (_MILDER if share == _SHARES[0] else None)
        return _Verdict(best, None)

    def _kept(self, found: Sequence[Measured]) -> bool | None:
        """Whether a cap slows within the bound by these windows; None: one more is needed."""
        if len(found) < self.least_windows:
            return None
        slow = sum(one.time_ratio for one in found) / len(found) - 1.0
        error = self.sure * self.window_error_ratio / math.sqrt(len(found))
        if slow + error <= self.slowdown_ratio:
            return True
        return None if slow - error < self.slowdown_ratio and len(found) < self.most_windows else False

    def _joule(self, found: Sequence[Measured], cell: _Cell, kind: int) -> float:
        """Power of a board and its part of the host times the time, against one second without a cap."""
        time = sum(one.time_ratio for one in found) / len(found)
        power = sum(one.capped_w / one.free_w for one in found) / len(found)
        return (power * cell.free_w + self.host_w[kind]) * max(time, 1.0)
