"""Work out what a site drew, its PUE with basis and category, and each cluster's share.

All of these come from facility meters and hours of nodes.
Source: ISO/IEC 30134-2 (EN 50600-4-2), PUE = E_DC / E_IT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from lepton_etl.days import Days
from lepton_etl.energy.exact_sums import FINE_DIGITS, ends, exact_sum, quotient, whole_ends, whole_sum
from lepton_etl.energy.node_hours import SHARED, UNATTRIBUTED, expected_hours
from lepton_etl.facility.meter_hours import class_half, class_sigma_ratio
from lepton_etl.schema.common import BOUNDARY
from lepton_etl.schema.declare import ureg
from lepton_etl.uncertainty import Z

# ISO/IEC 30134-2 category of the point where IT energy is metered; the nearest to the IT input wins.
IT_CATEGORY: Final = {"pdu_out": 2, "ups_out": 1}
NODE_CATEGORY: Final = 3
ELECTRICITY: Final = "electricity"
# What else may bring energy across a site's boundary, and what of it is burnt there.
CARRIERS: Final = ("heat", "cooling", "gas", "fuel")
BURNT: Final = ("gas", "fuel")

_SITE_HOUR: Final = ["site_id", "hour_start"]
_DAY: Final = ["date", "site_id", "cluster_id"]


def top_meters(meters: pl.DataFrame, *by: str) -> pl.DataFrame:
    """silver/meter without those below another one of the same `by` (point, carrier): their parent has counted them."""
    parents = meters.select("site_id", pl.col("meter_id").alias("parent_id"), *by).unique()
    return meters.join(parents, on=["site_id", "parent_id", *by], how="anti")


def meter_hours(
    meters: pl.DataFrame, facility_intervals: pl.DataFrame, days: Days, coverage_min_ratio: float
) -> pl.DataFrame:
    """Return hours of top-level meters of energy, of any carrier; `energy_kwh` is null below the coverage limit.

    A meter below another one of the same point and carrier measures energy that its parent has counted already, so it
    is left out. `direction` is +1 or -1 for the energy that crosses the site's boundary, null for any other
    point: the meter's own sign, except that export and battery charge always leave. `noise_kwh` is one standard
    deviation by resolution and sampling, null where that by sampling is not known (a meter of unknown class); a
    resolution that nothing shows is taken to lie within the class.
    """
    listed = meters.with_columns(pl.col("carrier").fill_null("electricity")).filter(
        pl.col("carrier").is_in((ELECTRICITY, *CARRIERS)), ~by_volume(meters)
    )
    sums = facility_intervals.group_by(
        "site_id", "meter_id", pl.col("interval_start").dt.truncate("1h").alias("hour_start")
    ).agg(
        exact_sum(pl.col("energy_kwh")).alias("metered_kwh"),
        exact_sum(pl.col("observed_s")).alias("observed_s"),
        whole_sum(
            pl.col("resolution_sigma_kwh").fill_null(0.0).pow(2) + pl.col("sampling_sigma_kwh").pow(2),
            pl.col("energy_kwh").is_not_null(),
        )
        .sqrt()
        .alias("noise_kwh"),
    )
    is_known = pl.col("observed_s") >= coverage_min_ratio * pl.col("expected_s")
    of_point = pl.col("point").replace_strict(BOUNDARY, default=None, return_dtype=pl.Float64)
    direction = pl.when(of_point < 0).then(of_point).otherwise(of_point * pl.col("sign").fill_null(1))
    return (
        expected_hours(top_meters(listed, "point", "carrier"), days)
        .join(sums, on=["site_id", "meter_id", "hour_start"], how="left")
        .select(
            *_SITE_HOUR, "meter_id", "point", "carrier", direction.alias("direction"),
            pl.when(is_known).then("metered_kwh").alias("energy_kwh"), "serves", "class_pct",
            "noise_kwh",
        )
    )  # fmt: skip


def by_volume(meters: pl.DataFrame) -> pl.Expr:
    """Whether a row of silver/meter counts litres or cubic metres, not energy."""
    units = meters["unit"].drop_nulls().unique().to_list()
    volumes = [unit for unit in units if ureg(unit).check("[length]**3")]
    return pl.col("unit").is_in(volumes).fill_null(value=False)


def boundary_fuel(meters: pl.DataFrame) -> pl.DataFrame:
    """Rows of silver/meter whose litres of fuel count in facility energy: not those of a generator metered in kWh."""
    fuel = meters.filter(pl.col("carrier") == "fuel", by_volume(meters))
    is_generator = pl.col("point") == "generator"
    metered = meters.filter(is_generator, pl.col("carrier").fill_null(ELECTRICITY) == ELECTRICITY)
    of_metered = pl.col("site_id").is_in(metered["site_id"].unique().to_list())
    return fuel.filter((pl.col("point") == "utility") | (is_generator & ~of_metered))


def site_carriers(
    meters: pl.DataFrame, fuel: pl.DataFrame, weights: Mapping[str, float | None], kwh_per_l: float | None
) -> pl.DataFrame:
    """Hours of meters and litres of fuel (`fuel_l` by site-hour) -> weighted energy of each site-hour, by CARRIERS.

    Counts what enters at the point `utility`, less what a meter of sign -1 sends back: `carrier_energy_kwh`, null where
    a meter is silent or its weight is None; `burnt_kwh` is gas and fuel among it that was metered in kWh, unweighted.
    Source: ISO/IEC 30134-2 and EN 50600-4-2, total energy consumption.
    """
    at_boundary = (pl.col("point") == "utility") & pl.col("carrier").is_in(CARRIERS)
    drawn, carrier = pl.col("energy_kwh") * pl.col("direction"), pl.col("carrier")
    weight = carrier.replace_strict({name: weights[name] for name in CARRIERS}, return_dtype=pl.Float64)
    burns = carrier.is_in(BURNT)
    metered = meters.filter(at_boundary).select(
        *_SITE_HOUR,
        (drawn * weight).alias("_kwh"),
        pl.when(burns).then(drawn).alias("_burnt"),
        burns.alias("_burns"),
    )
    litres = fuel.select(
        *_SITE_HOUR, (pl.col("fuel_l") * pl.lit(kwh_per_l, pl.Float64)).alias("_kwh"),
        pl.lit(None, pl.Float64).alias("_burnt"), pl.lit(value=False).alias("_burns"),
    )  # fmt: skip
    return pl.concat([metered, litres]).group_by(_SITE_HOUR).agg(
        whole_sum(pl.col("_kwh")).alias("carrier_energy_kwh"),
        whole_sum(pl.col("_burnt"), pl.col("_burns")).alias("burnt_kwh"),
    )  # fmt: skip


def site_meters(meters: pl.DataFrame) -> pl.DataFrame:
    """Hours of electricity meters -> hours of a site: what it drew, its IT energy at a meter, the PUE category.

    facility = utility + pv + generator + battery_out - export - battery_in; it needs a utility meter. A sum
    with a silent meter in it is not known. IT is metered at the PDU outputs where the site has such meters,
    else at the UPS.
    Source: definitions of the ledger of a site-hour, docs/methodology.md section 5.
    """
    energy, point = pl.col("energy_kwh"), pl.col("point")

    def complete_sum(chosen: pl.Expr, value: pl.Expr) -> pl.Expr:
        return whole_sum(pl.when(chosen).then(value), chosen)

    error_kwh2 = (energy * class_sigma_ratio()).pow(2) + pl.col("noise_kwh").pow(2)

    def half(chosen: pl.Expr) -> pl.Expr:
        sigma_kwh = exact_sum(pl.when(chosen).then(error_kwh2), FINE_DIGITS).sqrt()
        return class_half(sigma_kwh, (chosen & (energy != 0)).sum())

    crosses = pl.col("direction").is_not_null()
    return (
        meters.group_by(_SITE_HOUR)
        .agg(
            complete_sum(crosses, energy * pl.col("direction")).alias("facility"),
            complete_sum(point == "pdu_out", energy).alias("pdu_out"),
            complete_sum(point == "ups_out", energy).alias("ups_out"),
            (point == "pdu_out").any().alias("has_pdu"),
            (point == "utility").any().alias("has_utility"),
            half(crosses).alias("facility_half_kwh"),
            half(point == "pdu_out").alias("pdu_half_kwh"),
            half(point == "ups_out").alias("ups_half_kwh"),
        )
        .with_columns(
            pl.when(pl.col("has_utility") & (pl.col("facility") >= 0)).then("facility").alias("facility_metered_kwh"),
            pl.when("has_pdu").then("pdu_out").otherwise("ups_out").alias("it_metered_kwh"),
            pl.when("has_pdu").then("pdu_half_kwh").otherwise("ups_half_kwh").alias("it_metered_half_kwh"),
            pl.when("has_pdu")
            .then(IT_CATEGORY["pdu_out"])
            .otherwise(IT_CATEGORY["ups_out"])
            .alias("it_category"),
        )
        .select(
            *_SITE_HOUR, "facility_metered_kwh", "it_metered_kwh",
            pl.when(pl.col("it_metered_kwh").is_not_null()).then("it_category").alias("it_category"), "has_utility",
            "facility_half_kwh", "it_metered_half_kwh",
        )
    )  # fmt: skip


def with_pue(
    site_sums: pl.DataFrame, metered: pl.DataFrame, carriers: pl.DataFrame, pue_assumed: float | None
) -> pl.DataFrame:
    """Add facility energy and PUE to hours of sites (sums of nodes), each with its basis.

    `metered` is of site_meters, `carriers` of site_carriers; what the latter says is in `facility_metered_kwh` too.
    PUE = facility / IT: `measured` with IT at a meter (category 1 or 2), `partial` with IT by node sensors
    (category 3), `modelled` with IT of modelled nodes (no category), `assumed` where the settings give one and no
    utility meter stands. A ratio below 1 breaks the sum of sources: facility and PUE are null with basis `none`, the
    metered figures stay for the gate to warn about. IT energy at a meter has the meter's interval, not its nodes'.
    Source: ISO/IEC 30134-2 (EN 50600-4-2), PUE = E_DC / E_IT.
    """
    facility_kwh, it_kwh = pl.col("facility_metered_kwh"), pl.col("it_energy_kwh")
    has_it_meter = pl.col("it_metered_kwh").is_not_null()
    assumed = pl.lit(pue_assumed, pl.Float64)
    is_assumed = ~pl.col("has_utility").fill_null(value=False) & assumed.is_not_null()
    ratio = quotient(facility_kwh, it_kwh)
    # Metered facility energy stands without IT energy; only a sum that contradicts the IT does not.
    fits_it = (ratio >= 1).fill_null(value=True)
    facility = pl.when(is_assumed).then(it_kwh * assumed).when(fits_it).then(facility_kwh)
    pue = pl.when(is_assumed).then(assumed).when(ratio >= 1).then(ratio)
    half = (
        pl.when(is_assumed)
        .then(it_half_kwh() * assumed)
        .when(fits_it & has_stated_error())
        .then("facility_half_kwh")
    )
    is_modelled = (pl.col("energy_basis") == "modelled").fill_null(value=False) & ~has_it_meter
    by_meters = (
        pl.when(is_modelled).then(pl.lit("modelled"))
        .when(has_it_meter).then(pl.lit("measured")).otherwise(pl.lit("partial"))
    )  # fmt: skip
    listed = carriers.select(*_SITE_HOUR, "carrier_energy_kwh", pl.lit(value=True).alias("_has_carriers"))
    carried = pl.when("_has_carriers").then("carrier_energy_kwh").otherwise(0.0)
    return (
        site_sums.join(metered, on=_SITE_HOUR, how="left")
        .join(listed, on=_SITE_HOUR, how="left")
        .with_columns(carried.alias("carrier_energy_kwh"))
        .with_columns(pl.col("facility_metered_kwh") + pl.col("carrier_energy_kwh"))
        .drop("_has_carriers")
        .with_columns(
            pl.when(has_it_meter).then(pl.lit("measured")).otherwise("energy_basis").alias("energy_basis"),
            pl.coalesce("it_metered_kwh", "it_energy_kwh").alias("it_energy_kwh"),
            *(
                pl.when(has_it_meter)
                .then(end)
                .otherwise(end.meta.output_name())
                .alias(end.meta.output_name())
                for end in ends("it_energy_kwh", pl.col("it_metered_kwh"), pl.col("it_metered_half_kwh"))
            ),
        )
        .with_columns(
            facility.alias("facility_energy_kwh"),
            pue.alias("pue_ratio"),
            *ends("facility_energy_kwh", facility, half),
        )
        .with_columns(
            _basis(is_assumed, "facility_energy_kwh", pl.lit("measured")).alias("facility_basis"),
            _basis(is_assumed, "pue_ratio", by_meters).alias("pue_basis"),
            pl.when(pl.col("pue_ratio").is_not_null() & ~is_assumed & ~is_modelled)
            .then(pl.col("it_category").fill_null(NODE_CATEGORY))
            .alias("pue_category"),
            pl.lit("provisional").alias("status"),
        )
    )


def has_stated_error(prefix: str = "") -> pl.Expr:
    """Whether a site-hour's facility energy has an interval: nobody states the error of a carrier's weight."""
    return pl.col(f"{prefix}carrier_energy_kwh") == 0


def it_half_kwh() -> pl.Expr:
    """Half the 90 % interval of a row's IT energy; null where it has none."""
    return pl.col("it_energy_upper_kwh") - pl.col("it_energy_kwh")


def _half_of_shares(own_weight: pl.Expr, others_weight: pl.Expr, site_sigma_kwh: pl.Expr) -> pl.Expr:
    """Half the 90 % interval, squared, of own_weight x a cluster's IT energy + others_weight x the other clusters'.

    Clusters err together as far as the error of the site's sum is more than theirs in quadrature: one correlation for
    all pairs of them. A meter's load has no interval and counts as exact; null where a cluster of nodes has an energy
    whose error nobody knows.
    """
    is_load = pl.col("cluster_id").is_in((SHARED, UNATTRIBUTED)) & it_half_kwh().is_null()
    half = pl.when(is_load | pl.col("it_energy_kwh").is_null()).then(0.0).otherwise(it_half_kwh())
    linear, squares = (whole_sum(of, digits=FINE_DIGITS).over(_SITE_HOUR) for of in (half, half.pow(2)))
    beyond = (Z * site_sigma_kwh).pow(2) - squares
    pairs = linear.pow(2) - squares
    # One cluster alone has nobody to err with.
    together = pl.when(pairs > 0).then(beyond / pairs).otherwise(0.0).clip(0.0, 1.0)
    others, others2 = linear - half, (squares - half.pow(2)).clip(lower_bound=0.0)
    of_others2 = others2 + together * (others.pow(2) - others2)
    return (
        (own_weight * it_half_kwh()).pow(2)
        + others_weight.pow(2) * of_others2
        + 2 * own_weight * others_weight * together * half * others
    ).clip(lower_bound=0.0)


def _basis(is_assumed: pl.Expr, figure: str, otherwise: pl.Expr) -> pl.Expr:
    return (
        pl.when(pl.col(figure).is_null())
        .then(pl.lit("none"))
        .when(is_assumed)
        .then(pl.lit("assumed"))
        .otherwise(otherwise)
    )


def with_shared_it(clusters: pl.DataFrame, site_hours: pl.DataFrame) -> pl.DataFrame:
    """Add the site's IT energy outside clusters to the hours of clusters.

    `_shared` takes the metered network, storage and service equipment of the ledger beside its nodes (in place of
    its nodes of that kind: the ledger counts either); while the energy of its nodes is not known, nor is that of both
    together. `_unattributed` is what the IT meter saw beyond every owner,
    where sensor errors do not explain it; it has no nodes and no interval.
    """
    key = [*_SITE_HOUR, "cluster_id"]
    outside = {SHARED: "shared_load_kwh", UNATTRIBUTED: "unattributed_kwh"}
    loads = pl.concat(
        site_hours.filter(pl.col(column) > 0).select(
            *_SITE_HOUR, pl.lit(cluster).alias("cluster_id"), pl.col("date").alias("_date"),
            pl.col(column).alias("_load"),
        )
        for cluster, column in outside.items()
    )  # fmt: skip
    # A row that the full join made has no nodes, and nothing to know of them.
    has_load = pl.col("_load").is_not_null() & (
        pl.col("it_energy_kwh").is_not_null() | pl.col("node_count").is_null()
    )
    figures = ("it_energy_kwh", "it_energy_measured_kwh")
    return (
        clusters.join(loads, on=key, how="full", coalesce=True)
        .with_columns(
            *(
                pl.when(has_load).then(pl.col(name).fill_null(0.0) + pl.col("_load")).otherwise(name).alias(name)
                for name in figures
            ),
            # The interval was around what the nodes sensed, not around a meter's load.
            *(pl.when(~has_load).then(name).alias(name) for name in ("it_energy_lower_kwh", "it_energy_upper_kwh")),
            pl.coalesce("date", "_date").alias("date"),
            pl.col("node_count").fill_null(0.0),
            pl.when(has_load).then(pl.lit("measured")).otherwise("energy_basis").alias("energy_basis"),
            pl.col("idle_basis").fill_null("none"),
        )
        .drop("_date", "_load")
    )  # fmt: skip


def with_overhead(clusters: pl.DataFrame, site_hours: pl.DataFrame) -> pl.DataFrame:
    """Add each cluster's facility energy: its IT energy and its share of the overhead, pro rata by IT energy.

    The overhead is the ledger's: conversion loss, cooling and management, where all are known, with the weighted energy
    of other carriers than electricity, which no account of the ledger holds; else what the site drew beyond its IT
    energy, at the IT meter where there is one. So clusters with `_shared` and `_unattributed` sum
    to the site without its residual, which is nobody's. Shares are by the sum of the clusters' own IT energies; where
    one is unknown, by the site's IT energy, so that its share is not charged to the others. An assumed PUE
    multiplies each cluster's own IT energy.
    Interval, 90 %: the errors of the cluster's IT energy and of the other clusters', as far as they err together, and
    of the meters, each by what the facility energy changes with it. Where the overhead is what the utility meter saw
    beyond the nodes' sensors, their common error moves energy between IT and overhead and not the site's sum.
    `share_half_ratio` is the same of the share, relative.
    Source: docs/definitions.md section 4; JCGM 100:2008 (GUM) 5.1.2.
    """
    facts = (
        "facility_energy_kwh", "it_energy_kwh", "overhead_kwh", "carrier_energy_kwh", "pue_ratio", "pue_basis",
        "pue_category", "facility_energy_upper_kwh", "it_energy_upper_kwh", "it_metered_kwh", "overhead_sigma_kwh",
        "it_energy_sigma_kwh",
    )  # fmt: skip
    site = {name: pl.col(f"site_{name}") for name in facts}
    is_assumed = site["pue_basis"] == "assumed"
    rest = site["facility_energy_kwh"] - site["it_energy_kwh"]
    overhead = pl.coalesce(site["overhead_kwh"] + site["carrier_energy_kwh"], pl.when(rest >= 0).then(rest))
    own, facility = pl.col("it_energy_kwh"), pl.col("facility_energy_kwh")
    is_whole = own.null_count().over(_SITE_HOUR) == 0
    known = exact_sum(own).over(_SITE_HOUR)
    share = quotient(own, pl.when(is_whole).then(known).otherwise(site["it_energy_kwh"]))
    basis = pl.when(facility.is_null()).then(pl.lit("none")).otherwise(site["pue_basis"])
    is_known = facility.is_not_null()
    site_half = site["facility_energy_upper_kwh"] - site["facility_energy_kwh"]
    # Facility energy by the fitted model: its interval has the IT energy's in it.
    of_model2 = site_half.pow(2) - (site["it_energy_upper_kwh"] - site["it_energy_kwh"]).pow(2)
    of_rest = (
        pl.when(site["pue_basis"] == "modelled")
        .then(of_model2.clip(lower_bound=0.0).sqrt())
        .otherwise(site_half)
    )
    beside_nodes = (
        site["overhead_kwh"].is_null() & site["it_metered_kwh"].is_null() & (site["pue_basis"] != "modelled")
    )
    spread = quotient(pl.when(beside_nodes).then(site["facility_energy_kwh"]).otherwise(overhead), known)
    fixed = pl.when(beside_nodes).then(0.0).otherwise(1.0)
    of_share2 = _half_of_shares(
        quotient(1 - share, known), -quotient(share, known), site["it_energy_sigma_kwh"]
    )
    half = (
        pl.when(is_assumed)
        .then(it_half_kwh() * site["pue_ratio"])
        .when(has_stated_error("site_"))
        .then(
            (
                _half_of_shares(fixed + spread * (1 - share), -spread * share, site["it_energy_sigma_kwh"])
                + (pl.coalesce(Z * site["overhead_sigma_kwh"], of_rest) * share).pow(2)
            ).sqrt()
        )
    )
    return (
        clusters.join(
            site_hours.select(*_SITE_HOUR, *(pl.col(name).alias(f"site_{name}") for name in facts)),
            on=_SITE_HOUR,
            how="left",
        )
        .with_columns(
            pl.when(is_assumed)
            .then(own * site["pue_ratio"])
            .when(site["pue_basis"] != "none")
            .then(own + overhead * share)
            .alias("facility_energy_kwh")
        )
        .with_columns(
            basis.alias("facility_basis"),
            pl.when(is_assumed & is_known)
            .then(site["pue_ratio"])
            .otherwise(quotient(facility, own))
            .alias("pue_ratio"),
            basis.alias("pue_basis"),
            pl.when(is_known).then(site["pue_category"]).alias("pue_category"),
            *ends("facility_energy_kwh", facility, half),
            quotient(of_share2.sqrt(), share).alias("share_half_ratio"),
        )
        .drop(f"site_{name}" for name in facts)
    )


def facility_days(cluster_hours: pl.DataFrame, coverage_min_ratio: float) -> pl.DataFrame:
    """gold/cluster_hour -> facility energy and PUE of each cluster's day.

    Facility energy is the sum over the hours in which it is known, PUE the ratio of the sums over hours in
    which both are known (never a mean of ratios). Both are null where fewer than the limit's share of the
    hours are known. Hours of different categories make a day without a category, and `partial`.
    """
    energy, facility = pl.col("it_energy_kwh"), pl.col("facility_energy_kwh")
    has_both = pl.col("pue_ratio").is_not_null() & energy.is_not_null() & facility.is_not_null()

    def enough(known: pl.Expr) -> pl.Expr:
        return known.sum() >= coverage_min_ratio * pl.len()

    def common(name: str, known: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        values = pl.when(known).then(name)
        return values.drop_nulls().n_unique() == 1, values.max()

    one_pue, pue_basis = common("pue_basis", has_both)
    one_category, category = common("pue_category", has_both)
    one_facility, facility_basis = common("facility_basis", facility.is_not_null())
    partial, none = pl.lit("partial"), pl.lit("none")
    has_pue, has_facility = enough(has_both), enough(facility.is_not_null())
    ratio = quotient(exact_sum(pl.when(has_both).then(facility)), exact_sum(pl.when(has_both).then(energy)))
    return cluster_hours.group_by(_DAY).agg(
        pl.when(enough(energy.is_not_null())).then(exact_sum(energy)).alias("hours_it_kwh"),
        pl.col("peak_power_w").max(),
        pl.when(has_facility).then(exact_sum(facility)).alias("facility_energy_kwh"),
        pl.when(has_facility)
        .then(pl.when(one_facility).then(facility_basis).otherwise(partial))
        .otherwise(none)
        .alias("facility_basis"),
        *whole_ends("facility_energy_kwh", has_facility),
        pl.when(has_pue).then(ratio).alias("pue_ratio"),
        pl.when(has_pue)
        .then(pl.when(one_pue).then(pue_basis).otherwise(partial))
        .otherwise(none)
        .alias("pue_basis"),
        pl.when(has_pue & one_category).then(category).alias("pue_category"),
    )


def with_facility_days(node_sums: pl.DataFrame, days: pl.DataFrame) -> pl.DataFrame:
    """Join sums of nodes by day with facility_days; the IT energy outside clusters is of its hours.

    `_shared` at meters and `_unattributed` have no nodes, so their days exist only here.
    """
    rows = days.join(node_sums, on=_DAY, how="left")
    is_shared = pl.col("cluster_id").is_in((SHARED, UNATTRIBUTED))
    # Where `_shared` is nodes alone, the hours say the same as the nodes.
    shared_it = pl.coalesce("hours_it_kwh", "it_energy_kwh")
    has_rest = is_shared & shared_it.ne_missing(pl.col("it_energy_kwh"))
    shared_basis = (
        pl.when(pl.col("hours_it_kwh").is_not_null())
        .then(pl.lit("measured"))
        .otherwise(pl.col("energy_basis").fill_null("insufficient"))
    )
    of_shared = {
        "it_energy_measured_kwh": pl.coalesce("hours_it_kwh", "it_energy_measured_kwh"),
        "it_energy_kwh": shared_it,
        "energy_basis": shared_basis,
    }
    return rows.with_columns(
        *(pl.when(~has_rest).then(name).alias(name) for name in ("it_energy_lower_kwh", "it_energy_upper_kwh")),
        *(pl.when(is_shared).then(value).otherwise(name).alias(name) for name, value in of_shared.items()),
        pl.col("idle_basis").fill_null("none"),
        pl.col("node_count").fill_null(0.0),
    ).drop("hours_it_kwh")  # fmt: skip
