"""A made-up report: two clusters and the shared rest over some days, with gaps, unknowns and bad files."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from lepton_etl.days import Days
from lepton_etl.report import data as d
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.types import arrow_schema

START = datetime(2025, 6, 3, tzinfo=UTC)
BASE: dict[str, Any] = {
    "site_id": "mghpcc", "pue_basis": "none", "facility_basis": "none", "emissions_basis": "none",
    "idle_basis": "none", "energy_basis": "measured", "status": "provisional",
}  # fmt: skip


def cluster_row(cluster: str, start: datetime, hours: int, *, nodes: int, watts: float) -> dict[str, Any]:
    """A cluster-hour or cluster-day of made-up power, with facility and carbon by constant factors."""
    energy = nodes * watts * hours / 1000
    return BASE | {
        "date": start.date(), "hour_start": start, "cluster_id": cluster, "node_count": nodes,
        "it_energy_kwh": energy, "it_energy_measured_kwh": energy, "it_energy_lower_kwh": energy * 0.918,
        "it_energy_upper_kwh": energy * 1.082, "coverage_ratio": 0.9871, "node_second_coverage_ratio": 0.985,
        "idle_energy_kwh": energy * 0.23, "idle_basis": "utilisation", "facility_energy_kwh": energy * 1.31,
        "facility_basis": "partial", "pue_ratio": 1.31, "pue_basis": "partial", "pue_category": 3,
        "cpu_utilisation_ratio": 0.412, "gpu_utilisation_ratio": 0.63, "peak_power_w": nodes * watts * 1.2,
        "inlet_temp_p99_c": 26.4, "carbon_intensity_gco2e_per_kwh": 251.0, "emissions_location_kgco2e":
        energy * 1.31 * 0.251, "emissions_basis": "measured", "emissions_missing_kwh": 0.0,
    }  # fmt: skip


def unknown_row(cluster: str, start: datetime, *, nodes: int) -> dict[str, Any]:
    """A cluster of which only the node count is known."""
    return BASE | {
        "date": start.date(), "hour_start": start, "cluster_id": cluster, "node_count": nodes,
        "energy_basis": "insufficient", "coverage_ratio": 0.41,
    }  # fmt: skip


def site_row(start: datetime, **more: Any) -> dict[str, Any]:
    """A site-hour of a clean site with meters: facility and emissions known, IT energy by sensors in all nodes."""
    energy = 100.0
    return BASE | {
        "date": start.date(), "hour_start": start, "node_count": 1832, "coverage_ratio": 0.9871,
        "it_energy_kwh": energy, "it_energy_measured_kwh": energy, "it_energy_lower_kwh": 98.0,
        "it_energy_upper_kwh": 102.0, "facility_energy_kwh": 131.0, "facility_basis": "measured",
        "grid_import_kwh": 131.0, "emissions_location_kgco2e": 131.0 * 0.251, "emissions_missing_kwh": 0.0,
        "emissions_basis": "measured",
    } | more  # fmt: skip


def kpi_row(day: date, kpi: str, facility_kwh: float | None, it_kwh: float | None) -> dict[str, Any]:
    """A PUE of gold/kpi of one day."""
    value = facility_kwh / it_kwh if facility_kwh and it_kwh else None
    return {
        "date": day, "period": "day", "site_id": "mghpcc", "boundary": "site", "kpi": kpi, "kpi_value": value,
        "kpi_unit": "1", "kpi_basis": "measured" if value else "none", "edition": "e", "is_interim": True,
        "kpi_reason": None if value else "only 3 of 24 hours are known", "numerator": facility_kwh if value else None,
        "denominator": it_kwh if value else None, "pue_category": int(kpi[-1]), "status": "provisional",
    }  # fmt: skip


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)


def _watts(hour: int, base: float) -> float:
    return base * (1 + 0.25 * math.sin(2 * math.pi * (hour - 9) / 24))


def point(node: int, hour: int) -> dict[str, Any]:
    """An hour of a made-up node; every third is a GPU."""
    load = 0.5 + 0.45 * math.sin(node * 1.7 + hour / 3)
    common = {"node_id": f"node{node:04d}", "hour_start": START + timedelta(hours=hour), "load_ratio": load}
    if node % 3 == 0:
        return common | {
            "subject": "GPU", "device_id": "gpu0", "hardware_class": "h100-sxm", "power_w": 90 + 480 * load,
            "load_kind": "GPU utilisation", "temperature_kind": "GPU temperature",
            "temperature_c": 30 + 40 * load,
        }  # fmt: skip
    return common | {
        "subject": "node", "device_id": "node", "hardware_class": "epyc-9654" if node % 2 else "xeon-8480",
        "power_w": 140 + 300 * load + node % 2 * 60, "load_kind": "CPU utilisation",
        "temperature_kind": "Inlet temperature", "temperature_c": 20 + 5 * math.sin(hour / 4 + node),
    }  # fmt: skip


def points(nodes: int, hours: int) -> pa.Table:
    return table([point(node, hour) for node in range(nodes) for hour in range(hours)], d.POINT_SCHEMA)


def cells(nodes: int, hours: int) -> pa.Table:
    ratios = (1.0, 0.97, 0.7, 0.2, 0.0)
    return table(
        [
            {"node_id": f"node{node:04d}", "bucket_start": START + timedelta(hours=hour),
             "coverage_ratio": ratios[min(4, (node * 7 + hour * 3) % 23 // 4)] if node % 5 else 1.0}
            for node in range(nodes) for hour in range(hours)
        ],
        d.COVERAGE_SCHEMA,
    )  # fmt: skip


def error_row(server: str, kind: str) -> dict[str, Any]:
    return {
        "server": server, "hours_kind": kind, "hours": 1200, "mape_ratio": 0.061, "wape_ratio": 0.048,
        "cv_ratio": 0.083, "nmbe_ratio": -0.004, "baseline_wape_ratio": 0.14,
    }  # fmt: skip


def made_up(days: int = 1, **changes: Any) -> d.ReportData:
    """The report of `days` days from 2025-06-03; `changes` replace fields of ReportData."""
    hours = [START + timedelta(hours=hour) for hour in range(days * 24)]
    day_rows = [
        row
        for offset in range(days)
        for row in (
            cluster_row("hpc", START + timedelta(days=offset), 24, nodes=1724, watts=310.0),
            cluster_row("ml", START + timedelta(days=offset), 24, nodes=96, watts=4200.0),
            unknown_row("storage", START + timedelta(days=offset), nodes=12),
        )
    ]
    hour_rows = [
        row
        for time in hours
        for row in (
            cluster_row("hpc", time, 1, nodes=1724, watts=_watts(time.hour, 310.0)),
            unknown_row("ml", time, nodes=96) if time.hour in (4, 5, 6) else
            cluster_row("ml", time, 1, nodes=96, watts=_watts(time.hour + 5, 4200.0)),
            unknown_row("storage", time, nodes=12),
        )
    ]  # fmt: skip
    sample = points(40, 24)
    fields: dict[str, Any] = {
        "run": d.RunInfo(
            "mghpcc", "America/New_York", Days.of(date(2025, 6, 3), date(2025, 6, 2 + days)), "run-7f3a",
            "0.1.0+abc1234", datetime(2025, 6, 4, 2, 11, 5, tzinfo=UTC),
        ),
        "cluster_day": table(day_rows, d.CLUSTER_DAY_SCHEMA),
        "cluster_hour": table(hour_rows, d.CLUSTER_HOUR_SCHEMA),
        "site_hour": table([site_row(time) for time in hours], d.SITE_HOUR_SCHEMA),
        "kpi": table(
            [kpi_row(START.date() + timedelta(days=n), "pue3", 3144.0, 2400.0) for n in range(days)], arrow_schema(KPI)
        ),
        "points": d.Sample(sample, 44_928),
        "coverage": d.Coverage(cells(60, 24), nodes_total=1832, nodes_complete=1502),
        "files": table([
            {"source_name": "bmc", "state": "loaded", "files": 1723, "size_bytes": 3_211_000_000, "records":
             61_423_000, "readings": 5_550_000, "rejects": 812, "duplicates": 1440, "ignored": 55_870_748},
            {"source_name": "bmc", "state": "discarded", "files": 1, "size_bytes": 81_000, "records": None},
        ], d.FILE_SCHEMA),
        "discarded": table([{"path": "landing/ipmi/node0007-2025-06-03.txt.gz", "source_name": "bmc",
                             "state": "discarded", "reason": "truncated_gzip"}], d.DISCARDED_SCHEMA),
        "rejects": table([
            {"source_name": "bmc", "reason": "bad_number", "records": 811, "path":
             "landing/ipmi/node0002-2025-06-03.txt.gz", "source_position": 1234,
             "raw_text": "Sys Power | 2O8 Watts | ok"},
            {"source_name": "bmc", "reason": "truncated_gzip", "records": 1, "path":
             "landing/ipmi/node0007-2025-06-03.txt.gz"},
        ], d.REJECT_SCHEMA),
        "ignored": table([
            {"source_name": "bmc", "sensor": "CMOS Battery", "reason": "unmapped", "records": 2_482_560},
            {"source_name": "bmc", "sensor": "Sys Power", "reason": "no_value", "records": 91_120},
        ], d.IGNORED_SCHEMA),
        "gate": d.Gate(("silver/interval: 0.4 % of node intervals flagged full_scale (limit 0.1 %)",),
                       "../../quality/index.html"),
        "stages": table([
            {"run_id": "run-7f3a", "stage": stage, "date_from": START.date(), "date_until": START.date(),
             "state": "done", "rows_in": rows, "rows_out": rows // 10, "duration_s": seconds}
            for stage, rows, seconds in (("bronze", 61_423_000, 92.1), ("silver", 5_550_000, 41.7))
        ], d.STAGE_SCHEMA),
        "model": d.ModelSummary(
            "node-energy", "3", "it passed the gate and is the champion.",
            table([error_row(name, kind) for name in ("(all)", "node0003") for kind in ("all", "busy")],
                  d.ERROR_SCHEMA), baseline="the mean of the hardware class",
            rivals=table([{"model": "linear", "rival": "linear model", "mape_ratio": 0.2, "wape_ratio": 0.21,
                           "cv_ratio": 0.234, "nmbe_ratio": 0.0}], d.RIVAL_SCHEMA),
        ),
        "predictions": d.Sample(table([
            {"node_id": row["node_id"], "device_id": row["device_id"], "hour_start": row["hour_start"],
             "energy_kwh": row["power_w"] / 1000, "predicted_kwh": row["power_w"] / 1000 *
             (1 + 0.06 * math.sin(index))}
            for index, row in enumerate(sample.to_pylist())
        ], d.PREDICTION_SCHEMA), 960),
    }  # fmt: skip
    return d.ReportData(**(fields | changes))


@pytest.fixture(scope="session")
def made_up_report() -> Callable[..., d.ReportData]:
    return made_up
