"""Let scarce hardware classes count in a training: repeat their rows, where validation says that it helps them.

A model that is fitted to the mean of all hours serves the classes with many. Where a class has less than half of an
even share of the rows, its rows are repeated up to that. Kept is what has the smaller mean of the classes' CV(RMSE) on
the hours that were validated forward in time, as long as the error over all of them stays within the tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from lepton_etl.models.features import TARGET
from lepton_etl.models.metrics import Values
from lepton_etl.uncertainty import cv_rmse

# Of an even share of the rows: what a class is brought up to. No row is taken more often than this.
SHARE: Final = 0.5
MOST_TIMES: Final = 10


@dataclass(frozen=True, slots=True)
class Balance:
    """What repeating rows of scarce classes did on the validated hours: CV(RMSE) as they are, and balanced.

    `times` says how often a row of each scarce class was taken; `of_classes` are means over the classes.
    """

    times: Mapping[str, int]
    overall: tuple[float, float]
    of_classes: tuple[float, float]
    is_kept: bool


def times(hours: pd.DataFrame) -> dict[str, int]:
    """Return how often rows of each scarce class are to be taken; nothing where no class is scarce."""
    counts = hours["hardware_class"].value_counts()
    wanted = SHARE * len(hours) / max(len(counts), 1)
    return {
        str(name): min(MOST_TIMES, round(wanted / count))
        for name, count in sorted(counts.items())
        if round(wanted / count) > 1
    }


def balanced(hours: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with those of scarce classes repeated, each beside the first of it."""
    of_class = times(hours)
    if not of_class:
        return hours
    each = hours["hardware_class"].map(of_class).fillna(1).to_numpy(dtype=np.int64)
    return hours.iloc[np.repeat(np.arange(len(hours)), each)]


def judged(
    hours: pd.DataFrame,
    plain_kwh: Values,
    balanced_kwh: Values,
    of_class: Mapping[str, int],
    tolerance_ratio: float,
) -> Balance | None:
    """Return which of two predictions (n,) of validated hours is kept; None where they hold no energy."""
    measured = hours[TARGET].to_numpy(dtype=np.float64)
    groups = hours.groupby("hardware_class").indices.values()
    both = []
    for kwh in (plain_kwh, balanced_kwh):
        of_classes = [cv_rmse(measured[rows], kwh[rows]) for rows in groups]
        overall, known = cv_rmse(measured, kwh), [one for one in of_classes if one is not None]
        if overall is None or not known:
            return None
        both.append((overall, float(np.mean(known))))
    (plain, plain_classes), (even, even_classes) = both
    is_kept = even_classes < plain_classes and even <= plain * (1 + tolerance_ratio)
    return Balance(of_class, (plain, even), (plain_classes, even_classes), is_kept)
