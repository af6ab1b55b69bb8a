"""What nvidia-smi prints: CSV queries, `-q` as text and XML, dmon, also one after another in one log.

The values of a `-q` document are known as a whole at its end only. Rows of `--query-gpu` are decoded as columns: a loop
writes millions of cells, too many to look at one by one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from string import Formatter
from typing import Final, Literal
from xml.parsers import expat
from zoneinfo import ZoneInfo

import polars as pl

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, NUMBER, Decoded, Origin, with_columns_of
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table, setting
from lepton_etl.ingest.rounds import RowRounds
from lepton_etl.ingest.samples import CELLS, Fault, Sample, decode_cells, sample_cells
from lepton_etl.ingest.sensors import Mapped, Rules, RuleTable, template_names
from lepton_etl.ingest.text import MAX_DOCUMENT_BYTES, in_utf8, line_blocks
from lepton_etl.ingest.units import parse_stamps


def monitor_cells(text: str) -> list[str]:
    """Return the cells of a row: between blanks, or between commas (`--format csv`)."""
    return [cell.strip() for cell in text.split(",")] if "," in text else text.split()


class MonitorClock:
    """Stamps of dmon: with `-o DT` a day and a time, with `-o T` a time alone, of the path's day and those after it."""

    def __init__(self, origin: Origin) -> None:
        zone = ZoneInfo(origin.timezone)
        self._day: date | None = (
            None if origin.path_time is None else origin.path_time.astimezone(zone).date()
        )
        self._last = ""

    def stamp(self, day: str | None, time: str | None) -> str | None:
        """ISO 8601 without a zone; a text that is no stamp where the day is not known; None where nothing is logged."""
        if time is None:
            return None
        if day is not None:
            return f"{day[:4]}-{day[4:6]}-{day[6:]} {time}"
        # The boards of one sample are written one after another; a clock that falls by half a day passed midnight.
        if self._day is not None and time[:2] < "12" <= self._last[:2]:
            self._day += timedelta(days=1)
        self._last = time
        return time if self._day is None else f"{self._day} {time}"


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
FIRST: Final = {"first": "yes"}

Cell = tuple[int, str, str]
"""Line, sensor, text."""


def value_and_unit(text: str) -> tuple[str, str]:
    """`62.10 W` as number and unit; a text that is no number stays whole and has no unit."""
    match = _VALUE.fullmatch(text)
    return (match[1], match[2] or "") if match else (text, "")


def board_samples(
    cells: list[Cell], labels: dict[str, str], stamp: str | None, units: dict[str, str] | None = None
) -> Iterator[Sample]:
    """Yield the samples of one board at one time. Label `first` marks the name to take of several for one thing."""
    valued = {name for _, name, text in cells if text[:1].isdigit()}
    others = {
        other for names in ALTERNATIVES for other in names
        if other != next((name for name in names if name in valued), other)
    }  # fmt: skip
    for line, name, text in cells:
        value, unit = value_and_unit(text)
        marked = labels if name in others else labels | FIRST
        yield Sample(line, name, value, unit or (units or {}).get(name, ""), marked, stamp)


def iso_of_ctime(text: str) -> str:
    """`Fri Aug  4 11:44:30 2023` as ISO 8601 without a zone; another text stays as it is, to be refused as a stamp."""
    match = _CTIME.fullmatch(text.strip())
    if match is None or match[1] not in _MONTHS:
        return text
    return f"{match[4]}-{_MONTHS.index(match[1]) + 1:02d}-{int(match[2]):02d} {match[3]}"


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
        """Yield all values, each with its board's index.

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


LABEL_OF: Final = {
    "index": "index", "uuid": "uuid", "gpu_uuid": "uuid", "pci.bus_id": "bus", "gpu_bus_id": "bus",
}  # fmt: skip
STAMP: Final = "timestamp"
# A log of one board need not name it.
SOLE_BOARD: Final = "0"
ROUNDS_APART: Final = timedelta(milliseconds=900)
NAME_A_BOARD: Final = " (log index, uuid or pci.bus_id beside it)"


class QueryRows:
    """The rows below one header so far, in order; all have as many cells as it."""

    def __init__(self, columns: list[str], units: dict[str, str]) -> None:
        self.columns = columns
        self.is_stamped = STAMP in columns
        self.is_refused = False
        """Whether a row has been refused for it may be of another time, or another board."""
        self._units = units
        self._lines: list[int] = []
        self._texts: list[str] = []
        self._stamps: list[str | None] = []

    def add(self, line: int, text: str, stamp: str | None = None) -> None:
        """Take a row, which has as many cells as the header; `stamp` is its time where no cell is."""
        self._lines.append(line)
        self._texts.append(text)
        self._stamps.append(stamp)

    def labels(self, text: str) -> tuple[tuple[str, str], ...]:
        """Return what a row says of whose it is."""
        cells = zip(self.columns, text.split(","), strict=True)
        return tuple(sorted((LABEL_OF[name], cell.strip()) for name, cell in cells if name in LABEL_OF))

    def cells(
        self, origin: Origin, rules: RuleTable, ignored: Counter[tuple[str, str]]
    ) -> list[pl.DataFrame]:
        """Cells with a value (CELLS) of the rows taken, which are forgotten; the others are counted in `ignored`."""
        lines, texts, stamps = self._lines, self._texts, self._stamps
        self._lines, self._texts, self._stamps = [], [], []
        if not lines:
            return []
        parts = pl.Series("text", texts, dtype=pl.String).str.split(",")
        rows = pl.DataFrame(
            [pl.Series("source_position", lines, dtype=pl.Int64)]
            + [
                parts.list.get(place).str.strip_chars().alias(f"{place}")
                for place in range(len(self.columns))
            ]
        ).with_columns(
            self._stamp(stamps).alias("stamp"), *(self._label(name) for name in ("index", "uuid", "bus"))
        )
        if self._is_of_one_board(rows.get_column("stamp"), origin):
            rows = rows.with_columns(pl.lit(SOLE_BOARD).alias("index"))
        frames = []
        for place, name in enumerate(self.columns):
            if name == STAMP or name in LABEL_OF:
                continue
            text = pl.col(f"{place}")
            filled = rows.filter(text != "").with_columns(
                text.alias("text"), self._is_first(name).alias("first")
            )
            for is_first, labels in ((True, FIRST), (False, {})):
                column = filled.filter(pl.col("first") == is_first)
                mapped = rules.find(name, labels)
                if mapped is None:
                    ignored[(name, "unmapped")] += column.height
                    continue
                valued = column.filter(~rules.says_no_value(pl.col("text")))
                ignored[(name, "no_value")] += column.height - valued.height
                frames.append(self._mapped(valued, name, mapped, labels, origin, rules))
        return frames

    def _is_of_one_board(self, stamps: pl.Series, origin: Origin) -> bool:
        """Return whether rows that name no board are all of the only one of their node.

        Several boards are written one after another, milliseconds apart; rounds of a loop are not.
        """
        if set(self.columns) & set(LABEL_OF):
            return False
        if not self.is_stamped:
            return stamps.len() == 1 and not self.is_refused
        apart = parse_stamps(stamps, timezone=origin.timezone).get_column("time").diff().drop_nulls()
        return apart.len() == stamps.len() - 1 and bool((apart >= ROUNDS_APART).all())

    def _stamp(self, stamps: list[str | None]) -> pl.Expr:
        if not self.is_stamped:
            return pl.lit(pl.Series(stamps, dtype=pl.String))
        return pl.col(f"{self.columns.index(STAMP)}").str.replace_all("/", "-", literal=True)

    def _label(self, label: str) -> pl.Expr:
        """Return the label's column, null where it is empty; null where no column gives it."""
        places = [place for place, name in enumerate(self.columns) if LABEL_OF.get(name) == label]
        filled = [pl.when(pl.col(f"{place}") != "").then(pl.col(f"{place}")) for place in places]
        return pl.coalesce(*filled, pl.lit(None, dtype=pl.String)).alias(label)

    def _is_first(self, name: str) -> pl.Expr:
        """Whether the cell is the one to take of several names for one thing: the first with a number, or none has."""
        group = next((names for names in ALTERNATIVES if name in names), (name,))
        valued = {
            other: pl.col(f"{self.columns.index(other)}").str.contains(r"^\d")
            for other in group
            if other in self.columns
        }
        before = [valued[other] for other in group[: group.index(name)] if other in valued]
        taken = valued[name] & ~pl.any_horizontal(pl.lit(False), *before)
        return taken | ~pl.any_horizontal(*valued.values())

    def _mapped(
        self,
        column: pl.DataFrame,
        name: str,
        mapped: Mapped,
        labels: dict[str, str],
        origin: Origin,
        rules: RuleTable,
    ) -> pl.DataFrame:
        parts = pl.col("text").str.extract_groups(rf"^(?<number>{NUMBER})\s*(?<unit>[^\s\d.].*)?$")
        number = parts.struct["number"]
        own = pl.coalesce(parts.struct["unit"], pl.lit(self._units.get(name, "")))
        logged = column.with_columns(
            pl.lit(name).alias("sensor"),
            pl.coalesce(number, "text").alias("raw_value"),
            pl.when(number.is_not_null()).then(own).otherwise(pl.lit("")).alias("logged_unit"),
            pl.when(number.is_not_null() & (own != "")).then(own)
            .otherwise(pl.lit(rules.rules[mapped.rule].unit[0])).alias("raw_unit"),
        )  # fmt: skip
        meanings = rules.meanings(logged, labels).drop("sensor", "device_id", "not_measured")
        at = pl.when(pl.col("stamp").is_not_null()).then(pl.concat_str(pl.lit(" at "), "stamp"))
        value = pl.concat_str(
            pl.lit(f"{name} = "), "raw_value", pl.lit(" "), "logged_unit"
        ).str.strip_chars_end()
        device = _device(mapped.devices)
        cells = logged.join(meanings, on="raw_unit", how="left", maintain_order="left").with_columns(
            pl.lit(origin.node_id, dtype=pl.String).alias("node_id"),
            device.alias("device_id"),
            pl.lit(0.0).alias("window_s"),
            pl.lit(1).alias("multiplicity"),
            pl.lit("empty_node_id").alias("found_reason")
            if origin.node_id is None
            else pl.when(device.is_null()).then(pl.lit("empty_device_id")).alias("found_reason"),
            pl.concat_str(
                value,
                at.otherwise(pl.lit("")),
                pl.when(device.is_null()).then(pl.lit(NAME_A_BOARD)).otherwise(pl.lit("")),
            ).alias("raw_text"),
        )
        return with_columns_of(cells, CELLS)


def _device(templates: tuple[str, ...]) -> pl.Expr:
    """Return the first device template whose labels are all there; null if none is."""
    devices = [
        pl.concat_str(
            *(
                part
                for literal, label, _, _ in Formatter().parse(template)
                for part in (pl.lit(literal), *([pl.col(label)] if label else []))
            )
        )
        for template in templates
        if set(template_names(template)) <= {"index", "uuid", "bus"}
    ]
    return pl.coalesce(*devices, pl.lit(None, dtype=pl.String))


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


@log_format
class NvidiaSmi(LogFormat):
    """What nvidia-smi prints: CSV queries, `-q` text, `-q -x` XML, dmon.

    Stamps are the node's wall clock, in the zone of the source; output without one takes the path's time. Between
    banners of `#`, as capture scripts write them, only the output of a query or a monitor is read, the rest is
    structure. Source: nvidia-smi(1).
    """

    format: Literal["nvidia_smi"] = "nvidia_smi"
    sensors: Rules = rule_table("nvidia_smi")
    columns: tuple[str, ...] = setting((), "Fields of --query-gpu in order, for logs written with noheader.")

    @staticmethod
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

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the log in blocks of lines; records of an unfinished document come with its end."""
        decoder = _Decoder(origin, self)
        block = b""
        for following in line_blocks(in_utf8(chunks), BLOCK_BYTES):
            if block:
                yield decoder.decode(block, last=False)
            block = following
        yield decoder.decode(block, last=True)


class _Decoder:
    """Where in a log we are. Every kind of output is told by how it begins, so a log may hold several."""

    def __init__(self, origin: Origin, settings: NvidiaSmi) -> None:
        self._origin = origin
        self._settings = settings
        self._line = 0
        self._mode: Mode = "free"
        self._is_announced = False
        """Whether the banner being read names a command whose output is read."""
        self._document: TextSnapshot | XmlSnapshot | None = None
        self._query = QueryRows(list(settings.columns), {}) if settings.columns else None
        self._columns: list[str] = []
        """Of the monitor being read; so are the units."""
        self._units: dict[str, str] = {}
        self._clock = MonitorClock(origin)
        self._rounds = RowRounds(origin)
        self._items: list[Sample | Fault] = []
        self._frames: list[pl.DataFrame] = []
        self._ignored: Counter[tuple[str, str]] = Counter()
        self._structure = 0
        if settings.columns:
            self._mode = "csv"

    def decode(self, block: bytes, last: bool) -> Decoded:
        """Return the records of the next block of whole lines; those of an unfinished document come with its end."""
        lines = block.decode("utf-8", errors="replace").split("\n")
        for text in lines if lines[-1] else lines[:-1]:
            self._line += 1
            self._take(text.rstrip("\r"))
        if last:
            self._close()
        self._end_query()
        items, structure_lines = self._items, self._structure
        self._items, self._structure = [], 0
        rules, ignored = self._settings.sensors, self._ignored
        self._ignored = Counter()
        samples = (item for item in items if isinstance(item, Sample))
        frames = [sample_cells(samples, self._origin, rules, ignored), *self._frames]
        self._frames = []
        return decode_cells(
            pl.concat(frames).sort("source_position", maintain_order=True),
            +ignored,
            self._origin,
            faults=[item for item in items if isinstance(item, Fault)],
            structure_lines=structure_lines,
        )

    def _end_query(self) -> None:
        """Bring the rows of the query so far into cells."""
        if self._query is not None:
            self._frames.extend(self._query.cells(self._origin, self._settings.sensors, self._ignored))

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
            self._items.append(
                document.fault or Fault(document.line, "bad_xml", "a document without its end")
            )
        elif document is not None:
            self._items.extend(document.samples())

    def _bad_line(self, text: str) -> None:
        self._items.append(Fault(self._line, "bad_line", text[:MAX_RAW_TEXT_CHARS]))

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
        if stamp is None and self._columns[0] != "pmon.gpu":
            stamp = self._rounds.stamp((("index", row.get("gpu", "")),))
            if stamp is None:
                self._no_time(text)
                return True
        labels = {"index": row.get("gpu", "")}
        self._items.extend(board_samples(values, labels, stamp or None, self._units))
        return True

    def _header(self, text: str) -> bool:
        """Return whether the line is the header of a query; its units may stand in brackets."""
        first, *others = text.split(",")
        if _HEADER_CELL.fullmatch(first.strip()) is None:
            return False
        cells = [_HEADER_CELL.fullmatch(cell.strip()) for cell in (first, *others)]
        names = [cell[1] for cell in cells if cell is not None]
        known = any(name in _KNOWN or self._settings.sensors.find(name, FIRST) for name in names)
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
        if query.is_stamped:
            query.add(self._line, text)
            return True
        whose = query.labels(text)
        stamp = self._rounds.stamp(whose)
        # Rows that name no board may be of several, or rounds of one.
        if stamp is None or (stamp and not whose):
            query.is_refused = True
            self._no_time(text)
        else:
            query.add(self._line, text, stamp or None)
        return True

    def _no_time(self, text: str) -> None:
        """A further round of a loop without stamps or a sampling period."""
        self._items.append(Fault(self._line, "no_time", text[:MAX_RAW_TEXT_CHARS]))
