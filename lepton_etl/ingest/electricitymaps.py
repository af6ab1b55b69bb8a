"""Hourly grid intensity files of Electricity Maps: direct and life-cycle intensity of a zone, and whether estimated."""

import re
import unicodedata
from typing import Final, Literal

from lepton_etl.ingest.delimited import ColumnOrValue, Delimited, TimeColumn
from lepton_etl.ingest.grid_csv import LABEL, NO_INTENSITY, GridHours, Label, estimated, intensity
from lepton_etl.ingest.registry import log_format

TIME: Final = "datetime (utc)"
ZONE: Final = "zone id"

_INTENSITY: Final = re.compile(r"carbon intensity gco2eq?/kwh \((?P<kind>[^)]*)\)")
_KINDS: Final = {"direct": "direct", "lca": "lifecycle", "life cycle": "lifecycle", "lifecycle": "lifecycle"}


@log_format
class ElectricityMaps(GridHours):
    """Hourly files of Electricity Maps; the header and the UTC stamps are fixed by the publisher.

    Header names are matched after Unicode normalisation: the subscript two of the publisher's CO2 and trailing no-break
    spaces make no difference. Source: Electricity Maps data portal, hourly files.
    """

    format: Literal["electricitymaps"] = "electricitymaps"
    label: Label = LABEL

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether the header is that of the publisher's hourly files."""
        lines = head.lstrip().splitlines()
        cells = lines[0].decode("utf-8", "replace").split(",") if lines else []
        return {TIME, ZONE} <= {_canonical(cell) for cell in cells}

    def columns(self, header: list[str]) -> Delimited:
        """Return the mapping; a column that the header lacks keeps its canonical name, to be named when missed."""
        logged = {_canonical(name): name for name in reversed(header)}
        direct, lifecycle, guessed = (
            logged.get(name, name) for name in ("direct", "lifecycle", "data estimated")
        )
        return Delimited(
            timezone="UTC",
            time=TimeColumn(column=logged.get(TIME, TIME), label=self.label),
            device_id=ColumnOrValue(column=logged.get(ZONE, ZONE)),
            readings=(intensity(direct, "direct"), intensity(lifecycle, "lifecycle"), estimated(guessed)),
            no_value=NO_INTENSITY,
        )


def _canonical(name: str) -> str:
    """Return a header name in lower case with plain digits and spaces; the two intensities by their kind."""
    plain = " ".join(unicodedata.normalize("NFKC", name).lower().split())
    match = _INTENSITY.fullmatch(plain)
    return _KINDS.get(match["kind"], plain) if match else plain
