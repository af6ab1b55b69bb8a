"""The tiles at the top of the report: the figures of the whole site with what each rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_etl.report import text
from lepton_etl.report.figures import (
    SUMMED,
    Row,
    Total,
    intensity,
    interval,
    pue,
    ratio_of_sums,
    total,
    weighted_mean,
)


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
        Headline("Coverage", text.percent(weighted_mean(rows, "coverage_ratio")),
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
    return f"≥\u00a0{written(found.value)}" if found.partial else written(found.value)


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
    part = ratio_of_sums(rows, "idle_energy_kwh", "it_energy_kwh")
    share = f"{text.percent(part)} of IT energy; " if part is not None else ""
    return share + _note(rows, "idle_energy_kwh", "idle_basis")
