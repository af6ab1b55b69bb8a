"""`lepton-etl`: the command line. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import structlog
import typer
from rich.console import Console

from lepton_etl.cli.audit import audit_app
from lepton_etl.cli.export import export_app
from lepton_etl.cli.privacy import forget, privacy_app, publish
from lepton_etl.cli.publication import close, figures
from lepton_etl.cli.recommend import recommend_app
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, Exit, LeptonError, of_system, printable
from lepton_etl.redaction import guard_streams
from lepton_etl.simulator.command import simulate_command

if TYPE_CHECKING:
    from lepton_etl.config.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
tables_app = typer.Typer(
    no_args_is_help=True, help="List, show and compare the tables of the lake; starts no Spark."
)
app.add_typer(tables_app, name="tables")
app.add_typer(audit_app, name="audit")
app.add_typer(export_app, name="export")
app.add_typer(recommend_app, name="recommend")
app.add_typer(privacy_app, name="privacy")
app.command("simulate")(simulate_command)
app.command()(figures)
app.command()(close)
app.command()(forget)
app.command()(publish)


class EngineName(StrEnum):
    """What runs the tasks of a night."""

    SPARK = "spark"
    LOCAL = "local"


Config = Annotated[Path, typer.Option(help="Settings file of the site (YAML).")]
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="UTC day.")]
LastDay = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last UTC day of a range.")]


@app.command()
def nightly(
    config: Config,
    date: Day,
    until: LastDay = None,
    stage: Annotated[str | None, typer.Option(help="Run only this stage, such as bronze or report.")] = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="Where the tasks run: in Spark, or in processes of this machine without Java."),
    ] = EngineName.SPARK,
    master: Annotated[
        str | None, typer.Option(help="Spark master; default local[*], or spark-submit's.")
    ] = None,
) -> None:
    """Run one night, a range of days, or one stage."""
    # What is imported lives on: to look through it again and again for garbage is a tenth of a small night.
    gc.set_threshold(200_000, 50, 100)
    # skops, which reads models, looks for each function of SciPy in all modules before it: late, that takes long.
    import scipy.special  # noqa: F401

    from pipelines.engine import opened, prepare

    if engine is EngineName.LOCAL and stage is None:
        prepare()
    from lepton_etl.config.settings import load
    from pipelines.nightly import STAGES, check, run_night

    days = _days(date, until)
    if stage is not None and stage not in STAGES:
        raise ConfigurationError(
            f"--stage {stage!r} is not a stage", where="nightly", remedy=f"one of {', '.join(STAGES)}"
        )
    settings = load(config)
    check(settings)
    # The operator's stop ends the Spark job and gives the leases back, like Ctrl-C does.
    signal.signal(signal.SIGTERM, _stopped)

    from lepton_etl.cli.progress import print_stages, watching

    options = settings.spark_options | ({"spark.master": master} if master else {})
    with opened(engine, options, "lepton-etl nightly") as tasks, watching(Console(stderr=True)) as watch:
        night = run_night(tasks, settings, days, stage, watch)
    print_stages(night)
    _end(night.exit_code, f"nightly: {_outcome(night.exit_code)} for {days} (run {night.run_id}, exit "
         f"{int(night.exit_code)})" + (f": {night.message}" if night.message else ""))  # fmt: skip


@app.command()
def report(config: Config, date: Day, until: LastDay = None) -> None:
    """Write the HTML report of these days again."""
    # The page is made of few rows: it needs no Spark.
    nightly(config, date, until, stage="report", engine=EngineName.LOCAL)


@app.command()
def explain(
    config: Config,
    node: Annotated[str, typer.Option(help="node_id, as in the inventory.")],
    hour: Annotated[datetime, typer.Option(formats=["%Y-%m-%dT%H", "%Y-%m-%dT%H:%M"], help="UTC hour.")],
) -> None:
    """Explain the energy that the model predicts for a node in an hour.

    Shows the part of each feature, sensitivities, and whether a local linear model agrees.
    """
    from lepton_etl.cli.models import explained
    from lepton_etl.lake.tables import Lake

    settings = _settings(config)
    for line in explained(Lake.of(settings), settings, node, hour.replace(minute=0, tzinfo=UTC)):
        typer.echo(line)


@app.command()
def replay(
    config: Config,
    policy: Annotated[
        list[str],
        typer.Option(help="cheapest_window, threshold or planned; may be repeated."),
    ],
    first: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day of submission.")
    ],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day of submission.")],
    flexibility_h: Annotated[
        float, typer.Option(min=0, max=96, help="How many hours later a job may start.")
    ] = 24.0,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Simulate the jobs of these days under other start-time policies: emissions, cost, delay, missed deadlines."""
    from lepton_etl.cli.replay import run, show
    from lepton_etl.lake.tables import Lake
    from lepton_etl.recommend.replay import POLICIES
    from pipelines.engine import LocalEngine

    unknown = sorted(set(policy) - set(POLICIES))
    if unknown:
        raise ConfigurationError(
            f"no policy {', '.join(unknown)}", where="replay", remedy=f"one of {', '.join(POLICIES)}"
        )
    settings = _settings(config)
    with LocalEngine() as engine:
        done = run(
            Lake.of(settings), settings, policy, Days(first.date(), last.date()), flexibility_h, engine
        )
    show(done, as_csv=csv)


@app.command()
def watch(
    config: Config,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Process what has been written so far, then end.")
    ] = False,
    master: Annotated[
        str | None, typer.Option(help="Spark master; default local[*], or spark-submit's.")
    ] = None,
) -> None:
    """Follow growing logs and keep the newest performance state of every device in gold/device_now, until stopped."""
    from lepton_etl.lake.session import spark_session
    from lepton_etl.streaming.watch import run

    settings = _settings(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    extra = settings.spark_options | ({"spark.master": master} if master else {})
    spark = spark_session("lepton-etl watch", extra)
    spark.sparkContext.setLogLevel("ERROR")
    try:
        watched = run(spark, settings, until_idle=until_idle, stop=stop)
    finally:
        spark.stop()
    changes = sum(len(batch.changes) for batch in watched.batches)
    _end(Exit.DONE, f"watch: {'stopped' if stop.is_set() else 'done'} after {len(watched.batches)} batches, "
         f"{changes} changes of state (run {watched.run_id}, exit 0)")  # fmt: skip


@app.command()
def models(config: Config) -> None:
    """List the registered versions of the site's models: alias, promotion with its reason, errors."""
    from lepton_etl.cli.models import print_versions

    print_versions(_settings(config))


@app.command()
def sensors(
    config: Config,
    files: Annotated[
        int, typer.Option(min=1, help="How many of the newest files of each source to look at.")
    ] = 3,
) -> None:
    """List sensors that no rule reads: count, unit, range, and a rule that would read them. Reads raw files alone."""
    from lepton_etl.cli.sensors import print_unmapped

    print_unmapped(_settings(config), files)


@app.command()
def factors(
    config: Config,
    date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="UTC day; default: today.")
    ] = None,
    newer: Annotated[
        Path | None,
        typer.Option(
            help="Read this CSV file, named as its table, or folder of such, in place of carbon.own_factors."
        ),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List the factors that the site's figures take on a day: value, year, age, what is missing or unchecked."""
    from lepton_etl.cli.factors import print_factors

    day = (date or datetime.now(UTC)).date()
    print_factors(_settings(config), day, newer, as_csv=csv)


@app.command()
def trace(
    config: Config,
    table: Annotated[str, typer.Option(help="Table of the figure, such as gold/tenant_day.")],
    date: Day,
    column: Annotated[str, typer.Option(help="Column, such as it_energy_kwh; carbon, cost and pue do too.")],
    cluster: Annotated[list[str] | None, typer.Option(help="Only this cluster; may be repeated.")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated.")] = None,
    job: Annotated[list[str] | None, typer.Option(help="Only this job; may be repeated.")] = None,
    hour: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%dT%H", "%Y-%m-%dT%H:%M"], help="Only this UTC hour.")
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(help="Of what is summed follow this node; may be repeated.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Follow every part of every sum, not only the largest.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where a published figure comes from: formula, numbers, rows, readings, and the lines of the logs."""
    from lepton_etl.cli.trace import print_trace, tracer_of
    from lepton_etl.trust.trace import Choice

    given = {
        "cluster_id": cluster, "tenant_id": tenant, "job_id": job,
        "hour_start": [f"{hour:%Y-%m-%dT%H}:00Z"] if hour else None,
    }  # fmt: skip
    wanted = {name: values for name, values in given.items() if values}
    if table == "gold/node_hour" and node:
        wanted["node_id"] = node
    tracer = tracer_of(_settings(config), date.date(), Choice(every, frozenset(node or ())))
    print_trace(tracer.figures(table, column, wanted), tracer.recorded.gone, as_json=as_json)


@tables_app.command("list")
def tables_list(config: Config) -> None:
    """List every table of the lake: what one row is, Delta version, number of rows."""
    from lepton_etl.cli.tables import print_tables
    from lepton_etl.lake.tables import Lake

    print_tables(Lake.of(_settings(config)))


@tables_app.command("show")
def tables_show(
    table: Annotated[str, typer.Argument(help="Name of a table, such as gold/cluster_day.")],
    config: Config,
    date: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only this UTC day.")] = None,
    until: LastDay = None,
    column: Annotated[list[str] | None, typer.Option(help="Only these columns; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Print at most this many rows.")] = 40,
    csv: Annotated[bool, typer.Option("--csv", help="Print all columns as CSV.")] = False,
) -> None:
    """Show rows of one table in key order; an unknown figure is a dash."""
    from lepton_etl.cli.tables import print_rows
    from lepton_etl.lake.tables import Lake

    days = _days(date, until) if date else None
    print_rows(Lake.of(_settings(config)), table, days, column, limit, as_csv=csv)


@tables_app.command("compare")
def tables_compare(
    left: Annotated[Path, typer.Argument(help="Folder of one lake, such as var/site/lake.")],
    right: Annotated[Path, typer.Argument(help="Folder of the other lake.")],
    table: Annotated[list[str] | None, typer.Option(help="Only this table; may be repeated.")] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Leave out a table or table.column; may be repeated.")
    ] = None,
    expected: Annotated[
        Path | None, typer.Option(help="YAML list of expected differences: table, column, reason, rows.")
    ] = None,
    date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Only this UTC day, of tables that have one."),
    ] = None,
    until: LastDay = None,
    relative: Annotated[
        float, typer.Option(min=0.0, help="How far doubles may be apart, as a share of the larger.")
    ] = 1e-9,
    absolute: Annotated[float, typer.Option(min=0.0, help="How far doubles may be apart in all.")] = 1e-12,
) -> None:
    """Compare two lakes by key, table by table; exit 1 where they differ in more than run ids, times and versions."""
    from lepton_etl.cli.tables import print_comparison
    from lepton_etl.lake.compare import Tolerance

    agree = print_comparison(
        left,
        right,
        only=table or (),
        ignore=ignore or (),
        expected=expected,
        days=_days(date, until) if date else None,
        tolerance=Tolerance(relative, absolute),
    )
    if not agree:
        raise typer.Exit(int(Exit.UNEXPECTED))


@tables_app.command("check")
def tables_check(
    config: Config,
    table: Annotated[list[str] | None, typer.Option(help="Check this table only; may be repeated.")] = None,
) -> None:
    """Read the whole lake and report what is damaged: table, version, file and remedy. Exit code 1 if anything is."""
    from lepton_etl.cli.tables import print_findings
    from lepton_etl.lake.tables import Lake

    print_findings(Lake.of(_settings(config)), table or ())


@app.command()
def maintain(
    config: Config,
    keep_days: Annotated[
        int, typer.Option(min=7, max=3650, help="Days for which files of replaced versions are kept.")
    ] = 30,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: show sizes, and what would be removed.")
    ] = False,
) -> None:
    """Put small files together, remove files that no version needs, write checkpoints; shows how the lake grows."""
    from lepton_etl.cli.tables import print_maintained
    from lepton_etl.lake.tables import Lake

    settings = _settings(config)
    print_maintained(Lake.of(settings), settings.audit, keep_days, dry_run=dry_run)


@tables_app.command("rebuild-register")
def tables_rebuild_register(config: Config) -> None:
    """Make bronze/file again from the rows of bronze, where it was lost or restored without the other tables."""
    from lepton_etl.cli.tables import print_rebuilt
    from lepton_etl.lake.tables import Lake

    settings = _settings(config)
    print_rebuilt(Lake.of(settings), settings.audit)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command; the last line of standard error says what failed, where, and what to do; exit codes agree."""
    guard_streams()
    _log_to_stderr()
    try:
        app(args=arguments, standalone_mode=True)
    except LeptonError as error:
        _end(error.exit_code, f"{error} (exit {int(error.exit_code)})")
    except OSError as error:
        refused = of_system(error)
        if refused is None:
            raise
        _end(refused.exit_code, f"{refused} (exit {int(refused.exit_code)})")
    except KeyboardInterrupt:
        _end(Exit.UNEXPECTED, "stopped by a signal; run the same command again (exit 1)")
    raise SystemExit(0)


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run a command as all that this process does.

    It leaves without taking the interpreter apart, which takes a second or two once MLflow and Great Expectations are
    imported, and would wait for a thread that a registry keeps from ending.
    """
    # On the driver's few thousand rows the threads of OpenMP and BLAS take five times the CPU-seconds of one, and many
    # times its wall time on a busy machine; what is large runs in tasks. The libraries read it as they are imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main(arguments)
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        atexit._run_exitfuncs()
        # Whoever read the output may be gone.
        with suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ended.code)


def _stopped(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _settings(config: Path) -> Settings:
    from lepton_etl.config.settings import load

    return load(config)


def _days(date: datetime, until: datetime | None) -> Days:
    return Days.of(date.date(), until.date() if until else None)


def _outcome(code: Exit) -> str:
    return {
        Exit.DONE: "done",
        Exit.UNEXPECTED: "failed",
        Exit.CONFIGURATION: "stopped: settings or usage are wrong",
        Exit.QUALITY_GATE: "stopped at the gate before gold",
        Exit.NO_INPUT: "no input for these days",
        Exit.LOCKED: "another run holds the lease",
        Exit.PUBLISHED_THEN_FAILED: "published, then a later stage failed",
    }[code]


def _log_to_stderr() -> None:
    """Log JSON lines for machines; on a terminal only warnings, as the progress line shows the rest."""
    level = logging.WARNING if sys.stderr.isatty() else logging.INFO
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _end(code: Exit, line: str) -> NoReturn:
    sys.stdout.flush()
    print(printable(line), file=sys.stderr, flush=True)
    raise SystemExit(int(code))


if __name__ == "__main__":
    main()
