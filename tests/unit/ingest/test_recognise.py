"""Every text is recognised as its own format and as no other."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lepton_etl.ingest.auto import Auto
from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.registry import LogFormat, formats, log_format, recognise
from lepton_etl.ingest.text import HEAD_BYTES, in_utf8, peek
from tests.decoding import CASES, Case, decode, settings_of

ORIGIN = Origin("site", "source", "input.txt", "n1", "UTC")
RECOGNISABLE = {name for name, declared in formats().items() if "looks_like" in vars(declared)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_is_recognised_as_its_own_format_alone(case: Case) -> None:
    head, _ = peek(in_utf8([case.data]))
    expected = [case.format] if case.format in RECOGNISABLE and case.recognised else []
    assert recognise(head) == expected
    assert recognise(head.replace(b"\n", b"\r\n")) == expected


def test_a_format_is_recognised_or_needs_settings() -> None:
    for name, declared in formats().items():
        if name in RECOGNISABLE or declared is Auto:
            assert declared().format == name
        else:
            with pytest.raises(ValidationError):
                declared()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(TypeError, match="'ipmitool' is no name for another format"):
        log_format(type("Other", (formats()["ipmitool"],), {}))
    assert issubclass(formats()["ipmitool"], LogFormat)


@pytest.mark.parametrize(
    "head",
    [
        b"", b"{}", b"[", b"# gpu", b"time, power\n1, 2\n", b'{"card0": 1}'[:8],
        b'{"status": "success", "data": {}}', b"<?xml version='1.0'?><html/>", b"\0" * 100, b'{"a": "@odata.id"}',
    ],
)  # fmt: skip
def test_others_are_claimed_by_none(head: bytes) -> None:
    assert recognise(head) == []


def auto(data: bytes) -> Decoded:
    result = decode(data, ORIGIN, Auto())
    result.check()
    return result


@pytest.mark.parametrize("case", [case for case in CASES if case.damage and not case.settings], ids=str)
def test_auto_reads_as_the_format_with_its_defaults(case: Case) -> None:
    data = case.data.removeprefix(codecs.BOM_UTF8)
    plain = decode(data, ORIGIN, settings_of({"format": case.format}))
    for text in (data, codecs.BOM_UTF8 + data, codecs.BOM_UTF16_LE + data.decode().encode("utf-16-le")):
        found = auto(text)
        assert found.readings.equals(plain.readings)
        assert found.rejects.equals(plain.rejects)
        assert found.jobs.equals(plain.jobs)


def test_a_text_longer_than_the_head_is_read_whole() -> None:
    line = b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 34 %d\n'
    lines = [line % (1_748_908_800_000 + second) for second in range(5_000)]
    assert sum(map(len, lines)) > 3 * HEAD_BYTES
    parts = Auto().read(iter(lines), ORIGIN)
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
    (part,) = Auto().read(chunks, ORIGIN)
    assert part.rejects["reason"].to_pylist() == ["unknown_format"]
    assert next(chunks, None) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    auto(data)
