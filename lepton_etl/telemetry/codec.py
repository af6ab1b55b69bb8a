"""Bytes as delivered to the text inside: plain or gzip, with a limit against bombs; and a file's identity."""

import hashlib
import io
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

FailureReason = Literal["truncated_gzip", "unreadable_file", "too_large"]

GZIP_MAGIC: Final = b"\x1f\x8b"
CHUNK_BYTES: Final = 1 << 20
# The largest real node-day is some 8 MB of text; a fleet file of 2 GiB is a mistake or an attack.
MAX_BYTES: Final = 2 << 30
# Log tables are compressed 50-fold (the real ones at most 120-fold); deflate's limit is 1032.
MAX_RATIO: Final = 400.0
# A ratio means nothing on a few bytes: below this much text it is not judged.
RATIO_FROM_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a delivered file cannot be read; it is discarded whole with one reject of this reason."""

    reason: FailureReason
    detail: str


def read_bytes(
    source: bytes | BinaryIO,
    max_bytes: int = MAX_BYTES,
    max_ratio: float = MAX_RATIO,
    *,
    gzipped: bool = False,
) -> bytes | Failure:
    """The decompressed bytes of a plain or gzip file (told by its first two bytes), or why there are none.

    `gzipped`: the name promises gzip (.gz), so anything else is unreadable. Several gzip members one after another
    are one text; zero bytes after the last are padding. Reading stops as soon as the text passes `max_bytes`, or
    `max_ratio` times the bytes read. Raises OSError where the source itself cannot be read.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    head = stream.read(CHUNK_BYTES)
    if head[:2] == GZIP_MAGIC:
        return _inflate(head, stream, max_bytes, max_ratio)
    if gzipped:
        if len(head) < len(GZIP_MAGIC) and GZIP_MAGIC.startswith(head):
            return Failure("truncated_gzip", f"gzip file of {len(head)} bytes")
        return Failure("unreadable_file", "named .gz but does not start as gzip")
    return _plain(head, stream, max_bytes)


def _plain(head: bytes, stream: BinaryIO, max_bytes: int) -> bytes | Failure:
    rest = stream.read(max_bytes - len(head) + 1) if len(head) <= max_bytes else b""
    if len(head) + len(rest) > max_bytes:
        return Failure("too_large", f"more than {max_bytes} bytes")
    return head + rest


def _inflate(head: bytes, stream: BinaryIO, max_bytes: int, max_ratio: float) -> bytes | Failure:
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    parts: list[bytes] = []
    taken, given = len(head), 0
    pending = head
    while True:
        ended = False
        if not pending:
            pending = stream.read(CHUNK_BYTES)
            taken += len(pending)
            ended = not pending
        if member.eof:
            pending = pending.lstrip(b"\0")
            if ended:
                return b"".join(parts)
            if not pending:
                continue
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            text = member.flush() if ended else member.decompress(pending, CHUNK_BYTES)
        except zlib.error as error:
            return Failure("unreadable_file", f"damaged gzip: {error}")
        parts.append(text)
        given += len(text)
        pending = member.unused_data if member.eof else member.unconsumed_tail
        if ended and not member.eof:
            return Failure("truncated_gzip", f"the gzip stream ends after {taken} bytes, unfinished")
        if given > max_bytes:
            return Failure("too_large", f"more than {max_bytes} bytes of text")
        if given > RATIO_FROM_BYTES and given > max_ratio * taken:
            return Failure(
                "too_large", f"compressed more than {max_ratio:g}-fold: {given} bytes out of {taken}"
            )


def file_id(source_name: str, node_id: str | None, data: bytes) -> str:
    """SHA-256 of (source name, identity taken from the path, decompressed bytes), in hexadecimal.

    Each name goes in with its length, so that no two pairs of names run together; no identity is not an empty one.
    Source: definitions.md section 1.
    """
    digest = hashlib.sha256()
    for name in (source_name, node_id):
        text = b"" if name is None else name.encode("utf-8", "surrogatepass")
        digest.update(b"-" if name is None else b"%d:" % len(text))
        digest.update(text)
    digest.update(data)
    return digest.hexdigest()
