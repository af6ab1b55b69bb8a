"""Merkle trees over SHA-256: the root of a list, the path of a leaf to it, and the check of such a path.

Source: RFC 6962, section 2.1 (leaves and nodes are hashed under different prefixes, so that none stands for the other).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(_LEAF + entry).digest()


def root_hash(entries: Sequence[bytes]) -> bytes:
    """Return the root of the tree of these entries; of none the hash of nothing."""
    level = [leaf_hash(one) for one in entries]
    if not level:
        return sha256().digest()
    while len(level) > 1:
        level = _above(level)
    return level[0]


def path_of(entries: Sequence[bytes], index: int) -> list[tuple[str, bytes]]:
    """Return what an entry is hashed with on its way to the root: side (`left`, `right`) and hash, from below."""
    level, path = [leaf_hash(one) for one in entries], []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            path.append(("left" if beside < index else "right", level[beside]))
        level, index = _above(level), index // 2
    return path


def root_by_path(entry: bytes, path: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the root to which a path leads from an entry."""
    found = leaf_hash(entry)
    for side, beside in path:
        found = sha256(_NODE + (beside + found if side == "left" else found + beside)).digest()
    return found


def _above(level: Sequence[bytes]) -> list[bytes]:
    """The next level; a last node without a neighbour goes up as it is, which gives the tree of RFC 6962."""
    pairs = [sha256(_NODE + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
    return pairs + ([level[-1]] if len(level) % 2 else [])
