"""What becomes a version in the registry, whichever model it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lepton_etl.models.gate import Verdict


@dataclass(frozen=True)
class Release:
    """A fitted scikit-learn estimator that predicts kWh, with what is logged beside it.

    `columns` and `target` describe inputs and output by name, unit and description. `texts` and `tables` are files by
    name, text and JSON; `onnx` is a graph for other runtimes.
    """

    estimator: Any
    example: pd.DataFrame
    columns: tuple[dict[str, Any], ...]
    target: Mapping[str, str]
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    verdict: Verdict
    texts: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    onnx: bytes | None = None
