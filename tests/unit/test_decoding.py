"""What an executor does with files, without Spark: one bad file costs itself, stamps fit the file's own time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lepton_etl.config.settings import Settings
from lepton_etl.ingest.decoded import Origin
from lepton_etl.ingest.ipmitool import Ipmitool
from lepton_etl.lake.landing import Landing
from lepton_etl.lake.location import Location
from lepton_etl.lake.staging import StagedFile
from lepton_etl.registers.node_names import NodeNames
from pipelines.bronze import Decoding, Hashed, Loaded, stamp_window

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROW = "Timestamp: {stamp} UTC\nSys Power | 200 Watts | ok\n"


def executor(tmp_path: Path, **source: Any) -> tuple[Decoding, list[Hashed]]:
    """An executor's work for the files of tmp_path/landing, and its files as planned."""
    settings = Settings.model_validate(
        {
            "site": {"site_id": "s1"},
            "lake": {"root": tmp_path / "lake"},
            "fleet": {"inventory": tmp_path / "inventory.csv"},
            "sources": [{"name": "bmc", "format": "ipmitool", "path": f"{tmp_path}/landing/*.txt", **source}],
        }
    )
    root, sources = Location(str(tmp_path / "lake")), {"bmc": settings.sources[0]}
    work = Decoding(root, Landing(), "s1", sources, NOW, memory_mib=4096, names=NodeNames(frozenset()))
    return work, list(work.hash(Landing().delivered(settings.sources[0])))


def staged(work: Decoding, files: list[Hashed]) -> tuple[dict[str, Loaded], list[StagedFile]]:
    results = list(work.stage(files))
    loaded = {Path(result.path).name: result for result in results if isinstance(result, Loaded)}
    return loaded, [result for result in results if isinstance(result, StagedFile)]


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder


def test_a_mistake_of_a_decoder_costs_one_file(
    tmp_path: Path, landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (landing / f"{name}.txt").write_text(ROW.format(stamp="2025-06-03 00:00:02"))
    work, files = executor(tmp_path)
    whole = Ipmitool.read

    def failing(settings: Ipmitool, chunks: Iterator[bytes], origin: Origin) -> Any:
        if origin.path.endswith("b.txt"):
            raise IndexError("index 7 is out of bounds")
        return whole(settings, chunks, origin)

    monkeypatch.setattr(Ipmitool, "read", failing)
    loaded, written = staged(work, files)
    assert {name: (result.state, result.reason) for name, result in loaded.items()} == {
        "a.txt": ("loaded", None),
        "b.txt": ("discarded", "decoder_error"),
        "c.txt": ("loaded", None),
    }
    rejects = next(file for file in written if file.table == "bronze/reject")
    texts = pq.read_table(tmp_path / "lake" / rejects.table / rejects.path)["raw_text"].to_pylist()
    assert len(texts) == 1
    assert texts[0].endswith("b.txt: IndexError: index 7 is out of bounds")


def test_stamps_are_held_against_the_time_of_the_last_writing(tmp_path: Path, landing: Path) -> None:
    file = landing / "n1.txt"
    stamps = (
        "2019-01-01 00:00:00",
        "2025-06-03 00:00:00",
        "2025-06-04 23:59:59",
        "2025-06-05 00:00:00",
        "2099-01-01 00:00:00",
    )
    file.write_text("".join(ROW.format(stamp=stamp) for stamp in stamps))
    written_at = datetime(2025, 6, 3, tzinfo=UTC).timestamp()
    os.utime(file, (written_at, written_at))
    loaded, _ = staged(*executor(tmp_path))
    # An export of long ago is believed; two days after the last writing nothing can have been logged.
    assert (loaded["n1.txt"].readings, loaded["n1.txt"].rejects) == (3, 2)
    loaded, _ = staged(*executor(tmp_path, earlier_d=30, later_d=0.5))
    assert (loaded["n1.txt"].readings, loaded["n1.txt"].rejects) == (1, 4)


def test_a_path_that_names_its_day_holds_that_day(tmp_path: Path, landing: Path) -> None:
    (landing / "n1-2025-06-03.txt").write_text("x")
    work, files = executor(tmp_path, time_from_path=r"(?P<time>\d{4}-\d\d-\d\d)\.txt")
    day = datetime(2025, 6, 3, tzinfo=UTC)
    assert stamp_window(files[0].file, work.sources["bmc"]) == (
        day - timedelta(days=2),
        day + timedelta(days=2),
    )


def test_a_file_of_many_blocks_has_a_parquet_file_of_its_own(tmp_path: Path, landing: Path) -> None:
    block = ROW.format(stamp="2025-06-03 00:00:02") + "Host Power | 0x00 | ok\n" * 100_000
    (landing / "large.txt").write_text(block * 9)
    (landing / "small.txt").write_text(ROW.format(stamp="2025-06-03 00:00:02"))
    (landing / "small-too.txt").write_text(ROW.format(stamp="2025-06-03 00:00:03"))
    loaded, written = staged(*executor(tmp_path))
    assert loaded["large.txt"].records == 9 * 100_001
    # The same reading again and again: found within a block, and once more in the second block.
    assert (loaded["large.txt"].readings, loaded["large.txt"].duplicates) == (2, 7)
    assert sorted(file.rows for file in written if file.table == "bronze/reading") == [2, 2]
