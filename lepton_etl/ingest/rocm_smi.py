"""JSON of AMD's tools: `rocm-smi -a --json` (cards with flat texts) and `amd-smi metric --json` (nested values)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.documents import STRUCTURE, Item, decode_documents, text_of
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table
from lepton_etl.ingest.samples import Fault, Sample
from lepton_etl.ingest.sensors import Rules

_CARD: Final = re.compile(r"card(\d+)")
# `Average Graphics Package Power (W)`: the unit ends the name; `(1402Mhz)`: it ends the value.
_UNIT_OF_NAME: Final = re.compile(r".*\(([^()]+)\)")
_VALUE: Final = re.compile(r"\(?([+-]?[\d.]+) ?([A-Za-z%]+)\)?")
# amd-smi nests four levels.
MAX_DEPTH: Final = 16

Json = Mapping[str, Any]


@log_format
class RocmSmi(LogFormat):
    """JSON of rocm-smi and amd-smi."""

    format: Literal["rocm_smi"] = "rocm_smi"
    sensors: Rules = rule_table("rocm_smi")

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins as JSON of rocm-smi or amd-smi does."""
        start = head.lstrip()
        if start[:1] not in (b"{", b"["):
            return False
        rocm = re.match(rb'\{\s*"card\d+"\s*:', start) is not None
        amd = re.match(rb'(?:\{\s*"gpu_data"\s*:\s*)?\[\s*\{[^{}]*"gpu"\s*:', start) is not None
        return rocm or (amd and re.search(rb'"(?:usage|power|temperature|energy)"\s*:', head) is not None)

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the documents of a file; see `walk`."""
        return decode_documents(chunks, origin, self.sensors, walk, epoch="s")


def walk(value: Any, line: int) -> Iterator[Item]:
    """Yield the readings of one document of either tool; JSON that is neither's is a reject (no_resource).

    A sensor is rocm-smi's own name for it, or amd-smi's path (power.socket_power). Only `amd-smi --watch` logs a time,
    as seconds since 1970; otherwise the time of the path holds. Source: rocm-smi and amd-smi documentation.
    """
    if isinstance(value, dict) and any(_CARD.fullmatch(name) for name in value):
        for name, card in value.items():
            number = _CARD.fullmatch(name)
            if number is None or not isinstance(card, dict):
                yield STRUCTURE
            else:
                yield from _card(card, {"index": number[1]}, line)
        return
    boards = value.get("gpu_data") if isinstance(value, dict) else value
    for board in boards if isinstance(boards, list) else [boards]:
        if isinstance(board, dict) and "gpu" in board:
            stamp = board.get("timestamp")
            labels = {"index": text_of(board["gpu"])}
            for path, leaf in _leaves(board, "", 0):
                if path not in ("gpu", "timestamp"):
                    yield _sample(path, leaf, labels, line, None if stamp is None else text_of(stamp))
        else:
            yield Fault(line, "no_resource", text_of(value if board is None else board))


def _card(card: Json, labels: dict[str, str], line: int) -> Iterator[Item]:
    for name, value in card.items():
        text = text_of(value)
        number, unit = _value_and_unit(text)
        named = _UNIT_OF_NAME.fullmatch(name)
        yield Sample(line, name, number, unit or (named[1] if named else ""), labels)


def _sample(path: str, leaf: Any, labels: dict[str, str], line: int, stamp: str | None) -> Sample:
    if isinstance(leaf, dict):
        return Sample(line, path, text_of(leaf["value"]), text_of(leaf.get("unit")), labels, stamp)
    number, unit = _value_and_unit(text_of(leaf))
    return Sample(line, path, number, unit, labels, stamp)


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """(path, plain value or {"value", "unit"}) of everything below; what is nested deeper than any tool does is one."""
    if isinstance(value, dict) and "value" not in value and depth < MAX_DEPTH:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name, depth + 1)
    else:
        yield path, value


def _value_and_unit(text: str) -> tuple[str, str]:
    match = _VALUE.fullmatch(text)
    return (match[1], match[2]) if match else (text, "")
