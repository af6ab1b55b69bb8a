"""Follow the log files of the sources as they grow: how far each can be read now, and the bytes of a span.

Text on a local disk is followed by whole lines. What cannot be read from its middle (compressed files, JSON
and XML documents, Parquet, objects of a store) is read whole, once it has been unchanged for a while.
How far each file has been followed is a byte offset. It belongs to a path or inode and a digest of the first
bytes: a file that a rotation renames goes on where it was, and one that was truncated, replaced or has a
deleted file's inode begins at 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from lepton_etl.config.sources import Source
from lepton_etl.ingest import text as codec
from lepton_etl.lake.landing import Delivered, Landing, identity, is_remote

HEAD_BYTES: Final = 1024

Marks = Mapping[str, "Mark"]
HeadOf = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True)
class Mark:
    """A file as far as it was read: `offset` is the end of a whole line, or of a whole file (`is_whole`)."""

    offset: int
    inode: int
    head_bytes: int
    head: str
    is_whole: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, end) of a file."""

    path: str
    start: int
    end: int
    is_whole: bool = False


def mark(offset: int, inode: int, first_bytes: bytes, *, is_whole: bool = False) -> Mark:
    """A mark of a file whose first HEAD_BYTES (fewer of a shorter one) are given; only those before `offset` count."""
    head = first_bytes[: min(HEAD_BYTES, offset)]
    return Mark(offset, inode, len(head), digest(head), is_whole)


def digest(head: bytes) -> str:
    """What a file's first bytes are known by."""
    return sha256(head).hexdigest()[:16]


def last_line_end(chunk: bytes, before: int = 0) -> int | None:
    """The offset behind the last line feed of `chunk`, which begins at `before`; None where there is none."""
    found = chunk.rfind(b"\n")
    return None if found < 0 else before + found + 1


def spans(start: Marks, end: Marks, head_of: HeadOf) -> list[Span]:
    """What is to be read to come from `start` to `end`, by path; nothing of a file that did not grow.

    `head_of(path, size)` gives the first bytes of a file as it lies there now, fewer where it is shorter or gone.
    """
    by_inode = {one.inode: one for one in start.values() if one.inode}
    found = []
    for path, now in sorted(end.items()):
        candidates = (start.get(path), by_inode.get(now.inode))
        before = next((one for one in candidates if one and _is_same(one, now, path, head_of)), None)
        begin = before.offset if before else 0
        if now.is_whole and begin != now.offset:
            begin = 0
        if begin < now.offset:
            found.append(Span(path, begin, now.offset, now.is_whole))
    return found


def _is_same(before: Mark, now: Mark, path: str, head_of: HeadOf) -> bool:
    if before.inode != now.inode or before.offset > now.offset or before.is_whole != now.is_whole:
        return False
    if before.head_bytes == now.head_bytes:
        return before.head == now.head
    return digest(head_of(path, before.head_bytes)) == before.head


_DOCUMENT_BEGINS: Final = (b"{", b"[", b"<")
_CHUNK: Final = 1 << 20
# What stands before a span tells whose its lines are: the head has a table's header, the tail the stamp of the table
# that the span begins in. Tables of ipmitool and nvidia-smi have some 20 KB.
HEAD_CONTEXT_BYTES: Final = 4 << 10
_TAIL_CONTEXT_BYTES: Final = 64 << 10


@dataclass
class Following:
    """The files of one source. Knows what it saw last, so that a file at rest is not opened again."""

    source: Source
    landing: Landing
    look_back_s: float
    settle_s: float
    _seen: dict[str, tuple[int, float, Mark | None]] = field(default_factory=dict)

    def marks(self) -> dict[str, Mark]:
        """How far each file can be read now. Raises ConfigurationError where the folder cannot be listed."""
        now = time.time()
        found: dict[str, Mark] = {}
        seen: dict[str, tuple[int, float, Mark | None]] = {}
        for file in self.landing.delivered(self.source):
            modified = file.modified_time.timestamp()
            if file.unsafe or modified < now - self.look_back_s:
                continue
            size, then, known = self._seen.get(file.path, (-1, 0.0, None))
            if (size, then) != (file.size_bytes, modified) or known is None:
                known = self._mark(file, quiet_s=now - modified)
            seen[file.path] = (file.size_bytes, modified, known)
            if known is not None:
                found[file.path] = known
        self._seen = seen
        return found

    def _mark(self, file: Delivered, quiet_s: float) -> Mark | None:
        if is_remote(file.path):
            stamp = str(file.modified_time).encode()
            return mark(file.size_bytes, 0, stamp, is_whole=True) if quiet_s >= self.settle_s else None
        try:
            with Path(file.path).open("rb") as handle:
                info = os.fstat(handle.fileno())
                head = handle.read(HEAD_BYTES)
                if _is_document(self.source, head):
                    quiet = quiet_s >= self.settle_s
                    return mark(file.size_bytes, info.st_ino, head, is_whole=True) if quiet else None
                end = _line_end(handle, file.size_bytes)
        except OSError:
            # Rotated away since it was listed, or not ours to read; the night names it.
            return None
        return mark(end, info.st_ino, head) if end else None


@dataclass(frozen=True, slots=True)
class Passage:
    """The text of a span, with the lines of its file before it that it is read by."""

    context: bytes
    chunks: Iterator[bytes]
    file: Delivered

    @property
    def context_lines(self) -> int:
        return self.context.count(b"\n")


def passage(source: Source, landing: Landing, span: Span) -> Passage:
    """The text of a span. Raises OSError where the file is gone; its chunks raise codec.UnreadableError."""
    node_id, path_time = identity(source, span.path)
    modified = datetime.now(UTC)
    if not is_remote(span.path):
        modified = datetime.fromtimestamp(Path(span.path).stat().st_mtime, UTC)
    file = Delivered(source.name, span.path, span.end, modified, node_id, path_time)
    if span.is_whole:
        return Passage(b"", _whole(landing, file, source), file)
    return Passage(_context(source, span), _between(span), file)


def head_of(path: str, size: int) -> bytes:
    """The first bytes of a file; nothing of one that is gone."""
    try:
        with Path(path).open("rb") as handle:
            return handle.read(size)
    except OSError:
        return b""


def _is_document(source: Source, head: bytes) -> bool:
    return (
        source.followed_by == "whole files"
        or head.startswith(codec.COMPRESSION_MAGICS)
        or head.lstrip()[:1] in _DOCUMENT_BEGINS
    )


def _line_end(handle: BinaryIO, size: int) -> int:
    """The offset behind the last line feed before `size`; 0 where there is none."""
    at = size
    while at > 0:
        begin = max(0, at - _CHUNK)
        handle.seek(begin)
        end = last_line_end(handle.read(at - begin), begin)
        if end is not None:
            return end
        at = begin
    return 0


def _context(source: Source, span: Span) -> bytes:
    """Whole lines before the span: the file's first, and the last ones; none twice."""
    if span.start == 0:
        return b""
    with Path(span.path).open("rb") as handle:
        head = handle.read(min(HEAD_CONTEXT_BYTES, span.start))
        if len(head) < span.start:
            # A first line of more than 4 KiB is a header that is wanted whole.
            head = head[: last_line_end(head)] if b"\n" in head else head + handle.readline()
        if source.followed_by == "lines below a header":
            return head
        begin = max(len(head), span.start - _TAIL_CONTEXT_BYTES)
        handle.seek(begin)
        tail = handle.read(span.start - begin)
    if begin > len(head):
        tail = tail.partition(b"\n")[2]
    return head + tail


def _between(span: Span) -> Iterator[bytes]:
    with Path(span.path).open("rb") as handle:
        handle.seek(span.start)
        left = span.end - span.start
        while left > 0 and (chunk := handle.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk


def _whole(landing: Landing, file: Delivered, source: Source) -> Iterator[bytes]:
    with landing.open(file, source) as handle:
        yield from codec.text_chunks(handle, file.path)
