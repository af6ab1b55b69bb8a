"""`lepton-etl simulate`: the plan from options, a progress bar on a terminal, a summary at the end."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lepton_etl.errors import ConfigurationError
from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan, LocalSource
from lepton_etl.simulator.simulate import Summary, simulate

CLASS_ROTATION: Final = ("cpu-2s", "gpu-400", "gpu-700", "gpu-mig")


def plan_of_options(
    *,
    seed: int,
    first_date: date,
    days: int,
    clusters: int,
    nodes: int,
    gpus: int | None,
    faults: list[Fault],
    resolution_w: int,
    sensor_gain_sigma: float | None,
    site: str,
    timezone: str,
    full_site: bool = False,
    meter_class_error: bool = False,
) -> FleetPlan:
    """The plan that the options describe: clusters c01, c02.. in turn CPU, 400 W GPU, 700 W GPU and MIG nodes.

    `gpus` overrides the number of GPUs a node of the GPU clusters; 0 makes every cluster a CPU cluster.
    `full_site` adds every local source.
    Raises ConfigurationError naming option and allowed values.
    """
    rotation = CLASS_ROTATION[:1] if gpus == 0 else CLASS_ROTATION
    try:
        fleet = []
        for index in range(clusters):
            hardware_class = rotation[index % len(rotation)]
            per_node = gpus if hardware_class != CLASS_ROTATION[0] else None
            fleet.append(
                ClusterPlan(
                    cluster_id=f"c{index + 1:02d}",
                    nodes=nodes,
                    hardware_class=hardware_class,
                    gpus_per_node=per_node,
                )
            )
        return FleetPlan.model_validate(
            {
                "seed": seed,
                "site_id": site,
                "timezone": timezone,
                "clusters": fleet,
                "first_date": first_date,
                "days": days,
                "resolution_w": resolution_w,
                "sensor_gain_sigma": sensor_gain_sigma,
                "faults": tuple(sorted(set(faults))),
                "local_sources": tuple(LocalSource) if full_site else (),
                "meter_class_error": meter_class_error,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "plan"
        raise ConfigurationError(
            f"{key} = {first['input']!r}: {first['msg']}",
            where="simulate",
            remedy="see lepton-etl simulate --help",
        ) from error


def simulate_command(
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder to write landing/, truth/, inventory.csv, meters.csv and config.yaml to."
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds and options give equal bytes.")] = 1,
    first_day: Annotated[
        datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="First UTC day.")
    ] = datetime(2025, 6, 3, tzinfo=UTC),
    days: Annotated[int, typer.Option(min=1, help="Number of days.")] = 1,
    clusters: Annotated[int, typer.Option(min=1, help="Number of clusters.")] = 2,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of each cluster.")] = 8,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs a node of the GPU clusters; 0: CPU only.")
    ] = None,
    fault: Annotated[list[Fault] | None, typer.Option(help="Inject a fault; may be repeated.")] = None,
    resolution_w: Annotated[int, typer.Option(help="Step of the nodes' power sensors, W: 1 or 10.")] = 1,
    sensor_gain: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Gain error of power sensors, one sigma, as a ratio, which the inventory states; default: within "
            "the limit of their class, which it does not state.",
        ),
    ] = None,
    site: Annotated[str, typer.Option(help="site_id of the simulated site.")] = "simsite",
    timezone: Annotated[str, typer.Option(help="IANA time zone of the site.")] = "UTC",
    full_site: Annotated[
        bool, typer.Option("--full-site", help="Add photovoltaics, a battery and a generator.")
    ] = False,
    meter_class_error: Annotated[
        bool, typer.Option("--meter-class-error", help="Give each meter an error within its accuracy class.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
) -> None:
    """Write the raw logs of a simulated fleet, and its true energy beside them."""
    plan = plan_of_options(
        seed=seed,
        first_date=first_day.date(),
        days=days,
        clusters=clusters,
        nodes=nodes,
        gpus=gpus,
        faults=fault or [],
        resolution_w=resolution_w,
        sensor_gain_sigma=sensor_gain,
        site=site,
        timezone=timezone,
        full_site=full_site,
        meter_class_error=meter_class_error,
    )
    _report(_with_progress(plan, out, processes), out)


def _with_progress(plan: FleetPlan, out: Path, processes: int) -> Summary:
    console = Console(stderr=True)
    if not console.is_terminal:
        return simulate(plan, out, processes=processes)
    columns = (TextColumn("simulating nodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("nodes", total=sum(cluster.nodes for cluster in plan.clusters))
        return simulate(plan, out, lambda done, _: bar.update(task, completed=done), processes)


def _report(summary: Summary, out: Path) -> None:
    typer.echo(
        f"{summary.nodes} nodes, {summary.days} days, {summary.jobs} jobs: {summary.files} files, "
        f"{summary.bytes_written / 1e6:.1f} MB of node logs in {summary.seconds:.1f} s "
        f"({summary.node_days_per_s:.1f} node-days/s)"
    )
    typer.echo(
        f"true energy: nodes {summary.it_energy_kwh:,.1f} kWh, "
        f"utility {summary.utility_energy_kwh:,.1f} kWh; {summary.fault_records} injected faults"
    )
    typer.echo(f"settings: {out / 'config.yaml'}")
