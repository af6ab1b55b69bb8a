"""Pooled over normalised power, pooled in kWh, one model a class, and what smaller ones cost; forward in time.

Every class is predicted half-year by half-year after a year of its history, from all hours before. Features are those
of an hourly export without memory. Bytes are those stored with skops, Joules those of a million predictions in this
process (CPU-seconds x a stated W, or RAPL). Nothing is tuned here.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bench.measure import Figure, figure, print_figures
from bench.model_inputs import BASE
from lepton_etl.models.candidates import CANDIDATES, Inputs, inputs_of
from lepton_etl.models.export_onnx import export
from lepton_etl.models.features import TARGET
from lepton_etl.models.footprint import joules_per_million
from lepton_etl.models.fusion import Choice, energy_kwh, fitted
from lepton_etl.models.metrics import Values, errors
from lepton_etl.models.select import AS_CHOSEN, family, size_bytes
from lepton_etl.models.stored import FittedModel

LEARNERS: Final = ("boosting", "forest")
POOLED_NORMALISED: Final = "pooled, normalised"
POOLED_KWH: Final = "pooled, kWh"
OWN: Final = "own of the class"
_FIRST_MONTHS: Final = 12
_HALF_YEAR: Final = 6
_ROWS: Final = 2_000


def size_figures(hours: pd.DataFrame) -> list[Figure]:
    """CV(RMSE), NMBE, bytes and Joules a million predictions by class, learner and variant of these BioHPC hours."""
    table = hours.assign(idle_power_w=np.nan)
    found: list[Figure] = []
    for hardware_class, rows in table.groupby("hardware_class"):
        for learner in LEARNERS:
            found += _of_class(table, rows, learner, f"sizes/{hardware_class}/{learner}")
    print_figures("pooled, by class, and smaller; forward in time by half-year", found)
    return found


def _of_class(hours: pd.DataFrame, rows: pd.DataFrame, learner: str, stem: str) -> list[Figure]:
    block, own_block = hours["block"].to_numpy(), rows["block"].to_numpy()
    plain = inputs_of(list(BASE), rows)
    in_kwh = inputs_of([*BASE, "rated_power_w", "hardware_class"], hours)
    parts: dict[str, list[Values]] = {}
    measured, models, here = [], {}, rows
    for now in np.unique(own_block)[_FIRST_MONTHS::_HALF_YEAR]:
        here = rows[(own_block >= now) & (own_block < now + _HALF_YEAR)]
        before, of_class = hours[block < now], rows[own_block < now]
        models = _models(before, of_class, learner, plain, in_kwh)
        measured.append(here[TARGET].to_numpy(dtype=np.float64))
        for name, (model, what) in models.items():
            parts.setdefault(name, []).append(energy_kwh(model, what, here))
    truth = np.concatenate(measured)
    found: list[Figure] = []
    for name, (model, what) in models.items():
        found += _figures(f"{stem}/{name}", truth, np.concatenate(parts[name]), model, what, here)
    return found + _onnx_figures(stem, models, here)


def _models(
    before: pd.DataFrame, of_class: pd.DataFrame, learner: str, plain: Inputs, in_kwh: Inputs
) -> dict[str, tuple[Any, Inputs]]:
    one = CANDIDATES[learner]
    normalised = replace(plain, normalised=True)
    sizes = family(of_class, Choice(learner, {learner: 1.0}), {learner: one}, plain)
    return {
        POOLED_NORMALISED: (fitted(one, normalised, before), normalised),
        POOLED_KWH: (fitted(one, in_kwh, before), in_kwh),
    } | {OWN if name == AS_CHOSEN else name: (model, plain) for name, (model, _) in sizes.items()}


def _figures(
    stem: str, measured: Values, predicted: Values, model: Any, what: Inputs, rows: pd.DataFrame
) -> list[Figure]:
    result = errors(measured, predicted)
    assert result.cv_rmse_ratio is not None
    assert result.nmbe_ratio is not None
    cost = joules_per_million(
        lambda table: np.asarray(model.predict(table), dtype=np.float64), rows[what.names].head(_ROWS)
    )
    return [
        figure(f"{stem}/cv_rmse", 100 * result.cv_rmse_ratio, "%", 1),
        figure(f"{stem}/nmbe", 100 * result.nmbe_ratio, "%", 1),
        figure(f"{stem}/size", size_bytes(model), "bytes", 1),
        figure(f"{stem}/million_predictions", cost.energy_j, f"J ({cost.basis})", 1),
    ]


def _onnx_figures(stem: str, models: dict[str, tuple[Any, Inputs]], rows: pd.DataFrame) -> list[Figure]:
    """Bytes and Joules of the float32 graph of what a converter takes, and bytes after ONNX runtime's quantisation."""
    found: list[Figure] = []
    for name in (OWN, "student: pruned tree"):
        model, what = models[name]
        columns = tuple({"name": n, "unit": "", "category": n in what.categories} for n in what.names)
        made = export(FittedModel(model, columns), rows.head(_ROWS))
        if made.data is None or made.million is None:
            print(f"{stem}/{name}: {made.reason}")
            continue
        found += [
            figure(f"{stem}/{name}/onnx_size", len(made.data), "bytes", 1),
            figure(f"{stem}/{name}/onnx_quantised_size", _quantised(made.data), "bytes", 1),
            figure(
                f"{stem}/{name}/onnx_million_predictions",
                made.million.energy_j,
                f"J ({made.million.basis})",
                1,
            ),
            figure(f"{stem}/{name}/onnx_rows_at_a_split", 100 * (made.differing_ratio or 0.0), "%", 1),
        ]
    return found


def _quantised(data: bytes) -> int:
    """Bytes of the graph after dynamic quantisation to int8: it changes products of matrices, and trees have none."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        plain.write_bytes(data)
        quantize_dynamic(plain, small)
        return small.stat().st_size


if __name__ == "__main__":
    from bench.inputs import REAL
    from bench.measure import write
    from bench.model_inputs import INVENTORY, biohpc_hours

    write("model-sizes", size_figures(biohpc_hours(REAL / "biohpc-gpu-servers", INVENTORY)))
