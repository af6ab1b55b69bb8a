"""One `nvidia-smi -q` document, as text or XML: the values of its boards, known as a whole at its end only."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from lepton_etl.telemetry.assemble import NUMBER
from lepton_etl.telemetry.blocks import MAX_DOCUMENT_BYTES
from lepton_etl.telemetry.samples import Fault, Sample

ROOT: Final = "nvidia_smi_log"
# Real documents nest seven levels.
MAX_DEPTH: Final = 64
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CTIME: Final = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) {1,2}(\d{1,2}) (\d\d:\d\d:\d\d) (\d{4})")
_VALUE: Final = re.compile(rf"({NUMBER})\s*([^\s\d.].*)?")
_IDENTITY: Final = {
    "Minor Number": "minor", "minor_number": "minor", "GPU UUID": "uuid", "uuid": "uuid",
}  # fmt: skip
# One power of one board under several names: only the first that has a value is labelled, the others say it again or
# are another sampling of the same board. power.draw is on every driver; since Ampere it is the average of a second.
ALTERNATIVES: Final = (
    ("power.draw", "power.draw.average", "power.draw.instant"),
    ("enforced.power.limit", "power.limit"),
    ("gpu_power_readings.power_draw", "gpu_power_readings.average_power_draw", "gpu_power_readings.instant_power_draw"),
    ("GPU Power Readings.Power Draw", "GPU Power Readings.Average Power Draw",
     "GPU Power Readings.Instantaneous Power Draw"),
)  # fmt: skip
_GROUP: Final = {name: number for number, names in enumerate(ALTERNATIVES) for name in names}

Cell = tuple[int, str, str]
"""Line, sensor, text."""


def value_and_unit(text: str) -> tuple[str, str]:
    """`62.10 W` as number and unit; a text that is no number stays whole and has no unit."""
    found = _VALUE.fullmatch(text)
    return (found[1], found[2] or "") if found else (text, "")


def board_samples(
    cells: list[Cell], labels: dict[str, str], stamp: str | None, units: dict[str, str] | None = None
) -> Iterator[Sample]:
    """The samples of one board at one time. Label `first` marks the name to take of several for one thing."""
    first: dict[int, str] = {}
    for names in ALTERNATIVES:
        there = {name for _, name, text in cells if name in names and text[:1].isdigit()}
        for name in names:
            if name in there:
                first.setdefault(_GROUP[name], name)
    for line, name, text in cells:
        value, unit = value_and_unit(text)
        marked = labels | {"first": "yes"} if first.get(_GROUP.get(name, -1), name) == name else labels
        yield Sample(line, name, value, unit or (units or {}).get(name, ""), marked, stamp)


def iso_of_ctime(text: str) -> str:
    """`Fri Aug  4 11:44:30 2023` as ISO 8601 without a zone; another text stays as it is, to be refused as a stamp."""
    found = _CTIME.fullmatch(text.strip())
    if found is None or found[1] not in _MONTHS:
        return text
    return f"{found[4]}-{_MONTHS.index(found[1]) + 1:02d}-{int(found[2]):02d} {found[3]}"


@dataclass
class _Board:
    labels: dict[str, str]
    cells: list[Cell] = field(default_factory=list)


class Snapshot:
    """What one document has said so far."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.stamp: str | None = None
        self.attached = ""
        self.boards: list[_Board] = []
        self._size = 0

    def board(self, bus: str) -> None:
        """A board begins."""
        self.boards.append(_Board({"bus": bus}))

    def add(self, line: int, name: str, text: str) -> None:
        """A value: of the document before the first board, of the last board after."""
        if not self.boards:
            if name in ("Timestamp", "timestamp"):
                self.stamp = iso_of_ctime(text)
            elif name in ("Attached GPUs", "attached_gpus"):
                self.attached = text
            return
        board = self.boards[-1]
        if name in _IDENTITY:
            board.labels[_IDENTITY[name]] = text
        self._size += len(name) + len(text)
        if self._size <= MAX_DOCUMENT_BYTES:
            board.cells.append((line, name, text))

    def samples(self) -> Iterator[Sample | Fault]:
        """All values, each with its board's index.

        The document does not say the index: boards are listed in its order, so where all are listed it is the place;
        of a part of them (`-i`) the minor number, that of /dev/nvidia<n>, else the UUID names the board.
        """
        if self._size > MAX_DOCUMENT_BYTES:
            yield Fault(self.line, "too_large", f"a document of more than {MAX_DOCUMENT_BYTES} bytes")
            return
        is_whole = self.attached == str(len(self.boards))
        for place, board in enumerate(self.boards):
            minor = board.labels.pop("minor", "")
            index = str(place) if is_whole else minor if minor.isdecimal() else ""
            yield from board_samples(board.cells, board.labels | {"index": index}, self.stamp)


class TextSnapshot(Snapshot):
    """`-q` as text: keys below headings, told by their indentation."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self._headings: list[tuple[int, str]] = []

    def feed(self, line: int, text: str) -> bool:
        """Take a line; False if it is none of such a document."""
        body = text.strip()
        indent = len(text) - len(text.lstrip())
        while self._headings and self._headings[-1][0] >= indent:
            self._headings.pop()
        name, colon, value = body.partition(" : ")
        if not colon and body.endswith(" :"):
            name, colon = body[:-2], ":"
        if indent == 0 and body.startswith("GPU ") and not colon:
            self.board(body.removeprefix("GPU "))
        elif colon:
            self.add(
                line, ".".join([*(heading for _, heading in self._headings), name.strip()]), value.strip()
            )
        elif indent and len(self._headings) < MAX_DEPTH:
            self._headings.append((indent, body))
        else:
            return False
        return True


class XmlSnapshot(Snapshot):
    """`-q -x`: leaves named by their path below the board. Entity declarations are refused: they can only harm."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.is_closed = False
        self.fault: Fault | None = None
        self._path: list[str] = []
        self._text: list[str] = []
        self._is_leaf = False
        self._fed = 0
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append
        self._parser.EntityDeclHandler = self._refuse_entity

    def feed(self, text: str) -> None:
        """Take a line of XML; what follows a fault is not looked at."""
        if self.fault is not None:
            return
        self._fed += len(text)
        if self._fed > MAX_DOCUMENT_BYTES:
            self.fault = Fault(self.line, "too_large", f"a document of more than {MAX_DOCUMENT_BYTES} bytes")
            return
        try:
            self._parser.Parse(text.encode("utf-8", errors="replace") + b"\n", False)
        except (expat.ExpatError, ValueError) as error:
            if not self.is_closed:
                self.fault = Fault(self.line, "bad_xml", f"{error}: {text}")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if self._path[0] != ROOT or len(self._path) > MAX_DEPTH:
            raise ValueError(f"element {tag} at level {len(self._path)}")
        if len(self._path) == 2 and tag == "gpu":
            self.board(attributes.get("id", ""))
        self._text.clear()
        self._is_leaf = True

    def _end(self, tag: str) -> None:
        below_board = 2 if len(self._path) > 1 and self._path[1] == "gpu" else 1
        if self._is_leaf and len(self._path) > below_board:
            line = self.line + self._parser.CurrentLineNumber - 1
            self.add(line, ".".join(self._path[below_board:]), "".join(self._text).strip())
        self._is_leaf = False
        self._text.clear()
        self._path.pop()
        self.is_closed = not self._path

    def _refuse_entity(self, name: str, *_: object) -> None:
        raise ValueError(f"entity {name} declared")
