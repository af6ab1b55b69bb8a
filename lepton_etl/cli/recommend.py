"""The verbs of people about recommendations: look, decide, take along. None starts Spark or changes a machine."""

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

recommend_app = typer.Typer(no_args_is_help=True, help="What to change: look, decide, take along.")
_Config = Annotated[Path, typer.Option(help="Settings of the site (YAML).")]
_Id = Annotated[str, typer.Argument(help="Id of the recommendation, or its first letters.")]
_From = Annotated[
    datetime | None,
    typer.Option(
        "--from", formats=["%Y-%m-%dT%H:%M", "%Y-%m-%d"], help="UTC time from which it holds; default now."
    ),
]
_By = Annotated[str | None, typer.Option("--by", help="Who decides.")]
_Note = Annotated[str | None, typer.Option(help="Why.")]
_Date = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="As of the night of this UTC day.")
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
    every: Annotated[bool, typer.Option("--all", help="Rejected and expired ones too.")] = False,
) -> None:
    """What stands after the newest night, the largest promise first."""
    from lepton_etl.cli.tables import show_rows
    from lepton_etl.schema.recommend import RECOMMENDATION

    rows = newest(config, date, standing_only=not every)
    show_rows(RECOMMENDATION, rows, None, 200, as_csv=False)


@recommend_app.command("export")
def export(
    config: _Config,
    date: _Date = None,
    form: Annotated[
        _Form, typer.Option("--format", help="csv, json, or commands to read and then run.")
    ] = _Form.CSV,
    system: Annotated[_System, typer.Option("--for", help="Whose commands.")] = _System.SLURM,
) -> None:
    """What stands, to standard output: a table, JSON, or commands that an operator runs after reading."""
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
    """We will do it: its promise stays as it is now."""
    _decide(config, identity, "accepted", since, by, note)


@recommend_app.command()
def apply(config: _Config, identity: _Id, since: _From = None, by: _By = None, note: _Note = None) -> None:
    """We have done it: from then on each night measures what it brings."""
    _decide(config, identity, "applied", since, by, note)


@recommend_app.command()
def reject(config: _Config, identity: _Id, since: _From = None, by: _By = None, note: _Note = None) -> None:
    """We will not: it is not proposed again for a month."""
    _decide(config, identity, "rejected", since, by, note)


@recommend_app.command()
def withdraw(config: _Config, identity: _Id, since: _From = None, by: _By = None, note: _Note = None) -> None:
    """We have undone it, or will not do it after all."""
    _decide(config, identity, "withdrawn", since, by, note)


def newest(config: Path, day: datetime | date | None, *, standing_only: bool) -> pa.Table:
    """Rows of gold/recommendation of a night, by default the newest, largest promise first.

    Raises NoInputError where no night has made any.
    """
    import pyarrow as pa

    from lepton_etl.config.settings import load
    from lepton_etl.lake import tables as plain
    from lepton_etl.recommend.lifecycle import EXPIRED, REJECTED
    from lepton_etl.schema.recommend import RECOMMENDATION
    from lepton_etl.schema.types import arrow_schema

    root = load(config).lake.root
    days = plain.partitions(root, RECOMMENDATION)
    wanted = f"{day:%Y-%m-%d}" if day is not None else max(days, default="")
    if wanted not in days:
        raise NoInputError(
            f"no recommendations of {wanted or 'any night'}",
            where=RECOMMENDATION.name,
            remedy="run the night's stage recommend" if not days else f"the newest are of {max(days)}",
        )
    rows = plain.read(root, RECOMMENDATION, Days.of(date.fromisoformat(wanted))).to_pylist()
    kept = [
        row for row in rows if not standing_only or row["recommendation_state"] not in (EXPIRED, REJECTED)
    ]
    kept.sort(key=lambda row: (-(row["expected_saving_kwh"] or 0.0), row["recommendation_id"]))
    return pa.Table.from_pylist(kept, schema=arrow_schema(RECOMMENDATION))


def _decide(
    config: Path, identity: str, decision: str, since: datetime | None, by: str | None, note: str | None
) -> None:
    from lepton_etl.config.settings import load
    from lepton_etl.lake import tables as plain
    from lepton_etl.recommend.lifecycle import Decision, check_decision, state_now
    from lepton_etl.schema.recommend import DECISION

    row = _found(newest(config, None, standing_only=False).to_pylist(), identity)
    root, now = load(config).lake.root, datetime.now(UTC)
    known = [
        Decision(one["recommendation_id"], one["decision"], one["decided_time"], one["effective_time"])
        for one in plain.read(root, DECISION).to_pylist()
    ]
    check_decision(state_now(row, known), decision, row["recommendation_id"])
    effective = now if since is None else since.replace(tzinfo=UTC)
    plain.append(
        root,
        DECISION,
        [
            {
                "recommendation_id": row["recommendation_id"], "decision": decision, "decided_time": now,
                "effective_time": effective, "decided_by": by, "note": note,
            }
        ],
        {"decision": decision},
    )  # fmt: skip
    typer.echo(
        f"{row['recommendation_id']} is {decision} from {effective:%Y-%m-%d %H:%M} UTC: {row['advice']}"
    )


def _found(rows: list[dict[str, Any]], identity: str) -> dict[str, Any]:
    """The one row whose id begins so. Raises ConfigurationError for none or several."""
    found = [row for row in rows if row["recommendation_id"].startswith(identity)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{len(found)} recommendations begin with {identity!r}", where="recommend",
            remedy="lepton-etl recommend list tells the ids",
        )  # fmt: skip
    return found[0]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Times as ISO 8601, the action's numbers as an object."""
    told = {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
    return {**told, "action_json": json.loads(row["action_json"])}
