"""Which format a text is of, told by how it begins. Only formats that need no settings are recognised."""

import re
from collections.abc import Callable
from typing import Final

from lepton_etl.telemetry import (
    electricitymaps,
    nvidia_smi,
    openmeteo,
    otlp_json,
    prometheus,
    redfish,
    rocm_smi,
    slurm,
)

_HEAD_LINES: Final = 200
_STATUS: Final = r"(?:ok|ns|na|us|nc|nr|cr|lnc|lcr|lnr|unc|ucr|unr|0x[0-9a-fA-F]+)"
# The shapes of one line of ipmitool and ipmiutil; the decoder says what each of them is.
_IPMI_LINE: Final = re.compile(
    "|".join(
        (
            r"Timestamp: .+",
            rf"[^|]+\|[^|]*\|\s*{_STATUS}\s*",  # sdr
            rf"[^|]+\|\s*[0-9A-F]{{2}}h\s*\|\s*{_STATUS}\s*\|\s*\d+\.\d+\s*\|[^|]*",  # sdr elist
            rf"[^|]+\|[^|]*\|[^|]*\|\s*{_STATUS}\s*(?:\|[^|]*){{6}}",  # sensor
            rf"[^,|=]+,[^,]*,(?:[^,]*,)?{_STATUS}(?:,.*)?",  # -c
            r"\s*(?:Instantaneous power reading|Minimum during sampling period|Maximum during sampling period|"
            r"Average power reading over sample period|IPMI timestamp|Sampling period|Power reading state is)\s*:.*",
            r"[0-9a-fA-F]{4} SDR \w+ .* snum .*",
            r"[0-9a-fA-F]{4} \| \w+ *\|.*",
            r"ipmiutil .*|isensor.*|_ID_ SDR_.*|-- BMC version .*|ID  \| .*",
        )
    )
)
_ENOUGH: Final = 0.5

Looks = Callable[[bytes], bool]


def _ipmitool(head: bytes) -> bool:
    """Whether most lines are stamps or rows of ipmitool."""
    text = head[: head.rfind(b"\n") + 1] or head
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()][:_HEAD_LINES]
    fitting = sum(_IPMI_LINE.fullmatch(line) is not None for line in lines)
    return fitting > 0 and fitting >= _ENOUGH * len(lines)


def _electricitymaps(head: bytes) -> bool:
    """Whether the header is that of the publisher's hourly files."""
    lines = head.lstrip().splitlines()
    cells = lines[0].decode("utf-8", "replace").split(electricitymaps.DELIMITER) if lines else []
    names = {electricitymaps.canonical(cell) for cell in cells}
    return {electricitymaps.TIME, electricitymaps.ZONE} <= names


RECOGNISERS: Final[dict[str, Looks]] = {
    "ipmitool": _ipmitool,
    "prometheus": prometheus.looks_like,
    "redfish": redfish.looks_like,
    "nvidia_smi": nvidia_smi.looks_like,
    "rocm_smi": rocm_smi.looks_like,
    "slurm": slurm.looks_like,
    "otlp_json": otlp_json.looks_like,
    "electricitymaps": _electricitymaps,
    "openmeteo": openmeteo.looks_like,
}


def recognise(head: bytes) -> list[str]:
    """The formats that the first bytes of a UTF-8 text may be of: one, none, or more where it is not certain."""
    return [name for name, looks_like in RECOGNISERS.items() if looks_like(head)]
