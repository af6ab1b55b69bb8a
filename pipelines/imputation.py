"""What the registered model says of node-hours whose power was not seen and whose load was."""

from __future__ import annotations

from datetime import date
from functools import reduce
from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.energy.gaps import SHORTEST_GAP_S
from lepton_etl.fields import SECONDS_PER_HOUR
from lepton_etl.lake.runs import recorded_models
from lepton_etl.lake.tables import INTERVAL, NODE
from lepton_etl.models.device_hours import device_hours
from lepton_etl.models.registry import Registry
from lepton_etl.models.scoring import with_prediction
from lepton_etl.models.verified import FORWARD_ERROR_TAG
from pipelines.stage import StageContext

_NODE_HOUR: Final = ("site_id", "cluster_id", "node_id", "hour_start")
_LOADS: Final = ("cpu_utilisation_ratio", "gpu_utilisation_ratio")


def modelled_gaps(context: StageContext, measured: DataFrame) -> DataFrame | None:
    """Node-hours with a gap and a known load -> what the model says of the gap; None without a model or such an hour.

    `measured` has the columns of energy.node_hours.measured_node_hours. Result: the node-hour's key, `model_kwh` and
    `model_sigma_kwh` of the uncovered seconds. The error is the model's forward CV(RMSE); without it none is asked. A
    day that was made before takes the version recorded for it, else the champion's. Source: definitions.md section 8.
    """
    settings = context.settings.model
    if settings.device != "node":
        return None
    gap_s = F.col("expected_s") - F.col("observed_s")
    has_load = F.coalesce(*(F.col(name) for name in _LOADS)).isNotNull()
    gaps = measured.where((gap_s > SHORTEST_GAP_S) & has_load).select(*_NODE_HOUR, gap_s.alias("gap_s"))
    if not gaps.head(1):
        return None
    registry = Registry.of(context.settings.mlflow)
    found = [
        _by_model(context, gaps.where(F.to_date("hour_start").isin(days)), registry, version)
        for version, days in _days_by_version(context, registry).items()
    ]
    said = [rows for rows in found if rows is not None]
    return reduce(DataFrame.unionByName, said) if said else None


def _days_by_version(context: StageContext, registry: Registry) -> dict[str, list[date]]:
    """Model version -> its days: the recorded one of a day that was made before, if any, else the champion's."""
    name = context.settings.model.name
    recorded = recorded_models(context.lake.root, name, context.days)
    champion = registry.champion(name) if set(context.days) - set(recorded) else None
    days_of: dict[str, list[date]] = {}
    for day in context.days:
        version = recorded.get(day, champion.version if champion else None)
        if version is not None:
            days_of.setdefault(version, []).append(day)
    return days_of


def _by_model(context: StageContext, gaps: DataFrame, registry: Registry, version: str) -> DataFrame | None:
    """What one version says of these gaps; None where it does not state its forward error."""
    name = context.settings.model.name
    model = registry.verified_model(name, version=version)
    error = float(model.version.tags.get(FORWARD_ERROR_TAG, "nan"))
    if not error > 0:
        return None
    context.lake.inputs[f"model/{name}"] = int(version)
    predict = with_prediction(model, context.settings.energy.coverage_min_ratio)
    scored = _hours_with_load(context, gaps).transform(predict)
    share = F.col("gap_s") / SECONDS_PER_HOUR
    return (
        gaps.join(scored.select(*_NODE_HOUR, "predicted_kwh"), list(_NODE_HOUR), how="inner")
        .where(F.col("predicted_kwh") >= 0)
        .select(
            *_NODE_HOUR,
            (F.col("predicted_kwh") * share).alias("model_kwh"),
            (F.col("predicted_kwh") * share * F.lit(error)).alias("model_sigma_kwh"),
        )
    )


def _hours_with_load(context: StageContext, gaps: DataFrame) -> DataFrame:
    """Device-hours of these node-hours; a node that said nothing itself has its row from its components."""
    lake = context.lake
    intervals = lake.read(INTERVAL, context.days)
    keyed = intervals.withColumn("hour_start", F.date_trunc("hour", "interval_start"))
    own = keyed.join(gaps.select(*_NODE_HOUR), list(_NODE_HOUR), how="left_semi").drop("hour_start")
    stand_in = gaps.select(
        *_NODE_HOUR[:3], F.lit("node").alias("device_id"), F.col("hour_start").alias("interval_start"),
        F.to_date("hour_start").alias("date"), F.lit(int(SECONDS_PER_HOUR)).alias("interval_s"),
        F.lit(1).alias("multiplicity"), F.lit(0.0).alias("observed_s"), F.lit(True).alias("counts_in_total"),
    )  # fmt: skip
    rows = own.unionByName(stand_in, allowMissingColumns=True)
    hours = rows.transform(device_hours("node", lake.read_few(NODE)))
    loads = [F.col(name) for name in _LOADS if name in hours.columns]
    return hours.where(reduce(lambda a, b: a | b, (load.isNotNull() for load in loads)))
