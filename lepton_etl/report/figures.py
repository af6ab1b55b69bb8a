"""Cluster days -> totals over the range, headline figures, and the list of what is not known.

Works on plain rows (clusters x days, a small number). A total over days or clusters says in how many of
its rows the figure was known; where it was known in none, the total is unknown too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from lepton_etl.report import text

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


def _weighted_mean(rows: Sequence[Row], column: str) -> float | None:
    pairs = [(row[column], row["node_count"] or 0) for row in rows if row[column] is not None]
    weight = sum(nodes for _, nodes in pairs)
    return sum(value * nodes for value, nodes in pairs) / weight if weight else None


def _ratio_of_sums(rows: Iterable[Row], above: str, below: str) -> float | None:
    both = [(row[above], row[below]) for row in rows if row[above] is not None and row[below] is not None]
    denominator = sum(low for _, low in both)
    return sum(high for high, _ in both) / denominator if denominator else None


def pue(rows: Sequence[Row]) -> float | None:
    """Facility over IT energy, over the rows that know a PUE: a ratio of sums, never a mean of ratios."""
    return _ratio_of_sums(
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
    return emitted * 1000.0 / covered if covered > 0 else None


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
        result[column] = _weighted_mean(days, column)
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
        "Node power covers too little of the expected time (see coverage), or only GPU boards are measured "
        "(gpu_only)."),
    "it_energy_imputed_kwh": (None, "Gaps are not filled: no imputation has been run."),
    "gpu_energy_kwh": (None, "No GPU board power is logged for these clusters."),
    "idle_energy_kwh": ("idle_basis", "Neither utilisation readings nor job records tell idle from work."),
    "facility_energy_kwh": ("facility_basis", "No facility meter with readings stands in the meter list."),
    "pue_ratio": ("pue_basis", "Needs facility energy and IT energy of the same hours."),
    "cpu_utilisation_ratio": (None, "No CPU utilisation is logged for servers in scope."),
    "gpu_utilisation_ratio": (None, "No GPU utilisation is logged."),
    "peak_power_w": (None, "Needs node power over complete intervals."),
    "inlet_temp_p99_c": (None, "No inlet temperature sensor is mapped."),
    "carbon_intensity_gco2e_per_kwh": ("emissions_basis", "No grid intensity file matches the site's hours."),
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
        Headline("IT energy", _sum(found["it_energy_kwh"], text.energy), _interval(rows) or _note(
            rows, "it_energy_kwh", "energy_basis")),
        Headline("Coverage", text.percent(_weighted_mean(rows, "coverage_ratio")),
                 f"of {max(nodes.values()):,} nodes' time"),
        Headline("Facility energy", _sum(found["facility_energy_kwh"], text.energy),
                 _note(rows, "facility_energy_kwh", "facility_basis")),
        Headline("PUE", text.ratio(pue(rows)), _note(rows, "pue_ratio", "pue_basis", _category(rows))),
        Headline("Emissions, location-based", _sum(found["emissions_location_kgco2e"], text.mass),
                 _note(rows, "emissions_location_kgco2e", "emissions_basis")),
        Headline("Carbon intensity", text.intensity(intensity(rows)),
                 _note(rows, "carbon_intensity_gco2e_per_kwh", "emissions_basis")),
        Headline("Idle energy", text.energy(found["idle_energy_kwh"].value), _idle_note(rows)),
        Headline("Highest cluster peak", text.power(peak["peak_power_w"] if peak else None),
                 f"{peak['cluster_id']}, {peak['date']}" if peak else "no complete interval of node power"),
    ]  # fmt: skip
    if found["gpu_energy_kwh"].value is not None:
        tiles.insert(1, Headline("GPU boards", text.energy(found["gpu_energy_kwh"].value),
                                 "part of their nodes, never added to them"))  # fmt: skip
    return tiles


def _sum(found: Total, written: Callable[[float | None], str]) -> str:
    """The sum; where rows are unknown, what is known is the least it can be (no addend is negative)."""
    return f"≥ {written(found.value)}" if found.partial else written(found.value)


def _interval(rows: Sequence[Row]) -> str:
    """The 90 % interval of the sum, where every row has one."""
    low, high = interval(rows)
    if low is None or high is None or total(rows, "it_energy_kwh").partial:
        return ""
    return f"90 %: {text.energy(low)} to {text.energy(high)}"


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
    part = _ratio_of_sums(rows, "idle_energy_kwh", "it_energy_kwh")
    share = f"{text.percent(part)} of IT energy; " if part is not None else ""
    return share + _note(rows, "idle_energy_kwh", "idle_basis")
