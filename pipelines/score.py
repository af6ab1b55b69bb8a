"""silver/interval -> gold/prediction and gold/sensitivity: energy of every device-hour, predicted, and its slopes.

A day that was scored before is scored again with the model version recorded for it, so a re-run gives the
same rows; a day that was not gets the champion.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl
import pyarrow.compute as pc

from lepton_etl.config.sections import ModelSettings
from lepton_etl.days import Days
from lepton_etl.energy.exact_sums import rows_of
from lepton_etl.lake.node_parts import NodePart, beside, node_parts
from lepton_etl.lake.tables import Lake
from lepton_etl.models.device_hours import device_hours, interval_columns
from lepton_etl.models.features import KEYS
from lepton_etl.models.recalibration import Recalibration
from lepton_etl.models.registry import Registry
from lepton_etl.models.scoring import predictions, recalibrated, sensitivities, with_chain_rule
from lepton_etl.models.stored import VerifiedModel
from lepton_etl.schema.energy import NODE_HOUR, PREDICTION, SENSITIVITY
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.types import arrow_schema
from pipelines.engine import InlineEngine
from pipelines.stage import StageContext, StageResult

_DEVICE: tuple[str, ...] = ("site_id", "cluster_id", "node_id", "device_id")
# Of the days before, what a correction is learnt from.
_HISTORY: tuple[str, ...] = (
    *_DEVICE, "hour_start", "date", "energy_kwh", "predicted_kwh", "load_ratio", "model_name", "model_version",
)  # fmt: skip


def run(context: StageContext) -> StageResult:
    """Score the days of the run; no champion or no device-hours is a note, not a failure.

    Every node-hour has its row of gold/sensitivity, one that no model scores says so.
    """
    settings, lake, days = context.settings.model, context.lake, context.days
    registry = Registry.of(context.settings.mlflow)
    parts = node_parts(lake, INTERVAL, days, by_day=False)
    if not parts:
        return StageResult(notes=(f"not scored: no {settings.device} hours in {days}",))
    champion = registry.champion(settings.name)
    version_of = _versions(lake, days, settings, champion.version if champion else None)
    models = {v: registry.verified_model(settings.name, version=v) for v in sorted(set(version_of.values()))}
    work = _Score(
        settings, days, lake.read(NODE), {day: models[version] for day, version in version_of.items()}
    )
    before = Days(days.start - timedelta(days=Recalibration().newest_days), days.start - timedelta(days=1))
    day_before = Days.of(before.end)
    inputs = [
        _Inputs(
            part, beside(lake, INTERVAL, day_before, part), beside(lake, PREDICTION, before, part),
            beside(lake, NODE_HOUR, days, part),
        )
        for part in parts
    ]  # fmt: skip
    # This process has the model and scikit-learn by now; a task would import them for a single part.
    engine = context.engine if len(inputs) > 1 else InlineEngine()
    made = engine.map(work, inputs)
    answers = lake.replace(SENSITIVITY, days, pl.concat(one.sensitivities for one in made), allow_empty=True)
    rows = pl.concat(one.predictions for one in made)
    if rows.is_empty():
        why = f"no {settings.device} hours in {days}" if version_of else f"{settings.name} has no champion"
        return StageResult(rows_out=answers.rows, written=(answers,), notes=(f"not scored: {why}",))
    written = lake.replace(PREDICTION, days, rows)
    note = f"{settings.name} version {', '.join(models)} scored {written.rows:,} {settings.device} hours"
    return StageResult(rows.height, written.rows + answers.rows, (written, answers), (note,))


@dataclass(frozen=True)
class _Inputs:
    """What a task reads of its nodes: intervals of the days and of the day before, earlier predictions, node-hours."""

    intervals: NodePart
    day_before: NodePart
    predictions: NodePart
    node_hours: NodePart


@dataclass(frozen=True)
class _Scored:
    """Rows of gold/prediction and of gold/sensitivity of a task's nodes."""

    predictions: pl.DataFrame
    sensitivities: pl.DataFrame


@dataclass(frozen=True)
class _Score:
    """What a task does: the device-hours of its nodes, predicted by the model of their day and recalibrated.

    A day without a model is in no `model_of`.
    """

    settings: ModelSettings
    days: Days
    nodes: pl.DataFrame
    model_of: dict[date, VerifiedModel]

    def __call__(self, inputs: _Inputs) -> _Scored:
        device, name = self.settings.device, self.settings.name
        columns = interval_columns(device)
        last_hour = self.days.from_time - timedelta(hours=1)
        own = [
            inputs.intervals.read(columns),
            inputs.day_before.read(columns, pl.col("interval_start") >= last_hour),
        ]
        hours = device_hours(device, pl.concat(own), self.nodes)
        by_day = [(hours.filter(pl.col("date") == day), model) for day, model in self.model_of.items()]
        answers = self._sensitivities(hours, by_day, inputs.node_hours)
        if not by_day:
            return _Scored(pl.DataFrame(arrow_schema(PREDICTION).empty_table()), answers)
        scored = pl.concat(
            predictions(rows, model, self.settings.coverage_min_ratio) for rows, model in by_day
        )
        history = inputs.predictions.read(_HISTORY, pl.col("model_name") == name)
        # In one time zone and unit, whichever engine wrote the history.
        same = scored.cast({name: history.schema[name] for name in _HISTORY})
        whole = pl.concat([history, same], how="diagonal").sort(*_DEVICE, "hour_start")
        first = min(self.model_of)
        return _Scored(whole.with_columns(recalibrated(whole)).filter(pl.col("date") >= first), answers)

    def _sensitivities(
        self, hours: pl.DataFrame, by_day: list[tuple[pl.DataFrame, VerifiedModel]], node_hours: NodePart
    ) -> pl.DataFrame:
        """Rows of gold/sensitivity; the last hour of the day before serves the change into the first."""
        key = ["site_id", "cluster_id", "node_id", "hour_start"]
        listed = node_hours.read(key).with_columns(pl.lit("node").alias("device_id"))
        if self.settings.device != "node":
            listed = hours.filter(pl.col("date") >= self.days.start).select(listed.columns)
        found = [sensitivities(rows, model) for rows, model in by_day]
        empty = pl.DataFrame(arrow_schema(SENSITIVITY).empty_table())
        answers = with_chain_rule(pl.concat(found), hours) if found else empty.drop("date")
        scored = pl.col("date").is_in(list(self.model_of))
        why_not = pl.when(scored).then(pl.lit("no_inputs")).otherwise(pl.lit("no_model"))
        return rows_of(
            SENSITIVITY,
            listed.with_columns(pl.col("hour_start").dt.date().alias("date"))
            .join(answers, on=KEYS, how="left")
            .with_columns(pl.coalesce("sensitivity_basis", why_not).alias("sensitivity_basis"))
            .sort(KEYS),
        )


def _versions(lake: Lake, days: Days, settings: ModelSettings, champion: str | None) -> dict[date, str]:
    """Day -> the model version that scores it: the recorded one where a day has one, else the champion's."""
    rows = lake.read(
        PREDICTION, days, columns=["date", "model_version"], where=pc.field("model_name") == settings.name
    )
    newest = rows.group_by("date").agg(pl.col("model_version").cast(pl.Int64).max().cast(pl.String))
    recorded: dict[date, str] = dict(newest.iter_rows())
    found = {day: recorded.get(day, champion) for day in days}
    return {day: version for day, version in found.items() if version is not None}
