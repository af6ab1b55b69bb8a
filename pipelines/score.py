"""silver/interval -> gold/prediction: the measured and the predicted energy of every device-hour of the days.

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
from lepton_etl.lake.node_parts import NodePart, beside, node_parts
from lepton_etl.lake.tables import Lake
from lepton_etl.models.device_hours import device_hours, interval_columns
from lepton_etl.models.recalibration import Recalibration
from lepton_etl.models.registry import Registry
from lepton_etl.models.scoring import predictions, recalibrated
from lepton_etl.models.stored import VerifiedModel
from lepton_etl.schema.energy import PREDICTION
from lepton_etl.schema.fleet import INTERVAL, NODE
from pipelines.engine import InlineEngine
from pipelines.stage import StageContext, StageResult

_DEVICE: tuple[str, ...] = ("site_id", "cluster_id", "node_id", "device_id")
# Of the days before, what a correction is learnt from.
_HISTORY: tuple[str, ...] = (
    *_DEVICE, "hour_start", "date", "energy_kwh", "predicted_kwh", "load_ratio", "model_name", "model_version",
)  # fmt: skip


def run(context: StageContext) -> StageResult:
    """Score the days of the run; no champion or no device-hours is a note, not a failure."""
    settings, lake, days = context.settings.model, context.lake, context.days
    registry = Registry.of(context.settings.mlflow)
    parts = node_parts(lake, INTERVAL, days, by_day=False)
    if not parts:
        return StageResult(notes=(f"not scored: no {settings.device} hours in {days}",))
    champion = registry.champion(settings.name)
    version_of = _versions(lake, days, settings, champion.version if champion else None)
    if not version_of:
        return StageResult(notes=(f"not scored: {settings.name} has no champion",))
    models = {v: registry.verified_model(settings.name, version=v) for v in sorted(set(version_of.values()))}
    work = _Score(settings, lake.read(NODE), {day: models[version] for day, version in version_of.items()})
    before = Days(days.start - timedelta(days=Recalibration().newest_days), days.start - timedelta(days=1))
    pairs = [(part, beside(lake, PREDICTION, before, part)) for part in parts]
    # This process has the model and scikit-learn by now; a task would import them for a single part.
    engine = context.engine if len(pairs) > 1 else InlineEngine()
    rows = pl.concat(engine.map(work, pairs))
    if rows.is_empty():
        return StageResult(notes=(f"not scored: no {settings.device} hours in {days}",))
    written = lake.replace(PREDICTION, days, rows)
    note = f"{settings.name} version {', '.join(models)} scored {written.rows:,} {settings.device} hours"
    return StageResult(rows_in=rows.height, rows_out=written.rows, written=(written,), notes=(note,))


@dataclass(frozen=True)
class _Score:
    """What a task does: the device-hours of its nodes, predicted by the model of their day and recalibrated.

    Its input are the intervals of the days and what was predicted in the days before.
    """

    settings: ModelSettings
    nodes: pl.DataFrame
    model_of: dict[date, VerifiedModel]

    def __call__(self, inputs: tuple[NodePart, NodePart]) -> pl.DataFrame:
        part, earlier = inputs
        device, name = self.settings.device, self.settings.name
        hours = device_hours(device, part.read(interval_columns(device)), self.nodes)
        scored = pl.concat(
            predictions(hours.filter(pl.col("date") == day), model, self.settings.coverage_min_ratio)
            for day, model in self.model_of.items()
        )
        history = earlier.read(_HISTORY, pl.col("model_name") == name)
        # In one time zone and unit, whichever engine wrote the history.
        same = scored.cast({name: history.schema[name] for name in _HISTORY})
        whole = pl.concat([history, same], how="diagonal").sort(*_DEVICE, "hour_start")
        first = min(self.model_of)
        return whole.with_columns(recalibrated(whole)).filter(pl.col("date") >= first)


def _versions(lake: Lake, days: Days, settings: ModelSettings, champion: str | None) -> dict[date, str]:
    """Day -> the model version that scores it: the recorded one where a day has one, else the champion's."""
    rows = lake.read(
        PREDICTION, days, columns=["date", "model_version"], where=pc.field("model_name") == settings.name
    )
    newest = rows.group_by("date").agg(pl.col("model_version").cast(pl.Int64).max().cast(pl.String))
    recorded: dict[date, str] = dict(newest.iter_rows())
    found = {day: recorded.get(day, champion) for day in days}
    return {day: version for day, version in found.items() if version is not None}
