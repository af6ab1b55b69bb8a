"""Prometheus and OpenMetrics: text exposition, metric{labels} value [stamp], and the JSON of queries.

- Samples of Prometheus series, from text or JSON, to readings and rejects by a rule table.
- JSON of Prometheus queries: range (`matrix`) and instant (`vector`) answers, and collections of such
  results.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import ijson
import polars as pl

from lepton_etl.ingest.decoded import (
    Decoded,
    Lines,
    Origin,
    assemble,
    count_ignored,
    damaged_line,
    read_lines,
)
from lepton_etl.ingest.documents import CLOSING, OPENING, Bounded
from lepton_etl.ingest.samples import Fault, device_of, fault_frame, with_times
from lepton_etl.ingest.specs import PrometheusSpec
from lepton_etl.ingest.text import Parts, by_lines, in_utf8, peek
from lepton_etl.ingest.units import EpochUnit, conversion, parse_stamps
from lepton_etl.schema.common import QUANTITIES

SAMPLE_SCHEMA: Final = {
    "source_position": pl.Int64, "metric": pl.String, "labels": pl.String, "value": pl.String, "stamp": pl.String,
}  # fmt: skip
SERIES_SCHEMA: Final = {
    "metric": pl.String, "labels": pl.String, "found_reason": pl.String, "sensor": pl.String, "node_id": pl.String,
    "device_id": pl.String, "quantity": pl.String, "statistic": pl.String, "point": pl.String, "raw_unit": pl.String,
    "low": pl.Float64, "high": pl.Float64, "factor": pl.Float64, "divisor": pl.Float64, "offset": pl.Float64,
}  # fmt: skip
UNMAPPED: Final = "unmapped"
BAD_LINE: Final = "bad_line"

_LABEL: Final = re.compile(r'\s*([^\s="{},]+)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPES: Final = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
_PORT: Final = re.compile(r":\d+$")

Labels = dict[str, str]
Numbers = dict[tuple[str, str], tuple[str, str]]
# OpenMetrics and the HTTP API stamp in seconds, the older text in milliseconds; a file may hold scrapes of both. The
# years that a stamp may name (2000 to 2100) are below this number in seconds and above it in milliseconds.
SECONDS_BELOW: Final = 1e11
EPOCH_UNITS: Final[tuple[EpochUnit, ...]] = ("s", "ms")


@dataclass
class SeriesMapper:
    """Turns samples of series into readings, batch after batch of one file.

    A sample without a stamp takes the path's (`origin.path_time`), else it is a reject (no_time). Samples of series
    outside the rule table are ignored by metric name. Labels are read once a distinct series of a batch.
    """

    origin: Origin
    spec: PrometheusSpec
    _numbers: Numbers = field(default_factory=dict)
    """What the metrics that number the devices have said so far."""

    def decode(
        self, samples: pl.DataFrame, faults: pl.DataFrame, structure_lines: int, lines: Lines | None
    ) -> Decoded:
        """Readings and rejects of SAMPLE_SCHEMA rows; `faults` (source_position, reason) could not be read at all.

        Without `lines` the faults bring their `raw_text`, and a sample is written out as a line of text.
        """
        self._numbers |= _index_labels(samples, self.spec)
        named = self._may_be_mapped(samples.get_column("metric"))
        wanted = samples.filter(named)
        series = _series(wanted, self._numbers, self.origin, self.spec)
        text = [] if lines is not None else [_as_text().alias("raw_text")]
        joined = wanted.with_columns(text).join(
            series, on=["metric", "labels"], how="left", maintain_order="left", nulls_equal=True
        )
        reason = pl.col("found_reason")
        outside, malformed = (reason == UNMAPPED).fill_null(False), (reason == BAD_LINE).fill_null(False)
        unmapped = pl.concat(
            [samples.filter(~named).select("metric"), joined.filter(outside).select("metric")]
        )
        ignored = (
            unmapped.group_by(pl.col("metric").alias("sensor"))
            .agg(pl.len().cast(pl.Int64).alias("count"))
            .select("sensor", pl.lit(UNMAPPED).alias("reason"), "count")
        )
        no_sensor = pl.lit(None, dtype=pl.String).alias("sensor")
        broken = joined.filter(malformed).with_columns(no_sensor, pl.lit(BAD_LINE).alias("reason"))
        cells = _stamped(joined.filter(~outside & ~malformed), self.origin)
        return assemble(
            cells,
            [faults.with_columns(no_sensor), broken],
            count_ignored(ignored),
            structure_lines,
            lines,
            self.origin,
        )

    def _may_be_mapped(self, metrics: pl.Series) -> pl.Series:
        names = [name for name in metrics.unique().to_list() if self.spec.sensors.may_map(name)]
        return metrics.is_in(names)


def read_labels(text: str | None) -> Labels | None:
    """Labels of one series, escapes resolved; None if they are malformed."""
    labels: Labels = {}
    rest = (text or "").rstrip(" \t")
    at = 0
    while at < len(rest):
        found = _LABEL.match(rest, at)
        if found is None:
            return None
        labels[found[1]] = re.sub(r"\\[\\\"n]", lambda escape: _ESCAPES[escape[0]], found[2])
        at = found.end()
    return labels


def write_labels(labels: Mapping[str, str]) -> str:
    """Labels as text exposition writes them between the braces; `read_labels` reads them back."""
    escaped = (
        (name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, value in labels.items()
    )
    return ",".join(f'{name}="{value}"' for name, value in escaped)


def _as_text() -> pl.Expr:
    """A sample as a line of text, for rejects of documents that have no lines."""
    return pl.concat_str(
        "metric", pl.lit("{"), "labels", pl.lit("} "), "value", pl.lit(" "), "stamp", ignore_nulls=True
    )


def _index_labels(samples: pl.DataFrame, spec: PrometheusSpec) -> Numbers:
    """(key label, its value) -> (label, number) out of the metrics that number the devices."""
    numbers: Numbers = {}
    for index in spec.sensors.index_labels:
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


def _series(wanted: pl.DataFrame, numbers: Numbers, origin: Origin, spec: PrometheusSpec) -> pl.DataFrame:
    """One row (SERIES_SCHEMA) per distinct series of a metric that a rule names."""
    rows = []
    for metric, text in wanted.select("metric", "labels").unique().iter_rows():
        labels = read_labels(text)
        mapped = None if labels is None else spec.sensors.find(metric, labels)
        if labels is None or mapped is None:
            reason = BAD_LINE if labels is None else UNMAPPED
            rows.append((metric, text, reason, *[None] * (len(SERIES_SCHEMA) - 3)))
            continue
        rule = spec.sensors.rules[mapped.rule]
        told = {name: labels[name] for name in rule.labels if name in labels}
        sensor = metric + (f"{{{write_labels(told)}}}" if told else "")
        for key, value in list(labels.items()):
            name, number = numbers.get((key, value), (key, value))
            labels.setdefault(name, number)
        node = _node_of(labels, origin, spec)
        device = device_of(mapped.devices, labels)
        found = "empty_node_id" if node is None else "empty_device_id" if device is None else None
        unit = rule.unit[0]
        quantity = QUANTITIES[mapped.quantity]
        change = conversion(unit, mapped.quantity)
        scale = (change.factor, change.divisor, change.offset) if change else (None, None, None)
        rows.append(
            (metric, text, found, sensor, node, device, mapped.quantity, mapped.statistic, mapped.point, unit,
             quantity.ge, quantity.le, *scale)
        )  # fmt: skip
    return pl.DataFrame(rows, schema=SERIES_SCHEMA, orient="row")


def _node_of(labels: Labels, origin: Origin, spec: PrometheusSpec) -> str | None:
    """The node by the first label of `node_label` that is there, else by the path."""
    named = next((labels[name] for name in spec.node_label if labels.get(name)), "")
    return _PORT.sub("", named) or origin.node_id


def _stamped(joined: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Cells of mapped samples with value, time and reason."""
    in_seconds = pl.col("stamp").cast(pl.Float64, strict=False).abs() < SECONDS_BELOW
    by_unit = {
        unit: parse_stamps(joined.get_column("stamp"), timezone="UTC", epoch=unit) for unit in EPOCH_UNITS
    }
    stamps = joined.select(in_seconds.fill_null(False).alias("in_seconds")).select(
        pl.when("in_seconds").then(by_unit["s"].get_column(name)).otherwise(by_unit["ms"].get_column(name)).alias(name)
        for name in ("time", "reason")
    )  # fmt: skip
    cells = joined.with_columns(
        pl.col("value").alias("raw_value"),
        pl.lit(0.0).alias("window_s"),
        pl.lit(1, dtype=pl.Int32).alias("multiplicity"),
    ).drop("value")
    return with_times(cells, stamps, origin)


BATCH_SAMPLES: Final = 100_000
MAX_LABELS: Final = 1_000
NAME: Final = "__name__"
UNNAMED: Final = "(unnamed)"

_SERIES: Final = re.compile(rb'"metric"\s*:\s*\{[^{}]*\}\s*,\s*"(?:values?|histograms?)"\s*:\s*\[')
_ANSWER: Final = re.compile(rb'"resultType"\s*:\s*"(?:matrix|vector)"')
SCALARS: Final = ("number", "string", "boolean", "null")

Row = tuple[int, str, str, str, str]
Point = tuple[str, str]


def read_query_json(chunks: Iterable[bytes], origin: Origin, spec: PrometheusSpec) -> Parts:
    """Readings and rejects, a batch of samples after another; a position is the number of the sample in the file.

    A document that breaks off keeps what came before the break, and one reject (bad_json) says where; an answer that
    reports an error is one reject (query_failed).
    """
    mapper = SeriesMapper(origin, spec)
    walk = _Walk(chunks)
    rows: list[Row] = []
    for row in walk.samples():
        rows.append(row)
        if len(rows) >= BATCH_SAMPLES:
            yield mapper.decode(_frame(rows), fault_frame([]), 0, None)
            rows.clear()
    yield mapper.decode(_frame(rows), fault_frame(walk.faults), 0, None)


def looks_like_query_json(head: bytes) -> bool:
    """Whether a JSON text begins as the answer of a query or a collection of its series."""
    return _ANSWER.search(head) is not None or _SERIES.search(head) is not None


def _frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SAMPLE_SCHEMA, orient="row")


Events = Iterator[tuple[str, Any]]


class _Walk:
    """Where in the document we are, and what it has said."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.faults: list[Fault] = []
        self._source = Bounded(chunks)
        self._samples_seen = 0
        self._answered = False
        """Whether a series or an answer of series was found."""
        self._failure: dict[str, str] = {}

    def samples(self) -> Iterator[Row]:
        """Every sample of every series; what could not be read is left in `faults`."""
        try:
            events = ijson.basic_parse(self._source, multiple_values=True)
            for event, value in events:
                self._source.passed()
                if event == "map_key":
                    yield from self._member(value, events)
        except (ijson.JSONError, ValueError, OverflowError) as error:
            self._source.drain()
            what = " ".join(str(error).split())  # The parser draws an arrow over several lines.
            self._fault("bad_json", f"after {self._samples_seen} samples: {what}")
            return
        if self._failure.get("status") == "error":
            said = f"{self._failure.get('errorType', '')}: {self._failure.get('error', '')}"
            self._fault("query_failed", said)
        elif not self._answered:
            self._fault("bad_json", "no series of a query result")

    def _fault(self, reason: str, text: str) -> None:
        self.faults.append(Fault(self._samples_seen + 1, reason, text))

    def _member(self, key: str, events: Events) -> Iterator[Row]:
        """One key of an object outside a series; a series is taken whole from its `metric` on."""
        if key in ("status", "errorType", "error", "resultType"):
            event, value = next(events)
            if event in SCALARS:
                self._failure[key] = str(value)
                self._answered |= key == "resultType" and value in ("matrix", "vector")
        elif key == "metric":
            event, _ = next(events)
            if event == "start_map":
                yield from self._series(events)
        elif key in ("value", "values"):
            # Prometheus writes the labels first; without them nobody knows whose the samples are.
            self._fault("bad_json", f"{key!r} before its 'metric'")

    def _series(self, events: Events) -> Iterator[Row]:
        """The samples of a series whose labels begin, up to the end of its object."""
        labels = self._labels(events)
        self._answered = True
        metric = labels.pop(NAME, "") or UNNAMED
        text = write_labels(labels)
        for event, key in events:
            if event == "end_map":
                return
            opened, _ = next(events)
            if opened not in OPENING:
                continue
            # A native histogram is no number: its samples are counted, and refused if their metric is wanted.
            if key in ("value", "histogram"):
                points: Iterable[Point] = [self._point(events)]
            elif key in ("values", "histograms"):
                points = self._points(events)
            else:
                self._skip(events)
                continue
            for stamp, value in points:
                self._samples_seen += 1
                yield self._samples_seen, metric, text, value, stamp

    def _labels(self, events: Events) -> dict[str, str]:
        labels: dict[str, str] = {}
        for event, key in events:
            if event == "end_map":
                break
            if len(labels) >= MAX_LABELS:
                raise ValueError(f"a series of more than {MAX_LABELS} labels")
            event, value = next(events)
            if event in OPENING:
                self._skip(events)
            else:
                labels[key] = str(value)
        return labels

    def _points(self, events: Events) -> Iterator[Point]:
        """The points of an array that has been opened."""
        for event, value in events:
            if event == "end_array":
                return
            if event in OPENING:
                yield self._point(events)
            else:
                yield "", str(value)

    def _point(self, events: Events) -> Point:
        """Stamp and value of the array that has been opened; empty where it holds none."""
        self._source.passed()
        parts: list[str] = []
        for event, value in events:
            if event in CLOSING:
                break
            if event in OPENING:
                self._skip(events)
            elif len(parts) < 2 and event != "map_key":
                parts.append(str(value))
        stamp, value = (*parts, "", "")[:2]
        return stamp, value

    def _skip(self, events: Events) -> None:
        """To the end of the array or object that has been opened."""
        depth = 1
        for event, _ in events:
            self._source.passed()
            depth += (event in OPENING) - (event in CLOSING)
            if not depth:
                return


# Braces may stand inside a quoted label, and again in the exemplar of OpenMetrics behind the sample.
_LABELS: Final = r"(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*"
_EXEMPLAR: Final = rf"(?:[ \t]+#[ \t]*\{{{_LABELS}\}}[ \t]+[^\s{{}}#]+(?:[ \t]+[^\s{{}}#]+)?)?"
_SAMPLE: Final = (
    rf"^\s*(?<metric>[a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(?:\{{(?<labels>{_LABELS})\}})?[ \t]+(?<value>[^\s{{}}#]+)"
    rf"(?:[ \t]+(?<stamp>[^\s{{}}#]+))?{_EXEMPLAR}\s*$"
)
_HEAD_LINES: Final = 200


class Decoder:
    """Readings and rejects of one text exposition, or of several laid one after another, block after block.

    An exemplar behind a sample is dropped: it names a trace, not a measurement.
    Source: Prometheus exposition formats, text 0.0.4; OpenMetrics 1.0.
    """

    def __init__(self, origin: Origin, spec: PrometheusSpec) -> None:
        self._mapper = SeriesMapper(origin, spec)
        self._lines_before = 0

    def decode(self, block: bytes) -> Decoded:
        """The records of the next block of whole lines."""
        lines = read_lines(block, self._lines_before)
        self._lines_before = lines.following
        samples, structure_lines = _samples(lines)
        bad = pl.col("metric").is_null()
        faults = samples.filter(bad).select("source_position", pl.lit(BAD_LINE).alias("reason"))
        return self._mapper.decode(samples.filter(~bad), faults, structure_lines, lines)


def _samples(lines: Lines) -> tuple[pl.DataFrame, int]:
    """(source_position, metric, labels, value, stamp) of every line that is no structure, and how many lines are."""
    frame = pl.DataFrame({"line": lines.series()}).with_row_index(
        "source_position", offset=lines.first_position
    )
    stripped = pl.col("line").str.strip_chars_start()
    structure = (stripped == "") | stripped.str.starts_with("#")
    content = frame.filter(~structure)
    text = pl.when(~damaged_line(pl.col("line"))).then("line") if lines.damaged else pl.col("line")
    parts = content.select(
        pl.col("source_position").cast(pl.Int64), text.str.extract_groups(_SAMPLE).alias("parts")
    )
    return parts.unnest("parts"), frame.height - content.height


_read_text = by_lines(Decoder)


def read(chunks: Iterable[bytes], origin: Origin, spec: PrometheusSpec) -> Parts:
    """Text, or JSON where the first byte that is no blank is a brace."""
    head, stream = peek(in_utf8(chunks))
    if head.lstrip().startswith(b"{"):
        return read_query_json(stream, origin, spec)
    return _read_text(stream, origin, spec)


def looks_like(head: bytes) -> bool:
    """Whether a text begins with lines of an exposition, or is the JSON of a query."""
    if head.lstrip().startswith(b"{"):
        return looks_like_query_json(head)
    whole_lines = head[: head.rfind(b"\n") + 1] or head
    lines = pl.Series(
        [line.decode("utf-8", "replace") for line in whole_lines.splitlines()[:_HEAD_LINES]], dtype=pl.String
    )
    content = lines.filter((lines.str.strip_chars() != "") & ~lines.str.starts_with("#"))
    typed = lines.str.contains(r"^# (?:TYPE|HELP) [a-zA-Z_:]").any()
    labelled = content.str.contains(r"^[a-zA-Z_:][a-zA-Z0-9_:]*\{").any()
    samples = content.str.contains(_SAMPLE)
    return bool((typed or labelled) and samples.all())
