"""What the settings say about a source, one strict model a format. A spec is plain data and travels to executors."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lepton_etl.fields import QUANTITIES
from lepton_etl.telemetry.sensors import RULES_FOLDER, ColumnPattern, Rules, Statistic, load_rules
from lepton_etl.telemetry.stamps import Ambiguous, EpochUnit, says_a_day
from lepton_etl.telemetry.units import conversion

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


class IpmitoolSpec(_Spec):
    """`ipmitool sdr` tables below stamp lines."""

    format: Literal["ipmitool"] = "ipmitool"
    sensors: Rules = Field(
        default_factory=lambda: load_rules(RULES_FOLDER / "ipmitool.yaml"),
        description="Rule table, or the path of its file; default conf/sensors/ipmitool.yaml.",
    )
    stamp_prefix: str = Field(
        default="Timestamp:", min_length=1, description="What a stamp line starts with."
    )


class PrometheusSpec(_Spec):
    """Prometheus or OpenMetrics text exposition."""

    format: Literal["prometheus"] = "prometheus"
    sensors: Rules = Field(
        default_factory=lambda: load_rules(RULES_FOLDER / "prometheus.yaml"),
        description="Rule table, or the path of its file; default conf/sensors/prometheus.yaml.",
    )
    node_label: str | None = Field(
        default="Hostname",
        description="Label that names the node (a trailing :port is cut off); series without it belong to the node "
        "of the path. null: always the path.",
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
    label: Literal["start", "end"] = Field(
        default="start", description="Which end of its window a stamp names."
    )
    ambiguous: Ambiguous = Field(
        default="reject",
        description="The local hour that happens twice: `reject` its rows, or `merged` where one row is the window of "
        "both hours (definitions.md section 9).",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.format is not None and self.epoch is not None:
            raise ValueError("give format or epoch, not both")
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


class DelimitedSpec(_Spec):
    """Character-separated text with a header line."""

    format: Literal["delimited"] = "delimited"
    delimiter: str = Field(default=",", pattern=r"^[^\"\r\n]$", description="One character between cells.")
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
    footers: tuple[ColumnPattern, ...] = Field(
        default=FOOTERS_OF_SQL_SERVER,
        description="Regular expressions of whole lines that are no data, such as a row count.",
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


class ElectricityMapsSpec(_Spec):
    """Hourly files of Electricity Maps; the header and the UTC stamps are fixed by the publisher."""

    format: Literal["electricitymaps"] = "electricitymaps"
    label: Literal["start", "end"] = Field(
        default="start", description="Which end of the hour the stamp names."
    )


FormatSpec = IpmitoolSpec | DelimitedSpec | PrometheusSpec | ElectricityMapsSpec


def spec_of(settings: Mapping[str, Any]) -> FormatSpec:
    """The spec of a mapping with a `format` key; pydantic's ValidationError or ValueError where it is wrong."""
    models: dict[str, type[FormatSpec]] = {
        "ipmitool": IpmitoolSpec,
        "delimited": DelimitedSpec,
        "prometheus": PrometheusSpec,
        "electricitymaps": ElectricityMapsSpec,
    }
    name = settings.get("format")
    if name not in models:
        raise ValueError(f"format {name!r} is not one of {', '.join(models)}")
    return models[name].model_validate(settings)
