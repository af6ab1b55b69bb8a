"""Compute KPIs by day, month and year: totals of the known hours, summed over the days, then the formula.

Nothing here reads or writes the lake.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final

from lepton_etl.indicators.carbon_free import CfeHour, cfe_kwh
from lepton_etl.indicators.definitions import DEFINITIONS, Definition, judged
from lepton_etl.indicators.inlet_envelopes import ALLOWABLE, RECOMMENDED, InletHours, inlet_hours

Row = Mapping[str, Any]
Sums = Mapping[str, float | None]

# Emissions say `estimated` where a publisher or a PUE did; of a KPI that is a model's.
_KPI_BASIS: Final = {"estimated": "modelled"}
# Of gold/cluster_hour: what its utilisation is the mean of. ITEUsv is found there and nowhere else.
_USED: Final = {
    "cpu_busy_h": "server_busy_h", "cpu_h": "server_observed_h", "gpu_busy_h": "gpu_busy_h", "gpu_h": "gpu_observed_h",
}  # fmt: skip


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

    `row["listed"]` names the points and carriers at which the site has a meter in the hour, and both as carrier@point.
    `renewable_ratio`: the share of the grid energy that retired renewable instruments cover, None without a register.
    `reference_kwh`: facility and IT energy of the reference hours by the site's fitted model.
    Own generation whose certificates were sold is the buyer's (EN 50600-4-3), but still carbon-free by the hour.
    """
    facility, own = row["facility_energy_kwh"], _own_kwh(row)
    # Carbon-free energy is of electricity; what other carriers brought is in facility energy alone.
    electric, beyond = _minus(facility, row["carrier_energy_kwh"] or 0.0), beyond_grid(row)
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
        # Cooling that is bought takes no energy of this site's chillers.
        cooling_kwh=None if "cooling@utility" in row["listed"] else row["cooling_kwh"],
        heat_removed_kwh=row["heat_removed_kwh"],
        heat_reused_kwh=row["heat_reused_kwh"],
        grid_import_kwh=bought,
        renewable_kwh=sum(green) if green else None,
        electric_kwh=electric,
        own_cfe_kwh=None if electric is None or at_hand is None else min(at_hand, electric),
        cfe_kwh=None
        if electric is None or at_hand is None
        else cfe_kwh(electric, at_hand, cfe.grid_cfe_ratio),
        water_l=_all_known(clusters, "water_l"),
        grid_water_l_per_kwh=grid_water_l_per_kwh,
        emissions_kgco2e=_emissions(clusters, beyond),
        reference_facility_kwh=reference_kwh[0] if reference_kwh else None,
        reference_it_kwh=reference_kwh[1] if reference_kwh else None,
        bases=bases,
        **_counted(clusters, nodes, jobs),
    )


def cluster_totals(row: Row, nodes: Sums, jobs: Sums, beyond: frozenset[str]) -> Totals:
    """A row of gold/cluster_hour; `beyond` is beyond_grid of its site."""
    it = row["it_energy_kwh"]
    return Totals(
        row["date"],
        row["site_id"],
        boundary=row["cluster_id"],
        it_kwh={} if it is None else {3: it},
        facility_kwh=row["facility_energy_kwh"],
        emissions_kgco2e=_emissions([row], beyond),
        bases={
            "facility_kwh": _word(row["facility_basis"]),
            "emissions_kgco2e": _word(row["emissions_basis"]),
        },
        **_counted([row], nodes, jobs),
    )


def _counted(clusters: Sequence[Row], nodes: Sums, jobs: Sums) -> dict[str, Any]:
    """What is counted of clusters, nodes and jobs, as arguments of Totals."""
    return {
        **{name: _known_sum(row[column] for row in clusters) for name, column in _USED.items()},
        "node_h": nodes.get("node_h"),
        "inlet": inlet_hours(nodes),
        "gpu_held_h": jobs.get("gpu_held_h"),
        "jobs": jobs.get("jobs"),
    }


def _own_kwh(row: Row) -> float | None:
    """Own photovoltaics that the site used itself; None without a meter of it or where the export's is silent."""
    exported = row["export_kwh"] if "export" in row["listed"] else 0.0
    if row["pv_kwh"] is None or exported is None:
        return None
    return max(float(row["pv_kwh"]) - float(exported), 0.0)


def _at_hand(own_kwh: float | None, cfe: CfeHour | None) -> float | None:
    """Own and contracted carbon-free energy of the hour; None where neither is known."""
    parts = [kwh for kwh in (own_kwh, cfe.contracted_kwh if cfe else None) if kwh is not None]
    return sum(parts) if parts else None


def _sensor_it(row: Row) -> float | None:
    """IT energy by the nodes' sensors, with network and storage at their own meters."""
    if row["energy_basis"] not in ("measured", "modelled", "estimated"):
        return None
    parts = ("it_energy_measured_kwh", "it_energy_modelled_kwh", "it_energy_imputed_kwh", "shared_load_kwh")
    return float(sum(row[name] or 0.0 for name in parts))


def beyond_grid(site: Row) -> frozenset[str]:
    """What a row of gold/site_hour emits besides its grid energy: `fuel` where it burns some or may, `fluids` bought.

    A generator that is metered at 0 kWh did not run, whatever its fuel. Without a meter of it, fuel is what tells. What
    is burnt beside generators enters as fuel or gas at the point `utility`; heat and cooling that enter are fluids.
    """
    listed = frozenset(site["listed"])
    burns = bool(listed & {"fuel@utility", "gas@utility"})
    if "generator" in listed:
        burns |= site["generator_kwh"] is None or float(site["generator_kwh"]) > 0
    elif "fuel" in listed:
        burns = True
    found = {"fuel": burns, "fluids": bool(listed & {"heat@utility", "cooling@utility"})}
    return frozenset(name for name, is_so in found.items() if is_so)


def _emissions(clusters: Sequence[Row], beyond: frozenset[str]) -> float | None:
    """Location-based emissions and those of fuel, None where either is not known; no embodied carbon in CUE.

    What the supplier of heat or cooling emitted is in no table: with such `fluids` nothing is known.
    """
    located = None if "fluids" in beyond else _all_known(clusters, "emissions_location_kgco2e")
    burnt = _all_known(clusters, "emissions_scope1_kgco2e") if "fuel" in beyond else 0.0
    return _plus(located, burnt)


def _all_known(rows: Sequence[Row], name: str) -> float | None:
    found = [row[name] for row in rows]
    return None if not found or None in found else float(sum(found))


def _known_sum(values: Iterable[float | None]) -> float | None:
    """The sum over those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _common_basis(clusters: Sequence[Row]) -> str:
    found = {_word(row["emissions_basis"]) for row in clusters}
    return found.pop() if len(found) == 1 else "partial"


def _word(basis: str) -> str:
    return _KPI_BASIS.get(basis, basis)


def added(rows: Iterable[Sums]) -> dict[str, float]:
    """The sums of several clusters as one, each over the clusters that know it."""
    total: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                total[name] = total.get(name, 0.0) + value
    return total


SITE: Final = "site"
COOLING: Final = "site/cooling"


@dataclass(frozen=True, slots=True)
class Totals:
    """What one boundary did in one hour (or any span within a UTC day); None is unknown.

    `it_kwh` by the category of the point where it is metered: 1 UPS output, 2 PDU output, 3 IT input. `bases` names
    the basis of an input that is not measured (`facility_kwh`: assumed, modelled; `it3_kwh`: partial; ...).
    """

    date: date
    site_id: str
    boundary: str = SITE
    it_kwh: Mapping[int, float] = field(default_factory=dict)
    facility_kwh: float | None = None
    electric_kwh: float | None = None
    cooling_kwh: float | None = None
    heat_removed_kwh: float | None = None
    heat_reused_kwh: float | None = None
    grid_import_kwh: float | None = None
    renewable_kwh: float | None = None
    own_cfe_kwh: float | None = None
    cfe_kwh: float | None = None
    water_l: float | None = None
    grid_water_l_per_kwh: float | None = None
    emissions_kgco2e: float | None = None
    cpu_busy_h: float | None = None
    cpu_h: float | None = None
    gpu_busy_h: float | None = None
    gpu_h: float | None = None
    node_h: float | None = None
    gpu_held_h: float | None = None
    jobs: float | None = None
    reference_facility_kwh: float | None = None
    reference_it_kwh: float | None = None
    inlet: InletHours | None = None
    bases: Mapping[str, str] = field(default_factory=dict)

    @property
    def best_it_kwh(self) -> float | None:
        """IT energy at the point nearest to the IT input that a meter covers, else by the nodes' sensors."""
        for category in (2, 1, 3):
            if category in self.it_kwh:
                return self.it_kwh[category]
        return None


@dataclass(frozen=True, slots=True)
class Part:
    """Numerator and denominator of one KPI, with the input whose basis it takes."""

    numerator: float | None
    denominator: float | None
    basis_of: str = ""


def day_kpis(
    hours: Sequence[Totals], least_coverage_ratio: float, ashrae_class: str = "A1"
) -> list[dict[str, Any]]:
    """The rows of gold/kpi of one boundary's UTC day from its hours, in order.

    Numerator and denominator are summed over the hours in which both are known: a ratio of sums over the same time.
    Below the least share of the hours, and where the inputs are unknown, the value is null with its reason.
    Source: docs/methodology.md, KPIs; ISO/IEC 30134 parts 2 to 9.
    """
    found: dict[str, list[tuple[float, float, str]]] = {}
    for hour in hours:
        for name, part in (_parts(hour) | _inlet_parts(hour.inlet, ashrae_class)).items():
            known = found.setdefault(name, [])
            if part.numerator is not None and part.denominator is not None:
                basis = hour.bases.get(part.basis_of, "measured")
                known.append((part.numerator, part.denominator, basis))
    # A cluster has no facility boundary of its own.
    is_site = hours[0].boundary == SITE
    names = [name for name in found if is_site or name in _OF_CLUSTERS]
    return [
        _row(DEFINITIONS[name], hours[0], found[name], len(hours), least_coverage_ratio) for name in names
    ]


_OF_CLUSTERS: Final = frozenset(
    {
        "cue", "iteusv", "gpu_utilisation", "energy_per_job", "carbon_per_job", "energy_per_gpu_hour",
        "carbon_per_gpu_hour", "energy_per_node_hour", "carbon_per_node_hour", "rci_hi", "rci_lo",
        *(f"inlet_{name}_share" for name in ("recommended", "a1", "a2", "a3", "a4")),
    }
)  # fmt: skip


def _parts(t: Totals) -> dict[str, Part]:
    it, whole = t.best_it_kwh, t.facility_kwh
    reused = _minus(whole, t.heat_reused_kwh)
    source_l = _plus(t.water_l, _times(t.grid_import_kwh, t.grid_water_l_per_kwh))
    # Category 3 by sensors may lack network and storage; the meters of 1 and 2 have them in.
    pues = {f"pue{point}": Part(whole, t.it_kwh.get(point), "facility_kwh") for point in (1, 2)}
    pues["pue3"] = Part(whole, t.it_kwh.get(3), "it3_kwh" if "it3_kwh" in t.bases else "facility_kwh")
    per_unit = {
        f"{what}_per_{unit}": Part(amount, units, basis)
        for what, amount, basis in (
            ("energy", whole, "facility_kwh"), ("carbon", t.emissions_kgco2e, "emissions_kgco2e"),
        )
        for unit, units in (("job", t.jobs), ("gpu_hour", t.gpu_held_h), ("node_hour", t.node_h))
    }  # fmt: skip
    return pues | {
        "pue_normalised": Part(t.reference_facility_kwh, t.reference_it_kwh, "reference_kwh"),
        "ppue": Part(_plus(t.cooling_kwh, it), it),
        "dcie": Part(it, whole, "facility_kwh"),
        "cue": Part(t.emissions_kgco2e, it, "emissions_kgco2e"),
        # Litres per IT kWh: PUE has no part in it.
        "wue": Part(t.water_l, it, "water_l"),
        "wue_source": Part(source_l, it, "water_l"),
        "ref": Part(t.renewable_kwh, whole, "facility_kwh"),
        "erf": Part(t.heat_reused_kwh, whole, "facility_kwh"),
        "ere": Part(reused, it, "facility_kwh"),
        "cer": Part(t.heat_removed_kwh, t.cooling_kwh),
        "cfe": Part(t.cfe_kwh, t.electric_kwh, "facility_kwh"),
        "cfe_own": Part(t.own_cfe_kwh, t.electric_kwh, "facility_kwh"),
        "iteusv": Part(t.cpu_busy_h, t.cpu_h),
        "gpu_utilisation": Part(t.gpu_busy_h, t.gpu_h),
    } | per_unit  # fmt: skip


def _inlet_parts(inlet: InletHours | None, ashrae_class: str) -> dict[str, Part]:
    names = (RECOMMENDED.name, *ALLOWABLE)
    if inlet is None:
        return {f"inlet_{name.lower()}_share": Part(None, None) for name in names} | {
            "rci_hi": Part(None, None),
            "rci_lo": Part(None, None),
        }
    allowed = ALLOWABLE[ashrae_class]
    over_k, under_k = allowed.high_c - RECOMMENDED.high_c, RECOMMENDED.low_c - allowed.low_c
    return {f"inlet_{name.lower()}_share": Part(inlet.inside_h[name], inlet.known_h) for name in names} | {
        "rci_hi": Part(inlet.over_k_h, inlet.known_h * over_k),
        "rci_lo": Part(inlet.under_k_h, inlet.known_h * under_k),
    }


def _row(
    one: Definition, at: Totals, known: Sequence[tuple[float, float, str]], hours: int, least: float
) -> dict[str, Any]:
    numerator = sum(n for n, _, _ in known) if known else None
    denominator = sum(d for _, d, _ in known) if known else None
    coverage = len(known) / hours
    value, reason = judged(one, numerator, denominator)
    if known and coverage < least:
        # A day that is not published has no part in a month either.
        value, reason, numerator, denominator = (
            None,
            f"only {len(known)} of {hours} hours are known",
            None,
            None,
        )
    bases = {basis for _, _, basis in known}
    return {
        "date": at.date,
        "period": "day",
        "site_id": at.site_id,
        "boundary": COOLING if one.kpi == "ppue" else at.boundary,
        "kpi": one.kpi,
        "kpi_value": value,
        "kpi_unit": one.unit,
        "kpi_basis": "none" if value is None else bases.pop() if len(bases) == 1 else "partial",
        "kpi_reason": reason,
        "pue_category": one.category,
        "edition": one.edition,
        "is_interim": True,
        "numerator": numerator,
        "numerator_unit": one.numerator_unit,
        "denominator": denominator,
        "denominator_unit": one.denominator_unit,
        "coverage_ratio": coverage,
        "last_date": at.date,
        "status": "provisional",
    }


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _times(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b


PERIODS: Final = ("month", "year")


def roll_up(
    day_rows: Iterable[Mapping[str, Any]], period: str, first: date, least_coverage_ratio: float
) -> list[dict[str, Any]]:
    """Day rows of a calendar month or year -> its rows: sums over the known days, then the formula.

    A mean of daily ratios would weigh an idle day like a busy one. Null below the least coverage of the days since the
    first in the lake; interim until every day of a full year is there. Days of another basis make it `partial`.
    Source: ISO/IEC 30134-1 (annual KPIs; shorter spans are interim).
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in day_rows:
        if row["period"] == "day" and first <= row["date"] <= _last_day(period, first):
            groups.setdefault((row["site_id"], row["boundary"], row["kpi"]), []).append(row)
    dates = {row["date"] for rows in groups.values() for row in rows}
    last = max(dates, default=first)
    # A lake that begins within the period does not owe the days before; what is missing in between it does.
    days = (last - min(dates, default=first)).days + 1
    return [
        _period_row(rows, period, first, last, days, least_coverage_ratio)
        for _, rows in sorted(groups.items())
    ]


def _period_row(
    rows: Sequence[Mapping[str, Any]], period: str, first: date, last: date, days: int, least: float
) -> dict[str, Any]:
    one = DEFINITIONS[rows[0]["kpi"]]
    known = [row for row in rows if row["numerator"] is not None and row["denominator"] is not None]
    # In the order of days, so that a re-run adds the same floats in the same order.
    known.sort(key=lambda row: row["date"])
    numerator = sum(row["numerator"] for row in known) if known else None
    denominator = sum(row["denominator"] for row in known) if known else None
    coverage = len(known) / days
    value, reason = judged(one, numerator, denominator)
    if value is not None and coverage < least:
        value, reason = None, f"only {len(known)} of {days} days are known"
    bases = {row["kpi_basis"] for row in known} - {"none"}
    basis = bases.pop() if len(bases) == 1 else "partial"
    is_year = period == "year" and last == _last_day(period, first) and len(known) == (last - first).days + 1
    return {
        **rows[0],
        "date": first,
        "period": period,
        "kpi_value": value,
        "kpi_basis": "none" if value is None else basis,
        "kpi_reason": reason,
        "is_interim": not is_year,
        "numerator": numerator,
        "denominator": denominator,
        "coverage_ratio": coverage,
        "last_date": last,
    }


def period_start(period: str, day: date) -> date:
    """First day of the calendar month or year that holds `day`."""
    return day.replace(day=1) if period == "month" else day.replace(month=1, day=1)


def _last_day(period: str, first: date) -> date:
    if period == "month":
        return first.replace(day=calendar.monthrange(first.year, first.month)[1])
    return date(first.year + 1, 1, 1) - timedelta(days=1)
