"""The streaming job on files that grow and rotate: real stream, real checkpoint, real Delta."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
import yaml
from pyspark.sql import SparkSession

from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.diagnosis import DEVICE_NOW
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.types import arrow_schema
from lepton_etl.streaming import device_now as recent
from lepton_etl.streaming.device_now import Watcher, history
from lepton_etl.streaming.watch import run

HEADER = (
    "timestamp, index, power.draw [W], power.limit [W], utilization.gpu [%], utilization.memory [%], "
    "clocks.current.sm [MHz], temperature.gpu\n"
)
NORMAL = "0, 300.00, 400.00, 85, 40, 1980, 60"
CAPPED = "0, 396.00, 400.00, 99, 40, 1700, 68"
INVENTORY = (
    "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,valid_from\n"
    "n1,c1,r1,h,,,,,2020-01-01\n"
)


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    (tmp_path / "landing").mkdir()
    (tmp_path / "inventory.csv").write_text(INVENTORY)
    gpu = {
        "name": "gpu",
        "format": "nvidia_smi",
        "path": "landing/*.csv*",
        "node_id_from_path": r"(?P<node_id>[^/]+)\.csv",
    }
    document = {
        "site": {"site_id": "s1"},
        "lake": {"root": "lake"},
        "fleet": {"inventory": "inventory.csv"},
        "sources": [gpu],
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(document))
    return load(tmp_path / "site.yaml")


@pytest.fixture
def look(spark: SparkSession, site: Settings) -> Callable[[], Watcher]:
    return lambda: run(spark, site, until_idle=True, stop=threading.Event())


def lines(start: datetime, minutes: int, what: str) -> str:
    """Two rows a minute."""
    stamps = (start + timedelta(seconds=30 * k) for k in range(2 * minutes))
    return "".join(f"{stamp:%Y/%m/%d %H:%M:%S}.000, {what}\n" for stamp in stamps)


def append(path: Path, text: str) -> None:
    with path.open("a") as handle:
        handle.write(text)


def now_of(lake: Lake, device: str = "gpu0") -> dict[str, object]:
    rows = lake.arrow(DEVICE_NOW).to_pylist()
    assert len({tuple(row[name] for name in DEVICE_NOW.key) for row in rows}) == len(rows)
    return next(row for row in rows if row["device_id"] == device)


def counts(lake: Lake) -> list[int]:
    """Values of power that each held minute is made of."""
    rows = pl.DataFrame(pa.table(recent.load(lake.root, recent_empty()).rows))
    power = rows.filter(pl.col("quantity") == "gpu_power", pl.col("device_id") == "gpu0")
    return power.sort("window_us")["value_count"].to_list()


def recent_empty() -> pa.Table:
    from lepton_etl.diagnosis.minutes import SUMS

    return pl.DataFrame(schema=SUMS).to_arrow()


def lay_down_a_week(lake: Lake, today: date) -> None:
    """The board's days before: 300 W at 85 %, the full clock, and a limit that lay higher."""
    day = today - timedelta(days=1)
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    common = {"site_id": "s1", "cluster_id": "c1", "node_id": "n1", "device_id": "gpu0", "date": day}
    figures = {
        "interval_s": 300, "counts_in_total": False, "multiplicity": 1, "power_mean_w": 300.0, "power_limit_w": 500.0,
        "gpu_utilisation_ratio": 0.85, "memory_utilisation_ratio": 0.4, "clock_hz": 1.98e9, "device_temp_c": 60.0,
        "observed_s": 300.0, "conflicts": 0, "flags": [],
    }  # fmt: skip
    rows = [common | figures | {"interval_start": midnight + timedelta(minutes=5 * k)} for k in range(48)]
    lake.replace(
        INTERVAL, Days.of(day), pa.Table.from_pylist(rows, schema=arrow_schema(INTERVAL)), allow_empty=True
    )


def test_a_board_that_becomes_capped_is_told_within_minutes_and_no_row_is_taken_twice(
    lake: Lake, look: Callable[[], Watcher]
) -> None:
    log = Path(lake.root.uri).parent / "landing" / "n1.csv"
    begin = (datetime.now(UTC) - timedelta(minutes=22)).replace(second=0, microsecond=0)
    lay_down_a_week(lake, datetime.now(UTC).date())
    partial, rest = (half := lines(begin + timedelta(minutes=10), 1, NORMAL))[:40], half[40:]
    append(log, HEADER + lines(begin, 10, NORMAL) + "what is this\n" + partial)
    first = look()
    assert [batch.rejects for batch in first.batches] == [1]
    row = now_of(lake)
    assert (row["performance_state"], row["interval_start"]) == ("normal", begin + timedelta(minutes=9))
    assert counts(lake) == [2] * 10, "the half-written line waits"

    version = lake.version(DEVICE_NOW)
    assert look().batches == []
    assert lake.version(DEVICE_NOW) == version, "nothing new, no commit"

    # The half line is ended, the file is rotated away by name, and its successor tells of a board at its limit.
    append(log, rest)
    log.rename(log.with_name("n1.csv.1"))
    append(log, HEADER + lines(begin + timedelta(minutes=11), 10, CAPPED))
    before = datetime.now(UTC)
    second = look()
    row = now_of(lake)
    assert (row["performance_state"], row["adjustment"]) == ("power_capped", "raise_cap")
    assert "n1 gpu0: normal -> power_capped" in [c for batch in second.batches for c in batch.changes]
    assert counts(lake) == [2] * 21
    newest = begin + timedelta(minutes=20, seconds=30)
    assert row["newest_reading_time"] == newest
    updated = row["updated_time"]
    assert isinstance(updated, datetime)
    assert before <= updated <= datetime.now(UTC)
    assert row["behind_s"] == pytest.approx((updated - newest).total_seconds(), abs=1e-3)
    assert lake.version(DEVICE_NOW) == (version or 0) + 1, "one commit a batch"


def test_a_batch_that_is_given_again_is_not_added_twice(
    spark: SparkSession, lake: Lake, site: Settings
) -> None:
    from lepton_etl.streaming.watch import SCHEMA

    now = datetime.now(UTC)
    window = int(now.timestamp()) // 60 * 60_000_000
    rows = spark.createDataFrame(
        [("n1", "gpu0", name, window, value, 1, window, None, None, None)
         for name, value in (("gpu_power", 300.0), ("gpu_utilisation", 0.8))], SCHEMA,
    )  # fmt: skip
    watcher = Watcher(lake, site, "r1")
    watcher.take(rows, 0)
    again = Watcher(lake, site, "r2")
    again.take(rows, 0)
    assert counts(lake) == [1]
    again.take(rows, 1)
    assert counts(lake) == [2]


def test_a_long_history_is_thinned_evenly(lake: Lake) -> None:
    today = datetime.now(UTC).date()
    assert history(lake, today).height == 0
    lay_down_a_week(lake, today)
    assert history(lake, today).height == 48
    assert history(lake, today + timedelta(days=8)).height == 0
    thinned = history(lake, today, most_rows=20).sort("interval_start")
    assert thinned["interval_start"].diff().drop_nulls().unique().to_list() == [timedelta(minutes=15)]


def test_it_stops_when_told(spark: SparkSession, lake: Lake, site: Settings) -> None:
    append(Path(lake.root.uri).parent / "landing" / "n1.csv", HEADER + lines(datetime.now(UTC), 1, NORMAL))
    stop = threading.Event()
    ended: list[Watcher] = []
    worker = threading.Thread(
        target=lambda: ended.append(run(spark, site, until_idle=False, stop=stop)), daemon=True
    )
    worker.start()
    stop.set()
    worker.join(timeout=60)
    assert ended, "still running a minute after it was told to stop"
    assert not spark.streams.active
