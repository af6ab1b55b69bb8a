"""Redfish resources as a BMC serves them, in JSON: Power, Thermal, sensors, metrics, reports, and pieces of them.

What a resource says is told by its keys and its type, not by where it stands, because collectors keep what they asked
for: a whole resource, one array of it, or one member. A number that looks like a reading and stands where no schema has
one is a record too, named by its path: a rule may name it, and nothing vanishes.
"""

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
# Types of Power's and Thermal's members that were fetched alone, and keys that tell a member that names no type.
MEMBER_TYPES: Final = {
    "PowerControl": "PowerControl", "PowerSupply": "PowerSupplies", "Voltage": "Voltages",
    "Temperature": "Temperatures", "Fan": "Fans",
}  # fmt: skip
MEMBER_KEYS: Final = {
    "PowerConsumedWatts": "PowerControl", "PowerMetrics": "PowerControl", "PowerInputWatts": "PowerSupplies",
    "PowerOutputWatts": "PowerSupplies", "LastPowerOutputWatts": "PowerSupplies", "ReadingVolts": "Voltages",
    "ReadingCelsius": "Temperatures", "FanName": "Fans",
}  # fmt: skip
# Names of readings wherever they stand, and of settings, ratings and extremes of all time, which are none.
_READING: Final = re.compile(
    r"(?:Current)?Reading|\w*(?:Watts|Celsius|Volts|Voltage|Amps|kWh|Joules|RPM|SpeedPercent|Kelvin|PowerW|ConsumptionW|TotalPower)"
)
_NO_READING: Final = re.compile(
    r".*(?:Capacity|Limit|Max|Min|Range|Threshold|Alloc|Avail|Request|Rated|Nominal|Allowable|Lifetime|Peak|Default).*"
)
_CONTROL: Final = ("PowerConsumedWatts", "PowerMetrics", "PowerLimit")
# What says how a reading is meant, and holds none.
_ABOUT: Final = (
    "Actions",
    "Status",
    "Thresholds",
    "Links",
    "Location",
    "RelatedItem",
    "InputRanges",
    "Redundancy",
)
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
_ANNOTATION: Final = re.compile(
    rb'"(?:@odata\.(?:id|type|context)|PowerConsumedWatts|PowerInputWatts|AverageConsumedWatts|ReadingCelsius|MetricValue)"'
    rb"\s*:|\"PowerWatts\"\s*:\s*\{"
)
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
        """Return whether a text is JSON with OData annotations, or with keys that only this service's readings have."""
        return head.lstrip()[:1] in (b"{", b"[") and _ANNOTATION.search(head) is not None

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the documents of a file; see `walk`."""
        return decode_documents(chunks, origin, self.sensors, walk)


def walk(value: Any, line: int) -> Iterator[Item]:
    """Yield the readings of one document: a resource, an array of them, or a collection with its members expanded.

    A document of the service without a reading (Chassis, a collection of links) is structure; anything else without
    one is a reject (no_resource), an error message of the service too. Source: DMTF DSP2046, DSP0268.
    """
    several = isinstance(value, list) and len(value) > 1
    for number, document in enumerate(value if isinstance(value, list) else [value], start=1):
        items = (
            list(_resource(document, _Place(line), number if several else None))
            if isinstance(document, dict)
            else []
        )
        if items:
            yield from items
        elif isinstance(document, dict) and ("@odata.id" in document or "@odata.type" in document):
            yield STRUCTURE
        else:
            yield Fault(line, "no_resource", text_of(document))


def _resource(document: Json, place: _Place, number: int | None = None) -> Iterator[Item]:
    """Yield the readings of a resource, of a part of one, and of all that stands in it."""
    if place.depth > MAX_DEPTH:
        yield Fault(place.line, "too_deep", text_of(document.get("@odata.id")))
        return
    place = replace(place, depth=place.depth + 1, capacity_w=_rating(document) or place.capacity_w)
    kind = _kind(document)
    array = _array_of(document, kind)
    if array is None and (kind == "Sensor" or "ReadingType" in document or "ReadingUnits" in document):
        yield from _sensor(document, place)
        return
    if "MetricValue" in document and not isinstance(document["MetricValue"], dict):
        document = {"MetricValues": [document]}
    if "MetricValues" in document:
        yield from _report(document, place)
        return
    if any(key in document for key in WINDOWED):
        yield from _window({"PowerMetrics": document}, _control_of(document), {"number": "1"}, place)
        return
    if array is not None:
        alone = text_of(
            document.get("MemberId")
        )  # Counted from 0 or from 1, as the maker likes: 2 is no first one.
        own = int(alone) if alone.isdecimal() and 1 < int(alone) < 1000 else 1
        yield from _member(array, number or own, document, place)
        return
    if "PowerControl" not in document and "PowerConsumedWatts" in document:  # iLO before its version 2.1
        control = {key: value for key, value in document.items() if key in _CONTROL}
        document = {key: value for key, value in document.items() if key not in _CONTROL}
        yield from _member("PowerControl", 1, control, place)
    yield from _parts(document, kind, "", _owner(document), place)


def _parts(
    document: Json, kind: str, path: str, owner: str, place: _Place, labels: Mapping[str, str] | None = None
) -> Iterator[Item]:
    """Yield the readings below an object, by the path of their keys from the resource on.

    `labels` are those of the member of an array that holds them all.
    """
    if place.depth > MAX_DEPTH:
        yield Fault(place.line, "too_deep", f"{kind}.{path} {owner}")
        return
    place = replace(place, depth=place.depth + 1)
    for name, value in document.items():
        if "@" in name or name in _ABOUT:
            continue
        step = f"{path}.{name}" if path else name
        if not isinstance(value, dict | list):
            is_state = step == "PowerState" and kind == "ComputerSystem"
            # HPE's PowerMeter has its power under Average.
            if is_state or _is_reading(name, value) or (name == "Average" and kind.endswith("PowerMeter")):
                sensor = f"{kind}.{step} {owner}".strip(" .")
                own = _labels(document) | {"owner": owner} | dict(labels or {})
                yield Sample(place.line, sensor, text_of(value), labels=own)
            continue
        for number, item in enumerate(_items(name, value), start=1):
            if not isinstance(item, dict):
                continue
            if name in ARRAYS and _is_one_of(name, item):
                yield from _member(name, number, item, place)
            elif "@odata.id" in item or name == "Members":
                yield from _resource(item, place, number)
            elif "Reading" in item or "SetPoint" in item:
                yield from _excerpt(kind, step, item, owner, place)
            else:
                # A maker's own object holds what the standard names too, of the resource that holds it.
                array = None if "Oem" in step.split(".") else _array_of(item, _kind(item))
                if array is None:
                    whose = text_of(_first(item, "Name", "Designation")) if isinstance(value, list) else ""
                    yield from _parts(item, kind, step, whose or owner, place, labels)
                else:
                    yield from _member(array, number, item, place)


def _items(name: str, value: Json | list[Any]) -> list[Any]:
    """Return the members under a key: of an array, the one object in its place, or objects by their names."""
    if isinstance(value, list):
        return value
    named = list(value.values())
    if name in ARRAYS and named and all(isinstance(item, dict) and _is_one_of(name, item) for item in named):
        return named
    return [value]


def _is_one_of(array: str, item: Json) -> bool:
    """Return whether an object is a member of an array of Power or Thermal, and not a link or a resource of its own."""
    keys = [key for names in ARRAYS[array] for key in names]
    return (
        any(key in item for key in keys)
        or "MemberId" in item
        or not ("@odata.id" in item or "Members" in item)
    )


def _is_reading(name: str, value: Any) -> bool:
    number = isinstance(value, str) and _NUMBER.fullmatch(value)
    return bool(number and _READING.fullmatch(name) and not _NO_READING.fullmatch(name))


def _kind(document: Json) -> str:
    """Return the schema of a resource, by its type, else its context, else its address or id."""
    named = text_of(document.get("@odata.type")).removeprefix("#")
    if named:
        return (
            named.rpartition(".")[2] if named.startswith(("Power.", "Thermal.")) else named.partition(".")[0]
        )
    context = text_of(document.get("@odata.context")).rpartition("#")[2]
    if context:
        return context.partition(".")[0]
    return text_of(document.get("@odata.id")).rstrip("/").rpartition("/")[2] or text_of(document.get("Id"))


def _array_of(document: Json, kind: str) -> str | None:
    """Return the array of Power or Thermal that an object would stand in; None where it is no member of one."""
    if text_of(document.get("@odata.type")).startswith(("#Power.", "#Thermal.")) and kind in MEMBER_TYPES:
        return MEMBER_TYPES[kind]
    if any(
        name in document for name in ARRAYS
    ):  # The resource that holds such arrays may repeat their figures.
        return None
    return next((array for key, array in MEMBER_KEYS.items() if key in document), None)


def _member(array: str, number: int, member: Json, place: _Place) -> Iterator[Item]:
    """Yield the readings of one member of an array of Power or Thermal; one that says no value counts once, as none."""
    name = _first(member, "Name", "FanName", "MemberId") or str(number)
    unit = text_of(_first(member, "ReadingUnits", "Units"))
    labels = _labels(member) | {"number": str(number), "unit": unit}
    absent = _is_absent(member)
    place = replace(place, capacity_w=_rating(member))
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
    seen = {"PowerMetrics", "PowerLimit", *(key for keys in ARRAYS[array] for key in keys)}
    rest = {key: value for key, value in member.items() if key not in seen}
    yield from _parts(rest, array, "", str(name), place, labels)


def _control_of(metrics: Json) -> str:
    """Return the name of the PowerControl whose PowerMetrics were fetched alone."""
    return (
        "PowerControl"
        if "@odata.id" not in metrics
        else text_of(metrics["@odata.id"]).rstrip("/").split("/")[-2]
    )


def _window(control: Json, name: str, labels: Mapping[str, str], place: _Place) -> Iterator[Item]:
    """Average, lowest and highest power over the last IntervalInMin minutes.

    Without these they run since a start that nobody knows: sensors of another name (.SinceReset), which no rule reads.
    """
    metrics = control.get("PowerMetrics")
    if not isinstance(metrics, dict):
        return
    window_s = SECONDS_PER_MINUTE * (_number(metrics.get("IntervalInMin")) or 0.0)
    for key in WINDOWED:
        if key in metrics:
            since = "" if window_s else ".SinceReset"
            sensor = f"PowerControl.PowerMetrics.{key}{since} {name}"
            yield Sample(place.line, sensor, text_of(metrics[key]), labels=labels, window_s=window_s)


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
    """Copies of sensors within metrics, {"Reading": ...}, or the set point of a limit."""
    key = "Reading" if "Reading" in value else "SetPoint"
    owner = owner or _chassis_of(text_of(value.get("DataSourceUri")))
    whose = " ".join(text for text in (owner, text_of(value.get("DeviceName"))) if text)
    labels = _labels(value) | {"owner": owner, "device": text_of(value.get("DeviceName"))}
    sensor = f"{kind}.{name} {whose}".rstrip()
    yield _checked(Sample(place.line, sensor, text_of(value[key]), labels=labels), name, place)
    if "SpeedRPM" in value:
        sensor = f"{kind}.{name}.SpeedRPM {whose}".rstrip()
        yield Sample(place.line, sensor, text_of(value["SpeedRPM"]), labels=labels)


def _report(document: Json, place: _Place) -> Iterator[Item]:
    """Values of a metric report by id and property; each has its own stamp, else the report's."""
    values = document["MetricValues"]
    for entry in values if isinstance(values, list) else [values]:
        if not isinstance(entry, dict):
            yield Fault(place.line, "no_resource", text_of(entry))
            continue
        path = text_of(entry.get("MetricProperty")).removeprefix(_ROOT)
        oem = entry.get("Oem")
        makers = [part for part in oem.values() if isinstance(part, dict)] if isinstance(oem, dict) else []
        # A stale value is what the sensor said last, with the time of then or of now: no value of this report.
        stale = any(maker.get("MetricValueStale") in (True, "true") for maker in makers)
        dell = oem.get("Dell") if isinstance(oem, dict) else None
        context = text_of(dell.get("ContextID")) if isinstance(dell, dict) else ""
        index = next((part for part in reversed(re.split("[/#]", path)) if part.isdecimal()), "")
        # Members are counted from 0, devices from 1.
        labels = {"path": path, "context": context, "number": str(int(index[:9]) + 1) if index else ""}
        stamp = entry.get("Timestamp", document.get("Timestamp"))
        yield Sample(
            place.line, f"MetricReport.{text_of(entry.get('MetricId'))} {context or path}".rstrip(),
            "" if stale else text_of(entry.get("MetricValue")), labels=labels,
            stamp=None if stamp is None else text_of(stamp),
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


def _chassis_of(address: str) -> str:
    """Return the chassis of a sensor's address, such as Chassis/1U; empty where it names none."""
    match = re.search(r"Chassis/[^/]+", address)
    return match[0] if match else ""


def _rating(document: Json) -> float | None:
    """Return what a power supply can deliver; 0 is written where the BMC does not know, and its ranges may."""
    ranges = document.get("InputRanges")
    outputs = (
        [_number(one.get("OutputWattage")) for one in ranges if isinstance(one, dict)]
        if isinstance(ranges, list)
        else []
    )
    return _number(document.get("PowerCapacityWatts")) or max(
        (watts for watts in outputs if watts), default=None
    )


def _first_key(document: Json, keys: tuple[str, ...]) -> str | None:
    """Return the first of `keys` that has a value, else the first that is there."""
    there = [key for key in keys if key in document]
    return next((key for key in there if document[key] is not None), there[0] if there else None)


def _first(document: Json, *keys: str) -> Any:
    return next((document[key] for key in keys if document.get(key)), None)


def _number(value: Any) -> float | None:
    text = text_of(value)
    return float(text) if _NUMBER.fullmatch(text) else None
