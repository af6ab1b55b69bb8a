"""Reconcile the meters of a site's power train with its balances, and name the meter that cannot be right.

The train is utility and on-site sources, transformer, UPS, PDU, IT, with cooling and management beside it: five
balances, linear in the meters, the losses of the stages, and what the nodes' sensors say. A meter's gain is wrong the
same way all day, so the hours of a day are reconciled together as well as one by one. The error of a loss fitted on
earlier days holds the gains of the meters that it was fitted on, which cancel against the same meters today: such a
stage shows what changed since.

Tests: the chi-square of all balances of the hours, and of their sums; for each measurement one that asks whether it
is wrong by a factor, and one whether it is wrong anyhow. The likeliest culprit is the one without which the rest
agrees best; what explains nearly as much is listed beside it.
Source: Narasimhan and Jordache, Data Reconciliation and Gross Error Detection (2000): projection of unmeasured flows,
global, maximum-power and generalised likelihood ratio tests; JCGM 100:2008 (GUM) 5.2 for correlated errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from functools import cached_property, lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lepton_etl.facility.modelled_meters import BOUNDARY as AT_BOUNDARY
from lepton_etl.facility.modelled_meters import CLASS_DEFAULT, FITTED, STAGES
from lepton_etl.ledger.accounts import SHARED_LOADS
from lepton_etl.schema.common import BOUNDARY, COOLING_POINTS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

HOUR: Final = ["site_id", "hour_start"]
BUSES: Final = ("boundary", "low_voltage", "ups", "pdu", "it")
# What flows between two buses, and what leaves the last: a point, and the signs of its meters.
FLOWS: Final = {
    "transformer_out": {"boundary": -1.0, "low_voltage": 1.0},
    "ups_in": {"low_voltage": -1.0, "ups": 1.0},
    "ups_out": {"ups": -1.0, "pdu": 1.0},
    "pdu_out": {"pdu": -1.0, "it": 1.0},
    "cooling": {"low_voltage": -1.0},
    "management": {"low_voltage": -1.0},
}  # fmt: skip
NODES: Final = "nodes"
LOSS: Final = "loss:"
MODEL: Final = "model:"
_LOSS_BUS: Final = {"transformer": "boundary", "ups": "ups", "pdu": "pdu"}
# The points whose meters a stage's loss was fitted on, before (+) and behind (-) it.
_SIDES: Final = {
    part: {**dict.fromkeys(BOUNDARY if before == AT_BOUNDARY else (before,), 1.0), behind: -1.0}
    for part, (before, behind) in STAGES.items()
}

# Chance that one of the four kinds of tests calls a clean site-day violated, and one of three a clean hour of it. The
# tests go together and the errors are stated widely: bench/meter_faults.py counts what comes of it.
DAY_ALPHA: Final = 5e-3
HOUR_ALPHA: Final = 1e-3 / 24
# Share of its class by which a meter drifts since the days that a curve was fitted on, and by which it wanders from
# hour to hour. Source: the limits of IEC 62053-21/22 hold over load, temperature and years; an own assumption.
DRIFT: Final = 0.2
WANDER: Final = 0.2
NO_NOISE: Final = ", noise unknown"
# Share of its error by which a modelled part misses from hour to hour.
_SCATTER: Final = 0.5
# Rounding and sampling of a balance, over its largest flow: no sum of meters is exact.
FLOOR: Final = 3e-4
# Two explanations this far apart in chi-square are told apart (a likelihood ratio of 150).
TOLD_APART: Final = 10.0
# A meter is checked where a fault of half its reading would be beyond four standard deviations.
SEEN_SIGMAS: Final = 4.0
CHECKED_RATIO: Final = 0.5
# Pairs are looked for among this many measurements, the likeliest.
PAIRED: Final = 24
_SURE: Final = 4.0
# An explanation of more measurements than this names the first ones.
_SHOWN: Final = 6
# A relative error beyond it is of a reading of nothing.
_UNBOUNDED: Final = 1e9

AGREES: Final = "agrees"
CULPRIT: Final = "culprit"
CANDIDATE: Final = "candidate"
UNCHECKED: Final = "unchecked"
SILENT: Final = "silent"

CLOSED: Final = "closed"
VIOLATED: Final = "violated"
UNVERIFIED: Final = "unverified"


@dataclass(frozen=True)
class Common:
    """Errors that hours and measurements share.

    Entry t: factor `factor[t]` moves measurement `at[t]` by `error_kwh[t]` (hours,) for one standard deviation.
    """

    count: int
    factor: Ints
    at: Ints
    error_kwh: Floats

    def along(self, weights: Floats) -> Floats:
        """Return what each factor makes of weighted measurements, (hours, n, ...) -> (f, hours, ...)."""
        hours = self.error_kwh.shape[1]
        found = np.zeros((self.count, hours, *weights.shape[2:]))
        error = self.error_kwh.reshape(len(self.at), hours, *(1 for _ in weights.shape[2:]))
        np.add.at(found, self.factor, error * np.moveaxis(weights[:, self.at], 1, 0))
        return found

    def back(self, factors: Floats, count: int) -> Floats:
        """Return what factors (f,) make of the sums over hours of `count` measurements."""
        moved = np.zeros(count)
        np.add.at(moved, self.at, factors[self.factor] * self.error_kwh.sum(axis=1))
        return moved


@dataclass(frozen=True)
class Train:
    """The hours of one site that are judged together: m balances of n measurements.

    `balances` is (m, n); `value_kwh` (hours, n) is NaN where nothing measures. Its error is that of `common`, each one
    error that all hours share, and `noise_kwh` (hours, n), one standard deviation of what is independent. `most_kwh`
    (hours, n) is the largest loss that the equipment can have, infinite for a meter.
    """

    names: tuple[str, ...]
    points: tuple[str, ...]
    bases: tuple[str, ...]
    balances: Floats
    value_kwh: Floats
    common: Common
    noise_kwh: Floats
    most_kwh: Floats

    def at(self, hours: Sequence[int]) -> Train:
        """Some of the hours."""
        chosen = list(hours)
        return Train(
            self.names, self.points, self.bases, self.balances, self.value_kwh[chosen],
            replace(self.common, error_kwh=self.common.error_kwh[:, chosen]), self.noise_kwh[chosen],
            self.most_kwh[chosen],
        )  # fmt: skip

    @cached_property
    def measured(self) -> Bools:
        return np.asarray(np.isfinite(self.value_kwh), dtype=np.bool_)

    def is_loss(self, at: int) -> bool:
        return self.names[at].startswith(LOSS)


@dataclass(frozen=True)
class Verdict:
    """What the tests say of the hours of a train together.

    `tests` names those that failed, `candidates` what explains it, each one measurement or a pair, the likeliest
    first. Of each measurement: sums over the hours as measured and reconciled, NaN where unknown; `sigmas` the result
    of the test whether it is wrong by a factor; `detectable_ratio` the smallest such error beyond four standard
    deviations, infinite where nothing checks it.
    """

    tests: tuple[str, ...]
    candidates: tuple[tuple[int, ...], ...]
    measured_kwh: Floats
    reconciled_kwh: Floats
    sigmas: Floats
    detectable_ratio: Floats

    @property
    def is_violated(self) -> bool:
        return bool(self.tests)

    def by_others_kwh(self, at: int) -> float:
        """What the other measurements say of one that is wrong by a factor."""
        gain = self.sigmas[at] * self.detectable_ratio[at] / SEEN_SIGMAS
        return float(self.measured_kwh[at] * (1.0 - gain))

    def is_checked(self, at: int) -> bool:
        return bool(self.detectable_ratio[at] <= CHECKED_RATIO)


@lru_cache(maxsize=4096)
def _chi2_limit(alpha: float, freedom: int) -> float:
    from scipy.stats import chi2

    return float(chi2.isf(alpha, freedom))


def _sure(alpha: float) -> float:
    """How many standard deviations a normal error passes on one side with this chance."""
    return -NormalDist().inv_cdf(alpha)


@dataclass(frozen=True)
class _Balanced:
    """Balances without unmeasured flows, of hours stacked: residuals whitened by their covariance.

    `by_hour` (hours, k, n) are the balances; `white` turns stacked residuals (`plain`, kWh, shape (hours x k)) into
    independent ones of variance 1 (`residual`).
    """

    by_hour: Floats
    white: Floats
    plain: Floats
    residual: Floats
    covariance: Floats

    @property
    def chi2(self) -> float:
        return float(self.residual @ self.residual)

    def signatures(self, train: Train) -> Floats:
        """The whitened residuals (n, hours x k) of an error of 100 % of each measurement."""
        value = np.where(train.measured, train.value_kwh, 0.0)
        columns = (self.by_hour * value[:, None, :]).reshape(-1, value.shape[1])
        return np.asarray((self.white @ columns).T)

    def freed(self, at: Sequence[int]) -> tuple[float, int]:
        """How much chi-square falls without these measurements, and by how many degrees of freedom."""
        hours, k, _ = self.by_hour.shape
        columns = np.zeros((hours, k, hours, len(at)))
        steps = np.arange(hours)
        columns[steps, :, steps, :] = self.by_hour[:, :, list(at)]
        left, values, _ = np.linalg.svd(
            self.white @ columns.reshape(hours * k, hours * len(at)), full_matrices=False
        )
        kept = values > 1e-9 * max(float(values.max(initial=0.0)), 1e-300)
        along = left[:, kept].T @ self.residual
        return float(along @ along), int(kept.sum())


def reconcile(train: Train, alpha: float = DAY_ALPHA) -> Verdict:
    """Judge the hours of a train together; `alpha` is the chance of a false alarm of each kind of test.

    A site without redundancy passes every test of the balances: what is not checked says so in `detectable_ratio`.
    """
    count = len(train.names)
    measured = np.where(train.measured.any(axis=0), np.nansum(train.value_kwh, axis=0), np.nan)
    found = _balanced(train)
    tests = _impossible(train, alpha)
    if found is None:
        nothing = np.full(count, np.nan)
        return Verdict(tests, (), measured, nothing, nothing.copy(), np.full(count, np.inf))
    signatures = found.signatures(train)
    lengths = np.sqrt((signatures**2).sum(axis=1))
    told = lengths > 1e-6
    with np.errstate(divide="ignore", invalid="ignore"):
        sigmas = np.where(told, signatures @ found.residual / lengths, np.nan)
        detectable = np.where(told, SEEN_SIGMAS / lengths, np.inf)
    tests += _failed(train, found, sigmas, alpha)
    candidates = _candidates(train, found, signatures, alpha) if tests else ()
    return Verdict(tests, candidates, measured, _reconciled(train, found), sigmas, detectable)


def _failed(train: Train, found: _Balanced, sigmas: Floats, alpha: float) -> tuple[str, ...]:
    """The tests of the balances that fail."""
    hours, k, _ = found.by_hour.shape
    failed = []
    if found.chi2 > _chi2_limit(alpha, hours * k):
        failed.append("balances")
    if hours > 1:
        back = found.plain.reshape(hours, k).sum(axis=0)
        blocks = found.covariance.reshape(hours, k, hours, k).sum(axis=(0, 2))
        if float(back @ np.linalg.solve(blocks, back)) > _chi2_limit(alpha, k):
            failed.append("sums")
    # Measurements that stand in the same balances (feeds of one bus) are as good as one test.
    told = np.isfinite(sigmas)
    tested = len(np.unique(np.abs(train.balances[:, told]), axis=1).T)
    if tested and np.nanmax(np.abs(sigmas)) > _sure(alpha / 2 / tested):
        failed.append("gains")
    if hours > 1:
        shapes = [at for at in range(len(train.names)) if np.isfinite(sigmas[at]) and not train.is_loss(at)]
        for at in shapes:
            fallen, freedom = found.freed([at])
            if fallen > _chi2_limit(alpha / max(len(shapes), 1), freedom):
                failed.append("shapes")
                break
    return tuple(failed)


def _candidates(
    train: Train, found: _Balanced, signatures: Floats, alpha: float
) -> tuple[tuple[int, ...], ...]:
    """What explains a violation: measurements, else pairs of them, that leave the least chi-square.

    A factor costs one parameter, a free error one an hour (Akaike). Not offered is what would have to be a flow below
    zero, or a loss that the equipment cannot have.
    """
    hours = found.by_hour.shape[0]
    squares = (signatures**2).sum(axis=1)
    names = [at for at in range(len(train.names)) if squares[at] > 1e-12]
    limit = _chi2_limit(alpha, found.by_hour.shape[0] * found.by_hour.shape[1])

    def ranked(groups: Sequence[tuple[int, ...]]) -> list[tuple[float, tuple[int, ...]]]:
        scores = []
        for group in groups:
            fallen, freedom = found.freed(group)
            score = fallen - 2 * freedom
            by_gain = signatures[list(group)].T
            solved, *_ = np.linalg.lstsq(by_gain, found.residual, rcond=1e-9)
            if all(_possible(train, at, float(g), squares[at]) for at, g in zip(group, solved, strict=True)):
                along = by_gain @ solved
                score = max(score, float(along @ along) - 2 * len(group)) if hours > 1 else score
                scores.append((found.chi2 - score, group))
        return sorted(scores)

    single = ranked([(at,) for at in names])
    best = single
    if not single or single[0][0] > limit + 2:
        likely = [at for _, (at,) in single[:PAIRED]] if single else names[:PAIRED]
        pairs = ranked(list(combinations(likely, 2)))
        best = pairs if pairs and (not single or pairs[0][0] < single[0][0] - TOLD_APART) else single
    return tuple(group for left, group in best if left <= best[0][0] + TOLD_APART)


def _possible(train: Train, at: int, gain: float, square: float) -> bool:
    """Whether a measurement that errs by `gain` of itself leaves a flow, or a loss that the equipment can have."""
    value = float(np.nansum(train.value_kwh[:, at]))
    rest, error = value * (1.0 - gain), _SURE * abs(value) / square**0.5
    most = float(np.sum(train.most_kwh[train.measured[:, at], at]))
    return bool(-error <= rest <= most + error)


@dataclass(frozen=True)
class _Pattern:
    """What a set of measured flows can check, unmeasured ones projected out.

    `balances` (k, n) hold measured flows alone; `implied` names flows that nobody measures and losses, with the weights
    (n,) of the measured flows that say what they are.
    """

    balances: Floats
    implied: tuple[tuple[int, Floats], ...]


@lru_cache(maxsize=1024)
def _pattern(balances: bytes, count: int, known: bytes, losses: tuple[int, ...]) -> _Pattern:
    whole = np.frombuffer(balances).reshape(-1, count)
    measured = np.frombuffer(known, dtype=np.bool_)
    unknown = whole[:, ~measured]
    kept: Floats = np.where(measured, whole, 0.0)
    implied: list[tuple[int, Floats]] = []
    if unknown.shape[1]:
        inverse = np.linalg.pinv(unknown)
        told = np.abs(inverse @ unknown - np.eye(unknown.shape[1])).max(axis=1) < 1e-9
        for own, flow in enumerate(np.flatnonzero(~measured).tolist()):
            if told[own]:
                weights: Floats = np.where(measured, -inverse[own] @ whole, 0.0)
                implied.append((flow, weights))
        left, values, _ = np.linalg.svd(unknown)
        kept = left[:, int((values > 1e-9).sum()) :].T @ kept
    for at in losses:
        row = whole[int(np.flatnonzero(whole[:, at])[0])]
        others = (row != 0) & (np.arange(count) != at)
        if measured[others].all():
            implied.append((at, np.where(others, row, 0.0)))
    return _Pattern(kept[np.abs(kept).max(axis=1, initial=0.0) > 1e-9], tuple(implied))


def _patterns(train: Train) -> list[_Pattern]:
    """The pattern of each hour."""
    whole, losses = train.balances.tobytes(), tuple(at for at in range(len(train.names)) if train.is_loss(at))
    return [_pattern(whole, len(train.names), known.tobytes(), losses) for known in train.measured]


def _balanced(train: Train) -> _Balanced | None:
    """The balances that hold measured flows alone; None where there is none."""
    parts = [one.balances for one in _patterns(train)]
    k = max((len(part) for part in parts), default=0)
    if not k:
        return None
    hours, count = train.value_kwh.shape
    by_hour = np.zeros((hours, k, count))
    for hour, part in enumerate(parts):
        by_hour[hour, : len(part)] = part
    value = np.nan_to_num(train.value_kwh)
    residual = np.einsum("hkn,hn->hk", by_hour, value)
    loads = train.common.along(by_hour.transpose(0, 2, 1)).reshape(train.common.count, hours * k)
    covariance = loads.T @ loads
    own = (by_hour * train.noise_kwh[:, None, :] ** 2) @ by_hour.transpose(0, 2, 1)
    # A balance that an hour lacks has no residual: any variance will do.
    largest = np.abs(by_hour * value[:, None, :]).max(axis=2)
    floor = (FLOOR * np.maximum(largest, max(float(value.max(initial=0.0)), 1e-9))) ** 2
    steps = np.arange(hours)
    blocks = covariance.reshape(hours, k, hours, k)
    blocks[steps, :, steps, :] += own + floor[:, :, None] * np.eye(k)
    white = np.linalg.inv(np.linalg.cholesky(covariance))
    return _Balanced(by_hour, white, residual.ravel(), white @ residual.ravel(), covariance)


def _reconciled(train: Train, found: _Balanced) -> Floats:
    """Sums over the hours of the measurements that fulfil the balances and lie nearest; NaN where unmeasured."""
    hours, k, _ = found.by_hour.shape
    weights = (found.white.T @ found.residual).reshape(hours, k)
    pulled = np.einsum("hkn,hk->hn", found.by_hour, weights)
    common = train.common.along(pulled).sum(axis=1)
    adjusted = train.common.back(common, len(train.names)) + (train.noise_kwh**2 * pulled).sum(axis=0)
    value = np.where(train.measured, train.value_kwh, 0.0).sum(axis=0) - adjusted
    return np.where(train.measured.any(axis=0), value, np.nan)


def _impossible(train: Train, alpha: float) -> tuple[str, ...]:
    """Flows that nobody measures and losses between two meters that no equipment can have, over the hours' sum."""
    hours, count = train.value_kwh.shape
    weights: dict[int, Floats] = {}
    for hour, pattern in enumerate(_patterns(train)):
        for at, row in pattern.implied:
            weights.setdefault(at, np.zeros((hours, count)))[hour] = row
    if not weights:
        return ()
    rows = np.array(list(weights.values()))
    value = rows * np.nan_to_num(train.value_kwh)
    common = train.common.along(rows.transpose(1, 2, 0)).sum(axis=1)
    sigma = np.sqrt((common**2).sum(axis=0) + ((rows * train.noise_kwh) ** 2).sum(axis=(1, 2)))
    error = _sure(alpha / 2) * (sigma + FLOOR * np.abs(value).sum(axis=(1, 2)))
    found = []
    for at, one, total, slack in zip(weights, rows, value.sum(axis=(1, 2)), error, strict=True):
        # A loss by its curve is as wrong as its meters; by itself their difference is what they say.
        most = float(train.most_kwh[one.any(axis=1), at].sum()) if train.is_loss(at) else np.inf
        if total < -slack:
            found.append(f"{train.names[at]} {total:.3f} kWh, below zero")
        elif total > most + slack:
            found.append(
                f"{train.names[at]} {total:.3f} kWh, more than such equipment loses ({most:.3f} kWh)"
            )
    return tuple(found)


def missing_meters(train: Train, source: str) -> tuple[str, ...]:
    """The points whose meters, fewest first, would check the meters at `source`; empty where nothing would."""
    hour = int(train.measured.sum(axis=1).argmax())
    measured = train.measured[hour].copy()
    at = [i for i, point in enumerate(train.points) if point == source]
    free = sorted({train.points[i] for i in np.flatnonzero(~measured)})

    def checks(points: tuple[str, ...]) -> bool:
        known = measured | np.array([point in points for point in train.points])
        balances = _pattern(train.balances.tobytes(), len(known), known.tobytes(), ()).balances
        return bool(np.all(np.abs(balances[:, at]).max(axis=0, initial=0.0) > 1e-9))

    for size in range(1, len(free) + 1):
        found = [points for points in combinations(free, size) if checks(points)]
        if found:
            return tuple(" and ".join(points) for points in found)
    return ()


# --- from tables to trains and back ---

NODE_HOURS: Final = pl.Schema(
    {
        "site_id": pl.String(), "hour_start": pl.Datetime("us", "UTC"), "energy_kwh": pl.Float64(),
        "sigma_kwh": pl.Float64(),
    }
)  # fmt: skip
"""What the nodes' sensors say of the IT energy of hours in which every node is known."""


def _place(point: str, serves: str | None, direction: float | None) -> tuple[str, dict[str, float]] | None:
    """The flow that a meter measures and its signs in the balances."""
    is_shared = serves in SHARED_LOADS
    if point in BOUNDARY:
        return point, {"boundary": direction or float(BOUNDARY[point])}
    if point in COOLING_POINTS:
        return "cooling", FLOWS["cooling"]
    if point == "other":
        return ("it_load", {"it": -1.0}) if is_shared else ("management", FLOWS["management"])
    if point == "pdu_out" and is_shared:
        return "pdu_out", {"pdu": -1.0}
    return (point, FLOWS[point]) if point in FLOWS else None


@dataclass
class _Columns:
    """A train under construction: one column a measurement."""

    hours: int
    names: list[str]
    points: list[str]
    bases: list[str]
    balances: list[Floats]
    values: list[Floats]
    noises: list[Floats]
    most: list[Floats]

    def add(
        self, name: str, point: str, basis: str, signs: dict[str, float], value: Floats, noise: Floats,
        most: Floats | None = None,
    ) -> int:  # fmt: skip
        self.names.append(name)
        self.points.append(point)
        self.bases.append(basis)
        self.balances.append(np.array([signs.get(bus, 0.0) for bus in BUSES]))
        self.values.append(value)
        self.noises.append(np.nan_to_num(noise))
        self.most.append(np.full(self.hours, np.inf) if most is None else np.nan_to_num(most, nan=np.inf))
        return len(self.names) - 1


def build_train(
    hours: pl.DataFrame, meters: pl.DataFrame, nodes: pl.DataFrame, stand_ins: pl.DataFrame
) -> Train:
    """Hours of one site (hour_start, sorted) with its meters, nodes and stand-ins -> its train.

    A listed meter that an hour does not list (replaced since) measures nothing there: 0. A point without any meter is
    an unmeasured flow; cooling and management take their model where it speaks, and says how far it errs. A meter whose
    noise is not known has the error of its class alone, and its basis says so.
    """
    count = hours.height
    unknown, none = np.full(count, np.nan), np.zeros(count)
    made = _Columns(count, [], [], [], [], [], [], [])
    factors: list[dict[int, Floats]] = []
    gains: dict[str, list[tuple[int, float, Floats]]] = {}
    which = ("meter_id", "point", "serves", "direction", "class_basis")
    for of_meter in meters.sort("meter_id", "hour_start").partition_by("meter_id", maintain_order=True):
        meter_id, point, serves, direction, basis = of_meter.select(which).row(0)
        placed = _place(point, serves, direction)
        if placed is None:
            continue
        rows = of_meter.unique("hour_start", keep="first").with_columns(pl.lit(value=True).alias("listed"))
        found = hours.join(rows, on="hour_start", how="left", maintain_order="left")
        listed, energy = found["listed"].fill_null(value=False).to_numpy(), _floats(found["energy_kwh"])
        sigma, noise = np.nan_to_num(_floats(found["sigma_kwh"])), _floats(found["noise_kwh"])
        lacks_noise = (listed & np.isfinite(energy) & np.isnan(noise)).any()
        at = made.add(
            meter_id, placed[0], (basis or "meter") + (NO_NOISE if lacks_noise else ""), placed[1],
            np.where(listed, energy, 0.0), np.hypot(WANDER * sigma, np.nan_to_num(noise)),
        )  # fmt: skip
        factors += [{at: sigma}, {at: DRIFT * sigma}]
        gains.setdefault(point, []).append((len(factors) - 2, direction or 1.0, sigma))
    present = set(made.points)
    for part in STAGES:
        _add_loss(part, hours, stand_ins, made, factors, gains)
    if nodes.height:
        found = hours.join(nodes, on="hour_start", how="left", maintain_order="left")
        sigma = np.nan_to_num(_floats(found["sigma_kwh"]))
        at = made.add(NODES, NODES, "node sensors", {"it": -1.0}, _floats(found["energy_kwh"]), sigma)
        factors.append({at: sigma})
    else:
        made.add(NODES, NODES, "none", {"it": -1.0}, unknown, none)
    for point, signs in {"utility": {"boundary": 1.0}, **FLOWS}.items():
        if point in present:
            continue
        rows = stand_ins.filter(pl.col("part") == point)
        found = hours.join(rows, on="hour_start", how="left", maintain_order="left")
        value, sigma = _with_error(found)
        at = made.add(f"{MODEL}{point}", point, "model", signs, value, _SCATTER * sigma)
        factors.append({at: sigma})
    values = np.column_stack(made.values)
    entries = [(number, at, error) for number, columns in enumerate(factors) for at, error in columns.items()]
    ats = np.array([at for _, at, _ in entries])
    errors = np.where(np.isfinite(values[:, ats].T), np.array([error for *_, error in entries]), 0.0)
    common = Common(len(factors), np.array([number for number, *_ in entries]), ats, errors)
    return Train(
        tuple(made.names), tuple(made.points), tuple(made.bases), np.column_stack(made.balances), values, common,
        np.column_stack(made.noises), np.column_stack(made.most),
    )  # fmt: skip


def _add_loss(
    part: str, hours: pl.DataFrame, stand_ins: pl.DataFrame, made: _Columns, factors: list[dict[int, Floats]],
    gains: dict[str, list[tuple[int, float, Floats]]],
) -> None:  # fmt: skip
    """The loss of a stage by its curve, with the errors that it has in common with meters and with its other hours."""
    rows = stand_ins.filter(pl.col("part") == part)
    if rows.is_empty():
        return
    found = hours.join(rows, on="hour_start", how="left", maintain_order="left")
    energy, sigma = _with_error(found)
    scatter = np.nan_to_num(_floats(found["scatter_kwh"]))
    basis = found["basis"].fill_null("none")
    fitted, default = (basis == FITTED).to_numpy(), (basis == CLASS_DEFAULT).to_numpy()
    at = made.add(
        f"{LOSS}{part}", LOSS, str(basis.mode().sort()[0]), {_LOSS_BUS[part]: -1.0}, energy,
        np.where(fitted, scatter, WANDER * sigma), _floats(found["most_kwh"]),
    )  # fmt: skip
    factors.append({at: np.where(fitted, scatter, sigma)})
    # How a loss of unknown make goes with load within the day: anything from not at all to its square.
    known = energy[np.isfinite(energy)]
    factors.append(
        {at: np.where(default, np.nan_to_num(energy - (known.mean() if known.size else 0.0)), 0.0)}
    )
    for point, sign in _SIDES[part].items():
        for number, direction, error in gains.get(point, []):
            factors[number] = factors[number] | {at: np.where(fitted, sign * direction * error, 0.0)}


def _with_error(found: pl.DataFrame) -> tuple[Floats, Floats]:
    """Energy of a model and its error; a model that does not say how far it errs checks nothing."""
    energy, sigma = _floats(found["energy_kwh"]), _floats(found["sigma_kwh"])
    return np.where(np.isfinite(sigma), energy, np.nan), np.nan_to_num(sigma)


def _floats(column: pl.Series) -> Floats:
    return np.asarray(column.cast(pl.Float64).fill_null(np.nan).to_numpy(), dtype=np.float64)


@dataclass(frozen=True)
class Checks:
    """What the meters say of each other.

    `rows` are those of gold/meter_check; `hours` has of each site-hour `state` (closed, violated, unverified) and
    `check_detail`; `days` of each violated site-day what is wrong, in words.
    """

    rows: pl.DataFrame
    hours: pl.DataFrame
    days: tuple[tuple[str, date, str], ...]


ROWS: Final = pl.Schema(
    {
        "date": pl.Date(), "hour_start": pl.Datetime("us", "UTC"), "check_period": pl.String(), "site_id": pl.String(),
        "meter_id": pl.String(), "point": pl.String(), "metered_kwh": pl.Float64(), "reconciled_kwh": pl.Float64(),
        "adjustment_sigma": pl.Float64(), "detectable_ratio": pl.Float64(), "is_checked": pl.Boolean(),
        "meter_verdict": pl.String(), "check_basis": pl.String(), "detail": pl.String(),
    }
)  # fmt: skip
STATES: Final = pl.Schema(
    {**{name: ROWS[name] for name in HOUR}, "state": pl.String(), "check_detail": pl.String()}
)


def check_meters(
    hours: pl.DataFrame, meters: pl.DataFrame, nodes: pl.DataFrame, stand_ins: pl.DataFrame
) -> Checks:
    """Site-hours (HOUR), METERS, NODE_HOURS, PART_HOURS -> the verdict of every site-hour, site-day and meter."""
    with threadpool_limits(limits=1):  # Small matrices: threads cost more than they bring.
        return _check(hours, meters, nodes, stand_ins)


def _check(hours: pl.DataFrame, meters: pl.DataFrame, nodes: pl.DataFrame, stand_ins: pl.DataFrame) -> Checks:
    rows: list[tuple[object, ...]] = []
    states: list[tuple[object, ...]] = []
    days: list[tuple[str, date, str]] = []
    listed = hours.select(HOUR).unique().sort(HOUR)
    for site_id, day, starts, train in _site_days(listed, meters, nodes, stand_ins):
        whole = reconcile(train)
        single = [reconcile(train.at([hour]), HOUR_ALPHA) for hour in range(len(starts))]
        bad = {hour for hour, one in enumerate(single) if one.is_violated}
        rest = [hour for hour in range(len(starts)) if hour not in bad]
        if whole.is_violated and bad and rest and not reconcile(train.at(rest)).is_violated:
            rest = []
        said = _words(train, whole) if whole.is_violated else None
        if said or bad:
            days.append((site_id, day, said or f"{len(bad)} hours of it; see the hours"))
        midnight = datetime.combine(day, time(), UTC)
        rows += _rows(train, whole, day, midnight, "day", site_id)
        advice: dict[bytes, str] = {}
        for hour, start in enumerate(starts):
            own, of_hour = single[hour], train.at([hour])
            rows += _rows(of_hour, own, day, start, "hour", site_id)
            if hour in bad:
                state, detail = VIOLATED, _words(of_hour, own)
            elif whole.is_violated and hour in rest:
                state, detail = VIOLATED, f"of the day: {said}"
            elif _is_verified(of_hour, own) or (_has_source(of_hour) and _is_verified(train, whole)):
                state, detail = CLOSED, None
            else:
                pattern = of_hour.measured.tobytes()
                state, detail = UNVERIFIED, advice.setdefault(pattern, _advice(of_hour))
            states.append((site_id, start, state, detail))
    return Checks(
        pl.DataFrame(rows, schema=ROWS, orient="row"), pl.DataFrame(states, schema=STATES, orient="row"), tuple(days)
    )  # fmt: skip


def _site_days(
    listed: pl.DataFrame, meters: pl.DataFrame, nodes: pl.DataFrame, stand_ins: pl.DataFrame
) -> Iterator[tuple[str, date, list[datetime], Train]]:
    """Site, UTC day, starts of its hours and its train, of every site-day in order.

    A train is of its day alone: in a range of days it would take the mean losses of the whole range.
    """
    by_day = ["site_id", pl.col("hour_start").dt.date().alias("day")]
    for (site, day), hours in listed.group_by(by_day, maintain_order=True):
        assert isinstance(day, date)
        mine = (pl.col("site_id") == site) & (pl.col("hour_start").dt.date() == day)
        train = build_train(
            hours.select("hour_start"), *(frame.filter(mine) for frame in (meters, nodes, stand_ins))
        )
        yield str(site), day, hours["hour_start"].to_list(), train


def _has_source(train: Train) -> bool:
    at = [i for i, point in enumerate(train.points) if point == "utility"]
    return bool(at) and bool(train.measured[:, at].all())


def _is_verified(train: Train, verdict: Verdict) -> bool:
    """Whether an error of half of what the site drew would be seen at each utility meter."""
    if not _has_source(train):
        return False
    drawn = float(np.abs(train.value_kwh[:, [p in BOUNDARY for p in train.points]]).sum())
    at = np.array([point == "utility" for point in train.points])
    with np.errstate(invalid="ignore"):
        seen = verdict.detectable_ratio[at] * np.abs(verdict.measured_kwh[at])
    return bool(np.all(seen <= CHECKED_RATIO * drawn))


def _advice(train: Train) -> str:
    """What a site whose utility meter nothing checks lacks."""
    utility = [i for i, point in enumerate(train.points) if point == "utility"]
    if not all(train.measured[0, utility]):
        silent = [train.names[i] for i in utility if not train.names[i].startswith(MODEL)]
        return f"silent: {', '.join(silent)}" if silent else "no utility meter"
    points = missing_meters(train, "utility")
    if not points:
        return "nothing checks utility: the losses of its equipment are too uncertain, a nameplate would help"
    return f"nothing checks utility: a meter of {' or of '.join(points)} would"


def _words(train: Train, verdict: Verdict) -> str:
    """What contradicts what, and which measurement is the likeliest culprit."""
    groups = [" with ".join(train.names[at] for at in group) for group in verdict.candidates]
    impossible = [test for test in verdict.tests if " kWh" in test]
    text = "; ".join(impossible) or f"meters contradict each other ({', '.join(verdict.tests)})"
    if len(groups) == 1:
        alone = len(verdict.candidates[0]) == 1
        figures = " and ".join(
            f"{train.names[at]} {verdict.measured_kwh[at]:.3f} kWh" for at in verdict.candidates[0]
        )
        said = f", {verdict.by_others_kwh(*verdict.candidates[0]):.3f} kWh by the others" if alone else ""
        return f"{text}: likeliest {groups[0]} ({figures}{said})"
    more = f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    return f"{text}: one of {', '.join(groups[:_SHOWN])}{more}" if groups else text


def _rows(
    train: Train, verdict: Verdict, day: date, start: datetime, period: str, site_id: str
) -> list[tuple[object, ...]]:
    implicated = {at for group in verdict.candidates for at in group}
    found = CULPRIT if len(verdict.candidates) == 1 else CANDIDATE
    rows: list[tuple[object, ...]] = []
    for at, name in enumerate(train.names):
        silent = not train.measured[:, at].any()
        if silent and (name.startswith((MODEL, LOSS)) or name == NODES):
            continue
        checked = verdict.is_checked(at)
        said = (
            SILENT if silent else found if at in implicated else AGREES if checked else UNCHECKED
        )  # fmt: skip
        rows.append(
            (
                day, start, period, site_id, name, train.points[at].removesuffix(":"), _known(verdict.measured_kwh[at]),
                _known(verdict.reconciled_kwh[at]), _known(verdict.sigmas[at]), _known(verdict.detectable_ratio[at]),
                checked, said, train.bases[at], "; ".join(verdict.tests) or None,
            )
        )  # fmt: skip
    return rows


def _known(value: float) -> float | None:
    # What is but the rounding of a sum differs from machine to machine.
    return float(f"{value:.9g}") if abs(value) < _UNBOUNDED else None
