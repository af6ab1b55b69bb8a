"""A canary in the place of every secret and of a user: it stands in nothing that a run says or writes."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyspark
import pytest

from lepton_etl import redaction
from lepton_etl.config.settings import load
from lepton_etl.errors import ConfigurationError, RegistryError
from lepton_etl.redaction import guard_streams, redact, remember, remember_settings
from lepton_etl.schema.logs import JOB, READING
from tests.canary import found
from tests.conftest import PROJECT
from tests.faults.site import DAY, SmallSite, ipmi_text

CANARY = "k4n4ry-5ing5"
SACCT = "JobIDRaw|User|Account|Partition|State|Submit|Start|End|NodeList|AllocCPUS|Restarts"


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test remembered is no secret of the next one."""
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr(redaction, "_values", None)
    yield


@pytest.mark.parametrize(
    "text",
    [
        f"cannot connect to postgresql://lepton:{CANARY}@db.example:5432/mlflow",
        f"https://{CANARY}@mlflow.example/api",
        f"http://host/x?X-Amz-Signature={CANARY}&y=1",
        f"{{'secret_key': '{CANARY}', 'region': 'eu'}}",
        f'{{"password": "{CANARY}"}}',
        f"MLFLOW_TRACKING_TOKEN={CANARY}",
        f"Authorization: Bearer {CANARY}",
        f"fs.s3a.secret.key = {CANARY},",
    ],
)
def test_what_looks_like_a_secret_is_hidden_in_its_place(text: str) -> None:
    assert CANARY not in redact(text)
    assert redact(text).count("***") == 1


@pytest.mark.parametrize(
    "text",
    [
        "hdfs://namenode:8020/lake at 12:30 by ops@example.org",
        "tokens: 512 of 4096, secret: null",
        "key storage.secret_key = '${S3_SECRET}'",
        "n1,c1,2025-06-03T00:00:02Z,200.0",
        "=" * 10_000 + "a" * 100_000,
    ],
)
def test_what_is_none_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_a_secret_is_hidden_wherever_it_stands_and_however_a_uri_writes_it() -> None:
    remember_settings(
        {"spark": {"spark.hadoop.fs.x.password": "p@ss/word"}, "a": ["s3://b", "x://u:9+9%209=9@h"]}
    )
    for text in ("p@ss/word", "p%40ss%2Fword", "9+9 9=9"):
        assert redact(f"a{text}b") == "a***b"
    remember(["abc"])
    assert redact("abc") == "abc"


@pytest.mark.parametrize(
    ("changes", "variables", "shown"),
    [
        ({"storage": {"endpoint": "${PLACE}"}}, {"PLACE": CANARY}, "key storage.endpoint = '${PLACE}'"),
        ({"storage": {"access_key": CANARY}}, {}, "key storage = {'access_key': '***'}"),
        ({"site": {"site_id": "s1", "timezone": "${ZONE}"}}, {"ZONE": CANARY}, "'${ZONE}'"),
        ({"secret_thing": CANARY}, {}, "key secret_thing = '***': no such key"),
        ({"lake": {"root": f"https://me:{CANARY}@host/x"}}, {}, "key lake.root = 'https://***@host/x'"),
        ({}, {"LEPTON__STORAGE__ENDPOINT": CANARY}, "${LEPTON__STORAGE__ENDPOINT}"),
        ({}, {"LEPTON__STORAGE": json.dumps({"endpoint": CANARY})}, "${LEPTON__STORAGE}"),
    ],
)
def test_a_mistake_in_the_settings_shows_what_is_written_and_no_value(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    variables: dict[str, str],
    shown: str,
) -> None:
    site = SmallSite(tmp_path, settings=changes)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load(site.config)
    assert shown in str(raised.value)
    assert CANARY not in "".join(traceback.format_exception(raised.value))


def test_a_line_that_is_no_yaml_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(f"site: {{}}\nstorage: {{secret_key: '{CANARY}\n")
    with pytest.raises(ConfigurationError, match="in line 3") as raised:
        load(tmp_path / "site.yaml")
    assert CANARY not in "".join(traceback.format_exception(raised.value))


def test_errors_and_streams_hide_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(sys, "stdout", out)
    guard_streams()
    guard_streams()
    remember([CANARY])
    assert CANARY not in str(RegistryError(f"refused {CANARY}", where=CANARY))
    print(CANARY)
    sys.stdout.writelines([CANARY, "\n"])
    logging.StreamHandler().emit(logging.makeLogRecord({"msg": CANARY}))
    try:
        raise ValueError(CANARY)
    except ValueError:
        sys.excepthook(*sys.exc_info())
    assert out.getvalue().count("***") >= 4
    assert CANARY not in out.getvalue()


def canaries(site: SmallSite) -> list[str]:
    """The files of the site that hold the canary, but for the settings and what was delivered."""
    inputs = (site.config, site.folder / "landing")
    return found([path for path in site.folder.iterdir() if path not in inputs], [CANARY])


def with_canaries(folder: Path, spark: dict[str, str] | None = None) -> SmallSite:
    """A site with a canary in every secret of its settings and in the name of a user, and a registry that is down."""
    site = SmallSite(
        folder,
        [{"name": "jobs", "format": "slurm", "path": "landing/sacct-*.psv"}],
        {
            "mlflow": {"tracking_uri": f"http://user:{CANARY}-uri@127.0.0.1:9"},
            "storage": {
                "access_key": f"{CANARY}-id",
                "secret_key": f"{CANARY}-key",
                "session_token": f"{CANARY}-st",
            },
            "spark": {"spark.hadoop.fs.s3a.bucket.b.secret.key": f"{CANARY}-spark"} | (spark or {}),
        },
    )
    site.deliver("n1-2025-06-03.txt", ipmi_text(200, 60))
    job = f"1|{CANARY}-person|physics|gpu|COMPLETED|{DAY}T00:00:00|{DAY}T00:10:00|{DAY}T00:50:00|n1|4|0\n"
    site.deliver("sacct-1.psv", f"{SACCT}\n{job}{CANARY}-person|torn\n".encode())
    return site


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"storage": {"access_key": CANARY, "secret_key": "${LEPTON_TEST_KEY}"}}, "storage.access_key"),
        ({"mlflow": {"tracking_uri": f"http://user:{CANARY}@127.0.0.1:9"}}, "mlflow.tracking_uri"),
        ({"spark": {"spark.hadoop.fs.s3a.secret.key": CANARY}}, "spark.spark.hadoop.fs.s3a.secret.key"),
        (
            {"mlflow": {"tracking_uri": "http://user:${LEPTON_TEST_KEY:-" + CANARY + "}@127.0.0.1:9"}},
            "mlflow.tracking_uri",
        ),
        ({"mlflow": {"tracking_uri": "http://user:${LEPTON_TEST_KEY}@127.0.0.1:9"}}, None),
    ],
)
def test_a_secret_that_is_written_down_is_for_its_owner_alone(
    keys: dict[str, Any], key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPTON_TEST_KEY", "of-the-environment")
    config = SmallSite(tmp_path, settings=keys).config
    config.chmod(0o640)
    if key is not None:
        with pytest.raises(ConfigurationError, match="others may read the file") as refused:
            load(config)
        assert f"key {key} " in str(refused.value) and CANARY not in str(refused.value)
        config.chmod(0o600)
    load(config)


def test_a_night_says_and_writes_no_secret(tmp_path: Path) -> None:
    site = with_canaries(tmp_path)
    environment = os.environ | {
        "MLFLOW_TRACKING_TOKEN": f"{CANARY}-env",
        "AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws",
    }
    done = site.command("nightly", "--engine", "local", "--date", str(DAY), env=environment)
    models = site.command("models", env=environment)
    said = done.stdout + done.stderr + models.stdout + models.stderr
    assert "model registry: " in done.stderr and "model registry: " in models.stderr, said
    assert "model registry: " in (site.folder / "report" / str(DAY) / "index.html").read_text()
    assert CANARY not in said
    assert canaries(site) == []


@pytest.mark.spark
def test_spark_says_no_secret_in_its_event_log_nor_on_its_command_line(tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.mkdir()
    site = with_canaries(
        tmp_path,
        {"spark.eventLog.enabled": "true", "spark.eventLog.compress": "false", "spark.eventLog.dir": f"file://{events}",
         "spark.lepton.place": f"hdfs://u:{CANARY}-hdfs@host/x"},
    )  # fmt: skip
    command = [sys.executable, "-m", "lepton_etl.cli", "nightly", "--date", str(DAY), "--stage", "bronze"]
    seen: set[str] = set()
    with (tmp_path / "said").open("wb") as said:
        night = subprocess.Popen(
            [*command, "--config", str(site.config)], cwd=PROJECT, stdout=said, stderr=said
        )
        while night.poll() is None:
            with suppress(psutil.Error):
                seen |= {
                    " ".join(one.cmdline()) for one in psutil.Process(night.pid).children(recursive=True)
                }
            time.sleep(0.2)
    assert night.returncode == 0, (tmp_path / "said").read_text()
    java = [line for line in seen if "org.apache.spark.deploy.SparkSubmit" in line]
    assert java and not [line for line in java if f"{CANARY}-key" in line or f"{CANARY}-spark" in line]
    assert list(events.iterdir())
    assert canaries(site) == []


@pytest.mark.slow
@pytest.mark.spark
def test_a_submitted_run_under_the_secure_settings_leaves_no_secret_anywhere(tmp_path: Path) -> None:
    """A real spark-submit on both files of conf/ with its event log on: every file and all that is said is searched."""
    events = tmp_path / "events"
    events.mkdir()
    site = with_canaries(
        tmp_path,
        {
            "spark.lepton.api_key": f"{CANARY}-ak",
            "spark.lepton.sas": f"{CANARY}-sas",
            "spark.lepton.passphrase": f"{CANARY}-pp",
        },
    )
    conf = [
        line for name in ("spark-defaults.conf", "spark-secure.conf")
        for line in (PROJECT / "conf" / name).read_text(encoding="utf-8").splitlines()
        # Local mode makes a secret of its own for each application.
        if not line.startswith("spark.authenticate.secret.file")
    ]  # fmt: skip
    conf += [
        "spark.eventLog.enabled true", "spark.eventLog.compress false", f"spark.eventLog.dir file://{events}",
        f"spark.hadoop.fs.azure.account.key.x {CANARY}-azure", f"spark.lepton.place hdfs://u:{CANARY}-hdfs@host/x",
        f"spark.lepton.connection_string {CANARY}-cs",
    ]  # fmt: skip
    properties = tmp_path / "spark.conf"
    properties.write_text("\n".join(conf) + "\n", encoding="utf-8")
    done = subprocess.run(
        [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", "local[2]", "--properties-file",
         str(properties), "jobs/nightly.py", "--config", str(site.config), "--date", str(DAY), "--stage", "bronze"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
        env=os.environ | {"AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws", "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-pw"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = "".join(file.read_text(encoding="utf-8") for file in events.rglob("events_*"))
    # The log is of this run, under these settings.
    for name in ("spark.lepton.place", "spark.hadoop.fs.azure.account.key.x", "spark.io.encryption.enabled"):
        assert name in said, name
    properties.unlink()
    assert site.lake.read(READING).height and site.lake.read(JOB)["user_name"].is_not_null().all()
    assert CANARY not in done.stdout + done.stderr
    assert canaries(site) == []
