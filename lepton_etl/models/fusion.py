"""Fuse candidates: select, fuse, evaluate, iterate, on predictions that were made forward in time.

1. Every candidate is fitted on the blocks (months, weeks) before a block and predicts it: `forward_predictions`.
2. Fuse, two ways: non-negative weights that sum to one, by non-negative least squares on the blocks before (newer
   blocks count more); or equal shares of the two or three members that were best there, which a short history
   fits no worse. The fused prediction of a block never uses that block.
3. Evaluate: members and fusion on the same rows, those that the fusion could predict.
4. Iterate: without the member that carries least, as long as this lowers the error.

The fusion is chosen only where it beats its best member on that validation; else that member is champion. So by
construction what is chosen is never worse than the best member on the validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.errors import ModelError
from lepton_etl.models.candidates import Candidate, Inputs, idle_and_span, monotone, recency_weights
from lepton_etl.models.features import TARGET
from lepton_etl.models.metrics import Values, errors
from lepton_etl.stacking import stacking_weights

# (measured, predicted (n, k), weight of each row) -> shares (k,), none negative, sum 1.
Weigher = Callable[[Values, Values, Values], Values]

FUSION: Final = "fusion"
MEAN_OF_BEST: Final = (2, 3)
# With blocks of a month: what is a year older counts a quarter.
HALF_LIFE_BLOCKS: Final = 6.0
# Of boosting's trees, those that learn from the newest hours what the others miss there.
_OF_NEWEST: Final = 1 / 3


@dataclass(frozen=True)
class Choice:
    """What to publish: weights by member (sum 1; one member is a champion), and the validation behind it."""

    name: str
    weights: dict[str, float]
    cv_rmse_ratio: dict[str, float] = field(default_factory=dict)
    rows: int = 0

    def predict(self, members: pd.DataFrame) -> Values:
        """Return the weighted mean of member predictions, one column a member."""
        names = list(self.weights)
        shares = np.array([self.weights[name] for name in names])
        return np.asarray(members[names].to_numpy(dtype=np.float64) @ shares)


@dataclass(frozen=True)
class Forward:
    """Forward predictions, one column a candidate, on the index of the rows; CPU-seconds of fitting by candidate."""

    predicted: pd.DataFrame
    cpu_s: dict[str, float]


def forward_block(
    hours: pd.DataFrame, block: npt.NDArray[Any], now: Any, inputs: Inputs, candidates: Sequence[Candidate]
) -> Forward:
    """Fit each candidate on the rows of blocks before `now` and predict the rows of `now`."""
    before, here = hours[block < now], hours[block == now]
    predicted, cpu_s = {}, {}
    for candidate in candidates:
        started = time.process_time()
        model = fitted(candidate, inputs, before)
        cpu_s[candidate.name] = time.process_time() - started
        predicted[candidate.name] = energy_kwh(model, inputs, here)
    return Forward(pd.DataFrame(predicted, index=here.index), cpu_s)


def fitted(candidate: Candidate, inputs: Inputs, hours: pd.DataFrame) -> Any:
    """Fit the candidate's estimator on `hours` (device-hours with the target), older ones by its half-life.

    Weights teach lines and forests. Boosting learns two thirds of its trees from all hours alike, the rest from what
    these still miss in a sample that holds each hour with the probability of its weight: as good as weights, at the
    price of none.
    """
    if candidate.positive:
        hours = hours[target(hours, inputs) > 0]
    model = monotone(candidate.build(inputs), inputs, hours)
    table, measured = hours[inputs.names], target(hours, inputs)
    if candidate.half_life_days is None:
        return model.fit(table, measured)
    weights = recency_weights(hours, candidate.half_life_days)
    trees = model.get_params().get("model__max_iter")
    # What a gamma deviance misses is no sum: its link is a logarithm.
    if trees is None or candidate.positive:
        return model.fit(table, measured, model__sample_weight=weights)
    from sklearn.base import clone

    newest = np.random.default_rng(inputs.seed).random(len(hours)) < weights
    early = trees - max(1, round(trees * _OF_NEWEST))
    rest = clone(model).set_params(model__max_iter=trees - early)
    model.set_params(model__max_iter=early).fit(table, measured)
    rest.fit(table[newest], measured[newest] - model.predict(table[newest]))
    return _continued(model, rest, trees)


def _continued(model: Any, rest: Any, trees: int) -> Any:
    """Return boosting that says the sum of both, in one estimator; `trees` are those of both."""
    first, second = model.named_steps["model"], rest.named_steps["model"]
    first._predictors = [*first._predictors, *second._predictors]
    first._baseline_prediction = first._baseline_prediction + second._baseline_prediction
    first.set_params(max_iter=trees)
    return model


def target(hours: pd.DataFrame, inputs: Inputs) -> Values:
    """Return what a model of these inputs learns, (n,): kWh of the hour, or its place between idle and rated."""
    measured = hours[TARGET].to_numpy(dtype=np.float64)
    if not inputs.normalised:
        return measured
    idle_kwh, span_kwh = idle_and_span(hours)
    return (measured - idle_kwh) / span_kwh


def energy_kwh(model: Any, inputs: Inputs, hours: pd.DataFrame) -> Values:
    """Return kWh of each row (n,) by a model that learnt `target`; linear members may fall below zero: that is 0."""
    found = np.asarray(model.predict(hours[inputs.names]), dtype=np.float64)
    if inputs.normalised:
        idle_kwh, span_kwh = idle_and_span(hours)
        found = idle_kwh + found * span_kwh
    return np.maximum(found, 0.0)


def stack(measured: Values, predicted: Values, row_weight: Values) -> Values:
    """Return the shares of a stack. Raises ModelError on no rows or values that are not finite."""
    if len(measured) == 0 or not (np.isfinite(measured).all() and np.isfinite(predicted).all()):
        raise ModelError("no finite rows to weigh the members on", where="fusion", remedy="give more history")
    return stacking_weights(measured, predicted, row_weight)


def best_shares(count: int) -> Weigher:
    """Return equal shares of the `count` members of smallest weighted squares. Source: Clemen (1989), combining."""

    def weigh(measured: Values, predicted: Values, row_weight: Values) -> Values:
        squares = (row_weight[:, None] * (predicted - measured[:, None]) ** 2).sum(axis=0)
        shares = np.zeros(predicted.shape[1])
        shares[np.argsort(squares, kind="stable")[:count]] = 1 / min(count, len(shares))
        return shares

    return weigh


def prequential(
    measured: Values, members: pd.DataFrame, block: npt.NDArray[Any], weigh: Weigher = stack
) -> Values:
    """Return the fused prediction of every block with shares of the blocks before it; NaN in the first block."""
    fused = np.full(len(measured), np.nan)
    table = members.to_numpy(dtype=np.float64)
    order = np.unique(block)
    rank = np.searchsorted(order, block)
    for number in range(1, len(order)):
        past, here = rank < number, rank == number
        weight = np.exp2(-(number - rank[past]) / HALF_LIFE_BLOCKS)
        fused[here] = table[here] @ weigh(measured[past], table[past], weight)
    return fused


def choose(
    measured: Values,
    members: pd.DataFrame,
    block: npt.NDArray[Any],
    tolerance_ratio: float = 0.0,
    preference: Sequence[str] = (),
) -> Choice:
    """Return what to publish after these forward predictions: the fusion, or the best member.

    `members` (n rows, one column a candidate), `block` the forward block of each row. Two blocks at least allow a
    fusion; with one the best member is chosen. `preference` names members from small to large: the first within
    `tolerance_ratio` of the best one's error is taken instead of it; the fusion has to beat that best one by more
    than the tolerance.
    """
    names = list(members.columns)
    later = block > np.min(block) if len(np.unique(block)) > 1 else np.ones(len(block), dtype=np.bool_)
    cv = {name: _cv(measured[later], members[name].to_numpy()[later]) for name in names}
    best = min(names, key=lambda name: cv[name])
    limit = cv[best] * (1 + tolerance_ratio)
    champion = next((name for name in preference if name in cv and cv[name] <= limit), best)
    if len(np.unique(block)) == 1 or len(names) == 1:
        return Choice(champion, {champion: 1.0}, cv, int(later.sum()))
    fused_cv, kept, weigh = _iterate(measured, members, block, later)
    cv[FUSION] = fused_cv
    if fused_cv >= cv[best] * (1 - tolerance_ratio) or len(kept) == 1:
        return Choice(champion, {champion: 1.0}, cv, int(later.sum()))
    shares = _latest_weights(measured, members[kept], block, weigh)
    return Choice(FUSION, {name: share for name, share in shares.items() if share > 0}, cv, int(later.sum()))


def _iterate(
    measured: Values, members: pd.DataFrame, block: npt.NDArray[Any], later: npt.NDArray[np.bool_]
) -> tuple[float, list[str], Weigher]:
    """Return the way to fuse with the least prequential error: stack, stack of fewer, or mean of the best few."""

    def cv_of(names: list[str], weigh: Weigher) -> float:
        return _cv(measured[later], prequential(measured, members[names], block, weigh)[later])

    kept = list(members.columns)
    tried: list[tuple[float, list[str], Weigher]] = [(cv_of(kept, stack), kept, stack)]
    while len(kept) > 2:
        shares = _latest_weights(measured, members[kept], block, stack)
        fewer = [name for name in kept if name != min(kept, key=lambda name: shares[name])]
        cv = cv_of(fewer, stack)
        if cv > tried[-1][0]:
            break
        kept = fewer
        tried.append((cv, kept, stack))
    names = list(members.columns)
    tried += [(cv_of(names, one), names, one) for one in map(best_shares, MEAN_OF_BEST)]
    return min(tried, key=lambda one: one[0])


def _latest_weights(
    measured: Values, members: pd.DataFrame, block: npt.NDArray[Any], weigh: Weigher
) -> dict[str, float]:
    order = np.unique(block)
    age = len(order) - np.searchsorted(order, block)
    weights = weigh(measured, members.to_numpy(dtype=np.float64), np.exp2(-age / HALF_LIFE_BLOCKS))
    return dict(zip(members.columns, map(float, weights), strict=True))


def _cv(measured: Values, predicted: Values) -> float:
    found = errors(measured, predicted).cv_rmse_ratio
    return float("inf") if found is None else found


def assemble(choice: Choice, models: dict[str, Any], hours: pd.DataFrame, inputs: Inputs) -> Any:
    """Assemble one scikit-learn estimator from fitted members: the member itself, or their weighted mean."""
    if len(choice.weights) == 1:
        return models[next(iter(choice.weights))]
    from sklearn.ensemble import VotingRegressor
    from sklearn.frozen import FrozenEstimator

    frozen = [(name, FrozenEstimator(models[name])) for name in choice.weights]
    fusion = VotingRegressor(frozen, weights=list(choice.weights.values()))
    # Fitting frozen members only records the columns.
    return fusion.fit(hours[inputs.names].head(2), hours[TARGET].to_numpy(dtype=np.float64)[:2])
