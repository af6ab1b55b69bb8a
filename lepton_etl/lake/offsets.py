"""How far each log file has been followed: marks of bytes, and the spans that lie between two sets of them.

A mark knows its file by path or inode and by a digest of its first bytes, so a file that is renamed by a rotation goes
on where it was, and one that was truncated, replaced or got a deleted file's inode begins at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

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
