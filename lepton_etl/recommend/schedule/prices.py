"""What a unit of a group is worth in each hour: prices of scarce capacity by subgradient steps, and their bound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.recommend.schedule.arrays import Arrays
from lepton_etl.recommend.schedule.classes import Classes, Priced, price
from lepton_etl.recommend.schedule.inputs import Floats

# A job without a place costs so many times the dearest unit-hour that no plan leaves one out to save energy.
_LEFT_OUT: Final = 100.0
_STEPS: Final = 150
_PATIENCE: Final = 5
_DEFLECTION: Final = 0.6
_LEAST_STEP: Final = 1e-3
_LEAST_GAP: Final = 0.02


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices (G, H), objective per unit and hour, and the lower bound on every plan that they give."""

    unit_price: Floats
    bound: float


def left_out(arrays: Arrays, classes: Classes) -> Floats:
    """What a job of each class without a place is charged, (C,)."""
    rows = classes.first
    rate = np.abs(arrays.rate).max(initial=0.0)
    steps = (arrays.steps_kw.max(axis=1) * np.abs(arrays.rate).max(axis=1)).max(initial=0.0)
    work = arrays.need_h[rows].max(axis=1)
    dearest = work * (arrays.slot_kwh[rows].max(axis=1) * rate + arrays.units[rows] * steps)
    dearest = dearest + np.abs(arrays.fixed[rows]).max(axis=1)
    per_unit_hour = float((dearest / (arrays.units[rows] * work)).max(initial=0.0)) or 1.0
    return np.asarray(_LEFT_OUT * per_unit_hour * arrays.units[rows] * work)


def curve_steps(arrays: Arrays) -> Floats:
    """Objective per unit of each step of the marginal curves, (G, H, K)."""
    return np.asarray(arrays.steps_kw[:, None, :] * arrays.rate[:, :, None])


def curve_ends(arrays: Arrays) -> Floats:
    """Units that each step can take, (G, H, K)."""
    widths = arrays.widths
    before = np.cumsum(widths, axis=1) - widths
    room = arrays.capacity[:, :, None] - before[:, None, :]
    return np.asarray(np.clip(room, 0.0, np.broadcast_to(widths[:, None, :], room.shape)))


def bound(arrays: Arrays, classes: Classes, priced: Priced, unit_price: Floats, charged: Floats) -> float:
    """Lower bound on any plan, by Lagrangian relaxation of the capacity at these prices, whatever they are.

    Source: Geoffrion, Lagrangean relaxation for integer programming, Math. Programming Study 2 (1974).
    """
    jobs = np.minimum(priced.cost.min(axis=1, initial=np.inf), charged) @ classes.counts
    curve = np.minimum(curve_steps(arrays) - unit_price[:, :, None], 0.0) * curve_ends(arrays)
    return float(jobs + curve.sum())


def subgradient(arrays: Arrays, classes: Classes, reachable: float, until_s: float) -> Prices:
    """Prices after at most some hundred steps; `reachable` is the objective of a plan at hand.

    Source: Held, Wolfe and Crowder, Validation of subgradient optimization, Math. Programming 6 (1974); Camerini,
    Fratta and Maffioli, Math. Programming Study 3 (1975), for the deflected direction.
    """
    charged, steps, ends = left_out(arrays, classes), curve_steps(arrays), curve_ends(arrays)
    floor = steps[:, :, 0]
    prices, best = floor.copy(), Prices(floor.copy(), -np.inf)
    direction, share, waited = np.zeros_like(prices), 1.0, 0
    for _ in range(_STEPS):
        priced = price(arrays, classes, prices)
        value = bound(arrays, classes, priced, prices, charged)
        waited += 1
        if value > best.bound:
            best, waited = Prices(prices, value), 0
        elif waited >= _PATIENCE:
            prices, share, waited, direction = best.unit_price, share / 2, 0, np.zeros_like(prices)
            if share < _LEAST_STEP:
                break
            continue
        # Steps of the curve that are worth filling at these prices; the first as far as it is used.
        filled = ends[:, :, 0] + np.where(steps[:, :, 1:] < prices[:, :, None], ends[:, :, 1:], 0.0).sum(
            axis=2
        )
        surplus = _usage(arrays, classes, priced, charged) - filled
        surplus = np.where((prices <= floor) & (surplus < 0), 0.0, surplus)
        direction = surplus + _DEFLECTION * direction
        length = float((direction**2).sum())
        if length == 0 or time.monotonic() > until_s:
            break
        gap = max(reachable - value, _LEAST_GAP * abs(value))
        prices = np.maximum(prices + share * gap / length * direction, floor)
    return best


def _usage(arrays: Arrays, classes: Classes, priced: Priced, charged: Floats) -> Floats:
    """Units (G, H) when every class takes its cheapest place, or none."""
    group = priced.cost.argmin(axis=1)
    row = np.arange(len(group))
    takes = priced.cost[row, group] < charged
    slots = priced.slots[row, group]
    c, k = np.nonzero((slots >= 0) & takes[:, None])
    used = np.zeros_like(arrays.capacity)
    np.add.at(used, (group[c], slots[c, k]), arrays.units[classes.first[c]] * classes.counts[c])
    return used
