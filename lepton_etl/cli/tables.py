"""`lepton-etl tables`: list, show and compare tables on a terminal, without Spark."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lepton_etl.config.sections import AuditSettings
from lepton_etl.csv_cells import write_csv
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, LakeError, printable
from lepton_etl.lake.compare import Tolerance, compare_lakes, read_corrections
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.recommend import RECOMMENDATION
from lepton_etl.schema.tables import TABLES

# The figures that fit a terminal; `--csv` and `--column` give the others.
_SHORT: Final = {
    CLUSTER_DAY.name: (
        "date", "cluster_id", "node_count", "it_energy_kwh", "it_energy_lower_kwh", "it_energy_upper_kwh",
        "coverage_ratio", "idle_energy_kwh", "facility_energy_kwh", "pue_ratio", "pue_basis",
        "cpu_utilisation_ratio", "gpu_utilisation_ratio", "peak_power_w", "inlet_temp_p99_c",
        "emissions_location_kgco2e", "energy_basis", "status",
    ),
    RECOMMENDATION.name: (
        "recommendation_id", "lever", "recommendation_state", "advice", "expected_saving_kwh",
        "expected_saving_lower_kwh", "expected_saving_upper_kwh", "expected_saving_kgco2e", "expected_saving_cost",
        "currency", "expected_slowdown_ratio", "window_end",
    ),
}  # fmt: skip
_WIDTH: Final = 200
_MIB: Final = 1 << 20


def print_tables(lake: Lake) -> None:
    """Name, grain, version and rows of every table; rows are those of the log's statistics."""
    shown = RichTable()
    for heading in ("table", "one row is", "version", "rows"):
        shown.add_column(heading, justify="right" if heading in ("version", "rows") else "left")
    for table in TABLES.values():
        if not lake.exists(table):
            shown.add_row(table.name, table.grain, "-", "-")
            continue
        log = lake.log(table)
        shown.add_row(table.name, table.grain, str(log.version()), f"{log.count():,}")
    Console(width=max(Console().width, 120)).print(shown)


def print_rows(
    lake: Lake,
    name: str,
    days: Days | None,
    columns: Sequence[str] | None,
    limit: int,
    *,
    as_csv: bool,
) -> None:
    """Rows of one table in key order. Raises ConfigurationError for an unknown name, LakeError for a missing table."""
    if name not in TABLES:
        raise ConfigurationError(
            f"no table {name!r}", where="tables show", remedy=f"one of {', '.join(TABLES)}"
        )
    table = TABLES[name]
    show_rows(table, _rows(lake, table, days), columns, limit, as_csv=as_csv)


def print_comparison(
    left: Path,
    right: Path,
    *,
    only: Sequence[str],
    ignore: Sequence[str],
    expected: Path | None,
    days: Days | None,
    tolerance: Tolerance,
) -> bool:
    """Whether two lakes agree but for the expected corrections; print what differs, table by table."""
    corrections = read_corrections(expected) if expected else []
    agree, counted = True, 0
    for compared in compare_lakes(
        left,
        right,
        only=only,
        ignore=ignore,
        expected=corrections,
        days=days,
        tolerance=tolerance,
    ):
        counted += 1
        agree &= compared.as_expected
        for line in compared.lines():
            print(printable(line))
    print(f"{counted} tables compared: {'no unexpected difference' if agree else 'they differ'}")
    return agree


def print_findings(lake: Lake, only: Sequence[str]) -> None:
    """What a full read of the lake finds, a line each. Raises LakeError where it found anything."""
    from lepton_etl.lake.check import check_lake

    unknown = sorted(set(only) - set(TABLES))
    if unknown:
        raise ConfigurationError(
            f"no table {', '.join(unknown)}", where="tables check", remedy=f"one of {', '.join(TABLES)}"
        )
    found = 0
    for finding in check_lake(lake, only):
        found += 1
        print(printable(str(finding)), flush=True)
    if found:
        raise LakeError(
            f"{found} findings in the lake, named above",
            where=str(lake.root),
            remedy="do what each line says",
        )
    print("every file was read: required columns, bounds, keys and counts hold")


def print_rebuilt(lake: Lake, audit: AuditSettings) -> None:
    """Rebuild bronze/file from the rows of bronze and say what changed.

    Raises LakeError for files of which bronze holds a part, LockedError while a night loads files.
    """
    from lepton_etl.lake.file_register import FileRegister
    from lepton_etl.lake.lease import Lease
    from lepton_etl.lake.runs import new_run_id
    from lepton_etl.trust.chain import Event, record

    run_id = new_run_id()
    lake.metadata = {"run_id": run_id, "stage": "rebuild-register"}
    with Lease(lake, "bronze", run_id):
        found = FileRegister(lake).rebuild()
        record(lake, audit, run_id, Event("rebuild", FILE.name, detail={"added": found.added}))
    for path in found.forgotten:
        print(printable(f"forgotten: {path}"))
    print(f"bronze/file version {lake.version(FILE)}: {found}")
    for path in found.broken:
        print(printable(f"only a part of its rows stands in bronze: {path}"))
    if found.broken:
        raise LakeError(
            f"{len(found.broken)} files, named above, stand in bronze with a part of their rows",
            where=str(lake.root),
            remedy="restore bronze/reading, bronze/reject and bronze/job from one copy",
        )


def print_maintained(lake: Lake, audit: AuditSettings, keep_days: int, *, dry_run: bool) -> None:
    """What maintenance did to each table, its size and growth. Raises LockedError while a night loads files."""
    from lepton_etl.lake.maintenance import maintain
    from lepton_etl.lake.runs import new_run_id
    from lepton_etl.trust.chain import Event, record

    shown = RichTable()
    removed = "would be removed" if dry_run else "removed"
    for heading in (
        "table",
        "version",
        "rows",
        "files",
        "MiB",
        "MiB a day",
        "put together",
        f"files {removed}",
        f"MiB {removed}",
    ):
        shown.add_column(heading, justify="left" if heading == "table" else "right")
    run_id = new_run_id()
    done = list(maintain(lake, run_id, keep_days, dry_run=dry_run))
    if not dry_run:
        detail = {"keep_days": keep_days, "removed_files": sum(one.removed_files for one in done)}
        record(lake, audit, run_id, Event("maintenance", f"{len(done)} tables", detail=detail))
    for one in done:
        growth = "-" if one.growth_bytes is None else f"{one.growth_bytes / _MIB:,.2f}"
        shown.add_row(
            one.table, str(one.version), f"{one.rows:,}", f"{one.files:,}", f"{one.size_bytes / _MIB:,.2f}", growth,
            str(one.put_together), f"{one.removed_files:,}", f"{one.removed_bytes / _MIB:,.2f}",
        )  # fmt: skip
    Console(width=max(Console().width, _WIDTH)).print(shown)
    size, freed = sum(one.size_bytes for one in done), sum(one.removed_bytes for one in done)
    daily = sum(one.growth_bytes or 0.0 for one in done)
    print(f"{size / _MIB:,.1f} MiB in {len(done)} tables, {freed / _MIB:,.1f} MiB {removed}; a day adds "
          f"{daily / _MIB:,.2f} MiB, a year {365 * daily / _MIB / 1024:,.2f} GiB")  # fmt: skip


def show_rows(
    table: Table, rows: pa.Table, columns: Sequence[str] | None, limit: int, *, as_csv: bool, title: str = ""
) -> None:
    """Rows of a declared table on the terminal or as CSV. Raises ConfigurationError for an unknown column."""
    unknown = sorted(set(columns or ()) - set(table.columns))
    if unknown:
        raise ConfigurationError(
            f"no column {', '.join(unknown)}", where=table.name, remedy=f"one of {', '.join(table.columns)}"
        )
    if as_csv:
        wanted = list(columns) if columns else list(table.columns)
        write_csv(sys.stdout, wanted, (row.values() for row in rows.select(wanted).to_pylist()))
        return
    chosen = list(columns) if columns else list(_SHORT.get(table.name, table.columns))
    heading = f"{title or table.name}: {table.grain} ({rows.num_rows:,} rows)"
    shown = RichTable(title=heading, title_justify="left")
    for column in chosen:
        shown.add_column(column.replace("_", "\n"), justify="right" if _is_number(table, column) else "left")
    for row in rows.slice(0, limit).select(chosen).to_pylist():
        shown.add_row(*(Text(printable(_cell(value))) for value in row.values()))
    Console(width=max(Console().width, _WIDTH)).print(shown)
    for warning in table.warnings:
        print(f"note: {warning}")


def _rows(lake: Lake, table: Table, days: Days | None) -> pa.Table:
    """The published rows: a night that is being made, or was stopped, shows the night before."""
    if not lake.exists(table):
        raise LakeError("the table does not exist yet", where=lake.path(table), remedy="run a night first")
    within = days if days is not None and "date" in table.columns else None
    rows = lake.as_published(within).read(table, within).to_arrow()
    order = table.key or table.columns[:1]
    return rows.sort_by([(column, "ascending") for column in order])


def _is_number(table: Table, column: str) -> bool:
    return any(f.name == column and f.type in ("double", "int", "bigint") for f in table.fields)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    return value.isoformat() if isinstance(value, date) else str(value)
