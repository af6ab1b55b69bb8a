"""`lepton-etl audit`: check the audit chain, prove an event of it, compute a published figure again. No Spark."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from lepton_etl.errors import ConfigurationError, LakeError, printable

audit_app = typer.Typer(
    no_args_is_help=True, help="Check the audit chain, prove events, compute figures again; starts no Spark."
)
_Config = Annotated[Path, typer.Option(help="Settings file of the site (YAML).")]


@audit_app.command("verify")
def verify_chain(
    config: _Config,
    anchor: Annotated[
        Path | None,
        typer.Option(
            help="The auditor's file or Git repository of roots; default: the settings' audit.anchor."
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            help="Public key (hex) that may have signed a root; may be repeated; default: that of the settings' key."
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(help="Read the files of this table only, and no model; may be repeated."),
    ] = None,
    landing: Annotated[
        bool, typer.Option(help="Read each raw file too that still lies where it was delivered.")
    ] = False,
    models: Annotated[bool, typer.Option(help="Hold the model registry against the chain too.")] = True,
) -> None:
    """Read the whole chain, its roots, every file of the lake and every champion; exit 1 where one is not as told."""
    from lepton_etl.config.settings import load
    from lepton_etl.lake.landing import Landing
    from lepton_etl.lake.tables import Lake
    from lepton_etl.models.registry import Registry, facility_model
    from lepton_etl.trust.seal import anchored, public_key, signing_key
    from lepton_etl.trust.source_lines import SourceLines
    from lepton_etl.trust.verify import Verified, verify

    settings = load(config)
    place = anchor or settings.audit.anchor
    wanted = [one for one in key or [public_key(signing_key(settings.audit))] if one]
    seen, found = Verified(), 0
    registry = Registry.of(settings.mlflow) if models and not table else None
    own = (settings.model.name, facility_model(settings.site.site_id))
    lake, roots = Lake.of(settings), anchored(place) if place else ()
    landed = SourceLines(lake, settings, Landing.of(settings)).lies_there if landing else None
    for one in verify(lake, roots, wanted, seen, table or (), registry, own, landed):
        found += 1
        typer.echo(printable(str(one)))
    typer.echo(
        f"{seen.events} events of {seen.days} days, {seen.tables} tables, {seen.commits} commits, {seen.files} files, "
        f"{seen.anchored} anchored roots; {seen.expired} commits have expired"
        + (f"; {seen.models} versions of models" if seen.models else "")
        + (f"; {seen.landed} raw files that still lie there" if landing else "")
    )
    if found:
        raise LakeError(
            f"{found} findings, named above",
            where="audit verify",
            remedy="restore what differs from a copy of the lake",
        )
    if not seen.signed_by:
        typer.echo(
            "the roots are not signed: who can write the lake could make the chain anew -> set audit.key_file"
        )
    elif not wanted:
        typer.echo(
            f"signed by key {seen.signed_by}, which the lake names itself -> give --key, from the site's own hand"
        )
    if place is None:
        typer.echo(
            "no root was anchored: a chain that was cut short looks whole -> set audit.anchor, or give --anchor"
        )
    typer.echo("all is as the chain says")


@audit_app.command()
def prove(
    config: _Config,
    event: Annotated[int | None, typer.Option(help="Number of the event.")] = None,
    file: Annotated[str | None, typer.Option(help="Path of a raw file, as in bronze/file.")] = None,
) -> None:
    """Print a proof (JSON) that an event, or a raw file, is in the chain; scripts/check_audit_proof.py checks it."""
    from lepton_etl.config.settings import load
    from lepton_etl.lake.tables import Lake
    from lepton_etl.trust.prove import prove_event, prove_file

    if (event is None) == (file is None):
        raise ConfigurationError("give --event or --file", where="audit prove", remedy="one of the two")
    lake = Lake.of(load(config))
    proof = prove_event(lake, event) if event is not None else prove_file(lake, file or "")
    typer.echo(json.dumps(proof, indent=1, ensure_ascii=False))


@audit_app.command()
def acknowledge(
    config: _Config,
    event: Annotated[int, typer.Option(help="Number of an event that `verify` names as not made by a run.")],
    reason: Annotated[str, typer.Option(help="What it was, in a line; no name of a person.")],
) -> None:
    """Record that an unclaimed or rewritten event was looked into; `verify` names it no more."""
    from lepton_etl.config.settings import load
    from lepton_etl.lake.runs import new_run_id
    from lepton_etl.lake.tables import Lake
    from lepton_etl.trust.chain import Event, record

    settings, run_id = load(config), new_run_id()
    told = Event("acknowledgement", f"event {event}", detail={"event": event, "reason": reason})
    done = record(Lake.of(settings), settings.audit, run_id, told)
    typer.echo(f"event {done.last}: event {event} is acknowledged")


@audit_app.command("key")
def make_key(file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")]) -> None:
    """Make a key that signs the roots, in a file that only its owner may read; print its public key."""
    from lepton_etl.config.sections import AuditSettings
    from lepton_etl.trust.keys import new_key, write_key
    from lepton_etl.trust.seal import public_key, signing_key

    try:
        write_key(file, new_key())
    except OSError as error:
        what = f"the key cannot be made: {error.strerror}"
        raise ConfigurationError(what, where=str(file), remedy="name a new file") from error
    typer.echo(public_key(signing_key(AuditSettings(key_file=file))))


@audit_app.command()
def reproduce(
    config: _Config,
    date: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="UTC day of the figure.")],
    table: Annotated[
        list[str] | None,
        typer.Option(
            help="A gold table, such as gold/tenant_day (default: gold/cluster_day); may be repeated; `all` stands for "
            "every one with published figures of the day."
        ),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Only rows of this site_id.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Only rows of this cluster_id.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only rows of this tenant_id.")] = None,
    job: Annotated[str | None, typer.Option(help="Only rows of this job_id.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="Print these columns; may be repeated.")] = None,
) -> None:
    """Compute published figures again from the versions that the chain recorded, and compare them to the last digit.

    Names what is not as it was: settings, code, factors, files that a retention took. Exit 1 where a figure differs.
    """
    from lepton_etl.cli.reproduce import print_reproduced
    from lepton_etl.config.settings import load
    from lepton_etl.lake.tables import Lake

    settings, asked = (
        load(config),
        {"site_id": site, "cluster_id": cluster, "tenant_id": tenant, "job_id": job},
    )
    chosen = {name: value for name, value in asked.items() if value is not None}
    print_reproduced(
        Lake.of(settings), settings, table or ["gold/cluster_day"], date.date(), chosen, column or ()
    )
