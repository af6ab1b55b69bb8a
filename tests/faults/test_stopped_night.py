"""Nights that are stopped or killed: the record tells the truth, and the next night makes the days up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lepton_etl.days import Days
from lepton_etl.lake.check import check_lake
from lepton_etl.lake.runs import RunLease, RunRecord, StageRecord, end_lost_runs, waiting_days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.operations import RUN, STAGE_RUN
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from pipelines.publish import dirty_days
from tests.conftest import PROJECT
from tests.faults.site import DAY, SmallSite, ipmi_text

ONE = timedelta(days=1)


def started(config: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lepton_etl.cli", "nightly", "--engine", "local", "--config", str(config), *arguments],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Read standard error up to the line that says so."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith(beginning):
            return
    raise AssertionError(f"the night ended before {beginning!r}: {''.join(said)}")


def states(lake: Lake) -> list[tuple[str, int | None, str]]:
    rows = lake.read(RUN).filter(state="running").join(
        lake.read(RUN).filter(state="failed"), on="run_id", how="left"
    )  # fmt: skip
    return [(row["run_id"], row["exit_code_right"], row["message_right"] or "") for row in rows.to_dicts()]


def test_a_night_that_is_stopped_says_so(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    process = started(site.config, "--date", str(DAY))
    wait_for(process, f"bronze {DAY} (")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    last = said.rstrip().splitlines()[-1]
    assert "stopped by SIGTERM -> run the same command again" in last
    assert "Traceback" not in said
    ((_, exit_code, message),) = states(site.lake)
    assert exit_code == 1 and message.startswith("stopped by SIGTERM")
    assert not list((tmp_path / "lake" / "_leases").iterdir())
    (waits,) = waiting_days(site.lake).items()
    assert waits[0] == DAY and waits[1].message == message


def test_a_killed_run_is_ended_by_the_next_one(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    process = started(site.config, "--date", str(DAY))
    wait_for(process, f"bronze {DAY} (")
    process.kill()
    process.communicate(timeout=60)
    ((lost, exit_code, message),) = states(site.lake)
    assert (exit_code, message) == (None, "")
    leases = tmp_path / "lake" / "_leases"
    (leases / "run-silent.json").write_text("{}")
    with RunLease(site.lake, "living"):
        site.lake.write_rows(RUN, [{"run_id": "living", "state": "running", "start_time": datetime.now(UTC)}])
        notes = end_lost_runs(site.lake, "next")
        assert notes == [f"run {lost} for {DAY} was killed, or its machine stopped"]
        assert end_lost_runs(site.lake, "next") == []
        # One that was killed between its lease and its record is known by nothing else.
        assert [one.name for one in leases.glob("run-*")] == ["run-living.json"]
    found = {run_id: message for run_id, _, message in states(site.lake)}
    assert found == {lost: "the process was killed or the machine stopped: nothing was heard of it; told by run next",
                     "living": ""}  # fmt: skip
    assert list(waiting_days(site.lake)) == [DAY]


def ran(
    lake: Lake, run_id: str, own: Days, exit_code: int | None, *stages: tuple[str, Days, str], **row: Any
) -> None:
    """Lay down the record of a run."""
    common = {"run_id": run_id, "date_from": own.start, "date_until": own.end, "exit_code": exit_code}
    state = "done" if exit_code == 0 else "failed"
    lake.write_rows(RUN, [common | {"state": state, "message": f"exit {exit_code}"} | row])
    rows = [
        {"run_id": run_id, "stage": stage, "state": state, "date_from": days.start, "date_until": days.end}
        for stage, days, state in stages
    ]
    if rows:
        lake.write_rows(STAGE_RUN, rows)


def test_a_day_waits_until_a_whole_night_has_published_it(lake: Lake) -> None:
    first, second, third = (Days.of(DAY + ONE * n) for n in range(3))
    assert waiting_days(lake) == {}
    ran(lake, "1", first, 1, ("bronze", first, "done"), ("silver", first, "failed"))
    ran(lake, "2", first, 5)
    ran(lake, "3", first, 0, ("report", first, "done"), stage="report")
    assert list(waiting_days(lake)) == [first.start]
    # Killed after publish: its figures were never named, so readers do not see them.
    ran(lake, "4", second, None, ("publish", second, "done"), ("train", second, "failed"))
    ran(lake, "5", third, 3, ("gate", third, "failed"))
    found = waiting_days(lake)
    assert [(day, waits.run_id, waits.needs_a_person) for day, waits in found.items()] == [
        (first.start, "1", False), (second.start, "4", False), (third.start, "5", True),
    ]  # fmt: skip
    # A later night makes two of them up, and the third fails once more.
    own = Days.of(DAY + ONE * 3)
    ran(lake, "6", own, 6, ("publish", first, "done"), ("gold", second, "failed"), ("publish", third, "done"),
        ("publish", own, "done"))  # fmt: skip
    assert [(day, waits.run_id, waits.stage) for day, waits in waiting_days(lake).items()] == [
        (second.start, "6", "gold")
    ]


def test_a_stage_has_a_record_for_each_range_of_a_night(lake: Lake) -> None:
    record, now = RunRecord(lake, "1", Days.of(DAY), "0"), lake.now()
    for days in (Days.of(DAY - 2 * ONE), Days.of(DAY)):
        record.stage(StageRecord("silver", days, now, now, "done", 1, 1, "", {}, {}))
    assert lake.read(STAGE_RUN).height == 2
    assert list(check_lake(lake)) == []


def test_days_that_wait_are_ranges_of_their_own(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    ranges = dirty_days(site.lake, site.loaded(), Days.of(DAY), [DAY - ONE, DAY - 2 * ONE, DAY - 5 * ONE])
    assert ranges == [Days.of(DAY - 5 * ONE), Days(DAY - 2 * ONE, DAY - ONE), Days.of(DAY)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Path]:
    """A simulated site of two days; the logs of the second are held back."""
    site = tmp_path / "site"
    plan = FleetPlan(
        seed=11,
        first_date=DAY,
        days=2,
        clusters=(ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),),
    )
    simulate(plan, site)
    held = tmp_path / "held"
    held.mkdir()
    for file in (site / "landing").rglob(f"*{DAY + ONE}*"):
        (held / file.relative_to(site)).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, held / file.relative_to(site))
    yield site
    assert not held.exists()


@pytest.mark.slow
def test_the_next_night_makes_up_a_night_that_was_killed_before_gold(fleet: Path) -> None:
    lake = Lake(fleet / "lake")
    killed = started(fleet / "config.yaml", "--date", str(DAY))
    wait_for(killed, f"gate {DAY} (")
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    ((lost, _, _),) = states(lake)
    assert lake.as_published().read(CLUSTER_DAY).is_empty()
    shutil.copytree(fleet.parent / "held", fleet, dirs_exist_ok=True)
    shutil.rmtree(fleet.parent / "held")
    night = started(fleet / "config.yaml", "--date", str(DAY + ONE))
    said, errors = night.communicate(timeout=900)
    assert night.returncode == 0, errors
    assert f"run {lost} for {DAY} was killed, or its machine stopped" in said
    assert f"{DAY} waits since run" in said and "-> made up now" in said
    published: set[date] = set(lake.as_published().read(CLUSTER_DAY)["date"])
    assert published == {DAY, DAY + ONE}
    assert waiting_days(lake) == {}
