"""Sum up and write the figures of the page: totals, what is unknown, headline tiles, ledger, tenants.

A total over days or clusters says in how many of its rows the figure was known; known in none, it is unknown
too. Figures are written in a unit that people read, with three to five digits, and a dash for the unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any, Final
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa

from lepton_etl.days import Days
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM

DASH: Final = "–"
# Thin no-break space between digits and unit, so that a figure never wraps apart.
_GAP: Final = "\u202f"


def number(value: float | int | None, digits: int = 4) -> str:
    """`digits` significant digits with thousands separators; whole numbers of a count stay whole."""
    if value is None:
        return DASH
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    magnitude = _magnitude(value)
    decimals = max(0, digits - 1 - magnitude)
    return f"{value:,.{min(decimals, 6)}f}"


def _magnitude(value: float) -> int:
    return int(f"{abs(value):e}".split("e")[1])


def _scaled(value: float | None, steps: tuple[tuple[float, str], ...]) -> str:
    if value is None:
        return DASH
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{number(value / factor)}{_GAP}{unit}"
    factor, unit = steps[-1]
    return f"{number(value / factor)}{_GAP}{unit}"


def energy(kwh: float | None) -> str:
    """kWh up to 10,000, then MWh and GWh."""
    if kwh is None or abs(kwh) < 1e4:
        return _scaled(kwh, ((1.0, "kWh"),))
    return _scaled(kwh, ((1e6, "GWh"), (1e3, "MWh")))


def power(watt: float | None) -> str:
    return _scaled(watt, ((1e6, "MW"), (1e3, "kW"), (1.0, "W")))


def mass(kilogram: float | None) -> str:
    return _scaled(kilogram, ((1e3, "t\u00a0CO₂e"), (1.0, "kg\u00a0CO₂e")))


def intensity_text(grams: float | None) -> str:
    return DASH if grams is None else f"{number(grams, 3)}{_GAP}g/kWh"


def percent(ratio: float | None, decimals: int = 1) -> str:
    """A ratio in percent; anything below all of it never rounds up to 100 %."""
    if ratio is None:
        return DASH
    shown = f"{ratio * 100:.{decimals}f}"
    if ratio < 1 and float(shown) >= 100:
        shown = f"{100 - 10**-decimals:.{decimals}f}"
    elif float(shown) == 0:
        shown = shown.removeprefix("-")
    return f"{shown}{_GAP}%"


def temperature(celsius: float | None) -> str:
    return DASH if celsius is None else f"{celsius:.1f}{_GAP}°C"


def ratio(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def size(count: int | None) -> str:
    if count is None or count < 1000:
        return DASH if count is None else f"{count}{_GAP}B"
    return _scaled(float(count), ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")))


def seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:,.1f}{_GAP}s"


def utc_days(days: Days) -> str:
    if days.count == 1:
        return f"UTC day {days.start}"
    return f"{days.start} to {days.end} ({days.count:,} UTC days)"


def local_span(days: Days, timezone: str) -> str:
    """The same instants on the site's clock: "2025-06-02 20:00 to 2025-06-03 20:00, America/New_York"."""
    zone = ZoneInfo(timezone)
    start, end = (stamp.astimezone(zone) for stamp in (days.from_time, days.until_time))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {timezone}"


def local_dates(days: Days, timezone: str) -> tuple[date, date]:
    """First and last local calendar day that the UTC days touch."""
    zone = ZoneInfo(timezone)
    last = days.until_time - timedelta(microseconds=1)
    return days.from_time.astimezone(zone).date(), last.astimezone(zone).date()


def stamp(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


Row = Mapping[str, Any]

SUMMED: Final = (
    "it_energy_kwh", "it_energy_measured_kwh", "gpu_energy_kwh",
    "idle_energy_kwh", "facility_energy_kwh", "emissions_location_kgco2e", "emissions_upstream_kgco2e",
    "emissions_missing_kwh", "embodied_kgco2e",
)  # fmt: skip
_AVERAGED: Final = (
    "coverage_ratio", "node_second_coverage_ratio", "cpu_utilisation_ratio", "gpu_utilisation_ratio",
)  # fmt: skip
_HIGHEST: Final = ("peak_power_w", "inlet_temp_p99_c", "node_count")
_BASES: Final = (
    "energy_basis", "idle_basis", "facility_basis", "pue_basis", "pue_category", "emissions_basis", "status",
)  # fmt: skip


@dataclass(frozen=True)
class Total:
    """A sum over rows and in how many of them it was known."""

    value: float | None
    known: int
    rows: int

    @property
    def partial(self) -> bool:
        return 0 < self.known < self.rows


def total(rows: Sequence[Row], column: str) -> Total:
    values = [row[column] for row in rows if row[column] is not None]
    return Total(sum(values) if values else None, len(values), len(rows))


def weighted_mean(rows: Sequence[Row], column: str) -> float | None:
    pairs = [(row[column], row["node_count"] or 0) for row in rows if row[column] is not None]
    weight = sum(nodes for _, nodes in pairs)
    return sum(value * nodes for value, nodes in pairs) / weight if weight else None


def ratio_of_sums(rows: Iterable[Row], above: str, below: str) -> float | None:
    both = [(row[above], row[below]) for row in rows if row[above] is not None and row[below] is not None]
    denominator = sum(low for _, low in both)
    return sum(high for high, _ in both) / denominator if denominator else None


def pue(rows: Sequence[Row]) -> float | None:
    """Facility over IT energy, over the rows that know a PUE: a ratio of sums, never a mean of ratios."""
    return ratio_of_sums(
        (row for row in rows if row["pue_ratio"] is not None), "facility_energy_kwh", "it_energy_kwh"
    )


def interval(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """Sums of the ends of the 90 % intervals; unknown unless every row that knows its energy has both ends.

    Sensor gain and resolution err alike every day, so this is the widest interval the rows allow. IT that
    only a meter knows (`_shared`) has no interval of its own: with it, the sum has none either.
    """
    known = [row for row in rows if row["it_energy_kwh"] is not None]
    ends = [(row["it_energy_lower_kwh"], row["it_energy_upper_kwh"]) for row in known]
    if not ends or any(low is None or high is None for low, high in ends):
        return None, None
    return sum(low for low, _ in ends), sum(high for _, high in ends)


def intensity(rows: Sequence[Row]) -> float | None:
    """Emissions over the facility energy that has an intensity, gCO2e/kWh."""
    known = [row for row in rows if row["emissions_location_kgco2e"] is not None]
    covered = sum((row["facility_energy_kwh"] or 0) - (row["emissions_missing_kwh"] or 0) for row in known)
    emitted = sum(row["emissions_location_kgco2e"] for row in known)
    return emitted * GRAMS_PER_KILOGRAM / covered if covered > 0 else None


def completed(rows: Sequence[Row], days: Days) -> list[Row]:
    """The rows, and one without a figure for each cluster and day that has none: it is unknown, not absent."""
    present = {(row["cluster_id"], row["date"]) for row in rows}
    some = {row["cluster_id"]: row for row in rows}
    missing = [
        dict.fromkeys(row) | {"site_id": row["site_id"], "cluster_id": cluster, "date": day}
        for cluster, row in some.items()
        for day in days
        if (cluster, day) not in present
    ]
    return [*rows, *missing]


def over_range(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a cluster over all its days: sums, ratios of sums, node-weighted means, highest values."""
    ordered = sorted(rows, key=lambda row: (row["site_id"], row["cluster_id"], row["date"]))
    return [_one(list(group)) for _, group in groupby(ordered, key=lambda r: (r["site_id"], r["cluster_id"]))]


def _one(days: list[Row]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "site_id": days[0]["site_id"], "cluster_id": days[0]["cluster_id"], "date": None, "days": len(days),
    }  # fmt: skip
    partial: dict[str, str] = {}
    for column in SUMMED:
        found = total(days, column)
        result[column] = found.value
        if found.partial:
            partial[column] = f"{found.known:,} of {found.rows:,} days"
    for column in _AVERAGED:
        result[column] = weighted_mean(days, column)
    for column in _HIGHEST:
        result[column] = max((row[column] for row in days if row[column] is not None), default=None)
    for column in _BASES:
        found_bases = sorted({str(row[column]) for row in days if row[column] is not None})
        result[column] = ", ".join(found_bases) or None
    low, high = interval(days)
    return result | {
        "it_energy_lower_kwh": low,
        "it_energy_upper_kwh": high,
        "pue_ratio": pue(days),
        "carbon_intensity_gco2e_per_kwh": intensity(days),
        "partial": partial,
    }


@dataclass(frozen=True)
class Unknown:
    """A figure that is null in `missing` of `rows` cluster-days, with its basis there and what it needs."""

    column: str
    missing: int
    rows: int
    basis: str
    why: str


# What a null rests on, and what would make the figure known. The basis column is part of the table.
_NEEDS: Final[Mapping[str, tuple[str | None, str]]] = {
    "it_energy_kwh": (
        "energy_basis",
        "Node power covers too little of the expected time (see coverage), or only components are measured and "
        "the inventory does not say what the rest of the node draws (flags unmodelled_* of gold/node_hour)."),
    "it_energy_imputed_kwh": (None, "Gaps are not filled: no imputation has been run."),
    "gpu_energy_kwh": (None, "No GPU board power is logged for these clusters."),
    "idle_energy_kwh": ("idle_basis", "Neither utilisation readings nor job records tell idle from work."),
    "facility_energy_kwh": ("facility_basis", "Needs a facility meter with readings and IT energy to share it by."),
    "pue_ratio": ("pue_basis", "Needs facility energy and IT energy of the same hours."),
    "cpu_utilisation_ratio": (None, "No CPU utilisation is logged, or all servers are mostly accelerators."),
    "gpu_utilisation_ratio": (None, "No GPU utilisation is logged."),
    "peak_power_w": (None, "Needs node power over complete intervals."),
    "inlet_temp_p99_c": (None, "No inlet temperature sensor is mapped."),
    "carbon_intensity_gco2e_per_kwh": ("emissions_basis", "Needs facility energy and a grid intensity of its hours."),
    "emissions_location_kgco2e": (
        "emissions_basis", "Needs facility energy and the grid's direct intensity."),
    "emissions_upstream_kgco2e": ("emissions_basis", "Needs both life-cycle and direct grid intensity."),
    "emissions_market_kgco2e": (None, "No table of contracts and certificates is loaded."),
    "embodied_kgco2e": (None, "Embodied carbon is not spread over its years of service yet."),
    "water_l": (None, "No water meter is loaded."),
}  # fmt: skip


def unknowns(rows: Sequence[Row]) -> list[Unknown]:
    """The figures of gold/cluster_day that are null somewhere, most missing first, then in table order."""
    found = []
    for column, (basis_column, why) in _NEEDS.items():
        missing = [row for row in rows if row[column] is None]
        if missing:
            bases = sorted({str(row[basis_column]) for row in missing}) if basis_column else []
            found.append(Unknown(column, len(missing), len(rows), ", ".join(bases), why))
    return sorted(found, key=lambda item: -item.missing)


@dataclass(frozen=True)
class Headline:
    """One tile: what it is, the figure with its unit, and what it rests on."""

    name: str
    value: str
    note: str


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """The figures of the whole site over the range."""
    if not rows:
        return []
    nodes: dict[Any, int] = {}
    for row in rows:
        nodes[row["date"]] = nodes.get(row["date"], 0) + (row["node_count"] or 0)
    found = {column: total(rows, column) for column in SUMMED}
    peaks = [row for row in rows if row["peak_power_w"] is not None]
    peak = max(peaks, key=lambda row: row["peak_power_w"], default=None)
    tiles = [
        Headline("IT energy", _sum(found["it_energy_kwh"], energy), (_interval(rows) or _note(
            rows, "it_energy_kwh", "energy_basis")) + _modelled(rows)),
        Headline("Coverage", percent(weighted_mean(rows, "coverage_ratio")),
                 f"of {max(nodes.values()):,} nodes' time"),
        Headline("Facility energy", _sum(found["facility_energy_kwh"], energy),
                 _note(rows, "facility_energy_kwh", "facility_basis")),
        Headline("PUE", ratio(pue(rows)), _note(rows, "pue_ratio", "pue_basis", _category(rows))),
        Headline("Emissions, location-based", _sum(found["emissions_location_kgco2e"], mass),
                 _note(rows, "emissions_location_kgco2e", "emissions_basis")),
        Headline("Carbon intensity", intensity_text(intensity(rows)),
                 _note(rows, "carbon_intensity_gco2e_per_kwh", "emissions_basis")),
        Headline("Idle energy", energy(found["idle_energy_kwh"].value), _idle_note(rows)),
        Headline("Highest cluster peak", power(peak["peak_power_w"] if peak else None),
                 f"{peak['cluster_id']}, {peak['date']}" if peak else "no complete interval of node power"),
    ]  # fmt: skip
    if found["gpu_energy_kwh"].value is not None:
        tiles.insert(1, Headline("GPU boards", energy(found["gpu_energy_kwh"].value),
                                 "part of their nodes, never added to them"))  # fmt: skip
    return tiles


def _modelled(rows: Sequence[Row]) -> str:
    """How much of the sum is of nodes that no sensor measures as a whole; nothing where all are measured."""
    modelled = sum(row.get("it_energy_modelled_kwh") or 0.0 for row in rows)
    known = sum(row["it_energy_kwh"] or 0.0 for row in rows)
    return f"; {percent(min(modelled / known, 1.0))} of it modelled" if modelled and known else ""


def _sum(found: Total, written: Callable[[float | None], str]) -> str:
    """The sum; where rows are unknown, what is known is the least it can be (no addend is negative)."""
    return f"≥\u00a0{written(found.value)}" if found.partial else written(found.value)


def _interval(rows: Sequence[Row]) -> str:
    """The 90 % interval of the sum, where every row has one."""
    low, high = interval(rows)
    if low is None or high is None or total(rows, "it_energy_kwh").partial:
        return ""
    return f"90 %: {energy(low)} to {energy(high)}"


def _note(rows: Sequence[Row], column: str, basis_column: str, more: str = "") -> str:
    """The bases of the rows that know the figure (of all rows where none does), and how many know it."""
    known = [row for row in rows if row[column] is not None]
    said = {str(row[basis_column]) for row in known or rows if row[basis_column] is not None}
    bases = ", ".join(sorted(said))
    part = f"; known in {len(known):,} of {len(rows):,} cluster-days" if 0 < len(known) < len(rows) else ""
    return f"basis: {bases}{more}{part}"


def _category(rows: Sequence[Row]) -> str:
    categories = sorted({row["pue_category"] for row in rows if row["pue_category"] is not None})
    return f"; category {', '.join(map(str, categories))}; interim" if categories else ""


def _idle_note(rows: Sequence[Row]) -> str:
    part = ratio_of_sums(rows, "idle_energy_kwh", "it_energy_kwh")
    share = f"{percent(part)} of IT energy; " if part is not None else ""
    return share + _note(rows, "idle_energy_kwh", "idle_basis")


BALANCE: Final = "balance"
MOST_TENANTS: Final = 40
_ORDER: Final = (
    "utility", "pv", "generator", "battery_out", "export", "battery_in", "jobs", "idle", "chassis_shared",
    "data_transfer", "it_overhead", "conversion_loss", "cooling", "management", "unattributed",
)  # fmt: skip
_TENANT_SUMS: Final = (
    "it_energy_kwh", "it_energy_usage_kwh", "it_energy_equal_kwh", "wasted_energy_kwh", "facility_energy_kwh",
    "emissions_location_kgco2e", "embodied_kgco2e",
)  # fmt: skip


def account_rows(ledger: pa.Table) -> list[dict[str, Any]]:
    """gold/energy_ledger -> one row a source and account: energy of the hours that know it, their number, basis."""
    rows = pl.DataFrame(ledger).filter(pl.col("side") != BALANCE)
    if rows.is_empty():
        return []
    known = pl.col("account_kwh").is_not_null()
    sums = rows.group_by("side", "ledger_account").agg(
        pl.when(known.any()).then(pl.col("account_kwh").sum()).alias("account_kwh"),
        pl.len().alias("hours"),
        known.sum().alias("known_hours"),
        pl.col("account_basis").unique().sort().str.join(", ").alias("basis"),
    )
    order = pl.col("ledger_account").replace_strict({name: i for i, name in enumerate(_ORDER)}, default=99)
    return sums.sort(order, "ledger_account").to_dicts()


def balance_row(ledger: pa.Table) -> dict[str, Any] | None:
    """Sources and residual over the hours that are judged, and how many hours are in which state; None without any."""
    rows = pl.DataFrame(ledger).filter(pl.col("side") == BALANCE)
    if rows.is_empty():
        return None
    judged = rows.filter((pl.col("balance_state") != "unverified") & pl.col("residual_kwh").is_not_null())
    largest: Any = (judged["residual_kwh"] / judged["account_kwh"]).abs().max()
    states = dict(rows["balance_state"].value_counts().sort("balance_state").iter_rows())
    return {
        "account_kwh": judged["account_kwh"].sum() if judged.height else None,
        "residual_kwh": judged["residual_kwh"].sum() if judged.height else None,
        "largest_ratio": largest,
        "states": ", ".join(f"{count} {state}" for state, count in states.items()),
        "lacks": "; ".join(
            rows.filter(pl.col("balance_state") == "unverified")["detail"].drop_nulls().unique().sort()
        ),
    }


# From the worst to the best: what a meter was on one of the days.
_VERDICTS: Final = ("culprit", "candidate", "silent", "unchecked", "agrees")


def meter_rows(checks: pa.Table) -> list[dict[str, Any]]:
    """gold/meter_check -> one row a meter over the days: sums, the largest test, the worst verdict.

    A sum that a day lacks is null. Figures of single hours are left out.
    """
    rows = pl.DataFrame(checks).filter(pl.col("check_period") == "day")
    whole = [
        pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum()).alias(name)
        for name in ("metered_kwh", "reconciled_kwh")
    ]
    worst = (
        pl.col("meter_verdict")
        .replace_strict({name: at for at, name in enumerate(_VERDICTS)}, default=0)
        .min()
    )
    return (
        rows.group_by("site_id", "meter_id")
        .agg(
            *whole, pl.col("adjustment_sigma").abs().max(), pl.col("detectable_ratio").max(), worst.alias("worst"),
            pl.col("check_basis").unique().sort().str.join(", "),
        )
        .with_columns(pl.col("worst").replace_strict(dict(enumerate(_VERDICTS))).alias("verdict"))
        .sort("worst", "site_id", "meter_id")
        .to_dicts()
    )  # fmt: skip


def tenant_rows(tenants: pa.Table) -> list[dict[str, Any]]:
    """gold/tenant_day -> tenants over the range, the largest first; a figure that a day lacks is null."""
    frame = pl.DataFrame(tenants)
    if frame.is_empty():
        return []
    sums = [
        pl.when(pl.col(name).is_not_null().all()).then(pl.col(name).sum()).alias(name)
        for name in _TENANT_SUMS
    ]
    rows = frame.group_by("cluster_id", "tenant_id").agg(*sums, pl.col("job_count").sum())
    return rows.sort(
        "it_energy_kwh", "cluster_id", "tenant_id", descending=[True, False, False], nulls_last=True
    ).to_dicts()
