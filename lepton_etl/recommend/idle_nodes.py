"""Advise on the idle nodes of one cluster from its node-hours: which may be powered down, which draw too much at rest.

Nodes power down where the settings state what standby draws; where they do not, nodes without work are named and
nothing is promised. Only what was seen counts: an hour whose power or work is unknown is neither idle nor wasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.config.sections import OptimizeSettings, PowerDownSettings
from lepton_etl.days import Days
from lepton_etl.recommend.advice import Advice, Subject, next_day
from lepton_etl.recommend.consolidation import Node, Rules, consolidate
from lepton_etl.uncertainty import Estimate

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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
class ClusterHours:
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
    """Return advice for the day after `day` from COLUMNS of one cluster's hours of the days up to it."""
    hours = _cluster_hours(rows, day, settings.history_days)
    idle = [_idle_power_w(hours, at) for at in range(len(hours.node_ids))]
    down = settings.power_down
    asleep = _without_work(hours, settings, day) if down is None else _power_down(hours, idle, down, day)
    return [*asleep, *_excess_power(hours, idle, settings, day)]


def _cluster_hours(rows: pl.DataFrame, day: date, days: int) -> ClusterHours:
    """Return the rows as arrays on the hours of the days up to the end of `day`."""
    end = Days.of(day).until_time
    length = days * DAY_H
    nodes = rows.sort("node_id", "hour_start").group_by("node_id", maintain_order=True).agg(
        pl.col("rack_id").last(), pl.col("node_kind").last(), pl.col("idle_power_w").last()
    )  # fmt: skip
    order = {node: at for at, node in enumerate(nodes["node_id"])}
    back = ((pl.lit(end) - pl.col("hour_start")).dt.total_seconds() // 3600).cast(pl.Int64)
    share = pl.col("idle_energy_kwh") / pl.col("it_energy_kwh")
    busy = pl.when(share.is_finite()).then((share < _IDLE_SHARE).cast(pl.Float64))
    cells = rows.select("node_id", "power_mean_w", back.alias("back"), busy.alias("busy")).filter(
        pl.col("back").is_between(1, length)
    )
    power_w, works = np.full((len(order), length), np.nan), np.full((len(order), length), np.nan)
    at = np.array([order[node] for node in cells["node_id"]], dtype=np.int64)
    column = length - cells["back"].to_numpy()
    power_w[at, column] = cells["power_mean_w"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    works[at, column] = cells["busy"].fill_null(np.nan).to_numpy()
    first = rows.row(0, named=True)
    return ClusterHours(
        first["site_id"], first["cluster_id"], tuple(nodes["node_id"]), tuple(nodes["rack_id"]),
        tuple(kind or "compute" for kind in nodes["node_kind"]),
        nodes["idle_power_w"].cast(pl.Float64).fill_null(np.nan).to_numpy(), power_w, works,
    )  # fmt: skip


def _idle_power_w(hours: ClusterHours, at: int) -> Estimate | None:
    """Return idle power by the idle hours before the newest day (5th, 50th, 95th percentile), else as listed."""
    before = slice(0, hours.power_w.shape[1] - DAY_H)
    idle = hours.power_w[at, before][hours.busy[at, before] == 0]
    idle = idle[np.isfinite(idle)]
    if len(idle) >= _LEAST_IDLE_H:
        low, middle, high = np.quantile(idle, [0.05, 0.5, 0.95])
        return Estimate(float(middle), float(low), float(high))
    listed = float(hours.listed_idle_w[at])
    return Estimate(listed, 0.85 * listed, 1.15 * listed) if np.isfinite(listed) and listed > 0 else None


def _power_down(
    hours: ClusterHours, idle: Sequence[Estimate | None], down: PowerDownSettings, day: date
) -> list[Advice]:
    """Return one advice: the nodes that forecast demand, reserve and racks do not need on the next day."""
    demand = _demand(hours, down.demand_quantile_ratio)
    if demand is None:
        return []
    nodes = [_node(hours, at, power, down) for at, power in enumerate(idle)]
    rules = Rules(down.reserve_nodes, down.reserve_ratio, down.least_on_per_rack)
    runs = consolidate(nodes, {hours.cluster_id: demand}, down.demand_quantile_ratio, rules)
    paying = [run for run in runs if run.saving_kwh.value > 0]
    if not paying:
        return []
    names = sorted({run.node_id for run in paying})
    start, end = next_day(day)
    return [
        Advice(
            Subject(hours.site_id, hours.cluster_id), "consolidate", "power_down",
            f"put {len(names)} of {len(hours.node_ids)} nodes of {hours.cluster_id} to sleep: {_listed(names)}",
            start, end, sum(run.baseline_kwh for run in paying),
            sum((run.saving_kwh for run in paying), Estimate(0.0, 0.0, 0.0)),
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
                    for run in paying
                ],
            },
        )
    ]  # fmt: skip


def _node(hours: ClusterHours, at: int, idle: Estimate | None, down: PowerDownSettings) -> Node:
    """Return a node as the planner takes it; one whose idle power is not known serves, and saves nothing asleep."""
    standby_w, drawn_w = down.standby_power_w, hours.power_w[at, -1]
    power = idle or Estimate(standby_w, standby_w, standby_w)
    return Node(
        hours.node_ids[at],
        hours.cluster_id,
        units=1.0,
        idle_w=power,
        standby_w=standby_w,
        wake_h=down.wake_s / 3600,
        wake_kwh=down.wake_kwh,
        domains={"rack": rack} if (rack := hours.racks[at]) else {},
        # When a job ends is not known: a node that works at midnight is not planned with.
        free_from_h=0 if hours.busy[at, -1] == 0 else DAY_H,
        kind=hours.kinds[at],
        on=bool(np.isfinite(drawn_w) and drawn_w > 0.5 * power.lower),
    )


def _demand(hours: ClusterHours, quantile: float) -> Floats | None:
    """Return nodes that worked at each hour of the day, (24,): the quantile over days; None: too few days are known."""
    known = np.isfinite(hours.busy).any(axis=0)
    # What is not known of a node in an hour that others are known in counts as work.
    count = np.where(np.isfinite(hours.busy), hours.busy, 1.0).sum(axis=0)
    by_day = np.where(known, count, np.nan).reshape(-1, DAY_H)
    whole = by_day[np.isfinite(by_day).all(axis=1)]
    if len(whole) < _LEAST_DAYS:
        return None
    return np.asarray(np.ceil(np.quantile(whole, quantile, axis=0)), dtype=np.float64)


def _without_work(hours: ClusterHours, settings: OptimizeSettings, day: date) -> list[Advice]:
    """Return nodes without a job at the end of the day, by name: without a standby power nothing can be promised."""
    newest = hours.busy[:, -settings.idle_h :]
    is_compute = np.array([kind == "compute" for kind in hours.kinds])
    names = [hours.node_ids[at] for at in np.flatnonzero((newest == 0).all(axis=1) & is_compute)]
    if not names:
        return []
    start, end = next_day(day)
    return [
        Advice(
            Subject(hours.site_id, hours.cluster_id), "idle", "look_at_idle_nodes",
            f"{len(names)} of {len(hours.node_ids)} nodes of {hours.cluster_id} had no work for {settings.idle_h} h "
            f"and more: {_listed(names)}",
            start, end, None, None, "no promise: optimize.power_down does not state what sleeping saves",
            parameters={"nodes": names},
        )
    ]  # fmt: skip


def _excess_power(
    hours: ClusterHours, idle: Sequence[Estimate | None], settings: OptimizeSettings, day: date
) -> list[Advice]:
    """Return nodes that draw more at rest than they used to, each by name, the largest excess first.

    The promise is the next day at the excess of the newest day's hours above the usual idle power.
    """
    start, end = next_day(day)
    found: list[tuple[float, str, Advice]] = []
    for at, name in enumerate(hours.node_ids):
        usual, power_w = idle[at], hours.power_w[at, -DAY_H:]
        if usual is None:
            continue
        at_rest = power_w[newest_run((hours.busy[at, -DAY_H:] == 0) & np.isfinite(power_w))]
        above = at_rest[at_rest > usual.upper] if len(at_rest) >= settings.idle_h else at_rest[:0]
        count = len(above)
        if count < settings.idle_h:
            continue
        drawn_kwh = float(above.sum()) / 1000
        excess = Estimate(
            drawn_kwh - usual.value * count / 1000, max(drawn_kwh - usual.upper * count / 1000, 0.0),
            drawn_kwh - usual.lower * count / 1000,
        )  # fmt: skip
        advice = Advice(
            Subject(hours.site_id, hours.cluster_id, name), "idle", "release_node",
            f"{name} drew {1000 * drawn_kwh / count:.0f} W without work for {count} h, "
            f"{1000 * excess.value / count:.0f} W more than it uses to: find what holds it, or reset it",
            start, end, drawn_kwh * DAY_H / count, excess.times(DAY_H / count),
            "the newest day's excess over the node's own idle hours, if it goes on",
        )  # fmt: skip
        found.append((-excess.value, name, advice))
    return [advice for *_, advice in sorted(found, key=lambda one: one[:2])]


def newest_run(holds: Bools) -> NDArray[np.int64]:
    """Return the rows of the run that reaches the newest hour; none where the newest hour does not hold."""
    broken = np.flatnonzero(~holds)
    return np.arange(int(broken[-1]) + 1 if len(broken) else 0, len(holds))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
