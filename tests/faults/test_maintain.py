"""Maintenance removes what nobody needs, and nothing else: not what is young, nor what ops/night still names."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.days import Days
from lepton_etl.errors import Exit, LockedError
from lepton_etl.lake.check import check_lake
from lepton_etl.lake.lease import Lease
from lepton_etl.lake.maintenance import SMALL_FILES, Maintained, maintain
from lepton_etl.lake.nights import name_night
from lepton_etl.lake.staging import stage
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import SITE_HOUR
from lepton_etl.schema.operations import RUN
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from tests.faults.site import DAY, SmallSite, ipmi_text

KEPT = 30
DAYS = Days.of(DAY)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def site_hours(hours: int) -> pl.DataFrame:
    one = {
        "date": DAY,
        "site_id": "s1",
        "pue_basis": "none",
        "energy_basis": "measured",
        "status": "provisional",
    }
    return pl.DataFrame(
        [one | {"hour_start": DAYS.from_time + timedelta(hours=hour)} for hour in range(hours)]
    )


def aged(lake: Lake, days: float) -> None:
    """The files of the lake as they are so many days later, in their log too."""
    then = time.time() - 86_400 * days
    for path in Path(lake.root.uri).rglob("*"):
        if path.suffix == ".json" and path.parent.name == "_delta_log":
            text = path.read_text()
            # Removals carry their own time; the log's versions have that of their files.
            path.write_text(_moved(text, then))
        if path.is_file():
            os.utime(path, (then, then))


def _moved(text: str, then: float) -> str:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        if "remove" in line:
            line["remove"]["deletionTimestamp"] = int(1000 * then)
        if "commitInfo" in line:
            line["commitInfo"]["timestamp"] = int(1000 * then)
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def maintained(lake: Lake, table: str, **how: bool) -> Maintained:
    return next(one for one in maintain(lake, "m1", KEPT, **how) if one.table == table)


def parquet(lake: Lake) -> set[str]:
    return {
        path.name for path in Path(lake.path(SITE_HOUR)).rglob("*.parquet") if "checkpoint" not in path.name
    }


def test_files_of_old_versions_go_when_they_are_old_enough(lake: Lake) -> None:
    for hours in (1, 2, 3):
        lake.replace(SITE_HOUR, DAYS, site_hours(hours))
    name_night(lake, DAYS, "r1")
    assert len(parquet(lake)) == 3
    assert maintained(lake, SITE_HOUR.name).removed_files == 0
    aged(lake, KEPT + 1)
    dry = maintained(lake, SITE_HOUR.name, dry_run=True)
    assert (dry.removed_files, len(parquet(lake))) == (2, 3)
    done = maintained(lake, SITE_HOUR.name)
    assert done.removed_files == 2 and done.removed_bytes == dry.removed_bytes > 0
    assert (done.rows, done.files, done.days) == (3, 1, 1)
    assert len(parquet(lake)) == 1
    assert lake.read(SITE_HOUR).height == 3
    assert lake.as_published(DAYS).read(SITE_HOUR).height == 3
    # What has nothing to do makes no commit.
    version = lake.version(SITE_HOUR)
    assert maintained(lake, SITE_HOUR.name).version == version
    assert list(check_lake(lake)) == []


def test_what_ops_night_still_names_stays(lake: Lake) -> None:
    """A night that was killed between its commits: its readers see the one before, however long ago that was."""
    lake.replace(SITE_HOUR, DAYS, site_hours(1))
    name_night(lake, DAYS, "r1")
    lake.replace(SITE_HOUR, DAYS, site_hours(2))
    lake.replace(SITE_HOUR, DAYS, site_hours(3))
    aged(lake, 400)
    assert maintained(lake, SITE_HOUR.name).removed_files == 1
    assert Lake(lake.root).as_published(DAYS).read(SITE_HOUR).height == 1
    assert lake.read(SITE_HOUR).height == 3


@pytest.mark.parametrize(("days", "left"), [(KEPT - 1, 1), (KEPT + 1, 0)])
def test_what_a_killed_task_staged_goes_when_no_task_can_still_run(
    lake: Lake, days: float, left: int
) -> None:
    lake.replace(SITE_HOUR, DAYS, site_hours(1))
    (orphan,) = stage(lake.root, SITE_HOUR, site_hours(2))
    name_night(lake, DAYS, "r1")
    aged(lake, days)
    maintained(lake, SITE_HOUR.name)
    assert (Path(lake.path(SITE_HOUR)) / orphan.path).exists() == bool(left)
    assert lake.read(SITE_HOUR).height == 1


def test_it_never_goes_below_the_least_days(lake: Lake) -> None:
    for hours in (1, 2):
        lake.replace(SITE_HOUR, DAYS, site_hours(hours))
    aged(lake, 6)
    assert not any(one.removed_files for one in maintain(lake, "m1", 0))
    aged(lake, 8)
    assert any(one.removed_files for one in maintain(lake, "m1", 0))


def test_the_small_files_of_the_run_record_are_put_together(lake: Lake) -> None:
    for number in range(SMALL_FILES):
        lake.write_rows(RUN, [{"run_id": f"r{number:02d}", "state": "done"}])
    done = maintained(lake, RUN.name)
    assert (done.files, done.rows, done.put_together) == (1, SMALL_FILES, 1)
    assert lake.read(RUN)["run_id"].n_unique() == SMALL_FILES
    assert list(Path(lake.path(RUN)).glob(f"_delta_log/{done.version:020d}.checkpoint*"))
    lake.write_rows(RUN, [{"run_id": "new", "state": "done"}])
    assert lake.read(RUN).height == SMALL_FILES + 1


def test_each_night_puts_its_record_together(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    for number in range(SMALL_FILES):
        site.lake.write_rows(RUN, [{"run_id": f"r{number:02d}", "state": "done", "exit_code": 4}])
    night = run_night(InlineEngine(), site.loaded(), DAYS, "bronze")
    assert night.exit_code == Exit.DONE, night.message
    assert len(site.lake.files(RUN)) == 2
    assert site.lake.read(RUN).height == SMALL_FILES + 2
    # Two that put the same files together would leave every row twice.
    with Lease(Lake(site.lake.root), "record", "another"):
        for number in range(SMALL_FILES):
            site.lake.write_rows(RUN, [{"run_id": f"s{number:02d}", "state": "done", "exit_code": 4}])
        assert run_night(InlineEngine(), site.loaded(), DAYS, "bronze").exit_code == Exit.DONE
    assert len(site.lake.files(RUN)) > SMALL_FILES


def test_it_waits_for_no_night_and_disturbs_none(lake: Lake) -> None:
    lake.replace(SITE_HOUR, DAYS, site_hours(1))
    with Lease(Lake(lake.root), "bronze", "night"), pytest.raises(LockedError, match="held by run night"):
        list(maintain(lake, "m1", KEPT))


def test_the_verb_maintains_a_lake_and_the_next_night_goes_on(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    for number in range(1, 3):
        site.deliver(f"n{number}-2025-06-03.txt", ipmi_text(200 + number))
        site.bronze()
    done = site.verb("maintain", "--keep-days", "7")
    assert done.returncode == 0, done.stderr
    assert "bronze/reading" in done.stdout
    assert "a day adds" in done.stdout.splitlines()[-1]
    site.deliver("n3-2025-06-03.txt", ipmi_text(203))
    site.bronze()
    site.is_conserved()
    assert site.verb("maintain", "--keep-days", "6").returncode == 2
