"""What the settings say about each source of raw files: how to find them, and the spec of their format.

`Source` is any of them, told by its key `format`. A source is plain data and travels to executors.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lepton_etl.ingest.specs import (
    AutoSpec,
    DelimitedSpec,
    Eia930Spec,
    ElectricityMapsSpec,
    IpmitoolSpec,
    NvidiaSmiSpec,
    OpenCostSpec,
    OpenMeteoSpec,
    OtlpJsonSpec,
    ParquetSpec,
    PlainGridSpec,
    PrometheusSpec,
    RedfishSpec,
    RocmSmiSpec,
    ScontrolSpec,
    SlurmSpec,
)

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError("not an IANA time zone such as UTC or America/New_York")
    return value


def _identifier(value: str) -> str:
    if not _IDENTIFIER.fullmatch(value):
        raise ValueError("letters, digits, '_', '.', '-', at most 63, starting with a letter or digit")
    return value


TimeZone = Annotated[str, AfterValidator(_zone)]
Identifier = Annotated[str, AfterValidator(_identifier)]


class Section(BaseModel):
    """One section of the settings: nothing unknown in it, nothing changed after."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class _SourceSettings(Section):
    """What every source says, whatever its format."""

    name: Identifier = Field(description="Name of the source in every reading.")
    path: str = Field(
        min_length=1,
        description="Pattern of the files (`*`, `?`, `**`), plain, gzip, zstd or xz; a path or s3:// or hdfs://.",
    )
    node_id_from_path: str | None = Field(
        default=None, description="Regular expression with a group `node_id`."
    )
    time_from_path: str | None = Field(
        default=None, description="Regular expression with a group `time` (ISO 8601, UTC)."
    )
    timezone: TimeZone = Field(default="UTC", description="IANA zone of stamps that carry none.")
    sampling_period_s: float | None = Field(
        default=None, gt=0, le=86_400, description="Declared distance of readings."
    )
    counter_max_j: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Where joule counters of this source begin again at 0 (RAPL: max_energy_range_uj / 1e6); null: not "
        "known, and every fall is a reset.",
    )
    spot_samples: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="How many momentary samples a window mean rests on; null: all of the window was seen.",
    )
    earlier_d: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Days that a stamp may lie before the file's own time (that of its path, else when it was last "
        "written); null: 2 where the path names the time, else any stamp since 2000.",
    )
    later_d: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=False,
        description="Days that a stamp may lie after the file's own time: a day's file named by its first moment, "
        "and up to 14 hours of a zone. More only for forecasts.",
    )
    credit: str | None = Field(
        default=None, description="Who made the data and under which licence, for the report."
    )

    @model_validator(mode="after")
    def _patterns_have_their_group(self) -> Self:
        for key, group in (("node_id_from_path", "node_id"), ("time_from_path", "time")):
            pattern = getattr(self, key)
            if pattern is None:
                continue
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise ValueError(f"{key} {pattern!r} is no regular expression: {error}") from error
            if group not in groups:
                raise ValueError(f"{key} {pattern!r} has no group (?P<{group}>...)")
        return self


class IpmitoolSource(_SourceSettings, IpmitoolSpec):
    """Tables of `ipmitool sdr`."""


class DelimitedSource(_SourceSettings, DelimitedSpec):
    """CSV, TSV and the like."""

    timezone: TimeZone = Field(default="UTC", description="IANA zone of stamps that carry none.")


class ParquetSource(_SourceSettings, ParquetSpec):
    """Parquet files."""

    timezone: TimeZone = Field(default="UTC", description="IANA zone of stamps that carry none.")


class PrometheusSource(_SourceSettings, PrometheusSpec):
    """Text exposition, and the JSON of range and instant queries."""


class RedfishSource(_SourceSettings, RedfishSpec):
    """Resources of a BMC."""


class NvidiaSmiSource(_SourceSettings, NvidiaSmiSpec):
    """What nvidia-smi prints."""


class RocmSmiSource(_SourceSettings, RocmSmiSpec):
    """What rocm-smi prints."""


class SlurmSource(_SourceSettings, SlurmSpec):
    """Slurm's accounting."""


class ScontrolSource(_SourceSettings, ScontrolSpec):
    """Jobs as slurmctld shows them."""


class OpenCostSource(_SourceSettings, OpenCostSpec):
    """Kubernetes allocations."""


class OtlpJsonSource(_SourceSettings, OtlpJsonSpec):
    """OpenTelemetry metrics."""


class OpenMeteoSource(_SourceSettings, OpenMeteoSpec):
    """Hourly weather."""


class ElectricityMapsSource(_SourceSettings, ElectricityMapsSpec):
    """Hourly grid intensity; made from the section `grid`."""


class Eia930Source(_SourceSettings, Eia930Spec):
    """Hourly grid generation and intensity; made from the section `grid`."""


class PlainGridSource(_SourceSettings, PlainGridSpec):
    """Hourly grid intensity in a table of one's own; made from the section `grid`."""

    timezone: TimeZone = Field(default="UTC", description="IANA zone of stamps that carry none.")


class AutoSource(_SourceSettings, AutoSpec):
    """Files of any format that needs no settings, told by their content."""


Source = (
    IpmitoolSource
    | DelimitedSource
    | ParquetSource
    | PrometheusSource
    | RedfishSource
    | NvidiaSmiSource
    | RocmSmiSource
    | SlurmSource
    | ScontrolSource
    | OpenCostSource
    | OtlpJsonSource
    | OpenMeteoSource
    | ElectricityMapsSource
    | Eia930Source
    | PlainGridSource
    | AutoSource
)
