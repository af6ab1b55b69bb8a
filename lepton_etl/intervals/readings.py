"""Prepare what the kernels read: bronze's readings by UTC day, and the inventory by day.

A reading stands in each UTC day that needs it.

Names stay dictionaries on the way: a reading's node, device, quantity, sensor and statistic are codes, so
cutting and moving rows costs no strings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.days import Days
from lepton_etl.intervals.channels import DAY_US, READING_COLUMNS, arrow_of, coded, codes_of
from lepton_etl.intervals.integrate import MICROSECONDS, Bools, Floats, Ints
from lepton_etl.schema.common import STATE_QUANTITIES

# Beyond any date a lake will hold, and far from the end of int64.
OPEN_END_US: Final = 36_525 * 2 * DAY_US

ROSTER_COLUMNS: Final = pl.Schema(
    {
        "node_id": pl.String,
        "cluster_id": pl.String,
        "chassis_id": pl.String,
        "rated_power_w": pl.Float64,
        "idle_power_w": pl.Float64,
        "gpu_rated_power_w": pl.Float64,
        "psu_count": pl.Int32,
        "sensor_gain_ratio": pl.Float64,
        "hardware_class": pl.String,
        "rest_power_w": pl.Float64,
        "standby_power_w": pl.Float64,
        "gpu_count": pl.Int32,
        "cpu_idle_power_w": pl.Float64,
        "memory_idle_power_w": pl.Float64,
        "gpu_idle_power_w": pl.Float64,
        "memory_total_byte": pl.Float64,
        "from_us": pl.Int64,
        "until_us": pl.Int64,
        "from_day": pl.Int64,
        "until_day": pl.Int64,
    }
)


def roster(nodes: pa.Table) -> pl.DataFrame:
    """silver/node -> ROSTER_COLUMNS: validity in microseconds and, one row a node and day, as days.

    What belongs to a day as a whole (chassis, ratings, number of supplies) comes from the row of that day: a
    row that begins within a day takes the day. The cluster of an interval goes by the instants.
    """
    frame = pl.DataFrame(nodes)
    rows = frame.sort("node_id", "valid_from").with_columns(
        pl.col("valid_from").dt.epoch("us").alias("from_us"),
        pl.col("valid_to").dt.epoch("us").fill_null(OPEN_END_US).alias("until_us"),
    )
    first_day = (pl.col("from_us") // DAY_US).alias("from_day")
    next_day = pl.col("from_us").shift(-1).over("node_id") // DAY_US - 1
    last_day = pl.min_horizontal((pl.col("until_us") - 1) // DAY_US, next_day).alias("until_day")
    return rows.with_columns(first_day, last_day).select(list(ROSTER_COLUMNS)).cast(ROSTER_COLUMNS)


def with_place(rows: pl.DataFrame, inventory: pl.DataFrame) -> pl.DataFrame:
    """Cluster and `listed_gain_ratio` (null: not known) by the inventory row that holds at the interval's start."""
    nodes = inventory.select("node_id", "cluster_id", "sensor_gain_ratio", "from_us", "until_us")
    chassis = (
        inventory.filter(pl.col("chassis_id").is_not_null())
        .sort("chassis_id", "from_us", "node_id")
        .unique(["chassis_id", "from_us"], keep="first", maintain_order=True)
        .select(pl.col("chassis_id").alias("node_id"), *nodes.columns[1:])
        .join(nodes.select("node_id").unique(), on="node_id", how="anti")
    )
    places = pl.concat([nodes, chassis]).sort("from_us")
    holds = pl.col("until_us").is_not_null() & (pl.col("interval_us") < pl.col("until_us"))
    placed = rows.sort("interval_us").join_asof(
        places,
        left_on="interval_us",
        right_on="from_us",
        by="node_id",
        strategy="backward",
        check_sortedness=False,
    )
    gain = pl.when(holds).then(pl.col("sensor_gain_ratio"))
    return placed.with_columns(
        pl.when(holds).then(pl.col("cluster_id")).alias("cluster_id"),
        gain.alias("listed_gain_ratio"),
    )


PERIODS_IN_MAX_GAP = 3.0


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the settings say of all readings of a source.

    `counter_max_j`: where its joule counters begin again at 0. `spot_samples`: how many moments a window mean of it
    rests on. None: not known, and all of the window.
    """

    max_gap_s: float
    counter_max_j: float | None = None
    spot_samples: int | None = None


def longest_step_s(max_gap_s: float, sampling_period_s: float | None) -> float:
    """The longest step that is bridged between readings of a source. Source: docs/definitions.md section 3."""
    return max(max_gap_s, PERIODS_IN_MAX_GAP * (sampling_period_s or 0.0))


def for_each_day(
    readings: pa.Table,
    days: Days,
    sources: Mapping[str, SourceFacts],
    unnamed: SourceFacts,
    interval_s: int,
    *,
    own_days: Collection[int] = (),
    further: Sequence[str] = (),
) -> pa.Table:
    """Return READING_COLUMNS and `further` ones: each reading once for every day whose energy it can touch.

    `readings` are rows of bronze/reading. One touches the days of [time - margin, time + window + margin), the margin
    being its source's longest step and at least one interval (a change of source is told by the interval before).
    `unnamed` is for sources that the settings no longer name. On `own_days` (days since 1970) beside `days` a reading
    stands for the day that it is of and no other: what a sensor said on that day.
    """
    first_wanted, last_wanted = (day_number(at.timestamp()) for at in (days.from_time, days.until_time))
    time_us = _us(readings["reading_time"])
    gap_s, counter_max_j, spot_samples = _by_source(readings["source_name"], sources, unnamed)
    margin_us = (np.maximum(gap_s, interval_s) * MICROSECONDS).astype(np.int64)
    window_us = np.rint(readings["window_s"].to_numpy() * MICROSECONDS).astype(np.int64)
    first = np.maximum((time_us - margin_us) // DAY_US, first_wanted)
    last = np.minimum((time_us + window_us + margin_us - 1) // DAY_US, last_wanted - 1)
    times = np.maximum(last - first + 1, 0)
    own = time_us // DAY_US
    extra = np.flatnonzero(np.isin(own, [day for day in own_days if not first_wanted <= day < last_wanted]))
    # A night of one day reads nearly every reading once: then nothing is moved.
    each_once = not len(extra) and bool((times == 1).all())
    rows: Ints | slice = slice(None)
    day = first
    if not each_once:
        rows = np.concatenate([np.repeat(np.arange(len(times)), times), extra])
        offset = np.arange(int(times.sum())) - np.repeat(np.cumsum(times) - times, times)
        day = np.concatenate([first[rows[: len(offset)]] + offset, own[extra]])
    made = pl.DataFrame(
        {
            "day": day, "time_us": time_us[rows], "max_gap_s": gap_s[rows], "counter_max_j": counter_max_j[rows],
            "spot_samples": spot_samples[rows], "file_rank": _file_ranks(readings["file_id"])[rows],
        }
    ).with_columns(pl.col("counter_max_j", "spot_samples").fill_nan(None)).cast({"spot_samples": pl.Int32})  # fmt: skip
    found = made.to_arrow()
    kept = [name for name in (*READING_COLUMNS, *further) if name not in found.column_names]
    taken = readings.select(kept)
    if isinstance(rows, np.ndarray):
        taken = taken.take(arrow_of(rows))
    columns = {name: found[name] for name in found.column_names} | {name: taken[name] for name in kept}
    return pa.table({name: columns[name] for name in (*READING_COLUMNS, *further)})


def state_readings(readings: pa.Table, sources: Mapping[str, SourceFacts], unnamed: SourceFacts) -> pa.Table:
    """Return what readings say of the states of nodes: columns STATE_READINGS of known_off."""
    chosen = of_quantities(readings, STATE_QUANTITIES) & readings["node_id"].is_valid().to_numpy()
    said = readings.filter(arrow_of(chosen))
    gap_s, _, _ = _by_source(said["source_name"], sources, unnamed)
    return pa.table(
        {
            "node_id": said["node_id"], "quantity": said["quantity"], "time_us": arrow_of(_us(said["reading_time"])),
            "value": said["value"], "max_gap_s": arrow_of(gap_s),
        }
    )  # fmt: skip


def of_quantities(readings: pa.Table, quantities: Iterable[str], site_id: str | None = None) -> Bools:
    """Return which readings are of these quantities, and of the site where given."""
    chosen = is_one_of(readings["quantity"], quantities)
    return chosen if site_id is None else chosen & is_one_of(readings["site_id"], (site_id,))


def is_one_of(column: pa.ChunkedArray, names: Iterable[str]) -> Bools:
    """Return which rows of a column of names have one of `names`."""
    array = coded(column)
    wanted = pl.Series(list(names), dtype=pl.String).to_arrow().cast(pa.string())
    of_word: Bools = pc.is_in(array.dictionary, wanted).to_numpy(zero_copy_only=False)
    if not of_word.any():
        return np.zeros(len(array), dtype=np.bool_)
    if of_word.all() and not array.null_count:
        return np.ones(len(array), dtype=np.bool_)
    found: Bools = np.append(of_word, False)[pl.Series(array.indices).fill_null(len(of_word)).to_numpy()]
    return found


def only(readings: pa.Table, chosen: Bools) -> pa.Table:
    """Return the chosen rows; nothing is moved where these are all."""
    return readings if chosen.all() else readings.filter(arrow_of(chosen))


def units_of(inventory: pl.DataFrame) -> dict[str, str]:
    """Return the unit of each node that was ever in a chassis: what must be computed together, by one name.

    Nodes that shared a chassis on any day are of one unit, so a node's days all come to one place. Any other node is a
    unit of its own.
    """
    unit: dict[str, str] = {}

    def top(name: str) -> str:
        while unit[name] != name:
            name = unit[name]
        return name

    shared = inventory.filter(pl.col("chassis_id").is_not_null()).select("node_id", "chassis_id")
    for node_id, chassis_id in shared.unique().sort(pl.all()).iter_rows():
        one, other = (
            top(unit.setdefault(name, name)) for name in (f"node {node_id}", f"chassis {chassis_id}")
        )
        unit[max(one, other)] = min(one, other)
    return {name.removeprefix("node "): top(name) for name in unit if name.startswith("node ")}


def buckets_of(nodes: pa.ChunkedArray, units: Mapping[str, str], buckets: int) -> Ints:
    """Return the bucket of each row by the unit of its node, the same in every process; nodes may be null (-1)."""
    codes, values = codes_of(nodes)
    of_name = [
        -1 if name is None else bucket_of(units.get(name, name), buckets) for name in values.to_pylist()
    ]
    found: Ints = np.array(of_name, dtype=np.int64)[codes]
    return found


def bucket_of(name: str, buckets: int) -> int:
    """Return the bucket of a unit or a meter."""
    return crc32(name.encode()) % buckets


def day_number(epoch_s: float) -> int:
    """Days since 1970 of an instant."""
    return int(epoch_s * MICROSECONDS) // DAY_US


def _us(times: pa.ChunkedArray) -> Ints:
    found: Ints = times.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return found


def _by_source(
    names: pa.ChunkedArray, sources: Mapping[str, SourceFacts], unnamed: SourceFacts
) -> tuple[Floats, Floats, Floats]:
    """max_gap_s, counter_max_j and spot_samples of each row, the unknown as NaN."""
    codes, values = codes_of(names)
    facts = [sources.get(name, unnamed) for name in values.to_pylist()]
    gap_s, counter_max_j, spot_samples = (
        np.array([getattr(one, name) for one in facts], dtype=np.float64)[codes]
        for name in ("max_gap_s", "counter_max_j", "spot_samples")
    )
    return gap_s, counter_max_j, spot_samples


def _file_ranks(file_ids: pa.ChunkedArray) -> Ints:
    """The first 60 bits of each file's SHA-256: they order files as the whole does, in fewer bytes."""
    codes, values = codes_of(file_ids)
    ranks: Ints = np.array([int((name or "0")[:15], 16) for name in values.to_pylist()], dtype=np.int64)
    return ranks[codes]
