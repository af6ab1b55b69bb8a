"""Two lakes are compared by key: what differs is named, what may differ is not."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from lepton_etl.cli.main import main
from lepton_etl.errors import ConfigurationError, LakeError
from lepton_etl.lake.compare import Correction, TableComparison, Tolerance, compare_lakes, read_corrections
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import PREDICTION
from lepton_etl.schema.fleet import WEATHER_HOUR
from lepton_etl.schema.jobs import JOB_RUN
from lepton_etl.schema.logs import JOB
from lepton_etl.schema.operations import RUN
from lepton_etl.schema.publication import PUBLICATION
from lepton_etl.schema.trust import AUDIT

DAY = date(2025, 6, 3)


def weather(hour: int, **changed: Any) -> dict[str, Any]:
    return {
        "date": DAY,
        "site_id": "s",
        "hour_start": datetime(2025, 6, 3, hour, tzinfo=UTC),
        "outdoor_dry_bulb_temp_c": 20.0 + hour,
        "outdoor_wet_bulb_temp_c": 15.0,
    } | changed


def published(run: str, seconds: int, energy_kwh: float, node_count: int = 4) -> dict[str, Any]:
    return {
        "publication_id": f"id-{run}",
        "published_time": datetime(2026, 1, 1, 0, 0, seconds, tzinfo=UTC),
        "table_name": "gold/cluster_day",
        "row_key": '{"cluster_id":"c01"}',
        "date": DAY,
        "status": "provisional",
        "figures": json.dumps({"it_energy_kwh": energy_kwh, "node_count": node_count}),
        "row_hash": f"hash-{run}-{energy_kwh}",
        "run_id": run,
    }


def scored(version: str, predicted_kwh: float) -> dict[str, Any]:
    return {
        "date": DAY,
        "hour_start": datetime(2025, 6, 3, 5, tzinfo=UTC),
        "site_id": "s",
        "cluster_id": "c01",
        "node_id": "n1",
        "device_id": "node",
        "model_name": "node-energy",
        "model_version": version,
        "predicted_kwh": predicted_kwh,
    }


def lake(root: Path, *rows: dict[str, Any], table: Any = WEATHER_HOUR) -> Path:
    Lake(root).write_rows(table, rows)
    return root


def one(left: Path, right: Path, **options: Any) -> TableComparison:
    (compared,) = compare_lakes(left, right, **options)
    return compared


def test_rows_in_another_order_and_with_another_last_digit_are_equal(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", weather(1), weather(2))
    nearly = weather(1, outdoor_dry_bulb_temp_c=21.0 * (1 + 5e-10))
    compared = one(left, lake(tmp_path / "b", weather(2), nearly))
    assert compared.equal
    assert list(compared.lines()) == ["silver/weather_hour: equal, 2 rows"]


def test_a_changed_cell_is_named_with_its_row_and_both_values(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", weather(1), weather(2))
    right = lake(tmp_path / "b", weather(1), weather(2, outdoor_wet_bulb_temp_c=15.00001))
    compared = one(left, right)
    (difference,) = compared.columns
    assert (difference.column, difference.rows) == ("outdoor_wet_bulb_temp_c", 1)
    assert difference.key["hour_start"] == datetime(2025, 6, 3, 2, tzinfo=UTC)
    assert (difference.left, difference.right) == (15.0, 15.00001)
    assert not compared.as_expected


def test_a_figure_that_is_unknown_in_one_lake_differs(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", weather(1))
    compared = one(left, lake(tmp_path / "b", weather(1, outdoor_wet_bulb_temp_c=None)))
    assert compared.columns[0].right is None


def test_rows_of_one_lake_alone_are_counted_by_side(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", weather(1), weather(2))
    compared = one(left, lake(tmp_path / "b", weather(2), weather(3), weather(4)))
    assert (compared.only_left, compared.only_right) == (1, 2)
    assert compared.example_left == {"site_id": "s", "hour_start": datetime(2025, 6, 3, 1, tzinfo=UTC)}
    assert any("2 rows only right" in line for line in compared.lines())


def test_a_table_that_one_lake_lacks_differs_by_its_rows(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", weather(1))
    right = lake(lake(tmp_path / "b", weather(1)), scored("1", 0.2), table=PREDICTION)
    compared = {each.table: each for each in compare_lakes(left, right)}
    assert compared["silver/weather_hour"].equal
    assert compared["gold/prediction"].only_right == 1


def test_run_ids_times_and_digests_of_publications_are_left_out(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", published("r1", 1, 3.0), published("r2", 2, 4.0), table=PUBLICATION)
    right = lake(tmp_path / "b", published("a2", 9, 4.0 + 1e-13), published("z1", 8, 3.0), table=PUBLICATION)
    assert one(left, right).equal


def test_published_figures_are_compared_inside_their_json(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", published("r1", 1, 3.0), table=PUBLICATION)
    assert one(left, lake(tmp_path / "b", published("r1", 1, 3.1), table=PUBLICATION)).columns
    assert one(left, lake(tmp_path / "c", published("r1", 1, 3.0, 5), table=PUBLICATION)).columns


def test_digests_of_what_a_day_rests_on_are_no_figures(tmp_path: Path) -> None:
    inputs = {"table_name": "inputs", "row_key": '{"date":"2025-06-03"}'}
    rows = [published("r1", 1, 3.0), published("r1", 1, 5.0) | inputs]
    others = [published("r1", 1, 3.0), published("r1", 1, 6.0) | inputs]
    left = lake(tmp_path / "a", *rows, table=PUBLICATION)
    assert one(left, lake(tmp_path / "b", *others, table=PUBLICATION)).equal


def test_a_wider_tolerance_lets_the_last_published_digit_differ(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", scored("1", 0.203917535), table=PREDICTION)
    right = lake(tmp_path / "b", scored("1", 0.203917534), table=PREDICTION)
    assert not one(left, right).equal
    assert one(left, right, tolerance=Tolerance(absolute=1.5e-9)).equal


def test_the_nth_model_version_meets_the_nth(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", scored("9", 0.2), scored("10", 0.3), table=PREDICTION)
    assert one(left, lake(tmp_path / "b", scored("3", 0.3), scored("2", 0.2), table=PREDICTION)).equal
    assert not one(left, lake(tmp_path / "c", scored("3", 0.2), scored("2", 0.3), table=PREDICTION)).equal


def test_a_record_of_runs_is_not_compared(tmp_path: Path) -> None:
    run = {"run_id": "r1", "state": "done", "exit_code": 0}
    left = lake(lake(tmp_path / "a", weather(1)), run, table=RUN)
    assert one(left, lake(tmp_path / "b", weather(1))).table == "silver/weather_hour"


def test_an_ignored_column_is_left_out(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", weather(1))
    right = lake(tmp_path / "b", weather(1, outdoor_wet_bulb_temp_c=14.0))
    assert one(left, right, ignore=["silver/weather_hour.outdoor_wet_bulb_temp_c"]).equal
    assert list(compare_lakes(left, right, ignore=["silver/weather_hour"])) == []


def test_an_expected_correction_is_no_surprise_and_must_be_seen(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", weather(1), weather(2))
    right = lake(tmp_path / "b", weather(1), weather(2, outdoor_wet_bulb_temp_c=14.0))
    named = Correction("silver/weather_hour", "outdoor_wet_bulb_temp_c", "a mended sensor", rows=1)
    compared = one(left, right, expected=[named])
    assert compared.as_expected and not compared.equal
    assert any("expected: a mended sensor" in line for line in compared.lines())
    other = Correction("silver/weather_hour", "outdoor_dry_bulb_temp_c", "never happened")
    assert not one(left, right, expected=[named, other]).as_expected
    twice = Correction("silver/weather_hour", "outdoor_wet_bulb_temp_c", "a mended sensor", rows=2)
    assert "expected in 2 rows and seen in 1:" in one(left, right, expected=[twice]).misses[0]


def test_expected_rows_are_named_by_an_asterisk(tmp_path: Path) -> None:
    left, right = lake(tmp_path / "a", weather(1)), lake(tmp_path / "b", weather(1), weather(2))
    assert one(left, right, expected=[Correction("silver/weather_hour", "*", "late file", 1)]).as_expected


def test_a_name_that_no_declaration_knows_is_refused(tmp_path: Path) -> None:
    left = lake(tmp_path / "a", weather(1))
    with pytest.raises(ConfigurationError, match=r"gold/clusterday"):
        list(compare_lakes(left, left, only=["gold/clusterday"]))
    with pytest.raises(ConfigurationError, match=r"watr_l"):
        list(compare_lakes(left, left, ignore=["gold/cluster_day.watr_l"]))
    with pytest.raises(LakeError, match=r"no table of a lake"):
        list(compare_lakes(left, tmp_path / "nothing"))


@pytest.mark.parametrize(
    "text",
    [
        "table: gold/kpi",
        "- {table: gold/kpi, column: kpi_value}",
        "- {table: gold/kpi, column: kpi_value, reason: why, row: 3}",
        "- {table: gold/kpi, column: kpi_value, reason: why, rows: many}",
        "- [",
    ],
)
def test_a_list_of_corrections_in_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "expected.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"expected\.yaml"):
        read_corrections(path)


def test_the_verb_ends_with_1_where_the_lakes_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = lake(lake(tmp_path / "a", weather(1)), scored("1", 0.2), table=PREDICTION)
    right = lake(lake(tmp_path / "b", weather(1)), scored("1", 0.2) | {"node_id": "n2"}, table=PREDICTION)
    expected = tmp_path / "expected.yaml"
    expected.write_text(
        "- {table: gold/prediction, column: '*', reason: another node, rows: 2}", encoding="utf-8"
    )
    with pytest.raises(SystemExit) as ended:
        main(["tables", "compare", str(left), str(right)])
    assert ended.value.code == 1
    assert "2 tables compared: they differ" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["tables", "compare", str(left), str(right), "--expected", str(expected)])
    assert not ended.value.code
    assert "differs as expected" in capsys.readouterr().out


def test_lakes_that_drew_other_pseudonyms_for_the_same_people_agree(tmp_path: Path) -> None:
    a, b, c = (f"u-{letter * 16}" for letter in "abc")
    at = datetime(2025, 6, 3, tzinfo=UTC)
    for side, of_jobs, of_runs in (
        ("left", (a, b), (a, b)),
        ("right", (b, c), (b, c)),
        ("wrong", (b, c), (c, b)),
    ):
        lake = Lake(tmp_path / side)
        lake.write_rows(JOB, [
            {"site_id": "s", "job_id": str(number), "file_id": "f", "source_position": number, "user_name": user,
             "ingest_date": DAY}
            for number, user in enumerate(of_jobs)
        ])  # fmt: skip
        lake.write_rows(JOB_RUN, [
            {"site_id": "s", "cluster_id": "c", "job_id": str(number), "submit_time": at, "restart": 0, "date": DAY,
             "user_name": user, "outcome": "completed", "start_time": at}
            for number, user in enumerate(of_runs)
        ])  # fmt: skip
    assert all(one.equal for one in compare_lakes(tmp_path / "left", tmp_path / "right"))
    differing = [one.table for one in compare_lakes(tmp_path / "left", tmp_path / "wrong") if not one.equal]
    assert differing == ["silver/job_run"]


def test_what_runs_recorded_of_themselves_is_not_compared(tmp_path: Path) -> None:
    for side in ("left", "right"):
        for table in (RUN, AUDIT, WEATHER_HOUR):
            Lake(tmp_path / side).ensure(table)
    assert [one.table for one in compare_lakes(tmp_path / "left", tmp_path / "right")] == [WEATHER_HOUR.name]
