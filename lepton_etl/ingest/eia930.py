"""Hourly generation by fuel and average intensity of a US balancing authority (EIA-930)."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import polars as pl
from pydantic import AwareDatetime, Field

from lepton_etl.ingest.decoded import READING_SCHEMA, Decoded, Origin, as_table, only_reject
from lepton_etl.ingest.delimited import ColumnOrValue, Delimited, Part, TimeColumn
from lepton_etl.ingest.grid_csv import HOUR_S, NO_INTENSITY, GridHours, Label, intensity
from lepton_etl.ingest.registry import log_format, setting
from lepton_etl.ingest.text import drain, in_utf8, peek


class LabelUntil(Part):
    """Which end of the hour the stamps before an instant name."""

    until: AwareDatetime
    label: Label


# California's operator named the start of the hour up to its local midnight of that day; its solar noon moves then.
KNOWN_LABELS: Final = {"CISO": (LabelUntil(until=datetime(2022, 6, 16, 7, tzinfo=UTC), label="start"),)}


# EIA's own files (BALANCE, INTERCHANGE, SUBREGION) have no intensity, and none is made here of its megawatts.
OWN_FILE: Final = re.compile(rb'^"?(?:Balancing Authority|BA)"?,"?Data Date"?,')
INSTEAD: Final = (
    "EIA's own file gives megawatts by fuel and no intensity: read a file derived from it with the columns timestamp "
    "and avg_CI (format eia930), or time and intensity (format grid_csv)"
)


@log_format
class Eia930(GridHours):
    """Hourly generation and average intensity of a US balancing authority.

    avg_CI weighs each fuel by a life-cycle median, so it is no direct intensity. The generation by fuel is ignored
    (unmapped). Stamps name the end of the hour, with dated exceptions; a reading names its start.
    Source: EIA form 930; docs/definitions.md section 9.
    """

    format: Literal["eia930"] = "eia930"
    zone: str = Field(min_length=1, description="Zone id that the rows of a file belong to.")
    label: Label = setting(
        "end", "Which end of the hour the stamp names; EIA-930 hours are named by their end."
    )
    label_before: tuple[LabelUntil, ...] | None = setting(
        None,
        "Other labels that held before some instants; null: those known of the balancing authority that "
        "the zone ends in (CISO named the start of the hour until 2022-06-16).",
    )

    def columns(self, header: list[str]) -> Delimited:
        """Return the mapping; the header is fixed by the publisher."""
        return Delimited(
            timezone="UTC",
            time=TimeColumn(column="timestamp", label=self.label),
            device_id=ColumnOrValue(value=self.zone),
            readings=(intensity("avg_CI", "lifecycle"),),
            no_value=NO_INTENSITY,
        )

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode one file, and move the hours whose stamps another label named."""
        head, chunks = peek(in_utf8(chunks))
        if OWN_FILE.match(head):
            drain(chunks)
            yield only_reject("no_intensity", f"{INSTEAD}: {head[:200].decode('utf-8', 'replace')}")
            return
        known = KNOWN_LABELS.get(self.zone.rpartition("-")[2], ())
        start = self._start(known if self.label_before is None else self.label_before)
        for part in super().read(chunks, origin):
            moved = pl.DataFrame(part.readings).with_columns(start.alias("reading_time"))
            yield replace(part, readings=as_table(moved, READING_SCHEMA))

    def _start(self, exceptions: tuple[LabelUntil, ...]) -> pl.Expr:
        """Return the start of each hour by the label that held at its stamp."""
        hour = timedelta(seconds=HOUR_S)
        start = pl.col("reading_time")
        stamp = start + (hour if self.label == "end" else timedelta(0))
        # The earliest exception that a stamp falls under holds.
        for exception in sorted(exceptions, key=lambda label: label.until, reverse=True):
            before = stamp < pl.lit(exception.until.astimezone(UTC))
            start = (
                pl.when(before)
                .then(stamp - (hour if exception.label == "end" else timedelta(0)))
                .otherwise(start)
            )
        return start
