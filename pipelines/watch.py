"""Growing log files -> gold/device_now: the newest performance state of every device, seconds after its logs.

A batch is: new lines -> sums of a minute (executors) -> the last hour of each device -> its state by the night's own
model -> one commit. Nothing here writes a table that a night writes, and nothing waits for a night.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from pyspark.sql import SparkSession

from lepton_etl.errors import ConfigurationError
from lepton_etl.lake import recent
from lepton_etl.lake.landing import Landing
from lepton_etl.lake.lease import Lease
from lepton_etl.lake.object_store import ObjectStore
from lepton_etl.lake.runs import new_run_id
from lepton_etl.lake.store import Lake
from lepton_etl.settings import Settings
from pipelines.log_stream import NAME, Follow, log_stream
from pipelines.watcher import MEANINGS, Clock, Watcher, utc_now

# Formats that hold readings of devices; accounting, weather and grids say nothing of their state.
FORMATS: Final = frozenset(
    (
        "ipmitool",
        "delimited",
        "parquet",
        "prometheus",
        "redfish",
        "nvidia_smi",
        "rocm_smi",
        "otlp_json",
        "auto",
    )
)
# How long the running batch may take to end when the job is told to stop.
_FINISH_S: Final = 20.0


def follow(spark: SparkSession, settings: Settings) -> Follow:
    """What the settings say is followed. Raises ConfigurationError where no source can hold readings of devices."""
    sources = {source.name: source for source in settings.sources if source.format in FORMATS}
    if not sources:
        raise ConfigurationError(
            "no source holds readings of devices",
            where="key sources",
            remedy=f"one of format {', '.join(sorted(FORMATS))}",
        )
    paths = tuple(source.path for source in sources.values())
    return Follow(
        landing=Landing(ObjectStore.of(spark, paths)),
        site_id=settings.site.site_id,
        sources=sources,
        meanings=MEANINGS,
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
    root = settings.lake.root
    followed = follow(spark, settings)
    for source in followed.sources.values():
        # A folder that is not there is said before anything is started.
        next(iter(followed.landing.delivered(source)), None)
    with Lease(root, "watch", run_id := new_run_id()):
        watcher = Watcher(Lake(spark, root), settings, run_id, clock)
        spark.dataSource.register(log_stream(followed))
        writer = (
            spark.readStream.format(NAME)
            .load()
            .writeStream.queryName(f"watch-{run_id}")
            .option("checkpointLocation", str(recent.folder(root) / "checkpoint"))
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
