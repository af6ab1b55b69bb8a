"""Prometheus and OpenMetrics text exposition: metric{labels} value [stamp]."""

import re
from typing import Final

import polars as pl

from lepton_etl.fields import QUANTITIES
from lepton_etl.telemetry.assemble import assemble, count_ignored, number_of, value_reason
from lepton_etl.telemetry.blocks import by_lines
from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.samples import device_of
from lepton_etl.telemetry.specs import PrometheusSpec
from lepton_etl.telemetry.stamps import EpochUnit, parse_stamps
from lepton_etl.telemetry.text import Lines, damaged_line, read_lines
from lepton_etl.telemetry.units import conversion, with_value

_SAMPLE: Final = (
    r"^\s*(?<metric>[a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(?:\{(?<labels>.*)\})?[ \t]+(?<value>[^\s{}#]+)"
    r"(?:[ \t]+(?<stamp>[^\s{}#]+))?\s*$"
)
_LABEL: Final = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPES: Final = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
_PORT: Final = re.compile(r":\d+$")

SERIES_SCHEMA: Final = {
    "metric": pl.String, "labels": pl.String, "series_reason": pl.String, "node_id": pl.String, "device_id": pl.String,
    "quantity": pl.String, "statistic": pl.String, "point": pl.String, "raw_unit": pl.String, "low": pl.Float64,
    "high": pl.Float64, "factor": pl.Float64, "divisor": pl.Float64, "offset": pl.Float64,
}  # fmt: skip

Labels = dict[str, str]
Numbers = dict[tuple[str, str], tuple[str, str]]
# OpenMetrics stamps are seconds, those of the older text milliseconds; a file may hold scrapes of both. The years
# that a stamp may name (2000 to 2100) are below this number in seconds and above it in milliseconds.
SECONDS_BELOW: Final = 1e11
EPOCH_UNITS: Final[tuple[EpochUnit, ...]] = ("s", "ms")


class Decoder:
    """Readings and rejects of one text exposition, or of several laid one after another, block after block.

    A sample without a stamp takes the path's (`origin.path_time`), else it is a reject (no_time). Samples of metrics
    outside the rule table are ignored by metric name. Labels are read once a distinct series. Source: Prometheus
    exposition formats, text 0.0.4.
    """

    def __init__(self, origin: Origin, spec: PrometheusSpec) -> None:
        self._origin = origin
        self._spec = spec
        self._lines_before = 0
        self._numbers: Numbers = {}
        """What the metrics that number the devices have said so far."""

    def decode(self, block: bytes) -> Decoded:
        """The records of the next block of whole lines."""
        lines = read_lines(block, self._lines_before)
        self._lines_before = lines.following
        samples, structure_lines = _samples(lines)
        bad = pl.col("metric").is_null()
        good = samples.filter(~bad)
        mapped = self._spec.sensors.map_names(good.get_column("metric")).select("sensor", "rule")
        good = good.join(mapped, left_on="metric", right_on="sensor", how="left", maintain_order="left")
        ignored = (
            good.filter(pl.col("rule").is_null())
            .group_by(pl.col("metric").alias("sensor"))
            .agg(pl.lit("unmapped").alias("reason"), pl.len().cast(pl.Int64).alias("count"))
        )
        wanted = good.filter(pl.col("rule").is_not_null())
        self._numbers |= _index_labels(good, self._spec)
        series = _series(wanted, self._numbers, self._origin, self._spec)
        joined = wanted.join(
            series, on=["metric", "labels"], how="left", maintain_order="left", nulls_equal=True
        )
        malformed = (pl.col("series_reason") == "bad_line").fill_null(False)
        broken = joined.filter(malformed)
        no_sensor = pl.lit(None, dtype=pl.String).alias("sensor")
        faults = [
            frame.select("source_position", no_sensor, pl.lit("bad_line").alias("reason"))
            for frame in (samples.filter(bad), broken)
        ]
        cells = _stamped(joined.filter(~malformed), self._origin)
        counted = count_ignored(ignored.select("sensor", "reason", "count"))
        return assemble(cells, faults, counted, structure_lines, lines, self._origin)


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


def _index_labels(good: pl.DataFrame, spec: PrometheusSpec) -> Numbers:
    """(key label, its value) -> (label, number) out of the metrics that number the devices."""
    numbers: Numbers = {}
    for index in spec.sensors.index_labels:
        rows = (
            good.filter(pl.col("metric") == index.metric)
            .select("labels", "value")
            .unique(maintain_order=True)
        )
        for text, value in rows.iter_rows():
            labels = read_labels(text) or {}
            if index.key in labels and value.isdecimal():
                numbers.setdefault((index.key, labels[index.key]), (index.name, value))
    return numbers


def _series(
    wanted: pl.DataFrame,
    numbers: Numbers,
    origin: Origin,
    spec: PrometheusSpec,
) -> pl.DataFrame:
    """One row (SERIES_SCHEMA) per distinct series of a mapped metric: node, device, quantity, unit, bounds."""
    rows = []
    for metric, text in wanted.select("metric", "labels").unique().iter_rows():
        mapped = spec.sensors.find(metric)
        labels = read_labels(text)
        if mapped is None or labels is None:
            rows.append((metric, text, "bad_line", *[None] * (len(SERIES_SCHEMA) - 3)))
            continue
        for key, value in list(labels.items()):
            name, number = numbers.get((key, value), (key, value))
            labels.setdefault(name, number)
        node = _node_of(labels, origin, spec)
        device = device_of(mapped.devices, labels)
        reason = "empty_node_id" if node is None else "empty_device_id" if device is None else None
        unit = spec.sensors.rules[mapped.rule].unit[0]
        quantity = QUANTITIES[mapped.quantity]
        change = conversion(unit, mapped.quantity)
        scale = (change.factor, change.divisor, change.offset) if change else (None, None, None)
        rows.append(
            (metric, text, reason, node, device, mapped.quantity, mapped.statistic, mapped.point, unit, quantity.ge,
             quantity.le, *scale)
        )  # fmt: skip
    return pl.DataFrame(rows, schema=SERIES_SCHEMA, orient="row")


def _node_of(labels: Labels, origin: Origin, spec: PrometheusSpec) -> str | None:
    named = labels.get(spec.node_label, "") if spec.node_label is not None else ""
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
    path_time = pl.lit(origin.path_time, dtype=pl.Datetime("us", "UTC"))
    bare = pl.col("stamp").is_null()
    time_reason = (
        pl.when(~bare).then("time_reason").when(pl.lit(origin.path_time is None)).then(pl.lit("no_time"))
    )  # fmt: skip
    cells = joined.with_columns(
        stamps.get_column("time"),
        stamps.get_column("reason").alias("time_reason"),
        pl.col("metric").alias("sensor"),
        pl.col("value").alias("raw_value"),
        number_of(pl.col("value")).alias("number"),
        pl.lit(0.0).alias("window_s"),
        pl.lit(1, dtype=pl.Int32).alias("multiplicity"),
    )
    return with_value(cells).with_columns(
        pl.coalesce("series_reason", time_reason, value_reason()).alias("reason"),
        pl.when(bare).then(path_time).otherwise("time").alias("reading_time"),
    )


read = by_lines(Decoder)
