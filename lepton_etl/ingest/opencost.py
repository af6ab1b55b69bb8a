"""Kubernetes usage: allocations of OpenCost's API as its Parquet exporter flattens them, in a CSV with a header.

Source: OpenCost Allocation API (fields start, end, cpuCores, cpuCoreUsageAverage, ramBytes, gpuCount); the names
`properties.*` are those of opencost-parquet-exporter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, Literal

import polars as pl

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin, number_of, only_reject
from lepton_etl.ingest.delimited import Grid, cut
from lepton_etl.ingest.registry import LogFormat, log_format, setting
from lepton_etl.ingest.slurm_jobs import decode_jobs
from lepton_etl.ingest.text import drain, numbered_lines

NAMESPACE: Final = "properties.namespace"
POD: Final = "properties.pod"
NODE: Final = "properties.node"
CLUSTER: Final = "properties.cluster"
START: Final = "start"
END: Final = "end"
NEEDED: Final = (NAMESPACE, POD, NODE, START, END)
CORES: Final = "cpuCores"
CORES_USED: Final = "cpuCoreUsageAverage"
MEMORY: Final = "ramBytes"
GPUS: Final = "gpuCount"
_NOTHING: Final = pl.lit(None, dtype=pl.String)
_MINUTES_PER_S: Final = 1 / 60.0


@log_format
class OpenCost(LogFormat):
    """Kubernetes allocations of OpenCost or Kubecost as a CSV with flattened names.

    A row is one pod on one node over one window. The tenant is the namespace, the job `namespace/pod`, submitted when
    its row starts: a pod that runs through several exported windows is one run a window. Rows of OpenCost's own
    (`__idle__`, `__unallocated__`, `__unmounted__`) are ignored: idle energy is measured here. A row without pod, node
    or namespace is a reject (no_job_id, empty_node_id).
    """

    format: Literal["opencost"] = "opencost"
    subjects = ("jobs",)
    jobs_are_named = True
    followed_by = "whole files"
    cluster: str | None = setting(
        None, "Cluster of the pods; null: the column properties.cluster.", min_length=1
    )
    delimiter: str = setting(",", "One character between cells.", pattern=r"^[^\"\r\n]$")

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins with the header of flattened allocations."""
        header = head.lstrip().partition(b"\n")[0].decode("utf-8", "replace")
        return set(NEEDED) <= {name.strip().strip('"') for name in header.split(",")}

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode one CSV, block after block."""
        header: list[str] | None = None
        blocks = numbered_lines(chunks)
        for lines in blocks:
            grid = cut(lines, self.delimiter, (), header)
            missing = [] if grid is None else [name for name in NEEDED if grid.header.count(name) != 1]
            if grid is None or missing:
                drain(blocks)
                what = (
                    "the file has no header line"
                    if grid is None
                    else f"{', '.join(missing)} in {grid.header}"
                )
                yield only_reject("missing_column", f"{origin.path}: {what}")
                return
            header = grid.header
            yield self._allocations(grid, lines.frame("raw_text"), origin)

    def _allocations(self, grid: Grid, text: pl.DataFrame, origin: Origin) -> Decoded:
        own = grid.column(POD).str.contains("^__.*__$") | grid.column(NAMESPACE).str.contains("^__.*__$")
        own_rows = grid.rows.filter(own)
        rows = grid.rows.filter(~own).join(text, on="source_position", how="left", maintain_order="left")
        nameless = pl.any_horizontal(grid.column(name) == "" for name in (NAMESPACE, POD, NODE))
        faults = [
            grid.bad.join(text, on="source_position", how="left").with_columns(reason=pl.lit("bad_line")),
            rows.filter(nameless).with_columns(reason=pl.lit("no_job_id")),
        ]
        refused = pl.concat([frame.select("source_position", "reason", "raw_text") for frame in faults])
        decoded = decode_jobs(
            rows.filter(~nameless).select(self._fields(grid)),
            origin.timezone,
            refused.with_columns(pl.col("raw_text").str.slice(0, MAX_RAW_TEXT_CHARS)).sort("source_position"),
            grid.structure_lines,
        )
        ignored = {("__idle__", "unmapped"): own_rows.height} if own_rows.height else {}
        return replace(decoded, records=decoded.records + own_rows.height, ignored=ignored)

    def _fields(self, grid: Grid) -> list[pl.Expr]:
        """Return a row in the fields of the accounting; a pod's cores are counted whole, half a core as one."""

        def cell(name: str) -> pl.Expr:
            return grid.column(name) if name in grid.header else _NOTHING

        def whole(number: pl.Expr) -> pl.Expr:
            return number.ceil().cast(pl.Int64, strict=False).cast(pl.String)

        cores, gpus, memory = (number_of(cell(name)) for name in (CORES, GPUS, MEMORY))
        start, end = cell(START), cell(END)
        seconds = (_instant(end) - _instant(start)).dt.total_microseconds() / 1e6
        used_s = number_of(cell(CORES_USED)) * seconds
        minutes = (used_s * _MINUTES_PER_S).floor()
        held = pl.concat_str(
            pl.format("mem={}K", (memory / 1024).round(3)), pl.format("gres/gpu={}", whole(gpus)),
            separator=",", ignore_nulls=True,
        )  # fmt: skip
        named = {
            "JobIDRaw": pl.concat_str(cell(NAMESPACE), pl.lit("/"), cell(POD)),
            "Cluster": pl.lit(self.cluster) if self.cluster else cell(CLUSTER),
            "TenantId": cell(NAMESPACE), "State": pl.lit("COMPLETED"), "Submit": start, "Start": start, "End": end,
            "NodeList": cell(NODE), "NNodes": pl.lit("1"), "AllocCPUS": whole(cores), "AllocTRES": held,
            "Record": pl.lit("allocation"), "NodeId": cell(NODE),
            "TotalCPU": pl.format("{}:{}", minutes.cast(pl.Int64), (used_s - minutes * 60).round(3)),
        }  # fmt: skip
        return [pl.col("source_position"), pl.col("raw_text"), *(e.alias(name) for name, e in named.items())]


def _instant(stamp: pl.Expr) -> pl.Expr:
    """ISO 8601 as OpenCost writes it; null where it is not, which decode_jobs refuses."""
    return stamp.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_zone="UTC")
