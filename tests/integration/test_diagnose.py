"""States, anomalies, forecasts and job power on real Delta tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import structlog

from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.diagnosis import ANOMALY, FORECAST, JOB_POWER, STATE
from lepton_etl.schema.energy import PREDICTION
from lepton_etl.schema.fleet import GRID_HOUR, INTERVAL, NODE
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN
from pipelines import diagnose, forecast
from pipelines.engine import LocalEngine
from pipelines.stage import Ahead, StageContext
from tests.integration.laying import lay

DAY = date(2025, 6, 30)
MIDNIGHT = datetime(2025, 6, 30, tzinfo=UTC)
HISTORY_DAYS = 30
SETTINGS = """
site: {site_id: s}
lake: {root: lake}
mlflow: {tracking_uri: "sqlite:///mlflow.db", artifact_location: mlartifacts}
fleet: {inventory: inventory.csv}
grid: {zone: ZZ, intensity: "grid/*.csv"}
sources:
  - {name: bmc, format: ipmitool, path: "ipmi/*.txt.gz", node_id_from_path: "(?P<node_id>[^/]+)-"}
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    """A rack of four nodes: n1's power stands still for ten hours of the day while its load moves."""
    folder: Path = tmp_path_factory.mktemp("diagnose")
    (folder / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    settings: Settings = load(folder / "settings.yaml")
    lake = Lake(folder / "lake")
    nodes = [
        {"site_id": "s", "cluster_id": "c", "node_id": f"n{i}", "rack_id": "r1", "node_kind": "compute",
         "hardware_class": "h", "valid_from": datetime(2020, 1, 1, tzinfo=UTC)}
        for i in range(1, 5)
    ]  # fmt: skip
    lay(lake, NODE, nodes)
    first = DAY - timedelta(days=HISTORY_DAYS)
    lay(lake, PREDICTION, _predictions(first), Days(first, DAY))
    lay(lake, INTERVAL, _intervals(), Days(DAY - timedelta(days=2), DAY))
    lay(lake, GRID_HOUR, _grid(first), Days(first, DAY))
    runs, energy = _jobs(first)
    lay(lake, JOB_RUN, runs, Days(first, DAY))
    lay(lake, JOB_ENERGY, energy, Days(first, DAY))
    return StageContext(lake, settings, Days.of(DAY), "test-run", structlog.get_logger())


def test_a_stuck_sensor_is_an_anomaly_and_its_peers_are_not(context: StageContext) -> None:
    result = diagnose.run(context)
    rows = context.lake.read(ANOMALY)
    stuck = rows.filter(pl.col("anomaly_kind") == "stuck")
    assert stuck["node_id"].to_list() == ["n1"] and set(rows["date"]) == {DAY}
    assert stuck["rack_id"].to_list() == ["r1"] and stuck["anomaly_score"][0] > 1
    assert any("n1 node: the reading stood still while the load moved" in note for note in result.notes)
    states = context.lake.read(STATE)
    assert states.height == 2 * 288 and set(states["date"]) == {DAY}
    boards = dict(
        states.sort("interval_start").group_by("device_id", maintain_order=True).agg(pl.col("performance_state").last())
        .iter_rows()
    )  # fmt: skip
    assert boards == {"gpu0": "normal", "gpu1": "power_capped"}
    assert [one.changed for one in diagnose.run(context).written] == [False, False]


def test_the_grid_is_forecast_from_the_end_of_the_day_and_jobs_by_their_users(context: StageContext) -> None:
    forecast.run(context)
    hours = context.lake.read(FORECAST).sort("horizon_h")
    assert hours["horizon_h"].to_list() == list(range(1, 97))
    assert set(hours["origin_time"]) == {MIDNIGHT + timedelta(days=1)} and set(hours["forecast_basis"]) == {
        "fusion"
    }
    # 300 + 100 sin(hour): a forecast that knows the hour of the day is near.
    expected = 300 + 100 * np.sin(2 * np.pi * (np.arange(96) % 24) / 24)
    assert np.abs(hours["carbon_intensity_gco2e_per_kwh"].to_numpy() - expected).mean() < 15
    jobs = context.lake.read(JOB_POWER).sort("job_id")
    assert jobs.height == 2 and set(jobs["date"]) == {DAY}
    assert jobs["predicted_power_w"].to_list() == pytest.approx([1000.0, 400.0], rel=0.1)
    context.lake.forget_inputs()
    assert [one.changed for one in forecast.run(context).written] == [False, False]
    read = dict(context.lake.inputs)
    assert GRID_HOUR.name in read
    with LocalEngine(1) as engine:
        engine.begin_aside(int)
        begun = forecast.begin(replace(context, engine=engine))
        context.lake.forget_inputs()
        aside = forecast.run(replace(context, ahead=Ahead(forecast=begun)))
    assert [one.changed for one in aside.written] == [False, False] and context.lake.inputs == read


def _predictions(first: date) -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    rows = []
    hours = (HISTORY_DAYS + 1) * 24
    for number in range(1, 5):
        load = random.uniform(0.1, 1.0, hours)
        expected = 0.2 + 0.5 * load
        measured = expected * np.exp(random.normal(0, 0.02, hours))
        if number == 1:
            measured[-14:-4] = measured[-15]
        for at in range(hours):
            start = datetime.combine(first, datetime.min.time(), UTC) + timedelta(hours=at)
            rows.append(
                {"date": start.date(), "hour_start": start, "site_id": "s", "cluster_id": "c", "node_id": f"n{number}",
                 "device_id": "node", "model_name": "node-energy", "model_version": "1",
                 "energy_kwh": float(measured[at]), "predicted_kwh": float(expected[at]), "load_ratio": float(load[at])}
            )  # fmt: skip
    return rows


def _intervals() -> list[dict[str, Any]]:
    """Two boards over three days; on the last one the second runs at its limit with a low clock."""
    random = np.random.default_rng(6)
    rows = []
    for number in range(3 * 288):
        start = MIDNIGHT - timedelta(days=2) + timedelta(seconds=300 * number)
        load = float(random.uniform(0.7, 1.0))
        for board in ("gpu0", "gpu1"):
            is_capped = board == "gpu1" and start >= MIDNIGHT
            power_w = 200.0 if is_capped else 100 + 250 * load
            rows.append(
                {"site_id": "s", "cluster_id": "c", "node_id": "n1", "device_id": board, "interval_start": start,
                 "date": start.date(), "interval_s": 300, "counts_in_total": False, "multiplicity": 1,
                 "energy_kwh": power_w / 12_000, "power_mean_w": power_w, "observed_s": 300.0,
                 "energy_source": "device", "conflicts": 0, "flags": [],
                 "gpu_utilisation_ratio": 1.0 if is_capped else load,
                 "memory_utilisation_ratio": 0.4, "power_limit_w": 200.0 if is_capped else 400.0,
                 "clock_hz": 1.0e9 if is_capped else 1.7e9, "device_temp_c": 60.0}
            )  # fmt: skip
    return rows


def _grid(first: date) -> list[dict[str, Any]]:
    random = np.random.default_rng(7)
    rows = []
    for at in range((HISTORY_DAYS + 1) * 24):
        start = datetime.combine(first, datetime.min.time(), UTC) + timedelta(hours=at)
        value = 300 + 100 * np.sin(2 * np.pi * start.hour / 24) + random.normal(0, 5)
        for basis, more in (("direct", 0.0), ("lifecycle", 50.0)):
            rows.append(
                {"zone_id": "ZZ", "hour_start": start, "date": start.date(), "intensity_basis": basis,
                 "signal": "average", "flow": "consumption", "carbon_intensity_gco2e_per_kwh": float(value + more),
                 "estimated": False, "source_name": "grid"}
            )  # fmt: skip
    return rows


def _jobs(first: date) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two users: ann's runs draw 1,000 W on two GPUs, bob's 400 W."""
    runs, energy = [], []
    for day in range(HISTORY_DAYS + 1):
        for number, (user, power_w) in enumerate((("ann", 1000.0), ("bob", 400.0))):
            start = datetime.combine(first, datetime.min.time(), UTC) + timedelta(days=day, hours=3)
            key = {"site_id": "s", "cluster_id": "c", "job_id": f"{2 * day + number:04d}", "submit_time": start,
                   "restart": 0, "date": start.date()}  # fmt: skip
            runs.append(
                key | {"user_name": user, "partition": "gpu", "outcome": "completed", "start_time": start,
                       "end_time": start + timedelta(hours=4), "node_count": 1, "cpu_count": 16, "gpu_count": 2}
            )  # fmt: skip
            energy.append(
                key | {"outcome": "completed", "attribution_basis": "devices", "energy_basis": "measured",
                       "status": "provisional", "it_energy_kwh": power_w * 4 / 1000, "held_s": 4 * 3600.0}
            )  # fmt: skip
    return runs, energy
