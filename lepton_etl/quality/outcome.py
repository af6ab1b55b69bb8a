"""What the gate found, for the operator and the run record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["fail", "warn"]


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One expectation, judged.

    `observed` and `expected` are for a person; `examples` are keys of rows that break it (at most three).
    """

    table: str
    check: str
    column: str | None
    severity: Severity
    passed: bool
    observed: str
    expected: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = f", e.g. {'; '.join(self.examples)}" if self.examples else ""
        return f"{self.table}: {self.check}: {self.observed}, expected {self.expected}{rows}"


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """Everything the gate judged; rows by table; the front page of the Data Docs (None: not built)."""

    outcomes: tuple[CheckOutcome, ...]
    rows: Mapping[str, int]
    docs: Path | None

    @property
    def failures(self) -> tuple[CheckOutcome, ...]:
        """What stops publication."""
        return tuple(o for o in self.outcomes if not o.passed and o.severity == "fail")

    @property
    def warnings(self) -> tuple[CheckOutcome, ...]:
        """What the operator should know."""
        return tuple(o for o in self.outcomes if not o.passed and o.severity == "warn")
