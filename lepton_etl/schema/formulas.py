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
from math import sqrt
from typing import Final

from lepton_etl.schema.common import COOLING_POINTS, KNOWN_OFF, MODELLED_SOURCES, MODELLED_SUM
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM, JOULES_PER_KWH, SECONDS_PER_HOUR, end_names
from lepton_etl.schema.energy import CARBON_ENDS
from lepton_etl.schema.jobs import FACILITY_ENDS, RUN_KEY, WASTED_OUTCOMES
from lepton_etl.uncertainty import UNSTATED_CLASS_PCT, UNSTATED_PDU_PCT, Z_EVEN, Z

# Rows that no table holds: a kernel of the night makes them again of stored rows.
JOB_HOUR: Final = "made/job_hour"
METER_HOUR: Final = "made/meter_hour"
SEGMENT: Final = "made/segment"
MODELLED_INTERVAL: Final = "made/modelled_interval"
NODE_INTERVAL: Final = "made/node_interval"
NODE_SPLIT: Final = "made/node_split"
POWER_SUM: Final = "made/power_sum"
CLASS_ERROR: Final = "made/class_error"
EMBODIED_HOUR: Final = "made/embodied_hour"
SITE_VOLUME: Final = "made/site_volume"
VOLUME_HOUR: Final = "made/volume_hour"
VOLUME_STEP: Final = "made/volume_step"
# One row a day each: what registers, factor files and settings say.
MARKET_MIX: Final = "made/market_mix"
INTENSITY_ERROR: Final = "made/intensity_error"
STATED: Final = "made/stated"
MADE: Final = {
    JOB_HOUR: "lepton_etl.attribution.node_split.split_nodes",
    METER_HOUR: "lepton_etl.facility.pue.meter_hours",
    SEGMENT: "lepton_etl.intervals.node_day.heard_on",
    MODELLED_INTERVAL: "lepton_etl.intervals.modelled_power.judged_sums",
    NODE_INTERVAL: "lepton_etl.energy.node_hours.node_intervals",
    NODE_SPLIT: "lepton_etl.attribution.node_split.split_nodes",
    POWER_SUM: "lepton_etl.energy.node_hours.power_sums",
    CLASS_ERROR: "lepton_etl.energy.aggregate.group_parts",
    EMBODIED_HOUR: "lepton_etl.carbon.embodied.booked_hours",
    SITE_VOLUME: "lepton_etl.carbon.water.site_volumes",
    VOLUME_HOUR: "lepton_etl.carbon.water.volume_hours",
    VOLUME_STEP: "lepton_etl.facility.meter_hours.volume_steps",
    MARKET_MIX: "lepton_etl.carbon.market.mix_of",
    INTENSITY_ERROR: "lepton_etl.carbon.emissions.intensity_error",
    STATED: "the settings",
}
OWN: Final = "own_"
# A gap's energy ends in the model or the history that filled it: no expression says that.
FILLED: Final = ("gold/node_hour", "it_energy_imputed_kwh")


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

    def beside_of(self, name: str) -> Beside | None:
        """Return where a name of the text stands beside the rows; None for one of their own or of the figure's row."""
        return next((one for one in self.beside if name.startswith(one.prefix)), None)

    def source_of(self, name: str) -> tuple[str, str]:
        """Return the table and column that a name of the text stands for."""
        one = self.beside_of(name)
        if one is not None:
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
_NODE_INTERVAL: Final = ("site_id", "cluster_id", "node_id", "interval_start")
_SIGMAS: Final = ("gain_sigma_kwh", "resolution_sigma_kwh", "sampling_sigma_kwh", "imputed_sigma_kwh")
_OF_SITE: Final = Beside("gold/site_hour", "site_", _SITE)
_HAS_BOTH: Final = "pue_ratio IS NOT NULL AND it_energy_kwh IS NOT NULL AND facility_energy_kwh IS NOT NULL"
_GRAMS: Final = f"{GRAMS_PER_KILOGRAM:g}"
# One standard deviation of a group's IT energy: sensors of a class err together in part, and each by itself.
_GROUP_SIGMA: Final = "SQRT(SUM(POW(common_kwh, 2)) + SUM(alone_kwh2))"
_JOULES: Final = f"{JOULES_PER_KWH:.0f}"
_NOT_METERED: Final = "'assumed', 'modelled'"
_SHARED_LOADS: Final = "'network', 'storage', 'service'"
_OF_ZONE: Final = Beside(
    "silver/grid_hour",
    "zone_",
    ("hour_start",),
    "intensity_basis = 'direct' AND signal = 'average'",
)
_OF_LIFE: Final = Beside(
    "silver/grid_hour", "life_", ("hour_start",), "intensity_basis = 'lifecycle' AND signal = 'average'"
)
_OF_MIX: Final = Beside(MARKET_MIX, "mix_", ())
_OF_ERROR: Final = Beside(INTENSITY_ERROR, "error_", ())
_OF_SETTINGS: Final = Beside(STATED, "stated_", ())
_OF_CLUSTER: Final = Beside("gold/cluster_hour", "cluster_", _CLUSTER)
_OF_COST: Final = Beside("gold/cluster_cost", "cost_", _CLUSTER)
_OF_NODE: Final = Beside("gold/node_hour", "node_", _NODE)
_COST_ENDS: Final = end_names("energy_cost")
_IT_ENDS: Final = end_names("it_energy_kwh")
_LOCATION_ENDS: Final = end_names("emissions_location_kgco2e")
_EMBODIED: Final = ("embodied_kgco2e", *end_names("embodied_kgco2e"))
_SIGNS: Final = ("-", "+")
# Relative half of the interval of an hour's facility energy: whatever is of it errs by it.
_ENERGY_ERROR: Final = "(facility_energy_upper_kwh - facility_energy_kwh) / facility_energy_kwh"
# An hour of a node weighs by the seconds that were seen; of one whose boards alone are read, by those expected.
_WEIGHT_S: Final = "(CASE WHEN observed_s > 0 THEN observed_s ELSE expected_s END)"
_IS_SERVER: Final = "COALESCE(gpu_count = 0, gpu_utilisation_ratio IS NULL AND gpu_energy_kwh IS NULL)"
_IS_OFF: Final = f"{_IS_SERVER} AND (power_mean_w = 0 OR COALESCE(off_s, 0) >= expected_s)"
_WORKS: Final = "COALESCE(power_mean_w > 0, cpu_utilisation_ratio > 0)"
_IS_ON: Final = f"{_IS_SERVER} AND cpu_utilisation_ratio IS NOT NULL AND {_WORKS}"
_IS_COUNTED: Final = "COUNT(CASE WHEN gpu_utilisation_ratio IS NOT NULL AND gpu_count IS NULL THEN 1 END) = 0"
_IS_RATED: Final = "COUNT(*) = COUNT(rated_power_w)"
_BOARD: Final = "device_id ~ '^gpu[0-9]+$' AND energy_kwh IS NOT NULL"
_HOUR_S: Final = f"{SECONDS_PER_HOUR:.0f}"
# Where IT energy is metered: the point, its PUE category, the class of a meter there that states none.
_IT_METERS: Final = (("pdu_out", 2, UNSTATED_PDU_PCT), ("ups_out", 1, UNSTATED_CLASS_PCT))


def _sums(
    table: str,
    rows: str,
    by: tuple[str, ...],
    *columns: str,
    when: str | None = None,
    where: str | None = None,
) -> list[Formula]:
    return [Formula(table, name, f"SUM({name})", rows, by, where, when=when) for name in columns]


def _ends(name: str, value: str, half: str) -> list[tuple[str, str]]:
    """The ends of a 90 % interval: column and text, the lower one never below 0."""
    lower, upper = end_names(name)
    return [(lower, f"GREATEST({value} - {half}, 0)"), (upper, f"{value} + {half}")]


def _half_of_meters(unstated_pct: float) -> str:
    """Half the interval of a sum of meters by their classes: one errs evenly within its class, several normally."""
    is_one = "GREATEST(1 - ABS(COUNT(CASE WHEN energy_kwh <> 0 THEN 1 END) - 1), 0)"
    z = f"({Z!r} - {Z - Z_EVEN!r} * {is_one})"
    sigma_kwh = f"energy_kwh * COALESCE(class_pct, {unstated_pct}) * {0.01 / sqrt(3)!r}"
    return f"{z} * SQRT(SUM(POW({sigma_kwh}, 2) + POW(noise_kwh, 2)))"


def _of_sensors(table: str, value: str, by: tuple[str, ...], sigma: str) -> list[Formula]:
    """Ends of IT energy by the nodes' sensors."""
    return [
        Formula(table, column, text, CLASS_ERROR, by)
        for column, text in _ends("it_energy_kwh", value, f"{Z!r} * {sigma}")
    ]


def _covered(table: str, by: tuple[str, ...]) -> list[Formula]:
    """Coverage of nodes: weighted by rated power where each node has one, else by its seconds."""
    plain = "LEAST(SUM(observed_s) / SUM(expected_s), 1)"
    rated = "LEAST(SUM(rated_power_w * observed_s) / SUM(rated_power_w * expected_s), 1)"
    return [
        Formula(table, "coverage_ratio", rated, "gold/node_hour", by, when=_IS_RATED),
        Formula(table, "coverage_ratio", plain, "gold/node_hour", by),
    ]


def _of_nodes(table: str, by: tuple[str, ...]) -> list[Formula]:
    """What nodes of a cluster sum to beside energy, over an hour or a day."""
    busy, seen = (
        f"SUM({_WEIGHT_S} * {{0}}gpu_utilisation_ratio)",
        f"SUM(CASE WHEN gpu_utilisation_ratio IS NOT NULL THEN {_WEIGHT_S} * {{0}}1 END)",
    )
    return [
        *_sums(table, "gold/node_hour", by, "gpu_energy_kwh", "idle_energy_kwh"),
        *_covered(table, by),
        Formula(
            table, "node_second_coverage_ratio", "LEAST(SUM(observed_s) / SUM(expected_s), 1)", "gold/node_hour", by
        ),
        *(
            Formula(
                table, "gpu_utilisation_ratio", f"{busy.format(count)} / {seen.format(count)}", "gold/node_hour", by,
                when=when,
            )
            for count, when in (("gpu_count * ", _IS_COUNTED), ("", None))
        ),
    ]  # fmt: skip


def _used_hours() -> list[Formula]:
    """Hours of servers and GPUs that were seen, and those in which they worked."""
    on_s = f"GREATEST({_WEIGHT_S} - COALESCE(off_s, 0), 0)"
    servers = {
        "server_observed_h": on_s, "server_busy_h": f"{on_s} * cpu_utilisation_ratio",
    }  # fmt: skip
    gpus = {
        "gpu_observed_h": f"CASE WHEN gpu_utilisation_ratio IS NOT NULL THEN {_WEIGHT_S} * {{0}}1 END",
        "gpu_busy_h": f"{_WEIGHT_S} * {{0}}gpu_utilisation_ratio",
    }
    return [
        *(
            Formula(
                "gold/cluster_hour", name, f"SUM(CASE WHEN {_IS_OFF} THEN 0 WHEN {_IS_ON} THEN {text} END) / {_HOUR_S}",
                "gold/node_hour", _CLUSTER,
            )
            for name, text in servers.items()
        ),
        *(
            Formula(
                "gold/cluster_hour", name, f"SUM({text.format(count)}) / {_HOUR_S}", "gold/node_hour", _CLUSTER,
                when=when,
            )
            for name, text in gpus.items()
            for count, when in (("gpu_count * ", _IS_COUNTED), ("", None))
        ),
        Formula("gold/cluster_hour", "cpu_utilisation_ratio", "server_busy_h / server_observed_h"),
        Formula(
            "gold/cluster_day", "cpu_utilisation_ratio", "SUM(server_busy_h) / SUM(server_observed_h)",
            "gold/cluster_hour", _CLUSTER_DAY,
        ),
    ]  # fmt: skip


def _carbon_hours() -> list[Formula]:
    """Market-based, embodied and generators' emissions of a cluster's hour, its water, and ends of intervals."""
    table, market = "gold/cluster_hour", "emissions_market_kgco2e"
    rest = "COALESCE(mix_rest_gco2e_per_kwh, carbon_intensity_gco2e_per_kwh, 0)"
    by_mix = f"(mix_matched_ratio * mix_matched_gco2e_per_kwh + (1 - mix_matched_ratio) * {rest})"
    by_more = f"(mix_more_matched_ratio * mix_more_gco2e_per_kwh + (1 - mix_more_matched_ratio) * {rest})"
    formulas = [
        Formula(table, market, f"grid_import_kwh * {by_mix} / {_GRAMS}", beside=(_OF_MIX,)),
        *_sums(table, EMBODIED_HOUR, _CLUSTER, *_EMBODIED),
        Formula(
            table, "emissions_scope1_kgco2e",
            "facility_energy_kwh * site_emissions_scope1_kgco2e / site_facility_energy_kwh", beside=(_OF_SITE,),
        ),
        Formula(
            table, "water_l", "MAX(volume_water_l) * MAX(own_it_energy_kwh) / SUM(it_energy_kwh)", table, _SITE,
            beside=(Beside(SITE_VOLUME, "volume_", _SITE),),
        ),
        Formula(SITE_VOLUME, "water_l", "SUM(signed_l)", VOLUME_HOUR, _SITE, "carrier = 'water'"),
    ]  # fmt: skip
    for flag, name in ((True, "estimated"), (False, "measured")):
        when, error = f"COALESCE(zone_estimated, FALSE) = {flag}", f"error_{name}_half_ratio"
        both = f"SQRT(POW({_ENERGY_ERROR}, 2) + POW({error}, 2))"
        added = f"SQRT(POW({_ENERGY_ERROR}, 2) + POW(error_upstream_{name}_half_ratio, 2))"
        by_rest = (
            f"grid_import_kwh / {_GRAMS} * SQRT(POW({_ENERGY_ERROR} * {by_more}, 2) + "
            f"POW((1 - mix_matched_ratio) * {rest} * {error}, 2))"
        )
        halves = {
            "emissions_location_kgco2e": f"emissions_location_kgco2e * {both}",
            "emissions_upstream_kgco2e": f"emissions_upstream_kgco2e * {added}",
            market: by_rest,
        }
        formulas += [
            Formula(table, column, text, beside=(_OF_ZONE, _OF_ERROR, _OF_MIX), when=when)
            for figure, half in halves.items()
            for column, text in _ends(figure, figure, half)
        ]
    return formulas


def _location_days() -> list[Formula]:
    """Ends of a day's location-based emissions: errors of energy and of intensity add up, and meet in quadrature."""
    by_energy = f"emissions_location_kgco2e * {_ENERGY_ERROR}"
    whole = "emissions_location_upper_kgco2e - emissions_location_kgco2e"
    by_factor = f"SQRT(GREATEST(POW({whole}, 2) - POW({by_energy}, 2), 0))"
    half = f"SQRT(POW(SUM({by_energy}), 2) + POW(SUM({by_factor}), 2))"
    return [
        Formula("gold/cluster_day", column, text, "gold/cluster_hour", _CLUSTER_DAY)
        for column, text in _ends("emissions_location_kgco2e", "SUM(emissions_location_kgco2e)", half)
    ]


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
            table, "carbon_intensity_gco2e_per_kwh", "zone_carbon_intensity_gco2e_per_kwh", beside=(_OF_ZONE,)
        ),
        Formula(
            table, "emissions_upstream_kgco2e",
            "grid_import_kwh * (life_carbon_intensity_gco2e_per_kwh - zone_carbon_intensity_gco2e_per_kwh) / "
            f"{_GRAMS}", beside=(_OF_LIFE, _OF_ZONE),
        ),
        Formula(
            table, "emissions_missing_kwh", "grid_import_kwh", when="carbon_intensity_gco2e_per_kwh IS NULL"
        ),
        Formula(table, "emissions_missing_kwh", "grid_import_kwh * 0"),
    ]  # fmt: skip


def _energies(table: str, rows: str, by: tuple[str, ...], when: str | None = None) -> list[Formula]:
    """IT energy of a group of nodes: each part is a sum over node-hours."""
    return [
        Formula(table, "it_energy_kwh", _WHOLE, when=when),
        *_sums(table, rows, by, *_PARTS, when=when),
    ]


# What a run has of its clusters' hours by its part of their IT energy.
_SHARED_BY_ENERGY: Final = (
    "facility_energy_kwh", *FACILITY_ENDS, "emissions_location_kgco2e", *_LOCATION_ENDS, "emissions_upstream_kgco2e",
    "emissions_market_kgco2e", "water_l", *(end for end in CARBON_ENDS if end not in _EMBODIED),
)  # fmt: skip
_HELD: Final = ("held_s", "covered_s", "gpu_held_h", "imputed_kwh")
_WASTED: Final = f"outcome IN ({', '.join(map(repr, WASTED_OUTCOMES))})"
_RUN_DAY: Final = (*RUN_KEY, "date")
_RULES: Final = "it_energy_kwh, it_energy_usage_kwh, it_energy_equal_kwh"
_ENERGY_COST: Final = "energy_cost"

_ALL: Final[tuple[Formula, ...]] = (
    # Days of tenants and runs
    *(
        formula
        for table in ("gold/tenant_day", "gold/job_energy")
        for formula in (
            Formula(table, "it_energy_kwh", "dynamic_kwh + static_kwh"),
            Formula(table, "coverage_ratio", "LEAST(covered_s / held_s, 1)"),
        )
    ),
    *_sums(
        "gold/tenant_day", "gold/job_energy", ("site_id", "cluster_id", "tenant_id", "date"),
        "dynamic_kwh", "static_kwh", *_SHARED_BY_ENERGY, _ENERGY_COST, *_COST_ENDS, *_IT_ENDS, *_EMBODIED, *_HELD,
        "node_held_h", "wasted_energy_kwh", "gpu_energy_kwh",
    ),
    *(
        Formula(
            "gold/tenant_day", name, f"SUM(COALESCE({name}, dynamic_kwh + static_kwh))", "gold/job_energy",
            ("site_id", "cluster_id", "tenant_id", "date"),
        )
        for name in ("it_energy_usage_kwh", "it_energy_equal_kwh")
    ),
    Formula("gold/tenant_day", "rule_spread_ratio", f"(GREATEST({_RULES}) - LEAST({_RULES})) / it_energy_kwh"),
    Formula(
        "gold/tenant_day", "sci_gco2e_per_job", "AVG(sci_gco2e_per_job)", "gold/job_energy",
        ("site_id", "cluster_id", "tenant_id", "date"), "sci_basis <> 'running'",
    ),
    Formula(
        "gold/tenant_day", "sci_gco2e_per_gpu_hour",
        f"(emissions_location_kgco2e + embodied_kgco2e) * {_GRAMS} / gpu_held_h",
    ),
    Formula(
        "gold/tenant_day", "factor_age_years", "MAX(factor_age_years)", "gold/job_energy",
        ("site_id", "cluster_id", "tenant_id", "date"),
    ),
    *_sums("gold/job_energy", JOB_HOUR, _RUN_DAY, "dynamic_kwh", "static_kwh", "gpu_energy_kwh", *_HELD),
    *(
        Formula("gold/job_energy", f"it_energy_{rule}_kwh", f"SUM(dynamic_kwh) + SUM(static_{rule}_kwh)", JOB_HOUR,
                _RUN_DAY)
        for rule in ("usage", "equal")
    ),
    Formula("gold/job_energy", "wasted_energy_kwh", "dynamic_kwh + static_kwh", when=_WASTED),
    Formula("gold/job_energy", "wasted_energy_kwh", "SUM(idle_gpu_kwh)", JOB_HOUR, _RUN_DAY),
    Formula("gold/job_energy", "node_held_h", "SUM(reserved_share_ratio)", JOB_HOUR, _RUN_DAY),
    Formula("gold/job_energy", "reserved_share_ratio", f"LEAST(node_held_h * {_HOUR_S} / held_s, 1)"),
    # By a run's share of the energy of its cluster or node.
    *(
        Formula(
            "gold/job_energy", name, f"SUM(energy_kwh * {of}_{name} / {whole}_it_energy_kwh)", JOB_HOUR, _RUN_DAY,
            "energy_kwh > 0", beside,
        )
        for names, of, whole, beside in (
            (_SHARED_BY_ENERGY, "cluster", "cluster", (_OF_CLUSTER,)),
            ((_ENERGY_COST, *_COST_ENDS), "cost", "cluster", (_OF_CLUSTER, _OF_COST)),
            (_IT_ENDS, "node", "node", (_OF_NODE,)),
        )
        for name in names
    ),
    *(
        Formula(
            "gold/job_energy", name, f"SUM(reserved_share_ratio * booked_{name})", JOB_HOUR, _RUN_DAY,
            "reserved_share_ratio > 0", (Beside(EMBODIED_HOUR, "booked_", _NODE),),
        )
        for name in _EMBODIED
    ),
    Formula(
        "gold/job_energy", "sci_gco2e_per_job",
        f"SUM((emissions_location_kgco2e + embodied_kgco2e) * {_GRAMS})", "gold/job_energy", RUN_KEY,
    ),
    Formula(
        "gold/job_energy", "scheduler_energy_kwh", f"run_consumed_energy_j / {_JOULES}",
        beside=(Beside("silver/job_run", "run_", _RUN_DAY),),
    ),
    Formula("gold/job_energy", "scheduler_energy_ratio", "scheduler_energy_kwh / it_energy_kwh"),
    Formula(
        "gold/job_energy", "transfer_energy_kwh", "data_transferred_byte * stated_transfer_kwh_per_byte",
        beside=(_OF_SETTINGS,),
    ),
    Formula(
        "gold/job_energy", "factor_age_years", "MAX(cluster_factor_age_years)", JOB_HOUR, _RUN_DAY,
        beside=(_OF_CLUSTER,),
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
        "facility_energy_kwh", *FACILITY_ENDS, "grid_import_kwh", "emissions_location_kgco2e",
        "emissions_upstream_kgco2e", "emissions_market_kgco2e", "embodied_kgco2e", "water_l", *CARBON_ENDS,
        "emissions_missing_kwh", "emissions_scope1_kgco2e",
    ),
    *_location_days(),
    *_of_nodes("gold/cluster_day", _CLUSTER_DAY),
    *_sums("gold/cluster_day", "gold/node_hour", _CLUSTER_DAY, "off_s", "off_saved_kwh"),
    *_of_sensors("gold/cluster_day", "MAX(own_it_energy_kwh)", _CLUSTER_DAY, _GROUP_SIGMA),
    *(
        Formula("gold/cluster_day", name, f"MAX({name})", "gold/cluster_hour", _CLUSTER_DAY)
        for name in ("peak_power_w", "factor_age_years")
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
    *_carbon_hours(),
    *_of_nodes("gold/cluster_hour", _CLUSTER),
    *_used_hours(),
    *_of_sensors("gold/cluster_hour", "MAX(own_it_energy_kwh)", _CLUSTER, _GROUP_SIGMA),
    Formula("gold/cluster_hour", "peak_power_w", "MAX(power_w)", POWER_SUM, _CLUSTER),
    Formula(POWER_SUM, "power_w", "SUM(power_mean_w)", "silver/interval", ("site_id", "cluster_id", "interval_start"),
            _READ),
    Formula("silver/interval", "power_mean_w", f"energy_kwh * {_JOULES} / observed_s"),
    Formula(
        EMBODIED_HOUR, "embodied_kgco2e", "te_kgco2e * booked_s / life_s",
    ),
    Formula(VOLUME_HOUR, "signed_l", "SUM(volume_l) * MAX(own_sign)", "silver/volume_interval",
            ("site_id", "meter_id", "hour_start")),
    Formula("silver/volume_interval", "volume_l", "SUM(litres * within_s / step_s)", VOLUME_STEP),
    # Hours of sites
    Formula("gold/site_hour", "it_energy_kwh", "it_metered_kwh", when="it_metered_kwh IS NOT NULL"),
    *_energies("gold/site_hour", "gold/node_hour", _SITE),
    *(
        Formula("gold/site_hour", "it_metered_kwh", "SUM(energy_kwh)", METER_HOUR, _SITE, f"point = '{point}'",
                when=f"pue_category = {category}")
        for point, category, _ in _IT_METERS
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
    *_covered("gold/site_hour", _SITE),
    Formula("gold/site_hour", "it_energy_sigma_kwh", _GROUP_SIGMA, CLASS_ERROR, _SITE),
    *(
        Formula("gold/site_hour", column, text, METER_HOUR, _SITE, f"point = '{point}'",
                when=f"pue_category = {category}")
        for point, category, unstated in _IT_METERS
        for column, text in _ends("it_energy_kwh", "SUM(energy_kwh)", _half_of_meters(unstated))
    ),
    *(
        Formula("gold/site_hour", column, text, when="it_metered_kwh IS NULL")
        for column, text in _ends("it_energy_kwh", f"({_WHOLE})", f"{Z!r} * it_energy_sigma_kwh")
    ),
    *(
        Formula("gold/site_hour", f"{source}_kwh", "ABS(SUM(account_kwh))", "gold/energy_ledger", _SITE,
                f"side = 'source' AND ledger_account = '{source}'")
        for source in ("pv", "generator", "battery_out", "battery_in", "export")
    ),
    *(
        Formula("gold/site_hour", name, f"SUM({name})", "gold/energy_ledger", _SITE, "side = 'balance'")
        for name in ("residual_kwh", "residual_sigma_kwh")
    ),
    Formula(
        "gold/site_hour", "overhead_sigma_kwh",
        f"SQRT(SUM(POW((account_upper_kwh - account_kwh) / {Z!r}, 2)))", "gold/energy_ledger", _SITE,
        "side = 'account' AND ledger_account IN ('conversion_loss', 'cooling', 'management')",
    ),
    *(
        Formula("gold/site_hour", name, f"weather_{name}", beside=(Beside("silver/weather_hour", "weather_", _SITE),))
        for name in ("outdoor_dry_bulb_temp_c", "outdoor_wet_bulb_temp_c")
    ),
    Formula(
        "gold/energy_ledger", "account_kwh", "SUM(account_kwh)", "gold/energy_ledger", _SITE, "side = 'source'",
        when="side = 'balance'",
    ),
    Formula(
        "gold/energy_ledger", "residual_kwh", "MAX(own_account_kwh) - SUM(account_kwh)", "gold/energy_ledger", _SITE,
        "side = 'account'", when="side = 'balance'",
    ),
    Formula("gold/energy_ledger", "residual_tolerance_kwh", "3 * residual_sigma_kwh"),
    Formula("gold/transfer_hour", "data_transferred_byte", "received_byte + transmitted_byte"),
    Formula(
        "gold/transfer_hour", "network_energy_by_bytes_kwh", "data_transferred_byte * stated_transfer_kwh_per_byte",
        beside=(_OF_SETTINGS,),
    ),
    Formula(
        "gold/transfer_hour", "network_energy_by_feed_kwh", "SUM(account_kwh)", "gold/energy_ledger", _SITE,
        "ledger_account = 'data_transfer'",
    ),
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
    *(
        Formula(
            "gold/cluster_cost", column,
            f"energy_cost {sign} ABS(energy_cost) * "
            "(cluster_facility_energy_upper_kwh - cluster_facility_energy_kwh) / cluster_facility_energy_kwh",
            beside=(_OF_CLUSTER,),
        )
        for column, sign in zip(_COST_ENDS, _SIGNS, strict=True)
    ),
    Formula("gold/cost_month", "cost", "energy_cost + demand_cost + fixed_cost"),
    Formula("gold/market_year", "balance_kwh", "volume_kwh - matched_kwh"),
    # Key figures: each is of two sums
    Formula("gold/kpi", "kpi_value", "LEAST(numerator / denominator, 1)", when="kpi = 'ref'"),
    Formula("gold/kpi", "kpi_value", "1 - numerator / denominator", when="kpi IN ('rci_hi', 'rci_lo')"),
    Formula("gold/kpi", "kpi_value", "numerator / denominator"),
    # Hours of nodes and meters
    Formula("gold/node_hour", "it_energy_kwh", _WHOLE),
    *(
        Formula("gold/node_hour", column, text)
        for column, text in _ends(
            "it_energy_kwh", "it_energy_kwh",
            f"{Z!r} * SQRT({' + '.join(f'POW(COALESCE({name}, 0), 2)' for name in _SIGMAS)})",
        )
    ),
    *_sums("gold/node_hour", "silver/interval", _NODE, "gain_sigma_kwh", "resolution_sigma_kwh", where=_READ),
    Formula("gold/node_hour", "sampling_sigma_kwh", "SQRT(SUM(POW(sampling_sigma_kwh, 2)))", "silver/interval", _NODE,
            _READ),
    Formula("gold/node_hour", "observed_s", "LEAST(SUM(observed_s), MAX(own_expected_s))", "silver/interval", _NODE,
            _READ),
    Formula("gold/node_hour", "coverage_ratio", "observed_s / expected_s"),
    Formula("gold/node_hour", "power_mean_w",
            f"(COALESCE(it_energy_measured_kwh, 0) + COALESCE(it_energy_modelled_kwh, 0)) * {_JOULES} / observed_s"),
    Formula("gold/node_hour", "peak_power_w", "MAX(power_mean_w)", "silver/interval", _NODE, _READ),
    *_sums("gold/node_hour", NODE_INTERVAL, _NODE, "gpu_energy_kwh"),
    *(
        Formula(
            "gold/node_hour", name,
            f"SUM({name} * weight_s) / SUM(CASE WHEN {name} IS NOT NULL THEN weight_s END)", NODE_INTERVAL, _NODE,
        )
        for name in ("cpu_utilisation_ratio", "gpu_utilisation_ratio", "inlet_temp_c", "device_temp_c")
    ),
    Formula(
        "gold/node_hour", "idle_energy_kwh", f"{_WHOLE} - split_jobs_energy_kwh",
        beside=(Beside(NODE_SPLIT, "split_", _NODE),), when="idle_basis = 'jobs'",
    ),
    Formula(
        "gold/node_hour", "idle_energy_kwh",
        "SUM(CASE WHEN busiest_ratio < stated_idle_utilisation_ratio THEN energy_kwh ELSE 0 END)", NODE_INTERVAL,
        _NODE, "busiest_ratio IS NOT NULL AND energy_kwh IS NOT NULL", (_OF_SETTINGS,),
    ),
    Formula(NODE_INTERVAL, "gpu_energy_kwh", "SUM(energy_kwh)", "silver/interval", _NODE_INTERVAL, _BOARD,
            when=f"COUNT(CASE WHEN {_BOARD} THEN 1 END) > 0"),
    Formula(NODE_INTERVAL, "gpu_energy_kwh", "MAX(energy_kwh)", "silver/interval", _NODE_INTERVAL, "device_id = 'gpu'"),
    Formula(NODE_INTERVAL, "energy_kwh", "SUM(energy_kwh)", "silver/interval", _NODE_INTERVAL, _READ),
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
