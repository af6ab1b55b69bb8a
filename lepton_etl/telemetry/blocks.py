"""A stream of text in pieces that a decoder can take one after another, in bounded memory."""

import codecs
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeVar

from lepton_etl.telemetry.codec import CHUNK_BYTES
from lepton_etl.telemetry.decoded import Decoded, Origin

# A node-day is some 2 to 8 MB; a block holds one, so the usual file is decoded in one piece.
BLOCK_BYTES: Final = 16 << 20
# No tool writes such a line; without a limit one line without an end would be the whole file in memory.
MAX_LINE_BYTES: Final = 1 << 20
# The largest document (a JSON or XML text that only makes sense whole) that is taken; Redfish's are some kilobytes.
MAX_DOCUMENT_BYTES: Final = 32 << 20
# What a text is recognised by.
HEAD_BYTES: Final = 64 << 10
_UTF16_MARKS: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

Parts = Iterator[Decoded]
# The spec is the format's own.
Read = Callable[[Iterable[bytes], Origin, Any], Parts]
Spec = TypeVar("Spec")


class BlockDecoder(Protocol):
    """Keeps between blocks what a log says once: its header, its last stamp."""

    def decode(self, block: bytes) -> Decoded: ...


def by_lines(
    decoder: Callable[[Origin, Spec], BlockDecoder],
) -> Callable[[Iterable[bytes], Origin, Spec], Parts]:
    """How a log of lines is read: blocks of whole lines, one after another, by one decoder a file."""

    def read(chunks: Iterable[bytes], origin: Origin, spec: Spec) -> Parts:
        reader = decoder(origin, spec)
        return (reader.decode(block) for block in line_blocks(in_utf8(chunks)))

    return read


def in_utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same text without a byte-order mark; UTF-16, told by its mark, becomes UTF-8."""
    stream = iter(chunks)
    head = next(stream, b"")
    while len(head) < len(codecs.BOM_UTF8) and (more := next(stream, b"")):
        head += more
    encoding = _UTF16_MARKS.get(head[:2])
    if encoding is None:
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from stream
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    yield decoder.decode(head[2:]).encode("utf-8", errors="replace")
    for chunk in stream:
        yield decoder.decode(chunk).encode("utf-8", errors="replace")
    yield decoder.decode(b"", final=True).encode("utf-8", errors="replace")


def peek(chunks: Iterable[bytes], size: int = HEAD_BYTES) -> tuple[bytes, Iterator[bytes]]:
    """The first `size` bytes (fewer of a shorter stream), and the whole stream from its beginning."""
    stream = iter(chunks)
    taken: list[bytes] = []
    length = 0
    for chunk in stream:
        taken.append(chunk)
        length += len(chunk)
        if length >= size:
            break
    return b"".join(taken)[:size], itertools.chain(taken, stream)


def line_blocks(chunks: Iterable[bytes], block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Blocks of whole lines, at most about `block_bytes` each; at least one block, of an empty text an empty one.

    Of a line longer than MAX_LINE_BYTES the beginning is kept and ended by a NUL, so that it stays one line and every
    decoder refuses it as damaged.
    """
    parts: list[bytes] = []
    size = 0
    given = False
    for chunk in _without_huge_lines(chunks):
        parts.append(chunk)
        size += len(chunk)
        if size < block_bytes:
            continue
        text = b"".join(parts)
        end = text.rfind(b"\n") + 1
        if end:
            yield text[:end]
            given = True
        parts, size = [text[end:]], len(text) - end
    if size or not given:
        yield b"".join(parts)


def _without_huge_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    open_bytes = 0  # Of the line that the last chunk left open.
    for chunk in chunks:
        for start in range(0, len(chunk), CHUNK_BYTES):
            piece = chunk[start : start + CHUNK_BYTES]
            first_end = piece.find(b"\n")
            if open_bytes >= MAX_LINE_BYTES:
                if first_end < 0:
                    continue
                piece = b"\0" + piece[first_end:]
                first_end = 1
            yield piece
            last_end = piece.rfind(b"\n")
            open_bytes = len(piece) - last_end - 1 if first_end >= 0 else open_bytes + len(piece)
    if open_bytes >= MAX_LINE_BYTES:
        yield b"\0"
