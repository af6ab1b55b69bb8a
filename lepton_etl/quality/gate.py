"""The gate: slices of the night's tables -> what holds, what does not, and the Data Docs that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from lepton_etl.lake.tables import FACILITY_INTERVAL, FILE, GRID_HOUR, INTERVAL, TABLES, Table
from lepton_etl.quality.checks import NOT_EMPTY, Check, checks_of
from lepton_etl.quality.outcome import CheckOutcome, GateOutcome, Severity
from lepton_etl.quality.profile import ROWS, complaints, examples, profile
from lepton_etl.quality.rules import TableRules
from lepton_etl.quality.suites import COLUMNS, Validator, Verdict, columns_suite, values_suite

# What gold is made from; each needs a rule file, or the gate closes.
GATED: Final = (FILE, INTERVAL, FACILITY_INTERVAL, GRID_HOUR)
_SUITE: Final = "suite"


def judge(slices: Mapping[str, DataFrame], rules: Mapping[str, TableRules], docs: Path) -> GateOutcome:
    """Judge each slice (table name -> rows of the run's days; a table that does not exist is left out).

    Nothing raises for bad data: a missing rule file, a rule that Spark does not understand and an expectation
    that raises are failures that name the suite. `docs` is the folder of this run's Data Docs.
    """
    outcomes: list[CheckOutcome] = []
    counts: dict[str, int] = {}
    validator = Validator()
    for name in dict.fromkeys([*(table.name for table in GATED), *rules]):
        table, rows = TABLES[name], slices.get(name)
        if name not in rules:
            outcomes.append(
                _closed(table, _SUITE, "no rule file", f"a file of conf/expectations with table: {name}")
            )
        elif rows is None:
            outcomes += _absent(table, rules[name])
        else:
            judged = _Judged(table, rules[name], rows, validator)
            outcomes += judged.outcomes()
            counts[name] = judged.rows
    return GateOutcome(tuple(outcomes), counts, _docs(validator, docs))


@dataclass
class _Judged:
    """One table on its way through the gate."""

    table: Table
    rules: TableRules
    slice: DataFrame
    validator: Validator
    rows: int = 0

    def outcomes(self) -> list[CheckOutcome]:
        found: list[CheckOutcome] = []
        try:
            for outcome in chain(self._columns(), self._values()):
                found.append(outcome)
        except Exception as error:
            # Whatever an expectation raises closes the gate: an unknown verdict is no reason to publish.
            found.append(_closed(self.table, _SUITE, f"raised {_first_line(error)}", "a verdict"))
        return found

    def _columns(self) -> Iterator[CheckOutcome]:
        verdict = self.validator.validate(columns_suite(self.table), self.slice)[COLUMNS]
        wanted, found = self.table.columns, tuple(self.slice.columns)
        missing = [name for name in wanted if name not in found]
        surplus = [name for name in found if name not in wanted]
        differences = [f"missing {', '.join(missing)}"] if missing else []
        differences += [f"unknown {', '.join(surplus)}"] if surplus else []
        observed = "as declared" if verdict.passed else "; ".join(differences) or "another order"
        yield CheckOutcome(
            self.table.name, COLUMNS, ", ".join(missing) or None, "fail", verdict.passed, observed,
            "the columns of the field dictionary in their order",
        )  # fmt: skip

    def _values(self) -> Iterator[CheckOutcome]:
        # A check of a missing column has nothing to read; `_columns` says that it is missing.
        checks = [
            check
            for check in checks_of(self.table, self.rules)
            if check.column is None or check.column in self.slice.columns
        ]
        unreadable = complaints(checks, self.slice)
        readable = [check for check in checks if check.name not in unreadable]
        for check in checks:
            if check.name in unreadable:
                complaint = unreadable[check.name]
                yield _closed(self.table, check.name, f"cannot be computed: {complaint}", check.says)
        try:
            values = profile(self.table, readable, self.slice)
        except PySparkException as error:
            yield _closed(
                self.table, _SUITE, f"cannot be computed: {_first_line(error)}", "a value for each check"
            )
            return
        self.rows = values[ROWS][0].as_py()
        yield from self._verdicts(readable, values)

    def _verdicts(self, checks: Sequence[Check], values: pa.Table) -> Iterator[CheckOutcome]:
        # Null is a question that the slice does not raise: a share of no rows, a figure without its input.
        asked = [check for check in checks if values[check.name][0].is_valid]
        if not self.rows:
            asked = [check for check in asked if check.name == NOT_EMPTY]
        frame = self.slice.sparkSession.createDataFrame(values)
        verdicts = self.validator.validate(values_suite(self.table, asked), frame) if asked else {}
        for check in asked:
            verdict = verdicts.get(check.name, Verdict(False, None, "no verdict"))
            shown = () if verdict.passed else examples(self.table, check, self.slice)
            if verdict.raised:
                yield _closed(
                    self.table, check.name, f"raised {verdict.raised.splitlines()[0]}", check.expected
                )
            else:
                yield self._outcome(check, verdict, shown)

    def _outcome(self, check: Check, verdict: Verdict, shown: tuple[str, ...]) -> CheckOutcome:
        observed = (
            f"{verdict.observed:,} of {self.rows:,} rows" if check.counts_rows else f"{verdict.observed:.6g}"
        )
        return CheckOutcome(
            self.table.name,
            check.name,
            check.column,
            check.severity,
            verdict.passed,
            observed,
            check.expected,
            shown,
        )


def _absent(table: Table, rules: TableRules) -> list[CheckOutcome]:
    if not rules.required:
        return []
    return [_closed(table, NOT_EMPTY, "the table does not exist", "rows of the days")]


def _closed(table: Table, check: str, observed: str, expected: str) -> CheckOutcome:
    severity: Severity = "fail"
    return CheckOutcome(table.name, check, None, severity, False, observed, expected)


def _docs(validator: Validator, folder: Path) -> Path | None:
    # Pages that cannot be written (full disk, rights) must not hide the verdict; the caller says so.
    try:
        return validator.write_docs(folder)
    except OSError:
        return None


def _first_line(error: Any) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
