"""The landing folder: which files were delivered, and the one way to open them.

A pattern's part before its first wildcard is its root. What leaves the root by a symbolic link, or is no regular file
(a device, a pipe), is named and not opened.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, cast

from lepton_etl.errors import ConfigurationError
from lepton_etl.settings import Source

UNSAFE: Final = ("symbolic_link", "not_a_regular_file", "outside_landing")
_WILDCARD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Delivered:
    """One file as the landing folder shows it; `unsafe` says why it must not be opened."""

    source_name: str
    path: str
    size_bytes: int
    modified_time: datetime
    node_id: str | None
    path_time: datetime | None
    unsafe: str | None = None


def delivered(source: Source) -> Iterator[Delivered]:
    """The files of one source, by path. Raises ConfigurationError where the pattern's root is not a readable folder."""
    root = pattern_root(source.path)
    if not os.access(root, os.R_OK | os.X_OK) or not root.is_dir():
        raise ConfigurationError(
            f"key sources.{source.name}.path = {source.path!r}: {root} is not a readable folder",
            where=f"source {source.name}",
            remedy="create the folder or mend the pattern",
        )
    inside = root.resolve()
    for file in sorted(root.glob(str(Path(source.path).relative_to(root)))):
        path = str(file)
        info = file.lstat()
        if stat.S_ISDIR(info.st_mode):
            continue
        node_id, path_time = identity(source, path)
        yield Delivered(
            source_name=source.name,
            path=path,
            size_bytes=info.st_size,
            modified_time=datetime.fromtimestamp(info.st_mtime, UTC),
            node_id=node_id,
            path_time=path_time,
            unsafe=_unsafe(file, info, inside),
        )


def pattern_root(pattern: str) -> Path:
    """The folder before the first wildcard of a pattern."""
    fixed = _WILDCARD.split(pattern, maxsplit=1)[0]
    return Path(fixed) if fixed.endswith("/") else Path(fixed).parent


@contextmanager
def read_delivered(file: Delivered) -> Iterator[BinaryIO]:
    """The file as it was when it was listed: what has grown behind it since is left to the next run."""
    with Path(file.path).open("rb") as handle:
        yield cast("BinaryIO", _Head(handle, file.size_bytes))


class _Head:
    """The first bytes of a file."""

    def __init__(self, handle: BinaryIO, size_bytes: int) -> None:
        self._handle = handle
        self._left = size_bytes

    def read(self, size: int = -1) -> bytes:
        found = self._handle.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(found)
        return found


def identity(source: Source, path: str) -> tuple[str | None, datetime | None]:
    """The node and the stamp that a path names, as far as the source says how to read them."""
    return _group(source.node_id_from_path, path, "node_id"), _time(source, path)


def _unsafe(file: Path, info: os.stat_result, inside: Path) -> str | None:
    if stat.S_ISLNK(info.st_mode):
        return "symbolic_link"
    if not stat.S_ISREG(info.st_mode):
        return "not_a_regular_file"
    if not file.resolve().is_relative_to(inside):
        return "outside_landing"
    return None


def _group(pattern: str | None, path: str, group: str) -> str | None:
    found = re.search(pattern, path) if pattern else None
    return found[group] if found else None


def _time(source: Source, path: str) -> datetime | None:
    text = _group(source.time_from_path, path, "time")
    if text is None:
        return None
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return None
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
