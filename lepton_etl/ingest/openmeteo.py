"""Weather of the Open-Meteo API: one array a variable, hour by hour, and its unit, as JSON or as its CSV."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple

import polars as pl

from lepton_etl.ingest.decoded import Decoded, Origin, assemble, with_columns_of
from lepton_etl.ingest.documents import Document, documents
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table
from lepton_etl.ingest.samples import CELLS, Fault, fault_frame, with_times
from lepton_etl.ingest.sensors import Mapped, Rules, literals
from lepton_etl.ingest.text import MAX_DOCUMENT_BYTES, in_utf8, peek
from lepton_etl.ingest.units import parse_stamps

SECTIONS: Final = ("hourly", "minutely_15")
TIME: Final = "time"
UNIX_TIME: Final = "unixtime"
MAX_OFFSET_S: Final = 14 * 3600
_ARRAYS: Final = re.compile(rb'"(?:hourly|minutely_15)"\s*:\s*\{')
# A CSV begins with the place, or the places; blocks of a header and rows follow, a blank line before each.
_CSV: Final = re.compile(rb"(?:location_id,)?latitude,longitude,elevation,utc_offset_seconds,")
_COLUMN: Final = re.compile(r"(?P<name>[^()]*?)(?: \((?P<unit>.*)\))?")
_PLACE: Final = re.compile(rb'"utc_offset_seconds"\s*:')


@log_format
class OpenMeteo(LogFormat):
    """JSON or CSV of the Open-Meteo archive and forecast API.

    Stamps are of a clock that stands `utc_offset_seconds` before UTC all year, whatever `timezone` says; asked for as
    unixtime they are UTC. A null is no value. An answer for several places, without the offset, or without arrays is
    one reject. A position is the place of a value in its array. Source: Open-Meteo API; docs/definitions.md section 9.
    """

    format: Literal["openmeteo"] = "openmeteo"
    subjects = ("weather",)
    followed_by = "whole files"
    sensors: Rules = rule_table("openmeteo")

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins as an answer of the API."""
        return _CSV.match(head) is not None or (
            _PLACE.search(head) is not None and _ARRAYS.search(head) is not None
        )

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the answers of a file."""
        head, chunks = peek(in_utf8(chunks))
        for part in [_csv_answer(chunks)] if _CSV.match(head) else documents(chunks):
            cells = [pl.DataFrame(schema=CELLS)]
            times = [parse_stamps(pl.Series([], dtype=pl.String), timezone="UTC")]
            faults: list[Fault] = []
            ignored: Counter[tuple[str, str]] = Counter()
            for item in part:
                for variable in [item] if isinstance(item, Fault) else _variables(item):
                    if isinstance(variable, Fault):
                        faults.append(variable)
                    elif (mapped := self.sensors.find(variable.name)) is None:
                        ignored[(variable.name, "unmapped")] += len(variable.values)
                    else:
                        if None in variable.values:
                            ignored[(variable.name, "no_value")] += variable.values.count(None)
                        known = pl.Series([value is not None for value in variable.values], dtype=pl.Boolean)
                        cells.append(self._cells(variable, mapped).filter(known))
                        times.append(variable.times.filter(known))
            timed = with_times(pl.concat(cells), pl.concat(times), origin)
            yield assemble(timed, [fault_frame(faults)], dict(ignored), 0, None, origin)

    def _cells(self, variable: "_Variable", mapped: Mapped) -> pl.DataFrame:
        """Return the values of one variable as CELLS."""
        unit = variable.unit or self.sensors.rules[mapped.rule].unit[0]
        texts = [None if value is None else _text(value) for value in variable.values]
        cells = pl.DataFrame({"raw_value": pl.Series(texts, dtype=pl.String)}).with_columns(
            pl.int_range(1, pl.len() + 1).alias("source_position"),
            pl.lit(variable.name).alias("sensor"),
            pl.lit(mapped.devices[0]).alias("device_id"),
            pl.lit("").alias("stamp"),
            pl.lit(0.0).alias("window_s"),
            pl.lit(1).alias("multiplicity"),
            pl.format("{} = {} {}", pl.lit(variable.name), "raw_value", pl.lit(unit)).alias("raw_text"),
            *literals(self.sensors.meaning(mapped, unit)),
        )
        return with_columns_of(cells, CELLS)


def _csv_answer(chunks: Iterable[bytes]) -> list[Document | Fault]:
    """Return a CSV answer as the JSON of the same answer; days and the present have no hours, and are left out."""
    text = b""
    for chunk in chunks:
        text += chunk[: MAX_DOCUMENT_BYTES + 1 - len(text)]
    if len(text) > MAX_DOCUMENT_BYTES:
        return [Fault(1, "too_large", f"more than {MAX_DOCUMENT_BYTES} bytes")]
    lines = text.decode("utf-8", "replace").replace("\r\n", "\n")
    blocks = [
        [line.split(",") for line in block.split("\n")] for block in re.split(r"\n\s*\n", lines.strip())
    ]
    keys, *places = blocks[0]
    answers: list[dict[str, Any]] = [dict(zip(keys, place, strict=False)) for place in places] or [{}]
    tables = [
        block for block in blocks[1:] if block[0][0] == TIME and len(block) > 1 and _has_hours(block[1][0])
    ]
    # A quarter of an hour stands before the hours where both were asked for.
    for section, (header, *rows) in zip(SECTIONS[::-1][-len(tables) :], tables, strict=False):
        named = [_COLUMN.fullmatch(column) for column in header]
        names = [match["name"] if match else column for match, column in zip(named, header, strict=True)]
        cells = [[_cell(row[at]) if at < len(row) else None for row in rows] for at in range(len(names))]
        answers[0][section] = dict(zip(names, cells, strict=True))
        units = {
            name: (match["unit"] if match else None) or "" for name, match in zip(names, named, strict=True)
        }
        answers[0][f"{section}_units"] = units | {TIME: UNIX_TIME if rows[0][0].isdecimal() else ""}
    return [Document(1, answers)]


def _has_hours(stamp: str) -> bool:
    return stamp.isdecimal() or "T" in stamp


def _cell(text: str) -> str | None:
    return text if text.strip() and text.strip().lower() != "nan" else None


class _Variable(NamedTuple):
    """One array of an answer, its unit, and time and reason of its values."""

    name: str
    unit: str
    values: list[Any]
    times: pl.DataFrame


def _variables(document: Document) -> Iterator[_Variable | Fault]:
    """Yield the arrays of one answer beside its times."""
    answer, line = document.value, document.line
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, list):
        yield Fault(
            line, "several_places", f"{len(answer)} places in one file: nobody says which is the site's"
        )
        return
    sections = [name for name in SECTIONS if isinstance(answer, dict) and isinstance(answer.get(name), dict)]
    if not sections:
        yield Fault(line, "bad_json", f"no object {' or '.join(SECTIONS)}")
    for section in sections:
        arrays, units = answer[section], answer.get(f"{section}_units")
        units = units if isinstance(units, dict) else {}
        times = _times(arrays.get(TIME), units.get(TIME) == UNIX_TIME, answer.get("utc_offset_seconds"))
        if times is None:
            yield Fault(line, "no_time", f"{section}: no array {TIME}, or no utc_offset_seconds of a zone")
            continue
        for name, values in sorted(arrays.items()):
            if name == TIME:
                continue
            if isinstance(values, list) and len(values) == times.height:
                yield _Variable(name, _text(units.get(name, "")), values, times)
            else:
                count = len(values) if isinstance(values, list) else "no"
                yield Fault(line, "bad_json", f"{name}: {count} values for {times.height} times", sensor=name)


def _times(stamps: Any, unix: bool, utc_offset_s: Any) -> pl.DataFrame | None:
    """time (UTC) and reason of each stamp; None where they cannot be known."""
    offset_s = 0.0 if unix else _number(utc_offset_s)
    if not isinstance(stamps, list) or offset_s is None or not abs(offset_s) <= MAX_OFFSET_S:
        return None
    texts = pl.Series([_text(stamp) for stamp in stamps], dtype=pl.String)
    times = parse_stamps(texts, timezone="UTC", epoch="s" if unix else None)
    return times.with_columns(pl.col("time") - pl.duration(seconds=offset_s))


def _text(value: Any) -> str:
    """Return a value as text; an object or array is none, however deep it is."""
    return "[...]" if isinstance(value, list | dict) else str(value)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
