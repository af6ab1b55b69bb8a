"""Slurm's bracket notation of node lists: node[01-03,07],gpu1 -> node01 node02 node03 node07 gpu1."""

from __future__ import annotations

from itertools import product
from typing import Final

# More nodes than any cluster has; a list that asks for more is damaged, not large.
MAX_NODES: Final = 200_000


class HostlistError(ValueError):
    """A node list that is not in Slurm's notation."""


def expand(text: str) -> list[str]:
    """The node names of a list, in its order, each once.

    Brackets hold numbers and ranges, comma-separated; a range keeps the width of its first number. Several brackets
    in one name are combined (rack[1-2]n[1-4]). Raises HostlistError for brackets that do not close, ranges that fall,
    and lists of more than MAX_NODES names. Source: man scontrol, show hostnames; slurm.conf, NodeName.
    """
    names: dict[str, None] = {}
    for part in _parts(text):
        for name in _names(part):
            names[name] = None
            if len(names) > MAX_NODES:
                raise HostlistError(f"{text[:80]!r} names more than {MAX_NODES} nodes")
    return list(names)


def _parts(text: str) -> list[str]:
    """The comma-separated entries outside brackets."""
    parts, start, depth = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise HostlistError(f"brackets of {text[:80]!r} do not match")
        if letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    if depth:
        raise HostlistError(f"brackets of {text[:80]!r} do not match")
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _names(part: str) -> list[str]:
    head, *rest = part.split("[")
    choices: list[list[str]] = [[head]]
    size = 1
    for piece in rest:
        inside, _, after = piece.partition("]")
        numbers = [number for span in inside.split(",") for number in _numbers(span)]
        size *= len(numbers)
        if size > MAX_NODES:
            raise HostlistError(f"{part[:80]!r} names more than {MAX_NODES} nodes")
        choices += [numbers, [after]]
    return ["".join(letters) for letters in product(*choices)]


def _numbers(span: str) -> list[str]:
    low, dash, high = span.strip().partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise HostlistError(f"{span!r} is not a number or a range")
    if not dash:
        return [low]
    first, last = int(low), int(high)
    if last < first or last - first >= MAX_NODES:
        raise HostlistError(f"{span!r} is not a range that rises")
    return [str(number).zfill(len(low)) for number in range(first, last + 1)]
