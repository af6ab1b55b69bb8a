"""From tables of a small site to recommendations, decisions, grades and commands, on real Delta tables."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from lepton_etl.cli.main import app
from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.diagnosis import STATE
from lepton_etl.schema.energy import NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.jobs import JOB_NODE, JOB_RUN, TENANT_DAY
from lepton_etl.schema.recommend import DECISION, RECOMMENDATION, SAVING, TENANT_BURDEN
from pipelines import recommend
from pipelines.stage import StageContext
from tests.integration.laying import lay

DAY = date(2025, 6, 30)
FIRST = DAY - timedelta(days=9)
SITE = {"site_id": "s", "cluster_id": "c"}
SETTINGS = """
site: {site_id: s}
lake: {root: lake}
fleet: {inventory: inventory.csv}
optimize:
  history_days: 10
  power_down: {standby_power_w: 20, wake_s: 300, wake_kwh: 0.05, reserve_ratio: 0}
sources: [{name: bmc, format: ipmitool, path: "*.txt"}]
"""


def at(day: date, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


def node_hours(days: Days) -> list[dict[str, Any]]:
    """n1 works by day and night; n2 to n5 rest at 100 W; n6 is known for nothing."""
    rows = []
    for day in days:
        for hour in range(24):
            for number in range(1, 6):
                works = number == 1
                watts = 400.0 if works else 100.0 + number
                rows.append(
                    SITE | {
                        "date": day, "hour_start": at(day, hour), "rack_id": f"r{number % 2}", "node_id": f"n{number}",
                        "it_energy_kwh": watts / 1000, "power_mean_w": watts, "energy_basis": "measured",
                        "idle_energy_kwh": 0.0 if works else watts / 1000, "idle_basis": "jobs", "expected_s": 3600.0,
                        "observed_s": 3600.0, "status": "provisional", "gpu_utilisation_ratio": 0.9 if works else 0.0,
                    }
                )  # fmt: skip
    return rows


def lay_down(lake: Lake) -> None:
    days = Days(FIRST, DAY + timedelta(days=1))
    nodes = [
        SITE | {"node_id": f"n{n}", "rack_id": f"r{n % 2}", "hardware_class": "gpu-400", "valid_from": at(FIRST)}
        for n in range(1, 6)
    ]  # fmt: skip
    lay(lake, NODE, nodes)
    lay(lake, NODE_HOUR, node_hours(days), days)
    hours = [
        {"site_id": "s", "date": day, "hour_start": at(day, hour), "energy_basis": "measured", "pue_basis": "none",
         "status": "provisional", "carbon_intensity_gco2e_per_kwh": 400.0}
        for day in days for hour in range(24)
    ]  # fmt: skip
    lay(lake, SITE_HOUR, hours, days)
    each = [at(DAY) + timedelta(minutes=5 * k) for k in range(288)]
    board = {"date": DAY, "node_id": "n1", "device_id": "gpu0"}
    boards = [
        SITE | board | {"interval_start": start, "interval_s": 300, "energy_kwh": 0.01, "observed_s": 300.0,
                        "gpu_utilisation_ratio": 0.0, "flags": [], "counts_in_total": False, "multiplicity": 1}
        for start in each
    ]  # fmt: skip
    lay(lake, INTERVAL, boards, Days.of(DAY))
    run = SITE | {"job_id": "4711", "submit_time": at(DAY), "restart": 0, "date": DAY, "tenant_id": "physics",
                  "outcome": "running"}  # fmt: skip
    held = run | {"node_id": "n1", "from_time": at(DAY), "to_time": at(DAY + timedelta(days=1)), "device_ids": ["gpu0"],
                  "attribution_basis": "devices"}  # fmt: skip
    lay(lake, JOB_NODE, [held], Days.of(DAY))
    lay(lake, JOB_RUN, [run | {"start_time": at(DAY), "user_name": "ada"}], Days.of(DAY))
    states = [
        SITE | board | {"interval_start": start, "performance_state": "degraded", "adjustment": "drain",
                        "adjustment_reason": "it clocks down"}
        for start in each[:24]
    ]  # fmt: skip
    lay(lake, STATE, states, Days.of(DAY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    (folder / "site.yaml").write_text(SETTINGS, encoding="utf-8")
    lay_down(Lake(folder / "lake"))
    return folder


def night(folder: Path, day: date) -> tuple[dict[str, dict[str, Any]], Any]:
    settings = load(folder / "site.yaml")
    lake = Lake(settings.lake.root)
    done = recommend.run(StageContext(lake, settings, Days.of(day), "run", structlog.get_logger()))
    rows = Lake(settings.lake.root).arrow(RECOMMENDATION, Days.of(day)).to_pylist()
    return {row["lever"]: row for row in rows}, done


def test_a_night_proposes_decisions_hold_and_commands_can_be_taken_along(folder: Path) -> None:
    found, done = night(folder, DAY)
    assert set(found) == {"consolidate", "zombie", "adjustment"}
    asleep = found["consolidate"]
    # Four rest: one of them is the reserve, and each rack keeps one on.
    assert (
        len(json.loads(asleep["action_json"])["nodes"]) == 3 and asleep["recommendation_state"] == "proposed"
    )
    assert asleep["expected_saving_kgco2e"] == pytest.approx(0.4 * asleep["expected_saving_kwh"])
    assert asleep["carbon_method"] == "location" and asleep["expected_saving_cost"] is None
    assert found["zombie"]["job_id"] == "4711" and found["zombie"]["expected_saving_kwh"] == pytest.approx(
        2.88
    )
    assert any("no cap is proposed" in note for note in done.notes)
    again = night(folder, DAY)[1]
    assert [one.changed for one in again.written] == [False]

    config = str(folder / "site.yaml")
    runner = CliRunner()
    listed = runner.invoke(app, ["recommend", "list", "--config", config])
    assert listed.exit_code == 0 and "physics" in listed.output
    script = runner.invoke(app, ["recommend", "export", "--config", config, "--format", "commands"]).output
    assert "scontrol update NodeName=" in script and "scontrol show job 4711" in script
    told = json.loads(
        runner.invoke(app, ["recommend", "export", "--config", config, "--format", "json"]).output
    )
    assert {row["lever"] for row in told} == set(found)
    said = runner.invoke(
        app, ["recommend", "apply", asleep["recommendation_id"][:6], "--config", config, "--by", "ada"]
    )
    assert said.exit_code == 0, said.output
    twice = runner.invoke(app, ["recommend", "reject", asleep["recommendation_id"], "--config", config])
    assert twice.exit_code != 0


def test_what_was_applied_keeps_its_promise_and_is_graded(folder: Path) -> None:
    before = {row["lever"]: row for row in Lake(folder / "lake").arrow(RECOMMENDATION).to_pylist()}
    applied = {
        "recommendation_id": before["consolidate"]["recommendation_id"], "decision": "applied",
        "decided_time": at(DAY, 12), "effective_time": at(DAY, 12),
    }  # fmt: skip
    Lake(folder / "lake").write_rows(DECISION, [applied])
    found, done = night(folder, DAY + timedelta(days=1))
    assert found["consolidate"]["recommendation_state"] == "applied"
    assert found["consolidate"]["expected_saving_kwh"] == before["consolidate"]["expected_saving_kwh"]
    assert found["zombie"]["recommendation_state"] == "expired"
    (saving,) = Lake(folder / "lake").arrow(SAVING).to_pylist()
    assert not saving["proven"] and "insufficient baseline" in saving["grade_reason"]
    assert any("0 of 1 applied recommendations" in note for note in done.notes)


def test_a_night_says_how_evenly_its_burdens_lie_on_tenants(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SETTINGS, encoding="utf-8")
    lake, key = Lake(tmp_path / "lake"), {"restart": 0, "date": DAY, "outcome": "completed"}
    runs = [
        SITE
        | key
        | {"job_id": name, "tenant_id": tenant, "submit_time": at(DAY), "start_time": at(DAY, hours)}
        for name, tenant, hours in (("1", "physics", 3), ("2", "physics", 1), ("3", "law", 4))
    ]
    lay(lake, JOB_RUN, runs, Days.of(DAY))
    tenants = [
        SITE | {"date": DAY, "tenant_id": name, "static_kwh": idle_kwh, "node_held_h": 10.0, "it_energy_kwh": 20.0,
                "facility_energy_kwh": None, "energy_basis": "measured", "status": "provisional"}
        for name, idle_kwh in (("physics", 3.0), ("law", 1.0))
    ]  # fmt: skip
    lay(lake, TENANT_DAY, tenants, Days.of(DAY))
    _, done = night(tmp_path, DAY)
    rows = {
        (row["burden_kind"], row["tenant_id"]): row
        for row in lake.read(TENANT_BURDEN, Days.of(DAY)).to_dicts()
    }
    assert set(rows) == set(product(("overhead", "placement", "wait"), ("law", "physics")))
    waited = rows["wait", "physics"]
    assert (waited["burden_h"], waited["burden_share_ratio"], waited["fair_share_ratio"]) == (4.0, 0.5, 2 / 3)
    # Quotients 0.75 and 1.5.
    assert waited["jain_index_ratio"] == pytest.approx(2.25**2 / (2 * (0.75**2 + 1.5**2)))
    assert rows["placement", "law"]["burden_share_ratio"] == 0.25
    assert rows["overhead", "law"]["jain_index_ratio"] is None
    assert [one.rows for one in done.written if one.table == TENANT_BURDEN.name] == [6]
    # The same night again commits nothing.
    version = lake.version(TENANT_BURDEN)
    night(tmp_path, DAY)
    assert lake.version(TENANT_BURDEN) == version


def test_gpu_hours_of_a_job_class_are_told_by_tenant(folder: Path) -> None:
    settings, lake = load(folder / "site.yaml"), Lake(folder / "held")
    lay(lake, NODE, [SITE | {"node_id": "n1", "hardware_class": "gpu-400", "valid_from": at(FIRST)}])
    runs = [
        SITE | {"job_id": name, "tenant_id": tenant, "submit_time": at(DAY), "restart": 0, "date": DAY,
                "outcome": "completed", "start_time": at(DAY), "user_name": "ada", "partition": "gpu"}
        for name, tenant in (("1", "physics"), ("2", "law"), ("3", "law"))
    ]  # fmt: skip
    lay(lake, JOB_RUN, runs, Days.of(DAY))
    held = [
        run | {"node_id": "n1", "from_time": at(DAY), "to_time": at(DAY, 3), "gpu_count": gpus,
               "attribution_basis": "count"}
        for run, gpus in zip(runs, (4, 2, 0), strict=True)
    ]  # fmt: skip
    lay(lake, JOB_NODE, held, Days.of(DAY))
    found = recommend.held_hours(StageContext(lake, settings, Days.of(DAY), "run", structlog.get_logger()))
    assert found.rows() == [
        ("s", "law", "ada in gpu on gpu-400", 6.0),
        ("s", "physics", "ada in gpu on gpu-400", 12.0),
    ]
