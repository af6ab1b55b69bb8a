"""The node-hours of one cluster -> advice about its idle nodes: which may sleep, and which draw too much at rest.

- Nodes that draw and do nothing, and jobs that hold nodes and do nothing: by name, with the kWh they waste.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.config.sections import OptimizeSettings, PowerDownSettings
from lepton_etl.days import Days
from lepton_etl.recommend.advice import Advice, Promise, Subject
from lepton_etl.recommend.consolidation import Node, Rules, consolidate

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


# What `node_advice` takes of gold/node_hour.
COLUMNS: Final = (
    "site_id", "cluster_id", "rack_id", "node_id", "node_kind", "hour_start", "it_energy_kwh", "power_mean_w",
    "idle_energy_kwh", "idle_power_w",
)  # fmt: skip
DAY_H: Final = 24
# An hour with less work than this is an idle one.
_IDLE_SHARE: Final = 0.9
# Idle hours from which their power is the node's idle power, rather than the inventory's.
_LEAST_IDLE_H: Final = 12
_LEAST_DAYS: Final = 7
_NAMED: Final = 12


@dataclass(frozen=True, slots=True)
class Grid:
    """Nodes by hours up to the day's end: W and whether it worked (NaN unknown), each (N, H)."""

    site_id: str
    cluster_id: str
    node_ids: tuple[str, ...]
    racks: tuple[str | None, ...]
    kinds: tuple[str, ...]
    listed_idle_w: Floats
    power_w: Floats
    busy: Floats


def node_advice(rows: pl.DataFrame, day: date, settings: OptimizeSettings) -> list[Advice]:
    """Advice for the day after `day` from COLUMNS of one cluster's hours of the days up to it."""
    grid = _grid(rows, day, settings.history_days)
    idle = [_idle_power_w(grid, at) for at in range(len(grid.node_ids))]
    down = settings.power_down
    asleep = _named_only(grid, settings, day) if down is None else _sleepers(grid, idle, down, day)
    return [*asleep, *_drawers(grid, idle, settings, day)]


def _grid(rows: pl.DataFrame, day: date, days: int) -> Grid:
    end = Days.of(day).until_time
    hours = days * DAY_H
    nodes = rows.sort("node_id", "hour_start").group_by("node_id", maintain_order=True).agg(
        pl.col("rack_id").last(), pl.col("node_kind").last(), pl.col("idle_power_w").last()
    )  # fmt: skip
    order = {node: at for at, node in enumerate(nodes["node_id"])}
    back = ((pl.lit(end) - pl.col("hour_start")).dt.total_seconds() // 3600).cast(pl.Int64)
    share = pl.col("idle_energy_kwh") / pl.col("it_energy_kwh")
    busy = pl.when(share.is_finite()).then((share < _IDLE_SHARE).cast(pl.Float64))
    cells = rows.select("node_id", "power_mean_w", back.alias("back"), busy.alias("busy")).filter(
        pl.col("back").is_between(1, hours)
    )
    power_w, works = np.full((len(order), hours), np.nan), np.full((len(order), hours), np.nan)
    at = np.array([order[node] for node in cells["node_id"]], dtype=np.int64)
    column = hours - cells["back"].to_numpy()
    power_w[at, column] = cells["power_mean_w"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    works[at, column] = cells["busy"].fill_null(np.nan).to_numpy()
    first = rows.row(0, named=True)
    return Grid(
        first["site_id"], first["cluster_id"], tuple(nodes["node_id"]), tuple(nodes["rack_id"]),
        tuple(kind or "compute" for kind in nodes["node_kind"]),
        nodes["idle_power_w"].cast(pl.Float64).fill_null(np.nan).to_numpy(), power_w, works,
    )  # fmt: skip


def _idle_power_w(grid: Grid, at: int) -> Promise | None:
    """Idle power of a node by its idle hours before the newest day (5th, 50th, 95th percentile), else as listed."""
    before = slice(0, grid.power_w.shape[1] - DAY_H)
    idle = grid.power_w[at, before][grid.busy[at, before] == 0]
    idle = idle[np.isfinite(idle)]
    if len(idle) >= _LEAST_IDLE_H:
        low, middle, high = np.quantile(idle, [0.05, 0.5, 0.95])
        return Promise(float(middle), float(low), float(high))
    listed = float(grid.listed_idle_w[at])
    return Promise(listed, 0.85 * listed, 1.15 * listed) if np.isfinite(listed) and listed > 0 else None


def _sleepers(grid: Grid, idle: Sequence[Promise | None], down: PowerDownSettings, day: date) -> list[Advice]:
    """One advice a cluster: the nodes that forecast demand, reserve and racks do not need on the next day."""
    demand = _demand(grid, down.demand_quantile_ratio)
    if demand is None:
        return []
    nodes = [_node(grid, at, power, down) for at, power in enumerate(idle)]
    rules = Rules(down.reserve_nodes, down.reserve_ratio, down.least_on_per_rack)
    runs = consolidate(nodes, {grid.cluster_id: demand}, down.demand_quantile_ratio, rules).runs
    worth = [run for run in runs if run.saving_kwh > 0]
    if not worth:
        return []
    names = sorted({run.node_id for run in worth})
    start, end = _next_day(day)
    return [
        Advice(
            Subject(grid.site_id, grid.cluster_id), "consolidate", "power_down",
            f"put {len(names)} of {len(grid.node_ids)} nodes of {grid.cluster_id} to sleep: {_listed(names)}",
            start, end, sum(run.baseline_kwh for run in worth),
            Promise(
                sum(run.saving_kwh for run in worth), sum(run.saving_lower_kwh for run in worth),
                sum(run.saving_upper_kwh for run in worth),
            ),
            "idle power of the nodes' own idle hours less standby, wakings paid; cooling not counted",
            guard_rail=f"{down.demand_quantile_ratio:.0%} of like hours' demand, {down.reserve_nodes} nodes and "
            f"{down.reserve_ratio:.0%} in reserve, {down.least_on_per_rack} on in every rack",
            parameters={
                "nodes": names,
                "runs": [
                    {
                        "node_id": run.node_id,
                        "down_from": (start + timedelta(hours=run.from_h)).isoformat(),
                        "up_by": (start + timedelta(hours=run.until_h)).isoformat(),
                    }
                    for run in worth
                ],
            },
        )
    ]  # fmt: skip


def _node(grid: Grid, at: int, idle: Promise | None, down: PowerDownSettings) -> Node:
    """A node as the planner takes it; one whose idle power is not known serves, and saves nothing asleep."""
    standby_w, drawn_w = down.standby_power_w, grid.power_w[at, -1]
    power = idle or Promise(standby_w, standby_w, standby_w)
    return Node(
        grid.node_ids[at],
        grid.cluster_id,
        units=1.0,
        idle_w=power.expected,
        idle_lower_w=power.lower,
        idle_upper_w=power.upper,
        standby_w=standby_w,
        wake_h=down.wake_s / 3600,
        wake_kwh=down.wake_kwh,
        domains={"rack": rack} if (rack := grid.racks[at]) else {},
        # When a job ends is not known: a node that works at midnight is not planned with.
        free_from_h=0 if grid.busy[at, -1] == 0 else DAY_H,
        kind=grid.kinds[at],
        on=bool(np.isfinite(drawn_w) and drawn_w > 0.5 * power.lower),
    )


def _demand(grid: Grid, quantile: float) -> Floats | None:
    """Nodes that worked at each hour of the day, (24,): the quantile over days; None: too few days are known."""
    known = np.isfinite(grid.busy).any(axis=0)
    # What is not known of a node in an hour that others are known in counts as work.
    count = np.where(np.isfinite(grid.busy), grid.busy, 1.0).sum(axis=0)
    by_day = np.where(known, count, np.nan).reshape(-1, DAY_H)
    whole = by_day[np.isfinite(by_day).all(axis=1)]
    if len(whole) < _LEAST_DAYS:
        return None
    return np.asarray(np.ceil(np.quantile(whole, quantile, axis=0)), dtype=np.float64)


def _named_only(grid: Grid, settings: OptimizeSettings, day: date) -> list[Advice]:
    """Nodes without a job at the end of the day, by name: without a standby power nothing can be promised."""
    newest = grid.busy[:, -settings.idle_h :]
    is_compute = np.array([kind == "compute" for kind in grid.kinds])
    names = [grid.node_ids[at] for at in np.flatnonzero((newest == 0).all(axis=1) & is_compute)]
    if not names:
        return []
    start, end = _next_day(day)
    return [
        Advice(
            Subject(grid.site_id, grid.cluster_id), "idle", "look_at_idle_nodes",
            f"{len(names)} of {len(grid.node_ids)} nodes of {grid.cluster_id} had no work for {settings.idle_h} h and "
            f"more: {_listed(names)}",
            start, end, None, None, "no promise: optimize.power_down does not state what sleeping saves",
            parameters={"nodes": names},
        )
    ]  # fmt: skip


def _drawers(
    grid: Grid, idle: Sequence[Promise | None], settings: OptimizeSettings, day: date
) -> list[Advice]:
    """Nodes that draw more at rest than they use to, each by name; the promise is the next day at the same excess."""
    seen = slice(-DAY_H, None)
    nodes = [
        NodeHours(
            name, grid.cluster_id, grid.power_w[at, seen], grid.busy[at, seen], power.expected, power.lower, power.upper
        )
        for at, name in enumerate(grid.node_ids)
        if (power := idle[at]) is not None
    ]  # fmt: skip
    start, end = _next_day(day)
    found = []
    for waste in idle_waste(nodes, IdleRules(idle_h=settings.idle_h)):
        if waste.kind != "excess":
            continue
        a_day = DAY_H / waste.hours
        found.append(
            Advice(
                Subject(grid.site_id, grid.cluster_id, waste.subject_id), "idle", "release_node",
                f"{waste.subject_id} drew {1000 * waste.baseline_kwh / waste.hours:.0f} W without work for "
                f"{waste.hours} h, {1000 * waste.wasted_kwh / waste.hours:.0f} W more than it uses to: find what holds "
                "it, or reset it",
                start, end, waste.baseline_kwh * a_day,
                Promise(waste.wasted_kwh, waste.wasted_lower_kwh, waste.wasted_upper_kwh).times(a_day),
                "the newest day's excess over the node's own idle hours, if it goes on",
            )
        )  # fmt: skip
    return found


def _next_day(day: date) -> tuple[datetime, datetime]:
    start = Days.of(day).until_time
    return start, start + timedelta(days=1)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
