"""What the settings say about a source, one strict model a format. A spec is plain data and travels to executors."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from lepton_etl.ingest.sensors import RULES_FOLDER, ColumnPattern, Rules, Statistic, Strings, load_rules
from lepton_etl.ingest.units import Ambiguous, EpochUnit, conversion, says_a_day
from lepton_etl.schema.common import QUANTITIES

FOOTERS_OF_SQL_SERVER: Final = (r"\(\d+ rows? affected\)", r"Completion time: .*")


def known_zone(name: str) -> str:
    """The IANA zone `name` if this machine knows it; ValueError otherwise."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no IANA time zone, such as Europe/Berlin or UTC") from error
    return name


Zone = Annotated[str, AfterValidator(known_zone)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _rules(name: str) -> Any:
    """The setting `sensors` of a format whose shipped rule table is conf/sensors/<name>.yaml."""
    return Field(
        default_factory=lambda: load_rules(RULES_FOLDER / f"{name}.yaml"),
        description=f"Rule table, or the path of its file; default conf/sensors/{name}.yaml.",
    )


class IpmitoolSpec(_Spec):
    """`ipmitool sdr` tables below stamp lines."""

    format: Literal["ipmitool"] = "ipmitool"
    sensors: Rules = _rules("ipmitool")
    stamp_prefix: str = Field(
        default="Timestamp:", min_length=1, description="What a stamp line starts with."
    )


class PrometheusSpec(_Spec):
    """Prometheus or OpenMetrics text exposition, and the JSON of range and instant queries."""

    format: Literal["prometheus"] = "prometheus"
    sensors: Rules = _rules("prometheus")
    node_label: Strings = Field(
        default=("Hostname", "hostname", "nodename", "node_name", "node", "instance"),
        description="Label that names the node, or a list of which the first that is there does (a trailing :port is "
        "cut off); series without it belong to the node of the path. []: always the path.",
    )


class Column(_Spec):
    """A column by its name in the header."""

    column: str = Field(min_length=1)


class ColumnOrValue(_Spec):
    """A column, or one value for the whole source."""

    column: str | None = Field(default=None, min_length=1)
    value: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.column is None) == (self.value is None):
            raise ValueError("give either column or value")
        return self


class TimeColumn(Column):
    """Where the stamp stands and how it is written."""

    format: str | None = Field(
        default=None, description="chrono format as polars takes it; without it and `epoch`: ISO 8601."
    )
    epoch: EpochUnit | None = Field(default=None, description="Unit of a stamp counted from 1970-01-01 UTC.")
    elapsed: EpochUnit | None = Field(
        default=None, description="Unit of a stamp counted from the time that the path names."
    )
    label: Literal["start", "end"] = Field(
        default="start", description="Which end of its window a stamp names."
    )
    ambiguous: Ambiguous = Field(
        default="reject",
        description="The local hour that happens twice: `reject` its rows, or `merged` where one row is the window of "
        "both hours (docs/definitions.md section 9).",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(given is not None for given in (self.format, self.epoch, self.elapsed)) > 1:
            raise ValueError("give one of format, epoch and elapsed")
        if self.format is not None and not says_a_day(self.format):
            raise ValueError(f"format {self.format!r} does not give back the day that it writes")
        return self


class ColumnReading(Column):
    """One column that holds a quantity."""

    quantity: str
    unit: str = Field(
        description="Unit of the column, in pint's words (W, kW, degC, percent, ratio, kWh, g/kWh)."
    )
    statistic: Statistic = "instant"
    window_s: float = Field(
        default=0.0, ge=0.0, allow_inf_nan=False, description="Window of a mean, min or max."
    )
    multiplicity: int = Field(default=1, ge=1, description="How many devices one shared mean stands for.")
    point: str | None = Field(default=None, description="Where a power is taken; null takes the source's.")
    device: str | None = Field(default=None, description="Device of this column; null takes the source's.")
    words: Mapping[str, float] = Field(
        default_factory=dict, description="Words (lower case) that stand for numbers."
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity {self.quantity!r} is not in the field dictionary")
        if conversion(self.unit, self.quantity) is None:
            raise ValueError(f"unit {self.unit!r} cannot be brought to {QUANTITIES[self.quantity].unit}")
        if (self.window_s > 0) != (self.statistic in ("mean", "min", "max")):
            raise ValueError("window_s belongs to mean, min and max, and to these always")
        return self


class TableSpec(_Spec):
    """A table with named columns: one row per time (and device), columns mapped to quantities."""

    timezone: Zone | None = Field(
        default=None,
        description="Zone of stamps that carry none; null takes the origin's, the source's or site's.",
    )
    time: TimeColumn
    node_id: Column | None = Field(
        default=None, description="Column of the node; null takes the path's, if any."
    )
    device_id: ColumnOrValue = ColumnOrValue(value="node")
    point: str | None = None
    readings: tuple[ColumnReading, ...] = Field(min_length=1)
    no_value: tuple[str, ...] = Field(
        default=("",), description="Texts, in lower case, of a cell without a value."
    )

    @model_validator(mode="after")
    def _columns_are_distinct(self) -> Self:
        columns = [reading.column for reading in self.readings]
        identity = [self.time.column, *self.identity_columns()]
        for name in columns:
            if columns.count(name) > 1 or name in identity:
                raise ValueError(f"column {name!r} is mapped twice")
        return self

    def identity_columns(self) -> list[str]:
        """Columns that say whose a row is."""
        named = (self.node_id.column if self.node_id else None, self.device_id.column)
        return [name for name in named if name is not None]


class DelimitedSpec(TableSpec):
    """Character-separated text with a header line."""

    format: Literal["delimited"] = "delimited"
    delimiter: str = Field(default=",", pattern=r"^[^\"\r\n]$", description="One character between cells.")
    footers: tuple[ColumnPattern, ...] = Field(
        default=FOOTERS_OF_SQL_SERVER,
        description="Regular expressions of whole lines that are no data, such as a row count.",
    )


class ParquetSpec(TableSpec):
    """Parquet files with columns of plain types."""

    format: Literal["parquet"] = "parquet"


class ElectricityMapsSpec(_Spec):
    """Hourly files of Electricity Maps; the header and the UTC stamps are fixed by the publisher."""

    format: Literal["electricitymaps"] = "electricitymaps"
    label: Literal["start", "end"] = Field(
        default="start", description="Which end of the hour the stamp names."
    )


class LabelUntil(_Spec):
    """Which end of the hour the stamps before an instant name."""

    until: AwareDatetime
    label: Literal["start", "end"]


class Eia930Spec(_Spec):
    """Hourly generation and average intensity of a US balancing authority."""

    format: Literal["eia930"] = "eia930"
    zone: str = Field(min_length=1, description="Zone id that the rows of a file belong to.")
    label: Literal["start", "end"] = Field(
        default="end",
        description="Which end of the hour the stamp names; EIA-930 hours are named by their end.",
    )
    label_before: tuple[LabelUntil, ...] | None = Field(
        default=None,
        description="Other labels that held before some instants; null: those known of the balancing authority that "
        "the zone ends in (CISO named the start of the hour until 2022-06-16).",
    )


class PlainGridSpec(_Spec):
    """Hourly intensity as anyone may write it: time, intensity, and if known zone and estimated."""

    format: Literal["grid_csv"] = "grid_csv"
    zone: str = Field(min_length=1, description="Zone id of rows in a file without a column `zone`.")
    unit: str = Field(default="g/kWh", description="Unit of the column `intensity`, such as lb/MWh or t/MWh.")
    basis: Literal["direct", "lifecycle"] = Field(
        default="direct", description="What the intensity counts: at the chimney, or the whole life cycle."
    )
    label: Literal["start", "end"] = Field(
        default="start", description="Which end of the hour the stamp names."
    )
    delimiter: str = Field(default=",", pattern=r"^[^\"\r\n]$", description="One character between cells.")
    timezone: Zone | None = Field(
        default=None, description="Zone of stamps that carry none; null takes the source's."
    )

    @model_validator(mode="after")
    def _unit_converts(self) -> Self:
        if conversion(self.unit, "grid_intensity") is None:
            raise ValueError(f"unit {self.unit!r} cannot be brought to g/kWh")
        return self


class OpenMeteoSpec(_Spec):
    """JSON of the Open-Meteo archive and forecast API."""

    format: Literal["openmeteo"] = "openmeteo"
    sensors: Rules = _rules("openmeteo")


class RedfishSpec(_Spec):
    """JSON resources of a BMC's Redfish service: Power, Thermal, Sensor, metrics and metric reports."""

    format: Literal["redfish"] = "redfish"
    sensors: Rules = _rules("redfish")


class NvidiaSmiSpec(_Spec):
    """What nvidia-smi prints: CSV queries, `-q` text, `-q -x` XML, dmon."""

    format: Literal["nvidia_smi"] = "nvidia_smi"
    sensors: Rules = _rules("nvidia_smi")
    columns: tuple[str, ...] = Field(
        default=(), description="Fields of --query-gpu in order, for logs written with noheader."
    )


class RocmSmiSpec(_Spec):
    """JSON of rocm-smi and amd-smi."""

    format: Literal["rocm_smi"] = "rocm_smi"
    sensors: Rules = _rules("rocm_smi")


class SlurmSpec(_Spec):
    """Slurm's accounting: sacct in parsable text, and the REST service's jobs and nodes."""

    format: Literal["slurm"] = "slurm"
    sensors: Rules = _rules("slurm")


class ScontrolSpec(_Spec):
    """`scontrol show job -d`: jobs and what they hold on their nodes."""

    format: Literal["scontrol"] = "scontrol"
    cluster: str | None = Field(
        default=None,
        min_length=1,
        description="Cluster of the jobs; null: that of their nodes in the inventory.",
    )


class OpenCostSpec(_Spec):
    """Kubernetes allocations of OpenCost or Kubecost as a CSV with flattened names."""

    format: Literal["opencost"] = "opencost"
    cluster: str | None = Field(
        default=None, min_length=1, description="Cluster of the pods; null: the column properties.cluster."
    )
    delimiter: str = Field(default=",", pattern=r"^[^\"\r\n]$", description="One character between cells.")


class OtlpJsonSpec(_Spec):
    """OpenTelemetry metrics in OTLP/JSON, one export a line or one a file."""

    format: Literal["otlp_json"] = "otlp_json"
    sensors: Rules = _rules("otlp_json")
    node_attribute: str = Field(
        default="host.name", min_length=1, description="Resource attribute that names the node."
    )


class AutoSpec(_Spec):
    """Whatever a file's content shows it to be, of the formats that need no settings."""

    format: Literal["auto"] = "auto"


FormatSpec = (
    IpmitoolSpec
    | DelimitedSpec
    | ParquetSpec
    | PrometheusSpec
    | RedfishSpec
    | NvidiaSmiSpec
    | RocmSmiSpec
    | SlurmSpec
    | ScontrolSpec
    | OpenCostSpec
    | OtlpJsonSpec
    | ElectricityMapsSpec
    | Eia930Spec
    | PlainGridSpec
    | OpenMeteoSpec
    | AutoSpec
)
SPECS: Final[dict[str, type[FormatSpec]]] = {
    spec.model_fields["format"].default: spec for spec in get_args(FormatSpec)
}


def spec_of(settings: Mapping[str, Any]) -> FormatSpec:
    """The spec of a mapping with a `format` key; pydantic's ValidationError or ValueError where it is wrong."""
    name = settings.get("format")
    if name not in SPECS:
        raise ValueError(f"format {name!r} is not one of {', '.join(SPECS)}")
    return SPECS[name].model_validate(settings)
