"""`dcgmi dmon`: fields of DCGM, a column each, an entity a line."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table
from lepton_etl.ingest.rounds import RowRounds
from lepton_etl.ingest.samples import Fault, Sample, decode_stamped
from lepton_etl.ingest.sensors import Rules
from lepton_etl.ingest.text import numbered_lines

# A collector writes its stamp before the line: seconds since 1970, or a wall clock, maybe in brackets.
_STAMP: Final = r"\[?(?P<stamp>\d{9,10}(?:\.\d+)?|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\s\]]*)\]?:?[ \t]+"
_LINE: Final = re.compile(rf"^(?:{_STAMP})?(?P<rest>\S.*)$")
_HEADER: Final = re.compile(r"#\s?Entity\s+(?P<names>\S.*)")
_UNITS: Final = re.compile(r"I[dD]\b\s*(?P<units>.*)")
_ROW: Final = re.compile(
    r"(?P<entity>GPU(?:-C?I)?|CPU(?:Core)?|Switch|Link)\s+(?P<id>\S+)\s+(?P<values>\S.*)"
)
_LOOKS_LIKE: Final = re.compile(rf"^(?:{_STAMP})?#\s?Entity[ \t]+[A-Z0-9]+".encode())


@log_format
class DcgmiDmon(LogFormat):
    """`dcgmi dmon -e ...`, bare or with a stamp before each line. A record is a value of an entity.

    Bare lines take the time of the path, each entity's first; those that follow come a sampling period later each, or
    are of no known time where none is stated.
    Source: dcgmi dmon of DCGM 2 to 4; field names of dcgm_fields.
    """

    format: Literal["dcgmi_dmon"] = "dcgmi_dmon"
    followed_by = "lines below a header"
    sensors: Rules = rule_table("dcgmi_dmon")

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins with dmon's header."""
        return _LOOKS_LIKE.match(head.lstrip()) is not None

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the lines of a file; what is neither a header nor a row below one is a reject (bad_line)."""
        names: list[str] = []
        units: list[str] = []
        rounds = RowRounds(origin)
        for lines in numbered_lines(chunks):
            samples: list[Sample] = []
            faults: list[Fault] = []
            structure = 0
            for position, line in enumerate(lines.series(), lines.first_position):
                match = _LINE.match(line.strip())
                text = match["rest"] if match else ""
                damaged = "\x00" in line or "\ufffd" in line
                if header := None if damaged else _HEADER.match(text):
                    names, units = header["names"].split(), []
                elif measured := None if damaged or not names else _UNITS.fullmatch(text):
                    units = measured["units"].split()
                elif match is not None:
                    row = _ROW.fullmatch(text)
                    values = row["values"].split() if row and not damaged else []
                    if row is None or len(values) != len(names):
                        faults.append(Fault(position, "bad_line", line[:MAX_RAW_TEXT_CHARS]))
                        continue
                    stamp = match["stamp"] or rounds.stamp((row["entity"], row["id"]))
                    if stamp is None:
                        faults.append(Fault(position, "no_time", line[:MAX_RAW_TEXT_CHARS]))
                        continue
                    labels = {"entity": row["entity"], "id": row["id"]}
                    known = units if len(units) == len(names) else [""] * len(names)
                    samples += [
                        Sample(position, name, value, unit, labels, stamp or None)
                        for name, value, unit in zip(names, values, known, strict=True)
                    ]
                    continue
                structure += 1
            yield from decode_stamped(samples, origin, self.sensors, faults=faults, structure_lines=structure)
