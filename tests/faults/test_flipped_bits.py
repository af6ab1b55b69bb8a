"""Bits that flip in the files of the lake: each is told with table, version and file, or changes no row."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lepton_etl.errors import LakeError
from lepton_etl.lake.check import check_lake
from lepton_etl.lake.staging import StagedFile, stage
from lepton_etl.lake.tables import Lake, read_files
from lepton_etl.schema.logs import READING
from tests.faults.site import SmallSite, ipmi_text

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
