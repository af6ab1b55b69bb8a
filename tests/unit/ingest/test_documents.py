"""A text of JSON documents is cut into documents the same way whatever pieces it comes in."""

import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.ingest.decoded import Origin
from lepton_etl.ingest.documents import Document, documents
from lepton_etl.ingest.samples import Fault
from tests.decoding import decode, settings_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def taken(
    text: str | bytes, piece: int = 1 << 20, limit: int = 1 << 20, part_chars: int = 64
) -> list[Document | Fault]:
    data = text.encode() if isinstance(text, str) else text
    chunks = (data[at : at + piece] for at in range(0, len(data), piece))
    return [item for part in documents(chunks, limit, part_chars) for item in part]


def reasons(items: list[Document | Fault]) -> list[tuple[int, str]]:
    return [(item.position, item.reason) for item in items if isinstance(item, Fault)]


@settings(deadline=None)
@given(
    values=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), max_size=6),
    indent=st.sampled_from([None, 2]),
    piece=st.integers(1, 50),
    part_chars=st.integers(1, 80),
)
def test_documents_come_out_whole_at_their_lines(
    values: list[dict[str, object]], indent: int | None, piece: int, part_chars: int
) -> None:
    texts = [json.dumps(value, indent=indent) for value in values]
    items = taken("\n".join(texts), piece, part_chars=part_chars)
    lines = [1 + sum(text.count("\n") + 1 for text in texts[:number]) for number in range(len(texts))]
    assert items == [Document(line, value) for line, value in zip(lines, values, strict=True)]


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_broken_document_is_one_fault_and_the_next_is_read(piece: int) -> None:
    items = taken('{"a": 1}\n{"a": \n  [1,\n{"b": 2}\nprose\n[3]\n', piece)
    assert [item.value for item in items if isinstance(item, Document)] == [{"a": "1"}, {"b": "2"}, ["3"]]
    assert reasons(items) == [(2, "bad_json"), (5, "bad_json")]


def test_numbers_keep_their_digits() -> None:
    (item,) = taken('{"a": 12.50, "b": 1e3, "c": NaN, "d": ' + "9" * 5000 + "}")
    assert isinstance(item, Document)
    assert (item.value["a"], item.value["b"], item.value["c"]) == ("12.50", "1e3", "NaN")
    assert len(item.value["d"]) == 5000


def test_a_nest_too_deep_is_refused_and_the_next_is_read() -> None:
    items = taken('{"a":' * 100_000 + '\n{"b": 2}\n')
    assert reasons(items) == [(1, "too_deep")]
    assert items[-1] == Document(2, {"b": "2"})


@pytest.mark.parametrize("format", ["redfish", "rocm_smi", "otlp_json"])
@pytest.mark.parametrize("inner", ["{}", '{"a": %s}', '{"Members": [%s]}', '{"gpu": 0, "a": %s}', "[%s]"])
@pytest.mark.parametrize("depth", [20, 300, 900, 970, 985, 990, 2000])
def test_any_depth_is_a_reject_or_structure(format: str, inner: str, depth: int) -> None:
    text = "1"
    for _ in range(depth):
        text = inner.replace("%s", text)
    result = decode(
        text.encode(), Origin("site", "source", "input.txt", "n1", "UTC"), settings_of({"format": format})
    )
    result.check()
    assert result.readings.num_rows == 0


def test_a_document_above_the_limit_is_refused_in_bounded_memory() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"a": "'
        for _ in range(64):
            yield b"x" * (1 << 20)
        yield b'"}\n{"b": 2}\n'

    tracemalloc.start()
    try:
        items = [item for part in documents(chunks(), limit=4 << 20, part_chars=1 << 20) for item in part]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reasons(items) == [(1, "too_large")]
    assert items[-1] == Document(2, {"b": "2"})
    assert peak_bytes < 24 << 20


def test_a_large_document_is_looked_at_when_it_has_doubled_not_at_every_chunk() -> None:
    document = [{"a": "x" * 100}] * 20_000
    data = json.dumps(document).encode()
    chunks = [data[at : at + 10_000] for at in range(0, len(data), 10_000)]
    parts = list(documents(chunks, limit=4 << 20, part_chars=20_000))
    assert [item.value for part in parts for item in part if isinstance(item, Document)] == [document]
    assert len(chunks) > 200
    assert len(parts) <= 10


def test_an_empty_text_is_one_empty_part() -> None:
    assert list(documents([])) == [[]]
    assert taken("\n \r\n") == []
