"""Processes of a night that die, and files that kill them: the file is named, the others are loaded."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lepton_etl.errors import WorkerLostError
from lepton_etl.ingest.documents import MAX_DIGITS, members
from lepton_etl.ingest.text import MAX_DOCUMENT_BYTES
from lepton_etl.schema.logs import READING, REJECT
from pipelines.engine import ATTEMPTS, LocalEngine, MemoryLimit, R, SparkEngine, T
from tests.faults.site import SmallSite, ipmi_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SOURCES: list[dict[str, Any]] = [
    {"name": "prom", "format": "prometheus", "path": "landing/*.json"},
    {"name": "rf", "format": "redfish", "path": "landing/*.redfish"},
]


@dataclass(frozen=True)
class Dying:
    """Work whose process dies of a file, as of a fault in native code."""

    work: Callable[[Any], Any]
    name: str
    reading: bool

    def __call__(self, items: Sequence[Any]) -> Any:
        for item in items:
            file = getattr(item, "file", item)
            if file.path.endswith(self.name) and (item is not file) == self.reading:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.work(items)


class DyingPool(LocalEngine):
    reading = True

    def map(self, work: Callable[[T], R], items: Sequence[T], attempts: int = ATTEMPTS) -> list[R]:
        return super().map(Dying(work, "n3-2025-06-03.txt", self.reading), items, attempts)


class DyingSpark(SparkEngine):
    def map(self, work: Callable[[T], R], items: Sequence[T], attempts: int = ATTEMPTS) -> list[R]:
        return super().map(Dying(work, "n3-2025-06-03.txt", reading=True), items, attempts)


@pytest.fixture
def site(tmp_path: Path) -> SmallSite:
    found = SmallSite(tmp_path, sources=SOURCES, settings={"ingest": {"file_memory_mib": 256}})
    for number in range(1, 6):
        found.deliver(f"n{number}-2025-06-03.txt", ipmi_text(200 + number))
    return found


def names_the_culprit(site: SmallSite, notes: Sequence[str]) -> None:
    path = f"{site.folder}/landing/n3-2025-06-03.txt"
    assert f"file discarded: {path} (decoder_crash)" in notes
    assert site.states()["n3-2025-06-03.txt"] == ("discarded", "decoder_crash")
    assert site.lake.read(READING).height == 4 * 6
    assert site.lake.read(REJECT, columns=["reason", "path"]).rows() == [("decoder_crash", path)]
    site.is_conserved()
    assert site.bronze().notes == ("no new files",)


@pytest.mark.parametrize("reading", [True, False], ids=["decoding", "hashing"])
def test_a_file_that_kills_its_process_is_discarded_by_name(site: SmallSite, reading: bool) -> None:
    with DyingPool(2) as engine:
        engine.reading = reading
        names_the_culprit(site, site.bronze(engine).notes)


@pytest.mark.slow
@pytest.mark.spark
def test_a_file_that_kills_its_spark_worker_is_discarded_by_name(
    site: SmallSite, spark: SparkSession
) -> None:
    names_the_culprit(site, site.bronze(DyingSpark(lambda: spark)).notes)


@pytest.mark.parametrize("name", ["bad.json", "n9-2025-06-03.txt"])
def test_a_number_of_4400_digits_kills_no_process(site: SmallSite, name: str) -> None:
    site.deliver(name, b'{"a": ' + b"9" * 4400 + b"}")
    with LocalEngine(2) as engine:
        site.bronze(engine)
    assert site.states()[name][0] == "loaded"
    assert site.lake.read(READING).height == 5 * 6
    assert site.lake.read(REJECT).height >= 1
    site.is_conserved()


@pytest.mark.parametrize("cut", [1, 7, 4000, 5000])
def test_a_long_number_is_seen_however_the_text_is_cut(cut: int) -> None:
    def faults_of(digits: int) -> list[str]:
        text = b'{"jobs": [{"a": ' + b"9" * digits + b', "b": "' + b"8" * 3000 + b'"}]}'
        chunks: Iterator[bytes] = (text[at : at + cut] for at in range(0, len(text), cut))
        return [fault.raw_text for _, faults in members(chunks, ("jobs",), 10) for fault in faults]

    assert faults_of(MAX_DIGITS) == []
    assert faults_of(MAX_DIGITS + 1) == [f"after 0 objects: a number of more than {MAX_DIGITS} digits"]


def test_growing_beyond_the_limit_ends_the_work() -> None:
    grown: list[bytes] = []
    with MemoryLimit(64 << 20) as limit:
        for _ in range(2):
            before = len(grown)
            with pytest.raises(MemoryError), limit.piece():
                while len(grown) < before + 1_000:
                    grown.append(b"x" * (1 << 20))
                    time.sleep(0.001)
            # What an earlier piece took does not count for the next.
            assert before + 32 <= len(grown) < before + 1_000
        with limit.piece():
            assert sum(map(len, grown)) == len(grown) << 20
        grown += [b"x" * (1 << 20)] * 1_000


@pytest.mark.slow
def test_a_file_that_takes_too_much_memory_is_discarded_by_name(site: SmallSite) -> None:
    """One document of 30 MB becomes several hundred MB of objects."""
    many = [{"name": f"s{n}", "value": n, "more": [n, n, n, n]} for n in range(400_000)]
    text = json.dumps({"all": many}).encode()
    assert len(text) < MAX_DOCUMENT_BYTES
    site.deliver("large.redfish", text)
    with LocalEngine(2) as engine:
        notes = site.bronze(engine).notes
    assert f"file discarded: {site.folder}/landing/large.redfish (too_much_memory)" in notes
    assert site.lake.read(READING).height == 5 * 6
    (reject,) = site.lake.read(REJECT).to_dicts()
    assert reject["raw_text"].endswith("large.redfish: decoding it takes more than 256 MiB")
    site.is_conserved()


@dataclass(frozen=True)
class DyingOnce:
    """Work whose process is killed the first time, as by the kernel's out-of-memory killer."""

    marker: Path
    always: bool = False

    def __call__(self, item: int) -> int:
        if item == 3 and (self.always or not self.marker.exists()):
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return -item


def test_a_killed_process_of_the_pool_is_replaced(tmp_path: Path) -> None:
    told = list[tuple[int, int]]()
    with LocalEngine(2) as engine:
        engine.progress = lambda done, total: told.append((done, total))
        assert engine.map(DyingOnce(tmp_path / "once"), [1, 2, 3, 4]) == [-1, -2, -3, -4]
        assert told[-1] == (4, 4)
        with pytest.raises(WorkerLostError, match=r"died .*, 2 times of 2 -> look for"):
            engine.map(DyingOnce(tmp_path / "ever", always=True), [1, 2, 3, 4])
        assert engine.map(abs, [-1, 2]) == [1, 2]


def ends_its_process(content: bytes) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return len(content)


@pytest.mark.timeout(120)
def test_a_process_that_dies_while_it_is_told_much_is_not_waited_for() -> None:
    """Each call is larger than what a pipe holds, so that one is half told when the process dies."""
    with LocalEngine(1) as engine, pytest.raises(WorkerLostError):
        engine.map(ends_its_process, [bytes(1 << 22)] * 4)


@pytest.mark.spark
def test_a_killed_worker_of_spark_is_replaced(tmp_path: Path, spark: SparkSession) -> None:
    engine = SparkEngine.of(spark)
    assert engine.map(DyingOnce(tmp_path / "once"), [1, 2, 3, 4]) == [-1, -2, -3, -4]
    with pytest.raises(WorkerLostError, match="Spark: a process that runs tasks died"):
        engine.map(DyingOnce(tmp_path / "ever", always=True), [1, 2, 3, 4])
    assert engine.map(abs, [-1, 2]) == [1, 2]
