"""Outputs of nvidia-smi that are hostile, cut, or come in more than one block."""

import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.nvidia_smi import NvidiaSmi

ORIGIN = Origin("site", "source", "gpu.log", "n1", "America/New_York")
HEADER = "timestamp, index, power.draw [W]\n"


def decoded(*chunks: bytes, origin: Origin = ORIGIN) -> Decoded:
    result = Decoded.merge(NvidiaSmi().read(chunks, origin))
    result.check()
    return result


def document(body: str) -> bytes:
    return f'<?xml version="1.0" ?>\n<nvidia_smi_log>\n{body}\n</nvidia_smi_log>\n'.encode()


def test_a_log_of_several_blocks_keeps_its_header_and_its_lines() -> None:
    rows = [
        f"2025/06/03 {n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}.000, 0, {n % 700} W"
        for n in range(80_000)
    ]
    result = decoded((HEADER + "\n".join(rows) + "\n").encode())
    assert result.readings.num_rows == 80_000
    assert result.readings["source_position"].to_pylist() == list(range(2, 80_002))
    assert result.readings["value"].to_pylist()[-1] == 79_999 % 700


def test_entities_are_refused_before_they_grow() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha" * 10}">' for n in range(10))
    bomb = f"<!DOCTYPE nvidia_smi_log [{entities}]>\n<nvidia_smi_log><timestamp>&e9;</timestamp></nvidia_smi_log>\n"
    good = document("<gpu id='1'><minor_number>0</minor_number><fan_speed>30 %</fan_speed></gpu>")
    tracemalloc.start()
    try:
        result = decoded(b'<?xml version="1.0" ?>\n' + bomb.encode(), good)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.rejects["reason"].to_pylist() == ["bad_xml", "no_time"]
    assert "entity e0 declared" in result.rejects["raw_text"].to_pylist()[0]
    assert peak_bytes < 8 << 20


@pytest.mark.parametrize(
    "body",
    ["<a>" * 200 + "</a>" * 200, "<gpu><fan_speed>1</gpu>", "<gpu>\x01</gpu>"],
    ids=["deep", "mismatched", "control character"],
)
def test_a_broken_document_is_one_reject(body: str) -> None:
    result = decoded(document(body))
    assert (result.records, result.rejects["reason"].to_pylist()) == (1, ["bad_xml"])


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (
            b"==============NVSMI LOG==============\nGPU 00000000:01:00.0\n",
            b"    Name : " + b"x" * 1000 + b"\n",
        ),
        (b"<nvidia_smi_log>\n<gpu>\n", b"<name>" + b"x" * 1000 + b"</name>\n"),
        (b"<nvidia_smi_log>\n<gpu><name>\n", b"x" * 1000 + b"\n"),
    ],
    ids=["text", "xml", "one element"],
)
def test_an_endless_document_is_refused_in_bounded_memory(head: bytes, line: bytes) -> None:
    def chunks() -> Iterator[bytes]:
        yield head
        for _ in range(40):
            yield line * 1000

    tracemalloc.start()
    try:
        result = Decoded.merge(NvidiaSmi().read(chunks(), ORIGIN))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.rejects["reason"].to_pylist() == ["too_large"]
    assert peak_bytes < 80 << 20


def test_a_time_without_a_day_needs_the_time_of_the_path() -> None:
    log = b"#Time        gpu    pwr\n#HH:MM:SS    Idx      W\n 23:30:00      0     69\n"
    assert decoded(log).rejects["reason"].to_pylist() == ["bad_time"]
    # Midnight UTC is the evening before in New York.
    polled = Origin(
        *("site", "source", "gpu.log", "n1", "America/New_York"), datetime(2025, 6, 3, tzinfo=UTC)
    )
    (reading,) = decoded(log, origin=polled).readings.to_pylist()
    assert reading["reading_time"] == datetime(2025, 6, 3, 3, 30, tzinfo=UTC)


def test_values_before_any_header_are_bad_lines() -> None:
    result = decoded(b"62.10 W, 41\n62.20 W, 41\n")
    assert result.rejects["reason"].to_pylist() == ["bad_line", "bad_line"]
