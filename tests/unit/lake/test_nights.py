"""Nights seen whole: what a reader sees between the commits of a night, after it, and once old versions are gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lepton_etl.days import Days
from lepton_etl.lake.nights import adopt, name_night
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.declare import Table
from lepton_etl.schema.diagnosis import DEVICE_NOW, FORECAST
from lepton_etl.schema.energy import CLUSTER_DAY, SITE_HOUR
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.ledger import BILL_CHECK
from lepton_etl.schema.operations import NIGHT
from lepton_etl.schema.types import arrow_schema

DAY = date(2025, 6, 3)
NEXT = DAY + timedelta(days=1)
BOTH = Days(DAY, NEXT)


def rows_of(table: Table, days: Sequence[date], energy_kwh: float) -> pl.DataFrame:
    """A row a day with its required columns and one figure."""
    rows = []
    for day in days:
        values: dict[str, object] = {}
        for field in table.fields:
            if field.name in table.required or field.name == "it_energy_kwh":
                values[field.name] = {
                    "string": field.one_of[0] if field.one_of else "a",
                    "double": energy_kwh,
                    "int": 1,
                    "bigint": 1,
                    "boolean": True,
                    "date": day,
                    "timestamp": datetime(day.year, day.month, day.day, tzinfo=UTC),
                }[field.type]
        rows.append(values)
    return pl.DataFrame(pa.Table.from_pylist(rows, schema=arrow_schema(table)))


def make(lake: Lake, table: Table, energy_kwh: float, *days: date) -> None:
    span = Days(days[0], days[-1])
    lake.replace(table, span, rows_of(table, days, energy_kwh))


def seen(lake: Lake, table: Table = CLUSTER_DAY, days: Days | None = BOTH) -> dict[date, float]:
    rows = lake.as_published(days).read(table, days)
    return dict(rows.select("date", "it_energy_kwh").sort("date").iter_rows())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake whose first day was published with 10 kWh in two tables."""
    lake = Lake(tmp_path / "lake")
    assert adopt(lake, "first") is not None
    for table in (CLUSTER_DAY, SITE_HOUR):
        make(lake, table, 10.0, DAY)
    name_night(lake, Days.of(DAY), "first")
    return lake


def test_a_lake_that_was_never_named_is_read_as_it_stands(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    make(lake, CLUSTER_DAY, 10.0, DAY)
    assert seen(lake) == {DAY: 10.0}


def test_what_an_older_release_made_is_seen_until_the_night_is_whole(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    make(lake, CLUSTER_DAY, 10.0, DAY)
    adopt(lake, "r")
    assert adopt(lake, "r") is None
    make(lake, CLUSTER_DAY, 20.0, DAY, NEXT)
    assert seen(lake) == {DAY: 10.0}
    name_night(lake, BOTH, "r")
    assert seen(lake) == {DAY: 20.0, NEXT: 20.0}


def test_between_the_commits_of_a_night_the_former_one_is_seen_whole(lake: Lake) -> None:
    make(lake, CLUSTER_DAY, 20.0, DAY, NEXT)
    assert (seen(lake), seen(lake, SITE_HOUR)) == ({DAY: 10.0}, {DAY: 10.0})
    make(lake, SITE_HOUR, 20.0, DAY, NEXT)
    assert (seen(lake), seen(lake, SITE_HOUR)) == ({DAY: 10.0}, {DAY: 10.0})
    name_night(lake, BOTH, "second")
    after = {DAY: 20.0, NEXT: 20.0}
    assert (seen(lake), seen(lake, SITE_HOUR), seen(lake, days=None)) == (after, after, after)
    assert [file.day for file in lake.as_published().files(CLUSTER_DAY, BOTH)] == [DAY, NEXT]


def test_a_reader_keeps_the_night_that_it_began_with(lake: Lake) -> None:
    reader = lake.as_published(BOTH)
    make(lake, CLUSTER_DAY, 20.0, DAY)
    name_night(lake, Days.of(DAY), "second")
    assert reader.read(CLUSTER_DAY, BOTH)["it_energy_kwh"].to_list() == [10.0]
    assert seen(lake) == {DAY: 20.0}


def test_the_same_night_again_writes_no_row(lake: Lake) -> None:
    version = lake.version(NIGHT)
    make(lake, CLUSTER_DAY, 10.0, DAY)
    assert not name_night(lake, Days.of(DAY), "again").changed
    assert lake.version(NIGHT) == version


def test_a_night_is_named_in_one_commit(lake: Lake) -> None:
    """Its own days and the first days of its month and year, which do not adjoin."""
    before = lake.version(NIGHT)
    assert before is not None
    make(lake, KPI, 5.0, DAY.replace(month=1, day=1))
    make(lake, KPI, 5.0, DAY.replace(day=1))
    make(lake, CLUSTER_DAY, 20.0, DAY, NEXT)
    assert name_night(lake, BOTH, "second").rows == 4
    assert lake.version(NIGHT) == before + 1


def test_a_day_of_which_only_another_day_speaks_is_not_published(lake: Lake) -> None:
    """A month's figure stands under its first day, a forecast under the next: their tables and no others are seen."""
    first = DAY.replace(day=1)
    make(lake, KPI, 5.0, first)
    make(lake, FORECAST, 5.0, NEXT)
    for table in (CLUSTER_DAY, SITE_HOUR):
        make(lake, table, 7.0, first)
        make(lake, table, 7.0, NEXT)
    name_night(lake, Days.of(DAY), "second")
    month = Days(first, NEXT)
    assert lake.as_published(month).read(KPI, month)["date"].to_list() == [first]
    assert lake.as_published(month).read(FORECAST, month)["date"].to_list() == [NEXT]
    assert seen(lake, days=month) == {DAY: 10.0}
    # A single stage of that day that is run alone does not publish it either.
    name_night(lake, Days.of(NEXT), "third", only_named=True)
    assert seen(lake, days=month) == {DAY: 10.0}
    name_night(lake, Days.of(NEXT), "fourth")
    assert seen(lake, days=month) == {DAY: 10.0, NEXT: 7.0}


def test_a_table_without_days_is_seen_as_the_last_night_left_it(lake: Lake) -> None:
    bill = {"site_id": "s", "month": "2025-06"}
    required = rows_of(BILL_CHECK, [DAY], 1.0).with_columns(
        **{name: pl.lit(value) for name, value in bill.items()}
    )
    lake.overwrite(BILL_CHECK, required)
    assert lake.as_published().read(BILL_CHECK).is_empty()
    name_night(lake, Days.of(DAY), "second")
    assert lake.as_published().read(BILL_CHECK).height == 1
    lake.overwrite(BILL_CHECK, pl.concat([required, required.with_columns(month=pl.lit("2025-07"))]))
    assert lake.as_published().read(BILL_CHECK).height == 1


def test_tables_of_no_night_are_read_as_they_stand(lake: Lake) -> None:
    make(lake, GRID_HOUR, 1.0, DAY)
    assert lake.as_published(BOTH).read(GRID_HOUR, BOTH).height == 1
    now = rows_of(DEVICE_NOW, [DAY], 1.0)
    lake.overwrite(DEVICE_NOW, now)
    assert lake.as_published().read(DEVICE_NOW).height == 1


def test_once_a_version_has_expired_the_newest_with_the_same_files_counts(lake: Lake) -> None:
    named = lake.version(CLUSTER_DAY)
    make(lake, CLUSTER_DAY, 30.0, NEXT)  # A version later the day of the night still has its files.
    make(lake, CLUSTER_DAY, 20.0, DAY)  # And is then made anew, by a night that is killed here.
    folder = Path(lake.path(CLUSTER_DAY)) / "_delta_log"
    assert named is not None
    # What the cleaning of the log leaves: nothing that can be read before the version after the named one.
    DeltaTable(lake.path(CLUSTER_DAY), version=named + 1).create_checkpoint()
    for number in range(named + 1):
        (folder / f"{number:020d}.json").unlink()
    assert seen(lake) == {DAY: 10.0}


def test_where_the_old_files_are_gone_too_the_rows_that_stand_are_seen(lake: Lake) -> None:
    (old,) = lake.files(CLUSTER_DAY, Days.of(DAY))
    make(lake, CLUSTER_DAY, 20.0, DAY)
    Path(old.path).unlink()
    assert seen(lake) == {DAY: 20.0}
