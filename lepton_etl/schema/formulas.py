"""How the main figures are made of others: one expression a column, which `lepton-etl trace` computes and prints.

The text is SQL that polars evaluates over stored rows. So it cannot say anything else than what holds: a trace whose
text does not give the stored figure ends in an error. The data dictionary prints the same text, and the column lineage
of the OpenLineage events names the same inputs.

A name without a prefix is a column of the rows that are summed (`rows`), of the figure's own row where nothing is
summed. `own_` is the figure's own row beside rows that are summed; any other prefix is that of a table beside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lepton_etl.schema.common import COOLING_POINTS, KNOWN_OFF, MODELLED_SOURCES, MODELLED_SUM
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM, JOULES_PER_KWH
from lepton_etl.schema.jobs import RUN_KEY

# Rows that no table holds: a kernel of the night makes them again of stored rows.
JOB_HOUR: Final = "made/job_hour"
METER_HOUR: Final = "made/meter_hour"
SEGMENT: Final = "made/segment"
MODELLED_INTERVAL: Final = "made/modelled_interval"
MADE: Final = {
    JOB_HOUR: "lepton_etl.attribution.node_split.split_nodes",
    METER_HOUR: "lepton_etl.facility.pue.meter_hours",
    SEGMENT: "lepton_etl.intervals.node_day.heard_on",
    MODELLED_INTERVAL: "lepton_etl.intervals.modelled_power.judged_sums",
}
OWN: Final = "own_"


@dataclass(frozen=True, slots=True)
class Beside:
    """One row of another table for each row: the columns `on` agree, and each name gets a prefix."""

    table: str
    prefix: str
    on: tuple[str, ...]
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Formula:
    """A column of a table: `text` over the rows of `rows` that agree with the figure's row in `by` and pass `where`.

    `when` says of which rows it holds, of the figure's own row and of those beside it; the first that holds counts.
    """

    table: str
    column: str
    text: str
    rows: str | None = None
    by: tuple[str, ...] = ()
    where: str | None = None
    beside: tuple[Beside, ...] = ()
    when: str | None = None

    def names(self) -> list[str]:
        """Return the columns that the text names, each once, as it names them."""
        # What a condition asks is no addend.
        return list(dict.fromkeys(re.findall(r"\b[a-z_][a-z0-9_]*", re.sub(r"WHEN .*? THEN", "", self.text))))

    def source_of(self, name: str) -> tuple[str, str]:
        """Return the table and column that a name of the text stands for."""
        for one in self.beside:
            if name.startswith(one.prefix):
                return one.table, name.removeprefix(one.prefix)
        if self.rows is None or name.startswith(OWN):
            return self.table, name.removeprefix(OWN)
        return self.rows, name

    def __str__(self) -> str:
        over = "" if self.rows is None else f" over rows of {self.rows}"
        return f"{self.text}{over}{f' where {self.where}' if self.where else ''}"


_PARTS: Final = ("it_energy_measured_kwh", "it_energy_modelled_kwh", "it_energy_imputed_kwh")
_WHOLE: Final = " + ".join(f"COALESCE({name}, 0)" for name in _PARTS)
_NODE_WHOLE: Final = " + ".join(f"COALESCE(node_{name}, 0)" for name in _PARTS)
_READ: Final = "device_id = 'node' AND counts_in_total AND energy_kwh IS NOT NULL"
_IS_MODELLED: Final = f"energy_source IN ({', '.join(repr(one) for one in MODELLED_SOURCES)})"
_OUTSIDE: Final = "cluster_id IN ('_shared', '_unattributed')"
_SITE: Final = ("site_id", "hour_start")
_CLUSTER: Final = ("site_id", "cluster_id", "hour_start")
_CLUSTER_DAY: Final = ("date", "site_id", "cluster_id")
_NODE: Final = ("site_id", "cluster_id", "node_id", "hour_start")
_OF_SITE: Final = Beside("gold/site_hour", "site_", _SITE)
_HAS_BOTH: Final = "pue_ratio IS NOT NULL AND it_energy_kwh IS NOT NULL AND facility_energy_kwh IS NOT NULL"
_GRAMS: Final = f"{GRAMS_PER_KILOGRAM:g}"
_JOULES: Final = f"{JOULES_PER_KWH:.0f}"
_NOT_METERED: Final = "'assumed', 'modelled'"
_SHARED_LOADS: Final = "'network', 'storage', 'service'"
_OF_GRID: Final = Beside(
    "silver/grid_hour",
    "grid_",
    ("hour_start",),
    "intensity_basis = 'direct' AND signal = 'average'",
)


def _sums(
    table: str, rows: str, by: tuple[str, ...], *columns: str, when: str | None = None
) -> list[Formula]:
    return [Formula(table, name, f"SUM({name})", rows, by, when=when) for name in columns]


def _overhead() -> list[Formula]:
    """A cluster-hour's facility energy: its own IT energy, and the site's overhead by its share of the IT energy."""
    ledger = "MAX(site_overhead_kwh + site_carrier_energy_kwh)"
    rest = "MAX(site_facility_energy_kwh - site_it_energy_kwh)"
    whole, site = "SUM(it_energy_kwh)", "MAX(site_it_energy_kwh)"
    by_ledger = "MAX(site_overhead_kwh + site_carrier_energy_kwh) IS NOT NULL"
    known = "COUNT(*) = COUNT(it_energy_kwh)"
    own = "MAX(own_it_energy_kwh)"
    assumed = Formula(
        "gold/cluster_hour", "facility_energy_kwh", "it_energy_kwh * site_pue_ratio", beside=(_OF_SITE,),
        when="site_pue_basis = 'assumed'",
    )  # fmt: skip
    return [
        assumed,
        *(
            Formula(
                "gold/cluster_hour", "facility_energy_kwh", f"{own} + {overhead} * {own} / {of}",
                "gold/cluster_hour", _SITE, beside=(_OF_SITE,), when=f"{is_ledger} AND {is_known}",
            )
            for overhead, is_ledger in ((ledger, by_ledger), (rest, f"NOT ({by_ledger})"))
            for of, is_known in ((whole, known), (site, f"NOT ({known})"))
        ),
    ]  # fmt: skip


def _emissions(table: str) -> list[Formula]:
    return [
        Formula(
            table, "emissions_location_kgco2e", f"grid_import_kwh * carbon_intensity_gco2e_per_kwh / {_GRAMS}"
        ),
        Formula(
            table, "carbon_intensity_gco2e_per_kwh", "grid_carbon_intensity_gco2e_per_kwh", beside=(_OF_GRID,)
        ),
    ]  # fmt: skip


def _energies(table: str, rows: str, by: tuple[str, ...], when: str | None = None) -> list[Formula]:
    """IT energy of a group of nodes: each part is a sum over node-hours."""
    return [
        Formula(table, "it_energy_kwh", _WHOLE, when=when),
        *_sums(table, rows, by, *_PARTS, when=when),
    ]


_SHARED_BY_ENERGY: Final = ("facility_energy_kwh", "emissions_location_kgco2e")
_RUN_DAY: Final = (*RUN_KEY, "date")
_ENERGY_COST: Final = "energy_cost"

_ALL: Final[tuple[Formula, ...]] = (
    # Days of tenants and runs
    Formula("gold/tenant_day", "it_energy_kwh", "dynamic_kwh + static_kwh"),
    *_sums(
        "gold/tenant_day", "gold/job_energy", ("site_id", "cluster_id", "tenant_id", "date"),
        "dynamic_kwh", "static_kwh", *_SHARED_BY_ENERGY, _ENERGY_COST,
    ),
    Formula("gold/job_energy", "it_energy_kwh", "dynamic_kwh + static_kwh"),
    *_sums("gold/job_energy", JOB_HOUR, _RUN_DAY, "dynamic_kwh", "static_kwh"),
    *(
        Formula(
            "gold/job_energy", name, f"SUM(energy_kwh * cluster_{name} / cluster_it_energy_kwh)", JOB_HOUR, _RUN_DAY,
            "energy_kwh > 0", (Beside("gold/cluster_hour", "cluster_", _CLUSTER),),
        )
        for name in _SHARED_BY_ENERGY
    ),
    Formula(
        "gold/job_energy", _ENERGY_COST, "SUM(energy_kwh * cost_energy_cost / cluster_it_energy_kwh)", JOB_HOUR,
        _RUN_DAY, "energy_kwh > 0",
        (Beside("gold/cluster_hour", "cluster_", _CLUSTER), Beside("gold/cluster_cost", "cost_", _CLUSTER)),
    ),
    # What a run has of a node-hour is what neither the other runs nor idle have.
    Formula(
        JOB_HOUR, "energy_kwh", f"{_NODE_WHOLE} - idle_kwh - others_kwh",
        beside=(Beside("gold/node_hour", "node_", _NODE),),
    ),
    Formula(JOB_HOUR, "dynamic_kwh", "energy_kwh - static_kwh"),
    Formula(JOB_HOUR, "static_kwh", "energy_kwh - dynamic_kwh"),
    # Days of clusters
    *(
        Formula("gold/cluster_day", name, "SUM(it_energy_kwh)", "gold/cluster_hour", _CLUSTER_DAY, when=_OUTSIDE)
        for name in ("it_energy_kwh", "it_energy_measured_kwh")
    ),
    *_energies("gold/cluster_day", "gold/node_hour", _CLUSTER_DAY),
    *_sums(
        "gold/cluster_day", "gold/cluster_hour", _CLUSTER_DAY,
        "facility_energy_kwh", "grid_import_kwh", "emissions_location_kgco2e",
    ),
    Formula(
        "gold/cluster_day", "pue_ratio",
        f"SUM(CASE WHEN {_HAS_BOTH} THEN facility_energy_kwh END) / SUM(CASE WHEN {_HAS_BOTH} THEN it_energy_kwh END)",
        "gold/cluster_hour", _CLUSTER_DAY,
    ),
    Formula(
        "gold/cluster_day", "carbon_intensity_gco2e_per_kwh",
        f"SUM(emissions_location_kgco2e) * {_GRAMS} / "
        "SUM(CASE WHEN emissions_location_kgco2e IS NOT NULL THEN grid_import_kwh END)",
        "gold/cluster_hour", _CLUSTER_DAY,
    ),
    # Hours of clusters
    *(
        Formula(
            "gold/cluster_hour", name, f"COALESCE(SUM({text}), 0) + MAX(site_{load})", "gold/node_hour", _CLUSTER,
            beside=(_OF_SITE,), when=f"cluster_id = '{cluster}' AND site_{load} > 0",
        )
        for cluster, load in (("_shared", "shared_load_kwh"), ("_unattributed", "unattributed_kwh"))
        for name, text in (("it_energy_kwh", _WHOLE), ("it_energy_measured_kwh", "it_energy_measured_kwh"))
    ),
    *_energies("gold/cluster_hour", "gold/node_hour", _CLUSTER),
    *_overhead(),
    Formula(
        "gold/cluster_hour", "pue_ratio", "site_pue_ratio", beside=(_OF_SITE,), when="site_pue_basis = 'assumed'"
    ),
    Formula("gold/cluster_hour", "pue_ratio", "facility_energy_kwh / it_energy_kwh"),
    Formula(
        "gold/cluster_hour", "grid_import_kwh", "facility_energy_kwh", beside=(_OF_SITE,),
        when=f"site_facility_basis IN ({_NOT_METERED}) OR site_pue_basis IN ({_NOT_METERED})",
    ),
    Formula(
        "gold/cluster_hour", "grid_import_kwh", "facility_energy_kwh * site_utility_kwh / site_facility_energy_kwh",
        beside=(_OF_SITE,),
    ),
    *_emissions("gold/cluster_hour"),
    # Hours of sites
    Formula("gold/site_hour", "it_energy_kwh", "it_metered_kwh", when="it_metered_kwh IS NOT NULL"),
    *_energies("gold/site_hour", "gold/node_hour", _SITE),
    *(
        Formula("gold/site_hour", "it_metered_kwh", "SUM(energy_kwh)", METER_HOUR, _SITE, f"point = '{point}'",
                when=f"pue_category = {category}")
        for point, category in (("pdu_out", 2), ("ups_out", 1))
    ),
    Formula("gold/site_hour", "facility_energy_kwh", "facility_metered_kwh", when="facility_basis = 'measured'"),
    Formula(
        "gold/site_hour", "facility_energy_kwh", "it_energy_kwh * pue_ratio", when="facility_basis = 'assumed'"
    ),
    Formula(
        "gold/site_hour", "facility_metered_kwh", "SUM(direction * energy_kwh) + MAX(own_carrier_energy_kwh)",
        METER_HOUR, _SITE, "direction IS NOT NULL",
    ),
    Formula("gold/site_hour", "utility_kwh", "SUM(direction * energy_kwh)", METER_HOUR, _SITE, "point = 'utility'"),
    Formula("gold/site_hour", "pue_ratio", "facility_energy_kwh / it_energy_kwh", when="facility_basis <> 'assumed'"),
    Formula(
        "gold/site_hour", "overhead_kwh", "SUM(account_kwh)", "gold/energy_ledger", _SITE,
        "side = 'account' AND ledger_account IN ('conversion_loss', 'cooling', 'management')",
    ),
    Formula(
        "gold/site_hour", "shared_load_kwh", "SUM(energy_kwh)", METER_HOUR, _SITE,
        f"point IN ('pdu_out', 'other') AND serves IN ({_SHARED_LOADS})",
    ),
    *(
        Formula("gold/energy_ledger", "account_kwh", "SUM(energy_kwh)", METER_HOUR, _SITE, where,
                when=f"ledger_account = '{account}' AND account_basis = 'measured'")
        for account, where in (
            ("cooling", f"point IN ({', '.join(map(repr, COOLING_POINTS))})"),
            ("management", f"point = 'other' AND (serves IS NULL OR NOT (serves IN ({_SHARED_LOADS})))"),
        )
    ),
    Formula(
        "gold/site_hour", "grid_import_kwh", "facility_energy_kwh",
        when=f"facility_basis IN ({_NOT_METERED}) OR pue_basis IN ({_NOT_METERED})",
    ),
    Formula("gold/site_hour", "grid_import_kwh", "utility_kwh"),
    *_emissions("gold/site_hour"),
    # Money
    Formula(
        "gold/cluster_cost", _ENERGY_COST,
        "site_cost_energy_cost * cluster_facility_energy_kwh / site_hour_facility_energy_kwh",
        beside=(
            Beside("gold/site_cost", "site_cost_", _SITE), Beside("gold/site_hour", "site_hour_", _SITE),
            Beside("gold/cluster_hour", "cluster_", _CLUSTER),
        ),
    ),
    Formula(
        "gold/site_cost", _ENERGY_COST, "SUM(direction * energy_kwh) * MAX(own_energy_price)", METER_HOUR, _SITE,
        "point = 'utility'", when="cost_basis = 'measured'",
    ),
    Formula(
        "gold/site_cost", _ENERGY_COST, "site_hour_facility_energy_kwh * energy_price",
        beside=(Beside("gold/site_hour", "site_hour_", _SITE),), when="cost_basis <> 'measured'",
    ),
    # Hours of nodes and meters
    Formula("gold/node_hour", "it_energy_kwh", _WHOLE),
    *(
        Formula("gold/node_hour", f"it_energy_{part}_kwh", "SUM(energy_kwh)", "silver/interval", _NODE,
                f"{_READ} AND {test}")
        for part, test in (("measured", f"NOT ({_IS_MODELLED})"), ("modelled", _IS_MODELLED))
    ),
    Formula(METER_HOUR, "energy_kwh", "SUM(energy_kwh)", "silver/facility_interval",
            ("site_id", "meter_id", "hour_start")),
    # Intervals: of a node that is known to be off, of one without a sensor of its own, and of all that are read. There
    # the value runs straight from one reading to the next, and is cut at the interval's ends.
    Formula(
        "silver/interval", "energy_kwh", f"COALESCE(listed_standby_power_w, 0) * interval_s / {_JOULES}",
        beside=(Beside("silver/node", "listed_", ("site_id", "node_id")),), when=f"energy_source = '{KNOWN_OFF}'",
    ),
    Formula(
        "silver/interval", "energy_kwh",
        f"MAX((point_w + (1 + loss_ratio) * beyond_w) * observed_s) / {_JOULES}", MODELLED_INTERVAL,
        when=f"energy_source = '{MODELLED_SUM}'",
    ),
    *(
        Formula(
            table, "energy_kwh",
            "SUM((from_w + (to_w - from_w) * (begin_s + end_s) / (2 * span_s)) * (end_s - begin_s) * weight) / "
            f"{_JOULES}",
            SEGMENT,
        )
        for table in ("silver/interval", "silver/facility_interval")
    ),
    Formula("silver/grid_hour", "carbon_intensity_gco2e_per_kwh", "AVG(value)", "bronze/reading"),
)  # fmt: skip


def formulas_of(table: str, column: str) -> tuple[Formula, ...]:
    """Return how a column is made, by what holds of its row; empty where nothing is said of it."""
    return tuple(one for one in _ALL if (one.table, one.column) == (table, column))


def told_columns(table: str) -> tuple[str, ...]:
    """Return the columns of a table of which a formula is known."""
    return tuple(dict.fromkeys(one.column for one in _ALL if one.table == table))


def told_tables() -> tuple[str, ...]:
    """Return the stored tables with such columns."""
    return tuple(dict.fromkeys(one.table for one in _ALL if one.table not in MADE))
