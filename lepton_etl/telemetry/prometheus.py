"""Prometheus and OpenMetrics: text exposition, metric{labels} value [stamp], and the JSON of queries."""

from collections.abc import Iterable
from typing import Final

import polars as pl

from lepton_etl.telemetry import query_json
from lepton_etl.telemetry.blocks import Parts, by_lines, in_utf8, peek
from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.series import BAD_LINE, SeriesMapper
from lepton_etl.telemetry.specs import PrometheusSpec
from lepton_etl.telemetry.text import Lines, damaged_line, read_lines

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
        return query_json.read(stream, origin, spec)
    return _read_text(stream, origin, spec)


def looks_like(head: bytes) -> bool:
    """Whether a text begins with lines of an exposition, or is the JSON of a query."""
    if head.lstrip().startswith(b"{"):
        return query_json.looks_like(head)
    whole_lines = head[: head.rfind(b"\n") + 1] or head
    lines = pl.Series(
        [line.decode("utf-8", "replace") for line in whole_lines.splitlines()[:_HEAD_LINES]], dtype=pl.String
    )
    content = lines.filter((lines.str.strip_chars() != "") & ~lines.str.starts_with("#"))
    typed = lines.str.contains(r"^# (?:TYPE|HELP) [a-zA-Z_:]").any()
    labelled = content.str.contains(r"^[a-zA-Z_:][a-zA-Z0-9_:]*\{").any()
    samples = content.str.contains(_SAMPLE)
    return bool((typed or labelled) and samples.all())
