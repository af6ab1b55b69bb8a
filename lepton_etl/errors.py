"""One exception tree; every error says what, where and what to do, and knows the exit code of the night it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from lepton_etl.redaction import redact


class Exit(IntEnum):
    """Exit codes of the nightly run (docs/operations.md)."""

    DONE = 0
    UNEXPECTED = 1
    CONFIGURATION = 2
    QUALITY_GATE = 3
    NO_INPUT = 4
    LOCKED = 5
    PUBLISHED_THEN_FAILED = 6


class LeptonError(Exception):
    """Base of all errors that are for the operator.

    `what` went wrong, `where` (stage, file:line, table, date, setting), and the `remedy`; none of them holds a secret.
    """

    exit_code = Exit.UNEXPECTED

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = redact(what)
        self.where = redact(where)
        self.remedy = remedy
        super().__init__(self.__str__())

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" -> {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        # Executors send exceptions to the driver by pickle; keyword-only arguments need this.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(kind: type[LeptonError], what: str, where: str, remedy: str) -> LeptonError:
    return kind(what, where=where, remedy=remedy)


class ConfigurationError(LeptonError):
    """A setting, inventory or rule file is wrong; nothing was read yet."""

    exit_code = Exit.CONFIGURATION


class MissingFactorError(ConfigurationError):
    """No factor row holds for these keys on this day; nothing is put in its place."""


class QualityGateError(LeptonError):
    """A `fail` expectation did not hold; bronze and silver are kept, gold is untouched."""

    exit_code = Exit.QUALITY_GATE


class LedgerError(LeptonError):
    """The ledger does not close; bronze and silver are kept, gold is untouched."""

    exit_code = Exit.QUALITY_GATE


class NoInputError(LeptonError):
    """The landing folder holds nothing for the asked days."""

    exit_code = Exit.NO_INPUT


class LockedError(LeptonError):
    """Another run holds the lease."""

    exit_code = Exit.LOCKED


class LakeError(LeptonError):
    """A table refuses a read or a write: empty day, stale transaction, missing column, damaged log."""


class RegistryError(LeptonError):
    """The model registry does not answer, or not in time."""


class ModelError(LeptonError):
    """A model is refused before it is loaded, or cannot be registered."""


class WorkerLostError(LeptonError):
    """A process that ran tasks ended without an answer: killed, out of memory, or crashed in native code."""


# What the operating system says when nobody's code is wrong, and what a person can do; libraries pass it on as text.
_OF_SYSTEM = {
    "No space left on device": "free space there, then run the same command again: it goes on from there",
    "Disk quota exceeded": "free space or raise the quota, then run the same command again",
    "Read-only file system": "mount it for writing, then run the same command again",
    "Permission denied": "let the user of the night read and write there, then run the same command again",
}
_PATH = re.compile(r"(?:file://)?(/[^\s'\",:;()]+)")


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Name the place in what the operating system refuses meanwhile: the error of a write or a commit names none."""
    try:
        yield
    except Exception as error:
        refused = of_system(error, str(place))
        if refused is None:
            raise
        raise refused from error


def of_system(error: BaseException, place: str = "") -> LeptonError | None:
    """Return what the operating system refused, with path and remedy, where an error comes of that; else None.

    `place` is named where the error names no path.
    """
    link: BaseException | None = error
    while link is not None:
        text = str(link)
        for what, remedy in _OF_SYSTEM.items():
            if what in text:
                named = getattr(link, "filename", None)
                found = _PATH.search(text)
                return LeptonError(what, where=str(named or (found[1] if found else place)), remedy=remedy)
        link = link.__cause__ or link.__context__
    return None


def printable(text: str) -> str:
    """Return a text whose control characters stand as escapes: names of files and sensors are not the terminal's."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in text
    )
