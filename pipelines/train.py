"""Train a model of E = f(P, T, L) on silver/interval and register it in MLflow with its cards.

A model becomes champion only through the gate. Training is keyed by its table: the same device-hours under
the same model settings register nothing. The pooled model is taught on the driver, from a sample with a
stated rule; the classes' own in tasks, one a class. The overhead model of each site (gold/facility_fit) is
registered with card, gate and hash like the device model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import partial
from hashlib import sha256
from typing import Any, Final

import numpy as np
import pandas as pd
import polars as pl
import structlog

from lepton_etl.config.sections import ModelSettings
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import ModelError
from lepton_etl.facility.fit import FacilityFit
from lepton_etl.facility.stored_fit import COLUMNS, WET_BULB, Q, estimator, fit_of
from lepton_etl.facility.stored_fit import TARGET as OVERHEAD
from lepton_etl.lake.location import Location
from lepton_etl.lake.node_parts import LEAST_ROWS, NodePart, node_parts, rows_of
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.tables import Lake, Written
from lepton_etl.models.cards import Cards, cards
from lepton_etl.models.classes import ClassFit, ClassTask, fit_class
from lepton_etl.models.device_hours import capped, capped_by_class, covered, device_hours, interval_columns
from lepton_etl.models.drift import ERROR_GROWTH_MAX, drift_since, is_young, knows_nearly_all
from lepton_etl.models.export_onnx import Exported, export
from lepton_etl.models.features import FEATURES, feature_names
from lepton_etl.models.fit import (
    MODEL,
    RECIPE_TAG,
    Incumbent,
    Trained,
    class_task,
    order_rows,
    table_sha256,
    train,
    training_key,
    why_not,
)
from lepton_etl.models.metrics import ALL_NODES, as_lines, overall
from lepton_etl.models.parity import with_sole_tenants
from lepton_etl.models.promotion import Release, Verdict
from lepton_etl.models.registry import Registry, back_to_better, facility_model, import_learning
from lepton_etl.models.select import split_forward
from lepton_etl.models.stored import FORWARD_ERROR_TAG, FittedModel, VerifiedModel, Version
from lepton_etl.schema.facility import FACILITY_FIT
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.jobs import JOB_NODE
from lepton_etl.trust.champions import Champions
from pipelines.engine import Engine, InlineEngine
from pipelines.stage import Ahead, StageContext, StageResult, worthy

_CHECKED_ROWS = 256
_HOURS_PER_DAY: Final = 24
# Of all classes: fits of these take less than importing scikit-learn in a task.
_FEW_ROWS: Final = 2_000
# Of all classes: what one process has learnt before gold is done, or soon after.
_ROWS_ASIDE: Final = 20_000
# Of intervals: what one process reads in seconds.
_READ_ASIDE: Final = 5_000_000


def register_fits(context: StageContext, registry: Registry) -> tuple[tuple[str, ...], tuple[Written, ...]]:
    """Register the fit of the run's last day of each site, unless it is registered already.

    Returns what was done, in words, and the versions that are champion now.
    """
    rows = context.lake.read(FACILITY_FIT, Days.of(context.days.end)).to_dicts()
    done = [_registered(context, registry, row) for row in sorted(rows, key=lambda row: row["site_id"])]
    return tuple(words for words, _ in done), tuple(one for _, of_site in done for one in of_site)


def champion_made(version: Version, verdict: Verdict, rows: int) -> tuple[Written, ...]:
    """Return a model's version as what a stage wrote, where it was made champion."""
    number = int(version.version)
    return (Written(f"model/{version.name}", rows, number, changed=True),) if verdict.promoted else ()


def _registered(
    context: StageContext, registry: Registry, row: Mapping[str, Any]
) -> tuple[str, tuple[Written, ...]]:
    name = facility_model(row["site_id"])
    key = sha256(f"{row['code_sha256']}\n{row['parameters_json']}".encode()).hexdigest()
    known = registry.latest(name, "training_key", key)
    if known is not None:
        return f"{name} version {known.version} is this fit: nothing registered", ()
    champion = registry.champion(name)
    if champion is not None and errs_as_then(champion, row, context.settings.model.retrain_after_days):
        return f"{name} version {champion.version} is young and errs as when fitted: nothing registered", ()
    reasons = [] if row["accepted"] else [row["fit_reason"] or "not accepted"]
    if champion is not None and champion.tags.get("fitted_until", "") > row["fitted_until"].isoformat():
        reasons.append(
            f"fitted until {row['fitted_until']}, the champion until {champion.tags['fitted_until']}"
        )
    verdict = Verdict(not reasons, tuple(reasons))
    version = registry.release(name, _release(context, row, key, verdict))
    decided = f"refused: {'; '.join(reasons)}" if reasons else "is champion"
    words = f"{name} version {version.version} {decided}; {row['fit_kind']}, {row['fit_hours']:,} hours"
    return words, champion_made(version, verdict, row["fit_hours"])


def errs_as_then(champion: Version, row: Mapping[str, Any], young_days: int) -> bool:
    """Whether the champion is young and a later fit is of its form, accepted too, and errs at most as drift allows.

    Each night's own fit stands in gold/facility_fit; a version a week is what a registry's consumer needs, and an
    export takes seconds. A young site registers every night.
    """
    then, error = champion.tags.get("fitted_until"), row["cv_rmse_ratio"]
    if then is None:
        return False
    registered = float(champion.tags.get(FORWARD_ERROR_TAG, "nan"))
    age_days = (row["fitted_until"] - date.fromisoformat(then)).days
    return (
        row["accepted"]
        and champion.tags.get("chosen") == row["fit_kind"]
        and knows_nearly_all(age_days, young_days, age_days * _HOURS_PER_DAY / row["fit_hours"])
        and (error is None or error <= ERROR_GROWTH_MAX * registered)
    )


def _release(context: StageContext, row: Mapping[str, Any], key: str, verdict: Verdict) -> Release:
    fit, _ = fit_of(row)
    model = FittedModel(estimator(fit), COLUMNS)
    rows = _rows(fit, row)
    # Nobody takes a refused fit elsewhere, and the converter takes seconds.
    graph = export(model, rows) if verdict.promoted else Exported(None, "the fit is refused")
    return Release(
        estimator=model.pipeline,
        example=rows.head(5),
        columns=COLUMNS,
        target=OVERHEAD,
        params={name: row[name] for name in ("site_id", "fit_kind", "fit_hours", "test_hours")},
        tags=_facility_model_tags(context, row, key)
        | {"onnx": "exported" if graph.data is not None else graph.reason},
        metrics={
            name: row[name]
            for name in ("cv_rmse_ratio", "nmbe_ratio", "it_share_cv_rmse_ratio", "last_week_cv_rmse_ratio")
            if row[name] is not None
        },
        verdict=verdict,
        texts={"model_card.md": _card(row, fit, verdict, graph)},
        tables={"parameters.json": json.loads(row["parameters_json"])},
        onnx=graph.data,
    )


def _facility_model_tags(context: StageContext, row: Mapping[str, Any], key: str) -> dict[str, str]:
    error = row["cv_rmse_ratio"]
    return {
        "training_key": key,
        "delta_versions": json.dumps({FACILITY_FIT.name: context.lake.version(FACILITY_FIT)}),
        "code_version": code_version(),
        "run_id": context.run_id,
        "chosen": row["fit_kind"],
        "fitted_until": row["fitted_until"].isoformat(),
        "cut_time": row["fitted_until"].isoformat(),
    } | ({} if error is None else {FORWARD_ERROR_TAG: f"{error:.6f}"})


def _rows(fit: FacilityFit, row: Mapping[str, Any]) -> pd.DataFrame:
    """Hours in the range that the fit has seen: an example of the inputs, and what an export is compared on."""
    rng = np.random.default_rng(1)
    low_c, high_c = row["wet_bulb_p05_c"] or 0.0, row["wet_bulb_p95_c"] or 20.0
    return pd.DataFrame(
        {
            Q: fit.mean_it_kwh * rng.uniform(0.5, 1.5, _CHECKED_ROWS),
            WET_BULB: rng.uniform(low_c, high_c, _CHECKED_ROWS),
        }
    )


def _card(row: Mapping[str, Any], fit: FacilityFit, verdict: Verdict, graph: Exported) -> str:
    def percent(name: str) -> str:
        return "unknown" if row[name] is None else f"{row[name]:.1%}"

    ratio = row["cooling_ratio"]
    parts = (
        "cooling and conversion are not metered apart: one overhead"
        if fit.management_kwh is None
        else f"of which management {fit.management_kwh:.3f} kWh an hour; E_c / IT {ratio:.3f} at the mean hour"
    )
    decided = "champion" if verdict.promoted else f"refused: {verdict.reason}"
    exported = graph.reason or f"ONNX in float32, checked on {graph.rows} rows"
    return "\n".join(
        (
            f"# Overhead of site {row['site_id']}: cooling and management energy of one hour, kWh",
            "",
            f"- Decision: {decided}",
            f"- Form: {row['fit_kind']}, {parts}",
            f"- Fitted on {row['fit_hours']:,} hours from {row['fitted_from']} to {row['fitted_until']}; tested "
            f"forward on the last {row['test_hours']:,} of them, then fitted again on all",
            f"- Forward test: CV(RMSE) {percent('cv_rmse_ratio')}, NMBE {percent('nmbe_ratio')}; of the guesses by "
            f"IT share {percent('it_share_cv_rmse_ratio')}, by the hour a week before "
            f"{percent('last_week_cv_rmse_ratio')}",
            "- PUE of an hour by this model: 1 + overhead / IT energy, conversion losses apart where they are metered",
            f"- Identifiable: {'yes' if row['identifiable'] else 'no'}; wet bulbs seen {row['wet_bulb_p05_c']} to "
            f"{row['wet_bulb_p95_c']} degC (5th to 95th percentile)",
            f"- Intervals of its parameters (90 %): {row['intervals_json']}",
            f"- Export: {exported}",
            "- Not for: another site, a set point that was not in use, hours beyond the wet bulbs seen.",
            "",
        )
    )  # fmt: skip


_MOST_NODES_SHOWN: Final = 8
_MOST_DRIFTS_SHOWN: Final = 3


@dataclass(frozen=True)
class Learning:
    """All that the learning of a night takes, without the lake and the registry: a process aside can do it."""

    table: TrainingTable
    settings: ModelSettings
    champion: VerifiedModel | None
    tags: Mapping[str, str]
    engine: Engine = field(default_factory=InlineEngine)

    def __call__(self) -> Learned:
        trained = learn(self.table, self.settings, self.engine, self.champion)
        tags = dict(self.tags) | _result_tags(trained)
        return Learned(trained, tags, cards(trained, self.settings, tags))


@dataclass(frozen=True)
class Learned:
    """What is registered."""

    trained: Trained
    tags: Mapping[str, str]
    cards: Cards


@dataclass(frozen=True)
class Registered:
    """What the registry says before the night learns: the champion, and the newest version by its training key."""

    champion: VerifiedModel | None
    notes: tuple[str, ...]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, registry: Registry, settings: ModelSettings) -> Registered:
        """Raises RegistryError where the registry does not answer."""
        versions = sorted(registry.versions(settings.name), key=lambda one: int(one.version))
        champion, notes = _present_champion(registry, settings)
        return cls(champion, notes, {one.tags.get("training_key", ""): one.version for one in versions})


@dataclass(frozen=True)
class Begun:
    """What is to be learnt, or why nothing is, and the versions of the tables read for it.

    `learned` is None of a table of so many rows that the stage teaches its classes in tasks.
    """

    found: tuple[Learning, tuple[str, ...]] | StageResult
    inputs: Mapping[str, int]
    learned: Learned | None = None


@dataclass(frozen=True)
class _Beginning:
    """All of the learning that needs no registry any more, by whoever can reach the lake."""

    root: Location
    settings: Settings
    days: Days
    run_id: str
    registered: Registered

    def __call__(self) -> Begun:
        lake = Lake(self.root)
        context = StageContext(lake, self.settings, self.days, self.run_id, structlog.get_logger("train"))
        found = _learning(context, lambda: self.registered)
        begun = Begun(found, lake.inputs)
        if isinstance(found, StageResult) or len(found[0].table.of_classes) > _ROWS_ASIDE:
            return begun
        return replace(begun, learned=found[0]())


def begin(context: StageContext) -> Callable[[], Begun] | None:
    """Begin the learning aside, when silver is judged; None where there is no process for it, or too much to read.

    Nothing of gold is learnt from: `run`, at its turn, registers what was learnt meanwhile.
    """
    settings, lake, engine = context.settings, context.lake, context.engine
    if not engine.has_aside:
        return None
    try:
        rows = rows_of(_parts(context, settings.model))
        if rows > _READ_ASIDE:
            return None
        # Imported there while a small table is read here.
        engine.aside(import_learning)
        registered = Registered.of(Registry.of(settings.mlflow), settings.model)
        if rows > LEAST_ROWS:
            return engine.aside(_Beginning(lake.root, settings, context.days, context.run_id, registered))
        lake.forget_inputs()
        begun = Begun(_learning(context, lambda: registered), dict(lake.inputs))
    except Exception:
        # No figure needs a model: the stage meets it again, and says it, when the figures are out.
        return None
    if isinstance(begun.found, StageResult):
        return lambda: begun
    learned = engine.aside(begun.found[0])
    return lambda: replace(begun, learned=learned())


def run(context: StageContext) -> StageResult:
    """The device model and the facility's of each site; too few rows is a note, not a failure."""
    registry = Registry.of(context.settings.mlflow)
    beside = context.lake.saying(context.lake.metadata)
    # What the chain reads is no input of a model.
    beside.inputs = {}
    champions = Champions(beside, context.settings.audit, context.run_id, registry)
    registry.announce = champions.announce
    own = (context.settings.model.name, facility_model(context.settings.site.site_id))
    settled = champions.settle(own)
    if settled:
        # What was begun met a champion that may be none any more.
        context = replace(context, ahead=Ahead())
    done = _device_model(context, registry)
    fits, promoted = register_fits(context, registry)
    return replace(done, notes=(*settled, *done.notes, *fits), written=(*done.written, *promoted))


def _device_model(context: StageContext, registry: Registry) -> StageResult:
    """Train on the device-hours up to the last day of the run, or take what was begun, and register it."""
    settings, ahead = context.settings.model, context.ahead.learning
    begun = ahead() if ahead else Begun(_learning(context, partial(Registered.of, registry, settings)), {})
    context.lake.inputs |= begun.inputs
    if isinstance(begun.found, StageResult):
        return begun.found
    learning, notes = begun.found
    learned = begun.learned or replace(learning, engine=context.engine)()
    trained, champion = learned.trained, learning.champion
    version = registry.register(
        settings.name, trained, FEATURES[settings.device], _params(settings), learned.tags, learned.cards
    )
    back: tuple[str, ...] = ()
    if champion is not None and trained.met_from is not None:
        hours = learning.table.hours
        newest = hours[hours["hour_start"] >= trained.met_from]
        back = back_to_better(registry, champion, newest, trained, settings.gates)
    return StageResult(
        rows_in=len(learning.table.hours),
        rows_out=trained.train_rows + trained.test_rows,
        written=champion_made(version, trained.verdict, trained.train_rows),
        notes=(_outcome(version, trained), *notes, *back, *_error_lines(trained)),
    )


def _learning(
    context: StageContext, ask: Callable[[], Registered]
) -> tuple[Learning, tuple[str, ...]] | StageResult:
    """What is to be learnt, and notes; or the result of the stage where nothing is."""
    settings = context.settings.model
    table = TrainingTable.of(training_hours(context, settings), settings)
    hours = table.hours
    reason = why_not(hours, settings)
    if reason is not None:
        return StageResult(rows_in=len(hours), notes=(f"not trained: {reason}",))
    key = training_key(table_sha256(hours, settings.device) + _beyond(table, settings), settings)
    registered = ask()
    known = registered.versions.get(key)
    if known is not None:
        note = f"{settings.name} version {known} was trained on this table: nothing registered"
        return StageResult(rows_in=len(hours), notes=(note,))
    champion, notes = registered.champion, registered.notes
    moved = drift_since(champion, hours, settings.device) if champion is not None else []
    notes += tuple(f"drift: {one}" for one in moved[:_MOST_DRIFTS_SHOWN])
    if (
        champion is not None
        and not any(one.is_error for one in moved)
        and is_young(champion, hours, context.days.end, settings.retrain_after_days)
    ):
        still = f"{settings.name} version {champion.version.version} is newer than {settings.retrain_after_days} days"
        return StageResult(
            rows_in=len(hours), notes=(f"{still} and errs as when tested: not trained", *notes)
        )
    # Errors are told by tenant too, where a tenant had the device alone.
    table = replace(table, hours=with_sole_tenants(hours, _held(context, hours, settings)))
    return Learning(table, settings, champion, _tags(context, key, settings)), notes


def training_hours(context: StageContext, settings: ModelSettings) -> pl.DataFrame:
    """Covered device-hours up to the last day of the run, at most `max_rows` and `class_max_rows` of each class.

    Each task makes those of its nodes; a task keeps no more rows than could be chosen.
    """
    work = _Hours(settings, context.lake.read(NODE))
    parts = _parts(context, settings)
    found = worthy(context.engine, rows_of(parts)).map(work, parts)
    return pl.concat(found) if found else pl.DataFrame()


def _parts(context: StageContext, settings: ModelSettings) -> list[NodePart]:
    """The intervals that are learnt from."""
    days = context.days
    first = days.start if settings.train_days is None else days.end - timedelta(days=settings.train_days - 1)
    if settings.train_days is None:
        made = [day for day in _made_days(context.lake) if day <= days.end]
        first = min(made, default=first)
    return node_parts(context.lake, INTERVAL, Days(first, days.end))


def _held(context: StageContext, hours: pd.DataFrame, settings: ModelSettings) -> pl.DataFrame:
    """What runs held of nodes on the days of the forward test, of whose hours the tenants are asked for."""
    split = split_forward(hours, settings.test_ratio, settings.embargo_hours)
    assert split is not None  # `why_not` had nothing against it
    columns = ["site_id", "cluster_id", "node_id", "tenant_id", "from_time", "to_time"]
    return context.lake.read(JOB_NODE, Days(split.cut_time.date(), context.days.end), columns=columns)


@dataclass(frozen=True)
class _Hours:
    """What a task does: the covered device-hours of its nodes."""

    settings: ModelSettings
    nodes: pl.DataFrame

    def __call__(self, part: NodePart) -> pl.DataFrame:
        device = self.settings.device
        hours = device_hours(device, part.read(interval_columns(device)), self.nodes)
        return covered(hours, self.settings.coverage_min_ratio)


def _made_days(lake: Lake) -> list[date]:
    return [date.fromisoformat(day) for day in lake.partitions(INTERVAL)]


@dataclass(frozen=True)
class TrainingTable:
    """Device-hours in time order for the model of all classes, and those that the classes' own learn from."""

    hours: pd.DataFrame
    of_classes: pl.DataFrame

    @classmethod
    def of(cls, every: pl.DataFrame, settings: ModelSettings) -> TrainingTable:
        """Take the stated sample of covered device-hours."""
        if every.is_empty():
            return cls(pd.DataFrame(), every)
        return cls(
            as_ordered(capped(every, settings.max_rows)), capped_by_class(every, settings.class_max_rows)
        )


def learn(
    table: TrainingTable, settings: ModelSettings, engine: Engine, champion: VerifiedModel | None
) -> Trained:
    """Choose, judge and fit on a table that `why_not` has nothing against, beside the present champion."""
    incumbent = Incumbent.of(champion) if champion else None
    task = class_task(table.hours, settings, incumbent)
    fits = taught(table.of_classes, task, engine) if table.hours["hardware_class"].nunique() > 1 else []
    return _not_older(train(table.hours, settings, incumbent, fits), champion)


def taught(hours: pl.DataFrame, task: ClassTask, engine: Engine) -> list[ClassFit]:
    """A model of each class that has enough rows, one class a task; classes of few rows here, where all is imported."""
    classes = [as_ordered(rows) for _, rows in hours.group_by("hardware_class", maintain_order=True)]
    engine = engine if hours.height > _FEW_ROWS else InlineEngine()
    fits = engine.map(_Teach(task), classes)
    return sorted((fit for fit in fits if fit is not None), key=lambda one: one.hardware_class)


@dataclass(frozen=True)
class _Teach:
    task: ClassTask

    def __call__(self, hours: pd.DataFrame) -> ClassFit | None:
        return fit_class(hours, self.task)


def as_ordered(rows: pl.DataFrame) -> pd.DataFrame:
    """Device-hours as training takes them: in time order, stamps in UTC."""
    hours: pd.DataFrame = rows.to_pandas()
    hours["hour_start"] = pd.to_datetime(hours["hour_start"], utc=True)
    return order_rows(hours)


def _beyond(table: TrainingTable, settings: ModelSettings) -> str:
    """What the classes learn from beyond the rows of the pooled model, as text; nothing where these are all rows."""
    if len(table.hours) < settings.max_rows:
        return ""
    return table_sha256(as_ordered(table.of_classes), settings.device)


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


def _tags(context: StageContext, key: str, settings: ModelSettings) -> dict[str, str]:
    sources = {table.name: context.lake.version(table) for table in (INTERVAL, NODE)}
    # The URI names the lake for people of this site; in the registry its hash is enough to tell lakes apart.
    lake = sha256(str(context.lake.root).encode()).hexdigest()[:12]
    return {
        "training_key": key,
        "delta_versions": json.dumps(sources, sort_keys=True),
        "lake": lake,
        "code_version": code_version(),
        "run_id": context.run_id,
        "device": settings.device,
    }


def _result_tags(trained: Trained) -> dict[str, str]:
    return {
        "training_table_sha256": trained.table_sha256,
        "chosen": trained.name,
        RECIPE_TAG: trained.recipe_text,
        "train_from": trained.train_from.isoformat(),
        "cut_time": trained.cut_time.isoformat(),
        "test_until": trained.test_until.isoformat(),
        # The last hour that the stored model has learnt: what it says of later ones alone counts for or against it.
        "fitted_until": trained.test_until.isoformat(),
        "training_cpu_s": f"{trained.cpu_s:.2f}",
    } | _forward_error(trained)


def _forward_error(trained: Trained) -> dict[str, str]:
    """The model's error over all nodes and hours of the forward test, where it is known."""
    found = overall(trained.errors, MODEL).cv_rmse_ratio
    return {} if found is None else {FORWARD_ERROR_TAG: f"{found:.6f}"}


def _outcome(version: Version, trained: Trained) -> str:
    return (
        f"{version.name} version {version.version} {trained.decision}; {trained.name}, {trained.train_rows:,} hours "
        f"before {trained.cut_time:%Y-%m-%d}, tested on {trained.test_rows:,} after, fitted on all, "
        f"{trained.cpu_s:.1f} CPU-s"
    )
