"""The model's errors for the report, as the train stage left them in MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from lepton_etl.errors import RegistryError
from lepton_etl.models.metrics import ALL_HOURS, ALL_NODES, BUSY_HOURS
from lepton_etl.report.data import ERROR_SCHEMA, GROUP_SCHEMA, RIVAL_SCHEMA, ModelSummary

if TYPE_CHECKING:
    from lepton_etl.config.sections import ModelSettings
    from lepton_etl.config.settings import MlflowSettings

_MODEL: Final = "model"
_NAMES: Final = {
    "rated_x_load": "rated power x load",
    "linear": "linear model",
    "piecewise_linear": "piecewise-linear model",
    "class_mean": "mean of the hardware class",
    "learned": "what was learned",
    "champion": "champion before, on hours it has not learnt",
    "challenger": "this model, taught as long as the champion",
}


def model_summary(mlflow: MlflowSettings, model: ModelSettings, message: str) -> ModelSummary | None:
    """The champion's errors, else those of the newest refused version; None where no train stage ran
    and there is no model. A registry that does not answer is said in the notes.

    `message` is what the train stage told the operator in this run.
    """
    notes = notes_of(message)
    told = (
        ModelSummary(model.name, None, "there is none yet.", error_rows(()), notes=notes) if notes else None
    )
    from lepton_etl.models.registry import Registry

    registry = Registry.of(mlflow)
    try:
        champion = registry.champion(model.name)
        shown = champion or registry.latest(model.name, "promotion", "refused")
        records, groups = (registry.errors_of(shown), registry.groups_of(shown)) if shown else ([], [])
    except RegistryError as error:
        return ModelSummary(model.name, None, "unknown.", error_rows(()), notes=(*notes, str(error)))
    if shown is None:
        return told
    refused = f"the gate refused it: {shown.tags.get('promotion_reason') or 'no reason recorded'}."
    return ModelSummary(
        model.name,
        shown.version,
        "it passed the gate and is the champion." if champion else refused,
        error_rows(records),
        baseline=_named(_baseline(records)),
        notes=notes,
        rivals=rival_rows(records, shown.tags.get("chosen", _MODEL)),
        groups=pa.Table.from_pylist(groups, schema=GROUP_SCHEMA),
    )


def notes_of(message: str) -> tuple[str, ...]:
    """What the train stage said before its table of errors, which the page shows as a table of its own."""
    said = re.split(r"(?:^|\n|; )model +node ", message)[0].strip()
    return (said,) if said else ()


def rival_rows(records: Iterable[Mapping[str, Any]], chosen: str) -> pa.Table:
    """The model, by what was chosen, and all that it was measured beside, over all nodes and hours; best CV first."""
    every = [r for r in records if (r["node_id"], r["hours"]) == (ALL_NODES, ALL_HOURS)]
    rows = [
        {
            "model": r["model"],
            "rival": f"this model: {_NAMES.get(chosen, chosen)}"
            if r["model"] == _MODEL
            else _named(r["model"]),
            "mape_ratio": r["mape_ratio"],
            "wape_ratio": r["wape_ratio"],
            "cv_ratio": r["cv_rmse_ratio"],
            "nmbe_ratio": r["nmbe_ratio"],
        }
        for r in sorted(
            every, key=lambda r: float("inf") if r["cv_rmse_ratio"] is None else r["cv_rmse_ratio"]
        )
    ]
    return pa.Table.from_pylist(rows, schema=RIVAL_SCHEMA)


def _named(model: str) -> str:
    return _NAMES.get(model, model)


def _baseline(records: Iterable[Mapping[str, Any]]) -> str:
    """The best rival of whose servers the errors are known too; the mean of the class where there is none."""
    of_servers = {r["model"] for r in records if r["node_id"] != ALL_NODES} - {
        _MODEL,
        "champion",
        "challenger",
    }
    known = {
        r["model"]: r["cv_rmse_ratio"]
        for r in records
        if r["model"] in of_servers
        and (r["node_id"], r["hours"]) == (ALL_NODES, ALL_HOURS)
        and r["cv_rmse_ratio"] is not None
    }
    return min(known, key=lambda name: known[name], default="class_mean")


def error_rows(records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Error records of all models -> the model's rows beside the WAPE of its best rival.

    All servers together come first, then the servers with the largest WAPE over all hours.
    """
    records = list(records)
    baseline = _baseline(records)
    found = {(r["model"], r["node_id"], r["hours"]): r for r in records}

    def worst_first(node: str) -> tuple[bool, float, str]:
        wape = found[_MODEL, node, ALL_HOURS]["wape_ratio"]
        return node != ALL_NODES, -wape if wape is not None else 0.0, node

    nodes = sorted({node for model, node, _ in found if model == _MODEL}, key=worst_first)
    rows = [
        {
            "server": "all servers" if node == ALL_NODES else node,
            "hours_kind": hours,
            "hours": record["rows"],
            "mape_ratio": record["mape_ratio"],
            "wape_ratio": record["wape_ratio"],
            "cv_ratio": record["cv_rmse_ratio"],
            "nmbe_ratio": record["nmbe_ratio"],
            "baseline_wape_ratio": found.get((baseline, node, hours), {}).get("wape_ratio"),
        }
        for node in nodes
        for hours in (ALL_HOURS, BUSY_HOURS)
        if (record := found.get((_MODEL, node, hours)))
    ]
    return pa.Table.from_pylist(rows, schema=ERROR_SCHEMA)
