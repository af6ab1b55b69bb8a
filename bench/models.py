"""Do the models hold in months and on machines that they have not seen? The product's own stages on real GPU servers.

    python -m bench.models [--data FOLDER] [--inventory FILE] [--report 6] [--every 1] [--train-days N]

The logs go through the stages bronze and silver into a lake, and from there through the functions of the stages train
and score: at the end of each month the stage's training learns from all that was known, meets the champion and passes
or fails the gate; the champion predicts the next month, and the night recalibrates it to the day before. No model is
made here. Then each server is predicted by a model of all the others. `--data` and `--inventory` take other servers
that log in the same format.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import structlog
import yaml
from rich.console import Console
from rich.table import Table

from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from lepton_etl.config.sections import ModelSettings
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.models.features import FEATURES, TARGET, described, feature_names
from lepton_etl.models.fit import MODEL, RECIPE_TAG, Trained, why_not
from lepton_etl.models.metrics import Errors, errors, overall
from lepton_etl.models.registry import with_limits
from lepton_etl.models.scoring import HISTORY, night, predictions
from lepton_etl.models.stored import VerifiedModel, Version
from lepton_etl.schema.energy import MODEL_SHIFT, PREDICTION
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.types import arrow_schema
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from pipelines.stage import StageContext
from pipelines.train import TrainingTable, learn, training_hours

SETTINGS: Final = Path("conf/examples/biohpc.yaml")
# CV(RMSE) in percent by month and nightly.
TARGETS: Final = {"cbsugpu05": (14.0, 11.0), "cbsugpu06": (15.0, 11.0), "cbsugpu08": (7.2, 5.5)}
NMBE_PCT: Final = 1.5
LEFT_OUT_PCT: Final = 25.0
HELD_PCT: Final = (87.0, 93.0)
# Hours of a quarter that say something of its intervals.
_QUARTER_HOURS: Final = 24 * 14
# Bronze takes every file that it finds, whatever the day of its run.
_ANY_DAY: Final = date(2025, 1, 1)
_MONTH: Final = pl.col("hour_start").dt.month_start().dt.date()
# Column of gold/prediction by what it is: the champion's, the night's; and the new choice's whatever the gate said.
_KINDS: Final = {"month": "predicted_kwh", "nightly": "recalibrated_kwh", "month_no_gate": "newest_kwh"}


def main() -> None:
    """Print what was measured, write var/bench/models.json; exit 1 where a target is missed."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, default=REAL / "biohpc-gpu-servers", help="folder of exports")
    options.add_argument("--inventory", type=Path, default=SETTINGS.with_name("biohpc-inventory.csv"))
    options.add_argument("--settings", type=Path, default=SETTINGS, help="whose source and model are taken")
    options.add_argument("--report", type=int, default=6, help="months of a server before its first reported")
    options.add_argument("--every", type=int, default=1, help="months from one training to the next")
    options.add_argument("--train-days", type=int, help="instead of model.train_days of the settings")
    asked = options.parse_args()
    started = time.perf_counter()
    every, settings = device_hours_of(asked.data, asked.inventory, asked.settings)
    if asked.train_days:
        settings = settings.model_copy(update={"train_days": asked.train_days})
    found = left_out(every, settings) + by_month(every, settings, asked.report, asked.every)
    print_figures("targets", [one for one in found if one.target])
    missed = [one.name for one in found if one.ok is False]
    print(f"{len(found)} figures in {write('models', found)}, {time.perf_counter() - started:.0f} s")
    print(f"not reached: {', '.join(missed) or 'none'}")
    sys.exit(1 if missed else 0)


def device_hours_of(data: Path, inventory: Path, settings_file: Path) -> tuple[pl.DataFrame, ModelSettings]:
    """Return what the stage train sees of these logs, by bronze, silver and its own reading of them.

    Raises SystemExit where the folder holds no export or a stage refuses it.
    """
    pattern = data.resolve() / "*_usage_stats.txt*"
    if not list(data.glob(pattern.name)):
        raise SystemExit(f"bench: no {pattern.name} in {data}; give --data, or set LEPTON_REAL_DATA")
    raw: dict[str, Any] = yaml.safe_load(settings_file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="lepton-models-") as folder:
        raw |= {
            "lake": {"root": f"{folder}/lake"},
            "quality": {"docs": f"{folder}/quality"},
            "report": {"folder": f"{folder}/report"},
            "fleet": {"inventory": str(inventory.resolve())},
        }
        raw["sources"][0]["path"] = str(pattern)
        file = Path(folder) / "site.yaml"
        file.write_text(yaml.safe_dump(raw), encoding="utf-8")
        settings, engine = load(file), InlineEngine()
        _run(engine, settings, Days.of(_ANY_DAY), "bronze")
        lake = Lake(settings.lake.root)
        ends = pl.col("first_reading_time").min(), pl.col("last_reading_time").max()
        whole = Days(*(stamp.date() for stamp in lake.read(FILE).select(*ends).row(0)))
        _run(engine, settings, whole, "silver")
        context = StageContext(lake, settings, whole, "bench", structlog.get_logger(), engine)
        return training_hours(context, settings.model.model_copy(update={"train_days": None})), settings.model


def _run(engine: InlineEngine, settings: Settings, days: Days, stage: str) -> None:
    done = run_night(engine, settings, days, stage)
    if done.exit_code != Exit.DONE:
        raise SystemExit(f"bench: {stage}: {done.message}")


@dataclass(frozen=True)
class Training:
    """What a month's training showed: errors on its training hours and after them, what it cost, the verdict."""

    month: date
    taught_cv_pct: float
    ahead_cv_pct: float
    energy_j: float
    million_j: float
    million_means_j: float
    reason: str
    refused_choice: str

    @property
    def promoted(self) -> bool:
        return not self.reason

    @property
    def gap(self) -> float:
        return self.ahead_cv_pct - self.taught_cv_pct


def months_of(
    every: pl.DataFrame, settings: ModelSettings, months: int
) -> Iterator[tuple[Training, pl.DataFrame | None]]:
    """Train after so many months as the stage does; yield that and the months until the next, by the champion."""
    champion: VerifiedModel | None = None
    firsts = every.select(_MONTH.unique().sort()).to_series().to_list()
    for number in range(1, len(firsts), months):
        first, ahead = firsts[number], firsts[number : number + months]
        table = TrainingTable.of(known_hours(every, first, settings), settings)
        if why_not(table.hours, settings) is not None:
            continue
        trained = learn(table, settings, InlineEngine(), champion)
        newest = stored_model(trained, number, settings)
        champion = newest if trained.verdict.promoted else champion
        training = _shown(first, trained, champion)
        if champion is None:
            yield training, None
            continue
        here = every.filter(_MONTH.is_in(ahead))
        refused = trained.refused_choice
        new = newest if refused is None else replace(newest, pipeline=refused.mean)
        newest_kwh = np.maximum(new.predict(here.select(new.feature_names).to_pandas()), 0.0)
        scored = predictions(here, champion, settings.coverage_min_ratio)
        yield training, scored.with_columns(pl.Series("newest_kwh", newest_kwh))


def known_hours(every: pl.DataFrame, first: date, settings: ModelSettings) -> pl.DataFrame:
    """Return the hours until the day before, as far back as the settings look."""
    end = datetime(first.year, first.month, first.day, tzinfo=UTC)
    known = every.filter(pl.col("hour_start") < end)
    if settings.train_days is None:
        return known
    return known.filter(pl.col("hour_start") >= end - timedelta(days=settings.train_days))


def stored_model(trained: Trained, number: int, settings: ModelSettings) -> VerifiedModel:
    """Return the model as the registry gives it out, with the tags that the next night asks for."""
    import skops.io

    columns = with_limits(described(FEATURES[settings.device]), trained.within)
    tags = {
        "fitted_until": trained.test_until.isoformat(),
        "cut_time": trained.cut_time.isoformat(),
        RECIPE_TAG: trained.recipe_text,
    }
    version = Version(settings.name, str(number), "-", tags)
    return VerifiedModel(trained.pipeline, columns, version, skops.io.dumps(trained.pipeline))


def _shown(first: date, trained: Trained, champion: VerifiedModel | None) -> Training:
    found = Training(
        first,
        100 * (trained.train_errors.cv_rmse_ratio or 0.0),
        100 * (overall(trained.errors, MODEL).cv_rmse_ratio or 0.0),
        trained.training_cost.energy_j,
        trained.per_million.energy_j,
        trained.means_per_million.energy_j,
        trained.verdict.reason,
        trained.refused_choice.reason if trained.refused_choice else "",
    )
    by = champion.version.version if champion else "none"
    print(
        f"{first:%Y-%m} by version {by}: {trained.name}; test CV {found.ahead_cv_pct:.1f} %, on training hours "
        f"{found.taught_cv_pct:.1f} %, {found.energy_j:.0f} J, {found.million_j:.0f} J a million "
        f"({found.million_means_j:.0f} the mean alone); "
        f"{trained.decision}",
        flush=True,
    )
    return found


def by_month(every: pl.DataFrame, settings: ModelSettings, report: int, months: int) -> list[Figure]:
    """Figures of the champion by month, of the night's recalibration and interval, and of what trainings cost."""
    done = list(months_of(every, settings, months))
    scored = [rows for _, rows in done if rows is not None]
    if not scored:
        return []
    nothing, no_shift = (
        pl.DataFrame(arrow_schema(table).empty_table()) for table in (PREDICTION, MODEL_SHIFT)
    )
    rows, shifts = night(pl.concat(scored), nothing.select(HISTORY), no_shift)
    rows = rows.filter(pl.col(TARGET).is_not_null())
    _print_refusals(done)
    found: list[Figure] = []
    table = _table(f"forward; after {report} months of each server")
    for (name,), own in rows.group_by("node_id", maintain_order=True):
        node = str(name)
        seen = every.filter(pl.col("node_id") == node).select(_MONTH.unique().sort()).to_series().to_list()
        own = own.filter(_MONTH.is_in(seen[report:]))
        if own.is_empty():
            continue
        for kind, column in _KINDS.items():
            result = errors(own[TARGET].to_numpy(), own[column].to_numpy())
            _add(table, node, kind, result)
            limit = dict(zip(_KINDS, TARGETS.get(node, ()), strict=False)).get(kind)
            found += _figures(f"{kind}/{node}", result, limit)
        found += _held(node, own)
    Console(width=110).print(table)
    for row in shifts.filter(pl.col("shift_found") == pl.col("date")).to_dicts():
        print(
            f"shift: {row['node_id']} {row['shift_kind']} since {row['shift_since']}, found {row['shift_found']}"
        )
    return found + _of_trainings([training for training, _ in done])


def _print_refusals(done: list[tuple[Training, pl.DataFrame | None]]) -> None:
    """Print of each refused choice, by the hours until the next training, whether it would have been the better one."""
    for training, rows in done:
        if rows is None or not (reason := training.reason or training.refused_choice):
            continue
        known = rows.filter(pl.col(TARGET).is_not_null())
        refused, kept = (
            errors(known[TARGET].to_numpy(), known[column].to_numpy()).cv_rmse_ratio or 0.0
            for column in (_KINDS["month_no_gate"], _KINDS["month"])
        )
        print(
            f"refusal: {training.month:%Y-%m} {100 * refused:.1f} % refused, {100 * kept:.1f} % kept"
            f"{'' if training.reason else ', fitted anew'}; {reason}"
        )


def _held(node: str, own: pl.DataFrame) -> list[Figure]:
    """Return the share of hours that the 90 % intervals hold by quarter: the champion's, and the night's."""
    found = []
    low, high = HELD_PCT
    for (quarter,), rows in own.group_by(pl.col("hour_start").dt.truncate("1q"), maintain_order=True):
        assert isinstance(quarter, datetime)
        for kind in ("predicted", "recalibrated"):
            ends = pl.col(f"{kind}_lower_kwh"), pl.col(f"{kind}_upper_kwh")
            held = rows.select(pl.col(TARGET).is_between(*ends)).to_series().drop_nulls()
            if len(held) >= _QUARTER_HOURS:
                name = f"interval/{kind}/{node}/{quarter:%Y}-Q{(quarter.month + 2) // 3}"
                found.append(
                    figure(
                        name,
                        100 * float(held.cast(pl.Float64).to_numpy().mean()),
                        "%",
                        1,
                        at_least=low,
                        at_most=high,
                    )
                )
    return found


def _of_trainings(trainings: list[Training]) -> list[Figure]:
    """Return what the trainings cost, and the gaps from training hours to later ones that the gate is set by."""
    gaps = np.array([one.gap for one in trainings])
    for one in sorted(trainings, key=lambda one: -one.gap)[:8]:
        print(f"gap: {one.month:%Y-%m} {one.gap:.1f} points, {'promoted' if one.promoted else 'refused'}")
    return [
        *(figure(f"gap/{q:.0%}", float(np.quantile(gaps, q)), "points", 1) for q in (0.5, 0.75, 0.9, 1.0)),
        figure("promoted", sum(one.promoted for one in trainings), f"of {len(trainings)}", 1),
        figure("training/mean", float(np.mean([one.energy_j for one in trainings])), "J", 1),
        figure("training/last", trainings[-1].energy_j, "J", 1),
        figure("million_predictions/mean", float(np.mean([one.million_j for one in trainings])), "J", 1),
        figure("million_predictions/last", trainings[-1].million_j, "J", 1),
        figure("million_means/mean", float(np.mean([one.million_means_j for one in trainings])), "J", 1),
        figure("million_means/last", trainings[-1].million_means_j, "J", 1),
    ]


def left_out(every: pl.DataFrame, settings: ModelSettings) -> list[Figure]:
    """Figures of each server by the stage's training on all the others; its inventory row is all it brings."""
    found: list[Figure] = []
    table = _table("each server from the others and its inventory row")
    for node in sorted(every["node_id"].unique()):
        others = TrainingTable.of(every.filter(pl.col("node_id") != node), settings)
        if why_not(others.hours, settings) is not None:
            continue
        trained = learn(others, settings, InlineEngine(), None)
        own = every.filter(pl.col("node_id") == node)
        told = trained.pipeline.predict(own.select(feature_names(settings.device)).to_pandas())[:, 0]
        result = errors(own[TARGET].to_numpy(), np.maximum(told, 0.0))
        _add(table, node, trained.name, result)
        found += _figures(f"left_out/{node}", result, LEFT_OUT_PCT)
    Console(width=130).print(table)
    return found


def _table(title: str) -> Table:
    table = Table(title=title)
    for column in ("server", "model", "hours", "MAPE %", "WAPE %", "CV(RMSE) %", "NMBE %"):
        table.add_column(column, justify="left" if column in ("server", "model") else "right")
    return table


def _add(table: Table, node: str, name: str, result: Errors) -> None:
    values = (result.mape_ratio, result.wape_ratio, result.cv_rmse_ratio, result.nmbe_ratio)
    table.add_row(node, name, f"{result.rows:,}", *("-" if v is None else f"{100 * v:.2f}" for v in values))


def _figures(name: str, result: Errors, cv_limit: float | None) -> list[Figure]:
    """Return CV(RMSE) and NMBE, with their targets where there is one; left out, the bias has none of its own."""
    assert result.cv_rmse_ratio is not None
    assert result.nmbe_ratio is not None
    bias = NMBE_PCT if cv_limit is not None and cv_limit != LEFT_OUT_PCT else None
    return [
        figure(f"{name}/cv_rmse", 100 * result.cv_rmse_ratio, "%", 1, at_most=cv_limit),
        figure(f"{name}/nmbe", 100 * result.nmbe_ratio, "%", 1, bias, None if bias is None else -bias),
    ]


if __name__ == "__main__":
    main()
