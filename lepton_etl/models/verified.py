"""A model that passed every check, and how it predicts; neither MLflow nor Spark is needed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import pandas as pd

from lepton_etl.errors import ModelError
from lepton_etl.models.features import UNKNOWN
from lepton_etl.models.metrics import Values

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# CV(RMSE) over all nodes and hours of the forward test, as a ratio: what a figure that rests on the model may miss by.
FORWARD_ERROR_TAG: Final = "forward_cv_rmse_ratio"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a registered model."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Predictor(Protocol):
    """A fitted estimator with the columns that it takes: what explanations and exports need of a model."""

    @property
    def columns(self) -> tuple[dict[str, Any], ...]: ...

    @property
    def pipeline(self) -> Any: ...

    @property
    def feature_names(self) -> tuple[str, ...]: ...

    def predict(self, rows: pd.DataFrame) -> Values: ...


@dataclass(frozen=True)
class VerifiedModel:
    """A model whose folder passed the checks: its columns, its bytes (for executors) and the estimator."""

    version: Version
    columns: tuple[dict[str, Any], ...]
    data: bytes
    pipeline: Pipeline

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(column["name"] for column in self.columns)

    def predict(self, rows: pd.DataFrame) -> Values:
        """kWh of each device-hour; `rows` has the feature columns in their units, unknown is NaN or None."""
        return predict(self.pipeline, self.columns, rows)


def predict(pipeline: Pipeline, columns: tuple[dict[str, Any], ...], rows: pd.DataFrame) -> Values:
    """kWh of each row of `rows`, an array of shape (n,). Raises ModelError naming missing columns."""
    missing = [column["name"] for column in columns if column["name"] not in rows.columns]
    if missing:
        raise ModelError(
            f"columns missing: {', '.join(missing)}",
            where="input rows",
            remedy="give every feature its column, with empty cells where it is unknown",
        )
    if rows.empty:
        return np.zeros(0)
    return np.asarray(pipeline.predict(model_inputs(columns, rows)), dtype=np.float64)


def model_inputs(columns: tuple[dict[str, Any], ...], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as the pipeline takes them: the columns in order, numbers as float64, unknown categories named."""
    inputs = {}
    for column in columns:
        values = rows[column["name"]]
        if column["category"]:
            inputs[column["name"]] = values.where(values.notna(), UNKNOWN).astype(str).to_numpy(dtype=object)
        else:
            inputs[column["name"]] = pd.to_numeric(values).to_numpy(dtype=np.float64)
    return pd.DataFrame(inputs)
