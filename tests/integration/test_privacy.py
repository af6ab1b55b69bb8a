"""People of job accounting in a real lake: no byte of it names them, a kill in between loses nobody."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest
import structlog
import yaml

from lepton_etl.cli.main import main
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE, JOB, REJECT
from lepton_etl.schema.privacy import PSEUDONYM
from lepton_etl.trust.people import People
from lepton_etl.trust.pseudonyms import PERSON
from pipelines import bronze
from pipelines.engine import LocalEngine
from pipelines.stage import StageContext
from tests.canary import found

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
    landing = tmp_path / "landing"
    landing.mkdir()
    (tmp_path / "inventory.csv").write_text("node_id,cluster_id,valid_from\nn1,c1,2020-01-01\n")
    (tmp_path / "site.yaml").write_text(
        yaml.safe_dump(
            {
                "site": {"site_id": "s1"},
                "lake": {"root": "lake"},
                "fleet": {"inventory": "inventory.csv"},
                "sources": [
                    {"name": "jobs", "format": "slurm", "path": "landing/sacct-*.txt"},
                    {"name": "any", "format": "auto", "path": "landing/any-*.txt"},
                ],
            }
        )
    )
    return load(tmp_path / "site.yaml")


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
    (landing / "sacct-3.txt").write_text(sacct(NAMES[0], 3))
    night()
    assert lake.read(JOB).filter(user_name=user)["job_id"].to_list() == ["1"]
    assert found([tmp_path / "lake"], NAMES) == []


def ran(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    assert ended.value.code == code
    return str(capsys.readouterr().out)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt
