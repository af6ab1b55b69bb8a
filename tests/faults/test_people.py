"""Canaries in the place of people's names and of the key: whole nights, each export, after a person is forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64encode
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.config.settings import load
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.jobs import JOB_RUN, TENANT_DAY
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from tests.canary import found
from tests.conftest import PROJECT

pytestmark = [pytest.mark.fault, pytest.mark.spark]

DAY, LAST = date(2025, 6, 3), date(2025, 6, 4)
KEY = b64encode(b"kanarienvogel-im-schacht-32bytes").decode()
INPUTS = ("landing", "truth", "inventory.csv", "config.yaml")
# So small a site may have nothing to recommend.
NOTHING = 4
FORMS = (("csv",), ("commands", "--for", "kubernetes"))


def test_nobody_is_named_in_anything_that_nights_and_exports_leave(tmp_path: Path) -> None:
    site = tmp_path / "site"
    plan = FleetPlan(
        seed=7, first_date=DAY, days=2,
        clusters=(
            ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),
            ClusterPlan(cluster_id="c02", nodes=2, hardware_class="gpu-400"),
        ),
    )  # fmt: skip
    simulate(plan, site)
    people = with_canaries(site / "landing/slurm")
    assert found([site / "landing"], people)

    def lepton(*command: str, code: int = 0, or_code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lepton_etl.cli", *command, "--config", str(site / "config.yaml")],
            capture_output=True, text=True, cwd=PROJECT, env=os.environ | {"LEPTON_PEOPLE_SECRET": KEY},
        )  # fmt: skip
        assert done.returncode in (code, or_code or code), done.stderr
        said = site / "said"
        said.mkdir(exist_ok=True)
        (said / f"{len(list(said.iterdir()))}.txt").write_text(done.stdout + done.stderr)
        return done.stdout + done.stderr

    def searched() -> list[str]:
        return found([path for path in site.iterdir() if path.name not in INPUTS], [*people, KEY])

    submitted_nights(site)
    lake = Lake(load(site / "config.yaml").lake.root)
    assert lake.read(JOB_RUN)["user_name"].n_unique() == len(people)
    for form in FORMS:
        lepton("recommend", "export", "--format", *form, or_code=NOTHING)
    lepton("recommend", "list", or_code=NOTHING)
    lepton("recommend", "list", "--names", code=2)
    lepton("export", "eu-2024-1364", "--year", str(DAY.year))
    lepton("privacy", "release", "--month", f"{DAY:%Y-%m}")
    lepton("publish")
    lepton("report", "--date", str(DAY), "--until", str(LAST))
    for name in ("bronze/job", "bronze/reject", "silver/job_run"):
        lepton("tables", "show", name, "--csv", "--limit", "1000000")
    assert searched() == []
    published = site / "lake-published"
    hosts = [node for cluster in plan.clusters for node in cluster.node_ids()]
    assert found([published / "operator"], hosts)
    assert found([published / "public", published / "tenant"], hosts) == []

    before = lake.read(TENANT_DAY)
    user = lake.read(JOB_RUN).filter(pl.col("user_name").is_not_null())["user_name"][0]
    person = lepton("privacy", "name", user).strip()
    (
        site / "said" / f"{len(list((site / 'said').iterdir())) - 1}.txt"
    ).unlink()  # The one answer that names somebody.
    said = lepton("forget", person)
    assert user in said and "still holds the name: " in said
    lepton("privacy", "name", user, code=2)
    assert searched() == []
    assert lake.read(TENANT_DAY).equals(before)


def submitted_nights(site: Path) -> None:
    """Nights by a real spark-submit; its event log, and all that driver, executors and tasks say, lie in the site."""
    events, said = site / "events", site / "said"
    for folder in (events, said):
        folder.mkdir()
    with (said / "spark.txt").open("w") as spoken:
        done = subprocess.run(
            ["spark-submit", "--properties-file", "conf/spark-defaults.conf", "--conf", "spark.eventLog.enabled=true",
             "--conf", "spark.eventLog.compress=false", "--conf", f"spark.eventLog.dir=file://{events}",
             "jobs/nightly.py", "--config", str(site / "config.yaml"), "--date", str(DAY), "--until", str(LAST)],
            cwd=PROJECT, stdout=spoken, stderr=spoken, check=False,
            env=os.environ | {"LEPTON_PEOPLE_SECRET": KEY},
        )  # fmt: skip
    assert done.returncode == 0, (said / "spark.txt").read_text()[-3000:]
    # The log is of these nights' tasks.
    assert any("SparkListenerTaskEnd" in file.read_text() for file in events.rglob("events_*"))


def with_canaries(folder: Path) -> list[str]:
    """Give the simulated users names that stand nowhere else, and lay a torn line with each beside."""
    tenants = {f"tenant{number:02d}-user" for number in range(1, 100)}
    names = {tenant: f"kanarie.{tenant[6:8]}" for tenant in tenants}
    known: set[str] = set()
    for path in sorted(folder.iterdir()):
        text = path.read_text()
        for tenant, name in names.items():
            if tenant in text:
                known.add(name)
                text = text.replace(tenant, name)
        path.write_text(text + "".join(f"{name}|torn\n" for name in sorted(known)))
    return sorted(known)
