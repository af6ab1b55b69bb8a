"""The page: every section, unknowns as dashes, everything escaped, nothing loaded from a network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from lepton_etl.recommend.advice import Advice, Subject
from lepton_etl.report import data as d
from lepton_etl.report import page
from lepton_etl.report.page import render
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.diagnosis import ANOMALY
from lepton_etl.schema.energy import MODEL_SHIFT
from lepton_etl.schema.recommend import RECOMMENDATION, SAVING, TENANT_BURDEN
from lepton_etl.schema.types import arrow_schema
from lepton_etl.uncertainty import Estimate
from tests.pages import text_of
from tests.unit.report.conftest import kpi_row, table

Report = Callable[..., d.ReportData]
ATTACK = '<script>alert("x")</script>'
SECTIONS = (
    "clusters",
    "hours",
    "power",
    "model",
    "coverage",
    "files",
    "gate",
    "unknown",
    "stages",
    "meaning",
)


class Loads(HTMLParser):
    """Collects what a browser would load or could be sent to, and the elements' ids."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset", "formaction"):
                self.targets.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def without_bundle(html: str) -> str:
    """The page without the script of the Vega libraries, which name namespaces and documentation."""
    longest = max(re.findall(r"<script>.*?</script>", html, re.DOTALL), key=len)
    return html.replace(longest, "")


def parsed(html: str) -> Loads:
    parser = Loads()
    parser.feed(without_bundle(html))
    return parser


def specification(html: str, name: str) -> dict[str, object]:
    found = re.search(rf'<script type="application/json" id="spec-{name}">(.*?)</script>', html, re.DOTALL)
    assert found, f"no chart {name}"
    spec: dict[str, object] = json.loads(found[1])
    return spec


@pytest.fixture(scope="module")
def one_day(made_up_report: Report) -> str:
    return render(made_up_report(1))


def test_all_sections_are_there(one_day: str) -> None:
    assert set(SECTIONS) <= set(parsed(one_day).ids)


def test_nothing_is_loaded_from_a_network(one_day: str) -> None:
    targets = parsed(one_day).targets
    assert targets
    assert all(target.startswith("#") or target.startswith("../") for target in targets)
    rest = without_bundle(one_day)
    assert not re.search(r"https?://|url\(|@import", rest)
    # The browser itself refuses every load that a later change might bring in.
    assert "default-src 'none'" in rest


def test_the_head_says_site_days_run_and_code(one_day: str) -> None:
    for said in (
        "Energy report of mghpcc", "UTC day 2025-06-03", "2025-06-02 20:00 to 2025-06-03 20:00, America/New_York",
        "run-7f3a", "0.1.0+abc1234", "2025-06-04 02:11:05 UTC",
    ):  # fmt: skip
        assert said in one_day


def test_an_unknown_figure_is_a_dash_with_its_basis(one_day: str) -> None:
    energy_row = re.search(r"<tr[^>]*><th scope=\"row\">\s*storage.*?</tr>", text_of(one_day), re.DOTALL)
    assert energy_row
    assert "<td>–" in energy_row[0]
    assert "insufficient" in energy_row[0]
    assert not re.search(r"<td>0\D", energy_row[0])


def test_a_sum_over_unknown_rows_is_said_to_be_a_part(one_day: str) -> None:
    assert "≥\u00a05,176\u202fkWh" in text_of(one_day)
    assert "known in 2 of 3 cluster-days with nodes" in text_of(one_day)


def test_the_pue_is_the_one_of_the_kpi_table(made_up_report: Report) -> None:
    """That nearest to the IT input which most days know, as a ratio of sums; unknown, with the table's reason."""
    full = made_up_report(2)
    rows = [kpi_row(date(2025, 6, day), kpi, facility, it) for day, kpi, facility, it in (
        (3, "pue2", 300.0, 200.0), (4, "pue2", 100.0, 100.0), (3, "pue3", 300.0, 150.0), (4, "pue3", 100.0, 50.0),
        (3, "pue1", 300.0, 250.0), (4, "pue1", None, None),
    )]  # fmt: skip
    html = text_of(render(replace(full, kpi=table(rows, arrow_schema(KPI)))))
    assert re.search(r'PUE</span><span class="value">1\.333<', html) and "category 2; interim" in html
    none = [kpi_row(date(2025, 6, 3), "pue3", None, None)]
    assert "only 3 of 24 hours are known" in render(replace(full, kpi=table(none, arrow_schema(KPI))))


def test_states_anomalies_and_the_runs_own_footprint_are_shown(made_up_report: Report) -> None:
    states = [{"performance_state": "power_capped", "intervals": 12, "devices": 1, "nodes": "n7"},
              {"performance_state": None, "intervals": 3, "devices": 1, "nodes": "n8"}]  # fmt: skip
    start = datetime(2025, 6, 3, 4, tzinfo=UTC)
    odd = {"anomaly_id": "a", "date": start.date(), "site_id": "s", "cluster_id": "c", "rack_id": "r9", "node_id": None,
           "device_id": None, "anomaly_kind": "rack", "start_time": start, "end_time": start + timedelta(hours=5),
           "excess_kwh": -1.25, "anomaly_score": 2.0, "confidence_ratio": 0.97,
           "explanation": "all <moved>"}  # fmt: skip
    html = render(
        replace(
            made_up_report(1),
            states=pa.Table.from_pylist(states, schema=d.STATE_COUNT_SCHEMA),
            anomalies=pa.Table.from_pylist([odd], schema=arrow_schema(ANOMALY)),
            footprint=d.OwnFootprint(3600.0, 7.4),
        )
    )
    section = html[html.index('<section id="devices">') : html.index('<section id="coverage">')]
    for said in ("power capped", "not known", "n7", "r9", "all &lt;moved&gt;", "97"):
        assert said in section
    assert re.search(
        r"The run itself, up to this page: .* 7\.400\u202fWh at 7\.4 W for a busy core", text_of(html)
    )
    small = text_of(render(made_up_report(1, footprint=d.OwnFootprint(36.0, 7.4))))
    assert "0.07400\u202fWh at" in small
    bare = render(made_up_report(1))
    assert "No device was judged" in bare and "No anomaly was found" in bare and "The run itself" not in bare


def test_devices_that_left_their_model_are_named_with_when_it_was_found(made_up_report: Report) -> None:
    moved = {"date": date(2025, 6, 4), "site_id": "s", "cluster_id": "c", "node_id": "n7", "device_id": "gpu0",
             "model_name": "m", "model_version": "3", "compared_hours": 24, "shift_kind": "less",
             "shift_since": date(2025, 6, 1), "shift_found": date(2025, 6, 3)}  # fmt: skip
    shown = table([{name: moved.get(name) for name in MODEL_SHIFT.columns}], arrow_schema(MODEL_SHIFT))
    html = render(made_up_report(1, shifts=shown))
    section = html[html.index('<section id="model">') : html.index('<section id="devices">')]
    for said in ("n7", "gpu0", "less", "2025-06-01", "2025-06-03"):
        assert said in section
    assert "have left what their model says" not in render(made_up_report(1))


def test_recommendations_and_what_they_brought_are_shown(made_up_report: Report) -> None:
    start = datetime(2025, 6, 4, tzinfo=UTC)
    promised = Advice(
        Subject("s", "c01"), "consolidate", "power_down", "put 2 of 8 nodes of <c01> to sleep", start,
        start + timedelta(days=1), 9.6, Estimate(6.5, 5.0, 7.5), "idle power", guard_rail="one in reserve",
        saving_kgco2e=Estimate(2.6, 2.0, 3.0), carbon_method="location",
    ).row()  # fmt: skip
    night = {"date": start.date(), "recommendation_state": "proposed", "first_proposed_date": start.date(),
             "state_time": start}  # fmt: skip
    brought = {"date": start.date(), "recommendation_id": "ab" * 8, "site_id": "s", "lever": "cooling", "proven": False,
               "saving_method": "ipmvp_c", "grade_reason": "not proven: the interval holds 0",
               "realised_saving_kwh": 12.5, "realised_saving_lower_kwh": -3.0, "realised_saving_upper_kwh": 28.0,
               "savings_uncertainty_ratio": 1.24, "reporting_from": start.date()}  # fmt: skip
    html = render(
        replace(
            made_up_report(1),
            recommendations=pa.Table.from_pylist([promised | night], schema=arrow_schema(RECOMMENDATION)),
            savings=pa.Table.from_pylist([brought], schema=arrow_schema(SAVING)),
        )
    )
    section = html[html.index('<section id="advice">') : html.index('<section id="coverage">')]
    for said in ("nodes of &lt;c01&gt; to sleep", "one in reserve", "proposed", "6.5", "location", "abababab",
                 "not proven: the interval holds 0", "124"):  # fmt: skip
        assert said in section, said
    assert "Nothing is recommended" in render(made_up_report(1))


def test_burdens_of_tenants_are_shown_with_index_and_price(made_up_report: Report) -> None:
    burden = {"site_id": "s", "burden_kind": "delay", "date": date(2025, 6, 4), "fair_share_basis": "pending_jobs",
              "jain_index_ratio": 0.625, "share_max_ratio": 0.5, "forgone_saving_kwh": 4.0,
              "forgone_saving_ratio": 0.2}  # fmt: skip
    rows = [
        burden | {"tenant_id": name, "burden_h": hours, "burden_share_ratio": share, "fair_share_ratio": 0.5}
        for name, hours, share in (("law", 1.0, 0.1), ("<physics>", 9.0, 0.9))
    ]
    html = render(
        replace(made_up_report(1), burdens=pa.Table.from_pylist(rows, schema=arrow_schema(TENANT_BURDEN)))
    )
    section = html[html.index('<section id="fairness">') : html.index('<section id="coverage">')]
    for said in ("0.625", "50", "4.000", "20", "pending jobs", "90"):
        assert said in section, said
    # Who bears most beyond its share comes first.
    assert section.index("&lt;physics&gt;") < section.index(">law<")
    assert "No burden of tenants is known" in render(made_up_report(1))


def test_all_unknown_renders_without_a_chart(made_up_report: Report) -> None:
    full = made_up_report(1)
    names = ("site_id", "cluster_id", "date", "node_count", "status")
    bases = {f.name: "none" for f in full.cluster_day.schema if f.name.endswith("_basis")}
    rows = [
        {name: row[name] for name in names if name in row} | bases for row in full.cluster_day.to_pylist()
    ]
    bare = d.ReportData(
        run=full.run,
        cluster_day=pa.Table.from_pylist(rows, schema=d.CLUSTER_DAY_SCHEMA),
        cluster_hour=d.CLUSTER_HOUR_SCHEMA.empty_table(),
    )
    html = render(bare)
    assert "spec-" not in without_bundle(html).replace("place.dataset.spec", "")
    assert "No hour has a known energy" in html
    assert "No model was trained or scored in this run." in html
    assert "water_l" in html


def test_no_rows_at_all_is_said(made_up_report: Report) -> None:
    full = made_up_report(1)
    html = render(
        d.ReportData(full.run, d.CLUSTER_DAY_SCHEMA.empty_table(), d.CLUSTER_HOUR_SCHEMA.empty_table())
    )
    assert "gold/cluster_day holds no row for these days." in html


def test_everything_from_data_is_escaped(made_up_report: Report) -> None:
    full = made_up_report(1)

    def attacked(table: pa.Table) -> pa.Table:
        for index, field in enumerate(table.schema):
            if pa.types.is_string(field.type) and field.name not in (
                "subject",
                "load_kind",
                "temperature_kind",
            ):
                table = table.set_column(index, field, pa.array([ATTACK] * table.num_rows))
        return table

    clean_scripts = parsed(render(full)).scripts
    html = render(
        replace(
            full,
            run=replace(full.run, site_id=ATTACK, run_id=ATTACK),
            cluster_day=attacked(full.cluster_day),
            cluster_hour=attacked(full.cluster_hour),
            points=d.Sample(attacked(full.points.rows), 10),
            coverage=replace(full.coverage, cells=attacked(full.coverage.cells)),
            files=attacked(full.files),
            discarded=attacked(full.discarded),
            rejects=attacked(full.rejects),
            ignored=attacked(full.ignored),
            stages=attacked(full.stages),
            gate=d.Gate((ATTACK,)),
            predictions=d.Sample(attacked(full.predictions.rows), 10),
            credits=(ATTACK,),
        )
    )
    rest = without_bundle(html)
    assert "<script>alert" not in rest
    assert "&lt;script&gt;alert" in rest
    assert parsed(html).scripts == clean_scripts
    assert ATTACK in json.dumps(specification(html, "coverage")).replace('\\"', '"')


def test_a_bad_gzip_is_named_at_the_top_and_under_files(one_day: str) -> None:
    path = "landing/ipmi/node0007-2025-06-03.txt.gz"
    top, files = one_day.split('<section id="files">')
    assert path in top
    assert path in files
    assert "truncated_gzip" in top


def test_equal_data_give_equal_pages(made_up_report: Report) -> None:
    assert render(made_up_report(1)) == render(made_up_report(1))


def test_a_range_shows_totals_and_days(made_up_report: Report) -> None:
    html = render(made_up_report(3))
    assert "2025-06-03 to 2025-06-05 (3 UTC days)" in html
    assert "By UTC day" in html
    assert "38.48\u202fMWh" in html  # three days of 1,724 nodes at 310 W


def test_the_sampling_rule_stands_on_the_page(one_day: str) -> None:
    assert "960 of 44,928 device-hours are drawn: those with the lowest hash" in text_of(one_day)


def test_data_docs_are_linked_relatively(one_day: str) -> None:
    assert 'href="../../quality/index.html"' in one_day


def test_model_errors_stand_beside_their_baseline(one_day: str) -> None:
    section = one_day.split('<section id="model">')[1].split("</section>")[0]
    assert "it passed the gate and is the champion." in section
    assert "14.0\u202f%" in section
    assert "linear model" in section and "23.4\u202f%" in section
    assert "spec-predictions" in section


def test_the_page_of_a_large_fleet_stays_small(made_up_report: Report, one_day: str) -> None:
    assert len(one_day) < 2_500_000
    assert "The 60 least covered of 1,832 nodes" in text_of(one_day)


def test_vegas_script_is_kept_in_the_users_cache_and_made_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page._bundle.cache_clear()
    made = page._bundle()
    (kept,) = (tmp_path / "lepton-etl").iterdir()
    assert kept.read_text(encoding="utf-8") == made and "vegaEmbed" in made
    kept.write_text("of the cache", encoding="utf-8")
    page._bundle.cache_clear()
    assert page._bundle() == "of the cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # a file: nothing can be kept below it
    page._bundle.cache_clear()
    assert page._bundle() == made
    page._bundle.cache_clear()
