"""What a plan promises beside the baseline: kWh, kgCO2e and money of each job and of all, with 90 % intervals.

A saving is what the baseline is expected to use less what the plan is, both on the expected forecast. Its interval has
two parts, put together as independent: the job's mean power (one error for all jobs in the total: a model's errors are
alike), and the forecast of the hours used, whose errors within a zone fall off as rho^|h - h'|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lepton_etl.recommend.schedule.arrays import Arrays, Place
from lepton_etl.recommend.schedule.inputs import Floats, Signal
from lepton_etl.uncertainty import Z


@dataclass(frozen=True, slots=True)
class Estimate:
    """An expected value with its 90 % interval; NaN is unknown."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Amounts:
    """Facility energy, location or market emissions by the claim's method, and money."""

    energy_kwh: float
    emissions_kgco2e: float
    money: float


@dataclass(frozen=True, slots=True)
class Savings:
    """Baseline, plan and the saving of each kind: of one job or of all."""

    baseline: Amounts
    plan: Amounts
    energy_kwh: Estimate
    emissions_kgco2e: Estimate
    money: Estimate


@dataclass(frozen=True, slots=True)
class _Kind:
    """Arrays over jobs (n,): baseline, plan, saving and its half widths; the total in row n."""

    baseline: Floats
    plan: Floats
    saving: Floats
    below: Floats
    above: Floats

    def at(self, row: int) -> Estimate:
        saving = float(self.saving[row])
        return Estimate(saving, saving - float(self.below[row]), saving + float(self.above[row]))


def savings(
    arrays: Arrays, plan: Mapping[int, Place], baseline: Mapping[int, Place], correlation: float
) -> tuple[dict[int, Savings], Savings]:
    """Savings of the jobs that have both places, and of all of them; `correlation` is rho of one hour."""
    rows = sorted(set(plan) & set(baseline))
    before = _by_site(arrays, {row: baseline[row] for row in rows}, rows)
    after = _by_site(arrays, {row: plan[row] for row in rows}, rows)
    kinds = [
        _kind(arrays, rows, before, after, signal, correlation)
        for signal in ("energy", "intensity_kg_per_kwh", "price_per_kwh")
    ]

    def at(row: int) -> Savings:
        first, second = (
            Amounts(*(float(getattr(kind, arm)[row]) for kind in kinds)) for arm in ("baseline", "plan")
        )
        return Savings(first, second, *(kind.at(row) for kind in kinds))

    return {row: at(i) for i, row in enumerate(rows)}, at(len(rows))


def _by_site(arrays: Arrays, places: Mapping[int, Place], rows: list[int]) -> Floats:
    """Facility kWh of each job by site and hour, (n, S, H): its own energy, its part of the curve, its transfer."""
    problem = arrays.problem
    site_at = {site.site_id: i for i, site in enumerate(problem.sites)}
    site_of = np.array([site_at[group.site_id] for group in problem.groups])
    used = arrays.usage(dict(places))
    drawn = arrays.curve_kw(np.arange(len(used)), used)
    per_unit = np.divide(drawn, used, out=np.zeros_like(drawn), where=used > 0)
    found = np.zeros((len(rows), len(problem.sites), arrays.hours))
    for i, row in enumerate(rows):
        place = places[row]
        slots, site = list(place.slots), site_of[place.group]
        found[i, site, slots] = (
            arrays.slot_kwh[row, place.group] + per_unit[place.group, slots] * arrays.units[row]
        )
        if site != site_of[arrays.home[row]]:
            found[i, site, arrays.release[row]] += problem.jobs[row].transfer_kwh
    overhead = np.array([site.overhead_ratio for site in problem.sites])
    # An unknown overhead is unknown energy only where something runs.
    return np.asarray(np.where(found > 0, found * (1 + overhead), 0.0))


def _kind(
    arrays: Arrays, rows: list[int], before: Floats, after: Floats, signal: str, correlation: float
) -> _Kind:
    jobs, sites = arrays.problem.jobs, arrays.problem.sites
    signals = [_signal(arrays, i, signal) for i in range(len(sites))]
    expected = np.array([one.expected for one in signals])
    baseline, plan = (_times(kwh, expected).sum(axis=(1, 2)) for kwh in (before, after))
    saving = baseline - plan
    net = before - after
    half = np.sqrt(_variance(arrays, net, signals, signal, correlation)) * Z
    total_half = np.sqrt(
        _variance(arrays, net.sum(axis=0, keepdims=True), signals, signal, correlation)
    )[0] * Z  # fmt: skip
    power = np.array([jobs[row].power_w for row in rows])
    down = _share(power - np.array([jobs[row].power_lower_w for row in rows]), power)
    up = _share(np.array([jobs[row].power_upper_w for row in rows]) - power, power)
    less = np.where(saving >= 0, down, up) * np.abs(saving)
    more = np.where(saving >= 0, up, down) * np.abs(saving)
    return _Kind(
        np.append(baseline, baseline.sum()),
        np.append(plan, plan.sum()),
        np.append(saving, saving.sum()),
        np.append(np.hypot(half, less), np.hypot(total_half, less.sum())),
        np.append(np.hypot(half, more), np.hypot(total_half, more.sum())),
    )


def _signal(arrays: Arrays, site: int, name: str) -> Signal:
    if name == "energy":
        one = np.ones(arrays.hours)
        return Signal(one, one, one)
    found: Signal | None = getattr(arrays.problem.sites[site], name)
    unknown = np.full(arrays.hours, np.nan)
    return Signal(unknown, unknown, unknown) if found is None else found


def _variance(arrays: Arrays, net: Floats, signals: list[Signal], name: str, correlation: float) -> Floats:
    """Variance (n,) of net kWh (n, S, H) times the signals' errors; sites of one zone share an intensity's errors."""
    hour = np.arange(arrays.hours)
    root = np.linalg.cholesky(
        correlation ** np.abs(hour[:, None] - hour[None, :]) + 1e-12 * np.eye(arrays.hours)
    )
    zones: dict[str, Floats] = {}
    for i, (site, signal) in enumerate(zip(arrays.problem.sites, signals, strict=True)):
        error = _times(net[:, i], (signal.upper - signal.lower) / (2 * Z))
        zone = site.zone_id if name == "intensity_kg_per_kwh" else site.site_id
        zones[zone] = zones.get(zone, 0.0) + error
    return np.asarray(sum(((error @ root) ** 2).sum(axis=1) for error in zones.values()), dtype=np.float64)


def _times(kwh: Floats, factor: Floats) -> Floats:
    """Products; hours without energy are 0 even where the factor is unknown."""
    return np.asarray(np.where(kwh == 0, 0.0, kwh * factor))


def _share(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0))
