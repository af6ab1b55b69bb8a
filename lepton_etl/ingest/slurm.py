"""Slurm: jobs of `sacct --parsable2`, and the jobs and nodes of its REST service."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import polars as pl
from pydantic import field_validator

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin, damaged_line, only_reject
from lepton_etl.ingest.documents import members, set_noise_aside
from lepton_etl.ingest.registry import LogFormat, log_format, rule_table, setting
from lepton_etl.ingest.samples import Fault, Sample, decode_samples, fault_frame
from lepton_etl.ingest.sensors import Rules
from lepton_etl.ingest.slurm_jobs import (
    FIELDS,
    JOB_FIELDS,
    JOB_ID,
    TIME_FORMAT,
    TimeFormat,
    beside,
    decode_jobs,
)
from lepton_etl.ingest.text import drain, in_utf8, numbered_lines, peek

DELIMITER: Final = "|"
# What a login shell and sacct itself may say before the header.
LINES_BEFORE: Final = 40
BATCH_OBJECTS: Final = 2_000
# A warning may stand before the document; sacct's text holds no such line.
_OBJECT: Final = re.compile(rb'^[ \t]*\{\s*(?:"|\Z)', re.MULTILINE)
_SERVICE: Final = re.compile(rb'"[Ss]lurm"\s*:\s*\{')
# The service is named at the end of the accounting's answer, which may be hundreds of megabytes away.
_JOB: Final = re.compile(rb'"jobs"\s*:\s*\[\s*\{.*?"job_id"\s*:', re.DOTALL)
_OF_JOBS: Final = re.compile(rb'"(?:association|derived_exit_code|job_state|tres_alloc_str)"\s*:')
_LISTS: Final = re.compile(rb'"(?:jobs|nodes)"\s*:\s*\[')


@log_format
class Slurm(LogFormat):
    """Slurm's accounting: sacct in parsable text, and the REST service's jobs and nodes.

    Stamps of sacct are local in the source's zone. Source: man sacct, --parsable and --parsable2; Slurm REST API,
    /slurm and /slurmdb v0.0.38 on.
    """

    format: Literal["slurm"] = "slurm"
    subjects = ("jobs",)
    sensors: Rules = rule_table("slurm")
    columns: tuple[str, ...] = setting(
        (), "Fields of --format in order, for sacct's texts written with --noheader."
    )
    delimiter: str = setting(DELIMITER, "What stands between the fields (sacct --delimiter).", min_length=1)
    time_format: TimeFormat = setting(None, TIME_FORMAT)

    @field_validator("columns")
    @classmethod
    def _name_the_job(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if columns and not set(columns) & set(JOB_ID):
            raise ValueError(f"neither {' nor '.join(JOB_ID)} among the columns")
        return columns

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins with a header of sacct, or as an answer of the service."""
        if head.lstrip().startswith(b"{"):
            jobs = _JOB.search(head) is not None and _OF_JOBS.search(head) is not None
            return jobs or (_SERVICE.search(head) is not None and _LISTS.search(head) is not None)
        lines = head.lstrip().splitlines()
        names = set(lines[0].decode("utf-8", "replace").split(DELIMITER)) if lines else set()
        return bool(names & set(JOB_ID)) and len(names & set(FIELDS)) >= 2

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode sacct's text, or the service's JSON where the first byte that is no blank is a brace."""
        head, stream = peek(in_utf8(chunks))
        if _OBJECT.search(head):
            return self._service(*set_noise_aside(head, stream), origin)
        return self._accounting(stream, origin)

    def _service(self, noise: list[Fault], chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Yield jobs and node readings, some thousands of objects at a time; a position is the object's number."""
        for objects, found in members(chunks, ("jobs", "nodes"), BATCH_OBJECTS):
            faults, noise = noise + found, []
            nodes = [item for item in objects if item.key == "nodes"]
            rows = [row for item in objects if item.key == "jobs" for row in _jobs(item.position, item.value)]
            samples = [sample for item in nodes for sample in _energies(item.position, item.value)]
            silent = sum(not isinstance(item.value.get("energy"), dict) for item in nodes)
            frame = pl.DataFrame(rows, schema=JOB_FIELDS, orient="row")
            jobs = decode_jobs(frame, origin.timezone, fault_frame(faults))
            yield beside(
                decode_samples(samples, origin, self.sensors, structure_lines=silent, epoch="s"), jobs
            )

    def _accounting(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """sacct's text, block after block: a header line with the fields' names, a job or step a line.

        The header again (files laid one after another) is structure. A line with another number of cells than the
        header is a bad_line, as is what stands before it: sacct does not quote.
        """
        names, header = list(self.columns), ""
        blocks = numbered_lines(chunks)
        for lines in blocks:
            frame = lines.frame("raw_text")
            blank = frame.get_column("raw_text").str.strip_chars() == ""
            if not names and not blank.all():
                first = frame.filter(~blank).head(LINES_BEFORE)
                header = next(filter(self._is_header, first.get_column("raw_text")), "")
                if not header:
                    drain(blocks)
                    position, shown = first.row(0)
                    what = f"{origin.path}: neither JobID nor JobIDRaw in {shown!r}"
                    yield only_reject("missing_column", f"{what}; log the header, or set `columns`", position)
                    return
                names = header.split(self.delimiter)
            structure = blank | (frame.get_column("raw_text") == header)
            yield self._rows(frame.filter(~structure), names, origin, int(structure.sum()))

    def _is_header(self, line: str) -> bool:
        return bool(set(JOB_ID) & set(line.split(self.delimiter)))

    def _rows(self, frame: pl.DataFrame, header: list[str], origin: Origin, structure_lines: int) -> Decoded:
        cells = pl.col("raw_text").str.split(self.delimiter)
        # Written with --parsable, a row ends in a delimiter that `columns` does not tell of.
        ends = (cells.list.len() == len(header) + 1) & (cells.list.last() == "") & bool(self.columns)
        sound = ((cells.list.len() == len(header)) | ends) & ~damaged_line(pl.col("raw_text"))
        named = [
            cells.list.get(header.index(name), null_on_oob=True).alias(name)
            for name in FIELDS
            if name in header
        ]
        rows = frame.filter(sound).select("source_position", "raw_text", *named)
        faults = frame.filter(~sound).with_columns(reason=pl.lit("bad_line"))
        return decode_jobs(rows, origin.timezone, faults, structure_lines, self.time_format)


def _jobs(position: int, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a job in sacct's fields, and its steps where the accounting service gives them."""
    times = _mapping(job.get("time"))
    row = {
        "source_position": position,
        "raw_text": _raw_text(job),
        "JobIDRaw": _text(job.get("job_id")),
        "Cluster": _text(job.get("cluster")),
        "User": _text(job.get("user_name")) or _text(job.get("user")),
        "Account": _text(job.get("account")),
        "Partition": _text(job.get("partition")),
        "State": _state(job.get("job_state", job.get("state"))),
        "Submit": _text(job.get("submit_time")) or _text(times.get("submission")),
        "Start": _text(job.get("start_time")) or _text(times.get("start")),
        "End": _text(job.get("end_time")) or _text(times.get("end")),
        "NodeList": _text(job.get("nodes")),
        "NNodes": _text(job.get("node_count")) or _text(job.get("allocation_nodes")),
        "AllocCPUS": _text(job.get("cpus")),
        "AllocTRES": _text(job.get("tres_alloc_str")) or _tres(_mapping(job.get("tres")).get("allocated")),
        "Restarts": _text(job.get("restart_cnt")),
    }
    steps = job.get("steps")
    return [
        row,
        *(_step(row, step) for step in (steps if isinstance(steps, list) else ()) if isinstance(step, dict)),
    ]


def _step(job: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    times, nodes = _mapping(step.get("time")), _mapping(step.get("nodes"))
    number = str(_text(_mapping(step.get("step")).get("id")) or "").rpartition(".")[2]
    energy = _mapping(_mapping(step.get("statistics")).get("energy"))
    return {
        **{name: job[name] for name in ("source_position", "Cluster", "User", "Account", "Partition")},
        "raw_text": _raw_text(step),
        "JobIDRaw": f"{job['JobIDRaw']}.{number}",
        "State": _state(step.get("state")),
        "Start": _text(times.get("start")),
        "End": _text(times.get("end")),
        "NodeList": _text(nodes.get("range")),
        "NNodes": _text(nodes.get("count")),
        "AllocTRES": _tres(_mapping(step.get("tres")).get("allocated")),
        "ConsumedEnergyRaw": _text(energy.get("consumed")),
    }


def _energies(position: int, node: Mapping[str, Any]) -> list[Sample]:
    """Return what a node's energy plugin says, stamped when it was collected."""
    energy = _mapping(node.get("energy"))
    name = _text(node.get("hostname")) or _text(node.get("name"))
    stamp = _text(energy.get("last_collected"))
    return [
        Sample(
            position,
            f"energy.{key}",
            _text(value) or "",
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


def _text(value: Any) -> str | None:
    """Return a value as text; newer services wrap numbers as {"set": ..., "infinite": ..., "number": ...}."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") and not value.get("infinite") else None
    return None if value is None or isinstance(value, list | dict) else str(value)


def _state(value: Any) -> str | None:
    """Return one word; newer services give a list, the base state first, and the accounting an object around it."""
    if isinstance(value, dict):
        value = value.get("current")
    if isinstance(value, list):
        value = value[0] if value else None
    return _text(value)


def _tres(value: Any) -> str | None:
    """Return the accounting service's list of resources as Slurm's tools write it: cpu=2,mem=4000M,gres/gpu=4."""
    if not isinstance(value, list):
        return None
    parts = []
    for item in (item for item in value if isinstance(item, dict)):
        kind = f"{item.get('type')}/{item.get('name')}" if item.get("name") else f"{item.get('type')}"
        parts.append(f"{kind}={_text(item.get('count'))}")
    return ",".join(parts)
