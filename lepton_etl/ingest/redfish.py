"""Redfish resources as a BMC serves them: Power, Thermal, sensors, metrics and metric reports, in JSON."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.documents import STRUCTURE, Item, decode_documents, text_of
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table
from lepton_etl.ingest.samples import Fault, Sample
from lepton_etl.ingest.sensors import Rules

# Arrays of Power and Thermal, and the readings of a member: the first of these names that it has. HPE's iLO 4 wrote
# CurrentReading where the schema says ReadingCelsius or Reading.
ARRAYS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "PowerControl": (("PowerConsumedWatts",),),
    "PowerSupplies": (
        ("PowerInputWatts",), ("PowerOutputWatts", "LastPowerOutputWatts"), ("LineInputVoltage",),
    ),
    "Voltages": (("ReadingVolts",),),
    "Temperatures": (("ReadingCelsius", "CurrentReading"),),
    "Fans": (("Reading", "CurrentReading"),),
}  # fmt: skip
WINDOWED: Final = ("AverageConsumedWatts", "MinConsumedWatts", "MaxConsumedWatts")
WITHOUT_READING: Final = ("Absent", "Disabled", "UnavailableOffline")
# What a sensor without ReadingType measures, told by its unit.
TYPE_OF_UNIT: Final = {
    "Cel": "Temperature",
    "W": "Power",
    "kW.h": "EnergykWh",
    "J": "EnergyJoules",
    "%": "Percent",
}
INPUT_POWERS: Final = ("PowerInputWatts", "InputPowerWatts")
SECONDS_PER_MINUTE: Final = 60.0
# Expanded collections nest some five resources; the limit keeps a hostile document from the interpreter's stack.
MAX_DEPTH: Final = 24
_ROOT: Final = "/redfish/v1/"
_SUBSYSTEMS: Final = ("ThermalSubsystem", "PowerSubsystem")
_ANNOTATION: Final = re.compile(rb'"@odata\.(?:id|type|context)"\s*:')
_NUMBER: Final = re.compile(r"\d+(?:\.\d*)?")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the text a resource stands, and what the resources around it say."""

    line: int
    depth: int = 0
    capacity_w: float | None = None
    """What the power supply that holds this resource can deliver."""


@log_format
class Redfish(LogFormat):
    """JSON resources of a BMC's Redfish service: Power, Thermal, Sensor, metrics and metric reports."""

    format: Literal["redfish"] = "redfish"
    followed_by = "whole files"
    sensors: Rules = rule_table("redfish")

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins as documents of a Redfish service do: JSON with OData annotations."""
        return head.lstrip()[:1] in (b"{", b"[") and _ANNOTATION.search(head) is not None

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the documents of a file; see `walk`."""
        return decode_documents(chunks, origin, self.sensors, walk)


def walk(value: Any, line: int) -> Iterator[Item]:
    """Yield the readings of one document: a resource, an array of them, or a collection with its members expanded.

    A document of the service without a reading (Chassis, a collection of links) is structure; anything else without
    one is a reject (no_resource), an error message of the service too. Source: DMTF DSP2046, DSP0268.
    """
    for document in value if isinstance(value, list) else [value]:
        items = list(_resource(document, _Place(line))) if isinstance(document, dict) else []
        if items:
            yield from items
        elif isinstance(document, dict) and ("@odata.id" in document or "@odata.type" in document):
            yield STRUCTURE
        else:
            yield Fault(line, "no_resource", text_of(document))


def _resource(document: Json, place: _Place) -> Iterator[Item]:
    if place.depth > MAX_DEPTH:
        yield Fault(place.line, "too_deep", text_of(document.get("@odata.id")))
        return
    capacity_w = _number(document.get("PowerCapacityWatts"))
    place = replace(place, capacity_w=place.capacity_w if capacity_w is None else capacity_w)
    kind = str(document.get("@odata.type", "")).removeprefix("#").partition(".")[0]
    if kind == "Sensor" or "ReadingType" in document or "ReadingUnits" in document:
        yield from _sensor(document, place)
        return
    if isinstance(document.get("MetricValues"), list):
        yield from _report(document, place)
        return
    inner = replace(place, depth=place.depth + 1)
    for name, value in document.items():
        for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
            if not isinstance(item, dict):
                continue
            if name in ARRAYS and isinstance(value, list):
                yield from _member(name, number, item, place)
            elif "@odata.id" in item or name == "Members":
                yield from _resource(item, inner)
            else:
                yield from _excerpt(kind, name, item, _owner(document), place)


def _member(array: str, number: int, member: Json, place: _Place) -> Iterator[Item]:
    """Yield the readings of one member of an array of Power or Thermal; one that says no value counts once, as none."""
    name = _first(member, "Name", "FanName", "MemberId") or str(number)
    unit = text_of(_first(member, "ReadingUnits", "Units"))
    labels = _labels(member) | {"number": str(number), "unit": unit}
    absent = _is_absent(member)
    place = replace(place, capacity_w=_number(member.get("PowerCapacityWatts")))
    given = [key for keys in ARRAYS[array] if (key := _first_key(member, keys)) is not None]
    for key in given or ARRAYS[array][0][:1]:
        value = "" if absent else member.get(key)
        yield _checked(Sample(place.line, f"{array}.{key} {name}", text_of(value), unit, labels), key, place)
    if array == "PowerControl":
        yield from _window(member, str(name), labels, place)
        limit = member.get("PowerLimit")
        if isinstance(limit, dict) and "LimitInWatts" in limit:
            sensor = f"PowerControl.PowerLimit.LimitInWatts {name}"
            yield Sample(place.line, sensor, text_of(limit["LimitInWatts"]), labels=labels)


def _window(control: Json, name: str, labels: Mapping[str, str], place: _Place) -> Iterator[Item]:
    """Average, lowest and highest power over the last IntervalInMin minutes; without these they are of no time."""
    metrics = control.get("PowerMetrics")
    if not isinstance(metrics, dict):
        return
    for key in WINDOWED:
        if key not in metrics:
            continue
        sensor, value = f"PowerControl.PowerMetrics.{key} {name}", text_of(metrics[key])
        minutes = _number(metrics.get("IntervalInMin"))
        if value and not minutes:
            yield Fault(place.line, "no_window", f"{sensor} = {value} in IntervalInMin {minutes}", sensor)
        else:
            window_s = SECONDS_PER_MINUTE * (minutes or 0.0)
            yield Sample(place.line, sensor, value, labels=labels, window_s=window_s)


def _sensor(document: Json, place: _Place) -> Iterator[Item]:
    unit = text_of(document.get("ReadingUnits"))
    kind = document.get("ReadingType") or TYPE_OF_UNIT.get(unit, unit)
    name = _first(document, "Name", "Id")
    value = "" if _is_absent(document) else document.get("Reading")
    stamp = document.get("ReadingTime")
    yield Sample(
        place.line, f"Sensor.{kind} {name or ''}".rstrip(), text_of(value), unit, _labels(document),
        stamp=None if stamp is None else text_of(stamp),
    )  # fmt: skip


def _excerpt(kind: str, name: str, value: Json, owner: str, place: _Place) -> Iterator[Item]:
    """Copies of sensors within metrics: {"Reading": ...}, a group of such, or the set point of a limit."""
    key = "Reading" if "Reading" in value else "SetPoint"
    if key in value:
        whose = " ".join(text for text in (owner, text_of(value.get("DeviceName"))) if text)
        labels = _labels(value) | {"owner": owner, "device": text_of(value.get("DeviceName"))}
        yield _checked(
            Sample(place.line, f"{kind}.{name} {whose}".rstrip(), text_of(value[key]), labels=labels),
            name,
            place,
        )
        if "SpeedRPM" in value:
            sensor = f"{kind}.{name}.SpeedRPM {whose}".rstrip()
            yield Sample(place.line, sensor, text_of(value["SpeedRPM"]), labels=labels)
    elif name not in ("Oem", "Actions", "Thresholds", "Status") and "." not in name:
        for inner, item in value.items():
            if isinstance(item, dict) and "Reading" in item:
                yield from _excerpt(kind, f"{name}.{inner}", item, owner, place)


def _report(document: Json, place: _Place) -> Iterator[Item]:
    """Values of a metric report by id and property; each has its own stamp, else the report's."""
    for entry in document["MetricValues"]:
        if not isinstance(entry, dict):
            yield Fault(place.line, "no_resource", text_of(entry))
            continue
        path = text_of(entry.get("MetricProperty")).removeprefix(_ROOT)
        oem = entry.get("Oem")
        dell = oem.get("Dell") if isinstance(oem, dict) else None
        context = text_of(dell.get("ContextID")) if isinstance(dell, dict) else ""
        index = next((part for part in reversed(re.split("[/#]", path)) if part.isdecimal()), "")
        # Members are counted from 0, devices from 1.
        labels = {"path": path, "context": context, "number": str(int(index[:9]) + 1) if index else ""}
        stamp = entry.get("Timestamp", document.get("Timestamp"))
        yield Sample(
            place.line, f"MetricReport.{text_of(entry.get('MetricId'))} {context or path}".rstrip(),
            text_of(entry.get("MetricValue")), labels=labels, stamp=None if stamp is None else text_of(stamp),
        )  # fmt: skip


def _checked(sample: Sample, name: str, place: _Place) -> Sample | Fault:
    """Refuse the input of a supply that is its rating or more: the BMC shows the rating.

    Source: docs/definitions.md section 2.
    """
    watts = _number(sample.raw_value) if name in INPUT_POWERS else None
    if watts is None or place.capacity_w is None or watts < place.capacity_w:
        return sample
    raw_text = f"{sample.sensor} = {sample.raw_value}, capacity {place.capacity_w:g} W"
    return Fault(place.line, "out_of_rating", raw_text, sample.sensor)


def _labels(document: Json) -> dict[str, str]:
    return {
        "context": text_of(document.get("PhysicalContext")),
        "subcontext": text_of(document.get("PhysicalSubContext")),
    }


def _is_absent(document: Json) -> bool:
    status = document.get("Status")
    return isinstance(status, dict) and status.get("State") in WITHOUT_READING


def _owner(document: Json) -> str:
    """Return what a metrics resource belongs to: collection and member above it in its address, such as Chassis/1U."""
    parts = text_of(document.get("@odata.id")).removeprefix(_ROOT).strip("/").split("/")[:-1]
    return "/".join([part for part in parts if part not in _SUBSYSTEMS][-2:])


def _first_key(document: Json, keys: tuple[str, ...]) -> str | None:
    """Return the first of `keys` that has a value, else the first that is there."""
    there = [key for key in keys if key in document]
    return next((key for key in there if document[key] is not None), there[0] if there else None)


def _first(document: Json, *keys: str) -> Any:
    return next((document[key] for key in keys if document.get(key)), None)


def _number(value: Any) -> float | None:
    text = text_of(value)
    return float(text) if _NUMBER.fullmatch(text) else None
