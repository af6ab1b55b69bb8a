"""JSON of Prometheus queries: range (`matrix`) and instant (`vector`) answers, and collections of such results.

An answer of the HTTP API is {"status": ..., "data": {"resultType": ..., "result": [series, ...]}}; collectors also
keep {metric name: [series, ...]}. Both are found by what a series is, {"metric": {labels}, "values": [[stamp, "value"],
...]} or "value": [stamp, "value"], wherever it stands. Source: Prometheus HTTP API v1, expression queries.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import ijson  # type: ignore[import-untyped]
import polars as pl

from lepton_etl.telemetry.blocks import Parts
from lepton_etl.telemetry.decoded import Origin
from lepton_etl.telemetry.objects import CLOSING, OPENING, Bounded
from lepton_etl.telemetry.samples import Fault, fault_frame
from lepton_etl.telemetry.series import SAMPLE_SCHEMA, SeriesMapper, write_labels
from lepton_etl.telemetry.specs import PrometheusSpec

BATCH_SAMPLES: Final = 100_000
MAX_LABELS: Final = 1_000
NAME: Final = "__name__"
UNNAMED: Final = "(unnamed)"

_SERIES: Final = re.compile(rb'"metric"\s*:\s*\{[^{}]*\}\s*,\s*"(?:values?|histograms?)"\s*:\s*\[')
_ANSWER: Final = re.compile(rb'"resultType"\s*:\s*"(?:matrix|vector)"')
SCALARS: Final = ("number", "string", "boolean", "null")

Row = tuple[int, str, str, str, str]
Point = tuple[str, str]


def read(chunks: Iterable[bytes], origin: Origin, spec: PrometheusSpec) -> Parts:
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


def looks_like(head: bytes) -> bool:
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
