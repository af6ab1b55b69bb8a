"""Samples of Prometheus series, from text or JSON, to readings and rejects by a rule table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from lepton_etl.fields import QUANTITIES
from lepton_etl.telemetry.assemble import assemble, count_ignored
from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.samples import device_of, with_times
from lepton_etl.telemetry.specs import PrometheusSpec
from lepton_etl.telemetry.stamps import EpochUnit, parse_stamps
from lepton_etl.telemetry.text import Lines
from lepton_etl.telemetry.units import conversion

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
