"""Tell catalogues which stage read and wrote what: OpenLineage events of runs, datasets and columns.

A stage is a run of job `<stage>` under the parent run `nightly`; a table is a dataset by the path of its folder, with
the Delta version that was read or written. Which columns come of which is taken from the formulas that `lepton-etl
trace` computes. Source: OpenLineage specification 2-0-2; its naming of datasets (file, s3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from lepton_etl.lake.runs import StageRecord
from lepton_etl.redaction import redact
from lepton_etl.schema.declare import Table
from lepton_etl.schema.formulas import (
    CLASS_ERROR,
    EMBODIED_HOUR,
    INTENSITY_ERROR,
    JOB_HOUR,
    MADE,
    MARKET_MIX,
    METER_HOUR,
    MODELLED_INTERVAL,
    NODE_INTERVAL,
    NODE_SPLIT,
    POWER_SUM,
    SEGMENT,
    SITE_VOLUME,
    STATED,
    VOLUME_HOUR,
    VOLUME_STEP,
    formulas_of,
    told_columns,
)
from lepton_etl.schema.tables import TABLES

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent

    from lepton_etl.config.settings import Settings
    from lepton_etl.days import Days

PRODUCER: Final = "urn:lepton-etl"
PARENT: Final = "nightly"
# A catalogue that does not answer keeps no night waiting.
_TIMEOUT_S: Final = 5.0
_MODEL: Final = "model/"
# What rows that no table holds are made of, beside what their formulas name.
_MADE_OF: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    SEGMENT: (("bronze/reading", "value"), ("bronze/reading", "reading_time"), ("bronze/reading", "window_s")),
    MODELLED_INTERVAL: (("bronze/reading", "value"), ("silver/node", "rest_power_w"), ("silver/node", "idle_power_w")),
    METER_HOUR: (("silver/facility_interval", "energy_kwh"), ("silver/meter", "point"), ("silver/meter", "sign")),
    **dict.fromkeys((JOB_HOUR, NODE_SPLIT), (
        ("silver/interval", "energy_kwh"), ("gold/node_hour", "it_energy_imputed_kwh"),
        *(("silver/job_node", name) for name in ("from_time", "to_time", "cpu_count", "gpu_count")),
    )),
    NODE_INTERVAL: tuple(
        ("silver/interval", name)
        for name in ("energy_kwh", "observed_s", "cpu_utilisation_ratio", "gpu_utilisation_ratio", "inlet_temp_c")
    ),
    POWER_SUM: (("silver/interval", "power_mean_w"),),
    CLASS_ERROR: tuple(
        ("gold/node_hour", f"{name}_sigma_kwh") for name in ("gain", "resolution", "sampling", "imputed")
    ),
    EMBODIED_HOUR: tuple(
        ("silver/node", name) for name in ("embodied_kgco2e", "lifetime_years", "valid_from", "valid_to", "gpu_count")
    ),
    **dict.fromkeys((SITE_VOLUME, VOLUME_HOUR), (("silver/volume_interval", "volume_l"), ("silver/meter", "sign"))),
    VOLUME_STEP: (("bronze/reading", "value"), ("bronze/reading", "reading_time"), ("silver/meter", "multiplier")),
    MARKET_MIX: (
        ("silver/instrument", "volume_kwh"), ("silver/instrument", "instrument_intensity_gco2e_per_kwh"),
        ("gold/cluster_day", "grid_import_kwh"), ("gold/cluster_hour", "grid_import_kwh"),
    ),
    # Factor files and settings are no datasets.
    INTENSITY_ERROR: (),
    STATED: (),
}  # fmt: skip


def column_inputs(table: str, column: str) -> list[tuple[str, str]]:
    """Return the columns of other tables that a column is made of, sorted; those of its own table are followed."""
    found: set[tuple[str, str]] = set()
    seen: set[tuple[str, str]] = set()

    def follow(of: str, name: str) -> None:
        if (of, name) in seen:
            return
        seen.add((of, name))
        for formula in formulas_of(of, name):
            for source, source_column in map(formula.source_of, formula.names()):
                if source in MADE:
                    found.update(one for one in _MADE_OF[source] if one[0] != table)
                elif source == table:
                    follow(source, source_column)
                else:
                    found.add((source, source_column))

    follow(table, column)
    return sorted(found)


@dataclass
class OpenLineage:
    """Sends events of one run. One that cannot be sent stops nothing: `note` says so, and no other is tried."""

    client: OpenLineageClient
    settings: Settings
    run_id: str
    days: Days
    note: str = ""

    @classmethod
    def of(cls, settings: Settings, run_id: str, days: Days) -> OpenLineage | None:
        """Return what sends to where the settings say, None where they name no place; nothing is imported then."""
        chosen = settings.openlineage
        if chosen.file is None and chosen.url is None:
            return None
        from openlineage.client import OpenLineageClient, set_producer

        set_producer(f"{PRODUCER}:{version('lepton-etl')}")
        if chosen.url is None:
            transport: dict[str, Any] = {"type": "file", "log_file_path": str(chosen.file), "append": True}
        else:
            transport = {"type": "http", "url": chosen.url, "timeout": _TIMEOUT_S, "retry": {"total": 0}}
            if chosen.api_key is not None:
                transport["auth"] = {"type": "api_key", "apiKey": chosen.api_key}
        return cls(OpenLineageClient(config={"transport": transport}), settings, run_id, days)

    def run(self, start: datetime, end: datetime, message: str, *, done: bool) -> None:
        """Tell of the whole run."""
        self._send(self._events(PARENT, self.days, start, end, "" if done else message, [], []))

    def stage(self, record: StageRecord) -> None:
        """Tell of a stage that ended."""
        failed = "" if record.state == "done" else record.message or "failed"
        outputs = [self._output(TABLES[name], number) for name, number in record.table_versions.items()]
        times = record.start_time, record.end_time
        self._send(
            self._events(record.stage, record.days, *times, failed, list(self._inputs(record)), outputs)
        )

    def _send(self, events: Iterator[RunEvent]) -> None:
        if self.note:
            return
        try:
            for event in events:
                self.client.emit(event)
        except Exception as error:
            self.note = redact(
                f"OpenLineage: events are not sent ({type(error).__name__}: {error})".partition("\n")[0]
            )

    def _events(
        self, job: str, days: Days, start: datetime, end: datetime, failed: str,
        inputs: list[InputDataset], outputs: list[OutputDataset],
    ) -> Iterator[RunEvent]:  # fmt: skip
        """START and COMPLETE, or FAIL, of one run."""
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import error_message_run, job_type_job, nominal_time_run, parent_run

        namespace = self.settings.openlineage.namespace or self.settings.site.site_id
        facets: dict[str, Any] = {
            "nominalTime": nominal_time_run.NominalTimeRunFacet(
                days.from_time.isoformat(), days.until_time.isoformat()
            )
        }
        if job != PARENT:
            facets["parent"] = parent_run.ParentRunFacet(
                parent_run.Run(self._id(PARENT)), parent_run.Job(namespace, f"lepton-etl.{PARENT}")
            )
        kind = job_type_job.JobTypeJobFacet("BATCH", "LEPTON_ETL", "DAG" if job == PARENT else "TASK")
        told = Job(namespace, f"lepton-etl.{job}", {"jobType": kind})
        number = self._id(job, str(days), start.isoformat())
        run = Run(self._id(PARENT) if job == PARENT else number, facets)
        yield RunEvent(eventTime=start.isoformat(), run=run, job=told, eventType=RunState.START)
        if failed:
            message = error_message_run.ErrorMessageRunFacet(redact(failed), "PYTHON")
            run = Run(run.runId, {**facets, "errorMessage": message})
        state = RunState.FAIL if failed else RunState.COMPLETE
        yield RunEvent(
            eventTime=end.isoformat(), run=run, job=told, eventType=state, inputs=inputs, outputs=outputs
        )

    def _id(self, *names: str) -> str:
        """One id for one thing, however often it is told of."""
        return str(
            uuid5(NAMESPACE_URL, "/".join(("lepton-etl", self.settings.site.site_id, self.run_id, *names)))
        )

    def _inputs(self, record: StageRecord) -> Iterator[InputDataset]:
        from openlineage.client.event_v2 import InputDataset
        from openlineage.client.facet_v2 import dataset_version_dataset as versions

        for name, number in sorted(record.input_versions.items()):
            facets: dict[str, Any] = {"version": versions.DatasetVersionDatasetFacet(str(number))}
            if name in TABLES:
                yield InputDataset(*self._name(name), facets=facets)
            elif name.startswith(_MODEL):
                yield InputDataset("mlflow", name.removeprefix(_MODEL), facets=facets)
        if record.stage == "bronze":
            for source in self.settings.all_sources:
                yield InputDataset(*_place(source.path))

    def _output(self, table: Table, number: int) -> OutputDataset:
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import column_lineage_dataset as columns
        from openlineage.client.facet_v2 import dataset_version_dataset, documentation_dataset, schema_dataset

        facets: dict[str, Any] = {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(str(number)),
            "documentation": documentation_dataset.DocumentationDatasetFacet(f"One row is {table.grain}."),
            "schema": schema_dataset.SchemaDatasetFacet(
                [
                    schema_dataset.SchemaDatasetFacetFields(one.name, one.type, one.description)
                    for one in table.fields
                ]
            ),
        }
        made = {
            column: columns.Fields(
                [columns.InputField(*self._name(of), name) for of, name in inputs],
                "; ".join(str(formula) for formula in formulas_of(table.name, column)),
            )
            for column in told_columns(table.name)
            if (inputs := column_inputs(table.name, column))
        }
        if made:
            facets["columnLineage"] = columns.ColumnLineageDatasetFacet(made)
        return OutputDataset(*self._name(table.name), facets=facets)

    def _name(self, table: str) -> tuple[str, str]:
        return _place(f"{self.settings.lake.root}/{table}")


def _place(path: str) -> tuple[str, str]:
    """Namespace and name of a dataset by where it lies."""
    parts = urlsplit(path)
    if parts.scheme in ("s3", "s3a"):
        return f"s3://{parts.netloc}", parts.path.lstrip("/")
    return ("file", path) if not parts.scheme else (f"{parts.scheme}://{parts.netloc}", parts.path)
