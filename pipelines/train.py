"""silver/interval -> a model of E = f(P, T, L), registered in MLflow with its cards; champion only through the gate.

Training is keyed by its table: the same device-hours under the same model settings register nothing.
"""

from __future__ import annotations

import json
from datetime import timedelta
from hashlib import sha256
from typing import Final

import pandas as pd
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.errors import ModelError
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.store import Lake
from lepton_etl.lake.tables import INTERVAL, NODE
from lepton_etl.models.cards import cards
from lepton_etl.models.device_hours import capped, covered, device_hours
from lepton_etl.models.drift import error_drift, input_drift
from lepton_etl.models.features import FEATURES, TARGET, feature_names
from lepton_etl.models.metrics import ALL_NODES, as_lines, errors, overall
from lepton_etl.models.registry import FORWARD_ERROR_TAG, Registry
from lepton_etl.models.settings import ModelSettings
from lepton_etl.models.training import MODEL, Trained, order_rows, table_sha256, train, training_key, why_not
from lepton_etl.models.verified import VerifiedModel, Version
from pipelines.stage import StageContext, StageResult

_MOST_NODES_SHOWN: Final = 8
_MOST_DRIFTS_SHOWN: Final = 3


def run(context: StageContext) -> StageResult:
    """Train on the device-hours up to the last day of the run; too few rows is a note, not a failure."""
    settings = context.settings.model
    hours = training_hours(context.lake, context.days, settings)
    reason = why_not(hours, settings)
    if reason is not None:
        return StageResult(rows_in=len(hours), notes=(f"not trained: {reason}",))
    mlflow = context.settings.mlflow
    registry = Registry(mlflow.tracking_uri, mlflow.artifact_location, mlflow.experiment)
    key = training_key(table_sha256(hours, settings.device), settings)
    known = registry.latest(settings.name, "training_key", key)
    if known is not None:
        note = f"{settings.name} version {known.version} was trained on this table: nothing registered"
        return StageResult(rows_in=len(hours), rows_out=0, notes=(note,))
    champion, notes = _present_champion(registry, settings)
    drift = _drift(hours, settings, champion)
    if champion is not None and not drift and _is_young(champion, settings, context.days):
        still = f"{settings.name} version {champion.version.version} is newer than {settings.retrain_after_days} days"
        return StageResult(
            rows_in=len(hours), rows_out=0, notes=(*notes, f"{still} and nothing has drifted: not trained")
        )
    trained = train(hours, settings, champion.predict if champion else None)
    trained = _not_older(trained, champion)
    tags = _tags(context, trained, key, settings)
    version = registry.register(
        settings.name,
        trained,
        FEATURES[settings.device],
        _params(settings),
        tags,
        cards(trained, settings, tags),
    )
    back = _rolled_back(registry, settings, hours, trained, champion)
    return StageResult(
        rows_in=len(hours),
        rows_out=trained.train_rows + trained.test_rows,
        notes=(*notes, _outcome(version, trained), *back, *drift, *_error_lines(trained)),
    )


def training_hours(lake: Lake, days: Days, settings: ModelSettings) -> pd.DataFrame:
    """Covered device-hours with target and features, in time order, at most `max_rows`, on the driver."""
    intervals = lake.read(INTERVAL).where(F.col("date") <= F.lit(days.end))
    if settings.train_days is not None:
        first = days.end - timedelta(days=settings.train_days - 1)
        intervals = intervals.where(F.col("date") >= F.lit(first))
    rows = (
        intervals.transform(device_hours(settings.device, lake.read_few(NODE)))
        .transform(covered(settings.coverage_min_ratio))
        .transform(capped(settings.max_rows))
    )
    hours = rows.toArrow().to_pandas()
    hours["hour_start"] = pd.to_datetime(hours["hour_start"], utc=True)
    return order_rows(hours)


def _present_champion(
    registry: Registry, settings: ModelSettings
) -> tuple[VerifiedModel | None, tuple[str, ...]]:
    """The champion to compare with; one that cannot be trusted or takes other columns is named, left out."""
    found = registry.champion(settings.name)
    if found is None:
        return None, ()
    try:
        champion = registry.verified_model(settings.name, version=found.version)
    except ModelError as error:
        return None, (f"champion version {found.version} not compared: {error}",)
    if not set(champion.feature_names) <= set(feature_names(settings.device)):
        return None, (f"champion version {found.version} not compared: it takes other features",)
    return champion, ()


def _drift(hours: pd.DataFrame, settings: ModelSettings, champion: VerifiedModel | None) -> tuple[str, ...]:
    """What has moved since the champion's test: its errors, and the inputs that moved most."""
    if champion is None:
        return ()
    tested = _tested_until(champion)
    newest, before = hours[hours["hour_start"] > tested], hours[hours["hour_start"] <= tested]
    if newest.empty or before.empty:
        return ()
    registered = float(champion.version.tags.get(FORWARD_ERROR_TAG, "nan"))
    found = [
        *error_drift(newest[TARGET].to_numpy(dtype=float), champion.predict(newest), registered),
        *input_drift(before, newest, settings.device),
    ]
    return tuple(f"drift: {one}" for one in found[:_MOST_DRIFTS_SHOWN])


def _is_young(champion: VerifiedModel, settings: ModelSettings, days: Days) -> bool:
    return 0 <= (days.end - _tested_until(champion).date()).days < settings.retrain_after_days


def _tested_until(champion: VerifiedModel) -> pd.Timestamp:
    return pd.Timestamp(champion.version.tags.get("test_until", "1970-01-01T00:00:00+00:00"))


def _rolled_back(
    registry: Registry,
    settings: ModelSettings,
    hours: pd.DataFrame,
    trained: Trained,
    champion: VerifiedModel | None,
) -> tuple[str, ...]:
    """Point the alias back where the champion misses the gates' limits on the newest days and its predecessor does not.

    A challenger that was promoted tonight has replaced it anyway.
    """
    if champion is None or trained.verdict.promoted:
        return ()
    test = hours[hours["hour_start"] >= trained.cut_time]
    measured = test[TARGET].to_numpy(dtype=float)

    def cv(model: VerifiedModel) -> float:
        return errors(measured, model.predict(test)).cv_rmse_ratio or float("inf")

    now, limit = cv(champion), settings.gates.cv_rmse_max_ratio
    if now <= limit:
        return ()
    earlier = [
        one for one in registry.versions(settings.name)
        if one.tags.get("promotion") == "promoted" and int(one.version) < int(champion.version.version)
    ]  # fmt: skip
    for one in sorted(earlier, key=lambda one: -int(one.version)):
        try:
            before = cv(registry.verified_model(settings.name, version=one.version))
        except ModelError:
            continue
        if before <= limit:
            reason = f"CV(RMSE) {now:.1%} on the newest days, version {one.version} has {before:.1%}"
            registry.roll_back(settings.name, one.version, reason)
            return (f"rolled back to version {one.version}: {reason}",)
    return (f"the champion's CV(RMSE) is {now:.1%} on the newest days, and no earlier version does better",)


def _not_older(trained: Trained, champion: VerifiedModel | None) -> Trained:
    """A back-fill of an old day must not replace a champion that was trained up to a later day."""
    cut = champion.version.tags.get("cut_time") if champion else None
    if cut is None or trained.cut_time.isoformat() >= cut:
        return trained
    return trained.refused(f"trained up to {trained.cut_time:%Y-%m-%d}, the champion up to {cut[:10]}")


def _error_lines(trained: Trained) -> list[str]:
    """The errors for the operator: by node of a small fleet, else over all; errors.txt of the run has every node."""
    nodes = {row.node_id for row in trained.errors}
    shown = (
        trained.errors
        if len(nodes) <= _MOST_NODES_SHOWN
        else [row for row in trained.errors if row.node_id == ALL_NODES]
    )
    return as_lines(shown)


def _params(settings: ModelSettings) -> dict[str, object]:
    plain = settings.model_dump(exclude={"gates"})
    return plain | {f"gates.{name}": value for name, value in settings.gates.model_dump().items()}


def _tags(context: StageContext, trained: Trained, key: str, settings: ModelSettings) -> dict[str, str]:
    sources = {table.name: context.lake.version(table) for table in (INTERVAL, NODE)}
    # The URI names the lake for people of this site; in the registry its hash is enough to tell lakes apart.
    lake = sha256(str(context.lake.root).encode()).hexdigest()[:12]
    return {
        "training_key": key,
        "training_table_sha256": trained.table_sha256,
        "delta_versions": json.dumps(sources, sort_keys=True),
        "lake": lake,
        "code_version": code_version(),
        "run_id": context.run_id,
        "device": settings.device,
        "chosen": trained.selected.choice.name,
        "train_from": trained.train_from.isoformat(),
        "cut_time": trained.cut_time.isoformat(),
        "test_until": trained.test_until.isoformat(),
        "training_cpu_s": f"{trained.cpu_s:.2f}",
    } | _forward_error(trained)


def _forward_error(trained: Trained) -> dict[str, str]:
    """The model's error over all nodes and hours of the forward test, where it is known."""
    found = overall(trained.errors, MODEL).cv_rmse_ratio
    return {} if found is None else {FORWARD_ERROR_TAG: f"{found:.6f}"}


def _outcome(version: Version, trained: Trained) -> str:
    decided = "is champion" if trained.verdict.promoted else f"refused: {trained.verdict.reason}"
    chosen = trained.selected.choice.name
    return (
        f"{version.name} version {version.version} {decided}; {chosen}, {trained.train_rows:,} hours before "
        f"{trained.cut_time:%Y-%m-%d}, tested on {trained.test_rows:,} after, {trained.cpu_s:.1f} CPU-s"
    )
