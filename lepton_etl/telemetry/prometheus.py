"""Prometheus and OpenMetrics text exposition: metric{labels} value [stamp]."""

import re
from typing import Final

import polars as pl

from lepton_etl.fields import QUANTITIES
from lepton_etl.telemetry.assemble import assemble, count_ignored, number_of, value_reason
from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.sensors import template_names
from lepton_etl.telemetry.specs import PrometheusSpec
from lepton_etl.telemetry.stamps import parse_stamps
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


def decode(data: bytes, origin: Origin, spec: PrometheusSpec) -> Decoded:
    """Readings and rejects of one text exposition, or of several laid one after another.

    A sample without a stamp takes the path's (`origin.path_time`), else it is a reject (no_time). Stamps are
    milliseconds, in a file that ends in `# EOF` (OpenMetrics) seconds. Samples of metrics outside the rule table are
    ignored by metric name. Labels are read once a distinct series. Source: Prometheus exposition formats, text 0.0.4.
    """
    lines = read_lines(data)
    samples, structure_lines = _samples(lines)
    bad = pl.col("metric").is_null()
    good = samples.filter(~bad)
    mapped = spec.sensors.map_names(good.get_column("metric")).select("sensor", "rule")
    good = good.join(mapped, left_on="metric", right_on="sensor", how="left", maintain_order="left")
    ignored = (
        good.filter(pl.col("rule").is_null())
        .group_by(pl.col("metric").alias("sensor"))
        .agg(pl.lit("unmapped").alias("reason"), pl.len().cast(pl.Int64).alias("count"))
    )
    wanted = good.filter(pl.col("rule").is_not_null())
    series = _series(wanted, _index_labels(good, spec), origin, spec)
    joined = wanted.join(series, on=["metric", "labels"], how="left", maintain_order="left", nulls_equal=True)
    malformed = (pl.col("series_reason") == "bad_line").fill_null(False)
    broken = joined.filter(malformed)
    cells = _stamped(joined.filter(~malformed), origin, _is_openmetrics(lines))
    no_sensor = pl.lit(None, dtype=pl.String).alias("sensor")
    faults = [
        frame.select("source_position", no_sensor, pl.lit("bad_line").alias("reason"))
        for frame in (samples.filter(bad), broken)
    ]
    return assemble(
        cells, faults, count_ignored(ignored.select("sensor", "reason", "count")), structure_lines, lines
    )


def _samples(lines: Lines) -> tuple[pl.DataFrame, int]:
    """(source_position, metric, labels, value, stamp) of every line that is no structure, and how many lines are."""
    frame = pl.DataFrame({"line": lines.series()}).with_row_index("source_position", offset=1)
    stripped = pl.col("line").str.strip_chars_start()
    structure = (stripped == "") | stripped.str.starts_with("#")
    content = frame.filter(~structure)
    text = pl.when(~damaged_line(pl.col("line"))).then("line") if lines.damaged else pl.col("line")
    parts = content.select(
        pl.col("source_position").cast(pl.Int64), text.str.extract_groups(_SAMPLE).alias("parts")
    )
    return parts.unnest("parts"), frame.height - content.height


def _is_openmetrics(lines: Lines) -> bool:
    tail = lines.series().tail(1)
    return tail.len() == 1 and tail.item() == "# EOF"


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


def _index_labels(good: pl.DataFrame, spec: PrometheusSpec) -> dict[tuple[str, str], tuple[str, str]]:
    """(key label, its value) -> (label, number) out of the metrics that number the devices."""
    numbers: dict[tuple[str, str], tuple[str, str]] = {}
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
    numbers: dict[tuple[str, str], tuple[str, str]],
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
        device = _device_of(mapped.devices, labels)
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


def _device_of(templates: tuple[str, ...], labels: Labels) -> str | None:
    """The first template whose labels are all there and not empty."""
    for template in templates:
        if all(labels.get(name) for name in template_names(template)):
            return template.format_map(labels)
    return None


def _stamped(joined: pl.DataFrame, origin: Origin, openmetrics: bool) -> pl.DataFrame:
    """Cells of mapped samples with value, time and reason."""
    stamps = parse_stamps(joined.get_column("stamp"), timezone="UTC", epoch="s" if openmetrics else "ms")
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
