"""What AMD's tools print: rocm-smi and amd-smi as JSON, as CSV, and as text (`rocm-smi -a`, `amd-smi metric`)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.ingest.documents import STRUCTURE, Item, decode_documents, text_of
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table
from lepton_etl.ingest.rounds import RowRounds
from lepton_etl.ingest.samples import Fault, Sample, decode_stamped
from lepton_etl.ingest.sensors import Rules
from lepton_etl.ingest.text import in_utf8, numbered_lines, peek

_CARD: Final = re.compile(r"card(\d+)")
# `Average Graphics Package Power (W)`: the unit ends the name; `(1402Mhz)`: it ends the value.
_UNIT_OF_NAME: Final = re.compile(r".*\(([^()]+)\)")
_VALUE: Final = re.compile(r"\(?([+-]?[\d.]+) ?([A-Za-z%°]+)\)?")
# amd-smi nests four levels.
MAX_DEPTH: Final = 16
# What partitions of a board (CPX, DPX) have in common: each repeats the board's.
_OF_THE_BOARD: Final = re.compile("power|energy|temperature|fan", re.IGNORECASE)
_WHOLE: Final = ("", "0", "N/A")

_DOCUMENT: Final = re.compile(rb'^\s*(?:\{\s*"|\[\s*\{)', re.MULTILINE)
_ROCM_ROW: Final = re.compile(r"GPU\[(\d+)\]\s*:\s*(\S.*?):\s+(\S.*)")
_ROCM_SAYS: Final = re.compile(r"GPU\[\d+\]")
_AMD_BOARD: Final = re.compile(r"GPU: (\d+)")
_AMD_LEAF: Final = re.compile(r"([A-Z][A-Z0-9_]*):(?: (.+))?")
_HEADERS: Final = ("device,", "gpu,", "timestamp,gpu,", "timestamp,device,")
# Cells may hold lists (`[N/A, N/A]`), which no quotes protect.
_CELL: Final = re.compile(r'((?:\[[^\]]*\]|"[^"]*"|[^,\["])*)(?:,|$)')
_ROCM_LINE: Final = re.compile(rb"^GPU\[\d+\]\s*: ", re.MULTILINE)
_QUIET: Final = re.compile(r"\s*(?:=+.*|WARNING.*|Primary die .*|'CTRL' \+ 'C' to stop.*)?")
_LOOKS_LIKE: Final = (
    re.compile(rb"=+ ?ROCm System Management Interface"),
    re.compile(rb"GPU\[\d+\]\s*: "),
    re.compile(rb"(?s)GPU: \d+\r?\n +[A-Z_]+:\r?\n.*\n +"
               rb"(?:SOCKET_POWER|TOTAL_ENERGY_CONSUMPTION|HOTSPOT|GFX_ACTIVITY): "),
    re.compile(rb"(?:timestamp,)?(?:device|gpu),[^\n]*"
               rb"(?:Package Power \(W\)|GPU use|\(Sensor |socket_power|power_usage|total_energy_consumption)"),
)  # fmt: skip

Json = Mapping[str, Any]


@log_format
class RocmSmi(LogFormat):
    """Output of rocm-smi and amd-smi: JSON, CSV, and the text of `rocm-smi -a` and `amd-smi metric`."""

    format: Literal["rocm_smi"] = "rocm_smi"
    sensors: Rules = rule_table("rocm_smi")

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins as output of rocm-smi or amd-smi does."""
        start = head.lstrip()
        if start[:1] not in (b"{", b"["):
            # The concise table of rocm-smi has the same title and holds no row that is read.
            titled = _LOOKS_LIKE[0].match(start) is not None and _ROCM_LINE.search(start) is not None
            return titled or any(shape.match(start) for shape in _LOOKS_LIKE[1:])
        rocm = re.match(rb'\{\s*"card\d+"\s*:', start) is not None
        amd = re.match(rb'(?:\{\s*"gpu_data"\s*:\s*)?\[\s*\{[^{}]*"gpu"\s*:', start) is not None
        return rocm or (amd and re.search(rb'"(?:usage|power|temperature|energy)"\s*:', head) is not None)

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the documents of a file (see `walk`), or its lines where none of them begins a document."""
        head, stream = peek(in_utf8(chunks))
        if _DOCUMENT.search(head):
            return decode_documents(stream, origin, self.sensors, walk, epoch="s")
        return self._read_lines(stream, origin)

    def _read_lines(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode texts and CSV. A line that says nothing of a board is a reject (bad_line), unless it is a heading.

        A text has no stamp: each value's first is of the path's time, those that follow of a sampling period later
        each, or of no known one.
        """
        text = _Text(origin)
        for lines in numbered_lines(chunks):
            samples: list[Sample] = []
            faults: list[Fault] = []
            structure = 0
            for position, line in enumerate(lines.series(), lines.first_position):
                items = None if "\x00" in line or "\ufffd" in line else text.take(position, line)
                if items is None:
                    faults.append(Fault(position, "bad_line", line[:MAX_RAW_TEXT_CHARS]))
                    continue
                structure += not items
                for item in items:
                    if isinstance(item, Fault):
                        faults.append(item)
                    else:
                        samples.append(item)
            yield from decode_stamped(samples, origin, self.sensors, faults=faults, structure_lines=structure)


class _Text:
    """Where in a text or CSV we are."""

    def __init__(self, origin: Origin) -> None:
        self._columns: list[str] = []
        self._board = ""
        self._headings: list[tuple[int, str]] = []
        self._in_list = False
        """Whether a list of amd-smi's text goes on in the next line."""
        self._rounds = RowRounds(origin)

    def take(self, position: int, line: str) -> list[Sample | Fault] | None:
        """Return what a line holds, nothing of a heading; None where it is none of such a text."""
        text = line.strip()
        if _QUIET.fullmatch(line):
            return []
        if row := _ROCM_ROW.fullmatch(text):
            return [self._bare(position, row[1], row[2], row[3])]
        if _ROCM_SAYS.match(text):  # GPU[0] : Unable to get the power
            return []
        if board := _AMD_BOARD.fullmatch(text):
            self._board, self._headings, self._in_list = board[1], [], False
            return []
        if self._in_list:
            self._in_list = "]" not in text
            return []
        if self._board and (leaf := _AMD_LEAF.fullmatch(text)):
            self._in_list = leaf[2] is not None and "[" in leaf[2] and "]" not in leaf[2]
            return self._leaf(position, len(line) - len(line.lstrip()), leaf[1].lower(), leaf[2])
        if text.startswith(_HEADERS):
            self._columns = [cell.strip() for cell in _cells(text)]
            return []
        return self._row(position, text)

    def _leaf(self, position: int, indent: int, name: str, value: str | None) -> list[Sample | Fault]:
        while self._headings and self._headings[-1][0] >= indent:
            self._headings.pop()
        if value is None:
            self._headings = [*self._headings[: MAX_DEPTH - 1], (indent, name)]
            return []
        path = ".".join([*(heading for _, heading in self._headings), name])
        return [self._bare(position, self._board, path, value)]

    def _row(self, position: int, text: str) -> list[Sample | Fault] | None:
        cells = [cell.strip().strip('"') for cell in _cells(text)]
        # rocm-smi ends its rows with blanks or a comma.
        if not self._columns or len(cells) < len(self._columns) or any(cells[len(self._columns) :]):
            return None
        row = dict(zip(self._columns, cells, strict=False))
        stamp, whose = row.pop("timestamp", None), row.pop("gpu", "") or row.pop("device", "")
        card = _CARD.fullmatch(whose)
        index = card[1] if card else whose
        if not index.isdecimal():
            return None
        if row.get("Partition ID", "") not in _WHOLE:
            row |= dict.fromkeys(filter(_OF_THE_BOARD.search, row), "")
        if stamp is None:
            return [self._bare(position, index, name, cell) for name, cell in row.items() if name]
        return [_named(position, name, cell, {"index": index}, stamp) for name, cell in row.items() if name]

    def _bare(self, position: int, index: str, name: str, value: str) -> Sample | Fault:
        stamp = self._rounds.stamp((index, name))
        if stamp is None:
            return Fault(position, "no_time", f"gpu{index} {name} = {value}"[:MAX_RAW_TEXT_CHARS], name)
        return _named(position, name, value, {"index": index}, stamp or None)


def _cells(text: str) -> list[str]:
    return [cell[1] for cell in _CELL.finditer(text)][: text.count(",") + 1]


def _named(position: int, name: str, value: str, labels: dict[str, str], stamp: str | None) -> Sample:
    number, unit = _value_and_unit(value)
    named = _UNIT_OF_NAME.fullmatch(name)
    return Sample(position, name, number, unit or (named[1] if named else ""), labels, stamp)


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
    """Yield what a card says; a partition that is not its board's first has no power of its own."""
    is_whole = text_of(card.get("Partition ID")) in _WHOLE
    for name, value in card.items():
        repeats = not is_whole and _OF_THE_BOARD.search(name)
        yield _named(line, name, "" if repeats else text_of(value), labels, None)


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
