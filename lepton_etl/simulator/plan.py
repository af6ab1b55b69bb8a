"""What to simulate: the typed plan, and the random streams that follow from its seed."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lepton_etl.simulator.hardware import CLASSES, HardwareClass

STEP_S: Final = 10
DAY_S: Final = 86_400
STEPS_PER_DAY: Final = DAY_S // STEP_S
INTERVAL_S: Final = 300
NAME: Final = r"^[a-z][a-z0-9_-]{0,39}$"


class Fault(StrEnum):
    """What can be broken on request; each leaves rows in truth/fault.parquet."""

    GAPS = "gaps"
    DUPLICATES = "duplicates"
    BAD_LINES = "bad_lines"
    TRUNCATED_GZIP = "truncated_gzip"
    COUNTER_RESETS = "counter_resets"
    FEED_DROPPED = "feed_dropped"


class LocalSource(StrEnum):
    """What a site may have besides the grid; each comes with its meters."""

    PV = "pv"
    BATTERY = "battery"
    GENERATOR = "generator"


class ClusterPlan(BaseModel):
    """One cluster of equal nodes; `gpus_per_node` None keeps the count of its hardware class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster_id: str = Field(pattern=NAME)
    nodes: int = Field(ge=1, le=9999)
    hardware_class: str
    gpus_per_node: int | None = Field(default=None, ge=1, le=16)

    @model_validator(mode="after")
    def _class_fits(self) -> Self:
        if self.hardware_class not in CLASSES:
            raise ValueError(f"hardware_class {self.hardware_class!r}: allowed are {', '.join(CLASSES)}")
        if self.gpus_per_node is not None and not CLASSES[self.hardware_class].gpu_count:
            raise ValueError(f"hardware_class {self.hardware_class!r} has no GPU: leave gpus_per_node empty")
        return self

    @property
    def hardware(self) -> HardwareClass:
        """The class with this cluster's number of GPUs."""
        return CLASSES[self.hardware_class].with_gpus(self.gpus_per_node)

    def rack_of(self, index: int) -> int:
        """Number of the rack, from 0, that the node with this index stands in."""
        return index // (8 if self.hardware.gpu_count else 32)

    def node_ids(self) -> list[str]:
        """Names of the nodes; a node keeps its name, and so its random streams, when the cluster grows."""
        return [f"{self.cluster_id}n{number:04d}" for number in range(1, self.nodes + 1)]


class FleetPlan(BaseModel):
    """A whole simulation; equal plans give equal bytes.

    `resolution_w` is the step of the nodes' power sensors, `sensor_gain_sigma` the 1-sigma relative gain
    error drawn once for each of them (0: clean; None: evenly within the limit of its class), `load_target` the share
    of slots the arrivals would fill on average, `off_share` the chance of a node to be switched off for some hours of
    a day, and `fault_share` the share of node-days that each requested fault touches (at least one; a truncated file
    and a dropped feed are always a single one). `local_sources` stand beside the grid; `meter_class_error` gives each
    meter a constant gain error, drawn evenly within its accuracy class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    site_id: str = Field(default="simsite", pattern=NAME)
    timezone: str = "UTC"
    grid_zone: str = "SIM"
    clusters: tuple[ClusterPlan, ...] = Field(min_length=1)
    first_date: date
    days: int = Field(default=1, ge=1, le=3660)
    bmc_period_s: int = Field(default=60, ge=10, le=300)
    gpu_period_s: int = Field(default=60, ge=10, le=300)
    meter_period_s: Literal[60, 300] = 300
    weather_period_s: Literal[300, 600, 3600] = 600
    resolution_w: Literal[1, 10] = 1
    sensor_gain_sigma: float | None = Field(default=0.0, ge=0, le=0.2)
    load_target: float = Field(default=0.65, gt=0, le=1.5)
    off_share: float = Field(default=0.03, ge=0, le=1)
    local_sources: tuple[LocalSource, ...] = ()
    meter_class_error: bool = False
    faults: tuple[Fault, ...] = ()
    fault_share: float = Field(default=0.05, gt=0, le=1)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"timezone {value!r} is not an IANA zone name") from error
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [cluster.cluster_id for cluster in self.clusters]
        if len(set(names)) != len(names):
            raise ValueError(f"cluster_id must be unique, got {names}")
        for name in ("bmc_period_s", "gpu_period_s"):
            if DAY_S % getattr(self, name):
                raise ValueError(f"{name} must divide a day of {DAY_S} s, got {getattr(self, name)}")
        has_gpus = any(cluster.hardware.gpu_count for cluster in self.clusters)
        if Fault.COUNTER_RESETS in self.faults and not has_gpus:
            raise ValueError("fault counter_resets needs a cluster with GPUs")
        return self

    @property
    def start_time(self) -> datetime:
        """Midnight UTC of the first day."""
        return datetime(self.first_date.year, self.first_date.month, self.first_date.day, tzinfo=UTC)

    @property
    def start_epoch_s(self) -> int:
        """Unix time of `start_time`, s."""
        return int(self.start_time.timestamp())

    @property
    def dates(self) -> list[date]:
        """The simulated UTC days in order."""
        return [self.first_date + timedelta(days=day) for day in range(self.days)]

    @property
    def local_offset_h(self) -> float:
        """Hours from UTC to the site's clock on the first day, kept for the whole plan."""
        offset = ZoneInfo(self.timezone).utcoffset(datetime.combine(self.first_date, datetime.min.time()))
        return offset.total_seconds() / 3600 if offset is not None else 0.0

    def rng(self, *names: str | int) -> np.random.Generator:
        """The random stream of these names, the same whatever else the plan holds or in which order it runs.

        Source: NumPy SeedSequence, `spawn_key`; names become keys through SHA-256, because `hash()` is
        salted.
        """
        keys: list[int] = []
        for name in names:
            digest = hashlib.sha256(str(name).encode()).digest()
            keys += [int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")]
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=tuple(keys)))
