"""Accounting as Slurm writes it: `sacct --parsable2` of each day, and `scontrol show job -d` of what runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Final

from lepton_etl.simulator.attribution import JOULES_PER_KWH, JobShares
from lepton_etl.simulator.jobs import Assignment, Job, Schedule
from lepton_etl.simulator.plan import DAY_S, STEP_S, ClusterPlan, FleetPlan

COLUMNS: Final = (
    "JobIDRaw", "JobID", "Cluster", "User", "Account", "Partition", "State", "Submit", "Start", "End", "Elapsed",
    "NNodes", "AllocNodes", "AllocCPUS", "NCPUS", "AllocTRES", "NodeList", "Restarts", "TotalCPU",
    "ConsumedEnergyRaw", "ConsumedEnergy", "TRESUsageInTot",
)  # fmt: skip


def write_accounting(
    plan: FleetPlan, placed: Mapping[str, Schedule], shares: Mapping[str, JobShares], landing: Path
) -> int:
    """landing/slurm/sacct-DATE.txt and scontrol-DATE.txt of every day; stamps are UTC. Returns the number of files.

    sacct names the runs that ended on the day, and those that run on at its end, without an end yet. scontrol is asked
    by a prolog at the start of each run, and at midnight for what runs on, so it knows no end either.
    """
    for number, date in enumerate(plan.dates):
        first, last = number * DAY_S // STEP_S, (number + 1) * DAY_S // STEP_S
        sacct, scontrol = ["|".join(COLUMNS)], []
        for cluster in plan.clusters:
            schedule = placed[cluster.cluster_id]
            held = _by_run(cluster, schedule)
            for job in schedule.jobs:
                if job.end_step > first and job.start_step < last:
                    share = shares.get(job.run_id, JobShares())
                    sacct += _sacct_lines(plan, cluster, job, share, ended=job.end_step <= last)
                    scontrol += _scontrol_block(plan, cluster, job, held[job.run_id])
        for name, lines in (("sacct", sacct), ("scontrol", scontrol)):
            path = landing / "slurm" / f"{name}-{date}.txt"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return 2 * plan.days


def bracketed(names: Iterable[str]) -> str:
    """Node names in Slurm's notation: c01n[0001-0003,0007]. The names end in numbers of one width after one stem."""
    ordered = sorted(names)
    stem, width = ordered[0].rstrip("0123456789"), len(ordered[0]) - len(ordered[0].rstrip("0123456789"))
    if len(ordered) == 1:
        return ordered[0]
    return f"{stem}[{_ranges([int(name[len(stem) :]) for name in ordered], width)}]"


def _ranges(numbers: list[int], width: int = 1) -> str:
    """1-3,7 of rising numbers."""
    parts = []
    for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        span = [number for _, number in run]
        parts.append(f"{span[0]:0{width}d}" + (f"-{span[-1]:0{width}d}" if len(span) > 1 else ""))
    return ",".join(parts)


def _by_run(cluster: ClusterPlan, schedule: Schedule) -> dict[str, list[tuple[str, Assignment]]]:
    """Node and assignment of each run, in the order of nodes."""
    held: dict[str, list[tuple[str, Assignment]]] = {}
    for node_id, assignments in zip(cluster.node_ids(), schedule.assignments, strict=True):
        for assignment in assignments:
            held.setdefault(assignment.job.run_id, []).append((node_id, assignment))
    return held


def _stamp(plan: FleetPlan, seconds: float) -> str:
    return datetime.fromtimestamp(plan.start_epoch_s + int(seconds // 1), UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _clock(seconds: float, decimals: bool = False) -> str:
    """[days-]hours:minutes:seconds, as sacct writes a span of time."""
    days, rest = divmod(seconds, DAY_S)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{int(hours):02d}:{int(minutes):02d}:" + (f"{rest:06.3f}" if decimals else f"{int(rest):02d}")
    return f"{int(days)}-{text}" if days else text


def _tres(cluster: ClusterPlan, job: Job) -> str:
    hardware, slots = cluster.hardware, job.node_count * job.slots_per_node
    cores = slots * hardware.cores_per_slot
    parts = [f"billing={cores}", f"cpu={cores}"]
    if hardware.gpu_count:
        kind = f"gres/gpu:{hardware.mig_profile}" if hardware.mig_instances else "gres/gpu"
        parts += [f"{kind}={slots}"] + ([f"gres/gpu={slots}"] if hardware.mig_instances else [])
    return ",".join([*parts, f"mem={slots * hardware.memory_mib_per_slot}M", f"node={job.node_count}"])


def _sacct_lines(
    plan: FleetPlan, cluster: ClusterPlan, job: Job, share: JobShares, *, ended: bool
) -> list[str]:
    """The run, and its batch step once it has ended."""
    cores = job.node_count * job.slots_per_node * cluster.hardware.cores_per_slot
    elapsed_s = (job.end_step - job.start_step) * STEP_S
    cancelled = "CANCELLED by 1000" if job.outcome == "CANCELLED" else job.outcome
    nodes = [cluster.node_ids()[node] for node in job.nodes]
    # The energy plugin sees whole nodes: it is only right of a job alone on them, and knows none of others.
    alone = job.slots_per_node == cluster.hardware.slots and job.start_step >= 0
    joules = round((share.dynamic_kwh + share.static_kwh) * JOULES_PER_KWH) if alone and ended else 0
    values = {
        "JobIDRaw": job.job_id,
        "JobID": job.job_id,
        "Cluster": cluster.cluster_id,
        "User": f"{job.tenant_id}-user",
        "Account": job.tenant_id,
        "Partition": "gpu" if cluster.hardware.gpu_count else "cpu",
        "State": cancelled if ended else "RUNNING",
        "Submit": _stamp(plan, job.submit_s),
        "Start": _stamp(plan, job.start_step * STEP_S),
        "End": _stamp(plan, job.end_step * STEP_S) if ended else "Unknown",
        "Elapsed": _clock(elapsed_s) if ended else "00:00:00",
        "NNodes": str(job.node_count),
        "AllocNodes": str(job.node_count),
        "AllocCPUS": str(cores),
        "NCPUS": str(cores),
        "AllocTRES": _tres(cluster, job),
        "NodeList": bracketed(nodes),
        "Restarts": str(job.restart),
        "TotalCPU": _clock(cores * job.cpu_level * elapsed_s, decimals=True) if ended else "00:00:00",
        "ConsumedEnergyRaw": str(joules),
        "ConsumedEnergy": str(joules),
        "TRESUsageInTot": "",
    }
    lines = ["|".join(values[name] for name in COLUMNS)]
    if ended:
        batch = dict.fromkeys(COLUMNS, "") | {
            "JobIDRaw": f"{job.job_id}.batch", "JobID": f"{job.job_id}.batch", "NNodes": "1", "AllocNodes": "1",
            "NodeList": nodes[0], "State": job.outcome,
            **{name: values[name] for name in ("Cluster", "Account", "Start", "End", "Elapsed")},
            "Submit": values["Start"],
        }  # fmt: skip
        lines.append("|".join(batch[name] for name in COLUMNS))
    return lines


def _scontrol_block(
    plan: FleetPlan, cluster: ClusterPlan, job: Job, held: list[tuple[str, Assignment]]
) -> list[str]:
    """A job as `scontrol show job -d` prints it while it runs; nodes that give the same parts share a line."""
    hardware = cluster.hardware
    cores = job.node_count * job.slots_per_node * hardware.cores_per_slot
    nodes = bracketed(node_id for node_id, _ in held)
    requested = job.end_step - job.start_step
    lines = [
        f"JobId={job.job_id} JobName=job-{job.job_id}",
        f"   UserId={job.tenant_id}-user(1000) GroupId={job.tenant_id}(1000) MCS_label=N/A",
        f"   Priority=1 Nice=0 Account={job.tenant_id} QOS=normal",
        "   JobState=RUNNING Reason=None Dependency=(null)",
        f"   Requeue=1 Restarts={job.restart} BatchFlag=1 Reboot=0 ExitCode=0:0",
        f"   RunTime=00:00:00 TimeLimit={_clock(2 * requested * STEP_S)} TimeMin=N/A",
        f"   SubmitTime={_stamp(plan, job.submit_s)} EligibleTime={_stamp(plan, job.submit_s)}",
        f"   StartTime={_stamp(plan, job.start_step * STEP_S)} "
        f"EndTime={_stamp(plan, (job.start_step + 2 * requested) * STEP_S)} Deadline=N/A",
        f"   Partition={'gpu' if hardware.gpu_count else 'cpu'} AllocNode:Sid=login1:1000",
        f"   NodeList={nodes}",
        f"   NumNodes={job.node_count} NumCPUs={cores} NumTasks={job.node_count} CPUs/Task=N/A ReqB:S:C:T=0:0:*:*",
        f"   AllocTRES={_tres(cluster, job)}",
    ]
    parts: dict[tuple[int, ...], list[str]] = {}
    for node_id, assignment in held:
        parts.setdefault(assignment.slots, []).append(node_id)
    for slots, names in parts.items():
        cpus = [
            slot * hardware.cores_per_slot + core for slot in slots for core in range(hardware.cores_per_slot)
        ]
        kind = hardware.mig_profile if hardware.mig_instances else hardware.name.replace("-", "")
        gres = f"gpu:{kind}:{len(slots)}(IDX:{_ranges(list(slots))})" if hardware.gpu_count else ""
        lines.append(
            f"     Nodes={bracketed(names)} CPU_IDs={_ranges(cpus)} "
            f"Mem={len(slots) * hardware.memory_mib_per_slot} GRES={gres}"
        )
    return [*lines, f"   Command=/home/{job.tenant_id}/job.sh", ""]
