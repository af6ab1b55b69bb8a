"""The report of a calendar year in the shape of Delegated Regulation (EU) 2024/1364: every point of annexes I to III.

What is metered comes from gold/kpi, gold/site_hour and the weather, what no meter says from the settings (kpi.eu).
What neither has is a row without a value whose note says why no log can give it. The regulation sets no limits, and
neither does this.
Source: Commission Delegated Regulation (EU) 2024/1364 of 14 March 2024, annexes I, II and III.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import polars as pl

from lepton_etl.config.sections import EuReport
from lepton_etl.energy.exact_sums import exact_sum
from lepton_etl.indicators.figures import SITE

THRESHOLD_KW: Final = 500.0
LITRES_PER_M3: Final = 1000.0
# A day as warm as this counts, by what its mean lies above the base. Source: Eurostat, cooling degree days.
CDD_FROM_C: Final = 24.0
CDD_BASE_C: Final = 21.0
_DECLARED: Final = "declared"
_NOT_METERED: Final = "not metered"
Row = Mapping[str, Any]
Value = float | str | None


@dataclass(frozen=True, slots=True)
class Indicator:
    """One line of the report; `annex` is its point, `basis` declared, or the basis of the metered figure, or none."""

    annex: str
    code: str
    name: str
    unit: str
    value: Value
    basis: str
    note: str = ""

    @property
    def number(self) -> float | None:
        """The value where it is a number."""
        return None if isinstance(self.value, str) else self.value


@dataclass(frozen=True, slots=True)
class Facts:
    """What of a year the site's hours say beyond gold/kpi; None is unknown, and the note says of which hours."""

    generator_kwh: float | None = None
    on_site_kwh: float | None = None
    hours_note: str = ""
    cooling_degree_days: float | None = None
    weather_note: str = "no weather is read"


# What only the operator knows: point, code, what it is, unit, its key in kpi.eu, and why no log has it.
_REGISTER: Final = "a fact of the company, in no log"
_BUILDING: Final = "a fact of the building, in no log"
_SETTING: Final = "the cooling plant's set points and media are in no log that is read"
_MAKER: Final = "the manufacturers' declarations under (EU) 2019/424 are in no log"
_NETWORK: Final = "the site's border routers are not read; counters of nodes hold traffic inside the site too"
_STATED: Final = (
    ("I.1.a", "name", "name of the data centre", "", "name", _REGISTER),
    ("I.1.b", "owner", "owner of the data centre", "", "owner_name", _REGISTER),
    ("I.1.b", "owner_contact", "contact of the owner", "", "owner_contact", _REGISTER),
    ("I.1.b", "operator", "operator of the data centre", "", "operator_name", _REGISTER),
    ("I.1.b", "operator_contact", "contact of the operator", "", "operator_contact", _REGISTER),
    ("I.1.c", "LAU", "local administrative unit of the location", "", "lau_code", _REGISTER),
    ("I.1.d", "type", "type of data centre", "", "data_centre_type", _REGISTER),
    ("I.1.d", "structure", "structure or group of structures", "", "structure", _REGISTER),
    ("I.1.d", "also_offers", "whether colocation and co-hosting are both offered", "", "offers_both", _REGISTER),
    ("I.1.e", "operation", "year and month of entry into operation", "", "operation_month", _REGISTER),
    ("I.2.a", "N_high_voltage", "electrical redundancy at high voltage", "", "redundancy_high_voltage", _BUILDING),
    ("I.2.a", "N_low_voltage", "electrical redundancy at low voltage", "", "redundancy_low_voltage", _BUILDING),
    ("I.2.a", "N_rack", "electrical redundancy at rack level", "", "redundancy_rack", _BUILDING),
    ("I.2.b", "N_cooling_room", "cooling redundancy at room level", "", "redundancy_cooling_room", _BUILDING),
    ("I.2.b", "N_cooling_rack", "cooling redundancy at rack level", "", "redundancy_cooling_rack", _BUILDING),
    ("II.1.a", "PD_IT", "installed information technology power demand", "kW", "installed_it_power_kw", _REGISTER),
    ("II.1.b", "S_DC", "total floor area", "m2", "floor_area_m2", _BUILDING),
    ("II.1.c", "S_CR", "computer room floor area", "m2", "computer_room_area_m2", _BUILDING),
    ("II.1.f", "grid_functions", "functions offered to the electrical grid", "", "grid_functions", _REGISTER),
    ("II.1.g", "C_BtG", "average battery capacity offered to the grid", "kW", "battery_grid_power_kw", _REGISTER),
    ("II.1.k", "T_WH", "average waste heat temperature", "degC", "waste_heat_temp_c", _SETTING),
    ("II.1.l", "T_IN", "average setpoint of intake air", "degC", "intake_setpoint_temp_c", _SETTING),
    ("II.1.m", "refrigerants", "types of refrigerants", "", "refrigerants", _SETTING),
    ("II.2.a", "C_SERV", "ICT capacity of servers, SERT active state", "1", "server_sert_performance", _MAKER),
    ("II.2.a", "C_SERV_area", "share of the computer room that C_SERV covers", "1", "server_area_ratio", _BUILDING),
    ("II.2.b", "C_STOR", "ICT capacity of storage, raw", "PB", "storage_capacity_pb", _MAKER),
    ("II.2.b", "C_STOR_area", "share of the computer room that C_STOR covers", "1", "storage_area_ratio", _BUILDING),
    ("II.3.a", "B_IN", "incoming traffic bandwidth", "GB/s", "bandwidth_in_gbyte_per_s", _NETWORK),
    ("II.3.b", "B_OUT", "outgoing traffic bandwidth", "GB/s", "bandwidth_out_gbyte_per_s", _NETWORK),
    ("II.3.c", "T_IN", "incoming data traffic", "EB", "traffic_in_ebyte", _NETWORK),
    ("II.3.d", "T_OUT", "outgoing data traffic", "EB", "traffic_out_ebyte", _NETWORK),
)  # fmt: skip


def eu_report(
    year_rows: Iterable[Row], market_rows: Iterable[Row], declared: EuReport, facts: Facts | None = None
) -> list[Indicator]:
    """The points of one site's year from its rows of gold/kpi (period year) and gold/market_year, in their order.

    `market_rows` are those of renewable instruments. A year that is not whole is marked in each note. E_IT is metered
    at the UPS where the site has such meters, as the regulation wants it, else at the PDUs, else by nodes' sensors.
    """
    facts = facts or Facts()
    by_kpi = {row["kpi"]: row for row in year_rows if row["boundary"] == SITE}
    pue = next((by_kpi[name] for name in ("pue1", "pue2", "pue3") if _known(by_kpi.get(name))), None)
    water = _metered(by_kpi.get("wue"), "numerator")
    water_m3 = None if water[0] is None else water[0] / LITRES_PER_M3
    category = declared.water_category
    quality = f"WUE category {category}" if category else "WUE category not declared in kpi.eu.water_category"
    potable = declared.potable_water_ratio
    potable_m3 = None if water_m3 is None or potable is None else water_m3 * potable
    point = f"IT energy of PUE category {pue['pue_category']}" if pue else ""
    metered = [
        Indicator("II.1.d", "E_DC", "total energy consumption", "kWh", *_metered(pue, "numerator")),
        Indicator("II.1.d", "E_DC-BG", "of it from back-up generators", "kWh",
                  *_of_hours(facts.generator_kwh, facts.hours_note, "no generator is metered")),
        _noted(Indicator("II.1.e", "E_IT", "energy of information technology equipment", "kWh",
                         *_metered(pue, "denominator")), point),
        _noted(Indicator("II.1.h", "W_IN", "total water input", "m3", water_m3, *water[1:]), quality),
        Indicator("II.1.i", "W_IN-POT", "potable water input", "m3", potable_m3,
                  *_derived(potable_m3, water, "not declared in kpi.eu.potable_water_ratio")),
        Indicator("II.1.j", "E_REUSE", "waste heat reused", "kWh", *_metered(by_kpi.get("erf"), "numerator")),
        _degree_days(declared, facts),
        *_renewables(list(market_rows), facts),
    ]  # fmt: skip
    of = {one.code: one.number for one in metered}
    rows = [*_stated(declared), *metered, *_ratios(of, metered)]
    return sorted(rows, key=lambda one: one.annex)


def as_records(indicators: Sequence[Indicator], site_id: str, year: int) -> list[dict[str, Any]]:
    """The indicators as flat records, each with its site and year."""
    return [{"site_id": site_id, "reporting_year": year, **asdict(one)} for one in indicators]


def in_scope(declared: EuReport) -> bool | None:
    """Whether the site must report: installed IT power of at least 500 kW; None where it is not declared."""
    power = declared.installed_it_power_kw
    return None if power is None else power >= THRESHOLD_KW


def year_facts(
    site_hours: pl.DataFrame, weather_hours: pl.DataFrame, year: int, *, certificates_sold: bool
) -> Facts:
    """Rows of gold/site_hour and silver/weather_hour of one site's year -> what they say of it.

    On-site renewable energy is what the site used itself of its photovoltaics; what was sold as certificates is the
    buyer's. Cooling degree days: the sum over the days whose mean dry bulb is 24 degC or more of what it lies above 21.
    Source: EN 50600-4-3; Eurostat, heating and cooling degree days.
    """
    # A site that never exports has no meter of it; one whose meter is silent does not know what it kept.
    export = pl.col("export_kwh")
    exported = pl.when(export.count() > 0).then(export).otherwise(0.0)
    used = (pl.col("pv_kwh") - exported).clip(lower_bound=0.0)
    sums = site_hours.select(
        exact_sum(pl.col("generator_kwh")).alias("generator"), exact_sum(used).alias("own"),
        pl.len().alias("hours"),
    ).row(0, named=True)  # fmt: skip
    days = 366 if calendar.isleap(year) else 365
    means = (
        weather_hours.group_by("date")
        .agg(pl.col("outdoor_dry_bulb_temp_c").mean().alias("mean_c"))
        .drop_nulls()
        .sort("date")
    )
    warm = means.filter(pl.col("mean_c") >= CDD_FROM_C)["mean_c"] - CDD_BASE_C
    note = f"interim: {sums['hours']} of {days * 24} hours of the year" if sums["hours"] < days * 24 else ""
    if means.is_empty():
        weather, degree_days = "no weather is read", None
    else:
        weather = f"interim: weather of {means.height} of {days} days" if means.height < days else ""
        degree_days = float(warm.sum())
    own = sums["own"]
    return Facts(sums["generator"], 0.0 if certificates_sold and own else own, note, degree_days, weather)


def _stated(eu: EuReport) -> list[Indicator]:
    rows = []
    for annex, code, name, unit, key, why in _STATED:
        value = getattr(eu, key)
        if isinstance(value, tuple):
            value = ", ".join(value) or None
        if isinstance(value, bool):
            value = "yes" if value else "no"
        note = (
            f"by {eu.it_power_metric} power" if key == "installed_it_power_kw" and value is not None else ""
        )
        rows.append(
            Indicator(annex, code, name, unit, None, "none", f"{why}; declare kpi.eu.{key}")
            if value is None
            else Indicator(annex, code, name, unit, value, _DECLARED, note)
        )
    return rows


def _degree_days(eu: EuReport, facts: Facts) -> Indicator:
    named = ("II.1.n", "CDD", "cooling degree days", "degree-days")
    if eu.cooling_degree_days is not None:
        return Indicator(*named, eu.cooling_degree_days, _DECLARED)
    missing = "; read the site's weather or declare kpi.eu.cooling_degree_days"
    return Indicator(
        *named, *_of_hours(facts.cooling_degree_days, facts.weather_note, f"no weather{missing}")
    )


def _renewables(market: Sequence[Row], facts: Facts) -> list[Indicator]:
    goo, ppa = (_matched(market, kind) for kind in ("certificate", "contract"))
    parts = [kwh for kwh in (goo, ppa, facts.on_site_kwh) if kwh is not None]
    total = sum(parts) if parts else None
    return [
        Indicator("II.1.o", "E_RES-TOT", "renewable energy consumption", "kWh",
                  *_of_hours(total, facts.hours_note, "neither instruments nor photovoltaics are known")),
        Indicator("II.1.p", "E_RES-GOO", "renewable energy from guarantees of origin", "kWh", *_bought(goo)),
        Indicator("II.1.q", "E_RES-PPA", "renewable energy from power purchase agreements", "kWh", *_bought(ppa)),
        Indicator("II.1.r", "E_RES-OS", "renewable energy from on-site sources", "kWh",
                  *_of_hours(facts.on_site_kwh, facts.hours_note, "no photovoltaics are metered")),
    ]  # fmt: skip


def _ratios(of: Mapping[str, float | None], metered: Sequence[Indicator]) -> list[Indicator]:
    """Annex III: quotients of what the report itself holds."""
    basis = {one.code: (one.basis, one.note) for one in metered}
    made = []
    for annex, code, name, unit, above, below, scale in (
        ("III.a", "PUE", "power usage effectiveness", "1", "E_DC", "E_IT", 1.0),
        ("III.b", "WUE", "water usage effectiveness", "m3/MWh", "W_IN", "E_IT", 1000.0),
        ("III.c", "ERF", "energy reuse factor", "1", "E_REUSE", "E_DC", 1.0),
        ("III.d", "REF", "renewable energy factor", "1", "E_RES-TOT", "E_DC", 1.0),
    ):
        numerator, denominator = of[above], of[below]
        if numerator is None or not denominator:
            lacks = above if numerator is None else below
            made.append(Indicator(annex, code, name, unit, None, "none", f"{lacks} is not known"))
        else:
            found, note = basis[above]
            both = found if found == basis[below][0] else "partial"
            made.append(Indicator(annex, code, name, unit, numerator * scale / denominator, both, note))
    return made


def _known(row: Row | None) -> bool:
    return row is not None and row["kpi_value"] is not None


def _metered(row: Row | None, column: str) -> tuple[float | None, str, str]:
    """Value, basis and note of a year's KPI or of its numerator or denominator."""
    if row is None:
        return None, "none", _NOT_METERED
    if row["kpi_value"] is None:
        return None, "none", row["kpi_reason"] or _NOT_METERED
    interim = f"interim: data up to {row['last_date']}, coverage {row['coverage_ratio']:.3f}"
    return row[column], row["kpi_basis"], interim if row["is_interim"] else ""


def _of_hours(value: float | None, note: str, missing: str) -> tuple[float | None, str, str]:
    return (value, "measured", note) if value is not None else (None, "none", missing)


def _noted(one: Indicator, note: str) -> Indicator:
    if one.value is None or not note:
        return one
    return replace(one, note="; ".join(filter(None, (note, one.note))))


def _derived(value: float | None, of: tuple[float | None, str, str], missing: str) -> tuple[str, str]:
    return (of[1], of[2]) if value is not None else ("none", of[2] if of[0] is None else missing)


def _matched(rows: Sequence[Row], kind: str) -> float | None:
    found = [row["matched_kwh"] for row in rows if row["instrument_type"] == kind]
    return sum(found) if found else None


def _bought(kwh: float | None) -> tuple[float | None, str, str]:
    return (kwh, "measured", "") if kwh is not None else (None, "none", "no such instrument in the register")
