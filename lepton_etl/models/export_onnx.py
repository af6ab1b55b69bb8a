"""Export a model for consumers without scikit-learn: an ONNX graph in float32, or the reason why there is none.

ONNX' trees compare in float32, so a row within float32 of a split may fall on its other side: those rows are counted
and named, they are no error of the export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from lepton_etl.models.footprint import ComputeCost, joules_per_million
from lepton_etl.models.metrics import Values
from lepton_etl.models.stored import FittedModel, model_inputs

RELATIVE: Final = 1e-6
# Share of the checked rows that may lie at a split.
AT_SPLITS_MAX_RATIO: Final = 0.01


@dataclass(frozen=True, slots=True)
class Exported:
    """Either the graph's bytes with the share of rows that differ, or the reason why it is not exportable.

    `million` is what a million predictions by ONNX runtime cost.
    """

    data: bytes | None
    reason: str
    rows: int = 0
    differing_ratio: float | None = None
    million: ComputeCost | None = None


def export(model: FittedModel, rows: pd.DataFrame) -> Exported:
    """Export the model as ONNX, compared with the model itself on these rows; kWh, float32.

    Rows are rounded to float32 first: both then see the same numbers, and what differs more than RELATIVE lies at a
    split. More of those than AT_SPLITS_MAX_RATIO, or no converter for a part: not exportable, with the reason.
    """
    inputs = _as_float32(model, rows)
    try:
        data = _convert(model)
        found = run(data, model.columns, inputs)
    except Exception as error:  # converters raise what they like; the card says it
        return Exported(None, f"not exportable: {type(error).__name__}: {_first_line(error)}")
    expected = np.asarray(model.predict(inputs), dtype=np.float64)
    differs = np.abs(found - expected) > RELATIVE * np.maximum(np.abs(expected), 1e-9)
    ratio = float(differs.mean())
    if ratio > AT_SPLITS_MAX_RATIO:
        return Exported(
            None, f"not exportable: {ratio:.1%} of {len(rows)} rows differ by more than {RELATIVE:g}"
        )
    session = _session(data)
    million = joules_per_million(lambda table: _run(session, model.columns, table), inputs)
    return Exported(data, "", len(rows), ratio, million)


def run(data: bytes, columns: tuple[dict[str, Any], ...], rows: pd.DataFrame) -> Values:
    """Return kWh of each row by the graph alone, through ONNX runtime; scikit-learn is not needed. Shape (n,)."""
    return _run(_session(data), columns, rows)


def _session(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait are CPU-seconds of nothing.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _run(session: Any, columns: tuple[dict[str, Any], ...], rows: pd.DataFrame) -> Values:
    inputs = model_inputs(columns, rows)
    feed = {
        column["name"]: inputs[column["name"]].to_numpy(dtype=object if column["category"] else np.float32)[
            :, None
        ]
        for column in columns
    }
    return np.asarray(session.run(None, feed)[0], dtype=np.float64).ravel()


def _convert(model: FittedModel) -> bytes:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    types = [
        (c["name"], StringTensorType([None, 1]) if c["category"] else FloatTensorType([None, 1]))
        for c in model.columns
    ]
    data: bytes = to_onnx(model.pipeline, initial_types=types).SerializeToString()
    return data


def _as_float32(model: FittedModel, rows: pd.DataFrame) -> pd.DataFrame:
    rounded = rows.copy()
    for column in model.columns:
        if not column["category"]:
            values = pd.to_numeric(rounded[column["name"]])
            rounded[column["name"]] = values.astype(np.float32).astype(np.float64)
    return rounded


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
