"""Months in which nothing was changed, for the placebo: real GPU servers, and simulated sites with real weather.

A month is a baseline and the 30 days behind it. Real windows are evidence on real data; simulated sites are evidence
on the simulator only.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Final

import numpy as np
import pandas as pd

from bench.inputs import REAL
from lepton_etl.recommend.baseline import Floats, Period
from lepton_etl.simulator.facility import facility, ratings
from lepton_etl.simulator.weather import Weather, wet_bulb_c

REPORTED_DAYS: Final = 30
SITE_DAYS: Final = 365
REAL_BASELINE_DAYS: Final = 180
NODES: Final = 200
# Daily scatter of a site's energy at equal work (1 sigma) and its likeness from day to day. The real servers, one by
# one, scatter by 12 to 27 % with 0.7 to 0.9: of 200 nodes that do not wander together 0.8 to 1.9 % is left.
QUIET, NOISY = (0.01, 0.7), (0.02, 0.8)
# The meters of the simulated sites: one gain error for good, and an independent error each day, 1 sigma.
GAIN_ERROR, DAY_ERROR = 0.01, 0.005
MORE_WORK: Final = 1.2
_HOURS: Final = 24


@dataclass(frozen=True, slots=True, eq=False)
class Month:
    """A baseline and the month behind it; `busier` is the same month with 20 % more work, where one can be made."""

    label: str
    before: Period
    after: Period
    busier: Period | None = None


@cache
def server_hours() -> dict[str, pd.DataFrame]:
    """kWh and busy GPU-hours of each real server by whole day, local time."""
    found = {}
    for path in sorted((REAL / "biohpc-gpu-servers").glob("*.txt.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8-sig")
        rows = "\n".join(line for line in text.splitlines() if line.count("\t") > 8)
        read = pd.read_csv(io.StringIO(rows), sep="\t", parse_dates=["timestamp"]).sort_values("timestamp")
        # Two GPUs a server; the power and the utilisation are means of both.
        hours = pd.DataFrame(
            {"kwh": read["powerave"] * 2 / 1000, "work": read["utilave"] / 100 * 2, "time": read["timestamp"]}
        )
        days = hours.groupby(hours["time"].dt.floor("D")).agg(
            kwh=("kwh", "mean"), work=("work", "mean"), hours=("kwh", "size")
        )
        days = days[days["hours"] >= _HOURS - 1]
        days[["kwh", "work"]] *= _HOURS
        found[str(read["name"].iloc[0])] = days
    return found


def real_months(wanted: int) -> Iterator[Month]:
    """About `wanted` sliding windows over the real servers; neighbours overlap, which the count does not show."""
    anchors = []
    for name, days in server_hours().items():
        ordinal = np.array([stamp.toordinal() for stamp in days.index])
        first, last = ordinal[0] + REAL_BASELINE_DAYS, ordinal[-1] - REPORTED_DAYS + 1
        anchors += [(name, start) for start in range(first, last + 1)]
    step = max(1, len(anchors) // wanted)
    for name, start in anchors[::step][:wanted]:
        days = server_hours()[name]
        ordinal = np.array([stamp.toordinal() for stamp in days.index])
        whole = Period(ordinal, days["kwh"].to_numpy(np.float64), days["work"].to_numpy(np.float64))
        before = whole.taken((ordinal >= start - REAL_BASELINE_DAYS) & (ordinal < start))
        after = whole.taken((ordinal >= start) & (ordinal < start + REPORTED_DAYS))
        if len(after):
            yield Month(f"{name} from {date.fromordinal(start)}", before, after)


@cache
def zone_weather() -> tuple[tuple[Floats, Floats], ...]:
    """Dry bulb degC and humidity ratio of each zone, hour by hour in UTC, a year of 365 days."""
    found = []
    for path in sorted((REAL / "weather-openmeteo").glob("*.json.gz")):
        read = json.loads(gzip.decompress(path.read_bytes()))
        hours = read["hourly"]
        values = pd.DataFrame(
            {"dry": hours["temperature_2m"], "humid": hours["relative_humidity_2m"]}, dtype=np.float64
        ).interpolate(limit_direction="both")
        shift = -round(read["utc_offset_seconds"] / 3600)
        dry, humid = (np.roll(values[c].to_numpy()[: SITE_DAYS * _HOURS], shift) for c in ("dry", "humid"))
        found.append((dry, np.clip(humid / 100, 0.05, 0.99)))
    return tuple(found)


def simulated_months(wanted: int, seed: int, scatter: tuple[float, float] = QUIET) -> Iterator[Month]:
    """Sites of nodes whose load and mix of jobs wander (AR(1)); the plant is the simulator's, the weather real."""
    for number in range(wanted):
        random = np.random.default_rng((seed, number))
        utilisation = _utilisation(random)
        mix = 1.0 + scatter[0] * _wandering(SITE_DAYS, scatter[1], random)
        busier = utilisation.copy()
        busier[-REPORTED_DAYS * _HOURS :] = np.minimum(busier[-REPORTED_DAYS * _HOURS :] * MORE_WORK, 1.0)
        idle_w, full_w = 200.0, 700.0
        watts = [
            NODES * (idle_w + (full_w - idle_w) * u**0.9) * np.repeat(mix, _HOURS)
            for u in (utilisation, busier)
        ]
        yield _site(
            f"simulated {number}", watts, [NODES * u for u in (utilisation, busier)], NODES * full_w, random
        )


def fleet_months(wanted: int, seed: int, servers: int) -> Iterator[Month]:
    """Sites of servers, each a real one's own history from a day of its own; plant simulated, weather real."""
    histories = list(server_hours().values())
    for number in range(wanted):
        random = np.random.default_rng((seed, number, 1))
        which = random.integers(0, len(histories), servers)
        kwh, work = np.zeros((servers, SITE_DAYS)), np.zeros((servers, SITE_DAYS))
        for one, history in enumerate(which):
            kwh[one], work[one] = _cut(histories[history], int(random.integers(0, 10_000)), SITE_DAYS)
        busy_kwh, busy_work = kwh.copy(), work.copy()
        wanted_work = MORE_WORK * work[:, -REPORTED_DAYS:].sum()
        # Real months of the same servers, busier ones, until the site does 20 % more.
        for one in random.permutation(servers):
            for _ in range(20):
                if busy_work[:, -REPORTED_DAYS:].sum() >= wanted_work:
                    break
                other = _cut(histories[which[one]], int(random.integers(0, 10_000)), REPORTED_DAYS)
                if other[1].sum() > busy_work[one, -REPORTED_DAYS:].sum():
                    busy_kwh[one, -REPORTED_DAYS:], busy_work[one, -REPORTED_DAYS:] = other
        watts = [np.repeat(k.sum(axis=0) * 1000 / _HOURS, _HOURS) for k in (kwh, busy_kwh)]
        works = [np.repeat(w.sum(axis=0) / _HOURS, _HOURS) for w in (work, busy_work)]
        yield _site(f"fleet {number}", watts, works, 1.2 * max(w.max() for w in watts), random)


def _site(
    label: str, watts: list[Floats], works: list[Floats], rated_w: float, random: np.random.Generator
) -> Month:
    """What the meter in front of the transformer reads by day; a year that wraps round, begun on a random day."""
    dry, humid = zone_weather()[random.integers(0, len(zone_weather()))]
    begin = int(random.integers(0, SITE_DAYS)) * _HOURS
    dry, humid = np.roll(dry, -begin), np.roll(humid, -begin)
    wet = np.minimum(wet_bulb_c(dry, humid), dry)
    minutes = [np.append(np.repeat(v, 60), v[-1]) for v in (dry, wet, humid)]
    gain = 1.0 + GAIN_ERROR * random.standard_normal()
    daily = gain * (1.0 + DAY_ERROR * random.standard_normal(SITE_DAYS))
    periods = []
    for nodes_w, work in zip(watts, works, strict=True):
        demand_w = facility(np.repeat(nodes_w, 60), Weather(*minutes), ratings(rated_w), 0.0).demand_w
        kwh = demand_w.reshape(SITE_DAYS, -1).mean(axis=1) * _HOURS / 1000 * daily
        periods.append(
            Period(
                np.arange(SITE_DAYS), kwh, work.reshape(SITE_DAYS, -1).sum(axis=1),
                wet.reshape(SITE_DAYS, -1).mean(axis=1),
            )
        )  # fmt: skip
    reported = periods[0].day >= SITE_DAYS - REPORTED_DAYS
    return Month(label, periods[0].taken(~reported), periods[0].taken(reported), periods[1].taken(reported))


def _utilisation(random: np.random.Generator) -> Floats:
    """Hourly utilisation of a site, ratio: level, week, hour of the day and a wandering part."""
    hours = np.arange(SITE_DAYS * _HOURS)
    level = random.uniform(0.35, 0.6)
    week = np.where(hours // _HOURS % 7 >= 5, 0.85, 1.05)
    day = 1.0 + 0.08 * np.cos(2 * np.pi * (hours % _HOURS - 15) / _HOURS)
    wander = 1.0 + 0.15 * np.repeat(_wandering(SITE_DAYS, 0.7, random), _HOURS)
    return np.clip(level * week * day * wander, 0.05, 0.98)


def _wandering(length: int, keep: float, random: np.random.Generator) -> Floats:
    """AR(1) of unit variance."""
    noise: Floats = random.standard_normal(length)
    noise[1:] *= np.sqrt(1 - keep**2)
    for at in range(1, length):
        noise[at] += keep * noise[at - 1]
    return noise


def _cut(history: pd.DataFrame, begin: int, days: int) -> tuple[Floats, Floats]:
    """Days in a row of a history that wraps round."""
    at = (begin + np.arange(days)) % len(history)
    return history["kwh"].to_numpy(np.float64)[at], history["work"].to_numpy(np.float64)[at]
