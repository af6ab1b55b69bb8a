"""Detect anomalies of devices and racks: rows of gold/anomaly with begin, end, excess, confidence and the reason.

Each kind of fault has one statistic an hour, from that hour and the ones before; larger is odder. All take arrays of
shape (n,) on an hourly grid with NaN for the unknown and give (n,); NaN where too little is known. A statistic is set
against a bound from the devices' own earlier hours; stretches above it become episodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lepton_etl.uncertainty import conformal_quantile

Floats = NDArray[np.float64]

# Load bins: idle, part and full load each have errors of their own.
LOAD_EDGES: Final = (0.10, 0.50)
MIN_BIN_HOURS: Final = 24
_MAD_TO_SIGMA: Final = 1.4826
# A model that is right to less than this is not told from the sensor's rounding.
_SPREAD_FLOOR: Final = 0.005


@dataclass(frozen=True, slots=True)
class DeviceHours:
    """Hours from `first_hour` on, shape (n,): kWh measured and expected, load 0..1; NaN where unknown."""

    site_id: str
    cluster_id: str
    rack_id: str | None
    node_id: str
    device_id: str
    first_hour: datetime
    measured_kwh: Floats
    expected_kwh: Floats
    load_ratio: Floats

    @property
    def log_ratio(self) -> Floats:
        """Return log(measured / expected); NaN where either is unknown or not above 0."""
        usable = (self.measured_kwh > 0) & (self.expected_kwh > 0)
        ratio = np.divide(
            self.measured_kwh, self.expected_kwh, out=np.full(len(usable), np.nan), where=usable
        )
        return np.asarray(np.log(ratio))

    def hour(self, position: int) -> datetime:
        return self.first_hour + timedelta(hours=position)

    def part(self, start: int, end: int) -> DeviceHours:
        """Return hours start..end-1 as hours of their own."""
        cut = slice(start, end)
        return DeviceHours(
            self.site_id, self.cluster_id, self.rack_id, self.node_id, self.device_id, self.hour(start),
            self.measured_kwh[cut], self.expected_kwh[cut], self.load_ratio[cut],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Normal:
    """Median and spread of a device's log ratio in each load bin, over hours that had ended before."""

    median: Floats  # (bins,)
    spread: Floats  # (bins,)

    def deviation(self, hours: DeviceHours) -> tuple[Floats, Floats]:
        """Log ratio less the bin's median, and the weight of each hour, 1 / spread^2; NaN and 0 where unknown."""
        at = bins(hours.load_ratio)
        value = hours.log_ratio - self.median[at]
        weight = np.where(np.isfinite(value), 1.0 / self.spread[at] ** 2, 0.0)
        return value, weight


def bins(load_ratio: Floats) -> NDArray[np.int64]:
    """Load bin of each hour; unknown load stands with part load."""
    known = np.nan_to_num(load_ratio, nan=sum(LOAD_EDGES) / 2)
    return np.asarray(np.digitize(known, LOAD_EDGES), dtype=np.int64)


def normal(history: DeviceHours, half_life_h: float = 30 * 24.0) -> Normal:
    """Return what has been normal, recent hours weighing most; a bin with too few hours takes the figures of all."""
    value, at = history.log_ratio, bins(history.load_ratio)
    age = np.arange(len(value), 0, -1.0)
    weight = np.where(np.isfinite(value), 0.5 ** (age / half_life_h), 0.0)
    median, spread = np.zeros(len(LOAD_EDGES) + 1), np.full(len(LOAD_EDGES) + 1, _SPREAD_FLOOR)
    for number in range(len(median)):
        inside = (at == number) & (weight > 0)
        if inside.sum() < MIN_BIN_HOURS:
            inside = weight > 0
        if not inside.any():
            continue
        median[number] = weighted_median(value[inside], weight[inside])
        off = np.abs(value[inside] - median[number])
        spread[number] = max(_MAD_TO_SIGMA * weighted_median(off, weight[inside]), _SPREAD_FLOOR)
    return Normal(median, spread)


def weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def devices(hours: pl.DataFrame) -> list[DeviceHours]:
    """Return each device of a frame on the grid of the frame's hours.

    Columns: site_id, cluster_id, rack_id, node_id, device_id, hour_start, energy_kwh, expected_kwh, load_ratio.

    Raises ValueError where a device has an hour twice.
    """
    if not hours.height:
        return []
    first: datetime = hours.select(pl.col("hour_start").min()).item()
    offsets = (pl.col("hour_start") - first).dt.total_hours()
    length = int(hours.select(offsets.max()).item()) + 1
    key = ["site_id", "cluster_id", "rack_id", "node_id", "device_id"]
    found = []
    for name, rows in (
        hours.with_columns(offsets.alias("_at")).sort(*key, "_at").group_by(key, maintain_order=True)
    ):
        at = rows["_at"].to_numpy()
        if len(np.unique(at)) != len(at):
            raise ValueError(f"node {name[3]} device {name[4]} has an hour twice")
        columns = []
        for column in ("energy_kwh", "expected_kwh", "load_ratio"):
            values = np.full(length, np.nan)
            values[at] = rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            columns.append(values)
        site, cluster, rack, node, device = name
        rack_id = None if rack is None else str(rack)
        found.append(DeviceHours(str(site), str(cluster), rack_id, str(node), str(device), first, *columns))
    return found


def with_expected_by_load(rows: pl.DataFrame, day: date) -> pl.DataFrame:
    """Add `expected_kwh` from load alone: an isotonic curve of each device over the days before, null without one.

    Source: Barlow et al. (1972), isotonic regression: more load never costs less.
    """
    from sklearn.isotonic import IsotonicRegression

    found = []
    for _, own in rows.group_by("node_id", "device_id", maintain_order=True):
        known = own.filter(pl.col("date") < day).drop_nulls(["energy_kwh", "load_ratio"])
        if known.height < 2:
            found.append(own.with_columns(pl.lit(None, pl.Float64).alias("expected_kwh")))
            continue
        curve = IsotonicRegression(out_of_bounds="clip").fit(known["load_ratio"], known["energy_kwh"])
        load = own["load_ratio"].fill_null(0.0).to_numpy()
        told = pl.Series("expected_kwh", curve.predict(load))
        found.append(
            own.with_columns(told).with_columns(
                pl.when(pl.col("load_ratio").is_not_null()).then("expected_kwh")
            )
        )
    return pl.concat(found) if found else rows.with_columns(pl.lit(None, pl.Float64).alias("expected_kwh"))


STUCK_H: Final = 6
STEP_H: Final = 6
# Hours of like load that newer ones are held against; the error that any model has of an hour.
STEP_BEFORE_H: Final = 24
SCALE_BEFORE_H: Final = 48
_MIN_BEFORE_H: Final = 12
_CALM: Final = 0.05
# Of a change's bound: what begins more gently is no step.
_SUDDEN: Final = 0.2
IDLE_H: Final = 4
SCALE_H: Final = 48
LASTING_H: Final = 96
DRIFT_DAYS: Final = 14
# Days apart that hours are held against each other for drift: a creep shows the more the longer.
DRIFT_LAGS: Final = (1, 2, 3)
RACK_H: Final = 6
_KNOWN_SHARE: Final = 0.5
# Relative change below which two readings are one: board sensors resolve 0.01 to 1 W.
_REPEAT_RATIO: Final = 1e-6
DAY_H: Final = 24
# Levels: how many earlier hours make one, how many must be known, and how far back `earlier` begins.
NEIGHBOURS: Final = 12
MIN_LEVEL_HOURS: Final = 120
BLOCK_H: Final = 30 * DAY_H
_DRIFT_SHARE: Final = 0.3


def trailing(values: Floats, length: int) -> Floats:
    """Return windows (n, length) that end with each hour; NaN before the first."""
    padded = np.concatenate([np.full(length - 1, np.nan), values])
    return np.asarray(sliding_window_view(padded, length), dtype=np.float64)


def trailing_mean(value: Floats, weight: Floats, length: int) -> Floats:
    """Return the weighted mean of the last `length` hours, NaN where under half of them are known."""
    known = np.isfinite(value)
    weighed = np.where(known, value, 0.0) * weight
    sums = [
        np.convolve(one, np.ones(length))[: len(one)]
        for one in (weighed, weight * known, known.astype(np.float64))
    ]
    enough = sums[2] >= length * _KNOWN_SHARE
    where = enough & (sums[1] > 0)
    return np.asarray(np.divide(sums[0], sums[1], out=np.full(len(value), np.nan), where=where))


def stuck(hours: DeviceHours) -> Floats:
    """Return how much more the expected energy moved than the measured over STUCK_H hours, in octaves; a repeat adds.

    Variance collapse: log2 of the ratio of the two standard deviations, relative to the means. A sensor that says
    the very same number for the whole window counts more the more the load moved, and is odd even at rest.
    """
    measured, expected = trailing(hours.measured_kwh, STUCK_H), trailing(hours.expected_kwh, STUCK_H)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = expected.std(axis=1) / expected.mean(axis=1)
        seen = measured.std(axis=1) / measured.mean(axis=1)
    floor = 1e-4
    with np.errstate(invalid="ignore"):
        octaves = np.log2((moved + floor) / (seen + floor))
        repeats = np.where(seen < _REPEAT_RATIO, 2.0, 0.0)
    return np.asarray(octaves + repeats)


def shifted(hours: DeviceHours, normal: Normal, length: int) -> Floats:
    """Return the absolute weighted mean deviation of the log ratio over the last `length` hours under load."""
    value, weight = normal.deviation(hours)
    loaded = hours.load_ratio >= LOAD_EDGES[0]
    return np.asarray(np.abs(trailing_mean(np.where(loaded, value, np.nan), weight * loaded, length)))


def changed(hours: DeviceHours) -> Floats:
    """Return how far the median log ratio of the last STEP_H hours of like load lies from that of those before.

    In spreads of the hours before, so that a restless device must move by more. What the model misses for weeks, as
    levels of idle are, cancels. NaN where the load bin has too few hours.
    """
    value, at = hours.log_ratio, bins(hours.load_ratio)
    found = np.full(len(value), np.nan)
    for number in range(len(LOAD_EDGES) + 1):
        inside = np.flatnonzero((at == number) & np.isfinite(value))
        if len(inside) < STEP_H + STEP_BEFORE_H:
            continue
        own = value[inside]
        before = sliding_window_view(own[:-STEP_H], STEP_BEFORE_H)
        usual = np.median(before, axis=1)
        spread = _MAD_TO_SIGMA * np.median(np.abs(before - usual[:, None]), axis=1)
        now = np.median(sliding_window_view(own[STEP_BEFORE_H:], STEP_H), axis=1)
        found[inside[STEP_H + STEP_BEFORE_H - 1 :]] = np.abs(now - usual) / (spread + _CALM)
    return found


def lasting(hours: DeviceHours) -> Floats:
    """Return by how much the log ratio of nearly all of the last LASTING_H hours lies on one side of what was before.

    Each hour is held against the median of SCALE_BEFORE_H hours of like load before the window. The lower quartile of
    these changes, or less the upper one: a factor moves all hours of rest and of work; what changes some hours, or one
    of the two, moves it little. One value each midnight, held until the next.
    """
    value, at = hours.log_ratio, bins(hours.load_ratio)
    of_bins = [np.flatnonzero((at == n) & np.isfinite(value)) for n in range(len(LOAD_EDGES) + 1)]
    found = np.full(len(value), np.nan)
    for end in range(LASTING_H, len(value) + 1, DAY_H):
        moved = [np.empty(0)]
        for inside in of_bins:
            first, last = np.searchsorted(inside, (end - LASTING_H, end))
            before = inside[max(0, first - SCALE_BEFORE_H) : first]
            if len(before) >= _MIN_BEFORE_H:
                moved.append(value[inside[first:last]] - np.median(value[before]))
        every = np.sort(np.concatenate(moved))
        if len(every) >= LASTING_H * _KNOWN_SHARE:
            quarter = len(every) // 4
            found[end - 1 : end - 1 + DAY_H] = max(every[quarter], -every[-1 - quarter], 0.0)
    return found


def step_score(level: Floats, change: Floats) -> Floats:
    """Return the score of a step from those of its level and of its change, (n,) each.

    Devices change often, mostly to a level that they know: how sudden it is orders hours, up to 1, and the level alone
    alarms, where a change came within the day.
    """
    recent = np.fmax.reduce(trailing(change, DAY_H), axis=1)
    return np.where((level > 1) & (recent > _SUDDEN), level, np.minimum(change, 1.0))


def scale_score(level: Floats, change: Floats) -> Floats:
    """Return the score of a scale error from those of its level and of its lasting change, (n,) each.

    The geometric mean: a level that was always off and a change that comes and goes are both far from a fault.
    """
    return np.asarray(np.sqrt(level * change))


_WITH_CHANGE: Final = {"step": step_score, "scale": scale_score}


def strangeness(hours: DeviceHours) -> Floats:
    """Return how far the level of each idle hour lies from any level that the device has idled at before.

    Idle power has levels (clocks, resident contexts) that come and go: a level seen before is normal however far it is
    from the mean. The distance in log energy to the NEIGHBOURS-th nearest earlier idle hour, and that in log ratio,
    whichever is less. Earlier means before the hour's own block of BLOCK_H hours.
    """
    idle = (hours.load_ratio < LOAD_EDGES[0]) & (hours.measured_kwh > 0)
    level = np.log(np.where(idle, hours.measured_kwh, np.nan))
    ratio = np.where(idle, hours.log_ratio, np.nan)
    return np.asarray(np.minimum(_novelty(level), _novelty(ratio)))


def strange_level(strange: Floats, length: int) -> Floats:
    """Return the median strangeness of the last `length` hours; NaN where too few of them idled."""
    windows = trailing(strange, length)
    enough = np.isfinite(windows).sum(axis=1) >= length * _KNOWN_SHARE
    found = np.full(len(strange), np.nan)
    if enough.any():
        found[enough] = np.nanmedian(windows[enough], axis=1)
    return found


def _novelty(values: Floats) -> Floats:
    """Return the distance to the NEIGHBOURS-th nearest value of earlier blocks, (n,).

    Blocks are counted from the end, so that the newest one is whole.
    """
    found = np.full(len(values), np.nan)
    for end in range(len(values), 0, -BLOCK_H):
        start = max(0, end - BLOCK_H)
        known = np.sort(values[:start][np.isfinite(values[:start])])
        if len(known) < MIN_LEVEL_HOURS:
            break
        asked = values[start:end]
        at = np.searchsorted(known, asked)
        best = np.full(len(asked), np.inf)
        for shift in range(NEIGHBOURS + 1):
            low = np.clip(at - shift, 0, len(known) - NEIGHBOURS)
            ends = np.maximum(np.abs(known[low] - asked), np.abs(known[low + NEIGHBOURS - 1] - asked))
            best = np.minimum(best, ends)
        found[start:end] = np.where(np.isfinite(asked), best, np.nan)
    return found


def drift(hours: DeviceHours, normal: Normal) -> Floats:
    """Return the absolute median change a day over the last DRIFT_DAYS days, log ratio a week.

    Hours are held against the same hour DRIFT_LAGS days before, in the same load bin, each pair weighing as its bin is
    calm and as it lies apart. Work that starts and ends, and levels that jump, change few pairs; a gain that creeps
    changes all of them. After the idea of Theil and Sen; one value each midnight, held until the next.
    """
    value, weight = normal.deviation(hours)
    at, calm = bins(hours.load_ratio), np.sqrt(weight)
    change = np.full((len(DRIFT_LAGS), len(value)), np.nan)
    for number, days in enumerate(DRIFT_LAGS):
        lag = days * DAY_H
        moved = (value[lag:] - value[:-lag]) / days
        change[number, lag:] = np.where(at[lag:] == at[:-lag], moved, np.nan)
    weights = np.array(DRIFT_LAGS, dtype=np.float64)[:, None] * calm
    window = DRIFT_DAYS * DAY_H
    found = np.full(len(value), np.nan)
    for end in range(window, len(value) + 1, DAY_H):
        part = slice(end - window, end)
        known = np.isfinite(change[:, part])
        if known.sum() >= window * _DRIFT_SHARE:
            per_day = weighted_median(change[:, part][known], weights[:, part][known])
            found[end - 1 : end - 1 + DAY_H] = abs(per_day) * 7
    return found


def idle_but_drawing(hours: DeviceHours, normal: Normal) -> Floats:
    """Return the least excess over IDLE_H hours of no load; NaN where the device worked in any of them."""
    value, _ = normal.deviation(hours)
    idle = np.where(hours.load_ratio < LOAD_EDGES[0], value, np.nan)
    return np.asarray(trailing(idle, IDLE_H).min(axis=1))


def rack(deviations: Floats, weights: Floats) -> Floats:
    """Return the peers' signed median of the mean deviation over RACK_H hours; inputs (nodes, n), needs 3 peers."""
    means = np.stack([trailing_mean(v, w, RACK_H) for v, w in zip(deviations, weights, strict=True)])
    enough = np.isfinite(means).sum(axis=0) >= 3
    found = np.full(means.shape[1], np.nan)
    if enough.any():
        found[enough] = np.nanmedian(means[:, enough], axis=0)
    return found


RACK: Final = "rack"
# One quiet day in so many may exceed the bound of a kind.
QUIET_DAYS: Final = 90
MIN_DAYS: Final = 20
MIN_PEERS: Final = 3
# A night reads so many days before its own; all of them tell what levels there are, the newest what the bounds are.
HISTORY_DAYS: Final = 120
BOUND_H: Final = 90 * 24
# An excess below this is not worth a person's look, whatever the history's calm.
FLOORS: Final = {
    "stuck": 2.0, "drift": 0.01, "scale": 0.02, "step": 0.03, "scale_idle": 0.02, "step_idle": 0.03,
    "scale_change": 0.02, "step_change": 0.6, "idle_but_drawing": 0.03, RACK: 0.01,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bound:
    """The conformal bound of one statistic, and the sorted daily maxima it is from."""

    bound: float
    daily_maxima: Floats

    def confidence(self, value: float) -> float:
        """Return the share of quiet days below the value, by conformal rank: never quite 1."""
        below = int(np.searchsorted(self.daily_maxima, value, side="left"))
        return below / (len(self.daily_maxima) + 1)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is normal for one device, and the bounds of its kinds; a kind without enough days is absent."""

    normal: Normal
    bounds: dict[str, Bound]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores (statistic over bound) of one device, (n,) each; alarm above 1."""

    hours: DeviceHours
    learnt: Learnt
    by_kind: dict[str, Floats]


def learn(history: Sequence[DeviceHours]) -> tuple[list[Learnt], Bound | None]:
    """Learn normal and bounds of one rack's devices, and the rack's bound, from hours before those to be judged."""
    normals = [normal(one) for one in history]
    shared = _rack_median(history, normals)
    values = [_statistics(one, usual, shared) for one, usual in zip(history, normals, strict=True)]
    maxima = [{kind: _daily_maxima(value[-BOUND_H:]) for kind, value in one.items()} for one in values]
    learnt = []
    for usual, own in zip(normals, maxima, strict=True):
        bounds = {}
        for kind, days in own.items():
            # A kind that a device has hardly met takes the days of all devices of its rack.
            enough = days if len(days) >= MIN_DAYS else np.concatenate([one[kind] for one in maxima])
            if len(enough) >= MIN_DAYS:
                bounds[kind] = _bound(enough, FLOORS[kind])
        learnt.append(Learnt(usual, bounds))
    if shared is None:
        return learnt, None
    days = _daily_maxima(np.abs(shared[-BOUND_H:]))
    return learnt, _bound(days, FLOORS[RACK]) if len(days) >= MIN_DAYS else None


def score(
    history: Sequence[DeviceHours], hours: Sequence[DeviceHours]
) -> tuple[list[Scores], Floats | None, Bound | None]:
    """Return scores of the devices of one rack over `hours`, in the order of `history`, and the rack's signed median.

    The hours follow the history without a gap; windows reach back into it. Raises ValueError where devices differ.
    """
    if [(o.node_id, o.device_id) for o in history] != [(o.node_id, o.device_id) for o in hours]:
        raise ValueError("history and hours hold other devices")
    learnt, rack_bound = learn(history)
    joined = [_joined(before, now) for before, now in zip(history, hours, strict=True)]
    shared = _rack_median(joined, [one.normal for one in learnt])
    found = []
    for one, whole, known in zip(hours, joined, learnt, strict=True):
        keep = slice(len(whole.measured_kwh) - len(one.measured_kwh), None)
        values = _statistics(whole, known.normal, shared)
        scored = {kind: values[kind] / bound.bound for kind, bound in known.bounds.items()}
        changes = {kind: scored.pop(f"{kind}_change", None) for kind in _WITH_CHANGE}
        by_kind: dict[str, Floats] = {}
        for kind, value in scored.items():
            # Under load and at rest are two views of one kind: the higher score counts.
            name = kind.removesuffix("_idle")
            by_kind[name] = np.fmax(by_kind[name], value) if name in by_kind else value
        for kind, change in changes.items():
            if change is not None and kind in by_kind:
                by_kind[kind] = _WITH_CHANGE[kind](by_kind[kind], change)
        found.append(Scores(one, known, {kind: value[keep] for kind, value in by_kind.items()}))
    tail = None if shared is None else shared[-len(hours[0].measured_kwh) :]
    return found, tail, rack_bound


def _statistics(one: DeviceHours, usual: Normal, shared: Floats | None) -> dict[str, Floats]:
    """Return each kind's statistic; what the rack's peers share is taken off first where there are enough of them."""
    own = one
    if shared is not None:
        lift = np.exp(np.nan_to_num(shared))
        own = DeviceHours(
            one.site_id, one.cluster_id, one.rack_id, one.node_id, one.device_id, one.first_hour, one.measured_kwh,
            one.expected_kwh * lift, one.load_ratio,
        )  # fmt: skip
    strange = strangeness(one)
    return {
        "stuck": stuck(one),
        "drift": drift(own, usual),
        "scale": shifted(own, usual, SCALE_H),
        "scale_change": lasting(own),
        "step": shifted(own, usual, STEP_H),
        "step_change": changed(own),
        "scale_idle": strange_level(strange, SCALE_H),
        "step_idle": strange_level(strange, STEP_H),
        "idle_but_drawing": idle_but_drawing(own, usual),
    }


def _rack_median(devices: Sequence[DeviceHours], normals: Sequence[Normal]) -> Floats | None:
    if len(devices) < MIN_PEERS:
        return None
    pairs = [usual.deviation(one) for one, usual in zip(devices, normals, strict=True)]
    return rack(np.stack([value for value, _ in pairs]), np.stack([weight for _, weight in pairs]))


def _daily_maxima(values: Floats) -> Floats:
    """Return the sorted maxima of the days in which anything is known."""
    whole = values[: len(values) // 24 * 24].reshape(-1, 24)
    known = np.isfinite(whole).any(axis=1)
    return np.sort(np.nanmax(whole[known], axis=1)) if known.any() else np.empty(0)


def _bound(maxima: Floats, floor: float) -> Bound:
    """Return the conformal rank of 1 - 1 / QUIET_DAYS among daily maxima; with fewer days the largest.

    Source: split conformal prediction on block maxima, which are nearly independent where hours are not.
    """
    ordered = np.sort(maxima)
    bound = min(conformal_quantile(ordered, 1 - 1 / QUIET_DAYS), float(ordered[-1]))
    return Bound(max(bound, floor), ordered)


def _joined(before: DeviceHours, now: DeviceHours) -> DeviceHours:
    return DeviceHours(
        now.site_id, now.cluster_id, now.rack_id, now.node_id, now.device_id, before.first_hour,
        np.concatenate([before.measured_kwh, now.measured_kwh]),
        np.concatenate([before.expected_kwh, now.expected_kwh]),
        np.concatenate([before.load_ratio, now.load_ratio]),
    )  # fmt: skip


KINDS: Final = ("stuck", "idle_but_drawing", "drift", "scale", "step")
WINDOW_H: Final = {
    "stuck": STUCK_H, "drift": DRIFT_DAYS * 24, "scale": LASTING_H, "step": STEP_H, "idle_but_drawing": IDLE_H,
    RACK: RACK_H,
}  # fmt: skip
JOIN_H: Final = 6
_WORDS: Final = {
    "stuck": "the reading stood still while the load moved",
    "drift": "the gain crept from day to day",
    "scale": "all readings were off by one factor for days",
    "step": "the reading left its expected level",
    "idle_but_drawing": "it drew power without work",
    RACK: "all nodes of the rack moved together",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """Hours start..end-1 in which a kind is said to have lasted, and its highest score."""

    kind: str
    start: int
    end: int
    score: float


def spans(kind: str, values: Floats) -> list[Span]:
    """Return stretches of scores above 1, joined over JOIN_H hours; each begins half a window before its first alarm.

    A trailing window alarms when about half of it is faulty, so the fault began about half a window earlier.
    """
    above = np.flatnonzero(np.nan_to_num(values) > 1)
    if not len(above):
        return []
    cuts = np.flatnonzero(np.diff(above) > JOIN_H) + 1
    found = []
    for part in np.split(above, cuts):
        start = max(0, int(part[0]) - WINDOW_H[kind] // 2)
        found.append(Span(kind, start, int(part[-1]) + 1, float(np.nanmax(values[part[0] : part[-1] + 1]))))
    return found


def device_spans(by_kind: dict[str, Floats]) -> list[Span]:
    """Return the episodes of one device; one mostly inside another that scores higher is left out, and whatever a
    stuck sensor says beside is its own."""
    every = [span for kind in KINDS if kind in by_kind for span in spans(kind, by_kind[kind])]
    kept: list[Span] = []
    for one in sorted(every, key=lambda span: (span.kind != "stuck", -span.score, span.start)):
        shared = max((min(one.end, k.end) - max(one.start, k.start) for k in kept), default=0)
        if shared * 2 <= one.end - one.start:
            kept.append(one)
    return sorted(kept, key=lambda one: (one.start, one.kind))


def anomaly_rows(history: Sequence[DeviceHours], hours: Sequence[DeviceHours]) -> pl.DataFrame:
    """Return rows of gold/anomaly for the devices of one rack, largest absolute excess first.

    `history` are the hours before `hours`, without a gap. A device without enough history has no
    row: unknown is not odd.
    """
    devices, shared, bound = score(history, hours)
    rows: list[dict[str, Any]] = []
    for device in devices:
        for span in device_spans(device.by_kind):
            rows.append(_row(device, span))
    if shared is not None and bound is not None:
        rows += _rack_rows(devices, shared, bound)
    frame = pl.DataFrame(rows, schema_overrides={"rack_id": pl.String}) if rows else pl.DataFrame()
    return frame.sort(pl.col("excess_kwh").abs(), descending=True) if rows else frame


def _row(device: Scores, span: Span) -> dict[str, Any]:
    one = device.hours
    excess, ratio = _excess(device, span)
    bound = device.learnt.bounds.get(span.kind) or device.learnt.bounds[f"{span.kind}_idle"]
    words = (
        f"{one.node_id} {one.device_id}: {_WORDS[span.kind]} from {one.hour(span.start):%Y-%m-%d %H:%M} for "
        f"{span.end - span.start} h; {ratio:+.0%} against expected, {excess:+.2f} kWh; score {span.score:.1f}, "
        f"bound from {len(bound.daily_maxima)} days"
    )
    return _cells(
        one, span, one.node_id, one.device_id, excess, bound.confidence(span.score * bound.bound), words
    )


def _rack_rows(devices: Sequence[Scores], shared: Floats, bound: Bound) -> Iterable[dict[str, Any]]:
    first = devices[0].hours
    for span in spans(RACK, np.abs(shared) / bound.bound):
        parts = [_excess(device, span) for device in devices]
        excess = sum(part[0] for part in parts)
        words = (
            f"rack {first.rack_id}: {_WORDS[RACK]} from {first.hour(span.start):%Y-%m-%d %H:%M} for "
            f"{span.end - span.start} h, {len(devices)} devices; {excess:+.2f} kWh; score {span.score:.1f}"
        )
        yield _cells(first, span, None, None, excess, bound.confidence(span.score * bound.bound), words)


def _excess(device: Scores, span: Span) -> tuple[float, float]:
    """Return measured less expected energy, kWh, and their ratio less 1, the usual bias taken off.

    Unknown hours add nothing.
    """
    cut: slice = slice(span.start, span.end)
    part = device.hours
    deviation, _ = device.learnt.normal.deviation(part)
    measured: NDArray[np.float64] = part.measured_kwh[cut]
    known = np.isfinite(deviation[cut])
    usual = measured[known] * np.exp(-deviation[cut][known])
    excess = float((measured[known] - usual).sum())
    return excess, excess / float(usual.sum()) if usual.sum() > 0 else 0.0


def _cells(
    one: DeviceHours,
    span: Span,
    node: str | None,
    device: str | None,
    excess: float,
    confidence: float,
    words: str,
) -> dict[str, Any]:
    start = one.hour(span.start)
    name = "|".join(
        map(str, (one.site_id, one.cluster_id, one.rack_id, node, device, span.kind, start.isoformat()))
    )
    return {
        "anomaly_id": sha256(name.encode()).hexdigest()[:32], "date": start.date(), "site_id": one.site_id,
        "cluster_id": one.cluster_id, "rack_id": one.rack_id, "node_id": node, "device_id": device,
        "anomaly_kind": span.kind, "start_time": start, "end_time": one.hour(span.end), "excess_kwh": excess,
        "anomaly_score": span.score, "confidence_ratio": confidence, "explanation": words,
    }  # fmt: skip
