"""People of job accounting in a real lake: no byte of it names them, a kill in between loses nobody."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
import structlog

from lepton_etl.cli.main import main
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.nights import name_night
from lepton_etl.lake.tables import Lake
from lepton_etl.recommend.advice import Subject, id_of
from lepton_etl.schema.jobs import JOB_RUN
from lepton_etl.schema.logs import FILE, JOB, REJECT
from lepton_etl.schema.privacy import PSEUDONYM
from lepton_etl.schema.recommend import DECISION, RECOMMENDATION
from lepton_etl.schema.trust import AUDIT
from lepton_etl.trust.people import People
from lepton_etl.trust.pseudonyms import PERSON
from pipelines import bronze
from pipelines.engine import LocalEngine
from pipelines.stage import StageContext
from tests.canary import found
from tests.integration.laying import lay, lay_site

DAY = date(2025, 6, 3)
NAMES = ("anna.canary", "bertha_canary", "carla-canary")
HEADER = "JobIDRaw|User|Account|Partition|State|Submit|Start|End|NodeList|AllocCPUS|Restarts"
ROW = "{job}|{user}|{account}|gpu|COMPLETED|2025-06-03T0{hour}:00:00|2025-06-03T0{hour}:00:00|{end}|n1|4|0"


def sacct(
    user: str, job: int, account: str = "physics", hour: int = 1, end: str = "2025-06-03T09:00:00"
) -> str:
    """A file of one job; another `end` makes it a reject."""
    row = ROW.format(job=job, user=user, account=account, hour=hour, end=end)
    return f"{HEADER}\n{row}\n"


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    return lay_site(
        tmp_path,
        {"name": "jobs", "format": "slurm", "path": "landing/sacct-*.txt"},
        {"name": "any", "format": "auto", "path": "landing/any-*.txt"},
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def night(lake: Lake, site: Settings) -> Callable[[], None]:
    context = StageContext(lake, site, Days.of(DAY), "test", structlog.get_logger())
    return lambda: bronze.run(context) and None


def test_no_byte_of_the_lake_names_a_person(
    lake: Lake, site: Settings, night: Callable[[], None], tmp_path: Path
) -> None:
    landing = tmp_path / "landing"
    (landing / "sacct-1.txt").write_text(sacct(NAMES[0], 1))
    (landing / "sacct-2.txt").write_text(sacct(NAMES[1], 2, end=f"{NAMES[1]}!"))
    (landing / "any-3.txt").write_text(sacct(NAMES[2], 3) + f"{NAMES[2]}|torn\n")
    (landing / "any-4.txt").write_text(f"{NAMES[0]}'s own notes\n" * 50)
    assert len(found([landing], NAMES)) == 4
    night()
    assert found([tmp_path / "lake"], NAMES) == []
    rejects = lake.read(REJECT)
    assert rejects.height == 3 and "9|a.a|" not in rejects["raw_text"]
    assert lake.read(FILE)["state"].to_list() == ["loaded"] * 4
    (tmp_path / "landing/sacct-5.txt").write_text(sacct(NAMES[0], 5, hour=2))
    night()
    users = dict(lake.read(JOB).select("job_id", "user_name").iter_rows())
    assert users["1"] == users["5"] == People.of(lake, site).names()[PERSON, NAMES[0]]
    assert users["3"] != users["1"] and PSEUDONYM.fullmatch(users["3"])


def test_tenants_have_pseudonyms_where_the_settings_say_so_from_the_first_night_and_in_an_older_lake(
    lake: Lake, site: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def night(settings: Settings) -> None:
        bronze.run(StageContext(lake, settings, Days.of(DAY), "test", structlog.get_logger()))

    account, config = "account-of-canaries", tmp_path / "site.yaml"
    (tmp_path / "landing/sacct-1.txt").write_text(sacct(NAMES[0], 1, account=account))
    night(site)
    assert found([tmp_path / "lake"], [account])
    config.write_text(config.read_text() + "privacy: {tenants: pseudonyms}\n")
    (tmp_path / "landing/sacct-2.txt").write_text(sacct(NAMES[1], 2, account=account))
    night(load(config))
    ran(capsys, "privacy", "migrate", "--config", str(config))
    assert found([tmp_path / "lake"], [account]) == []
    [tenant] = lake.read(JOB)["tenant_id"].unique()
    assert ran(capsys, "privacy", "name", tenant, "--config", str(config)) == f"{account}\n"
    said = ran(capsys, "forget", account, "--config", str(config))
    assert f"still holds the name: {tmp_path / 'landing/sacct-2.txt'}" in said
    ran(capsys, "privacy", "name", tenant, "--config", str(config), code=2)


def test_a_pool_of_processes_gives_one_person_one_pseudonym(
    lake: Lake, site: Settings, tmp_path: Path
) -> None:
    for number in range(6):
        (tmp_path / f"landing/sacct-{number}.txt").write_text(sacct(NAMES[number % 2], number))
    with LocalEngine() as engine:
        bronze.run(StageContext(lake, site, Days.of(DAY), "test", structlog.get_logger(), engine))
    jobs = lake.read(JOB).with_columns(pl.col("job_id").cast(pl.Int64) % 2)
    assert jobs.group_by("job_id").agg(pl.col("user_name").n_unique())["user_name"].to_list() == [1, 1]
    assert len(People.of(lake, site).names()) == 2


def test_a_night_killed_before_its_summary_gives_names_that_the_map_knows(
    lake: Lake, site: Settings, night: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "landing/sacct-1.txt").write_text(sacct(NAMES[0], 1))
    for killed in (People, bronze.FileRegister):
        name = "add" if killed is People else "finish"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(killed, name, _killed)
            night()
    night()
    [user] = lake.read(JOB)["user_name"]
    assert People.of(lake, site).name_of()[user] == NAMES[0]
    assert found([tmp_path / "lake"], NAMES) == []


def test_who_is_forgotten_is_nowhere_and_totals_stay(
    lake: Lake, site: Settings, night: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    landing, config = tmp_path / "landing", str(tmp_path / "site.yaml")
    (landing / "sacct-1.txt").write_text(sacct(NAMES[0], 1))
    (landing / "sacct-2.txt").write_text(sacct(f"{NAMES[0]}-junior", 2))
    night()
    before, version = lake.read(JOB), lake.version(JOB)
    user = before.row(by_predicate=pl.col("job_id") == "1", named=True)["user_name"]
    assert ran(capsys, "privacy", "name", user, "--config", config) == f"{NAMES[0]}\n"
    said = ran(capsys, "forget", NAMES[0], "--config", config)
    assert user in said and NAMES[0] not in said
    assert [line for line in said.splitlines() if line.startswith("still")] == [
        f"still holds the name: {landing / 'sacct-1.txt'}"
    ]
    assert ran(capsys, "privacy", "name", user, "--config", config, code=2) == ""
    assert (lake.version(JOB), lake.read(JOB).equals(before)) == (version, True)
    events = lake.read(AUDIT).filter(event_kind="erasure")
    assert events["subject"].to_list() == [user]
    ran(capsys, "audit", "verify", "--config", config)
    (landing / "sacct-3.txt").write_text(sacct(NAMES[0], 3))
    night()
    assert lake.read(JOB).filter(user_name=user)["job_id"].to_list() == ["1"]
    assert found([tmp_path / "lake"], NAMES) == []


def test_an_account_of_the_persons_own_that_came_in_first_is_forgotten_too(
    lake: Lake, night: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "landing/sacct-1.txt").write_text(sacct(NAMES[1], 1, account=NAMES[0]))
    night()
    assert found([tmp_path / "lake"], NAMES)
    (tmp_path / "landing/sacct-2.txt").write_text(sacct(NAMES[0], 2))
    night()
    ran(capsys, "forget", NAMES[0], "--config", str(tmp_path / "site.yaml"))
    assert found([tmp_path / "lake"], NAMES) == []


def test_a_pod_that_is_called_by_a_person_names_nobody(
    lake: Lake, site: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """People come in with the same batch, whatever its order; by a pod of JupyterHub; and after the pod."""
    config = tmp_path / "site.yaml"
    config.write_text(
        config.read_text().replace(
            "sources:", "sources:\n- {name: a-pods, format: opencost, path: 'landing/oc-*.csv'}"
        )
    )

    def night() -> None:
        bronze.run(StageContext(lake, load(config), Days.of(DAY), "test", structlog.get_logger()))

    def pods(number: int, *names: str) -> None:
        row = "k8s,physics,{},n1,2025-06-03T00:00:00Z,2025-06-03T01:00:00Z,2\n"
        head = "properties.cluster,properties.namespace,properties.pod,properties.node,start,end,cpuCores\n"
        (tmp_path / f"landing/oc-{number}.csv").write_text(head + "".join(map(row.format, names)))

    pods(1, "notebook-anna-2ecanary-0", "jupyter-carla-canary", "of-bertha_canary-0")
    (tmp_path / "landing/sacct-1.txt").write_text(sacct(NAMES[0], 1))
    night()
    named = [*NAMES, "anna-2ecanary", "anna-canary"]
    assert {hit.split(" in ")[0] for hit in found([tmp_path / "lake"], named)} == {NAMES[1]}
    assert lake.read(JOB).filter(pl.col("job_id").str.starts_with("physics/"))["job_id"].n_unique() == 3
    [user] = lake.read(JOB)["user_name"].drop_nulls()
    said = ran(capsys, "forget", NAMES[0], "--config", str(config))
    assert user in said and "/landing/oc-1.csv" in said and "/landing/sacct-1.txt" in said
    assert NAMES[0] not in People.of(lake, site).name_of().values()
    ran(capsys, "forget", NAMES[1], "--config", str(config))
    assert found([tmp_path / "lake"], named) == []
    ran(capsys, "audit", "verify", "--config", str(config))


def test_a_lake_of_an_older_release_is_migrated_once(
    lake: Lake, site: Settings, night: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    landing, config = tmp_path / "landing", str(tmp_path / "site.yaml")
    with monkeypatch.context() as older:
        older.setattr(bronze.Hiding, "__call__", lambda _, decoded, of_jobs: decoded)
        (landing / "sacct-1.txt").write_text(sacct(NAMES[0], 1, account=NAMES[0]))
        night()
        (landing / "sacct-2.txt").write_text(sacct(NAMES[1], 2) + f"{NAMES[1]}|torn\n")
        night()
    at = datetime(2025, 6, 3, tzinfo=UTC)
    subject = Subject("s1", job_class=f"{NAMES[0]} in gpu")
    old_id = id_of("power_cap", "set_power_limit", subject)
    run = {"site_id": "s1", "cluster_id": "c1", "job_id": "1", "submit_time": at, "restart": 0, "date": DAY}
    lay(
        lake, JOB_RUN, [run | {"user_name": NAMES[0], "outcome": "completed", "start_time": at}], Days.of(DAY)
    )
    advice = {
        "date": DAY, "recommendation_id": old_id, "site_id": "s1", "lever": "power_cap", "action": "set_power_limit",
        "job_class": subject.job_class, "advice": f"cap {NAMES[0]} in gpu at 200 W", "action_json": "{}",
        "recommendation_state": "proposed", "first_proposed_date": DAY, "state_time": at, "window_start": at,
        "window_end": at, "carbon_method": "none", "promise_basis": "x",
    }  # fmt: skip
    lay(lake, RECOMMENDATION, [advice], Days.of(DAY))
    name_night(lake, Days.of(DAY), "older")
    decided = {"recommendation_id": old_id, "decision": "accepted", "decided_time": at, "effective_time": at}
    lake.write_rows(DECISION, [decided | {"decided_by": NAMES[2], "note": f"asked {NAMES[0]}"}])
    (tmp_path / "report").mkdir()
    (tmp_path / "report/index.html").write_text(f"<p>cap {NAMES[0]} in gpu")
    before = {
        table.name: lake.read(table).height for table in (JOB, REJECT, JOB_RUN, RECOMMENDATION, DECISION)
    }
    assert {hit.split(" in ")[0] for hit in found([tmp_path / "lake"], NAMES)} == set(NAMES)

    said = ran(capsys, "privacy", "migrate", "--config", config)
    assert f"still names somebody: {tmp_path / 'report/index.html'}" in said
    assert found([tmp_path / "lake"], NAMES) == []
    users = {name: People.of(lake, site).names()[PERSON, name] for name in NAMES}
    published = lake.as_published()
    assert published.read(JOB_RUN)["user_name"].to_list() == [users[NAMES[0]]]
    [row] = published.read(RECOMMENDATION).to_dicts()
    assert row["advice"] == f"cap {users[NAMES[0]]} in gpu at 200 W"
    assert row["recommendation_id"] == lake.read(DECISION)["recommendation_id"][0] != old_id
    assert lake.read(DECISION).select("decided_by", "note").row(0) == (
        users[NAMES[2]],
        f"asked {users[NAMES[0]]}",
    )
    assert before == {
        table.name: lake.read(table).height for table in (JOB, REJECT, JOB_RUN, RECOMMENDATION, DECISION)
    }
    jobs = lake.read(JOB).sort("job_id")
    assert jobs["tenant_id"].to_list() == [users[NAMES[0]], "physics"]
    (landing / "sacct-3.txt").write_text(sacct(NAMES[1], 3))
    night()
    assert lake.read(JOB).filter(user_name=users[NAMES[1]])["job_id"].sort().to_list() == ["2", "3"]
    assert "rewritten" not in ran(capsys, "privacy", "migrate", "--config", config)
    assert lake.read(JOB).height == 3


def ran(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    assert ended.value.code == code
    return str(capsys.readouterr().out)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt
