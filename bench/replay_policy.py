"""Plan a policy: which of the levers are pulled, each from what earlier logs taught.

Finished jobs tell of the next ones how much of the requested time is used, board power, and how many nodes to keep on.

Caps are learned while jobs run. Throughput under a cap is set against that of the same workload on the same class in
the logs from before any cap, or, without such, against an uncapped start of the job itself. Every logged stretch
under a cap counts, from the moment that it is logged and for all jobs of the workload. Caps are tried from a mild one
down in steps that shrink near the bound, then by halving between the lowest that held and the highest that did not.
Trials are in the replay with their energy and time. Nothing is promised where nothing was tried.
Source: You, Chung and Chowdhury, Zeus, NSDI 2023 (profiling within the job).

The set point of the supply air follows, hour by hour, what the meters have shown of cooling against outdoors:

    cooling_kwh / heat_kwh = c(wet bulb - set point) + a (set point - usual) + b heat / largest heat
    it_kwh(T)              = it_kwh (1 + l (T - usual) + s max(T - T_knee, 0))

c is linear between knots. Warmer supply acts as cooler weather, so c is learned from the weather before any set point
has moved; a is what is left of that, drawn to 0 until the set point has moved. l (leakage) and s (fans) are design
values; s is learned on from the hours at other set points. The plant itself is another equation.
Source: ASHRAE TC 9.9, Thermal Guidelines, 5th edition (2021), for the envelope and the rate of change.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bench.replay_cluster import Flags, Jobs, Measured, Nodes, Run, Setting, Trial
from bench.replay_queue import (
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
)
from lepton_etl.recommend.replay import Floats, Ints


@dataclass(frozen=True, slots=True)
class JobLog:
    """Finished jobs as logs have them: instants and durations, s; board power by its sensor, W.

    `any_class` marks jobs that named no class of nodes.
    """

    begin_s: Floats
    runtime_s: Floats
    requested_s: Floats
    workload: Ints
    hardware_class: Ints
    gpus: Ints
    gpu_w: Floats
    any_class: Flags

    def where(self, chosen: Flags) -> JobLog:
        """Some of the jobs."""
        return JobLog(
            self.begin_s[chosen], self.runtime_s[chosen], self.requested_s[chosen], self.workload[chosen],
            self.hardware_class[chosen], self.gpus[chosen], self.gpu_w[chosen], self.any_class[chosen],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Habits:
    """Mean of actual over requested time, mean board power, W, and ten-minute windows logged, (workloads, classes)."""

    used_ratio: Floats
    gpu_w: Floats
    windows: Floats


def habits(log: JobLog, workloads: int, classes: int, *, prior_jobs: float = 5.0) -> Habits:
    """Means of each workload on each class, drawn to those of the workload, then of the class, where jobs are few.

    Time is compared between classes on jobs that name none, where there are some: who names a class asks for the time
    that the job takes there, who names none for that on the slowest. A workload never seen has the means of the class.
    Raises ValueError where a class has no job at all.
    """
    free = log.where(log.any_class)
    if len(np.unique(free.hardware_class)) < classes:
        free = log
    return Habits(
        _shrunk(free.runtime_s / free.requested_s, free, workloads, classes, prior_jobs),
        _shrunk(log.gpu_w, log, workloads, classes, prior_jobs),
        windows_logged(log, workloads, classes),
    )


def windows_logged(log: JobLog, workloads: int, classes: int, window_s: float = 600.0) -> Floats:
    """Whole windows of each workload on each class, (workloads, classes)."""
    found = np.zeros((workloads, classes))
    np.add.at(found, (log.workload, log.hardware_class), np.floor(log.runtime_s / window_s))
    return found


def _shrunk(values: Floats, log: JobLog, workloads: int, classes: int, prior_jobs: float) -> Floats:
    cell = log.workload * classes + log.hardware_class
    count = np.bincount(cell, minlength=workloads * classes).reshape(workloads, classes)
    total = np.bincount(cell, values, minlength=workloads * classes).reshape(workloads, classes)
    if (count.sum(axis=0) == 0).any():
        raise ValueError(
            f"no job has run on class {int(np.argmin(count.sum(axis=0)))}: nothing is known of it"
        )
    by_class = total.sum(axis=0) / count.sum(axis=0)
    # A workload's own level, over what its classes would give by themselves.
    expected = (count * by_class).sum(axis=1)
    level = (total.sum(axis=1) + prior_jobs * by_class.mean()) / (expected + prior_jobs * by_class.mean())
    prior = level[:, None] * by_class[None, :]
    return np.asarray((total + prior_jobs * prior) / (count + prior_jobs), dtype=np.float64)


def reserve_by_hour(
    log: JobLog, gpus_per_node: Ints, window_s: float, days: float, hour_at_start: float, quantile: float
) -> Ints:
    """Nodes of each class to keep on at each hour of the day, (classes, 24): boards begun within one wake, a quantile.

    `gpus_per_node` by class. Windows in which nothing begins count as 0.
    """
    found = np.zeros((len(gpus_per_node), 24), dtype=np.int64)
    windows = int(days * 86400.0 // window_s)
    hour = ((hour_at_start + np.arange(windows) * window_s / 3600.0) % 24).astype(np.int64)
    for kind, size in enumerate(gpus_per_node):
        mine = (log.hardware_class == kind) & (log.begin_s < windows * window_s)
        begun = np.bincount(
            (log.begin_s[mine] // window_s).astype(np.int64), log.gpus[mine], minlength=windows
        )
        for clock in range(24):
            wanted = float(np.quantile(begun[hour == clock], quantile))
            found[kind, clock] = int(np.ceil(wanted / size))
    return found


def break_even_s(idle_w: float, sleep_w: float, wake_w: float, wake_s: float, shut_down_s: float) -> float:
    """The idle time after which sleeping costs no more than staying on, s: the timeout that is never twice as dear.

    Source: Karlin, Manasse, McGeoch and Owicki, Competitive randomized algorithms, Algorithmica 11 (1994).
    """
    return (wake_s * (wake_w - sleep_w) + shut_down_s * (idle_w - sleep_w)) / (idle_w - sleep_w)


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


@dataclass(frozen=True, slots=True)
class CoolingLimits:
    """What the set point keeps to, degC and K: the hottest inlet, the coldest supply, the change in an hour."""

    usual_c: float
    inlet_max_c: float
    supply_min_c: float
    ramp_k_per_h: float
    hottest_above_supply_k: float
    guard_k: float

    @property
    def supply_max_c(self) -> float:
        """The warmest supply at which the hottest inlet stays inside, degC."""
        return self.inlet_max_c - self.hottest_above_supply_k - self.guard_k


@dataclass(slots=True)
class CoolingPlanner:
    """Learns by `learn` from metered hours and chooses by `choose`.

    The usual set point is left only for an expected gain of `worth_ratio` of the energy of IT and cooling or more.
    """

    limits: CoolingLimits
    knots: int = 6
    it_knee_above_k: float = 1.0
    it_leak_per_k: float = 0.001
    it_design_per_k: float = 0.005
    it_prior_k2h: float = 24.0
    worth_ratio: float = 0.004
    coefficients: Floats = field(default_factory=lambda: np.zeros(0))
    knots_k: Floats = field(default_factory=lambda: np.zeros(0))
    largest_kwh: float = 1.0
    it_rise_per_k: float = 0.005

    def __post_init__(self) -> None:
        self.it_rise_per_k = self.it_design_per_k

    def learn(
        self, heat_kwh: Floats, cooling_kwh: Floats, wet_bulb_c: Floats, supply_c: Floats,
        it_kwh: Floats, it_expected_kwh: Floats,
    ) -> None:  # fmt: skip
        """Fit both answers to hours that have been metered, (hours,) each.

        `it_expected_kwh` is the IT energy that the running work should take at the usual set point, by a model of
        earlier logs.
        """
        self.largest_kwh = float(heat_kwh.max())
        lift = wet_bulb_c - supply_c
        if not len(self.knots_k):
            low, high = np.quantile(lift, [0.02, 0.98])
            # Warmer supply looks at cooler weather than was seen: the slope below the lowest knot goes on.
            self.knots_k = np.linspace(low, high, self.knots)
        rows = self._rows(lift, supply_c, heat_kwh)
        # Second differences of c are kept small, and a near 0, by rows of their own.
        keep = np.full(rows.shape[1], 1e-3)
        keep[2 : 2 + self.knots - 1] = 0.03
        keep[-2] = 0.3
        sized = np.vstack([rows, np.diag(keep * np.sqrt(len(rows)) * 0.1)])
        goal = np.concatenate([cooling_kwh / heat_kwh, np.zeros(rows.shape[1])])
        self.coefficients = np.linalg.lstsq(sized, goal, rcond=None)[0]
        self._learn_it(supply_c, it_kwh / it_expected_kwh)

    def _learn_it(self, supply_c: Floats, ratio: Floats) -> None:
        above = self._above(supply_c)
        moved = above > 0
        if not moved.any() or moved.all():
            return
        level = float(np.median(ratio[~moved]))
        leak = self.it_leak_per_k * (supply_c - self.limits.usual_c)
        seen = float((above * (ratio / level - 1.0 - leak)).sum())
        weight = float((above**2).sum())
        prior = self.it_prior_k2h
        self.it_rise_per_k = max((seen + prior * self.it_design_per_k) / (weight + prior), 0.0)

    def _above(self, supply_c: Floats) -> Floats:
        return np.asarray(np.maximum(supply_c - self.limits.usual_c - self.it_knee_above_k, 0.0))

    def _rows(self, lift: Floats, supply_c: Floats, heat_kwh: Floats) -> Floats:
        hinges = [np.maximum(lift - knot, 0.0) for knot in self.knots_k[:-1]]
        moved = supply_c - self.limits.usual_c
        return np.column_stack([np.ones_like(lift), lift, *hinges, moved, heat_kwh / self.largest_kwh])

    def expected(self, supply_c: Floats, it_kwh: float, heat_kwh: float, wet_bulb_c: float) -> Floats:
        """IT and cooling energy of an hour at each set point, kWh; `it_kwh` is at the usual one."""
        grown = 1.0 + self.it_leak_per_k * (supply_c - self.limits.usual_c)
        grown = grown + self.it_rise_per_k * self._above(supply_c)
        heat = heat_kwh * grown
        ratio = (
            self._rows(wet_bulb_c - supply_c, supply_c, np.full_like(supply_c, heat_kwh)) @ self.coefficients
        )
        return np.asarray(it_kwh * grown + heat * np.maximum(ratio, 0.0))

    def choose(self, now_c: float, it_kwh: float, heat_kwh: float, wet_bulb_c: float) -> float:
        """The set point of the next hour, degC, from the present one and the last hour's IT, heat and weather."""
        limits = self.limits
        warmest = max(limits.supply_max_c, limits.supply_min_c)
        points = np.arange(limits.supply_min_c, warmest + 1e-9, 0.25)
        expected = self.expected(points, it_kwh, heat_kwh, wet_bulb_c)
        usual = float(self.expected(np.array([limits.usual_c]), it_kwh, heat_kwh, wet_bulb_c)[0])
        # Where cooling is free the expected gain is smaller than the model's own error: the usual point stays.
        worth = usual - float(expected.min()) >= self.worth_ratio * usual
        wanted = float(points[np.argmin(expected)]) if worth else limits.usual_c
        ramp = limits.ramp_k_per_h
        return float(np.clip(np.clip(wanted, now_c - ramp, now_c + ramp), limits.supply_min_c, warmest))


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
