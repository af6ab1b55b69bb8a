"""Give people of an older lake their pseudonyms: every table that may name them is rewritten once, its past removed.

Releases before pseudonyms wrote users in clear into job accounting and what is made of it, tenants beside them, and
lines of accounting as logged into bronze/reject. Rows stay, in number and in figures; ids of recommendations that were
hashes of names become hashes of pseudonyms. Of a rewritten table no older version is left, and no commit that spoke of
one. Killed in between, it is run again and goes on from there: names that have pseudonyms are no names any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import polars as pl

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.ingest.personal import kept_texts
from lepton_etl.lake.maintenance import purge
from lepton_etl.lake.nights import name_night
from lepton_etl.lake.tables import Lake
from lepton_etl.recommend.advice import Subject, id_of
from lepton_etl.schema.declare import STRING, Table
from lepton_etl.schema.jobs import JOB_RUN
from lepton_etl.schema.logs import FILE, JOB, REJECT
from lepton_etl.schema.operations import NIGHT
from lepton_etl.schema.privacy import PERSONAL, PSEUDONYM
from lepton_etl.schema.recommend import DECISION, RECOMMENDATION
from lepton_etl.schema.tables import TABLES
from lepton_etl.trust.chain import BEGUN, GOES_ON, Event, record
from lepton_etl.trust.people import People, word_of
from lepton_etl.trust.pseudonyms import PERSON, TENANT, Name, Pseudonyms, renamed

_TENANTS: Final = ("account", "tenant_id")
# Columns of people, and the two that say a subject of theirs in words or by a hash.
_COLUMNS: Final = (*sorted(PERSONAL), *_TENANTS, "recommendation_id")
_UNREAD: Final = ("unknown_format", "unread_dialect")
_SHOWN_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Migrated:
    """A table after migration."""

    table: str
    rows: int
    changed: bool


def names_of(lake: Lake, *, tenants: bool, pod_user: str | None = None) -> set[Name]:
    """Return the people, also those of pods, and the tenants where asked, that the tables name in clear."""
    found: set[Name] = set()
    for table, columns, kind in (
        (JOB, ("user_name",), PERSON), (JOB_RUN, ("user_name",), PERSON), (DECISION, ("decided_by",), PERSON),
        *(((JOB, _TENANTS, TENANT), (JOB_RUN, ("tenant_id",), TENANT)) if tenants else ()),
    ):  # fmt: skip
        rows = lake.read(table, columns=list(columns))
        for column in columns:
            names = rows[column].drop_nulls().unique()
            found |= {(kind, name) for name in names if not PSEUDONYM.fullmatch(name)}
    if pod_user is not None:
        pods = (re.search(pod_user, job_id.rpartition("/")[2]) for job_id in _worded_jobs(lake))
        users = {own["user"] for own in pods if own}
        found |= {(PERSON, user) for user in users if not PSEUDONYM.fullmatch(user)}
    return found


def _worded_jobs(lake: Lake) -> list[str]:
    """Ids of jobs with letters, such as pods have."""
    jobs = lake.read(JOB, columns=["job_id"])["job_id"].unique()
    return jobs.filter(jobs.str.contains(r"\p{L}")).to_list()


def names_in_clear(lake: Lake, name: str, *, is_person: bool) -> bool:
    """Return whether job accounting or a rejected line has the name in clear; as an account where it is a person's."""
    word = word_of(name)
    texts = [*_worded_jobs(lake), *lake.read(REJECT, columns=["raw_text"])["raw_text"].drop_nulls().unique()]
    owner = is_person and (TENANT, name) in names_of(lake, tenants=True)
    return owner or any(map(word.search, texts))


def migrate(lake: Lake, settings: Settings, people: People, *, tenants: bool, why: str) -> Iterator[Migrated]:
    """Put pseudonyms in place of people, and of tenants where asked, in every table; yields it table by table.

    The audit chain has it as erasures: `why` and the tables' versions before anything is changed, their new ones before
    the old are removed, and the end. Called under the leases of bronze and of all days.
    """
    tables = [
        table
        for table in TABLES.values()
        if lake.exists(table) and {one.name for one in table.fields if one.type == STRING} & set(_COLUMNS)
    ]

    def tell(state: str, **figures: int) -> None:
        before = {table.name: lake.version(table) or 0 for table in tables} if state == BEGUN else {}
        event = Event("erasure", why, inputs=before, detail={"state": state, **figures})
        record(lake, settings.audit, people.run_id, event)

    tell(BEGUN)
    known, drawn = people.names(), Pseudonyms.of({}, tenants=tenants)
    named = names_of(lake, tenants=tenants, pod_user=settings.privacy.pod_user)
    people.add({name: drawn.drawn(name) for name in named if name not in known})
    # A tenant that is called as a person is that person: persons come last. A run that was killed had some already.
    given = {
        name: drawn for (kind, name), drawn in sorted(people.names().items()) if tenants or kind == PERSON
    }
    changes = _Changes(given, _of_jobs(lake, settings), _new_ids(lake, given))
    changed = 0
    for table in tables:
        written = lake.rewrite(table, changes.of(table))
        changed += written.changed
        yield Migrated(table.name, written.rows, written.changed)
    nights = list(lake.read(NIGHT, columns=["date"])["date"])
    if nights:
        name_night(lake, Days(min(nights), max(nights)), people.run_id, only_named=True)
    # Before their commits are gone: the audit chain keeps the hashes of the files that stay.
    tell(GOES_ON, tables=changed)
    for table in tables:
        purge(lake, table)
    tell("done", tables=changed)


def still_named(folders: Sequence[Path], names: Sequence[str]) -> Iterator[Path]:
    """Yield the files of pages, exports and models below these folders in which a name stands as a word."""
    hidden = renamed(dict.fromkeys(names, ""))
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.stat().st_size <= _SHOWN_BYTES:
                text = path.read_bytes().decode("utf-8", "replace")
                if hidden(text) != text:
                    yield path


@dataclass(frozen=True)
class _Changes:
    """Rows of a table that name people -> rows that do not."""

    names: Mapping[str, str]
    of_jobs: pl.Expr
    ids: Mapping[str, str]

    def of(self, table: Table) -> Callable[[pl.DataFrame], pl.DataFrame]:
        columns = [name for name in table.columns if name in _COLUMNS]
        whole = {"user_name", "decided_by", *_TENANTS}

        def change(rows: pl.DataFrame) -> pl.DataFrame:
            if table is REJECT:
                return self._rejects(rows)
            texts = [name for name in columns if name not in (*whole, "recommendation_id")]
            changed = rows.with_columns(
                *(pl.col(name).replace(self.names) for name in columns if name in whole),
                *(self._words(rows[name]) for name in texts),
                *(pl.col(name).replace(self.ids) for name in columns if name == "recommendation_id"),
            )
            if {"figures", "row_hash"} <= set(table.columns):
                differ = changed["figures"].ne_missing(rows["figures"])
                hashes = changed["figures"].map_elements(_hash, return_dtype=pl.String)
                changed = changed.with_columns(hashes.zip_with(differ, rows["row_hash"]).alias("row_hash"))
            return changed

        return change

    def _words(self, texts: pl.Series) -> pl.Series:
        hidden = renamed(self.names, of_ids=texts.name in ("job_id", "step_id"))
        return texts.replace({text: hidden(text) for text in texts.drop_nulls().unique()})

    def _rejects(self, rows: pl.DataFrame) -> pl.DataFrame:
        of_jobs = rows.select(self.of_jobs.fill_null(value=True)).to_series()
        texts = rows["raw_text"]
        kept = kept_texts(texts, of_jobs=True).zip_with(of_jobs, kept_texts(texts, of_jobs=False))
        return rows.with_columns(self._words(kept).alias("raw_text"))


def _of_jobs(lake: Lake, settings: Settings) -> pl.Expr:
    """Whether a row of bronze/reject is, or may be, of a scheduler's text."""
    sources = {source.name: source.subjects for source in settings.all_sources}
    none = [name for name, subjects in sources.items() if "jobs" not in subjects]
    mixed = [name for name, subjects in sources.items() if len(subjects) > 1]
    with_jobs = lake.read(FILE, columns=["file_id", "jobs"]).filter(pl.col("jobs") > 0)["file_id"].unique()
    source = pl.col("source_name")
    # A discarded file's row tells its path and why; its position is none of a line.
    return ~source.is_in(none) & ~(
        source.is_in(mixed) & ~pl.col("file_id").is_in(with_jobs.implode()) & ~pl.col("reason").is_in(_UNREAD)
    )


def _new_ids(lake: Lake, names: Mapping[str, str]) -> dict[str, str]:
    """Ids of recommendations about jobs of a person -> what they are by the pseudonym."""
    if not lake.exists(RECOMMENDATION):
        return {}
    hidden = {name: renamed(names, of_ids=name == "job_id") for name in ("job_id", "job_class")}
    parts = ("site_id", "cluster_id", "node_id", "device_id", "job_id", "job_class")
    rows = lake.read(RECOMMENDATION, columns=["recommendation_id", "lever", "action", *parts]).unique()
    fresh = {}
    for row in rows.to_dicts():
        subject = {
            name: hidden[name](row[name]) if row[name] and name in hidden else row[name] for name in parts
        }
        if subject != {name: row[name] for name in parts}:
            fresh[row["recommendation_id"]] = id_of(row["lever"], row["action"], Subject(**subject))
    return fresh


def _hash(figures: str) -> str:
    return sha256(figures.encode()).hexdigest()
