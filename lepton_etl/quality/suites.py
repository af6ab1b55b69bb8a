"""Great Expectations: suites, validation on Spark, Data Docs.

Imports great_expectations inside the functions: it takes some ten seconds, and only the gate needs it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyspark.sql import DataFrame

from lepton_etl.lake.tables import Table
from lepton_etl.quality.checks import Check

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
