"""Give people a pseudonym before their first row is written, in the task that decodes it.

A pseudonym is `u-` (a person) or `t-` (a tenant) and 80 bits of an HMAC of the name under a key that one batch draws at
random and nobody keeps: to whoever lacks the sealed map (`people`) it is a random number, and once the map no longer
has the name, nothing computes it again. Tasks of a batch share its key, so two of them that meet a new name agree.
They get the names that are known already as HMACs too, and give new ones back encrypted: no name crosses in clear.
Names of pods and broken lines may hold a person's name among other words (`jupyter-ann`): it is found there as logged,
in small letters, and as DNS labels and JupyterHub's spawner write it.
Source: RFC 2104, HMAC; NIST SP 800-38D, AES-GCM; RFC 1123 (labels); kubespawner's slugs, escapism.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from base64 import b32encode, b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

import polars as pl
import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lepton_etl.ingest.decoded import JOB_SCHEMA, REJECT_SCHEMA, Decoded, as_table
from lepton_etl.ingest.personal import kept_texts
from lepton_etl.trust.keys import new_key

PERSON: Final = "u"
TENANT: Final = "t"
_NONCE_BYTES: Final = 12
_ID_BYTES: Final = 10
_WORD: Final = re.compile(r"\w+")
# A name of more words than this is found in no text.
_MOST_WORDS: Final = 8
# Of an HMAC that is only compared: tasks carry some ten for each person.
_TAG_CHARS: Final = 16
# JupyterHub's spawner: 21 characters of a name, and 8 of its SHA-256 that would lead back to it.
_SLUG_CHARS: Final = 21
_SLUG_HASH: Final = 8

Name = tuple[str, str]
"""Kind (PERSON, TENANT) and the name as logged."""


def forms(name: str) -> frozenset[str]:
    """Return how a text may write a person's name: as it is, in small letters, and as parts of names of pods do."""
    small = name.lower()
    label = re.sub(r"[^a-z0-9]+", "-", small).strip("-")
    escaped = "".join(
        one if one.isascii() and one.isalnum() else "".join(f"-{byte:02x}" for byte in one.encode())
        for one in small
    )
    slug = f"{label[:_SLUG_CHARS].rstrip('-')}---{sha256(name.encode()).hexdigest()[:_SLUG_HASH]}"
    return frozenset({name, small, label, escaped, slug} - {""})


def telling(form: str) -> bool:
    """Return whether a word tells of a person wherever it stands: a letter or a number is mostly something else."""
    return len(form) > 1 and not form.isdigit()


def without_people(text: str, begins: Callable[[str], bool], called: Callable[[str], str | None]) -> str:
    """Return a text with what `called` gives in place of each run of its words; the longest run goes first.

    `begins` says of a word whether a name may begin with it.
    """
    words = list(_WORD.finditer(text))
    kept, done, first = [], 0, 0
    while first < len(words):
        start, following = words[first].start(), first + 1
        if begins(words[first][0]):
            for last in range(min(first + _MOST_WORDS, len(words)), first, -1):
                given = called(text[start : words[last - 1].end()])
                if given is not None:
                    kept += [text[done:start], given]
                    done, following = words[last - 1].end(), last
                    break
        first = following
    return "".join(kept) + text[done:]


def renamed(names: Mapping[str, str], *, of_ids: bool = False) -> Callable[[str], str]:
    """Return what puts the pseudonym in place of each of these names (to their pseudonyms) in a text.

    `of_ids`: the texts are ids of jobs, of which numbers and single letters name nobody.
    """
    given = {form: pseudonym for name, pseudonym in names.items() for form in forms(name)} | dict(names)
    given = {form: pseudonym for form, pseudonym in given.items() if telling(form) or not of_ids}
    firsts = {word[0] for form in given if (word := _WORD.search(form))}
    return lambda text: without_people(text, firsts.__contains__, given.get)


def seal(key: bytes, text: bytes, purpose: str) -> bytes:
    """Encrypt by AES-256-GCM; `purpose` is authenticated with it."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text, purpose.encode())


def unseal(key: bytes, sealed: bytes, purpose: str) -> bytes:
    """Return what `seal` took. Raises ValueError for another key, another purpose, or a byte that was changed."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose.encode())
    except (InvalidTag, ValueError) as error:
        raise ValueError("it was sealed by another key, or changed since") from error


@dataclass(frozen=True)
class Pseudonyms:
    """What the tasks of one batch give pseudonyms by; plain data that travels to them, without any name in clear."""

    key: bytes = field(repr=False)
    known: Mapping[str, str] = field(default_factory=dict, repr=False)
    """HMAC of a known name -> its pseudonym."""
    tenants: bool = False
    """Whether tenants get pseudonyms too, and not only those that are called as a person is."""
    pod_user: str | None = None
    """Regular expression of names of pods: its group `user` is a person, known or not."""
    forms: frozenset[str] = field(default=frozenset(), repr=False)
    """HMAC of each form of a known person, and of the word that it begins with."""

    @classmethod
    def of(cls, names: Mapping[Name, str], *, tenants: bool, pod_user: str | None = None) -> Pseudonyms:
        """Return the pseudonyms of a new batch, where these names have theirs already."""
        key = new_key()
        known = {_hmac(key, "tag", name).hex(): value for name, value in names.items()}
        empty = cls(key)
        people = (tag for kind, name in names if kind == PERSON for tag in empty.tags(name))
        return cls(key, known, tenants, pod_user, frozenset(people))

    def tags(self, name: str) -> list[str]:
        """Return the HMACs of a person's forms that tell of a person, and of their first words."""
        words = [("form", form) for form in forms(name) if telling(form)]
        words += [("first", word[0]) for _, form in words if (word := _WORD.search(form))]
        return [self.tag(use, word) for use, word in words]

    def tag(self, use: str, word: str) -> str:
        """Return the HMAC of a word by which it is told whether it is, or begins, a form of a person's name."""
        return _hmac(self.key, use, (PERSON, word)).hex()[:_TAG_CHARS]

    def found(self, name: Name) -> str | None:
        """Return the pseudonym that a name had before this batch; None of a new one."""
        return self.known.get(_hmac(self.key, "tag", name).hex())

    def drawn(self, name: Name) -> str:
        """Return the pseudonym that this batch gives to a new name."""
        return f"{name[0]}-{b32encode(_hmac(self.key, 'id', name)[:_ID_BYTES]).decode().lower()}"

    def sealed(self, names: Mapping[Name, str]) -> str:
        """Return new names with their pseudonyms, for the driver alone to read."""
        rows = json.dumps([[*name, value] for name, value in names.items()])
        return b64encode(seal(self.key, rows.encode(), "introduced")).decode()

    def opened(self, sealed: Iterable[str]) -> dict[Name, str]:
        """Return the names that tasks sealed."""
        rows = [row for text in sealed for row in json.loads(unseal(self.key, b64decode(text), "introduced"))]
        return {(kind, name): value for kind, name, value in rows}


def _hmac(key: bytes, use: str, name: Name) -> bytes:
    return hmac.digest(key, "\0".join((use, *name)).encode("utf-8", "surrogatepass"), "sha256")


class Hiding:
    """Takes people out of what one task decodes, and remembers the names that are new."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms
        self._forms = set(pseudonyms.forms)
        self._pod_user = pseudonyms.pod_user and re.compile(pseudonyms.pod_user)
        self.introduced: dict[Name, str] = {}

    def __call__(self, decoded: Decoded, *, of_jobs: bool) -> Decoded:
        """Return decoded records whose users, and tenants where asked, are pseudonyms, and whose texts name nobody.

        `of_jobs`: the file is, or may be, a scheduler's: of its rejects the shape alone is kept.
        """
        jobs, rejects = decoded.jobs, decoded.rejects
        if jobs.num_rows:
            jobs = self._jobs(jobs)
        if rejects.num_rows:
            texts = pl.Series(rejects["raw_text"])
            hidden = kept_texts(texts, of_jobs=of_jobs)
            if not of_jobs and self._forms:
                hidden = self._words(hidden)
            place = REJECT_SCHEMA.get_field_index("raw_text")
            rejects = rejects.set_column(
                place, REJECT_SCHEMA.field(place), hidden.to_arrow().cast(pa.string())
            )
        return replace(decoded, jobs=jobs, rejects=rejects)

    def sealed(self) -> str | None:
        """Return the names that are new, sealed; None where there are none."""
        return self._pseudonyms.sealed(self.introduced) if self.introduced else None

    def _jobs(self, jobs: pa.Table) -> pa.Table:
        rows = pl.DataFrame(jobs)
        users = {name: self._of((PERSON, name)) for name in rows["user_name"].unique().drop_nulls()}
        owners = pl.concat([rows["account"], rows["tenant_id"]]).unique().drop_nulls()
        tenants = {name: self._tenant(name, users) for name in owners}
        jobs_of = rows.select("job_id", "tenant_id").unique()
        named = jobs_of.filter(pl.col("job_id").str.contains(r"\p{L}"))
        given = named.with_columns(
            pl.struct("job_id", "tenant_id")
            .map_elements(
                lambda one: self._job(one["job_id"], one["tenant_id"], tenants), return_dtype=pl.String
            )
            .alias("_job")
        )
        hidden = rows.join(
            given, on=["job_id", "tenant_id"], how="left", nulls_equal=True, maintain_order="left"
        ).with_columns(
            pl.col("user_name").replace(users),
            pl.col("account", "tenant_id").replace(tenants),
            pl.coalesce("_job", "job_id").alias("job_id"),
        )
        return as_table(hidden, JOB_SCHEMA)

    def _job(self, job_id: str, tenant: str | None, tenants: Mapping[str, str]) -> str:
        """The job as the lake names it; a pod is named below its namespace, its tenant."""
        below = f"{tenant}/"
        if tenant is None or not job_id.startswith(below):
            return self._without_people(job_id)
        pod = job_id.removeprefix(below)
        own = self._pod_user and self._pod_user.search(pod)
        if own:
            start, end = own.span("user")
            hidden = pod[:start] + self._of((PERSON, pod[start:end])) + pod[end:]
        else:
            hidden = self._without_people(pod)
        return f"{tenants[tenant]}/{hidden}"

    def _words(self, texts: pl.Series) -> pl.Series:
        """Texts without people; which of their words may begin a name is asked once of each."""
        words = texts.str.extract_all(_WORD.pattern).explode().unique().drop_nulls()
        firsts = [word for word in words if self._begins(word)]
        if not firsts:
            return texts
        asked = texts.filter(texts.str.contains_any(firsts)).unique()
        return texts.replace({text: self._without_people(text) for text in asked})

    def _without_people(self, text: str) -> str:
        return without_people(text, self._begins, self._called)

    def _begins(self, word: str) -> bool:
        return self._pseudonyms.tag("first", word) in self._forms

    def _called(self, form: str) -> str | None:
        """The pseudonym of a form: one of its own where it is not the name as logged, for scripts give it back."""
        return self._of((PERSON, form)) if self._pseudonyms.tag("form", form) in self._forms else None

    def _tenant(self, name: str, users: Mapping[str, str]) -> str:
        """The tenant as the lake names it; one who is called as a person is that person."""
        person = users.get(name) or self._pseudonyms.found((PERSON, name))
        if person is not None:
            return person
        return self._of((TENANT, name)) if self._pseudonyms.tenants else name

    def _of(self, name: Name) -> str:
        found = self._pseudonyms.found(name) or self.introduced.get(name)
        if found is None:
            found = self.introduced[name] = self._pseudonyms.drawn(name)
            if name[0] == PERSON:
                self._forms.update(self._pseudonyms.tags(name[1]))
        return found
