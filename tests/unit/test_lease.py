"""Leases: one holder, a dead holder gives way, a living one does not."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from lepton_etl.days import Days
from lepton_etl.errors import Exit, LockedError
from lepton_etl.lake.lease import DaysLease, Lease

HOLD = """
import sys, time
from pathlib import Path
from lepton_etl.lake.lease import Lease
with Lease(Path(sys.argv[1]), "bronze", "other-run"):
    print("held", flush=True)
    time.sleep(120)
"""


def test_a_second_run_is_refused_by_name_and_gets_it_afterwards(tmp_path: Path) -> None:
    with Lease(tmp_path, "bronze", "first"):
        with (
            pytest.raises(LockedError, match="held by run first") as caught,
            Lease(tmp_path, "bronze", "second"),
        ):
            pass
        assert caught.value.exit_code == Exit.LOCKED
    with Lease(tmp_path, "bronze", "second"):
        assert json.loads((tmp_path / "_leases" / "bronze.json").read_text())["run_id"] == "second"
    assert not list((tmp_path / "_leases").iterdir())


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(LockedError, match="other-run"), Lease(tmp_path, "bronze", "mine"):
        pass
    holder.kill()
    holder.wait()
    with Lease(tmp_path, "bronze", "mine"):
        pass


@pytest.mark.parametrize(("silent_s", "free"), [(60, False), (3600, True)])
def test_a_holder_on_another_host_is_judged_by_its_heartbeat(
    tmp_path: Path, silent_s: int, free: bool
) -> None:
    folder = tmp_path / "_leases"
    folder.mkdir()
    beat = (datetime.now(UTC) - timedelta(seconds=silent_s)).isoformat()
    (folder / "bronze.json").write_text(
        json.dumps({"run_id": "far", "host": "elsewhere", "pid": 1, "heartbeat_time": beat})
    )
    if free:
        with Lease(tmp_path, "bronze", "mine"):
            pass
    else:
        with pytest.raises(LockedError, match="far"), Lease(tmp_path, "bronze", "mine"):
            pass


def test_days_are_one_lease_and_another_run_gets_those_that_are_free(tmp_path: Path) -> None:
    years = Days(date(2022, 1, 1), date(2024, 12, 31))
    june = [Days(date(2025, 6, 1), date(2025, 6, 2)), Days.of(date(2025, 6, 9))]
    with DaysLease(tmp_path, [years], "first"):
        assert [file.name for file in (tmp_path / "_leases").iterdir()] == ["days-first.json"]
        with DaysLease(tmp_path, june, "second"):
            wanted = Days(date(2025, 6, 5), date(2025, 6, 10))
            with (
                pytest.raises(LockedError, match="lease 'day-2025-06-09' is held by run second"),
                DaysLease(tmp_path, [Days.of(date(2025, 7, 1)), wanted], "third"),
            ):
                pass
            # What was refused holds nothing.
            assert {file.name for file in (tmp_path / "_leases").iterdir()} == {
                "days-first.json",
                "days-second.json",
            }
        with DaysLease(tmp_path, [wanted], "third"):
            pass
    assert not list((tmp_path / "_leases").iterdir())


def test_the_days_of_a_killed_process_are_taken_over(tmp_path: Path) -> None:
    code = HOLD.replace(
        'Lease(Path(sys.argv[1]), "bronze", "other-run")',
        'DaysLease(Path(sys.argv[1]), [Days.of(date(2025, 6, 3))], "other-run")',
    ).replace("import Lease", "import DaysLease; from lepton_etl.days import Days; from datetime import date")
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    mine = DaysLease(tmp_path, [Days.of(date(2025, 6, 3))], "mine")
    with pytest.raises(LockedError, match=r"day-2025-06-03.*other-run"), mine:
        pass
    holder.kill()
    holder.wait()
    with DaysLease(tmp_path, [Days.of(date(2025, 6, 3))], "mine"):
        pass
