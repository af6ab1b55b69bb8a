"""What nvidia-smi prints: CSV queries, `-q` as text and XML, dmon, also one after another in one log."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal

import polars as pl

from lepton_etl.telemetry.blocks import Parts, in_utf8, line_blocks
from lepton_etl.telemetry.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.telemetry.nvidia_monitor import MonitorClock, monitor_cells
from lepton_etl.telemetry.nvidia_query import LABEL_OF, QueryRows
from lepton_etl.telemetry.nvidia_snapshot import TextSnapshot, XmlSnapshot, board_samples
from lepton_etl.telemetry.samples import Fault, Sample, decode_cells, sample_cells
from lepton_etl.telemetry.specs import NvidiaSmiSpec

# Of a block's lines every cell becomes a row for a moment, some 20 bytes of text a row of 20 columns.
BLOCK_BYTES: Final = 2 << 20
_LOG: Final = re.compile(r"=+NVSMI LOG=+")
_XML: Final = ("<?xml", "<!DOCTYPE nvidia_smi_log", "<nvidia_smi_log")
_BANNER: Final = re.compile(r"#{40,}")
_COMMAND: Final = re.compile(r"# \$ nvidia-smi\s+(?:-q|--query\S*|dmon|pmon)(?:=|\s|$)")
_HEADER_CELL: Final = re.compile(r"([A-Za-z_][\w.]*)(?: \[([^\]]*)\])?")
_MONITOR: Final = re.compile(r"#[^#]*\bgpu\b", re.IGNORECASE)
_DAMAGE: Final = re.compile("[\x00\ufffd]")
# Fields of which one stands in the header of every useful query.
_KNOWN: Final = frozenset(LABEL_OF) | {"timestamp", "name", "gpu_name", "driver_version", "count"}

Mode = Literal["free", "other", "csv", "monitor"]


class Decoder:
    """Readings and rejects of one log, block after block.

    Every kind of output is told by how it begins, so a log may hold several. Stamps are the node's wall clock, in the
    zone of the source; output without one takes the path's time. Between banners of `#`, as capture scripts write
    them, only the output of a query or a monitor is read, the rest is structure. Source: nvidia-smi(1).
    """

    def __init__(self, origin: Origin, spec: NvidiaSmiSpec) -> None:
        self._origin = origin
        self._spec = spec
        self._line = 0
        self._mode: Mode = "free"
        self._is_announced = False
        """Whether the banner being read names a command whose output is read."""
        self._document: TextSnapshot | XmlSnapshot | None = None
        self._query = QueryRows(list(spec.columns), {}) if spec.columns else None
        self._columns: list[str] = []
        """Of the monitor being read; so are the units."""
        self._units: dict[str, str] = {}
        self._clock = MonitorClock(origin)
        self._unstamped: set[tuple[tuple[str, str], ...]] = set()
        """Boards that a row without a stamp has told of already."""
        self._found: list[Sample | Fault] = []
        self._frames: list[pl.DataFrame] = []
        self._ignored: Counter[tuple[str, str]] = Counter()
        self._structure = 0
        if spec.columns:
            self._mode = "csv"

    def decode(self, block: bytes, last: bool) -> Decoded:
        """The records of the next block of whole lines; those of an unfinished document come with its end."""
        lines = block.decode("utf-8", errors="replace").split("\n")
        for text in lines if lines[-1] else lines[:-1]:
            self._line += 1
            self._take(text.rstrip("\r"))
        if last:
            self._close()
        self._end_query()
        found, structure_lines = self._found, self._structure
        self._found, self._structure = [], 0
        rules, ignored = self._spec.sensors, self._ignored
        self._ignored = Counter()
        samples = (item for item in found if isinstance(item, Sample))
        frames = [sample_cells(samples, self._origin, rules, ignored), *self._frames]
        self._frames = []
        return decode_cells(
            pl.concat(frames).sort("source_position", maintain_order=True),
            +ignored,
            self._origin,
            faults=[item for item in found if isinstance(item, Fault)],
            structure_lines=structure_lines,
        )

    def _end_query(self) -> None:
        """Bring the rows of the query so far into cells."""
        if self._query is not None:
            self._frames.extend(self._query.cells(self._origin, self._spec.sensors, self._ignored))

    def _take(self, text: str) -> None:
        if isinstance(self._document, XmlSnapshot) and not text.startswith(_XML[0]):
            self._document.feed(text)
            if self._document.is_closed or text.rstrip().endswith("</nvidia_smi_log>"):
                self._close()
        elif self._mode == "csv" and text[:1].isdigit() and not _DAMAGE.search(text):
            # Most lines of a long log: neither a header nor a comment begins so.
            if not self._row(text):
                self._bad_line(text)
        elif _BANNER.fullmatch(text):
            self._begin("free" if self._is_announced else "other")
            self._is_announced = False
        elif self._mode == "other" and not _COMMAND.match(text):
            self._structure += 1
        elif _LOG.fullmatch(text.strip()):
            self._begin("free")
            self._document = TextSnapshot(self._line)
        elif text.startswith(_XML):
            self._begin("free")
            self._document = XmlSnapshot(self._line)
            self._document.feed(text)
            if self._document.is_closed:
                self._close()
        elif not text.strip():
            self._structure += 1
        elif _DAMAGE.search(text):
            self._bad_line(text)
        elif text.startswith("#"):
            self._comment(text)
        elif isinstance(self._document, TextSnapshot):
            if not self._document.feed(self._line, text):
                self._bad_line(text)
        elif not (
            (self._mode == "monitor" and self._monitor_row(text))
            or self._header(text)
            or (self._mode == "csv" and self._row(text))
        ):
            self._bad_line(text)

    def _begin(self, mode: Mode) -> None:
        """A structural line that ends what went before."""
        self._close()
        self._mode = mode
        self._structure += 1

    def _close(self) -> None:
        document, self._document = self._document, None
        if isinstance(document, XmlSnapshot) and (document.fault is not None or not document.is_closed):
            self._found.append(
                document.fault or Fault(document.line, "bad_xml", "a document without its end")
            )
        elif document is not None:
            self._found.extend(document.samples())

    def _bad_line(self, text: str) -> None:
        self._found.append(Fault(self._line, "bad_line", text[:MAX_RAW_TEXT_CHARS]))

    def _comment(self, text: str) -> None:
        """Headers of dmon and pmon; a shell's prompt before its output; other comments."""
        if _COMMAND.match(text):
            self._begin("free")
            self._is_announced = True
            return
        self._structure += 1
        cells = monitor_cells(text.lstrip("#"))
        if _MONITOR.match(text):
            self._close()
            prefix = "pmon" if "pid" in cells else "dmon"
            self._mode = "monitor"
            self._columns = [f"{prefix}.{cell}" for cell in cells]
            self._units = {}
        elif self._mode == "monitor" and "Idx" in cells and len(cells) == len(self._columns):
            self._units = dict(zip(self._columns, cells, strict=True))

    def _monitor_row(self, text: str) -> bool:
        cells = monitor_cells(text)
        if len(cells) != len(self._columns) or not any(cell.isdecimal() for cell in cells):
            return False
        row = {name.partition(".")[2]: cell for name, cell in zip(self._columns, cells, strict=True)}
        identity = ("gpu", "Date", "Time")
        values = [
            (self._line, name, cell)
            for name, cell in zip(self._columns, cells, strict=True)
            if name.partition(".")[2] not in identity
        ]
        stamp = self._clock.stamp(row.get("Date"), row.get("Time"))
        # Rows of pmon are processes, several a board.
        of_board = stamp is None and self._columns[0] != "pmon.gpu"
        if not of_board or self._is_of_the_path((("index", row.get("gpu", "")),), text):
            self._found.extend(board_samples(values, {"index": row.get("gpu", "")}, stamp, self._units))
        return True

    def _header(self, text: str) -> bool:
        """Whether the line is the header of a query; its units may stand in brackets."""
        first, *others = text.split(",")
        if _HEADER_CELL.fullmatch(first.strip()) is None:
            return False
        cells = [_HEADER_CELL.fullmatch(cell.strip()) for cell in (first, *others)]
        names = [cell[1] for cell in cells if cell is not None]
        known = any(name in _KNOWN or self._spec.sensors.find(name, {"first": "yes"}) for name in names)
        if len(names) != len(cells) or not known:
            return False
        self._mode = "csv"
        self._end_query()
        self._query = QueryRows(names, {cell[1]: cell[2] for cell in cells if cell is not None and cell[2]})
        self._structure += 1
        return True

    def _row(self, text: str) -> bool:
        query = self._query
        if query is None or text.count(",") + 1 != len(query.columns):
            return False
        if query.is_stamped or self._is_of_the_path(query.labels(text), text):
            query.add(self._line, text)
        return True

    def _is_of_the_path(self, whose: tuple[tuple[str, str], ...], text: str) -> bool:
        """Of a loop without stamps only the first round is of the path's time; the rest is of no known one."""
        if whose in self._unstamped:
            self._found.append(Fault(self._line, "no_time", text[:MAX_RAW_TEXT_CHARS]))
            return False
        self._unstamped.add(whose)
        return True


def looks_like(head: bytes) -> bool:
    """Whether a text begins as output of nvidia-smi does: its XML, its log title, a monitor or a query's header."""
    start = head[:4096].lstrip()
    if b"<nvidia_smi_log" in start or b"NVSMI LOG" in start or b"\n# $ nvidia-smi" in head:
        return True
    first = start.split(b"\n", 1)[0].decode("utf-8", errors="replace").strip()
    if first.startswith("#"):
        return (
            bool(_MONITOR.match(first))
            and {"pwr", "gtemp", "sm", "fb", "pid"} & set(monitor_cells(first)) != set()
        )
    cells = [_HEADER_CELL.fullmatch(cell.strip()) for cell in first.split(",")]
    names = {cell[1] for cell in cells if cell is not None}
    fields = ("power.draw", "temperature.gpu", "utilization.gpu", "clocks.current.", "fan.speed")
    return None not in cells and any(name.startswith(fields) for name in names)


def read(chunks: Iterable[bytes], origin: Origin, spec: NvidiaSmiSpec) -> Parts:
    """The log in blocks of lines."""
    decoder = Decoder(origin, spec)
    block = b""
    for following in line_blocks(in_utf8(chunks), BLOCK_BYTES):
        if block:
            yield decoder.decode(block, last=False)
        block = following
    yield decoder.decode(block, last=True)
