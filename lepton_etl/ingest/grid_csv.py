"""Hourly grid intensity: as anyone may write it, and what the publishers' formats share with that."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.delimited import ColumnOrValue, ColumnReading, Delimited, TimeColumn, read_delimited
from lepton_etl.ingest.registry import LogFormat, log_format, setting
from lepton_etl.ingest.units import Zone, conversion

HOUR_S: Final = 3600.0
LABEL: Any = setting("start", "Which end of the hour the stamp names.")
NO_INTENSITY: Final = ("", "nan")
WORDS: Final = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}

Label = Literal["start", "end"]


class GridHours(LogFormat):
    """A table of hours at the device = zone; an hour without an intensity is ignored (no_value)."""

    subjects = ("grid",)

    @abstractmethod
    def columns(self, header: list[str]) -> Delimited:
        """Return the mapping of a file with this very header."""

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode one file; its readings belong to no node."""
        return read_delimited(chunks, replace(origin, node_id=None), self.columns([]), self.columns)


def intensity(column: str, point: str, unit: str = "g/kWh") -> ColumnReading:
    """Return the mapping of a column of hourly means of grid_intensity; `point` is direct or lifecycle."""
    return _mean(column, "grid_intensity", unit, point=point)


def estimated(column: str) -> ColumnReading:
    """Return the mapping of a column that says whether an hour is estimated: grid_estimated, ratio 0 or 1."""
    return _mean(column, "grid_estimated", "ratio", words=WORDS)


def _mean(column: str, quantity: str, unit: str, **more: Any) -> ColumnReading:
    return ColumnReading(
        column=column, quantity=quantity, unit=unit, statistic="mean", window_s=HOUR_S, **more
    )


@log_format
class PlainGrid(GridHours):
    """Hourly intensity as anyone may write it: time, intensity, and if known zone and estimated."""

    format: Literal["grid_csv"] = "grid_csv"
    zone: str = Field(min_length=1, description="Zone id of rows in a file without a column `zone`.")
    unit: str = setting("g/kWh", "Unit of the column `intensity`, such as lb/MWh or t/MWh.")
    basis: Literal["direct", "lifecycle"] = setting(
        "direct", "What the intensity counts: stack emissions (direct), or the whole life cycle."
    )
    label: Label = LABEL
    delimiter: str = setting(",", "One character between cells.", pattern=r"^[^\"\r\n]$")
    timezone: Zone | None = setting(None, "Zone of stamps that carry none; null takes the source's.")

    @model_validator(mode="after")
    def _unit_converts(self) -> Self:
        if conversion(self.unit, "grid_intensity") is None:
            raise ValueError(f"unit {self.unit!r} cannot be brought to g/kWh")
        return self

    def columns(self, header: list[str]) -> Delimited:
        """Return the mapping of this very header: of the optional columns those that it has."""
        zone = ColumnOrValue(column="zone") if "zone" in header else ColumnOrValue(value=self.zone)
        optional = (estimated("estimated"),) if "estimated" in header else ()
        return Delimited(
            delimiter=self.delimiter,
            timezone=self.timezone,
            time=TimeColumn(column="time", label=self.label),
            device_id=zone,
            readings=(intensity("intensity", self.basis, self.unit), *optional),
            no_value=NO_INTENSITY,
        )
