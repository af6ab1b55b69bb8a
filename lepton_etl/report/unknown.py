"""Say which figures of gold/cluster_day are unknown, in which rows, and why.

A reason is only given where the rows that it speaks of bear it out; what a cluster cannot have (GPU boards of servers
without GPUs, sensors of a pseudo-cluster that is a meter) is not unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lepton_etl.report.lookup import LIST, ROWS, Origin
from lepton_etl.schema.declare import HOURS_PER_DAY

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Equipment:
    """What stands in a cluster by its node-hours, and in how many of these something was read."""

    servers: int = 0  # nodes that the inventory gives no GPU
    gpu_nodes: int = 0
    untold_nodes: int = 0  # nodes of which the inventory does not say whether they have GPUs
    cpu_hours: int = 0
    gpu_hours: int = 0
    inlet_hours: int = 0


@dataclass(frozen=True)
class Surroundings:
    """What reasons rest on beside the row: equipment by (site, cluster), hours of the site by day, meters."""

    equipment: Mapping[tuple[str, str], Equipment] = field(default_factory=dict)
    facility_hours: Mapping[tuple[str, Any], int] = field(default_factory=dict)
    has_water_meter: bool = False

    def of(self, row: Row) -> Equipment:
        return self.equipment.get((row["site_id"], row["cluster_id"]), Equipment())

    def facility_is_known(self, row: Row) -> bool:
        """Whether the site's facility energy is known in each hour of the row's day."""
        return self.facility_hours.get((row["site_id"], row["date"]), 0) >= HOURS_PER_DAY


Test = Callable[[Row, Surroundings], bool]


@dataclass(frozen=True)
class Reason:
    """Why a figure is unknown, and where that is so."""

    name: str
    text: str
    holds: Test


def _always(row: Row, around: Surroundings) -> bool:
    return True


def _has_nodes(row: Row, around: Surroundings) -> bool:
    return bool(row["node_count"])


def _is_null(*columns: str) -> Test:
    return lambda row, around: all(row[column] is None for column in columns)


def _basis(column: str, basis: str) -> Test:
    return lambda row, around: row[column] == basis


_NO_IT: Final = Reason(
    "it_unknown",
    "Its IT energy is unknown, and so is its share of what the site draws.",
    _is_null("it_energy_kwh"),
)
_NO_SITE: Final = Reason(
    "site_unknown",
    "The site's facility energy is not known in every hour: no utility meter speaks, and no model stands in.",
    lambda row, around: not around.facility_is_known(row),
)
_NO_OVERHEAD: Final = Reason(
    "overhead_unknown", "The site's overhead is not known in enough hours, and so is its share.", _always
)
_NO_FACILITY: Final = Reason(
    "facility_unknown", "Its facility energy is unknown, see there.", _is_null("facility_energy_kwh")
)
_NO_IMPORT: Final = Reason(
    "import_unknown", "How much of its energy came from the grid is unknown.", _is_null("grid_import_kwh")
)
_NO_INTENSITY: Final = Reason(
    "intensity_unknown", "The grid's direct average intensity is known for too little of its energy.", _always
)
_EMISSIONS: Final = (_NO_FACILITY, _NO_IMPORT, _NO_INTENSITY)


@dataclass(frozen=True)
class _Figure:
    """A figure that may be unknown: its basis column, the rows that can have it, reasons, of which the first counts."""

    column: str
    basis: str | None
    applies: Test
    reasons: tuple[Reason, ...]


_FIGURES: Final = (
    _Figure("it_energy_kwh", "energy_basis", _always, (
        Reason("meter_silent", "Its meters are known in too few hours.", lambda row, around: not row["node_count"]),
        Reason("insufficient", "Readings, and what may be filled between them, cover too little of the expected time.",
               _basis("energy_basis", "insufficient")),
        Reason("gpu_only", "Only GPU boards are measured, and what the rest of the node draws is not said.",
               _basis("energy_basis", "gpu_only")),
        Reason("no_power", "No power of its nodes was read.", _always),
    )),
    # Where nothing is missing there is nothing to fill.
    _Figure("it_energy_imputed_kwh", None,
            lambda row, around: _has_nodes(row, around) and (row["coverage_ratio"] or 0.0) < 1, (
        Reason("not_filled", "Neither a model nor the nodes' own history fills its gaps.", _always),
    )),
    _Figure("gpu_energy_kwh", None, lambda row, around: bool(around.of(row).gpu_nodes or around.of(row).untold_nodes), (
        Reason("boards_unread", "It has GPUs, and no power of their boards was read.",
               lambda row, around: around.of(row).gpu_nodes > 0),
        Reason("boards_untold", "No power of GPU boards was read, and the inventory does not say whether it has any.",
               _always),
    )),
    _Figure("idle_energy_kwh", "idle_basis", _has_nodes, (
        Reason("no_power", "No power of its nodes was read.",
               _is_null("it_energy_measured_kwh", "it_energy_modelled_kwh")),
        Reason("idle_untold", "Utilisation or job records tell idle from work for too little of its energy.", _always),
    )),
    _Figure("facility_energy_kwh", "facility_basis", _always, (_NO_IT, _NO_SITE, _NO_OVERHEAD)),
    _Figure("pue_ratio", "pue_basis", _always, (
        _NO_FACILITY, Reason("no_common_hours", "Facility and IT energy are known together in too few hours.", _always),
    )),
    # ITEUsv is of servers that are not mostly accelerators; ISO/IEC 30134-5.
    _Figure("cpu_utilisation_ratio", None,
            lambda row, around: bool(around.of(row).servers or around.of(row).untold_nodes), (
        Reason("cpu_unread", "No CPU utilisation of its servers was read.",
               lambda row, around: around.of(row).cpu_hours == 0),
        Reason("cpu_off", "No server that is on said its CPU utilisation on the day.", _always),
    )),
    _Figure("gpu_utilisation_ratio", None, lambda row, around: bool(around.of(row).gpu_nodes), (
        Reason("gpu_unread", "It has GPUs, and no utilisation of them was read.",
               lambda row, around: around.of(row).gpu_hours == 0),
        Reason("gpu_off", "No GPU said its utilisation on the day.", _always),
    )),
    _Figure("peak_power_w", None, _has_nodes, (
        Reason("no_whole_hour", "No hour of the day has a published IT energy, and the sum of some nodes is no peak.",
               _always),
    )),
    _Figure("inlet_temp_p99_c", None, _has_nodes, (
        Reason("inlet_unread", "No inlet temperature of its nodes was read.",
               lambda row, around: around.of(row).inlet_hours == 0),
        Reason("inlet_off", "No inlet temperature was read on the day.", _always),
    )),
    _Figure("carbon_intensity_gco2e_per_kwh", "emissions_basis", _always, _EMISSIONS),
    _Figure("emissions_location_kgco2e", "emissions_basis", _always, _EMISSIONS),
    _Figure("emissions_upstream_kgco2e", "emissions_basis", _always, (
        _NO_FACILITY, _NO_IMPORT,
        Reason("lifecycle_unknown", "Life-cycle and direct intensity are known together for too little of its energy.",
               _always),
    )),
    _Figure("emissions_market_kgco2e", "market_basis", _always, (
        _NO_FACILITY, _NO_IMPORT,
        Reason("market_unknown", "Neither instruments nor a residual mix nor a grid average cover it.", _always),
    )),
    _Figure("embodied_kgco2e", "embodied_basis", _has_nodes, (
        Reason("embodied_untold", "Neither the inventory nor an archetype says the embodied carbon of each node.",
               _always),
    )),
    _Figure("water_l", "water_basis", _always, (
        Reason("no_water_meter", "No meter of water is listed.", lambda row, around: not around.has_water_meter),
        Reason("water_unshared", "The water meter is known in too few hours, or some IT energy is not.", _always),
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Unknown:
    """A figure that is null in the rows of some clusters and days, for one reason and basis."""

    column: str
    basis_column: str | None
    basis: str
    reason: Reason
    clusters: tuple[str, ...]
    dates: tuple[str, ...]

    @property
    def missing(self) -> int:
        """Number of its cluster-days."""
        return len(self.clusters) * len(self.dates)

    @property
    def origin(self) -> Origin:
        """The rows it speaks of."""
        where = {"date": self.dates, "cluster_id": self.clusters, self.column: None}
        made = {"missing": (self.column, ROWS), "clusters": ("cluster_id", LIST)}
        if self.basis_column:
            made["basis"] = (self.basis_column, LIST)
        return Origin("gold/cluster_day", where, made)


def unknowns(rows: Sequence[Row], around: Surroundings) -> list[Unknown]:
    """The figures that are null somewhere, each reason apart, most missing first, then in table order."""
    found: list[Unknown] = []
    for one in _FIGURES:
        days: dict[tuple[Reason, str, str], list[str]] = {}
        for row in rows:
            if row[one.column] is None and one.applies(row, around):
                reason = next(reason for reason in one.reasons if reason.holds(row, around))
                basis = str(row[one.basis]) if one.basis else ""
                days.setdefault((reason, basis, row["cluster_id"]), []).append(str(row["date"]))
        # Clusters that lack it on the same days for the same reason stand in one line.
        lines: dict[tuple[Reason, str, tuple[str, ...]], list[str]] = {}
        for (reason, basis, cluster), dates in days.items():
            lines.setdefault((reason, basis, tuple(sorted(dates))), []).append(cluster)
        found += [
            Unknown(one.column, one.basis, basis, reason, tuple(sorted(clusters)), dates)
            for (reason, basis, dates), clusters in lines.items()
        ]
    return sorted(found, key=lambda item: -item.missing)
