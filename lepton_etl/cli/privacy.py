"""`lepton-etl privacy` and `forget`: the sealed map of people's names. No command starts Spark."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from lepton_etl.config.settings import Settings
    from lepton_etl.lake.tables import Lake
    from lepton_etl.trust.people import People

privacy_app = typer.Typer(
    no_args_is_help=True, help="Look names of people up, and keep the map that holds them."
)
_Config = Annotated[Path, typer.Option(help="Settings file of the site (YAML).")]
_CHUNK_OVERLAP = 256


@privacy_app.command("name")
def name_of(
    config: _Config, pseudonym: Annotated[str, typer.Argument(help="Such as u-... or t-...")]
) -> None:
    """Print the name that a pseudonym stands for; exported scripts may call it when they run."""
    name = _people(_settings(config)).name_of().get(pseudonym)
    if name is None:
        raise ConfigurationError(
            f"{pseudonym} stands for nobody that the map knows", where="privacy name",
            remedy="it was forgotten, or is of another lake",
        )  # fmt: skip
    typer.echo(name)


@privacy_app.command("rotate")
def rotate(
    config: _Config,
    new_key_from: Annotated[
        str | None,
        typer.Option(
            help="Variable of the environment with the new key; needed where the old one is there too."
        ),
    ] = None,
) -> None:
    """Seal the map by a new key; copies of the old map stay closed once the old key is destroyed."""
    from lepton_etl.trust.keys import key_of

    fresh = None
    if new_key_from is not None:
        fresh = key_of(os.environ.get(new_key_from, ""), f"environment variable {new_key_from}")
    settings = _settings(config)
    people = _people(settings)
    file = people.rotate(fresh)
    _recorded(people, settings, "rotation", "map of people", {"key_file": file is not None})
    typer.echo(
        f"the map is sealed by a new key{f', in {file}' if file else ''}; destroy every copy of the old one"
    )


@privacy_app.command("release")
def release(
    config: _Config,
    month: Annotated[str, typer.Option(help="Calendar month that has ended, such as 2025-06.")],
    consumer: Annotated[str, typer.Option(help="Who gets it, and whose budget pays.")] = "public",
) -> None:
    """Release aggregates of users and tenants of a month under differential privacy; once, then the same figures again.

    Refused where the consumer's budget of the year does not hold it.
    """
    from lepton_etl.cli.tables import show_rows
    from lepton_etl.lake.lease import Lease
    from lepton_etl.schema.release import RELEASE
    from lepton_etl.trust.publishing import policy_of, release_month

    settings = _settings(config)
    people = _people(settings)
    lake = people.lake.saying({"run_id": people.run_id, "stage": "release"})
    with Lease(lake, "release", people.run_id):
        rows = release_month(lake, policy_of(settings), settings.site.site_id, month, consumer, people.run_id)
    _recorded(people, settings, "release", f"{month} for {consumer}", {"rows": rows.num_rows})
    show_rows(RELEASE, rows, None, 100, as_csv=False)


@privacy_app.command("migrate")
def migrate(config: _Config) -> None:
    """Give people of an older release's lake their pseudonyms: tables that may name them are rewritten, once.

    Older versions of these tables are removed. Prints the pages and other files that still name somebody.
    """
    from lepton_etl.trust import migration
    from lepton_etl.trust.pseudonyms import PERSON

    settings = _settings(config)
    people = _people(settings)
    tenants = settings.privacy.tenants == "pseudonyms"
    with _alone(people) as lake:
        why = "names of an older release"
        for one in migration.migrate(lake, settings, people, tenants=tenants, why=why):
            typer.echo(f"{one.table}: {'rewritten' if one.changed else 'as it was'}")
    names = [name for kind, name in people.names() if tenants or kind == PERSON]
    _cleared(people, settings, names)


def _cleared(people: People, settings: Settings, names: Sequence[str]) -> None:
    """Publish anew what copies there are, since tables were rewritten, and print what else still names somebody."""
    from lepton_etl.trust.access import AUDIENCES
    from lepton_etl.trust.migration import still_named
    from lepton_etl.trust.publishing import policy_of, published_root
    from lepton_etl.trust.publishing import publish as copies

    root = published_root(settings, people.lake)
    if root.is_local and Path(root.uri).is_dir():
        audiences = [one for one in AUDIENCES if (Path(root.uri) / one).is_dir()]
        made = copies(people.lake, settings, policy_of(settings), people.run_id, audiences, None)
        changed = sum(one.changed for one in made)
        if changed:
            _recorded(people, settings, "copies", ", ".join(audiences), {"changed": changed})
    elif not root.is_local:
        typer.echo(
            f"copies below {root} are as they were: run lepton-etl publish, remove folders of former tenants"
        )
    folders = [settings.report.folder, settings.quality.docs, Path(settings.mlflow.artifact_location)]
    for path in still_named(folders, names):
        typer.echo(f"still names somebody: {path}")


def publish(
    config: _Config,
    audience: Annotated[
        list[str] | None, typer.Option(help="Only this audience of the policy; may be repeated.")
    ] = None,
    date: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only this UTC day.")] = None,
    until: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last UTC day.")] = None,
) -> None:
    """Copy what the nights published for each audience of the policy: the public, each tenant, operator, auditor."""
    from lepton_etl.days import Days
    from lepton_etl.schema.trust import AUDIT
    from lepton_etl.trust.access import AUDIENCES
    from lepton_etl.trust.publishing import policy_of
    from lepton_etl.trust.publishing import publish as copies

    unknown = sorted(set(audience or ()) - set(AUDIENCES))
    if unknown:
        raise ConfigurationError(
            f"no audience {', '.join(unknown)}", where="publish", remedy=f"one of {', '.join(AUDIENCES)}"
        )
    settings = _settings(config)
    people, policy = _people(settings), policy_of(settings)
    days = Days.of(date.date(), until.date() if until else None) if date else None
    changed = chain = 0
    for one in copies(people.lake, settings, policy, people.run_id, audience or AUDIENCES, days):
        changed += one.changed
        chain += one.changed and one.table == AUDIT.name
        typer.echo(f"{one.audience} {one.table}: {'changed' if one.changed else 'as it was'}")
    # The auditor's copy of the chain has this event with the next one; it alone is none.
    if changed > chain:
        _recorded(people, settings, "copies", ", ".join(audience or AUDIENCES), {"changed": changed})
    typer.echo(f"publish: {changed} copies changed")


def forget(
    config: _Config, person: Annotated[str, typer.Argument(help="Name as the scheduler logs it.")]
) -> None:
    """Take a person's name out of the map: no row leads back to anybody, totals stay.

    Prints the landing files that still hold the name: they are the site's own.
    """
    from lepton_etl.trust import migration
    from lepton_etl.trust.pseudonyms import PERSON

    settings = _settings(config)
    people = _people(settings)
    # A night that loads files just now may have the name at hand.
    with _alone(people) as lake:
        known = (PERSON, person) in people.names()
        in_clear = migration.names_in_clear(lake, person, is_person=known)
        if in_clear:
            # What came in before the lake knew the person: an account of their own, a pod that is called by them.
            people.pseudonym(person)
            for _ in migration.migrate(lake, settings, people, tenants=False, why="a name in clear"):
                pass
        gone = people.forget(person)
    _recorded(people, settings, "erasure", ", ".join(gone) or "nobody", {"pseudonyms": len(gone)})
    if gone:
        typer.echo(f"forgotten: {', '.join(gone)} {'lead' if len(gone) > 1 else 'leads'} to nobody now")
    else:
        typer.echo("the map does not know this name: nothing to forget")
    if in_clear:
        _cleared(people, settings, [person])
    typer.echo("copies of the map from before open by the key of then: rotate it, and destroy the old one")
    others = {name.encode() for _, name in people.names()}
    for path in _holding(settings, person, others):
        typer.echo(f"still holds the name: {path}")


def _recorded(
    people: People, settings: Settings, kind: str, subject: str, detail: dict[str, int | bool]
) -> None:
    """Let what was done stand in the audit chain; `subject` names nobody."""
    from lepton_etl.trust.chain import Event, record

    record(people.lake, settings.audit, people.run_id, Event(kind, subject, detail=detail))


@contextmanager
def _alone(people: People) -> Iterator[Lake]:
    """Hold the lake's bronze and all of its days: nothing is loaded, nothing is made meanwhile."""
    from datetime import date

    from lepton_etl.days import Days
    from lepton_etl.lake.lease import DaysLease, Lease

    lake = people.lake.saying({"run_id": people.run_id, "stage": "privacy"})
    with Lease(lake, "bronze", people.run_id), DaysLease(lake, [Days(date.min, date.max)], people.run_id):
        yield lake


def _settings(config: Path) -> Settings:
    from lepton_etl.config.settings import load

    return load(config)


def _people(settings: Settings) -> People:
    from lepton_etl.lake.runs import new_run_id
    from lepton_etl.lake.tables import Lake
    from lepton_etl.trust.people import People

    return People.of(Lake.of(settings), settings, new_run_id())


def _holding(settings: Settings, name: str, others: set[bytes]) -> Iterator[str]:
    """The delivered files of schedulers that hold the name, not as a part of another's, or that cannot be read."""
    from lepton_etl.ingest.text import UnreadableError, text_chunks
    from lepton_etl.lake.landing import Landing
    from lepton_etl.trust.people import word_of

    word = re.compile(word_of(name).pattern.encode())

    def is_held(text: bytes) -> bool:
        return any(_whole(text, *one.span()) not in others for one in word.finditer(text))

    landing = Landing.of(settings)
    for source in settings.all_sources:
        if "jobs" not in source.subjects:
            continue
        for file in landing.delivered(source):
            before = b""
            try:
                with landing.open(file, source) as handle:
                    for chunk in text_chunks(handle, file.path):
                        if is_held(before + chunk):
                            yield file.path
                            break
                        before = chunk[-_CHUNK_OVERLAP:]
            except (UnreadableError, OSError) as error:
                yield f"{file.path}, perhaps: it cannot be read ({error})"


def _whole(text: bytes, start: int, end: int) -> bytes:
    """What stands there, as far as a user's name may go."""
    first = max(0, start - _CHUNK_OVERLAP)
    before = re.search(rb"[\w.@-]*\Z", text[first:start])
    after = re.match(rb"[\w.@-]*", text[end : end + _CHUNK_OVERLAP])
    return (before[0] if before else b"") + text[start:end] + (after[0] if after else b"")


def names_on_terminal(settings: Settings) -> People:
    """Return the people whose names a terminal may show. Raises ConfigurationError where the output goes elsewhere."""
    if not sys.stdout.isatty():
        raise ConfigurationError(
            "names of people are shown on a terminal alone, and the output goes elsewhere", where="--names",
            remedy="leave --names out; lepton-etl privacy name PSEUDONYM resolves one",
        )  # fmt: skip
    return _people(settings)
