"""Which format a text is of, told by how it begins. Only formats that need no settings are recognised."""

from collections.abc import Callable
from typing import Final

from lepton_etl.telemetry import (
    electricitymaps,
    ipmitool,
    nvidia_smi,
    opencost,
    openmeteo,
    otlp_json,
    prometheus,
    redfish,
    rocm_smi,
    scontrol,
    slurm,
)

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
