"""Does more load ever cost less energy? A check of a fitted model's response, by itself and not by its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from lepton_etl.models.metrics import Values

# Memory in use is no load: a board that holds much may draw less than one that computes on little.
LOADS: Final = ("cpu_utilisation_ratio", "gpu_utilisation_ratio")
# A response may fall by this share of its own level before it counts: trees that are averaged wobble.
TOLERANCE_RATIO: Final = 0.005
_GRID: Final = np.linspace(0.0, 1.0, 11)
_MOST_ROWS: Final = 300


@dataclass(frozen=True, slots=True)
class Fall:
    """The largest fall of the mean response to a load: from and to (load ratios), as a share of the mean energy."""

    load: str
    load_from: float
    load_to: float
    fall_ratio: float

    def __str__(self) -> str:
        return f"{self.fall_ratio:.1%} less energy at {self.load} {self.load_to:.1f} than at {self.load_from:.1f}"


def falls(
    predict: Callable[[pd.DataFrame], Values], rows: pd.DataFrame, columns: Sequence[str]
) -> list[Fall]:
    """The loads whose mean response over these rows falls by more than the tolerance, [] for a monotone model.

    A load is swept from 0 to 1 with its minimum and maximum of the hour, within the range that the rows show (a
    model says nothing about loads it has never seen); all else stays. Source: partial dependence (Friedman 2001).
    """
    sample = rows.iloc[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).astype(int)]
    found = []
    for load in LOADS:
        if load not in columns or not sample[load].notna().any():
            continue
        low, high = sample[load].quantile([0.01, 0.99])
        grid = _GRID[(low - 0.05 <= _GRID) & (high + 0.05 >= _GRID)]
        if len(grid) > 1:
            worst = _worst(load, grid, [_response(predict, sample, load, level, columns) for level in grid])
            found += [worst] if worst.fall_ratio > TOLERANCE_RATIO else []
    return found


def _response(
    predict: Callable[[pd.DataFrame], Values], rows: pd.DataFrame, load: str, level: float, columns: Sequence[str]
) -> float:  # fmt: skip
    moved = rows.copy()
    stem = load.removesuffix("_ratio")
    for name in (load, f"{stem}_min_ratio", f"{stem}_max_ratio"):
        if name in columns:
            moved[name] = level
    return float(np.mean(predict(moved)))


def _worst(load: str, grid: Values, responses: Sequence[float]) -> Fall:
    """The deepest fall below the highest response so far."""
    highest = np.maximum.accumulate(responses)
    depth = (highest - responses) / np.mean(responses)
    at = int(np.argmax(depth))
    start = int(np.argmax(responses[: at + 1]))
    return Fall(load, float(grid[start]), float(grid[at]), float(depth[at]))
