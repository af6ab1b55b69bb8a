"""Weather of the Open-Meteo API: JSON with one array a variable, hour by hour, and its unit."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import polars as pl

from lepton_etl.ingest.decoded import Decoded, Origin, assemble, number_of, value_reason
from lepton_etl.ingest.documents import Document, documents
from lepton_etl.ingest.samples import Fault, fault_frame
from lepton_etl.ingest.specs import OpenMeteoSpec
from lepton_etl.ingest.text import Parts
from lepton_etl.ingest.units import parse_stamps, with_value
from lepton_etl.schema.common import QUANTITIES

SECTIONS: Final = ("hourly", "minutely_15")
TIME: Final = "time"
UNIX_TIME: Final = "unixtime"
MAX_OFFSET_S: Final = 14 * 3600
_ARRAYS: Final = re.compile(rb'"(?:hourly|minutely_15)"\s*:\s*\{')
_PLACE: Final = re.compile(rb'"utc_offset_seconds"\s*:')

Json = Mapping[str, Any]


def read(chunks: Iterable[bytes], origin: Origin, spec: OpenMeteoSpec) -> Parts:
    """Readings and rejects of one place, answer after answer; a position is the place of a value in its arrays.

    Stamps are of a clock that stands `utc_offset_seconds` before UTC all year, whatever `timezone` says; asked for as
    unixtime they are UTC. A null is no value. An answer for several places, without the offset, or without arrays is
    one reject. Source: Open-Meteo API; docs/definitions.md section 9.
    """
    for part in documents(chunks):
        weather = _Weather(spec)
        for item in part:
            if isinstance(item, Fault):
                weather.faults.append(item)
            else:
                weather.take(item)
        yield weather.decoded(origin)


def looks_like(head: bytes) -> bool:
    """Whether a JSON text begins as an answer of the API."""
    return _PLACE.search(head) is not None and _ARRAYS.search(head) is not None


class _Weather:
    """What the documents of one part of a file say."""

    def __init__(self, spec: OpenMeteoSpec) -> None:
        self.faults: list[Fault] = []
        self._spec = spec
        self._cells = [_cells("", "", [], parse_stamps(pl.Series([], dtype=pl.String), timezone="UTC"), spec)]
        self._ignored: Counter[tuple[str, str]] = Counter()

    def take(self, document: Document) -> None:
        """The arrays of one document."""
        answer, line = document.value, document.line
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if isinstance(answer, list):
            what = f"{len(answer)} places in one file: nobody says which is the site's"
            self.faults.append(Fault(line, "several_places", what))
            return
        sections = [
            name for name in SECTIONS if isinstance(answer, dict) and isinstance(answer.get(name), dict)
        ]
        if not sections:
            self.faults.append(Fault(line, "bad_json", f"no object {' or '.join(SECTIONS)}"))
        for name in sections:
            units = answer.get(f"{name}_units")
            units = units if isinstance(units, dict) else {}
            times = _times(
                answer[name].get(TIME), units.get(TIME) == UNIX_TIME, answer.get("utc_offset_seconds")
            )
            if times is None:
                what = f"{name}: no array {TIME}, or no utc_offset_seconds of a zone"
                self.faults.append(Fault(line, "no_time", what))
            else:
                self._arrays(answer[name], units, times, line)

    def decoded(self, origin: Origin) -> Decoded:
        """Readings and rejects of all that was taken."""
        faults = [fault_frame(self.faults)]
        return assemble(pl.concat(self._cells), faults, dict(self._ignored), 0, None, origin)

    def _arrays(self, arrays: Json, units: Json, times: pl.DataFrame, line: int) -> None:
        """The variables beside `times` (time, reason)."""
        for name, values in sorted(arrays.items()):
            if name == TIME:
                continue
            if not isinstance(values, list) or len(values) != times.height:
                found = len(values) if isinstance(values, list) else "no"
                what = f"{name}: {found} values for {times.height} times"
                self.faults.append(Fault(line, "bad_json", what, sensor=name))
            elif self._spec.sensors.find(name) is None:
                self._ignored[(name, "unmapped")] += len(values)
            else:
                known = [None if value is None else _text(value) for value in values]
                if None in known:
                    self._ignored[(name, "no_value")] += known.count(None)
                self._cells.append(_cells(name, _text(units.get(name, "")), known, times, self._spec))


def _times(stamps: Any, unix: bool, utc_offset_s: Any) -> pl.DataFrame | None:
    """time (UTC) and reason of each stamp; None where they cannot be known."""
    offset_s = 0.0 if unix else _number(utc_offset_s)
    if not isinstance(stamps, list) or offset_s is None or not abs(offset_s) <= MAX_OFFSET_S:
        return None
    texts = pl.Series([_text(stamp) for stamp in stamps], dtype=pl.String)
    times = parse_stamps(texts, timezone="UTC", epoch="s" if unix else None)
    return times.with_columns(pl.col("time") - pl.duration(seconds=offset_s))


def _cells(
    name: str, unit: str, values: list[str | None], times: pl.DataFrame, spec: OpenMeteoSpec
) -> pl.DataFrame:
    """The values of one variable that are known, as cells with value, time and reason."""
    mapped = spec.sensors.find(name)
    rule = mapped.rule if mapped is not None else 0
    unit = unit or spec.sensors.rules[rule].unit[0]
    change = spec.sensors.convert(rule, unit)
    quantity = QUANTITIES[spec.sensors.rules[rule].quantity]
    scale = (change.factor, change.divisor, change.offset) if change else (None, None, None)
    frame = times.select(pl.col("time").alias("reading_time"), pl.col("reason").alias("time_reason"))
    frame = frame.with_columns(pl.Series("raw_value", values, dtype=pl.String)).with_row_index(
        "source_position", offset=1
    )
    known = frame.filter(pl.col("raw_value").is_not_null()).with_columns(
        pl.col("source_position").cast(pl.Int64),
        pl.lit(None, dtype=pl.String).alias("node_id"),
        pl.lit(mapped.devices[0] if mapped is not None else "").alias("device_id"),
        pl.lit(quantity.name).alias("quantity"),
        pl.lit("instant").alias("statistic"),
        pl.lit(0.0).alias("window_s"),
        pl.lit(1, dtype=pl.Int32).alias("multiplicity"),
        pl.lit(None, dtype=pl.String).alias("point"),
        pl.lit(name).alias("sensor"),
        pl.lit(unit).alias("raw_unit"),
        number_of(pl.col("raw_value")).alias("number"),
        *(
            pl.lit(number, dtype=pl.Float64).alias(part)
            for part, number in zip(("factor", "divisor", "offset"), scale, strict=True)
        ),
        pl.lit(quantity.ge).alias("low"),
        pl.lit(quantity.le).alias("high"),
        pl.format("{} = {} {}", pl.lit(name), "raw_value", pl.lit(unit)).alias("raw_text"),
    )
    return with_value(known).with_columns(pl.coalesce("time_reason", value_reason()).alias("reason"))


def _text(value: Any) -> str:
    """A value as text; an object or array is none, however deep it is."""
    return "[...]" if isinstance(value, list | dict) else str(value)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
