"""Turn job accounting into runs, and into what each held of each node on each UTC day.

These are silver/job_run and silver/job_node. Of accounting as delivered the newest word on a run counts, for
its outcome and its tenant too. Node lists are in Slurm's bracket notation: node[01-03,07],gpu1 is node01
node02 node03 node07 gpu1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, Final

import polars as pl
import pyarrow as pa

from lepton_etl.days import Days
from lepton_etl.registers.node_names import NodeNames, Rule
from lepton_etl.schema.jobs import JOB_NODE, JOB_RUN
from lepton_etl.schema.types import arrow_schema

# More nodes than any cluster has; a list that asks for more is damaged, not large.
MAX_NODES: Final = 200_000


class HostlistError(ValueError):
    """A node list that is not in Slurm's notation."""


def expand(text: str) -> list[str]:
    """The node names of a list, in its order, each once.

    Brackets hold numbers and ranges, comma-separated; a range keeps the width of its first number. Several brackets
    in one name are combined (rack[1-2]n[1-4]). Raises HostlistError for brackets that do not close, ranges that fall,
    and lists of more than MAX_NODES names. Source: man scontrol, show hostnames; slurm.conf, NodeName.
    """
    names: dict[str, None] = {}
    for part in _parts(text):
        for name in _names(part):
            names[name] = None
            if len(names) > MAX_NODES:
                raise HostlistError(f"{text[:80]!r} names more than {MAX_NODES} nodes")
    return list(names)


def _parts(text: str) -> list[str]:
    """The comma-separated entries outside brackets."""
    parts, start, depth = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise HostlistError(f"brackets of {text[:80]!r} do not match")
        if letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    if depth:
        raise HostlistError(f"brackets of {text[:80]!r} do not match")
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _names(part: str) -> list[str]:
    head, *rest = part.split("[")
    choices: list[list[str]] = [[head]]
    size = 1
    for piece in rest:
        inside, _, after = piece.partition("]")
        numbers = [number for span in inside.split(",") for number in _numbers(span)]
        size *= len(numbers)
        if size > MAX_NODES:
            raise HostlistError(f"{part[:80]!r} names more than {MAX_NODES} nodes")
        choices += [numbers, [after]]
    return ["".join(letters) for letters in product(*choices)]


def _numbers(span: str) -> list[str]:
    low, dash, high = span.strip().partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise HostlistError(f"{span!r} is not a number or a range")
    if not dash:
        return [low]
    first, last = int(low), int(high)
    if last < first or last - first >= MAX_NODES:
        raise HostlistError(f"{span!r} is not a range that rises")
    return [str(number).zfill(len(low)) for number in range(first, last + 1)]


OUTCOMES: Final = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "NODE_FAIL": "failed",
    "BOOT_FAIL": "failed",
    "LAUNCH_FAILED": "failed",
    "OUT_OF_MEMORY": "failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "cancelled",
    "REVOKED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "REQUEUED": "requeued",
    "REQUEUE": "requeued",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "CONFIGURING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
}
OPEN_RUN: Final = "no_end"
_RUN: Final = ["cluster_name", "job_id", "submit_time", "restart"]
_NEWEST: Final = ("ingest_time", "file_id", "source_position")
DAY: Final = pl.duration(days=1)


def job_runs(
    jobs: pa.Table, nodes: pa.Table, site_id: str, days: Days, rule: Rule = "inventory"
) -> pl.DataFrame:
    """The rows of silver/job_run of these days, with `held`: what scheduler formats say of single nodes.

    `jobs` are bronze/job rows that may touch the days, `nodes` silver/node. Of several deliveries of one run the newest
    holds (one with an end before one without, then ingest_time, file_id and position), field by field: an accounting
    row that does not know the devices does not take back what scontrol knew. Without a count of restarts the runs of
    one submission are numbered by their start. Rows of a cluster and nodes that no inventory knows are left out; `rule`
    is how logged names become nodes.
    """
    rows = _frame(jobs).filter(
        (pl.col("record") != "step") & pl.col("start_time").is_not_null()
    ).with_columns(
        pl.coalesce("submit_time", "start_time").alias("submit_time"), _restart().alias("restart")
    )  # fmt: skip
    names = NodeNames(frozenset(nodes["node_id"].to_pylist()), rule)
    first_node = partial(_first_node, names=names)
    named = rows.with_columns(
        pl.coalesce("cluster_name", pl.lit("")).alias("cluster_name"),
        pl.col("node_list").map_elements(first_node, return_dtype=pl.String).alias("first_node"),
    )
    ended = pl.col("end_time").is_not_null()
    # What was seen while the run went on does not take back its end, whichever came last.
    placed = named.pipe(_with_cluster, nodes).with_columns(ended.alias("ended")).sort("ended", *_NEWEST)
    newest = placed.group_by("cluster_id", *_RUN[1:], maintain_order=True).agg(
        pl.col("tenant_id", "user_name", "partition", "state").drop_nulls().last(),
        pl.col("start_time", "file_id").last(),
        pl.col("end_time").last(),
        *(_of_job(name) for name in ("node_count", "cpu_count", "gpu_count", "memory_byte", "node_list")),
        *(_of_job(name) for name in ("cpu_time_s", "consumed_energy_j")),
        pl.struct("node_list", "node_id", "cpu_count", "gpu_count", "memory_byte", "device_ids", "cpu_time_s")
        .filter(pl.col("record") == "allocation").alias("held"),
    )  # fmt: skip
    told = newest.with_columns(
        pl.col("state").replace_strict(OUTCOMES, default=None, return_dtype=pl.String).alias("outcome"),
        pl.lit(site_id).alias("site_id"),
    )
    running = pl.col("outcome") == "running"
    # A run that is said to have ended without saying when held nothing that could be counted.
    usable = told.filter(pl.col("outcome").is_not_null() & (running | pl.col("end_time").is_not_null()))
    # Where the accounting counts any job's GPUs, a job without a count has none.
    counts = (pl.col("gpu_count").max().over("cluster_id") > 0).fill_null(False)
    usable = usable.with_columns(
        pl.when(counts).then(pl.col("gpu_count").fill_null(0)).otherwise("gpu_count").alias("gpu_count")
    )
    positive = pl.col("end_time").is_null() | (pl.col("end_time") > pl.col("start_time"))
    return _each_day(usable.filter(positive), days)


def run_table(runs: pl.DataFrame) -> pa.Table:
    """The rows of silver/job_run in its schema, sorted by key."""
    flags = (
        pl.when(pl.col("end_time").is_null())
        .then(pl.lit([OPEN_RUN]))
        .otherwise(pl.lit([], dtype=pl.List(pl.String)))
    )
    shown = runs.with_columns(flags.alias("flags")).select(list(JOB_RUN.columns)).sort(list(JOB_RUN.key))
    return shown.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(arrow_schema(JOB_RUN))


def _frame(jobs: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(jobs)
    # Rows of an older release have no kind of record.
    told = pl.when(pl.col("step_id").is_null()).then(pl.lit("job")).otherwise(pl.lit("step"))
    return frame.with_columns(pl.coalesce("record", told).alias("record"), pl.col("job_state").alias("state"))


def _restart() -> pl.Expr:
    """The count that any row of the run gives, else the place of its start among those of one submission."""
    of_start = pl.col("restart").drop_nulls().last().over("job_id", "submit_time", "start_time")
    by_start = pl.col("start_time").rank("dense").over("cluster_name", "job_id", "submit_time") - 1
    return pl.coalesce("restart", of_start, by_start.cast(pl.Int32))


def _of_job(name: str) -> pl.Expr:
    """The newest word of the job's own rows, else of what it holds where that is one row (Kubernetes)."""
    known = pl.col(name).is_not_null()
    own = pl.col(name).filter(known & (pl.col("record") == "job")).last()
    return pl.coalesce(own, pl.col(name).filter(known).last()).alias(name)


def _first_node(node_list: str, names: NodeNames) -> str | None:
    try:
        logged = expand(node_list)
    except HostlistError:
        return None
    return names.of(logged[0]) if logged else None


def _with_cluster(rows: pl.DataFrame, nodes: pa.Table) -> pl.DataFrame:
    """Add cluster_id: the scheduler's name where the inventory has such a cluster, else that of the first node."""
    inventory = pl.DataFrame(nodes.select(["node_id", "cluster_id", "valid_from"]))
    places = (
        inventory.sort("valid_from").group_by("node_id", maintain_order=True).agg(pl.col("cluster_id").last())
        .rename({"node_id": "first_node", "cluster_id": "node_cluster"})
    )  # fmt: skip
    known = inventory.get_column("cluster_id").unique().to_list()
    joined = rows.join(places, on="first_node", how="left", maintain_order="left")
    own = pl.when(pl.col("cluster_name").is_in(known)).then(pl.col("cluster_name"))
    cluster = pl.coalesce(own, "node_cluster").alias("cluster_id")
    # Rows of one run that name no node (allocations do, some jobs do not) stand where its other rows do.
    of_run = pl.col("cluster_id").drop_nulls().first().over(_RUN)
    return joined.with_columns(cluster).with_columns(of_run).filter(pl.col("cluster_id").is_not_null())


def _each_day(runs: pl.DataFrame, days: Days) -> pl.DataFrame:
    """A row for each of the days that a run touches, with from_time and to_time clipped to it."""
    dates = pl.DataFrame({"date": list(days)}, schema={"date": pl.Date})
    midnight = pl.col("date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    spread = runs.join(dates, how="cross").with_columns(
        pl.max_horizontal("start_time", midnight).alias("from_time"),
        pl.min_horizontal(pl.coalesce("end_time", midnight + DAY), midnight + DAY).alias("to_time"),
    )
    return spread.filter(pl.col("from_time") < pl.col("to_time"))


BY_DEVICES: Final = "devices"
BY_COUNT: Final = "count"
BY_CORES: Final = "cores"
NO_GPU: Final = "none"
_SHARED_COLUMNS: Final = (
    "site_id", "cluster_id", "job_id", "submit_time", "restart", "date", "tenant_id", "outcome", "from_time", "to_time",
)  # fmt: skip


def job_nodes(runs: pl.DataFrame, nodes: pa.Table, rule: Rule = "inventory") -> pa.Table:
    """The rows of silver/job_node of runs (`runs.job_runs`), sorted by key; nodes outside the inventory are left out.

    What the scheduler says of a node holds (scontrol -d, Kubernetes). Else the run's cores, memory and GPUs are spread
    evenly over its nodes, the remainder on the first ones, as Slurm fills them; then GPUs are known by number alone.
    A run's CPU time goes to its nodes by their cores, and to its days by held time.
    """
    gpus = dict(zip(nodes["node_id"].to_pylist(), nodes["gpu_count"].to_pylist(), strict=True))
    names = NodeNames(frozenset(gpus), rule)
    rows = [row for run in runs.iter_rows(named=True) for row in _of_run(run, gpus, names)]
    table = pa.Table.from_pylist(rows, schema=arrow_schema(JOB_NODE))
    return table.sort_by([(name, "ascending") for name in JOB_NODE.key])


def _of_run(
    run: Mapping[str, Any], gpus: Mapping[str, int | None], names: NodeNames
) -> Iterator[dict[str, Any]]:
    try:
        held = _held(run, names)
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


def _held(run: Mapping[str, Any], node_names: NodeNames) -> dict[str, dict[str, Any]]:
    """By node what the run held of it; the newest file that names the node holds."""
    told: dict[str, dict[str, Any]] = {}
    for one in run["held"] or []:
        for name in [one["node_id"]] if one["node_id"] else expand(one["node_list"] or ""):
            told[node_names.of(name)] = one
    names = [node_names.of(name) for name in expand(run["node_list"] or "")] or list(told)
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
