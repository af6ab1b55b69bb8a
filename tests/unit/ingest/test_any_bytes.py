"""Whatever bytes a decoder is given, it never raises and accounts for every record."""

import codecs
import gzip
import lzma
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.ingest.delimited import Delimited
from lepton_etl.ingest.grid_csv import GridHours
from lepton_etl.ingest.opencost import OpenCost
from lepton_etl.ingest.registry import LogFormat
from lepton_etl.ingest.text import UnreadableError, zstd
from lepton_etl.schema.common import QUANTITIES
from tests.decoding import CASES, Case, decode, read_bytes

# FIX LogFormat

ORIGIN = Origin("site", "source", "input.txt", "n1", "America/New_York")
COMPRESSIONS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": (".gz", gzip.compress),
    "zstd": (".zst", zstd.compress),
    "xz": (".xz", lzma.compress),
}
# Of each of thirty cases, others in each run; 40 in CI, 200 in `make test-slow`.
patient = settings(
    max_examples=int(os.environ.get("EXAMPLES", "10")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=[case for case in CASES if case.damage], ids=str)
def sample(request: pytest.FixtureRequest) -> tuple[bytes, LogFormat]:
    case: Case = request.param
    return case.data, case.read_settings()


def test_a_case_of_every_format_is_damaged() -> None:
    assert {case.format for case in CASES if case.damage} == {case.format for case in CASES}


def sound(data: bytes, spec: LogFormat) -> Decoded:
    """Decode and check what holds for any input."""
    result = decode(data, ORIGIN, spec)
    result.check()
    assert result.duplicates >= 0
    assert result.structure_lines >= 0
    last_line = data.count(b"\n") + 1 if not data.startswith((b"\xff\xfe", b"\xfe\xff")) else len(data)
    if data.lstrip(b"\xef\xbb\xbf \r\n\t\0")[:1] == b"{":
        last_line = (
            len(data) + 1
        )  # A position in a document is the number of the record; each has at least a byte.
    for table in (result.readings, result.rejects):
        assert all(1 <= position <= last_line for position in table["source_position"].to_pylist())
    for quantity, value in zip(
        result.readings["quantity"].to_pylist(), result.readings["value"].to_pylist(), strict=True
    ):
        assert QUANTITIES[quantity].ge <= value <= QUANTITIES[quantity].le
    assert all(len(text) <= MAX_RAW_TEXT_CHARS for text in result.rejects["raw_text"].to_pylist())
    return result


@patient
@given(data=st.binary(max_size=2000))
def test_any_bytes_at_all(sample: tuple[bytes, LogFormat], data: bytes) -> None:
    sound(data, sample[1])


@patient
@given(cut=st.floats(0, 1))
def test_truncated(sample: tuple[bytes, LogFormat], cut: float) -> None:
    data, spec = sample
    sound(data[: int(cut * len(data))], spec)


@patient
@given(noise=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=3)), max_size=20))
def test_noise_in_a_good_file(sample: tuple[bytes, LogFormat], noise: list[tuple[float, bytes]]) -> None:
    data, spec = sample
    damaged = bytearray(data)
    for where, what in noise:
        at = int(where * len(damaged))
        damaged[at : at + len(what)] = what
    sound(bytes(damaged), spec)


@patient
@given(text=st.text(max_size=400))
def test_text_after_a_good_file(sample: tuple[bytes, LogFormat], text: str) -> None:
    data, spec = sample
    sound(data + text.encode("utf-8", "replace"), spec)


@pytest.mark.parametrize("broken", [b"", b"}\0", b'"', b"]}<"])
def test_a_file_is_read_to_its_end_whatever_it_holds(sample: tuple[bytes, LogFormat], broken: bytes) -> None:
    # A file is known by all its bytes; one that was left half read would count as changed.
    data, spec = sample
    half = len(data) // 2
    chunks = iter([data[:half], broken, data[half:], *[b"x" * 50_000] * 20])
    assert list(spec.read(chunks, ORIGIN))
    assert next(chunks, None) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"\n",
        lambda data: b"\0" * 5000,
        lambda data: data + b"\0" * 5000,
        lambda data: data + b"x" * 3_000_000,
        lambda data: data + b'"' * 100_001,
        lambda data: data + b"|" * 100_000 + b"\n",
        lambda data: data + b'DCGM_FI_DEV_POWER_USAGE{a="' + b"\\" * 50_001,
        lambda data: data.decode().encode("utf-16-be"),
        lambda data: gzip.compress(data),
    ],
)
def test_odd_shapes(sample: tuple[bytes, LogFormat], change: Callable[[bytes], bytes]) -> None:
    data, spec = sample
    sound(change(data), spec)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: codecs.BOM_UTF8 + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: codecs.BOM_UTF16_LE + data.decode().encode("utf-16-le"),
        lambda data: codecs.BOM_UTF16_BE + data.decode().encode("utf-16-be"),
    ],
)
def test_other_writing_of_the_same_text(
    sample: tuple[bytes, LogFormat], change: Callable[[bytes], bytes]
) -> None:
    data, spec = sample
    plain = sound(data, spec)
    changed = sound(change(data), spec)
    assert changed.readings.equals(plain.readings)
    assert changed.rejects.equals(plain.rejects)
    assert changed.ignored == plain.ignored


def test_a_file_twice_over_is_all_duplicates(sample: tuple[bytes, LogFormat]) -> None:
    data, spec = sample
    has_header = isinstance(spec, Delimited | GridHours | OpenCost)
    again = data.split(b"\n", 1)[1] if has_header else data
    once, twice = sound(data, spec), sound(data + again, spec)
    assert twice.readings.equals(once.readings)
    assert twice.jobs.equals(once.jobs)
    assert twice.duplicates == 2 * once.duplicates + once.readings.num_rows + once.jobs.num_rows
    assert twice.rejects.num_rows == 2 * once.rejects.num_rows


@patient
@given(
    data=st.binary(max_size=600), members=st.integers(1, 3), padding=st.integers(0, 9), cut=st.integers(1, 12)
)
def test_a_compressed_text_is_whole_or_named(data: bytes, members: int, padding: int, cut: int) -> None:
    for compression, (suffix, compress) in COMPRESSIONS.items():
        packed = compress(data)
        assert read_bytes(packed * members + b"\0" * padding, f"log{suffix}") == data * members
        short = read_bytes(packed[:-cut], f"log{suffix}")
        assert isinstance(short, UnreadableError)
        assert short.reason == f"truncated_{compression}"


@patient
@given(data=st.binary(max_size=600))
def test_any_bytes_open_or_fail(data: bytes) -> None:
    for name in ("log", "log.gz", "log.zst", "log.xz"):
        assert isinstance(read_bytes(data, name), bytes | UnreadableError)
    for magic in (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0"):
        assert read_bytes(magic + data) != data
