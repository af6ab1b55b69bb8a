"""Check the run's days of silver before gold: which expectations hold, and the Data Docs that show it.

DuckDB computes every check of a slice of a table in one pass over the lake's own files: one row with the
value of each check, and the keys of rows that break one. Great Expectations judges these values and writes
the Data Docs. It takes seconds to import and only the gate needs it, so it is imported inside the functions.
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

import duckdb
import pyarrow as pa

from lepton_etl.quality.offline_docs import take_offline
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
# What rule files may say beside DuckDB's own SQL: words that Spark's had.
_MACROS: Final = (
    "CREATE MACRO try_divide(a, b) AS a / nullif(b, 0)",
    "CREATE MACRO to_date(t) AS CAST(t AS DATE)",
)


class Slice:
    """Rows of a table that SQL is asked about: `rows` is an Arrow table, or a dataset that is never held whole.

    `where` is SQL over its columns.
    """

    def __init__(self, rows: Any, where: str | None = None) -> None:
        self.columns = tuple(rows.schema.names)
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        # A rule reads the slice and nothing else of this machine.
        self._connection.execute("SET enable_external_access = false")
        for macro in _MACROS:
            self._connection.execute(macro)
        self._connection.register("every_row", rows)
        self._connection.execute(
            f"CREATE VIEW slice AS SELECT * FROM every_row{f' WHERE {where}' if where else ''}"
        )

    def query(self, sql: str) -> pa.Table:
        """The answer to SQL over `slice`. Raises duckdb.Error."""
        return self._connection.execute(sql).to_arrow_table()

    def complaint(self, *aggregates: str) -> str | None:
        """What is wrong with these aggregates on these columns; reads no row."""
        try:
            self._connection.execute(f"EXPLAIN SELECT {', '.join(('count(*)', *aggregates))} FROM slice")
        except duckdb.Error as error:
            return str(error).splitlines()[0]
        return None


def complaints(checks: Sequence[Check], rows: Slice) -> dict[str, str]:
    """Check name -> what is wrong with an expression on these columns."""
    own = [check for check in checks if check.name != KEY_UNIQUE]
    # Asking for all at once takes as long as for one; only where that fails is each asked on its own.
    if rows.complaint(*(check.sql for check in own)) is None:
        return {}
    found = {check.name: rows.complaint(check.sql) for check in own}
    return {name: text for name, text in found.items() if text is not None}


def profile(table: Table, checks: Sequence[Check], rows: Slice) -> pa.Table:
    """One row: `rows` and one column a check. Raises duckdb.Error where an expression fails on the data."""
    values = [f'{check.sql} AS "{check.name}"' for check in checks if check.name != KEY_UNIQUE]
    found = rows.query(f"SELECT {', '.join((f'count(*) AS {ROWS}', *values))} FROM slice")
    if any(check.name == KEY_UNIQUE for check in checks):
        keys = ", ".join(table.key)
        surplus = rows.query(
            f"SELECT coalesce(sum(n - 1), 0)::BIGINT AS n FROM (SELECT count(*) AS n FROM slice GROUP BY {keys})"
        )
        found = found.append_column(KEY_UNIQUE, surplus["n"])
    return found.select([ROWS, *(check.name for check in checks)])


def examples(table: Table, check: Check, rows: Slice) -> tuple[str, ...]:
    """Keys (and the column's value) of up to three rows that break the check, in key order."""
    keys = [name for name in table.key if name in rows.columns]
    if check.name == KEY_UNIQUE:
        sql = f"SELECT {', '.join(keys)}, count(*) AS count FROM slice GROUP BY {', '.join(keys)} HAVING count > 1"
    elif check.bad is not None:
        extra = [check.column] if check.column and check.column not in table.key else []
        sql = f"SELECT {', '.join((*keys, *extra))} FROM slice WHERE {check.bad}"
    else:
        return ()
    found = rows.query(
        f"{sql} ORDER BY {', '.join(keys)} LIMIT {_EXAMPLES}" if keys else f"{sql} LIMIT {_EXAMPLES}"
    )
    return tuple(" ".join(f"{name}={value}" for name, value in row.items()) for row in found.to_pylist())


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
    """The suite of the slice itself: the dictionary's columns in their order."""
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

    def validate(self, suite: Any, rows: pa.Table) -> Mapping[str, Verdict]:
        """Check name -> verdict. Expectations that raise come back as not passed, with what they raised."""
        import great_expectations as gx

        context, name = self._context, suite.name
        source = context.data_sources.add_pandas(name)
        asset = source.add_dataframe_asset("slice")
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(
                name=name,
                data=asset.add_batch_definition_whole_dataframe("days"),
                suite=context.suites.add(suite),
            )
        )
        found: Any = definition.run(batch_parameters={"dataframe": rows.to_pandas()}, result_format="BASIC")
        return {r.expectation_config.meta["check"]: _verdict(r) for r in found.results}

    def write_docs(self, folder: Path, outcomes: Sequence[CheckOutcome]) -> Path:
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
        take_offline(fresh, outcomes, f"Quality of {folder.name}")
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


def judge(slices: Mapping[str, Slice], rules: Mapping[str, TableRules], docs: Path) -> GateOutcome:
    """Judge each slice (table name -> rows of the run's days; a table that does not exist is left out).

    Nothing raises for bad data: a missing rule file, a rule that cannot be read and an expectation
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
    return GateOutcome(tuple(outcomes), counts, _docs(validator, docs, outcomes))


@dataclass
class _Judged:
    """One table on its way through the gate."""

    table: Table
    rules: TableRules
    slice: Slice
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
        verdict = self._declared()
        wanted, found = self.table.columns, self.slice.columns
        missing = [name for name in wanted if name not in found]
        surplus = [name for name in found if name not in wanted]
        differences = [f"missing {', '.join(missing)}"] if missing else []
        differences += [f"unknown {', '.join(surplus)}"] if surplus else []
        observed = "as declared" if verdict.passed else "; ".join(differences) or "another order"
        yield CheckOutcome(
            self.table.name, COLUMNS, ", ".join(missing) or None, "fail", verdict.passed, observed,
            "the columns of the field dictionary in their order",
        )  # fmt: skip

    def _declared(self) -> Verdict:
        """Great Expectations' word on the columns; it needs no row for it."""
        no_rows = self.slice.query("SELECT * FROM slice LIMIT 0")
        return self.validator.validate(columns_suite(self.table), no_rows)[COLUMNS]

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
        except duckdb.Error as error:
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
        verdicts = self.validator.validate(values_suite(self.table, asked), values) if asked else {}
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


def _docs(validator: Validator, folder: Path, outcomes: Sequence[CheckOutcome]) -> Path | None:
    # Pages that cannot be written (full disk, rights) must not hide the verdict; the caller says so.
    try:
        return validator.write_docs(folder, outcomes)
    except OSError:
        return None


def _first_line(error: Any) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
