"""The published figures of simulated sites against their truth: what `bench.coverage` does for an hour's energy.

Each fleet is a site of two clusters whose nodes err as their sensor class. The site's meters, its grid's intensity and
its footprints err within the limits that the product states, by other shapes: of every other fleet evenly, of the
others by Student's t with 5 degrees. Readings of sensors and meters err around the truth; of a factor, which is
published and not read, the truth lies around what is published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from lepton_etl.billing.costs import Meters, cluster_costs, site_costs
from lepton_etl.billing.tariff import read_tariff
from lepton_etl.carbon.embodied import (
    SECONDS_PER_YEAR,
    embodied_error_ratio,
    embodied_hours,
    embodied_parts,
    with_embodied,
    with_node_embodied,
)
from lepton_etl.carbon.emissions import IntensityError, location_emissions, source_ratios
from lepton_etl.carbon.market import Instrument, market_emissions, market_mix
from lepton_etl.carbon.water import site_volumes, with_water
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import group_parts, group_sums
from lepton_etl.facility.pue import site_meters, with_overhead, with_pue
from lepton_etl.registers.factors import FactorSet
from lepton_etl.schema.carbon import VOLUME_INTERVAL
from lepton_etl.schema.declare import end_names
from lepton_etl.schema.energy import CLUSTER_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, METER
from lepton_etl.schema.types import arrow_schema

Floats = NDArray[np.float64]

STUDENT_DF: Final = 5
UTILITY_PCT: Final = 0.5
OVERHEAD_PCT: Final = 1.0
WATER_PCT: Final = 2.0
# What is published: g/kWh of the grid, its life cycle, a residual mix, an instrument; kg and years of a node; EUR/kWh.
DIRECT: Final = 400.0
UPSTREAM: Final = 80.0
RESIDUAL: Final = 500.0
CERTIFICATE: Final = 30.0
NODE_KG: Final = 1_000.0
LIFE_YEARS: Final = 4.0
PRICE: Final = 0.25
HOURS_A_YEAR: Final = 8_760
_HOUR: Final = ["site_id", "hour_start"]
_CLUSTER: Final = [*_HOUR, "cluster_id"]
_FIGURES: Final = {
    "site": ("it_energy_kwh", "facility_energy_kwh", "energy_cost"),
    "cluster": (
        "it_energy_kwh", "facility_energy_kwh", "emissions_location_kgco2e", "emissions_market_kgco2e",
        "emissions_upstream_kgco2e", "embodied_kgco2e", "water_l", "energy_cost",
    ),
}  # fmt: skip


def drawn(rng: np.random.Generator, fleet: int, count: int | None = None) -> Floats:
    """Errors of one standard deviation: even within sqrt(3) of every other fleet, Student's of the others."""
    if fleet % 2:
        return np.asarray(rng.uniform(-sqrt(3), sqrt(3), count))
    return np.asarray(rng.standard_t(STUDENT_DF, count) / sqrt(STUDENT_DF / (STUDENT_DF - 2)))


@dataclass(frozen=True)
class Site:
    """One fleet's hour beside its nodes: what is read and stated, and the truth by `<boundary> <figure>`.

    `overhead_kwh` None: the site has no sub-meters. `residual_grams` None: the market's rest takes the intensity.
    """

    site_id: str
    hour_start: datetime
    utility_kwh: float
    overhead_kwh: float | None
    water_l: float
    volume_kwh: float
    residual_grams: float | None
    embodied_basis: str
    truth: Mapping[str, float]


def coverages(
    node_hours: pl.DataFrame,
    true_kwh: Mapping[str, float],
    shares: Mapping[str, float],
    factors: FactorSet,
    day: date,
) -> dict[str, tuple[float, int]]:
    """Share of fleets whose true figure lies inside its interval, and their number, by `<boundary> <figure>`.

    `node_hours` are rows of gold/node_hour whose cluster_id is the fleet's number behind a letter; `true_kwh` is the
    truth by node. Every figure is made by the product's own functions.
    """
    number = pl.int_range(pl.len()).over("cluster_id", order_by="node_id")
    rows = node_hours.filter(pl.col("it_energy_kwh").is_not_null()).with_columns(
        pl.col("cluster_id").alias("site_id"),
        pl.when(number % 2 == 0).then(pl.lit("a")).otherwise(pl.lit("b")).alias("cluster_id"),
        pl.col("node_id").replace_strict(dict(true_kwh), return_dtype=pl.Float64).alias("true_kwh"),
    )
    error, masses = _intensity_error(factors, day), embodied_error_ratio(factors, day)
    sites = [
        _site(group, error, masses)
        for _, group in rows.sort("site_id", "node_id").group_by("site_id", maintain_order=True)
    ]
    by_site, by_cluster = ("date", *_HOUR), ("date", *_CLUSTER)
    site_rows = _site_rows(group_sums(group_parts(rows, by_site, shares), by_site, 0.9), sites)
    clusters = group_sums(group_parts(rows, by_cluster, shares), by_cluster, 0.9)
    placed = with_overhead(clusters, site_rows)
    located = location_emissions(placed, _intensity(day), source_ratios(site_rows), error)
    marketed = pl.concat([_marketed(located, site, error) for site in sites])
    booked = embodied_hours(embodied_parts(with_node_embodied(rows, _lives(rows, sites), masses)))
    wet = with_water(with_embodied(marketed, booked), _water(sites, day))
    paid_sites, paid_clusters = _costs(site_rows, placed, sites)
    frames = {
        "site": site_rows.join(paid_sites, on=_HOUR, how="left"),
        "cluster": wet.filter(pl.col("cluster_id") == "a").join(paid_clusters, on=_CLUSTER, how="left"),
    }
    return {
        f"{boundary} {name}": _held(frames[boundary], boundary, name, sites)
        for boundary, names in _FIGURES.items()
        for name in names
    }


def _held(rows: pl.DataFrame, boundary: str, name: str, sites: Sequence[Site]) -> tuple[float, int]:
    truths = {site.site_id: site.truth[f"{boundary} {name}"] for site in sites}
    lower, upper = end_names(name)
    known = rows.select("site_id", name, lower, upper).drop_nulls()
    truth = known["site_id"].replace_strict(truths, return_dtype=pl.Float64)
    return int(truth.is_between(known[lower], known[upper]).sum()) / known.height, known.height


def _intensity_error(factors: FactorSet, day: date) -> IntensityError:
    measured, estimated = (
        factors.get("grid_intensity_uncertainty", valid_on=day, estimated=flag).value
        for flag in ("false", "true")
    )
    upstream = factors.get("figure_uncertainty", valid_on=day, figure="upstream").value
    return IntensityError(measured, estimated, upstream)


def _is_estimated(hour_start: datetime) -> bool:
    return hour_start.hour % 4 == 0


def _site(nodes: pl.DataFrame, error: IntensityError, masses: Mapping[str, float]) -> Site:
    """Draw what is true of a fleet's hour, and what its meters read of it."""
    site_id, hour_start = nodes["site_id"][0], nodes["hour_start"][0]
    fleet = int(site_id[1:])
    rng = np.random.default_rng([fleet, 77])

    def error_of() -> float:
        return float(drawn(rng, fleet))

    own = nodes.filter(pl.col("cluster_id") == "a")
    it_kwh, own_kwh = float(nodes["true_kwh"].sum()), float(own["true_kwh"].sum())
    overhead_kwh = it_kwh * rng.uniform(0.15, 0.6)
    facility_kwh, share = it_kwh + overhead_kwh, own_kwh / it_kwh
    own_facility_kwh = own_kwh + overhead_kwh * share
    water_l = 1.8 * it_kwh
    by_estimate = error.estimated_ratio * error_of() if _is_estimated(hour_start) else 0.0
    grams = DIRECT * (1 + (by_estimate or error.measured_ratio * error_of()))
    upstream = UPSTREAM * max(1 + (error.upstream_ratio or 0.0) * error_of() + by_estimate, 0.0)
    volume_kwh = rng.uniform(0.2, 1.3) * facility_kwh * HOURS_A_YEAR
    matched = min(volume_kwh / (facility_kwh * HOURS_A_YEAR), 1.0)
    has_residual = fleet % 3 == 0
    rest = RESIDUAL * (1 + error.measured_ratio * error_of()) if has_residual else grams
    basis = ("inventory", "archetype")[fleet // 2 % 2]
    mass_kg = NODE_KG * own.height * max(1 + masses[basis] * error_of(), 0.0)
    return Site(
        site_id, hour_start,
        utility_kwh=facility_kwh * (1 + UTILITY_PCT / 100 / sqrt(3) * error_of()),
        overhead_kwh=overhead_kwh * (1 + OVERHEAD_PCT / 100 / sqrt(3) * error_of()) if fleet % 4 < 2 else None,
        water_l=water_l * (1 + WATER_PCT / 100 / sqrt(3) * error_of()),
        volume_kwh=volume_kwh,
        residual_grams=RESIDUAL if has_residual else None,
        embodied_basis=basis,
        truth={
            "site it_energy_kwh": it_kwh,
            "site facility_energy_kwh": facility_kwh,
            "site energy_cost": facility_kwh * PRICE,
            "cluster it_energy_kwh": own_kwh,
            "cluster facility_energy_kwh": own_facility_kwh,
            "cluster emissions_location_kgco2e": own_facility_kwh * max(grams, 0.0) / 1000,
            "cluster emissions_market_kgco2e": own_facility_kwh
            * (matched * CERTIFICATE + (1 - matched) * max(rest, 0.0)) / 1000,
            "cluster emissions_upstream_kgco2e": own_facility_kwh * upstream / 1000,
            "cluster embodied_kgco2e": mass_kg * 3600 / (LIFE_YEARS * SECONDS_PER_YEAR),
            "cluster water_l": water_l * share,
            "cluster energy_cost": own_facility_kwh * PRICE,
        },
    )  # fmt: skip


def _site_rows(sums: pl.DataFrame, sites: Sequence[Site]) -> pl.DataFrame:
    """Hours of sites by their utility meter; with sub-meters the overhead by them, as the ledger gives it."""
    number, time = pl.Float64, pl.Datetime("us", "UTC")
    meters = pl.DataFrame(
        [
            (site.site_id, site.hour_start, "u", "utility", 1.0, site.utility_kwh, UTILITY_PCT, 0.0, "site")
            for site in sites
        ],
        schema={
            "site_id": pl.String, "hour_start": time, "meter_id": pl.String, "point": pl.String, "direction": number,
            "energy_kwh": number, "class_pct": number, "noise_kwh": number, "serves": pl.String,
        },
        orient="row",
    )  # fmt: skip
    nothing = pl.DataFrame(schema={"site_id": pl.String, "hour_start": time, "carrier_energy_kwh": number})
    overheads = pl.DataFrame(
        [(site.site_id, site.overhead_kwh) for site in sites],
        schema={"site_id": pl.String, "overhead_kwh": number},
        orient="row",
    )
    sigma = pl.col("overhead_kwh") * (OVERHEAD_PCT / 100 / sqrt(3))
    return (
        with_pue(sums, site_meters(meters), nothing, None)
        .join(overheads, on="site_id", how="left")
        .with_columns(sigma.alias("overhead_sigma_kwh"), pl.col("facility_metered_kwh").alias("utility_kwh"))
    )


def _intensity(day: date) -> pl.DataFrame:
    """Rows of hourly_intensity of the day: each fourth hour is estimated."""
    midnight = Days.of(day).from_time
    hours = [midnight + timedelta(hours=hour) for hour in range(24)]
    return pl.DataFrame(
        {
            "hour_start": pl.Series(hours, dtype=pl.Datetime("us", "UTC")),
            "carbon_intensity_gco2e_per_kwh": [DIRECT] * 24,
            "upstream_gco2e_per_kwh": [UPSTREAM] * 24,
            "estimated": [_is_estimated(hour) for hour in hours],
        }
    )


def _marketed(located: pl.DataFrame, site: Site, error: IntensityError) -> pl.DataFrame:
    """Market-based emissions of one site, whose year is 8,760 hours as this one."""
    rows = located.filter(pl.col("site_id") == site.site_id)
    year = site.hour_start.year
    certificate = Instrument(
        "c", "certificate", "Z", site.volume_kwh, year, CERTIFICATE, "wind", "r",
        datetime(year, 1, 1, tzinfo=UTC), None,
    )  # fmt: skip
    mix = market_mix(
        [certificate], year=year, zone_id="Z",
        consumption_kwh=float(rows["grid_import_kwh"].sum()) * HOURS_A_YEAR,
        residual_g_per_kwh=site.residual_grams,
    )  # fmt: skip
    return market_emissions(rows, [mix], error)


def _lives(rows: pl.DataFrame, sites: Sequence[Site]) -> pl.DataFrame:
    bases = {site.site_id: site.embodied_basis for site in sites}
    return rows.select(
        "site_id", "node_id",
        pl.lit(NODE_KG).alias("embodied_te_kgco2e"),
        pl.lit(LIFE_YEARS * SECONDS_PER_YEAR).alias("life_s"),
        pl.col("hour_start").alias("in_service_from"),
        pl.lit(None, rows.schema["hour_start"]).alias("retired_at"),
        pl.col("site_id").replace_strict(bases).alias("embodied_basis"),
    )  # fmt: skip


def _water(sites: Sequence[Site], day: date) -> pl.DataFrame:
    listed = [
        _meter(site, "w", "tower", "water", WATER_PCT) | {"valid_to": site.hour_start + timedelta(hours=1)}
        for site in sites
    ]
    volumes = [
        {"site_id": site.site_id, "meter_id": "w", "carrier": "water", "interval_start": site.hour_start,
         "date": day, "interval_s": 3600, "volume_l": site.water_l, "observed_s": 3600.0}
        for site in sites
    ]  # fmt: skip
    return site_volumes(
        pl.DataFrame(pa.Table.from_pylist(listed, schema=arrow_schema(METER))),
        pl.DataFrame(pa.Table.from_pylist(volumes, schema=arrow_schema(VOLUME_INTERVAL))),
        "water", "water_l", Days.of(day), 0.9,
    )  # fmt: skip


def _meter(site: Site, meter_id: str, point: str, carrier: str, class_pct: float) -> dict[str, object]:
    return {
        "site_id": site.site_id, "meter_id": meter_id, "point": point, "carrier": carrier, "sign": 1,
        "class_pct": class_pct, "valid_from": site.hour_start,
    }  # fmt: skip


def _costs(
    site_rows: pl.DataFrame, placed: pl.DataFrame, sites: Sequence[Site]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """gold/site_cost and gold/cluster_cost of each site, by one price."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tariff.csv"
        file.write_text(
            f"tariff_id,charge,price,currency,valid_from\nt,energy,{PRICE},EUR,2020-01-01\n", encoding="utf-8"
        )
        tariff = read_tariff(file, "s")
    of_site = {key[0]: rows for key, rows in site_rows.partition_by("site_id", as_dict=True).items()}
    of_clusters = {key[0]: rows for key, rows in placed.partition_by("site_id", as_dict=True).items()}
    found = []
    for site in sites:
        quarters = [
            {"site_id": site.site_id, "meter_id": "u", "point": "utility", "interval_s": 300, "observed_s": 300.0,
             "interval_start": site.hour_start + timedelta(seconds=300 * k), "energy_kwh": site.utility_kwh / 12,
             "power_mean_w": site.utility_kwh * 1000}
            for k in range(12)
        ]  # fmt: skip
        meters = Meters(
            pa.Table.from_pylist(
                [_meter(site, "u", "utility", "electricity", UTILITY_PCT)], schema=arrow_schema(METER)
            ),
            pa.Table.from_pylist(quarters, schema=arrow_schema(FACILITY_INTERVAL)), "UTC", 0.9,
        )  # fmt: skip
        hours = _arrow(of_site[site.site_id], SITE_HOUR.columns)
        costs = site_costs(meters, tariff, hours)
        found.append(
            (costs, cluster_costs(costs, hours, _arrow(of_clusters[site.site_id], CLUSTER_HOUR.columns)))
        )
    names = ("energy_cost", *end_names("energy_cost"))
    return (
        pl.concat([costs for costs, _ in found]).select(*_HOUR, *names),
        pl.concat([clusters for _, clusters in found]).select(*_CLUSTER, *names),
    )


def _arrow(rows: pl.DataFrame, columns: Sequence[str]) -> pa.Table:
    return rows.select(name for name in columns if name in rows.columns).to_arrow()
