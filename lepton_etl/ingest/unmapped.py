"""Sensors that no rule names: what they are, as far as name and unit say, and the rule that would read them.

A text is decoded a second time with rules that take any sensor of a known unit, or whose name ends like one of power,
energy, temperature or speed. What these read beside the table's own rules is what the table lacks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import polars as pl

from lepton_etl.ingest.auto import Auto, claims
from lepton_etl.ingest.decoded import EARLIEST, LATEST, Decoded, Origin
from lepton_etl.ingest.registry import LogFormat, formats
from lepton_etl.ingest.sensors import RuleTable, SensorRule
from lepton_etl.ingest.text import HEAD_BYTES, peek

# Names that speak of power or energy and are no reading of a device: limits, states, shares that an exporter worked
# out, and what lies inside a CPU package.
_NO_READING: Final = (
    r"limit|cap(?![a-z])|threshold|budget|rating|state|status|health|count|fault|redundan|cycle|factor|enabled|"
    r"info|min(?![a-z])|max(?![a-z])|peak|container|pod|process_|cgroup|vm_|job|(?<![a-z])(?:un)?core|(?<![a-z])other"
)
_POWER: Final = r"watts?|power|pwr|[._]pw(?:r|_)"
_ENERGY: Final = r"joules?|energy|k?wh(?![a-z])"
# Quantity of any sensor of a unit, by name and by unit.
_BY_NAME: Final = (
    (r"(?i:.*micro_?watt.*)", "node_power", ("microwatt",), "instant"),
    (r"(?i:.*milli_?watt.*)", "node_power", ("mW",), "instant"),
    (rf"(?i:.*(?:{_ENERGY}).*)", "node_energy", ("J", "kJ", "mJ", "Wh", "kWh"), "counter"),
    (rf"(?i:.*(?:{_POWER}).*)", "node_power", ("W", "mW", "kW"), "instant"),
    (r"(?i:.*celsius.*)", "inlet_temperature", ("degC",), "instant"),
)
# A value without a unit takes that of the first rule: one that nothing is proposed for.
_NO_UNIT: Final = "byte"
_BY_UNIT: Final = (
    (".+", "data_transferred", (_NO_UNIT,), "instant"),
    (".+", "node_power", ("W", "mW", "kW"), "instant"),
    (".+", "node_energy", ("J", "Wh", "kWh"), "counter"),
    (".+", "inlet_temperature", ("degC", "degF"), "instant"),
    (".+", "fan_speed", ("RPM",), "instant"),
    (".+", "cpu_utilisation", ("percent",), "instant"),
)
# Words of a name -> stem of the quantity and device; the first that is there. Of a number in the name the first.
_PARTS: Final = (
    (r"psu|power supply|\bps\d|pws", "psu_input", "psu"),
    (r"cpu|package|\bpkg|socket|processor", "cpu", "cpu"),
    (r"dram|mem|dimm", "dram", "dram"),
    (r"gpu|accelerator|\boam|nvidia|dcgm|\bxpu", "gpu", "gpu"),
    (r"fan", "fan", "fan"),
    (r"chassis|enclosure|frame|\brmc", "chassis_input", "chassis"),
)


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A sensor that no rule of a format names: its records; where they are numbers, unit, range and a rule for it."""

    sensor: str
    records: int
    unit: str | None = None
    lowest: float | None = None
    highest: float | None = None
    rule: str | None = None
    format: str = ""

    @property
    def speaks_for_node(self) -> bool:
        """Whether the rule would give the node's own power or that of its supplies."""
        return (
            self.rule is not None
            and re.search(r"quantity: (?:node|psu_input|psu_output)_", self.rule) is not None
        )

    @property
    def is_power(self) -> bool:
        """Whether it is power or energy above 0 that a rule could read."""
        return bool(self.rule and re.search(r"_(?:power|energy),", self.rule) and self.highest)


def speaks_of_power(sensor: str) -> bool:
    """Return whether a name sounds like power or energy that was measured."""
    wanted = re.search(rf"(?i){_POWER}|{_ENERGY}", sensor)
    return wanted is not None and re.search(rf"(?i){_NO_READING}", sensor) is None


def proposed(sensor: str, unit: str) -> str | None:
    """Return a line for a file of conf/sensors that reads a sensor of a unit (of pint): a guess by its name.

    None where the name says that it is no reading of what the unit measures.
    """
    words = sensor.replace("_", " ").lower()
    found = next((part for part in _PARTS if re.search(part[0], words)), None)
    kind = _kind(unit)
    number = re.search(r"\d+", words)
    quantity, device = kind, "node"
    if kind in ("power", "energy"):
        stem, device = (found[1], found[2]) if found else ("node", "node")
        if stem == "psu_input" and re.search(r"\bout|\bdc\b", words):
            stem = "psu_output"
        quantity = f"{stem}_{kind}"
    elif kind == "temperature":
        # Of a board's many temperatures none is taken for another: only a name that says which is which.
        where = next(
            (name for name in ("exhaust", "cpu", "gpu", "dimm", "inlet", "ambient") if name in words), None
        )
        if where is None:
            return None
        at_node = where in ("inlet", "ambient")
        quantity, device = f"{'inlet' if at_node else where}_temperature", "node" if at_node else where
    elif kind == "fan_speed" or "fan" in words:
        quantity, device = ("fan_speed" if kind == "fan_speed" else "fan_duty"), "fan"
    elif "util" in words:
        quantity = "gpu_utilisation" if "gpu" in words else "cpu_utilisation"
    else:
        return None
    if kind in ("power", "energy") and re.search(rf"(?i){_NO_READING}", sensor):
        return None
    if number and device not in ("node", "chassis"):
        device += number[0]
    statistic = ", statistic: counter" if kind == "energy" else ""
    match = re.sub(r"([.^$*+?{}\[\]|()\\])", r"\\\1", sensor).replace("'", "''")
    return f"- {{match: '{match}', quantity: {quantity}, device: {device}, unit: {unit}{statistic}}}"


def unmapped(text: Callable[[], Iterable[bytes]], origin: Origin, settings: LogFormat) -> list[Unmapped]:
    """Return the sensors of a text that no rule of its format names, by name; `text` gives it anew at each call."""
    if isinstance(settings, Auto):
        names = claims(peek(text(), HEAD_BYTES)[0])
        if len(names) != 1:
            return []
        settings = formats()[names[0]]()
    ignored = Decoded.merge(settings.read(text(), origin)).ignored
    counts = {sensor: records for (sensor, reason), records in ignored.items() if reason == "unmapped"}
    rules = getattr(settings, "sensors", None)
    if not counts or not isinstance(rules, RuleTable):
        return [
            Unmapped(sensor, records, format=settings.format) for sensor, records in sorted(counts.items())
        ]
    wide = settings.model_copy(update={"sensors": _wider(rules)})
    # When it was logged does not matter here.
    somewhen = replace(
        origin,
        path_time=origin.path_time or EARLIEST,
        earliest=EARLIEST,
        latest=LATEST,
        sampling_period_s=1.0,
    )
    readings = pl.DataFrame(Decoded.merge(wide.read(text(), somewhen)).readings)
    value = pl.col("raw_value").cast(pl.Float64, strict=False)
    found = {
        row["sensor"]: row
        for row in readings.filter(pl.col("sensor").is_in(list(counts)))
        .group_by("sensor")
        .agg(pl.col("raw_unit").drop_nulls().first(), value.min().alias("low"), value.max().alias("high"))
        .to_dicts()
    }
    return [
        replace(_described(sensor, records, found.get(sensor), rules), format=settings.format)
        for sensor, records in sorted(counts.items())
    ]


def merged(found: Iterable[Unmapped]) -> list[Unmapped]:
    """Return the sensors of several texts of one source together, by name."""
    together: dict[str, Unmapped] = {}
    for one in found:
        other = together.get(one.sensor)
        if other is None:
            together[one.sensor] = one
            continue
        known = [text for text in (other, one) if text.lowest is not None and text.highest is not None]
        together[one.sensor] = replace(
            known[0] if known else other,
            records=other.records + one.records,
            lowest=min((text.lowest for text in known if text.lowest is not None), default=None),
            highest=max((text.highest for text in known if text.highest is not None), default=None),
        )
    return [together[sensor] for sensor in sorted(together)]


def _described(sensor: str, records: int, seen: dict[str, Any] | None, rules: RuleTable) -> Unmapped:
    if seen is None or seen["raw_unit"] in (None, "", _NO_UNIT):
        return Unmapped(sensor, records)
    raw = str(seen["raw_unit"])
    unit = rules.units.get(raw, raw)
    return Unmapped(sensor, records, raw, seen["low"], seen["high"], proposed(sensor, unit))


@cache
def _kind(unit: str) -> str:
    """What a unit of _BY_NAME or _BY_UNIT measures."""
    named = {quantity for _, quantity, units, _ in (*_BY_NAME, *_BY_UNIT) if unit in units}
    return named.pop().removeprefix("node_").removeprefix("inlet_")


def _wider(rules: RuleTable) -> RuleTable:
    """The table with rules for whatever it does not name, behind its own."""
    more = tuple(
        SensorRule(match=match, quantity=quantity, unit=units, statistic=statistic)
        for match, quantity, units, statistic in (*_BY_NAME, *(_BY_UNIT if rules.units else ()))
    )
    own = {name: getattr(rules, name) for name in RuleTable.model_fields}
    return RuleTable(**own | {"rules": rules.rules + more})
