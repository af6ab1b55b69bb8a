"""Which candidate, or which fusion, the earlier days speak for: forward in time, in blocks of whole days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.models.builders import CANDIDATES, Candidate, Inputs, forest, inputs_of
from lepton_etl.models.features import TARGET, feature_names
from lepton_etl.models.fusion import Choice, assemble, choose, fitted, forward_block
from lepton_etl.models.metrics import Values
from lepton_etl.models.settings import ModelSettings

# From small to large, by bytes and by time to predict: within the tolerance the first one wins.
PREFERENCE: Final = (
    "linear", "piecewise_linear", "gam", "boosting_gentle", "boosting_recent", "boosting", "boosting_log",
    "boosting_absolute", "forest", "extra_trees", "knn",
)  # fmt: skip
# Rows that a validation fit learns from at most, every k-th of its past: the choice needs no more.
_VALIDATION_ROWS: Final = 50_000


@dataclass(frozen=True)
class Selected:
    """The chosen estimator fitted on all given rows, and the forward validation behind the choice.

    `measured_kwh` and `predicted_kwh` (n,) are the validated hours by the choice; empty where days were too few.
    """

    estimator: Any
    choice: Choice
    candidate_cpu_s: dict[str, float]
    measured_kwh: Values
    predicted_kwh: Values


def inputs(settings: ModelSettings, hours: pd.DataFrame) -> Inputs:
    """The features of the device that these hours know anything of; histogram boosting bins no column of unknowns."""
    return inputs_of(list(feature_names(settings.device)), hours, settings.seed)


def candidates(settings: ModelSettings) -> list[Candidate]:
    """The candidates of the settings, the forest with their trees and leaves."""
    own = {"forest": Candidate("forest", "random forest", forest(settings.trees, settings.min_samples_leaf))}
    return [(CANDIDATES | own)[name] for name in settings.candidates]


def select(hours: pd.DataFrame, settings: ModelSettings) -> Selected:
    """Validate the candidates forward over blocks of days, choose one or their fusion, and fit it on all rows.

    `hours` are device-hours in time order. Below three days nothing can be validated: then the forest is taken, or
    the first candidate where the settings name no forest.
    """
    what, of_settings = inputs(settings, hours), candidates(settings)
    block = day_blocks(hours, settings.validation_blocks)
    cpu_s = {one.name: 0.0 for one in of_settings}
    if len(np.unique(block)) < 3 or len(of_settings) == 1:
        name = "forest" if "forest" in cpu_s else of_settings[0].name
        choice, members = Choice(name, {name: 1.0}), pd.DataFrame(index=hours.index[:0])
        measured = np.zeros(0)
    else:
        # What the first block does not know, no validation fit may need.
        members, cpu_s = _forward(hours, block, inputs(settings, hours[block == 0]), of_settings)
        measured = hours.loc[members.index, TARGET].to_numpy(dtype=np.float64)
        choice = choose(
            measured, members, block[hours.index.get_indexer(members.index)],
            settings.small_model_tolerance_ratio, [name for name in PREFERENCE if name in cpu_s],
        )  # fmt: skip
    by_name = {one.name: one for one in of_settings}
    models = {name: fitted(by_name[name], what, hours) for name in choice.weights}
    said = choice.predict(members) if len(members) else np.zeros(0)
    return Selected(assemble(choice, models, hours, what), choice, cpu_s, measured, said)


def day_blocks(hours: pd.DataFrame, blocks: int) -> npt.NDArray[np.int64]:
    """The block of each row, 0..blocks-1 by equal numbers of days that have rows; fewer where days are few."""
    days = pd.to_datetime(hours["date"])
    order = np.unique(days)
    rank = np.searchsorted(order, days.to_numpy())
    count = min(blocks, len(order))
    return np.asarray(rank * count // len(order), dtype=np.int64)


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
