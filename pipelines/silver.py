"""Make silver of inventory, meters, jobs and readings: intervals, sensor checks, node states, runs, hours.

The day's bronze is read once. Tasks read its files and part the readings by the unit of their node (a
chassis, or a node without one) and by meter; one call a bucket gives everything that has a row a
node-interval, a sensor or a meter and stages it as Parquet; the driver commits. Names travel as dictionaries,
and a bucket gets the inventory, the holdings and the past of its own nodes alone.

Job accounting gives runs and what they held. A lake without any has neither table.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lepton_etl.attribution.node_states import node_states
from lepton_etl.attribution.runs import job_nodes, job_runs, run_table
from lepton_etl.carbon.used_factors import site_factors
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days, adjoining
from lepton_etl.facility.grid_weather import GRID_QUANTITIES, WEATHER_QUANTITIES, grid_hours, weather_hours
from lepton_etl.facility.meter_hours import (
    METER_COLUMNS,
    METER_QUANTITIES,
    VOLUME_QUANTITIES,
    facility_intervals,
    volume_intervals,
    volume_readings,
    with_meter,
)
from lepton_etl.ingest.text import UnreadableError, text_chunks
from lepton_etl.ingest.unmapped import Unmapped, speaks_of_power, unmapped
from lepton_etl.intervals.channels import arrow_of
from lepton_etl.intervals.known_off import STATE_READINGS, state_spans
from lepton_etl.intervals.modelled_power import FITTED_COLUMNS, MISSING, NodeModel, fitted_points, node_model
from lepton_etl.intervals.node_day import UNLISTED_CLUSTER, IntervalPolicy, NodeDays, node_days
from lepton_etl.intervals.readings import (
    ROSTER_COLUMNS,
    SourceFacts,
    buckets_of,
    day_number,
    for_each_day,
    is_one_of,
    longest_step_s,
    of_quantities,
    only,
    roster,
    state_readings,
    units_of,
)
from lepton_etl.intervals.sensor_checks import COMPONENTS
from lepton_etl.intervals.sensor_classes import sensor_classes
from lepton_etl.intervals.source_choice import COMPONENT_OF, INTERVAL_QUANTITIES
from lepton_etl.intervals.transfer import TRANSFER_QUANTITIES, transfer_intervals
from lepton_etl.intervals.usual_values import HISTORY_DAYS, SENSOR_DAY_COLUMNS, past_days
from lepton_etl.lake.landing import Delivered, identity
from lepton_etl.lake.location import Location
from lepton_etl.lake.staging import StagedFile, stage
from lepton_etl.lake.tables import DataFile, Written, read_files
from lepton_etl.registers.instruments import read_instruments, read_scope1
from lepton_etl.registers.inventory import read_meters, read_nodes
from lepton_etl.schema.carbon import INSTRUMENT, SCOPE1, VOLUME_INTERVAL
from lepton_etl.schema.common import KNOWN_OFF
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import (
    FACILITY_INTERVAL,
    GRID_HOUR,
    INTERVAL,
    METER,
    NODE,
    SENSOR_CHECK,
    SENSOR_DAY,
    TRANSFER_INTERVAL,
    WEATHER_HOUR,
)
from lepton_etl.schema.jobs import JOB_NODE, JOB_RUN, NODE_STATE
from lepton_etl.schema.logs import FILE, JOB, READING
from lepton_etl.schema.types import arrow_schema
from pipelines.bronze import landing_of, origin_of
from pipelines.engine import balanced
from pipelines.stage import StageContext, StageResult

_NAMES_IN_NOTE: Final = 10
# Sensors that no rule reads, of nodes without power, whose files are looked into once more.
_LOOKED_AT: Final = 10
# What these tools print beside a board's power is no node's.
_BOARD_TOOLS: Final = ("nvidia_smi", "rocm_smi", "dcgmi_dmon", "xpu_smi")
# Of Made: nodes with energy of their own, and with energy of any part.
_HEARD: Final = ("powered_nodes", "heard_nodes")
_EPOCH: Final = date(1970, 1, 1)
_DAY: Final = timedelta(days=1)
# A bucket of more readings only takes more memory, of fewer more calls.
_BUCKET_READINGS: Final = 600_000
_LEAST_BUCKET_READINGS: Final = 50_000
# A call of the kernel takes at most this many readings of a bucket, day by day.
_CALL_READINGS: Final = 2_000_000
_TASKS_A_CORE: Final = 3
# Shorter runs of rows of one bucket are sorted before they are cut.
_LEAST_RUN: Final = 100
_TASK_READINGS: Final = 500_000
_NAMES: Final = (
    "site_id", "node_id", "device_id", "quantity", "sensor", "statistic", "point", "source_name", "file_id",
)  # fmt: skip
_BRONZE_COLUMNS: Final = [*_NAMES, "value", "window_s", "reading_time", "multiplicity", "source_position"]
# What is staged, and whether a day may have none of it.
_MAY_BE_EMPTY: Final = {
    INTERVAL: False, SENSOR_CHECK: True, SENSOR_DAY: True, FACILITY_INTERVAL: True, GRID_HOUR: True,
    WEATHER_HOUR: True, VOLUME_INTERVAL: True,
}  # fmt: skip


@dataclass(frozen=True)
class NodeRows:
    """Rows with a node_id that a bucket needs beside its readings: `inventory` or `held`."""

    kind: str
    rows: pa.Table


@dataclass(frozen=True)
class Task:
    """What one task reads: files of bronze/reading and of silver/sensor_day, and rows that the driver has."""

    readings: tuple[DataFile, ...] = ()
    past: tuple[DataFile, ...] = ()
    rows: tuple[NodeRows, ...] = ()


@dataclass(frozen=True)
class Parting:
    """The first half of the exchange: rows of a task -> their buckets, as Arrow IPC; the site's rows go to the first.

    `own_days` are days before `days` whose sensor-days no night has written yet.
    """

    days: Days
    own_days: tuple[int, ...]
    site_id: str
    buckets: int
    units: Mapping[str, str]
    meter_ids: tuple[str, ...]
    sources: Mapping[str, SourceFacts]
    unnamed: SourceFacts
    interval_s: int

    def __call__(self, task: Task) -> Iterator[tuple[int, bytes]]:
        for part in task.rows:
            yield from self._by_node(part.kind, part.rows)
        if task.past:
            past = read_files(SENSOR_DAY, task.past, SENSOR_DAY.columns, pl.col("date") < self.days.start)
            yield from self._by_node("past", past.to_arrow())
        for file in task.readings:
            for readings in _groups(file):
                yield from self._readings(readings)

    def _readings(self, readings: pa.Table) -> Iterator[tuple[int, bytes]]:
        readings = only(readings, self._near(readings))
        of_nodes = of_quantities(readings, INTERVAL_QUANTITIES, self.site_id)
        of_nodes &= readings["node_id"].is_valid().to_numpy()
        touched = for_each_day(
            only(readings, of_nodes), self.days, self.sources, self.unnamed, self.interval_s,
            own_days=self.own_days,
        )  # fmt: skip
        yield from self._by_node("reading", touched)
        yield from self._by_node("state", state_readings(readings, self.sources, self.unnamed))
        rest = readings.filter(arrow_of(~of_nodes))
        moved = of_quantities(rest, TRANSFER_QUANTITIES, self.site_id) & rest["node_id"].is_valid().to_numpy()
        yield from self._by_node("transfer", rest.filter(arrow_of(moved)))
        of_meters = of_quantities(rest, METER_QUANTITIES, self.site_id)
        listed = of_meters & is_one_of(rest["device_id"], self.meter_ids)
        yield from self._by_meter(rest.filter(arrow_of(listed)))
        own = self._of_days(rest)
        unlisted = rest.filter(arrow_of(of_meters & ~listed & own))["device_id"].unique().to_pylist()
        hours = of_quantities(rest, GRID_QUANTITIES) | of_quantities(rest, WEATHER_QUANTITIES, self.site_id)
        chosen = (hours & own) | of_quantities(rest, VOLUME_QUANTITIES, self.site_id)
        facts = {"rows": int(self._of_days(readings).sum()), "unlisted": unlisted}
        yield 0, _packed("site", rest.filter(arrow_of(chosen)), facts)

    def _near(self, readings: pa.Table) -> np.ndarray:
        """Of the days, of a day on both sides (longest step and window are at most a day), or of `own_days`."""
        day = _days_of(readings)
        first, last = ((one - _EPOCH).days for one in (self.days.start, self.days.end))
        found: np.ndarray = ((day >= first - 1) & (day <= last + 1)) | np.isin(day, self.own_days)
        return found

    def _of_days(self, readings: pa.Table) -> np.ndarray:
        day = _days_of(readings)
        found: np.ndarray = (day >= (self.days.start - _EPOCH).days) & (day <= (self.days.end - _EPOCH).days)
        return found

    def _by_node(self, kind: str, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
        yield from _parted(kind, rows, buckets_of(rows["node_id"], self.units, self.buckets))

    def _by_meter(self, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
        yield from _parted("meter", rows, buckets_of(rows["device_id"], {}, self.buckets))


@dataclass(frozen=True)
class Made:
    """What one bucket gave: staged files, and what the notes and the run record need."""

    staged: tuple[StagedFile, ...] = ()
    unlisted_nodes: tuple[str, ...] = ()
    powered_nodes: tuple[str, ...] = ()
    heard_nodes: tuple[str, ...] = ()
    unmodelled: tuple[tuple[str, str], ...] = ()
    unlisted_meters: tuple[str, ...] = ()
    rows_in: int = 0


@dataclass(frozen=True)
class Making:
    """The second half of the exchange: everything of a bucket -> its rows of silver, staged."""

    root: Location
    days: Days
    policy: IntervalPolicy
    sources: Mapping[str, SourceFacts]
    unnamed: SourceFacts
    meters: pa.Table
    grid: tuple[str, str, str] | None
    has_jobs: bool

    def __call__(self, bucket: int, parts: Sequence[bytes]) -> Made:
        found = _unpacked(parts)
        nodes, site = self._nodes(found), self._site(found)
        return replace(
            nodes,
            staged=nodes.staged + site.staged,
            unlisted_meters=site.unlisted_meters,
            rows_in=site.rows_in,
        )

    def _nodes(self, found: _Unpacked) -> Made:
        inventory = found.frame("inventory", pl.DataFrame(schema=ROSTER_COLUMNS))
        staged: list[StagedFile] = []
        unlisted: set[str] = set()
        powered: set[str] = set()
        heard: set[str] = set()
        unmodelled: set[tuple[str, str]] = set()
        states = [pl.DataFrame(arrow_schema(INTERVAL).empty_table()).select(_STATE_COLUMNS)]
        said = found.table("state")
        spans = state_spans(pl.DataFrame(schema=STATE_READINGS) if said is None else _plain(said))
        for made in self._node_days(found, inventory, spans):
            intervals = pl.DataFrame(made.intervals)
            staged += stage(self.root, INTERVAL, made.intervals)
            staged += stage(self.root, SENSOR_CHECK, made.checks)
            staged += stage(self.root, SENSOR_DAY, _sensor_day_rows(made.sensor_days, self.policy.site_id))
            unlisted |= set(intervals.filter(pl.col("cluster_id") == UNLISTED_CLUSTER)["node_id"].unique())
            with_energy = intervals.filter(pl.col("energy_kwh").is_not_null())
            heard |= set(with_energy["node_id"].unique())
            powered |= set(with_energy.filter("counts_in_total")["node_id"].unique())
            unmodelled |= set(_reasons(intervals))
            is_read = pl.col("energy_source").ne_missing(KNOWN_OFF)
            states.append(intervals.filter(pl.col("device_id") == "node", is_read).select(_STATE_COLUMNS))
        if self.has_jobs or spans.height:
            held = (
                found.frame("held", pl.DataFrame(arrow_schema(JOB_NODE).empty_table()))
                if self.has_jobs
                else None
            )
            rows_of_states = node_states(
                pl.concat(states), held, inventory, self.policy.site_id, spans, list(self.days)
            )
            staged += stage(self.root, NODE_STATE, rows_of_states)
        if (meters := found.table("meter")) is not None:
            staged += stage(self.root, FACILITY_INTERVAL, self._facility(meters))
        if (counters := found.table("transfer")) is not None:
            staged += stage(self.root, TRANSFER_INTERVAL, self._transfers(counters))
        return Made(
            tuple(staged), tuple(sorted(unlisted)), tuple(powered), tuple(heard), tuple(sorted(unmodelled))
        )

    def _node_days(
        self, found: _Unpacked, inventory: pl.DataFrame, spans: pl.DataFrame
    ) -> Iterator[NodeDays]:
        """What the readings of the bucket say; of many readings some days a call, each with those before it."""
        readings = found.table("reading")
        wanted = {(day - _EPOCH).days for day in self.days}
        if readings is None:
            yield node_days(_NO_READINGS, _NO_PAST, inventory, self.policy, wanted, spans)
            return
        past = past_days(found.frame("past", pl.DataFrame(arrow_schema(SENSOR_DAY).empty_table())))
        day = readings["day"].to_numpy()
        first = day_number(self.days.from_time.timestamp())
        numbers, counts = np.unique(day, return_counts=True)
        call = (np.cumsum(counts) - counts) // _CALL_READINGS
        for number in np.unique(call):
            days = numbers[call == number]
            chosen = only(readings, np.isin(day, days))
            own = [int(one) for one in days if one >= first]
            made = node_days(chosen, past, inventory, self.policy, own, spans)
            yield made
            wanted -= set(own)
            past = pl.concat([past, made.sensor_days])
        # A day on which the bucket's nodes were all silent.
        yield node_days(_NO_READINGS, _NO_PAST, inventory, self.policy, wanted, spans)

    def _facility(self, meters: pa.Table) -> pa.Table:
        listed = pl.DataFrame(self.meters)
        moved = with_meter(_plain(meters), listed).to_arrow()
        touched = for_each_day(
            moved, self.days, self.sources, self.unnamed, self.policy.interval_s, further=METER_COLUMNS
        )
        return facility_intervals(touched, self.policy)

    def _transfers(self, counters: pa.Table) -> pa.Table:
        interval_s = self.policy.interval_s
        touched = for_each_day(counters, self.days, self.sources, self.unnamed, interval_s)
        return transfer_intervals(touched, self.policy.site_id, interval_s)

    def _site(self, found: _Unpacked) -> Made:
        facts = found.facts.get("site", [])
        unlisted = {name for one in facts for name in one["unlisted"]}
        made: dict[Table, pa.Table | pl.DataFrame] = {}
        if (rows := found.table("site")) is not None:
            readings = _plain(rows)
            if self.grid is not None:
                of_grid = readings.filter(pl.col("quantity").is_in(GRID_QUANTITIES))
                made[GRID_HOUR] = grid_hours(of_grid, *self.grid)
            made[WEATHER_HOUR] = weather_hours(readings.filter(pl.col("quantity").is_in(WEATHER_QUANTITIES)))
            made[VOLUME_INTERVAL] = self._volumes(
                readings.filter(pl.col("quantity").is_in(VOLUME_QUANTITIES))
            )
        staged = [one for table, content in made.items() for one in stage(self.root, table, content)]
        return Made(
            tuple(staged), unlisted_meters=tuple(sorted(unlisted)), rows_in=sum(one["rows"] for one in facts)
        )

    def _volumes(self, readings: pl.DataFrame) -> pa.Table:
        first, last = (int(at.timestamp() * 1_000_000) for at in (self.days.from_time, self.days.until_time))
        known = volume_readings(readings, pl.DataFrame(self.meters))
        return volume_intervals(known.to_arrow(), self.policy.site_id, self.policy.interval_s, first, last)


_NO_READINGS: Final = pa.table({})
_NO_PAST: Final = pl.DataFrame(schema=SENSOR_DAY_COLUMNS)
_STATE_COLUMNS: Final = ["cluster_id", "node_id", "date", "interval_start", "interval_s", "power_mean_w"]


def run(context: StageContext) -> StageResult:
    """Make the silver tables of the context's days. Raises ConfigurationError for a wrong inventory."""
    settings, lake = context.settings, context.lake
    nodes = read_nodes(settings.fleet.inventory, settings.site.site_id)
    meters = _meters(settings)
    written = [lake.overwrite(NODE, nodes), lake.overwrite(METER, meters)]
    jobs, held = accounting(context, nodes)
    made, own_days = _exchanged(context, nodes, meters, held)
    staged = [file for one in made for file in one.staged]
    tells = held is not None or lake.exists(NODE_STATE) or any(one.table == NODE_STATE.name for one in staged)
    counts = lake.exists(TRANSFER_INTERVAL) or any(one.table == TRANSFER_INTERVAL.name for one in staged)
    asked = [table for table, is_told in ((NODE_STATE, tells), (TRANSFER_INTERVAL, counts)) if is_told]
    for table, may_be_empty in (_MAY_BE_EMPTY | dict.fromkeys(asked, True)).items():
        of_table = [file for file in staged if file.table == table.name and file.day in context.days]
        # A day on which no node was ever read is one; only rows that stand are not replaced by nothing.
        empty = may_be_empty or not (lake.exists(table) and lake.files(table, context.days))
        written.append(lake.commit(table, context.days, of_table, allow_empty=empty))
    for span in adjoining([_EPOCH + timedelta(days=day) for day in own_days]):
        before = [file for file in staged if file.table == SENSOR_DAY.name and file.day in span]
        lake.commit(SENSOR_DAY, span, before, allow_empty=True)
    written += [*registers(context), *jobs]
    notes = (
        *_note((name for one in made for name in one.unlisted_nodes),
               "nodes are not in the inventory; they stand in cluster _unlisted"),
        *_note((name for one in made for name in one.unlisted_meters),
               "meters are not in the meters file; their readings are not used"),
        *_unpowered(context, nodes, made),
    )  # fmt: skip
    rows_in = sum(one.rows_in for one in made)
    return StageResult(rows_in, sum(one.rows for one in written), tuple(written), notes)


def _reasons(intervals: pl.DataFrame) -> list[tuple[str, str]]:
    """Flag and node of the intervals whose node could not be modelled."""
    flagged = intervals.filter(pl.col("flags").list.len() > 0).select("flags", "node_id").explode("flags")
    return flagged.filter(pl.col("flags").is_in(list(MISSING))).unique().rows()


def _unpowered(context: StageContext, nodes: pa.Table, made: Sequence[Made]) -> Iterator[str]:
    """What keeps nodes without energy: facts that their model lacks, and watts that they log and no rule reads."""
    reasons = [one for bucket in made for one in bucket.unmodelled]
    for flag, what in MISSING.items():
        yield from _note((node for reason, node in reasons if reason == flag),
                         f"nodes log components and have no energy ({flag}: {what})")  # fmt: skip
    days = context.days
    listed = pl.DataFrame(nodes).filter(
        (pl.col("valid_from") < days.until_time)
        & (pl.col("valid_to").is_null() | (pl.col("valid_to") > days.from_time))
    )
    totals, parts = ({node for bucket in made for node in getattr(bucket, name)} for name in _HEARD)
    silent = set(listed["node_id"]) - totals
    if not silent or not context.lake.exists(FILE):
        return
    found: dict[tuple[str, str], tuple[set[str], dict[str, Any]]] = {}
    for file in _files_of(context).iter_rows(named=True):
        whose = silent if file["node_id"] is None else silent & {file["node_id"]}
        for sensor, reason, _ in json.loads(file["ignored_detail"]) if whose else ():
            if reason == "unmapped" and speaks_of_power(sensor):
                found.setdefault((file["source_name"], sensor), (set(), file))[0].update(whose)
    looked: dict[tuple[str, str], list[Unmapped]] = {}
    for (source, sensor), (whose, file) in sorted(found.items())[:_LOOKED_AT]:
        place = (source, file["path"])
        if place not in looked:
            looked[place] = _looked_at(context, source, file)
        for one in looked[place]:
            # A second figure of a board or socket that has its power is no node's.
            wanting = whose if one.speaks_for_node else whose - parts
            if one.sensor == sensor and one.is_power and one.format not in _BOARD_TOOLS:
                yield from _note(wanting, f"nodes have no power, and no rule reads {sensor!r} ({one.lowest:g} .. "
                                 f"{one.highest:g} {one.unit} in {file['path']}): if it is theirs, add `{one.rule}` to "
                                 f"conf/sensors/{one.format}.yaml (`lepton-etl sensors` lists all)")  # fmt: skip


def _looked_at(context: StageContext, source_name: str, row: Mapping[str, Any]) -> list[Unmapped]:
    """The unmapped sensors of a file that bronze has loaded; none where it lies there no more."""
    source = {one.name: one for one in context.settings.all_sources}.get(source_name)
    if source is None:
        return []
    file = Delivered(
        source_name, row["path"], row["size_bytes"], row["modified_time"], *identity(source, row["path"])
    )
    landing = landing_of(context)

    def text() -> Iterator[bytes]:
        with landing.open(file, source) as handle:
            yield from text_chunks(handle, file.path)

    try:
        return unmapped(text, origin_of(file, source, context.settings.site.site_id), source)
    except (OSError, UnreadableError):
        return []


def _files_of(context: StageContext) -> pl.DataFrame:
    """Loaded files that may hold readings of the days, with their ignored records."""
    days = context.days
    first, last = pc.field("first_reading_time"), pc.field("last_reading_time")
    touches = (first < pa.scalar(days.until_time)) & (last >= pa.scalar(days.from_time))
    # A file of which nothing was read has no times but that of its delivery.
    begin, end = pa.scalar(days.from_time), pa.scalar(days.until_time + _DAY)
    delivered = pc.is_null(first) & (pc.field("modified_time") >= begin) & (pc.field("modified_time") < end)
    columns = ["source_name", "node_id", "path", "size_bytes", "modified_time", "ignored_detail", "state"]
    files = context.lake.read(FILE, columns=columns, where=touches | delivered)
    return files.filter((pl.col("state") == "loaded") & pl.col("ignored_detail").is_not_null()).sort("path")


def accounting(context: StageContext, nodes: pa.Table) -> tuple[list[Written], pa.Table | None]:
    """Make silver/job_run and silver/job_node of the context's days; returns the latter's rows, None without jobs."""
    lake, days = context.lake, context.days
    if not lake.exists(JOB):
        return [], None
    rule = context.settings.fleet.node_names
    runs = job_runs(_jobs(context).to_arrow(), nodes, context.settings.site.site_id, days, rule)
    held = job_nodes(runs, nodes, rule)
    written = [
        lake.replace(JOB_RUN, days, run_table(runs), allow_empty=True),
        lake.replace(JOB_NODE, days, held, allow_empty=True),
    ]
    return written, held


def _jobs(context: StageContext) -> pl.DataFrame:
    """Jobs that may have held something on the days; one without an end until the longest run is over.

    A run that was seen going on and that had ended before the days comes with its end: without it, it would go on.
    """
    days = context.days
    longest = timedelta(days=context.settings.attribution.longest_run_d)
    start, end = pc.field("start_time"), pc.field("end_time")
    begin, until, since = (
        pa.scalar(at) for at in (days.from_time, days.until_time, days.from_time - longest)
    )
    jobs = context.lake.read(JOB, where=(start < until) & ((end > begin) | (start > since)))
    ended, open_ = pl.col("end_time") <= days.from_time, pl.col("end_time").is_null()
    touching = jobs.filter(~ended.fill_null(False))
    recent = pl.col("start_time") > days.from_time - longest
    touching = touching.filter(recent | ~open_)
    seen_running = touching.filter(open_).select("job_id").unique()
    over = jobs.filter(ended & recent).join(seen_running, on="job_id", how="semi")
    return pl.concat([touching, over])


def registers(context: StageContext) -> tuple[Written, ...]:
    """instruments.csv and scope1.csv -> silver/instrument and silver/scope1; empty where the settings name none."""
    carbon, site_id, lake = context.settings.carbon, context.settings.site.site_id, context.lake
    instruments = (
        read_instruments(carbon.instruments, site_id)
        if carbon.instruments
        else arrow_schema(INSTRUMENT).empty_table()
    )
    scope1 = (
        read_scope1(carbon.scope1, site_id, site_factors(carbon), carbon.gwp_set)
        if carbon.scope1
        else arrow_schema(SCOPE1).empty_table()
    )
    return lake.overwrite(INSTRUMENT, instruments), lake.overwrite(SCOPE1, scope1)


def _exchanged(
    context: StageContext, nodes: pa.Table, meters: pa.Table, held: pa.Table | None
) -> tuple[list[Made], list[int]]:
    """What the buckets made, and the days before whose sensor-days were made beside."""
    days, settings, lake = context.days, context.settings, context.lake
    listed, policy = roster(nodes), interval_policy(context, nodes)
    past = lake.files(SENSOR_DAY, Days(days.start - HISTORY_DAYS * _DAY, days.start - _DAY))
    files, own_days = _bronze_files(context, {file.day for file in past})
    buckets = _buckets(sum(file.rows for file in files), context.engine.parallelism)
    sources, unnamed = source_facts(settings)
    parting = Parting(
        days, tuple(own_days), policy.site_id, buckets, units_of(listed),
        tuple(meters["meter_id"].unique().to_pylist()), sources, unnamed, policy.interval_s,
    )  # fmt: skip
    grid = settings.grid
    making = Making(
        lake.root, days, policy, sources, unnamed, meters,
        None if grid is None else (grid.intensity_basis, grid.signal, grid.flow), held is not None,
    )  # fmt: skip
    rows = [NodeRows("inventory", listed.to_arrow())]
    if held is not None and held.num_rows:
        rows.append(NodeRows("held", held))
    # A task costs its start, so the small ones ride with the readings.
    parts = balanced(files, _tasks(files, context.engine.parallelism), lambda file: file.rows)
    groups = [tuple(part) for part in parts] or [()]
    tasks = [
        Task(group, tuple(past[number :: len(groups)]), tuple(rows) if number == 0 else ())
        for number, group in enumerate(groups)
    ]
    return context.engine.exchange(tasks, parting, making, buckets), own_days


def _bronze_files(
    context: StageContext, written: Collection[date | None]
) -> tuple[list[DataFile], list[int]]:
    """Files of bronze of the days and a day on both sides, and of the days before that have no sensor-days yet.

    These days come second: they stand in bronze, but no night of theirs, or an older release, has written them.
    """
    days, lake = context.days, context.lake
    before = [days.start - ago * _DAY for ago in range(HISTORY_DAYS, 0, -1)]
    missing = [day for day in before if day not in written]
    near = Days(days.start - _DAY, days.end + _DAY)
    found = lake.files(READING, Days(min([*missing, near.start]), near.end))
    touched = {day: [file for file in found if _may_hold(file, Days.of(day))] for day in missing}
    wanted = {file.path for file in found if _may_hold(file, near)}
    wanted |= {file.path for of_day in touched.values() for file in of_day}
    own_days = [(day - _EPOCH).days for day, of_day in touched.items() if of_day]
    return [file for file in found if file.path in wanted], own_days


def _may_hold(file: DataFile, days: Days) -> bool:
    starts = file.first_day is None or file.first_day <= days.end
    return starts and (file.last_day is None or file.last_day >= days.start)


def _buckets(rows: int, parallelism: int) -> int:
    """How many buckets the readings go to: none is too large to hold, nor so small that calls cost more than rows."""
    return max(1, -(-rows // _BUCKET_READINGS), min(parallelism, rows // _LEAST_BUCKET_READINGS))


def _tasks(files: Collection[DataFile], parallelism: int) -> int:
    """How many tasks read the files: one a core, and more of many rows, so that no core waits long for the last."""
    by_rows = -(-sum(file.rows for file in files) // _TASK_READINGS)
    return max(1, min(len(files), max(parallelism, min(by_rows, _TASKS_A_CORE * parallelism))))


def source_facts(settings: Settings) -> tuple[dict[str, SourceFacts], SourceFacts]:
    """Return what the settings say of the readings of each source, and of those that they no longer name."""
    energy = settings.energy
    facts = {
        source.name: SourceFacts(
            longest_step_s(energy.max_gap_s, source.sampling_period_s),
            source.counter_max_j,
            source.spot_samples,
        )
        for source in settings.sources
    }
    return facts, SourceFacts(energy.max_gap_s)


def interval_policy(context: StageContext, nodes: pa.Table) -> IntervalPolicy:
    """Return how intervals are made; errors of sensors are those of the last day, what is fitted is of days before."""
    settings = context.settings
    factors, energy = site_factors(settings.carbon), settings.energy
    model = node_model(factors, context.days.end)
    return IntervalPolicy(
        settings.site.site_id, energy.interval_s, energy.sensor_gain_ratio,
        sensor_classes(factors, context.days.end), model, _fitted(context, nodes, model),
    )  # fmt: skip


def _fitted(context: StageContext, nodes: pa.Table, model: NodeModel) -> pl.DataFrame:
    """What the nodes with a sensor of their own say for their class, of the HISTORY_DAYS before the days."""
    before = Days(context.days.start - HISTORY_DAYS * _DAY, context.days.start - _DAY)
    checks = context.lake.read(SENSOR_CHECK, before, where=pc.field("check_source") == COMPONENTS)
    if checks.is_empty():
        return pl.DataFrame(schema=FITTED_COLUMNS)
    of_parts = pc.field("quantity").isin(list(COMPONENT_OF))
    columns = ["node_id", "date", "device_id", "quantity"]
    sensors = context.lake.read(SENSOR_DAY, before, columns=columns, where=of_parts)
    return fitted_points(checks, sensors, pl.DataFrame(nodes), model)


def _meters(settings: Settings) -> pa.Table:
    path = settings.facility.meters
    if path is None:
        return arrow_schema(METER).empty_table()
    return read_meters(path, settings.site.site_id)


def _groups(file: DataFile) -> Iterator[pa.Table]:
    """The row groups of a bronze file, names as dictionaries; a column that an older release lacks is null."""
    schema = arrow_schema(READING)
    with pq.ParquetFile(file.source(), read_dictionary=list(_NAMES)) as content:
        known = set(content.schema_arrow.names)
        for number in range(content.num_row_groups):
            group = content.read_row_group(number, [name for name in _BRONZE_COLUMNS if name in known])
            for name in _BRONZE_COLUMNS:
                if name not in known:
                    group = group.append_column(name, pa.nulls(group.num_rows, schema.field(name).type))
            yield group.select(_BRONZE_COLUMNS)


def _days_of(readings: pa.Table) -> np.ndarray:
    days: np.ndarray = readings["reading_time"].to_numpy().astype("datetime64[D]").astype(np.int64)
    return days


def _sensor_day_rows(said: pl.DataFrame, site_id: str) -> pl.DataFrame:
    """SENSOR_DAY_COLUMNS -> silver/sensor_day, sorted by key."""
    return said.select(
        pl.lit(site_id).alias("site_id"), "node_id", "device_id", "quantity", "sensor", "statistic",
        pl.from_epoch("on_day", "d").alias("date"), pl.col("typical").alias("typical_value"),
        pl.col("readings").alias("reading_count"),
    ).drop_nulls("sensor").sort(list(SENSOR_DAY.key))  # fmt: skip


@dataclass(frozen=True)
class _Unpacked:
    """The parts of a bucket by kind."""

    tables: dict[str, list[pa.Table]] = field(default_factory=dict)
    facts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def table(self, kind: str) -> pa.Table | None:
        """All rows of a kind, None where there is none."""
        rows = [one for one in self.tables.get(kind, []) if one.num_rows]
        return pa.concat_tables(rows).unify_dictionaries() if rows else None

    def frame(self, kind: str, empty: pl.DataFrame) -> pl.DataFrame:
        rows = self.table(kind)
        return empty if rows is None else pl.DataFrame(rows)


_KIND: Final = b"kind"
_FACTS: Final = b"facts"
_COMPRESSED: Final = pa.ipc.IpcWriteOptions(compression="lz4")


def _packed(kind: str, rows: pa.Table, facts: Mapping[str, Any] | None = None) -> bytes:
    described = rows.replace_schema_metadata({_KIND: kind.encode(), _FACTS: json.dumps(facts or {}).encode()})
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, described.schema, options=_COMPRESSED) as writer:
        writer.write_table(described.unify_dictionaries().combine_chunks())
    content: bytes = out.getvalue().to_pybytes()
    return content


def _unpacked(parts: Sequence[bytes]) -> _Unpacked:
    found = _Unpacked()
    for part in parts:
        rows = pa.ipc.open_stream(part).read_all()
        kind = rows.schema.metadata[_KIND].decode()
        found.tables.setdefault(kind, []).append(rows.replace_schema_metadata())
        found.facts.setdefault(kind, []).append(json.loads(rows.schema.metadata[_FACTS]))
    return found


def _parted(kind: str, rows: pa.Table, buckets: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """The rows of each bucket."""
    if not rows.num_rows:
        return
    starts = _starts(buckets)
    if len(starts) * _LEAST_RUN > len(buckets):
        order = np.argsort(buckets, kind="stable")
        rows, buckets = rows.take(arrow_of(order)), buckets[order]
        starts = _starts(buckets)
    # A file holds the readings of a node together: whole runs go to a bucket, which costs less than row by row.
    runs: dict[int, list[pa.Table]] = {}
    for start, end in pairwise([*starts.tolist(), len(buckets)]):
        runs.setdefault(int(buckets[start]), []).append(rows.slice(start, end - start))
    for number in sorted(runs):
        yield number, _packed(kind, pa.concat_tables(runs[number]))


def _starts(buckets: np.ndarray) -> np.ndarray:
    """Where another bucket begins."""
    return np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))


def _plain(rows: pa.Table) -> pl.DataFrame:
    """Rows with their names as strings."""
    columns = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in rows.columns
    ]
    return pl.DataFrame(pa.table(columns, names=rows.column_names))


def _note(names: Iterable[str], what: str) -> tuple[str, ...]:
    found = sorted(set(names))
    if not found:
        return ()
    more = ", ..." if len(found) > _NAMES_IN_NOTE else ""
    return (f"{len(found)} {what}: {', '.join(found[:_NAMES_IN_NOTE])}{more}",)
