"""Scarce hardware classes in training: repeated where that helps them on later days, and not otherwise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.balance import balanced, judged, times
from lepton_etl.models.fusion import fitted
from lepton_etl.models.metrics import errors
from lepton_etl.models.select import candidates, inputs, select


def with_scarce(hours: pd.DataFrame, keep: int, power: float) -> pd.DataFrame:
    """Of class `old` every `keep`-th hour, its energy bent: what a line that is fitted to the others cannot follow."""
    old = hours["hardware_class"] == "old"
    load = hours["cpu_utilisation_ratio"]
    bent = hours.assign(energy_kwh=hours["energy_kwh"].where(~old, 0.1 + 0.3 * load**power))
    return bent[~old | (np.arange(len(hours)) % keep == 0)].reset_index(drop=True)


def test_rows_of_a_scarce_class_are_taken_up_to_half_of_an_even_share() -> None:
    hours = pd.DataFrame({"hardware_class": ["a"] * 60 + ["b"] * 35 + ["c"] * 5, "n": range(100)})
    # Half of an even share of 100 rows of three classes are 17: three times the five of c.
    assert times(hours) == {"c": 3}
    found = balanced(hours)
    assert found["hardware_class"].value_counts().to_dict() == {"a": 60, "b": 35, "c": 15}
    assert found["n"].is_monotonic_increasing and set(found["n"]) == set(range(100))
    assert times(hours[hours["hardware_class"] != "c"]) == {}
    # One row in ten thousand is not taken five thousand times.
    assert times(pd.DataFrame({"hardware_class": ["a"] * 10_000 + ["b"]})) == {"b": 10}


def test_what_is_kept_helps_the_mean_class_and_costs_all_little() -> None:
    hours = pd.DataFrame({"hardware_class": ["a"] * 90 + ["b"] * 10, "energy_kwh": 1.0})
    plain = np.where(hours["hardware_class"] == "a", 1.10, 1.5)
    helped, paid = np.where(plain > 1.2, 1.3, 1.1), np.where(plain > 1.2, 1.0, 1.25)
    kept = judged(hours, plain, helped, {}, 0.01)
    assert kept is not None and kept.is_kept and kept.of_classes[1] < kept.of_classes[0]
    # The many would pay for the few.
    refused = judged(hours, plain, paid, {}, 0.01)
    assert refused is not None and not refused.is_kept and refused.of_classes[1] < refused.of_classes[0]
    assert judged(hours.assign(energy_kwh=0.0), plain, helped, {}, 0.01) is None


@pytest.mark.parametrize("tolerance", [0.2, 0.0])
def test_a_selection_says_what_repeating_did_and_keeps_the_better_one(
    hours: pd.DataFrame, settings: ModelSettings, tolerance: float
) -> None:
    line = settings.model_copy(update={"candidates": ("linear",), "small_model_tolerance_ratio": tolerance})
    scarce = with_scarce(hours, 36, 3.0)
    found = select(scarce, line)
    assert found.balance is not None and found.balance.times["old"] > 3
    # A line through all follows the scarce class better when it counts more, and all hours pay a little for it.
    assert (
        found.balance.of_classes[1] < found.balance.of_classes[0]
        and found.balance.overall[1] > found.balance.overall[0]
    )
    assert found.balance.is_kept == (tolerance > 0)
    # The figures are those of the hours that were validated, by the one that is kept.
    cv = errors(scarce.loc[found.index, "energy_kwh"].to_numpy(), found.predicted_kwh).cv_rmse_ratio
    assert cv == pytest.approx(found.balance.overall[int(found.balance.is_kept)])
    # The stored estimator has learnt the repeated rows exactly where that was kept.
    rows, what = scarce.head(50), inputs(line, scarce)
    for taught, is_stored in ((balanced(scarce), found.balance.is_kept), (scarce, not found.balance.is_kept)):
        alone = fitted(candidates(line)[0], what, taught)
        same = np.allclose(
            found.estimator.predict(rows[what.names]), alone.predict(rows[what.names]), rtol=1e-9
        )
        assert same == is_stored


def test_where_no_class_is_scarce_nothing_is_tried(hours: pd.DataFrame, settings: ModelSettings) -> None:
    assert select(hours, settings.model_copy(update={"candidates": ("linear",)})).balance is None
