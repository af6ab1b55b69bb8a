"""The gate: slices of the night's tables -> what holds, what does not, and the Data Docs that show it.

- A slice of a table -> one row that holds the value of every check, and keys of rows that break one.
- Great Expectations: suites, validation on Spark, Data Docs.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.quality.rules import (
    KEY_UNIQUE,
    NOT_EMPTY,
    Check,
    CheckOutcome,
    GateOutcome,
    Severity,
    TableRules,
    checks_of,
)
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import FACILITY_INTERVAL, GRID_HOUR, INTERVAL
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.tables import TABLES

ROWS: Final = "rows"
_EXAMPLES: Final = 3


def complaints(checks: Sequence[Check], rows: DataFrame) -> dict[str, str]:
    """Check name -> what Spark says of an expression that it does not understand on these columns; no job."""
    own = [check for check in checks if check.name != KEY_UNIQUE]
    # Analysing all at once takes as long as one; only where that fails is each asked on its own.
    if _complaint(rows, *(check.sql for check in own)) is None:
        return {}
    found = {check.name: _complaint(rows, check.sql) for check in own}
    return {name: text for name, text in found.items() if text is not None}


def _complaint(rows: DataFrame, *sql: str) -> str | None:
    try:
        # A frame is analysed when it is made.
        rows.agg(F.count(F.lit(1)), *(F.expr(text) for text in sql))
    except (AnalysisException, ParseException) as error:
        return str(error).splitlines()[0]
    return None


def profile(table: Table, checks: Sequence[Check], rows: DataFrame) -> pa.Table:
    """One row: `rows` and one column a check, in one Spark action.

    Raises PySparkException where an expression fails on the data (ANSI: division by zero).
    """
    values = [F.expr(check.sql).alias(check.name) for check in checks if check.name != KEY_UNIQUE]
    found = rows.agg(F.count(F.lit(1)).alias(ROWS), *values)
    if any(check.name == KEY_UNIQUE for check in checks):
        # A group-by of the key columns beside the profile takes half the time of count(distinct) within it.
        surplus = rows.groupBy(*table.key).count().agg(F.sum(F.col("count") - 1).alias("surplus"))
        found = found.crossJoin(surplus.select(F.coalesce("surplus", F.lit(0)).alias(KEY_UNIQUE)))
    return found.select(ROWS, *(check.name for check in checks)).toArrow()


def examples(table: Table, check: Check, rows: DataFrame) -> tuple[str, ...]:
    """Keys (and the column's value) of up to three rows that break the check, in key order."""
    if check.name == KEY_UNIQUE:
        broken = rows.groupBy(*table.key).count().where("count > 1")
        shown = [*table.key, "count"]
    elif check.bad is not None:
        broken = rows.where(F.expr(check.bad))
        shown = [*table.key, *((check.column,) if check.column and check.column not in table.key else ())]
    else:
        return ()
    present = [name for name in shown if name in broken.columns]
    order = [name for name in present if name in table.key]
    found = broken.select(*present).orderBy(*order).limit(_EXAMPLES).collect()
    return tuple(" ".join(f"{name}={row[name]}" for name in present) for row in found)


COLUMNS: Final = "columns_match_the_dictionary"
_SITE: Final = "gate"
_SEVERITY: Final = {"fail": "critical", "warn": "warning"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Great Expectations' word on one check; `raised` is the error where it could not judge."""

    passed: bool
    observed: Any
    raised: str | None = None


def suite_name(table: Table) -> str:
    """`silver/interval` -> `silver.interval`: Data Docs refuse a slash and make folders of dots."""
    return table.name.replace("/", ".")


def values_suite(table: Table, checks: Sequence[Check]) -> Any:
    """The suite of a table's profile row: each check's column between its bounds."""
    import great_expectations as gx
    from great_expectations.expectations.core.expect_column_max_to_be_between import (
        ExpectColumnMaxToBeBetween,
    )
    from great_expectations.expectations.metadata_types import FailureSeverity

    # Aggregate expectations are bundled into one Spark job; a row-wise one starts its own.
    return gx.ExpectationSuite(
        name=suite_name(table),
        expectations=[
            ExpectColumnMaxToBeBetween(
                column=check.name,
                min_value=check.low,
                max_value=check.high,
                severity=FailureSeverity(_SEVERITY[check.severity]),
                description=f"{check.name}: {check.expected}",
                meta={"check": check.name},
            )
            for check in checks
        ],
    )


def columns_suite(table: Table) -> Any:
    """The suite of the slice itself: the dictionary's columns in their order; starts no Spark job."""
    import great_expectations as gx
    from great_expectations.expectations.core.expect_table_columns_to_match_ordered_list import (
        ExpectTableColumnsToMatchOrderedList,
    )
    from great_expectations.expectations.metadata_types import FailureSeverity

    match = ExpectTableColumnsToMatchOrderedList(
        column_list=list(table.columns), severity=FailureSeverity.CRITICAL, meta={"check": COLUMNS}
    )
    return gx.ExpectationSuite(name=f"{suite_name(table)}_columns", expectations=[match])


class Validator:
    """An ephemeral Great Expectations context that keeps its results in memory and writes Data Docs."""

    def __init__(self) -> None:
        # Read at import; nothing about a site's data leaves the site.
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        import great_expectations as gx
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        self._context = gx.get_context(
            mode="ephemeral",
            project_config=DataContextConfig(
                store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
                progress_bars=ProgressBarsConfig(globally=False),
                analytics_enabled=False,
            ),
        )

    def validate(self, suite: Any, rows: DataFrame) -> Mapping[str, Verdict]:
        """Check name -> verdict. Expectations that raise come back as not passed, with what they raised."""
        import great_expectations as gx

        context, name = self._context, suite.name
        # Its default persists the frame: memory that nobody frees, and Spark prunes cached batches by statistics that
        # leave NaN out, so a filter for out-of-bounds rows would not find it.
        source = context.data_sources.add_spark(name, persist=False)
        asset = source.add_dataframe_asset("slice")
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(
                name=name,
                data=asset.add_batch_definition_whole_dataframe("days"),
                suite=context.suites.add(suite),
            )
        )
        found: Any = definition.run(batch_parameters={"dataframe": rows}, result_format="BASIC")
        return {r.expectation_config.meta["check"]: _verdict(r) for r in found.results}

    def write_docs(self, folder: Path) -> Path:
        """Build the Data Docs of everything validated so far; replaces the folder. Returns its index.html."""
        fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        site: Any = {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(fresh)},
        }
        self._context.add_data_docs_site(_SITE, site)
        self._context.build_data_docs(site_names=[_SITE])
        # Built aside, then swapped: the folder never holds half a site or pages of an earlier run.
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)
        return folder / "index.html"


def _verdict(result: Any) -> Verdict:
    raised = _raised(result.exception_info)
    return Verdict(bool(result.success) and raised is None, result.result.get("observed_value"), raised)


def _raised(info: Any) -> str | None:
    """The message of an expectation that raised; Great Expectations keeps it flat or by metric."""
    if not info:
        return None
    entries = [info] if "raised_exception" in info else [e for e in info.values() if isinstance(e, Mapping)]
    messages = [str(entry["exception_message"]) for entry in entries if entry["raised_exception"]]
    return messages[0] if messages else None


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
