"""Delivered bytes to text in bounded memory: decompressed (gzip, zstd, xz), as UTF-8, in blocks of whole lines."""

import codecs
import hashlib
import itertools
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, Literal, cast

from isal import igzip_lib

from lepton_etl.ingest.decoded import Lines, read_lines

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


CHUNK_BYTES: Final = 1 << 20
# A file beyond this is a mistake or an attack: the largest real fleet-day is 3.2 GB of text.
MAX_BYTES: Final = 64 << 30
# More than this is a bomb. Real BMC logs reach 120-fold as gzip (deflate's limit is 1032) and 550-fold as zstd or xz
# (100 MB of zeros: 6,800-fold and more).
GZIP_MAX_RATIO: Final = 400.0
LONG_WINDOW_MAX_RATIO: Final = 4000.0
# A ratio means nothing on a few bytes: below this much text it is not judged.
RATIO_FROM_BYTES: Final = 16 << 20
# What a decompressor may keep to look back into; `zstd --long=27` and `xz -9` stay below.
_WINDOW_BYTES: Final = 128 << 20


class UnreadableError(Exception):
    """A delivered file cannot be read on from here; it is discarded whole with one reject of this reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Compression:
    name: Literal["gzip", "zstd", "xz"]
    magic: bytes
    suffix: str
    max_ratio: float
    start: Callable[[], Any]
    errors: tuple[type[Exception], ...]

    def truncated(self, detail: str) -> UnreadableError:
        return UnreadableError(f"truncated_{self.name}", detail)


_COMPRESSIONS: Final = (
    _Compression(
        "gzip", b"\x1f\x8b", ".gz", GZIP_MAX_RATIO, lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP),
        (cast("type[Exception]", igzip_lib.error), EOFError),
    ),
    _Compression(
        "zstd", b"\x28\xb5\x2f\xfd", ".zst", LONG_WINDOW_MAX_RATIO,
        lambda: zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_BYTES.bit_length() - 1}
        ),
        (zstd.ZstdError, EOFError),
    ),
    _Compression(
        "xz", b"\xfd7zXZ\0", ".xz", LONG_WINDOW_MAX_RATIO,
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_WINDOW_BYTES),
        (lzma.LZMAError, EOFError),
    ),
)  # fmt: skip
COMPRESSION_MAGICS: Final = tuple(one.magic for one in _COMPRESSIONS)


def text_chunks(stream: BinaryIO, name: str = "", max_bytes: int = MAX_BYTES) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file, told by its first bytes, in chunks of at most CHUNK_BYTES.

    A `name` that promises a compression (.gz, .zst, .xz) the bytes do not have is unreadable. Several compressed
    members one after another are one text; zero bytes after the last are padding. Raises UnreadableError at the first
    byte that cannot be given: damaged, cut short, larger than `max_bytes`, or more than the compression's ratio times
    the bytes read. Raises OSError where the source itself cannot be read.
    """
    head = _read_up_to(stream, max(len(c.magic) for c in _COMPRESSIONS))
    promised = next((c for c in _COMPRESSIONS if name.endswith(c.suffix)), None)
    for compression in _COMPRESSIONS:
        if head.startswith(compression.magic):
            yield from _inflated(head, stream, compression, max_bytes)
            return
    if promised is not None:
        if len(head) < len(promised.magic) and promised.magic.startswith(head):
            raise promised.truncated(f"{promised.name} file of {len(head)} bytes")
        detail = f"named {promised.suffix} but does not start as {promised.name}"
        raise UnreadableError("unreadable_file", detail)
    given = 0
    while head:
        given += len(head)
        if given > max_bytes:
            raise UnreadableError("too_large", f"more than {max_bytes} bytes")
        yield head
        head = stream.read(CHUNK_BYTES)


def _read_up_to(stream: BinaryIO, size: int) -> bytes:
    """Return the first bytes; a pipe or an object store may give them in pieces."""
    head = b""
    while len(head) < size and (more := stream.read(size - len(head))):
        head += more
    return head


def _inflated(head: bytes, stream: BinaryIO, compression: _Compression, max_bytes: int) -> Iterator[bytes]:
    member = compression.start()
    taken, given = len(head), 0
    pending = head
    while True:
        if member.eof:
            pending = (member.unused_data or pending).lstrip(b"\0")
            while not pending and (more := stream.read(CHUNK_BYTES)):
                taken += len(more)
                pending = more.lstrip(b"\0")
            if not pending:
                return
            if pending[0] != compression.magic[0]:
                raise UnreadableError(
                    "unreadable_file", f"bytes that are no {compression.name} follow the text"
                )
            member = compression.start()
        elif not pending and member.needs_input:
            pending = stream.read(CHUNK_BYTES)
            taken += len(pending)
            if not pending:
                raise compression.truncated(
                    f"the {compression.name} stream ends after {taken} bytes, unfinished"
                )
        try:
            text = member.decompress(pending, CHUNK_BYTES)
        except compression.errors as error:
            raise UnreadableError("unreadable_file", f"damaged {compression.name}: {error}") from error
        pending = b""
        given += len(text)
        if given > max_bytes:
            raise UnreadableError("too_large", f"more than {max_bytes} bytes of text")
        if given > RATIO_FROM_BYTES and given > compression.max_ratio * taken:
            detail = f"compressed more than {compression.max_ratio:g}-fold: {given} bytes out of {taken}"
            raise UnreadableError("too_large", detail)
        if text:
            yield text


class ContentIdentity:
    """SHA-256 of (source name, node that the path names, decompressed bytes), fed as the bytes go by.

    Each name goes in with its length, so that no two pairs of names run together; no node is not an empty one.
    """

    def __init__(self, source_name: str, node_id: str | None) -> None:
        self._digest = hashlib.sha256()
        for name in (source_name, node_id):
            text = b"" if name is None else name.encode("utf-8", "surrogatepass")
            self._digest.update(b"-" if name is None else b"%d:" % len(text))
            self._digest.update(text)

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the same chunks; each has gone into the identity when it comes out."""
        for chunk in chunks:
            self._digest.update(chunk)
            yield chunk

    @property
    def content_id(self) -> str:
        """The identity of the bytes seen so far, in hexadecimal."""
        return self._digest.hexdigest()


def file_id(content_id: str, path_time: datetime | None) -> str:
    """Return the identity of a file: its content's, and the time that its path names.

    An idle node logs the same snapshot every five minutes. Source: docs/definitions.md section 1.
    """
    if path_time is None:
        return content_id
    return hashlib.sha256(f"{content_id} {path_time.astimezone(UTC).isoformat()}".encode()).hexdigest()


# A node-day is some 2 to 8 MB; a block holds one, so the usual file is decoded in one piece.
BLOCK_BYTES: Final = 16 << 20
# No tool writes such a line; without a limit one line without an end would be the whole file in memory.
MAX_LINE_BYTES: Final = 1 << 20
# The largest document (a JSON or XML text that only makes sense whole) that is taken; Redfish's are some kilobytes.
MAX_DOCUMENT_BYTES: Final = 32 << 20
# What a text is recognised by.
HEAD_BYTES: Final = 64 << 10
_UTF16_MARKS: Final = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def numbered_lines(chunks: Iterable[bytes]) -> Iterator[Lines]:
    """Yield the lines of a log in blocks, numbered through; at least one block, of an empty text an empty one."""
    position = 1
    for block in line_blocks(in_utf8(chunks)):
        lines = read_lines(block, position)
        position = lines.following
        yield lines


def drain(chunks: Iterable[object]) -> None:
    """Read what is left: a file's identity is only known at its end."""
    for _ in chunks:
        pass


def in_utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same text without a byte-order mark; UTF-16, told by its mark, becomes UTF-8."""
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
    """Return the first `size` bytes (fewer of a shorter stream), and the whole stream from its beginning."""
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
    """Yield blocks of whole lines, at most about `block_bytes` each; at least one block, of an empty text an empty one.

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
