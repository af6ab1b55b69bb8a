"""The simulated site of one seed: its weather, jobs and meters, and the plant around an arm's nodes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.replay_cluster import Jobs
from bench.replay_policy import CoolingLimits, CoolingPlanner, JobLog
from bench.replay_queue import ON, Replayed
from bench.savings_inputs import (
    Outdoors,
    Site,
    make_jobs,
    make_site,
    outdoors,  # fmt: skip
)
from bench.savings_plant import Hours, Metered, rack_hours, run_plant
from bench.savings_truth import Curves, curves
from lepton_etl.recommend.replay import Floats

DAY_S: Final = 86400.0
TAIL_DAYS: Final = 10
_GUARD_K: Final = 1.0


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
        spare = len(self.outdoors.wet_bulb_c) // 24 - before - days - TAIL_DAYS - 2
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


@dataclass(frozen=True)
class Arm:
    """One arm of one seed: energy until all arms are done, kWh, the hours of the plant, and how the jobs went."""

    energy_kwh: float
    metered: Metered
    supply_c: Floats
    ran: Replayed


class Cooling:
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


def run_arm(
    world: World, cool: Cooling, ran: Replayed, planned_cooling: bool, hours: int, before: int
) -> Arm:
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
