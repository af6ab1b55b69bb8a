"""Totals of a day -> KPIs of the day, and days -> KPIs of a month and a year. Pure: no lake, no session."""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final

from lepton_etl.kpi.definitions import DEFINITIONS, Definition
from lepton_etl.kpi.envelopes import ALLOWABLE, RECOMMENDED, InletHours

SITE: Final = "site"
COOLING: Final = "site/cooling"
_UNKNOWN: Final = "the inputs are not known"


@dataclass(frozen=True, slots=True)
class DayTotals:
    """What one boundary did on one UTC day; None is unknown. `covered` KPIs need their inputs, nothing else.

    `it_kwh` by the category of the point where it is metered: 1 UPS output, 2 PDU output, 3 IT input. `bases` names
    the basis of an input that is not measured (`facility_kwh`: assumed, modelled; ...).
    """

    date: date
    site_id: str
    boundary: str = SITE
    it_kwh: Mapping[int, float] = field(default_factory=dict)
    facility_kwh: float | None = None
    cooling_kwh: float | None = None
    heat_removed_kwh: float | None = None
    heat_reused_kwh: float | None = None
    grid_import_kwh: float | None = None
    renewable_kwh: float | None = None
    own_cfe_kwh: float | None = None
    water_l: float | None = None
    grid_water_l_per_kwh: float | None = None
    emissions_kgco2e: float | None = None
    cpu_busy_h: float | None = None
    cpu_h: float | None = None
    gpu_busy_h: float | None = None
    gpu_h: float | None = None
    node_h: float | None = None
    gpu_held_h: float | None = None
    jobs: int | None = None
    inlet: InletHours | None = None
    bases: Mapping[str, str] = field(default_factory=dict)

    @property
    def best_it_kwh(self) -> float | None:
        """IT energy at the point nearest to the IT input that a meter or sensor covers."""
        return self.it_kwh[max(self.it_kwh)] if self.it_kwh else None


@dataclass(frozen=True, slots=True)
class Part:
    """A day's numerator and denominator of one KPI, with the input whose basis it takes."""

    numerator: float | None
    denominator: float | None
    basis_of: str = ""


def day_kpis(totals: DayTotals, ashrae_class: str = "A1") -> list[dict[str, Any]]:
    """The rows of gold/kpi of one boundary's day. A KPI whose inputs are unknown has a null value and its reason.

    Source: docs/methodology.md, KPIs; ISO/IEC 30134 parts 2 to 9.
    """
    parts = _parts(totals) | _inlet_parts(totals.inlet, ashrae_class)
    if totals.boundary != SITE:
        # A cluster has no facility boundary of its own.
        parts = {name: part for name, part in parts.items() if name in _OF_CLUSTERS}
    rows = []
    for name, part in parts.items():
        boundary = COOLING if name == "ppue" else totals.boundary
        basis = totals.bases.get(part.basis_of, "measured")
        rows.append(_row(DEFINITIONS[name], totals, boundary, part, basis))
    return rows


_OF_CLUSTERS: Final = frozenset(
    {
        "cue", "iteusv", "gpu_utilisation", "energy_per_job", "carbon_per_job", "energy_per_gpu_hour",
        "carbon_per_gpu_hour", "energy_per_node_hour", "carbon_per_node_hour", "rci_hi", "rci_lo",
        *(f"inlet_{name}_share" for name in ("recommended", "a1", "a2", "a3", "a4")),
    }
)  # fmt: skip


def _parts(t: DayTotals) -> dict[str, Part]:
    it, whole = t.best_it_kwh, t.facility_kwh
    reused = _minus(whole, t.heat_reused_kwh)
    source_l = _plus(t.water_l, _times(t.grid_import_kwh, t.grid_water_l_per_kwh))
    pues = {f"pue{point}": Part(whole, t.it_kwh.get(point), "facility_kwh") for point in (1, 2, 3)}
    per_unit = {
        f"{what}_per_{unit}": Part(amount, units, basis)
        for what, amount, basis in (
            ("energy", whole, "facility_kwh"), ("carbon", t.emissions_kgco2e, "emissions_kgco2e"),
        )
        for unit, units in (("job", t.jobs), ("gpu_hour", t.gpu_held_h), ("node_hour", t.node_h))
    }  # fmt: skip
    return pues | {
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
        "cfe_own": Part(t.own_cfe_kwh, whole, "facility_kwh"),
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


def _row(one: Definition, totals: DayTotals, boundary: str, part: Part, basis: str) -> dict[str, Any]:
    known = part.numerator is not None and part.denominator is not None
    value, reason = _value(one, part.numerator, part.denominator)
    return {
        "date": totals.date,
        "period": "day",
        "site_id": totals.site_id,
        "boundary": boundary,
        "kpi": one.kpi,
        "kpi_value": value,
        "kpi_unit": one.unit,
        "kpi_basis": "none" if value is None else basis,
        "kpi_reason": reason,
        "pue_category": one.category,
        "edition": one.edition,
        "is_interim": True,
        "numerator": part.numerator if known else None,
        "numerator_unit": one.numerator_unit,
        "denominator": part.denominator if known else None,
        "denominator_unit": one.denominator_unit,
        "coverage_ratio": float(known),
        "last_date": totals.date,
        "status": "provisional",
    }


def roll_up(
    day_rows: Iterable[Mapping[str, Any]], period: str, first: date, least_coverage_ratio: float
) -> list[dict[str, Any]]:
    """Day rows of a calendar month or year -> its rows: sums over the known days, then the formula.

    A mean of daily ratios would weigh an idle day like a busy one. Null below the least coverage of the days so far;
    interim until every day of a full year is there. Days of another basis make the period `partial`.
    Source: ISO/IEC 30134-1 (annual KPIs; shorter spans are interim).
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in day_rows:
        if row["period"] == "day" and first <= row["date"] <= _last_day(period, first):
            groups.setdefault((row["site_id"], row["boundary"], row["kpi"]), []).append(row)
    last = max((row["date"] for rows in groups.values() for row in rows), default=first)
    days = (last - first).days + 1
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
    value, reason = _value(one, numerator, denominator)
    if value is not None and coverage < least:
        value, reason = None, f"only {len(known)} of {days} days are known"
    bases = {row["kpi_basis"] for row in known} - {"none"}
    basis = bases.pop() if len(bases) == 1 else "partial"
    is_year = period == "year" and last == _last_day(period, first) and len(known) == days
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


def _value(
    one: Definition, numerator: float | None, denominator: float | None
) -> tuple[float | None, str | None]:
    """The KPI and, where there is none, the reason."""
    if numerator is None or denominator is None:
        return None, _UNKNOWN
    value = one.formula(numerator, denominator)
    if value is None:
        return None, f"{one.denominator_unit} of the denominator are {denominator:g}"
    if (one.least is not None and value < one.least) or (one.most is not None and value > one.most):
        return None, f"{value:g} contradicts the definition"
    return value, None


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _times(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b
