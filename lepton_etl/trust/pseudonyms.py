"""Give people a pseudonym before their first row is written, in the task that decodes it.

A pseudonym is `u-` (a person) or `t-` (a tenant) and 80 bits of an HMAC of the name under a key that one batch draws at
random and nobody keeps: to whoever lacks the sealed map (`people`) it is a random number, and once the map no longer
has the name, nothing computes it again. Tasks of a batch share its key, so two of them that meet a new name agree.
They get the names that are known already as HMACs too, and give new ones back encrypted: no name crosses in clear.
Source: RFC 2104, HMAC; NIST SP 800-38D, AES-GCM.
"""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import b32encode, b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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

Name = tuple[str, str]
"""Kind (PERSON, TENANT) and the name as logged."""


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

    @classmethod
    def of(cls, names: Mapping[Name, str], *, tenants: bool) -> Pseudonyms:
        """Return the pseudonyms of a new batch, where these names have theirs already."""
        key = new_key()
        return cls(key, {_hmac(key, "tag", name).hex(): value for name, value in names.items()}, tenants)

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
        tenant, job_id = pl.col("tenant_id"), pl.col("job_id")
        given = tenant.replace(tenants)
        # A pod is named below its namespace, its tenant.
        below = pl.concat_str(tenant, pl.lit("/"))
        hidden = rows.with_columns(
            pl.col("user_name").replace(users),
            pl.col("account").replace(tenants),
            given.alias("tenant_id"),
            pl.when(job_id.str.starts_with(below))
            .then(pl.concat_str(given, pl.lit("/"), job_id.str.strip_prefix(below)))
            .otherwise(job_id)
            .alias("job_id"),
        )
        return as_table(hidden, JOB_SCHEMA)

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
        return found
