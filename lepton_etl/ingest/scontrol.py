"""`scontrol show job -d`: jobs as slurmctld knows them, and which CPUs, memory and GPUs each holds on which nodes."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import polars as pl

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.ingest.registry import LogFormat, log_format, setting
from lepton_etl.ingest.slurm_jobs import JOB_FIELDS, TIME_FORMAT, TimeFormat, decode_jobs
from lepton_etl.ingest.text import numbered_lines

BATCH_JOBS: Final = 2_000
_BEGIN: Final = re.compile(r"^JobId=(\d+)\b")
_LOOKS_LIKE: Final = re.compile(rb"^\s*JobId=\d+ (?:ArrayJobId=\d+ |HetJobId=\d+ )?.*JobName=")
# Lines whose values hold no blank. A job's name, command and comment are its owner's words and stand in others.
_PLAIN_LINES: Final = (
    "UserId", "Priority", "JobState", "Requeue", "SubmitTime", "StartTime", "Partition", "NodeList", "NumNodes",
    "TRES", "AllocTRES",
)  # fmt: skip
_PAIR: Final = re.compile(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)")
_ALLOCATION: Final = re.compile(r"^Nodes=(\S+) CPU_IDs=(\S*) Mem=(\d+)([KMGT]?)(?: GRES(?:_IDX)?=(\S*))?$")
# gpu:a100:2(IDX:0-1), gpu:2(IDX:0,3), gpu(IDX:0-1) of old releases; an index list may hold commas.
_GPU: Final = re.compile(
    r"(?:^|,)gpu(?::(?P<type>[^:(,]+(?=[:(])))?(?::(?P<count>\d+))?(?:\(IDX:(?P<idx>[\d,-]+)\))?"
)
_MIG: Final = re.compile(r"\d+g\.\d+gb", re.IGNORECASE)
_DAMAGE: Final = re.compile("[\x00\ufffd]")
_QUIET: Final = "No jobs in the system"
_MEGABYTES: Final = "M"


@dataclass
class _Job:
    """The lines of one job: where it begins, its values, what it holds."""

    position: int
    text: list[str]
    values: dict[str, str]
    allocations: list[tuple[int, str, re.Match[str]]] = field(default_factory=list)

    def take(self, position: int, text: str) -> bool:
        """Take a line; False where it is an allocation that cannot be read."""
        self.text.append(text)
        if text.startswith("Nodes="):
            allocation = _ALLOCATION.match(text)
            if allocation:
                self.allocations.append((position, text, allocation))
            return allocation is not None
        if text.partition("=")[0] in _PLAIN_LINES:
            for key, value in _PAIR.findall(text):
                self.values.setdefault(key, value)
        return True


@dataclass
class _Batch:
    """Some jobs after another, the lines that are no part of any, and how many lines are structure."""

    jobs: list[_Job] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    structure_lines: int = 0


@log_format
class Scontrol(LogFormat):
    """`scontrol show job -d`: jobs and what they hold on their nodes.

    A record is a job or one of its `Nodes=` lines; the other lines of a job are its structure. A block without a
    submission time is a reject (bad_line), as is any line that belongs to no job. Stamps are local in the source's
    zone. Source: man scontrol, show job --details; gres of Slurm 17.11 to 24.11.
    """

    format: Literal["scontrol"] = "scontrol"
    subjects = ("jobs",)
    cluster: str | None = setting(
        None, "Cluster of the jobs; null: that of their nodes in the inventory.", min_length=1
    )
    time_format: TimeFormat = setting(None, TIME_FORMAT)

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins with a job as scontrol shows it in several lines.

        One line a job (-o) is not read: where a name ends, nothing says.
        """
        first = head.lstrip().partition(b"\n")[0]
        in_one = all(key in first for key in (b" UserId=", b" JobState=", b" SubmitTime="))
        return not in_one and _LOOKS_LIKE.search(head) is not None

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode jobs, allocations and rejects, some thousands of jobs at a time."""
        batch, job = _Batch(), None
        for lines in numbered_lines(chunks):
            for position, line in enumerate(lines.series(), lines.first_position):
                text = line.strip()
                if _BEGIN.match(text) and not _DAMAGE.search(line):
                    if len(batch.jobs) >= BATCH_JOBS:
                        yield _decoded(batch, origin, self)
                        batch = _Batch()
                    job = _Job(position, [text], dict(_PAIR.findall(text.partition(" JobName=")[0])))
                    batch.jobs.append(job)
                elif job is None or "\x00" in line:
                    if text and text != _QUIET:
                        batch.bad.append((position, text))
                    else:
                        batch.structure_lines += 1
                elif not job.take(position, text):
                    batch.bad.append((position, text))
                elif not text.startswith("Nodes="):
                    batch.structure_lines += 1
        yield _decoded(batch, origin, self)


def _decoded(batch: _Batch, origin: Origin, settings: Scontrol) -> Decoded:
    rows: list[dict[str, Any]] = []
    for job in batch.jobs:
        if "SubmitTime" in job.values:
            rows.extend(_rows(job, settings.cluster))
        else:
            batch.bad += [(job.position, " ".join(job.text)), *(held[:2] for held in job.allocations)]
    faults = pl.DataFrame(
        [(position, "bad_line", text[:MAX_RAW_TEXT_CHARS]) for position, text in sorted(batch.bad)],
        schema={"source_position": pl.Int64, "reason": pl.String, "raw_text": pl.String},
        orient="row",
    )
    jobs = pl.DataFrame(rows, schema=JOB_FIELDS, orient="row")
    return decode_jobs(jobs, origin.timezone, faults, batch.structure_lines, settings.time_format)


def _rows(job: _Job, cluster: str | None) -> Iterator[dict[str, Any]]:
    """Yield the job in sacct's fields, then what it holds, a row a `Nodes=` line."""
    values = job.values
    common = {
        "JobIDRaw": values["JobId"],
        "Cluster": cluster,
        "User": values.get("UserId", "").partition("(")[0],
        "Account": values.get("Account"),
        "Partition": values.get("Partition"),
        "State": values.get("JobState"),
        "Submit": values["SubmitTime"],
        "Start": values.get("StartTime"),
        "End": values.get("EndTime"),
        "Restarts": values.get("Restarts"),
    }
    yield common | {
        "source_position": job.position,
        "raw_text": " ".join(job.text)[:MAX_RAW_TEXT_CHARS],
        "Record": "job",
        "NodeList": values.get("NodeList"),
        # NumNodes of a job that waits is a range.
        "NNodes": values.get("NumNodes", "").partition("-")[0],
        "AllocCPUS": values.get("NumCPUs", "").partition("-")[0],
        "AllocTRES": values.get("AllocTRES", values.get("TRES")),
    }
    for position, text, allocation in job.allocations:
        nodes, cpus, memory, suffix, gres = allocation.groups()
        count, devices = gpus_of(gres or "")
        # Mem=0: memory is not what this cluster shares out.
        parts = [f"mem={memory}{suffix or _MEGABYTES}"] if int(memory) else []
        parts += [] if count is None else [f"gres/gpu={count}"]
        yield common | {
            "source_position": position,
            "raw_text": text[:MAX_RAW_TEXT_CHARS],
            "Record": "allocation",
            "NodeList": nodes,
            "AllocCPUS": str(len(expanded(cpus))),
            "AllocTRES": ",".join(parts),
            "DeviceIds": ",".join(devices) or None,
        }


def gpus_of(gres: str) -> tuple[int | None, list[str]]:
    """Return how many GPUs a `GRES=` value names, and their devices: gpu<index>, of a MIG type mig<index>.

    Slurm numbers the MIG instances of a node through, in order of GPU and instance. None: no GPU is named at all.
    """
    count: int | None = None
    devices: list[str] = []
    for gpu in _GPU.finditer(gres):
        indices = expanded(gpu["idx"] or "")
        count = (count or 0) + (int(gpu["count"]) if gpu["count"] else len(indices) or 1)
        stem = "mig" if _MIG.search(gpu["type"] or "") else "gpu"
        devices += [f"{stem}{index}" for index in indices]
    return count, devices if len(devices) == (count or 0) else []


def expanded(ranges: str) -> list[int]:
    """0-2,5 as [0, 1, 2, 5]; nothing of an empty text."""
    numbers: list[int] = []
    for part in ranges.split(","):
        low, _, high = part.partition("-")
        if low.isdecimal():
            numbers += range(int(low), int(high) + 1 if high.isdecimal() else int(low) + 1)
    return numbers
