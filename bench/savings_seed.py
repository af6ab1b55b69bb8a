"""One seed of the simulated site: its world, what its planner learns, all arms, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.replay_policy import (
    CAPS,
    COOLING,
    LEVERS,
    PACKING,
    POWER_DOWN,
    JobLog,
    Known,
    LearnedCaps,
    habits,
    planned,
    shifted,
    windows_logged,
)
from bench.replay_queue import Replayed, replay_queue
from bench.savings_inputs import parameters  # fmt: skip
from bench.savings_plant import Metered, rack_hours
from bench.savings_verify import Period, Verified, standard_work, verified
from bench.savings_world import DAY_S, TAIL_DAYS, Arm, Cooling, World, run_arm
from lepton_etl.recommend.replay import Floats

ARMS: Final = {
    "baseline": frozenset[str](), "all": frozenset(LEVERS), CAPS: frozenset({CAPS}), PACKING: frozenset({PACKING}),
    POWER_DOWN: frozenset({POWER_DOWN}), COOLING: frozenset({COOLING}),
}  # fmt: skip


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
    log = full_log.where(ran_before.end_s <= before * DAY_S)
    world.truth = world.truth.knowing(windows_logged(log, len(world.curves.names), nodes.classes))
    hours_before = rack_hours(world.site, ran_before.segments, 24 * before)
    usual = float(told["facility"]["supply_air_c"])
    supply_before = world.supply(np.full(24 * before, usual), rng)
    wet_before = world.weather(0, 24 * before)
    past = world.plant(hours_before, supply_before, wet_before)

    until_s = (days + TAIL_DAYS) * DAY_S
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
    cool = Cooling(world, hours_before, past, supply_before, wet_before, ran_before, full_log)
    arms = {
        name: run_arm(world, cool, ran, COOLING in ARMS[name], hours, before) for name, ran in runs.items()
    }
    later = run_arm(world, cool, moved, True, hours, before)
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
    hours = 24 * (world.told["jobs"]["days"] + TAIL_DAYS)
    found = np.empty((hours, 48))
    for row in range(hours):
        now = first + row
        week = known[now - 168 : now].reshape(7, 24).mean(axis=0)
        found[row] = np.tile(week, 2)
    return found


def _outcome(
    world: World, utilisation: float, arms: dict[str, Arm], later: Arm, past: Metered, wet_before: Floats, log: JobLog,
    full_log: JobLog, ran_before: Replayed, caps: LearnedCaps, days: int,
) -> Outcome:  # fmt: skip
    base, ours, jobs = arms["baseline"], arms["all"], world.jobs
    met = base.ran.end_s <= jobs.deadline_s
    window_s = days * DAY_S
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
