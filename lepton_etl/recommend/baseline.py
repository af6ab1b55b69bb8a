"""Fit a baseline: a day's energy as a piecewise linear function of work done and weather, before the change.

energy = b0 + b1 work [+ b2 (work - w0)+] [+ b3 weather or b3 (weather - c0)+ [, times work]]: a term stands where the
days support it by an information criterion that counts autocorrelated points as the few they are worth. Normalised by
work, so that more work is no loss and less work no saving.
Source: IPMVP (2022) options C and D; the change-point family of ASHRAE RP-1050 (Kissock et al. 2003); BIC of
Schwarz (1978).

The uncertainty of a saving against it is told twice: by ASHRAE Guideline 14's formula for days that err alike, and by
a circular moving-block bootstrap of the baseline's residuals. Blocks keep the days' likeness to their neighbours. They
are as long as the reporting period, so that its whole sum is met as it stood in the baseline, or longer where
Carlstein's rule for first-order autocorrelation says so. So few blocks are a small sample: the width grows by Student's
quantile over the normal one.
Source: Kuensch, Annals of Statistics 17 (1989) 1217; Politis and Romano (1992) for the circle; Carlstein, Annals of
Statistics 14 (1986) 1171, for the block length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf, log, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from lepton_etl.uncertainty import CONFIDENCE, Estimate

Floats = npt.NDArray[np.float64]

DAYS_PER_MONTH: Final = 365.25 / 12


@dataclass(frozen=True, slots=True)
class ModelErrors:
    """What a baseline model missed on its own points: `points` n, `parameters` p, SSE in kWh squared."""

    points: int
    parameters: int
    sse_kwh2: float
    autocorrelation: float
    mean_kwh: float


def autocorrelation(residuals: Floats) -> float:
    """Return the lag-1 autocorrelation of residuals in order of time, (n,); 0 below three or where none differ."""
    if len(residuals) < 3:
        return 0.0
    centred = residuals - residuals.mean()
    total = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / total if total > 0 else 0.0


def effective_points(points: int, autocorrelation: float) -> float:
    """Return n' = n (1 - rho) / (1 + rho). A negative rho counts as 0: no more points than there are."""
    rho = min(max(autocorrelation, 0.0), 1.0)
    return points * (1.0 - rho) / (1.0 + rho)


def saving_error_kwh(
    model: ModelErrors,
    expected_kwh: float,
    reported_days: int,
    confidence: float = CONFIDENCE,
) -> float:
    """Return the half-width, kWh: k t E_pred CV' sqrt(n / (m n') (1 + 2 / n')), CV' = sqrt(SSE / (n' - p)) / mean.

    t is Student's, two-sided, of n' - p degrees; k, of a reporting period in months, is what the simplified formula
    falls short by for daily data. Infinite where n' does not exceed p: such a baseline says nothing.
    Source: ASHRAE Guideline 14-2014, annex B; Sun and Baltazar, ASHRAE Transactions 119 (2013), for k; the form of
    eemeter's common metrics.
    """
    from scipy.stats import t

    effective = effective_points(model.points, model.autocorrelation)
    freedom = effective - model.parameters
    if freedom <= 0 or model.mean_kwh <= 0 or reported_days < 1:
        return inf
    cv = sqrt(model.sse_kwh2 / freedom) / model.mean_kwh
    spread = sqrt(model.points / (reported_days * effective) * (1.0 + 2.0 / effective))
    student = float(t.ppf(0.5 + confidence / 2, freedom))
    months = reported_days / DAYS_PER_MONTH
    factor_k = -0.00024 * months**2 + 0.03535 * months + 1.00286
    return factor_k * student * expected_kwh * cv * spread


def fractional_uncertainty(error_kwh: float, saving_kwh: float) -> float:
    """Return the half-width over the saving; infinite where there is none, so that it can prove nothing."""
    return error_kwh / saving_kwh if saving_kwh > 0 else inf


Days = npt.NDArray[np.int64]

# Change points are sought at these quantiles: the tails hold too few points to see a bend.
_QUANTILES: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# Contiguous parts of the baseline that are left out in turn.
FOLDS: Final = 6


@dataclass(frozen=True, slots=True, eq=False)
class Period:
    """Points in order of time, arrays (n,): the day's ordinal, energy, work in any one unit, weather.

    `weather_c` (outdoor dry bulb or wet bulb, degC, one of them throughout) is None where none is known. Points with
    an unknown value are to be left out before; they are coverage, not energy.
    """

    day: Days
    energy_kwh: Floats
    work: Floats
    weather_c: Floats | None = None

    def __post_init__(self) -> None:
        arrays = [self.day, self.energy_kwh, self.work]
        arrays += [] if self.weather_c is None else [self.weather_c]
        if len({len(a) for a in arrays}) != 1 or not all(np.isfinite(a).all() for a in arrays):
            raise ValueError("savings: a period needs finite arrays of one length")
        if (np.diff(self.day) < 0).any():
            raise ValueError("savings: a period must be in order of time")

    def __len__(self) -> int:
        return len(self.energy_kwh)

    def taken(self, rows: npt.NDArray[np.bool_]) -> Period:
        weather = None if self.weather_c is None else self.weather_c[rows]
        return Period(self.day[rows], self.energy_kwh[rows], self.work[rows], weather)


@dataclass(frozen=True, slots=True)
class Form:
    """Which terms a model has; a change point counts as a parameter."""

    work_bend: float | None = None
    weather: bool = False
    weather_bend_c: float | None = None
    weather_by_work: bool = False

    @property
    def parameters(self) -> int:
        bends = (self.work_bend is not None) * 2 + (self.weather_bend_c is not None)
        return 2 + bends + int(self.weather)

    def design(self, period: Period) -> Floats:
        """Return the terms of each point, (n, p)."""
        terms: list[Floats] = [np.ones(len(period)), period.work]
        if self.work_bend is not None:
            terms.append(np.asarray(np.maximum(period.work - self.work_bend, 0.0), np.float64))
        if self.weather:
            if period.weather_c is None:
                raise ValueError("savings: the baseline has weather, the reporting period none")
            warm = np.asarray(period.weather_c, np.float64)
            if self.weather_bend_c is not None:
                warm = np.asarray(np.maximum(warm - self.weather_bend_c, 0.0), np.float64)
            terms.append(np.asarray(warm * period.work if self.weather_by_work else warm, np.float64))
        return np.column_stack(terms)


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """A fitted model, its own period, and what it missed on parts of it that were left out (kWh, (n,))."""

    form: Form
    coefficients: Floats
    period: Period
    errors: ModelErrors
    left_out_residuals_kwh: Floats
    cv_rmse_ratio: float
    nmbe_ratio: float

    def expected_kwh(self, period: Period) -> Floats:
        """Return what the points would have used without the change, (m,)."""
        expected: Floats = self.form.design(period) @ self.coefficients
        return expected


def fit_baseline(period: Period) -> Baseline | None:
    """Fit the best supported model of the period; None where none can be fitted or energy does not rise with work.

    The gates' CV(RMSE) and NMBE are of the parts left out in turn, with the form chosen anew each time.
    """
    form = _best_form(period)
    if form is None or period.energy_kwh.mean() <= 0:
        return None
    coefficients = _solve(form, period)
    residuals = period.energy_kwh - form.design(period) @ coefficients
    left_out = _left_out_residuals(period)
    if left_out is None:
        return None
    mean, count = float(period.energy_kwh.mean()), len(period)
    freedom = max(count - form.parameters, 1)
    errors = ModelErrors(
        count, form.parameters, float(residuals @ residuals), autocorrelation(residuals), mean
    )
    return Baseline(
        form, coefficients, period, errors, left_out,
        float(np.sqrt(left_out @ left_out / freedom)) / mean, float(left_out.sum()) / (freedom * mean),
    )  # fmt: skip


def _solve(form: Form, period: Period) -> Floats:
    solved = np.linalg.lstsq(form.design(period), period.energy_kwh, rcond=None)[0]
    return np.asarray(solved, np.float64)


def _left_out_residuals(period: Period) -> Floats | None:
    """Return residuals of each sixth of the period under a model of the others."""
    fold = np.arange(len(period)) * FOLDS // max(len(period), 1)
    residuals: Floats = np.full(len(period), np.nan)
    for one in range(FOLDS):
        out = fold == one
        rest = period.taken(~out)
        form = _best_form(rest)
        if form is None:
            return None
        part = period.taken(out)
        expected: Floats = form.design(part) @ _solve(form, rest)
        residuals[out] = part.energy_kwh - expected
    return residuals


def _best_form(period: Period) -> Form | None:
    """Return the form of least n' log(SSE / n) + p log(n') whose energy rises with work; n' by the plain form's rho."""
    count = len(period)
    if count < 3 * FOLDS or np.ptp(period.work) <= 0:
        return None
    plain = Form()
    missed = period.energy_kwh - plain.design(period) @ _solve(plain, period)
    effective = max(effective_points(count, autocorrelation(missed)), 2.0)
    best, least = None, np.inf
    for form in _forms(period):
        design = form.design(period)
        solved = np.linalg.lstsq(design, period.energy_kwh, rcond=None)
        coefficients, rank = np.asarray(solved[0], np.float64), int(solved[2])
        if rank < design.shape[1] or form.parameters >= effective or not _rises(form, coefficients):
            continue
        sse = float(((period.energy_kwh - design @ coefficients) ** 2).sum())
        score = effective * log(max(sse, 1e-12) / count) + form.parameters * log(effective)
        if score < least:
            best, least = form, score
    return best


def _rises(form: Form, coefficients: Floats) -> bool:
    """Return whether energy never falls with work, neither below nor above the bend."""
    slopes = [coefficients[1]]
    if form.work_bend is not None:
        slopes.append(coefficients[1] + coefficients[2])
    return bool(min(slopes) >= 0)


def _forms(period: Period) -> Iterator[Form]:
    work_bends = [None, *_bends(period.work)]
    for work_bend in work_bends:
        yield Form(work_bend)
        if period.weather_c is None or np.ptp(period.weather_c) <= 0:
            continue
        for weather_bend_c in (None, *_bends(period.weather_c)):
            for by_work in (False, True):
                yield Form(work_bend, True, weather_bend_c, by_work)


def _bends(values: Floats) -> list[float]:
    return sorted({float(v) for v in np.quantile(values, _QUANTILES)})


REPLICATES: Final = 2000
# The week is the cycle of load.
LEAST_BLOCK_DAYS: Final = 7
# Fewer blocks than this in a baseline are no sample.
LEAST_BLOCKS: Final = 5


def block_days(residuals: Floats, reported_days: int) -> int:
    """Return the longest of ceil((sqrt(6) rho / (1 - rho^2))^(2/3) n^(1/3)), the reporting period and a week.

    It is at most n / 5.
    """
    count = len(residuals)
    rho = min(max(autocorrelation(residuals), 0.0), 0.99)
    best: float = (6.0**0.5 * rho / (1.0 - rho * rho)) ** (2.0 / 3.0) * count ** (1.0 / 3.0)
    return max(1, min(max(ceil(best), reported_days, LEAST_BLOCK_DAYS), count // LEAST_BLOCKS))


def small_sample_factor(days: int, block: int, confidence: float = CONFIDENCE) -> float:
    """Return Student's quantile over the normal one, for as many degrees of freedom as there are blocks less one."""
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
) -> Estimate:
    """Return the interval of a saving of a linear model: its coefficients' error and the reporting days' own scatter.

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
    lower, upper = float(saving_kwh - high), float(saving_kwh - low)
    return Estimate(saving_kwh, min(lower, saving_kwh), max(upper, saving_kwh))


def blocks(residuals: Floats, length: int, block: int, random: np.random.Generator) -> Floats:
    """Return replicates (REPLICATES, length) of whole blocks of the circle, the last one cut."""
    count = ceil(length / block)
    starts = random.integers(0, len(residuals), size=(REPLICATES, count))
    position = (starts[:, :, None] + np.arange(block)).reshape(REPLICATES, count * block)
    drawn: Floats = residuals[position[:, :length] % len(residuals)]
    return drawn
