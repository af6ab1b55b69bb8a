"""Deliveries that are bad in one of the ways 8 to 24 of the faults (rows.py), each with what must come of it.

A recipe draws the bytes of one file of one node and day from a generator, so that a seed gives the same file anywhere.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.site import DAY, ipmi_text

_FROM_PATH: Final = {"node_id_from_path": r"(?P<node_id>n\d+)-\d{4}-\d\d-\d\d"}
_POWER: Final = {"column": "power", "quantity": "node_power", "unit": "W"}
_CSV: Final = {
    "format": "delimited",
    "time": {"column": "time"},
    "readings": [
        _POWER,
        {"column": "energy", "quantity": "node_energy", "unit": "J", "statistic": "counter"},
    ],
}
SOURCES: Final[list[dict[str, Any]]] = [
    {"name": "csv", "path": "landing/*.csv*", **_CSV, **_FROM_PATH},
    {"name": "local", "path": "landing/*.local", "timezone": "Europe/Berlin", **_CSV, **_FROM_PATH},
    {
        "name": "table", "format": "parquet", "path": "landing/*.parquet", "time": {"column": "time"},
        "readings": [_POWER], **_FROM_PATH,
    },
    {"name": "redfish", "format": "redfish", "path": "landing/*.json", **_FROM_PATH},
]  # fmt: skip


@dataclass(frozen=True)
class File:
    """A file to deliver; `powers` are the readings of power that must come of it, by their time, and no others."""

    name: str
    content: bytes
    powers: dict[datetime, float] = field(default_factory=dict)
    reasons: frozenset[str] = frozenset()
    """Each of these is the reason of a reject, or of the file."""
    conflicts: frozenset[datetime] = frozenset()
    """Times that the file gives more than one power for."""
    is_damaged: bool = False
    """Whether nobody can say what of it is readable: fewer readings may come of it, and no others."""


Recipe = Callable[[random.Random, str], File]


def stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _times(rng: random.Random, day: date = DAY) -> list[datetime]:
    start = datetime(day.year, day.month, day.day, rng.randrange(24), tzinfo=UTC)
    return [start + timedelta(minutes=m) for m in range(rng.randrange(3, 9))]


def _rows(rng: random.Random, times: list[datetime]) -> list[tuple[datetime, float, float]]:
    return [(time, float(rng.randrange(80, 400)), 1000.0 + 6000 * n) for n, time in enumerate(times)]


def _csv(rows: list[tuple[datetime, float, float]], header: str = "time,power,energy") -> str:
    return "\n".join([header, *(f"{stamp(time)},{power},{energy}" for time, power, energy in rows)]) + "\n"


def _powers(rows: list[tuple[datetime, float, float]]) -> dict[datetime, float]:
    return {time: power for time, power, _ in rows}


def _name(node: str, suffix: str) -> str:
    return f"{node}-{DAY}.{suffix}"


def good(rng: random.Random, node: str) -> File:
    watts, count = rng.randrange(80, 400), rng.randrange(3, 9)
    start = datetime(DAY.year, DAY.month, DAY.day, 0, 0, 2, tzinfo=UTC)
    powers = {start + timedelta(minutes=m): float(watts + m) for m in range(count)}
    return File(_name(node, "txt"), ipmi_text(watts, count), powers)


def truncated_gzip(rng: random.Random, node: str) -> File:
    content = gzip.compress(ipmi_text(rng.randrange(80, 400), 20))
    cut = rng.randrange(3, len(content) - 1)
    return File(_name(node, "txt.gz"), content[:cut], reasons=frozenset({"truncated_gzip"}))


def _parquet(rows: list[tuple[datetime, float, float]]) -> bytes:
    file = io.BytesIO()
    table = pa.table({"time": [stamp(time) for time, _, _ in rows], "power": [power for _, power, _ in rows]})
    pq.write_table(table, file, write_page_checksum=True)
    return file.getvalue()


def broken_parquet(rng: random.Random, node: str) -> File:
    whole = _parquet(_rows(rng, _times(rng)))
    cut = whole[: rng.randrange(4, len(whole))]
    content = rng.choice([b"", b"PAR1", b"PAR2" + whole[4:-4] + b"PAR2", cut])
    return File(_name(node, "parquet"), content, reasons=frozenset({"unreadable_file"}))


def flipped_parquet(rng: random.Random, node: str) -> File:
    """A bit of a page flips: its checksum tells."""
    rows = _rows(rng, _times(rng))
    content = bytearray(_parquet(rows))
    column = pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start + rng.randrange(column.total_compressed_size)] ^= 1 << rng.randrange(8)
    return File(_name(node, "parquet"), bytes(content), _powers(rows), is_damaged=True)


def out_of_order(rng: random.Random, node: str) -> File:
    rows = _rows(rng, _times(rng))
    shuffled = rng.sample(rows, len(rows))
    return File(_name(node, "csv"), _csv(shuffled).encode(), _powers(rows))


def far_stamps(rng: random.Random, node: str) -> File:
    rows = _rows(rng, _times(rng))
    far = rng.choice(["2106-02-07T06:28:15Z", "1970-01-01T00:00:00Z", "0000-00-00T00:00:00Z"])
    content = _csv(rows) + f"{far},100,1\n"
    return File(_name(node, "csv"), content.encode(), _powers(rows), frozenset({"bad_time"}))


def clock_changes(rng: random.Random, node: str) -> File:
    """Local stamps of the hour that happens twice, or of the one that never was."""
    cells = rng.choice(["2025-10-26T02:30:00", "2025-03-30T02:30:00"])
    content = f"time,power,energy\n{cells},100,1\n2025-06-03T14:00:00,200,2\n"
    told = "ambiguous_time" if "10-26" in cells else "absent_time"
    known = {datetime(2025, 6, 3, 12, tzinfo=UTC): 200.0}
    return File(_name(node, "local"), content.encode(), known, frozenset({told}))


def absurd_values(rng: random.Random, node: str) -> File:
    value, reason = rng.choice(
        # NaN is how some collectors write that there is no value.
        [("NaN", None), ("Infinity", "not_finite"), ("-Infinity", "not_finite"), ("1e400", "not_finite"),
         ("-5", "out_of_bounds"), ("10000000", "out_of_bounds"), ("0x10", "bad_number")]
    )  # fmt: skip
    rows = _rows(rng, _times(rng))
    spoilt = rng.randrange(len(rows))
    lines = _csv(rows).splitlines()
    lines[1 + spoilt] = f"{stamp(rows[spoilt][0])},{value},{rows[spoilt][2]}"
    known = {time: power for time, power in _powers(rows).items() if time != rows[spoilt][0]}
    told = frozenset({reason} if reason else ())
    return File(_name(node, "csv"), "\n".join(lines).encode(), known, told)


def falling_counter(rng: random.Random, node: str) -> File:
    """A counter that begins anew, wraps, or falls back."""
    times = _times(rng)
    fall = rng.randrange(1, len(times))
    rows = [
        (time, 100.0, (2**32 - 9000.0 + 6000 * n) if n < fall else rng.randrange(1, 5000) + 6000.0 * n)
        for n, time in enumerate(times)
    ]
    return File(_name(node, "csv"), _csv(rows).encode(), _powers(rows))


def other_unit(rng: random.Random, node: str) -> File:
    """Watts that become kilowatts, or tenths of a watt, within the file: silver judges the scale."""
    rows = [(t, p * rng.choice([1.0, 0.001, 10.0]), e) for t, p, e in _rows(rng, _times(rng))]
    return File(_name(node, "csv"), _csv(rows).encode(), _powers(rows))


def long_gap(rng: random.Random, node: str) -> File:
    rows = _rows(rng, [datetime(2025, 6, 3, hour, tzinfo=UTC) for hour in (1, 7, 8)])
    return File(_name(node, "csv"), _csv(rows).encode(), _powers(rows))


def conflicting_rows(rng: random.Random, node: str) -> File:
    """A time given twice with other values, and a line given twice alike: that one is a duplicate."""
    rows = _rows(rng, _times(rng))
    time, power, energy = rng.choice(rows)
    content = _csv([*rows, rows[0], (time, power + 7, energy)])
    return File(_name(node, "csv"), content.encode(), _powers(rows), conflicts=frozenset({time}))


def other_columns(rng: random.Random, node: str) -> File:
    rows = _rows(rng, _times(rng))
    kind = rng.choice(["reordered", "added", "missing", "other case", "retyped", "twice"])
    if kind == "reordered":
        lines = ["energy,time,power", *(f"{e},{stamp(t)},{p}" for t, p, e in rows)]
    elif kind == "added":
        lines = ["time,power,fan,energy", *(f"{stamp(t)},{p},x,{e}" for t, p, e in rows)]
    elif kind == "retyped":
        lines = ["time,power,energy", *(f"{stamp(t)},high,{e}" for t, p, e in rows)]
    else:
        header = {"missing": "time,energy,x", "other case": "time,POWER,energy", "twice": "time,power,power"}
        lines = _csv(rows, header[kind]).splitlines()
    told = {"missing": "missing_column", "other case": "missing_column", "retyped": "bad_number",
            "twice": "ambiguous_column"}.get(kind)  # fmt: skip
    known = {} if told else _powers(rows)
    return File(
        _name(node, "csv"), "\n".join(lines).encode(), known, frozenset({told}) if told else frozenset()
    )


def other_writing(rng: random.Random, node: str) -> File:
    rows = _rows(rng, _times(rng))
    text, time = _csv(rows), stamp(rows[0][0])
    kind = rng.choice(["bom", "utf-16", "crlf", "semicolon", "comma", "nul", "ragged"])
    known, told = _powers(rows), frozenset[str]()
    if kind == "bom":
        content = codecs.BOM_UTF8 + text.encode()
    elif kind == "utf-16":
        content = text.encode("utf-16")
    elif kind == "crlf":
        content = text.replace("\n", "\r\n").encode()
    elif kind == "semicolon":
        content, known, told = text.replace(",", ";").encode(), {}, frozenset({"missing_column"})
    else:
        line = {"comma": f"{time},100,5,7", "nul": f"{time},10\0,7", "ragged": time}[kind]
        content, told = f"{text}{line}\n".encode(), frozenset({"bad_line"})
    return File(_name(node, "csv"), content, known, told)


def bomb(rng: random.Random, node: str) -> File:
    """Nests, widths and compressions that would take all memory."""
    kind = rng.choice(["deep", "wide", "gzip", "digits"])
    if kind == "deep":
        return File(
            _name(node, "json"), b'{"a":' * 5000 + b"1" + b"}" * 5000, reasons=frozenset({"too_deep"})
        )
    if kind == "digits":
        content = b'{"a": ' + b"9" * 4400 + b"}"
        return File(_name(node, "json"), content, reasons=frozenset({"no_resource"}))
    if kind == "wide":
        header = ",".join(["time", "energy", *(f"c{n}" for n in range(100_000))])
        return File(_name(node, "csv"), header.encode(), reasons=frozenset({"missing_column"}))
    content = gzip.compress(bytes(20 << 20))
    return File(_name(node, "csv.gz"), content, reasons=frozenset({"too_large"}))


def broken_json(rng: random.Random, node: str) -> File:
    whole = json.dumps({"PowerControl": [{"PowerConsumedWatts": 200}]})
    content = whole[: rng.randrange(1, len(whole))].encode()
    return File(_name(node, "json"), content, reasons=frozenset({"bad_json"}))


RECIPES: Final[dict[int, tuple[Recipe, ...]]] = {
    8: (truncated_gzip,),
    9: (broken_parquet,),
    10: (flipped_parquet,),
    13: (out_of_order,),
    15: (far_stamps,),
    16: (clock_changes,),
    17: (absurd_values,),
    18: (falling_counter,),
    19: (other_unit,),
    20: (long_gap,),
    21: (conflicting_rows,),
    22: (other_columns,),
    23: (other_writing,),
    24: (bomb, broken_json),
}
"""Row of the faults -> what draws a file of that kind. Rows 11, 12 and 14 are about when and where files come."""
