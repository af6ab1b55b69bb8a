"""The night: the order of the stages, the leases, the run record, the exit code.

Everything that can be wrong with the settings is found before anything is read. Bronze takes the lake's bronze lease;
what follows takes one lease for each UTC day, so two nights of different days run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Final

import polars as pl
import structlog

from lepton_etl.billing.bill import read_invoices
from lepton_etl.billing.tariff import read_tariff
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, Exit, LeptonError, NoInputError
from lepton_etl.lake.file_register import FileRegister
from lepton_etl.lake.lease import DaysLease, Lease
from lepton_etl.lake.runs import BATCH_KEY, RunRecord, StageRecord, new_run_id
from lepton_etl.lake.tables import Lake, read_files
from lepton_etl.quality.rules import load_rules
from lepton_etl.registers.inventory import read_meters, read_nodes
from lepton_etl.schema.logs import READING
from pipelines.engine import Engine, SparkEngine
from pipelines.publish import dirty_days
from pipelines.stage import StageContext, StageResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lepton_etl.lake.spark import SparkLake

# What is made of a range of days, in this order; the figures are out when the last of them is done.
DAILY: Final = ("silver", "gate", "gold", "kpi", "publish")
PUBLISHING: Final = ("bronze", *DAILY)
AFTER_PUBLICATION: Final = ("train", "score", "diagnose", "forecast", "recommend", "report")
STAGES: Final = (*PUBLISHING, *AFTER_PUBLICATION)

Watch = Callable[[str, Days], None]


@dataclass
class Night:
    """What a run did: for the table at its end and for the exit code."""

    run_id: str
    exit_code: Exit = Exit.DONE
    message: str = ""
    stages: list[StageRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(settings: Settings) -> None:
    """Read every rule and inventory file once. Raises ConfigurationError before any data is touched."""
    read_nodes(settings.fleet.inventory, settings.site.site_id)
    if settings.facility.meters:
        read_meters(settings.facility.meters, settings.site.site_id)
    load_rules(settings.quality.expectations)
    if settings.tariff.file:
        read_tariff(settings.tariff.file, settings.site.site_id)
    if settings.billing.invoices:
        read_invoices(settings.billing.invoices)
    root = settings.lake.root
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"key lake.root = {str(root)!r}: cannot be made: {error.strerror}",
            where="settings",
            remedy="choose a folder that the user of the night may write",
        ) from error


def run_night(
    engine: Engine, settings: Settings, days: Days, stage: str | None = None, watch: Watch | None = None
) -> Night:
    """Run one night, or one of its stages, on an engine. Never raises for what a run can meet: the Night carries the
    exit code.

    `watch` is called as each stage starts.
    """
    night = Night(new_run_id())
    lake = _lake(engine, settings)
    record = RunRecord(lake, night.run_id, days, settings.digest)
    log = structlog.get_logger("nightly").bind(run_id=night.run_id, date=str(days))
    context = StageContext(lake, settings, days, night.run_id, log, engine)
    run = _Run(context, night, record, watch or (lambda *_: None))
    try:
        record.started()
        run.stages(STAGES if stage is None else (stage,), whole=stage is None)
    except LeptonError as error:
        night.exit_code, night.message = error.exit_code, str(error)
    except Exception as error:
        log.exception("stage failed")
        night.exit_code, night.message = Exit.UNEXPECTED, f"{type(error).__name__}: {_first_line(error)}"
    finally:
        record.finished(night.exit_code, night.message)
    return night


@dataclass
class _Run:
    context: StageContext
    night: Night
    record: RunRecord
    watch: Watch

    def stages(self, names: Iterable[str], *, whole: bool) -> None:
        """The named stages in their order; after publication a failing stage does not stop the next one."""
        wanted = list(names)
        lake, root, run_id = self.context.lake, self.context.settings.lake.root, self.night.run_id
        if "bronze" in wanted:
            with Lease(root, "bronze", run_id):
                self._stage("bronze", self.context.days)
        ranges = [self.context.days]
        batch = 0
        if whole:
            _require_input(lake, self.context.days)
            batch = FileRegister(lake).last_batch()
            ranges = dirty_days(lake, self.context.settings, self.context.days)
        with DaysLease(root, ranges, run_id):
            if whole:
                adopt(lake, run_id)
            for days in ranges:
                for name in DAILY:
                    if name in wanted:
                        self._stage(
                            name, days, extra={BATCH_KEY: batch} if whole and days == ranges[-1] else {}
                        )
            for name in AFTER_PUBLICATION:
                if name in wanted:
                    self._after_publication(name, whole=whole)

    def _after_publication(self, name: str, *, whole: bool) -> None:
        try:
            self._stage(name, self.context.days)
        except Exception as error:
            if not whole:
                raise
            # The figures are out: the night goes on, and its exit code says that something is missing.
            self.context.log.error("stage failed after publication", stage=name, error=_first_line(error))
            self.night.exit_code = Exit.PUBLISHED_THEN_FAILED
            place = (
                str(error)
                if isinstance(error, LeptonError)
                else f"{type(error).__name__}: {_first_line(error)}"
            )
            self.night.message = f"published, but {name} failed: {place}"

    def _stage(self, name: str, days: Days, extra: dict[str, int] | None = None) -> None:
        module = import_module(f"pipelines.{name}")
        lake = self.context.lake
        lake.forget_inputs()
        lake.metadata = {"run_id": self.night.run_id, "stage": name}
        self.watch(name, days)
        log = self.context.log.bind(stage=name, days=str(days))
        context = replace(self.context, days=days, log=log)
        start = datetime.now(UTC)
        result, state, message = StageResult(), "failed", ""
        try:
            result = module.run(context)
            state, message = "done", "; ".join(result.notes)
        except BaseException as error:
            message = _first_line(error)
            raise
        finally:
            done = StageRecord(
                stage=name,
                days=days,
                start_time=start,
                end_time=datetime.now(UTC),
                state=state,
                rows_in=result.rows_in,
                rows_out=result.rows_out,
                message=message,
                input_versions=dict(lake.inputs) | (extra or {}),
                table_versions={w.table: w.version for w in result.written},
            )
            self.night.stages.append(done)
            self.record.stage(done)
        self.night.notes += [f"{name}: {note}" for note in result.notes]
        log.info(
            "stage done", rows_in=done.rows_in, rows_out=done.rows_out, seconds=round(done.duration_s, 1)
        )


def _lake(engine: Engine, settings: Settings) -> SparkLake:
    """The lake; a stage that plans in Spark gets the session of the night, started when it is first asked for."""

    def start() -> SparkSession:
        if isinstance(engine, SparkEngine):
            return engine.session()
        from lepton_etl.lake.session import spark_session

        return spark_session("lepton-etl nightly", dict(settings.spark))

    # Imported here: what is left to plan in Spark is all that needs it.
    from lepton_etl.lake.spark import SparkLake

    return SparkLake(settings.lake.root, start=start)


def _require_input(lake: Lake, days: Days) -> None:
    """Raise NoInputError where no reading of the days was ever delivered; the files' bounds say so in most cases."""
    for file in lake.files(READING, days):
        if any(day is not None and day in days for day in (file.first_day, file.last_day)):
            return
        within = pl.col("reading_date").is_between(days.start, days.end)
        if not read_files(READING, [file], ["reading_date"], within).is_empty():
            return
    raise NoInputError(
        f"no reading of {days} was ever delivered; earlier days are untouched",
        where="bronze",
        remedy="check the sources' paths and the collectors, then run the same command again",
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__
