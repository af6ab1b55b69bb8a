"""One door to the decoders: the spec says which."""

from lepton_etl.telemetry import delimited, electricitymaps, ipmitool, prometheus
from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.specs import DelimitedSpec, FormatSpec, IpmitoolSpec, PrometheusSpec


def decode(data: bytes, origin: Origin, spec: FormatSpec) -> Decoded:
    """Readings and rejects of one decompressed file, by the decoder of its spec; never raises for bad input."""
    if isinstance(spec, IpmitoolSpec):
        return ipmitool.decode(data, origin, spec)
    if isinstance(spec, DelimitedSpec):
        return delimited.decode(data, origin, spec)
    if isinstance(spec, PrometheusSpec):
        return prometheus.decode(data, origin, spec)
    return electricitymaps.decode(data, origin, spec)
