"""Each server predicted by a pooled model of the others, from its inventory row alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from bench.measure import Figure, figure, print_figures
from bench.model_inputs import BASE, MEMORY
from lepton_etl.models.candidates import CANDIDATES, inputs_of
from lepton_etl.models.features import TARGET
from lepton_etl.models.fusion import fitted
from lepton_etl.models.metrics import Values, errors

_POOLED: Final = ("linear", "piecewise_linear", "forest", "extra_trees", "boosting_gentle")
# No choice can be validated on a server that was never seen: the mean of two unlike tree learners is fixed.
PUBLISHED: Final = ("extra_trees", "boosting_gentle")
CV_PCT: Final = 25.0


def left_out(hours: pd.DataFrame) -> list[Figure]:
    """CV(RMSE) and NMBE of every server from the others, normalised to rated power; the target on the last row."""
    inputs = inputs_of([*BASE, *MEMORY], hours)
    found: list[Figure] = []
    for node in sorted(hours["node_id"].unique()):
        others, own = hours[hours["node_id"] != node], hours[hours["node_id"] == node]
        normal = others.assign(
            **{TARGET: others[TARGET] / others["hardware_class"].map(_rated_by_class(others)).to_numpy()}
        )
        rated_kwh = _rated_kwh(own)
        predicted: dict[str, Values] = {}
        with threadpool_limits(1):
            for name in _POOLED:
                model = fitted(CANDIDATES[name], inputs, normal)
                predicted[name] = np.maximum(rated_kwh * model.predict(own[inputs.names]), 0.0)
        predicted["mean_of_two"] = np.mean([predicted[name] for name in PUBLISHED], axis=0)
        for name, values in predicted.items():
            result = errors(own[TARGET].to_numpy(), values)
            assert result.cv_rmse_ratio is not None
            assert result.nmbe_ratio is not None
            at_most = CV_PCT if name == "mean_of_two" else None
            stem = f"left_out/{node}/{name}"
            found += [
                figure(f"{stem}/cv_rmse", 100 * result.cv_rmse_ratio, "%", 1, at_most=at_most),
                figure(f"{stem}/nmbe", 100 * result.nmbe_ratio, "%", 1),
            ]
    print_figures("each server from the others and its inventory row", found)
    return found


def _rated_kwh(rows: pd.DataFrame) -> float:
    """Energy of an hour at rated power, of the inventory; no history of the server itself stands in for it."""
    rated_w = float(rows["rated_power_w"].iloc[0])
    assert np.isfinite(rated_w), "a server without a nameplate cannot be predicted from its inventory row"
    return rated_w / 1000


def _rated_by_class(rows: pd.DataFrame) -> dict[str, float]:
    return {str(name): _rated_kwh(one) for name, one in rows.groupby("hardware_class")}
