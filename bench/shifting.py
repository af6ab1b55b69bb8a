"""How much of the clairvoyant saving a forecast brings to preemptible jobs that plan again every hour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lepton_etl.forecast.grid_intensity import Floats


@dataclass(frozen=True, slots=True)
class Shifted:
    """Mean intensity of the hours that ran, g/kWh, by three ways to run the same jobs at equal power."""

    jobs: int
    at_once: float
    planned: float
    clairvoyant: float

    @property
    def share(self) -> float:
        """Saving against running at once over the saving of perfect foresight; NaN where nothing can be saved."""
        possible = self.at_once - self.clairvoyant
        return (self.at_once - self.planned) / possible if possible > 0 else float("nan")


def shift(
    intensity: Floats, forecast: Floats, first: int, released: NDArray[np.int64], need_h: int, window_h: int
) -> Shifted:
    """Jobs released at rows `released` of `intensity` (n,), each to run `need_h` whole hours of the next `window_h`.

    `forecast[t - first]` is what was expected of hours t, t+1, ... before hour t began. Every hour a job that still
    needs r hours runs if fewer than r later hours of its window are expected to be cleaner; ties run now. Raises
    ValueError where a window leaves the series or an hour in it is unknown.
    """
    if not 0 < need_h <= window_h <= forecast.shape[1]:
        raise ValueError(f"{need_h} of {window_h} h, and a forecast of {forecast.shape[1]} h")
    if released.min() < first or released.max() + window_h > min(len(intensity), first + len(forecast)):
        raise ValueError("a window leaves the hours that are known or forecast")
    windows = sliding_window_view(intensity, window_h)[released]
    if not np.isfinite(windows).all():
        raise ValueError("an hour of a window has no intensity: leave its jobs out")
    left = np.full(len(released), need_h)
    grams = np.zeros(len(released))
    for hour in range(window_h):
        expected = forecast[released + hour - first, : window_h - hour]
        cleaner = (expected[:, 1:] < expected[:, :1]).sum(axis=1)
        runs = (left > 0) & (cleaner < left)
        grams += np.where(runs, windows[:, hour], 0.0)
        left = left - runs
    best = np.sort(windows, axis=1)[:, :need_h]
    return Shifted(
        len(released), float(windows[:, :need_h].mean()), float(grams.mean() / need_h), float(best.mean())
    )
