"""Replay jobs of history under other policies: simple rules, a planned rule, the clairvoyant bound; a site at a time.

A job keeps the energy, the run time and the nodes that it had; only its start moves, within what it may wait and what
the site has room for. Facility energy is the job's own, so energy is equal under every policy by construction: what
differs is carbon, money, delay and deadlines. Hours count from the origin of the replay; series are steps of one hour,
NaN where unknown, begun `past` hours before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.errors import LeptonError
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ReplayError(LeptonError):
    """Inputs that no schedule can satisfy, or that contradict each other."""


POLICIES: Final = ("run_at_once", "cheapest_window", "threshold", "planned", "clairvoyant")
_DAY_H: Final = 24


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """How far a rule may go: hours that a job without a deadline may wait, and the threshold's quantile of the past."""

    flexibility_h: float = 24.0
    threshold_quantile: float = 0.25
    history_h: int = 168


@dataclass(frozen=True, slots=True)
class Signals:
    """Intensity, g/kWh, and price a kWh of each hour from `past` hours before the origin on.

    `forecasts` maps a decision's hour to what was expected of that hour and the next ones, where a forecast is at hand.
    """

    intensity: Floats
    price: Floats
    past: int
    forecasts: Callable[[int], Floats | None]


def wanted_start(
    policy: str, released_h: float, latest_h: float, lasts_h: float, signals: Signals, rules: HistoryRules
) -> float:
    """Return the hour at which a job wants to start, from its release to its latest start; ties start sooner.

    Only `clairvoyant` looks at intensities of hours that were not over at the release, and `threshold` at each hour's
    when that hour begins (its own is taken as known, as a live signal gives it). Prices are known ahead.
    """
    if policy == "run_at_once" or latest_h <= released_h:
        return released_h
    now = int(np.floor(released_h))
    starts = np.concatenate([[released_h], np.arange(now + 1, np.floor(latest_h) + 1)])
    if policy == "threshold":
        return _below(starts, signals, rules)
    if policy == "cheapest_window":
        ahead = signals.price[signals.past + now :]
    elif policy == "clairvoyant":
        ahead = signals.intensity[signals.past + now :]
    elif policy == "planned":
        found = signals.forecasts(now)
        ahead = (
            same_hours(signals.intensity[: signals.past + now], rules.history_h) if found is None else found
        )
    else:
        raise ReplayError(f"no policy {policy!r}", remedy=f"one of {', '.join(POLICIES)}")
    mean = window_means(ahead, starts - now, lasts_h)
    known = np.isfinite(mean)
    return float(starts[known][np.argmin(mean[known])]) if known.any() else released_h


def _below(starts: Floats, signals: Signals, rules: HistoryRules) -> float:
    """Return the first start whose hour lies below the quantile of the hours before it; the last where none does."""
    for start in starts:
        at = signals.past + int(np.floor(start))
        before = signals.intensity[max(at - rules.history_h, 0) : at]
        before = before[np.isfinite(before)]
        if len(before) and signals.intensity[at] <= np.quantile(before, rules.threshold_quantile):
            return float(start)
    return float(starts[-1])


def same_hours(before: Floats, history_h: int) -> Floats:
    """Return the mean of the same hours of the day over `history_h`, for two days ahead; NaN where none is known."""
    days = history_h // _DAY_H
    wanted = days * _DAY_H
    padded = np.concatenate([np.full(max(wanted - len(before), 0), np.nan), before[-wanted:]]).reshape(
        days, _DAY_H
    )
    seen = np.isfinite(padded)
    total = np.where(seen, padded, 0.0).sum(axis=0)
    day = np.where(seen.any(axis=0), total / np.maximum(seen.sum(axis=0), 1), np.nan)
    return np.tile(day, 2)


def window_means(hourly: Floats, starts_h: Floats, lasts_h: float) -> Floats:
    """Return mean of an hourly step series over [start, start + lasts]; NaN where it is left or not known."""
    found = np.full(len(starts_h), np.nan)
    for place, start in enumerate(starts_h):
        hours, share = spread(start, lasts_h)
        if hours[-1] < len(hourly):
            found[place] = float((hourly[hours] * share).sum())
    return found


def spread(start_h: float, lasts_h: float) -> tuple[Ints, Floats]:
    """Return the hours that a run touches and the share of its time in each; an instant lies in its hour."""
    first = int(np.floor(start_h))
    end = start_h + max(lasts_h, 1e-6)
    last = max(int(np.ceil(end - 1e-9)), first + 1)
    hours = np.arange(first, last)
    inside = np.minimum(hours + 1, end) - np.maximum(hours, start_h)
    return hours, np.asarray(inside / inside.sum())


_RUN_KEY: Final = ["site_id", "cluster_id", "job_id", "submit_time", "restart"]
_INTENSITY: Final = "carbon_intensity_gco2e_per_kwh"


@dataclass(frozen=True, slots=True)
class SiteTotals:
    """What one policy brought at one site. NaN: an hour that it ran in has no intensity, or no price."""

    policy: str
    jobs_completed: int
    energy_kwh: float
    emissions_kgco2e: float
    energy_cost: float
    delay_h: float
    deadlines_missed: int
    jobs_moved: int


def job_rows(job_energy: pl.DataFrame, job_run: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each run from gold/job_energy (a row a day) and silver/job_run, as `replay_site` takes them.

    Columns: the run's key, start_time, end_time, node_count, gpu_count, energy_kwh and energy_basis: facility energy,
    IT where a day of it is null. A run whose energy or end is unknown is left out.
    """
    energy = job_energy.group_by(_RUN_KEY).agg(
        pl.when(pl.col(name).is_null().any()).then(None).otherwise(pl.col(name).sum()).alias(name)
        for name in ("facility_energy_kwh", "it_energy_kwh")
    )
    runs = job_run.group_by(_RUN_KEY).agg(
        pl.col("start_time").min(),
        pl.col("end_time").max(),
        pl.col("node_count").max(),
        pl.col("gpu_count").max(),
    )
    by_facility = pl.col("facility_energy_kwh").is_not_null()
    return (
        runs.join(energy, on=_RUN_KEY, how="inner")
        .select(
            *_RUN_KEY, "start_time", "end_time", "node_count", "gpu_count",
            pl.coalesce("facility_energy_kwh", "it_energy_kwh").alias("energy_kwh"),
            pl.when(by_facility).then(pl.lit("facility")).otherwise(pl.lit("it")).alias("energy_basis"),
        )
        .drop_nulls(["start_time", "end_time", "node_count", "energy_kwh"])
    )  # fmt: skip


def replay_site(
    jobs: pl.DataFrame, node_capacity: int, intensity: pl.DataFrame,
    price: pl.DataFrame | None, policy: str, first: datetime, last: datetime,
    rules: HistoryRules | None = None, forecast: pl.DataFrame | None = None,
) -> SiteTotals:  # fmt: skip
    """Run one policy over the jobs of one site that were submitted in [first, last), in UTC.

    `jobs` as `job_rows` makes them, with `deadline_time` where there is one; a job without may wait
    `rules.flexibility_h`. `intensity`: hour_start and carbon_intensity_gco2e_per_kwh, one row an hour, with
    `rules.history_h` before `first`; `price`: hour_start and price (None: money is NaN); `forecast`: origin_time,
    hour_start and carbon_intensity_gco2e_per_kwh, for `planned`: the newest origin at or before the release; without,
    the same hours of the last week. `node_capacity` nodes may run at once, counted by the hour. A job that finds no
    room before its latest start goes as soon as there is some. Raises ReplayError naming the job or series at fault.
    """
    if policy not in POLICIES:
        raise ReplayError(f"no policy {policy!r}", remedy=f"one of {', '.join(POLICIES)}")
    if policy == "cheapest_window" and price is None:
        raise ReplayError("cheapest_window needs prices, and there are none", remedy="load a tariff")
    chosen = rules or HistoryRules()
    rows = jobs.filter(pl.col("submit_time").is_between(first, last, closed="left"))
    rows = rows.sort("submit_time", "job_id")
    if not len(rows):
        return SiteTotals(policy, 0, 0.0, 0.0, 0.0, float("nan"), 0, 0)
    _refuse(rows, node_capacity)
    origin = first.replace(minute=0, second=0, microsecond=0)
    released = _since_h(rows["submit_time"], origin)
    lasts = _since_h(rows["end_time"], origin) - _since_h(rows["start_time"], origin)
    latest, deadline = released + chosen.flexibility_h, np.full(len(rows), np.inf)
    if "deadline_time" in rows.columns:
        stated_h = _since_h(rows["deadline_time"], origin)
        deadline = np.where(np.isfinite(stated_h), stated_h, np.inf)
        latest = np.where(np.isfinite(stated_h), stated_h - lasts, latest)
    horizon = int(np.ceil(max(latest.max(), released.max()) + lasts.sum())) + 2
    past = chosen.history_h
    signals = Signals(
        _hourly(intensity, _INTENSITY, origin, past, horizon),
        np.full(past + horizon, np.nan) if price is None else _hourly(price, "price", origin, past, horizon),
        past,
        _forecasts(forecast, origin),
    )
    starts = np.empty(len(rows))
    load = np.zeros(horizon)
    nodes = rows["node_count"].to_numpy()
    for job in range(len(rows)):
        wanted = wanted_start(
            policy, float(released[job]), float(latest[job]), float(lasts[job]), signals, chosen
        )
        starts[job] = _with_room(load, wanted, float(lasts[job]), float(nodes[job]), node_capacity)
    energy = rows["energy_kwh"].to_numpy()
    kilograms = money = 0.0
    for job in range(len(rows)):
        hours, share = spread(starts[job], float(lasts[job]))
        kilograms += float(energy[job] * (signals.intensity[past + hours] * share).sum()) / GRAMS_PER_KILOGRAM
        money += float(energy[job] * (signals.price[past + hours] * share).sum())
    return SiteTotals(
        policy=policy, jobs_completed=len(rows), energy_kwh=float(energy.sum()), emissions_kgco2e=kilograms,
        energy_cost=money, delay_h=float((starts - released).mean()),
        deadlines_missed=int((starts + lasts > deadline + 1e-6).sum()),
        jobs_moved=int((starts > released + 1e-6).sum()),
    )  # fmt: skip


def totals_row(site_id: str, totals: SiteTotals) -> dict[str, object]:
    """Return the totals as a row of a table."""
    return {"site_id": site_id, **asdict(totals)}


def _refuse(rows: pl.DataFrame, node_capacity: int) -> None:
    checks = (
        (pl.col("node_count") > node_capacity, f"holds more nodes than the {node_capacity} there are"),
        (pl.col("end_time") < pl.col("start_time"), "ends before it starts"),
        (pl.col("energy_kwh").is_null() | ~pl.col("energy_kwh").is_finite(), "has no energy"),
    )
    for check, what in checks:
        bad = rows.filter(check)
        if len(bad):
            raise ReplayError(f"job {bad['job_id'][0]} {what}; {len(bad)} of {len(rows)} jobs are so")


def _with_room(load: Floats, wanted_h: float, lasts_h: float, nodes: float, capacity: float) -> float:
    """Return the first start from `wanted_h` on at which the nodes are free in every hour it touches; takes them."""
    start = wanted_h
    while True:
        hours, share = spread(start, lasts_h)
        taken = nodes * share * max(lasts_h, 1e-6)
        if (load[hours] + taken <= capacity + 1e-6).all():
            load[hours] += taken
            return start
        start = float(np.floor(start) + 1)


def _since_h(times: pl.Series, origin: datetime) -> Floats:
    """Return hours since the origin; NaN where a time is null."""
    milliseconds = (times - origin).dt.total_milliseconds().cast(pl.Float64)
    return np.asarray(milliseconds.fill_null(float("nan")).to_numpy() / 3.6e6, dtype=np.float64)


def _hourly(frame: pl.DataFrame, column: str, origin: datetime, past: int, horizon: int) -> Floats:
    """Return the column by hour from `past` before the origin; NaN where there is no row."""
    hours = np.round(_since_h(frame["hour_start"], origin)).astype(np.int64) + past
    if len(np.unique(hours)) < len(hours):
        raise ReplayError(
            f"{column}: an hour has two rows", remedy="choose one basis, signal and flow, or one tariff"
        )
    found = np.full(past + horizon, np.nan)
    inside = (hours >= 0) & (hours < len(found))
    found[hours[inside]] = frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()[inside]
    return found


def _forecasts(frame: pl.DataFrame | None, origin: datetime) -> Callable[[int], Floats | None]:
    """Return a look-up: the newest forecast at or before an hour, of that hour and the next ones; None: none."""
    made: dict[int, Floats] = {}
    for (time,), rows in frame.group_by("origin_time") if frame is not None else ():
        at = int(np.floor(_since_h(pl.Series([time]), origin)[0] + 1e-9))
        hours = np.round(_since_h(rows["hour_start"], origin)).astype(np.int64) - at
        values = np.full(int(hours.max()) + 1, np.nan)
        values[hours[hours >= 0]] = rows[_INTENSITY].cast(pl.Float64).to_numpy()[hours >= 0]
        made[at] = values
    origins = np.array(sorted(made), dtype=np.int64)

    def newest(hour: int) -> Floats | None:
        place = int(np.searchsorted(origins, hour, side="right")) - 1
        if place < 0:
            return None
        at = int(origins[place])
        rest = made[at][hour - at :]
        return rest if len(rest) else None

    return newest
