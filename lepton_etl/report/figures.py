"""Sum up and write the figures of the page: totals, what is unknown, headline tiles, ledger, tenants.

A total over days or clusters says in how many of its rows the figure was known; known in none, it is unknown
too. Figures are written in a unit that people read, with three to five digits, and a dash for the unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any, Final
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
from markupsafe import Markup

from lepton_etl.days import Days
from lepton_etl.report.lookup import (
    KNOWN,
    LIST,
    MAX,
    RATIO,
    ROWS,
    SUM,
    WHOLE,
    Origin,
    figure,
    within,
)
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM, HOURS_PER_DAY

DASH: Final = "–"
# Thin no-break space between digits and unit, so that a figure never wraps apart.
_GAP: Final = "\u202f"
_LINE: Final = 120


def number(value: float | int | None, digits: int = 4) -> str:
    """`digits` significant digits with thousands separators; whole numbers of a count stay whole."""
    if value is None:
        return DASH
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    magnitude = _magnitude(value)
    decimals = max(0, digits - 1 - magnitude)
    return f"{value:,.{min(decimals, 6)}f}"


def _magnitude(value: float) -> int:
    return int(f"{abs(value):e}".split("e")[1])


def _scaled(value: float | None, steps: tuple[tuple[float, str], ...]) -> str:
    if value is None:
        return DASH
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{number(value / factor)}{_GAP}{unit}"
    factor, unit = steps[-1]
    return f"{number(value / factor)}{_GAP}{unit}"


def energy(kwh: float | None) -> str:
    """kWh up to 10,000, then MWh and GWh."""
    if kwh is None or abs(kwh) < 1e4:
        return _scaled(kwh, ((1.0, "kWh"),))
    return _scaled(kwh, ((1e6, "GWh"), (1e3, "MWh")))


def power(watt: float | None) -> str:
    return _scaled(watt, ((1e6, "MW"), (1e3, "kW"), (1.0, "W")))


def mass(kilogram: float | None) -> str:
    return _scaled(kilogram, ((1e3, "t\u00a0CO₂e"), (1.0, "kg\u00a0CO₂e")))


def intensity_text(grams: float | None) -> str:
    return DASH if grams is None else f"{number(grams, 3)}{_GAP}g/kWh"


def percent(ratio: float | None, decimals: int = 1) -> str:
    """A ratio in percent; anything below all of it never rounds up to 100 %."""
    if ratio is None:
        return DASH
    shown = f"{ratio * 100:.{decimals}f}"
    if ratio < 1 and float(shown) >= 100:
        shown = f"{100 - 10**-decimals:.{decimals}f}"
    elif float(shown) == 0:
        shown = shown.removeprefix("-")
    return f"{shown}{_GAP}%"


def temperature(celsius: float | None) -> str:
    return DASH if celsius is None else f"{celsius:.1f}{_GAP}°C"


def ratio(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def size(count: int | None) -> str:
    if count is None or count < 1000:
        return DASH if count is None else f"{count}{_GAP}B"
    return _scaled(float(count), ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")))


def plain(value: object) -> str:
    return DASH if value is None else str(value)


def words(name: str | None) -> str:
    """A name of a table in words."""
    return "not known" if name is None else name.replace("_", " ")


def several(names: Iterable[str]) -> str:
    return ", ".join(names)


def line(logged: str | None) -> str:
    """The beginning of a logged line."""
    return DASH if logged is None else logged if len(logged) <= _LINE else f"{logged[: _LINE - 1]}…"


def whole(value: float | None) -> str:
    return DASH if value is None else f"{round(value):,}"


def sigma(value: float | None) -> str:
    """Standard deviations."""
    return DASH if value is None else f"{value:.1f}"


def least_error(ratio: float | None) -> str:
    """The smallest error of a meter that would be seen; none where not even all of its reading would."""
    return "none" if ratio is not None and ratio > 1 else percent(ratio)


def short(name: str | None) -> str:
    """The first digits of a long name."""
    return DASH if name is None else name[:8]


def watt_hours(kwh: float) -> str:
    return f"{number(1000 * kwh)}{_GAP}Wh"


def seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:,.1f}{_GAP}s"


def utc_days(days: Days) -> str:
    if days.count == 1:
        return f"UTC day {days.start}"
    return f"{days.start} to {days.end} ({days.count:,} UTC days)"


def local_span(days: Days, timezone: str) -> str:
    """The same instants on the site's clock: "2025-06-02 20:00 to 2025-06-03 20:00, America/New_York"."""
    zone = ZoneInfo(timezone)
    start, end = (stamp.astimezone(zone) for stamp in (days.from_time, days.until_time))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {timezone}"


def local_dates(days: Days, timezone: str) -> tuple[date, date]:
    """First and last local calendar day that the UTC days touch."""
    zone = ZoneInfo(timezone)
    last = days.until_time - timedelta(microseconds=1)
    return days.from_time.astimezone(zone).date(), last.astimezone(zone).date()


def stamp(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


Row = Mapping[str, Any]

_CLUSTER_DAY: Final = "gold/cluster_day"

SUMMED: Final = (
    "it_energy_kwh", "it_energy_measured_kwh", "gpu_energy_kwh",
    "idle_energy_kwh", "facility_energy_kwh", "emissions_location_kgco2e", "emissions_upstream_kgco2e",
    "emissions_missing_kwh", "embodied_kgco2e", "grid_import_kwh",
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
    """Emissions over the grid energy that has an intensity, gCO2e/kWh."""
    known = [
        row
        for row in rows
        if row["emissions_location_kgco2e"] is not None and row["grid_import_kwh"] is not None
    ]
    covered = sum(row["grid_import_kwh"] - (row["emissions_missing_kwh"] or 0) for row in known)
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


PUE: Final = "facility_energy_kwh/it_energy_kwh"
_GRID_ENERGY: Final = "emissions_location_kgco2e/grid_import_kwh-emissions_missing_kwh"
# How the row of a cluster over several days is made of its days.
_OVER_DAYS: Final[Mapping[str, tuple[str, str]]] = {
    **{name: (name, SUM) for name in (*SUMMED, "it_energy_lower_kwh", "it_energy_upper_kwh")},
    **{name: (name, "mean by node_count") for name in _AVERAGED},
    **{name: (name, MAX) for name in _HIGHEST},
    **{name: (name, LIST) for name in _BASES},
    "pue_ratio": (PUE, RATIO),
    "carbon_intensity_gco2e_per_kwh": (_GRID_ENERGY, RATIO),
}


def cluster_days(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of gold/cluster_day as the page shows them, each with its place in the table."""
    return [
        {
            **row,
            "partial": {},
            "origin": Origin(
                _CLUSTER_DAY,
                {"date": str(row["date"]), "site_id": row["site_id"], "cluster_id": row["cluster_id"]},
            ),
        }
        for row in rows
    ]


def over_range(rows: Sequence[Row], days: Days) -> list[dict[str, Any]]:
    """One row a cluster over all its days: sums, ratios of sums, node-weighted means, highest values."""
    ordered = sorted(rows, key=lambda row: (row["site_id"], row["cluster_id"], row["date"]))
    found = [
        _one(list(group)) for _, group in groupby(ordered, key=lambda r: (r["site_id"], r["cluster_id"]))
    ]
    for row in found:
        where = {"date": within(days), "site_id": row["site_id"], "cluster_id": row["cluster_id"]}
        row["origin"] = Origin(_CLUSTER_DAY, where, _OVER_DAYS)
    return found


def _one(days: list[Row]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "site_id": days[0]["site_id"], "cluster_id": days[0]["cluster_id"], "date": None, "days": len(days),
    }  # fmt: skip
    partial: dict[str, tuple[int, int]] = {}
    for column in SUMMED:
        found = total(days, column)
        result[column] = found.value
        if found.partial:
            partial[column] = (found.known, found.rows)
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
class Headline:
    """One tile: what it is, the figure with its unit, and what it rests on; each figure says where it stands."""

    name: str
    value: Markup
    note: Markup


@dataclass(frozen=True)
class _Table:
    """Rows of one table over the days, of which figures of the site are made; `expected` of them if all stand."""

    origin: Origin
    rows: Sequence[Row]
    expected: int
    counted: str  # what a row is, in the plural

    def figure(self, text: str, value: Any, column: str, how: str) -> Markup:
        return figure(text, value, column, how, self.origin)

    def total(self, column: str) -> Total:
        found = total(self.rows, column)
        return Total(found.value, found.known, self.expected)

    def sum(self, column: str, written: Callable[[float | None], str]) -> Markup:
        """The sum; where rows are unknown, what is known is the least it can be (no addend is negative)."""
        found = self.total(column)
        least = Markup("≥\u00a0") if found.partial else Markup("")
        return least + self.figure(written(found.value), found.value, column, SUM)

    def basis(self, column: str, basis_column: str) -> Markup:
        """The bases of the rows that know the figure (of all rows where none does), and how many know it."""
        known = [row for row in self.rows if row[column] is not None]
        found = listed(known or self.rows, basis_column)
        of = f"{basis_column} of {column}" if known else basis_column
        return Markup("basis: ") + self.figure(found or DASH, found, of, LIST) + self.part(column)

    def part(self, column: str) -> Markup:
        """In how many rows the figure is known, where not in all."""
        found = self.total(column)
        if not found.partial:
            return Markup("")
        return Markup("; known in {} of {} {}").format(
            self.figure(number(found.known), found.known, column, KNOWN),
            self.figure(number(self.expected), self.expected, column, f"{self.counted} expected"),
            self.counted,
        )


def listed(rows: Iterable[Row], column: str) -> str:
    """The values of a column, each once, in alphabetical order."""
    return ", ".join(sorted({str(row[column]) for row in rows if row[column] is not None}))


def headlines(
    hours: Sequence[Row], kpis: Sequence[Row], clusters: Sequence[Row], days: Days, open_nodes: str = ""
) -> list[Headline]:
    """The figures of the whole site over the days, of its own tables: rows of gold/site_hour and of gold/kpi (of days).

    Only what no table of the site has is made of rows of gold/cluster_day: GPU boards, idle energy, the highest peak.
    `open_nodes` says what of the coverage is not lost but open.
    """
    if not hours and not clusters:
        return []
    span = within(days)
    site = _Table(Origin("gold/site_hour", {"date": span}), hours, days.count * HOURS_PER_DAY, "hours")
    day = _Table(Origin(_CLUSTER_DAY, {"date": span}), clusters, len(clusters), "cluster-days")
    nodes = max((row["node_count"] for row in hours if row["node_count"] is not None), default=None)
    coverage = weighted_mean(hours, "coverage_ratio")
    peak = max(
        (row for row in clusters if row["peak_power_w"] is not None),
        key=lambda row: row["peak_power_w"],
        default=None,
    )
    highest = peak["peak_power_w"] if peak else None
    tiles = [
        Headline("IT energy", site.sum("it_energy_kwh", energy), _it_note(site)),
        Headline(
            "Coverage",
            site.figure(percent(coverage), coverage, "coverage_ratio", "mean by node_count"),
            Markup("of {} nodes\u2019 time{}").format(
                site.figure(number(nodes), nodes, "node_count", MAX), open_nodes
            ),
        ),
        Headline(
            "Facility energy",
            site.sum("facility_energy_kwh", energy),
            site.basis("facility_energy_kwh", "facility_basis"),
        ),
        _pue_tile(kpis, span),
        Headline(
            "Emissions, location-based",
            site.sum("emissions_location_kgco2e", mass),
            site.basis("emissions_location_kgco2e", "emissions_basis"),
        ),
        Headline(
            "Carbon intensity",
            site.figure(intensity_text(intensity(hours)), intensity(hours), _GRID_ENERGY, RATIO),
            Markup("of grid energy; ") + site.basis("emissions_location_kgco2e", "emissions_basis"),
        ),
        _idle_tile(clusters, day.origin, site),
        Headline(
            "Highest cluster peak",
            day.figure(power(highest), highest, "peak_power_w", MAX),
            Markup("{}, {}").format(
                figure(peak["cluster_id"], peak["cluster_id"], "cluster_id", "of max peak_power_w", day.origin),
                figure(str(peak["date"]), peak["date"], "date", "of max peak_power_w", day.origin),
            )
            if peak
            else Markup("no complete interval of node power"),
        ),
    ]  # fmt: skip
    if (boards := day.total("gpu_energy_kwh")).known:
        tiles.insert(
            1,
            Headline(
                "GPU boards",
                day.figure(energy(boards.value), boards.value, "gpu_energy_kwh", SUM),
                Markup("part of their nodes, never added to them"),
            ),
        )
    return tiles


_SENSED: Final = ("it_energy_measured_kwh", "it_energy_modelled_kwh", "it_energy_imputed_kwh")


def _it_note(site: _Table) -> Markup:
    """What the IT energy rests on: a meter, beside what nodes' sensors say, or these sensors; and their interval."""
    said = site.basis("it_energy_kwh", "energy_basis")
    low, high = interval(site.rows)
    ends = Markup("")
    if low is not None and high is not None and not site.total("it_energy_kwh").partial:
        ends = Markup("90 %: {} to {}").format(
            site.figure(energy(low), low, "it_energy_lower_kwh", SUM),
            site.figure(energy(high), high, "it_energy_upper_kwh", SUM),
        )
    if any(row["it_metered_kwh"] is not None for row in site.rows):
        # The interval is the meter's, which sees network and storage too.
        sensed = sum(row[name] or 0.0 for row in site.rows for name in _SENSED)
        nodes = site.figure(energy(sensed), sensed, "+".join(_SENSED), SUM)
        said += Markup("; at meters") + (Markup(" ({})").format(ends) if ends else Markup(""))
        said += Markup("; nodes by sensors {}").format(nodes)
    elif ends:
        said += Markup("; ") + ends
    modelled = total(site.rows, "it_energy_modelled_kwh")
    known = total(site.rows, "it_energy_kwh")
    if modelled.value and known.value:
        part = min(modelled.value / known.value, 1.0)
        said += Markup("; {} of it modelled").format(
            site.figure(percent(part), part, "it_energy_modelled_kwh/it_energy_kwh", "share")
        )
    return said


# ISO/IEC 30134-2: the point nearest to the IT input that a meter covers, else the nodes' sensors.
_PUES: Final = ("pue2", "pue1", "pue3")


def _pue_tile(kpis: Sequence[Row], span: str) -> Headline:
    """The PUE as gold/kpi has it, over the days that know it: a ratio of sums."""
    of = {kpi: [row for row in kpis if row["kpi"] == kpi] for kpi in _PUES}
    known = {kpi: sum(row["kpi_value"] is not None for row in rows) for kpi, rows in of.items()}
    # The first of those that most days know; where none does, one that says why.
    chosen = max(_PUES, key=lambda kpi: (known[kpi], bool(of[kpi])))
    where = {"date": span, "period": "day", "boundary": "site", "kpi": chosen}
    table = _Table(Origin("gold/kpi", where), of[chosen], len(of[chosen]), "days")
    value = ratio_of_sums(
        (row for row in of[chosen] if row["kpi_value"] is not None), "numerator", "denominator"
    )
    shown = table.figure(ratio(value), value, "numerator/denominator", RATIO)
    if value is None:
        why = listed(of[chosen], "kpi_reason")
        return Headline("PUE", shown, table.figure(why or "not known", why, "kpi_reason", LIST))
    category = listed(of[chosen], "pue_category")
    return Headline(
        "PUE",
        shown,
        Markup("{}; category {}; interim").format(
            table.basis("kpi_value", "kpi_basis"), table.figure(category, category, "pue_category", LIST)
        ),
    )


def _idle_tile(clusters: Sequence[Row], origin: Origin, site: _Table) -> Headline:
    """Idle energy of the clusters that have nodes, and its share of all IT energy, that outside clusters too."""
    with_nodes = {row["cluster_id"] for row in clusters if row["node_count"]}
    having = [row for row in clusters if row["cluster_id"] in with_nodes]
    day = _Table(origin, having, len(having), "cluster-days with nodes")
    idle, whole = day.total("idle_energy_kwh"), site.total("it_energy_kwh")
    share = Markup("")
    if idle.value is not None and whole.value and whole.known == whole.rows:
        part = idle.value / whole.value
        share = Markup("{}{} of all IT energy; ").format(
            "≥\u00a0" if idle.partial else "",
            figure(percent(part), part, "idle_energy_kwh", "share of gold/site_hour it_energy_kwh", origin),
        )
    return Headline(
        "Idle energy", day.sum("idle_energy_kwh", energy), share + day.basis("idle_energy_kwh", "idle_basis")
    )


BALANCE: Final = "balance"
MOST_TENANTS: Final = 40
_ORDER: Final = (
    "utility", "pv", "generator", "battery_out", "export", "battery_in", "jobs", "idle", "chassis_shared",
    "data_transfer", "it_overhead", "conversion_loss", "cooling", "management", "unattributed",
)  # fmt: skip
_TENANT_SUMS: Final = (
    "it_energy_kwh", "it_energy_usage_kwh", "it_energy_equal_kwh", "wasted_energy_kwh", "facility_energy_kwh",
    "emissions_location_kgco2e", "embodied_kgco2e",
)  # fmt: skip


ACCOUNTS_MADE: Final = {
    "account_kwh": ("account_kwh", SUM), "hours": ("account_kwh", ROWS), "known_hours": ("account_kwh", KNOWN),
    "basis": ("account_basis", LIST),
}  # fmt: skip
BALANCE_MADE: Final = {
    "account_kwh": ("account_kwh", "sum where verified"), "residual_kwh": ("residual_kwh", "sum where verified"),
    "largest_ratio": ("residual_kwh/account_kwh", "max abs where verified"), "states": ("balance_state", "counts"),
    "lacks": ("detail", "list where unverified"),
}  # fmt: skip
METERS_MADE: Final = {
    "metered_kwh": ("metered_kwh", WHOLE), "reconciled_kwh": ("reconciled_kwh", WHOLE),
    "adjustment_sigma": ("adjustment_sigma", "max abs"), "detectable_ratio": ("detectable_ratio", MAX),
    "verdict": ("meter_verdict", "worst"), "check_basis": ("check_basis", LIST),
}  # fmt: skip
TENANTS_MADE: Final = {name: (name, WHOLE) for name in _TENANT_SUMS} | {"job_count": ("job_count", SUM)}


def account_rows(ledger: pa.Table) -> list[dict[str, Any]]:
    """gold/energy_ledger -> one row a source and account: energy of the hours that know it, their number, basis."""
    rows = pl.DataFrame(ledger).filter(pl.col("side") != BALANCE)
    if rows.is_empty():
        return []
    known = pl.col("account_kwh").is_not_null()
    sums = rows.group_by("side", "ledger_account").agg(
        pl.when(known.any()).then(pl.col("account_kwh").sum()).alias("account_kwh"),
        pl.len().alias("hours"),
        known.sum().alias("known_hours"),
        pl.col("account_basis").unique().sort().str.join(", ").alias("basis"),
    )
    order = pl.col("ledger_account").replace_strict({name: i for i, name in enumerate(_ORDER)}, default=99)
    return sums.sort(order, "ledger_account").to_dicts()


def balance_row(ledger: pa.Table) -> dict[str, Any] | None:
    """Sources and residual over the hours that are judged, and how many hours are in which state; None without any."""
    rows = pl.DataFrame(ledger).filter(pl.col("side") == BALANCE)
    if rows.is_empty():
        return None
    judged = rows.filter((pl.col("balance_state") != "unverified") & pl.col("residual_kwh").is_not_null())
    largest: Any = (judged["residual_kwh"] / judged["account_kwh"]).abs().max()
    states = dict(rows["balance_state"].value_counts().sort("balance_state").iter_rows())
    return {
        "account_kwh": judged["account_kwh"].sum() if judged.height else None,
        "residual_kwh": judged["residual_kwh"].sum() if judged.height else None,
        "largest_ratio": largest,
        "states": ", ".join(f"{count} {state}" for state, count in states.items()),
        "lacks": "; ".join(
            rows.filter(pl.col("balance_state") == "unverified")["detail"].drop_nulls().unique().sort()
        ),
    }


# From the worst to the best: what a meter was on one of the days.
_VERDICTS: Final = ("culprit", "candidate", "silent", "unchecked", "agrees")


def meter_rows(checks: pa.Table) -> list[dict[str, Any]]:
    """gold/meter_check -> one row a meter over the days: sums, the largest test, the worst verdict.

    A sum that a day lacks is null. Figures of single hours are left out.
    """
    rows = pl.DataFrame(checks).filter(pl.col("check_period") == "day")
    whole = [
        pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum()).alias(name)
        for name in ("metered_kwh", "reconciled_kwh")
    ]
    worst = (
        pl.col("meter_verdict")
        .replace_strict({name: at for at, name in enumerate(_VERDICTS)}, default=0)
        .min()
    )
    return (
        rows.group_by("site_id", "meter_id")
        .agg(
            *whole, pl.col("adjustment_sigma").abs().max(), pl.col("detectable_ratio").max(), worst.alias("worst"),
            pl.col("check_basis").unique().sort().str.join(", "),
        )
        .with_columns(pl.col("worst").replace_strict(dict(enumerate(_VERDICTS))).alias("verdict"))
        .sort("worst", "site_id", "meter_id")
        .to_dicts()
    )  # fmt: skip


def tenant_rows(tenants: pa.Table) -> list[dict[str, Any]]:
    """gold/tenant_day -> tenants over the range, the largest first; a figure that a day lacks is null."""
    frame = pl.DataFrame(tenants)
    if frame.is_empty():
        return []
    sums = [
        pl.when(pl.col(name).is_not_null().all()).then(pl.col(name).sum()).alias(name)
        for name in _TENANT_SUMS
    ]
    rows = frame.group_by("cluster_id", "tenant_id").agg(*sums, pl.col("job_count").sum())
    return rows.sort(
        "it_energy_kwh", "cluster_id", "tenant_id", descending=[True, False, False], nulls_last=True
    ).to_dicts()


def burden_kinds(burdens: pa.Table) -> list[dict[str, Any]]:
    """gold/tenant_burden -> one row a site and burden: its index, tenants, and what a limit of shares costs."""
    same = (
        "jain_index_ratio",
        "fair_share_basis",
        "share_max_ratio",
        "forgone_saving_kwh",
        "forgone_saving_ratio",
    )
    rows = pl.DataFrame(burdens).group_by("site_id", "burden_kind", maintain_order=True)
    return rows.agg(pl.len().alias("tenants"), pl.col(same).first()).sort("site_id", "burden_kind").to_dicts()


def burden_rows(burdens: pa.Table) -> list[dict[str, Any]]:
    """Rows of gold/tenant_burden, those furthest above their fair share first."""
    beyond = pl.col("burden_share_ratio") - pl.col("fair_share_ratio")
    rows = pl.DataFrame(burdens).sort(beyond, descending=True, nulls_last=True, maintain_order=True)
    return rows.to_dicts()
