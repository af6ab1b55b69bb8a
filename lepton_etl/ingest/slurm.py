"""Slurm: jobs of `sacct --parsable2`, and the jobs and nodes of its REST service."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import polars as pl

from lepton_etl.ingest.decoded import (
    MAX_RAW_TEXT_CHARS,
    Decoded,
    Lines,
    Origin,
    damaged_line,
    only_reject,
    read_lines,
)
from lepton_etl.ingest.documents import Objects
from lepton_etl.ingest.samples import Sample, decode_samples, fault_frame
from lepton_etl.ingest.slurm_jobs import FIELDS, JOB_FIELDS, JOB_ID, beside, decode_jobs
from lepton_etl.ingest.specs import SlurmSpec
from lepton_etl.ingest.text import Parts, by_lines, in_utf8, peek

DELIMITER: Final = "|"
BATCH_OBJECTS: Final = 2_000
_SERVICE: Final = re.compile(rb'"[Ss]lurm"\s*:\s*\{')
_LISTS: Final = re.compile(rb'"(?:jobs|nodes)"\s*:\s*\[')


class Decoder:
    """Jobs and rejects of sacct's text, block after block: a header line with the fields' names, a job or step a line.

    Stamps are local in the source's zone, as sacct writes them. The header again (files laid one after another) is
    structure. A line with another number of cells than the header is a bad_line: sacct does not quote.
    Source: man sacct, --parsable and --parsable2.
    """

    def __init__(self, origin: Origin, spec: SlurmSpec) -> None:
        self._origin = origin
        self._header: str | None = None
        self._refused = False
        self._lines_before = 0

    def decode(self, block: bytes) -> Decoded:
        """The records of the next block of whole lines."""
        lines = read_lines(block, self._lines_before)
        self._lines_before = lines.following
        if self._refused:
            # One reject has named the whole file.
            return Decoded.merge([])
        frame = pl.DataFrame({"raw_text": lines.series()}).with_row_index(
            "source_position", offset=lines.first_position
        )
        blank = frame.get_column("raw_text").str.strip_chars() == ""
        if self._header is None and not blank.all():
            first = frame.filter(~blank).row(0)
            self._header = first[1]
            if not set(JOB_ID) & set(first[1].split(DELIMITER)):
                self._refused = True
                found = f"{self._origin.path}: neither JobID nor JobIDRaw in {first[1]!r}"
                return only_reject("missing_column", found, first[0])
        structure = blank | (frame.get_column("raw_text") == (self._header or ""))
        return self._rows(frame.filter(~structure), lines, int(structure.sum()))

    def _rows(self, frame: pl.DataFrame, lines: Lines, structure_lines: int) -> Decoded:
        header = (self._header or "").split(DELIMITER)
        cells = pl.col("raw_text").str.split(DELIMITER)
        sound = (cells.list.len() == len(header)) & ~damaged_line(pl.col("raw_text"))
        named = [
            cells.list.get(header.index(name), null_on_oob=True).alias(name) if name in header
            else pl.lit(None, dtype=pl.String).alias(name)
            for name in FIELDS
        ]  # fmt: skip
        position = pl.col("source_position").cast(pl.Int64)
        rows = frame.filter(sound).select(position, "raw_text", *named)
        faults = frame.filter(~sound).select(position, pl.lit("bad_line").alias("reason"), "raw_text")
        return decode_jobs(rows, self._origin.timezone, faults, structure_lines)


_read_text = by_lines(Decoder)


def read(chunks: Iterable[bytes], origin: Origin, spec: SlurmSpec) -> Parts:
    """sacct's text, or the service's JSON where the first byte that is no blank is a brace."""
    head, stream = peek(in_utf8(chunks))
    if head.lstrip().startswith(b"{"):
        return _read_service(stream, origin, spec)
    return _read_text(stream, origin, spec)


def looks_like(head: bytes) -> bool:
    """Whether a text begins with a header of sacct, or as an answer of the service."""
    if head.lstrip().startswith(b"{"):
        return _SERVICE.search(head) is not None and _LISTS.search(head) is not None
    lines = head.lstrip().splitlines()
    names = set(lines[0].decode("utf-8", "replace").split(DELIMITER)) if lines else set()
    return bool(names & set(JOB_ID)) and len(names & set(FIELDS)) >= 2


def _read_service(chunks: Iterable[bytes], origin: Origin, spec: SlurmSpec) -> Parts:
    """Jobs and node readings of the service's answers, some thousands of objects at a time.

    A position is the number of the job or node in the file. Source: Slurm REST API, /slurm and /slurmdb v0.0.38 on.
    """
    objects = Objects(chunks, ("jobs", "nodes"), BATCH_OBJECTS)
    for batch in objects.batches():
        rows = [
            row for item in batch.objects if item.key == "jobs" for row in _jobs(item.position, item.value)
        ]
        samples = [
            sample
            for item in batch.objects
            if item.key == "nodes"
            for sample in _energies(item.position, item.value)
        ]
        nodes = sum(
            item.key == "nodes" and not isinstance(item.value.get("energy"), dict) for item in batch.objects
        )
        jobs = decode_jobs(
            pl.DataFrame(rows, schema=JOB_FIELDS, orient="row"),
            origin.timezone,
            fault_frame(batch.faults),
        )
        readings = decode_samples(samples, origin, spec.sensors, structure_lines=nodes, epoch="s")
        yield beside(readings, jobs)


def _jobs(position: int, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A job in sacct's fields, and its steps where the accounting service gives them."""
    times = _mapping(job.get("time"))
    row = {
        "source_position": position,
        "raw_text": _raw_text(job),
        "JobIDRaw": _said(job.get("job_id")),
        "Cluster": _said(job.get("cluster")),
        "User": _said(job.get("user_name")) or _said(job.get("user")),
        "Account": _said(job.get("account")),
        "Partition": _said(job.get("partition")),
        "State": _state(job.get("job_state", job.get("state"))),
        "Submit": _said(job.get("submit_time")) or _said(times.get("submission")),
        "Start": _said(job.get("start_time")) or _said(times.get("start")),
        "End": _said(job.get("end_time")) or _said(times.get("end")),
        "NodeList": _said(job.get("nodes")),
        "NNodes": _said(job.get("node_count")) or _said(job.get("allocation_nodes")),
        "AllocCPUS": _said(job.get("cpus")),
        "AllocTRES": _said(job.get("tres_alloc_str")) or _tres(_mapping(job.get("tres")).get("allocated")),
        "Restarts": _said(job.get("restart_cnt")),
    }
    steps = job.get("steps")
    return [
        row,
        *(_step(row, step) for step in (steps if isinstance(steps, list) else ()) if isinstance(step, dict)),
    ]


def _step(job: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    times, nodes = _mapping(step.get("time")), _mapping(step.get("nodes"))
    number = str(_said(_mapping(step.get("step")).get("id")) or "").rpartition(".")[2]
    energy = _mapping(_mapping(step.get("statistics")).get("energy"))
    return {
        **{name: job[name] for name in ("source_position", "Cluster", "User", "Account", "Partition")},
        "raw_text": _raw_text(step),
        "JobIDRaw": f"{job['JobIDRaw']}.{number}",
        "State": _state(step.get("state")),
        "Start": _said(times.get("start")),
        "End": _said(times.get("end")),
        "NodeList": _said(nodes.get("range")),
        "NNodes": _said(nodes.get("count")),
        "AllocTRES": _tres(_mapping(step.get("tres")).get("allocated")),
        "ConsumedEnergyRaw": _said(energy.get("consumed")),
    }


def _energies(position: int, node: Mapping[str, Any]) -> list[Sample]:
    """What a node's energy plugin says, stamped when it was collected."""
    energy = _mapping(node.get("energy"))
    name = _said(node.get("hostname")) or _said(node.get("name"))
    stamp = _said(energy.get("last_collected"))
    return [
        Sample(
            position,
            f"energy.{key}",
            _said(value) or "",
            stamp=None if stamp in (None, "0") else stamp,
            node_id=name,
        )
        for key, value in energy.items()
        if key != "last_collected"
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _raw_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, default=str)[:MAX_RAW_TEXT_CHARS]


def _said(value: Any) -> str | None:
    """A value as text; newer services wrap numbers as {"set": ..., "infinite": ..., "number": ...}."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") and not value.get("infinite") else None
    return None if value is None or isinstance(value, list | dict) else str(value)


def _state(value: Any) -> str | None:
    """One word; newer services give a list, the base state first, and the accounting an object around it."""
    if isinstance(value, dict):
        value = value.get("current")
    if isinstance(value, list):
        value = value[0] if value else None
    return _said(value)


def _tres(value: Any) -> str | None:
    """The accounting service's list of resources as Slurm's tools write it: cpu=2,mem=4000M,gres/gpu=4."""
    if not isinstance(value, list):
        return None
    parts = []
    for item in (item for item in value if isinstance(item, dict)):
        kind = f"{item.get('type')}/{item.get('name')}" if item.get("name") else f"{item.get('type')}"
        parts.append(f"{kind}={_said(item.get('count'))}")
    return ",".join(parts)
