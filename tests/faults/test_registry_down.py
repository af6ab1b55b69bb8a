"""A model registry that does not answer: nobody waits beyond its deadline, and the figures are published without it."""

from __future__ import annotations

import fcntl
import json
import socketserver
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
import structlog

from lepton_etl.config.sections import ModelSettings
from lepton_etl.config.settings import MlflowSettings
from lepton_etl.days import Days
from lepton_etl.errors import Exit, RegistryError
from lepton_etl.lake.runs import UNANSWERED, recorded_models
from lepton_etl.lake.tables import Lake
from lepton_etl.models.registry import Registry
from lepton_etl.report.model import model_summary
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.operations import STAGE_RUN
from pipelines import gold
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from pipelines.stage import StageContext
from tests.faults.site import DAY, SmallSite, ipmi_text

DEADLINE_S = 2.0
LATE = r"model registry: no answer within 2 s \(mlflow.deadline_s\) -> look at mlflow.tracking_uri"


class _Dripping(socketserver.BaseRequestHandler):
    """Answers a byte at a time, for ever: no timeout of a socket ends that."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        try:
            while True:
                self.request.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            return


@pytest.fixture
def dripping() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Dripping) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def waits_no_longer(registry: Registry) -> None:
    import mlflow  # noqa: F401  # its import is no part of the wait

    begun = time.monotonic()
    with pytest.raises(RegistryError, match=LATE):
        registry.champion("node-energy")
    assert DEADLINE_S <= time.monotonic() - begun < DEADLINE_S + 2
    begun = time.monotonic()
    with pytest.raises(RegistryError, match="it missed its deadline before"):
        registry.verified_model("node-energy")
    assert time.monotonic() - begun < 0.5


def test_a_dripping_server_is_left_at_the_deadline(dripping: str) -> None:
    waits_no_longer(Registry(dripping, deadline_s=DEADLINE_S))


def test_a_held_lock_file_is_left_at_the_deadline(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Registry(uri, str(tmp_path / "artifacts")).make()
    with (tmp_path / "mlflow.db.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waits_no_longer(Registry(uri, deadline_s=DEADLINE_S))


def test_a_locked_database_is_left_at_the_deadline(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Registry(uri, str(tmp_path / "artifacts")).make()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        waits_no_longer(Registry(uri, deadline_s=DEADLINE_S))


def test_a_server_that_is_down_is_said_without_credentials() -> None:
    with pytest.raises(RegistryError) as told:
        Registry("http://user:secret@127.0.0.1:9").champion("node-energy")
    assert "127.0.0.1" in str(told.value)
    assert "secret" not in str(told.value)


def test_gaps_are_filled_without_it_and_the_run_says_so(tmp_path: Path, dripping: str) -> None:
    site = SmallSite(tmp_path, settings={"mlflow": {"tracking_uri": dripping, "deadline_s": DEADLINE_S}})
    days = Days.of(DAY)
    context = StageContext(site.lake, site.loaded(), days, "test", structlog.get_logger())
    gaps = pl.DataFrame({"hour_start": [days.from_time], "gap_s": [1800.0]})
    modelled, notes = gold.modelled_gaps(context, gaps)
    assert modelled is None
    assert notes[0].startswith("gaps are filled without node-energy: model registry: no answer within 2 s")
    assert "secret" not in notes[0]
    assert context.lake.inputs == {"model/node-energy": UNANSWERED}


def test_a_day_made_without_it_asks_for_the_champion_when_it_is_made_again(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.ensure(STAGE_RUN)
    for hour, version in enumerate((3, UNANSWERED)):
        row = {
            "run_id": f"r{hour}", "stage": "gold", "state": "done", "date_from": DAY, "date_until": DAY,
            "start_time": Days.of(DAY).from_time, "end_time": Days.of(DAY).from_time + timedelta(hours=hour),
            "input_versions": json.dumps({"model/node-energy": version}),
        }  # fmt: skip
        lake.write_rows(STAGE_RUN, [row])
        found = recorded_models(lake, "node-energy", Days.of(DAY))
        assert found == ({} if version == UNANSWERED else {DAY: "3"})


def snapshots(day: date, no_power: range = range(0)) -> bytes:
    """Load and power every five minutes of a day, power not in these minutes of it; power follows the hour."""
    lines = []
    for minute in range(0, 1440, 5):
        watts = 200 + minute // 60 % 3
        lines.append(f"Timestamp: {day} {minute // 60:02d}:{minute % 60:02d}:02 UTC\n")
        lines.append("CPU Usage                | 40 percent        | ok\n")
        if minute not in no_power:
            lines.append(f"Sys Power                | {watts} Watts         | ok\n")
    return "".join(lines).encode()


def test_a_gap_takes_the_nodes_own_history_end_to_end(tmp_path: Path) -> None:
    """Logs to gold with nobody behind the registry's address: the hour of the gap is filled, and says by what."""
    down = {"tracking_uri": "http://user:secret@127.0.0.1:9", "deadline_s": DEADLINE_S}
    site = SmallSite(tmp_path, settings={"mlflow": down})
    before = DAY - timedelta(days=1)
    site.deliver(f"n1-{before}.txt", snapshots(before))
    site.deliver(f"n1-{DAY}.txt", snapshots(DAY, range(10 * 60 + 15, 10 * 60 + 50)))
    settings = site.loaded()
    for day in (before, DAY):
        for stage in ("bronze", "silver", "gold"):
            night = run_night(InlineEngine(), settings, Days.of(day), stage)
            assert night.exit_code == Exit.DONE, night.message
    assert any("gaps are filled without node-energy: model registry: " in note for note in night.notes)
    hours = site.lake.read(NODE_HOUR, Days.of(DAY)).filter(node_id="n1").sort("hour_start")
    gap, others = hours.row(10, named=True), hours.filter(pl.col("hour_start").dt.hour() != 10)
    assert gap["imputation_basis"] == "history"
    assert 1800 < gap["imputed_s"] < 2700
    # 201 W all hour, of which a part was seen.
    assert gap["it_energy_measured_kwh"] < 0.15
    assert gap["it_energy_measured_kwh"] + gap["it_energy_imputed_kwh"] == pytest.approx(0.201, rel=0.02)
    assert "model" not in set(others["imputation_basis"])
    runs = site.lake.read(STAGE_RUN).filter(stage="gold")["input_versions"]
    assert json.loads(runs[-1])["model/node-energy"] == UNANSWERED


@pytest.mark.slow
def test_a_night_publishes_its_figures_without_it(tmp_path: Path, dripping: str) -> None:
    site = SmallSite(tmp_path, settings={"mlflow": {"tracking_uri": dripping, "deadline_s": DEADLINE_S}})
    site.deliver("n1-2025-06-03.txt", ipmi_text(200, 60))
    done = site.command("nightly", "--engine", "local", "--date", str(DAY))
    # What comes after publication asks the registry too, and says that it failed.
    assert done.returncode == 6, done.stderr
    assert "secret" not in done.stdout + done.stderr
    days = Days.of(DAY)
    assert site.lake.as_published(days).read(CLUSTER_DAY, days).height == 1


def test_the_page_says_that_it_does_not_answer(dripping: str) -> None:
    settings = MlflowSettings(tracking_uri=dripping, deadline_s=DEADLINE_S)
    found = model_summary(settings, ModelSettings(), "")
    assert found is not None
    assert found.outcome == "unknown."
    assert "no answer within 2 s" in found.notes[0]
