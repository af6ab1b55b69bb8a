"""Cluster days -> totals over the range and the list of what is not known.

Works on plain rows (clusters x days, a small number). A total over days or clusters says in how many of
its rows the figure was known; where it was known in none, the total is unknown too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from lepton_etl.days import Days
from lepton_etl.fields import GRAMS_PER_KILOGRAM

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
        "Node power covers too little of the expected time (see coverage), or only GPU boards are measured "
        "(gpu_only)."),
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
