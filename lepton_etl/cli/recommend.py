"""`lepton-etl recommend`: list, decide, export. No command starts Spark or changes a machine."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, NoInputError

if TYPE_CHECKING:
    import pyarrow as pa

recommend_app = typer.Typer(
    no_args_is_help=True, help="List recommendations, record decisions on them, export them."
)
_Config = Annotated[Path, typer.Option(help="Settings file of the site (YAML).")]
_Id = Annotated[str, typer.Argument(help="Id of the recommendation, or its first letters.")]
_From = Annotated[
    datetime | None,
    typer.Option(
        "--from",
        formats=["%Y-%m-%dT%H:%M", "%Y-%m-%d"],
        help="UTC time from which the decision holds; default: now.",
    ),
]
_By = Annotated[str | None, typer.Option("--by", help="Name of the person who decides.")]
_Note = Annotated[str | None, typer.Option(help="Reason, kept with the decision.")]
_Date = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d"], help="Recommendations of the night of this UTC day; default: the newest."
    ),
]


class _Form(StrEnum):
    CSV = "csv"
    JSON = "json"
    COMMANDS = "commands"


class _System(StrEnum):
    SLURM = "slurm"
    KUBERNETES = "kubernetes"


@recommend_app.command("list")
def list_all(
    config: _Config,
    date: _Date = None,
    every: Annotated[bool, typer.Option("--all", help="Include rejected and expired ones.")] = False,
    names: Annotated[
        bool,
        typer.Option("--names", help="Show people by name, on a terminal alone; needs the key of the map."),
    ] = False,
) -> None:
    """List the recommendations of a night, largest expected saving first."""
    import pyarrow as pa

    from lepton_etl.cli.privacy import names_on_terminal
    from lepton_etl.cli.tables import show_rows
    from lepton_etl.config.settings import load
    from lepton_etl.schema.recommend import RECOMMENDATION

    people = names_on_terminal(load(config)) if names else None
    rows = newest(config, date, standing_only=not every)
    if people is not None:
        rows = pa.Table.from_pylist(people.named(rows.to_pylist()), schema=rows.schema)
    show_rows(RECOMMENDATION, rows, None, 200, as_csv=False)


@recommend_app.command("export")
def export(
    config: _Config,
    date: _Date = None,
    form: Annotated[
        _Form, typer.Option("--format", help="csv, json, or commands to read and then run by hand.")
    ] = _Form.CSV,
    system: Annotated[
        _System, typer.Option("--for", help="Scheduler whose commands are printed.")
    ] = _System.SLURM,
) -> None:
    """Print the recommendations as CSV, JSON, or commands that an operator reads and then runs."""
    from lepton_etl.cli.tables import show_rows
    from lepton_etl.recommend.export import commands
    from lepton_etl.schema.recommend import RECOMMENDATION

    rows = newest(config, date, standing_only=True)
    if form is _Form.CSV:
        show_rows(RECOMMENDATION, rows, None, 0, as_csv=True)
    elif form is _Form.JSON:
        records = [_plain(row) for row in rows.to_pylist()]
        sys.stdout.write(json.dumps(records, indent=1, ensure_ascii=False, default=str) + "\n")
    else:
        sys.stdout.write(commands(rows.to_pylist(), system.value))


@recommend_app.command()
def accept(config: _Config, identity: _Id, since: _From = None, by: _By = None, note: _Note = None) -> None:
    """Record that it will be carried out: its expected saving stays as it is now."""
    _decide(config, identity, "accepted", since, by, note)


@recommend_app.command()
def apply(config: _Config, identity: _Id, since: _From = None, by: _By = None, note: _Note = None) -> None:
    """Record that it was carried out: from then on each night measures the saving."""
    _decide(config, identity, "applied", since, by, note)


@recommend_app.command()
def reject(config: _Config, identity: _Id, since: _From = None, by: _By = None, note: _Note = None) -> None:
    """Record that it will not be carried out: it is not proposed again for 30 days."""
    _decide(config, identity, "rejected", since, by, note)


@recommend_app.command()
def withdraw(config: _Config, identity: _Id, since: _From = None, by: _By = None, note: _Note = None) -> None:
    """Record that it was undone, or that an accepted one will not be carried out."""
    _decide(config, identity, "withdrawn", since, by, note)


def newest(config: Path, day: datetime | date | None, *, standing_only: bool) -> pa.Table:
    """Rows of gold/recommendation of a night, by default the newest, largest expected saving first.

    Raises NoInputError where no night has made any.
    """
    import pyarrow as pa

    from lepton_etl.config.settings import load
    from lepton_etl.lake.tables import Lake
    from lepton_etl.recommend.lifecycle import EXPIRED, REJECTED
    from lepton_etl.schema.recommend import RECOMMENDATION
    from lepton_etl.schema.types import arrow_schema

    published = Lake.of(load(config)).as_published()
    days = sorted({str(file.day) for file in published.files(RECOMMENDATION)})
    wanted = f"{day:%Y-%m-%d}" if day is not None else max(days, default="")
    if wanted not in days:
        raise NoInputError(
            f"no recommendations of {wanted or 'any night'}",
            where=RECOMMENDATION.name,
            remedy="run the night's stage recommend" if not days else f"the newest are of {max(days)}",
        )
    rows = published.read(RECOMMENDATION, Days.of(date.fromisoformat(wanted))).to_dicts()
    kept = [
        row for row in rows if not standing_only or row["recommendation_state"] not in (EXPIRED, REJECTED)
    ]
    kept.sort(key=lambda row: (-(row["expected_saving_kwh"] or 0.0), row["recommendation_id"]))
    return pa.Table.from_pylist(kept, schema=arrow_schema(RECOMMENDATION))


def _decide(
    config: Path, identity: str, decision: str, since: datetime | None, by: str | None, note: str | None
) -> None:
    from lepton_etl.config.settings import load
    from lepton_etl.lake.runs import new_run_id
    from lepton_etl.lake.tables import Lake
    from lepton_etl.recommend.lifecycle import Decision, check_decision, state_now
    from lepton_etl.schema.recommend import DECISION
    from lepton_etl.trust.chain import record
    from lepton_etl.trust.people import People

    row = _found(newest(config, None, standing_only=False).to_pylist(), identity)
    settings, run_id, now = load(config), new_run_id(), datetime.now(UTC)
    lake = Lake.of(settings, {"run_id": run_id, "stage": "decide"})
    known = [
        Decision(one["recommendation_id"], one["decision"], one["decided_time"], one["effective_time"])
        for one in lake.arrow(DECISION).to_pylist()
    ]
    check_decision(state_now(row, known), decision, row["recommendation_id"])
    effective = now if since is None else since.replace(tzinfo=UTC)
    people = People.of(lake, settings)
    lake.write_rows(
        DECISION,
        [
            {
                "recommendation_id": row["recommendation_id"], "decision": decision, "decided_time": now,
                "effective_time": effective, "decided_by": by and people.pseudonym(by),
                "note": note and people.hidden(note),
            }
        ],
    )  # fmt: skip
    record(lake, settings.audit, run_id)
    typer.echo(
        f"{row['recommendation_id']} is {decision} from {effective:%Y-%m-%d %H:%M} UTC: {row['advice']}"
    )


def _found(rows: list[dict[str, Any]], identity: str) -> dict[str, Any]:
    """The one row whose id begins like this. Raises ConfigurationError for none or several."""
    found = [row for row in rows if row["recommendation_id"].startswith(identity)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{len(found)} recommendations begin with {identity!r}", where="recommend",
            remedy="lepton-etl recommend list shows the ids",
        )  # fmt: skip
    return found[0]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Times as ISO 8601, the action's numbers as an object."""
    plain = {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
    return {**plain, "action_json": json.loads(row["action_json"])}
