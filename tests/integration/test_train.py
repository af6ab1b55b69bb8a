"""Device-hours, training and scoring on real Delta tables and a real MLflow store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import structlog

from lepton_etl.cli.models import explained
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import NoInputError
from lepton_etl.lake.tables import Lake
from lepton_etl.models.classes import fit_classes
from lepton_etl.models.device_hours import capped, capped_by_class, covered, device_hours
from lepton_etl.models.features import POWER_COLUMNS, feature_names
from lepton_etl.models.fit import class_task
from lepton_etl.models.registry import Registry
from lepton_etl.models.stored import FittedModel, build
from lepton_etl.schema.energy import MODEL_SHIFT, NODE_HOUR, PREDICTION, SENSITIVITY
from lepton_etl.schema.fleet import INTERVAL, NODE
from pipelines import score, train
from pipelines.engine import LocalEngine
from pipelines.stage import Ahead, StageContext, StageResult
from tests.integration.laying import lay, rows_of

START = datetime(2025, 6, 1, tzinfo=UTC)
DAYS = Days(date(2025, 6, 1), date(2025, 6, 4))
SETTINGS = """
site: {site_id: s}
lake: {root: lake}
mlflow: {tracking_uri: "sqlite:///mlflow.db", artifact_location: mlartifacts}
fleet: {inventory: inventory.csv}
sources:
  - {name: bmc, format: ipmitool, path: "ipmi/*.txt.gz", node_id_from_path: "(?P<node_id>[^/]+)-"}
model: {trees: 10, min_rows: 100, slim: false, candidates: [linear], gates: {min_test_rows: 24}}
"""


def _interval(node: str, device: str, start: datetime, power_w: float | None, **more: Any) -> dict[str, Any]:
    energy = None if power_w is None else power_w * 300 / 3.6e6 * more.get("multiplicity", 1)
    row = {
        "site_id": "s", "cluster_id": "c", "node_id": node, "device_id": device, "interval_start": start,
        "date": start.date(), "interval_s": 300, "counts_in_total": device == "node", "multiplicity": 1,
        "energy_kwh": energy, "power_min_w": power_w, "power_mean_w": power_w, "power_max_w": power_w,
        "observed_s": 0.0 if power_w is None else 300.0, "energy_source": "bmc", "conflicts": 0, "flags": [],
    }  # fmt: skip
    return row | more


def _hour(
    node: str, device: str, start: datetime, powers_w: list[float | None], **more: Any
) -> list[dict[str, Any]]:
    step = timedelta(seconds=300)
    return [_interval(node, device, start + i * step, w, **more) for i, w in enumerate(powers_w)]


def _node(node: str, rated_w: float, **more: Any) -> dict[str, Any]:
    row = {"site_id": "s", "cluster_id": "c", "node_id": node, "node_kind": "compute", "hardware_class": "h"}
    return (
        row
        | {"rated_power_w": rated_w, "gpu_count": 0, "valid_from": datetime(2020, 1, 1, tzinfo=UTC)}
        | more
    )


def _by_hour(hours: pl.DataFrame) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(r["node_id"], r["device_id"], r["hour_start"].hour): r for r in hours.to_dicts()}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def nodes() -> pl.DataFrame:
    switched = datetime(2025, 6, 1, 1, tzinfo=UTC)
    return rows_of(
        NODE,
        [
            _node("a", 500.0, valid_to=switched),
            _node("a", 700.0, valid_from=switched, gpu_rated_power_w=300.0, gpu_count=2),
        ],
    )


def test_node_hours_join_the_inventory_of_the_hour_and_the_load_of_the_devices(nodes: pl.DataFrame) -> None:
    second = START + timedelta(hours=1)
    rows = [
        *_hour("a", "node", START, [100.0] * 6 + [200.0] * 6, cpu_utilisation_ratio=0.5, inlet_temp_c=22.0),
        *_hour("a", "node", second, [300.0] * 11, inlet_temp_c=24.0),
        *_hour("a", "gpu0", second, [50.0] * 12, gpu_utilisation_ratio=0.2, device_temp_c=70.0),
        *_hour("a", "gpu1", second, [None] * 12, gpu_utilisation_ratio=0.6, device_temp_c=80.0),
        *_hour("stranger", "node", START, [80.0] * 5),
        *_hour("a", "node", START + timedelta(hours=2), [90.0] * 12, energy_source="modelled_sum"),
    ]
    hours = _by_hour(device_hours("node", rows_of(INTERVAL, rows), nodes))
    assert sorted(hours) == [("a", "node", 0), ("a", "node", 1), ("stranger", "node", 0)]
    first, later, stranger = hours["a", "node", 0], hours["a", "node", 1], hours["stranger", "node", 0]
    assert first["energy_kwh"] == pytest.approx(0.150, rel=1e-9)
    assert (first["rated_power_w"], first["inlet_temp_c"], first["cpu_utilisation_ratio"]) == (
        500.0,
        22.0,
        0.5,
    )
    assert first["gpu_utilisation_ratio"] is None
    # Eleven of twelve intervals: the energy is that of the full hour at the mean seen.
    assert (later["observed_s"], later["rated_power_w"]) == (3300.0, 700.0)
    assert later["energy_kwh"] == pytest.approx(0.300, rel=1e-9)
    assert later["gpu_utilisation_ratio"] == pytest.approx(0.4)
    assert (later["gpu_utilisation_min_ratio"], later["gpu_utilisation_max_ratio"]) == (0.2, 0.6)
    assert (stranger["rated_power_w"], stranger["hardware_class"]) == (None, "unknown")
    kept = _by_hour(covered(device_hours("node", rows_of(INTERVAL, rows), nodes), 0.9))
    assert sorted(kept) == [("a", "node", 0), ("a", "node", 1)]


def test_gpu_hours_are_per_board_and_scaling_power_changes_no_feature(nodes: pl.DataFrame) -> None:
    second = START + timedelta(hours=1)
    seen = {
        "gpu_utilisation_ratio": 0.3,
        "memory_utilisation_ratio": 0.1,
        "device_temp_c": 55.0,
        "multiplicity": 2,
    }
    intervals = rows_of(INTERVAL, _hour("a", "gpu", second, [120.0] * 12, **seen))
    scaled = intervals.with_columns(pl.col(c) * 3 for c in POWER_COLUMNS)
    plain = _by_hour(device_hours("gpu", intervals, nodes))["a", "gpu", 1]
    tripled = _by_hour(device_hours("gpu", scaled, nodes))["a", "gpu", 1]
    assert plain["energy_kwh"] == pytest.approx(0.120, rel=1e-9)
    assert tripled["energy_kwh"] == pytest.approx(0.360, rel=1e-9)
    assert {n: plain[n] for n in feature_names("gpu")} == {n: tripled[n] for n in feature_names("gpu")}
    assert (plain["rated_power_w"], plain["device_temp_c"], plain["gpu_count"]) == (300.0, 55.0, 2.0)


def test_the_sample_and_its_sums_are_the_same_in_any_order(nodes: pl.DataFrame) -> None:
    rows = [row for n in range(40) for row in _hour(f"n{n}", "node", START, [100.0 + n, 0.1, 1e3 / 7])]
    hours = device_hours("node", rows_of(INTERVAL, rows), nodes)
    turned = device_hours("node", rows_of(INTERVAL, rows[::-1]), nodes)
    assert turned.equals(hours)
    sample = capped(hours, 10)
    assert sample.height == 10
    assert sample.equals(capped(hours.reverse(), 10))


def _fill(lake: Lake, days: Days) -> None:
    """Three nodes whose power follows their load, one interval of 300 s seen in every five minutes."""
    random = np.random.default_rng(3)
    rows = []
    for node, idle_w in (("n1", 100.0), ("n2", 100.0), ("n3", 250.0)):
        for hour in range(24 * days.count):
            load = float(random.random())
            # Not quite a line: a model that is exact would leave nothing to recalibrate.
            power_w = idle_w * (1 + load + 0.02 * float(np.sin(12 * load)))
            seen = {"cpu_utilisation_ratio": load, "inlet_temp_c": 20.0 + 5 * load}
            rows += _hour(node, "node", days.from_time + timedelta(hours=hour), [power_w] * 12, **seen)
    lay(lake, INTERVAL, rows, days)
    nodes = [_node("n1", 400.0), _node("n2", 400.0), _node("n3", 900.0, hardware_class="k")]
    lay(lake, NODE, nodes)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    return load(tmp_path / "settings.yaml")


def _context(lake: Lake, settings: Settings, days: Days) -> StageContext:
    return StageContext(lake, settings, days, "test-run", structlog.get_logger())


def test_a_night_trains_once_promotes_scores_and_repeats_itself(lake: Lake, settings: Settings) -> None:
    _fill(lake, DAYS)
    context = _context(lake, settings, DAYS)
    first = train.run(context)
    assert first.rows_in == 3 * 96
    assert "node-energy version 1 is champion" in first.notes[0]
    registry = Registry(settings.mlflow.tracking_uri, settings.mlflow.artifact_location)
    champion = registry.champion("node-energy")
    assert champion is not None
    assert (
        champion.tags["delta_versions"]
        == f'{{"silver/interval": {lake.version(INTERVAL)}, "silver/node": {lake.version(NODE)}}}'
    )
    again = train.run(context)
    assert again.notes == ("node-energy version 1 was trained on this table: nothing registered",)
    assert registry.version("node-energy", "2") is None

    scored = score.run(context)
    assert scored.written[0].changed
    rows = lake.read(PREDICTION).to_pandas()
    assert len(rows) == 3 * 96
    error = (rows["energy_kwh"] - rows["predicted_kwh"]).abs().sum() / rows["energy_kwh"].sum()
    assert error < 0.05
    # The first scored day has nothing before it to learn from; later ones are corrected, by little: the model is good.
    corrected = rows.sort_values("hour_start")
    first = corrected["date"] == corrected["date"].min()
    assert (corrected["recalibrated_kwh"] == corrected["predicted_kwh"])[first].all()
    assert not (corrected["recalibrated_kwh"] == corrected["predicted_kwh"])[~first].any()
    off = (rows["energy_kwh"] - rows["recalibrated_kwh"]).abs().sum() / rows["energy_kwh"].sum()
    assert off <= 1.1 * error
    assert set(rows["model_version"]) == {"1"}
    # The night's own interval lies around what it corrected; the nodes keep to their model.
    inside = rows["energy_kwh"].between(rows["recalibrated_lower_kwh"], rows["recalibrated_upper_kwh"])
    assert (rows["recalibrated_lower_kwh"] <= rows["recalibrated_upper_kwh"]).all() and inside.mean() > 0.8
    judged = lake.read(MODEL_SHIFT).sort("node_id", "date")
    assert judged.height == 3 * DAYS.count and set(judged["compared_hours"]) == {24}
    assert judged["residual_level"].is_not_null().all() and rows["shift_since"].isna().all()
    # Nobody made node-hours here, and a row is owed to each of those.
    assert lake.read(SENSITIVITY).is_empty()

    said = "\n".join(explained(lake, settings, "n1", datetime(2025, 6, 3, 5, tzinfo=UTC)))
    assert said.startswith("node-energy version 1, n1, hour 2025-06-03T05:00Z")
    assert "Wh were measured" in said and "dE/dcpu_utilisation_ratio = +" in said
    assert "by the chain rule since the hour before" in said and "agrees in sign with" in said
    with pytest.raises(NoInputError, match="no node hour of nobody"):
        explained(lake, settings, "nobody", datetime(2025, 6, 3, 5, tzinfo=UTC))

    # The days before the last cannot replace a champion trained up to a later day; scored days keep their version.
    back = train.run(_context(lake, settings, Days(DAYS.start, date(2025, 6, 3))))
    assert "node-energy version 2 refused" in back.notes[0]
    assert "trained up to 2025-06-03, the champion up to 2025-06-04" in back.notes[0]
    present = registry.champion("node-energy")
    assert present is not None
    assert present.version == "1"
    assert not score.run(context).written[0].changed


def test_every_node_hour_has_its_sensitivities_or_the_reason(lake: Lake, settings: Settings) -> None:
    _fill(lake, DAYS)
    hours = [DAYS.from_time + timedelta(hours=n) for n in range(24 * DAYS.count)]
    lay(lake, NODE_HOUR, [
        {"site_id": "s", "cluster_id": "c", "node_id": node, "hour_start": hour, "date": hour.date(),
         "energy_basis": "measured", "expected_s": 3600.0, "observed_s": 3600.0, "status": "provisional"}
        for hour in hours for node in ("n1", "n2", "n3", "silent")
    ], DAYS)  # fmt: skip
    unscored = score.run(_context(lake, settings, DAYS))
    assert set(lake.read(SENSITIVITY)["sensitivity_basis"]) == {"no_model"} and not lake.exists(PREDICTION)
    assert unscored.written[0].rows == 4 * 96
    train.run(_context(lake, settings, DAYS))
    score.run(_context(lake, settings, DAYS))
    whole = lake.read(SENSITIVITY).sort("node_id", "hour_start")
    known = whole.filter(pl.col("node_id") != "silent")
    assert dict(whole["sensitivity_basis"].value_counts().iter_rows()) == {"model": 3 * 96, "no_inputs": 96}
    # From no load to full a node draws its idle power more, and warms its inlet by 5 K meanwhile.
    steep = (
        known.group_by("node_id")
        .agg(pl.col("cpu_load_slope_kwh", "inlet_temp_kwh_per_k").mean())
        .sort("node_id")
    )
    rise = steep["cpu_load_slope_kwh"] + 5 * steep["inlet_temp_kwh_per_k"]
    assert rise.to_list() == pytest.approx([0.1, 0.1, 0.25], rel=0.3)
    assert known.filter(pl.col("power_term_kwh") != 0).is_empty(), "a nameplate does not move"
    assert known["chain_rule_kwh"].is_null().to_list() == ([True] + [False] * 95) * 3, (
        "the first has no hour before"
    )
    terms = known["power_term_kwh"] + known["temp_term_kwh"] + known["load_term_kwh"]
    assert (known["chain_rule_kwh"] - terms).abs().max() < 1e-12
    # A day made again alone has the change across its first midnight too, and makes no commit.
    again = score.run(_context(lake, settings, Days.of(DAYS.end)))
    assert not any(one.changed for one in again.written)


def test_a_class_taught_on_an_executor_is_the_one_taught_here_to_the_bit(
    lake: Lake, settings: Settings
) -> None:
    _fill(lake, DAYS)
    of_model = settings.model.model_copy(
        update={"candidates": ("forest",), "class_min_rows": 50, "class_max_rows": 150}
    )
    context = _context(lake, settings, DAYS)
    hours = capped_by_class(train.training_hours(context, of_model), of_model.class_max_rows)
    task = class_task(train.as_ordered(hours), of_model)
    with LocalEngine(2) as engine:
        on_executors = train.taught(hours, task, replace(context, engine=engine))
    here = fit_classes(train.as_ordered(hours.reverse()), task)
    assert [fit.hardware_class for fit in on_executors] == [fit.hardware_class for fit in here] == ["h", "k"]
    # Two nodes over four days, of which at most 150 hours of a class are taken and the last day is tested.
    assert here[0].rows <= 150 and here[1].rows == 71
    rows = train.as_ordered(hours)[list(feature_names("node"))]
    for ours, theirs in zip(here, on_executors, strict=True):
        assert (ours.rows, ours.chosen) == (theirs.rows, theirs.chosen)
        assert len(ours.validated) > 0
        pd.testing.assert_frame_equal(ours.validated, theirs.validated, check_exact=True)
        assert (build(ours.data).predict(rows) == build(theirs.data).predict(rows)).all()


def test_what_is_learnt_aside_is_what_is_learnt_here_and_nothing_is_read_twice(
    lake: Lake, settings: Settings
) -> None:
    _fill(lake, DAYS)
    context = _context(lake, settings, DAYS)
    assert train.begin(context) is None, "no process to learn in"
    with LocalEngine(1) as engine:
        engine.begin_aside(int)
        ahead = train.begin(replace(context, engine=engine))
        assert ahead is not None
        begun = ahead()
        assert begun.learned is not None and not isinstance(begun.found, StageResult)
        lake.forget_inputs()
        done = train.run(replace(context, ahead=Ahead(learning=lambda: begun)))
        assert lake.inputs == begun.inputs and set(begun.inputs) >= {INTERVAL.name, NODE.name}
        again = train.begin(replace(context, engine=engine))
        assert again is not None
        nothing = again()
        assert isinstance(nothing.found, StageResult) and nothing.learned is None
    learning, _ = begun.found
    hours = learning.table.hours
    here, stored = learning().trained, Registry.of(settings.mlflow).verified_model("node-energy")
    columns = stored.columns
    assert np.array_equal(
        FittedModel(here.pipeline, columns).predict(hours),
        FittedModel(stored.pipeline, columns).predict(hours),
    )
    assert "is champion" in done.notes[0]
    # The same table again: that there is nothing to learn is known by then, and is not looked for again.
    assert train.run(replace(context, ahead=Ahead(learning=lambda: nothing))).notes == (
        "node-energy version 1 was trained on this table: nothing registered",
    )


def test_what_cannot_be_begun_stops_no_figure(
    lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(lake, DAYS)

    def broken(*_: object) -> None:
        raise ValueError("no table can be made")

    monkeypatch.setattr(train, "_learning", broken)
    context = _context(lake, settings, DAYS)
    with LocalEngine(1) as engine:
        engine.begin_aside(int)
        assert train.begin(replace(context, engine=engine)) is None
    with pytest.raises(ValueError, match="no table can be made"):
        train.run(context)


def test_a_first_night_with_few_rows_is_a_note(lake: Lake, settings: Settings) -> None:
    day = Days.of(DAYS.start)
    _fill(lake, day)
    context = _context(lake, settings, day)
    assert train.run(context).notes == ("not trained: 72 node hours with energy, 100 needed",)
    assert score.run(context).notes == ("not scored: node-energy has no champion",)
