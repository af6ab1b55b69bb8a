"""Rows of gold of one hour -> Totals: what the KPIs of a site and of its clusters are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from lepton_etl.kpi.cfe import CfeHour, cfe_kwh
from lepton_etl.kpi.envelopes import inlet_hours
from lepton_etl.kpi.figures import Totals

Row = Mapping[str, Any]
Sums = Mapping[str, float]

# Emissions say `estimated` where a publisher or a PUE did; of a KPI that is a model's.
_KPI_BASIS: Final = {"estimated": "modelled"}
_COUNTED: Final = ("cpu_busy_h", "cpu_h", "gpu_busy_h", "gpu_h", "node_h")


def site_totals(
    row: Row,
    clusters: Sequence[Row],
    nodes: Sums,
    jobs: Sums,
    *,
    renewable_ratio: float | None,
    grid_water_l_per_kwh: float | None,
    certificates_sold: bool,
    cfe: CfeHour | None = None,
    reference_kwh: tuple[float, float] | None = None,
) -> Totals:
    """A row of gold/site_hour with its meters' totals, and the rows of gold/cluster_hour of the same hour.

    `renewable_ratio`: the share of the grid energy that retired renewable instruments cover, None without a register.
    `reference_kwh`: facility and IT energy of the reference hours by the site's fitted model.
    Own generation whose certificates were sold is the buyer's (EN 50600-4-3), but still carbon-free by the hour.
    """
    facility, own = row["facility_energy_kwh"], _own_kwh(row)
    bought = _all_known(clusters, "grid_import_kwh")
    covered = None if renewable_ratio is None or bought is None else renewable_ratio * bought
    at_hand, cfe = _at_hand(own, cfe), cfe or CfeHour(None, None)
    green = [kwh for kwh in (covered, None if certificates_sold else own) if kwh is not None]
    it = {1: row["it_ups_kwh"], 2: row["it_pdu_kwh"], 3: _sensor_it(row)}
    bases = {
        "facility_kwh": _word(row["facility_basis"]),
        "emissions_kgco2e": _common_basis(clusters),
        "reference_kwh": "modelled",
    }
    if row["shared_load_kwh"] is None:
        bases["it3_kwh"] = "partial"
    return Totals(
        row["date"],
        row["site_id"],
        it_kwh={category: kwh for category, kwh in it.items() if kwh is not None},
        facility_kwh=facility,
        cooling_kwh=row["cooling_kwh"],
        heat_removed_kwh=row["heat_removed_kwh"],
        heat_reused_kwh=row["heat_reused_kwh"],
        grid_import_kwh=bought,
        renewable_kwh=sum(green) if green else None,
        own_cfe_kwh=None if facility is None or at_hand is None else min(at_hand, facility),
        cfe_kwh=None
        if facility is None or at_hand is None
        else cfe_kwh(facility, at_hand, cfe.grid_cfe_ratio),
        water_l=_all_known(clusters, "water_l"),
        grid_water_l_per_kwh=grid_water_l_per_kwh,
        emissions_kgco2e=_emissions(clusters),
        reference_facility_kwh=reference_kwh[0] if reference_kwh else None,
        reference_it_kwh=reference_kwh[1] if reference_kwh else None,
        bases=bases,
        **_of_nodes(nodes, jobs),
    )


def cluster_totals(row: Row, nodes: Sums, jobs: Sums) -> Totals:
    """A row of gold/cluster_hour."""
    it = row["it_energy_kwh"]
    return Totals(
        row["date"],
        row["site_id"],
        boundary=row["cluster_id"],
        it_kwh={} if it is None else {3: it},
        facility_kwh=row["facility_energy_kwh"],
        emissions_kgco2e=_emissions([row]),
        bases={
            "facility_kwh": _word(row["facility_basis"]),
            "emissions_kgco2e": _word(row["emissions_basis"]),
        },
        **_of_nodes(nodes, jobs),
    )


def _of_nodes(nodes: Sums, jobs: Sums) -> dict[str, Any]:
    """What is counted of nodes and jobs, as arguments of Totals."""
    return {
        **{name: nodes.get(name) for name in _COUNTED},
        "inlet": inlet_hours(nodes) if nodes else None,
        "gpu_held_h": jobs.get("gpu_held_h"),
        "jobs": jobs.get("jobs"),
    }


def _own_kwh(row: Row) -> float | None:
    """Own photovoltaics that the site used itself; None without a meter of it."""
    if row["pv_kwh"] is None:
        return None
    return max(float(row["pv_kwh"]) - float(row["export_kwh"] or 0.0), 0.0)


def _at_hand(own_kwh: float | None, cfe: CfeHour | None) -> float | None:
    """Own and contracted carbon-free energy of the hour; None where neither is known."""
    parts = [kwh for kwh in (own_kwh, cfe.contracted_kwh if cfe else None) if kwh is not None]
    return sum(parts) if parts else None


def _sensor_it(row: Row) -> float | None:
    """IT energy by the nodes' sensors, with network and storage at their own meters."""
    if row["it_energy_measured_kwh"] is None or row["energy_basis"] not in ("measured", "estimated"):
        return None
    parts = ("it_energy_measured_kwh", "it_energy_imputed_kwh", "shared_load_kwh")
    return float(sum(row[name] or 0.0 for name in parts))


def _emissions(clusters: Sequence[Row]) -> float | None:
    """Location-based emissions, with those of generators where they are known; embodied carbon is not in CUE."""
    located = _all_known(clusters, "emissions_location_kgco2e")
    if located is None:
        return None
    return located + sum(row["emissions_scope1_kgco2e"] or 0.0 for row in clusters)


def _all_known(rows: Sequence[Row], name: str) -> float | None:
    found = [row[name] for row in rows]
    return None if not found or None in found else float(sum(found))


def _common_basis(clusters: Sequence[Row]) -> str:
    found = {_word(row["emissions_basis"]) for row in clusters}
    return found.pop() if len(found) == 1 else "partial"


def _word(basis: str) -> str:
    return _KPI_BASIS.get(basis, basis)


def added(rows: Iterable[Sums]) -> dict[str, float]:
    """The sums of several clusters as one."""
    total: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + value
    return total
