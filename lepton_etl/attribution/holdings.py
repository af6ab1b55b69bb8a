"""Runs of jobs -> what each of them held of each node on each UTC day (silver/job_node)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl
import pyarrow as pa

from lepton_etl.attribution.hostlist import HostlistError, expand
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables.jobs import JOB_NODE

BY_DEVICES: Final = "devices"
BY_COUNT: Final = "count"
BY_CORES: Final = "cores"
NO_GPU: Final = "none"
_SHARED_COLUMNS: Final = (
    "site_id", "cluster_id", "job_id", "submit_time", "restart", "date", "tenant_id", "outcome", "from_time", "to_time",
)  # fmt: skip


def job_nodes(runs: pl.DataFrame, nodes: pa.Table) -> pa.Table:
    """The rows of silver/job_node of runs (`runs.job_runs`), sorted by key; nodes outside the inventory are left out.

    What the scheduler says of a node holds (scontrol -d, Kubernetes). Else the run's cores, memory and GPUs are spread
    evenly over its nodes, the remainder on the first ones, as Slurm fills them; then GPUs are known by number alone.
    A run's CPU time goes to its nodes by their cores, and to its days by held time.
    """
    gpus = dict(zip(nodes["node_id"].to_pylist(), nodes["gpu_count"].to_pylist(), strict=True))
    rows = [row for run in runs.iter_rows(named=True) for row in _of_run(run, gpus)]
    table = pa.Table.from_pylist(rows, schema=arrow_schema(JOB_NODE))
    return table.sort_by([(name, "ascending") for name in JOB_NODE.key])


def _of_run(run: Mapping[str, Any], gpus: Mapping[str, int | None]) -> Iterator[dict[str, Any]]:
    try:
        held = _held(run)
    except HostlistError:
        return
    cores = sum(one["cpu_count"] or 0 for one in held.values())
    share_s = _day_share(run)
    for node_id, one in held.items():
        if node_id not in gpus:
            continue
        part = one["cpu_count"] / cores if cores and one["cpu_count"] else 1 / len(held)
        cpu_time_s = one["cpu_time_s"] if one["cpu_time_s"] is not None else _times(run["cpu_time_s"], part)
        yield {
            **{name: run[name] for name in _SHARED_COLUMNS},
            "node_id": node_id,
            "cpu_count": one["cpu_count"],
            "memory_byte": one["memory_byte"],
            "gpu_count": one["gpu_count"],
            "device_ids": one["device_ids"],
            "cpu_time_s": _times(cpu_time_s, share_s),
            "attribution_basis": _basis(one, gpus[node_id]),
        }


def _basis(held: Mapping[str, Any], node_gpus: int | None) -> str:
    if held["device_ids"]:
        return BY_DEVICES
    if not node_gpus or held["gpu_count"] == 0:
        return NO_GPU
    return BY_CORES if held["gpu_count"] is None else BY_COUNT


def _held(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By node what the run held of it; the newest file that names the node holds."""
    told: dict[str, dict[str, Any]] = {}
    for one in run["held"] or []:
        for node_id in [one["node_id"]] if one["node_id"] else expand(one["node_list"] or ""):
            told[node_id] = one
    names = expand(run["node_list"] or "") or list(told)
    # A node that the newest list no longer names was given back (a shrunk job); one without details shares evenly.
    known = {name: told[name] for name in names if name in told}
    rest = [name for name in names if name not in told]
    even = {name: _even(run, known, place, len(rest)) for place, name in enumerate(rest)}
    # GPUs that Slurm counts for the job but not for a node (it does not know their number there) are no zero.
    return {
        name: {**one, "gpu_count": _gpu_count(one, run)} for name, one in (known | even).items()
    }  # fmt: skip


def _gpu_count(one: Mapping[str, Any], run: Mapping[str, Any]) -> int | None:
    # scontrol -d lists the devices of every node: a node without any has none.
    count: int | None = 0 if one["gpu_count"] is None and run["held"] else one["gpu_count"]
    return count


def _even(
    run: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], place: int, nodes: int
) -> dict[str, Any]:
    """An even part of what is left for `nodes` nodes; counts stay whole."""

    def whole(name: str) -> int | None:
        if run[name] is None:
            return None
        rest = max(0, run[name] - sum(one[name] or 0 for one in known.values()))
        return int(rest // nodes + (place < rest % nodes))

    memory = run["memory_byte"]
    rest_byte = (
        None if memory is None else max(0.0, memory - sum(one["memory_byte"] or 0 for one in known.values()))
    )
    return {
        "cpu_count": whole("cpu_count"),
        "gpu_count": whole("gpu_count"),
        "memory_byte": None if rest_byte is None else rest_byte / nodes,
        "device_ids": None,
        "cpu_time_s": None,
    }


def _day_share(run: Mapping[str, Any]) -> float | None:
    """Held time of the day over that of the run; None for one that still runs, whose CPU time is of no known span."""
    if run["end_time"] is None:
        return None
    held_s = (run["to_time"] - run["from_time"]).total_seconds()
    return float(held_s / (run["end_time"] - run["start_time"]).total_seconds())


def _times(amount: float | None, share: float | None) -> float | None:
    return None if amount is None or share is None else amount * share
