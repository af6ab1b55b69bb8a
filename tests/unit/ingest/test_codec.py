"""The decompression door and a file's identity."""

import gzip
import lzma
import random
from datetime import UTC, datetime

import pytest

from lepton_etl.ingest.text import ContentIdentity, UnreadableError, drain, file_id, zstd
from tests.decoding import read_bytes


def reason_of(opened: bytes | UnreadableError) -> str:
    assert isinstance(opened, UnreadableError)
    return opened.reason


def test_plain_and_gzip_are_told_by_their_bytes() -> None:
    assert read_bytes(b"Timestamp") == b"Timestamp"
    assert read_bytes(gzip.compress(b"Timestamp")) == b"Timestamp"
    assert read_bytes(gzip.compress(b"Timestamp"), name="log.gz") == b"Timestamp"


def test_members_and_padding_across_reads_are_one_text() -> None:
    noise = random.Random(1).randbytes(1 << 20)
    text = noise + b"power" * 1_000_000
    packed = gzip.compress(text)
    assert read_bytes(packed + b"\0" * (2 << 20) + packed + b"\0") == text + text


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 500])
def test_a_short_gzip_is_truncated(cut: int) -> None:
    packed = gzip.compress(random.Random(2).randbytes(4000))
    assert reason_of(read_bytes(packed[:-cut])) == "truncated_gzip"
    assert reason_of(read_bytes(packed + packed[:-cut])) == "truncated_gzip"


def test_what_is_named_gz_and_is_not() -> None:
    assert reason_of(read_bytes(b"Timestamp", name="log.gz")) == "unreadable_file"
    assert reason_of(read_bytes(b"", name="log.gz")) == "truncated_gzip"
    assert reason_of(read_bytes(b"\x1f", name="log.gz")) == "truncated_gzip"


def test_damage_and_trailing_rubbish_are_unreadable() -> None:
    packed = bytearray(gzip.compress(b"Sys Power | 20 Watts | ok\n" * 100))
    packed[-6] ^= 1
    assert reason_of(read_bytes(bytes(packed))) == "unreadable_file"
    assert reason_of(read_bytes(gzip.compress(b"a") + b"rubbish")) == "unreadable_file"


def test_bombs_stop_early() -> None:
    for compress in (gzip.compress, zstd.compress, lzma.compress):
        assert reason_of(read_bytes(compress(b"\0" * (64 << 20)))) == "too_large"
    assert reason_of(read_bytes(gzip.compress(b"a" * 5000), max_bytes=4999)) == "too_large"
    assert reason_of(read_bytes(b"a" * 5000, max_bytes=4999)) == "too_large"
    assert read_bytes(b"a" * 5000, max_bytes=5000) == b"a" * 5000


def content_id(source_name: str, node_id: str | None, data: bytes) -> str:
    identity = ContentIdentity(source_name, node_id)
    drain(identity.watch([data]))
    return identity.content_id


def test_a_files_identity_is_source_node_time_and_text() -> None:
    same = content_id("bmc", "n1", b"same")
    ids = [
        same,
        content_id("bmc", "n2", b"same"),
        content_id("bmc", None, b"same"),
        content_id("bmc", "", b"same"),
        content_id("bmcn", "1", b"same"),
        content_id("bmc", "n1", b"other"),
        content_id("bmc", "n1s", b"ame"),
        file_id(same, datetime(2025, 6, 3, tzinfo=UTC)),
        file_id(same, datetime(2025, 6, 3, 0, 5, tzinfo=UTC)),
    ]
    assert len(set(ids)) == len(ids)
    assert content_id("bmc", "n1", b"same") == file_id(same, None) == same
    assert file_id(same, datetime.fromisoformat("2025-06-03T02:00+02:00")) == ids[-2]
    assert {len(one) for one in ids} == {64}
