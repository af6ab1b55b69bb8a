"""The report of a calendar year in the shape of Delegated Regulation (EU) 2024/1364, annexes II and III.

What is metered comes from gold/kpi, what no meter says from the settings (kpi.eu); what neither has is empty with a
note. The regulation sets no limits, and neither does this.
Source: Commission Delegated Regulation (EU) 2024/1364 of 14 March 2024, annexes II and III.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from lepton_etl.config.sections import EuReport
from lepton_etl.indicators.figures import SITE

THRESHOLD_KW: Final = 500.0
LITRES_PER_M3: Final = 1000.0
_DECLARED: Final = "declared"
_NOT_METERED: Final = "not metered"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Indicator:
    """One line of the report; `basis` is declared, or the basis of the metered figure, or none."""

    code: str
    name: str
    unit: str
    value: float | str | None
    basis: str
    note: str = ""


def eu_report(year_rows: Iterable[Row], market_rows: Iterable[Row], declared: EuReport) -> list[Indicator]:
    """The indicators of one site's year from its rows of gold/kpi (period year) and gold/market_year.

    `market_rows` are those of renewable instruments. A year that is not whole is marked in each note.
    """
    by_kpi = {row["kpi"]: row for row in year_rows if row["boundary"] == SITE}
    pue = next((by_kpi[name] for name in ("pue2", "pue1", "pue3") if _known(by_kpi.get(name))), None)
    matched = list(market_rows)
    certificates, contracts = (_matched(matched, kind) for kind in ("certificate", "contract"))
    renewable = _metered(by_kpi.get("ref"), "numerator")
    own = (
        None if renewable[0] is None else max(renewable[0] - (certificates or 0.0) - (contracts or 0.0), 0.0)
    )
    water = _metered(by_kpi.get("wue"), "numerator")
    water_m3 = None if water[0] is None else water[0] / LITRES_PER_M3
    potable = declared.potable_water_ratio
    potable_m3 = None if water_m3 is None or potable is None else water_m3 * potable
    return [
        *_declared(declared),
        Indicator("E_DC", "total energy consumption", "kWh", *_metered(pue, "numerator")),
        Indicator("E_IT", "energy consumption of IT equipment", "kWh", *_metered(pue, "denominator")),
        Indicator("W_IN", "total water input", "m3", water_m3, *water[1:]),
        Indicator("W_IN-POT", "potable water input", "m3", potable_m3, *_derived(potable_m3, water)),
        Indicator("E_REUSE", "waste heat reused", "kWh", *_metered(by_kpi.get("erf"), "numerator")),
        Indicator("E_RES-TOT", "renewable energy consumption", "kWh", *renewable),
        Indicator("E_RES-GOO", "renewable energy from guarantees of origin", "kWh", *_bought(certificates)),
        Indicator("E_RES-PPA", "renewable energy from power purchase agreements", "kWh", *_bought(contracts)),
        Indicator("E_RES-OOS", "renewable energy from on-site sources", "kWh", own, *_derived(own, renewable)),
        Indicator("PUE", "power usage effectiveness", "1", *_metered(pue, "kpi_value")),
        *(Indicator(code, name, unit, *_metered(by_kpi.get(code.lower()), "kpi_value")) for code, name, unit in (
            ("WUE", "water usage effectiveness", "L/kWh"), ("ERF", "energy reuse factor", "1"),
            ("REF", "renewable energy factor", "1"))),
    ]  # fmt: skip


def as_records(indicators: Sequence[Indicator], site_id: str, year: int) -> list[dict[str, Any]]:
    """The indicators as flat records, each with its site and year."""
    return [{"site_id": site_id, "reporting_year": year, **asdict(one)} for one in indicators]


def in_scope(declared: EuReport) -> bool | None:
    """Whether the site must report: installed IT power of at least 500 kW; None where it is not declared."""
    power = declared.installed_it_power_kw
    return None if power is None else power >= THRESHOLD_KW


def _declared(eu: EuReport) -> list[Indicator]:
    rows = (
        ("PD_IT", "installed information technology power demand", "kW", eu.installed_it_power_kw),
        ("S_DC", "total floor area", "m2", eu.floor_area_m2),
        ("S_CR", "computer room floor area", "m2", eu.computer_room_area_m2),
        ("C_BtG", "average battery capacity offered to the grid", "kW", eu.battery_grid_power_kw),
        ("T_WH", "average waste heat temperature", "degC", eu.waste_heat_temp_c),
        ("T_IN", "average setpoint of intake air", "degC", eu.intake_setpoint_temp_c),
        ("refrigerants", "types of refrigerants", "", ", ".join(eu.refrigerants) or None),
        ("CDD", "cooling degree days", "degree-days", eu.cooling_degree_days),
    )
    return [
        Indicator(code, name, unit, value, _DECLARED)
        if value is not None
        else Indicator(code, name, unit, None, "none", "not declared in kpi.eu")
        for code, name, unit, value in rows
    ]


def _known(row: Row | None) -> bool:
    return row is not None and row["kpi_value"] is not None


def _metered(row: Row | None, column: str) -> tuple[float | None, str, str]:
    """Value, basis and note of a year's KPI or of its numerator or denominator."""
    if row is None:
        return None, "none", _NOT_METERED
    if row["kpi_value"] is None:
        return None, "none", row["kpi_reason"] or _NOT_METERED
    category = f"category {row['pue_category']}" if column == "kpi_value" and row["pue_category"] else ""
    interim = f"interim: data up to {row['last_date']}, coverage {row['coverage_ratio']:.3f}"
    return (
        row[column],
        row["kpi_basis"],
        "; ".join(filter(None, (category, interim if row["is_interim"] else ""))),
    )


def _derived(value: float | None, of: tuple[float | None, str, str]) -> tuple[str, str]:
    return (of[1], of[2]) if value is not None else ("none", of[2] or "not declared in kpi.eu")


def _matched(rows: Sequence[Row], kind: str) -> float | None:
    found = [row["matched_kwh"] for row in rows if row["instrument_type"] == kind]
    return sum(found) if found else None


def _bought(kwh: float | None) -> tuple[float | None, str, str]:
    return (kwh, "measured", "") if kwh is not None else (None, "none", "no such instrument in the register")
