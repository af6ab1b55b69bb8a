"""Who may read what: the policy of published schemas, and each table as an audience sees it.

A policy is data (conf/policies/access.yaml) and says of each audience which tables, classes of columns and rows it
gets, and with which rights files lie. What it may not say is fixed here: no host's name and no other tenant's row
leaves the site's own people, and only whole groups of people are shown to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import polars as pl
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lepton_etl.errors import ConfigurationError
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fields import FIELDS
from lepton_etl.schema.privacy import HOSTS, PrivacyClass, privacy_class
from lepton_etl.schema.release import RELEASE
from lepton_etl.schema.tables import TABLES

PUBLIC: Final = "public"
TENANT: Final = "tenant"
AUDIENCES: Final = (PUBLIC, TENANT, "operator", "auditor")
# Audiences beyond the site's own people.
OUTSIDE: Final = (PUBLIC, TENANT)
_OTHERS: Final = 0o007


def _mode(value: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError("three octal digits in quotes, such as '0640'")
    return value


Mode = Annotated[str, AfterValidator(_mode)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LakeFiles(_Part):
    """Rights of the files of the lake."""

    mode: Mode = "0666"


class TableView(_Part):
    """What an audience gets of one table beyond its classes."""

    also: tuple[str, ...] = ()


class Audience(_Part):
    """What one audience gets."""

    classes: tuple[PrivacyClass, ...]
    tables: Mapping[str, TableView]
    mode: Mode = "0640"
    rows: Literal["all", "own", "enough_people"] = "all"
    min_people: int | None = Field(default=None, ge=2, le=1_000)

    def views(self) -> dict[str, TableView]:
        """Table -> what is said of it; patterns are written out."""
        return {
            name: view
            for pattern, view in self.tables.items()
            for name in TABLES
            if fnmatchcase(name, pattern)
        }


class Release(_Part):
    """Aggregates under differential privacy: epsilon of a month, bounds of one person, budgets by consumer."""

    epsilon: float = Field(default=1.0, gt=0, le=10)
    user_max_kwh: float = Field(default=500.0, gt=0, le=1e9)
    user_max_tenants: int = Field(default=2, ge=1, le=100)
    tenant_max_kwh: float = Field(default=20_000.0, gt=0, le=1e12)
    budgets: Mapping[str, Annotated[float, Field(gt=0, le=1_000)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tenant_hides_a_person(self) -> Self:
        if self.user_max_kwh > self.tenant_max_kwh:
            raise ValueError(
                "user_max_kwh is above tenant_max_kwh: the noise for a tenant would not hide a person"
            )
        return self


class Policy(_Part):
    """Who may read which published tables."""

    audiences: Mapping[Literal["public", "tenant", "operator", "auditor"], Audience]
    lake: LakeFiles = LakeFiles()
    release: Release = Release()

    @model_validator(mode="after")
    def _keeps_what_is_fixed(self) -> Self:
        for name, audience in self.audiences.items():
            for mistake in _mistakes(name, audience):
                raise ValueError(f"audiences.{name}: {mistake}")
        return self


def _mistakes(name: str, audience: Audience) -> list[str]:
    """Return what an audience may not be given."""
    found = []
    for pattern in audience.tables:
        if not any(fnmatchcase(table, pattern) for table in TABLES):
            found.append(f"{pattern!r} is no table of the lake")
    if name != PUBLIC and int(audience.mode, 8) & _OTHERS:
        found.append(f"mode {audience.mode} gives rights to everybody")
    if name in OUTSIDE and "personal" in audience.classes:
        found.append("class personal is for the site's own people")
    if (name == PUBLIC) != (audience.rows == "enough_people"):
        found.append("rows enough_people is for the public, and the public gets no others")
    if (name == TENANT) != (audience.rows == "own"):
        found.append("rows own is for tenants, and tenants get no others")
    if (audience.rows == "enough_people") != (audience.min_people is not None):
        found.append("min_people goes with rows enough_people")
    if name == PUBLIC and set(audience.classes) != {"public"}:
        found.append("the public gets class public alone")
    for table, view in audience.views().items():
        declared = TABLES[table]
        unknown = set(view.also) - set(declared.columns)
        if unknown:
            found.append(f"{table} has no column {', '.join(sorted(unknown))}")
            continue
        if name not in OUTSIDE:
            continue
        if set(view.also) & HOSTS:
            found.append(f"{table}: {', '.join(sorted(set(view.also) & HOSTS))} names hosts")
        if name == PUBLIC and "date" not in declared.columns and table != RELEASE.name:
            found.append(f"{table} has no date to tell the people of its rows by")
        if name == PUBLIC and view.also:
            found.append(f"{table}: the public gets class public alone")
        if name == TENANT and "tenant_id" not in declared.columns:
            found.append(f"{table} has no tenant_id to tell a tenant's own rows by")
        hidden = [key for key in declared.key if key not in seen_columns(declared, name, audience)]
        if hidden and set(hidden) & (HOSTS | {"tenant_id", "job_id"}):
            found.append(
                f"{table} has a row for each {' and '.join(hidden)}, which this audience may not see"
            )
    return found


def seen_columns(table: Table, name: str, audience: Audience) -> tuple[str, ...]:
    """Return the columns of a table that an audience sees, in their order."""
    view = audience.views().get(table.name, TableView())
    return tuple(
        column
        for column in table.columns
        if (privacy_class(FIELDS[column]) in audience.classes or column in view.also)
        and not (name in OUTSIDE and column in HOSTS)
    )


def seen_table(table: Table, name: str, audience: Audience) -> Table:
    """Return the declaration of a table as an audience sees it."""
    columns = seen_columns(table, name, audience)
    return replace(
        table, columns=columns, key=tuple(column for column in table.key if column in columns), append_only=False,
        not_null=tuple(column for column in table.not_null if column in columns),
        partition=table.partition if table.partition in columns else None,
    )  # fmt: skip


def own_rows(rows: pl.DataFrame, tenant_id: str) -> pl.DataFrame:
    """Return the rows of one tenant; a row whose tenant is unknown is nobody's."""
    return rows.filter(pl.col("tenant_id").eq(tenant_id).fill_null(value=False))


def enough_people(rows: pl.DataFrame, runs: pl.DataFrame, min_people: int) -> pl.DataFrame:
    """Return the rows that stand for no one's jobs, or for those of at least `min_people` persons.

    `runs` are rows of silver/job_run. A row of a cluster is held against the cluster's people of its days; a row of a
    whole site is withheld where one of its clusters is, since the others' sum would tell it. Source: L. Sweeney,
    k-anonymity, 2002; complementary suppression of tables.
    """
    person = pl.coalesce("user_name", "tenant_id", pl.lit("_unknown"))
    few = (
        runs.group_by("site_id", "cluster_id", "date")
        .agg(person.n_unique().alias("_people"))
        .filter(pl.col("_people") < min_people)
        .select("site_id", "cluster_id", pl.col("date").alias("_day"))
    )
    key = ["site_id", "cluster_id"] if "cluster_id" in rows.columns else ["site_id"]
    first = pl.col("date")
    last = pl.col("last_date") if "last_date" in rows.columns else first
    numbered = rows.with_row_index("_row")
    small = (
        numbered.join(few, on=key, how="inner")
        .filter(pl.col("_day").is_between(first, last))
        .get_column("_row")
    )
    return numbered.filter(~pl.col("_row").is_in(small.unique().implode())).drop("_row")


def read_policy(path: Path) -> Policy:
    """Return the policy of a YAML file. Raises ConfigurationError naming the file, the key and what is wrong."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("it is no mapping")  # said as any other mistake of the file
        return Policy.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"key {'.'.join(map(str, one['loc'])) or 'policy'}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False)
        ]
        what = "; ".join(lines)
    except (OSError, yaml.YAMLError, ValueError) as error:
        what = f"the policy cannot be read: {error}"
    raise ConfigurationError(
        what, where=str(path), remedy="see conf/policies/access.yaml and docs/privacy.md"
    )
