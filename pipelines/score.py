"""silver/interval -> gold/prediction, gold/sensitivity, gold/model_shift: energy of device-hours, slopes and shifts.

A day that was scored before is scored again with the model version recorded for it, so a re-run gives the
same rows; a day that was not gets the champion.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

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
from lepton_etl.models.scoring import HISTORY, night, predictions, sensitivities, with_chain_rule
from lepton_etl.models.shift import REMEMBERED_DAYS
from lepton_etl.models.stored import VerifiedModel
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import MODEL_SHIFT, NODE_HOUR, PREDICTION, SENSITIVITY
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.types import arrow_schema
from pipelines.engine import InlineEngine
from pipelines.stage import StageContext, StageResult

_SHOWN: Final = 3


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
    remembered = Days(days.start - timedelta(days=REMEMBERED_DAYS), before.end)
    inputs = [
        _Inputs(
            part, beside(lake, INTERVAL, day_before, part), beside(lake, PREDICTION, before, part),
            beside(lake, NODE_HOUR, days, part), beside(lake, MODEL_SHIFT, remembered, part),
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
    shifts = pl.concat(one.shifts for one in made)
    tested = lake.replace(MODEL_SHIFT, days, shifts, allow_empty=True)
    note = f"{settings.name} version {', '.join(models)} scored {written.rows:,} {settings.device} hours"
    found = (written, answers, tested)
    return StageResult(rows.height, sum(one.rows for one in found), found, (note, *_shift_notes(shifts)))


def _shift_notes(rows: pl.DataFrame) -> list[str]:
    """Return what was found in these days, the farthest off first."""
    new = rows.filter(pl.col("shift_found") == pl.col("date"))
    words = {"more": "draws more than", "less": "draws less than", "spread": "is off more widely than"}
    told = [
        f"shift: {row['node_id']} {row['device_id']} {words[row['shift_kind']]} its model says since "
        f"{row['shift_since']}; its interval is widened from {row['date'] + timedelta(days=1)} on"
        for row in new.sort(pl.col("residual_level").abs(), descending=True).head(_SHOWN).to_dicts()
    ]
    more = new.height - len(told)
    return [*told, *([f"shift: {more:,} more devices, see gold/model_shift"] if more else [])]


@dataclass(frozen=True)
class _Inputs:
    """What a task reads of its nodes: intervals of the days and the day before, what was made before, node-hours."""

    intervals: NodePart
    day_before: NodePart
    predictions: NodePart
    node_hours: NodePart
    shifts: NodePart


@dataclass(frozen=True)
class _Scored:
    """Rows of gold/prediction, of gold/sensitivity and of gold/model_shift of a task's nodes."""

    predictions: pl.DataFrame
    sensitivities: pl.DataFrame
    shifts: pl.DataFrame


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
            return _Scored(_empty(PREDICTION), answers, _empty(MODEL_SHIFT))
        scored = pl.concat(
            predictions(rows, model, self.settings.coverage_min_ratio) for rows, model in by_day
        )
        history = inputs.predictions.read(HISTORY, pl.col("model_name") == name)
        known = inputs.shifts.read(MODEL_SHIFT.columns, pl.col("model_name") == name)
        rows, tested = night(scored, history, known)
        return _Scored(rows, answers, rows_of(MODEL_SHIFT, tested))

    def _sensitivities(
        self, hours: pl.DataFrame, by_day: list[tuple[pl.DataFrame, VerifiedModel]], node_hours: NodePart
    ) -> pl.DataFrame:
        """Rows of gold/sensitivity; the last hour of the day before serves the change into the first."""
        key = ["site_id", "cluster_id", "node_id", "hour_start"]
        listed = node_hours.read(key).with_columns(pl.lit("node").alias("device_id"))
        if self.settings.device != "node":
            listed = hours.filter(pl.col("date") >= self.days.start).select(listed.columns)
        found = [sensitivities(rows, model) for rows, model in by_day]
        answers = with_chain_rule(pl.concat(found), hours) if found else _empty(SENSITIVITY).drop("date")
        scored = pl.col("date").is_in(list(self.model_of))
        why_not = pl.when(scored).then(pl.lit("no_inputs")).otherwise(pl.lit("no_model"))
        return rows_of(
            SENSITIVITY,
            listed.with_columns(pl.col("hour_start").dt.date().alias("date"))
            .join(answers, on=KEYS, how="left")
            .with_columns(pl.coalesce("sensitivity_basis", why_not).alias("sensitivity_basis"))
            .sort(KEYS),
        )


def _empty(table: Table) -> pl.DataFrame:
    return pl.DataFrame(arrow_schema(table).empty_table())


def _versions(lake: Lake, days: Days, settings: ModelSettings, champion: str | None) -> dict[date, str]:
    """Day -> the model version that scores it: the recorded one where a day has one, else the champion's."""
    rows = lake.read(
        PREDICTION, days, columns=["date", "model_version"], where=pc.field("model_name") == settings.name
    )
    newest = rows.group_by("date").agg(pl.col("model_version").cast(pl.Int64).max().cast(pl.String))
    recorded: dict[date, str] = dict(newest.iter_rows())
    found = {day: recorded.get(day, champion) for day in days}
    return {day: version for day, version in found.items() if version is not None}
