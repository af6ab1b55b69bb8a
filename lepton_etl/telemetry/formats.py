"""One door to the decoders: which format is read by which module."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from lepton_etl.telemetry import (
    delimited,
    eia930,
    electricitymaps,
    grid_csv,
    ipmitool,
    nvidia_smi,
    opencost,
    openmeteo,
    otlp_json,
    parquet,
    prometheus,
    redfish,
    rocm_smi,
    scontrol,
    slurm,
)
from lepton_etl.telemetry.blocks import Parts, Read, in_utf8, peek
from lepton_etl.telemetry.decoded import Decoded, Origin, only_reject
from lepton_etl.telemetry.recognise import recognise
from lepton_etl.telemetry.specs import AutoSpec, FormatSpec, spec_of


def read_recognised(chunks: Iterable[bytes], origin: Origin, spec: AutoSpec) -> Parts:
    """A text by the one format that its beginning shows, with that format's defaults.

    A text of no known format, or of more than one, is one reject (unknown_format).
    """
    head, stream = peek(in_utf8(chunks))
    names = recognise(head)
    if len(names) == 1:
        return FORMATS[names[0]](stream, origin, _defaults(names[0]))
    return _unknown(
        stream, f"{' or '.join(names) or 'no known format'}: {head[:200].decode('utf-8', 'replace')}"
    )


def _unknown(stream: Iterable[bytes], text: str) -> Iterator[Decoded]:
    for _ in stream:  # Read to its end, where the file's identity is known.
        pass
    yield only_reject("unknown_format", text)


@lru_cache(maxsize=32)
def _defaults(name: str) -> FormatSpec:
    return spec_of({"format": name})


FORMATS: Final[dict[str, Read]] = {
    "ipmitool": ipmitool.read,
    "delimited": delimited.read,
    "parquet": parquet.read,
    "prometheus": prometheus.read,
    "redfish": redfish.read,
    "slurm": slurm.read,
    "scontrol": scontrol.read,
    "opencost": opencost.read,
    "nvidia_smi": nvidia_smi.read,
    "rocm_smi": rocm_smi.read,
    "otlp_json": otlp_json.read,
    "electricitymaps": electricitymaps.read,
    "eia930": eia930.read,
    "grid_csv": grid_csv.read,
    "openmeteo": openmeteo.read,
    "auto": read_recognised,
}


def decode_parts(chunks: Iterable[bytes], origin: Origin, spec: FormatSpec) -> Parts:
    """Readings and rejects of one decompressed file, part by part; never raises for bad input.

    What `chunks` raises passes through.
    """
    return FORMATS[spec.format](chunks, origin, spec)


def decode(data: bytes, origin: Origin, spec: FormatSpec) -> Decoded:
    """All the readings and rejects of one small file."""
    return Decoded.merge(decode_parts([data], origin, spec))
