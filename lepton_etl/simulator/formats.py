"""The log formats that the fleet writes: `ipmitool sdr` tables and Prometheus text, gzip without a time stamp."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.hardware import HardwareClass

Array = NDArray[np.float64]
Row = tuple[str, str]  # sensor name; a column key in braces, or the fixed rest of the row

NAME_WIDTH: Final = 24
READING_WIDTH: Final = 17
OK: Final = "0x00"
SILENT: Final = f"{'no reading':<{READING_WIDTH}} | ns"

_STATUS_HEAD: Final[list[Row]] = [
    ("Host Power", OK), ("CMOS Battery", OK), ("SysBrd Vol Fault", OK), ("Firmware Error", OK),
    ("GPT Status", "Not Readable"), ("Progress", "Not Readable"), ("All DIMMs", OK), ("PCIs", OK),
    ("IPMI Watchdog", OK), ("SEL Fullness", OK), ("NMI State", "Not Readable"),
    ("Sys Utilization", "no reading"),
]  # fmt: skip
_STATUS_TAIL: Final[list[Row]] = [("Drive 0", OK), ("Drive Mismatch", OK), ("RAID Vol State", "Not Readable")]
_XCC_POWER: Final[list[Row]] = [
    ("CPU Utilization", "{cpu_percent}"), ("Sys Power", "{node_w}"), ("CPU Power", "{cpu_w}"),
    ("Mem Power", "{dram_w}"),
]  # fmt: skip
_PSU: Final[list[Row]] = [
    ("Power Supply 1", OK), ("PSU1 AC In Pwr", "{psu1_in_w}"), ("PSU1 DC Out Pwr", "{psu1_out_w}"),
    ("Power Supply 2", OK), ("PSU2 AC In Pwr", "{psu2_in_w}"), ("PSU2 DC Out Pwr", "{psu2_out_w}"),
]  # fmt: skip
_IDRAC: Final[list[Row]] = [
    ("Intrusion", OK), ("Fan Redundancy", OK), ("CPU Usage", "{cpu_percent}"),
    ("Pwr Consumption", "{node_w}"), ("Inlet Temp", "{inlet_c}"), ("Exhaust Temp", "{exhaust_c}"),
    ("PS Redundancy", OK),
]  # fmt: skip


def ipmi_rows(hardware: HardwareClass) -> list[Row]:
    """The sensor table of a hardware class, top to bottom; names as real controllers print them."""
    cpus = [("CPU " + str(n) + " Temp", f"{{cpu{n}_c}}") for n in range(1, hardware.sockets + 1)]
    fans = [(f"Fan {n} Tach", f"{{fan{n}_rpm}}") for n in range(1, hardware.fan_count + 1)]
    if hardware.layout == "idrac":
        return [*_IDRAC, *cpus, *fans, *_STATUS_TAIL]
    supplies = _PSU if hardware.layout == "xcc_psu" else []
    return [*_STATUS_HEAD, *_XCC_POWER, *supplies, *cpus, *_STATUS_TAIL, ("Ambient Temp", "{inlet_c}"), *fans]


def reading_cells(values: Array, unit: str, present: NDArray[np.bool_]) -> list[str]:
    """`280 Watts         | ok` for each value, `no reading` where the sensor sleeps with its node."""
    whole = np.rint(values).astype(np.int64).tolist()
    cells = {value: f"{f'{value} {unit}':<{READING_WIDTH}} | ok" for value in set(whole)}
    return [cells[value] if there else SILENT for value, there in zip(whole, present.tolist(), strict=True)]


def ipmi_snapshots(rows: list[Row], columns: dict[str, list[str]], epochs_s: Sequence[int]) -> list[str]:
    """One text block a snapshot: a `Timestamp:` line and the sensor table below it.

    `columns` maps a row's key to its cells, one a snapshot. Source: ipmitool(1), `sdr`; the stamp line as in
    Harvard's public IPMI logs.
    """
    lines, keys = ["Timestamp: %s UTC\n"], []
    for name, rest in rows:
        if rest.startswith("{"):
            keys.append(rest[1:-1])
            lines.append(f"{name:<{NAME_WIDTH}} | %s\n")
        else:
            status = "ns" if rest in {"Not Readable", "no reading"} else "ok"
            lines.append(f"{name:<{NAME_WIDTH}} | {rest:<{READING_WIDTH}} | {status}\n")
    template = "".join(lines)
    stamps = [datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S") for epoch in epochs_s]
    return [template % cells for cells in zip(stamps, *(columns[key] for key in keys), strict=True)]


# Metric, type, help, decimals. Source: NVIDIA dcgm-exporter, default-counters.csv.
GPU_METRICS: Final = (
    ("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", 0),
    ("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", 0),
    ("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", 3),
    ("DCGM_FI_DEV_POWER_MGMT_LIMIT", "gauge", "Power management limit (in W).", 0),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Total energy consumption since boot (in mJ).", 0),
    ("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", 0),
    ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gauge", "Ratio of time the graphics engine is active.", 6),
    ("kepler_node_cpu_watts", "gauge", "Power consumption of cpu at node level in watts", 3),
)
INSTANCE_METRIC: Final = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
HOST_METRIC: Final = "kepler_node_cpu_watts"
_HOST_ZONES: Final = ("package", "dram")


def exposition_head(metrics: Container[str]) -> str:
    """HELP and TYPE lines of these metrics, once at the top of a file."""
    return "".join(
        f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
        for name, kind, text, _ in GPU_METRICS
        if name in metrics
    )


def exposition_snapshots(
    node_id: str, hardware: HardwareClass, metrics: dict[str, Array], epochs_ms: Sequence[int]
) -> list[str]:
    """One text block a scrape: each metric of each GPU, MIG instance or host zone with its millisecond stamp.

    `metrics` maps a metric's name to values of shape (series, scrapes) in the metric's own unit.
    Source: Prometheus text exposition format 0.0.4; labels of dcgm-exporter and Kepler 0.10.
    """
    prefixes: list[str] = []
    values: list[Sequence[Any]] = []
    for name, _, _, decimals in GPU_METRICS:
        for place, series in enumerate(metrics.get(name, ())):
            prefixes.append(f"{name}{{{_labels(name, node_id, hardware, place)}}} %.{decimals}f")
            values.append(series.tolist())
    stamped = [prefix + " {stamp}\n" for prefix in prefixes]
    template = "".join(stamped)
    return [
        (template % row).replace("{stamp}", str(stamp))
        for stamp, row in zip(epochs_ms, zip(*values, strict=True), strict=True)
    ]


def _labels(metric: str, node_id: str, hardware: HardwareClass, place: int) -> str:
    if metric == HOST_METRIC:
        return f'zone="{_HOST_ZONES[place]}",path="/sys/class/powercap",node_name="{node_id}"'
    per_board = hardware.mig_instances if metric == INSTANCE_METRIC else 1
    gpu, instance = divmod(place, per_board)
    board = uuid.uuid5(uuid.NAMESPACE_DNS, f"{node_id}-gpu{gpu}")
    labels = f'gpu="{gpu}",UUID="GPU-{board}",device="nvidia{gpu}",modelName="{hardware.gpu_model}"'
    if metric == INSTANCE_METRIC:
        # Instances of one slice are numbered from 7, as nvidia-smi mig -lgi shows them.
        labels += f',GPU_I_PROFILE="{hardware.mig_profile}",GPU_I_ID="{instance + 7}"'
    return f'{labels},Hostname="{node_id}"'


def compress(text: str) -> bytes:
    """Gzip with a zero time stamp and no name: equal text gives equal bytes."""
    return gzip.compress(text.encode(), compresslevel=5, mtime=0)
