"""Energy of a day or an hour as a piecewise linear function of work done and weather, fitted before the change.

energy = b0 + b1 work [+ b2 (work - w0)+] [+ b3 weather or b3 (weather - c0)+ [, times work]]: a term stands where the
days support it by an information criterion that counts autocorrelated points as the few they are worth. Normalised by
work, so that more work is no loss and less work no saving.
Source: IPMVP (2022) options C and D; the change-point family of ASHRAE RP-1050 (Kissock et al. 2003); BIC of
Schwarz (1978).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np
import numpy.typing as npt

from lepton_etl.optimize.savings.guideline14 import Floats, ModelErrors, autocorrelation, effective_points

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
        """The terms of each point, (n, p)."""
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
        """What the points would have used without the change, (m,)."""
        expected: Floats = self.form.design(period) @ self.coefficients
        return expected


def fit_baseline(period: Period) -> Baseline | None:
    """The best supported model of the period; None where no model can be fitted or energy does not rise with work.

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
    """Residuals of each sixth of the period under a model of the others."""
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
    """Least n' log(SSE / n) + p log(n') among the forms whose energy rises with work; n' by the plain form's rho."""
    count = len(period)
    if count < 3 * FOLDS or np.ptp(period.work) <= 0:
        return None
    plain = Form()
    missed = period.energy_kwh - plain.design(period) @ _solve(plain, period)
    worth = max(effective_points(count, autocorrelation(missed)), 2.0)
    best, least = None, np.inf
    for form in _forms(period):
        design = form.design(period)
        solved = np.linalg.lstsq(design, period.energy_kwh, rcond=None)
        coefficients, rank = np.asarray(solved[0], np.float64), int(solved[2])
        if rank < design.shape[1] or form.parameters >= worth or not _rises(form, coefficients):
            continue
        sse = float(((period.energy_kwh - design @ coefficients) ** 2).sum())
        score = worth * log(max(sse, 1e-12) / count) + form.parameters * log(worth)
        if score < least:
            best, least = form, score
    return best


def _rises(form: Form, coefficients: Floats) -> bool:
    """Energy never falls with work, neither below nor above the bend."""
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
