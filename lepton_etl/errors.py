"""One exception tree; every error says what, where and what to do, and knows the exit code of the night it ends."""

from __future__ import annotations

from enum import IntEnum


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

    `what` went wrong, `where` (stage, file:line, table, date, setting), and the `remedy`.
    """

    exit_code = Exit.UNEXPECTED

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
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


class ModelError(LeptonError):
    """A model is refused before it is loaded, or cannot be registered."""


class WorkerLostError(LeptonError):
    """A process that ran tasks ended without an answer: killed, out of memory, or crashed in native code."""
