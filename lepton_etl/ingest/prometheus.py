"""Prometheus and OpenMetrics: text exposition, metric{labels} value [stamp], and the JSON of range and instant queries.

Text also comes as promtool writes it (`tsdb dump`, `query`), JSON as collections {metric name: [series, ...]} and as
VictoriaMetrics exports it. All are brought to samples and mapped series by series.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lepton_etl.ingest.decoded import (
    REJECT_SCHEMA,
    Decoded,
    Lines,
    Origin,
    assemble,
    assembled,
    coded_readings,
    count_ignored,
    damaged_line,
    number_of,
    repeated,
)
from lepton_etl.ingest.documents import CLOSING, OPENING, Event, JsonEvents, set_noise_aside, skip
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table, setting
from lepton_etl.ingest.rounds import Rounds
from lepton_etl.ingest.samples import Fault, device_of, fault_frame, nameless, with_times
from lepton_etl.ingest.sensors import MEANING, Rules, Strings
from lepton_etl.ingest.text import in_utf8, numbered_lines, peek
from lepton_etl.ingest.units import EpochUnit, micros_of, parse_stamps

SAMPLE_SCHEMA: Final = {
    "source_position": pl.Int64, "metric": pl.String, "labels": pl.String, "value": pl.String, "stamp": pl.String,
}  # fmt: skip
SERIES_SCHEMA: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "metric": pl.String, "labels": pl.String, "found_reason": pl.String, "sensor": pl.String, "node_id": pl.String,
    "device_id": pl.String, **MEANING, "repeated": pl.String, "not_measured": pl.List(pl.Float64),
    "several": pl.String,
}  # fmt: skip
UNMAPPED: Final = "unmapped"
NO_VALUE: Final = "no_value"
BAD_LINE: Final = "bad_line"

_LABEL: Final = re.compile(r'\s*"?([^\s="{},]+)"?\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPES: Final = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
_POD_LABELS: Final = ("pod", "pod_name", "kubernetes_pod_name")
_PORT: Final = re.compile(r":\d+$")
# Braces may stand inside a quoted label, and again in the exemplar of OpenMetrics behind the sample, which is dropped:
# it names a trace, not a measurement.
_LABELS: Final = r"(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*"
_EXEMPLAR: Final = rf"(?:[ \t]+#[ \t]*\{{{_LABELS}\}}[ \t]+[^\s{{}}#]+(?:[ \t]+[^\s{{}}#]+)?)?"
_METRIC: Final = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE: Final = (
    rf"^\s*(?<metric>{_METRIC})[ \t]*(?:\{{(?<labels>{_LABELS})\}})?[ \t]+(?<value>[^\s{{}}#=][^\s{{}}#]*)"
    rf"(?:[ \t]+(?<stamp>[^\s{{}}#]+))?{_EXEMPLAR}\s*$"
)
_PLAIN_SERIES: Final = re.compile(rf"(?P<metric>{_METRIC})(?:\{{(?P<labels>{_LABELS})\}})?")
_LINE_FEED, _BLANK, _HASH = (ord(sign) for sign in "\n #")
# promtool's shapes, tried on the lines that are no sample: the name among the labels (`tsdb dump`; quoted and alone
# since Prometheus 3), and `query`'s arrow, whose stamp stands in brackets. Of a range the series has a line of its own.
_NAMED: Final = (
    rf"^\s*\{{(?<labels>{_LABELS})\}}[ \t]+"
    rf"(?<value>[^\s{{}}#=][^\s{{}}#]*)(?:[ \t]+(?<stamp>[^\s{{}}#]+))?{_EXEMPLAR}\s*$"
)
_ARROW: Final = (
    rf"^(?<metric>{_METRIC})?(?:\{{(?<labels>{_LABELS})\}})?[ \t]+=>"
    r"(?:[ \t]+(?<value>\S+)[ \t]+@\[(?<stamp>[\d.]+)\])?\s*$"
)
_POINT: Final = r"^(?<value>\S+)[ \t]+@\[(?<stamp>[\d.]+)\]\s*$"
_TEXT: Final = r'"((?:[^"\\]|\\.)*)"\s*(?:,|$)'
_NAME: Final = rf"(?:^|,)\s*__name__\s*=\s*{_TEXT}"
_ALONE: Final = rf"^\s*{_TEXT}"
_HEAD_LINES: Final = 200
# A scrape that a shell wrote to a file may begin or end with what its tools say; a text is one of samples all the same.
_MOSTLY: Final = 0.5
_SERIES: Final = re.compile(rb'"metric"\s*:\s*\{[^{}]*\}\s*,\s*"(?:values?|timestamps|histograms?)"\s*:\s*\[')
# A series of promtool's dump begins with a brace too, its first label's name bare or alone.
_JSON: Final = re.compile(rb'^\s*(?:\[\s*)?\{\s*(?:"[^"]*"\s*:|\})', re.MULTILINE)
_ANSWER: Final = re.compile(rb'"resultType"\s*:\s*"(?:matrix|vector)"')
# OpenMetrics and the HTTP API stamp in seconds, the older text in milliseconds; a file may hold scrapes of both. The
# years that a stamp may name (2000 to 2100) are below this number in seconds and above it in milliseconds.
SECONDS_BELOW: Final = 1e11
EPOCH_UNITS: Final[tuple[EpochUnit, ...]] = ("s", "ms")
BATCH_SAMPLES: Final = 100_000
MAX_LABELS: Final = 1_000
# A year of a sample each second is 32 million; an export splits a series long before.
MAX_UNSTAMPED: Final = 5_000_000

Labels = dict[str, str]
Numbers = dict[tuple[str, str], tuple[str, str]]
Row = tuple[int, str, str, str, str]
Point = tuple[str, str]


@log_format
class Prometheus(LogFormat):
    """Prometheus or OpenMetrics text exposition, and the JSON of range and instant queries.

    Source: Prometheus exposition formats, text 0.0.4; OpenMetrics 1.0; Prometheus HTTP API.
    """

    format: Literal["prometheus"] = "prometheus"
    followed_by = "lines below a header"
    sensors: Rules = rule_table("prometheus")
    node_label: Strings = setting(
        (
            "node",
            "nodename",
            "node_name",
            "kubernetes_node",
            "Hostname",
            "hostname",
            "server",
            "host",
            "instance",
        ),
        "Label that names the node, or a list of which the first that is there does (a trailing :port is "
        "cut off); series without it, and those where it names the exporter's pod, belong to the node of the path. "
        "[]: always the path.",
    )

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins with lines of an exposition, or is the JSON of a query."""
        if _JSON.match(head):
            return _ANSWER.search(head) is not None or _SERIES.search(head) is not None
        whole_lines = head[: head.rfind(b"\n") + 1] or head
        lines = pl.Series(
            [line.decode("utf-8", "replace") for line in whole_lines.splitlines()[:_HEAD_LINES]],
            dtype=pl.String,
        )
        content = lines.filter((lines.str.strip_chars() != "") & ~lines.str.starts_with("#"))
        typed = lines.str.contains(r"^# (?:TYPE|HELP) [a-zA-Z_:]").any()
        labelled = content.str.contains(rf'^(?:{_METRIC}\{{|\{{(?:{_METRIC}=)?"[^"]*"\s*[,}}])').any()
        shown = [content.str.contains(shape) for shape in (_SAMPLE, _NAMED, _ARROW, _POINT)]
        samples = sum(int(one.sum()) for one in shown)
        return bool((typed or labelled) and samples >= max(1, _MOSTLY * content.len()))

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode text, or JSON where the first byte that is no blank is a brace.

        Of text a position is the line. Of JSON it is the number of the sample; a document that breaks off keeps what
        came before the break, and one reject (bad_json) says where; an answer that reports an error is one reject
        (query_failed).
        """
        head, stream = peek(in_utf8(chunks))
        mapper = SeriesMapper(origin, self)
        if not _JSON.search(head):
            series = _Series()
            for lines in numbered_lines(stream):
                plain = mapper.decode_plain(lines)
                if plain is not None:
                    yield plain
                    continue
                samples, structure_lines = _samples(lines, series)
                bad = pl.col("metric").is_null()
                faults = samples.filter(bad).select("source_position", pl.lit(BAD_LINE).alias("reason"))
                yield mapper.decode(samples.filter(~bad), faults, structure_lines, lines)
            yield from mapper.rest()
            return
        noise, stream = set_noise_aside(head, stream)
        answer = _Answer(noise)
        rows: list[Row] = []
        for row in answer.samples(JsonEvents(stream)):
            rows.append(row)
            if len(rows) >= BATCH_SAMPLES:
                yield mapper.decode(_frame(rows), fault_frame([]), 0, None)
                rows.clear()
        yield mapper.decode(_frame(rows), fault_frame(answer.faults), 0, None)
        yield from mapper.rest()


def _frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SAMPLE_SCHEMA, orient="row")


@dataclass(frozen=True)
class _Plain:
    """The samples of a block whose lines are `series value stamp`, or structure."""

    series: pl.DataFrame
    """metric and labels of each distinct series."""
    code: npt.NDArray[np.int32]
    """Of each sample its series, and so on."""
    values: pl.Series
    numbers: npt.NDArray[np.float64]
    time_us: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    structure_lines: int

    @classmethod
    def of(cls, lines: Lines) -> Self | None:
        """Return the samples, None where a line is something else or a number cannot be read."""
        _, offset_bytes, data = lines.array.buffers()
        if not len(lines.array) or data is None:
            return None
        offsets, text = np.frombuffer(offset_bytes, np.int64), np.frombuffer(data, np.uint8)
        offsets = offsets[: len(lines.array) + 1]
        begin, end = offsets[:-1], offsets[1:] - (text[offsets[1:] - 1] == _LINE_FEED)
        first = text[begin]
        is_sample = (begin < end) & (first != _HASH)
        begin, end = begin[is_sample], end[is_sample]
        blanks = np.flatnonzero(text == _BLANK)
        before = np.searchsorted(blanks, end)
        if not len(begin) or before.min() < 2:
            return None
        value, stamp = blanks[before - 2], blanks[before - 1]
        if (value <= begin).any():
            return None
        # Series, blank, value, blank, stamp, and what lies between it and the next series.
        cuts = np.stack([begin, value, value + 1, stamp, stamp + 1, end], axis=1).ravel()
        cuts = np.append(cuts, end[-1])
        parts = pa.LargeStringArray.from_buffers(len(cuts) - 1, pa.py_buffer(cuts), data)
        places = np.arange(0, len(parts), 6)
        encoded = parts.take(pa.array(places)).dictionary_encode()
        found = [_PLAIN_SERIES.fullmatch(one) for one in encoded.dictionary.to_pylist()]
        values, stamps = (pl.Series(parts.take(pa.array(places + at))) for at in (2, 4))
        numbers = values.cast(pl.Float64, strict=False)
        if None in found or numbers.null_count():
            return None
        time_us = _times(stamps)
        if time_us is None:
            return None
        series = [(one["metric"], one["labels"]) for one in found if one is not None]
        return cls(
            pl.DataFrame(series, schema={"metric": pl.String, "labels": pl.String}, orient="row"),
            np.asarray(np.from_dlpack(encoded.indices), np.int32), values, numbers.to_numpy(), time_us,
            np.flatnonzero(is_sample) + lines.first_position, len(lines.array) - len(begin),
        )  # fmt: skip


def _times(stamps: pl.Series) -> npt.NDArray[np.int64] | None:
    """Return the microseconds of stamps that are all of one unit and believed in; else None."""
    whole = stamps.cast(pl.Int64, strict=False)
    if whole.null_count():
        return None
    is_second = whole.to_numpy() < SECONDS_BELOW
    if is_second.any() and not is_second.all():
        return None
    parsed = parse_stamps(stamps, timezone="UTC", epoch="s" if is_second.all() else "ms")
    if parsed.get_column("reason").count():
        return None
    micros: npt.NDArray[np.int64] = parsed.get_column("time").to_physical().to_numpy()
    return micros


class _Series:
    """The series of a range as `promtool query` prints it: its line stands before its points, maybe blocks before."""

    def __init__(self) -> None:
        self.metric: str | None = None
        self.labels: str | None = None


def _samples(lines: Lines, series: _Series) -> tuple[pl.DataFrame, int]:
    """(source_position, metric, labels, value, stamp) of every line that is no structure, and how many lines are."""
    frame = lines.frame("line")
    stripped = pl.col("line").str.strip_chars_start()
    structure = (stripped == "") | stripped.str.starts_with("#")
    content = frame.filter(~structure)
    text = pl.when(~damaged_line(pl.col("line"))).then("line") if lines.damaged else pl.col("line")
    parts = content.select("source_position", text.str.extract_groups(_SAMPLE).alias("parts")).unnest("parts")
    if not parts.get_column("metric").has_nulls():
        return parts, frame.height - content.height
    other = content.select("source_position", text.alias("line")).filter(parts.get_column("metric").is_null())
    read = _promtool(other, series)
    if not read.select(
        (pl.col("begins") | pl.col("value").is_not_null()).any()
    ).item():  # Faults, and nothing else.
        return parts, frame.height - content.height
    begun = read.filter("begins").get_column("source_position")
    columns = list(SAMPLE_SCHEMA)
    samples = pl.concat([parts.filter(pl.col("metric").is_not_null()), read.select(columns)])
    samples = samples.filter(~pl.col("source_position").is_in(begun.implode())).sort("source_position")
    return samples, frame.height - samples.height


def _promtool(other: pl.DataFrame, series: _Series) -> pl.DataFrame:
    """SAMPLE_SCHEMA of lines as promtool writes them, and whether a line only begins a series; nulls of any other."""
    line = pl.col("line")
    read = other.select(
        "source_position",
        line.str.extract_groups(_NAMED).alias("named"),
        line.str.extract_groups(_ARROW).alias("arrow"),
        line.str.extract_groups(_POINT).alias("point"),
    )
    arrow, named, point = pl.col("arrow").struct, pl.col("named").struct, pl.col("point").struct
    bare = pl.coalesce(named["labels"], pl.when(arrow["metric"].is_null()).then(arrow["labels"]))
    read = read.select(
        "source_position",
        pl.coalesce(arrow["metric"], bare.str.extract(_NAME), bare.str.extract(_ALONE)).alias("metric"),
        pl.when(arrow["metric"].is_not_null()).then(arrow["labels"])
        .otherwise(bare.str.replace(_NAME, ",").str.replace(_ALONE, "").str.strip_chars(", ")).alias("labels"),
        pl.coalesce(named["value"], arrow["value"], point["value"]).alias("value"),
        pl.coalesce(named["stamp"], arrow["stamp"], point["stamp"]).alias("stamp"),
        point["value"].is_not_null().alias("is_point"),
    ).with_columns(begins=pl.col("metric").is_not_null() & pl.col("value").is_null())  # fmt: skip
    if read.get_column("is_point").any():
        known = [pl.lit(series.metric, dtype=pl.String), pl.lit(series.labels, dtype=pl.String)]
        read = read.with_columns(
            pl.when("is_point")
            .then(pl.col(name).forward_fill().fill_null(before))
            .otherwise(name)
            .alias(name)
            for name, before in zip(("metric", "labels"), known, strict=True)
        )
    begun = read.filter("begins")
    if begun.height:
        series.metric, series.labels = begun.select("metric", "labels").row(-1)
    return read


@dataclass
class SeriesMapper:
    """Turns samples of series into readings, batch after batch of one file.

    A sample without a stamp takes the path's (`origin.path_time`), else it is a reject (no_time). Samples of series
    outside the rule table are ignored by metric name. Labels are read once a distinct series of a batch.
    """

    origin: Origin
    settings: Prometheus
    _numbers: Numbers = field(default_factory=dict)
    """What the metrics that number the devices have said so far."""
    _waiting: list[pl.DataFrame] = field(default_factory=list)
    """Cells of sensors that speak for their node where it has no other such."""
    _rounds: Rounds = field(default_factory=Rounds)

    def decode_plain(self, lines: Lines) -> Decoded | None:
        """Return what `decode` gives of lines that are samples with a stamp or structure, and nothing else; or None.

        None too where a cell is refused or repeated, or its device depends on other series. So are few scrapes. What
        stands before the value of a line is understood once a series, and only numbers are gathered by line.
        """
        split = None if lines.damaged else _Plain.of(lines)
        if split is None:
            return None
        metrics, sensors = split.series.get_column("metric"), self.settings.sensors
        for index in sensors.index_labels:
            of_index = np.flatnonzero((metrics == index.metric).to_numpy()[split.code])
            numbering = split.series[split.code[of_index]].with_columns(split.values[of_index].alias("value"))
            self._numbers |= _index_labels(numbering, self.settings)
        is_wanted = np.array([sensors.may_map(metric) for metric in metrics], np.bool_)
        series = _series(
            split.series.filter(is_wanted), self._numbers, self.origin, self.settings, in_order=True
        )
        if (
            series.get_column("found_reason").count()
            or series.get_column("several").count()
            or any(series.get_column("not_measured").to_list())
            or _may_repeat(series)
        ):
            return None
        counts = np.bincount(split.code, minlength=len(metrics))
        ignored: Counter[tuple[str, str]] = Counter()
        for metric, count in zip(metrics.filter(~is_wanted), counts[~is_wanted].tolist(), strict=True):
            ignored[metric, UNMAPPED] += count
        rows = np.flatnonzero(is_wanted[split.code])
        words = split.values[rows].to_arrow().cast(pa.string()).dictionary_encode()
        silent = pl.Series(words.dictionary).to_frame("word").select(sensors.says_no_value(pl.col("word")))
        place = (np.cumsum(is_wanted) - 1)[split.code[rows]]
        is_said = ~silent.to_series().to_numpy()[np.from_dlpack(words.indices)]
        for one, count in zip(*np.unique(place[~is_said], return_counts=True), strict=True):
            ignored[series["sensor"][int(one)], NO_VALUE] += int(count)
        rows, place, words = rows[is_said], place[is_said], words.filter(pa.array(is_said))
        factor, divisor, offset, low, high = (
            series.get_column(name).to_numpy()[place]
            for name in ("factor", "divisor", "offset", "low", "high")
        )
        value, time_us = split.numbers[rows] * factor / divisor + offset, split.time_us[rows]
        whose = series.select("node_id", "device_id", "sensor", "point").hash_rows().to_numpy()[place]
        earliest, latest = (micros_of(at) for at in (self.origin.earliest, self.origin.latest))
        if not (
            len(rows)
            and np.isfinite(value).all()
            # A bound that is not known is NaN, which nothing is below or above.
            and not ((value < low) | (value > high)).any()
            and earliest <= time_us.min() and time_us.max() < latest
            and pl.DataFrame({"whose": whose, "time": time_us}).n_unique() == len(rows)
        ):  # fmt: skip
            return None
        at = pa.array(place)
        names = ("node_id", "device_id", "quantity", "statistic", "point", "sensor", "raw_unit")
        readings = coded_readings(
            {name: repeated(series.get_column(name).to_arrow(), at) for name in names}
            | {
                "raw_value": repeated(words.dictionary, words.indices),
                "value": pa.array(value),
                "window_s": pa.repeat(pa.scalar(0.0), len(rows)),
                "reading_time": pa.array(time_us).cast(pa.timestamp("us", "UTC")),
                "multiplicity": pa.repeat(pa.scalar(1, pa.int32()), len(rows)),
                "source_position": pa.array(split.position[rows]),
            }
        )
        return assembled(readings, 0, REJECT_SCHEMA.empty_table(), dict(ignored), split.structure_lines)

    def decode(
        self, samples: pl.DataFrame, faults: pl.DataFrame, structure_lines: int, lines: Lines | None
    ) -> Decoded:
        """Readings and rejects of SAMPLE_SCHEMA rows; `faults` (source_position, reason) could not be read at all.

        Without `lines` the faults bring their `raw_text`.
        """
        self._numbers |= _index_labels(samples, self.settings)
        metrics = samples.get_column("metric")
        named = metrics.is_in([name for name in metrics.unique() if self.settings.sensors.may_map(name)])
        wanted = samples.filter(named)
        series = _series(wanted, self._numbers, self.origin, self.settings)
        if lines is None:  # A sample is written out as a line of text.
            parts = ("metric", pl.lit("{"), "labels", pl.lit("} "), "value", pl.lit(" "), "stamp")
            wanted = wanted.with_columns(raw_text=pl.concat_str(*parts, ignore_nulls=True))
        joined = wanted.join(
            series, on=["metric", "labels"], how="left", maintain_order="left", nulls_equal=True
        )
        unmapped, broken, mapped = metrics.filter(~named), joined.clear(), joined
        if not {UNMAPPED, BAD_LINE}.isdisjoint(series.get_column("found_reason").to_list()):
            reason = pl.col("found_reason")
            outside, malformed = (reason == UNMAPPED).fill_null(False), (reason == BAD_LINE).fill_null(False)
            unmapped = pl.concat([unmapped, joined.filter(outside).get_column("metric")])
            broken = joined.filter(malformed).with_columns(reason=pl.lit(BAD_LINE))
            mapped = joined.filter(~outside & ~malformed)
        silent = mapped.select(self.settings.sensors.says_no_value(pl.col("value"))).to_series()
        if any(series.get_column("not_measured").drop_nulls().to_list()):
            silent |= mapped.select(number_of(pl.col("value")).is_in(pl.col("not_measured"))).to_series()
        if _may_repeat(series):
            silent |= _said_again(mapped)
        ignored = count_ignored(unmapped, UNMAPPED)
        if silent.any():
            ignored |= count_ignored(mapped.filter(silent).get_column("sensor"), NO_VALUE)
            mapped = mapped.filter(~silent)
        cells = _stamped(mapped, self.origin, self._rounds)
        if series.get_column("several").count():
            cells = self._held_back(cells, lines)
        return assemble(cells, [faults, broken], ignored, structure_lines, lines, self.origin)

    def _held_back(self, cells: pl.DataFrame, lines: Lines | None) -> pl.DataFrame:
        """Return the cells whose device is certain; of the others (SensorRule.several) the file's end tells it."""
        is_open = pl.col("several").is_not_null()
        waiting = cells.filter(is_open)
        if lines is not None:
            waiting = waiting.with_columns(raw_text=lines.texts(waiting.get_column("source_position")))
        self._waiting.append(waiting)
        return cells.filter(~is_open)

    def rest(self) -> Iterator[Decoded]:
        """Yield what the file's end tells: sensors that speak for their node where they are its only one."""
        if not self._waiting:
            return
        is_alone = pl.col("several").n_unique().over("quantity", "node_id") == 1
        device = pl.when(is_alone).then("device_id").otherwise("several").alias("device_id")
        cells = pl.concat(self._waiting).with_columns(device)
        yield assemble(cells, [], {}, 0, None, self.origin)


_ONE_FIGURE: Final = {
    "device": ("quantity", "node_id", "device_id"), "value": ("quantity", "node_id"),
}  # fmt: skip


def _may_repeat(series: pl.DataFrame) -> bool:
    """Return whether two series may say one figure by their rules (SensorRule.repeated)."""
    if not series.get_column("repeated").count():
        return False
    told = series.filter(pl.col("repeated").is_not_null())
    return any(
        told.filter(pl.col("repeated") == how).select(key).is_duplicated().any()
        for how, key in _ONE_FIGURE.items()
    )


def _said_again(mapped: pl.DataFrame) -> pl.Series:
    """Return whether a sample says a figure that another series before it has said."""
    told, series = pl.col("repeated"), pl.struct("metric", "labels")
    of_device, of_value = (_ONE_FIGURE[how] for how in ("device", "value"))
    first = (
        pl.when(told == "device").then(series.first().over(*of_device, "stamp"))
        .otherwise(series.first().over(*of_value, "stamp", "value"))
    )  # fmt: skip
    return mapped.select(told.is_not_null() & (series != first)).to_series()


def read_labels(text: str | None) -> Labels | None:
    """Return labels of one series, escapes resolved; None if they are malformed."""
    labels: Labels = {}
    rest = (text or "").rstrip(" \t")
    at = 0
    while at < len(rest):
        match = _LABEL.match(rest, at)
        if match is None:
            return None
        labels[match[1]] = re.sub(r"\\[\\\"n]", lambda escape: _ESCAPES[escape[0]], match[2])
        at = match.end()
    return labels


def write_labels(labels: Mapping[str, str]) -> str:
    """Return labels as text exposition writes them between the braces; `read_labels` reads them back."""
    escaped = (
        (name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, value in labels.items()
    )
    return ",".join(f'{name}="{value}"' for name, value in escaped)


def _index_labels(samples: pl.DataFrame, settings: Prometheus) -> Numbers:
    """(key label, its value) -> (label, number) out of the metrics that number the devices."""
    numbers: Numbers = {}
    for index in settings.sensors.index_labels:
        rows = (
            samples.filter(pl.col("metric") == index.metric)
            .select("labels", "value")
            .unique(maintain_order=True)
        )
        for text, value in rows.iter_rows():
            labels = read_labels(text) or {}
            if index.key in labels and value.isdecimal():
                numbers.setdefault((index.key, labels[index.key]), (index.name, value))
    return numbers


def _series(
    wanted: pl.DataFrame, numbers: Numbers, origin: Origin, settings: Prometheus, *, in_order: bool = False
) -> pl.DataFrame:
    """Return one row (SERIES_SCHEMA) per distinct series of a metric that a rule names.

    `in_order`: the rows are distinct already, and so stay.
    """
    rows = []
    distinct = wanted.select("metric", "labels")
    for metric, text in (distinct if in_order else distinct.unique()).iter_rows():
        labels = read_labels(text)
        mapped = None if labels is None else settings.sensors.find(metric, labels)
        if labels is None or mapped is None:
            reason = BAD_LINE if labels is None else UNMAPPED
            rows.append((metric, text, reason, *[None] * (len(SERIES_SCHEMA) - 3)))
            continue
        rule = settings.sensors.rules[mapped.rule]
        asked = {name: labels[name] for name in rule.labels if name in labels}
        sensor = metric + (f"{{{write_labels(asked)}}}" if asked else "")
        for key, value in list(labels.items()):
            name, number = numbers.get((key, value), (key, value))
            labels.setdefault(name, number)
        node = _node_of(labels, origin, settings)
        device = device_of(mapped.devices, labels)
        means = settings.sensors.meaning(mapped, rule.unit[0])
        beside = device_of((rule.several,), labels) if rule.several else None
        said = (rule.repeated, list(rule.not_measured), beside)
        rows.append((metric, text, nameless(node, device), sensor, node, device, *means, *said))
    return pl.DataFrame(rows, schema=SERIES_SCHEMA, orient="row")


def _node_of(labels: Labels, origin: Origin, settings: Prometheus) -> str | None:
    """Return the node by the first label of `node_label` that is there, else by the path.

    In a container the exporter's host name and address are those of its pod, which another one replaces.
    """
    named = next((labels[name] for name in settings.node_label if labels.get(name)), "")
    is_pod = named and named in (labels.get(name) for name in _POD_LABELS)
    return origin.node_id if is_pod else _PORT.sub("", named) or origin.node_id


def _stamped(joined: pl.DataFrame, origin: Origin, rounds: Rounds) -> pl.DataFrame:
    """Return cells of mapped samples with value, time and reason."""
    texts = joined.get_column("stamp")
    in_seconds = (texts.cast(pl.Float64, strict=False).abs() < SECONDS_BELOW).fill_null(False)
    by_unit = {
        unit: parse_stamps(texts, timezone="UTC", epoch=unit)
        for unit, is_there in zip(
            EPOCH_UNITS, (in_seconds.any(), not in_seconds.any() or not in_seconds.all()), strict=True
        )
        if is_there
    }
    if len(by_unit) == 1:
        (stamps,) = by_unit.values()
    else:
        stamps = joined.select(
            pl.when(in_seconds).then(by_unit["s"].get_column(name)).otherwise(by_unit["ms"].get_column(name)).alias(name)
            for name in ("time", "reason")
        )  # fmt: skip
    cells = joined.with_columns(
        pl.col("value").alias("raw_value"),
        pl.lit(0.0).alias("window_s"),
        pl.lit(1, dtype=pl.Int32).alias("multiplicity"),
    ).drop("value")
    return with_times(cells, stamps, origin, rounds)


class _Answer:
    """What the JSON of a query says beside its samples, and where in it we are."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self._samples_seen = 0
        self._answered = False
        """Whether a series or an answer of series was found."""
        self._failure: dict[str, str] = {}

    def samples(self, events: JsonEvents) -> Iterator[Row]:
        """Yield every sample of every series; what could not be read is left in `faults`."""
        yield from events.walked(self._members)
        if events.fault is not None:
            self._fault("bad_json", f"after {self._samples_seen} samples: {events.fault}")
        elif self._failure.get("status") == "error":
            kind, what = (self._failure.get(key, "") for key in ("errorType", "error"))
            self._fault("query_failed", f"{kind}: {what}")
        elif not self._answered:
            self._fault("bad_json", "no series of a query result")

    def _fault(self, reason: str, text: str) -> None:
        self.faults.append(Fault(self._samples_seen + 1, reason, text))

    def _members(self, events: Iterator[Event]) -> Iterator[Row]:
        """Yield the keys of objects outside a series; a series is taken whole from its `metric` on."""
        for event, key in events:
            if event != "map_key":
                continue
            if key in ("status", "errorType", "error", "resultType"):
                event, value = next(events)
                if event in ("number", "string", "boolean", "null"):
                    self._failure[key] = str(value)
                    self._answered |= key == "resultType" and value in ("matrix", "vector")
            elif key == "metric":
                event, _ = next(events)
                if event == "start_map":
                    yield from self._series(events)
            elif key in ("value", "values"):
                # Prometheus writes the labels first; without them nobody knows whose the samples are.
                self._fault("bad_json", f"{key!r} before its 'metric'")

    def _series(self, events: Iterator[Event]) -> Iterator[Row]:
        """Yield the samples of a series whose labels begin, up to the end of its object."""
        labels = _labels(events)
        self._answered = True
        metric = labels.pop("__name__", "") or "(unnamed)"
        text = write_labels(labels)
        values: list[str] = []
        stamps: list[str] = []
        for event, key in events:
            if event == "end_map":
                for value, stamp in zip_longest(values, stamps[: len(values)], fillvalue=""):
                    self._samples_seen += 1
                    yield self._samples_seen, metric, text, value, stamp
                return
            opened, _ = next(events)
            if opened not in OPENING:
                continue
            # A native histogram is no number: its samples are counted, and refused if their metric is wanted.
            if key in ("value", "histogram"):
                points: Iterable[Point] = [_point(events)]
            elif key in ("values", "histograms"):
                points = _points(events)
            elif key == "timestamps":
                stamps += (stamp for _, stamp in _points(events))
                continue
            else:
                skip(events)
                continue
            for stamp, value in points:
                if (
                    not stamp and value
                ):  # VictoriaMetrics writes the stamps of a series as an array of their own.
                    if len(values) >= MAX_UNSTAMPED:
                        raise ValueError(f"a series of more than {MAX_UNSTAMPED} values before their stamps")
                    values.append(value)
                    continue
                self._samples_seen += 1
                yield self._samples_seen, metric, text, value, stamp


def _labels(events: Iterator[Event]) -> Labels:
    labels: Labels = {}
    for event, key in events:
        if event == "end_map":
            break
        if len(labels) >= MAX_LABELS:
            raise ValueError(f"a series of more than {MAX_LABELS} labels")
        event, value = next(events)
        if event in OPENING:
            skip(events)
        else:
            labels[key] = str(value)
    return labels


def _points(events: Iterator[Event]) -> Iterator[Point]:
    """Yield the points of an array that has been opened."""
    for event, value in events:
        if event == "end_array":
            return
        yield _point(events) if event in OPENING else ("", str(value))


def _point(events: Iterator[Event]) -> Point:
    """Return stamp and value of the array that has been opened; empty where it holds none."""
    parts: list[str] = []
    for event, value in events:
        if event in CLOSING:
            break
        if event in OPENING:
            skip(events)
        elif len(parts) < 2 and event != "map_key":
            parts.append(str(value))
    stamp, value = (*parts, "", "")[:2]
    return stamp, value
