"""`lepton-etl models` and `explain`: list versions, and tell why a model predicts a node's energy."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import pandas as pd
import polars as pl
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import ModelError, NoInputError
from lepton_etl.lake.node_parts import node_parts
from lepton_etl.lake.tables import Lake
from lepton_etl.models.device_hours import capped, device_hours, interval_columns
from lepton_etl.models.explain import chain_rule, explain, in_words, sensitivities, surrogate_check
from lepton_etl.models.features import TARGET
from lepton_etl.models.registry import FACILITY_PREFIX, Registry
from lepton_etl.models.stored import FORWARD_ERROR_TAG, VerifiedModel
from lepton_etl.redaction import without_user_info
from lepton_etl.schema.energy import PREDICTION
from lepton_etl.schema.fleet import INTERVAL, NODE

_WIDTH = 200


def print_versions(settings: Settings) -> None:
    """Each version of the site's models with alias, decision, reason and cards; raises ModelError for a bad name."""
    mlflow, own = settings.mlflow, settings.model.name
    registry, console = Registry.of(mlflow), Console(width=max(Console().width, _WIDTH))
    # A name that is not registered yet is shown as such; a bad one is refused there.
    for name in dict.fromkeys((own, *registry.names((own, FACILITY_PREFIX)))):
        console.print(_table(registry, name, without_user_info(mlflow.tracking_uri)))


def _table(registry: Registry, name: str, where: str) -> Table:
    champion = registry.champion(name)
    shown = Table(title=f"{name} at {where}", title_justify="left")
    for heading in (
        "version", "alias", "promotion", "reason", "chosen", "CV(RMSE)", "trained until", "ONNX", "cards",
        "model SHA-256",
    ):  # fmt: skip
        shown.add_column(heading)
    for version in sorted(registry.versions(name), key=lambda v: int(v.version)):
        tags = version.tags
        shown.add_row(
            version.version,
            "champion" if champion and champion.version == version.version else "",
            tags.get("promotion", "-"),
            tags.get("promotion_reason", "-"),
            tags.get("chosen", "-"),
            _percent(tags.get(FORWARD_ERROR_TAG)),
            tags.get("fitted_until", tags.get("cut_time", "-"))[:10],
            "yes" if tags.get("onnx") == "exported" else "no",
            f"runs:/{version.run_id}" if "onnx" in tags else "-",
            tags.get("model_sha256", "-")[:12],
        )
    return shown


def _percent(ratio: str | None) -> str:
    return "-" if ratio is None else f"{float(ratio):.1%}"


# What the hour is compared with: hours of the days before it, the same ones on every call.
_BACKGROUND_DAYS: Final = 28
_BACKGROUND_ROWS: Final = 400
_UNITS: Final = {"degree_Celsius": "degC", "watt": "W rated", "dimensionless": "full load"}


def explained(lake: Lake, settings: Settings, node_id: str, hour: datetime) -> list[str]:
    """Lines that explain each device-hour of the node at this UTC hour by the model version recorded for it.

    Raises NoInputError where silver has no such hour, ModelError where no model can be trusted.
    """
    days, device = Days(hour.date() - timedelta(days=_BACKGROUND_DAYS), hour.date()), settings.model.device
    nodes, columns = lake.read(NODE), interval_columns(device)
    hour_before = hour - timedelta(hours=1)
    of_node = lake.read(
        INTERVAL, Days(hour_before.date(), hour.date()), columns=columns, where=pc.field("node_id") == node_id
    )
    own = device_hours(device, of_node, nodes)
    around = _frame(own.filter(pl.col("hour_start").is_between(hour_before, hour)))
    now = around[around["hour_start"] == hour] if len(around) else around
    if now.empty:
        raise NoInputError(
            f"no {settings.model.device} hour of {node_id} at {hour:%Y-%m-%dT%H}:00Z",
            where="silver/interval",
            remedy="lepton-etl tables show silver/interval lists the nodes and days that it holds",
        )
    model = _model(lake, settings, node_id, hour)
    # Of each part the rows that could be chosen at all: the driver never holds the fleet's month.
    parts = [
        capped(earlier.filter(pl.col("hour_start") < hour), _BACKGROUND_ROWS)
        for part in node_parts(lake, INTERVAL, days)
        for earlier in (device_hours(device, part.read(columns), nodes),)
    ]
    background = _frame(capped(pl.concat(parts), _BACKGROUND_ROWS))
    background = background if len(background) else now
    before = around[around["hour_start"] < hour]
    lines = [f"{model.version.name} version {model.version.version}, {node_id}, hour {hour:%Y-%m-%dT%H}:00Z"]
    for at in range(len(now)):
        lines += _of_device(model, now.iloc[[at]].reset_index(drop=True), before, background)
    return lines


def _of_device(
    model: VerifiedModel, row: pd.DataFrame, before: pd.DataFrame, background: pd.DataFrame
) -> list[str]:
    found = explain(model, row, background)
    measured = row[TARGET].iloc[0]
    expected = float(found.predicted_kwh[0])
    measurement = (
        "no energy was measured" if pd.isna(measured)
        else f"{1000 * measured:.1f} Wh were measured, {1000 * (measured - expected):+.1f} Wh against the model"
    )  # fmt: skip
    slopes = sensitivities(model, row)
    check = surrogate_check(model, row, found.parts_kwh[0], background)
    lines = [
        "",
        f"{row['device_id'].iloc[0]}: {measurement}",
        *(f"  {line}" for line in in_words(found, model, row)),
    ]
    lines.append(f"  parts by {found.method}; with the usual energy they add up to the expectation")
    lines += [
        f"  dE/d{one.name} = {1000 * one.kwh_per_unit:+.3g} Wh an hour for each {_UNITS[one.unit]}"
        for one in slopes
    ]
    earlier = before[before["device_id"] == row["device_id"].iloc[0]]
    if len(earlier):
        changes = {
            one.name: float(row[one.name].iloc[0] - earlier[one.name].iloc[0])
            for one in slopes
            if pd.notna(earlier[one.name].iloc[0])
        }
        moved = chain_rule(slopes, changes)
        unknown = ", ".join(one.name for one in slopes if one.name not in changes)
        lines.append(
            "  dE/dt by the chain rule since the hour before: "
            + (f"not known, nor is the change of {unknown}" if moved is None else f"{1000 * moved:+.1f} Wh")
        )
    against = [name for name, same in check.agree.items() if not same]
    verdict = (
        f"contradicts these parts in {', '.join(against)}" if against else "agrees in sign with these parts"
    )
    if check.agrees is None:
        verdict = "compared nothing: no part is large enough in both"
    lines.append(f"  a local linear surrogate (LIME, R2 {check.r2:.2f}) {verdict}")
    return lines


def _model(lake: Lake, settings: Settings, node_id: str, hour: datetime) -> VerifiedModel:
    """The version that scored this hour; of an hour that none scored, the champion."""
    name, registry = settings.model.name, Registry.of(settings.mlflow)
    scored = lake.read(PREDICTION, Days.of(hour.date()), where=pc.field("node_id") == node_id).filter(
        (pl.col("model_name") == name) & (pl.col("hour_start") == hour)
    )
    version = scored["model_version"][0] if scored.height else None
    if version is None and registry.champion(name) is None:
        raise ModelError(f"{name} has no champion", where="model.name", remedy="run the stage train first")
    return registry.verified_model(name, version=version)


def _frame(rows: pl.DataFrame) -> pd.DataFrame:
    found: pd.DataFrame = rows.to_pandas()
    found["hour_start"] = pd.to_datetime(found["hour_start"], utc=True)
    in_order: pd.DataFrame = found.sort_values(["hour_start", "device_id"], kind="stable")
    return in_order.reset_index(drop=True)
