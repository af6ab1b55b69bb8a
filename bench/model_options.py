"""What each option against overfitting does, measured forward in time on the same rows as its plain twin.

Every class is refitted each quarter after a year of history and predicts the next quarter; the plain learner is the
house's monotone boosting with all features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from bench.measure import Figure, figure, print_figures
from bench.model_inputs import BASE, MEMORY
from lepton_etl.models.candidates import CANDIDATES, Candidate, Inputs, boosting, inputs_of
from lepton_etl.models.features import TARGET
from lepton_etl.models.fusion import fitted
from lepton_etl.models.metrics import Values, errors
from lepton_etl.models.select import SENSOR_NOISE

_FIRST_MONTHS: Final = 12
_QUARTER: Final = 3
_LEARNING_MONTHS: Final = (1, 3, 6, 12, 24)
_PLAIN: Final = CANDIDATES["boosting"]
Augment = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Option:
    """A learner, the columns it may use, and what is done to its training rows."""

    name: str
    candidate: Candidate
    columns: tuple[str, ...] = (*BASE, *MEMORY)
    augment: Augment | None = None
    monotone: bool = True


def _noisy(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows and once more with sensor noise on every feature; the target stays."""
    rng = np.random.default_rng(20250603)
    copy = rows.copy()
    for name in (*BASE, *MEMORY):
        sigma = next((s for end, s in SENSOR_NOISE.items() if name.endswith(end)), 0.0)
        copy[name] = copy[name] + rng.normal(0.0, sigma, len(copy))
    return pd.concat([rows, copy], ignore_index=True)


OPTIONS: Final = (
    Option("plain", _PLAIN),
    Option("no_memory_features", _PLAIN, BASE),
    Option("not_monotone", _PLAIN, monotone=False),
    Option("regularised", CANDIDATES["boosting_gentle"]),
    Option(
        "unregularised",
        Candidate("deep", "255 leaves of one", boosting(max_leaf_nodes=255, min_samples_leaf=1)),
    ),
    Option("recency_half_year", replace(_PLAIN, half_life_days=180.0)),
    Option("recency_two_years", replace(_PLAIN, half_life_days=730.0)),
    Option("sensor_noise", _PLAIN, augment=_noisy),
)


def option_figures(hours: pd.DataFrame) -> list[Figure]:
    """CV(RMSE) forward and on the training rows by class and option; split optimism; learning curve."""
    found: list[Figure] = []
    with threadpool_limits(1):
        for hardware_class, rows in hours.groupby("hardware_class"):
            stem = f"options/{hardware_class}"
            for option in OPTIONS:
                trained, ahead, bias = _forward(rows, option)
                found += [
                    figure(f"{stem}/{option.name}/forward_cv_rmse", ahead, "%", 1),
                    figure(f"{stem}/{option.name}/forward_nmbe", bias, "%", 1),
                    figure(f"{stem}/{option.name}/train_to_forward_gap", ahead - trained, "points", 1),
                ]
            found += _splits(rows, stem)
            found += _learning_curve(rows, stem)
    print_figures("what each option does, forward in time by quarter", found)
    return found


def _inputs(rows: pd.DataFrame, option: Option) -> Inputs:
    inputs = inputs_of(list(option.columns), rows)
    return inputs if option.monotone else replace(inputs, load=())


def _forward(rows: pd.DataFrame, option: Option) -> tuple[float, float, float]:
    """CV(RMSE) on training rows (mean over the refits), forward, and forward NMBE; percent."""
    inputs, block = _inputs(rows, option), rows["block"].to_numpy()
    parts, on_training = [], []
    for now in np.unique(block)[_FIRST_MONTHS::_QUARTER]:
        before, here = rows[block < now], rows[(block >= now) & (block < now + _QUARTER)]
        model = fitted(option.candidate, inputs, option.augment(before) if option.augment else before)
        on_training.append(_cv(before, np.asarray(model.predict(before[inputs.names]))))
        parts.append(here[[TARGET]].assign(predicted=model.predict(here[inputs.names])))
    ahead = pd.concat(parts)
    result = errors(ahead[TARGET].to_numpy(), ahead["predicted"].to_numpy())
    assert result.nmbe_ratio is not None
    return float(np.mean(on_training)), _cv(ahead, ahead["predicted"].to_numpy()), 100 * result.nmbe_ratio


def _splits(rows: pd.DataFrame, stem: str) -> list[Figure]:
    """The same learner judged by a shuffled split and by blocks of time: the difference is optimism."""
    inputs = _inputs(rows, OPTIONS[0])
    shuffled = np.zeros(len(rows))
    for train, test in KFold(5, shuffle=True, random_state=20250603).split(rows):
        model = fitted(_PLAIN, inputs, rows.iloc[np.sort(train)])
        shuffled[test] = model.predict(rows.iloc[test][inputs.names])
    _, forward_cv, _ = _forward(rows, OPTIONS[0])
    later = rows["block"].to_numpy() >= np.unique(rows["block"])[_FIRST_MONTHS]
    shuffled_cv = _cv(rows[later], shuffled[later])
    return [
        figure(f"{stem}/split/shuffled_cv_rmse", shuffled_cv, "%", 1),
        figure(f"{stem}/split/forward_cv_rmse", forward_cv, "%", 1),
        figure(f"{stem}/split/optimism_of_shuffling", forward_cv - shuffled_cv, "points", 1),
    ]


def _learning_curve(rows: pd.DataFrame, stem: str) -> list[Figure]:
    """Errors on the last half-year against the months of history before it."""
    block, inputs = rows["block"].to_numpy(), _inputs(rows, OPTIONS[0])
    months = np.unique(block)
    cut = months[-6]
    test = rows[block >= cut]
    found = []
    for count in _LEARNING_MONTHS:
        if count > (months < cut).sum():
            break
        model = fitted(_PLAIN, inputs, rows[(block < cut) & (block >= cut - count)])
        found.append(
            figure(
                f"{stem}/learning_curve/{count}_months", _cv(test, model.predict(test[inputs.names])), "%", 1
            )
        )
    return found


def _cv(rows: pd.DataFrame, predicted: Values) -> float:
    found = errors(rows[TARGET].to_numpy(), predicted).cv_rmse_ratio
    assert found is not None
    return 100 * found
