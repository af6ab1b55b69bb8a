"""Files of any format that needs no settings, told by what stands in them."""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, Literal

from lepton_etl.ingest.decoded import Decoded, Origin, only_reject
from lepton_etl.ingest.eia930 import INSTEAD
from lepton_etl.ingest.personal import shape
from lepton_etl.ingest.registry import LogFormat, formats, log_format, recognise
from lepton_etl.ingest.text import HEAD_BYTES, MAX_DOCUMENT_BYTES, drain, in_utf8, peek

# What a shell and its tools may say before the data: a progress meter, a warning, the error of a driver that starts.
_LINES_BEFORE: Final = 40
_LINE: Final = re.compile(rb"^(?=[^\r\n])", re.MULTILINE)
# How far a document is looked at: a day of accounting names its service in its last line. Of lines the first tell all.
_DEEPER: Final = (1 << 20, MAX_DOCUMENT_BYTES)
_DOCUMENT: Final = re.compile(rb"^[ \t]*[{\[]", re.MULTILINE)

# Dialects that no format reads, told by what no other text holds, and what to log in their place.
UNREAD: Final = tuple(
    (re.compile(pattern, re.MULTILINE), name, instead)
    for pattern, name, instead in (
        (rb"^\| NVIDIA-SMI +\d", "the table of nvidia-smi for people",
         "nvidia-smi --query-gpu=timestamp,index,uuid,power.draw,temperature.gpu,utilization.gpu --format=csv -l 60"),
        (rb"\A\s*(?:NVIDIA-SMI has failed|Failed to initialize NVML|No devices were found|Not supported on the device)",
         "an error of nvidia-smi and nothing beside it", "again once its driver answers"),
        (rb"^\| AMD-SMI +\d|^ *(?:TIMESTAMP +)?GPU +(?:XCP +)?POWER +",
         "a table of amd-smi for people", "amd-smi metric --json"),
        (rb"^=+ ?Concise (?:Hardware )?Info ?=+", "the concise table of rocm-smi", "rocm-smi -a --json"),
        (rb"(?:^|: )(?:GPU|Device) +(?:\[Model|Temp\b)", "the concise table of rocm-smi", "rocm-smi -a --json"),
        (rb"^\| Device ID +\|", "a table of xpu-smi for people", "xpu-smi dump -d -1 -m 0,1,2,3 -i 60 --date"),
        (rb"^ *JobID(?:Raw)? +.*\n-+ +-+", "the table of sacct for people", "sacct --parsable2 --format=JobIDRaw,..."),
        (rb"^\d+(?:[._+\[]\S*?)?\|.*\|(?:PENDING|RUNNING|COMPLETED|FAILED|CANCELLED|TIMEOUT)[^|\n]*(?:\||\r?$)",
         "sacct without its header", "the header too, or name the fields by `columns` of format slurm"),
        (rb"^\S+: *\d+ *\| .+\|.+\|.*\|", "ipmi-sensors of several hosts in one text",
         "one file a host, named by its node"),
        (rb"^\S+: *(?:Current Power|Instantaneous power reading) *:", "dcmi readings of several hosts in one text",
         "one file a host, named by its node"),
        (rb'\A\s*\{"fields" *: *\{.{0,2000}?"tags" *: *\{', "telegraf's JSON", 'data_format = "influx"'),
        (rb"^JobId=\d+ .{0,2000}? JobState=", "scontrol show job -o", "scontrol show job -d"),
        (rb"^(?:---\n)?jobs:\n *- ", "sacct --yaml", "sacct --json"),
        (rb"^ *JOBID +PARTITION +NAME +", "the table of squeue", "sacct --parsable2, or scontrol show job -d"),
        (rb"^(?:Package\t|.*\t)?(?:Core\tCPU\t).*(?:Bzy_MHz|Busy%)", "turbostat",
         "a CSV of its columns and format delimited, or node_exporter's RAPL collector"),
        (rb"Performance counter stats for|^ +[\d.]+ +Joules +power/energy", "perf stat",
         "node_exporter's RAPL collector"),
        (rb"^Adapter: (?:PCI|ISA|ACPI|Virtual)", "sensors of lm-sensors", "node_exporter's hwmon collector"),
        (rb'"Adapter" *: *"(?:PCI|ISA|ACPI|Virtual|I2C)', "sensors -j of lm-sensors",
         "node_exporter's hwmon collector"),
        (rb"^ *Sensor ID +: .+\(0x", "ipmitool sensor get or sdr get", "ipmitool sdr elist"),
        (rb"^Power Tracking Statistics|^Statistic +: .*(?:Energy|Power)", "ipmitool delloem powermonitor",
         "ipmitool sdr elist, or Power of Redfish"),
        (rb"^\[Key=System\.Embedded|^Realtime\.Power=", "racadm", "ipmitool sdr elist, or Power of Redfish"),
        (rb"\A(?:[\w-]+\.)+[\w-]+ -?[\d.]+ \d{10}\r?$", "Graphite's plain text",
         "InfluxDB's line protocol, or Prometheus' text"),
        (rb'^PUTVAL "', "collectd's plain text", "its write_prometheus plugin"),
        (rb'"power_node_watts"', "Variorum's JSON", "node_exporter's RAPL collector"),
        (rb"^# geopm_version", "a trace or report of GEOPM", "node_exporter's RAPL collector"),
        (rb'"device_name" *:[^}]{0,400}?"power_draw"', "nvtop -s",
         "nvidia-smi --query-gpu=timestamp,index,uuid,power.draw --format=csv -l 60"),
        (rb'"period" *: *\{\s*"duration"', "intel_gpu_top -J", "xpu-smi dump -d -1 -m 0,1,2,3 -i 60 --date"),
        (rb"\bpm_counters/\w+:", "Cray's pm_counters", "the exporter of CEEMS, which reads them"),
        (rb"^[\w-]+-MIB::\S+ = |^(?:iso|\.1)(?:\.\d+)+ = ", "snmpwalk",
         "a CSV of its values with a stamp, and format delimited"),
        (rb"^\| +Metric +\| +(?:HWThread|Core)\b|^Runtime: [\d.]+ s\s+Measure for socket", "a tool of LIKWID",
         "node_exporter's RAPL collector"),
        (rb"^Cluster/(?:Account|User)", "sreport", "sacct --parsable2"),
        (rb"^\S+ +\w{3} \w{3} +\d+ [\d:]{8} \d{4} +\d{3}\.\d+.*\n\[\d+\] .*\|", "gpustat",
         "nvidia-smi --query-gpu=timestamp,index,uuid,power.draw --format=csv -l 60"),
    )
)  # fmt: skip

# Tables that are read once the settings say how, told by their header; how.
TO_DECLARE: Final = (
    (re.compile(rb'"?(?:Balancing Authority|BA)"?,"?Data Date"?,'), "a file of EIA form 930", INSTEAD),
    (re.compile(rb"timestamp,project_name,run_id,"), "emissions.csv of CodeCarbon",
     "its energies are counters for format delimited (docs/formats.md); where it had no sensor they are estimates"),
    (re.compile(rb"(?:zone,)?time,intensity\b"), "a table of intensities", "format grid_csv with its zone"),
)  # fmt: skip
_TABLE_LINES: Final = 60


@log_format
class Auto(LogFormat):
    """Whatever a file's content shows it to be, of the formats that need no settings."""

    format: Literal["auto"] = "auto"
    subjects = ("devices", "jobs")

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Read a text by the one format that claims it, with that format's defaults.

        A text that no format claims, or more than one, is one reject: unread_dialect where it is known and says what
        to log in its place, else unknown_format.
        """
        head, stream = peek(in_utf8(chunks))
        names = claims(head)
        begins = None if names else _DOCUMENT.search(head)
        for size in _DEEPER if begins else ():
            deeper, stream = peek(stream, size)
            names = recognise(deeper[begins.start() :], by_names_alone=True) if begins else []
            if names or len(deeper) < size:
                break
        if len(names) == 1:
            found = formats()[names[0]]()
            of_jobs = "jobs" in found.subjects
            yield from (replace(part, of_jobs=of_jobs) for part in found.read(stream, origin))
            return
        drain(stream)
        yield only_reject(*why_not(head, names))


def claims(head: bytes) -> list[str]:
    """Return the formats that claim a text from its first line on, else from the first line that any claims."""
    for line in itertools.islice(_LINE.finditer(head[:HEAD_BYTES]), _LINES_BEFORE):
        names = recognise(head[line.start() :])
        if names:
            return names
    return []


def why_not(head: bytes, names: list[str]) -> tuple[str, str]:
    """Return reason and text of the reject of a text that is not read."""
    # It may be job accounting that no format knows: its words may be names.
    shown = shape(head[:200].decode("utf-8", "replace"))
    for pattern, name, instead in () if names else UNREAD:
        if pattern.search(head[:HEAD_BYTES]):
            return "unread_dialect", f"{name}, which no format reads: log {instead}. It begins: {shown}"
    for pattern, name, how in () if names else TO_DECLARE:
        if pattern.match(head):
            return "unknown_format", f"{name} needs settings; {how}: {shown}"
    if not names and _is_table(head):
        how = "format delimited, whose `readings` name its columns (docs/formats.md)"
        return "unknown_format", f"a table with named columns needs settings; {how}: {shown}"
    return "unknown_format", f"{' or '.join(names) or 'no known format'}: {shown}"


def _is_table(head: bytes) -> bool:
    """Return whether a line near the beginning and the one below it have as many cells, and the lower one digits."""
    lines = head.split(b"\n", _TABLE_LINES)[:_TABLE_LINES]
    return any(
        upper.count(by) >= 2 and upper.count(by) == lower.count(by) and re.search(rb"\d", lower) is not None
        for upper, lower in itertools.pairwise(lines)
        for by in (b";", b"\t", b",")
    )
