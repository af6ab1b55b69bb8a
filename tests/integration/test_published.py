"""Published schemas in real Delta tables: each audience reads its own, and nobody reads another's by trying."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from deltalake import DeltaTable

from lepton_etl.cli.main import main
from lepton_etl.conf_files import conf_path
from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError
from lepton_etl.lake.nights import name_night
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN, TENANT_DAY
from lepton_etl.schema.release import RELEASE
from lepton_etl.schema.trust import AUDIT
from lepton_etl.trust.people import People
from pipelines.nightly import check
from tests.canary import found
from tests.integration.laying import lay

FIRST = date(2025, 6, 3)
TENANTS = ("alpha-canary", "beta/canary", "gamma canary")
HOSTS = ("host-canary-1", "host-canary-2")
BASIS = {
    "energy_basis": "measured",
    "status": "provisional",
    "attribution_basis": "cores",
    "outcome": "completed",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two published days: in cluster crowded six people of two tenants run jobs, in lonely one person of the third."""
    (tmp_path / "inventory.csv").write_text("node_id,cluster_id,valid_from\nn1,crowded,2020-01-01\n")
    config = tmp_path / "site.yaml"
    config.write_text(
        yaml.safe_dump({
            "site": {"site_id": "s1"}, "lake": {"root": "lake"}, "fleet": {"inventory": "inventory.csv"},
            "sources": [{"name": "jobs", "format": "slurm", "path": "landing/*.txt"}],
            "privacy": {"policy": "access.yaml"},
        })
    )  # fmt: skip
    shutil.copy(conf_path("policies/access.yaml"), tmp_path / "access.yaml")
    lake = Lake(tmp_path / "lake")
    for number in range(2):
        day = FIRST + timedelta(days=number)
        at = datetime(day.year, day.month, day.day, tzinfo=UTC)
        who = [("crowded", TENANTS[n % 2], f"u-{n}") for n in range(6)] + [("lonely", TENANTS[2], "u-9")]
        runs = [
            {"site_id": "s1", "cluster_id": cluster, "job_id": f"{n}", "submit_time": at, "restart": 0, "date": day,
             "tenant_id": tenant, "user_name": user, "start_time": at, "it_energy_kwh": 1.0 + n} | BASIS
            for n, (cluster, tenant, user) in enumerate(who)
        ]  # fmt: skip
        place = {"site_id": "s1", "date": day}
        lay(lake, JOB_RUN, runs, Days.of(day))
        lay(lake, JOB_ENERGY, runs, Days.of(day))
        of_tenants = {(cluster, tenant) for cluster, tenant, _ in who}
        lay(lake, TENANT_DAY, [
            place | BASIS | {"cluster_id": cluster, "tenant_id": tenant, "it_energy_kwh": 5.0}
            for cluster, tenant in of_tenants
        ], Days.of(day))  # fmt: skip
        lay(lake, CLUSTER_DAY, [
            place | required(CLUSTER_DAY) | {"cluster_id": cluster, "it_energy_kwh": 21.0}
            for cluster in ("crowded", "lonely", "silent")
        ], Days.of(day))  # fmt: skip
        lay(lake, NODE_HOUR, [
            place | required(NODE_HOUR) | {"cluster_id": "crowded", "node_id": host, "hour_start": at} for host in HOSTS
        ], Days.of(day))  # fmt: skip
        name_night(lake, Days.of(day), f"night-{number}")
    return config


def required(table: Any) -> dict[str, Any]:
    """A value in each column that is never null and no key."""
    plain = {"string": "x", "double": 0.5, "bigint": 1, "int": 1, "boolean": True}
    return {
        one.name: one.one_of[0] if one.one_of else plain[one.type]
        for one in table.fields
        if one.name in table.not_null and one.name not in table.key and one.type in plain
    }


def ran(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said.out + said.err


def rows(folder: Path) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(DeltaTable(folder).to_pyarrow_table()))


def folders(site: Path) -> dict[str, Path]:
    names = ("alpha-canary", "beta~2fcanary", "gamma~20canary")
    return {
        tenant: site.parent / "lake-published/tenant" / name
        for tenant, name in zip(TENANTS, names, strict=True)
    }


def test_each_audience_reads_its_own(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, "publish", "--config", str(site))
    root = site.parent / "lake-published"
    public = rows(root / "public/gold/cluster_day")
    assert set(public["cluster_id"]) == {"crowded", "silent"} and public.height == 4
    assert set(public.columns) <= set(CLUSTER_DAY.columns)
    own = folders(site)
    assert {path.name for path in (root / "tenant").iterdir()} == {path.name for path in own.values()}
    for tenant, folder in own.items():
        for table in ("gold/tenant_day", "gold/job_energy"):
            assert set(rows(folder / table)["tenant_id"]) == {tenant}
        others = [one for one in TENANTS if one != tenant]
        assert found([folder], [*others, *HOSTS]) == []
    assert found([root / "public"], [*TENANTS, *HOSTS, "u-9"]) == []
    assert set(rows(root / "operator/gold/node_hour")["node_id"]) == set(HOSTS)
    assert (root / "auditor/ops/night").is_dir() and not (root / "operator/ops").exists()


def test_who_is_forgotten_is_in_no_copy_either(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An account that turns out to be a person's own, after it was published."""
    ran(capsys, "publish", "--config", str(site))
    root, name = site.parent / "lake-published", TENANTS[0]
    for folder in ("landing", "report"):
        (site.parent / folder).mkdir()
    (site.parent / "report/index.html").write_text(f"<td>{name}</td>")
    assert found([root], [name])
    settings = load(site)
    lake = Lake(settings.lake.root)
    People.of(lake, settings).pseudonym(name)
    figures = lake.read(TENANT_DAY)["it_energy_kwh"].sum()
    said = ran(capsys, "forget", name, "--config", str(site))
    assert f"still names somebody: {site.parent / 'report/index.html'}" in said
    assert found([root, site.parent / "lake"], [name]) == []
    assert len(list((root / "tenant").iterdir())) == len(TENANTS)
    assert lake.read(TENANT_DAY)["it_energy_kwh"].sum() == figures
    ran(capsys, "audit", "verify", "--config", str(site))


def test_files_lie_with_the_rights_of_the_policy(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, "publish", "--config", str(site))
    for audience, mode in (("public", 0o644), ("tenant", 0o640), ("operator", 0o640)):
        for path in (site.parent / "lake-published" / audience).rglob("*"):
            wanted = mode | (0o111 & mode >> 2) if path.is_dir() else mode
            assert path.stat().st_mode & 0o777 == wanted, path


def test_a_copy_has_no_past_and_loses_what_the_policy_takes_back(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(capsys, "publish", "--config", str(site))
    assert "auditor ops/audit: changed\npublish: 1 copies changed" in ran(
        capsys, "publish", "--config", str(site)
    )
    assert "publish: 0 copies changed" in ran(capsys, "publish", "--config", str(site))
    copied = Lake(site.parent / "lake").read(AUDIT).filter(pl.col("event_kind") == "copies")
    assert copied["subject"].to_list() == ["public, tenant, operator, auditor"]
    policy = yaml.safe_load((site.parent / "access.yaml").read_text())
    policy["audiences"]["public"]["min_people"] = 10
    policy["audiences"]["tenant"]["tables"] = {"gold/tenant_day": {}}
    policy["audiences"]["operator"]["classes"] = ["public"]
    policy["audiences"]["operator"]["tables"] = {"gold/job_energy": {}}
    (site.parent / "access.yaml").write_text(yaml.safe_dump(policy))
    ran(capsys, "publish", "--config", str(site))
    root = site.parent / "lake-published"
    assert set(rows(root / "public/gold/cluster_day")["cluster_id"]) == {"silent"}
    assert not found([root / "public"], ["crowded"])
    assert not any((folder / "gold/job_energy").exists() for folder in folders(site).values())
    assert not (root / "operator/gold/node_hour").exists()
    assert "tenant_id" not in rows(root / "operator/gold/job_energy").columns
    assert found([root / "operator"], TENANTS) == []


def test_a_month_is_released_once_and_the_budget_ends(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = yaml.safe_load((site.parent / "access.yaml").read_text())
    policy["release"]["budgets"] = {"public": 1.5}
    (site.parent / "access.yaml").write_text(yaml.safe_dump(policy))
    month = ("privacy", "release", "--config", str(site), "--month")
    first = ran(capsys, *month, "2025-06")
    assert ran(capsys, *month, "2025-06") == first
    lake = Lake(site.parent / "lake")
    assert (lake.version(RELEASE), lake.read(RELEASE).height) == (1, 16)
    assert "1 of 1.5 spent for data of 2025" in ran(capsys, *month, "2025-07", code=3)
    assert "no budget" in ran(capsys, *month, "2025-06", "--consumer", "press", code=3)
    assert "has not ended" in ran(capsys, *month, "2099-01", code=2)
    assert "is no month" in ran(capsys, *month, "2025-13", code=2)
    ran(capsys, "publish", "--config", str(site), "--audience", "public")
    assert rows(site.parent / "lake-published/public/ops/release").height == 16


def test_a_bad_policy_and_a_lake_that_is_open_wider_stop_the_night_at_its_start(site: Path) -> None:
    policy = site.parent / "access.yaml"
    shipped = policy.read_text()
    policy.write_text(shipped.replace("classes: [public]", "classes: [personal]", 1))
    with pytest.raises(ConfigurationError, match="for the site's own people"):
        check(load(site))
    policy.write_text(shipped.replace('lake: {mode: "0666"}', 'lake: {mode: "0640"}'))
    site.write_text(site.read_text().replace("root: lake", "root: lake\n  umask: '022'"))
    with pytest.raises(ConfigurationError, match=r"set lake\.umask to '027'"):
        check(load(site))
