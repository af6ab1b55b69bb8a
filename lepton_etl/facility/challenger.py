"""The challenger: boosted trees that rise with Q and wet bulb, kept as a grid of numbers.

A grid can be stored, read and checked as numbers; trees would have to be unpickled. The errors that are
published are those of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from lepton_etl.facility.hours import Floats

GRID_POINTS: Final = 16


@dataclass(frozen=True, slots=True)
class RisingGrid:
    """Energy of an hour over Q, kWh, and wet bulb, degC; between the points bilinear.

    Beyond the seen wet bulbs it stays at the edge; beyond the seen Q it goes on in proportion to Q.
    """

    q_kwh: tuple[float, ...]
    wet_bulb_c: tuple[float, ...]
    values_kwh: tuple[tuple[float, ...], ...]

    def energy_kwh(self, q_kwh: Floats, wet_bulb_c: Floats) -> Floats:
        """Energy of hours of heat Q, kWh, at outdoor wet bulbs, degC."""
        axis_q, axis_t, values = np.array(self.q_kwh), np.array(self.wet_bulb_c), np.array(self.values_kwh)
        inside = np.clip(q_kwh, axis_q[0], axis_q[-1])
        row, along_q = _place(inside, axis_q)
        column, along_t = _place(np.clip(wet_bulb_c, axis_t[0], axis_t[-1]), axis_t)
        low = values[row, column] * (1 - along_t) + values[row, column + 1] * along_t
        high = values[row + 1, column] * (1 - along_t) + values[row + 1, column + 1] * along_t
        return np.asarray((low * (1 - along_q) + high * along_q) * (q_kwh / inside), dtype=np.float64)


def fit_grid(q_kwh: Floats, wet_bulb_c: Floats, energy_kwh: Floats, seed: int) -> RisingGrid:
    """Boosted trees of hours' energy on Q and wet bulb, rising in both, read off at the quantiles.

    Arrays have shape (n,). Source: scikit-learn, HistGradientBoostingRegressor, monotonic_cst.
    """
    trees = HistGradientBoostingRegressor(
        monotonic_cst=[1, 1], max_iter=100, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=24,
        early_stopping=False, random_state=seed,
    )  # fmt: skip
    # A few thousand rows: threads cost more than they bring, and many times more on a busy machine.
    with threadpool_limits(limits=1):
        trees.fit(np.column_stack([q_kwh, wet_bulb_c]), energy_kwh)
    axis_q, axis_t = _axis(q_kwh), _axis(wet_bulb_c)
    points = np.array([(q, t) for q in axis_q for t in axis_t])
    values = np.maximum(trees.predict(points), 0.0).reshape(len(axis_q), len(axis_t))
    # Predictions of monotone trees rise; the running maximum keeps the last digit from saying otherwise.
    values = np.maximum.accumulate(np.maximum.accumulate(values, axis=0), axis=1)
    return RisingGrid(
        tuple(axis_q.tolist()), tuple(axis_t.tolist()), tuple(tuple(row) for row in values.tolist())
    )


def can_fit_grid(q_kwh: Floats, wet_bulb_c: Floats) -> bool:
    """Whether both drivers vary enough to have an axis."""
    return len(_axis(q_kwh)) > 1 and len(_axis(wet_bulb_c)) > 1


def _axis(values: Floats) -> Floats:
    return np.unique(np.quantile(values, np.linspace(0.0, 1.0, GRID_POINTS)))


def _place(values: Floats, axis: Floats) -> tuple[np.ndarray, Floats]:
    """Index of the grid cell of each value and how far along it lies, 0..1."""
    cell = np.clip(np.searchsorted(axis, values, side="right") - 1, 0, len(axis) - 2)
    return cell, (values - axis[cell]) / (axis[cell + 1] - axis[cell])
