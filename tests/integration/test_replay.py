"""Jobs of a small site run again under other rules, a task a policy; and a pending job that is told to wait."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from lepton_etl.cli.replay import run
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import NoInputError
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.diagnosis import FORECAST
from lepton_etl.schema.fleet import GRID_HOUR, NODE
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN
from lepton_etl.schema.logs import JOB
from lepton_etl.schema.recommend import TENANT_BURDEN
from pipelines import recommend
from pipelines.engine import InlineEngine
from pipelines.recommend import waiting_jobs
from pipelines.stage import StageContext
from tests.integration.laying import lay

FIRST = date(2025, 6, 1)
DAYS = Days(FIRST, FIRST + timedelta(days=9))
JOB_DAYS = Days(FIRST + timedelta(days=2), FIRST + timedelta(days=7))
SETTINGS = """
site: {site_id: s}
lake: {root: lake}
fleet: {inventory: inventory.csv}
grid: {zone: ZZ, intensity: "grid/*.csv"}
optimize: {shift: {partitions: [batch], max_delay_h: 12}}
sources: [{name: bmc, format: ipmitool, path: "*.txt"}]
"""


def at(day: date, hour: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


def clean(hour: int) -> float:
    """Nights are clean: 100 g from 0 to 6 h, 400 g else."""
    return 100.0 if hour < 6 else 400.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Settings]:
    """A job of two hours and 2 kWh submitted at 12 h of every day; at the end one waits in the queue."""
    folder: Path = tmp_path_factory.mktemp("replay")
    (folder / "site.yaml").write_text(SETTINGS, encoding="utf-8")
    settings = load(folder / "site.yaml")
    lake = Lake(settings.lake.root)
    node = {"site_id": "s", "cluster_id": "c", "node_id": "n1", "valid_from": at(FIRST), "gpu_count": 8}
    lay(lake, NODE, [node], None)
    hours = [
        {"date": day, "hour_start": at(day, hour), "zone_id": "ZZ", "flow": "consumption", "signal": "average",
         "intensity_basis": "direct", "carbon_intensity_gco2e_per_kwh": clean(hour)}
        for day in DAYS for hour in range(24)
    ]  # fmt: skip
    lay(lake, GRID_HOUR, hours, DAYS)
    runs, energy, held = [], [], []
    for number, day in enumerate(JOB_DAYS):
        key = {"site_id": "s", "cluster_id": "c", "job_id": str(number), "submit_time": at(day, 12), "restart": 0,
               "date": day, "outcome": "completed"}  # fmt: skip
        runs.append(key | {"start_time": at(day, 12), "end_time": at(day, 14), "node_count": 1, "gpu_count": 2,
                           "user_name": "ada", "partition": "batch"})  # fmt: skip
        energy.append(key | {"facility_energy_kwh": 2.4, "it_energy_kwh": 2.0, "node_held_h": 0.5, "status": "closed",
                             "attribution_basis": "count", "energy_basis": "measured"})  # fmt: skip
        held.append(key | {"node_id": "n1", "from_time": at(day, 12), "to_time": at(day, 14), "gpu_count": 2,
                           "attribution_basis": "count"})  # fmt: skip
    lay(lake, JOB_RUN, runs, JOB_DAYS)
    lay(lake, JOB_ENERGY, energy, JOB_DAYS)
    lay(lake, JOB_NODE, held, JOB_DAYS)
    end = JOB_DAYS.end + timedelta(days=1)
    ahead = [
        {"date": end, "zone_id": "ZZ", "origin_time": at(end), "hour_start": at(end) + timedelta(hours=h),
         "horizon_h": h + 1, "carbon_intensity_gco2e_per_kwh": clean((h + 18) % 24), "forecast_basis": "fusion",
         "intensity_lower_gco2e_per_kwh": clean((h + 18) % 24) - 10, "model_name": "m", "model_version": "1",
         "intensity_upper_gco2e_per_kwh": clean((h + 18) % 24) + 10}
        for h in range(96)
    ]  # fmt: skip
    lay(lake, FORECAST, ahead, Days.of(end))
    pending = {"site_id": "s", "cluster_name": "c", "job_id": "99", "submit_time": at(JOB_DAYS.end, 20), "restart": 0,
               "user_name": "ada", "partition": "batch", "job_state": "PENDING", "gpu_count": 2, "record": "job",
               "file_id": "f", "ingest_date": JOB_DAYS.end, "ingest_time": at(JOB_DAYS.end, 23),
               "source_name": "jobs", "source_position": 1}  # fmt: skip
    Lake(settings.lake.root).write_rows(JOB, [pending])
    return lake, settings


def test_rules_stand_between_doing_nothing_and_knowing_all(site: tuple[Lake, Settings]) -> None:
    lake, settings = site
    done = run(lake, settings, ["planned", "threshold", "cheapest_window"], JOB_DAYS, 24.0, InlineEngine())
    rows = {row["policy"]: row for row in done.rows}
    assert list(rows) == ["run_at_once", "planned", "threshold", "clairvoyant"]
    assert {row["jobs_completed"] for row in rows.values()} == {6}
    # 6 x 2.4 kWh of facility energy at noon, or at night.
    assert rows["run_at_once"]["emissions_kgco2e"] == pytest.approx(6 * 2.4 * 0.4)
    assert rows["clairvoyant"]["emissions_kgco2e"] == pytest.approx(6 * 2.4 * 0.1)
    assert [row["energy_kwh"] for row in rows.values()] == pytest.approx([14.4] * 4)
    # The same hours of the days before tell it; of the first job's hours nothing else is known either.
    assert rows["planned"]["emissions_kgco2e"] == pytest.approx(6 * 2.4 * 0.1)
    assert "location-based" in done.basis and any("prices" in note for note in done.notes)


def test_days_without_jobs_are_said(site: tuple[Lake, Settings]) -> None:
    lake, settings = site
    with pytest.raises(NoInputError, match="no job"):
        run(lake, settings, ["planned"], Days.of(DAYS.end), 24.0, InlineEngine())


def test_a_pending_job_is_told_to_wait_for_the_clean_hours(site: tuple[Lake, Settings]) -> None:
    lake, settings = site
    context = StageContext(lake, settings, Days.of(JOB_DAYS.end), "run", structlog.get_logger())
    found = waiting_jobs(context)
    (row,) = found.rows
    assert (row["job_id"], row["action"], row["carbon_method"]) == ("99", "start_later", "location")
    assert row["expected_saving_kgco2e"] > 0


def test_a_limit_on_a_tenants_share_of_the_delay_is_kept_and_its_price_stands_in_the_table(
    site: tuple[Lake, Settings],
) -> None:
    """Three jobs of physics and one of law wait beside the one whose tenant nobody knows."""
    lake, settings = site
    job = {"site_id": "s", "cluster_name": "c", "submit_time": at(JOB_DAYS.end, 21), "restart": 0, "user_name": "ada",
           "partition": "batch", "job_state": "PENDING", "gpu_count": 1, "record": "job", "file_id": "g",
           "ingest_date": JOB_DAYS.end, "ingest_time": at(JOB_DAYS.end, 23), "source_name": "jobs",
           "source_position": 1}  # fmt: skip
    whose = {"p1": {"tenant_id": "physics"}, "p2": {"tenant_id": "physics"}, "p3": {"tenant_id": "physics"},
             "l1": {"account": "law"}}  # fmt: skip
    lake.write_rows(JOB, [job | {"job_id": name} | tenant for name, tenant in whose.items()])
    shares = {}
    for limit in (None, 0.4):
        optimize = settings.optimize.model_copy(update={"tenant_share_max_ratio": limit})
        asked = settings.model_copy(update={"optimize": optimize})
        done = recommend.run(StageContext(lake, asked, Days.of(JOB_DAYS.end), "run", structlog.get_logger()))
        rows = lake.read(TENANT_BURDEN, Days.of(JOB_DAYS.end)).filter(burden_kind="delay")
        shares[limit] = dict(rows.select("tenant_id", "burden_share_ratio").iter_rows())
        assert dict(rows.select("tenant_id", "fair_share_ratio").iter_rows()) == {
            "_unknown": 0.2, "law": 0.2, "physics": 0.6
        }  # fmt: skip
        assert rows["share_max_ratio"].unique().to_list() == [limit]
        assert rows["forgone_saving_kwh"].null_count() == (rows.height if limit is None else 0)
        said = [note for note in done.notes if note.startswith("delay: no tenant bears more than")]
        assert len(said) == (limit is not None)
    assert shares[None]["physics"] > 0.5
    assert max(shares[0.4].values()) <= 0.4 and min(shares[0.4].values()) > 0
    assert "kgCO2e forgone" in said[0]
