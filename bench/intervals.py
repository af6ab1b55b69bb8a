"""What a reading costs in the interval kernel: one node a call, and a bucket of nodes a call.

    python -m bench.intervals [--copies 6] [--rounds 3]

Readings are a day of 46 real nodes (ipmitool text, LEPTON_REAL_DATA) under several names, decoded before the clock
starts, and a day of the simulated fleet's readings at one sample a minute. CPU time of this process, the libraries on
one thread each: what a core does, whatever else the machine is doing.
"""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import argparse
import gzip
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from lepton_etl.days import Days
from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.ipmitool import Ipmitool
from lepton_etl.intervals.node_day import IntervalPolicy, node_days
from lepton_etl.intervals.readings import SourceFacts, for_each_day, of_quantities, roster
from lepton_etl.intervals.sensor_classes import sensor_classes
from lepton_etl.intervals.source_choice import INTERVAL_QUANTITIES
from lepton_etl.intervals.usual_values import SENSOR_DAY_COLUMNS
from lepton_etl.registers.factors import load_factors
from lepton_etl.schema.fleet import NODE
from lepton_etl.schema.logs import READING
from lepton_etl.schema.types import arrow_schema

DAY: Final = date(2025, 6, 3)
FACTS: Final = SourceFacts(330.0)
POLICY: Final = IntervalPolicy("bench", classes=sensor_classes(load_factors(), DAY))
NOTHING_BEFORE: Final = pl.DataFrame(schema=SENSOR_DAY_COLUMNS)
MOST_US: Final = 2.5
# Sensors of a simulated node at one sample a minute: quantity, device, mean, spread.
SENSORS: Final = (
    ("node_power", "node", 400.0, 60.0), ("psu_input_power", "psu1", 205.0, 30.0),
    ("psu_input_power", "psu2", 205.0, 30.0), ("cpu_power", "cpu", 180.0, 40.0), ("dram_power", "dram", 30.0, 4.0),
    ("inlet_temperature", "node", 22.0, 1.0), ("cpu_temperature", "cpu0", 60.0, 5.0), ("fan_speed", "fan1", 6e3, 200.0),
    ("fan_speed", "fan2", 6e3, 200.0), ("cpu_utilisation", "node", 0.5, 0.1),
)  # fmt: skip


def harvard() -> pl.DataFrame:
    """Columns of bronze of the 46 real node-days."""
    frames = []
    for path in sorted((REAL / "harvard-ipmi-weather" / "ipmi").glob("*.txt.gz")):
        content = path.read_bytes()
        node_id = path.name.removesuffix("-2025-06-03.txt.gz")
        origin = Origin("bench", "bmc", path.name, node_id, "UTC")
        done = Decoded.merge(Ipmitool(format="ipmitool").read([gzip.decompress(content)], origin))
        frames.append(pl.DataFrame(done.readings).with_columns(file_id=pl.lit(sha256(content).hexdigest())))
    return pl.concat(frames)


def simulated(nodes: int = 46) -> pl.DataFrame:
    """Columns of bronze of a day of nodes with SENSORS, rounded as BMCs round."""
    rng = np.random.default_rng(7)
    start = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    times = pl.datetime_range(
        start, start + timedelta(days=1), "1m", closed="left", time_unit="us", eager=True
    )
    frames = []
    for number in range(nodes):
        for quantity, device_id, mean, spread in SENSORS:
            value = rng.normal(mean, spread, len(times)).clip(0, None)
            frames.append(
                pl.DataFrame({"reading_time": times, "value": value.round(0 if mean > 1 else 2)}).with_columns(
                    node_id=pl.lit(f"n{number}"), device_id=pl.lit(device_id), quantity=pl.lit(quantity),
                    statistic=pl.lit("instant"), window_s=pl.lit(0.0), multiplicity=pl.lit(1, pl.Int32),
                    sensor=pl.lit(f"{device_id} {quantity}"), file_id=pl.lit(sha256(b"s").hexdigest()),
                    source_position=pl.int_range(pl.len(), dtype=pl.Int64),
                )
            )  # fmt: skip
    return pl.concat(frames)


def kernel_input(bronze: pl.DataFrame, copies: int) -> pa.Table:
    """What the kernel takes of the readings, under `copies` sets of node names."""
    named = pl.concat([bronze.with_columns(pl.col("node_id") + f"x{copy}") for copy in range(copies)])
    whole = named.with_columns(
        site_id=pl.lit("bench"), source_name=pl.lit("bmc"), point=pl.lit(None, pl.String)
    )
    rows = whole.to_arrow()
    names = [name for name in READING.columns if name in rows.column_names]
    rows = rows.select(names).cast(pa.schema([arrow_schema(READING).field(name) for name in names]))
    chosen = rows.filter(pa.array(of_quantities(rows, INTERVAL_QUANTITIES, "bench")))
    coded = pa.table(
        [one.dictionary_encode() if one.type == pa.string() else one for one in chosen.columns], names=names
    )
    return for_each_day(coded, Days.of(DAY), {}, FACTS, POLICY.interval_s)


def inventory(readings: pa.Table) -> pl.DataFrame:
    """Nodes without chassis and ratings."""
    nodes = [
        {
            "site_id": "bench",
            "cluster_id": "c",
            "node_id": name,
            "valid_from": datetime(2025, 1, 1, tzinfo=UTC),
        }
        for name in readings["node_id"].unique().to_pylist()
    ]
    return roster(pa.Table.from_pylist(nodes, schema=arrow_schema(NODE)))


def node_by_node(readings: pa.Table) -> Iterator[pa.Table]:
    names = readings["node_id"].cast(pa.string()).to_numpy()
    for name in np.unique(names):
        yield readings.filter(pa.array(names == name))


def cpu_us(work: Callable[[], int], readings: int, rounds: int) -> float:
    """Median CPU microseconds a reading."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return statistics.median(spent) / readings * 1e6


def bench(name: str, bronze: pl.DataFrame, copies: int, rounds: int) -> list[Figure]:
    """Cost a reading of one node a call and of a bucket a call, and how many readings a second that is."""
    few, many = kernel_input(bronze, 1), kernel_input(bronze, copies)
    listed_few, listed_many = inventory(few), inventory(many)
    nodes = list(node_by_node(few))

    def of(readings: pa.Table, listed: pl.DataFrame) -> int:
        rows: int = node_days(readings, NOTHING_BEFORE, listed, POLICY).intervals.num_rows
        return rows

    of(few, listed_few)
    single = cpu_us(lambda: sum(of(rows, listed_few) for rows in nodes), few.num_rows, rounds)
    bucket = cpu_us(lambda: of(many, listed_many), many.num_rows, rounds)
    return [
        figure(f"{name}: readings in a bucket", many.num_rows, "readings", rounds),
        figure(f"{name}: one node a call", single, "us a reading", rounds),
        figure(f"{name}: one call", single * few.num_rows / len(nodes) / 1e3, "ms a node", rounds),
        figure(f"{name}: a bucket a call", bucket, "us a reading", rounds, at_most=MOST_US),
        figure(f"{name}: rate of a bucket", 1e6 / bucket, "readings a CPU second", rounds),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=6, help="sets of 46 nodes in a bucket")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    figures = bench("real day of BMC text", harvard(), chosen.copies, chosen.rounds)
    figures += bench(
        "simulated day, ten sensors a minute", simulated(), max(1, chosen.copies // 3), chosen.rounds
    )
    print_figures("Interval kernel, CPU of one core", figures)
    print(f"figures: {write('intervals', figures)}")
    if any(one.ok is False for one in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
