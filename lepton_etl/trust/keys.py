"""Keys of 32 bytes, in base64 in the environment or in files that their owner alone may read."""

from __future__ import annotations

import os
import secrets
import stat
from base64 import b64decode, b64encode
from binascii import Error
from pathlib import Path
from typing import Final

from lepton_etl.errors import ConfigurationError
from lepton_etl.redaction import remember

KEY_BYTES: Final = 32
WHAT_IT_IS: Final = "32 random bytes in base64, such as of: openssl rand -base64 32"


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(KEY_BYTES)


def key_of(text: str, where: str) -> bytes:
    """Return the key that a text says. Raises ConfigurationError."""
    remember([text.strip()])
    try:
        key = b64decode(text.strip(), validate=True)
    except (Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError("not a key", where=where, remedy=f"give {WHAT_IT_IS}")
    return key


def read_key(file: Path) -> bytes:
    """Return the key of a file. Raises ConfigurationError where it cannot be read, or where others may read it too."""
    try:
        mode, text = file.stat().st_mode, file.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        what, remedy = (
            f"the key cannot be read: {error.strerror}",
            "let the user of the night read it, or name another",
        )
        raise ConfigurationError(what, where=str(file), remedy=remedy) from error
    if stat.S_IMODE(mode) & 0o077:
        what = f"others may read the key (mode {stat.S_IMODE(mode):04o})"
        raise ConfigurationError(what, where=str(file), remedy=f"chmod 600 {file}")
    return key_of(text, str(file))


def write_key(file: Path, key: bytes) -> None:
    """Write a key for its owner alone. Raises FileExistsError: one that stands already stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(b64encode(key) + b"\n")
        out.flush()
        os.fsync(out.fileno())
