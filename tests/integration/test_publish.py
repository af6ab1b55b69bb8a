"""Publishing, closing and asking back on real Delta tables; all but the last test without a JVM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from lepton_etl.cli.main import app
from lepton_etl.cli.publication import figures_as_of, moment_of
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, LockedError, NoInputError
from lepton_etl.lake.lease import DaysLease
from lepton_etl.lake.runs import follow_clock
from lepton_etl.lake.tables import Lake, Written
from lepton_etl.registers.factors import load_factors
from lepton_etl.registers.inventory import read_nodes
from lepton_etl.schema.declare import Table  # fmt: skip
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.fleet import NODE
from lepton_etl.schema.jobs import JOB_RUN
from lepton_etl.schema.logs import FILE, JOB
from lepton_etl.schema.operations import RUN, STAGE_RUN
from lepton_etl.schema.publication import PERIOD, PUBLICATION, RESTATEMENT
from lepton_etl.schema.types import arrow_schema
from pipelines.publish import Press, close_month, dirty_days, publish

if TYPE_CHECKING:
    pass

JUNE = Days(date(2025, 6, 1), date(2025, 6, 30))
THIRD = date(2025, 6, 3)
HEADER = (
    "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,"
    "valid_from,valid_to\n"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A site of two nodes, one of which was replaced on 10 June."""
    inventory(tmp_path, "500")
    config = tmp_path / "config.yaml"
    config.write_text(
        "site: {site_id: s}\nlake: {root: lake}\nfleet: {inventory: inventory.csv}\n"
        "sources: [{name: bmc, format: ipmitool, path: '*.txt'}]\n",
        encoding="utf-8",
    )
    return load(config)


def inventory(folder: Path, rated: str) -> None:
    (folder / "inventory.csv").write_text(
        f"{HEADER}n1,c01,r1,cpu,400,100,1000,5,2025-01-01,\n"
        "n2,c01,r1,cpu,450,100,1000,5,2025-01-01,2025-06-10\n"
        f"n2,c01,r1,cpu,{rated},100,1000,5,2025-06-10,2025-06-20\n",
        encoding="utf-8",
    )


def cluster_days(kwh: dict[date, float]) -> pa.Table:
    rows = [
        {"date": day, "site_id": "s", "cluster_id": "c01", "node_count": 2, "it_energy_kwh": energy,
         "energy_basis": "measured", "pue_basis": "none", "facility_basis": "none", "emissions_basis": "none",
         "idle_basis": "none", "status": "provisional"}
        for day, energy in kwh.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=arrow_schema(CLUSTER_DAY))


def make(settings: Settings, kwh: dict[date, float]) -> Days:
    """Gold and the inventory of a night, as far as publication reads them."""
    root, days = settings.lake.root, Days(min(kwh), max(kwh))
    Lake(root).replace(CLUSTER_DAY, days, cluster_days(kwh), allow_empty=True)
    nodes = read_nodes(settings.fleet.inventory, "s").to_pylist()
    Lake(root).replace_keyed(NODE, nodes)
    return days


def night(settings: Settings, kwh: dict[date, float], run_id: str = "r1") -> tuple[list[Any], list[Any]]:
    made = make(settings, kwh)
    lake = Lake(settings.lake.root)
    follow_clock(lake)
    return publish(Press(lake, settings, run_id), made)


def versions(settings: Settings) -> dict[str, int | None]:
    return {
        t.name: Lake(settings.lake.root).version(t) for t in (PUBLICATION, RESTATEMENT, PERIOD, CLUSTER_DAY)
    }


def said_kwh(settings: Settings, moment: datetime, days: Days | None = None) -> dict[date, float]:
    _, rows = figures_as_of(Lake(settings.lake.root), CLUSTER_DAY.name, moment, days)
    return {row["date"]: row["it_energy_kwh"] for row in rows.to_pylist()}


def test_a_second_run_of_equal_rows_appends_nothing(settings: Settings) -> None:
    night(settings, {THIRD: 100.0})
    before = versions(settings)
    assert night(settings, {THIRD: 100.0}, "r2") == ([], [])
    assert versions(settings) == before


def test_as_of_shows_the_old_figure_after_a_restatement(settings: Settings) -> None:
    fourth = THIRD + timedelta(days=1)
    night(settings, {THIRD: 100.0, fourth: 50.0})
    between = datetime.now(UTC)
    night(settings, {THIRD: 103.0, fourth: 50.0}, "r2")
    assert said_kwh(settings, between) == {THIRD: 100.0, fourth: 50.0}
    assert said_kwh(settings, datetime.now(UTC)) == {THIRD: 103.0, fourth: 50.0}
    assert said_kwh(settings, datetime.now(UTC), Days.of(fourth)) == {fourth: 50.0}
    assert said_kwh(settings, datetime(2025, 1, 1, tzinfo=UTC)) == {}
    (row,) = Lake(settings.lake.root).arrow(RESTATEMENT).to_pylist()
    assert (row["date"], row["column_name"], row["old_value"], row["new_value"]) == (
        THIRD, "it_energy_kwh", "100.0", "103.0",
    )  # fmt: skip
    assert (row["change_ratio"], row["materiality"]) == (pytest.approx(0.03), "material")


def test_the_log_stays_append_only_and_says_what_the_figures_rest_on(settings: Settings) -> None:
    night(settings, {THIRD: 100.0})
    rows = Lake(settings.lake.root).arrow(PUBLICATION).to_pylist()
    (figure,) = (row for row in rows if row["table_name"] == CLUSTER_DAY.name)
    assert json.loads(figure["input_versions"])["gold/cluster_day"] >= 0
    assert len(figure["factor_set_version"]) == 64
    assert figure["code_version"]
    assert (figure["run_id"], figure["status"]) == ("r1", "provisional")
    log = Lake(settings.lake.root).log(PUBLICATION)
    assert log.metadata().configuration["delta.appendOnly"] == "true"


def test_the_factors_that_a_figure_rests_on_are_the_sites_own_too(settings: Settings, tmp_path: Path) -> None:
    own = tmp_path / "lifetime.csv"
    own.write_text(
        "part,value,unit,source,licence,valid_from,valid_to\nserver,6,year,our books,own,2025-01-01,\n"
    )
    carbon = settings.carbon.model_copy(update={"own_factors": own})
    night(settings, {THIRD: 100.0})
    night(settings.model_copy(update={"carbon": carbon}), {THIRD: 103.0}, "r2")
    said = {
        row["run_id"]: row["factor_set_version"]
        for row in Lake(settings.lake.root).arrow(PUBLICATION).to_pylist()
    }
    assert said == {"r1": load_factors().version, "r2": load_factors(own=own).version}


def test_a_night_is_one_file_a_table_that_readers_find_by_day(settings: Settings) -> None:
    night(settings, {THIRD: 100.0, THIRD + timedelta(days=1): 50.0})
    night(settings, {date(2025, 6, 5): 70.0}, "r2")
    files = pa.table(Lake(settings.lake.root).log(PUBLICATION).get_add_actions(flatten=True))
    found = {(row["partition.table_name"], row["min.date"], row["max.date"]) for row in files.to_pylist()}
    spans = {(THIRD, THIRD + timedelta(days=1)), (date(2025, 6, 5), date(2025, 6, 5))}
    assert found == {(name, *span) for name in (CLUSTER_DAY.name, "inputs") for span in spans}


def test_restatements_name_the_input_that_changed(settings: Settings, tmp_path: Path) -> None:
    tenth = date(2025, 6, 10)
    night(settings, {THIRD: 100.0, tenth: 100.0})
    inventory(tmp_path, "520")
    Lake(settings.lake.root).replace(
        NODE_HOUR, Days.of(THIRD), arrow_schema(NODE_HOUR).empty_table(), allow_empty=True
    )
    night(settings, {THIRD: 101.0, tenth: 101.0}, "r2")
    why = {row["date"]: row["reasons"] for row in Lake(settings.lake.root).arrow(RESTATEMENT).to_pylist()}
    assert why == {THIRD: "unknown", tenth: "inventory"}


def test_a_publication_cut_short_after_its_restatements_writes_them_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(settings, {THIRD: 100.0})
    append = Lake.write_rows

    def cut(lake: Lake, table: Table, rows: Sequence[Any]) -> Written:
        if table is PUBLICATION:
            raise OSError("killed")
        return append(lake, table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "write_rows", cut)
        with pytest.raises(OSError, match="killed"):
            night(settings, {THIRD: 110.0}, "r2")
    night(settings, {THIRD: 110.0}, "r3")
    (restated,) = Lake(settings.lake.root).arrow(RESTATEMENT).to_pylist()
    said = {row["publication_id"] for row in Lake(settings.lake.root).arrow(PUBLICATION).to_pylist()}
    assert restated["publication_id"] in said


def test_a_closed_month_keeps_what_it_said_and_restates_what_changes(settings: Settings) -> None:
    june = dict.fromkeys(JUNE, 100.0)
    night(settings, june)
    done = close_month(settings, "2025-06")
    assert (done.rows, done.already) == ({CLUSTER_DAY.name: 30}, False)
    gold = Lake(settings.lake.root).arrow(CLUSTER_DAY)
    assert set(gold["status"].to_pylist()) == {"closed"}
    before = versions(settings)
    again = close_month(settings, "2025-06")
    assert (again.already, again.closed_time, versions(settings)) == (True, done.closed_time, before)

    # Below the least change of a provisional day; closed, it is a restatement all the same.
    night(settings, june | {THIRD: 100.01}, "r2")
    (change,) = Lake(settings.lake.root).arrow(RESTATEMENT).to_pylist()
    assert (change["date"], change["status"], change["materiality"]) == (THIRD, "restated", "immaterial")
    _, rows = figures_as_of(Lake(settings.lake.root), CLUSTER_DAY.name, datetime.now(UTC))
    assert {row["date"] for row in rows.to_pylist() if row["status"] == "restated"} == {THIRD}
    assert {row["status"] for row in rows.to_pylist() if row["date"] != THIRD} == {"closed"}
    (period,) = Lake(settings.lake.root).arrow(PERIOD).to_pylist()
    assert (period["status"], period["row_count"]) == ("restated", 30)
    assert period["restated_time"] > period["closed_time"]
    assert said_kwh(settings, done.closed_time)[THIRD] == 100.0


def test_what_is_said_after_a_closing_is_later_though_the_clock_went_back(settings: Settings) -> None:
    lake = Lake(settings.lake.root)
    ahead = datetime.now(UTC) + timedelta(minutes=2)
    closed = {"site_id": "s", "month": "2025-06", "table_name": CLUSTER_DAY.name, "status": "closed"}
    lake.write_rows(PERIOD, [closed | {"closed_time": ahead, "row_count": 1, "content_hash": "0"}])
    assert follow_clock(lake)
    assert lake.now() > ahead


def test_a_month_with_a_day_that_was_never_published_is_not_closed(settings: Settings) -> None:
    night(settings, {day: 100.0 for day in JUNE if day != THIRD and day != JUNE.end})
    with pytest.raises(
        NoInputError, match="2 days of the month were never published: 2025-06-03, 2025-06-30"
    ):
        close_month(settings, "2025-06")
    assert Lake(settings.lake.root).version(PERIOD) is None


def test_a_month_is_not_closed_while_a_night_makes_one_of_its_days(settings: Settings) -> None:
    night(settings, dict.fromkeys(JUNE, 100.0))
    with DaysLease(Lake(settings.lake.root), [Days.of(THIRD)], "other"), pytest.raises(LockedError):
        close_month(settings, "2025-06")


def test_a_date_asks_for_its_end() -> None:
    assert moment_of("2025-07-01") == datetime(2025, 7, 1, 23, 59, 59, 999999, tzinfo=UTC)
    assert moment_of("2025-07-01T06:00+02:00") == datetime(2025, 7, 1, 4, tzinfo=UTC)


def test_the_verbs_of_people(settings: Settings, tmp_path: Path) -> None:
    night(settings, dict.fromkeys(JUNE, 100.0))
    config = ["--config", str(tmp_path / "config.yaml")]
    ask = [*config, "--as-of", f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"]
    shown = CliRunner().invoke(
        app, ["figures", *ask, "--date", str(THIRD), "--csv", "--column", "it_energy_kwh"]
    )
    assert shown.stdout.splitlines() == ["it_energy_kwh", "100.0"]
    table = CliRunner().invoke(app, ["figures", *ask, "--limit", "1"])
    assert "as published by" in table.stdout
    assert "(30 rows)" in table.stdout
    assert (
        "30 rows of gold/cluster_day"
        in CliRunner().invoke(app, ["close", *config, "--month", "2025-06"]).stdout
    )
    assert "was closed already" in CliRunner().invoke(app, ["close", *config, "--month", "2025-06"]).stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["figures", "--as-of", "yesterday"], "is not a time"),
        (
            ["figures", "--as-of", "2030-01-01", "--table", "gold/node_hour"],
            "never published -> one of gold/cluster_day",
        ),
        (["figures", "--as-of", "2030-01-01", "--column", "kwh"], "no column kwh"),
        (["close", "--month", "2025-6"], "is not a month"),
    ],
)
def test_wrong_use_says_what_to_do(
    settings: Settings, tmp_path: Path, arguments: list[str], what: str
) -> None:
    night(settings, {THIRD: 100.0})
    done = CliRunner().invoke(app, [*arguments, "--config", str(tmp_path / "config.yaml")])
    assert isinstance(done.exception, ConfigurationError)
    assert what in str(done.exception)


def made(settings: Settings, days: Days, batch: int = 1) -> Lake:
    """A lake in which a whole night has made and published the days."""
    lake = Lake(settings.lake.root)
    lake.write_rows(NODE_HOUR, [
        {"date": day, "hour_start": datetime(day.year, day.month, day.day, tzinfo=UTC), "site_id": "s",
         "cluster_id": "c01", "node_id": "n1", "energy_basis": "measured", "expected_s": 3600.0,
         "observed_s": 3600.0, "status": "provisional"}
        for day in days
    ])  # fmt: skip
    night(settings, dict.fromkeys(days, 100.0))
    stage = {
        "run_id": "r1",
        "stage": "publish",
        "state": "done",
        "date_from": days.start,
        "date_until": days.end,
    }
    lake.write_rows(STAGE_RUN, [stage | {"input_versions": json.dumps({"bronze/file batch": batch})}])
    lake.write_rows(RUN, [{"run_id": "r1", "state": "done", "exit_code": 0}])
    return lake


def delivered(lake: Lake, file_id: str, batch: int, **columns: Any) -> None:
    row = {"path": file_id, "file_id": file_id, "state": "loaded", "batch": batch}
    lake.write_rows(FILE, [row | columns])


NEXT = Days.of(date(2025, 6, 25))
WEEKS = Days(date(2025, 6, 1), date(2025, 6, 24))


def dirty(lake: Lake, settings: Settings) -> list[str]:
    return [str(days) for days in dirty_days(lake, settings, NEXT)]


def test_nothing_new_re_opens_nothing(settings: Settings) -> None:
    lake = made(settings, WEEKS)
    delivered(lake, "old", 1, first_reading_time=datetime(2025, 6, 3, 5, tzinfo=UTC),
              last_reading_time=datetime(2025, 6, 3, 6, tzinfo=UTC))  # fmt: skip
    assert dirty(lake, settings) == ["2025-06-25"]


def test_a_late_file_re_opens_its_day_and_the_neighbour_that_its_margin_reaches(settings: Settings) -> None:
    lake = made(settings, WEEKS)
    delivered(lake, "late", 2, first_reading_time=datetime(2025, 6, 3, 0, 4, tzinfo=UTC),
              last_reading_time=datetime(2025, 6, 3, 23, 50, tzinfo=UTC))  # fmt: skip
    assert dirty(lake, settings) == ["2025-06-02..2025-06-03", "2025-06-25"]


def test_a_late_file_re_opens_the_day_on_which_a_run_of_its_day_ended(settings: Settings) -> None:
    """The SCI of a run is of all its days and stands on its last one."""
    lake = made(settings, WEEKS)
    delivered(lake, "late", 2, first_reading_time=datetime(2025, 6, 3, 5, tzinfo=UTC),
              last_reading_time=datetime(2025, 6, 3, 6, tzinfo=UTC))  # fmt: skip
    run = {
        "site_id": "s", "cluster_id": "c", "submit_time": datetime(2025, 6, 3, tzinfo=UTC), "restart": 0,
        "date": date(2025, 6, 3), "outcome": "completed", "start_time": datetime(2025, 6, 3, 4, tzinfo=UTC),
    }  # fmt: skip
    lake.write_rows(JOB_RUN, [
        run | {"job_id": "over", "end_time": datetime(2025, 6, 5, 1, tzinfo=UTC)},
        run | {"job_id": "within", "end_time": datetime(2025, 6, 4, tzinfo=UTC)},
        run | {"job_id": "on", "end_time": None},
    ])  # fmt: skip
    assert dirty(lake, settings) == ["2025-06-03", "2025-06-05", "2025-06-25"]


def test_a_batch_of_a_night_that_did_not_end_is_still_new(settings: Settings) -> None:
    lake = made(settings, WEEKS)
    delivered(lake, "late", 2, first_reading_time=datetime(2025, 6, 3, 5, tzinfo=UTC),
              last_reading_time=datetime(2025, 6, 3, 6, tzinfo=UTC))  # fmt: skip
    stage = {
        "run_id": "killed",
        "stage": "publish",
        "state": "done",
        "date_from": NEXT.start,
        "date_until": NEXT.end,
    }
    lake.write_rows(STAGE_RUN, [stage | {"input_versions": json.dumps({"bronze/file batch": 2})}])
    assert dirty(lake, settings) == ["2025-06-03", "2025-06-25"]


def test_a_late_job_re_opens_the_days_that_it_ran_and_a_repeated_one_nothing(settings: Settings) -> None:
    lake = made(settings, WEEKS)
    ran = {
        "site_id": "s", "job_id": "7", "restart": 0, "job_state": "COMPLETED",
        "start_time": datetime(2025, 6, 4, 22, tzinfo=UTC), "end_time": datetime(2025, 6, 6, 1, tzinfo=UTC),
    }  # fmt: skip
    known = ran | {"job_id": "6", "start_time": datetime(2025, 6, 11, tzinfo=UTC), "end_time": None}
    lake.write_rows(JOB, [known | {"file_id": "first", "source_position": 2}])
    delivered(lake, "first", 1, jobs=1)
    lake.write_rows(JOB, [ran | {"file_id": "second"}, known | {"file_id": "second", "source_position": 9}])
    delivered(lake, "second", 2, jobs=2)
    assert dirty(lake, settings) == ["2025-06-04..2025-06-06", "2025-06-25"]


def test_a_changed_inventory_row_re_opens_exactly_its_days(settings: Settings, tmp_path: Path) -> None:
    lake = made(settings, WEEKS)
    inventory(tmp_path, "520")
    assert dirty(lake, settings) == ["2025-06-10..2025-06-19", "2025-06-25"]
    night(settings, dict.fromkeys(Days(date(2025, 6, 10), date(2025, 6, 19)), 100.0), "r2")
    assert dirty(lake, settings) == ["2025-06-25"], "equal figures, but what they rest on is published"


def test_new_meters_and_prices_re_open_the_days_from_their_first(settings: Settings, tmp_path: Path) -> None:
    lake = made(settings, WEEKS)
    meters, prices = tmp_path / "meters.csv", tmp_path / "tariff.csv"
    meters.write_text(
        "meter_id,point,carrier,sign,unit,multiplier,kind,label,valid_from\n"
        "m1,utility,electricity,1,kWh,1,interval,start,2025-06-23T12:00:00Z\n",
        encoding="utf-8",
    )
    facility = settings.facility.model_copy(update={"meters": meters})
    assert dirty(lake, settings.model_copy(update={"facility": facility})) == ["2025-06-23..2025-06-25"]
    prices.write_text(
        "tariff_id,charge,price,currency,valid_from,valid_to\nt,energy,0.3,EUR,2025-06-02,2025-06-03\n",
        encoding="utf-8",
    )
    tariff = settings.tariff.model_copy(update={"file": prices})
    assert dirty(lake, settings.model_copy(update={"tariff": tariff})) == ["2025-06-02", "2025-06-25"]
