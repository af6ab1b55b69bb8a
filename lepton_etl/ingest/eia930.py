"""Hourly generation by fuel and average intensity of a US balancing authority (EIA-930)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from lepton_etl.ingest import delimited
from lepton_etl.ingest.decoded import READING_SCHEMA, Decoded, Origin
from lepton_etl.ingest.electricitymaps import DELIMITER, HOUR_S, LIFECYCLE
from lepton_etl.ingest.specs import (
    ColumnOrValue,
    ColumnReading,
    DelimitedSpec,
    Eia930Spec,
    LabelUntil,
    TimeColumn,
)
from lepton_etl.ingest.text import by_lines

# California's operator named the start of the hour up to its local midnight of that day; its solar noon moves then.
KNOWN_LABELS: Final = {"CISO": (LabelUntil(until=datetime(2022, 6, 16, 7, tzinfo=UTC), label="start"),)}


class Decoder(delimited.Decoder):
    """Readings and rejects of one hourly file: grid_intensity (g/kWh, point lifecycle) at the zone of the settings.

    avg_CI weighs each fuel by a life-cycle median, so it is no direct intensity. The generation by fuel is ignored
    (unmapped), an hour without an intensity too (no_value). Stamps name the end of the hour, with dated exceptions;
    a reading names its start. Source: EIA form 930; docs/definitions.md section 9.
    """

    def __init__(self, origin: Origin, spec: Eia930Spec) -> None:
        super().__init__(replace(origin, node_id=None), _columns(spec))
        self._label = spec.label
        authority = spec.zone.rpartition("-")[2]
        self._before = KNOWN_LABELS.get(authority, ()) if spec.label_before is None else spec.label_before

    def decode(self, block: bytes) -> Decoded:
        """The records of the next block of whole lines."""
        decoded = super().decode(block)
        if not self._before or not decoded.readings.num_rows:
            return decoded
        readings = pl.DataFrame(decoded.readings).with_columns(self._start().alias("reading_time"))
        table = readings.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(READING_SCHEMA)
        return replace(decoded, readings=table)

    def _start(self) -> pl.Expr:
        """The start of each hour by the label that held at its stamp."""
        hour = timedelta(seconds=HOUR_S)
        stamp = pl.col("reading_time") + (hour if self._label == "end" else timedelta(0))
        start = pl.col("reading_time")
        # The earliest exception that a stamp falls under holds.
        for exception in sorted(self._before, key=lambda label: label.until, reverse=True):
            back = hour if exception.label == "end" else timedelta(0)
            start = (
                pl.when(stamp < pl.lit(exception.until.astimezone(UTC))).then(stamp - back).otherwise(start)
            )
        return start


def _columns(spec: Eia930Spec) -> DelimitedSpec:
    return DelimitedSpec(
        delimiter=DELIMITER,
        timezone="UTC",
        time=TimeColumn(column="timestamp", label=spec.label),
        device_id=ColumnOrValue(value=spec.zone),
        readings=(
            ColumnReading(
                column="avg_CI", quantity="grid_intensity", unit="g/kWh", statistic="mean", window_s=HOUR_S,
                point=LIFECYCLE,
            ),
        ),
        no_value=("", "nan"),
    )  # fmt: skip


read = by_lines(Decoder)
