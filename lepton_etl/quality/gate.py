"""Judge the run's days before gold: Great Expectations' checkpoint `gate` over the rows themselves, and its Data Docs.

The context is a file context that anyone opens with plain Great Expectations: a data source over one DuckDB file with
the rows of the days (slices.py), a suite a table (suites.py), results, Data Docs. Great Expectations takes seconds to
import and only the gate needs it, so it is imported inside the functions.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import duckdb

from lepton_etl.quality.offline_docs import take_offline
from lepton_etl.quality.rules import (
    CheckOutcome,
    GateOutcome,
    Severity,
    TableRules,
    great_expectations,
)
from lepton_etl.quality.slices import Copied, SlicesFile, keys_twice, keys_where, view_name
from lepton_etl.quality.suites import COLUMNS, KEY_UNIQUE, NOT_EMPTY, suite_name, suite_of
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import FACILITY_INTERVAL, GRID_HOUR, INTERVAL
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.tables import TABLES

# What gold is made from; each needs a rule file, or the gate closes.
GATED: Final = (FILE, INTERVAL, FACILITY_INTERVAL, GRID_HOUR)
CHECKPOINT: Final = "gate"
_EXAMPLES: Final = 3
_SUITE: Final = "suite"
_SITE: Final = "gate"
_SOURCE: Final = "lake"
_ROWS: Final = "rows.duckdb"
# What the stored suites and definitions were made of.
_MADE_OF: Final = "made_of.sha256"
# Counts, shares and some values that break it. The keys of such rows would cost two more queries for each expectation
# whether it holds or not: the gate asks for them itself where one does not.
_RESULTS: Final = "BASIC"
# Folder of Data Docs -> what this process judged and has no pages of yet.
_judged: dict[Path, _Night] = {}


def verdict(
    slices: Mapping[str, Any], rules: Mapping[str, TableRules], docs: Path, project: Path
) -> GateOutcome:
    """Judge each slice (table name -> Arrow rows or dataset of the days; a table that does not exist is left out).

    Nothing raises for bad data: a missing rule file, a rule that cannot be computed and an expectation
    that raises are failures that name the suite. `docs` is the folder of this run's Data Docs, which `write_docs`
    writes later in this process; the context is `project`/gx.
    """
    night = _Night(docs, project, rules)
    with _alone(project):
        night.copy(slices)
        try:
            night.judge()
        except Exception as error:
            # Whatever Great Expectations raises closes the gate: an unknown verdict is no reason to publish.
            night.outcomes += [
                _closed(table, _SUITE, f"raised {_first_line(error)}", "a verdict") for table in night.copied
            ]
    _judged[docs] = night
    return GateOutcome(
        tuple(night.outcomes), {table.name: copied.rows for table, copied in night.copied.items()}, None
    )


def write_docs(docs: Path) -> Path | None:
    """Write the Data Docs of what this process judged for that folder; returns their front page.

    None where nothing was judged, or where they cannot be written: pages never hide a verdict.
    """
    night = _judged.pop(docs, None)
    if night is None:
        return None
    with _alone(night.project):
        return night.write_docs()


@contextmanager
def _alone(project: Path) -> Iterator[None]:
    """Wait for another night's gate: nights of other days run side by side, the context is one."""
    project.mkdir(parents=True, exist_ok=True)
    with (project / ".gate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass
class _Night:
    """The tables of a run on their way through the gate."""

    docs: Path
    project: Path
    rules: Mapping[str, TableRules]
    outcomes: list[CheckOutcome] = field(default_factory=list)
    copied: dict[Table, Copied] = field(default_factory=dict)
    # The context, and what its checkpoint found.
    found: tuple[Any, Any] | None = None

    @property
    def rows(self) -> Path:
        return self.project / "gx" / _ROWS

    def copy(self, slices: Mapping[str, Any]) -> None:
        """Copy the slices, and say what cannot be judged."""
        with SlicesFile(self.rows) as file:
            for name in dict.fromkeys([*(table.name for table in GATED), *self.rules]):
                table = TABLES[name]
                if name not in self.rules:
                    wanted = f"a file of conf/expectations with table: {name}"
                    self.outcomes.append(_closed(table, _SUITE, "no rule file", wanted))
                elif name not in slices:
                    if self.rules[name].required:
                        absent = _closed(table, NOT_EMPTY, "the table does not exist", "rows of the days")
                        self.outcomes.append(absent)
                else:
                    self._copy(file, table, slices[name])

    def _copy(self, file: SlicesFile, table: Table, rows: Any) -> None:
        try:
            copied = file.copy(table, self.rules[table.name].rules, rows)
        except duckdb.Error as error:
            self.outcomes.append(
                _closed(table, _SUITE, f"cannot be computed: {_first_line(error)}", "its rows")
            )
            return
        self.copied[table] = copied
        for rule in self.rules[table.name].rules:
            if rule.name in copied.complaints:
                complaint = f"cannot be computed: {copied.complaints[rule.name]}"
                self.outcomes.append(_closed(table, rule.name, complaint, rule.says))

    def judge(self) -> None:
        """Run the checkpoint."""
        if not self.copied:
            return
        context = _context(self.project, self.docs)
        checkpoint = self._checkpoint(context)
        from great_expectations.core.run_identifier import RunIdentifier

        _forget(self.project, self.docs.name)
        found = checkpoint.run(run_id=RunIdentifier(run_name=self.docs.name, run_time=datetime.now(UTC)))
        _release(context)
        self.found = context, found
        by_suite = {result.suite_name: result for result in found.run_results.values()}
        for table, copied in self.copied.items():
            self.outcomes += [
                self._outcome(table, copied, one) for one in by_suite[suite_name(table)].results
            ]

    def write_docs(self) -> Path | None:
        """Write the Data Docs of what the checkpoint found; their front page."""
        if self.found is None:
            return None
        fresh = self.docs.with_name(f".{self.docs.name}.{os.getpid()}")
        try:
            return _write_docs(*self.found, fresh, self.docs, self.outcomes)
        except Exception as error:
            # A full disk, rights, or what Great Expectations raises as it renders; the caller says that there are none.
            logging.getLogger(__name__).warning("no Data Docs: %s", _first_line(error))
            return None

    def _checkpoint(self, context: Any) -> Any:
        """Return the stored checkpoint; where dictionary, rules or tables changed, all is made anew before."""
        gx = great_expectations()
        suites = {
            table: suite_of(table, copied, required=self.rules[table.name].required)
            for table, copied in self.copied.items()
        }
        made_of = self.project / "gx" / _MADE_OF
        wanted = _digest(self.rows, suites.values())
        if made_of.is_file() and made_of.read_text(encoding="utf-8") == wanted:
            return context.checkpoints.get(CHECKPOINT)
        made_of.unlink(missing_ok=True)
        source = context.data_sources.add_or_update_sql(
            name=_SOURCE, connection_string=f"duckdb+lepton:///{self.rows.resolve()}", create_temp_table=False
        )
        definitions = [
            gx.ValidationDefinition(
                name=suite_name(table),
                data=source.add_table_asset(
                    suite_name(table), table_name=view_name(table)
                ).add_batch_definition_whole_table("days"),
                suite=suite,
            )
            for table, suite in suites.items()
        ]
        # The checkpoint stores its definitions, and they their suites: whoever stores those too does it thrice.
        checkpoint = context.checkpoints.add_or_update(
            gx.Checkpoint(name=CHECKPOINT, validation_definitions=definitions, result_format=_RESULTS)
        )
        made_of.write_text(wanted, encoding="utf-8")
        return checkpoint

    def _outcome(self, table: Table, copied: Copied, found: Any) -> CheckOutcome:
        asked = found.expectation_config
        # An expectation that a person added with Great Expectations itself has no such names.
        meta = asked.meta or {}
        check, raised = meta.get("check", asked.type), _raised(found.exception_info)
        expected = asked.description or asked.type
        if raised:
            return _closed(table, check, f"raised {raised.splitlines()[0]}", expected)
        severity: Severity = "fail" if asked.severity == "critical" else "warn"
        column, observed = meta.get("about"), _observed(found.result)
        if check == COLUMNS:
            missing = [name for name in table.columns if name not in copied.columns]
            column, observed = ", ".join(missing) or None, _differences(table, copied, missing)
        shown: tuple[str, ...] = ()
        if not found.success and check == KEY_UNIQUE:
            shown = keys_twice(self.rows, table, _EXAMPLES)
        elif not found.success and meta.get("breaks"):
            shown = keys_where(self.rows, table, meta["breaks"], column, _EXAMPLES)
        return CheckOutcome(
            table.name, check, column, severity, bool(found.success), observed, expected, shown
        )


def _digest(rows: Path, suites: Iterable[Any]) -> str:
    configured = [
        [suite.name, [one.to_json_dict() for one in suite.expectation_configurations]] for suite in suites
    ]
    text = json.dumps([great_expectations().__version__, str(rows.resolve()), configured], default=str)
    return sha256(text.encode()).hexdigest()


def _context(project: Path, docs: Path) -> Any:
    """The file context at `project`/gx; its one site of Data Docs is this run's folder."""
    gx = great_expectations()
    from sqlalchemy.dialects import registry

    # The entry point is known where the package is installed; a night may run from a checkout or an archive.
    registry.register("duckdb.lepton", "lepton_etl.quality.duckdb_dialect", "DuckDB")
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="file", project_root_dir=project)
    variables = context.variables
    variables.analytics_enabled = False
    variables.progress_bars = {"globally": False}
    variables.data_docs_sites = {_SITE: _site(docs)}
    variables.save()
    return context


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder.resolve()),
        },
    }


def _forget(project: Path, days: str) -> None:
    """Take away earlier results of these days: the new ones replace them."""
    for folder in (project / "gx" / "uncommitted" / "validations").glob(f"*/*/{days}"):
        shutil.rmtree(folder)


def _release(context: Any) -> None:
    """Close the file of rows, which the next run of this process writes anew."""
    source = context.data_sources.get(_SOURCE)
    source.get_execution_engine().engine.dispose()
    source.get_engine().dispose()


def _write_docs(
    context: Any, found: Any, fresh: Path, folder: Path, outcomes: Sequence[CheckOutcome]
) -> Path:
    """Build the Data Docs of this run; replaces the folder. Returns its index.html."""
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier

    fresh.parent.mkdir(parents=True, exist_ok=True)
    context.variables.data_docs_sites = {_SITE: _site(fresh)}
    pages = [
        *found.run_results,
        *(ExpectationSuiteIdentifier(name=r.suite_name) for r in found.run_results.values()),
    ]
    context.build_data_docs(site_names=[_SITE], resource_identifiers=pages, build_index=False)
    take_offline(fresh, outcomes, f"Quality of {folder.name}")
    # Built aside, then swapped: the folder never holds half a site or pages of an earlier run.
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)
    return folder / "index.html"


def _observed(result: Mapping[str, Any]) -> str:
    """What was found, for a person: rows that break it of those judged, or a value."""
    if "unexpected_count" in result:
        judged = result["element_count"] - result.get("missing_count", 0)
        return f"{result['unexpected_count']:,} of {judged:,} rows break it"
    value = result.get("observed_value")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _differences(table: Table, copied: Copied, missing: Sequence[str]) -> str:
    surplus = [name for name in copied.columns if name not in table.columns]
    texts = [f"missing {', '.join(missing)}"] if missing else []
    texts += [f"unknown {', '.join(surplus)}"] if surplus else []
    as_declared = "as declared" if copied.columns == table.columns else "another order"
    return "; ".join(texts) or as_declared


def _raised(info: Any) -> str | None:
    """The message of an expectation that raised; Great Expectations keeps it flat or by metric."""
    if not info:
        return None
    entries = [info] if "raised_exception" in info else [e for e in info.values() if isinstance(e, Mapping)]
    messages = [str(entry["exception_message"]) for entry in entries if entry["raised_exception"]]
    return messages[0] if messages else None


def _closed(table: Table, check: str, observed: str, expected: str) -> CheckOutcome:
    return CheckOutcome(table.name, check, None, "fail", False, observed, expected)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
