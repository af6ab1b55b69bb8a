"""The champion's recipe: where a new choice is refused it learns the newer hours in its place."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models import fit
from lepton_etl.models.cards import cards
from lepton_etl.models.classes import Recipe, composed_again
from lepton_etl.models.features import FEATURES, feature_names
from lepton_etl.models.fit import RECIPE, RECIPE_TAG, Incumbent, Trained, recipe_of, train
from lepton_etl.models.metrics import Values, overall
from lepton_etl.models.promotion import ResponseDrop
from lepton_etl.models.registry import Registry
from lepton_etl.models.select import Chosen

NAMES = list(feature_names("node"))
LINE = Chosen("linear", {"linear": 1.0})
# Energy of the fleet is a line over normalised power, which no plain model in kWh of two classes is.
POOLED = Recipe(LINE, True, None, (), {})
OF_CLASSES = Recipe(LINE, True, None, (), {"old": LINE, "new": LINE})


@pytest.fixture(scope="module")
def few(hours: pd.DataFrame) -> pd.DataFrame:
    """Three days: too few to validate, so that the new choice is a forest."""
    return hours[hours["date"] < date(2025, 6, 4)].reset_index(drop=True)


UNTIL = datetime(2025, 6, 2, 23, tzinfo=UTC)


@pytest.fixture(scope="module")
def line(few: pd.DataFrame, settings: ModelSettings) -> Any:
    """What the recipe has learnt of the first two days."""
    return composed_again(POOLED, few[few["date"] < date(2025, 6, 3)], settings, {})


@pytest.fixture(scope="module")
def champion(line: Any) -> Callable[[Recipe | str | None], Incumbent]:
    """A champion by that line, whatever it says of its recipe."""

    def intervals(rows: pd.DataFrame) -> Values:
        return np.tile(np.asarray(line.predict(rows[NAMES]))[:, None], 3)

    return lambda recipe: Incumbent(intervals, UNTIL, recipe)


Of = Callable[[Recipe | str | None], Incumbent]


@pytest.fixture(scope="module")
def kept(few: pd.DataFrame, settings: ModelSettings, champion: Of) -> Trained:
    return train(few, settings, champion(POOLED))


def test_a_refused_choice_leaves_the_newer_hours_to_the_champions_recipe(
    kept: Trained, few: pd.DataFrame, settings: ModelSettings
) -> None:
    assert (kept.winner, kept.recipe, kept.verdict.promoted) == (RECIPE, POOLED, True)
    assert kept.name == "linear over normalised power"
    as_told = composed_again(POOLED, few, settings, {}).predict(few[NAMES])
    assert kept.mean.predict(few[NAMES]) == pytest.approx(as_told, rel=1e-9)
    ours, refused = (overall(kept.errors, name).cv_rmse_ratio for name in ("model", "learned"))
    assert ours is not None and refused is not None and 1.02 * ours < refused


def test_what_happened_is_said(kept: Trained, settings: ModelSettings, registry: Registry) -> None:
    assert kept.refused_choice is not None
    told = "is champion by the champion's recipe, fitted anew on all days; new choice (forest over normalised power)"
    assert kept.decision.startswith(f"{told} refused: CV(RMSE) ")
    assert "worse than the champion's" in kept.decision
    assert f"- Decision: {kept.decision}" in cards(kept, settings, {}).texts["model_card.md"]
    tags = {RECIPE_TAG: kept.recipe_text, "fitted_until": kept.test_until.isoformat()}
    version = registry.register("kept", kept, FEATURES["node"], {}, tags)
    described = str(registry._connected().get_model_version("kept", version.version).description)
    assert f"It {kept.decision}." in described
    assert Incumbent.of(registry.verified_model("kept")).recipe == POOLED


def test_a_choice_that_is_better_than_the_champion_takes_its_place(
    few: pd.DataFrame, settings: ModelSettings
) -> None:
    poor = Incumbent(lambda rows: np.full((len(rows), 3), 0.3), UNTIL, POOLED)
    trained = train(few, settings, poor)
    assert trained.verdict.promoted and trained.refused_choice is None
    assert trained.name == "forest over normalised power"


def test_what_refuses_the_recipe_too_refuses_all(
    few: pd.DataFrame, settings: ModelSettings, champion: Of, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = ResponseDrop("cpu_utilisation_ratio", 0.2, 0.6, 0.07)
    monkeypatch.setattr(fit, "response_drops", lambda *_: [drop])
    trained = train(few, settings, champion(POOLED))
    assert not trained.verdict.promoted and trained.refused_choice is None
    assert trained.name == "forest over normalised power"
    assert trained.decision.startswith("refused: ") and str(drop) in trained.decision


def test_the_classes_own_models_of_the_recipe_learn_anew(
    few: pd.DataFrame, settings: ModelSettings, champion: Of
) -> None:
    trained = train(few, settings, champion(OF_CLASSES))
    assert trained.winner == RECIPE and trained.name.endswith("2 classes by their own")
    for name, rows in few.groupby("hardware_class"):
        slope, base = np.polyfit(rows["cpu_utilisation_ratio"], rows["energy_kwh"], 1)
        said = trained.mean.predict(rows[NAMES])
        assert said == pytest.approx(base + slope * rows["cpu_utilisation_ratio"], rel=0.02), name


@pytest.mark.parametrize("recipe", [None, "rated_x_load", POOLED])
def test_without_a_recipe_that_can_be_fitted_the_champion_stays(
    few: pd.DataFrame, settings: ModelSettings, champion: Of, recipe: Recipe | str | None
) -> None:
    """It does not say how it was chosen, is a plain model that another one beats, or of other candidates."""
    trained = train(few, settings.model_copy(update={"candidates": ("forest",)}), champion(recipe))
    assert trained.winner != RECIPE and not trained.verdict.promoted
    assert "worse than the champion's" in trained.verdict.reason


@pytest.mark.parametrize("recipe", [POOLED, OF_CLASSES, Recipe(LINE, False, LINE, ("old",), {})])
def test_a_recipe_is_read_as_it_was_written(recipe: Recipe) -> None:
    assert recipe_of(recipe.text) == recipe


@pytest.mark.parametrize("text", ["", "forest", "{}", "[1]", '{"pooled": {"choice": "linear"}}'])
def test_a_text_that_is_no_recipe_is_none(text: str) -> None:
    assert recipe_of(text) is None


def test_a_plain_model_is_its_own_recipe() -> None:
    assert recipe_of("linear") == "linear"
