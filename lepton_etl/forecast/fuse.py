"""Weights of the members and intervals around the fusion, both from forecasts whose hours have come true."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.optimize import nnls

from lepton_etl.confidence import conformal_rank
from lepton_etl.forecast.series import Floats

# Horizons (first, behind the last) that share weights, and finer ones that share an interval.
WEIGHT_BANDS: Final = ((0, 6), (6, 24), (24, 48), (48, 96))
INTERVAL_BANDS: Final = (
    (0, 1), (1, 2), (2, 3), (3, 4), (4, 6), (6, 9), (9, 12), (12, 18), (18, 24), (24, 36), (36, 48), (48, 72), (72, 96),
)  # fmt: skip
MIN_RESIDUALS: Final = 48
# Pull towards equal weights, as a share of the members' mean square.
_SHRINK: Final = 0.05


def fusion_weights(members: Floats, came_true: Floats, age_h: Floats, half_life_h: float) -> Floats:
    """Non-negative weights that sum to 1, shape (members,), from forecasts (members, rows) and targets (rows,).

    Rows halve in weight every `half_life_h`; a member that gives NaN anywhere takes no part in that row. Few rows
    give equal weights. Source: Breiman, Stacked regressions, Machine Learning 24 (1996).
    """
    count = len(members)
    usable = np.isfinite(members).all(axis=0) & np.isfinite(came_true)
    if usable.sum() < MIN_RESIDUALS:
        return np.full(count, 1 / count)
    root = np.sqrt(0.5 ** (age_h[usable] / half_life_h))
    # Weights that sum to 1 see only how members miss: the errors' own Gram matrix.
    errors = (members[:, usable] - came_true[usable]) * root
    scale = float(np.sqrt((errors**2).mean() * errors.shape[1])) or 1.0
    design = np.vstack([errors.T / scale, np.eye(count) * np.sqrt(_SHRINK), np.full((1, count), 1e3)])
    wanted = np.concatenate([np.zeros(errors.shape[1]), np.zeros(count), [1e3]])
    solved, _ = nnls(design, wanted)
    return np.asarray(solved / solved.sum())


def conformal_ends(residuals: Floats, level: float) -> tuple[float, float]:
    """Ends to add to a forecast, of an interval that holds `level` of residuals (actual - forecast), shape (n,).

    Each side leaves half of what is left out, by the ceil((n + 1)(1 - alpha)) rank of split conformal prediction; NaN
    where n is too small for the rank. Source: Romano, Patterson and Candes, NeurIPS 32 (2019), asymmetric form.
    """
    known = np.sort(residuals[np.isfinite(residuals)])
    count = len(known)
    rank = conformal_rank(count, 0.5 + level / 2)
    if count < MIN_RESIDUALS or rank > count:
        return float("nan"), float("nan")
    return float(known[count - rank]), float(known[rank - 1])
