"""Rows behind the figures of one published day: those that tables hold, and those that the night's kernels make again.

A table is read once and cut by what is asked of it; what is read of nodes, of which a fleet has more than a memory
holds, is read node by node, and a few nodes are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.attribution.node_energy import roll
from lepton_etl.attribution.node_split import HOLDING_COLUMNS, split_nodes
from lepton_etl.attribution.node_split import INTERVAL_COLUMNS as SPLIT_COLUMNS
from lepton_etl.attribution.tenants import UNKNOWN_TENANT
from lepton_etl.carbon.embodied import booked_hours, embodied_error_ratio, service_lives
from lepton_etl.carbon.emissions import intensity_error
from lepton_etl.carbon.market import mix_of
from lepton_etl.carbon.used_factors import site_factors
from lepton_etl.carbon.water import volume_hours
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import group_parts
from lepton_etl.energy.exact_sums import whole_sum
from lepton_etl.energy.node_hours import node_intervals, power_sums
from lepton_etl.energy.transfer import BYTES_PER_GBYTE
from lepton_etl.facility.pue import meter_hours
from lepton_etl.intervals.sensor_classes import sensor_classes
from lepton_etl.registers.factors import FactorSet
from lepton_etl.schema.carbon import INSTRUMENT, VOLUME_INTERVAL
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, GRID_HOUR, INTERVAL, METER, NODE
from lepton_etl.schema.formulas import (
    CLASS_ERROR,
    EMBODIED_HOUR,
    INTENSITY_ERROR,
    JOB_HOUR,
    MARKET_MIX,
    METER_HOUR,
    NODE_INTERVAL,
    NODE_SPLIT,
    POWER_SUM,
    SITE_VOLUME,
    STATED,
    VOLUME_HOUR,
)
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_NODE, RUN_KEY
from lepton_etl.schema.logs import JOB
from lepton_etl.schema.tables import TABLES
from lepton_etl.trust.as_recorded import Kept, Recorded

Row = Mapping[str, Any]
Found = tuple[pl.DataFrame, int | None]

_DAY: Final = timedelta(days=1)
_NODE_HOUR: Final = ["site_id", "cluster_id", "node_id", "hour_start"]
# Nodes of which rows are kept at once.
_NODES: Final = 16


@dataclass
class DayRows:
    """The rows of one published UTC day by table and key."""

    recorded: Recorded
    settings: Settings
    _cut: dict[Hashable, tuple[Mapping[Any, pl.DataFrame], pl.DataFrame, int | None]] = field(
        default_factory=dict
    )
    _of_node: Kept = field(default_factory=lambda: Kept(_NODES))

    def version(self, table: str) -> int | None:
        """Return the version that rows of a table are read in."""
        wanted = None if table.startswith("gold/") else self.recorded.versions.get(table)
        return wanted if wanted is not None else self.recorded.lake.inputs.get(table)

    def of(self, table: str, key: Row) -> Found:
        """Return the rows of a stored or made table whose columns have these values, and their version."""
        if table in self._made:
            return self._made[table](key), None
        known = {name: value for name, value in key.items() if value is not None}
        if table == INTERVAL.name:
            return self._intervals(known)
        if table == JOB_ENERGY.name and "date" not in key:
            return self._run(known)
        return self._among(table, known, lambda: self._day(table))

    def _among(self, of: str, key: Row, read: Callable[[], Found]) -> Found:
        """Of rows that are read once, those with the key: cut once by its columns."""
        whole = self._cut.get(of)
        if whole is None:
            frame, version = read()
            whole = self._cut[of] = ({}, frame, version)
        _, frame, version = whole
        names = tuple(name for name in key if name in frame.columns)
        if not names:
            return frame, version
        cut = self._cut.get((of, names))
        if cut is None:
            cut = self._cut[of, names] = (frame.partition_by(names, as_dict=True), frame.clear(), version)
        return cut[0].get(tuple(key[name] for name in names), cut[1]), version

    def _day(self, table: str) -> Found:
        """The rows of the day as formulas name them."""
        declared = TABLES[table]
        days = Days.of(self.recorded.day) if "date" in declared.columns else None
        rows, version = self.recorded.read(declared, days)
        if "interval_start" in rows.columns:
            rows = _with_hour(rows)
        if table == JOB_ENERGY.name:
            rows = rows.with_columns(pl.col("tenant_id").fill_null(UNKNOWN_TENANT))
        if table == NODE.name:
            until = pl.col("valid_to")
            at = datetime.combine(self.recorded.day, datetime.min.time(), UTC) + _DAY
            rows = rows.filter((pl.col("valid_from") < at) & (until.is_null() | (until > at - _DAY)))
            rows = rows.sort("valid_from")
        if table == GRID_HOUR.name and self.settings.grid is not None:
            grid = self.settings.grid
            rows = rows.filter(pl.col("zone_id") == grid.zone, pl.col("flow") == grid.flow)
        return rows, version

    def _intervals(self, key: Row) -> Found:
        """Rows of silver/interval: of a node all of its day are read and kept, of a cluster those of the hour."""
        day = Days.of(self.recorded.day)
        if "node_id" in key:
            node = key["node_id"]

            def read() -> Found:
                rows, version = self.recorded.read(INTERVAL, day, pc.field("node_id") == node)
                return _with_hour(rows), version

            rows, version = self._of_node.get(("interval", node), read)
            return rows.filter(
                pl.col(name) == value for name, value in key.items() if name in rows.columns
            ), version
        where = [pc.field(name) == pa.scalar(value) for name, value in key.items() if name != "hour_start"]
        if "hour_start" in key:
            begin = key["hour_start"]
            where += [
                pc.field("interval_start") >= pa.scalar(begin, pa.timestamp("us", "UTC")),
                pc.field("interval_start") < pa.scalar(begin + timedelta(hours=1), pa.timestamp("us", "UTC")),
            ]
        whole = where[0]
        for one in where[1:]:
            whole = whole & one
        rows, version = self.recorded.read(INTERVAL, day, whole)
        return _with_hour(rows), version

    def _run(self, key: Row) -> Found:
        """Rows of gold/job_energy of all days of a run until this one."""
        days = Days(min(key["submit_time"].date(), self.recorded.day), self.recorded.day)
        rows, version = self.recorded.read(JOB_ENERGY, days, pc.field("job_id") == key["job_id"])
        return rows.filter(pl.col(name) == value for name, value in key.items()), version

    def accounted(self, own: Row) -> list[dict[str, Any]]:
        """Return the rows of job accounting (bronze/job) of a run, by file and position."""

        def read() -> Found:
            ids = self._day(JOB_ENERGY.name)[0]["job_id"].unique().to_list()
            rows, version = self.recorded.read(JOB, None, pc.field("job_id").isin(ids))
            return rows.filter(pl.col("record") != "step"), version

        rows, _ = self._among(JOB.name, {name: own[name] for name in ("site_id", "job_id")}, read)
        started = rows.filter(pl.coalesce("submit_time", "start_time") == own["submit_time"])
        return started.sort("file_id", "source_position").to_dicts()

    # What no table holds

    @property
    def _made(self) -> Mapping[str, Callable[[Row], pl.DataFrame]]:
        return {
            JOB_HOUR: self._job_hours, METER_HOUR: self._meter_hours, NODE_INTERVAL: self._node_intervals,
            NODE_SPLIT: self._node_splits, POWER_SUM: self._power_sums, CLASS_ERROR: self._class_errors,
            EMBODIED_HOUR: self._embodied_hours, VOLUME_HOUR: self._volume_hours, SITE_VOLUME: self._site_volumes,
            MARKET_MIX: lambda _: self._mix, INTENSITY_ERROR: lambda _: self._error, STATED: lambda _: self._stated,
        }  # fmt: skip

    @cached_property
    def _factors(self) -> FactorSet:
        return site_factors(self.settings.carbon)

    def _meter_hours(self, key: Row) -> pl.DataFrame:
        def read() -> Found:
            day, limit = Days.of(self.recorded.day), self.settings.energy.coverage_min_ratio
            made = meter_hours(
                self.recorded.read(METER)[0], self.recorded.read(FACILITY_INTERVAL, day)[0], day, limit
            )
            return made.filter(pl.col("carrier") == "electricity"), None

        return self._among(METER_HOUR, key, read)[0]

    def _node_intervals(self, key: Row) -> pl.DataFrame:
        return node_intervals(self.of(INTERVAL.name, key)[0])

    def _power_sums(self, key: Row) -> pl.DataFrame:
        return power_sums(self._node_intervals(key)).filter(pl.col("power_w").is_not_null())

    def _class_errors(self, key: Row) -> pl.DataFrame:
        classes = sensor_classes(self._factors, self.recorded.days.end)
        shared = {name: one.shared_variance_ratio for name, one in classes.items()}
        return group_parts(self.of(NODE_HOUR.name, key)[0], tuple(key), shared)

    def _embodied_hours(self, key: Row) -> pl.DataFrame:
        def read() -> Found:
            lives = service_lives(self.recorded.read(NODE)[0], self._factors)
            error = embodied_error_ratio(self._factors, self.recorded.days.end)
            return booked_hours(self._day(NODE_HOUR.name)[0], lives, error), None

        return self._among(EMBODIED_HOUR, key, read)[0]

    def _volume_hours(self, key: Row) -> pl.DataFrame:
        def read() -> Found:
            day, limit = Days.of(self.recorded.day), self.settings.energy.coverage_min_ratio
            volumes, meters = self.recorded.read(VOLUME_INTERVAL, day)[0], self.recorded.read(METER)[0]
            return pl.concat(
                [volume_hours(meters, volumes, one, day, limit) for one in ("water", "fuel")]
            ), None

        return self._among(VOLUME_HOUR, key, read)[0]

    def _site_volumes(self, key: Row) -> pl.DataFrame:
        litres = pl.when(pl.col("carrier") == "water").then("signed_l")
        return (
            self._volume_hours(key)
            .group_by("site_id", "hour_start")
            .agg(whole_sum(litres, pl.col("carrier") == "water").alias("water_l"))
        )

    @cached_property
    def _mix(self) -> pl.DataFrame:
        """The year's factors as the night took them: by what was drawn until its last day."""
        days, year = self.recorded.days, self.recorded.day.year
        first = date(year, 1, 1)
        own = self.recorded.read(CLUSTER_HOUR, Days(max(days.start, first), days.end))[0]
        drawn = [own.filter(pl.col("hour_start").dt.year() == year).select("grid_import_kwh")]
        if days.start > first:
            before = Days(first, days.start - _DAY)
            drawn.append(self.recorded.read_input(CLUSTER_DAY, before).select("grid_import_kwh"))
        grid = self.settings.grid
        mix = mix_of(
            self.settings.carbon, grid.zone if grid else None, self._factors,
            self.recorded.read(INSTRUMENT)[0].to_dicts(), year, pl.concat(drawn), days.until_time,
        )  # fmt: skip
        if mix is None:
            return pl.DataFrame()
        return pl.DataFrame(
            {
                "matched_ratio": mix.matched_ratio, "matched_gco2e_per_kwh": mix.matched_g_per_kwh,
                "rest_gco2e_per_kwh": mix.rest_g_per_kwh, "more_matched_ratio": mix.more_matched_ratio,
                "more_gco2e_per_kwh": mix.more_g_per_kwh,
            },
            schema_overrides={"rest_gco2e_per_kwh": pl.Float64},
        )  # fmt: skip

    @cached_property
    def _error(self) -> pl.DataFrame:
        """Halves of the relative 90 % intervals of an hour's intensity, and of what the life cycle adds."""
        error = intensity_error(self._factors, self.recorded.days.end)
        flags = pl.DataFrame({"estimated": [False, True]})
        if error is None:
            return pl.DataFrame()
        halves = flags.select(error.of_hour().alias("own"), error.of_upstream().alias("upstream"))
        (measured, by_life), (estimated, by_life_estimated) = halves.rows()
        return pl.DataFrame(
            {
                "measured_half_ratio": measured, "estimated_half_ratio": estimated,
                "upstream_measured_half_ratio": by_life, "upstream_estimated_half_ratio": by_life_estimated,
            }
        )  # fmt: skip

    @cached_property
    def _stated(self) -> pl.DataFrame:
        energy = self.settings.energy
        per_gbyte = energy.transfer_kwh_per_gbyte
        return pl.DataFrame(
            {
                "idle_utilisation_ratio": energy.idle_utilisation_ratio,
                "transfer_kwh_per_byte": None if per_gbyte is None else per_gbyte / BYTES_PER_GBYTE,
            },
            schema_overrides={"transfer_kwh_per_byte": pl.Float64},
        )

    def _job_hours(self, key: Row) -> pl.DataFrame:
        """A run's part of each node-hour, beside what the other runs and idle have of it."""
        run = {name: key[name] for name in (*RUN_KEY, "date")}
        held = self.of(JOB_NODE.name, run)[0]
        # Of a run that held nothing there is the empty split.
        split = [self._split(node) for node in held["node_id"].unique().sort().to_list() or [""]]
        hours, nodes = pl.concat([one for one, _ in split]), pl.concat([one for _, one in split])
        of_run = pl.all_horizontal(pl.col(name).eq_missing(value) for name, value in run.items())
        energy = (pl.col("dynamic_kwh") + pl.col("static_kwh")).alias("energy_kwh")
        idle = nodes.select(*_NODE_HOUR, pl.col("idle_energy_kwh").alias("idle_kwh"), "jobs_energy_kwh")
        made = hours.filter(of_run).with_columns(energy).join(idle, on=_NODE_HOUR, how="left")
        return made.with_columns((pl.col("jobs_energy_kwh") - pl.col("energy_kwh")).alias("others_kwh"))

    def _node_splits(self, key: Row) -> pl.DataFrame:
        _, nodes = self._split(key["node_id"])
        return nodes.filter(pl.col(name) == value for name, value in key.items())

    def _split(self, node_id: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The parts of the runs on a node, and of the node, by the hour."""

        def make() -> tuple[pl.DataFrame, pl.DataFrame]:
            mine = {"node_id": node_id}
            intervals, held, hours, nodes = (
                self.of(table.name, mine)[0] for table in (INTERVAL, JOB_NODE, NODE_HOUR, NODE)
            )
            return split_nodes(
                intervals.select(SPLIT_COLUMNS), hours, held.select("site_id", *HOLDING_COLUMNS),
                roll(nodes.to_arrow()), self.settings.attribution.idle_gpu_utilisation_ratio,
            )  # fmt: skip

        made: tuple[pl.DataFrame, pl.DataFrame] = self._of_node.get(("split", node_id), make)
        return made


def _with_hour(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("interval_start").dt.truncate("1h").alias("hour_start"))
