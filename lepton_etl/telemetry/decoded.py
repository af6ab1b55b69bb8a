"""What every decoder takes and gives: where bytes came from, and the readings and rejects they hold."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

import pyarrow as pa

IgnoredReason = Literal["unmapped", "no_value"]
Ignored = dict[tuple[str, str], int]

MAX_RAW_TEXT_CHARS = 1000

READING_SCHEMA = pa.schema(
    [
        pa.field("node_id", pa.string()),
        pa.field("device_id", pa.string(), nullable=False),
        pa.field("quantity", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("statistic", pa.string(), nullable=False),
        pa.field("window_s", pa.float64(), nullable=False),
        pa.field("reading_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("multiplicity", pa.int32(), nullable=False),
        pa.field("point", pa.string()),
        pa.field("sensor", pa.string(), nullable=False),
        pa.field("raw_value", pa.string(), nullable=False),
        pa.field("raw_unit", pa.string(), nullable=False),
        pa.field("source_position", pa.int64(), nullable=False),
    ]
)

REJECT_SCHEMA = pa.schema(
    [
        pa.field("source_position", pa.int64(), nullable=False),
        pa.field("sensor", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw_text", pa.string(), nullable=False),
    ]
)

JOB_SCHEMA = pa.schema(
    [
        pa.field("cluster_name", pa.string()),
        pa.field("job_id", pa.string(), nullable=False),
        pa.field("step_id", pa.string()),
        pa.field("restart", pa.int32()),
        pa.field("user_name", pa.string()),
        pa.field("account", pa.string()),
        pa.field("partition", pa.string()),
        pa.field("state", pa.string()),
        pa.field("submit_time", pa.timestamp("us", tz="UTC")),
        pa.field("start_time", pa.timestamp("us", tz="UTC")),
        pa.field("end_time", pa.timestamp("us", tz="UTC")),
        pa.field("node_list", pa.string()),
        pa.field("node_count", pa.int32()),
        pa.field("cpu_count", pa.int32()),
        pa.field("gpu_count", pa.int32()),
        pa.field("memory_byte", pa.float64()),
        pa.field("consumed_energy_j", pa.float64()),
        pa.field("source_position", pa.int64(), nullable=False),
        pa.field("record", pa.string(), nullable=False),
        pa.field("node_id", pa.string()),
        pa.field("device_ids", pa.list_(pa.string())),
        pa.field("tenant_id", pa.string()),
        pa.field("cpu_time_s", pa.float64()),
    ]
)

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2101, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Origin:
    """Where a file's bytes came from, as far as a decoder must know it."""

    site_id: str
    source_name: str
    path: str
    """The path as listed, for messages and identity."""
    node_id: str | None
    """The node named by the path, null when the records name their node themselves."""
    timezone: str
    """IANA zone of stamps that carry none."""
    path_time: datetime | None = None
    """The stamp taken from the path (aware), for text exposition whose samples carry none."""
    earliest: datetime = EARLIEST
    latest: datetime = LATEST
    """Readings outside [earliest, latest) are rejects (out_of_window): a window around the file's own time."""


@dataclass(frozen=True)
class Decoded:
    """The records of one file, or of one part of a large one.

    records == readings + jobs + rejects + duplicates + ignored.
    """

    readings: pa.Table
    rejects: pa.Table
    records: int
    duplicates: int
    """Exact repeats of (node, device, sensor, time, value) in this part; the first one is the reading."""
    ignored: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(raw sensor name, 'unmapped' | 'no_value') -> records."""
    structure_lines: int = 0
    """Stamps, headers, comments, footers and blank lines: no records."""
    jobs: pa.Table = field(default_factory=JOB_SCHEMA.empty_table)
    """Accounting of a scheduler: one row a job, a step of one, or what one held of some nodes."""

    def check(self) -> None:
        """Raise AssertionError unless every record is accounted for and the schemas are the declared ones."""
        assert self.readings.schema.equals(READING_SCHEMA), f"readings schema: {self.readings.schema}"
        assert self.rejects.schema.equals(REJECT_SCHEMA), f"rejects schema: {self.rejects.schema}"
        assert self.jobs.schema.equals(JOB_SCHEMA), f"jobs schema: {self.jobs.schema}"
        ignored = sum(self.ignored.values())
        kept = self.readings.num_rows + self.jobs.num_rows
        assert self.records == kept + self.rejects.num_rows + self.duplicates + ignored, (
            f"records {self.records} != readings and jobs {kept} + rejects {self.rejects.num_rows}"
            f" + duplicates {self.duplicates} + ignored {ignored}"
        )

    @classmethod
    def merge(cls, parts: Iterable["Decoded"]) -> "Decoded":
        """The records of several parts of one file together, in the parts' order."""
        together = list(parts)
        if len(together) == 1:
            return together[0]
        ignored: Counter[tuple[str, str]] = Counter()
        for part in together:
            ignored.update(part.ignored)
        return cls(
            readings=pa.concat_tables([READING_SCHEMA.empty_table(), *(part.readings for part in together)]),
            rejects=pa.concat_tables([REJECT_SCHEMA.empty_table(), *(part.rejects for part in together)]),
            records=sum(part.records for part in together),
            duplicates=sum(part.duplicates for part in together),
            ignored=dict(ignored),
            structure_lines=sum(part.structure_lines for part in together),
            jobs=pa.concat_tables([JOB_SCHEMA.empty_table(), *(part.jobs for part in together)]),
        )


def only_reject(reason: str, raw_text: str, position: int = 1, sensor: str | None = None) -> Decoded:
    """A file of which nothing could be used: one record, one reject that says why."""
    row = {
        "source_position": position,
        "sensor": sensor,
        "reason": reason,
        "raw_text": raw_text[:MAX_RAW_TEXT_CHARS],
    }
    return Decoded(
        readings=READING_SCHEMA.empty_table(),
        rejects=pa.Table.from_pylist([row], schema=REJECT_SCHEMA),
        records=1,
        duplicates=0,
    )
