"""Power caps learned while jobs run: a few trials of a workload on a class, then the cap that takes the least energy.

A trial is a window without a cap and one with it, in a job that goes on afterwards; its energy and its time are in the
replay like all others. Nothing is promised where nothing was tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lepton_etl.optimize.replay.cluster import Floats, Jobs, Nodes, Run, Setting, Trial


@dataclass(frozen=True, slots=True)
class Measured:
    """What the logs of one trial say: board power without and with the cap, W, and time with it over without."""

    free_w: float
    capped_w: float
    time_ratio: float


# The logs of a job that has ended: None where the trial did not come to its end.
TrialLog = Callable[[int, int, Trial, Run], Measured | None]

# Caps that are tried, as shares of the power that the workload draws by itself: down while it is not slowed too much,
# up after the first that slows it.
_SHARES: Final = (0.85, 0.75, 0.65)
_MILDER: Final = 0.92


@dataclass(slots=True)
class _Cap:
    """One cap of one workload on one class, and its trials."""

    share: float
    trials: list[Measured] = field(default_factory=list)

    def mean(self) -> tuple[float, float]:
        """Mean time ratio and power ratio."""
        count = len(self.trials)
        time = sum(one.time_ratio for one in self.trials) / count
        return time, sum(one.capped_w / one.free_w for one in self.trials) / count


@dataclass(slots=True)
class _Cell:
    """What is known of one workload on one class."""

    free_w: float
    tried: list[_Cap] = field(default_factory=list)
    chosen_w: float | None = None
    next_share: float | None = _SHARES[0]


@dataclass(slots=True)
class LearnedCaps:
    """Caps by trial: at most `most_caps` a workload and class, slowed by at most `slowdown_ratio`.

    `free_w` is the boards' mean power by earlier logs, (workloads, classes), `least_w` and `most_w` the limits a board
    takes, by class. A job with a deadline is capped only where the granted time still ends before it, and tries none.
    """

    nodes: Nodes
    free_w: Floats
    least_w: Floats
    most_w: Floats
    log: TrialLog
    slowdown_ratio: float = 0.05
    window_s: float = 600.0
    trial_error_ratio: float = 0.02
    most_trials: int = 3
    most_caps: int = 3
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
        """Time with a cap over time without, by the trials of it; 1 where none came to its end."""
        cell = self.cells.get((workload, hardware_class))
        for cap in cell.tried if cell is not None else ():
            if cell is not None and abs(cap.share * cell.free_w - cap_w) < 1e-6 and cap.trials:
                return max(cap.mean()[0], 1.0)
        return 1.0

    def _cell(self, jobs: Jobs, job: int, kind: int) -> _Cell:
        key = int(jobs.workload[job]), kind
        if key not in self.cells:
            cell = _Cell(float(self.free_w[key]))
            if self._watt(cell, _SHARES[0], kind) is None:
                cell.next_share = None
            self.cells[key] = cell
        return self.cells[key]

    def _watt(self, cell: _Cell, share: float, kind: int) -> float | None:
        watt = share * cell.free_w
        return watt if self.least_w[kind] <= watt <= self.most_w[kind] else None

    def choose(self, jobs: Jobs, job: int, hardware_class: int, now_s: float) -> Setting:
        cell = self._cell(jobs, job, hardware_class)
        hurried = jobs.deadline_s[job] < math.inf
        if hurried:
            fits = now_s + self.nodes.wake_s + self.limit_s(jobs, job, 1.0) <= jobs.deadline_s[job]
            return cell.chosen_w if fits else None
        if cell.next_share is None or jobs.requested_s[job] < 4 * self.window_s:
            return cell.chosen_w
        watt = self._watt(cell, cell.next_share, hardware_class)
        assert watt is not None
        return Trial(watt, cell.chosen_w, self.window_s)

    def limit_s(self, jobs: Jobs, job: int, setting: Setting) -> float:
        asked = float(jobs.requested_s[job])
        if setting is None:
            return asked
        # A trial's window may be much slower than what will be kept.
        return asked * (1 + self.slowdown_ratio) + (self.window_s if isinstance(setting, Trial) else 0.0)

    def longest_s(self, jobs: Jobs, job: int) -> float:
        return float(jobs.requested_s[job]) * (1 + self.slowdown_ratio) + self.window_s

    def ended(self, jobs: Jobs, job: int, hardware_class: int, setting: Setting, run: Run) -> None:
        if not isinstance(setting, Trial):
            return
        measured = self.log(job, hardware_class, setting, run)
        cell = self._cell(jobs, job, hardware_class)
        if measured is None:
            return
        share = setting.cap_w / cell.free_w
        cap = next((one for one in cell.tried if abs(one.share - share) < 1e-9), None)
        if cap is None:
            cap = _Cap(share)
            cell.tried.append(cap)
        cap.trials.append(measured)
        if cell.next_share is not None and abs(cell.next_share - share) < 1e-9:
            self._decide(cell, cap, hardware_class)

    def _decide(self, cell: _Cell, cap: _Cap, kind: int) -> None:
        """Accept the cap, reject it, or let it be tried again; then which is next."""
        time, power = cap.mean()
        error = self.trial_error_ratio * math.sqrt(1.0 / len(cap.trials))
        slow = time - 1.0
        if slow + error > self.slowdown_ratio >= slow - error and len(cap.trials) < self.most_trials:
            return
        accepted = slow + error <= self.slowdown_ratio
        if accepted and self._joule(cell, cap, kind) < self._best_joule(cell, cap, kind):
            cell.chosen_w = cap.share * cell.free_w
        cell.next_share = self._next(cell, cap.share, accepted, kind)

    def _joule(self, cell: _Cell, cap: _Cap, kind: int) -> float:
        """Power of a board and its part of the host times the time, against one second without a cap."""
        time, power = cap.mean()
        return (power * cell.free_w + self.host_w[kind]) * max(time, 1.0)

    def _best_joule(self, cell: _Cell, besides: _Cap, kind: int) -> float:
        found = cell.free_w + self.host_w[kind]
        for other in cell.tried:
            if other is not besides and other.share * cell.free_w == cell.chosen_w:
                found = min(found, self._joule(cell, other, kind))
        return found

    def _next(self, cell: _Cell, share: float, accepted: bool, kind: int) -> float | None:
        if len(cell.tried) >= self.most_caps:
            return None
        lower = [one for one in _SHARES if one < share - 1e-9]
        wanted = (lower[0] if lower else None) if accepted else (_MILDER if share == _SHARES[0] else None)
        if wanted is not None and self._watt(cell, wanted, kind) is None:
            return None
        return wanted
