"""Measurement and verification of the simulated saving from logs alone: a regression on work and weather, by hour.

The work of a job is counted as the site did it before: without a cap, on the classes that the scheduler used to give.
Capped hours would otherwise count as more work. The interval is a bootstrap of whole days, fit and
residuals, widened by what the model misses of weeks that it was not fitted on.
Source: IPMVP option C (whole facility, normalised by independent variables).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.replay_cluster import Flags
from bench.replay_policy import Habits, JobLog
from bench.savings_world import spread_hours
from lepton_etl.recommend.replay import Floats

_DRAWS: Final = 400
_KNOTS_C: Final = (8.0, 14.0, 20.0)


@dataclass(frozen=True)
class Period:
    """Hours of one period: work (hours, 2): board energy, kWh, and board hours; wet bulb; metered kWh."""

    work: Floats
    wet_bulb_c: Floats
    facility_kwh: Floats


@dataclass(frozen=True)
class Verified:
    """The saving by the meter, its 90 % interval, and whether the truth lies in it; ratios."""

    saving: float
    lower: float
    upper: float
    truth: float

    @property
    def inside(self) -> bool:
        """Whether the truth lies inside."""
        return self.lower <= self.truth <= self.upper


def standard_work(
    log: JobLog, allowed: Flags, slowed: Floats, known: Habits, share: Floats, hours: int
) -> Floats:
    """Board energy, kWh, and board hours of the running jobs in each hour as they used to be done, (hours, 2).

    `slowed` is each job's time over that without its cap, by trials; `share` how the scheduler gave jobs that name no
    class to the classes.
    """
    rows = np.arange(len(log.gpus))
    names_none = np.asarray(allowed.all(axis=1))
    used = known.used_ratio[log.workload] / known.used_ratio[log.workload, log.hardware_class][:, None]
    weight = np.zeros_like(used)
    weight[rows, log.hardware_class] = 1.0
    weight = np.where(names_none[:, None], share[None, :], weight)
    rate_h = (weight * used).sum(axis=1) / slowed * log.gpus
    rate_kw = (weight * used * known.gpu_w[log.workload]).sum(axis=1) / slowed * log.gpus / 1000.0
    end_s = log.begin_s + log.runtime_s
    return np.column_stack([spread_hours(log.begin_s, end_s, rate, hours) for rate in (rate_kw, rate_h)])


def _rows(period: Period) -> Floats:
    wet = period.wet_bulb_c
    warm = [wet, *(np.maximum(wet - knot, 0.0) for knot in _KNOTS_C)]
    work = period.work[:, 0]
    return np.column_stack([np.ones(len(wet)), period.work, *warm, *(work * one for one in (wet, warm[2]))])


def verified(before: Period, after: Period, truth: float, rng: np.random.Generator) -> Verified:
    """Metered against what the model of the earlier hours expects for the work and weather of the later ones."""
    rows, later = _rows(before), _rows(after)
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-9)
    rows, later = rows / scale, later / scale
    coefficients = _fit(rows, before.facility_kwh)
    residual = before.facility_kwh - rows @ coefficients
    days = len(rows) // 24
    blocks = np.arange(days * 24).reshape(days, 24)
    metered = float(after.facility_kwh.sum())
    expected = float((later @ coefficients).sum())
    need = -(-len(later) // 24)
    daily = residual[: days * 24].reshape(days, 24).sum(axis=1)
    # Work of another kind than before: what whole weeks miss that the model has not seen. Few weeks, so Student's t.
    unseen = _week_errors(rows, before.facility_kwh)
    regime = unseen.std(ddof=1) * rng.standard_t(len(unseen) - 1, _DRAWS)
    found = np.empty(_DRAWS)
    for draw in range(_DRAWS):
        some = blocks[rng.integers(0, days, days)].ravel()
        again = _fit(rows[some], before.facility_kwh[some])
        found[draw] = (later @ again).sum() + daily[rng.integers(0, days, need)].sum()
        found[draw] *= 1.0 + regime[draw]
    low, high = np.quantile(1.0 - metered / found, [0.05, 0.95])
    return Verified(1.0 - metered / expected, float(low), float(high), truth)


def _week_errors(rows: Floats, kwh: Floats) -> Floats:
    """Metered over expected of each week, less one, by a model of the other weeks."""
    week = np.arange(len(rows)) // 168
    found = []
    for one in range(int(week.max()) + 1):
        out = week == one
        if out.sum() == 168:
            found.append(kwh[out].sum() / (rows[out] @ _fit(rows[~out], kwh[~out])).sum() - 1.0)
    return np.array(found)


def _fit(rows: Floats, goal: Floats) -> Floats:
    """Least squares with a slight ridge: a month of one season hardly tells the knots apart."""
    keep = np.eye(rows.shape[1]) * 1e-4 * len(rows)
    keep[0, 0] = 0.0
    return np.asarray(np.linalg.solve(rows.T @ rows + keep, rows.T @ goal))
