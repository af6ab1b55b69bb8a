"""A file that comes a night late, on real Delta tables: what it re-opens, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pytest

from lepton_etl.cli.publication import figures_as_of
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table  # fmt: skip
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, GRID_HOUR, INTERVAL, WEATHER_HOUR
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.operations import RUN, STAGE_RUN
from lepton_etl.schema.publication import RESTATEMENT
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from pipelines.publish import dirty_days

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Nights:
    """A simulated site of which one node's log of D - 3 came a night late, and what its tables' files were before."""

    settings: Settings
    before: dict[str, dict[str, str]]
    ranges: list[str]
    between: datetime

    def rows(self, table: Table, days: Days | None = None) -> pl.DataFrame:
        frame = pl.from_arrow(Lake(self.settings.lake.root).arrow(table, days))
        assert isinstance(frame, pl.DataFrame)
        return frame


LAST = date(2025, 6, 7)
LATE = date(2025, 6, 4)
TWO_DAYS_BEFORE = Days(date(2025, 6, 2), date(2025, 6, 6))
DAILY = (
    INTERVAL,
    FACILITY_INTERVAL,
    GRID_HOUR,
    WEATHER_HOUR,
    NODE_HOUR,
    SITE_HOUR,
    CLUSTER_HOUR,
    CLUSTER_DAY,
)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Five days in one range, then the night of the sixth, in which a file of the third arrives."""
    folder = tmp_path_factory.mktemp("late")
    plan = FleetPlan(
        seed=11,
        first_date=TWO_DAYS_BEFORE.start,
        days=6,
        clusters=(ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),),
    )
    simulate(plan, folder)
    landing = folder / "landing"
    (late,) = landing.glob(f"ipmi/*001-{LATE}.txt*")
    of_last = [file for file in landing.rglob(f"*{LAST}*") if file.is_file()]
    held = {file: folder / f"held-{number}" for number, file in enumerate([late, *of_last])}
    for file, place in held.items():
        file.rename(place)
    settings = load(folder / "config.yaml")
    lake = Lake(settings.lake.root)
    stages(settings, TWO_DAYS_BEFORE, "bronze", "silver", "gold", "publish")
    record_a_whole_night(lake)
    before = {table.name: lake.files_by_day(table) for table in DAILY}
    between = datetime.now(UTC)
    for file, place in held.items():
        place.rename(file)
    stages(settings, Days.of(LAST), "bronze")
    ranges = dirty_days(lake, settings, Days.of(LAST))
    for days in ranges:
        stages(settings, days, "silver", "gold", "publish")
    return Nights(settings, before, [str(days) for days in ranges], between)


def stages(settings: Settings, days: Days, *names: str) -> None:
    for name in names:
        done = run_night(InlineEngine(), settings, days, name)
        assert done.exit_code == Exit.DONE, done.message


def record_a_whole_night(lake: Lake) -> None:
    batch = max(lake.read(FILE, columns=["batch"])["batch"].to_list())
    days = {"date_from": TWO_DAYS_BEFORE.start, "date_until": TWO_DAYS_BEFORE.end}
    stage = days | {"run_id": "whole", "stage": "publish", "state": "done"}
    lake.write_rows(STAGE_RUN, [stage | {"input_versions": json.dumps({"bronze/file batch": batch})}])
    lake.write_rows(RUN, [{"run_id": "whole", "state": "done", "exit_code": 0}])


@pytest.mark.slow
def test_a_late_file_changes_its_day_and_the_intervals_across_its_midnights_and_nothing_else(
    nights: Nights,
) -> None:
    assert nights.ranges == ["2025-06-03..2025-06-07"]
    # Delta's own record: no file of another day was removed or added. The night of the 7th closes the 6th.
    lake, reached = Lake.of(nights.settings), {"2025-06-03", "2025-06-04", "2025-06-05", "2025-06-06"}
    for table in DAILY:
        after, before = lake.files_by_day(table), nights.before[table.name]
        changed = {day for day in before if after[day] != before[day]}
        assert changed <= reached, table.name
        assert (LATE.isoformat() in changed) == (table not in (FACILITY_INTERVAL, GRID_HOUR, WEATHER_HOUR))
    # Of the neighbours only the interval at the shared midnight is another, of this node alone.
    log = lake.log(INTERVAL)
    now = nights.rows(INTERVAL, Days(TWO_DAYS_BEFORE.start, LATE + timedelta(days=1)))
    log.load_as_version(1)
    old = pl.DataFrame(pa.table(log.to_pyarrow_table()))
    other = now.filter(pl.col("date") != LATE).join(old, on=now.columns, how="anti", nulls_equal=True)
    assert set(other["interval_start"].dt.strftime("%m-%d %H:%M")) == {"06-03 23:55", "06-05 00:00"}
    assert other["node_id"].n_unique() == 1


@pytest.mark.slow
def test_the_night_of_the_late_file_says_what_it_changed_and_as_of_shows_the_old_figure(
    nights: Nights,
) -> None:
    root, name = nights.settings.lake.root, CLUSTER_DAY.name
    restated = nights.rows(RESTATEMENT).filter(pl.col("table_name") == name)
    # The night of the 7th tells of jobs that cross from the 6th; the neighbours move by less than the least change.
    assert LATE in set(restated["date"]) <= {LATE, LAST - timedelta(days=1)}
    restated = restated.filter(pl.col("date") == LATE)
    assert set(restated["reasons"]) == {"late_readings"}
    assert "it_energy_measured_kwh" in set(restated["column_name"])
    _, then = figures_as_of(Lake(root), name, nights.between, Days.of(LATE))
    _, now = figures_as_of(Lake(root), name, datetime.now(UTC), Days.of(LATE))
    measured = [
        {row["cluster_id"]: row["it_energy_measured_kwh"] for row in rows.to_pylist()} for rows in (then, now)
    ]
    assert measured[0]["c01"] < 0.8 * measured[1]["c01"]
    gold = {
        row["cluster_id"]: row["it_energy_measured_kwh"]
        for row in nights.rows(CLUSTER_DAY, Days.of(LATE)).to_dicts()
    }
    assert measured[1] == gold
