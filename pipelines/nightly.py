"""The night: the order of the stages, the leases, the run record, the exit code.

Everything that can be wrong with the settings is found before anything is read. Bronze takes the lake's bronze lease;
what follows takes one lease for each UTC day, so two nights of different days run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import structlog

from lepton_etl.billing.bill import read_invoices
from lepton_etl.billing.tariff import read_tariff
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import Exit, LeptonError, LockedError, NoInputError, of_system
from lepton_etl.lake.file_register import FileRegister
from lepton_etl.lake.lease import DaysLease, Lease
from lepton_etl.lake.location import Location
from lepton_etl.lake.log_files import refuse_without_log
from lepton_etl.lake.maintenance import compact_record
from lepton_etl.lake.nights import adopt, lost_tables, name_night
from lepton_etl.lake.runs import (
    BATCH_KEY,
    RunLease,
    RunRecord,
    StageRecord,
    end_lost_runs,
    follow_clock,
    new_run_id,
    waiting_days,
)
from lepton_etl.lake.tables import Lake, read_files
from lepton_etl.quality.rules import great_expectations, load_rules
from lepton_etl.redaction import redact
from lepton_etl.registers.inventory import read_meters, read_nodes
from lepton_etl.schema.logs import READING
from lepton_etl.schema.operations import NIGHT, RUN, STAGE_RUN
from lepton_etl.trust.people import People
from lepton_etl.trust.publishing import policy_of
from lepton_etl.trust.seal import signing_key
from pipelines.engine import Engine
from pipelines.publish import dirty_days
from pipelines.stage import Ahead, StageContext, StageResult

if TYPE_CHECKING:
    from lepton_etl.trust.open_lineage import OpenLineage

# What is made of a range of days, in this order; the figures are out when the last of them is done.
DAILY: Final = ("silver", "gate", "gold", "kpi", "publish")
PUBLISHING: Final = ("bronze", *DAILY)
# What needs no model comes first: the night's is learnt meanwhile.
AFTER_PUBLICATION: Final = ("forecast", "train", "score", "diagnose", "recommend", "report")
STAGES: Final = (*PUBLISHING, *AFTER_PUBLICATION)


class Watch:
    """Hears of a night while it runs; this one says nothing of it."""

    def begins(self, stage: str, days: Days) -> None:
        """A stage begins."""

    def tasks(self, done: int, total: int) -> None:
        """So many tasks of the running stage are done."""

    def ends(self, record: StageRecord) -> None:
        """A stage has ended."""


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
    policy_of(settings)
    read_nodes(settings.fleet.inventory, settings.site.site_id)
    if settings.facility.meters:
        read_meters(settings.facility.meters, settings.site.site_id)
    load_rules(settings.quality.expectations)
    if settings.tariff.file:
        read_tariff(settings.tariff.file, settings.site.site_id)
    if settings.billing.invoices:
        read_invoices(settings.billing.invoices)
    signing_key(settings.audit)
    Location.of_lake(settings).prepare()
    People.of(Lake.of(settings), settings).check()


def run_night(
    engine: Engine, settings: Settings, days: Days, stage: str | None = None, watch: Watch | None = None
) -> Night:
    """Run one night, or one of its stages, on an engine. Never raises for what a run can meet: the Night carries the
    exit code.

    `watch` hears of each stage and its tasks.
    """
    night = Night(new_run_id())
    lake = Lake.of(settings)
    log = structlog.get_logger("nightly")
    if watch is not None:
        engine.progress = watch.tasks
    try:
        for table in (RUN, STAGE_RUN, NIGHT):
            refuse_without_log(lake.at(table))
        night.notes += follow_clock(lake)
        night.run_id = new_run_id(lake.now())
        record = RunRecord(lake, night.run_id, days, settings.digest, stage)
        log = log.bind(run_id=night.run_id, date=str(days))
        context = StageContext(lake, settings, days, night.run_id, log, engine)
        told = _open_lineage(settings, night.run_id, days)
        run = _Run(context, night, record, watch or Watch(), told)
        start = lake.now()
        with RunLease(lake, night.run_id):
            lake.metadata = {"run_id": night.run_id, "stage": "run"}
            record.started()
            try:
                compact_record(lake, night.run_id)
                night.notes += end_lost_runs(lake, night.run_id)
                night.notes += lost_tables(lake)
                if stage is None:
                    engine.begin_aside(great_expectations, *_learning())
                    engine.meanwhile = _imports()
                # Gold asks the gate, whoever runs it: silver may have changed since it was judged.
                names = STAGES if stage is None else ("gate", "gold") if stage == "gold" else (stage,)
                try:
                    run.stages(names, whole=stage is None)
                finally:
                    run.wait()
            except BaseException as error:
                night.exit_code, night.message = _ended(error, log, lake.root)
            finally:
                lake.metadata = {"run_id": night.run_id, "stage": "run"}
                record.finished(night.exit_code, night.message)
                if told is not None:
                    told.run(start, lake.now(), night.message, done=night.exit_code == Exit.DONE)
                    night.notes += [told.note] if told.note else []
            _audit(night, lake, settings)
    except Exception as error:
        # The record itself could not be written: the lake is full, read-only, or damaged.
        night.exit_code, night.message = _ended(error, log, lake.root)
    return night


def _learning() -> list[Callable[[], object]]:
    """What learning imports, in pieces of some tenths of a second."""
    from lepton_etl.models.registry import LEARNING

    return [partial(import_module, name) for name in LEARNING]


def _imports() -> list[Callable[[], object]]:
    """What the driver imports while it waits for tasks: the models' libraries, and what pages are drawn with."""
    from lepton_etl.models.registry import import_ahead, import_mlflow

    return [*_learning(), import_mlflow, import_ahead, partial(import_module, "lepton_etl.report.page")]


def _open_lineage(settings: Settings, run_id: str, days: Days) -> OpenLineage | None:
    if settings.openlineage.file is None and settings.openlineage.url is None:
        return None
    from lepton_etl.trust.open_lineage import OpenLineage

    return OpenLineage.of(settings, run_id, days)


def _audit(night: Night, lake: Lake, settings: Settings) -> None:
    """Write what the run did into the audit chain; where that fails the figures are out, and the next run does it."""
    from lepton_etl.trust.chain import record

    try:
        night.notes += record(lake, settings.audit, night.run_id).notes
    except LeptonError as error:
        night.exit_code = night.exit_code or Exit.PUBLISHED_THEN_FAILED
        night.message = night.message or f"done, but not written into the audit chain: {error}"


def _ended(error: BaseException, log: Any, root: Location) -> tuple[Exit, str]:
    """The exit code and the last line of a night that an error ended."""
    if isinstance(error, LeptonError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return (
            Exit.UNEXPECTED,
            f"stopped by {str(error) or 'SIGINT'} -> run the same command again, it goes on from there",
        )
    if not isinstance(error, Exception):
        raise error
    refused = of_system(error, str(root))
    if refused is not None:
        return refused.exit_code, str(refused)
    log.exception("stage failed")
    return Exit.UNEXPECTED, (
        f"{type(error).__name__}: {_first_line(error)} -> its place in the code is in the log line 'stage failed'"
    )


@dataclass
class _Run:
    context: StageContext
    night: Night
    record: RunRecord
    watch: Watch
    told: OpenLineage | None = None
    has_begun: bool = False
    # Stage -> what goes on beside the stages after it.
    beside: list[tuple[str, Callable[[], tuple[str, ...]]]] = field(default_factory=list)

    def stages(self, names: Iterable[str], *, whole: bool) -> None:
        """The named stages in their order; after publication a failing stage does not stop the next one."""
        wanted = list(names)
        lake, run_id = self.context.lake, self.night.run_id
        if "bronze" in wanted:
            with Lease(lake, "bronze", run_id):
                self._stage("bronze", self.context.days)
        ranges = [self.context.days]
        batch = 0
        if whole:
            _require_input(lake, self.context.days)
            batch = FileRegister(lake).last_batch()
            ranges = dirty_days(lake, self.context.settings, self.context.days, self._made_up())
        with DaysLease(lake, ranges, run_id):
            if whole:
                adopt(lake, run_id)
            failed, made = [], self.context.days
            waiting = list(ranges)
            while waiting:
                days = waiting.pop(0)
                is_own = self.context.days.start in days
                try:
                    for name in DAILY:
                        if name in wanted:
                            extra = {BATCH_KEY: batch} if whole and not waiting else {}
                            self._stage(name, days, extra=extra)
                            if whole and name == "gate" and not waiting:
                                self._begin_ahead(days)
                    if is_own:
                        made = days
                    else:
                        self._name(days)
                except Exception as error:
                    if isinstance(error, LockedError) or days == self.context.days:
                        raise
                    parts = _apart(days, self.context.days)
                    if len(parts) > 1:
                        # One of the days fails; made apart, it stops no other, and each has a fit of its own.
                        self.context = replace(self.context, ahead=replace(self.context.ahead, fit=None))
                        self.context.log.warning(
                            "days are made apart", days=str(days), error=_first_line(error)
                        )
                        waiting = [*parts, *waiting]
                        continue
                    # Another day than those asked for: its former figures stay in force.
                    self.context.log.error("earlier days failed", days=str(days), error=_first_line(error))
                    failed.append(f"{days} not: {_first_line(error)}")
            if failed:
                self.night.exit_code = Exit.PUBLISHED_THEN_FAILED
                self.night.message = f"{self.context.days} is published, {'; '.join(failed)}"
            if whole:
                # Where the tasks left no time for it: here the learning is waited for.
                with suppress(ImportError):
                    import_module("lepton_etl.report.page")
            for name in AFTER_PUBLICATION:
                if whole and name == AFTER_PUBLICATION[-1]:
                    # The last commit of the night: the page, and every other reader, sees all of it or nothing.
                    self._name(made)
                    self.wait()
                if name in wanted:
                    self._after_publication(name, whole=whole)
            if not whole:
                self._name_stage(wanted)

    def wait(self) -> None:
        """Wait for what went on beside the stages, and note what is amiss with it."""
        while self.beside:
            name, work = self.beside.pop(0)
            try:
                self.night.notes += [f"{name}: {note}" for note in work()]
            except Exception as error:
                # The stage itself is done, and no figure comes of this.
                self.night.notes.append(f"{name}: warning: {_first_line(error)}")

    def _begin_ahead(self, days: Days) -> None:
        """Begin what later stages need, in the order of their turn, once all silver of the night is judged."""
        from pipelines import forecast, ledger, train

        context = self.context
        if self.has_begun or not context.engine.has_aside:
            return
        self.has_begun = True
        fit = ledger.begin_fit(replace(context, days=days))
        expected = forecast.begin(context)
        self.context = replace(context, ahead=Ahead(fit, expected, train.begin(context)))

    def _made_up(self) -> list[date]:
        """Days that earlier nights were asked for and did not publish, which this one makes; each is named."""
        made = []
        for day, waits in waiting_days(self.context.lake).items():
            if day in self.context.days:
                continue
            why = f"{day} waits since run {waits.run_id}: {waits.message}"
            if waits.needs_a_person:
                self.night.notes.append(f"{why} -> mend it, then run --date {day}")
            elif not _has_input(self.context.lake, Days.of(day)):
                self.night.notes.append(f"{why} -> no reading of it was delivered; look at the collectors")
            else:
                self.night.notes.append(f"{why} -> made up now")
                made.append(day)
        return made

    def _name(self, days: Days, *, only_named: bool = False) -> None:
        lake = self.context.lake
        lake.metadata = {"run_id": self.night.run_id, "stage": "night"}
        name_night(lake, days, self.night.run_id, only_named=only_named)
        # Imported where a page is at hand: it takes pandas with it, which no figure needs.
        from pipelines.report import mark_superseded

        try:
            pages = mark_superseded(lake, self.context.settings.report.folder, days, self.night.run_id)
        except OSError as error:
            # The figures are out, whatever becomes of a page.
            self.night.notes.append(f"pages of before are not marked: {_first_line(error)}")
            return
        if pages:
            self.context.log.info("pages are superseded", pages=[str(one) for one in pages])

    def _name_stage(self, wanted: Iterable[str]) -> None:
        """What a single stage changed is seen at once: `publish` publishes, a later stage changes what is published."""
        if "publish" in wanted:
            adopt(self.context.lake, self.night.run_id)
            self._name(self.context.days)
        elif set(wanted) & set(AFTER_PUBLICATION[:-1]) and self.context.lake.exists(NIGHT):
            self._name(self.context.days, only_named=True)

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
        self.watch.begins(name, days)
        before = self.context.engine.work()
        log = self.context.log.bind(stage=name, days=str(days))
        context = replace(self.context, days=days, log=log)
        start = lake.now()
        result, state, message = StageResult(), "failed", ""
        try:
            result = module.run(context)
            state, message = "done", "; ".join(result.notes)
        except BaseException as error:
            message = _first_line(error)
            raise
        finally:
            work = self.context.engine.work() - before
            done = StageRecord(
                stage=name,
                days=days,
                start_time=start,
                end_time=lake.now(),
                state=state,
                rows_in=result.rows_in,
                rows_out=result.rows_out,
                message=message,
                input_versions=dict(lake.inputs) | (extra or {}),
                table_versions={w.table: w.version for w in result.written},
                spark_jobs=work.jobs,
                sql_executions=work.executions,
            )
            self.night.stages.append(done)
            self.record.stage(done)
            if self.told is not None:
                self.told.stage(done)
            self.watch.ends(done)
        self.night.notes += [f"{name}: {note}" for note in result.notes]
        if result.beside is not None:
            self.beside.append((name, result.beside))
        log.info(
            "stage done", rows_in=done.rows_in, rows_out=done.rows_out, seconds=round(done.duration_s, 1),
            spark_jobs=done.spark_jobs, sql_executions=done.sql_executions,
        )  # fmt: skip


def _apart(days: Days, asked: Days) -> list[Days]:
    """The days one by one, those asked for together."""
    before, after = ([day for day in days if side(day)] for side in (asked.start.__gt__, asked.end.__lt__))
    own = [asked] if asked.start in days else []
    return [*map(Days.of, before), *own, *map(Days.of, after)]


def _require_input(lake: Lake, days: Days) -> None:
    """Raise NoInputError where no reading of the days was ever delivered."""
    if not _has_input(lake, days):
        raise NoInputError(
            f"no reading of {days} was ever delivered; earlier days are untouched",
            where="bronze",
            remedy="check the sources' paths and the collectors, then run the same command again",
        )


def _has_input(lake: Lake, days: Days) -> bool:
    """Whether a reading of the days was ever delivered; the files' bounds say so in most cases."""
    for file in lake.files(READING, days):
        if any(day is not None and day in days for day in (file.first_day, file.last_day)):
            return True
        within = pl.col("reading_date").is_between(days.start, days.end)
        if not read_files(READING, [file], ["reading_date"], within).is_empty():
            return True
    return False


def _first_line(error: BaseException) -> str:
    text = redact(str(of_system(error) or error)).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__
