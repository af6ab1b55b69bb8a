"""Hours of a boundary -> its KPIs of the day. Pure: no lake, no session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from lepton_etl.kpi.definitions import DEFINITIONS, Definition, judged
from lepton_etl.kpi.envelopes import ALLOWABLE, RECOMMENDED, InletHours

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
        "cfe": Part(t.cfe_kwh, whole, "facility_kwh"),
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
