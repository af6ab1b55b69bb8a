"""SIGKILL at the points of a night that matter most; any other point is tried by test_random_mixtures."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake.exceptions import DeltaError

from lepton_etl.days import Days
from lepton_etl.lake.compare import compare_lakes
from lepton_etl.lake.log_files import open_log
from lepton_etl.lake.runs import follow_clock, new_run_id, waiting_days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.logs import FILE, READING
from lepton_etl.schema.operations import NIGHT, RUN
from lepton_etl.schema.publication import PUBLICATION
from tests.faults.site import DAY, SmallSite, ipmi_text
from tests.faults.test_random_mixtures import COMPARED, LEFT_OUT
from tests.nights import Kill, Nights

WEEK_S = 8 * 86_400


@dataclass(frozen=True)
class Quiet:
    """A site of two files, the lake of an undisturbed night beside it, and what runs further nights."""

    nights: Nights
    site: SmallSite
    lake: Path

    def killed(self, number: int, *words: str) -> Lake:
        shutil.rmtree(self.site.folder / "lake", ignore_errors=True)
        self.nights.run(self.site.config, DAY, kill=Kill(number, words), leave_out=LEFT_OUT)
        return self.site.lake

    def is_mended_by_the_next_run(self) -> None:
        ended = self.nights.run(self.site.config, DAY, leave_out=LEFT_OUT)
        assert ended.exit_code == 0, ended.message
        compared = compare_lakes(self.lake, self.site.folder / "lake", only=COMPARED)
        assert [line for one in compared if not one.equal for line in one.lines()] == []
        self.site.is_conserved()


@pytest.fixture(scope="module")
def quiet(nights: Nights, tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    site = SmallSite(tmp_path_factory.mktemp("points"))
    site.deliver("n1-2025-06-03.txt", ipmi_text(200, 20))
    site.deliver("n2-2025-06-03.txt", ipmi_text(300, 20) + b"garbage\n")
    assert nights.run(site.config, DAY, leave_out=LEFT_OUT).exit_code == 0
    return Quiet(nights, site, Path(shutil.move(site.folder / "lake", site.folder / "quiet")))


def test_after_bronze_and_before_silver(quiet: Quiet) -> None:
    lake = quiet.killed(1, "before silver/interval")
    assert lake.read(READING).height == 80 and lake.read(INTERVAL).is_empty()
    quiet.is_mended_by_the_next_run()


def test_between_the_data_files_and_their_commit(quiet: Quiet) -> None:
    """What was staged is seen by nobody, and VACUUM removes what nobody names once it is old enough."""
    lake = quiet.killed(1, "before bronze/reading")
    assert lake.read(READING).is_empty()
    (staged,) = Path(lake.path(READING)).rglob("*.parquet")
    orphan = staged.with_name("part-" + "0" * 32 + ".parquet")
    shutil.copyfile(staged, orphan)
    quiet.is_mended_by_the_next_run()
    log = quiet.site.lake.log(READING)
    assert log.vacuum(dry_run=False, full=True) == []
    old = time.time() - WEEK_S
    os.utime(orphan, (old, old))
    (removed,) = log.vacuum(dry_run=False, full=True)
    assert removed.endswith(orphan.name) and not orphan.exists()
    assert quiet.site.lake.read(READING).height == 80


def test_after_the_commit_and_before_the_register_is_marked(quiet: Quiet) -> None:
    lake = quiet.killed(1, "after bronze/reading")
    version = lake.version(READING)
    assert lake.read(READING).height == 80
    assert set(lake.read(FILE)["state"]) == {"planned"}
    quiet.is_mended_by_the_next_run()
    assert quiet.site.lake.version(READING) == version


def test_between_two_tables_of_gold(quiet: Quiet) -> None:
    lake = quiet.killed(2, "after gold/")
    assert lake.as_published().read(INTERVAL).height > 0
    quiet.is_mended_by_the_next_run()


def test_a_run_whose_clock_was_ahead_does_not_stay_the_newest(quiet: Quiet) -> None:
    lake = quiet.killed(1, "after silver/interval")
    ahead = datetime.now(UTC) + timedelta(hours=26)
    row = {
        "run_id": new_run_id(ahead),
        "state": "failed",
        "exit_code": 1,
        "message": "stopped",
        "start_time": ahead,
    }
    lake.write_rows(RUN, [row | {"date_from": DAY, "date_until": DAY, "end_time": ahead}])
    assert list(waiting_days(lake)) == [DAY]
    quiet.is_mended_by_the_next_run()
    assert waiting_days(lake) == {}
    times = pl.concat([lake.read(table)["published_time"] for table in (PUBLICATION, NIGHT)])
    assert times.min() > ahead
    (note,) = follow_clock(lake)
    assert note.startswith("this machine's clock is 1 day, ") and "-> set the clock" in note


def test_a_vacuum_without_retention_is_refused(quiet: Quiet) -> None:
    """Old versions stay readable for the time that the table's properties say."""
    quiet.killed(1, "before ops/night")
    lake = quiet.site.lake
    before = lake.read(INTERVAL)
    lake.replace(INTERVAL, Days.of(DAY), before.head(3))
    version = lake.log(INTERVAL).version()
    with pytest.raises(DeltaError, match="retention"):
        lake.log(INTERVAL).vacuum(retention_hours=0, dry_run=False, full=True)
    assert open_log(lake.at(INTERVAL), version - 1).to_pyarrow_table().num_rows == before.height
