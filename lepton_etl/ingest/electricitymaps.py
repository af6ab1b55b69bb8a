"""Hourly grid intensity files of Electricity Maps: direct and life-cycle intensity of a zone, and whether estimated."""

import re
import unicodedata
from dataclasses import replace
from typing import Final

from lepton_etl.ingest import delimited
from lepton_etl.ingest.decoded import Origin
from lepton_etl.ingest.specs import (
    ColumnOrValue,
    ColumnReading,
    DelimitedSpec,
    ElectricityMapsSpec,
    TimeColumn,
)
from lepton_etl.ingest.text import by_lines

HOUR_S: Final = 3600.0
DELIMITER: Final = ","
TIME: Final = "datetime (utc)"
ZONE: Final = "zone id"
DIRECT: Final = "direct"
LIFECYCLE: Final = "lifecycle"
ESTIMATED: Final = "data estimated"

_INTENSITY = re.compile(r"carbon intensity gco2eq?/kwh \((?P<kind>[^)]*)\)")
_KINDS: Final = {"direct": DIRECT, "lca": LIFECYCLE, "life cycle": LIFECYCLE, "lifecycle": LIFECYCLE}


class Decoder(delimited.Decoder):
    """Readings and rejects of one hourly file; stamps are UTC.

    grid_intensity (g/kWh, point direct or lifecycle) and grid_estimated (ratio 0 or 1) at device = zone id, each a
    mean over the hour. An hour without an intensity is ignored (no_value). Header names are matched after Unicode
    normalisation: the subscript two of the publisher's CO2 and trailing no-break spaces make no difference.
    Source: Electricity Maps data portal, hourly files.
    """

    def __init__(self, origin: Origin, spec: ElectricityMapsSpec) -> None:
        super().__init__(
            replace(origin, node_id=None), _columns([], spec), lambda header: _columns(header, spec)
        )


def looks_like(head: bytes) -> bool:
    """Whether the header is that of the publisher's hourly files."""
    lines = head.lstrip().splitlines()
    cells = lines[0].decode("utf-8", "replace").split(DELIMITER) if lines else []
    return {TIME, ZONE} <= {_canonical(cell) for cell in cells}


def _canonical(name: str) -> str:
    """A header name in lower case with plain digits and spaces; the two intensities by their kind."""
    plain = " ".join(unicodedata.normalize("NFKC", name).lower().split())
    found = _INTENSITY.fullmatch(plain)
    return _KINDS.get(found["kind"], plain) if found else plain


def _columns(header: list[str], spec: ElectricityMapsSpec) -> DelimitedSpec:
    """The mapping of this very header; a column that it lacks keeps its canonical name, to be named when missed."""
    names = {_canonical(name): name for name in reversed(header)}

    def logged(name: str) -> str:
        return names.get(name, name)

    def intensity(point: str) -> ColumnReading:
        return ColumnReading(
            column=logged(point), quantity="grid_intensity", unit="g/kWh", statistic="mean", window_s=HOUR_S,
            point=point,
        )  # fmt: skip

    estimated = ColumnReading(
        column=logged(ESTIMATED), quantity="grid_estimated", unit="ratio", statistic="mean", window_s=HOUR_S,
        words={"true": 1.0, "false": 0.0},
    )  # fmt: skip
    return DelimitedSpec(
        delimiter=DELIMITER,
        timezone="UTC",
        time=TimeColumn(column=logged(TIME), label=spec.label),
        device_id=ColumnOrValue(column=logged(ZONE)),
        readings=(intensity(DIRECT), intensity(LIFECYCLE), estimated),
        no_value=("", "nan"),
    )


read = by_lines(Decoder)
