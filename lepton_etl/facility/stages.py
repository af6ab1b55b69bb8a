"""Losses of a conversion stage (transformer, UPS, distribution) by what it delivers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import nnls

from lepton_etl.facility.hours import Floats

MIN_HOURS: Final = 24


@dataclass(frozen=True, slots=True)
class StageLoss:
    """loss = a + b x + c x^2 in kWh of an hour, x the output in kWh; a, b, c at least 0.

    `error_kwh` is one standard deviation of what the curve leaves, `hours` what it was fitted on.
    """

    a_kwh: float
    b_ratio: float
    c_per_kwh: float
    error_kwh: float
    hours: int

    def from_output(self, output_kwh: Floats) -> Floats:
        """Loss of hours by what the stage delivered."""
        return np.asarray(
            self.a_kwh + self.b_ratio * output_kwh + self.c_per_kwh * output_kwh**2, dtype=np.float64
        )

    def from_input(self, input_kwh: Floats) -> Floats:
        """Loss of hours by what the stage took: the root of x + loss(x) = input; at most the input."""
        rest = np.maximum(input_kwh - self.a_kwh, 0.0)
        slope = 1.0 + self.b_ratio
        # The form 2r / (s + sqrt(s^2 + 4cr)) stays exact where c is 0.
        output = 2.0 * rest / (slope + np.sqrt(slope**2 + 4.0 * self.c_per_kwh * rest))
        return np.asarray(input_kwh - output, dtype=np.float64)


def fit_stage_loss(input_kwh: Floats, output_kwh: Floats) -> StageLoss | None:
    """Non-negative least squares of input - output on 1, x, x^2 over hours in which both are known (not NaN).

    None with fewer than MIN_HOURS such hours, or where the stage gives more than it takes over all.
    Source: EN 62040-3 and IEC 60076-1: no-load, proportional and square losses.
    """
    known = np.isfinite(input_kwh) & np.isfinite(output_kwh) & (np.nan_to_num(output_kwh) > 0)
    taken, given = input_kwh[known], output_kwh[known]
    if len(given) < MIN_HOURS or taken.sum() <= given.sum():
        return None
    scale = float(given.max())
    load = given / scale
    design = np.column_stack([np.ones(len(load)), load, load**2])
    solved, _ = nnls(design, taken - given)
    error = float(np.std(taken - given - design @ solved))
    return StageLoss(
        float(solved[0]), float(solved[1]) / scale, float(solved[2]) / scale**2, error, len(given)
    )
