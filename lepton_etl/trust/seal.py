"""The head of the audit chain: the root of its day, signed, copied to where the auditor keeps it.

`<lake.root>/_audit/head.json` says how far the chain goes, the Merkle root of its newest day, and which version of each
table it knows, so that the next run reads this file and no history. Its bytes are canonical JSON (RFC 8785) and stand
under a digest, and under an Ed25519 signature where a key is set. A key that lay in the lake would vouch for nothing
that who can write the lake could not make himself: none is made unasked, and a chain without a key says so.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lepton_etl.config.sections import AuditSettings
from lepton_etl.errors import LakeError
from lepton_etl.lake.location import Location
from lepton_etl.trust.keys import key_of, read_key

# The name of a variable, no secret.
SECRET: Final = "LEPTON_AUDIT_SECRET"  # noqa: S105
ANCHOR_FILE: Final = "lepton-etl-roots.jsonl"
_GIT_S: Final = 60


@dataclass(frozen=True, slots=True)
class Root:
    """What is signed: the Merkle root of a day's events, and where the chain ends with them.

    `known` is the SHA-256 of what the head knows of the tables, `key` the public key (hex) or empty.
    """

    date: str
    first_seq: int
    size: int
    root: str
    last_seq: int
    last_hash: str
    time: str
    known: str
    key: str

    def text(self) -> bytes:
        return canonical(asdict(self))


@dataclass(frozen=True, slots=True)
class SignedRoot:
    """A root with its digest and, where a key is set, its signature (hex; empty without)."""

    root: Root
    digest: str
    signature: str

    def as_json(self) -> dict[str, Any]:
        # What is called a signature is a secret to whatever keeps secrets out of what a run says.
        return {"root": asdict(self.root), "digest": self.digest, "ed25519": self.signature}

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> SignedRoot:
        """Return what `as_json` gave. Raises ValueError for anything else."""
        try:
            return cls(Root(**said["root"]), said["digest"], said["ed25519"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no signed root: {error}") from error

    def wrong(self, keys: Collection[str] = ()) -> str | None:
        """Return what is wrong with digest or signature, None where both hold.

        One of `keys` (public, hex) must have signed; without any the one that the root names.
        """
        if sha256(self.root.text()).hexdigest() != self.digest:
            return "its digest does not fit"
        if keys and self.root.key not in keys:
            return "it is unsigned" if not self.root.key else f"it is signed by another key ({self.root.key})"
        if not self.root.key:
            return None if not self.signature else "it is signed by no key"
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.root.key))
            key.verify(bytes.fromhex(self.signature), self.root.text())
        except (InvalidSignature, ValueError):
            return "its signature does not fit"
        return None


@dataclass(frozen=True, slots=True)
class Known:
    """What the chain knows, so that the next run reads no history.

    `tables` is table -> version of its newest commit, that one's SHA-256 and its checkpoint's (or empty), `batch` the
    newest batch of raw files, `audit` what an event says of the table of the chain itself: its newest commit, of which
    no event can tell yet. `models` is model -> number of the event that says which version is champion, `begun` kind of
    event -> run of a command that has begun and not ended.
    """

    tables: Mapping[str, tuple[int, str, str]] = field(default_factory=dict)
    batch: int = 0
    audit: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, int] = field(default_factory=dict)
    begun: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        tables = {name: list(one) for name, one in self.tables.items()}
        # Left out where empty, as in heads of before it.
        later = {"models": dict(self.models), "begun": dict(self.begun)}
        said = {"tables": tables, "batch": self.batch, "audit": dict(self.audit)}
        return said | {name: one for name, one in later.items() if one}

    @property
    def digest(self) -> str:
        return sha256(canonical(self.as_json())).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """The signed root of the newest day, and what the chain knows with it."""

    signed: SignedRoot
    known: Known

    def text(self) -> bytes:
        return canonical({**self.signed.as_json(), "known": self.known.as_json()})

    @classmethod
    def of_text(cls, text: bytes) -> Head:
        """Return the head that a file holds. Raises ValueError where the file is not what was written."""
        said = json.loads(text)
        if not isinstance(said, dict) or canonical(said) != text:
            raise ValueError("its bytes are not what was written")
        signed, known = SignedRoot.of_json(said), said["known"]
        tables = {name: (one[0], one[1], one[2]) for name, one in known["tables"].items()}
        later = {name: known[name] for name in ("models", "begun") if name in known}
        head = cls(signed, Known(tables, known["batch"], known["audit"], **later))
        if head.known.digest != signed.root.known:
            raise ValueError("what it says of the tables is not what was written")
        return head


def canonical(value: Any) -> bytes:
    """Return a JSON value as RFC 8785 writes it."""
    return rfc8785.dumps(value)


def parsed(text: str) -> dict[str, Any]:
    """Return the object of a column of JSON; one that was edited into none says nothing."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def head_of(root: Location) -> Head:
    """Return the head of a lake's chain. Raises FileNotFoundError, and ValueError where it is not what was sealed."""
    try:
        return Head.of_text(head_place(root).read()[0])
    except (KeyError, TypeError) as error:
        raise ValueError(f"no head of a chain: {error}") from error


def head_place(root: Location) -> Location:
    """Return where the head of a lake's chain lies."""
    return root / "_audit" / "head.json"


def signing_key(audit: AuditSettings) -> Ed25519PrivateKey | None:
    """Return the key that the environment or the settings name; None without. Raises ConfigurationError."""
    text = os.environ.get(SECRET)
    if text:
        return Ed25519PrivateKey.from_private_bytes(key_of(text, f"environment variable {SECRET}"))
    if audit.key_file is None:
        return None
    return Ed25519PrivateKey.from_private_bytes(read_key(audit.key_file))


def public_key(key: Ed25519PrivateKey | None) -> str:
    """Return the public key as hex, empty without a key."""
    return key.public_key().public_bytes_raw().hex() if key is not None else ""


def sign(root: Root, key: Ed25519PrivateKey | None) -> SignedRoot:
    """Return the root with its digest, signed where there is a key."""
    text = root.text()
    return SignedRoot(root, sha256(text).hexdigest(), key.sign(text).hex() if key is not None else "")


def anchor(place: Path, signed: SignedRoot) -> None:
    """Append a root to the auditor's file, or to the file of his Git repository in a commit of its own.

    Raises LakeError where that is not possible.
    """
    is_git = place.is_dir()
    file = place / ANCHOR_FILE if is_git else place
    try:
        with file.open("ab") as roots:
            roots.write(canonical(signed.as_json()) + b"\n")
            roots.flush()
            os.fsync(roots.fileno())
        if is_git:
            message = f"Root of {signed.root.date}: {signed.root.last_seq} events, {signed.root.root}"
            for command in (["add", ANCHOR_FILE], ["commit", "--quiet", "--message", message, ANCHOR_FILE]):
                done = ["git", "-C", str(place), *command]
                subprocess.run(done, check=True, capture_output=True, text=True, timeout=_GIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "stderr", None) or str(error)
        raise LakeError(f"the root is not anchored: {why.strip()}", where=str(place)) from error


def anchored(place: Path) -> list[SignedRoot]:
    """Return the roots of an anchor, of a Git repository those of its newest commit. Raises LakeError."""
    try:
        if place.is_dir():
            show = ["git", "-C", str(place), "show", f"HEAD:{ANCHOR_FILE}"]
            text = subprocess.run(show, check=True, capture_output=True, timeout=_GIT_S).stdout
        else:
            text = place.read_bytes()
        return [SignedRoot.of_json(json.loads(line)) for line in text.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise LakeError(f"the anchor cannot be read: {error}", where=str(place)) from error
