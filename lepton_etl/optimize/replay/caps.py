"""Power caps learned while jobs run: windows under a few caps in long jobs, then the cap that takes the least energy.

Throughput under a cap is set against that of the same workload on the same class in the logs from before any cap, or,
where there are none, against an uncapped start of the job itself. Every logged stretch under a cap counts, from the
moment that it is logged and for all jobs of the workload. Caps are tried from a mild one down in steps that shrink near
the bound, then by halving between the lowest that held and the highest that did not. Trials are in the replay with
their energy and time. Nothing is promised where nothing was tried.
Source: You, Chung and Chowdhury, Zeus, NSDI 2023 (profiling within the job).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from lepton_etl.optimize.replay.cluster import Floats, Jobs, Measured, Nodes, Run, Setting, Trial

# Steps down from a cap that held, in steps of the grid, by the slowdown over the bound that it showed.
_STEPS_DOWN: Final = ((0.2, 4), (0.5, 2), (math.inf, 1))


@dataclass(slots=True)
class _Seen:
    """Sums over the logged windows of one cap."""

    windows: float = 0.0
    time: float = 0.0
    power: float = 0.0

    def add(self, one: Measured) -> None:
        self.windows += one.windows
        self.time += one.time_ratio * one.windows
        self.power += one.capped_w / one.free_w * one.windows


@dataclass(slots=True)
class _Cell:
    """What is known of one workload on one class, by the step of the grid that the cap is."""

    free_w: float
    reference_windows: float
    seen: dict[int, _Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Where a cell stands: the best cap so far and the next to try, as steps of the grid; None: none."""

    best: int | None
    following: int | None


@dataclass(slots=True)
class LearnedCaps:
    """Caps by trial for each workload and class, slowing by at most `slowdown_ratio`.

    `free_w` is the boards' mean power, `used_ratio` the actual over the requested time and `free_windows` the number of
    uncapped ten-minute windows in earlier logs, all (workloads, classes); `least_w` and `most_w` the limits that a
    board takes, by class. Caps are shares of `free_w`: 1 - `grid_step` x step. One is kept where its mean slowdown plus
    `sure` standard errors is within the bound. A job with a deadline is capped only where the granted time still ends
    before it. Only jobs expected to last `least_trial_s` try, and while trying has cost them less than
    `trial_slowdown_ratio` of that.
    """

    nodes: Nodes
    free_w: Floats
    used_ratio: Floats
    least_w: Floats
    most_w: Floats
    free_windows: Floats
    slowdown_ratio: float = 0.05
    window_s: float = 600.0
    window_error_ratio: float = 0.015
    sure: float = 2.0
    least_windows: float = 2.0
    most_windows: float = 40.0
    first_step: int = 6
    last_step: int = 20
    grid_step: float = 0.025
    least_reference: float = 6.0
    least_trial_s: float = 5400.0
    trial_slowdown_ratio: float = 0.015
    look_again_s: float = 3600.0
    host_w: tuple[float, ...] = ()
    cells: dict[tuple[int, int], _Cell] = field(default_factory=dict)
    logged: list[tuple[float, int, tuple[int, int], Measured]] = field(default_factory=list)
    count: int = 0

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
        found = cell.seen.get(self._step_of(cell, cap_w)) if cell is not None else None
        return max(found.time / found.windows, 1.0) if found else 1.0

    def choose(self, jobs: Jobs, job: int, hardware_class: int, now_s: float) -> Setting:
        self._read(now_s)
        latest_s = now_s + self.nodes.wake_s + self.longest_s(jobs, job)
        if latest_s > jobs.deadline_s[job]:
            return None
        key = int(jobs.workload[job]), hardware_class
        cell = self._cell(key)
        verdict = self._verdict(cell, cell.seen, hardware_class)
        lasts_s = float(jobs.requested_s[job] * self.used_ratio[key])
        if verdict.following is None or lasts_s < self.least_trial_s:
            return None if verdict.best is None else self._watt(cell, verdict.best)
        own = {step: _Seen(one.windows, one.time, one.power) for step, one in cell.seen.items()}
        read, lost_s = 0, 0.0

        def step(measured: Sequence[Measured]) -> tuple[float | None, float]:
            nonlocal read, lost_s
            for one in measured[read:]:
                own.setdefault(self._step_of(cell, one.cap_w), _Seen()).add(one)
                lost_s += max(one.time_ratio - 1.0 - self.slowdown_ratio, 0.0) * one.windows * self.window_s
            read = len(measured)
            now = self._verdict(cell, own, hardware_class)
            if now.following is not None and lost_s <= self.trial_slowdown_ratio * lasts_s:
                return self._watt(cell, now.following), self.window_s
            return None if now.best is None else self._watt(cell, now.best), self.look_again_s

        known = cell.reference_windows >= self.least_reference
        return Trial(0.0 if known else self.least_reference * self.window_s, step)

    def limit_s(self, jobs: Jobs, job: int, setting: Setting) -> float:
        return float(jobs.requested_s[job]) if setting is None else self.longest_s(jobs, job)

    def longest_s(self, jobs: Jobs, job: int) -> float:
        # The windows of a trial may be much slower than what will be kept.
        return float(jobs.requested_s[job]) * (1 + self.slowdown_ratio) + self.window_s

    def began(self, jobs: Jobs, job: int, hardware_class: int, run: Run, now_s: float) -> None:
        for one in run.measured:
            self.count += 1
            key = int(jobs.workload[job]), hardware_class
            heapq.heappush(self.logged, (now_s + one.end_s, self.count, key, one))

    def _read(self, now_s: float) -> None:
        """Take in what has been logged by now."""
        while self.logged and self.logged[0][0] <= now_s:
            _, _, key, one = heapq.heappop(self.logged)
            cell = self._cell(key)
            cell.seen.setdefault(self._step_of(cell, one.cap_w), _Seen()).add(one)

    def _cell(self, key: tuple[int, int]) -> _Cell:
        if key not in self.cells:
            self.cells[key] = _Cell(float(self.free_w[key]), float(self.free_windows[key]))
        return self.cells[key]

    def _watt(self, cell: _Cell, step: int) -> float:
        return (1.0 - self.grid_step * step) * cell.free_w

    def _step_of(self, cell: _Cell, cap_w: float) -> int:
        return round((1.0 - cap_w / cell.free_w) / self.grid_step)

    def _verdict(self, cell: _Cell, seen: dict[int, _Seen], kind: int) -> _Verdict:
        """The cap of least energy of those that hold, and the next that may hold and save more."""
        # Above the mean power too: a cap binds the peaks of a load that comes and goes.
        top = math.floor((1.0 - self.most_w[kind] / cell.free_w) / self.grid_step + 1e-9)
        low = math.floor((1.0 - self.least_w[kind] / cell.free_w) / self.grid_step + 1e-9)
        possible = range(top + 1, min(low, self.last_step) + 1)
        if not possible:
            return _Verdict(None, None)
        best, least = None, cell.free_w + self.host_w[kind]
        held, failed, slow, open_step = top, possible[-1] + 1, 0.0, None
        for step in sorted(seen):
            one = seen[step]
            kept = self._kept(one, cell)
            if kept is None:
                open_step = step if open_step is None else open_step
            elif kept and step < failed:
                held, slow = step, one.time / one.windows - 1.0
                joule = self._joule(one, cell, kind)
                if joule < least:
                    best, least = step, joule
            elif not kept:
                failed = min(failed, step)
        if open_step is not None and held < open_step < failed:
            return _Verdict(best, open_step)
        left = [step for step in possible if held < step < failed]
        if not left:
            return _Verdict(best, None)
        if failed <= possible[-1]:
            return _Verdict(best, left[len(left) // 2])
        if held == top:
            return _Verdict(best, min(self.first_step, left[-1]))
        down = next(steps for share, steps in _STEPS_DOWN if slow <= share * self.slowdown_ratio)
        return _Verdict(best, min(held + down, left[-1]))

    def _kept(self, found: _Seen, cell: _Cell) -> bool | None:
        """Whether a cap slows within the bound by these windows; None: one more is needed."""
        if found.windows < self.least_windows:
            return None
        slow = found.time / found.windows - 1.0
        reference = max(cell.reference_windows, self.least_reference)
        error = self.sure * self.window_error_ratio * math.sqrt(1.0 / found.windows + 1.0 / reference)
        if slow + error <= self.slowdown_ratio:
            return True
        return None if slow - error < self.slowdown_ratio and found.windows < self.most_windows else False

    def _joule(self, found: _Seen, cell: _Cell, kind: int) -> float:
        """Power of a board and its part of the host times the time, against one second without a cap."""
        power = found.power / found.windows
        return (power * cell.free_w + self.host_w[kind]) * max(found.time / found.windows, 1.0)
