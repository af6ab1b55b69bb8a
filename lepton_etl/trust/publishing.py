"""Write the published schemas: for each audience copies of the tables that the policy gives it, as Delta tables.

`<published>/<audience>/<table>`, of tenants `<published>/tenant/<tenant>/<table>`. A copy is of what the nights
published, holds its newest version alone, and what the policy no longer gives is removed: yesterday's rights read
nothing today. The files lie with the rights that the policy says, from their first byte on.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from string import ascii_letters, digits
from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.conf_files import conf_path
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError
from lepton_etl.lake.lease import Lease
from lepton_etl.lake.location import Location
from lepton_etl.lake.maintenance import purge
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN
from lepton_etl.schema.release import RELEASE
from lepton_etl.schema.tables import TABLES
from lepton_etl.trust.access import (
    PUBLIC,
    TENANT,
    Audience,
    Policy,
    enough_people,
    own_rows,
    read_policy,
    seen_table,
)
from lepton_etl.trust.release import refuse_overdraft, released

_MONTH: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True)
class Published:
    """A copy: whose (`tenant/<name>` of a tenant), of which table, and whether it changed."""

    audience: str
    table: str
    changed: bool


def policy_of(settings: Settings) -> Policy:
    """Return the policy in force, held against the rights that the settings leave to files of the lake.

    Raises ConfigurationError.
    """
    file = settings.privacy.policy or conf_path("policies/access.yaml")
    policy = read_policy(file)
    umask = int(settings.lake.umask, 8) if settings.lake.umask is not None else _process_umask()
    if 0o666 & ~umask & ~int(policy.lake.mode, 8):
        raise ConfigurationError(
            f"key lake.mode = '{policy.lake.mode}': files of the lake would be {0o666 & ~umask:04o}",
            where=str(file),
            remedy=f"set lake.umask to '{_umask_of(policy.lake.mode):03o}' in the settings",
        )
    return policy


def published_root(settings: Settings, lake: Lake) -> Location:
    """Return where the published schemas lie."""
    place = settings.privacy.published
    return Location(f"{lake.root.uri}-published" if place is None else place, lake.root.options)


def publish(
    lake: Lake, settings: Settings, policy: Policy, run_id: str, audiences: Collection[str], days: Days | None
) -> Iterator[Published]:
    """Bring the copies of these audiences up to date, all days or these alone; yields each copy.

    Raises LockedError where another run publishes.
    """
    root = published_root(settings, lake)
    shelf = Lake(root, {"run_id": run_id, "stage": "access"})
    with Lease(shelf, "publish", run_id):
        source = lake.as_published()
        for name, audience in policy.audiences.items():
            if name not in audiences:
                continue
            places = _places(source, name, audience)
            if name == TENANT:
                _remove_folders(root / name, {place.rpartition("/")[2] for place, _ in places})
            with _rights(root / name, audience.mode):
                for place, tenant in places:
                    copies = Lake(root / place, shelf.metadata)
                    copies.leases = shelf.leases
                    _remove_what_is_not_given(copies, name, audience)
                    for table in audience.views():
                        if source.exists(TABLES[table]):
                            changed = _copy(source, copies, TABLES[table], name, audience, tenant, days)
                            yield Published(place, table, changed)


def release_month(
    lake: Lake, policy: Policy, site_id: str, month: str, consumer: str, run_id: str
) -> pa.Table:
    """Return the figures of a month that a consumer was given, drawn and paid for now if they were not before.

    Called under the lease `release`. Raises ConfigurationError for a month that has not ended, BudgetSpentError.
    """
    if not _MONTH.fullmatch(month):
        raise ConfigurationError(f"{month!r} is no month", where="--month", remedy="such as 2025-06")
    first = date.fromisoformat(f"{month}-01")
    after = (first + timedelta(days=31)).replace(day=1)
    if after > lake.now().date():
        raise ConfigurationError(f"{month} has not ended", where="--month", remedy="release it when it has")
    rows = lake.read(RELEASE)
    mine = (pl.col("consumer") == consumer) & (pl.col("month") == month) & (pl.col("site_id") == site_id)
    if rows.filter(mine).is_empty():
        refuse_overdraft(rows, policy.release, consumer, month)
        days = Days(first, after - timedelta(days=1))
        jobs, runs = lake.as_published(days).read(JOB_ENERGY, days), lake.read(JOB_RUN, days)
        drawn = released(jobs, runs, policy.release, site_id, month, consumer, lake.now())
        # Paid for before anybody sees it.
        lake.write_rows(RELEASE, [row | {"run_id": run_id} for row in drawn])
        rows = lake.read(RELEASE)
    return rows.filter(mine).to_arrow()


def folder_of(tenant_id: str) -> str:
    """Return the name of a tenant's folder: of any text one that stays within its parent, and no other tenant's."""
    plain = set(ascii_letters + digits + "-_")
    # Not by `%`, which readers of URIs take back.
    parts = (one if one in plain else "".join(f"~{byte:02x}" for byte in one.encode()) for one in tenant_id)
    return "".join(parts) or "~"


def _places(source: Lake, name: str, audience: Audience) -> list[tuple[str, str | None]]:
    """Where the copies of an audience lie, and whose rows they hold."""
    if name != TENANT:
        return [(name, None)]
    found: set[str] = set()
    for table in audience.views():
        found |= set(source.read(TABLES[table], columns=["tenant_id"])["tenant_id"].drop_nulls())
    return [(f"{name}/{folder_of(one)}", one) for one in sorted(found)]


def _copy(
    source: Lake,
    copies: Lake,
    table: Table,
    name: str,
    audience: Audience,
    tenant: str | None,
    days: Days | None,
) -> bool:
    seen = seen_table(table, name, audience)

    def visible(of: Days | None) -> pl.DataFrame:
        rows = source.read(table, of)
        if tenant is not None:
            rows = own_rows(rows, tenant)
        elif table is RELEASE:
            rows = rows.filter(pl.col("consumer") == name) if name == PUBLIC else rows
        elif audience.min_people is not None:
            rows = enough_people(rows, source.read(JOB_RUN), audience.min_people)
        return rows.select(seen.columns)

    if seen.partition != "date":
        changed = copies.overwrite(seen, visible(None)).changed
    else:
        standing = {*source.partitions(table), *copies.partitions(seen)}
        asked = [Days.of(date.fromisoformat(day)) for day in sorted(standing)]
        written = [
            copies.replace(seen, day, visible(day), allow_empty=True).changed
            for day in asked
            if days is None or day.start in days
        ]
        changed = any(written)
    if changed:
        purge(copies, seen)
    return changed


def _remove_what_is_not_given(copies: Lake, name: str, audience: Audience) -> None:
    """Remove copies that the policy no longer gives, whole or by a column. Raises ConfigurationError in a bucket."""
    given = audience.views()
    for table in TABLES.values():
        if not copies.exists(table):
            continue
        columns = {one.name for one in copies.log(table).schema().fields}
        if table.name in given and columns == set(seen_table(table, name, audience).columns):
            continue
        if not copies.root.is_local:
            raise ConfigurationError(
                f"the policy gives other columns of {table.name} to {name} than the copy has",
                where=copies.path(table), remedy="remove the copy, then publish again",
            )  # fmt: skip
        shutil.rmtree(copies.path(table))


def _remove_folders(tenants: Location, wanted: Collection[str]) -> None:
    """Remove the copies of tenants of whom no row is left under this name, such as who has a pseudonym now."""
    folder = Path(tenants.uri)
    if tenants.is_local and folder.is_dir():
        for one in folder.iterdir():
            if one.name not in wanted:
                shutil.rmtree(one)


@contextmanager
def _rights(folder: Location, mode: str) -> Iterator[None]:
    """Give all that is written below a folder meanwhile the rights of `mode`, folders the right to be entered too."""
    before = os.umask(_umask_of(mode))
    try:
        yield
    finally:
        os.umask(before)
        if folder.is_local and Path(folder.uri).is_dir():
            for path in (Path(folder.uri), *Path(folder.uri).rglob("*")):
                path.chmod(_folder_mode(mode) if path.is_dir() else int(mode, 8))


def _folder_mode(mode: str) -> int:
    files = int(mode, 8)
    return files | (files & 0o444) >> 2


def _umask_of(mode: str) -> int:
    return 0o777 & ~_folder_mode(mode)


def _process_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
