"""`xpu-smi dump` and `xpumcli dump`: metrics of Intel's GPUs as CSV, a GPU a line."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.ingest.nvidia_smi import MonitorClock
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table
from lepton_etl.ingest.samples import Fault, Sample, decode_samples
from lepton_etl.ingest.sensors import Rules
from lepton_etl.ingest.text import numbered_lines

_HEADER: Final = re.compile(r"Timestamp\s*,\s*DeviceId\s*(?:,.*)?")
_CLOCK: Final = re.compile(r"\d\d:\d\d:\d\d(?:\.\d+)?")
_IDENTITY: Final = ("Timestamp", "DeviceId", "TileId")


@log_format
class XpuSmi(LogFormat):
    """`xpu-smi dump -d ... -m ...` of Intel XPU Manager. A record is a value of a GPU.

    Stamps are the node's wall clock: with `--date` whole, else a time alone, of the path's day and those after it.
    Source: Intel XPU Manager 1.x, dump.
    """

    format: Literal["xpu_smi"] = "xpu_smi"
    followed_by = "lines below a header"
    sensors: Rules = rule_table("xpu_smi")

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins with the header of a dump."""
        first = head.lstrip().split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        return _HEADER.fullmatch(first) is not None

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the rows below the header; what has another number of cells is a reject (bad_line)."""
        columns: list[str] = []
        clock = MonitorClock(origin)
        for lines in numbered_lines(chunks):
            samples: list[Sample] = []
            faults: list[Fault] = []
            structure = 0
            for position, line in enumerate(lines.series(), lines.first_position):
                cells = [cell.strip() for cell in line.split(",")]
                damaged = "\x00" in line or "\ufffd" in line
                if not damaged and (not line.strip() or _HEADER.fullmatch(line.strip())):
                    columns = cells if line.strip() else columns
                    structure += 1
                    continue
                row = dict(zip(columns, cells, strict=False))
                if damaged or len(cells) != len(columns) or not row.get("DeviceId", "").isdecimal():
                    faults.append(Fault(position, "bad_line", line[:MAX_RAW_TEXT_CHARS]))
                    continue
                stamp = row["Timestamp"]
                if _CLOCK.fullmatch(stamp):
                    stamp = clock.stamp(None, stamp) or stamp
                labels = {"id": row["DeviceId"], "tile": row.get("TileId", "")}
                samples += [
                    Sample(position, name, cell, labels=labels, stamp=stamp)
                    for name, cell in row.items()
                    if name not in _IDENTITY
                ]
            yield decode_samples(samples, origin, self.sensors, faults=faults, structure_lines=structure)
