"""Judge whether a new model becomes champion: good enough on days it has not seen, and no worse than the present one.

No worse overall and for every hardware class, cluster and tenant with enough hours, and not much better for one of them
than for another; and more load must never cost less energy, as a check of the fitted model's response and not of its
settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from lepton_etl.config.sections import GateSettings
from lepton_etl.models.features import UNKNOWN
from lepton_etl.models.metrics import Errors, Values
from lepton_etl.models.parity import group_errors
from lepton_etl.uncertainty import uncalibrated

# Memory in use is no load: a board that holds much may draw less than one that computes on little.
LOADS: Final = ("cpu_utilisation_ratio", "gpu_utilisation_ratio")
# A response may fall by this share of its own level before it counts: trees that are averaged wobble.
TOLERANCE_RATIO: Final = 0.005
_GRID: Final = np.linspace(0.0, 1.0, 11)
_MOST_ROWS: Final = 300


@dataclass(frozen=True, slots=True)
class ResponseDrop:
    """The largest fall of the mean response to a load: from and to (load ratios), as a share of the mean energy."""

    load: str
    load_from: float
    load_to: float
    drop_ratio: float

    def __str__(self) -> str:
        return f"{self.drop_ratio:.1%} less energy at {self.load} {self.load_to:.1f} than at {self.load_from:.1f}"


def response_drops(
    predict: Callable[[pd.DataFrame], Values], rows: pd.DataFrame, columns: Sequence[str]
) -> list[ResponseDrop]:
    """Return the loads whose mean response over these rows falls by more than the tolerance, [] for a monotone model.

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
            found += [worst] if worst.drop_ratio > TOLERANCE_RATIO else []
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


def _worst(load: str, grid: Values, responses: Sequence[float]) -> ResponseDrop:
    """Return the deepest fall below the highest response so far."""
    highest = np.maximum.accumulate(responses)
    depth = (highest - responses) / np.mean(responses)
    at = int(np.argmax(depth))
    start = int(np.argmax(responses[: at + 1]))
    return ResponseDrop(load, float(grid[start]), float(grid[at]), float(depth[at]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the alias may move, and if not, every reason why."""

    promoted: bool
    reasons: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


@dataclass(frozen=True, slots=True)
class ForwardTest:
    """What a candidate has shown on the forward test: errors beside those of its rivals, and what else is asked.

    `against_champion` are its errors and the champion's on the hours that neither had learnt, `beyond_chance` whether
    there the champion's are smaller by more than the chance of days explains; `worse_scopes` sentences,
    one for each class, cluster or tenant where the champion is better there by more than allowed; `disparities` one for
    each scope whose groups' errors lie too far apart.
    """

    candidate: Errors
    on_training: Errors
    class_mean: Errors
    against_champion: tuple[Errors, Errors] | None = None
    beyond_chance: bool = True
    worse_scopes: tuple[str, ...] = ()
    disparities: tuple[str, ...] = ()
    response_drops: tuple[ResponseDrop, ...] = ()


def judge(result: ForwardTest, gates: GateSettings) -> Verdict:
    """Return the verdict on the forward test, with every reason against promotion.

    A bound that the champion misses too, on the hours that neither has learnt, refuses no challenger that is no worse
    there: to keep the champion would be the worse choice. What ends from before the test hold of it refuses nothing:
    those that are registered have learnt the test too (docs/decisions/0026).
    Source: ASHRAE Guideline 14, hourly calibration: CV(RMSE) <= 30 %, |NMBE| <= 10 %.
    """
    candidate, class_mean = result.candidate, result.class_mean
    cv, nmbe = candidate.cv_rmse_ratio, candidate.nmbe_ratio
    if candidate.rows < gates.min_test_rows:
        return Verdict(False, (f"{candidate.rows} test rows, {gates.min_test_rows} needed",))
    if cv is None or nmbe is None:
        return Verdict(False, ("the test rows hold no energy",))
    worse, keeps_bounds = _beside_champion(result, gates)
    limits = (gates.cv_rmse_max_ratio, gates.nmbe_max_ratio)
    reasons = uncalibrated(cv, nmbe, *limits) if keeps_bounds else []
    if class_mean.cv_rmse_ratio is not None and cv >= class_mean.cv_rmse_ratio:
        reasons.append(f"CV(RMSE) {cv:.1%} no better than the class mean's {class_mean.cv_rmse_ratio:.1%}")
    reasons += [*worse, *result.disparities]
    taught = result.on_training.cv_rmse_ratio
    if taught is not None and cv - taught > gates.gap_max_ratio:
        reasons.append(f"overfitted: CV(RMSE) {taught:.1%} on its training hours, {cv:.1%} after them")
    reasons += [str(drop) for drop in result.response_drops]
    return Verdict(not reasons, tuple(reasons))


def _beside_champion(result: ForwardTest, gates: GateSettings) -> tuple[list[str], bool]:
    """Return where the champion is better, and whether it keeps the bounds of errors itself.

    Without one, or with too few hours to compare on, the bounds stand.
    """
    if result.against_champion is None:
        return list(result.worse_scopes), True
    challenger, champion = result.against_champion
    if champion.rows < gates.min_test_rows:
        few = f"{champion.rows} hours that the champion has not learnt, {gates.min_test_rows} needed"
        return [few], True
    ours, theirs, bias = challenger.cv_rmse_ratio, champion.cv_rmse_ratio, champion.nmbe_ratio
    if ours is None or theirs is None or bias is None:
        return list(result.worse_scopes), True
    worse = list(result.worse_scopes)
    if result.beyond_chance and ours > theirs * (1 + gates.champion_tolerance_ratio):
        worse.insert(0, f"CV(RMSE) {ours:.2%} worse than the champion's {theirs:.2%}")
    keeps = not uncalibrated(theirs, bias, gates.cv_rmse_max_ratio, gates.nmbe_max_ratio)
    return worse, keeps or bool(worse)


def worse_beyond_chance(
    hours: pd.DataFrame, measured_kwh: Values, challenger_kwh: Values, champion_kwh: Values
) -> bool:
    """Return whether the challenger's squared errors are larger than the champion's by more than days differ.

    One-sided, 95 %: Student's t over the days' mean differences, since hours of a day are no further evidence. Of one
    day nothing says what chance is, then any difference counts. `hours` has `date`; energies (n,) in kWh.
    """
    from scipy.stats import t

    squares = (challenger_kwh - measured_kwh) ** 2 - (champion_kwh - measured_kwh) ** 2
    of_days = pd.Series(squares).groupby(hours["date"].astype(str).to_numpy()).mean()
    mean, count = float(of_days.mean()), len(of_days)
    if count < 2:
        return mean > 0
    error = float(of_days.std(ddof=1)) / float(np.sqrt(count))
    return mean > float(t.ppf(0.95, count - 1)) * error


def worse_scopes(
    hours: pd.DataFrame,
    measured_kwh: Values,
    challenger_kwh: Values,
    champion_kwh: Values,
    *,
    tolerance_ratio: float,
    min_rows: int,
) -> list[str]:
    """Return a sentence for each class, cluster or tenant for which the challenger is worse by tolerance and chance.

    `hours` has `date` and the columns of SCOPES it is to be judged by; energies (n,) in kWh of the same forward test
    hours.
    """

    def beyond_chance(scope: str, group: str) -> bool:
        whose = (hours[scope].fillna(UNKNOWN).astype(str) == group).to_numpy()
        return worse_beyond_chance(
            hours[whose], measured_kwh[whose], challenger_kwh[whose], champion_kwh[whose]
        )

    both = (group_errors(hours, measured_kwh, kwh, min_rows) for kwh in (challenger_kwh, champion_kwh))
    return [
        f"{ours.scope} {ours.group}: CV(RMSE) {ours.cv_rmse_ratio:.2%} worse than the champion's "
        f"{theirs.cv_rmse_ratio:.2%}"
        for ours, theirs in zip(*both, strict=True)
        if ours.cv_rmse_ratio is not None
        and theirs.cv_rmse_ratio is not None
        and ours.cv_rmse_ratio > theirs.cv_rmse_ratio * (1 + tolerance_ratio)
        and beyond_chance(ours.scope, ours.group)
    ]


@dataclass(frozen=True)
class Release:
    """A fitted scikit-learn estimator that predicts kWh, with what is logged beside it.

    `columns` and `target` describe inputs and output by name, unit and description; `outputs` are what it returns.
    `texts` and `tables` are files by name, text and JSON; `onnx` is a graph for other runtimes. `description` is of the
    version.
    """

    estimator: Any
    example: pd.DataFrame
    columns: tuple[dict[str, Any], ...]
    target: Mapping[str, str]
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    verdict: Verdict
    description: str = ""
    outputs: tuple[str, ...] = ("predicted_kwh",)
    texts: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    onnx: bytes | None = None
