"""One door to the decoders: which format is read by which module.

- Which format a text is of, told by how it begins. Only formats that need no settings are recognised.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final

from lepton_etl.ingest import (
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
from lepton_etl.ingest.decoded import Decoded, Origin, only_reject
from lepton_etl.ingest.specs import AutoSpec, FormatSpec, spec_of
from lepton_etl.ingest.text import Parts, Read, in_utf8, peek

Looks = Callable[[bytes], bool]

RECOGNISERS: Final[dict[str, Looks]] = {
    "ipmitool": ipmitool.looks_like,
    "prometheus": prometheus.looks_like,
    "redfish": redfish.looks_like,
    "nvidia_smi": nvidia_smi.looks_like,
    "rocm_smi": rocm_smi.looks_like,
    "slurm": slurm.looks_like,
    "scontrol": scontrol.looks_like,
    "opencost": opencost.looks_like,
    "otlp_json": otlp_json.looks_like,
    "electricitymaps": electricitymaps.looks_like,
    "openmeteo": openmeteo.looks_like,
}


def recognise(head: bytes) -> list[str]:
    """The formats that the first bytes of a UTF-8 text may be of: one, none, or more where it is not certain."""
    return [name for name, looks_like in RECOGNISERS.items() if looks_like(head)]


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
