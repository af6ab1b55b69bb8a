"""Every text is recognised as its own format and as no other."""

import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.formats import FORMATS, RECOGNISERS, decode, decode_parts, recognise
from lepton_etl.ingest.specs import SPECS, AutoSpec, spec_of
from lepton_etl.ingest.text import HEAD_BYTES, in_utf8, peek

CASES = Path(__file__).parents[2] / "cases"
ORIGIN = Origin("site", "source", "input.txt", "n1", "UTC")
NEEDS_SETTINGS = ("delimited", "parquet", "eia930", "grid_csv", "auto")
# Cases made of faults need not be recognisable; the test below still forbids another format to claim them.
INPUTS = sorted(path for path in CASES.glob("*/*/input.txt") if path.parents[1].name in FORMATS)


def recognised(path: Path) -> list[str]:
    head, _ = peek(in_utf8([path.read_bytes()]))
    return recognise(head)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parents[1].name}-{path.parent.name}")
def test_no_case_is_claimed_by_another_format(path: Path) -> None:
    own = path.parents[1].name
    assert recognised(path) in ([own], []) if own in RECOGNISERS else recognised(path) == []


@pytest.mark.parametrize("name", sorted(RECOGNISERS))
def test_the_good_cases_of_each_format_are_recognised(name: str) -> None:
    inputs = [path for path in INPUTS if path.parents[1].name == name]
    missed = [path.parent.name for path in inputs if recognised(path) != [name]]
    assert len(missed) <= len(inputs) // 3, missed


def test_each_format_is_recognised_or_needs_settings() -> None:
    assert set(RECOGNISERS) | set(NEEDS_SETTINGS) == set(FORMATS) == set(SPECS)


def auto(data: bytes) -> Decoded:
    result = decode(data, ORIGIN, AutoSpec())
    result.check()
    return result


@pytest.mark.parametrize(
    ("format", "case"),
    [
        ("prometheus", "dcgm_with_stamps"),
        ("prometheus", "range_query"),
        ("slurm", "sacct"),
        ("openmeteo", "local_clock"),
        ("ipmitool", "one_node"),
        ("electricitymaps", "later_header"),
    ],
)
def test_auto_reads_as_the_format_with_its_defaults(format: str, case: str) -> None:
    data = (CASES / format / case / "input.txt").read_bytes().removeprefix(codecs.BOM_UTF8)
    plain = decode(data, ORIGIN, spec_of({"format": format}))
    for text in (data, codecs.BOM_UTF8 + data, codecs.BOM_UTF16_LE + data.decode().encode("utf-16-le")):
        found = auto(text)
        assert found.readings.equals(plain.readings)
        assert found.rejects.equals(plain.rejects)
        assert found.jobs.equals(plain.jobs)


def test_a_text_longer_than_the_head_is_read_whole() -> None:
    line = b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 34 %d\n'
    lines = [line % (1_748_908_800_000 + second) for second in range(5_000)]
    assert sum(map(len, lines)) > 3 * HEAD_BYTES
    parts = decode_parts(iter(lines), ORIGIN, AutoSpec())
    assert sum(part.readings.num_rows for part in parts) == len(lines)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n \n",
        b"hello, world\n",
        b"a,b\n1,2\n",
        b"{}",
        b"[1, 2]",
        b"PAR1\0\0",
        b"<html>",
        b"\0" * 99,
        b"# a\n",
    ],
)
def test_unknown_content_is_one_reject_read_to_its_end(data: bytes) -> None:
    chunks = iter((data, b"x" * 100_000, b"end"))
    (part,) = decode_parts(chunks, ORIGIN, AutoSpec())
    assert part.rejects["reason"].to_pylist() == ["unknown_format"]
    assert next(chunks, None) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    auto(data)
