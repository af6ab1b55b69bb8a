"""Forward predictions of every candidate, the fusion and the nightly recalibration over them, month by month.

A month is predicted from the months before: the base models from their rows, the fusion's weights from the
forward predictions of earlier months, the recalibration from measured days up to D-1, its settings from what
they would have given in earlier months.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lepton_etl.models.candidates import CANDIDATES, ClassMean, Inputs
from lepton_etl.models.features import TARGET
from lepton_etl.models.fusion import Choice, Forward, best_shares, choose, forward_block, prequential
from lepton_etl.models.metrics import Values
from lepton_etl.models.recalibration import Recalibration, corrections, is_temperature

# What the rolling validation of the recalibration may choose from; the first is none at all.
GRID: Final = (
    Recalibration(forgetting_days=0.0),
    *(Recalibration(forgetting_days=tau, width=w) for tau, w in product((1.0, 3.0, 10.0), (0.7, 1.4))),
)
CLASS_MEAN: Final = "class_mean"
# The stack of all members and the mean of three, whatever the validation says; and what the validation would publish.
STACK: Final = "stack_of_all"
PUBLISHED: Final = "published"
MEAN: Final = "mean_of_best_3"


@dataclass(frozen=True)
class Predicted:
    """Rows that were predicted forward, one column a model, kWh; what was chosen in which block; CPU-seconds."""

    rows: pd.DataFrame
    members: pd.DataFrame
    choices: dict[int, Choice]
    cpu_s: dict[str, float]


def forward(hours: pd.DataFrame, inputs: Inputs, names: Sequence[str], first: int) -> Predicted:
    """Every block from the `first`-th on, each predicted by models of the blocks before; two processes."""
    block = hours["block"].to_numpy()
    blocks = np.unique(block)[first:]
    with ProcessPoolExecutor(2, initializer=one_thread) as pool:
        jobs = [pool.submit(_block, hours, block, now, inputs, tuple(names)) for now in blocks]
        done = [job.result() for job in jobs]
    members = pd.concat([one.predicted for one in done])
    rows = hours.loc[members.index]
    cpu_s = {
        name: sum(one.cpu_s[name] for one in done) / len(done)
        for name in members.columns
        if name != CLASS_MEAN
    }
    fused, choices = published(rows, members.drop(columns=CLASS_MEAN))
    return Predicted(rows, members.join(fused), choices, cpu_s)


def one_thread() -> None:
    """Threads of histogram boosting wait for each other where processes share the cores: one each."""
    threadpool_limits(1)


def _block(hours: pd.DataFrame, block: Any, now: int, inputs: Inputs, names: tuple[str, ...]) -> Forward:
    with threadpool_limits(1):
        found = forward_block(hours, block, now, inputs, [CANDIDATES[name] for name in names])
    before, here = hours[block < now], hours[block == now]
    mean = ClassMean().fit(before, before[TARGET].to_numpy()).predict(here)
    return Forward(found.predicted.assign(**{CLASS_MEAN: mean}), found.cpu_s)


def published(rows: pd.DataFrame, members: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, Choice]]:
    """`stack_of_all`, `mean_of_best_3`, `published` of every block from the blocks before; NaN in the first."""
    block, measured = rows["block"].to_numpy(), rows[TARGET].to_numpy(dtype=np.float64)
    chosen: dict[int, Choice] = {}
    found = np.full(len(rows), np.nan)
    for now in np.unique(block)[1:]:
        past, here = block < now, block == now
        choice = choose(measured[past], members[past], block[past])
        chosen[int(now)] = choice
        found[here] = choice.predict(members[here])
    stack = prequential(measured, members, block)
    mean = prequential(measured, members, block, best_shares(3))
    return pd.DataFrame({STACK: stack, MEAN: mean, PUBLISHED: found}, index=rows.index), chosen


def nightly(base: Predicted) -> tuple[Predicted, dict[int, Recalibration]]:
    """The same members recalibrated to D-1 every day, then chosen and fused again on what they gave that way."""
    measured = base.rows[TARGET].to_numpy(dtype=np.float64)
    names = [name for name in base.members.columns if name not in (STACK, MEAN, PUBLISHED)]
    members = base.members[names].to_numpy(dtype=np.float64)
    columns = alike_columns([c for c in base.rows.columns if pd.api.types.is_float_dtype(base.rows[c])])
    residuals = measured[:, None] - members
    with ProcessPoolExecutor(2, initializer=one_thread) as pool:
        jobs = {one: pool.submit(corrections, base.rows, residuals, columns, one) for one in GRID}
        tried = {one: np.maximum(members + job.result(), 0.0) for one, job in jobs.items()}
    block = base.rows["block"].to_numpy()
    judged = [number for number, name in enumerate(names) if name != CLASS_MEAN]
    found, settings = _by_past_blocks(measured, tried, block, judged)
    table = pd.DataFrame(found, index=base.rows.index, columns=names)
    fused, choices = published(base.rows, table.drop(columns=CLASS_MEAN))
    return Predicted(base.rows, table.join(fused), choices, base.cpu_s), settings


def _by_past_blocks(
    measured: Values, tried: dict[Recalibration, Values], block: Any, judged: list[int]
) -> tuple[Values, dict[int, Recalibration]]:
    """Each block with the settings whose squared error, over the `judged` members, was least in the blocks before."""
    first = next(iter(tried.values()))
    found, used = np.zeros_like(first), {}
    for now in np.unique(block):
        past = block < now
        squares = {
            one: float(((measured[past, None] - p[past][:, judged]) ** 2).sum()) for one, p in tried.items()
        }
        used[int(now)] = (
            min(squares, key=lambda settings: squares[settings]) if past.any() else next(iter(tried))
        )
        found[block == now] = tried[used[int(now)]][block == now]
    return found, used


def alike_columns(names: Sequence[str]) -> list[str]:
    """Of the features those that say whether two hours are alike: mean and highest load, temperature."""
    return [
        n for n in names if n.endswith(("utilisation_ratio", "utilisation_max_ratio")) or is_temperature(n)
    ]
