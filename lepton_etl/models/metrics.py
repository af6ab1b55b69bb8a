"""Errors of a model against measured energy, for all hours and busy hours, per node and over all.

Source: ASHRAE Guideline 14 (CV(RMSE), NMBE with p = 1; the sign is measured minus predicted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

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
    """Errors of two arrays of shape (n,), kWh."""
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
    if count < 2 or total <= 0:
        return Errors(count, mape, wape, None, None, mae, median)
    mean = total / count
    cv_rmse = float(np.sqrt((residual**2).sum() / (count - 1))) / mean
    nmbe = float(residual.sum()) / ((count - 1) * mean)
    return Errors(count, mape, wape, cv_rmse, nmbe, mae, median)


def is_busy(hours: pd.DataFrame, busy_utilisation_ratio: float) -> npt.NDArray[np.bool_]:
    """Hours whose CPU or GPU utilisation reaches the limit; unknown utilisation is not busy."""
    loads = [c for c in ("cpu_utilisation_ratio", "gpu_utilisation_ratio") if c in hours.columns]
    if not loads:
        return np.zeros(len(hours), dtype=np.bool_)
    return np.asarray((hours[loads] >= busy_utilisation_ratio).any(axis=1), dtype=np.bool_)


def error_table(
    model: str, hours: pd.DataFrame, measured_kwh: Values, predicted_kwh: Values, busy: npt.NDArray[np.bool_]
) -> list[ErrorRow]:
    """One row for all nodes and one a node, each for all and for busy hours; `hours` has `node_id`."""
    node_ids = hours["node_id"].to_numpy()
    every = np.ones(len(hours), dtype=np.bool_)
    scopes = [(ALL_NODES, every), *((str(node), node_ids == node) for node in sorted(set(node_ids)))]
    return [
        ErrorRow(model, node_id, name, errors(measured_kwh[mask & kind], predicted_kwh[mask & kind]))
        for node_id, mask in scopes
        for name, kind in ((ALL_HOURS, every), (BUSY_HOURS, busy))
    ]


def overall(rows: Sequence[ErrorRow], model: str, hours: str = ALL_HOURS) -> Errors:
    """The errors of one model over all nodes."""
    return next(r.errors for r in rows if (r.model, r.node_id, r.hours) == (model, ALL_NODES, hours))


def as_records(rows: Sequence[ErrorRow]) -> list[dict[str, object]]:
    """Flat records for JSON, CSV and the report."""
    return [{"model": r.model, "node_id": r.node_id, "hours": r.hours, **asdict(r.errors)} for r in rows]


def as_lines(rows: Sequence[ErrorRow]) -> list[str]:
    """The table for a person, in percent."""
    figures = " ".join(f"{name:>8}" for name in ("MAPE %", "WAPE %", "CV %", "NMBE %"))
    head = f"{'model':<12} {'node':<16} {'hours':<5} {'rows':>7} {figures}"
    return [head, *(_line(row) for row in rows)]


def _line(row: ErrorRow) -> str:
    e = row.errors
    figures = (e.mape_ratio, e.wape_ratio, e.cv_rmse_ratio, e.nmbe_ratio)
    cells = " ".join(f"{'-' if v is None else f'{100 * v:.2f}':>8}" for v in figures)
    return f"{row.model:<12} {row.node_id:<16} {row.hours:<5} {e.rows:>7} {cells}"
