"""OpenTelemetry metrics in OTLP/JSON: one export a document or a line, as the collector's file exporter writes them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Literal

from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.documents import STRUCTURE, Item, decode_documents, text_of
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table, setting
from lepton_etl.ingest.samples import Fault, Sample
from lepton_etl.ingest.sensors import Rules

# Data points of one number each; those of the other kinds are distributions.
_NUMBERS: Final = ("gauge", "sum")
_DISTRIBUTIONS: Final = ("histogram", "exponentialHistogram", "summary")
_VALUES: Final = ("stringValue", "intValue", "doubleValue", "boolValue")
_DELTA: Final = ("1", "AGGREGATION_TEMPORALITY_DELTA")
_NO_RECORDED_VALUE: Final = 1
_TYPED: Final = re.compile(r"hw\.(cpu|gpu|memory|fan|enclosure|power_supply|battery)\..+")

Json = Mapping[str, Any]
Attributes = dict[str, str]


@log_format
class OtlpJson(LogFormat):
    """OpenTelemetry metrics in OTLP/JSON, one export a line or one a file."""

    format: Literal["otlp_json"] = "otlp_json"
    followed_by = "whole files"
    sensors: Rules = rule_table("otlp_json")
    node_attribute: str = setting("host.name", "Resource attribute that names the node.", min_length=1)

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins as an export of metrics does."""
        return re.match(rb'\{\s*"resourceMetrics"\s*:\s*\[', head.lstrip()) is not None

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the documents of a file; see `walk`."""
        return decode_documents(chunks, origin, self.sensors, partial(walk, settings=self), epoch="ns")


def walk(value: Any, line: int, settings: OtlpJson) -> Iterator[Item]:
    """Yield the data points of one ExportMetricsServiceRequest; traces and logs of the same exporter are structure.

    A sensor is the metric's name and, where there is one, its `hw.id`. Attributes are labels, their dots and those of
    the names written as underscores (hw_id, hw_type). Stamps are nanoseconds since 1970; a point without one takes the
    time of the path. Source: OTLP specification 1.x, JSON encoding; semantic conventions for hardware.
    """
    if isinstance(value, dict) and isinstance(value.get("resourceMetrics"), list):
        points = list(_points(value, line, settings))
        yield from points or [STRUCTURE]
    elif isinstance(value, dict) and ("resourceSpans" in value or "resourceLogs" in value):
        yield STRUCTURE
    else:
        yield Fault(line, "no_resource", text_of(value))


def _points(export: Json, line: int, settings: OtlpJson) -> Iterator[Item]:
    for resource in _objects(export, "resourceMetrics"):
        holder = resource.get("resource")
        node = _attributes(holder if isinstance(holder, dict) else {}).get(settings.node_attribute)
        for scope in _objects(resource, "scopeMetrics"):
            for metric in _objects(scope, "metrics"):
                yield from _metric(metric, node or None, line, settings)


def _metric(metric: Json, node: str | None, line: int, settings: OtlpJson) -> Iterator[Item]:
    name, unit = text_of(metric.get("name")), text_of(metric.get("unit"))
    for kind in (*_NUMBERS, *_DISTRIBUTIONS):
        data = metric.get(kind)
        if not isinstance(data, dict):
            continue
        is_delta = kind == "sum" and text_of(data.get("aggregationTemporality")) in _DELTA
        for point in _objects(data, "dataPoints"):
            labels = _labels(name, _attributes(point))
            sensor = f"{name} {labels.get('hw_id', '')}".rstrip()
            raw_value = _number(point) if kind in _NUMBERS else kind
            if is_delta and settings.sensors.find(sensor, labels) is not None:
                # What a point adds to the last one is no counter, and without all of them no energy either.
                yield Fault(line, "delta_counter", f"{sensor} = {raw_value} {unit}".rstrip(), sensor)
                continue
            stamp = point.get("timeUnixNano")
            yield Sample(
                line, sensor, raw_value, unit, labels, None if stamp is None else text_of(stamp), node
            )


def _objects(holder: Json, name: str) -> Iterator[Json]:
    """Return the objects of the array `name`; anything else there is none of this format."""
    items = holder.get(name)
    return (item for item in (items if isinstance(items, list) else []) if isinstance(item, dict))


def _number(point: Json) -> str:
    """Return the point's value as logged, integers as texts too; no text where the flags say that there is none."""
    flags = point.get("flags")
    if text_of(flags).isdecimal() and int(text_of(flags)[:10]) & _NO_RECORDED_VALUE:
        return ""
    return text_of(point.get("asDouble", point.get("asInt")))


def _attributes(holder: Json) -> Attributes:
    attributes: Attributes = {}
    for entry in _objects(holder, "attributes"):
        value = entry.get("value")
        for kind in _VALUES:
            if isinstance(value, dict) and kind in value:
                attributes[text_of(entry.get("key"))] = text_of(value[kind])
    return attributes


def _labels(name: str, attributes: Attributes) -> dict[str, str]:
    """Return attributes as labels. Before semantic conventions 1.22 names said the type and attributes had no `hw.`."""
    labels = {key.replace(".", "_"): text for key, text in attributes.items()}
    for key in ("id", "name", "parent"):
        if key in attributes:
            labels.setdefault(f"hw_{key}", attributes[key])
    typed = _TYPED.fullmatch(name)
    if typed is not None:
        labels.setdefault("hw_type", typed[1])
    return labels
