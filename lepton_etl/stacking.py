"""Weights of a stack of predictions: none negative, sum one, by least squares on what has come true.

Source: Wolpert (1992), stacked generalisation; Breiman (1996), stacked regressions (non-negative weights).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Weight of the row that holds the sum at one, beside errors brought to a sum of squares of one.
_SUM_ROW: Final = 1e3


def stacking_weights(
    true: Floats, predicted: Floats, row_weight: Floats | None = None, shrinkage: float = 0.0
) -> Floats:
    """Return weights w (k,) >= 0 with sum 1 that minimise the weighted squares of `true - predicted @ w`.

    `true` (n,) and `predicted` (n, k) are finite. `shrinkage` pulls the weights towards equal ones, as a share of the
    members' mean square. Source: Lawson & Hanson (1974), chapter 23; scipy.optimize.nnls.
    """
    from scipy.optimize import nnls

    count = predicted.shape[1]
    root = np.ones(len(true)) if row_weight is None else np.sqrt(row_weight)
    # Weights that sum to one see only how the members miss: true - predicted @ w = (true - predicted) @ w.
    errors = (predicted - true[:, None]) * root[:, None]
    scale = float(np.sqrt((errors**2).mean() * len(true))) or 1.0
    # QR first: the same minimum from k rows instead of n.
    triangle = np.linalg.qr(errors / scale, mode="r")
    pull, total = np.eye(count) * np.sqrt(shrinkage), np.full((1, count), _SUM_ROW)
    system = np.vstack([triangle, pull, total])
    found, _ = nnls(system, np.append(np.zeros(len(system) - 1), _SUM_ROW))
    return np.asarray(found / found.sum(), dtype=np.float64)
