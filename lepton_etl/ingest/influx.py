"""InfluxDB's line protocol, as telegraf writes it: measurement,tag=value field=value,field=value time.

A field is a sample of a metric `<measurement>_<field>` with the tags as labels, which is how telegraf names it for
Prometheus too: the rules of prometheus.yaml mean both.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import polars as pl

from lepton_etl.ingest.decoded import Decoded, Lines, Origin
from lepton_etl.ingest.prometheus import BAD_LINE, SAMPLE_SCHEMA, Prometheus, SeriesMapper, write_labels
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table, setting
from lepton_etl.ingest.sensors import Rules, Strings
from lepton_etl.ingest.text import numbered_lines

_NAME: Final = r"(?:\\.|[^,=\s\\])+"
_TAGS: Final = rf"(?:,{_NAME}={_NAME})*"
_VALUE: Final = r'(?:"(?:\\.|[^"\\])*"|[^",\s]+)'
_FIELDS: Final = rf"{_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*"
_LINE: Final = re.compile(rf"({_NAME})({_TAGS}) +({_FIELDS})(?: +(-?\d+))?[ \t]*")
_TAG: Final = re.compile(rf",({_NAME})=({_NAME})")
_FIELD: Final = re.compile(rf"({_NAME})=({_VALUE})")
_ESCAPED: Final = re.compile(r"\\([,= \\])")
# A metric of Prometheus: telegraf brings other characters to underscores.
_ODD: Final = re.compile(r"[^a-zA-Z0-9_:]")
# Whole numbers are marked by i or u.
_WHOLE: Final = re.compile(r"(-?\d+)[iu]")
# Of this plugin `source` is the host name that the BMC says, where another input may call anything a source.
_REDFISH: Final = "redfish_"
_HEAD_LINES: Final = 200
_MOSTLY: Final = 0.8

Precision = Literal["ns", "us", "ms", "s"]
_PER_SECOND: Final[dict[Precision, int]] = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1}


@log_format
class Influx(LogFormat):
    """Line protocol of InfluxDB, as telegraf's outputs write it. Source: InfluxData, line protocol reference."""

    format: Literal["influx"] = "influx"
    sensors: Rules = rule_table("prometheus")
    precision: Precision = setting(
        "ns", "Unit of the stamps; telegraf and InfluxDB write ns unless told otherwise."
    )
    node_label: Strings = setting(
        Prometheus.model_fields["node_label"].default,
        "Tag that names the node, or a list of which the first that is there does; lines without it belong to the "
        "node of the path. []: always the path.",
    )

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether most of the first lines are points with a stamp."""
        whole_lines = head[: head.rfind(b"\n") + 1] or head
        lines = [
            line for line in whole_lines.decode("utf-8", "replace").splitlines()[:_HEAD_LINES] if line.strip()
        ]
        content = [line for line in lines if not line.startswith("#")]
        points = sum(
            (match := _LINE.fullmatch(line)) is not None and match[4] is not None for line in content
        )
        return points > 0 and points >= _MOSTLY * len(content)

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode points block by block; a record is a field of a point, its position the line."""
        mapper = SeriesMapper(origin, Prometheus(sensors=self.sensors, node_label=self.node_label))
        for lines in numbered_lines(chunks):
            samples, bad, structure_lines = self._samples(lines)
            faults = pl.DataFrame(
                {"source_position": bad, "reason": [BAD_LINE] * len(bad)},
                schema={"source_position": pl.Int64, "reason": pl.String},
            )
            yield mapper.decode(samples, faults, structure_lines, lines)

    def _samples(self, lines: Lines) -> tuple[pl.DataFrame, list[int], int]:
        """Return SAMPLE_SCHEMA of each field, the lines that are no point, and how many are structure."""
        rows: list[tuple[Any, ...]] = []
        bad: list[int] = []
        structure_lines = 0
        labels: dict[tuple[str, bool], str] = {}
        for position, line in enumerate(lines.series().to_list(), start=lines.first_position):
            if not line.strip() or line.startswith("#"):
                structure_lines += 1
                continue
            match = _LINE.fullmatch(line)
            if match is None or "\0" in line or "\ufffd" in line:
                bad.append(position)
                continue
            measurement, tags, fields, stamp = match.groups()
            of = tags, measurement.startswith(_REDFISH)
            if of not in labels:
                named = {_plain(key): _plain(value) for key, value in _TAG.findall(tags)}
                if of[1] and "source" in named:
                    named["server"] = named["source"]
                labels[of] = write_labels(named)
            at = None if stamp is None else self._seconds(stamp)
            for key, value in _FIELD.findall(fields):
                metric = _ODD.sub("_", f"{_plain(measurement)}_{_plain(key)}")
                rows.append((position, metric, labels[of], _WHOLE.sub(r"\1", value), at))
        return pl.DataFrame(rows, schema=SAMPLE_SCHEMA, orient="row"), bad, structure_lines

    def _seconds(self, stamp: str) -> str:
        """Return a stamp in seconds, to the microsecond."""
        whole, part = divmod(int(stamp[:20]), _PER_SECOND[self.precision])
        return f"{whole}.{part * 10**6 // _PER_SECOND[self.precision]:06d}"


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
