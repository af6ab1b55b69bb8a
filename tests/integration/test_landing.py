"""Landing on S3, large files in bounded memory, and compressions, through real tasks."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
import structlog
from moto.server import ThreadedMotoServer

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError
from lepton_etl.ingest.text import zstd
from lepton_etl.lake import maintenance
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE, JOB, READING, REJECT
from pipelines import bronze
from pipelines.engine import Engine, InlineEngine, LocalEngine, SparkEngine
from pipelines.stage import StageContext

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SNAPSHOT = (
    "Timestamp: 2025-06-03 00:{minute:02d}:02 UTC\nSys Power | {watts} Watts | ok\nHost Power | 0x00 | ok\n"
)
TEXT = "".join(SNAPSHOT.format(minute=minute, watts=200 + minute) for minute in range(3)).encode()
SACCT = (
    b"JobIDRaw|Account|State|Submit|Start|End\n"
    b"7|physics|COMPLETED|2025-06-03T00:00:00|2025-06-03T00:01:00|2025-06-03T01:00:00\n"
)


def site(tmp_path: Path, path: str, **source: object) -> Settings:
    (tmp_path / "inventory.csv").write_text("node_id,cluster_id\nn1,c1\n", encoding="utf-8")
    return Settings.model_validate(
        {
            "site": {"site_id": "s1"},
            "lake": {"root": tmp_path / "lake"},
            "fleet": {"inventory": tmp_path / "inventory.csv"},
            "sources": [
                {
                    "name": "bmc", "format": "ipmitool", "path": path,
                    "node_id_from_path": r"(?P<node_id>[^/]+)-\d{4}-\d\d-\d\d\.txt", **source,
                }
            ],
        }
    )  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def load(lake: Lake, settings: Settings, engine: Engine | None = None) -> dict[str, dict[str, object]]:
    """Run bronze; the rows of bronze/file by file name."""
    day = Days(date(2025, 6, 3), date(2025, 6, 3))
    log = structlog.get_logger()
    bronze.run(StageContext(lake, settings, day, "test-run", log, engine or InlineEngine()))
    return {str(row["path"]).rpartition("/")[2]: row for row in lake.read(FILE).to_dicts()}


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    """The s3a options of a bucket `fleet` of a real S3 API server on loopback that knows one key."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="eu-central-1", aws_access_key_id="key-of-the-fleet",
        aws_secret_access_key="secret",
    )  # fmt: skip
    client.create_bucket(Bucket="fleet", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    client.put_object(Bucket="fleet", Key="ipmi/a/n1-2025-06-03.txt", Body=TEXT)
    client.put_object(Bucket="fleet", Key="ipmi/b/n2-2025-06-03.txt.zst", Body=zstd.compress(TEXT))
    client.put_object(Bucket="fleet", Key="ipmi/b/notes.md", Body=b"not asked for")
    yield {
        "spark.hadoop.fs.s3a.endpoint": endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": "eu-central-1",
        "spark.hadoop.fs.s3a.bucket.fleet.access.key": "key-of-the-fleet",
        "spark.hadoop.fs.s3a.bucket.fleet.secret.key": "secret",
    }
    server.stop()


@pytest.fixture(scope="module")
def pool(options: dict[str, str]) -> Iterator[LocalEngine]:
    with LocalEngine(2, options=options) as engine:
        yield engine


@pytest.mark.spark
def test_spark_says_the_options_of_its_session(spark: SparkSession) -> None:
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    named = {"fs.s3a.endpoint.region": "eu-north-1", "fs.s3a.bucket.fleet.secret.key": "secret"}
    for key, value in named.items():
        hadoop.set(key, value)
    engine = SparkEngine.of(spark)
    assert {name: engine.storage_option(name) for name in named} == named
    assert engine.storage_option("fs.s3a.bucket.other.secret.key") is None
    for key in named:
        hadoop.unset(key)


def test_objects_of_a_bucket_are_loaded_once_with_the_credentials_of_s3a(
    lake: Lake, pool: LocalEngine, tmp_path: Path
) -> None:
    settings = site(tmp_path, "s3://fleet/ipmi/**/*.txt*")
    files = load(lake, settings, pool)
    assert {
        name: (row["state"], row["node_id"], row["readings"], row["ignored"]) for name, row in files.items()
    } == {
        "n1-2025-06-03.txt": ("loaded", "n1", 3, 3),
        "n2-2025-06-03.txt.zst": ("loaded", "n2", 3, 3),
    }
    readings = lake.read(READING)
    assert sorted(readings["value"]) == [200, 200, 201, 201, 202, 202]
    versions = [lake.version(table) for table in (FILE, READING, REJECT)]
    load(lake, settings, pool)
    assert [lake.version(table) for table in (FILE, READING, REJECT)] == versions


def test_a_bucket_that_is_not_there_is_named_with_its_key(
    lake: Lake, pool: LocalEngine, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"sources\.bmc\.path = 's3://elsewhere/"):
        load(lake, site(tmp_path, "s3://elsewhere/ipmi/*.txt"), pool)


def test_every_compression_and_a_large_file_in_blocks(lake: Lake, tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    day = "".join(
        f"Timestamp: 2025-06-03 {second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d} UTC\n"
        + f"Sys Power | {second % 400} Watts | ok\n" + "Host Power | 0x00 | ok\n" * 11
        for second in range(86_400)
    )  # fmt: skip
    (landing / "big-2025-06-03.txt.xz").write_bytes(lzma.compress(day.encode(), preset=0))
    (landing / "cut-2025-06-03.txt.zst").write_bytes(zstd.compress(TEXT)[:-5])
    (landing / "n1-2025-06-03.txt.zst").write_bytes(zstd.compress(TEXT))
    files = load(lake, site(tmp_path, f"{landing}/*.txt*"))
    big = files["big-2025-06-03.txt.xz"]
    assert len(day) > 24 << 20  # More than one block.
    assert (big["state"], big["readings"], big["ignored"]) == ("loaded", 86_400, 11 * 86_400)
    assert big["last_reading_time"] == datetime(2025, 6, 3, 23, 59, 59, tzinfo=UTC)
    cut = files["cut-2025-06-03.txt.zst"]
    assert (cut["state"], cut["reason"], cut["rejects"], cut["readings"]) == (
        "discarded",
        "truncated_zstd",
        1,
        0,
    )
    assert files["n1-2025-06-03.txt.zst"]["readings"] == 3
    found = lake.read(READING).filter(node_id="big")
    last = found.sort("source_position").row(-1, named=True)
    assert (last["source_position"], last["value"]) == (86_399 * 13 + 2, 86_399 % 400)


def test_a_large_file_that_ends_badly_leaves_its_reject_and_nothing_else(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan saw it whole; when it is decoded, it is another file: what was staged of it is dropped."""
    landing = tmp_path / "landing"
    landing.mkdir()
    text = (SNAPSHOT.format(minute=1, watts=5) + "Host Power | 0x00 | ok\n" * 1000) * 1500
    file = landing / "n1-2025-06-03.txt"
    file.write_text(text)
    assert len(text) > 24 << 20

    def plan_then_rewrite(*given: object) -> int:
        batch = original(*given)
        file.write_text(text[:-2000].replace("Watts", "watts") + "x" * 2000)
        return batch

    original = bronze._plan
    monkeypatch.setattr(bronze, "_plan", plan_then_rewrite)
    row = load(lake, site(tmp_path, f"{landing}/*.txt"))[file.name]
    assert (row["state"], row["reason"], row["readings"], row["rejects"]) == (
        "discarded",
        "changed_while_read",
        0,
        1,
    )
    assert lake.read(READING).height == 0
    assert not list(Path(lake.path(READING)).glob("**/*.parquet"))


def test_what_was_appended_since_the_listing_is_left_to_the_next_run(lake: Lake, tmp_path: Path) -> None:
    """A growing file: read to the size it was listed with; with its new size it is another file of the next run."""
    landing = tmp_path / "landing"
    landing.mkdir()
    file = landing / "n1-2025-06-03.txt"
    file.write_bytes(TEXT)
    settings = site(tmp_path, f"{landing}/*.txt")
    first = load(lake, settings)[file.name]
    with file.open("ab") as more:
        more.write(SNAPSHOT.format(minute=9, watts=900).encode())
    load(lake, settings)
    rows = lake.read(FILE).to_dicts()
    assert sorted(row["readings"] for row in rows) == [3, 4]
    assert first["size_bytes"] == len(TEXT)


def test_job_accounting_stands_in_its_own_table(lake: Lake, tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    (landing / "sacct.txt").write_bytes(SACCT)
    row = load(lake, site(tmp_path, f"{landing}/*.txt", format="slurm", timezone="Europe/Berlin"))[
        "sacct.txt"
    ]
    assert (row["records"], row["jobs"], row["readings"]) == (1, 1, 0)
    job = lake.read(JOB).row(0, named=True)
    assert (job["job_id"], job["account"], job["job_state"]) == ("7", "physics", "COMPLETED")
    assert job["end_time"] - job["start_time"] == timedelta(minutes=59)


def test_hundreds_of_small_files_become_few(lake: Lake, pool: LocalEngine, tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    settings = site(tmp_path, f"{landing}/*.txt")
    for number in range(400):
        (landing / f"n{number}-2025-06-03.txt").write_bytes(TEXT)
    load(lake, settings, pool)
    assert len(lake.log(READING).file_uris()) <= pool.parallelism


def test_small_files_of_many_batches_are_put_together_and_no_row_changes(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "SMALL_FILES", 3)
    landing = tmp_path / "landing"
    landing.mkdir()
    settings = site(tmp_path, f"{landing}/*.txt")
    for number in range(4):
        (landing / f"n{number}-2025-06-03.txt").write_bytes(TEXT)
        load(lake, settings)
    assert len(lake.log(READING).file_uris()) == 2  # All of the first batches in one, and the last.
    nodes = lake.read(READING).group_by("node_id").len()
    assert dict(nodes.iter_rows()) == {f"n{n}": 3 for n in range(4)}
    operations = [entry["operation"] for entry in lake.log(READING).history()]
    assert operations.count("OPTIMIZE") == 1
    assert lake.log(READING).transaction_version("lepton-etl-bronze") == 4
