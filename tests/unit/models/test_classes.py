"""A pooled model over normalised power, models of classes beside it, and one estimator of all of them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.candidates import can_be_normalised, idle_and_span
from lepton_etl.models.classes import (
    KNOWN,
    OWN,
    POOLED,
    ClassTask,
    Routes,
    compose,
    fit_class,
    fit_classes,
    routed,
)
from lepton_etl.models.features import FEATURES, TARGET, feature_names
from lepton_etl.models.fit import Trained, class_task, order_rows, train
from lepton_etl.models.metrics import Values
from lepton_etl.models.select import (
    Chosen,
    block_edges,
    blocks_at,
    day_blocks,
    inputs,
    newest_blocks,
    size_bytes,
    told_before,
)
from lepton_etl.models.stored import _refuse_unknown_types, build

NAMES = list(feature_names("node"))
QUICK = ModelSettings(
    trees=6, min_rows=100, class_min_rows=100, candidates=("linear", "forest"), min_samples_leaf=20
)
# A line of all classes has one slope: of classes of unlike slopes each needs its own.
LINES = QUICK.model_copy(update={"candidates": ("linear",)})


class _Column(RegressorMixin, BaseEstimator):
    """Says a multiple of one column: a member whose answer is known."""

    def __init__(self, name: str = "cpu_utilisation_ratio", times: float = 1.0) -> None:
        self.name, self.times = name, times

    def fit(self, X: pd.DataFrame, y: Values) -> _Column:
        self.is_fitted_ = True
        return self

    def predict(self, X: pd.DataFrame) -> Values:
        return np.asarray(X[self.name] * self.times, dtype=np.float64)


def _fleet(curves: dict[str, tuple[float, float, float]], days: int = 12, seed: int = 5) -> pd.DataFrame:
    """Two nodes a class: class -> rated W, share of it at idle, exponent of the load between idle and rated."""
    rng = np.random.default_rng(seed)
    stamps = pd.date_range("2025-06-01", periods=24 * days, freq="h", tz="UTC")
    frames = []
    for name, (rated_w, idle, exponent) in curves.items():
        for node in ("1", "2"):
            load = rng.random(len(stamps))
            frame = pd.DataFrame({f.name: np.nan for f in FEATURES["node"]}, index=range(len(stamps)))
            power_w = rated_w * (idle + (1 - idle) * load**exponent) * (1 + rng.normal(0, 0.01, len(stamps)))
            frames.append(
                frame.assign(
                    site_id="s", cluster_id="c", node_id=name + node, device_id="node", hour_start=stamps,
                    date=stamps.date, hardware_class=name, rated_power_w=rated_w, cpu_utilisation_ratio=load,
                    cpu_utilisation_min_ratio=load, cpu_utilisation_max_ratio=load, inlet_temp_c=22.0,
                    gpu_count=0.0, energy_kwh=power_w / 1000,
                )
            )  # fmt: skip
    return order_rows(pd.concat(frames, ignore_index=True))


ALIKE = {"a": (400.0, 0.3, 1.0), "b": (1000.0, 0.3, 1.0)}
UNLIKE = {"a": (400.0, 0.3, 1.0), "b": (1000.0, 0.6, 1.0)}


@st.composite
def rows(draw: st.DrawFn) -> pd.DataFrame:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(4, 40))
    rated = rng.uniform(100, 5000, count)
    table = pd.DataFrame({f.name: rng.random(count) for f in FEATURES["node"]})
    idle = np.where(rng.random(count) < 0.5, np.nan, rated * rng.uniform(0, 0.8, count))
    return table.assign(
        hardware_class=rng.choice(np.array(["a", "b", "c", "never seen"], dtype=object), count),
        rated_power_w=rated, idle_power_w=idle, energy_kwh=rng.random(count),
    )  # fmt: skip


@examples(deadline=None, max_examples=25)
@given(rows(), st.booleans(), st.sampled_from([(), (("a",),), (("a",), ("b", "c"))]))
def test_one_estimator_says_what_its_routes_say(
    table: pd.DataFrame, normalised: bool, own: tuple[tuple[str, ...], ...]
) -> None:
    pooled = _Column().fit(table, table[TARGET].to_numpy())
    members = {
        names: _Column("inlet_temp_c", 2.0 + i).fit(table, table[TARGET]) for i, names in enumerate(own)
    }
    said = routed(Routes(pooled, normalised, members), table, NAMES).predict(table[NAMES])
    idle, span = idle_and_span(table)
    x = table["cpu_utilisation_ratio"].to_numpy()
    expected = idle + x * span if normalised else x
    for names, member in members.items():
        expected = np.where(table["hardware_class"].isin(names), member.predict(table), expected)
    assert said == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_row_without_a_nameplate_is_taken_at_the_median_of_the_training_rows() -> None:
    table = _fleet(ALIKE, days=2)
    model = routed(Routes(_Column().fit(table, table[TARGET]), True, {}), table, NAMES)
    blind = table.head(3).assign(rated_power_w=np.nan)
    assert model.predict(blind[NAMES]) == pytest.approx(0.7 * blind["cpu_utilisation_ratio"].to_numpy())


def test_a_pool_needs_every_nameplate_and_rated_above_idle() -> None:
    table = _fleet(ALIKE, days=1)
    assert can_be_normalised(table) and not can_be_normalised(table.head(0))
    for wrong in ({"rated_power_w": np.nan}, {"idle_power_w": 400.0}):
        assert not can_be_normalised(
            table.assign(**{k: table[k].where(table.index > 0, v) for k, v in wrong.items()})
        )


@pytest.fixture(scope="module")
def alike() -> Trained:
    return train(_fleet(ALIKE), QUICK)


@pytest.fixture(scope="module")
def unlike() -> Trained:
    return train(_fleet(UNLIKE), LINES)


def test_a_class_never_seen_is_predicted_from_its_inventory_row(alike: Trained) -> None:
    stranger = _fleet({"never seen": (3000.0, 0.3, 1.0)}, seed=9)
    said = alike.mean.predict(stranger[NAMES])
    assert np.abs(said / stranger[TARGET].to_numpy() - 1).mean() < 0.05
    assert alike.composed.recipe.normalised and alike.composed.recipe.name.endswith("over normalised power")
    assert max(alike.composed.left_out_cv_rmse_ratio.values()) < 0.05


def test_without_a_nameplate_the_model_stays_in_kwh() -> None:
    hours = _fleet(ALIKE).assign(rated_power_w=np.nan)
    composed = train(hours, QUICK).composed
    assert not composed.recipe.normalised and not composed.left_out_cv_rmse_ratio


def test_a_class_keeps_its_own_model_only_where_that_pays(alike: Trained, unlike: Trained) -> None:
    assert [one.answers for one in alike.composed.outcomes] == [POOLED, POOLED]
    assert [one.answers for one in unlike.composed.outcomes] == [OWN, OWN]
    for one in unlike.composed.outcomes:
        assert one.cv_rmse_ratio[OWN] < 0.6 * one.cv_rmse_ratio[POOLED]
        assert one.validated_rows > 0
    assert "2 classes by their own" in unlike.composed.recipe.name


def test_own_models_answer_for_their_class_and_the_interval_knows_them(unlike: Trained) -> None:
    hours, trained = _fleet(UNLIKE), unlike
    fits = {fit.hardware_class: fit for fit in fit_classes(hours, class_task(hours, LINES))}
    for name, fit in fits.items():
        here = hours[hours["hardware_class"] == name]
        assert trained.mean.predict(here[NAMES]) == pytest.approx(
            build(fit.again[None]).predict(here[NAMES]), rel=1e-9
        )
    held = trained.selected.held_kwh
    residual = hours.loc[held.index, TARGET] / held - 1
    assert np.sqrt((residual**2).mean()) < 0.1


def test_a_class_of_few_hours_has_no_model_and_later_hours_teach_nothing() -> None:
    hours = _fleet(UNLIKE)
    task = class_task(hours, QUICK)
    of_a = hours[hours["hardware_class"] == "a"].reset_index(drop=True)
    assert fit_class(of_a.head(99), task) is None
    fit = fit_class(of_a, task)
    assert fit is not None and fit.rows == 2 * (10 * 24 - 1)
    changed = of_a.assign(
        energy_kwh=of_a[TARGET].where(of_a["hour_start"] < task.cut_time - timedelta(hours=1), 9.0)
    )
    again = fit_class(changed, task)
    assert again is not None
    pd.testing.assert_frame_equal(again.validated, fit.validated)
    inputs = of_a[NAMES]
    assert (build(again.data).predict(inputs) == build(fit.data).predict(inputs)).all()


def test_own_models_that_do_not_fit_into_the_file_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = _fleet(UNLIKE)
    training = hours[hours["date"] < hours["date"].max()]
    task = ClassTask.of(training, training["hour_start"].max(), QUICK)
    fits = fit_classes(training, task)
    monkeypatch.setattr("lepton_etl.models.classes._MOST_BYTES", 0)
    composed = compose(training.reset_index(drop=True), QUICK, fits)
    assert [one.has_own for one in composed.outcomes] == [False, False]


def test_known_classes_without_models_of_their_own_share_one_in_kwh() -> None:
    training = _fleet(UNLIKE, days=8)
    composed = compose(training, QUICK, [])
    assert [one.answers for one in composed.outcomes] == [KNOWN, KNOWN]
    assert composed.recipe.name.endswith("over normalised power, 2 classes by one in kWh")
    assert all(set(one.cv_rmse_ratio) == {POOLED, KNOWN} for one in composed.outcomes)
    # One member serves both: the row's facts, the pool, and one more.
    assert len(composed.selected.estimator.estimators_) == 3
    said = composed.selected.estimator.predict(training[NAMES])
    assert np.abs(said / training[TARGET].to_numpy() - 1).mean() < 0.2


def test_what_is_stored_is_on_the_allow_list_and_comes_back(unlike: Trained) -> None:
    import skops.io

    hours, model = _fleet(UNLIKE), unlike.mean
    data = skops.io.dumps(model)
    _refuse_unknown_types(data, "here")
    assert (build(data).predict(hours[NAMES]) == model.predict(hours[NAMES])).all()
    assert size_bytes(model) == len(data)


def test_blocks_of_a_class_are_those_of_the_pool() -> None:
    hours = _fleet(ALIKE, days=10)
    edges = block_edges(hours, 5)
    assert (blocks_at(hours, edges) == day_blocks(hours, 5)).all()
    assert np.bincount(blocks_at(hours, edges)).tolist() == [192] * 5
    late = hours[hours["date"] >= sorted(hours["date"].unique())[7]]
    assert sorted(set(blocks_at(late, edges))) == [3, 4]
    assert set(blocks_at(hours.assign(date=pd.Timestamp("2020-01-01")), edges)) == {0}


def test_a_class_that_came_late_is_asked_on_the_newest_days() -> None:
    """None of the blocks that candidates are chosen on knows class b before it: its newest days do."""
    hours = _fleet(UNLIKE, days=20)
    first = sorted(hours["date"].unique())[10]
    late = order_rows(hours[(hours["hardware_class"] == "a") | (hours["date"] >= first)])
    by_class = {one.hardware_class: one for one in train(late, LINES).composed.outcomes}
    assert by_class["b"].answers == OWN
    assert by_class["b"].cv_rmse_ratio[OWN] < 0.6 * by_class["b"].cv_rmse_ratio[POOLED]


@pytest.mark.parametrize(
    ("days", "newest"), [(1, []), (2, [1]), (8, [5, 6, 7]), (100, [40, 60, 80]), (400, [310, 340, 370])]
)
def test_the_newest_blocks_are_months_or_fifths_and_leave_a_day_before(days: int, newest: list[int]) -> None:
    dates = pd.date_range("2025-01-01", periods=days)
    assert newest_blocks(pd.DataFrame({"date": dates}), 5).tolist() == dates.to_numpy()[newest].tolist()


def test_what_is_told_of_a_block_has_learnt_the_days_before_alone() -> None:
    hours = _fleet(ALIKE, days=10)
    edges, line = newest_blocks(hours, 5), Chosen("linear", {"linear": 1.0})
    told = told_before(line, hours, edges, LINES, inputs)
    day = pd.to_datetime(hours["date"]).to_numpy()
    assert told.index.tolist() == hours.index[day >= edges[0]].tolist()
    changed = hours.assign(**{TARGET: hours[TARGET].where(day < edges[-1], 9.0)})
    assert told_before(line, changed, edges, LINES, inputs).tolist() == told.tolist()


def test_of_a_single_day_of_training_the_pool_answers() -> None:
    settings = LINES.model_copy(update={"class_min_rows": 12})
    outcomes = train(_fleet(UNLIKE, days=2), settings).composed.outcomes
    assert {one.hardware_class: (one.answers, one.cv_rmse_ratio) for one in outcomes} == {
        "a": (POOLED, {}),
        "b": (POOLED, {}),
    }
