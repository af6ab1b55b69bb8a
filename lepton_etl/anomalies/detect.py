"""Scores of every kind for a rack of devices, each against bounds from the devices' own earlier hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.anomalies import statistics
from lepton_etl.anomalies.hours import DeviceHours, Floats, Normal, normal
from lepton_etl.confidence import conformal_rank

DEVICE_KINDS: Final = ("stuck", "drift", "scale", "step", "idle_but_drawing")
RACK: Final = "rack"
# One quiet day in so many may exceed the bound of a kind.
QUIET_DAYS: Final = 90
MIN_DAYS: Final = 20
MIN_PEERS: Final = 3
# Bounds are from the newest hours of the history; all of it tells what levels there are.
BOUND_H: Final = 90 * 24
# An excess below this is not worth a person's look, whatever the history's calm.
FLOORS: Final = {
    "stuck": 2.0, "drift": 0.01, "scale": 0.02, "step": 0.03, "scale_idle": 0.02, "step_idle": 0.03,
    "idle_but_drawing": 0.03, RACK: 0.01,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bound:
    """The conformal bound of one statistic, and the sorted daily maxima it is from."""

    bound: float
    daily_maxima: Floats

    def confidence(self, value: float) -> float:
        """Share of quiet days below the value, by conformal rank: never quite 1."""
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
    """Normal and bounds of the devices of one rack, from hours before the ones to be judged, and the rack's bound."""
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
    """Scores of the devices of one rack over `hours`, in the order of `history`, and the rack's signed median.

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
        scored = {kind: values[kind][keep] / bound.bound for kind, bound in known.bounds.items()}
        by_kind: dict[str, Floats] = {}
        for kind, value in scored.items():
            # Under load and at rest are two views of one kind: the higher score counts.
            name = kind.removesuffix("_idle")
            by_kind[name] = np.fmax(by_kind[name], value) if name in by_kind else value
        found.append(Scores(one, known, by_kind))
    tail = None if shared is None else shared[-len(hours[0].measured_kwh) :]
    return found, tail, rack_bound


def _statistics(one: DeviceHours, usual: Normal, shared: Floats | None) -> dict[str, Floats]:
    """Each kind's statistic; what the rack's peers share is taken off first where there are enough of them."""
    own = one
    if shared is not None:
        lift = np.exp(np.nan_to_num(shared))
        own = DeviceHours(
            one.site_id, one.cluster_id, one.rack_id, one.node_id, one.device_id, one.first_hour, one.measured_kwh,
            one.expected_kwh * lift, one.load_ratio,
        )  # fmt: skip
    return {
        "stuck": statistics.stuck(one),
        "drift": statistics.drift(own, usual),
        "scale": statistics.shifted(own, usual, statistics.SCALE_H),
        "step": statistics.shifted(own, usual, statistics.STEP_H),
        "scale_idle": statistics.strange_level(one, statistics.SCALE_H),
        "step_idle": statistics.strange_level(one, statistics.STEP_H),
        "idle_but_drawing": statistics.idle_but_drawing(own, usual),
    }


def _rack_median(devices: Sequence[DeviceHours], normals: Sequence[Normal]) -> Floats | None:
    if len(devices) < MIN_PEERS:
        return None
    pairs = [usual.deviation(one) for one, usual in zip(devices, normals, strict=True)]
    return statistics.rack(np.stack([value for value, _ in pairs]), np.stack([weight for _, weight in pairs]))


def _daily_maxima(values: Floats) -> Floats:
    """Sorted maxima of the days in which anything is known."""
    whole = values[: len(values) // 24 * 24].reshape(-1, 24)
    known = np.isfinite(whole).any(axis=1)
    return np.sort(np.nanmax(whole[known], axis=1)) if known.any() else np.empty(0)


def _bound(maxima: Floats, floor: float) -> Bound:
    """The conformal rank of 1 - 1 / QUIET_DAYS among daily maxima; with fewer days the largest.

    Source: split conformal prediction on block maxima, which are nearly independent where hours are not.
    """
    ordered = np.sort(maxima)
    rank = min(conformal_rank(len(ordered), 1 - 1 / QUIET_DAYS), len(ordered))
    return Bound(max(float(ordered[rank - 1]), floor), ordered)


def _joined(before: DeviceHours, now: DeviceHours) -> DeviceHours:
    return DeviceHours(
        now.site_id, now.cluster_id, now.rack_id, now.node_id, now.device_id, before.first_hour,
        np.concatenate([before.measured_kwh, now.measured_kwh]),
        np.concatenate([before.expected_kwh, now.expected_kwh]),
        np.concatenate([before.load_ratio, now.load_ratio]),
    )  # fmt: skip
