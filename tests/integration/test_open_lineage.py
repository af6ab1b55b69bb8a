"""Stages tell a consumer of OpenLineage what they read and wrote, column by column; one that is away stops nothing.

Events are checked as a consumer takes them: as JSON, by the specification's own JSON schemas (openlineage_spec), and
read back into the declared types of its Python client.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
from openlineage.client import facet_v2
from openlineage.client.event_v2 import Job, Run, RunState
from referencing import Registry, Resource

from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.runs import StageRecord
from lepton_etl.schema.formulas import STATED, formulas_of, told_columns, told_tables
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.untold import reason_of
from lepton_etl.trust.open_lineage import OpenLineage, column_inputs
from pipelines import nightly
from pipelines.engine import InlineEngine

DAY = Days.of(date(2025, 6, 3))
START = datetime(2025, 6, 4, 2, tzinfo=UTC)
SETTINGS = """
site: {{site_id: here}}
lake: {{root: {root}/lake}}
fleet: {{inventory: {root}/inventory.csv}}
sources: [{{name: bmc, format: ipmitool, path: "{root}/landing/*.txt"}}]
openlineage: {{{where}}}
"""


def settings_of(root: Path, where: str) -> Settings:
    (root / "inventory.csv").write_text("node_id\n", encoding="utf-8")
    (root / "config.yaml").write_text(SETTINGS.format(root=root, where=where), encoding="utf-8")
    return load(root / "config.yaml")


def gold(state: str = "done", message: str = "") -> StageRecord:
    tables = {"gold/cluster_hour": 7, "gold/tenant_day": 4}
    return StageRecord(
        "gold", DAY, START, START + timedelta(seconds=9), state, 10, 5, message,
        {"silver/interval": 3, "bronze/file batch": 2, "model/node-energy": 5}, tables if state == "done" else {},
    )  # fmt: skip


def sent(settings: Settings) -> list[dict[str, Any]]:
    """The events of a run of two stages, the second of which failed."""
    told = OpenLineage.of(settings, "20250604T020000-aaaa", DAY)
    assert told is not None
    told.stage(gold())
    told.stage(gold("failed", "LedgerError: api_key=hush does not close"))
    told.run(START, START + timedelta(minutes=1), "stopped", done=False)
    assert told.note == ""
    file = settings.openlineage.file
    assert file is not None
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def events(tmp_path: Path) -> list[dict[str, Any]]:
    return sent(settings_of(tmp_path, "file: events.jsonl"))


def test_a_stage_is_a_run_under_the_night_with_the_versions_that_it_read_and_wrote(
    events: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert [event["eventType"] for event in events] == ["START", "COMPLETE", "START", "FAIL", "START", "FAIL"]
    assert [event["job"]["name"].removeprefix("lepton-etl.") for event in events] == 4 * ["gold"] + 2 * [
        "nightly"
    ]
    done, night = events[1], events[5]
    assert done["run"]["facets"]["parent"]["run"]["runId"] == night["run"]["runId"]
    assert done["run"]["runId"] == events[0]["run"]["runId"] != night["run"]["runId"]
    assert {
        (one["namespace"], one["name"], one["facets"]["version"]["datasetVersion"]) for one in done["inputs"]
    } == {("file", f"{tmp_path}/lake/silver/interval", "3"), ("mlflow", "node-energy", "5")}
    assert {(one["name"], one["facets"]["version"]["datasetVersion"]) for one in done["outputs"]} == {
        (f"{tmp_path}/lake/gold/cluster_hour", "7"), (f"{tmp_path}/lake/gold/tenant_day", "4"),
    }  # fmt: skip
    assert events[3]["outputs"] == []
    assert "LedgerError" in events[3]["run"]["facets"]["errorMessage"]["message"]


def test_columns_come_of_what_their_formulas_name(events: list[dict[str, Any]], tmp_path: Path) -> None:
    outputs = {one["name"].removeprefix(f"{tmp_path}/lake/"): one["facets"] for one in events[1]["outputs"]}
    fields = outputs["gold/cluster_hour"]["columnLineage"]["fields"]
    assert {one["name"] for one in outputs["gold/cluster_hour"]["schema"]["fields"]} >= set(fields)
    assert {(one["name"].removeprefix(f"{tmp_path}/lake/"), one["field"]) for one in
            fields["carbon_intensity_gco2e_per_kwh"]["inputFields"]} == {
        ("silver/grid_hour", "carbon_intensity_gco2e_per_kwh")}  # fmt: skip
    assert fields["pue_ratio"]["transformationDescription"].endswith("facility_energy_kwh / it_energy_kwh")
    tenant = outputs["gold/tenant_day"]["columnLineage"]["fields"]["it_energy_kwh"]["inputFields"]
    assert {one["field"] for one in tenant} == {"dynamic_kwh", "static_kwh"}


def is_of_own_row(table: str, column: str) -> bool:
    """Whether a column is made of its own row and settings alone, in the end of what no formula makes."""
    named = {one.source_of(name) for one in formulas_of(table, column) for name in one.names()}
    return bool(named) and all(
        of in (table, STATED) and (reason_of(of, name) is not None or is_of_own_row(of, name))
        for of, name in named
    )


@pytest.mark.parametrize("table", told_tables())
def test_every_told_column_leads_to_columns_of_other_tables_that_there_are(table: str) -> None:
    for column in told_columns(table):
        inputs = column_inputs(table, column)
        assert inputs or is_of_own_row(table, column), f"{table}.{column} comes of nothing"
        for of, name in inputs:
            assert of != table
            assert name in TABLES[of].columns, f"{of}.{name}"


SPEC = Path(__file__).parent / "openlineage_spec"
SCHEMAS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in SPEC.glob("*.json")}
# Facets refer to the versions of the core that they were written against: the newest stands for them.
REGISTRY: Registry[Any] = Registry(
    retrieve=lambda uri: Resource.from_contents(SCHEMAS[uri.rsplit("/", 1)[-1]])
)


def hold(what: dict[str, Any], url: str) -> None:
    """What stands in an event is as the specification's schema says, in the version that the event names."""
    name = url.partition("#")[0]
    assert SCHEMAS[name.rsplit("/", 1)[-1]]["$id"] == name
    schema = jsonschema.Draft202012Validator(
        {"$ref": url}, registry=REGISTRY, format_checker=jsonschema.FormatChecker()
    )
    schema.validate(what)


def declared_facets() -> dict[str, type]:
    """The client's facets by their schema."""
    modules = [
        getattr(facet_v2, name) for name in dir(facet_v2) if name.endswith(("_run", "_job", "_dataset"))
    ]
    classes = [one for module in modules for one in vars(module).values() if isinstance(one, type)]
    return {one._get_schema(): one for one in classes if issubclass(one, facet_v2.BaseFacet)}


def taken(event: dict[str, Any]) -> set[str]:
    """The names of an event's facets, each as the specification says and read into the client's types."""
    hold(event, event["schemaURL"])
    classes, seen = declared_facets(), set()
    run, job = event["run"], event["job"]
    datasets = [*event["inputs"], *event["outputs"]]
    for facets in (run["facets"], job.get("facets", {}), *(one["facets"] for one in datasets)):
        for facet in facets.values():
            hold(facet, facet["_schemaURL"])
            read = classes[facet["_schemaURL"]](
                **{name: value for name, value in facet.items() if not name.startswith("_")}
            )
            seen.add(type(read).__name__)
    Run(run["runId"]), Job(job["namespace"], job["name"]), RunState(event["eventType"])
    return seen


def test_events_and_facets_hold_the_schemas_of_the_specification(events: list[dict[str, Any]]) -> None:
    assert {name for event in events for name in taken(event)} == {
        name.removesuffix(".json") for name in SCHEMAS if name != "OpenLineage.json"
    }


@pytest.mark.parametrize(
    ("of", "name", "wrong"),
    [("run", "runId", "no-uuid"), ("job", "name", None), ("run", "facets", {"parent": {"run": {}}})],
)
def test_an_event_that_the_specification_does_not_know_is_refused(
    events: list[dict[str, Any]], of: str, name: str, wrong: Any
) -> None:
    events[1][of][name] = wrong
    with pytest.raises((jsonschema.ValidationError, KeyError)):
        taken(events[1])


class Consumer(BaseHTTPRequestHandler):
    """Takes events as Marquez does: POST /api/v1/lineage."""

    taken: ClassVar[list[tuple[str, str | None, dict[str, Any]]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def consumer() -> Iterator[tuple[str, type[Consumer]]]:
    class Own(Consumer):
        taken: ClassVar = []

    with HTTPServer(("127.0.0.1", 0), Own) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Own
        server.shutdown()
        thread.join()


def test_a_night_sends_its_stages_to_a_consumer_by_http(
    tmp_path: Path, consumer: tuple[str, type[Consumer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, took = consumer
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing" / "n1.txt").write_text("Sys Power | 300 Watts | ok\n", encoding="utf-8")
    monkeypatch.setenv("LINEAGE_KEY", "hush-hush")
    settings = settings_of(tmp_path, f"url: '{url}', api_key: '${{LINEAGE_KEY}}'")
    nightly.run_night(InlineEngine(), settings, DAY, "bronze")
    assert {path for path, _, _ in took.taken} == {"/api/v1/lineage"}
    assert {key for _, key, _ in took.taken} == {"Bearer hush-hush"}
    jobs = [event["job"]["name"] for _, _, event in took.taken]
    assert jobs == 2 * ["lepton-etl.bronze"] + 2 * ["lepton-etl.nightly"]
    assert all(taken(event) >= {"NominalTimeRunFacet", "JobTypeJobFacet"} for _, _, event in took.taken)
    assert ("file", f"{tmp_path}/landing/*.txt") in {
        (one["namespace"], one["name"]) for one in took.taken[1][2]["inputs"]
    }


def test_a_consumer_that_is_away_is_a_note_and_no_failure(tmp_path: Path) -> None:
    told = OpenLineage.of(settings_of(tmp_path, "url: 'http://127.0.0.1:9'"), "20250604T020000-aaaa", DAY)
    assert told is not None
    told.stage(gold())
    assert told.note.startswith("OpenLineage: events are not sent (")
    begun = datetime.now(UTC)
    told.stage(gold())
    assert datetime.now(UTC) - begun < timedelta(seconds=1), "the second is not tried"


def test_without_a_place_nothing_is_sent_and_the_client_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    assert OpenLineage.of(settings_of(tmp_path, ""), "20250604T020000-aaaa", DAY) is None
