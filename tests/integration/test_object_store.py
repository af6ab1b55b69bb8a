"""A lake in a bucket of a real S3 API server on loopback: whole nights, safe commits, leases that are taken over."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import boto3
import polars as pl
import pytest
import structlog
from deltalake.exceptions import CommitFailedError

from lepton_etl.config.sections import PrivacySettings, StorageSettings
from lepton_etl.config.settings import LakeSettings, MlflowSettings, Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, Exit, LakeError, LockedError
from lepton_etl.lake import lease as leases
from lepton_etl.lake import tables
from lepton_etl.lake.check import check_lake
from lepton_etl.lake.compare import compare_lakes
from lepton_etl.lake.file_register import FileRegister
from lepton_etl.lake.lease import DaysLease, Lease
from lepton_etl.lake.location import Location
from lepton_etl.lake.runs import RunLease, RunRecord, end_lost_runs
from lepton_etl.lake.staging import stage
from lepton_etl.lake.tables import Lake, read_files
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.logs import FILE, READING
from lepton_etl.schema.operations import RUN
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from lepton_etl.trust.verify import verify
from pipelines import bronze
from pipelines.engine import InlineEngine, LocalEngine
from pipelines.nightly import check, run_night
from pipelines.stage import StageContext
from tests.nights import without

DAY = Days.of(date(2025, 6, 3))
KEYS = {"access_key": "key-of-the-lake", "secret_key": "secret"}


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageSettings]:
    """Section `storage` of a server in a process of its own: some calls of delta-rs let no other thread run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until
                time.sleep(0.1)
        found = StorageSettings(endpoint=f"http://127.0.0.1:{port}", region="eu-central-1", **KEYS)
        client = boto3.client(
            "s3", endpoint_url=found.endpoint, region_name=found.region, aws_access_key_id=found.access_key,
            aws_secret_access_key=found.secret_key,
        )  # fmt: skip
        client.create_bucket(Bucket="lakes", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield found
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a small simulated fleet, its lake in a folder."""
    folder = tmp_path_factory.mktemp("site")
    clusters = (ClusterPlan(cluster_id="c01", nodes=2, hardware_class="gpu-400"),)
    # Objects and commits are as many of sparse logs.
    plan = FleetPlan(
        seed=3, first_date=DAY.start, days=1, clusters=clusters, bmc_period_s=300, gpu_period_s=300
    )
    simulate(plan, folder)
    return load(folder / "config.yaml")


def in_bucket(site: Settings, storage: StorageSettings, prefix: str, folder: Path) -> Settings:
    """The same site with its lake in the bucket, and a model registry of its own."""
    mlflow = MlflowSettings(
        tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=str(folder / "artifacts")
    )
    lake = LakeSettings(root=f"s3a://lakes/{prefix}")
    privacy = PrivacySettings(key_file=folder / "people-key")
    return site.model_copy(update={"lake": lake, "storage": storage, "mlflow": mlflow, "privacy": privacy})


@pytest.fixture
def lake(site: Settings, storage: StorageSettings, tmp_path: Path) -> Lake:
    return Lake.of(in_bucket(site, storage, tmp_path.name, tmp_path))


@pytest.mark.parametrize(
    ("left_out", "tables"),
    [
        # Of the stages beside the figures one that reads and writes stands for all.
        pytest.param(("gate", "forecast", "train", "score", "recommend", "report"), 27, id="figures"),
        pytest.param((), 30, id="whole", marks=pytest.mark.slow),
    ],
)
def test_a_night_in_a_bucket_makes_the_tables_of_one_in_a_folder(
    site: Settings, storage: StorageSettings, tmp_path: Path, left_out: tuple[str, ...], tables: int
) -> None:
    bucket = in_bucket(site, storage, tmp_path.name, tmp_path)
    folder = site.model_copy(update={"lake": LakeSettings(root=tmp_path / "lake")})
    # The folder's is there to be compared with: the stages without a table are the bucket's alone.
    with LocalEngine(1) as pool:
        for settings, engine, out in ((folder, InlineEngine(), ("gate", "report")), (bucket, pool, ())):
            check(settings)
            with without(*left_out, *out):
                night = run_night(engine, settings, DAY)
            assert night.exit_code == Exit.DONE, night.message
    found = list(compare_lakes(folder.lake.root, Location.of_lake(bucket)))
    assert len(found) > tables
    assert [line for one in found if not one.equal for line in one.lines()] == []
    assert list(check_lake(Lake.of(bucket))) == []
    assert list(verify(Lake.of(bucket))) == []


def test_two_commits_to_one_version_are_never_both_there(lake: Lake) -> None:
    """The second of two writers that read one version is refused: the log is written by If-None-Match."""
    lake.write_rows(RUN, [{"run_id": "r0", "state": "running"}])
    first, second = lake.log(RUN), lake.log(RUN)
    first.delete("run_id = 'r0'")
    with pytest.raises(CommitFailedError):
        second.delete("run_id = 'r0'")
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(
            lambda n: Lake(lake.root).write_rows(RUN, [{"run_id": f"r{n}", "state": "done"}]), range(8)
        ):
            pass
    assert sorted(lake.read(RUN)["run_id"]) == [f"r{n}" for n in range(8)]


def test_a_store_that_overwrites_where_it_shall_create_is_refused(
    site: Settings, storage: StorageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = in_bucket(site, storage, "unsafe", tmp_path)
    # As a store without conditional writes answers.
    monkeypatch.setattr(Location, "create", lambda place, content: place.write(content) or "tag")
    with pytest.raises(ConfigurationError, match=r"lake\.root = 's3a://lakes/unsafe'.*If-None-Match"):
        check(settings)


def test_a_bucket_that_is_not_there_is_named(
    site: Settings, storage: StorageSettings, tmp_path: Path
) -> None:
    settings = in_bucket(site, storage, "x", tmp_path)
    elsewhere = settings.model_copy(update={"lake": LakeSettings(root="s3a://nowhere/lake")})
    with pytest.raises(ConfigurationError, match=r"lake\.root = 's3a://nowhere/lake'"):
        check(elsewhere)


def test_a_lease_in_a_bucket_is_one_runs_and_is_given_back(lake: Lake) -> None:
    with Lease(lake, "bronze", "first"):
        with pytest.raises(LockedError, match="held by run first"), Lease(lake, "bronze", "second"):
            pass
        with DaysLease(lake, [DAY], "first"):
            with (
                pytest.raises(LockedError, match=r"day-2025-06-03.*run first"),
                DaysLease(lake, [DAY], "second"),
            ):
                pass
            with DaysLease(lake, [Days.of(date(2025, 6, 4))], "second"):
                pass
    with Lease(lake, "bronze", "second"), DaysLease(lake, [DAY], "second"):
        lake.write_rows(RUN, [{"run_id": "second", "state": "done"}])


def test_a_run_in_a_bucket_that_was_killed_is_ended_and_a_living_one_is_not(lake: Lake) -> None:
    for run_id in ("killed", "living"):
        RunRecord(lake, run_id, DAY, "").started()
    with RunLease(Lake(lake.root), "living"):
        (note,) = end_lost_runs(lake, "now")
        assert note.startswith("run killed for 2025-06-03 was killed")
        assert end_lost_runs(lake, "now") == []
    assert "run-living.json" not in (lake.root / "_leases").names()
    (note,) = end_lost_runs(lake, "now")
    assert note.startswith("run living")
    states = lake.read(RUN).group_by("run_id").agg("state").sort("run_id")
    assert [sorted(one) for one in states["state"]] == [["failed", "running"], ["failed", "running"]]


@pytest.mark.parametrize("summary", ["whole", "torn", "gone"])
def test_a_batch_in_a_bucket_that_was_killed_before_its_commit_is_finished(
    site: Settings, storage: StorageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, summary: str
) -> None:
    settings = in_bucket(site, storage, f"{tmp_path.name}-{summary}", tmp_path)
    lake = Lake.of(settings)
    context = StageContext(lake, settings, DAY, "test", structlog.get_logger(), InlineEngine())
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "append_staged", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bronze.run(context)
    place = FileRegister(lake).summary(1)
    assert place.exists()
    if summary == "torn":
        place.write(place.read()[0][:100])
    elif summary == "gone":
        place.remove()
    decoded: list[object] = []
    with monkeypatch.context() as patch:
        first = bronze._stage
        patch.setattr(bronze, "_stage", lambda *given: (decoded.append(given), first(*given)))
        bronze.run(context)
    # What was staged is taken as it is where its summary is whole.
    assert bool(decoded) == (summary != "whole")
    assert not place.exists()
    files, rows = lake.read(FILE), lake.read(READING).height
    assert set(files["state"]) == {"loaded"} and files["readings"].sum() == rows > 0


def test_a_small_object_that_was_changed_is_told_by_the_task_that_reads_it(lake: Lake) -> None:
    hour = {
        "date": DAY.start, "hour_start": DAY.from_time, "zone_id": "AA", "intensity_basis": "direct",
        "signal": "average", "flow": "consumption", "carbon_intensity_gco2e_per_kwh": 200.0, "is_estimated": False,
        "source_name": "g",
    }  # fmt: skip
    lake.commit(GRID_HOUR, DAY, stage(lake.root, GRID_HOUR, pl.DataFrame([hour])))
    (file,) = lake.files(GRID_HOUR)
    content = bytearray(Location(file.path, file.options).read()[0])
    content[100] ^= 1
    Location(file.path, file.options).write(bytes(content))
    # A task is another process than the one that committed.
    tables._sha256_of_object.cache_clear()
    with pytest.raises(LakeError, match=r"silver/grid_hour version 1: .*SHA-256 differs"):
        read_files(GRID_HOUR, [file])


def entered(one: Lease) -> bool:
    try:
        one.__enter__()
    except LockedError:
        return False
    return True


def test_of_many_that_find_a_silent_holder_one_takes_over_and_the_silent_one_commits_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 600.0)
    with Lease(lake, "bronze", "paused"):
        lake.write_rows(RUN, [{"run_id": "paused", "state": "running"}])
        # Paused for long: the margin is over, then the silence.
        monkeypatch.setattr(leases, "SILENT_AFTER_S", 2.0)
        monkeypatch.setattr(leases, "_MARGIN_S", 1.0)
        time.sleep(4)
        others = [Lease(Lake(lake.root), "bronze", f"r{number}") for number in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(entered, others)) == 1
        with pytest.raises(LockedError, match="run paused was lost"):
            lake.write_rows(RUN, [{"run_id": "paused", "state": "done"}])
    assert lake.read(RUN)["state"].to_list() == ["running"]
