"""Which candidate or fusion, and in which size, the earlier days speak for: forward in time, in blocks of days."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.models.builders import CANDIDATES, Candidate, Inputs, forest, inputs_of
from lepton_etl.models.features import TARGET, feature_names
from lepton_etl.models.fusion import Choice, choose, forward_block, target
from lepton_etl.models.metrics import Values
from lepton_etl.models.settings import ModelSettings
from lepton_etl.models.slimming import AS_CHOSEN, Slimmed, family, slim

# From small to large, by bytes and by time to predict: within the tolerance the first one wins.
PREFERENCE: Final = (
    "linear", "piecewise_linear", "gam", "boosting_gentle", "boosting_recent", "boosting", "boosting_log",
    "boosting_absolute", "forest", "extra_trees", "knn",
)  # fmt: skip
# What a row has from the inventory and not from its sensors.
OF_INVENTORY: Final = frozenset({"hardware_class", "rated_power_w", "idle_power_w"})
# Rows that a validation fit learns from at most, every k-th of its past: the choice needs no more.
_VALIDATION_ROWS: Final = 50_000


@dataclass(frozen=True)
class Selected:
    """The chosen estimator fitted on all given rows, and the forward validation behind the choice.

    `estimator` takes the columns of `inputs` and says kWh, or the place between idle and rated where these are
    `normalised`. `measured_kwh` and `predicted_kwh` (n,) are the validated hours by the choice in the size that was
    taken, `index` their rows among the given ones; empty where days were too few.
    """

    estimator: Any
    inputs: Inputs
    choice: Choice
    candidate_cpu_s: dict[str, float]
    index: pd.Index[Any]
    measured_kwh: Values
    predicted_kwh: Values
    slimmed: Slimmed | None = None

    @property
    def name(self) -> str:
        """What was chosen, and in which size."""
        size = self.slimmed.chosen if self.slimmed else AS_CHOSEN
        return self.choice.name if size == AS_CHOSEN else f"{self.choice.name}, {size}"


def inputs(settings: ModelSettings, hours: pd.DataFrame) -> Inputs:
    """The features of the device that these hours know anything of; histogram boosting bins no column of unknowns."""
    return inputs_of(list(feature_names(settings.device)), hours, settings.seed)


def pooled_inputs(settings: ModelSettings, hours: pd.DataFrame) -> Inputs:
    """The same without class and nameplate, for a model over normalised power: a class never seen is like any other."""
    of_row = [name for name in feature_names(settings.device) if name not in OF_INVENTORY]
    return replace(inputs_of(of_row, hours, settings.seed), normalised=True)


def candidates(settings: ModelSettings) -> list[Candidate]:
    """The candidates of the settings, the forest with their trees and leaves."""
    own = {"forest": Candidate("forest", "random forest", forest(settings.trees, settings.min_samples_leaf))}
    return [(CANDIDATES | own)[name] for name in settings.candidates]


def select(
    hours: pd.DataFrame,
    settings: ModelSettings,
    inputs_for: Callable[[ModelSettings, pd.DataFrame], Inputs] = inputs,
    block: npt.NDArray[np.int64] | None = None,
) -> Selected:
    """Validate the candidates forward over blocks of days, choose one or their fusion, slim it, fit it on all rows.

    `hours` are device-hours in time order, `block` the block of each (equal numbers of days where none is given).
    Below three days nothing can be validated: then the forest is taken, or the first candidate where there is none.
    """
    what, of_settings = inputs_for(settings, hours), candidates(settings)
    if what.normalised and (target(hours, what) <= 0).any():
        # A gamma deviance has no value at or under the inventory's idle power.
        of_settings = [one for one in of_settings if one.name != "boosting_log"] or [CANDIDATES["boosting"]]
    block = day_blocks(hours, settings.validation_blocks) if block is None else block
    by_name = {one.name: one for one in of_settings}
    if len(np.unique(block)) < 3:
        name = "forest" if "forest" in by_name else of_settings[0].name
        choice = Choice(name, {name: 1.0})
        model = family(hours, choice, by_name, what, AS_CHOSEN)[AS_CHOSEN][0]
        nothing = np.zeros(0)
        return Selected(model, what, choice, dict.fromkeys(by_name, 0.0), hours.index[:0], nothing, nothing)
    # What the first block does not know, no validation fit may need.
    known = inputs_for(settings, hours[block == block.min()])
    members, cpu_s = _forward(hours, block, known, of_settings)
    measured = hours.loc[members.index, TARGET].to_numpy(dtype=np.float64)
    choice = choose(
        measured, members, block[hours.index.get_indexer(members.index)],
        settings.small_model_tolerance_ratio, [name for name in PREFERENCE if name in cpu_s],
    )  # fmt: skip
    tolerance = settings.small_model_tolerance_ratio
    slimmed = slim(hours, block, choice, by_name, known, tolerance) if settings.slim else None
    size = slimmed.chosen if slimmed else AS_CHOSEN
    said = choice.predict(members)
    if slimmed and size != AS_CHOSEN:
        said = np.asarray(slimmed.predicted_kwh.loc[members.index], dtype=np.float64)
    model = family(hours, choice, by_name, what, size)[size][0]
    return Selected(model, what, choice, cpu_s, members.index, measured, said, slimmed)


def block_edges(hours: pd.DataFrame, blocks: int) -> npt.NDArray[np.datetime64]:
    """The first day of each of `blocks` blocks of equal numbers of days that have rows; fewer where days are few."""
    days = np.unique(pd.to_datetime(hours["date"]).to_numpy())
    count = min(blocks, len(days))
    return np.asarray(days[[-(-number * len(days) // count) for number in range(count)]])


def blocks_at(hours: pd.DataFrame, edges: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """The block of each row between these first days; a day before the first edge is of the first block."""
    found = np.searchsorted(edges, pd.to_datetime(hours["date"]).to_numpy(), side="right") - 1
    return np.asarray(np.maximum(found, 0), dtype=np.int64)


def day_blocks(hours: pd.DataFrame, blocks: int) -> npt.NDArray[np.int64]:
    """The block of each row, 0..blocks-1 by equal numbers of days that have rows; fewer where days are few."""
    return blocks_at(hours, block_edges(hours, blocks))


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
