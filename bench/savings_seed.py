"""One seed of the simulated site: its world, what its planner learns, all arms, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.savings_inputs import (
    Curves,
    Outdoors,
    Site,
    curves,
    make_jobs,
    make_site,
    outdoors,
    parameters,
)  # fmt: skip
from bench.savings_plant import Hours, Metered, rack_hours, run_plant
from bench.savings_verify import Period, Verified, standard_work, verified
from lepton_etl.optimize.replay.caps import LearnedCaps
from lepton_etl.optimize.replay.cluster import Floats, Jobs
from lepton_etl.optimize.replay.cooling import CoolingLimits, CoolingPlanner
from lepton_etl.optimize.replay.habits import JobLog, habits
from lepton_etl.optimize.replay.ours import (
    CAPS,
    COOLING,
    LEVERS,
    PACKING,
    POWER_DOWN,
    Known,
    planned,
    shifted,
)
from lepton_etl.optimize.replay.queue import Replayed, replay_queue
from lepton_etl.optimize.replay.state import ON

_DAY_S: Final = 86400.0
_TAIL_DAYS: Final = 10
_GUARD_K: Final = 1.0
ARMS: Final = {
    "baseline": frozenset[str](), "all": frozenset(LEVERS), CAPS: frozenset({CAPS}), PACKING: frozenset({PACKING}),
    POWER_DOWN: frozenset({POWER_DOWN}), COOLING: frozenset({COOLING}),
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One arm of one seed: energy until all arms are done, kWh, the hours of the plant, and how the jobs went."""

    energy_kwh: float
    metered: Metered
    supply_c: Floats
    ran: Replayed


@dataclass(frozen=True)
class Outcome:
    """What one seed at one utilisation showed."""

    seed: int
    utilisation: float
    zone: str
    reached: float
    jobs: int
    saving: dict[str, float]
    newly_missed: dict[str, int]
    missed: dict[str, int]
    hottest_c: float
    overrun: int
    slowed: int
    capped: int
    worst_slowdown: float
    wait_h: dict[str, float]
    shift_carbon: float
    shift_cost: float
    shift_newly_missed: int
    verified: Verified
    kwh: dict[str, float]


class World:
    """One seed's site, weather, jobs before and in the period; and what its meters say, with their errors."""

    def __init__(self, data: Path, told: dict[str, Any], utilisation: float, number: int) -> None:
        self.told, self.number = told, number
        self.rng = np.random.default_rng([told["seeds"]["first"], number, round(1000 * utilisation)])
        zones = told["weather_and_grid"]["zones"]
        self.curves: Curves = curves(data, told)
        self.site: Site = make_site(told, np.random.default_rng([told["seeds"]["first"], number]))
        self.outdoors: Outdoors = outdoors(data, told, zones[number % len(zones)])
        self.gpu_gain = 1.0 + self.rng.normal(0.0, told["meters"]["gpu_gain"])
        before, days = told["jobs"]["days_before"], told["jobs"]["days"]
        spare = len(self.outdoors.wet_bulb_c) // 24 - before - days - _TAIL_DAYS - 2
        seeds = told["jobs"]["seeds"]
        # Seasons are spread over the seeds of a zone.
        day = round((number // len(zones) + 0.5) / max(seeds // len(zones), 1) * spare) % spare
        self.first_hour = 24 * day
        start = self.outdoors.first + timedelta(hours=self.first_hour + self.outdoors.utc_offset_h)
        self.hour_before = start.hour + start.minute / 60.0
        late = start + timedelta(days=before)
        nodes = self.site.nodes
        self.jobs_before, self.truth_before = make_jobs(
            told,
            self.curves,
            nodes,
            utilisation,
            before,
            start.replace(tzinfo=None),
            self.rng,
            self.gpu_gain,
            number,
        )
        self.jobs, self.truth = make_jobs(
            told,
            self.curves,
            nodes,
            utilisation,
            days,
            late.replace(tzinfo=None),
            self.rng,
            self.gpu_gain,
            number,
        )
        noise = told["meters"]
        self.facility_gain = 1.0 + self.rng.normal(0.0, noise["facility_gain"])
        self.cooling_gain = 1.0 + self.rng.normal(0.0, noise["cooling_gain"])
        self.rated_w = float(
            sum(
                (one["host_full_w"] + told["nodes"]["gpus_per_node"] * self.curves.caps_w[kind].max())
                * told["nodes"]["racks_per_class"] * told["nodes"]["nodes_per_rack"]
                for kind, one in enumerate(told["nodes"]["classes"].values())
            )
        )  # fmt: skip

    def weather(self, days_in: int, hours: int) -> Floats:
        """Wet bulb of hours from a day of the seed on, degC."""
        first = self.first_hour + 24 * days_in
        return self.outdoors.wet_bulb_c[first : first + hours]

    def supply(self, wanted_c: Floats, rng: np.random.Generator) -> Floats:
        """The air as it comes: the set point with the control's error."""
        return np.asarray(
            wanted_c + rng.normal(0.0, self.told["facility"]["set_point_noise_k"], len(wanted_c))
        )

    def plant(self, hours: Hours, supply_c: Floats, wet_bulb_c: Floats) -> Metered:
        return run_plant(self.told["facility"], self.site, hours, supply_c, wet_bulb_c, self.rated_w)

    def job_log(self, jobs: Jobs, ran: Replayed, rng: np.random.Generator) -> JobLog:
        """Finished jobs as accounting and board sensors have them."""
        noise = self.gpu_gain * (1.0 + rng.normal(0.0, self.told["meters"]["gpu_noise"], len(jobs)))
        return JobLog(
            ran.begin_s, ran.end_s - ran.begin_s, jobs.requested_s, jobs.workload, ran.hardware_class, jobs.gpus,
            ran.gpu_w * noise, np.asarray(jobs.allowed.all(axis=1)),
        )  # fmt: skip


def run_seed(data: Path, utilisation: float, number: int, split: bool = True) -> Outcome:
    """All arms of one seed at one utilisation; without `split` neither the levers alone nor time shifting."""
    told = parameters()
    world = World(data, told, utilisation, number)
    before, days = told["jobs"]["days_before"], told["jobs"]["days"]
    nodes, setting = world.site.nodes, told["power_down_of_the_site"]
    timeout_s, depth = float(setting["idle_timeout_s"]), int(told["scheduler"]["backfill_depth"])

    def known(log: JobLog) -> Known:
        return Known(
            timeout_s, log, float(before), world.hour_before, world.hour_before,
            habits(log, len(world.curves.names), nodes.classes),
            np.array([caps.min() for caps in world.curves.caps_w]),
            np.array([caps.max() for caps in world.curves.caps_w]), depth,
        )  # fmt: skip

    rng = np.random.default_rng([world.number, round(1000 * utilisation), 1])
    plain = planned(nodes, known(_nothing(world)), frozenset())
    ran_before = replay_queue(nodes, world.jobs_before, world.truth_before, plain)
    full_log = world.job_log(world.jobs_before, ran_before, rng)
    log = full_log.where(ran_before.end_s <= before * _DAY_S)
    hours_before = rack_hours(world.site, ran_before.segments, 24 * before)
    usual = float(told["facility"]["supply_air_c"])
    supply_before = world.supply(np.full(24 * before, usual), rng)
    wet_before = world.weather(0, 24 * before)
    past = world.plant(hours_before, supply_before, wet_before)

    until_s = (days + _TAIL_DAYS) * _DAY_S
    runs: dict[str, Replayed] = {}
    shown = [name for name in ARMS if split or name in ("baseline", "all")]
    for name in shown:
        levers = ARMS[name]
        if name == COOLING:
            runs[name] = runs["baseline"]
            continue
        policy = planned(nodes, known(log), levers)
        runs[name] = replay_queue(nodes, world.jobs, world.truth, policy, until_s=until_s)
        if name == "all":
            assert isinstance(policy.caps, LearnedCaps)
            learned = policy.caps
    moved = runs["all"]
    if split:
        release = shifted(
            world.jobs, known(log).habits, _forecast(world, before), 3600.0, margin_s=4 * 3600.0, stretch=1.1
        )
        moved = replay_queue(
            nodes, replace(world.jobs, release_s=release), world.truth, planned(nodes, known(log), ARMS["all"]),
            until_s=until_s,
        )  # fmt: skip
    hours = int(np.ceil(max(ran.end_s.max() for ran in [*runs.values(), moved]) / 3600.0))
    cool = _Cooling(world, hours_before, past, supply_before, wet_before, ran_before, full_log)
    arms = {name: _arm(world, cool, ran, COOLING in ARMS[name], hours, before) for name, ran in runs.items()}
    later = _arm(world, cool, moved, True, hours, before)
    return _outcome(
        world, utilisation, arms, later, past, wet_before, log, full_log, ran_before, learned, days
    )


def _nothing(world: World) -> JobLog:
    """A log that knows one second of each class: for the baseline, which looks at none."""
    kinds = world.site.nodes.classes
    one = np.ones(kinds)
    return JobLog(
        one,
        one,
        one,
        np.zeros(kinds, dtype=np.int64),
        np.arange(kinds),
        np.ones(kinds, dtype=np.int64),
        one,
        one > 0,
    )


def _forecast(world: World, before: int) -> Floats:
    """At each hour of the period the mean of the same hours of the last seven days, g/kWh, 48 h ahead."""
    first = world.first_hour + 24 * before
    known = world.outdoors.intensity
    hours = 24 * (world.told["jobs"]["days"] + _TAIL_DAYS)
    found = np.empty((hours, 48))
    for row in range(hours):
        now = first + row
        week = known[now - 168 : now].reshape(7, 24).mean(axis=0)
        found[row] = np.tile(week, 2)
    return found


class _Cooling:
    """What the cooling's planner learned before the period."""

    def __init__(
        self,
        world: World,
        hours: Hours,
        past: Metered,
        supply_c: Floats,
        wet_c: Floats,
        ran: Replayed,
        log: JobLog,
    ) -> None:
        self.world = world
        told, noise = world.told["facility"], world.told["meters"]
        rng = np.random.default_rng([world.number, 3])
        offsets = np.array(
            [world.site.inlet_offset_k[world.site.rack == rack][0] for rack in range(len(hours.awake_w))]
        )
        inlet = (
            offsets[:, None]
            + supply_c
            + rng.normal(0.0, noise["inlet_noise_k"], (len(offsets), len(supply_c)))
        )
        above = float((inlet - supply_c).mean(axis=1).max())
        self.limits = CoolingLimits(
            float(told["supply_air_c"]), float(told["recommended_inlet_max_c"]), 18.0, 1.0, above, _GUARD_K
        )
        self.supply_c, self.wet_c = supply_c, wet_c
        self.cooling, self.it, self.heat = (
            self.read(values, rng) for values in (past.cooling_kwh, past.nodes_kwh, past.heat_kwh)
        )
        self.rows = self.load(ran, log, len(wet_c))
        self.model, *_ = np.linalg.lstsq(self.rows, self.it, rcond=None)

    def read(self, kwh: Floats, rng: np.random.Generator) -> Floats:
        noise = self.world.told["meters"]["cooling_noise"]
        return np.asarray(kwh * self.world.cooling_gain * (1.0 + rng.normal(0.0, noise, len(kwh))))

    def load(self, ran: Replayed, log: JobLog, hours: int) -> Floats:
        """Hourly regressors of the nodes' energy: nodes on, boards busy by class, board energy by its sensors."""
        nodes, seg = self.world.site.nodes, ran.segments
        columns = [np.ones(hours)]
        for kind in range(nodes.classes):
            mine = (nodes.hardware_class[seg.node] == kind) & (seg.state == ON)
            columns.append(spread_hours(seg.from_s[mine], seg.to_s[mine], np.ones(mine.sum()), hours))
            jobs = ran.hardware_class == kind
            for weight in (log.gpus, log.gpus * log.gpu_w / 1000.0):
                columns.append(
                    spread_hours(ran.begin_s[jobs], ran.end_s[jobs], weight[jobs].astype(float), hours)
                )
        return np.column_stack(columns)


def spread_hours(from_s: Floats, to_s: Floats, rate: Floats, hours: int) -> Floats:
    """The integral of rates over stretches, by hour: rate x hours."""
    found = np.zeros(hours)
    edge = np.zeros(hours + 2)
    low, high = np.minimum(from_s / 3600.0, hours), np.minimum(to_s / 3600.0, hours)
    # The integral of a step at x, taken at whole hours: whole hours after it, and the part of its own.
    for at, sign in ((low, 1.0), (high, -1.0)):
        whole = np.floor(at).astype(np.int64)
        part = at - whole
        np.add.at(edge, whole, sign * rate * (1.0 - part))
        np.add.at(edge, whole + 1, sign * rate * part)
    found[:] = np.cumsum(edge)[:hours]
    return found


def _arm(world: World, cool: _Cooling, ran: Replayed, planned_cooling: bool, hours: int, before: int) -> Arm:
    """The plant around one arm's nodes; the set point planned hour by hour, learned anew each day."""
    racks = rack_hours(world.site, ran.segments, hours)
    wet = world.weather(before, hours)
    usual = float(world.told["facility"]["supply_air_c"])
    rng = np.random.default_rng([world.number, 4])
    if not planned_cooling:
        supply = world.supply(np.full(hours, usual), rng)
        metered = world.plant(racks, supply, wet)
        return Arm(float(metered.facility_kwh.sum()), metered, supply, ran)
    log = world.job_log(world.jobs, ran, rng)
    expected = cool.load(ran, log, hours) @ cool.model
    planner = CoolingPlanner(cool.limits)
    supply, wanted = np.empty(hours), usual
    seen_cooling, seen_it, seen_heat = cool.cooling, cool.it, cool.heat
    seen_supply, seen_wet, seen_expected = cool.supply_c, cool.wet_c, cool.rows @ cool.model
    metered = world.plant(racks, np.full(hours, usual), wet)
    for start in range(0, hours, 24):
        planner.learn(seen_heat, seen_cooling, seen_wet, seen_supply, seen_it, seen_expected)
        stop = min(start + 24, hours)
        for hour in range(start, stop):
            last_wet = wet[hour - 1] if hour else cool.wet_c[-1]
            last_it = expected[hour - 1] if hour else seen_expected[-1]
            # The losses on the way and the air handlers' fans are heat too: their usual ratio.
            heat = last_it * float((cool.heat / cool.it).mean())
            wanted = planner.choose(wanted, last_it, heat, last_wet)
            supply[hour] = wanted
        supply[start:stop] = world.supply(supply[start:stop], rng)
        metered = world.plant(racks, np.where(np.arange(hours) < stop, supply, usual), wet)
        day = slice(start, stop)
        seen_cooling = np.concatenate([seen_cooling, cool.read(metered.cooling_kwh[day], rng)])
        seen_it = np.concatenate([seen_it, cool.read(metered.nodes_kwh[day], rng)])
        seen_heat = np.concatenate([seen_heat, cool.read(metered.heat_kwh[day], rng)])
        seen_supply = np.concatenate([seen_supply, supply[day]])
        seen_wet = np.concatenate([seen_wet, wet[day]])
        seen_expected = np.concatenate([seen_expected, expected[day]])
    return Arm(float(metered.facility_kwh.sum()), metered, supply, ran)


def _outcome(
    world: World, utilisation: float, arms: dict[str, Arm], later: Arm, past: Metered, wet_before: Floats, log: JobLog,
    full_log: JobLog, ran_before: Replayed, caps: LearnedCaps, days: int,
) -> Outcome:  # fmt: skip
    base, ours, jobs = arms["baseline"], arms["all"], world.jobs
    met = base.ran.end_s <= jobs.deadline_s
    window_s = days * _DAY_S
    seg = base.ran.segments
    inside_s = np.clip(np.minimum(seg.to_s, window_s) - seg.from_s, 0.0, None)
    reached = float((seg.busy_gpus * inside_s).sum() / world.site.nodes.gpus.sum() / window_s)
    first = world.first_hour + 24 * world.told["jobs"]["days_before"]
    hour = slice(first, first + len(base.metered.facility_kwh))
    mean = {
        name: [
            float(np.average(rate[hour], weights=arm.metered.facility_kwh))
            for rate in (world.outdoors.intensity, world.outdoors.price)
        ]
        for name, arm in (("all", ours), ("later", later))
    }  # fmt: skip
    slow = _slowdowns(world, ours.ran)
    return Outcome(
        seed=world.number, utilisation=utilisation, zone=world.outdoors.zone, reached=reached, jobs=len(jobs),
        saving={name: 1.0 - arm.energy_kwh / base.energy_kwh for name, arm in arms.items() if name != "baseline"},
        newly_missed={name: int((met & (arm.ran.end_s > jobs.deadline_s)).sum()) for name, arm in arms.items()},
        missed={name: int((arm.ran.end_s > jobs.deadline_s).sum()) for name, arm in arms.items()},
        hottest_c=max(float(arm.metered.hottest_inlet_c.max()) for arm in (*arms.values(), later)),
        overrun=ours.ran.overrun, slowed=int((slow > 0.05 + 1e-9).sum()), capped=len(slow),
        worst_slowdown=float(slow.max(initial=0.0)),
        wait_h={name: float((arm.ran.begin_s - jobs.submit_s).mean() / 3600.0) for name, arm in arms.items()},
        shift_carbon=1.0 - mean["later"][0] / mean["all"][0], shift_cost=1.0 - mean["later"][1] / mean["all"][1],
        shift_newly_missed=int((met & (later.ran.end_s > jobs.deadline_s)).sum()),
        verified=_verified(world, arms, past, wet_before, log, full_log, ran_before, caps),
        kwh={name: arm.energy_kwh for name, arm in arms.items()},
    )  # fmt: skip


def _verified(
    world: World, arms: dict[str, Arm], past: Metered, wet_before: Floats, log: JobLog, full_log: JobLog,
    ran_before: Replayed, caps: LearnedCaps,
) -> Verified:  # fmt: skip
    """The saving as logs alone show it: work and weather before and in the period, the facility's meter."""
    rng = np.random.default_rng([world.number, 5])
    ours, hours = arms["all"], len(arms["all"].metered.facility_kwh)
    known = habits(log, len(world.curves.names), world.site.nodes.classes)
    free = world.jobs_before.allowed.all(axis=1)
    share = np.bincount(ran_before.hardware_class[free], minlength=world.site.nodes.classes) / free.sum()
    jobs_log = world.job_log(world.jobs, ours.ran, rng)
    slowed = np.array([
        1.0 if cap is None else caps.time_ratio(int(world.jobs.workload[job]), int(ours.ran.hardware_class[job]), cap)
        for job, cap in enumerate(ours.ran.final_w)
    ])  # fmt: skip
    before = standard_work(
        full_log, world.jobs_before.allowed, np.ones(len(full_log.gpus)), known, share, len(wet_before)
    )
    after = standard_work(jobs_log, world.jobs.allowed, slowed, known, share, hours)
    days_before = world.told["jobs"]["days_before"]

    def meter(kwh: Floats) -> Floats:
        return np.asarray(
            kwh * world.facility_gain * (1 + rng.normal(0, world.told["meters"]["facility_noise"], len(kwh)))
        )

    truth = 1.0 - ours.energy_kwh / arms["baseline"].energy_kwh
    return verified(
        Period(before, wet_before, meter(past.facility_kwh)),
        Period(after, world.weather(days_before, hours), meter(ours.metered.facility_kwh)), truth, rng,
    )  # fmt: skip


def _slowdowns(world: World, ran: Replayed) -> Floats:
    """Time of each capped job over its time on the same class without a cap, less one; trials count."""
    found = [
        ran.end_s[job] - ran.begin_s[job] for job, setting in enumerate(ran.settings) if setting is not None
    ]
    free = [
        world.truth.run(job, int(ran.hardware_class[job]), None).duration_s
        for job, setting in enumerate(ran.settings)
        if setting is not None
    ]
    return np.array(found) / np.array(free) - 1.0 if found else np.zeros(0)
