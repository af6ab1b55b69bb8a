"""The gate on Arrow tables and a real lake: what passes, what closes it, what is only said."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
import structlog

from lepton_etl.days import Days
from lepton_etl.errors import Exit, QualityGateError
from lepton_etl.lake.tables import Lake
from lepton_etl.quality.gate import verdict, write_docs
from lepton_etl.quality.rules import CheckOutcome, GateOutcome, Rule, TableRules, load_rules
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import GRID_HOUR, INTERVAL
from lepton_etl.schema.logs import FILE, REJECT
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.types import arrow_schema
from pipelines import gate
from pipelines.engine import Engine, InlineEngine, LocalEngine
from pipelines.stage import StageContext

DAY = date(2025, 6, 3)
MIDNIGHT = datetime(2025, 6, 3, tzinfo=UTC)
Row = dict[str, Any]


def interval(number: int = 0, **changed: Any) -> Row:
    """Interval `number` of node n1 at 360 W: 0.03 kWh in 300 s."""
    return {
        "site_id": "s", "cluster_id": "c", "node_id": "n1", "device_id": "node",
        "interval_start": MIDNIGHT + timedelta(seconds=300 * number), "date": DAY, "interval_s": 300,
        "counts_in_total": True, "multiplicity": 1, "energy_kwh": 0.03, "power_min_w": 350.0,
        "power_mean_w": 360.0, "power_max_w": 370.0, "observed_s": 300.0, "energy_source": "bmc",
    } | changed  # fmt: skip


def file(name: str = "a.gz", **changed: Any) -> Row:
    return {
        "path": name, "file_id": f"id-{name}", "source_name": "bmc", "batch": 1, "state": "loaded",
        "records": 100, "readings": 98, "rejects": 0, "duplicates": 1, "ignored": 1,
        "first_reading_time": MIDNIGHT, "last_reading_time": MIDNIGHT + timedelta(hours=23),
        "ingest_date": date(2025, 6, 4),
    } | changed  # fmt: skip


def rows_of(table: Table, rows: list[Row]) -> pa.Table:
    full = [{name: row.get(name) for name in table.columns} for row in rows]
    return pa.Table.from_pylist(full, schema=arrow_schema(table))


def good_day() -> list[Row]:
    return [interval(number) for number in range(288)]


def judged(
    docs: Path,
    intervals: list[Row] | pa.Table,
    files: list[Row] | None = None,
    rules: Mapping[str, TableRules] | None = None,
) -> GateOutcome:
    rows = intervals if isinstance(intervals, pa.Table) else rows_of(INTERVAL, intervals)
    slices = {INTERVAL.name: rows, FILE.name: rows_of(FILE, files or [file()])}
    found = verdict(slices, load_rules() if rules is None else rules, docs, docs.parent / "project")
    return replace(found, docs=write_docs(docs))


def named(outcomes: tuple[CheckOutcome, ...]) -> dict[str, CheckOutcome]:
    return {outcome.check: outcome for outcome in outcomes}


def test_a_good_slice_passes_and_the_docs_name_the_suites(tmp_path: Path) -> None:
    docs = tmp_path / "quality" / "2025-06-03"
    docs.mkdir(parents=True)
    (docs / "stale.html").write_text("an earlier run")
    found = judged(docs, good_day())
    assert found.failures == ()
    assert found.warnings == ()
    assert found.rows == {FILE.name: 1, INTERVAL.name: 288}
    assert found.docs == docs / "index.html"
    assert "silver/interval" in found.docs.read_text(encoding="utf-8")
    assert list((docs / "validations" / "silver").rglob("*.html"))
    assert not (docs / "stale.html").exists()
    # The pages open whole without a network: nothing in them asks a host.
    pages = [page.read_text(encoding="utf-8") for page in docs.rglob("*.html")]
    assert len(pages) > 4
    for page in pages:
        assert not re.search(r"<script|(src|href)=[\"']?(https?:)?//|url\(['\"]?(https?:)?//", page)
    front = found.docs.read_text(encoding="utf-8")
    assert "energy_kwh_is_in_bounds" in front and "0 of 288 rows break it" in front
    assert {path.name for path in docs.parent.iterdir()} == {"2025-06-03", "project"}


def test_the_verdict_comes_before_the_pages(tmp_path: Path) -> None:
    docs, slices = tmp_path / "docs", {INTERVAL.name: rows_of(INTERVAL, good_day())}
    found = verdict(slices, load_rules(), docs, tmp_path / "project")
    assert found.rows == {INTERVAL.name: 288}
    assert found.docs is None and not docs.exists()
    assert write_docs(docs) == docs / "index.html"
    # What the front page says of a table that does not exist was never asked of Great Expectations.
    assert "the table does not exist" in (docs / "index.html").read_text(encoding="utf-8")
    # They are written once.
    assert write_docs(docs) is None


def test_bad_values_close_the_gate_each_by_its_name(tmp_path: Path) -> None:
    rows = [
        *good_day(),
        interval(0),
        interval(1, device_id="a", counts_in_total=False, energy_kwh=math.nan),
        interval(1, device_id="b", counts_in_total=False, power_min_w=-5.0),
        interval(1, device_id="c", counts_in_total=False, inlet_temp_c=1000.0),
        interval(1, device_id="d", counts_in_total=False, fan_rpm=math.inf),
        interval(1, device_id="e", counts_in_total=False, energy_source="guess"),
        interval(1, device_id="f", counts_in_total=None),
        interval(1, device_id="g", counts_in_total=False, observed_s=301.0),
    ]
    failures = named(judged(tmp_path / "docs", rows).failures)
    assert set(failures) == {
        "key_is_unique", "energy_kwh_is_in_bounds", "power_min_w_is_in_bounds", "inlet_temp_c_is_in_bounds",
        "fan_rpm_is_in_bounds", "energy_source_is_in_set", "counts_in_total_is_known",
        "observed_within_the_interval",
    }  # fmt: skip
    nan = failures["energy_kwh_is_in_bounds"]
    assert (nan.table, nan.column, nan.observed) == (
        "silver/interval",
        "energy_kwh",
        "1 of 296 rows break it",
    )
    assert len(nan.examples) == 1
    assert "node_id=n1 device_id=a" in nan.examples[0]
    assert "energy_kwh=nan" in nan.examples[0]
    assert "count=2" in failures["key_is_unique"].examples[0]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    rows = rows_of(INTERVAL, good_day()).drop_columns(["fan_rpm"])
    (failure,) = judged(tmp_path / "docs", rows).failures
    assert (failure.check, failure.column) == ("columns_match_the_dictionary", "fan_rpm")
    assert failure.observed == "missing fan_rpm"


def test_an_empty_required_table_closes_the_gate(tmp_path: Path) -> None:
    (failure,) = judged(tmp_path / "docs", []).failures
    assert (failure.table, failure.check) == ("silver/interval", "not_empty")


def test_warnings_do_not_close_the_gate(tmp_path: Path) -> None:
    files = [
        *(file(name) for name in ("a.gz", "d.gz", "e.gz")),
        file("b.gz", rejects=8, readings=90),
        file("c.gz", state="discarded", records=1, readings=0, rejects=1, duplicates=0, ignored=0),
    ]
    found = judged(tmp_path / "docs", [interval(n) for n in range(72)], files)
    assert found.failures == ()
    warnings = named(found.warnings)
    assert set(warnings) == {"few_rejects_in_a_file", "no_file_is_discarded", "node_seconds_covered"}
    assert warnings["no_file_is_discarded"].examples == ("path=c.gz file_id=id-c.gz state=discarded",)
    assert warnings["node_seconds_covered"].observed == "0.25"


def failed(tmp_path: Path, files: list[Row]) -> set[str]:
    """The failures of files, beside a table of intervals that nothing is asked of."""
    rules = dict(load_rules()) | {INTERVAL.name: TableRules(table=INTERVAL.name, required=False)}
    found = judged(tmp_path / "docs", [], files, rules)
    assert found.rows == {FILE.name: len(files), INTERVAL.name: 0}
    return {outcome.check for outcome in found.failures}


def test_what_has_no_value_neither_counts_nor_hides(tmp_path: Path) -> None:
    # A log of 970 discrete states beside its readings.
    healthy = file(records=1000, readings=30, rejects=0, duplicates=0, ignored=970)
    assert failed(tmp_path, [healthy]) == set()
    # Ten of its thirty readings are gone: a third, though one in a hundred records.
    assert failed(tmp_path, [healthy | {"readings": 20, "rejects": 10}]) == {"few_rejects"}


def test_a_large_source_hides_no_small_one(tmp_path: Path) -> None:
    large = file("large.gz", records=100_000, readings=100_000, duplicates=0, ignored=0)
    small = file(
        "small.gz", source_name="gpu", records=200, readings=100, rejects=100, duplicates=0, ignored=0
    )
    assert failed(tmp_path, [large, small]) == {"few_rejects_of_a_source"}
    # One bad line of three is no change of a format.
    tiny = file("tiny.gz", source_name="gpu", records=3, readings=2, rejects=1, duplicates=0, ignored=0)
    assert failed(tmp_path, [large, tiny]) == set()


def test_a_discarded_file_counts_as_its_records_would(tmp_path: Path) -> None:
    lost = {"state": "discarded", "records": 1, "readings": 0, "rejects": 1, "duplicates": 0, "ignored": 0}
    whole = [file(f"{number}.gz") for number in range(4)]
    assert failed(tmp_path, [*whole, file("a.gz", **lost)]) == set()
    two = [file(name, **lost) for name in ("a.gz", "b.gz")]
    assert failed(tmp_path, [*whole, *two]) == {"few_rejects", "few_rejects_of_a_source"}
    assert failed(tmp_path, two) == {"few_rejects"}


def test_a_missing_rule_file_closes_the_gate_and_names_the_table(tmp_path: Path) -> None:
    rules = {name: found for name, found in load_rules().items() if name != GRID_HOUR.name}
    (failure,) = judged(tmp_path / "docs", good_day(), rules=rules).failures
    assert (failure.table, failure.check, failure.observed) == (GRID_HOUR.name, "suite", "no rule file")


def test_rules_that_raise_close_the_gate_each_by_its_name(tmp_path: Path) -> None:
    raising = {
        "no_column": ("power_kw > 1", "cannot be computed"),
        "no_sql": ("power_mean_w >", "cannot be computed"),
        "no_number": ("CAST(node_id AS INT) > 0", "cannot be computed"),
        "no_file": (
            "node_id IN (SELECT content FROM read_text('/etc/hostname'))",
            "disabled by configuration",
        ),
    }
    asked = [Rule(name=name, severity="warn", says="x", every_row=sql) for name, (sql, _) in raising.items()]
    told = TableRules(table=INTERVAL.name, required=True, rules=tuple(asked))
    found = judged(tmp_path / "docs", good_day(), rules=dict(load_rules()) | {INTERVAL.name: told})
    assert len(found.failures) == len(raising)
    for failure in found.failures:
        assert (failure.table, failure.severity) == (INTERVAL.name, "fail")
        assert raising[failure.check][1] in failure.observed


def test_a_rule_that_raises_takes_no_other_with_it(tmp_path: Path) -> None:
    rules = [
        Rule(name="raises", severity="warn", says="x", every_row="CAST(node_id AS INT) > 0"),
        Rule(name="half", severity="warn", says="x", every_row="interval_start < TIMESTAMPTZ '2025-06-03 12:00Z'"),
        Rule(name="no_sum", severity="warn", says="x", figure="sum(node_id)", at_least=1),
        Rule(name="unknown", severity="warn", says="x", figure="max(fan_rpm)", at_least=1),
        Rule(name="top", severity="warn", says="x", figure="max(power_mean_w)", at_most=359.5),
        Rule(name="count", severity="warn", says="x", figure="count(*)", at_least=288),
    ]  # fmt: skip
    told = TableRules(table=INTERVAL.name, required=True, rules=tuple(rules))
    found = judged(tmp_path / "docs", good_day(), rules=dict(load_rules()) | {INTERVAL.name: told})
    assert set(named(found.failures)) == {"raises", "no_sum"}
    assert set(named(found.warnings)) == {"half", "top"}
    outcomes = named(found.outcomes)
    assert outcomes["half"].observed == "144 of 288 rows break it"
    assert (outcomes["top"].observed, outcomes["count"].observed) == ("360", "288")
    assert "unknown" not in outcomes


def results(found: Any) -> dict[str, dict[str, Any]]:
    """Suite and check -> whether it holds and what was found, of a checkpoint's result."""
    return {
        f"{one.suite_name} {evr.expectation_config.meta['check']}": {"success": evr.success} | evr.result
        for one in found.run_results.values()
        for evr in one.results
    }


def test_plain_great_expectations_opens_the_context_and_finds_the_same(tmp_path: Path) -> None:
    found = judged(tmp_path / "docs", [*good_day()[:-1], interval(287, observed_s=301.0)])
    (failure,) = found.failures
    assert failure.examples == (
        "site_id=s cluster_id=c node_id=n1 device_id=node interval_start=2025-06-03 23:55:00+00 observed_s=301.0",
    )

    import great_expectations as gx

    user = gx.get_context(mode="file", project_root_dir=tmp_path / "project")
    assert user.variables.analytics_enabled is False
    assert len(user.validation_results_store.list_keys()) == 2
    suite = user.suites.get("silver.interval")
    assert {
        "energy_kwh lies in 0 .. 1e+09 kilowatt_hour, NaN does not",
        "observed_s is at most interval_s",
    } <= {one.description for one in suite.expectations}
    again = results(user.checkpoints.get("gate").run())
    rule = again["silver.interval observed_within_the_interval"]
    assert (rule["success"], rule["element_count"], rule["unexpected_count"]) == (False, 288, 1)
    assert rule["unexpected_percent"] == pytest.approx(100 / 288)
    covered = again["silver.interval node_seconds_covered"]
    assert covered["observed_value"] == pytest.approx((287 * 300 + 301) / 86400)
    held = {f"{one.table.replace('/', '.')} {one.check}": one.passed for one in found.outcomes}
    assert {name: one["success"] for name, one in again.items()} == {name: held[name] for name in again}
    assert len(again) > 50


def test_a_rule_file_may_name_an_expectation_and_a_change_of_it_counts(tmp_path: Path) -> None:
    rules = dict(load_rules())
    for length, met in ((2, True), (3, False)):
        rule = Rule(
            name="names", severity="warn", says=f"names have {length} letters", column="node_id",
            expectation="expect_column_value_lengths_to_equal", kwargs={"column": "node_id", "value": length},
        )  # fmt: skip
        rules[INTERVAL.name] = TableRules(table=INTERVAL.name, required=True, rules=(rule,))
        found = judged(tmp_path / "docs", good_day(), rules=rules)
        assert found.failures == ()
        (one,) = [outcome for outcome in found.outcomes if outcome.check == "names"]
        assert (one.passed, one.observed) == (met, f"{0 if met else 288} of 288 rows break it")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def context(lake: Lake, folder: Path, days: Days, engine: Engine | None = None) -> StageContext:
    quality = SimpleNamespace(expectations=None, docs=folder / "quality", project=None)
    return StageContext(
        lake=lake,
        settings=cast(Any, SimpleNamespace(quality=quality)),
        days=days,
        run_id="run",
        log=structlog.get_logger(),
        engine=engine or InlineEngine(),
    )


def test_the_stage_judges_the_days_only_and_stops_with_exit_code_3(lake: Lake, tmp_path: Path) -> None:
    days = Days.of(DAY)
    other = MIDNIGHT - timedelta(days=3)
    lake.replace(INTERVAL, days, rows_of(INTERVAL, good_day()))
    lake.write_rows(
        FILE,
        [
            *(file(name) for name in ("a.gz", "d.gz", "e.gz")),
            file("old.gz", rejects=90, readings=8, first_reading_time=other, last_reading_time=other),
            file("unread.gz", state="discarded", batch=2, records=1, readings=0, rejects=1, duplicates=0,
                 ignored=0, first_reading_time=None, last_reading_time=None),
        ],
    )  # fmt: skip
    result = gate.run(context(lake, tmp_path, days))
    assert result.rows_in == 288 + 4
    assert result.written == ()
    (note,) = result.notes
    assert "no_file_is_discarded" in note
    assert "unread.gz" in note

    lake.write_rows(FILE, [file("bad.gz", rejects=90, readings=8)])
    bad = {"source_name": "bmc", "file_id": "id-bad.gz", "ingest_date": DAY}
    rejects = [bad | {"reason": "unit_mismatch"}] * 2 + [bad | {"reason": "bad_line"}]
    lake.write_rows(REJECT, [*rejects, bad | {"file_id": "id-old.gz", "reason": "no_time"}])
    with pytest.raises(QualityGateError) as caught:
        gate.run(context(lake, tmp_path, days))
    error = caught.value
    assert error.exit_code == Exit.QUALITY_GATE
    assert re.search(r"bronze/file: few_rejects: 0\.38\d*, expected at most 0\.25", error.what)
    assert "rejects of bmc: 2 unit_mismatch, 1 bad_line" in error.what
    assert "gate before gold for 2025-06-03" in error.where
    assert str(tmp_path / "quality" / "2025-06-03" / "index.html") in error.remedy


def test_pages_are_written_beside_gold_and_before_a_closed_gate_names_them(
    lake: Lake, tmp_path: Path
) -> None:
    days, front = Days.of(DAY), tmp_path / "quality" / "2025-06-03" / "index.html"
    lake.replace(INTERVAL, days, rows_of(INTERVAL, good_day()))
    lake.write_rows(FILE, [file()])
    with LocalEngine(1) as engine:
        engine.begin_aside(int)
        passed = gate.run(context(lake, tmp_path, days, engine))
        assert passed.beside is not None
        assert passed.beside() == ()
        assert "0 of 288 rows break it" in front.read_text(encoding="utf-8")

        lake.write_rows(FILE, [file("bad.gz", rejects=90, readings=8)])
        with pytest.raises(QualityGateError) as closed:
            gate.run(context(lake, tmp_path, days, engine))
        assert str(front) in closed.value.remedy
        assert "few_rejects" in front.read_text(encoding="utf-8")


def test_tables_that_do_not_exist_are_left_out(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(QualityGateError) as caught:
        gate.run(context(lake, tmp_path, Days.of(DAY)))
    assert "bronze/file: not_empty: the table does not exist" in caught.value.what
    assert "silver/grid_hour" not in caught.value.what
    assert not any(lake.exists(table) for table in TABLES.values())
