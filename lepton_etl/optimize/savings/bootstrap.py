"""Interval of a saving from a circular moving-block bootstrap of daily residuals.

Blocks keep the days' likeness to their neighbours. They are as long as the reporting period, so that its whole sum is
met as it stood in the baseline, or longer where Carlstein's rule for first-order autocorrelation says so. So few blocks
are a small sample: the width grows by Student's quantile over the normal one.
Source: Kuensch, Annals of Statistics 17 (1989) 1217; Politis and Romano (1992) for the circle; Carlstein, Annals of
Statistics 14 (1986) 1171, for the block length.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np

from lepton_etl.confidence import CONFIDENCE
from lepton_etl.optimize.savings.guideline14 import Floats, autocorrelation

REPLICATES: Final = 2000
# The week is the cycle of load.
LEAST_BLOCK_DAYS: Final = 7
# Fewer blocks than this in a baseline are no sample.
LEAST_BLOCKS: Final = 5


@dataclass(frozen=True, slots=True)
class Interval:
    """Two-sided interval of a saving, kWh, and the length of the blocks it rests on."""

    lower_kwh: float
    upper_kwh: float
    block_days: int


def block_days(residuals: Floats, reported_days: int) -> int:
    """Longest of ceil((sqrt(6) rho / (1 - rho^2))^(2/3) n^(1/3)), the reporting period and a week; at most n / 5."""
    count = len(residuals)
    rho = min(max(autocorrelation(residuals), 0.0), 0.99)
    best: float = (6.0**0.5 * rho / (1.0 - rho * rho)) ** (2.0 / 3.0) * count ** (1.0 / 3.0)
    return max(1, min(max(ceil(best), reported_days, LEAST_BLOCK_DAYS), count // LEAST_BLOCKS))


def small_sample_factor(days: int, block: int, confidence: float = CONFIDENCE) -> float:
    """Student's quantile over the normal one, for as many degrees of freedom as there are blocks less one."""
    from scipy.stats import norm, t

    tail = 0.5 + confidence / 2
    return float(t.ppf(tail, max(days / block - 1.0, 1.0)) / norm.ppf(tail))


def saving_interval(
    saving_kwh: float,
    design: Floats,
    residuals_kwh: Floats,
    reported_design: Floats,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of a saving of a linear model: its coefficients' error and the reporting days' own scatter.

    `design` (n, p) and `reported_design` (m, p) are the model's terms by day, `residuals_kwh` (n,) what it missed on
    days it was not fitted on, in order of time. Change points are held. A basic (reflected) bootstrap interval.
    """
    days = block_days(residuals_kwh, len(reported_design))
    random = np.random.default_rng(seed)
    centred = residuals_kwh - residuals_kwh.mean()
    fitted_on = blocks(centred, len(centred), days, random)
    reported = blocks(centred, len(reported_design), days, random)
    # d(sum of predictions) / d(each baseline day's energy): the whole refit in one row.
    leverage = reported_design.sum(axis=0) @ np.linalg.pinv(design)
    missed = fitted_on @ leverage - reported.sum(axis=1)
    tails = np.quantile(missed, [0.5 - confidence / 2, 0.5 + confidence / 2])
    low, high = tails * small_sample_factor(len(centred), days, confidence)
    return Interval(float(saving_kwh - high), float(saving_kwh - low), days)


def blocks(residuals: Floats, length: int, block: int, random: np.random.Generator) -> Floats:
    """Replicates (REPLICATES, length) of whole blocks of the circle, the last one cut."""
    count = ceil(length / block)
    starts = random.integers(0, len(residuals), size=(REPLICATES, count))
    position = (starts[:, :, None] + np.arange(block)).reshape(REPLICATES, count * block)
    drawn: Floats = residuals[position[:, :length] % len(residuals)]
    return drawn
