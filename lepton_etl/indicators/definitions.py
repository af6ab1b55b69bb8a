"""The KPIs: name, formula as numerator over denominator, unit, category and the standard that defines them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PUE_EDITION: Final = "ISO/IEC 30134-2:2016 (withdrawn 2026-02-12), EN 50600-4-2:2016"
CFE_EDITION: Final = "Google, 24/7 Carbon-Free Energy: Methodologies and Metrics (2021)"
OWN_EDITION: Final = "lepton_etl methodology, section KPIs"


def ratio(numerator: float, denominator: float) -> float | None:
    """numerator / denominator; None where the denominator is not above 0."""
    return numerator / denominator if denominator > 0 else None


def capped_ratio(numerator: float, denominator: float) -> float | None:
    """A share that ends at 1: renewable energy beyond consumption is somebody else's. Source: EN 50600-4-3."""
    value = ratio(numerator, denominator)
    return None if value is None else min(value, 1.0)


def remaining_ratio(numerator: float, denominator: float) -> float | None:
    """1 - numerator / denominator: the rack cooling index, 1 - degree-hours beyond recommended / (n x span).

    Source: Herrlin, Rack Cooling Effectiveness in Data Centers, ASHRAE Transactions 111(2), 2005.
    """
    value = ratio(numerator, denominator)
    return None if value is None else 1.0 - value


@dataclass(frozen=True, slots=True)
class Definition:
    """One KPI. Numerator and denominator are sums over days, so that a month is a ratio of sums."""

    kpi: str
    unit: str
    numerator_unit: str
    denominator_unit: str
    edition: str
    category: int | None = None
    formula: Callable[[float, float], float | None] = ratio
    least: float | None = None
    most: float | None = None


def _pue(category: int) -> Definition:
    return Definition(f"pue{category}", "1", "kWh", "kWh", PUE_EDITION, category, least=1.0)


def _share(kpi: str, unit: str, edition: str) -> Definition:
    return Definition(kpi, "1", unit, unit, edition, least=0.0, most=1.0)


_ASHRAE: Final = "ASHRAE TC 9.9, 5th edition 2021, dry bulb"
_DEFINITIONS: Final = (
    *(_pue(category) for category in (1, 2, 3)),
    Definition("pue_normalised", "1", "kWh", "kWh", OWN_EDITION, least=1.0),
    Definition("ppue", "1", "kWh", "kWh", "EN 50600-4-2:2016, annex C", least=1.0),
    Definition("dcie", "1", "kWh", "kWh", "The Green Grid, White Paper 49 (2012)", least=0.0, most=1.0),
    Definition("cue", "kgCO2e/kWh", "kgCO2e", "kWh", "ISO/IEC 30134-8:2022", least=0.0),
    Definition("wue", "L/kWh", "L", "kWh", "ISO/IEC 30134-9:2022", least=0.0),
    Definition("wue_source", "L/kWh", "L", "kWh", "The Green Grid, White Paper 35 (2011)", least=0.0),
    Definition("ref", "1", "kWh", "kWh", "ISO/IEC 30134-3:2016, EN 50600-4-3", formula=capped_ratio, least=0.0),
    _share("erf", "kWh", "ISO/IEC 30134-6:2021"),
    Definition("ere", "1", "kWh", "kWh", "The Green Grid, White Paper 29 (2010)", least=0.0),
    Definition("cer", "1", "kWh", "kWh", "ISO/IEC 30134-7:2023", least=0.0),
    *(_share(kpi, "kWh", CFE_EDITION) for kpi in ("cfe", "cfe_own")),
    _share("iteusv", "h", "ISO/IEC 30134-5:2017"),
    _share("gpu_utilisation", "h", OWN_EDITION),
    *(_share(f"inlet_{name}_share", "h", _ASHRAE) for name in ("recommended", "a1", "a2", "a3", "a4")),
    *(
        Definition(f"rci_{end}", "1", "K h", "K h", "Herrlin 2005", formula=remaining_ratio, most=1.0)
        for end in ("hi", "lo")
    ),
    Definition("energy_per_job", "kWh/job", "kWh", "jobs", OWN_EDITION, least=0.0),
    Definition("carbon_per_job", "kgCO2e/job", "kgCO2e", "jobs", OWN_EDITION, least=0.0),
    Definition("energy_per_gpu_hour", "kWh/h", "kWh", "h", OWN_EDITION, least=0.0),
    Definition("carbon_per_gpu_hour", "kgCO2e/h", "kgCO2e", "h", OWN_EDITION, least=0.0),
    Definition("energy_per_node_hour", "kWh/h", "kWh", "h", OWN_EDITION, least=0.0),
    Definition("carbon_per_node_hour", "kgCO2e/h", "kgCO2e", "h", OWN_EDITION, least=0.0),
)  # fmt: skip

DEFINITIONS: Final = {one.kpi: one for one in _DEFINITIONS}


def judged(
    one: Definition, numerator: float | None, denominator: float | None
) -> tuple[float | None, str | None]:
    """The KPI and, where there is none, the reason."""
    if numerator is None or denominator is None:
        return None, "the inputs are not known"
    value = one.formula(numerator, denominator)
    if value is None:
        return None, f"{one.denominator_unit} of the denominator are {denominator:g}"
    if (one.least is not None and value < one.least) or (one.most is not None and value > one.most):
        return None, f"{value:g} contradicts the definition"
    return value, None
