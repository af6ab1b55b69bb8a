"""Select the candidate or fusion, and its size, that the earlier days speak for: forward in time, in blocks of days.

The chosen model is then set against smaller variants of itself:
- A forest: its first half and quarter of trees; all its trees pruned by cost-complexity, so that about a half and an
  eighth of the path's steps are left (alpha from the path of its first tree).
- Boosting: a half and a quarter of its iterations.
- Both: their leaves rounded to 256 or to 64 steps of the learnt span, splits that then decide nothing dropped
  (`lepton_etl/models/quantised.py`); and, where they take sparse inputs, their one-hot classes as such.
- Any model, fusions too: students that learn its **predictions** on the training rows and once more on these rows with
  sensor noise: a pruned tree, one monotone tree of 64 leaves, a small monotone boosting.

Each variant is one more candidate: on the same blocks, fitted on at most 10,000 rows of the past. The smallest by
stored bytes within the tolerance of the chosen model wins and is fitted on all rows.
Sources: Breiman et al., Classification and Regression Trees (1984), chapter 3; Hinton, Vinyals, Dean,
arXiv:1503.02531 (distillation).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.balance import Balance, balanced, judged, times
from lepton_etl.models.candidates import (
    CANDIDATES,
    Candidate,
    Inputs,
    boosting,
    forest,
    inputs_of,
    monotone,
    pruned_tree,
)
from lepton_etl.models.features import TARGET, feature_names
from lepton_etl.models.footprint import ComputeCost, joules_per_million
from lepton_etl.models.fusion import Choice, assemble, choose, energy_kwh, fitted, forward_block, target
from lepton_etl.models.metrics import Values, errors
from lepton_etl.models.quantised import quantised


@dataclass(frozen=True)
class ForwardSplit:
    """Rows before the embargo train, rows from `cut_time` on test; rows of the embargo do neither."""

    train: pd.DataFrame
    test: pd.DataFrame
    cut_time: datetime


def split_forward(hours: pd.DataFrame, test_ratio: float, embargo_hours: int) -> ForwardSplit | None:
    """Split so that the last `test_ratio` of the days that have rows (at least one day) test; None below two days.

    `hours` has `date` (UTC day) and `hour_start` (UTC). An hour trains only if it ends `embargo_hours` before
    the cut: neighbouring hours resemble each other, and a random split would give the answers away.
    """
    days = sorted(pd.to_datetime(hours["date"].unique()))
    if len(days) < 2:
        return None
    test_days = min(max(1, round(len(days) * test_ratio)), len(days) - 1)
    cut = pd.Timestamp(days[-test_days]).tz_localize("UTC")
    test = hours[hours["hour_start"] >= cut].reset_index(drop=True)
    return ForwardSplit(before(hours, cut.to_pydatetime(), embargo_hours), test, cut.to_pydatetime())


def before(hours: pd.DataFrame, cut_time: datetime | None, embargo_hours: int) -> pd.DataFrame:
    """Return the hours that end `embargo_hours` before the cut, in their order; all of them where there is none."""
    if cut_time is None:
        return hours
    ends = hours["hour_start"] + timedelta(hours=1)
    return hours[ends <= cut_time - timedelta(hours=embargo_hours)].reset_index(drop=True)


AS_CHOSEN: Final = "as chosen"
# Rows that a fit of this validation learns from at most, every k-th of its past.
_MOST_ROWS: Final = 10_000
_ROWS_TO_TIME: Final = 2_000
# Of the steps of the pruning path, the share that is pruned away; of trees or iterations, the share that is kept.
_PRUNED: Final = {"pruned to a half": 0.5, "pruned to an eighth": 0.875}
_KEPT: Final = {"a half": 2, "a quarter": 4}
# Steps of the span of what was learnt that a leaf is rounded to.
_LEVELS: Final = {"leaves in 256 steps": 256, "leaves in 64 steps": 64}
SPARSE: Final = "sparse inputs"
# A leaf of the pruned student takes at least this share of the variance off.
_LEAF_SHARE: Final = 1e-5
# One standard deviation of what the sensors resolve: half a degree, a percent of utilisation.
SENSOR_NOISE: Final = {"_c": 0.5, "_k": 0.5, "_ratio": 0.01}

# Unfitted students by name; what they learn is the teacher's answer.
STUDENTS: Final[Mapping[str, Callable[[Inputs], Any]]] = {
    "student: pruned tree": pruned_tree(),
    "student: one monotone tree": boosting(max_iter=1, learning_rate=1.0, max_leaf_nodes=64),
    "student: small boosting": boosting(max_iter=30, learning_rate=0.2, max_leaf_nodes=8),
}
# A variant's name -> the fitted estimator and the CPU-seconds of its fit.
Family = dict[str, tuple[Any, float]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One size of the chosen model: forward error, bytes as stored, CPU-s of a fit, cost of a million predictions."""

    name: str
    cv_rmse_ratio: float
    size_bytes: int
    fit_cpu_s: float
    million: ComputeCost


@dataclass(frozen=True)
class Slimmed:
    """Every variant that was tried, which one is taken, and its forward predictions in kWh on the index of the rows.

    `refused` are those that could not be made, with the reason.
    """

    chosen: str
    variants: tuple[Variant, ...]
    predicted_kwh: pd.Series[float]
    refused: Mapping[str, str] = field(default_factory=dict)

    def why_not(self, one: Variant, tolerance_ratio: float) -> str:
        """Return why a variant was not taken, in words; of the one that was, that it was."""
        limit = next(v.cv_rmse_ratio for v in self.variants if v.name == AS_CHOSEN) * (1 + tolerance_ratio)
        if one.name == self.chosen:
            return "taken"
        return (
            "its error is above the tolerance"
            if one.cv_rmse_ratio > limit
            else "no fewer bytes than the one taken"
        )


def slim(
    hours: pd.DataFrame,
    block: npt.NDArray[Any],
    choice: Choice,
    members: Mapping[str, Candidate],
    what: Inputs,
    tolerance_ratio: float,
) -> Slimmed:
    """Validate the variants of a choice on every block but the first; `hours` are training rows in time order.

    The variant that is taken has the fewest bytes among those whose CV(RMSE) is within `tolerance_ratio` of the chosen
    model's on the same rows, fitted on the same sample.
    """
    parts: dict[str, list[pd.Series[float]]] = {}
    fits: Family = {}
    refused: dict[str, str] = {}
    here = hours
    for now in np.unique(block)[1:]:
        past = np.flatnonzero(block < now)
        sample = hours.iloc[past[:: -(-len(past) // _MOST_ROWS)]]
        fits = family(sample, choice, members, what, refused=refused)
        here = hours[block == now]
        for name, (model, _) in fits.items():
            parts.setdefault(name, []).append(pd.Series(energy_kwh(model, what, here), index=here.index))
    predicted = {name: pd.concat(of_block) for name, of_block in parts.items()}
    measured = np.asarray(hours.loc[predicted[AS_CHOSEN].index, TARGET], dtype=np.float64)
    variants = tuple(
        _variant(name, fits[name], measured, np.asarray(predicted[name]), what, here) for name in predicted
    )
    chosen = smallest(variants, tolerance_ratio)
    return Slimmed(chosen, variants, predicted[chosen], refused)


def smallest(variants: Sequence[Variant], tolerance_ratio: float) -> str:
    """Return the variant of fewest bytes whose error is within the tolerance of the chosen model's; ties by order."""
    limit = next(one.cv_rmse_ratio for one in variants if one.name == AS_CHOSEN) * (1 + tolerance_ratio)
    # The same model behind another flag is no smaller one, even where the flag's word is shorter.
    smaller = (one for one in variants if one.cv_rmse_ratio <= limit and one.name != SPARSE)
    return min(smaller, key=lambda one: one.size_bytes).name


def family(
    hours: pd.DataFrame,
    choice: Choice,
    members: Mapping[str, Candidate],
    what: Inputs,
    only: str | None = None,
    refused: dict[str, str] | None = None,
) -> Family:
    """Return the chosen model fitted on these rows, and each variant of it (`only` one where it is named).

    A variant that cannot be made is left out; `refused` is told why.
    """
    started = time.process_time()
    teacher = assemble(
        choice, {name: fitted(members[name], what, hours) for name in choice.weights}, hours, what
    )
    fits: Family = {AS_CHOSEN: (teacher, time.process_time() - started)}
    makers = _shorter(teacher, hours, what, choice, members)
    makers |= {name: _student(build, teacher, hours, what) for name, build in STUDENTS.items()}
    for name, make in makers.items():
        if only in (None, name):
            started = time.process_time()
            try:
                fits[name] = make(), time.process_time() - started
            except (ValueError, TypeError) as error:
                if refused is not None:
                    refused[name] = str(error).splitlines()[0]
    return fits


def with_sensor_noise(hours: pd.DataFrame, names: Sequence[str], seed: int) -> pd.DataFrame:
    """Return the rows with normal noise on temperatures and ratios, ratios within 0..1; what is unknown stays so."""
    rng = np.random.default_rng(seed)
    noisy = hours.copy()
    for name in names:
        sigma = next((s for end, s in SENSOR_NOISE.items() if name.endswith(end)), 0.0)
        if sigma:
            values = hours[name].to_numpy(dtype=np.float64) + rng.normal(0.0, sigma, len(hours))
            noisy[name] = np.clip(values, 0.0, 1.0) if name.endswith("_ratio") else values
    return noisy


def size_bytes(model: Any) -> int:
    """Return bytes of the estimator as the registry stores it."""
    import skops.io

    return len(skops.io.dumps(model))


def _shorter(
    teacher: Any, hours: pd.DataFrame, what: Inputs, choice: Choice, members: Mapping[str, Candidate]
) -> dict[str, Callable[[], Any]]:
    """Return pruned and shortened forms of a single forest or boosting; a fusion and a line have none."""
    steps: dict[str, Any] = getattr(teacher, "named_steps", {})
    model: Any = steps.get("model")
    span = float(np.ptp(target(hours, what))) if model is not None else 0.0
    rounded = {name: _in_steps(teacher, span / count) for name, count in _LEVELS.items()}
    sparse = {SPARSE: _sparse(teacher, hours, what)} if what.categories else {}
    if hasattr(model, "max_iter") and hasattr(model, "n_iter_"):
        counts = {f"{name} of its iterations": max(1, model.max_iter // by) for name, by in _KEPT.items()}
        return (
            rounded
            | sparse
            | {
                name: _refit(members, choice, hours, what, {"model__max_iter": count})
                for name, count in counts.items()
            }
        )
    if not hasattr(model, "estimators_") or "encode" not in steps:
        return {}
    kept = {f"{name} of its trees": max(1, len(model.estimators_) // by) for name, by in _KEPT.items()}
    first = copy(model.estimators_[0])
    path = first.cost_complexity_pruning_path(
        steps["encode"].transform(hours[what.names]), target(hours, what)
    )
    alphas = {name: float(np.quantile(path.ccp_alphas, share)) for name, share in _PRUNED.items()}
    return (
        rounded
        | sparse
        | {name: _prefix(teacher, count) for name, count in kept.items()}
        | {
            name: _refit(members, choice, hours, what, {"model__ccp_alpha": alpha})
            for name, alpha in alphas.items()
        }
    )


def _in_steps(teacher: Any, step: float) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn.pipeline import Pipeline

        model = quantised(teacher.named_steps["model"], step)
        return teacher if model is None else Pipeline([*teacher.steps[:-1], ("model", model)])

    return make


def _sparse(teacher: Any, hours: pd.DataFrame, what: Inputs) -> Callable[[], Any]:
    """Return the same model behind an encoder whose one-hot classes are sparse: it is not fitted anew.

    Making it raises ValueError or TypeError where the model takes no such inputs.
    """

    def make() -> Any:
        from sklearn.pipeline import Pipeline

        encoder = deepcopy(teacher.named_steps["encode"])
        one_hot = [one for one in encoder.named_transformers_.values() if hasattr(one, "sparse_output")]
        if not one_hot:
            raise TypeError("its encoder has one column a class: nothing is sparse")
        for transformer in one_hot:
            transformer.sparse_output = True
        encoder.sparse_threshold, encoder.sparse_output_ = 1.0, True
        made = Pipeline([("encode", encoder), ("model", teacher.named_steps["model"])])
        made.predict(hours[what.names])
        return made

    return make


def _prefix(teacher: Any, count: int) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn.pipeline import Pipeline

        forest = copy(teacher.named_steps["model"])
        forest.estimators_, forest.n_estimators = forest.estimators_[:count], count
        return Pipeline([("encode", teacher.named_steps["encode"]), ("model", forest)])

    return make


def _refit(
    members: Mapping[str, Candidate],
    choice: Choice,
    hours: pd.DataFrame,
    what: Inputs,
    changed: dict[str, Any],
) -> Callable[[], Any]:
    member = members[next(iter(choice.weights))]

    def build(inputs: Inputs) -> Any:
        return member.build(inputs).set_params(**changed)

    return lambda: fitted(replace(member, build=build), what, hours)


def _student(
    build: Callable[[Inputs], Any], teacher: Any, hours: pd.DataFrame, what: Inputs
) -> Callable[[], Any]:
    def make() -> Any:
        rows = pd.concat([hours[what.names], with_sensor_noise(hours, what.numbers, what.seed)[what.names]])
        answers = np.asarray(teacher.predict(rows), dtype=np.float64)
        student = monotone(build(what), what, rows)
        if "model__ccp_alpha" in student.get_params():
            student.set_params(model__ccp_alpha=_LEAF_SHARE * float(np.var(answers)))
        return student.fit(rows, answers)

    return make


def _variant(
    name: str, fit: tuple[Any, float], measured: Values, predicted: Values, what: Inputs, rows: pd.DataFrame
) -> Variant:
    model, cpu_s = fit
    cv = errors(measured, predicted).cv_rmse_ratio
    cost = joules_per_million(
        lambda table: np.asarray(model.predict(table), dtype=np.float64), rows[what.names].head(_ROWS_TO_TIME)
    )
    return Variant(name, float("inf") if cv is None else cv, size_bytes(model), cpu_s, cost)


# From small to large, by bytes and by time to predict: within the tolerance the first one wins.
PREFERENCE: Final = (
    "linear", "piecewise_linear", "gam", "boosting_gentle", "boosting", "boosting_log",
    "boosting_absolute", "forest", "extra_trees", "knn",
)  # fmt: skip
# What a row has from the inventory and not from its sensors.
OF_INVENTORY: Final = frozenset({"hardware_class", "rated_power_w", "idle_power_w"})
# Rows that a validation fit learns from at most, every k-th of its past: the choice needs no more.
_VALIDATION_ROWS: Final = 50_000
# A model is used for about a month before the next one: who answers for a class is asked on so many days.
_MONTH_DAYS: Final = 30
_NEWEST_BLOCKS: Final = 3


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen, without what it learnt: shares by candidate, the size, whether scarce classes are repeated."""

    choice: str
    weights: Mapping[str, float]
    size: str = AS_CHOSEN
    is_even: bool = False

    @property
    def name(self) -> str:
        """Return what was chosen, and in which size."""
        return self.choice if self.size == AS_CHOSEN else f"{self.choice}, {self.size}"


@dataclass(frozen=True)
class Selected:
    """The chosen estimator fitted on all given rows, and the forward validation behind the choice.

    `estimator` takes the columns of `inputs` and says kWh, or the place between idle and rated where these are
    `normalised`. `measured_kwh` and `predicted_kwh` (n,) are the validated hours by the choice in the size that was
    taken, `index` their rows among the given ones; empty where days were too few. `held_kwh` are what it predicted for
    the newest block, which chose nothing, from those before, by row.
    """

    estimator: Any
    inputs: Inputs
    choice: Choice
    candidate_cpu_s: dict[str, float]
    index: pd.Index[Any]
    measured_kwh: Values
    predicted_kwh: Values
    held_kwh: pd.Series[float]
    slimmed: Slimmed | None = None
    balance: Balance | None = None

    @property
    def chosen(self) -> Chosen:
        size = self.slimmed.chosen if self.slimmed else AS_CHOSEN
        is_even = self.balance is not None and self.balance.is_kept
        return Chosen(self.choice.name, self.choice.weights, size, is_even)

    @property
    def name(self) -> str:
        return self.chosen.name


def inputs(settings: ModelSettings, hours: pd.DataFrame) -> Inputs:
    """Return the device's features that these hours know; histogram boosting bins no column of unknowns."""
    return inputs_of(list(feature_names(settings.device)), hours, settings.seed)


def pooled_inputs(settings: ModelSettings, hours: pd.DataFrame) -> Inputs:
    """Return the same without class and nameplate, over normalised power: a class never seen is like any other."""
    of_row = [name for name in feature_names(settings.device) if name not in OF_INVENTORY]
    return replace(inputs_of(of_row, hours, settings.seed), normalised=True)


def candidates(settings: ModelSettings) -> list[Candidate]:
    """Return the candidates of the settings with their half-life, the forest with their trees and leaves."""
    grown = forest(settings.trees, settings.min_samples_leaf)
    own = {"forest": replace(CANDIDATES["forest"], build=grown)}
    named = [(CANDIDATES | own)[name] for name in settings.candidates]
    return [replace(one, half_life_days=settings.half_life_days) for one in named]


def select(
    hours: pd.DataFrame,
    settings: ModelSettings,
    inputs_for: Callable[[ModelSettings, pd.DataFrame], Inputs] = inputs,
    block: npt.NDArray[np.int64] | None = None,
    held: int | None = None,
) -> Selected:
    """Validate the candidates forward over blocks of days, choose one or their fusion, slim it, fit it on all rows.

    `hours` are device-hours in time order, `block` the block of each (equal numbers of days where none is given). The
    block `held`, else the newest, chooses nothing: it tells how far the chosen one misses (`held_kwh`). With less than
    two blocks before it nothing can be validated: then the forest is taken, or the first candidate where there is none.
    """
    what, of_settings = inputs_for(settings, hours), candidates(settings)
    block = held_blocks(hours, settings.validation_blocks) if block is None else block
    held = int(block.max()) if held is None else held
    by_name = {one.name: one for one in of_settings}
    early, chooses = hours[block < held], block[block < held]
    if len(np.unique(chooses)) < 2:
        name = "forest" if "forest" in by_name else of_settings[0].name
        choice, cpu_s, slimmed = Choice(name, {name: 1.0}), dict.fromkeys(by_name, 0.0), None
        index, measured, predicted_kwh = hours.index[:0], np.zeros(0), np.zeros(0)
    else:
        # What the first block does not know, no validation fit may need.
        known = inputs_for(settings, early[chooses == chooses.min()])
        members, cpu_s = _forward(early, chooses, known, of_settings)
        index, measured = members.index, early.loc[members.index, TARGET].to_numpy(dtype=np.float64)
        tolerance = settings.small_model_tolerance_ratio
        choice = choose(
            measured, members, chooses[early.index.get_indexer(index)], tolerance,
            [name for name in PREFERENCE if name in cpu_s],
        )  # fmt: skip
        slimmed = slim(early, chooses, choice, by_name, known, tolerance) if settings.slim else None
        predicted_kwh = choice.predict(members)
        if slimmed and slimmed.chosen != AS_CHOSEN:
            predicted_kwh = np.asarray(slimmed.predicted_kwh.loc[index], dtype=np.float64)
    found = Selected(
        None, what, choice, cpu_s, index, measured, predicted_kwh, pd.Series(dtype=float), slimmed
    )
    if len(index) and times(early):
        found = _with_balance(found, early, chooses, settings, known)
    later = hours[block == held]
    if len(early) and len(later):
        past = early.iloc[:: -(-len(early) // _VALIDATION_ROWS)]
        of_past = inputs_for(settings, past)
        held_kwh = energy_kwh(fitted_again(found.chosen, past, settings, of_past), of_past, later)
        found = replace(found, held_kwh=pd.Series(held_kwh, index=later.index))
    return replace(found, estimator=fitted_again(found.chosen, hours, settings, what))


def _with_balance(
    found: Selected, hours: pd.DataFrame, block: npt.NDArray[Any], settings: ModelSettings, what: Inputs
) -> Selected:
    """Return the choice with what repeating rows of scarce classes does on the validated hours, taken if it helps."""
    most, parts = _MOST_ROWS if found.slimmed else _VALIDATION_ROWS, []
    even = replace(found.chosen, is_even=True)
    for now in np.unique(block)[1:]:
        past, here = np.flatnonzero(block < now), hours[block == now]
        model = fitted_again(even, hours.iloc[past[:: -(-len(past) // most)]], settings, what)
        parts.append(pd.Series(energy_kwh(model, what, here), index=here.index))
    kwh = np.asarray(pd.concat(parts).loc[found.index], dtype=np.float64)
    validated = hours.loc[found.index]
    tolerance = settings.small_model_tolerance_ratio
    balance = judged(validated, found.predicted_kwh, kwh, times(hours), tolerance)
    is_kept = balance is not None and balance.is_kept
    return replace(found, balance=balance, predicted_kwh=kwh if is_kept else found.predicted_kwh)


def fitted_again(chosen: Chosen, hours: pd.DataFrame, settings: ModelSettings, what: Inputs) -> Any:
    """Return the estimator of the same choice in the same size, fitted on these hours with the inputs `what`."""
    members = {one.name: one for one in candidates(settings)}
    choice = Choice(chosen.choice, dict(chosen.weights))
    rows = balanced(hours) if chosen.is_even else hours
    return family(rows, choice, members, what, chosen.size)[chosen.size][0]


def block_edges(hours: pd.DataFrame, blocks: int) -> npt.NDArray[np.datetime64]:
    """Return the first day of each of `blocks` blocks, or fewer, of equal numbers of days that have rows."""
    days = np.unique(pd.to_datetime(hours["date"]).to_numpy())
    count = min(blocks, len(days))
    return np.asarray(days[[-(-number * len(days) // count) for number in range(count)]])


def newest_blocks(hours: pd.DataFrame, blocks: int) -> npt.NDArray[np.datetime64]:
    """Return the first day of each of the three newest blocks of 30 days that have rows, of a `blocks`-th where fewer.

    A day is left before them; of a single day there is no block.
    """
    days = np.unique(pd.to_datetime(hours["date"]).to_numpy())
    length = max(1, min(_MONTH_DAYS, len(days) // blocks))
    count = min(_NEWEST_BLOCKS, (len(days) - 1) // length)
    return np.asarray(days[[len(days) - length * number for number in range(count, 0, -1)]])


def told_before(
    chosen: Chosen,
    hours: pd.DataFrame,
    edges: npt.NDArray[np.datetime64],
    settings: ModelSettings,
    inputs_for: Callable[[ModelSettings, pd.DataFrame], Inputs],
) -> pd.Series[float]:
    """Return what the choice, fitted before each of these blocks, predicts for it, kWh by row of `hours`.

    It learns at most 10,000 rows, and predicts no block before which it has less than half of `class_min_rows`.
    """
    day = pd.to_datetime(hours["date"]).to_numpy()
    parts: list[pd.Series[float]] = [pd.Series(dtype=np.float64)]
    for number, start in enumerate(edges):
        end = edges[number + 1] if number + 1 < len(edges) else np.datetime64("NaT")
        past = hours[day < start]
        here = hours[(day >= start) & ~(day >= end)]
        if len(past) < settings.class_min_rows // 2 or here.empty:
            continue
        past = past.iloc[:: -(-len(past) // _MOST_ROWS)]
        what = inputs_for(settings, past)
        model = fitted_again(chosen, past, settings, what)
        parts.append(pd.Series(energy_kwh(model, what, here), index=here.index))
    return pd.concat(parts)


def blocks_at(hours: pd.DataFrame, edges: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """Return the block of each row between these first days; a day before the first edge is of the first block."""
    found = np.searchsorted(edges, pd.to_datetime(hours["date"]).to_numpy(), side="right") - 1
    return np.asarray(np.maximum(found, 0), dtype=np.int64)


def day_blocks(hours: pd.DataFrame, blocks: int) -> npt.NDArray[np.int64]:
    """Return the block of each row, 0..blocks-1 or fewer, by equal numbers of days that have rows."""
    return blocks_at(hours, block_edges(hours, blocks))


def held_blocks(hours: pd.DataFrame, blocks: int) -> npt.NDArray[np.int64]:
    """Return the same; of a single day, ordered by time, its two halves, so that the newest block is never all."""
    block = day_blocks(hours, blocks)
    return block if block.any() else np.arange(len(hours)) * 2 // max(1, len(hours))


def _forward(
    hours: pd.DataFrame, block: npt.NDArray[np.int64], what: Inputs, of_settings: Sequence[Candidate]
) -> tuple[pd.DataFrame, dict[str, float]]:
    parts, cpu_s = [], {one.name: 0.0 for one in of_settings}
    for now in np.unique(block)[1:]:
        past = np.flatnonzero(block < now)
        taught = past[:: -(-len(past) // _VALIDATION_ROWS)]
        rows = np.concatenate([taught, np.flatnonzero(block == now)])
        done = forward_block(hours.iloc[rows], block[rows], now, what, of_settings)
        parts.append(done.predicted)
        for name, seconds in done.cpu_s.items():
            cpu_s[name] += seconds
    return pd.concat(parts), cpu_s
