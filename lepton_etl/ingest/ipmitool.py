"""What `ipmitool` prints, and ipmiutil and FreeIPMI, its twins, each table below a line that stamps it.

Lines repeat themselves: what a distinct text means is worked out once and remembered over the files of a task.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.ingest.decoded import (
    NUMBER,
    Decoded,
    Ignored,
    Lines,
    Origin,
    assemble,
    assembled,
    coded_readings,
    damaged_line,
    number_of,
    reject_table,
    value_reason,
)
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table, setting
from lepton_etl.ingest.rounds import Rounds, times_of
from lepton_etl.ingest.sensors import Rules, RuleTable
from lepton_etl.ingest.text import numbered_lines
from lepton_etl.ingest.units import UTC_TIME, micros_of, parse_stamps, with_value

# Some 40 MB. A log of ever new texts (counters in every line) starts again instead of growing.
MAX_TEXTS: Final = 1 << 17

NAMES: Final = ("sensor", "quantity", "device_id", "statistic", "point", "raw_unit", "raw_value")
_SAME: Final = ("device_id", "sensor", "point", "raw_value")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, eq=False)
class ById(Generic[Value]):
    """A value as a cache key by its identity: settings hold mappings, which have no hash."""

    value: Value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Words:
    """The distinct words of a column in the order in which they came, and the code of each text's word."""

    def __init__(self) -> None:
        self._codes: dict[Hashable, int] = {}
        self.words: list[Any] = []
        self.of_text = np.empty(0, np.int64)

    def add(self, words: Iterable[Hashable]) -> None:
        """Take the words of further texts."""
        codes = self._codes
        new = [codes.setdefault(word, len(codes)) for word in words]
        self.words += islice(codes, len(self.words), None)
        self.of_text = np.concatenate([self.of_text, np.array(new, np.int64)])

    def of(self, texts: npt.NDArray[np.int64]) -> pa.DictionaryArray:
        """Return the words of texts as a dictionary of those that are among them."""
        codes = self.of_text[texts]
        used, place = _dense(codes, len(self.words))
        few = pa.array([self.words[code] for code in used.tolist()], pa.string()).dictionary_encode()
        return pa.DictionaryArray.from_arrays(few.indices.take(_arrow(place, pa.int32())), few.dictionary)


def _dense(codes: npt.NDArray[np.int64], top: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the codes that occur, and the place of each code among them."""
    occurs = np.zeros(top, np.bool_)
    occurs[codes] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[codes]


def _arrow(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


class Vocabulary:
    """Rows of meaning by text; `understand` gives one row a text, in order, always with the same columns."""

    def __init__(self, understand: Callable[[pl.Series], pl.DataFrame]) -> None:
        self._understand = understand
        self._clear()

    def _clear(self) -> None:
        self._ids: dict[str, int] = {}
        self.rows = self._understand(pl.Series("line", [], dtype=pl.String))
        """The meaning of every text so far, by id."""
        self.words = {name: Words() for name in NAMES}
        self.same = Words()
        """What makes two readings of one time repeats of each other."""

    def ids(self, texts: list[str]) -> npt.NDArray[np.int64]:
        """Return the rows of these texts in `rows`; ids of earlier calls hold until the next call only."""
        if len(self._ids) > MAX_TEXTS:
            self._clear()
        known = self._ids
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            rows = self._understand(pl.Series("line", new, dtype=pl.String))
            self.rows = pl.concat([self.rows, rows], rechunk=True)
            for name, words in self.words.items():
                words.add(rows[name])
            self.same.add(rows.select(_SAME).iter_rows())
        return np.fromiter((known[text] for text in texts), np.int64, len(texts))


# The status of a reading: a threshold state, or the hexadecimal one of a discrete sensor.
_STATUS: Final = r"(?:ok|ns|na|us|n[cr]|cr|[lu]n[cr]|[lu]cr|0x[0-9a-fA-F]+)"
_DCMI_SENSOR: Final = (
    "(?:Instantaneous power reading|Minimum during sampling period|Maximum during sampling period|"
    "Average power reading over sample period|"  # ipmitool
    "Current Power|(?:Minimum|Maximum|Average|Min|Max|Avg) Power over sampl(?:ing|e) duration)"  # ipmi-dcmi, ipmiutil
)
_DCMI: Final = rf"^\s*(?<sensor>{_DCMI_SENSOR})\s*:\s*(?<reading>.*)$"
_IPMIUTIL: Final = (
    r"^[0-9a-fA-F]{4} SDR \w+ .*? snum [0-9a-fA-F]{2} (?<sensor>.+?)\s*= [0-9a-fA-F]+ \S+\s+(?<reading>.*)$"
)
_LEGACY: Final = (  # ipmi-sensors --legacy-output
    r"^\d+: (?<sensor>[^:]+?) \([^()]+\): (?:(?<reading>NA|[0-9.,+-]+ [^()\[\]:]+?)?(?: \([^()]*\))?: )?\[[^\]]*\].*$"
)
# FreeIPMI's rows begin with the record's number and end with its events: '...' '...', or N/A.
_EVENTS: Final = r"(?:'[^']*'(?: '[^']*')*|N/A)"
# What stands around the rows: the rest of a dcmi report, the head and foot of a table.
_HEADING: Final = (
    r"\s*(?:(?:IPMI timestamp|Sampling period|Power reading state is|Time ?[Ss]tamp|Statistics reporting time period|"
    r"Power Measurement|DCMI .*|Exception Actions?|Power Limit|Correction [Tt]ime.*)\s*:.*|"
    r"ipmiutil .*|isensor.*|Caching SDR .*|_ID_ SDR_.*|-- BMC version .*|(?:Record[_ ])?ID\s*(?:\||,).*)"
)
_NUMBERED: Final = (  # ipmi-sensors and ipmimonitoring; with --comma-separated; and before version 1.0
    rf"\d+\s*\|[^|]+\|[^|]+\|(?:[^|]*\|){{2,9}}\s*{_EVENTS}\s*",
    rf"\d+,[^,]+,[^,]+,(?:[^,]*,){{2,9}}{_EVENTS}",
    r"\d+\s*\|[^|]+\|[^|]+\|\s*(?:Nominal|Warning|Critical|N/A)\s*\|[^|]*\|[^|]*",
)
# Stricter than `split_dialect`, which is only given files of this format: any table of three columns would do there.
_ROWS: Final = (
    *_NUMBERED,
    rf"[^|]+\|[^|]*\|\s*{_STATUS}\s*",  # sdr
    rf"[^|]+\|\s*[0-9A-F]{{2}}h\s*\|\s*{_STATUS}\s*\|\s*\d+\.\d+\s*\|[^|]*",  # sdr elist
    rf"[^|]+\|[^|]*\|[^|]*\|\s*{_STATUS}\s*(?:\|[^|]*){{6}}",  # sensor
    rf"[^,|=]+,[^,]*,(?:[^,]*,){{0,2}}{_STATUS}(?:,.*)?",  # -c
    r"\d+: [^:]+ \([^()]+\): .*\[[^\]]*\]",  # ipmi-sensors --legacy-output
    rf"\s*{_DCMI_SENSOR}\s*:.*",
    r"[0-9a-fA-F]{4} SDR \w+ .* snum .*",  # ipmiutil sensor
    r"[0-9a-fA-F]{4} \| \w+ *\|.*",  # ipmiutil sensor -c
)
ROW: Final = re.compile("|".join(_ROWS))
LINE: Final = re.compile("|".join((r"Timestamp: .+", *_ROWS, _HEADING)))
"""A stamp line, or a line of one of the shapes above, to be matched in full."""

# Of a table by its shape (its delimiter and columns): the places of sensor, reading, and a unit beside it.
_TABLES: Final[dict[str, tuple[int, int, int | None]]] = {
    "|3": (0, 1, None),  # sdr
    "|5": (0, 4, None),  # sdr elist
    "|8": (4, 7, None),  # ipmiutil sensor -c
    "|10": (0, 1, 2),  # sensor
    ",": (0, 1, 2),  # -c
    ",discrete": (0, 4, None),  # -c, of a discrete sensor: name, number, state, entity, events
    "freeipmi": (1, 3, 4),
    "freeipmi state": (1, 4, 5),
    "freeipmi units first": (1, 5, 4),  # ipmimonitoring before 1.0
}
_STATE: Final = r"(?i)^(?:nominal|warning|critical|unknown)$"


def _cell(cells: pl.Expr, place: int | pl.Expr) -> pl.Expr:
    return cells.list.get(place, null_on_oob=True)


def _shape(line: pl.Expr, bars: pl.Expr, commas: pl.Expr) -> pl.Expr:
    """Return the key of a row in `_TABLES`; null where the line is of none of these shapes."""
    cells = pl.when(bars.list.len() > 1).then(bars).otherwise(commas)
    is_state = _cell(cells, 3).str.contains(_STATE)
    last = _cell(cells, 5)
    no_events = ~last.str.contains(f"^{_EVENTS}$") | ((last == "N/A") & is_state)
    freeipmi = (
        pl.when(cells.list.len() == 6, no_events)
        .then(pl.lit("freeipmi units first"))
        .when(is_state | cells.list.len().is_in([7, 13]))
        .then(pl.lit("freeipmi state"))
        .otherwise(pl.lit("freeipmi"))
    )
    status = f"^{_STATUS}$"
    return (
        pl.when(line.str.contains(f"^(?:{'|'.join(_NUMBERED)})$"))
        .then(freeipmi)
        .when(bars.list.len() > 1)
        .then(pl.concat_str(pl.lit("|"), bars.list.len().cast(pl.String)))
        .when(_cell(commas, 3).str.contains(status))
        .then(pl.lit(","))
        .when(_cell(commas, 2).str.contains(status), _cell(commas, 1).str.contains("^[0-9A-Fa-f]{2}h$"))
        .then(pl.lit(",discrete"))
    )


def split_dialect(texts: pl.Series) -> pl.DataFrame:
    """Return columns line, sensor, reading (number and unit), is_row, is_heading; one row a text."""
    line = pl.col("line")
    cells = pl.col("cells")
    places = pl.DataFrame(
        [(shape, *where) for shape, where in _TABLES.items()],
        schema={"shape": pl.String, "sensor_at": pl.Int64, "reading_at": pl.Int64, "unit_at": pl.Int64},
        orient="row",
    )
    # `na` and the states of discrete sensors have no unit.
    no_unit = (
        pl.col("unit").is_null()
        | pl.col("unit").str.to_lowercase().is_in(["na", "n/a", "discrete", ""])
        | pl.col("number").is_in(["na", "no reading"])
    )
    # A name holds no comma, so of cells cut at commas the second begins the number.
    whole = line.str.replace(
        r"^([^,|]+,[+-]?\d+),(\d+,[^,]+,(?:ok|n[cr]|cr|ns|[lu]n[cr]|[lu]cr)(?:,|$))", "${1}\x1f${2}"
    )
    bars, commas = (
        text.str.split(by).list.eval(pl.element().str.strip_chars())
        for text, by in ((line, "|"), (whole, ","))
    )
    return (
        pl.DataFrame({"line": texts})
        .with_columns(
            bars.alias("bars"),
            commas.list.eval(pl.element().str.replace("\x1f", ",", literal=True)).alias("commas"),
            line.str.extract_groups(_DCMI).alias("dcmi"),
            line.str.extract_groups(_IPMIUTIL).alias("ipmiutil"),
            line.str.extract_groups(_LEGACY).alias("legacy"),
            line.str.contains(f"^{_HEADING}$").alias("is_heading"),
        )
        .with_columns(
            _shape(line, pl.col("bars"), pl.col("commas")).alias("shape"),
            pl.when(pl.col("bars").list.len() > 1).then("bars").otherwise("commas").alias("cells"),
        )
        .join(places, on="shape", how="left", maintain_order="left")
        .with_columns(
            _cell(cells, pl.col("reading_at")).alias("number"),
            _cell(cells, pl.col("unit_at")).alias("unit"),
            _cell(cells, pl.col("sensor_at")).alias("name"),
        )
        .select(
            "line",
            pl.coalesce(
                # Dell calls every processor's sensor `Temp`; its entity (3.n) tells whose it is.
                pl.when((pl.col("name") == "Temp") & (pl.col("shape") == "|5"))
                .then(pl.concat_str("name", _cell(cells, 3), separator=" "))
                .otherwise("name"),
                pl.col("dcmi").struct["sensor"],
                pl.col("ipmiutil").struct["sensor"].str.strip_chars(),
                pl.col("legacy").struct["sensor"],
            ).alias("sensor"),
            pl.coalesce(
                pl.when(no_unit).then("number").otherwise(pl.concat_str("number", "unit", separator=" ")),
                pl.col("dcmi").struct["reading"].str.strip_chars(),
                pl.col("ipmiutil").struct["reading"].str.strip_chars(),
                pl.col("legacy").struct["reading"].fill_null(""),
            ).alias("reading"),
            "is_heading",
        )
        .with_columns(pl.col("sensor").is_not_null().alias("is_row"))
    )


BLANK: Final = 0
STAMP: Final = 1
BAD_LINE: Final = 2
UNMAPPED: Final = 3
NO_VALUE: Final = 4
VALUE: Final = 5
# Lines of a dcmi report below its values: its own time, and whether it measures at all.
TIME: Final = 6
ACTIVE: Final = 7
INACTIVE: Final = 8
_STRUCTURE: Final = (BLANK, TIME, ACTIVE, INACTIVE)
_OWN_TIME: Final = r"^\s*(?:IPMI timestamp|Time ?[Ss]tamp)\s*:"
_MEASURES: Final = r"^\s*(?:Power reading state is|Power Measurement)\s*:"
_NOT_MEASURED: Final = _MEASURES + r"\s*(?i:de|in|not|no\b|dis|un|off)"
# As ipmitool and ipmi-dcmi print the BMC's clock.
_OWN_FORMATS: Final = ("%a %b %e %H:%M:%S %Y", "%m/%d/%Y - %H:%M:%S")
_HEAD_LINES: Final = 200
_ENOUGH: Final = 0.5
# So many rows are a table whatever a login banner or a script wrote before it.
_MANY: Final = 8


@log_format
class Ipmitool(LogFormat):
    """`ipmitool sdr` tables below stamp lines.

    A stamp line stamps the rows below it until the next one; rows before any stamp have the time of the path. Without
    that, or below a stamp that cannot be read, they are rejects (no_time, bad_time for the stamp itself). The rounds of
    a loop without stamp lines have the times of their own dcmi reports, else one sampling period each, else none
    (no_time). A dcmi report that is not activated has no value. An empty table is structure. The status of a row is a
    threshold state and does not unmake a value.
    """

    format: Literal["ipmitool"] = "ipmitool"
    told_by = "shape"
    sensors: Rules = rule_table("ipmitool")
    stamp_prefix: str = setting("Timestamp:", "What a stamp line starts with.", min_length=1)

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether most of the first lines are stamps or rows of ipmitool, or many anywhere are such rows."""
        text = head[: head.rfind(b"\n") + 1] or head
        lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
        fitting = sum(LINE.fullmatch(line) is not None for line in lines[:_HEAD_LINES])
        if fitting and fitting >= _ENOUGH * min(len(lines), _HEAD_LINES):
            return True
        return sum(ROW.fullmatch(line) is not None for line in lines) >= _MANY

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode one log, block after block."""
        vocabulary = _vocabulary(ById(self))
        clock = _Clock(origin.path_time)
        for lines in numbered_lines(chunks):
            yield self._block(lines, origin, vocabulary, clock)

    def _block(self, lines: Lines, origin: Origin, vocabulary: Vocabulary, clock: _Clock) -> Decoded:
        """Return the records of a block; the clock goes on to its last stamp."""
        codes, texts = lines.distinct()
        # Stamps are new in every file: they are parsed together here and leave the vocabulary to the rows.
        stamping = pc.starts_with(texts, self.stamp_prefix)
        is_stamp = pl.Series(stamping).to_numpy()
        ids = np.zeros(len(texts), np.int64)
        ids[~is_stamp] = vocabulary.ids(texts.filter(pc.invert(stamping)).to_pylist())
        known = vocabulary.rows
        kind_of_text = np.full(len(texts), STAMP, np.int8)
        kind_of_text[~is_stamp] = known.get_column("kind").to_numpy()[ids[~is_stamp]]
        kind_of_line = kind_of_text[codes]
        stamp_rows = np.flatnonzero(kind_of_line == STAMP)
        counts = np.bincount(codes, minlength=len(texts))
        ignored = _ignored(known.get_column("sensor"), ids, kind_of_text, counts)
        if (kind_of_text == INACTIVE).any():
            kind_of_line = _without_inactive(kind_of_line, known.get_column("sensor"), ids[codes], ignored)
        value_rows = np.flatnonzero(kind_of_line == VALUE)
        stamped = texts.take(_arrow(codes[stamp_rows], pa.int32()))
        # No stamp is damaged and yet readable: a NUL or U+FFFD is no digit.
        stamps = parse_stamps(
            pl.Series("stamp", pc.utf8_slice_codeunits(stamped, len(self.stamp_prefix)), dtype=pl.String),
            timezone=origin.timezone,
        )
        bad_stamps = stamps.get_column("reason").is_not_null().to_numpy()
        bad_lines = np.flatnonzero(kind_of_line == BAD_LINE)
        faults = pl.DataFrame(
            {
                "source_position": np.concatenate([bad_lines, stamp_rows[bad_stamps]]) + lines.first_position,
                "reason": ["bad_line"] * len(bad_lines) + stamps.get_column("reason").drop_nulls().to_list(),
            },
            schema={"source_position": pl.Int64, "reason": pl.String},
        )
        structure = int(counts[np.isin(kind_of_text, _STRUCTURE)].sum() + np.count_nonzero(~bad_stamps))
        text, stamp = ids[codes[value_rows]], np.searchsorted(stamp_rows, value_rows)
        times = pl.concat([pl.Series("time", [clock.last], dtype=UTC_TIME), stamps.get_column("time")])
        unstamped = 0 if clock.is_stamped else int(np.searchsorted(stamp, 1))
        if unstamped:
            own = _own_times(kind_of_line, lines, origin) if (kind_of_text == TIME).any() else None
            of_rounds = clock.of_rounds(
                known[text[:unstamped]], value_rows[:unstamped] + lines.first_position, own, origin
            )
            stamp[:unstamped] = len(times) + np.arange(unstamped)
            clock.last, clock.is_stamped = times[-1], bool(len(stamp_rows))
            times = pl.concat([times, of_rounds.alias("time")])
        else:
            clock.last = times[-1]
        cells = _Cells(vocabulary, text, value_rows + lines.first_position, times, stamp)
        readings = cells.readings(origin)
        if readings is None:
            return assemble(cells.frame(origin), [faults], ignored, structure, lines, origin)
        return assembled(readings, 0, reject_table([faults], lines), ignored, structure)


@dataclass
class _Clock:
    """The time of the last stamp line so far, None where it cannot be read; before any, that of the path."""

    last: datetime | None
    is_stamped: bool = False
    rounds: Rounds = field(default_factory=Rounds)

    def of_rounds(
        self, rows: pl.DataFrame, position: npt.NDArray[np.int64], own: pl.DataFrame | None, origin: Origin
    ) -> pl.Series:
        """Return the time of each row before any stamp, null where it is not known: no two rounds have the same.

        `own` (source_position, own_time): what the reports in the text say of themselves, each below its values.
        """
        where = pl.Series("source_position", position)
        number = self.rounds.of(
            rows.select("device_id", "sensor", "point"), where, rows.get_column("raw_value")
        )
        times = times_of(number, origin)
        if own is None or not (number.any() or origin.path_time is None):
            return times
        sensor = ("device_id", "sensor", "point")
        timed = (
            rows.select(sensor).with_columns(where, pl.Series("round", number), times.alias("time"))
            .join_asof(own.with_columns(report=pl.col("source_position")), on="source_position", strategy="forward")
            # Of two rounds above one report's time it is that of the second.
            .with_columns(is_last=pl.col("round") == pl.col("round").last().over(*sensor, "report"))
            .with_columns(pl.coalesce(pl.when("is_last").then("own_time"), "time").alias("time"))
        )  # fmt: skip
        first = pl.col("round") == pl.col("round").first().over(*sensor, "time")
        return timed.select(pl.when(first).then("time")).to_series()


def _own_times(kind_of_line: npt.NDArray[np.int8], lines: Lines, origin: Origin) -> pl.DataFrame:
    """Return source_position and own_time of what dcmi reports say of themselves, by the BMC's clock."""
    rows = pl.Series("source_position", np.flatnonzero(kind_of_line == TIME) + lines.first_position)
    texts = lines.texts(rows).str.replace(_OWN_TIME, "").str.strip_chars()
    read = [
        parse_stamps(texts, timezone=origin.timezone, format=one).get_column("time") for one in _OWN_FORMATS
    ]
    return pl.DataFrame([rows, *(times.alias(str(place)) for place, times in enumerate(read))]).select(
        "source_position", pl.coalesce("0", "1").alias("own_time")
    )


def _without_inactive(
    kind_of_line: npt.NDArray[np.int8], sensors: pl.Series, ids: npt.NDArray[np.int64], ignored: Ignored
) -> npt.NDArray[np.int8]:
    """Return the kinds of the lines; a value of a dcmi report that is not activated is none, counted in `ignored`."""
    kinds = kind_of_line.copy()
    states = np.flatnonzero((kinds == ACTIVE) | (kinds == INACTIVE))
    rows = np.flatnonzero(kinds == VALUE)
    state = np.searchsorted(states, rows)
    rows, state = rows[state < len(states)], state[state < len(states)]
    rows = rows[kinds[states[state]] == INACTIVE]
    names = sensors.gather(ids[rows])
    is_dcmi = names.str.contains(f"^{_DCMI_SENSOR}$").to_numpy()
    kinds[rows[is_dcmi]] = NO_VALUE
    for name in names.filter(is_dcmi):
        ignored[name, "no_value"] = ignored.get((name, "no_value"), 0) + 1
    return kinds


@dataclass(frozen=True, slots=True)
class _Cells:
    """Rows with a value: `text` and `stamp` are their places in the vocabulary and in `times`."""

    vocabulary: Vocabulary
    text: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    times: pl.Series
    stamp: npt.NDArray[np.int64]

    def frame(self, origin: Origin) -> pl.DataFrame:
        """Return the cells as `assemble` takes them."""
        row_times = self.times.gather(self.stamp)
        no_time = pl.when(row_times.is_null()).then(pl.lit("no_time"))
        return self.vocabulary.rows.drop("kind")[self.text].with_columns(
            pl.Series("source_position", self.position),
            row_times.alias("reading_time"),
            pl.lit(origin.node_id, dtype=pl.String).alias("node_id"),
            pl.lit(0.0).alias("window_s"),
            pl.lit(1, dtype=pl.Int32).alias("multiplicity"),
            pl.coalesce("reason", no_time).alias("reason"),
        )

    def readings(self, origin: Origin) -> pa.Table | None:
        """Return what `assemble` would, names as dictionaries, where no cell is refused or repeated; else None.

        So are nearly all files. What a few texts mean is looked up once, and only numbers are gathered by line.
        """
        refused = self.vocabulary.rows.get_column("reason").is_not_null().to_numpy()[self.text]
        is_known = self.times.is_not_null().to_numpy()[self.stamp]
        if refused.any() or not is_known.all() or not len(is_known):
            return None
        time_us = self.times.to_physical().fill_null(0).to_numpy()[self.stamp]
        earliest, latest = (micros_of(at) for at in (origin.earliest, origin.latest))
        if time_us.min() < earliest or time_us.max() >= latest or self._repeats(time_us):
            return None
        count = len(time_us)
        node = pa.array([origin.node_id], pa.string()).dictionary_encode()
        value = self.vocabulary.rows.get_column("value").to_numpy()[self.text]
        return coded_readings(
            {name: words.of(self.text) for name, words in self.vocabulary.words.items()}
            | {
                "node_id": node.take(pa.repeat(pa.scalar(0, pa.int32()), count)),
                "value": _arrow(value, pa.float64()),
                "window_s": pa.repeat(pa.scalar(0.0), count),
                "reading_time": _arrow(time_us, pa.timestamp("us", "UTC")),
                "multiplicity": pa.repeat(pa.scalar(1, pa.int32()), count),
                "source_position": _arrow(self.position, pa.int64()),
            }
        )

    def _repeats(self, time_us: npt.NDArray[np.int64]) -> bool:
        """Return whether two rows say the same of one time."""
        used, same = _dense(self.vocabulary.same.of_text[self.text], len(self.vocabulary.same.words))
        known_us, when = np.unique(time_us, return_inverse=True)
        seen = np.zeros(len(used) * len(known_us), np.bool_)
        seen[same.astype(np.int64) * len(known_us) + when] = True
        return int(np.count_nonzero(seen)) < len(time_us)


def _ignored(
    sensors: pl.Series, ids: npt.NDArray[np.int64], kinds: npt.NDArray[np.int8], counts: npt.NDArray[np.int64]
) -> Ignored:
    """Return how often a sensor stood there that no rule names, or that had no value."""
    total: Counter[tuple[str, str]] = Counter()
    for kind, reason in ((UNMAPPED, "unmapped"), (NO_VALUE, "no_value")):
        chosen = kinds == kind
        for sensor, count in zip(sensors[ids[chosen]].to_list(), counts[chosen].tolist(), strict=True):
            total[(sensor, reason)] += count
    return dict(sorted(total.items()))


@lru_cache(maxsize=8)
def _vocabulary(settings: ById[Ipmitool]) -> Vocabulary:
    return Vocabulary(lambda texts: _understand(texts, settings.value.sensors))


def _understand(texts: pl.Series, rules: RuleTable) -> pl.DataFrame:
    """Return one row per distinct line: its kind, and of a row with a value everything but its time."""
    # No tool groups digits, so a comma is the decimal one of the tool's locale. States may follow the unit.
    parts = pl.col("reading").str.extract_groups(
        rf"^(?<number>{NUMBER}(?:,\d+)?|(?i:[+-]?(?:nan|inf)))(?:\s+(?<unit>[^,]*?))?(?:,.*)?$"
    )
    split = (
        split_dialect(texts)
        .with_columns(
            parts.struct["number"].alias("digits"), parts.struct["unit"].fill_null("").alias("raw_unit")
        )
        .with_columns(number_of(pl.col("digits").str.replace(",", ".", literal=True)).alias("number"))
    )
    meanings = rules.meanings(split.filter("is_row"))
    line = pl.col("line")
    kind = (
        pl.when(damaged_line(line))
        .then(BAD_LINE)
        .when(line.str.contains(_OWN_TIME))
        .then(TIME)
        .when(line.str.contains(_NOT_MEASURED))
        .then(INACTIVE)
        .when(line.str.contains(_MEASURES))
        .then(ACTIVE)
        .when((line.str.strip_chars() == "") | pl.col("is_heading"))
        .then(BLANK)
        .when(~pl.col("is_row") | (pl.col("sensor") == ""))
        .then(BAD_LINE)
        .when(pl.col("quantity").is_null())
        .then(UNMAPPED)
        .when(rules.says_no_value(pl.col("reading")) | pl.col("number").is_in(pl.col("not_measured")))
        .then(NO_VALUE)
        .otherwise(VALUE)
    )
    rows = split.join(meanings, on=["sensor", "raw_unit"], how="left", maintain_order="left").with_columns(
        kind.cast(pl.Int8).alias("kind")
    )
    return with_value(rows).select(
        "kind", "sensor", "quantity", "device_id", "statistic", "point", "raw_unit", "value",
        pl.coalesce("digits", "reading").alias("raw_value"),
        value_reason().alias("reason"),
    )  # fmt: skip
