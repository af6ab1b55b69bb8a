"""From an interval to its readings: which sensor spoke, and the straight stretches between what it said.

The night's own kernels judge the day's readings of the node's chassis (or of the meter) again and say who spoke; its
readings are then looked up in bronze, with file and position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.facility.grid_weather import once
from lepton_etl.facility.meter_hours import (
    METER_COLUMNS,
    VOLUME_QUANTITIES,
    HeardMeters,
    heard_meters,
    volume_readings,
    volume_steps,
    with_meter,
)
from lepton_etl.intervals import integrate
from lepton_etl.intervals.chassis import COPY_BIN_US, MEDIAN_SENSOR, SUM_SENSOR
from lepton_etl.intervals.integrate import MICROSECONDS
from lepton_etl.intervals.known_off import state_spans
from lepton_etl.intervals.modelled_power import judged_sums
from lepton_etl.intervals.node_day import Heard, IntervalPolicy, heard_on
from lepton_etl.intervals.readings import (
    SourceFacts,
    day_number,
    for_each_day,
    roster,
    state_readings,
    units_of,
)
from lepton_etl.intervals.source_choice import INTERVAL_QUANTITIES
from lepton_etl.intervals.undecided import PART
from lepton_etl.intervals.usual_values import HISTORY_DAYS, past_days
from lepton_etl.schema.common import STATE_QUANTITIES
from lepton_etl.schema.fleet import FACILITY_INTERVAL, METER, NODE, SENSOR_DAY
from lepton_etl.schema.logs import READING
from lepton_etl.trust.as_recorded import Kept, Recorded

Row = Mapping[str, Any]
_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)
# Nodes and meters whose readings are kept at once: a fleet's day is more than a memory holds.
_KEPT: Final = 8
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CHANNEL: Final = ("node_id", "device_id", "quantity", "sensor", "statistic")
# The rows of bronze behind a stretch, in a column of their own.
_ORIGINS: Final = "origins"


@dataclass
class Readings:
    """The readings of one published day. `policy` is how a stage over some days made its intervals."""

    recorded: Recorded
    settings: Settings
    policy: Callable[[Days, pl.DataFrame], IntervalPolicy]
    sources: tuple[Mapping[str, SourceFacts], SourceFacts]
    _kept: Kept = field(default_factory=lambda: Kept(_KEPT))

    @cached_property
    def of_day(self) -> IntervalPolicy:
        """How the day's intervals were made."""
        return self.policy(self.recorded.days, self.recorded.read(NODE)[0])

    def stretches(self, table: str, own: Row) -> pl.DataFrame:
        """Return the straight stretches of power within an interval; empty where no reading of it is left.

        From `from_w` to `to_w` W in `span_s` s, of which those from `begin_s` to `end_s` lie in the interval. `weight`
        is how many devices it stands for; of sockets that are summed it is the time that all were seen over its own.
        """
        made = self._of_meter(own) if table == FACILITY_INTERVAL.name else self._of_device(own)
        return pl.DataFrame() if made is None else made

    def modelled(self, own: Row) -> pl.DataFrame:
        """Return what the model of nodes without a sensor made of an interval (judged_sums), one row or none."""
        heard, _, listed = self._of_node(own["node_id"])
        policy = self.of_day
        if heard is None or policy.model is None:
            return pl.DataFrame()
        parts = heard.found.chosen.filter(pl.col("node_id") == own["node_id"])
        made = judged_sums(parts, listed, policy.model, policy.classes, policy.fitted)
        at = pl.col("interval_us") == _us(own["interval_start"])
        return pl.DataFrame() if made is None else made.filter(at)

    def volume_steps(self, own: Row) -> pl.DataFrame:
        """Return what ran through a water or fuel meter between two readings of it, of the steps of an interval.

        `litres` in `step_s` s, of which `within_s` lie in the interval.
        """
        meter_id = own["meter_id"]

        def make() -> tuple[_Logged, pl.DataFrame]:
            of_meter = pc.field("device_id") == meter_id
            moved = self._bronze(of_meter & pc.field("quantity").isin(VOLUME_QUANTITIES))
            return _Logged(moved), volume_steps(volume_readings(moved, self.recorded.read(METER)[0]))

        moved, steps = self._kept.get(("volume", meter_id), make)
        begin_us = _us(own["interval_start"])
        end_us = begin_us + own["interval_s"] * MICROSECONDS
        first, last = pl.col("start_us"), pl.col("end_us")
        within = pl.min_horizontal(last, pl.lit(end_us)) - pl.max_horizontal(first, pl.lit(begin_us))
        cut = steps.filter(first < end_us, last > begin_us).select(
            first.alias("first_us"), last.alias("last_us"), "litres", ((last - first) / MICROSECONDS).alias("step_s"),
            (within / MICROSECONDS).alias("within_s"),
        )  # fmt: skip
        return _with_origins(cut, lambda at: _lowest(moved.at(at)))

    def of_grid(self, own: Row) -> pl.DataFrame:
        """Return the readings that a row of silver/grid_hour is the mean of."""
        hour = own["hour_start"]
        where = (pc.field("quantity") == "grid_intensity") & (pc.field("device_id") == own["zone_id"])
        of_hour = pl.col("reading_time").is_between(hour, hour + _HOUR, closed="left")
        default = self.settings.grid.intensity_basis if self.settings.grid else own["intensity_basis"]
        of_kind = pl.coalesce("point", pl.lit(default)) == own["intensity_basis"]
        return once(self._bronze(where).filter(of_hour, of_kind))

    def _of_device(self, own: Row) -> pl.DataFrame | None:
        heard, bronze, _ = self._of_node(own["node_id"])
        if heard is None:
            return None
        spoke = heard.found.chosen.filter(
            pl.col("node_id") == own["node_id"], pl.col("device_id") == own["device_id"],
            pl.col("interval_us") == _us(own["interval_start"]),
        )  # fmt: skip
        if spoke.is_empty():
            return None
        chosen = _sensor(heard.channels.sensors, spoke["channel"][0])
        sensors = _summed_sockets(heard, chosen)
        parts = []
        for sensor in sensors:
            of_sensor = heard.once.readings.filter(pl.col("channel") == sensor["channel"])
            cut = stretches_of(of_sensor, sensor, own).with_columns(
                weight=pl.lit(float(spoke["multiplicity"][0]))
            )
            parts.append(_with_origins(cut, _origins_of(heard, bronze, sensor)))
        if len(parts) > 1:
            seen_s = [float((part["end_s"] - part["begin_s"]).sum()) for part in parts]
            parts = [
                part.with_columns(pl.col("weight") * min(seen_s) / own_s)
                for part, own_s in zip(parts, seen_s, strict=True)
            ]
        return pl.concat(parts)

    def _of_meter(self, own: Row) -> pl.DataFrame | None:
        meter_id = own["meter_id"]

        def make() -> tuple[HeardMeters | None, _Logged]:
            moved = with_meter(self._bronze(pc.field("device_id") == meter_id), self.recorded.read(METER)[0])
            day, interval_s = Days.of(self.recorded.day), self.settings.energy.interval_s
            touched = for_each_day(moved.to_arrow(), day, *self.sources, interval_s, further=METER_COLUMNS)
            return heard_meters(touched, self.of_day), _Logged(moved)

        heard, moved = self._kept.get(("meter", meter_id), make)
        if heard is None:
            return None
        at = pl.col("interval_us") == _us(own["interval_start"])
        spoke = heard.power.filter(at, pl.col("node_id") == meter_id)
        if spoke.is_empty():
            return None
        sensor = _sensor(heard.channels.sensors, spoke["channel"][0])
        readings = heard.readings.filter(pl.col("channel") == sensor["channel"])
        cut = stretches_of(readings, sensor, own).with_columns(weight=pl.lit(1.0))
        named = ("quantity", "sensor")
        return _with_origins(
            cut,
            lambda at: _lowest(
                [row for row in moved.at(at) if all(row[one] == sensor[one] for one in named)]
            ),
        )

    def _of_node(self, node_id: str) -> tuple[Heard | None, _Logged, pl.DataFrame]:
        """What was heard of a node's chassis on the day, its bronze readings, and the inventory."""

        def make() -> tuple[Heard | None, _Logged, pl.DataFrame]:
            listed = roster(self.recorded.read(NODE)[0].to_arrow())
            units = units_of(listed)
            unit = units.get(node_id, node_id)
            of_chassis = listed.filter(pl.col("chassis_id") == node_id)["node_id"].to_list()
            mine = pc.field("node_id").isin(
                sorted({node_id, *of_chassis, *(name for name, other in units.items() if other == unit)})
            )
            readings, day = self._bronze(mine), self.recorded.day
            wanted = readings.filter(pl.col("quantity").is_in(INTERVAL_QUANTITIES))
            touched = for_each_day(
                wanted.to_arrow(), Days.of(day), *self.sources, self.settings.energy.interval_s
            )
            said = readings.filter(pl.col("quantity").is_in(STATE_QUANTITIES))
            spans = state_spans(pl.DataFrame(state_readings(said.to_arrow(), *self.sources)))
            before = Days(day - timedelta(days=HISTORY_DAYS), day - _DAY)
            past = past_days(self.recorded.read(SENSOR_DAY, before, mine)[0])
            number = day_number(Days.of(day).from_time.timestamp())
            found = heard_on(touched, past, listed, self.of_day, number, spans)
            return found, _Logged(readings), listed

        made: tuple[Heard | None, _Logged, pl.DataFrame] = self._kept.get(("node", node_id), make)
        return made

    def _bronze(self, where: pc.Expression) -> pl.DataFrame:
        day = pc.field("reading_date")
        within = (day >= pa.scalar(self.recorded.day - _DAY)) & (day <= pa.scalar(self.recorded.day + _DAY))
        rows, _ = self.recorded.read(READING, None, where & within)
        if rows.is_empty():
            self.recorded.note("bronze/reading holds no such readings of these days any more (retention)")
        return rows


def stretches_of(readings: pl.DataFrame, sensor: Row, own: Row) -> pl.DataFrame:
    """Return what `integrate` makes of a channel's readings within an interval (see Readings.stretches).

    `first_us` and `last_us` are the times of the readings at both ends; a window is one reading.
    """
    time_us, value = readings["time_us"].to_numpy(), readings["value"].to_numpy()
    channel = np.zeros(readings.height, dtype=np.int64)
    gap_us, window_us = (
        np.rint(readings[name].to_numpy() * MICROSECONDS).astype(np.int64)
        for name in ("max_gap_s", "window_s")
    )
    statistic = sensor["statistic"]
    if statistic == "counter":
        peak = (
            readings["peak_w"]
            if "peak_w" in readings.columns
            else pl.Series([sensor["peak_w"]] * readings.height)
        )
        limits = [
            one.cast(pl.Float64).fill_null(float("nan")).to_numpy()
            for one in (peak, readings["counter_max_j"])
        ]
        made = integrate.between_counts(channel, time_us, value, gap_us, *limits).segments
    elif statistic == "instant":
        made = integrate.between_instants(channel, time_us, value, gap_us)
    else:
        unsampled = np.full(readings.height, np.nan)
        made, _ = integrate.over_windows(channel, time_us, window_us, value, unsampled)
    start_us = _us(own["interval_start"])
    end_us = start_us + own["interval_s"] * MICROSECONDS
    first, last = pl.col("first_us"), pl.col("last_us")
    is_window = statistic not in ("counter", "instant")
    return (
        pl.DataFrame(
            {
                "first_us": made.start_us,
                "last_us": made.end_us,
                "from_w": made.value_start,
                "to_w": made.value_end,
            }
        )
        .filter((first < end_us) & (last > start_us))
        .with_columns(
            ((pl.max_horizontal(first, pl.lit(start_us)) - first) / MICROSECONDS).alias("begin_s"),
            ((pl.min_horizontal(last, pl.lit(end_us)) - first) / MICROSECONDS).alias("end_s"),
            ((last - first) / MICROSECONDS).alias("span_s"),
        )
        .with_columns((first if is_window else last).alias("last_us"))
    )


def readings_of(stretches: pl.DataFrame) -> list[Row]:
    """Return the rows of bronze/reading behind the stretches, each once, by time."""
    found: dict[tuple[Any, ...], Row] = {}
    for origins in stretches[_ORIGINS] if stretches.height else ():
        for row in origins:
            found[row["reading_time"], str(row["node_id"]), row["device_id"], row["sensor"]] = row
    return [found[key] for key in sorted(found)]


def shown(stretches: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the stretches as they are printed: their powers and seconds, and `energy_j` of each."""
    if stretches.is_empty():
        return []
    slope = (pl.col("to_w") - pl.col("from_w")) / pl.col("span_s")
    mean_w = pl.col("from_w") + slope * (pl.col("begin_s") + pl.col("end_s")) / 2
    energy_j = mean_w * (pl.col("end_s") - pl.col("begin_s")) * pl.col("weight")
    return stretches.select(
        pl.from_epoch("first_us", "us").dt.replace_time_zone("UTC").alias("from_time"),
        "from_w", "to_w", "span_s", "begin_s", "end_s", "weight", energy_j.alias("energy_j"),
    ).to_dicts()  # fmt: skip


def steps_shown(steps: pl.DataFrame) -> list[dict[str, Any]]:
    """Return steps of a meter's volume as they are printed."""
    if steps.is_empty():
        return []
    from_time = pl.from_epoch("first_us", "us").dt.replace_time_zone("UTC").alias("from_time")
    return steps.select(from_time, "litres", "step_s", "within_s").to_dicts()


def _with_origins(cut: pl.DataFrame, origin: Callable[[int], list[dict[str, Any]]]) -> pl.DataFrame:
    at_us = {*cut["first_us"].to_list(), *cut["last_us"].to_list()}
    rows = {at: origin(at) for at in at_us}
    origins = [[*rows[first], *rows[last]] for first, last in cut.select("first_us", "last_us").iter_rows()]
    return cut.with_columns(pl.Series(_ORIGINS, origins, dtype=pl.Object))


def _sensor(sensors: pl.DataFrame, channel: int) -> dict[str, Any]:
    return sensors.filter(pl.col("channel") == channel).to_dicts()[0]


def _summed_sockets(heard: Heard, chosen: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The sensor that spoke, or all of a node's sockets or modules where their sum did."""
    if re.search(PART, chosen["sensor"]) is None:
        return [chosen]
    named = re.sub(PART, r"\1#", chosen["sensor"])
    claim = [pl.col(name) == chosen[name] for name in ("day", "node_id", "quantity", "statistic")]
    others = heard.candidates.filter(*claim, pl.col("sensor").str.replace(PART, "${1}#") == named)
    return [_sensor(heard.channels.sensors, channel) for channel in others["channel"]]


@dataclass
class _Logged:
    """The rows of bronze/reading of a node's chassis or of a meter, by their time."""

    rows: pl.DataFrame

    @cached_property
    def _by_time(self) -> dict[Any, pl.DataFrame]:
        return self.rows.partition_by("reading_time", as_dict=True)

    def at(self, time_us: int) -> list[dict[str, Any]]:
        """Return those of an instant."""
        found = self._by_time.get((_time(time_us),))
        return [] if found is None else found.to_dicts()

    def within(self, begin: datetime, length: timedelta) -> list[dict[str, Any]]:
        """Return those of a span of time, the end left out."""
        time = pl.col("reading_time")
        return self.rows.filter(time.is_between(begin, begin + length, closed="left")).to_dicts()


def _origins_of(heard: Heard, logged: _Logged, sensor: Row) -> Callable[[int], list[dict[str, Any]]]:
    """The rows of bronze/reading behind one reading of a channel: its own, or those that were summed or voted."""
    sensors = heard.spoken.sensors
    alike = [pl.col(name) == sensor[name] for name in ("quantity", "statistic")]
    is_voted = sensor["sensor"] == MEDIAN_SENSOR
    if sensor["sensor"] == SUM_SENSOR:
        of_node = sensors.filter(
            *alike, pl.col("node_id") == sensor["node_id"], pl.col("device_id") != "node"
        )
        # Two sensors of one supply are two views of it: the first stands for it.
        found = of_node.unique("device_id", keep="first", maintain_order=True)
    elif is_voted:
        found = sensors.filter(*alike, pl.col("chassis_id") == sensor["node_id"])
    else:
        found = sensors.filter(pl.col(name) == sensor[name] for name in _CHANNEL)
    parts, named = found.to_dicts(), [name for name in _CHANNEL if name != "device_id"]

    def origins(time_us: int) -> list[dict[str, Any]]:
        bin_us = time_us // COPY_BIN_US * COPY_BIN_US
        now = logged.within(_time(bin_us), timedelta(minutes=1)) if is_voted else logged.at(time_us)
        rows: list[dict[str, Any]] = []
        for part in parts:
            of_part = [row for row in now if all(row[name] == part[name] for name in named)]
            own = [row for row in of_part if row["device_id"] == part["device_id"]]
            # A component that was logged at the node stands at its own device from silver on.
            rows += _lowest(own or of_part)
        return rows

    return origins


def _lowest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of repeats the one that silver takes: the lowest file, then the lowest position and value."""

    def place(row: Row) -> list[tuple[bool, Any]]:
        return [(row[name] is not None, row[name]) for name in ("file_id", "source_position", "value")]

    return [min(rows, key=place)] if rows else []


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
