"""Logs of tables that are torn, empty, or not as they were made: recovered where the log allows it, named where not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from lepton_etl.days import Days
from lepton_etl.errors import Exit, LakeError
from lepton_etl.lake.check import check_lake
from lepton_etl.lake.creation import configuration_of
from lepton_etl.lake.nights import lost_tables, name_night
from lepton_etl.lake.runs import RunRecord, StageRecord
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import SITE_HOUR
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.operations import NIGHT, RUN
from lepton_etl.schema.types import arrow_schema
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from tests.faults.site import DAY, SmallSite, ipmi_text

ROWS = 25


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake whose ops/run has 26 versions, with checkpoints at 9 and 19."""
    lake = Lake(tmp_path_factory.mktemp("whole") / "lake")
    for number in range(ROWS):
        lake.write_rows(RUN, [{"run_id": f"r{number:02d}", "state": "done"}])
    return Path(lake.root.uri)


@pytest.fixture
def lake(whole: Path, tmp_path: Path) -> Lake:
    shutil.copytree(whole, tmp_path / "lake")
    return Lake(tmp_path / "lake")


def log_of(lake: Lake, table: Table = RUN) -> Path:
    return Path(lake.path(table)) / "_delta_log"


def commit(version: int) -> str:
    return f"{version:020d}.json"


CHECKPOINT = f"{19:020d}.checkpoint.parquet"


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [half, zeroed, empty])
@pytest.mark.parametrize("version", [25, 22])
def test_a_torn_commit_is_named_with_version_file_and_remedy(
    lake: Lake, damage: Callable[[Path], None], version: int
) -> None:
    damage(log_of(lake) / commit(version))
    told = rf"ops/run version {version} \(.*/_delta_log/{commit(version)}\): the commit is torn.* -> restore that file"
    for act in (
        lambda: lake.read(RUN),
        lambda: lake.files(RUN),
        lambda: lake.write_rows(RUN, [{"run_id": "new", "state": "done"}]),
    ):
        with pytest.raises(LakeError, match=told):
            act()
    (found,) = check_lake(lake, [RUN.name])
    assert "the commit is torn" in found.what and commit(version) in found.file


def test_without_a_copy_the_table_goes_on_before_its_torn_commit(lake: Lake) -> None:
    half(log_of(lake) / commit(25))
    with pytest.raises(LakeError, match=r"without one move it away.*at version 24"):
        lake.read(RUN)
    (log_of(lake) / commit(25)).rename(lake.root.uri + "/away")
    assert lake.version(RUN) == 24
    assert lake.read(RUN).height == ROWS - 1


def test_a_missing_commit_is_named(lake: Lake) -> None:
    (log_of(lake) / commit(23)).unlink()
    with pytest.raises(
        LakeError, match=rf"ops/run version 23 .*{commit(23)}\): the commit is missing -> restore"
    ):
        lake.read(RUN)


@pytest.mark.parametrize(
    "damage",
    [
        lambda log: half(log / CHECKPOINT),
        lambda log: empty(log / CHECKPOINT),
        lambda log: zeroed(log / CHECKPOINT),
        lambda log: (log / CHECKPOINT).unlink(),
        lambda log: half(log / "_last_checkpoint"),
        lambda log: empty(log / "_last_checkpoint"),
        lambda log: (log / "_last_checkpoint").write_text('{"version":99,"size":3}'),
    ],
    ids=["torn", "empty", "zeroed", "gone", "torn hint", "empty hint", "wrong hint"],
)
@pytest.mark.parametrize("commits", ["all", "since the one before"])
def test_a_bad_checkpoint_costs_nothing_where_the_log_has_its_commits(
    lake: Lake, damage: Callable[[Path], None], commits: str
) -> None:
    log = log_of(lake)
    if commits != "all":
        for version in range(9):
            (log / commit(version)).unlink()
    damage(log)
    assert lake.read(RUN).height == ROWS
    lake.write_rows(RUN, [{"run_id": "new", "state": "done"}])
    assert Lake(lake.root).read(RUN)["run_id"].n_unique() == ROWS + 1


def test_a_bad_checkpoint_whose_commits_have_expired_is_named(lake: Lake) -> None:
    log = log_of(lake)
    for version in range(12):
        (log / commit(version)).unlink()
    half(log / CHECKPOINT)
    with pytest.raises(
        LakeError, match=rf"ops/run version 19 \(.*{CHECKPOINT}\): the checkpoint cannot be read"
    ):
        lake.read(RUN)
    assert (log / CHECKPOINT).exists()


def test_an_old_version_is_read_beside_a_bad_checkpoint(lake: Lake) -> None:
    half(log_of(lake) / CHECKPOINT)
    assert lake.read(RUN).height == ROWS
    assert DeltaTable(lake.path(RUN), version=12).version() == 12


def emptied(lake: Lake, table: Table) -> None:
    for file in log_of(lake, table).iterdir():
        file.unlink()


def of_run(lake: Lake, *tables: Table) -> None:
    """Record a run that wrote the tables and published the day."""
    days = Days.of(DAY)
    if not lake.exists(SITE_HOUR):
        hour = {
            "date": DAY, "hour_start": days.from_time, "site_id": "s1", "pue_basis": "none", "energy_basis": "measured",
            "status": "provisional",
        }  # fmt: skip
        lake.write_rows(SITE_HOUR, [hour])
    written = {table.name: lake.version(table) or 0 for table in tables}
    record = RunRecord(lake, "r1", days, "")
    record.stage(StageRecord("gold", days, days.from_time, days.until_time, "done", 1, 1, "", {}, written))
    name_night(lake, days, "r1")


def grid_row() -> dict[str, object]:
    return {
        "date": DAY, "zone_id": "AA", "hour_start": Days.of(DAY).from_time, "intensity_basis": "direct",
        "signal": "average", "flow": "consumption", "carbon_intensity_gco2e_per_kwh": 200.0,
        "is_estimated": False, "source_name": "grid",
    }  # fmt: skip


@pytest.mark.parametrize("gone", ["content", "folder"])
def test_data_without_a_log_stop_the_night_in_one_line(tmp_path: Path, gone: str) -> None:
    lake = Lake(tmp_path / "lake")
    lake.write_rows(GRID_HOUR, [grid_row()])
    of_run(lake, GRID_HOUR)
    assert lost_tables(lake) == []
    emptied(lake, GRID_HOUR)
    if gone == "folder":
        log_of(lake, GRID_HOUR).rmdir()
    with pytest.raises(
        LakeError, match=r"silver/grid_hour \(.*_delta_log\): the table has data and no log -> restore"
    ):
        lost_tables(lake)
    (found,) = check_lake(lake, [GRID_HOUR.name])
    assert found.what == "the table has data and no log"
    # The operator has no copy, and moves it away: the night goes on, and says what is lost.
    Path(lake.path(GRID_HOUR)).rename(tmp_path / "away")
    (line,) = lost_tables(lake)
    assert line.startswith("silver/grid_hour is gone, which was at version 1: it is made anew")


def test_a_first_night_killed_before_its_first_commit_is_no_loss(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    of_run(lake)
    folder = Path(lake.path(GRID_HOUR))
    (folder / "date=2025-06-03").mkdir(parents=True)
    (folder / "date=2025-06-03" / "part-0.parquet").write_bytes(b"staged")
    assert lost_tables(lake) == []


def test_a_register_without_its_log_is_made_again(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    assert run_night(InlineEngine(), site.loaded(), Days.of(DAY), "bronze").exit_code == Exit.DONE
    emptied(site.lake, FILE)
    night = run_night(InlineEngine(), site.loaded(), Days.of(DAY), "bronze")
    assert night.exit_code == Exit.DONE
    assert "the register is rebuilt" in "".join(night.notes)
    site.is_conserved()


@pytest.mark.parametrize("table", [RUN, NIGHT], ids=lambda table: table.name)
def test_a_record_without_its_log_stops_the_night_before_it_is_made_anew(
    tmp_path: Path, table: Table
) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    night = run_night(InlineEngine(), site.loaded(), Days.of(DAY), "bronze")
    assert night.exit_code == Exit.DONE, night.message
    of_run(site.lake)
    emptied(site.lake, table)
    night = run_night(InlineEngine(), site.loaded(), Days.of(DAY), "bronze")
    assert night.exit_code == Exit.UNEXPECTED
    assert re.match(rf"{table.name} \(.*\): the table has data and no log -> restore", night.message)
    assert not list(log_of(site.lake, table).iterdir())


def test_a_torn_record_ends_the_night_with_its_line(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    assert run_night(InlineEngine(), site.loaded(), Days.of(DAY), "bronze").exit_code == Exit.DONE
    newest = max(log_of(site.lake).glob("*.json"))
    half(newest)
    done = site.command("nightly", "--engine", "local", "--date", str(DAY), "--stage", "bronze")
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert f"{newest.name}): the commit is torn" in last and "->" in last
    assert "Traceback" not in done.stderr


def made_anew(lake: Lake, table: Table, partition: list[str] | None = None) -> pl.DataFrame:
    """The table as another program makes it from its rows: no constraints, no properties."""
    rows = lake.read(table)
    shutil.rmtree(lake.path(table))
    write_deltalake(lake.path(table), rows.to_arrow().cast(arrow_schema(table)), partition_by=partition)
    return rows


def test_a_table_made_anew_without_its_constraints_gets_them_back_at_the_next_write(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.write_rows(GRID_HOUR, [grid_row()])
    made_anew(lake, GRID_HOUR, ["date"])
    lake.write_rows(GRID_HOUR, [grid_row() | {"zone_id": "BB"}])
    assert lake.read(GRID_HOUR)["zone_id"].sort().to_list() == ["AA", "BB"]
    log = DeltaTable(lake.path(GRID_HOUR))
    assert log.metadata().configuration.items() >= configuration_of(GRID_HOUR).items()
    assert log.protocol().min_writer_version == 3
    version = lake.version(GRID_HOUR)
    lake.write_rows(GRID_HOUR, [])
    assert lake.version(GRID_HOUR) == version


def test_a_table_made_anew_with_other_partitions_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.write_rows(GRID_HOUR, [grid_row()])
    made_anew(lake, GRID_HOUR)
    with pytest.raises(
        LakeError, match=r"silver/grid_hour version 0: partitioned by nothing, not by date.*-> restore"
    ):
        lake.write_rows(GRID_HOUR, [grid_row()])
