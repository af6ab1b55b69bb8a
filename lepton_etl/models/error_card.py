"""The error card: how far a model was off on hours it had not seen, by class, cluster, load and temperature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.models.metrics import Errors, Values, errors

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
    """Rows over hardware_class, cluster_id, each load and each temperature of `hours`, (n,) energies in kWh.

    A bin without hours has no row; hours whose value is not known are a bin of their own.
    """
    return [
        CardRow(dimension, name, errors(measured_kwh[inside], predicted_kwh[inside]))
        for dimension, of_row in _dimensions(hours)
        for name in sorted(set(of_row), key=_order)
        for inside in [np.asarray(of_row == name, dtype=np.bool_)]
    ]


def records(rows: Sequence[CardRow]) -> list[dict[str, object]]:
    """Flat records for CSV and JSON."""
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
    """`[low, high)` by name, the last edge inside the last bin."""
    at = np.clip(np.digitize(values, edges) - 1, 0, len(edges) - 2)
    names = np.array([f"{low:g}..{high:g}" for low, high in pairwise(edges)], dtype=object)
    return np.where(np.isnan(values), UNKNOWN_BIN, names[at])


def _order(name: str) -> tuple[int, float, str]:
    low = name.partition("..")[0]
    try:
        return 0, float(low), name
    except ValueError:
        return 1, 0.0, name
