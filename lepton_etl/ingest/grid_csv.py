"""Hourly grid intensity as anyone may write it: a table with time, intensity, and if known zone and estimated."""

from dataclasses import replace
from typing import Final

from lepton_etl.ingest import delimited
from lepton_etl.ingest.decoded import Origin
from lepton_etl.ingest.electricitymaps import HOUR_S
from lepton_etl.ingest.specs import ColumnOrValue, ColumnReading, DelimitedSpec, PlainGridSpec, TimeColumn
from lepton_etl.ingest.text import by_lines

TIME: Final = "time"
INTENSITY: Final = "intensity"
ZONE: Final = "zone"
ESTIMATED: Final = "estimated"
WORDS: Final = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


class Decoder(delimited.Decoder):
    """Readings and rejects of one file: grid_intensity and, with a column `estimated`, grid_estimated (ratio 0 or 1).

    The device is the zone of the row, else of the settings. An hour without an intensity is ignored (no_value).
    """

    def __init__(self, origin: Origin, spec: PlainGridSpec) -> None:
        super().__init__(
            replace(origin, node_id=None), _columns([], spec), lambda header: _columns(header, spec)
        )


def _columns(header: list[str], spec: PlainGridSpec) -> DelimitedSpec:
    """The mapping of this very header: of the optional columns those that it has."""
    intensity = ColumnReading(
        column=INTENSITY,
        quantity="grid_intensity",
        unit=spec.unit,
        statistic="mean",
        window_s=HOUR_S,
        point=spec.basis,
    )
    estimated = ColumnReading(
        column=ESTIMATED,
        quantity="grid_estimated",
        unit="ratio",
        statistic="mean",
        window_s=HOUR_S,
        words=WORDS,
    )
    return DelimitedSpec(
        delimiter=spec.delimiter,
        timezone=spec.timezone,
        time=TimeColumn(column=TIME, label=spec.label),
        device_id=ColumnOrValue(column=ZONE) if ZONE in header else ColumnOrValue(value=spec.zone),
        readings=(intensity, estimated) if ESTIMATED in header else (intensity,),
        no_value=("", "nan"),
    )


read = by_lines(Decoder)
