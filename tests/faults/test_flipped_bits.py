"""Bits that flip in the files of the lake: each is told with table, version and file, or changes no row."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.days import Days
from lepton_etl.errors import LakeError
from lepton_etl.lake.check import check_lake
from lepton_etl.lake.staging import StagedFile, stage
from lepton_etl.lake.tables import Lake, read_files
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.logs import FILE, JOB, READING
from pipelines.gate import slices
from pipelines.publish import _job_spans
from tests.faults.site import DAY, SmallSite, ipmi_text

_FLIPS = 60
_SEED = 20250603


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SmallSite:
    found = SmallSite(tmp_path_factory.mktemp("flips"))
    for number in range(1, 10):
        found.deliver(f"n{number}-2025-06-03.txt", ipmi_text(200 + number, snapshots=60))
    found.bronze()
    return found


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    before = path.read_bytes()
    after = bytearray(before)
    after[bit // 8] ^= 1 << bit % 8
    path.write_bytes(after)
    try:
        yield
    finally:
        path.write_bytes(before)


def flips(lake: Lake) -> list[tuple[Path, int]]:
    paths = [Path(file.path) for file in lake.files(READING)]
    chosen = random.Random(_SEED)
    return [(path, chosen.randrange(path.stat().st_size * 8)) for path in chosen.choices(paths, k=_FLIPS)]


def test_a_task_tells_each_flipped_bit_by_table_version_and_file(site: SmallSite) -> None:
    files = site.lake.files(READING)
    assert read_files(READING, files).height == 9 * 120
    for path, bit in flips(site.lake):
        told = f"{READING.name} version 1: .*{re.escape(path.name)} -> restore the file"
        with flipped(path, bit):
            with pytest.raises(LakeError, match=told):
                read_files(READING, files)
            with pytest.raises(LakeError, match=told):
                next(file for file in files if file.path == str(path)).source()


def test_the_check_names_each_file_with_a_flipped_bit(site: SmallSite) -> None:
    assert list(check_lake(site.lake, [READING.name])) == []
    for path, bit in flips(site.lake):
        with flipped(path, bit):
            (found,) = check_lake(site.lake, [READING.name])
        assert (found.table, found.version, found.file.rpartition("/")[2]) == (READING.name, 1, path.name)
        assert "SHA-256" in found.what


def test_the_driver_tells_each_flipped_bit_too(site: SmallSite) -> None:
    for path, bit in flips(site.lake):
        with flipped(path, bit), pytest.raises(LakeError, match=re.escape(path.name)):
            site.lake.read(READING)


def test_a_staged_file_is_checked_before_its_commit(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    site.bronze()
    rows, version = site.lake.read(READING), site.lake.version(READING)
    staged: list[StagedFile] = stage(site.lake.root, READING, rows)
    with (
        flipped(Path(site.lake.path(READING)) / staged[0].path, 8 * 100),
        pytest.raises(LakeError, match="SHA-256 differs"),
    ):
        site.lake.append_staged(READING, staged, 99)
    assert site.lake.version(READING) == version
    site.lake.append_staged(READING, staged, 99)
    assert site.lake.read(READING).height == 2 * rows.height


def test_a_staged_file_that_was_torn_before_its_commit_is_made_again(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lake, "append_staged", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            site.bronze()
    (staged,) = Path(site.lake.path(READING)).rglob("part-*.parquet")
    staged.write_bytes(staged.read_bytes()[:-40] + bytes(40))
    site.bronze()
    assert site.lake.read(READING).height == 6
    site.is_conserved()


def grid_hours() -> pl.DataFrame:
    hour = {
        "date": DAY, "hour_start": Days.of(DAY).from_time, "intensity_basis": "direct", "signal": "average",
        "flow": "consumption", "carbon_intensity_gco2e_per_kwh": 200.0, "is_estimated": False, "source_name": "g",
    }  # fmt: skip
    return pl.DataFrame([hour | {"zone_id": zone} for zone in ("AA", "BB")])


def test_the_gate_tells_a_flipped_bit_too(tmp_path: Path) -> None:
    lake, days = Lake(tmp_path / "lake"), Days.of(DAY)
    lake.commit(GRID_HOUR, days, stage(lake.root, GRID_HOUR, grid_hours()))
    assert slices(lake, days)[GRID_HOUR.name].count_rows() == 2
    (file,) = lake.files(GRID_HOUR)
    with flipped(Path(file.path), 8 * 100), pytest.raises(LakeError, match="SHA-256 differs"):
        slices(lake, days)


def test_the_days_of_new_jobs_are_told_from_what_was_written(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    start = Days.of(DAY).from_time
    job = {
        "ingest_date": DAY, "site_id": "s1", "source_name": "slurm", "file_id": "f1", "source_position": "1",
        "ingest_time": start, "cluster_id": "c1", "job_id": "1", "submit_time": start, "start_time": start,
        "end_time": start,
    }  # fmt: skip
    lake.append_staged(JOB, stage(lake.root, JOB, pl.DataFrame([job])), 1)
    file = {"path": "a", "file_id": "f1", "state": "loaded", "batch": 1, "jobs": 1}
    lake.write_rows(FILE, [file])
    assert list(_job_spans(lake, 0, {DAY})) == [(DAY, DAY)]
    (staged,) = lake.files(JOB)
    with flipped(Path(staged.path), 8 * 100), pytest.raises(LakeError, match="SHA-256 differs"):
        list(_job_spans(lake, 0, {DAY}))


@pytest.mark.parametrize("read", ["task", "driver", "gate"])
def test_a_file_that_is_gone_is_named_with_its_table(tmp_path: Path, read: str) -> None:
    lake, days = Lake(tmp_path / "lake"), Days.of(DAY)
    lake.commit(GRID_HOUR, days, stage(lake.root, GRID_HOUR, grid_hours()))
    (file,) = lake.files(GRID_HOUR)
    Path(file.path).unlink()
    reads: dict[str, Callable[[], object]] = {
        "task": lambda: read_files(GRID_HOUR, [file]),
        "driver": lambda: lake.read(GRID_HOUR),
        "gate": lambda: slices(lake, days),
    }
    told = f"silver/grid_hour version 1: the file is gone from under the table: .*{re.escape(file.path)} -> restore"
    with pytest.raises(LakeError, match=told):
        reads[read]()


@pytest.mark.parametrize("read", ["task", "driver"])
def test_a_file_without_a_digest_that_cannot_be_read_is_named_too(tmp_path: Path, read: str) -> None:
    lake = Lake(tmp_path / "lake")
    lake.write_rows(FILE, [{"path": "a", "file_id": "f1", "state": "loaded", "batch": 1}])
    (file,) = lake.files(FILE)
    Path(file.path).write_bytes(Path(file.path).read_bytes()[:-20])
    told = f"bronze/file version 1: the file cannot be read .*{re.escape(file.path)} -> restore"
    with pytest.raises(LakeError, match=told):
        read_files(FILE, [file]) if read == "task" else lake.read(FILE)
