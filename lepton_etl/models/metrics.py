"""Measure a model's errors on hours that it has not seen: over all, by node, class, cluster, load and temperature.

Also how often its intervals hold what was measured. CV(RMSE) and NMBE are those of ASHRAE Guideline 14 with p = 1; the
sign is measured minus predicted. Source of the intervals: Vovk et al., Algorithmic Learning in a Random World (2005).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.uncertainty import CONFIDENCE, cv_rmse, nmbe

Values = npt.NDArray[np.float64]

ALL_NODES: Final = "(all)"
ALL_HOURS: Final = "all"
BUSY_HOURS: Final = "busy"


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors over `rows` device-hours; ratios, not percent. A figure that the rows do not allow is None.

    `mape_ratio` and `median_ape_ratio` leave out hours of zero energy; `wape_ratio` = sum of absolute errors /
    sum of energy.
    """

    rows: int
    mape_ratio: float | None
    wape_ratio: float | None
    cv_rmse_ratio: float | None
    nmbe_ratio: float | None
    mae_kwh: float | None
    median_ape_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """Errors of one model on the hours (all or busy) of one node, or of all nodes."""

    model: str
    node_id: str
    hours: str
    errors: Errors


def errors(measured_kwh: Values, predicted_kwh: Values) -> Errors:
    """Return errors of two arrays of shape (n,), kWh."""
    count = len(measured_kwh)
    if count == 0:
        return Errors(0, None, None, None, None, None)
    residual = measured_kwh - predicted_kwh
    total = float(measured_kwh.sum())
    positive = measured_kwh > 0
    relative = np.abs(residual[positive]) / measured_kwh[positive]
    mape, median = (float(np.mean(relative)), float(np.median(relative))) if positive.any() else (None, None)
    mae = float(np.mean(np.abs(residual)))
    wape = float(np.abs(residual).sum()) / total if total > 0 else None
    both = (measured_kwh, predicted_kwh)
    return Errors(count, mape, wape, cv_rmse(*both), nmbe(*both), mae, median)


def is_busy(hours: pd.DataFrame, busy_utilisation_ratio: float) -> npt.NDArray[np.bool_]:
    """Return hours whose CPU or GPU utilisation reaches the limit; unknown utilisation is not busy."""
    loads = [c for c in ("cpu_utilisation_ratio", "gpu_utilisation_ratio") if c in hours.columns]
    if not loads:
        return np.zeros(len(hours), dtype=np.bool_)
    return np.asarray((hours[loads] >= busy_utilisation_ratio).any(axis=1), dtype=np.bool_)


def error_table(
    model: str,
    hours: pd.DataFrame,
    measured_kwh: Values,
    predicted_kwh: Values,
    busy: npt.NDArray[np.bool_],
    *,
    by_node: bool = True,
) -> list[ErrorRow]:
    """Return one row for all nodes and, `by_node`, one a node, for all and for busy hours; `hours` has `node_id`."""
    node_ids = hours["node_id"].to_numpy()
    every = np.ones(len(hours), dtype=np.bool_)
    scopes = [
        (ALL_NODES, every),
        *((str(node), node_ids == node) for node in sorted(set(node_ids)) if by_node),
    ]
    return [
        ErrorRow(model, node_id, name, errors(measured_kwh[mask & kind], predicted_kwh[mask & kind]))
        for node_id, mask in scopes
        for name, kind in ((ALL_HOURS, every), (BUSY_HOURS, busy))
    ]


def overall(rows: Sequence[ErrorRow], model: str, hours: str = ALL_HOURS) -> Errors:
    """Return the errors of one model over all nodes."""
    return next(r.errors for r in rows if (r.model, r.node_id, r.hours) == (model, ALL_NODES, hours))


def in_a_sentence(rows: Sequence[ErrorRow]) -> str:
    """Return each model's CV(RMSE) over all nodes and hours, smallest first, for a description."""
    every = [row for row in rows if (row.node_id, row.hours) == (ALL_NODES, ALL_HOURS)]
    known = [(row.errors.cv_rmse_ratio, row.model) for row in every if row.errors.cv_rmse_ratio is not None]
    return ", ".join(f"{name} {cv:.1%}" for cv, name in sorted(known))


def as_records(rows: Sequence[ErrorRow]) -> list[dict[str, object]]:
    """Return flat records for JSON, CSV and the report."""
    return [{"model": r.model, "node_id": r.node_id, "hours": r.hours, **asdict(r.errors)} for r in rows]


def as_lines(rows: Sequence[ErrorRow]) -> list[str]:
    """Return the table for a person, in percent."""
    figures = " ".join(f"{name:>8}" for name in ("MAPE %", "WAPE %", "CV %", "NMBE %"))
    head = f"{'model':<12} {'node':<16} {'hours':<5} {'rows':>7} {figures}"
    return [head, *(_line(row) for row in rows)]


def _line(row: ErrorRow) -> str:
    e = row.errors
    figures = (e.mape_ratio, e.wape_ratio, e.cv_rmse_ratio, e.nmbe_ratio)
    cells = " ".join(f"{'-' if v is None else f'{100 * v:.2f}':>8}" for v in figures)
    return f"{row.model:<12} {row.node_id:<16} {row.hours:<5} {e.rows:>7} {cells}"


# Shares of the test hours that ends from before them may hold without a word on the card: what is registered has learnt
# its ends from these hours too, and every night corrects them by the newest days.
HELD_RATIO: Final = (0.80, 0.97)
# Hours of one day resemble each other: fewer days say nothing of coverage.
MIN_DAYS: Final = 10


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of `rows` hours inside their interval, over `days`; the range is what such days leave open (90 %)."""

    rows: int
    days: int
    inside_ratio: float
    lower_ratio: float
    upper_ratio: float

    def misses(self) -> bool:
        """Return whether coverage lies outside of what may be, beyond the chance of the days."""
        least, most = HELD_RATIO
        return self.days >= MIN_DAYS and (self.upper_ratio < least or self.lower_ratio > most)


def coverage(measured: Values, lower: Values, upper: Values, days: Sequence[Any]) -> Coverage | None:
    """Return how often measured lies between the ends; arrays (n,), `days` the day of each. None for no rows.

    The range is Student's over the days' shares: an hour's neighbours are no further evidence.
    """
    from scipy.stats import t

    count = len(measured)
    if count == 0:
        return None
    inside = ((lower <= measured) & (measured <= upper)).astype(np.float64)
    names, whose = np.unique(np.asarray(days).astype(str), return_inverse=True)
    shares = np.bincount(whose, inside) / np.bincount(whose)
    ratio, number = float(inside.mean()), len(names)
    if number < 2:
        return Coverage(count, number, ratio, 0.0, 1.0)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, number - 1)) * float(shares.std(ddof=1)) / sqrt(number)
    return Coverage(count, number, ratio, max(0.0, ratio - half), min(1.0, ratio + half))


# Edges of the bins: what an operator calls idle, low, middle, high and full.
LOAD_EDGES: Final = (0.0, 0.1, 0.3, 0.6, 0.9, 1.0)
TEMPERATURE_STEP_C: Final = 5.0
_LOADS: Final = ("gpu_utilisation_ratio", "cpu_utilisation_ratio")
_TEMPERATURES: Final = ("inlet_temp_c", "device_temp_c")
UNKNOWN_BIN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class CardRow:
    """Errors of the hours of one bin of one dimension."""

    dimension: str
    bin: str
    errors: Errors


def error_card(hours: pd.DataFrame, measured_kwh: Values, predicted_kwh: Values) -> list[CardRow]:
    """Return rows over hardware_class, cluster_id, each load and each temperature of `hours`, (n,) energies in kWh.

    A bin without hours has no row; hours whose value is not known are a bin of their own.
    """
    return [
        CardRow(dimension, name, errors(measured_kwh[inside], predicted_kwh[inside]))
        for dimension, of_row in _dimensions(hours)
        for name in sorted(set(of_row), key=_order)
        for inside in [np.asarray(of_row == name, dtype=np.bool_)]
    ]


def records(rows: Sequence[CardRow]) -> list[dict[str, object]]:
    """Return flat records for CSV and JSON."""
    return [{"dimension": row.dimension, "bin": row.bin} | asdict(row.errors) for row in rows]


def _dimensions(hours: pd.DataFrame) -> Iterator[tuple[str, npt.NDArray[np.object_]]]:
    for name in ("hardware_class", "cluster_id"):
        if name in hours:
            yield name, hours[name].fillna(UNKNOWN_BIN).astype(str).to_numpy(dtype=object)
    for name in _LOADS:
        if name in hours and hours[name].notna().any():
            yield name, _binned(hours[name].to_numpy(dtype=np.float64), LOAD_EDGES)
    for name in _TEMPERATURES:
        if name in hours and hours[name].notna().any():
            values = hours[name].to_numpy(dtype=np.float64)
            low = np.floor(np.nanmin(values) / TEMPERATURE_STEP_C) * TEMPERATURE_STEP_C
            edges = np.arange(low, np.nanmax(values) + 2 * TEMPERATURE_STEP_C, TEMPERATURE_STEP_C)
            yield name, _binned(values, edges)


def _binned(values: Values, edges: Sequence[float] | Values) -> npt.NDArray[np.object_]:
    """Return `[low, high)` by name, the last edge inside the last bin."""
    at = np.clip(np.digitize(values, edges) - 1, 0, len(edges) - 2)
    names = np.array([f"{low:g}..{high:g}" for low, high in pairwise(edges)], dtype=object)
    return np.where(np.isnan(values), UNKNOWN_BIN, names[at])


def _order(name: str) -> tuple[int, float, str]:
    low = name.partition("..")[0]
    try:
        return 0, float(low), name
    except ValueError:
        return 1, 0.0, name
