"""The report stage on a real lake: what stands in the tables stands on the page, and a re-run changes nothing."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.logs import FILE, REJECT
from lepton_etl.schema.operations import STAGE_RUN
from pipelines import report
from pipelines.stage import StageContext, StageResult
from tests.pages import text_of

DAY = date(2025, 6, 3)
START = datetime(2025, 6, 3, tzinfo=UTC)
NODES = [f"node{number:02d}" for number in range(70)]
BASES = {
    "site_id": "demo", "energy_basis": "measured", "idle_basis": "utilisation", "facility_basis": "none",
    "pue_basis": "none", "emissions_basis": "none", "status": "provisional",
}  # fmt: skip

SETTINGS = """
site: {site_id: demo, timezone: Europe/Berlin}
lake: {root: lake}
mlflow: {tracking_uri: "sqlite:///mlflow.db"}
fleet: {inventory: inventory.csv}
sources:
  - {name: bmc, format: ipmitool, path: "landing/*.txt", credit: "Made-up logs, CC0"}
report: {folder: report}
"""


def node_hour(index: int, node: str, hour: int) -> dict[str, Any]:
    start = START + timedelta(hours=hour)
    observed = 0.0 if index == 5 else 1800.0 if index == 6 and hour < 12 else 3600.0
    power = None if observed == 0 else 200.0 + index
    return BASES | {
        "date": DAY, "hour_start": start, "cluster_id": "c1", "node_id": node, "hardware_class": "xeon",
        "it_energy_kwh": power * observed / 3.6e6 if power else None, "power_mean_w": power,
        "observed_s": observed, "expected_s": 3600.0, "coverage_ratio": observed / 3600.0,
        "cpu_utilisation_ratio": index / 100, "inlet_temp_c": 21.5, "gpu_count": 0,
    }  # fmt: skip


def gpu_interval(minute: int) -> dict[str, Any]:
    return {
        "site_id": "demo", "cluster_id": "c1", "node_id": "node00", "device_id": "gpu0", "date": DAY,
        "interval_start": START + timedelta(minutes=minute), "interval_s": 300, "counts_in_total": False,
        "multiplicity": 1, "power_mean_w": 100.0 if minute < 30 else 300.0, "device_temp_c": 60.0,
        "gpu_utilisation_ratio": 0.5, "observed_s": 300.0,
    }  # fmt: skip


def file(path: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "path": path, "file_id": path, "source_name": "bmc", "batch": 1, "state": state, "size_bytes": 100,
        "ingest_time": START + timedelta(days=1), "ingest_date": DAY + timedelta(days=1),
    } | more  # fmt: skip


def stage_run(stage: str, message: str) -> dict[str, Any]:
    return {
        "run_id": "run-1", "stage": stage, "state": "done", "date_from": DAY, "date_until": DAY,
        "start_time": START, "end_time": START, "duration_s": 2.0, "rows_in": 100, "rows_out": 10,
        "message": message,
    }  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of one day: 70 nodes, one silent and one half a day late, one bad file, one reject."""

    lake = Lake(tmp_path_factory.mktemp("report") / "lake")
    hours = [node_hour(i, node, hour) for i, node in enumerate(NODES) for hour in range(24)]
    lake.write_rows(NODE_HOUR, hours)
    lake.write_rows(INTERVAL, [gpu_interval(minute) for minute in range(0, 60, 5)])
    cluster = BASES | {"date": DAY, "cluster_id": "c1", "node_count": 70, "coverage_ratio": 0.98}
    lake.write_rows(
        CLUSTER_HOUR,
        [cluster | {"hour_start": START + timedelta(hours=h), "it_energy_kwh": 15.5} for h in range(24)],
    )
    lake.write_rows(CLUSTER_DAY, [cluster | {"it_energy_kwh": 372.0, "it_energy_measured_kwh": 372.0}])
    day = {"first_reading_time": START, "last_reading_time": START + timedelta(hours=23)}
    lake.write_rows(FILE, [
        file("landing/a-2025-06-03.txt", "loaded", records=10, readings=6, rejects=1, duplicates=0, ignored=3,
             ignored_detail='[["Fan 1", "unmapped", 2], ["Sys Power", "no_value", 1]]', **day),
        file("landing/b-2025-06-03.txt.gz", "discarded", reason="truncated_gzip", rejects=1),
        file("landing/b-2025-05-01.txt.gz", "discarded", reason="unreadable_file"),
    ])  # fmt: skip
    ingested = {"ingest_time": START, "ingest_date": DAY, "source_name": "bmc", "site_id": "demo"}
    lake.write_rows(REJECT, [
        ingested | {"reason": "bad_number", "path": f["path"], "file_id": f["path"], "source_position": line,
                    "raw_text": "Sys Power | <b>2O8</b> Watts | ok"}
        for f, line in ((file("landing/a-2025-06-03.txt", ""), 7), (file("landing/b-2025-05-01.txt.gz", ""), 3))
    ])  # fmt: skip
    lake.write_rows(STAGE_RUN, [
        stage_run("gate", "warning: silver/interval: fill: 0.4 %, expected 1 %; warning: bronze/file: late"),
        stage_run("report", "report: an earlier page"),
        stage_run("train", "not trained: 48 node hours with energy, 200 needed"),
    ])  # fmt: skip
    return lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def context_of(lake: Lake, folder: Path, days: Days) -> StageContext:
    conf = folder / "conf.yaml"
    conf.write_text(SETTINGS)
    return StageContext(lake, load(conf), days, "run-1", structlog.get_logger())


@pytest.fixture(scope="module")
def context(filled: Lake, tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    return context_of(filled, tmp_path_factory.mktemp("site"), Days.of(DAY))


@pytest.fixture(scope="module")
def result(context: StageContext) -> StageResult:
    """The stage's word on its first run."""
    return report.run(context)


def body(page: Path) -> str:
    """The page without the Vega libraries, the time it was made, and what the run has cost until then."""
    html = page.read_text(encoding="utf-8")
    longest = max(re.findall(r"<script>.*?</script>", html, re.DOTALL), key=len)
    html = re.sub(r'<p class="note" id="footprint">.*', "", html)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "", html.replace(longest, ""))


def test_the_page_says_what_the_tables_hold(context: StageContext, result: StageResult) -> None:
    page = context.settings.report.folder / "2025-06-03" / "index.html"
    assert result.notes == (f"report: {page}",)
    html = text_of(body(page))
    # Figures and their unknowns.
    assert "372.0\u202fkWh" in html
    assert "No hour has known emissions" in html
    # Files: the bad one of the day is named, the one of another day is not; records are counted of these files.
    assert "landing/b-2025-06-03.txt.gz" in html
    assert "truncated_gzip" in html
    assert "b-2025-05-01" not in html
    assert "Fan 1" in html
    assert "&lt;b&gt;2O8&lt;/b&gt;" in html
    # Run record: gate warnings one by one, the train stage's reason, stages.
    gate = html.split('<section id="gate">')[1].split("</section>")[0]
    assert gate.count("<li>") == 2
    assert "not trained: 48 node hours with energy, 200 needed" in html
    assert "an earlier page" not in html
    # 69 nodes with power x 24 hours and one GPU-hour, of which 1,500 and 1 are drawn.
    assert "1,501 of 1,657 device-hours are drawn" in html
    assert "The 60 least covered of 70 nodes, least covered first. 68 of 70 nodes are complete." in html
    assert "Made-up logs, CC0" in html


def test_the_same_data_give_the_same_page(context: StageContext, result: StageResult) -> None:
    page = Path(result.notes[0].removeprefix("report: "))
    first = body(page)
    report.run(context)
    assert body(page) == first
    assert [file.name for file in page.parent.iterdir()] == ["index.html"]


def test_a_gpu_hour_is_the_mean_over_its_observed_time(context: StageContext) -> None:
    hours = context.lake.read(NODE_HOUR, context.days)
    rows = report.points(context, hours).rows.to_pylist()
    (gpu,) = [row for row in rows if row["subject"] == "GPU"]
    assert gpu["power_w"] == pytest.approx(200.0)
    assert (gpu["hardware_class"], gpu["load_kind"], gpu["temperature_c"]) == (
        "xeon",
        "GPU utilisation",
        60.0,
    )


def test_an_empty_lake_gives_a_page_that_says_so(lake: Lake, tmp_path: Path) -> None:
    result = report.run(context_of(lake, tmp_path, Days.of(DAY, date(2025, 6, 4))))
    assert "holds no row of 2025-06-03..2025-06-04" in result.notes[1]
    html = body(tmp_path / "report" / "2025-06-03_2025-06-04" / "index.html")
    assert "gold/cluster_day holds no row for these days." in html
    assert "No file holds readings of these days." in html
