"""Spans between marks: every byte of every file once, whatever grows, is renamed, truncated or replaced."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.config.sources import SOURCES
from lepton_etl.ingest.delimited import ColumnReading, TimeColumn
from lepton_etl.lake.landing import Landing
from lepton_etl.streaming.follow import (
    HEAD_BYTES,
    Following,
    Mark,
    Span,
    head_of,
    last_line_end,
    mark,
    passage,
    spans,
)

Disk = dict[str, tuple[int, bytes]]
"""path -> inode and content"""


def marks(disk: Disk) -> dict[str, Mark]:
    found = {}
    for path, (inode, content) in disk.items():
        end = last_line_end(content)
        if end:
            found[path] = mark(end, inode, content[:HEAD_BYTES])
    return found


def taken(before: dict[str, Mark], disk: Disk) -> tuple[dict[str, Mark], bytes]:
    """The marks now, and the text that lies between."""
    now = marks(disk)
    found = spans(before, now, lambda path, size: disk[path][1][:size] if path in disk else b"")
    return now, b"".join(disk[one.path][1][one.start : one.end] for one in found)


chunk = st.binary(max_size=700).map(lambda text: text.replace(b"\0", b"\n"))


@given(st.lists(chunk, max_size=12))
def test_a_growing_file_is_taken_once_and_in_whole_lines(chunks: list[bytes]) -> None:
    content, before, seen = b"", {}, b""
    for more in chunks:
        content += more
        before, text = taken(before, {"a": (1, content)})
        assert not text or text.endswith(b"\n")
        seen += text
    assert seen == content[: last_line_end(content) or 0]


@given(st.lists(st.tuples(chunk, st.booleans()), max_size=12))
def test_rotation_by_renaming_loses_and_repeats_nothing(steps: list[tuple[bytes, bool]]) -> None:
    disk: Disk = {}
    before: dict[str, Mark] = {}
    seen: list[bytes] = []
    written: list[bytes] = []
    for number, (text, rotate) in enumerate(steps):
        if rotate and "log" in disk:
            disk[f"log.{number}"] = disk.pop("log")
        inode, content = disk.get("log", (number + 1, b""))
        # Lines that occur once, so that one taken twice shows.
        line = b"%d %s\n" % (number, text.replace(b"\n", b" "))
        disk["log"] = (inode, content + line)
        written.append(line)
        before, found = taken(before, disk)
        seen += found.splitlines(keepends=True) if b"\r" not in found else [found]
    assert b"".join(seen) == b"".join(written)


@given(st.binary(min_size=1, max_size=3000), st.binary(min_size=1, max_size=3000), st.booleans())
def test_another_file_in_its_place_is_taken_from_its_first_byte(
    old: bytes, new: bytes, same_inode: bool
) -> None:
    first = b"A" + old + b"\n"
    second = b"B" + new + b"\n"
    before, _ = taken({}, {"a": (1, first)})
    _, text = taken(before, {"a": (1 if same_inode else 2, second)})
    assert text == second[: last_line_end(second)]


def test_the_inode_of_a_deleted_file_is_no_identity() -> None:
    before, _ = taken({}, {"minute-01": (7, b"12:01 300\n")})
    _, text = taken(before, {"minute-02": (7, b"12:02 301\n12:02 302\n")})
    assert text == b"12:02 301\n12:02 302\n"


def test_a_file_cut_short_begins_anew() -> None:
    before, _ = taken({}, {"a": (1, b"x 1\nx 2\n")})
    _, text = taken(before, {"a": (1, b"x 3\n")})
    assert text == b"x 3\n"


def test_a_whole_file_is_taken_whole_or_not_at_all() -> None:
    one = mark(10, 1, b"{" * 10, is_whole=True)
    longer = mark(12, 1, b"{" * 12, is_whole=True)
    assert spans({"a": one}, {"a": one}, lambda path, size: b"{" * size) == []
    assert spans({"a": one}, {"a": longer}, lambda path, size: b"{" * size) == [Span("a", 0, 12, True)]


def test_a_mark_survives_its_json() -> None:
    one = mark(2000, 2**63 + 1, b"z" * HEAD_BYTES)
    assert Mark(**one.as_json()) == one


def followed(folder: Path, settle_s: float = 0.0) -> Following:
    return Following(SOURCES["nvidia_smi"](name="g", path=f"{folder}/*"), Landing(), 3600.0, settle_s)


def test_marks_of_a_folder(tmp_path: Path) -> None:
    long_line = b"y" * (3 << 20)
    (tmp_path / "a.csv").write_bytes(b"x\n" + long_line)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "old").write_bytes(b"x\n")
    os.utime(tmp_path / "old", (0, time.time() - 7200))
    (tmp_path / "snapshot.xml").write_bytes(b"<?xml?>")
    (tmp_path / "link").symlink_to(tmp_path / "a.csv")
    found = followed(tmp_path).marks()
    assert {Path(path).name: (one.offset, one.is_whole) for path, one in found.items()} == {
        "a.csv": (2, False), "snapshot.xml": (7, True)
    }  # fmt: skip
    assert [Path(path).name for path in followed(tmp_path, settle_s=60).marks()] == ["a.csv"]
    assert head_of(str(tmp_path / "gone"), 10) == b""


def test_a_file_at_rest_is_marked_as_before_and_growth_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"x\n")
    following = followed(tmp_path)
    first = following.marks()
    assert following.marks() == first
    file.write_bytes(b"x\ny\nz")
    assert following.marks()[str(file)].offset == 4


def test_a_span_brings_the_header_and_the_stamp_above_it(tmp_path: Path) -> None:
    tables = [b"Timestamp: %d\n" % k + b"Sys Power | 1 Watts\n" * 300 for k in range(40)]
    text = b"".join(tables)
    file = tmp_path / "n1.txt"
    file.write_bytes(text)
    start = text.index(b"Timestamp: 30") + 3 * len(b"Sys Power | 1 Watts\n")
    start = text.index(b"\n", start) + 1
    span = Span(str(file), start, len(text))
    found = passage(SOURCES["ipmitool"](name="b", path=f"{tmp_path}/*"), Landing(), span)
    assert b"".join(found.chunks) == text[start:]
    assert found.context.startswith(b"Timestamp: 0\n")
    assert b"Timestamp: 30\n" in found.context
    assert found.context.endswith(text[start - 20 : start])
    assert found.context_lines < text[:start].count(b"\n"), "not the whole file is read again"
    assert set(found.context.splitlines()) <= set(text.splitlines()), "only whole lines"


@given(header=st.integers(1, 9000), rows=st.integers(1, 40))
def test_the_context_of_a_table_is_its_whole_header_and_no_line_twice(header: int, rows: int) -> None:
    import tempfile

    source = SOURCES["delimited"](
        name="d", path="/x/*", time=TimeColumn(column="t"), timezone="UTC",
        readings=(ColumnReading(column="p", quantity="gpu_power", unit="W"),),
    )  # fmt: skip
    lines = [b"h" * header + b"\n", *(b"%d,1\n" % k for k in range(rows))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.csv"
        file.write_bytes(b"".join(lines))
        for place in range(1, rows + 1):
            start = sum(map(len, lines[:place]))
            found = passage(source, Landing(), Span(str(file), start, file.stat().st_size))
            assert found.context.startswith(lines[0])
            assert b"".join(lines[:place]).startswith(found.context)
            assert datetime.now(UTC) >= found.file.modified_time
            list(found.chunks)
