"""`scontrol show job -d`: jobs as slurmctld knows them, and which CPUs, memory and GPUs each holds on which nodes."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.ingest.slurm_jobs import JOB_FIELDS, decode_jobs
from lepton_etl.ingest.specs import ScontrolSpec
from lepton_etl.ingest.text import Parts, in_utf8, line_blocks

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
_QUIET: Final = "No jobs in the system"
_MEGABYTES: Final = "M"


@dataclass
class _Job:
    """The lines of one job: where it begins, its values, what it holds."""

    position: int
    text: list[str]
    values: dict[str, str] = field(default_factory=dict)
    allocations: list[tuple[int, str, re.Match[str]]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)


class _Reader:
    """Lines to jobs: a job is complete when the next one begins or the text ends."""

    def __init__(self) -> None:
        self.done: list[_Job] = []
        self.stray: list[tuple[int, str]] = []
        self.structure_lines = 0
        self._open: _Job | None = None
        self._position = 0

    def take(self, line: str) -> None:
        self._position += 1
        text = line.strip()
        begins = _BEGIN.match(text)
        if begins and "\x00" not in line and "\ufffd" not in line:
            self.finish()
            self._open = _Job(self._position, [text])
            named = text.partition(" JobName=")[0]
            self._open.values = dict(_PAIR.findall(named))
        elif self._open is None or "\x00" in line:
            if text and text != _QUIET:
                self.stray.append((self._position, text))
            else:
                self.structure_lines += 1
        else:
            self._detail(self._open, text)

    def finish(self) -> None:
        """Close the job that is open, at the end of its lines."""
        if self._open is not None:
            self.done.append(self._open)
        self._open = None

    def _detail(self, job: _Job, text: str) -> None:
        job.text.append(text)
        if text.startswith("Nodes="):
            found = _ALLOCATION.match(text)
            if found:
                job.allocations.append((self._position, text, found))
            else:
                job.bad.append((self._position, text))
            return
        self.structure_lines += 1
        if text.partition("=")[0] in _PLAIN_LINES:
            for key, value in _PAIR.findall(text):
                job.values.setdefault(key, value)


def read(chunks: Iterable[bytes], origin: Origin, spec: ScontrolSpec) -> Parts:
    """Jobs, allocations and rejects, some thousands of jobs at a time.

    A record is a job or one of its `Nodes=` lines; the other lines of a job are its structure. A block without a
    submission time is a reject (bad_line), as is any line that belongs to no job. Stamps are local in the source's
    zone. Source: man scontrol, show job --details; gres of Slurm 17.11 to 24.11.
    """
    reader = _Reader()
    given = False
    for block in line_blocks(in_utf8(chunks)):
        for line in block.decode("utf-8", "replace").splitlines():
            reader.take(line)
            if len(reader.done) >= BATCH_JOBS:
                yield _decoded(reader, origin, spec)
                given = True
    reader.finish()
    if reader.done or reader.stray or reader.structure_lines or not given:
        yield _decoded(reader, origin, spec)


def looks_like(head: bytes) -> bool:
    """Whether a text begins with a job as scontrol shows it."""
    return _LOOKS_LIKE.search(head) is not None


def _decoded(reader: _Reader, origin: Origin, spec: ScontrolSpec) -> Decoded:
    jobs, stray, structure_lines = reader.done, reader.stray, reader.structure_lines
    reader.done, reader.stray, reader.structure_lines = [], [], 0
    faults = [*stray, *(bad for job in jobs for bad in job.bad)]
    rows: list[dict[str, Any]] = []
    for job in jobs:
        if "SubmitTime" not in job.values:
            faults.append((job.position, " ".join(job.text)))
            faults += [(position, text) for position, text, _ in job.allocations]
            continue
        rows.extend(_rows(job, spec.cluster))
    return decode_jobs(
        pl.DataFrame(rows, schema=JOB_FIELDS, orient="row"), origin.timezone, _faults(faults), structure_lines
    )


def _faults(found: list[tuple[int, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(position, "bad_line", text[:MAX_RAW_TEXT_CHARS]) for position, text in sorted(found)],
        schema={"source_position": pl.Int64, "reason": pl.String, "raw_text": pl.String},
        orient="row",
    )


def _rows(job: _Job, cluster: str | None) -> Iterator[dict[str, Any]]:
    """The job in sacct's fields, then what it holds, a row a `Nodes=` line."""
    said = job.values
    common = {
        "JobIDRaw": said["JobId"],
        "Cluster": cluster,
        "User": said.get("UserId", "").partition("(")[0],
        "Account": said.get("Account"),
        "Partition": said.get("Partition"),
        "State": said.get("JobState"),
        "Submit": said["SubmitTime"],
        "Start": said.get("StartTime"),
        "End": said.get("EndTime"),
        "Restarts": said.get("Restarts"),
    }
    yield common | {
        "source_position": job.position,
        "raw_text": " ".join(job.text)[:MAX_RAW_TEXT_CHARS],
        "Record": "job",
        "NodeList": said.get("NodeList"),
        # NumNodes of a job that waits is a range.
        "NNodes": said.get("NumNodes", "").partition("-")[0],
        "AllocCPUS": said.get("NumCPUs", "").partition("-")[0],
        "AllocTRES": said.get("AllocTRES", said.get("TRES")),
    }
    for position, text, found in job.allocations:
        nodes, cpus, memory, suffix, gres = found.groups()
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
    """How many GPUs a `GRES=` value names, and their devices: gpu<index>, of a MIG type mig<index>.

    Slurm numbers the MIG instances of a node through, in order of GPU and instance. None: no GPU is named at all.
    """
    count: int | None = None
    devices: list[str] = []
    for found in _GPU.finditer(gres):
        indices = expanded(found["idx"] or "")
        count = (count or 0) + (int(found["count"]) if found["count"] else len(indices) or 1)
        stem = "mig" if _MIG.search(found["type"] or "") else "gpu"
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
