"""Follow growing log files into gold/device_now: every device's state, seconds after its logs.

A batch is: new lines -> sums of a minute (in tasks) -> the last hour of each device -> its state by the
night's own model -> one commit. Nothing here writes a table that a night writes, and nothing waits for a
night.
The stream is Spark's. Its offsets are byte offsets of files, made of the folder alone, so a restart needs
nothing but Spark's checkpoint. A row of the stream is a sum of readings of one window, or a kind of record
that could not be used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.types import StructType

from lepton_etl.config.settings import Settings
from lepton_etl.config.sources import SOURCES, Source
from lepton_etl.diagnosis.minutes import SUMS, QuantityRoles, sums
from lepton_etl.errors import ConfigurationError
from lepton_etl.ingest import text as codec
from lepton_etl.ingest.decoded import READING_SCHEMA, Decoded
from lepton_etl.ingest.personal import kept_texts
from lepton_etl.lake.landing import Landing, ObjectStore
from lepton_etl.lake.lease import Lease
from lepton_etl.lake.runs import new_run_id
from lepton_etl.lake.tables import Lake
from lepton_etl.registers.node_names import NodeNames
from lepton_etl.streaming import device_now as recent
from lepton_etl.streaming.device_now import MEANINGS, Clock, Watcher, utc_now
from lepton_etl.streaming.follow import Following, Mark, Passage, Span, head_of, passage, spans
from pipelines.bronze import DECODER_BUGS, named, node_names, origin_of
from pipelines.engine import SparkEngine, balanced

NAME: Final = "lepton_logs"
SCHEMA: Final = (
    "node_id string, device_id string, quantity string, window_us bigint, value_sum double, value_count bigint, "
    "newest_us bigint, path string, reason string, raw_text string"
)
_ARROW: Final = pa.schema([
    ("node_id", pa.string()), ("device_id", pa.string()), ("quantity", pa.string()), ("window_us", pa.int64()),
    ("value_sum", pa.float64()), ("value_count", pa.int64()), ("newest_us", pa.int64()), ("path", pa.string()),
    ("reason", pa.string()), ("raw_text", pa.string()),
])  # fmt: skip

Offset = dict[str, Any]


@dataclass(frozen=True)
class Follow:
    """What is followed and how it is read; travels to the planner and to executors."""

    landing: Landing
    site_id: str
    sources: Mapping[str, Source]
    names: NodeNames
    roles: QuantityRoles
    window_s: int
    look_back_s: float
    settle_s: float
    parallelism: int


@dataclass(frozen=True)
class Slice(InputPartition):
    """The spans of one task."""

    spans: tuple[tuple[str, Span], ...]


@dataclass
class LogReader(DataSourceStreamReader):
    """Plans spans of bytes between two offsets, and decodes them."""

    follow: Follow
    _following: dict[str, Following] = field(default_factory=dict)

    def initialOffset(self) -> Offset:  # noqa: N802  (Spark's name)
        """Every file from its first byte, as far as files are looked back at."""
        return {"files": {}}

    def latestOffset(self) -> Offset:  # noqa: N802  (Spark's name)
        """How far each file can be read now."""
        follow = self.follow
        if not self._following:
            self._following = {
                name: Following(source, follow.landing, follow.look_back_s, follow.settle_s)
                for name, source in follow.sources.items()
            }
        return {
            "files": {
                name: {path: mark.as_json() for path, mark in sorted(one.marks().items())}
                for name, one in sorted(self._following.items())
            }
        }

    def partitions(self, start: Offset, end: Offset) -> Sequence[InputPartition]:
        """The spans between two offsets, by size over as many tasks as there are cores."""
        before, after = _marks(start), _marks(end)
        found = [
            (name, span)
            for name, marks in after.items()
            if name in self.follow.sources
            for span in spans(before.get(name, {}), marks, head_of)
        ]
        return [Slice(tuple(part)) for part in balanced(found, self.follow.parallelism, _bytes)]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Sums of readings, and what could not be used, span by span."""
        assert isinstance(partition, Slice)
        for name, span in partition.spans:
            yield from read_span(self.follow, self.follow.sources[name], span).to_batches()


def log_stream(follow: Follow) -> type[DataSource]:
    """The data source of these files, to be registered with a session; Spark carries `follow` along with it."""

    class LogStream(DataSource):
        @classmethod
        def name(cls) -> str:
            return NAME

        def schema(self) -> str:
            return SCHEMA

        def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802  (Spark's name)
            return LogReader(follow)

    return LogStream


def _bytes(one: tuple[str, Span]) -> int:
    return one[1].end - one[1].start


def read_span(follow: Follow, source: Source, span: Span) -> pa.Table:
    """The rows of one span. Never raises for what a file may hold or where it may have gone."""
    readings: list[pl.DataFrame] = []
    faults: list[dict[str, Any]] = []
    try:
        text = passage(source, follow.landing, span)
        for part in _decoded(follow, source, text):
            kept = text.context_lines
            found = part.readings.filter(pc.greater(part.readings["source_position"], kept))
            found = named(found.cast(READING_SCHEMA), follow.names)
            readings.append(sums(pl.DataFrame(found), follow.roles, follow.window_s))
            rejects = part.rejects.filter(pc.greater(part.rejects["source_position"], kept))
            faults += _counted(rejects, of_jobs=part.of_jobs)
    except codec.UnreadableError as error:
        faults.append(_fault(error.reason, error.detail))
    except OSError as error:
        faults.append(_fault("unreadable_file", error.strerror or str(error)))
    except DECODER_BUGS as bug:
        faults.append(_fault("decoder_error", f"{type(bug).__name__}: {bug}"))
    rows = pl.concat([pl.DataFrame(schema=SUMS), *readings]).to_arrow()
    where = f"{span.path}[{span.start}:{span.end}]"
    table = pa.table(
        {name: rows[name].cast(_ARROW.field(name).type) for name in SUMS}
        | {name: pa.nulls(rows.num_rows, pa.string()) for name in ("path", "reason", "raw_text")},
        schema=_ARROW,
    )
    bad = pa.Table.from_pylist([fault | {"path": where} for fault in faults], schema=_ARROW)
    return pa.concat_tables([table, bad])


def _decoded(follow: Follow, source: Source, text: Passage) -> Iterator[Decoded]:
    def chunks() -> Iterator[bytes]:
        yield text.context
        yield from text.chunks

    return iter(source.read(chunks(), origin_of(text.file, source, follow.site_id)))


def _counted(rejects: pa.Table, *, of_jobs: bool) -> list[dict[str, Any]]:
    """One row a reason, with its first record as far as it names nobody."""
    groups = (
        pl.DataFrame(rejects)
        .group_by("reason", maintain_order=True)
        .agg(pl.len(), pl.col("raw_text").first())
    )
    texts = kept_texts(groups["raw_text"], of_jobs=of_jobs)
    rows = groups.with_columns(raw_text=texts).iter_rows(named=True)
    return [_fault(row["reason"], row["raw_text"], row["len"]) for row in rows]


def _fault(reason: str, text: str, count: int = 1) -> dict[str, Any]:
    return {"reason": reason, "raw_text": text[:200], "value_count": count}


def _marks(offset: Offset) -> dict[str, dict[str, Mark]]:
    return {
        name: {path: Mark(**mark) for path, mark in marks.items()} for name, marks in offset["files"].items()
    }


# How long the running batch may take to end when the job is told to stop.
_FINISH_S: Final = 20.0


def follow(spark: SparkSession, settings: Settings) -> Follow:
    """What the settings say is followed.

    Raises ConfigurationError where no source can hold readings of devices, and for a wrong inventory.
    """
    sources = {source.name: source for source in settings.sources if "devices" in source.subjects}
    if not sources:
        raise ConfigurationError(
            "no source holds readings of devices",
            where="key sources",
            remedy=f"one of format {', '.join(name for name, kind in SOURCES.items() if 'devices' in kind.subjects)}",
        )
    paths = tuple(source.path for source in sources.values())
    return Follow(
        landing=Landing(ObjectStore.of(SparkEngine.of(spark).storage_option, paths)),
        site_id=settings.site.site_id,
        sources=sources,
        names=node_names(settings),
        roles=MEANINGS,
        window_s=settings.watch.window_s,
        look_back_s=settings.watch.look_back_s,
        settle_s=settings.watch.settle_s,
        parallelism=max(1, spark.sparkContext.defaultParallelism),
    )


def run(
    spark: SparkSession, settings: Settings, *, until_idle: bool, stop: threading.Event, clock: Clock = utc_now
) -> Watcher:  # fmt: skip
    """Watch until `stop` is set, or until everything that lies there has been read.

    Raises LockedError where another watch of this lake runs, ConfigurationError for a source that cannot be listed.
    """
    lake = Lake.of(settings)
    if not lake.root.is_local:
        raise ConfigurationError(
            f"key lake.root = {lake.root.uri!r}: the checkpoint of the watch needs a folder",
            where="watch",
            remedy="give the watch settings of its own, with a lake.root on this machine",
        )
    followed = follow(spark, settings)
    for source in followed.sources.values():
        # A folder that is not there is said before anything is started.
        next(iter(followed.landing.delivered(source)), None)
    with Lease(lake, "watch", run_id := new_run_id()):
        watcher = Watcher(lake, settings, run_id, clock)
        spark.dataSource.register(log_stream(followed))
        writer = (
            spark.readStream.format(NAME)
            .load()
            .writeStream.queryName(f"watch-{run_id}")
            .option("checkpointLocation", recent.folder(lake.root).uri + "/checkpoint")
            .foreachBatch(watcher.take)
        )
        trigger = (
            writer.trigger(availableNow=True)
            if until_idle
            else writer.trigger(processingTime=f"{settings.watch.trigger_s} seconds")
        )
        query = trigger.start()
        try:
            while not query.awaitTermination(1) and not stop.is_set():
                pass
            # A batch that is being judged is let finish; killed, it is given again by the checkpoint.
            until = time.monotonic() + _FINISH_S
            while query.isActive and query.status["isTriggerActive"] and time.monotonic() < until:
                time.sleep(0.2)
        finally:
            query.stop()
    return watcher
