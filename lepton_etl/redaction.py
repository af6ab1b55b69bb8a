"""Keep credentials out of all that a run says or writes: one redactor on every way out.

Secrets are what stands in the settings or the environment under a name such as `secret_key` or `..._TOKEN`, the
user:password of URIs, and whatever has the look of one: `scheme://user:password@host`, `token=...`. Errors, standard
output and error, the run record and exported files pass through `redact`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TextIO
from urllib.parse import quote, unquote

HIDDEN: Final = "***"
# Words that name a secret. conf/spark-defaults.conf has them in spark.redaction.regex, for the JVM.
_NAME: Final = (
    r"(?:secret|password|passwd|passphrase|token|credential|authorization|signature"
    r"|(?:access|api|account)[._-]?key|session[._-]?key)"
)
IS_SECRET: Final = re.compile(_NAME, re.IGNORECASE)
_OF_ENVIRONMENT: Final = re.compile(rf"{_NAME}(?:_ID)?\Z", re.IGNORECASE)
# A default would be a secret that is written down.
_OF_VARIABLES: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_USER_INFO: Final = re.compile(r"://([^/\s\"'<>]*)@")
# What follows such a name: a text in quotes or a word. `${NAME}` tells nothing, nor does a number.
_END: Final = r"[\s\"',;&}\])<>]"
_NAMED: Final = re.compile(
    rf"({_NAME}[\w.-]*[\"']?\s*[=:]\s*(?:Bearer\s+|Basic\s+)?[\"']?)"
    rf"(?!\$\{{|(?:null|none|true|false|[\d.]+)(?:{_END}|\Z))[^{_END[1:]}+",
    re.IGNORECASE,
)
# A shorter secret is found by its place alone: by its letters it would be found in every other word.
_SHORTEST: Final = 6

_known: set[str] = set()
_values: re.Pattern[str] | None = None


def remember(values: Iterable[str]) -> None:
    """Redact these values from now on, wherever they stand, also as a URI writes them."""
    global _values
    for value in values:
        _known.update(one for one in (value, quote(value, safe=""), unquote(value)) if len(one) >= _SHORTEST)
    # The longest first: one that begins with another is not cut.
    longest = sorted(_known, key=len, reverse=True)
    _values = re.compile("|".join(map(re.escape, longest))) if longest else None


def remember_settings(tree: Any) -> None:
    """Remember what a tree of settings and this process's environment hold under secret names, and in URIs."""
    remember([*_secrets(tree, secret=False), *_of_environment()])


def written_secrets(tree: Any, key: str = "", *, secret: bool = False) -> Iterator[str]:
    """Yield the keys under which settings as written hold a secret itself, and not the name of a variable."""
    if isinstance(tree, Mapping):
        for name, one in tree.items():
            place = f"{key}.{name}" if key else str(name)
            yield from written_secrets(one, place, secret=secret or bool(IS_SECRET.search(str(name))))
    elif isinstance(tree, list | tuple):
        for number, one in enumerate(tree):
            yield from written_secrets(one, f"{key}[{number}]", secret=secret)
    elif isinstance(tree, str):
        texts = [tree] if secret else [found.partition(":")[2] for found in _USER_INFO.findall(tree)]
        if any(_OF_VARIABLES.sub("", text) for text in texts):
            yield key


def redact(text: str) -> str:
    """Return the text with `***` in place of every secret."""
    if _values is not None:
        text = _values.sub(HIDDEN, text)
    return _NAMED.sub(rf"\1{HIDDEN}", without_user_info(text))


def without_user_info(text: str) -> str:
    """Return the text with `***` in place of the user and password of URIs."""
    return _USER_INFO.sub(f"://{HIDDEN}@", text)


def _secrets(value: Any, *, secret: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _secrets(one, secret=secret or bool(IS_SECRET.search(str(key))))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _secrets(one, secret=secret)
    elif isinstance(value, str):
        if secret:
            yield value
        yield from (found.partition(":")[2] for found in _USER_INFO.findall(value))


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        yield from _secrets(value, secret=bool(_OF_ENVIRONMENT.search(name)))


class _Redacted:
    """A text stream that passes on what is written without secrets; its buffer, which would pass by, is not shown."""

    buffer = None

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Let nothing secret out by this process's standard output and error; called again it changes nothing."""
    remember(_of_environment())
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if not isinstance(stream, _Redacted):
            setattr(sys, name, _Redacted(stream))
