"""Look for words in every byte that a run left: in files as they lie, and in what is packed inside of them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq


def found(folders: Iterable[Path], words: Iterable[str]) -> list[str]:
    """Return `word in file` of each word that a file below the folders holds, compressed or not."""
    wanted = [(word, word.encode()) for word in words]
    hits = []
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if not path.is_file():
                continue
            where = str(path.relative_to(folder) if path != folder else path)
            content = b"\0".join([where.encode(), *_unpacked(path)])
            hits += [f"{word} in {where}" for word, sought in wanted if sought in content]
    return hits


def _unpacked(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    yield content
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    if content[:4] == b"PAR1":
        file = pq.ParquetFile(path)
        yield repr(file.metadata.to_dict()).encode()
        yield repr(file.read().to_pydict()).encode()
    for start in (at for at in range(len(content)) if content.startswith(b"x\x9c", at)):
        try:
            yield zlib.decompressobj().decompress(content[start:])
        except zlib.error:
            continue
