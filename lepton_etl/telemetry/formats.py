"""One door to the decoders: which format is read by which module."""

from collections.abc import Iterable
from typing import Final

from lepton_etl.telemetry import (
    delimited,
    eia930,
    electricitymaps,
    grid_csv,
    ipmitool,
    nvidia_smi,
    openmeteo,
    otlp_json,
    parquet,
    prometheus,
    redfish,
    rocm_smi,
    slurm,
)
from lepton_etl.telemetry.blocks import Parts, Read
from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.specs import FormatSpec

FORMATS: Final[dict[str, Read]] = {
    "ipmitool": ipmitool.read,
    "delimited": delimited.read,
    "parquet": parquet.read,
    "prometheus": prometheus.read,
    "redfish": redfish.read,
    "slurm": slurm.read,
    "nvidia_smi": nvidia_smi.read,
    "rocm_smi": rocm_smi.read,
    "otlp_json": otlp_json.read,
    "electricitymaps": electricitymaps.read,
    "eia930": eia930.read,
    "grid_csv": grid_csv.read,
    "openmeteo": openmeteo.read,
}


def decode_parts(chunks: Iterable[bytes], origin: Origin, spec: FormatSpec) -> Parts:
    """Readings and rejects of one decompressed file, part by part; never raises for bad input.

    What `chunks` raises passes through.
    """
    return FORMATS[spec.format](chunks, origin, spec)


def decode(data: bytes, origin: Origin, spec: FormatSpec) -> Decoded:
    """All the readings and rejects of one small file."""
    return Decoded.merge(decode_parts([data], origin, spec))
