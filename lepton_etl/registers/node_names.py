"""One name for each node, however collectors spell it: short or with its domain, in capitals, with a trailing dot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

Rule = Literal["inventory", "as_logged"]

_ZEROS: Final = re.compile(r"(?<!\d)0+(?=\d)")
_ADDRESS: Final = re.compile(r"[\d.:]+")


@dataclass(frozen=True)
class NodeNames:
    """How a logged name becomes a node_id.

    `inventory`: host names have no case and no trailing dot (RFC 4343, RFC 1034), and a name with its domain is the
    listed one without, or the other way round, where that is one node alone. `as_logged`: every spelling is a node.
    """

    listed: frozenset[str]
    rule: Rule = "inventory"

    def of(self, logged: str) -> str:
        """Return the node_id of a name: a listed one where it is one, else the name in small letters."""
        if self.rule == "as_logged" or logged in self.listed:
            return logged
        name = _folded(logged)
        same = self._by_name.get(name)
        if same is None and _host(name) != name:
            same = self._by_name.get(_host(name))
        elif same is None:
            same = self._by_host.get(name)
        return name if same is None else same

    def look_alikes(self, nodes: Iterable[str]) -> list[list[str]]:
        """Return the groups of node_ids that differ by domain or leading zeros alone, one of each not listed."""
        groups: dict[str, set[str]] = {}
        for node in {*nodes, *self.listed}:
            groups.setdefault(_ZEROS.sub("", _host(_folded(node))), set()).add(node)
        return sorted(
            sorted(group) for group in groups.values() if len(group) > 1 and not group <= self.listed
        )

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return _alone((_folded(name), name) for name in self.listed)

    @cached_property
    def _by_host(self) -> dict[str, str]:
        return _alone((_host(_folded(name)), name) for name in self.listed)


def _folded(name: str) -> str:
    return name.removesuffix(".").lower()


def _host(name: str) -> str:
    """The name without its domain; an address has none."""
    return name if _ADDRESS.fullmatch(name) else name.partition(".")[0]


def _alone(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The names by key, of the keys that one name alone has."""
    names: dict[str, set[str]] = {}
    for key, name in pairs:
        names.setdefault(key, set()).add(name)
    return {key: next(iter(group)) for key, group in names.items() if len(group) == 1}
